"""Networks computed together give what each gives alone."""

from itertools import product

import pytest
import torch
from builders import build_network, counts_BTN, model_settings

from ndt_cli.model.context import Blocks, Context, widest
from ndt_cli.model.dropout import Dropout, RandomBits
from ndt_cli.model.population import Population

MEMBERS = [
    {"context_back": 3, "context_forward": 1, "dropout": 0.0, "dropout_rates": 0.5},
    {"context_back": -1, "context_forward": 6, "dropout": 0.4, "dropout_rates": 0.0},
    {"context_back": 2, "context_forward": 2, "dropout": 0.2, "dropout_embedding": 0.0},
]


def _networks(n_bins, members=MEMBERS, **model):
    return [
        build_network(model_settings(**{**model, **member}), 5, n_bins, seed=i)
        for i, member in enumerate(members)
    ]


def _gradients(networks):
    return [{k: p.grad.clone() for k, p in n.named_parameters()} for n in networks]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("n_bins", [5, 40])
@pytest.mark.parametrize("drop", [False, True])
def test_a_member_gives_the_output_and_the_gradient_that_it_gives_alone(padded, n_bins, drop):
    variants = product(["pre", "post"], ["count-table", "linear", "identity"], ["layer", "scale"])
    for norm_place, embedding, norm in variants:
        networks = _networks(
            n_bins, norm_place=norm_place, embedding=embedding, norm=norm, n_heads=2, n_layers=2
        )
        batches = torch.stack([counts_BTN(3, n_bins, 5, seed=i) for i in range(3)])
        lengths = torch.tensor([[n_bins, 3, 1], [2, n_bins, 4], [n_bins] * 3])
        inside = torch.arange(n_bins) < lengths[..., None] if padded else None

        def dropouts():
            return [Dropout(RandomBits(i)) for i in range(3)] if drop else None

        together = Population(networks)(batches, inside, dropouts())
        shown = torch.ones(()) if inside is None else inside[..., None]
        (together * shown).sin().sum().backward()
        expected = _gradients(networks)
        for i, (network, dropout) in enumerate(
            zip(networks, dropouts() or [None] * 3, strict=True)
        ):
            network.zero_grad()
            where = None if inside is None else inside[i]
            alone = network(batches[i], where, dropout)
            seen = torch.ones(()) if where is None else where[..., None]
            torch.testing.assert_close(together[i] * seen, alone * seen, rtol=1e-4, atol=1e-5)
            (alone * seen).sin().sum().backward()
            for name, parameter in network.named_parameters():
                torch.testing.assert_close(
                    expected[i][name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name
                )


def test_a_member_draws_on_from_its_own_stream():
    # A second batch, of another size, must not repeat or skip draws.
    (network,) = _networks(8, MEMBERS[1:2])
    together, alone = Dropout(RandomBits(0)), Dropout(RandomBits(0))
    population = Population([network])
    for n_trials in (4, 4, 1):
        batch = counts_BTN(n_trials, 8, 5)
        torch.testing.assert_close(
            population(batch[None], None, [together])[0], network(batch, None, alone)
        )


def test_one_member_does_not_change_with_the_others():
    networks = _networks(12)
    batches = torch.stack([counts_BTN(2, 12, 5, seed=i) for i in range(3)])
    alone = Population(networks[:1])(batches[:1])[0]
    torch.testing.assert_close(Population(networks)(batches)[0], alone)
    with torch.no_grad():
        networks[1].readout.last.bias.fill_(torch.nan)
    torch.testing.assert_close(Population(networks)(batches)[0], alone)


def test_the_widest_context_allows_what_any_allows_and_no_more():
    contexts = [Context(3, 1), Context(2, 5)]
    assert widest(contexts) == Context(3, 5)
    assert widest([*contexts, Context(None, 0)]) == Context(None, 5)
    assert widest([Context(3, 1), Context(2, 0, wrap_initial=True)]).wrap_initial


@pytest.mark.parametrize("to", [Blocks(23, 7, 5, 9), Blocks.whole(23), Blocks(23, 4, 4, 2)])
def test_pairs_of_bins_keep_their_scores_in_other_blocks(to):
    own = Blocks(23, 5, 3, 2)
    row_KC1, column_K1W = own.row_KC("cpu")[:, :, None], own.column_KW("cpu")[:, None, :]
    pair = (row_KC1 * 100 + column_K1W)[None, :, None].float()
    moved = own.recut(pair, to)[0, :, 0]
    row_KC1, column_K1W = to.row_KC("cpu")[:, :, None], to.column_KW("cpu")[:, None, :]
    expected = (row_KC1 * 100 + column_K1W).float()
    first_K1 = row_KC1 // 5 * 5
    has = (column_K1W >= first_K1 - 3) & (column_K1W < first_K1 + 5 + 2)
    inside = (row_KC1 < 23) & (column_K1W >= 0) & (column_K1W < 23)
    assert torch.equal(moved[inside & has], expected.expand_as(moved)[inside & has])
    assert (moved[inside & ~has] == 0).all()
