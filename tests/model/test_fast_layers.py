"""The fast layers give what the plain ones give: outputs, gradients, dropout included."""

import pytest
import torch
from builders import build_network, counts_BTN, model_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.model.cpu.prepared import PreparedNetwork
from ndt_cli.model.dropout import Dropout, RandomBits
from ndt_cli.model.network import PlainMath

# Largest difference, as a share of the largest number.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


def _results(network, counts, inside_BT, seed, plain, dtype=torch.float32):
    """Output and gradients of a network's fast layers, or of its plain ones."""
    inside_BT1 = torch.ones(1, 1, 1) if inside_BT is None else inside_BT[..., None]
    network.math = (PlainMath if plain else CpuMath)(dtype)
    _spread_positions(network)
    network.zero_grad()
    output = network(counts, inside_BT, Dropout(RandomBits(seed))) * inside_BT1
    output.sin().sum().backward()
    gradient = {name: p.grad.clone() for name, p in network.named_parameters()}
    return {"output": output.detach(), **gradient}


def _settings(model):
    """Give each head its span, where spans are drawn."""
    return model_settings(**(model | {"n_heads": len(model["head_spans"]) or model["n_heads"]}))


def _spread_positions(network):
    """Give relative positions, which start at zero, values that tell them apart."""
    for layer in network.layers:
        if layer.attention.relative is not None:
            bias_HO = layer.attention.relative.bias_HO.data
            bias_HO.copy_(torch.linspace(-1, 2, bias_HO.numel()).sin().view(bias_HO.shape))


def _both(*given, dtype=torch.float32):
    return [_results(*given, plain=plain, dtype=dtype) for plain in (False, True)]


def _errors(found, expected):
    # Some gradients vanish but for rounding: those are held against the others.
    least = 1e-3 * max(tensor.abs().max() for tensor in expected.values())
    return {
        name: ((found[name] - tensor).abs().max() / tensor.abs().max().clamp_min(least)).item()
        for name, tensor in expected.items()
    }


def _assert_alike(fast, plain, dtype):
    for name, error in _errors(fast, plain).items():
        assert error < TOLERANCE[dtype], f"{name} differs by {error:.2g}"


def _assert_as_exact(fast, plain, exact):
    """Check that the fast layers are right, or as far from it as rounding takes the plain ones."""
    by_rounding = _errors(plain, exact)
    for name, error in _errors(fast, exact).items():
        bound = max(TOLERANCE[torch.float32], 10 * by_rounding[name])
        assert error < bound, f"{name} is {error:.2g} off, where {bound:.2g} would be rounding"


_windows = st.integers(-1, 40)
_spans = st.lists(st.sampled_from([0.5, 1.0, 3.0, 30.0]), max_size=4).map(tuple)
_ps = st.sampled_from([0.0, 0.1, 0.5, 0.9])


@settings(max_examples=60, deadline=None)
@given(
    model=st.fixed_dictionaries(
        {
            "norm_place": st.sampled_from(["pre", "post"]),
            "norm": st.sampled_from(["layer", "scale"]),
            "activation": st.sampled_from(["relu", "gelu"]),
            "context_back": _windows,
            "context_forward": _windows,
            "positions": st.sampled_from(["learned", "relative"]),
            "n_heads": st.integers(1, 4),
            "head_spans": _spans,
            "n_layers": st.integers(1, 3),
            "feedforward_size": st.integers(1, 40),
            "dropout": _ps,
            "dropout_embedding": _ps,
            "dropout_rates": _ps,
        }
    ),
    n_trials=st.integers(1, 4),
    n_bins=st.integers(1, 45),
    n_neurons=st.integers(1, 20),
    padded=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_plain_layers(
    model, n_trials, n_bins, n_neurons, padded, seed
):
    network = build_network(_settings(model), n_neurons, n_bins)
    _spread_positions(network)
    counts = counts_BTN(n_trials, n_bins, n_neurons)
    lengths = torch.arange(n_bins, n_bins - n_trials, -1).clamp_min(1)
    inside_BT = torch.arange(n_bins) < lengths[:, None] if padded else None
    fast, plain = _both(network, counts, inside_BT, seed)
    exact = _results(network.double(), counts, inside_BT, seed, plain=True, dtype=torch.float64)
    _assert_as_exact(fast, plain, exact)


@pytest.mark.parametrize("n_bins", [7, 60])
@pytest.mark.parametrize("norm_place", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "relative"])
def test_in_bfloat16_they_agree_to_its_rounding(norm_place, positions, n_bins):
    window = {"context_back": 6, "context_forward": 2}
    model = model_settings(
        norm_place=norm_place, positions=positions, n_layers=2, dropout=0.2, **window
    )
    network = build_network(model, 12, n_bins)
    fast, plain = _both(network, counts_BTN(5, n_bins, 12), None, 0, dtype=torch.bfloat16)
    _assert_alike({"output": fast["output"]}, {"output": plain["output"]}, torch.bfloat16)
    # Rounding turns some gradients of single weights around; the direction as a whole holds.
    flat = [torch.cat([v.flatten() for v in g.values()]) for g in (fast, plain)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.995


@settings(max_examples=60, deadline=None)
@given(
    model=st.fixed_dictionaries(
        {
            "norm_place": st.sampled_from(["pre", "post"]),
            "norm": st.sampled_from(["layer", "scale"]),
            "activation": st.sampled_from(["relu", "gelu"]),
            "embedding": st.sampled_from(["count-table", "linear", "identity"]),
            "context_back": _windows,
            "context_forward": _windows,
            "positions": st.sampled_from(["learned", "relative"]),
            "n_heads": st.integers(1, 4),
            "head_spans": _spans,
        }
    ),
    n_trials=st.integers(1, 4),
    n_bins=st.sampled_from([1, 17, 45, 100, 230]),
    padded=st.booleans(),
)
def test_a_prepared_network_infers_what_the_network_does(model, n_trials, n_bins, padded):
    network = build_network(_settings(model), 5, n_bins)
    _spread_positions(network)
    counts = counts_BTN(n_trials, n_bins, 5)
    lengths = torch.arange(n_bins, n_bins - n_trials, -1).clamp_min(1)
    inside_BT = torch.arange(n_bins) < lengths[:, None] if padded else None
    prepared = PreparedNetwork(network)
    with torch.inference_mode():
        expected, found = network(counts, inside_BT), prepared(counts, inside_BT)
        shown = torch.ones(1, 1, 1) if inside_BT is None else inside_BT[..., None]
        torch.testing.assert_close(found * shown, expected * shown, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tiles", [False, True])
def test_a_prepared_network_computes_few_numbers_in_float32_and_more_as_asked(monkeypatch, tiles):
    # With tiles and without, attention in bfloat16 is computed in two ways.
    monkeypatch.setattr("ndt_cli.model.cpu.prepared.cpu_has_tiles", lambda: tiles)
    network = build_network(model_settings(n_layers=2), 40, 250)
    few, more, many = (counts_BTN(*size, 40) for size in ((1, 100), (1, 250), (9, 250)))
    with torch.inference_mode():
        exact = network(few), network(more), network(many)
        network.math = CpuMath(torch.bfloat16)
        prepared = PreparedNetwork(network)
        torch.testing.assert_close(prepared(few), exact[0], rtol=1e-4, atol=1e-5)
        for counts, expected in ((more, exact[1]), (many, exact[2])):
            assert 1e-4 < (prepared(counts) - expected).abs().max() < 0.1


def test_the_rectifier_passes_what_is_above_zero_and_nothing_else():
    # It compares integers: either zero, tiny and huge numbers must come out as from relu.
    network = build_network(model_settings(n_layers=1, feedforward_size=8), 4, 5)
    layer = network.layers[0]
    with torch.no_grad():
        layer.expand.weight.zero_()
        layer.expand.bias.copy_(torch.tensor([0.0, -0.0, 1e-38, -1e-38, 1e30, -1e30, 2.0, -2.0]))
        layer.contract.weight[:, 4:6] = 1e-30
    fast, plain = _both(network, counts_BTN(2, 5, 4), None, 0)
    _assert_alike(fast, plain, torch.float32)
    passed = fast["layers.0.contract.weight"].abs().sum(0) > 0
    assert passed[[4, 6]].all()
    assert not passed[[0, 1, 3, 5, 7]].any()
