"""From counts to vectors: the table, unseen counts, positions, and a width for any N."""

import math

import pytest
import torch
from builders import build_network, counts_BTN, model_settings

from ndt_cli.model.embedding import (
    POSITION_STD,
    Embedding,
    _rows,
    encoder_width,
    sinusoid_TD,
)


def _embed(input_BTN, *, max_count=4, n_bins=None, **model):
    settings = model_settings(**model)
    n_neurons = input_BTN.shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embedding = Embedding(settings, n_neurons, n_bins or input_BTN.shape[1], max_count)
    return embedding, embedding(input_BTN, None)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n_neurons", [1, 2, 5, 29, 137])
@pytest.mark.parametrize("embedding", ["identity", "count-table", "linear"])
def test_ndt1_fault_width_divides_by_the_heads_and_holds_every_input(n_neurons, n_heads, embedding):
    settings = model_settings(embedding=embedding, embedding_size=3, n_heads=n_heads)
    width = encoder_width(settings, n_neurons)
    inputs = 3 * n_neurons if embedding == "count-table" else n_neurons
    assert width % n_heads == 0
    assert inputs <= width < max(inputs, 16) + n_heads


def test_identity_passes_counts_times_the_root_of_the_width():
    counts = counts_BTN(2, 3, 20, max_count=9)
    _, x_BTD = _embed(counts, embedding="identity", positions="none")
    torch.testing.assert_close(x_BTD, counts.float() * math.sqrt(20))


def test_the_count_table_is_shared_by_all_neurons_and_bins():
    counts = counts_BTN(2, 3, 10)
    embedding, x_BTD = _embed(counts, embedding_size=2, positions="none")
    vectors_BTNE = x_BTD.view(2, 3, 10, 2)
    assert embedding.table.weight.shape == (4 + 3 + 1, 2)
    for count in range(5):
        row = embedding.table.weight[count].detach() * math.sqrt(20)
        found = vectors_BTNE[counts == count]
        torch.testing.assert_close(found, row.expand_as(found))


def test_linear_mixes_all_neurons():
    counts = counts_BTN(1, 1, 20)
    embedding, x_BTD = _embed(counts, embedding="linear", positions="none")
    torch.testing.assert_close(
        x_BTD, embedding.projection(counts.float()) * math.sqrt(20), rtol=1e-4, atol=1e-5
    )


def test_counts_above_the_largest_of_training_plus_three_are_clipped():
    just_right = torch.full((1, 2, 3), 7, dtype=torch.int32)  # largest 4, plus 3
    far_above = torch.full((1, 2, 3), 5000, dtype=torch.int32)
    below = torch.full((1, 2, 3), 6, dtype=torch.int32)
    network = build_network(n_bins=2, max_count=4)
    with torch.no_grad():
        assert torch.equal(network(far_above), network(just_right))
        assert not torch.equal(network(below), network(just_right))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("embedding", ["identity", "count-table", "linear"])
def test_the_integer_type_of_the_counts_does_not_matter(embedding, dtype):
    network = build_network(model_settings(embedding=embedding))
    counts = counts_BTN(2, 6, 3)
    assert torch.equal(network(counts.to(dtype)), network(counts.long()))


@pytest.mark.parametrize("width", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("offset", [0, 1])
def test_ndt1_fault_width_odd_sinusoids(width, offset):
    found_TD = sinusoid_TD(5, width, offset)
    for place in range(5):
        for column in range(width):
            # Vaswani et al. 2017, section 3.5, written out.
            angle = (place + offset) / 10000 ** (2 * (column // 2) / width)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert found_TD[place, column].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("positions", ["learned", "sinusoid", "none"])
def test_positions_tell_bins_apart_and_only_positions_do(positions):
    counts = torch.ones(1, 5, 3, dtype=torch.uint8)
    _, x_BTD = _embed(counts, positions=positions)
    same = (x_BTD[0, 1:] - x_BTD[0, :1]).abs().amax(dim=1) < 1e-6
    assert bool(same.all() if positions == "none" else not same.any())


def test_position_offset_starts_sinusoids_at_one():
    counts = torch.ones(1, 5, 3, dtype=torch.uint8)
    _, offset_BTD = _embed(counts, positions="sinusoid", position_offset=True)
    _, plain_BTD = _embed(counts, positions="sinusoid", position_offset=False)
    torch.testing.assert_close(offset_BTD[:, :-1], plain_BTD[:, 1:])


def test_learned_positions_are_trained_and_sinusoids_are_not():
    learned = dict(build_network().named_parameters())
    fixed = build_network(model_settings(positions="sinusoid"))
    assert learned["embedding.positions"].shape == (6, 16)
    assert "embedding.positions" not in dict(fixed.named_parameters())
    assert "embedding.positions" not in fixed.state_dict()


@pytest.mark.parametrize("positions", ["learned", "sinusoid", "none"])
def test_a_shorter_trial_takes_the_first_positions(positions):
    counts = counts_BTN(1, 6, 3)
    embedding, x_BTD = _embed(counts, positions=positions)
    torch.testing.assert_close(embedding(counts[:, :4], None), x_BTD[:, :4])


@pytest.mark.parametrize("n_neurons", [8, 50])
def test_the_count_table_starts_with_unit_variance_and_positions_start_small(n_neurons):
    counts = counts_BTN(1, 400, n_neurons)
    embedding, _ = _embed(counts, max_count=60, embedding="count-table", embedding_size=8)
    scale = embedding.width**0.5
    assert (embedding.table.weight * scale).std().item() == pytest.approx(1, rel=0.1)
    assert embedding.positions.std().item() == pytest.approx(POSITION_STD, rel=0.1)


@pytest.mark.parametrize("n_rows", [9, 40])
def test_rows_looked_up_as_on_a_gpu_are_those_of_the_table(n_rows):
    # Few rows come by a product with ones and zeros, there and for several members at once.
    stream = torch.Generator().manual_seed(0)
    table = torch.randn(2, n_rows, 3, generator=stream, requires_grad=True)
    counts = torch.randint(0, n_rows, (2, 4, 5, 6), generator=stream)
    upstream = torch.randn(2, 4, 5, 6, 3, generator=stream)
    expected = torch.stack([t[c] for t, c in zip(table, counts, strict=True)])
    (expected_grad,) = torch.autograd.grad(expected, table, upstream)
    for found in (
        torch.stack([_rows(c, t) for t, c in zip(table, counts, strict=True)]),
        torch.vmap(_rows)(counts, table),
    ):
        assert torch.equal(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, table, upstream)[0], expected_grad)


@pytest.mark.parametrize("n_neurons", [3, 200])
def test_a_given_width_holds_for_any_number_of_neurons(n_neurons):
    counts = counts_BTN(2, 5, n_neurons)
    _, x_BTD = _embed(counts, embedding="linear", width=32)
    assert x_BTD.shape == (2, 5, 32)
    assert encoder_width(model_settings(embedding="linear", width=32, n_heads=3), n_neurons) == 33
