"""The network: every combination trains, any N works, layers differ, precision holds."""

from itertools import product

import numpy as np
import pytest
import torch
from builders import NO_DROPOUT, build_network, counts_BTN, model_settings, same_tensors

from ndt_cli.model.context import Context
from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.model.dropout import Dropout, RandomBits
from ndt_cli.model.losses import masked_sum
from ndt_cli.model.network import PlainMath, ScaleNorm

EMBEDDINGS = pytest.mark.parametrize("embedding", ["identity", "count-table", "linear"])


def _train_once(settings, n_neurons, n_bins=5, max_count=3):
    """Run forward and backward with dropout; return the loss and the network."""
    network = build_network(settings, n_neurons, n_bins, max_count)
    counts = counts_BTN(3, n_bins, n_neurons, max_count)
    dropout = Dropout(RandomBits(0))
    output = network(counts, None, dropout)
    total, n = masked_sum(
        network.loss_BTN(output, counts), torch.ones(counts.shape, dtype=torch.bool)
    )
    (total / n).backward()
    return total / n, network


def _assert_trains(settings, n_neurons):
    loss, network = _train_once(settings, n_neurons)
    assert loss.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"


_LOSSES = [{}, {"log_rates": False}, {"loss": "cross-entropy"}]


@pytest.mark.parametrize("norm", ["layer", "scale"])
@pytest.mark.parametrize("norm_place", ["pre", "post"])
@EMBEDDINGS
def test_every_combination_runs_forward_and_backward(embedding, norm, norm_place):
    for readout, loss, positions, activation in product(
        ["linear", "mlp"], _LOSSES, ["learned", "sinusoid", "none"], ["relu", "gelu"]
    ):
        settings = model_settings(
            embedding=embedding,
            norm=norm,
            norm_place=norm_place,
            readout=readout,
            positions=positions,
            activation=activation,
            n_heads=2,
            tfixup_init=readout == "mlp",
            **loss,
        )
        _assert_trains(settings, n_neurons=3)


@pytest.mark.parametrize("n_neurons", [1, 2, 3, 5, 7, 17])
@EMBEDDINGS
def test_ndt1_fault_width_any_number_of_neurons_trains_with_any_heads(embedding, n_neurons):
    for n_heads in (1, 2, 3, 4):
        settings = model_settings(
            embedding=embedding, embedding_size=1, positions="sinusoid", n_heads=n_heads
        )
        _assert_trains(settings, n_neurons)


@pytest.mark.parametrize("norm", ["layer", "scale"])
@EMBEDDINGS
def test_a_silent_input_without_positions_has_a_finite_gradient(embedding, norm):
    settings = model_settings(embedding=embedding, norm=norm, positions="none")
    network = build_network(settings)
    output = network(torch.zeros(2, 6, 3, dtype=torch.uint8))
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_scale_norm_gives_vectors_one_length_the_root_of_the_width_at_first():
    norm = ScaleNorm(16)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) * 30
    torch.testing.assert_close(norm(x).norm(dim=-1), torch.full((5,), 4.0))
    torch.testing.assert_close(norm(x), norm(7 * x))
    assert torch.equal(norm(torch.zeros(1, 16)), torch.zeros(1, 16))


def test_ndt1_fault_layers_start_different():
    network = build_network(model_settings(n_layers=3))
    first, second, third = (dict(layer.named_parameters()) for layer in network.layers)
    assert any(name.endswith("weight") for name in first)
    for name in first:
        if name.endswith("weight") and "norm" not in name:
            assert not torch.equal(first[name], second[name]), name
            assert not torch.equal(second[name], third[name]), name


@pytest.mark.parametrize("n_layers", [1, 4])
def test_tfixup_scales_the_encoder_weights_the_value_projection_too(n_layers):
    plain = build_network(model_settings(n_layers=n_layers))
    fixed = build_network(model_settings(n_layers=n_layers, tfixup_init=True))
    scale = 0.67 * n_layers**-0.25
    for before, after in zip(plain.layers, fixed.layers, strict=True):
        expected = dict(before.state_dict())
        width = before.attention.out.weight.shape[0]
        for name in ("expand.weight", "contract.weight", "attention.out.weight"):
            expected[name] = expected[name] * scale
        values = expected["attention.qkv.weight"].clone()
        values[2 * width :] *= scale * 2**0.5  # what NDT1 meant to scale, and did not
        expected["attention.qkv.weight"] = values
        for name, weight in after.state_dict().items():
            torch.testing.assert_close(weight, expected[name], msg=name)
    assert same_tensors(plain.readout.state_dict(), fixed.readout.state_dict())


@pytest.mark.parametrize("readout", ["linear", "mlp"])
def test_the_readout_starts_uniform_within_a_tenth_and_without_bias(readout):
    network = build_network(model_settings(readout=readout), n_neurons=40)
    last = network.readout.last
    assert last.weight.abs().max() <= 0.1
    assert last.weight.abs().max() > 0.09
    assert last.weight.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.1)
    assert (last.bias == 0).all()


def test_without_dropout_two_runs_are_equal_and_with_it_they_differ():
    network, counts = build_network(), counts_BTN(2, 6, 3)
    dropout = Dropout(RandomBits(0))
    assert torch.equal(network(counts), network(counts))
    assert not torch.equal(network(counts, None, dropout), network(counts, None, dropout))


@pytest.mark.parametrize("where", ["dropout", "dropout_embedding", "dropout_rates"])
def test_each_dropout_setting_acts_and_zero_turns_it_off(where):
    counts = counts_BTN(2, 6, 3)
    for p, acts in ((0.5, True), (0.0, False)):
        network = build_network(model_settings(**{**NO_DROPOUT, where: p}))
        dropped = network(counts, None, Dropout(RandomBits(0)))
        assert torch.equal(dropped, network(counts)) is not acts


def test_a_trial_does_not_see_the_other_trials_of_its_batch():
    network, counts = build_network(model_settings(full_context=True)), counts_BTN(4, 6, 3)
    alone = torch.cat([network(counts[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(network(counts), alone, rtol=0, atol=1e-5)


def test_an_empty_share_of_a_batch_gives_an_empty_output():
    # With several processes, the last batch of an epoch may hold fewer trials than processes.
    for loss in _LOSSES:
        network = build_network(model_settings(**loss))
        output = network(torch.zeros(0, 6, 3, dtype=torch.uint8))
        assert output.shape[:3] == (0, 6, 3)


@pytest.mark.parametrize("positions", ["learned", "sinusoid"])
def test_a_trial_longer_than_the_positions_is_refused(positions):
    network = build_network(model_settings(positions=positions), n_bins=6)
    network(torch.zeros(1, 6, 3, dtype=torch.uint8))
    with pytest.raises(Exception, match=r"\b6\b"):
        network(torch.zeros(1, 9, 3, dtype=torch.uint8))


@pytest.mark.parametrize("window", [(2, 1), (8, 0), (-1, -1), (0, 3)])
@pytest.mark.parametrize("math", [PlainMath(), CpuMath()])
def test_relative_positions_add_the_bias_of_head_and_offset(math, window):
    """Against the sum over pairs of bins, written out; beyond the trained trial the last counts."""
    back, forward = window
    settings = model_settings(
        positions="relative", n_heads=2, context_back=back, context_forward=forward
    )
    network = build_network(settings, n_bins=6, math=math)
    attention = network.layers[0].attention
    for n_bins in (1, 6, 30):
        x_1TD = torch.randn(1, n_bins, 16, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            attention.relative.bias_HO.normal_(generator=torch.Generator().manual_seed(0))
            window_of = network.windows(n_bins, None, torch.float32, x_1TD.device)
            found_1TD = math.attend(network.layers[0], x_1TD, window_of, None)
            q, k, v = (part.view(n_bins, 2, 8) for part in attention.qkv(x_1TD[0]).chunk(3, -1))
            seen = Context.from_settings(settings).allowed_TS(n_bins)
            bias_HO, zero = attention.relative.bias_HO, attention.relative.back
            expected_TD = torch.zeros(n_bins, 16)
            for i in range(n_bins):
                columns = seen[i].nonzero().flatten()
                place = (columns - i + zero).clamp(0, bias_HO.shape[1] - 1)
                for head in range(2):
                    scores = k[columns, head] @ q[i, head] / 8**0.5 + bias_HO[head, place]
                    mixed = scores.softmax(0) @ v[columns, head]
                    expected_TD[i, head * 8 : head * 8 + 8] = mixed
            torch.testing.assert_close(found_1TD[0], attention.out(expected_TD))


def test_relative_positions_start_as_none_and_end_at_no_length():
    none, relative = (
        build_network(model_settings(positions=name, n_layers=2)) for name in ("none", "relative")
    )
    counts = counts_BTN(2, 50, 3)
    assert torch.equal(none(counts), relative(counts))
    with torch.no_grad():
        for layer in relative.layers:
            layer.attention.relative.bias_HO.normal_(generator=torch.Generator().manual_seed(0))
    # What a bin sees does not depend on where in the trial it stands, far from the ends.
    moved = relative(counts[:, 5:])
    assert torch.allclose(moved[:, 16:30], relative(counts)[:, 21:35], atol=1e-5)
    assert not torch.allclose(none(counts), relative(counts), atol=1e-3)


@pytest.mark.parametrize("model", _LOSSES)
@pytest.mark.parametrize("readout", ["linear", "mlp"])
def test_a_readout_that_starts_at_rates_gives_those_rates(model, readout):
    network = build_network(model_settings(readout=readout, **model), n_neurons=3, max_count=12)
    rates_N = torch.tensor([0.05, 1.0, 2.5])
    network.readout.start_at(rates_N)
    with torch.no_grad():
        network.readout.last.weight.zero_()  # what the encoder says comes on top
        rates_BTN = network.rates(network(counts_BTN(2, 6, 3)))
    torch.testing.assert_close(rates_BTN, rates_N.expand(2, 6, 3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm_place", ["pre", "post"])
@EMBEDDINGS
def test_bfloat16_products_change_log_rates_by_a_few_hundredths(embedding, norm_place):
    settings = model_settings(
        embedding=embedding, norm_place=norm_place, n_layers=4, n_heads=2, feedforward_size=64
    )
    network, counts = build_network(settings, 20, 30), counts_BTN(4, 30, 20)
    with torch.no_grad():
        exact = network(counts)
        network.math = CpuMath(torch.bfloat16)
        rounded = network(counts)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.05
    assert (rounded - exact).abs().mean() < 0.01


def test_bfloat16_gradients_point_the_way_of_float32_ones():
    counts = counts_BTN(8, 20, 10)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        network = build_network(model_settings(n_layers=2, full_context=True), 10, 20)
        network.math = CpuMath(dtype)
        network.loss_BTN(network(counts), counts).mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in network.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    exact, rounded = gradients
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.999
    assert (rounded.norm() / exact.norm()).item() == pytest.approx(1, abs=0.02)


def test_weights_follow_from_the_seed_of_the_global_generator():
    first, again, other = (build_network(seed=seed) for seed in (1, 1, 2))
    assert same_tensors(first.state_dict(), again.state_dict())
    assert not same_tensors(first.state_dict(), other.state_dict())


def _periodic_counts(n_trials, seed):
    """One neuron that is quiet for four bins and busy for four, from a random phase."""
    rng = np.random.default_rng(seed)
    phase_B1 = rng.integers(0, 8, (n_trials, 1))
    rates_BT = np.where((np.arange(32)[None, :] + phase_B1) % 8 < 4, 0.1, 6.0)
    return torch.from_numpy(rng.poisson(rates_BT)[:, :, None]), rates_BT


@pytest.mark.parametrize(
    ("embedding", "norm_place", "n_steps", "least"),
    [
        ("identity", "pre", 200, 0.35),
        ("identity", "post", 200, 0.35),
        ("count-table", "pre", 200, 0.5),
        ("count-table", "post", 200, 0.5),
        # A projection of one number learns slowest.
        ("linear", "pre", 300, 0.2),
    ],
)
def test_ndt1_fault_width_the_rate_of_a_single_neuron_is_learned(
    embedding, norm_place, n_steps, least
):
    settings = model_settings(
        embedding=embedding,
        norm_place=norm_place,
        n_heads=2,
        feedforward_size=32,
        context_back=8,
        context_forward=8,
    )
    counts, _ = _periodic_counts(64, seed=0)
    network = build_network(settings, 1, 32, int(counts.max()))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    stream = torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        hidden = torch.rand(counts.shape, generator=stream) < 0.25
        loss = network.loss_BTN(network(counts.masked_fill(hidden, 0)), counts)
        optimizer.zero_grad()
        loss[hidden].mean().backward()
        optimizer.step()

    # Fresh trials: only the counts around a hidden one tell the phase, so this much of the way
    # from the mean rate to the true rate is what the model learned from counts.
    unseen, rates_BT = _periodic_counts(64, seed=1)
    hidden = torch.rand(unseen.shape, generator=stream) < 0.25
    truth = torch.from_numpy(rates_BT)[:, :, None]
    with torch.no_grad():
        output = network(unseen.masked_fill(hidden, 0))
        loss = network.loss_BTN(output, unseen)[hidden].mean()
        mean = network.loss_BTN(counts.float().mean().log(), unseen)[hidden].mean()
        best = network.loss_BTN(truth.log(), unseen)[hidden].mean()
    assert (mean - loss) / (mean - best) > least
