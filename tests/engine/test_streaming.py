"""Rates bin by bin are those of whole trials, as late as the model looks ahead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import build_network, model_settings, recording, spike_data, tiny_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt_cli.engine.ensembles import save_ensemble
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import SplitFacts
from ndt_cli.engine.streaming import RateStream, SilenceWatch, fit_decoder
from ndt_cli.engine.training import train
from ndt_cli.errors import DataError, RunError
from ndt_cli.metrics.decoding import Decoder
from ndt_cli.model.network import PlainMath
from ndt_cli.settings.tree import MaskSettings

N_NEURONS = 5


def facts(n_bins=20, **fields):
    return SplitFacts.of(spike_data(3, n_bins, N_NEURONS, **fields))


def shaken(network, seed=0):
    """The network with no weight at its start: norms, biases and positions have values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return network


def counts_TN(n_bins, seed=0, largest=6):
    return np.random.default_rng(seed).integers(0, largest, (n_bins, N_NEURONS))


def streamed(stream, bins):
    """The exact rates of all bins, one after the other."""
    found = [stream.step(counts_N) for counts_N in bins]
    assert [rates_N is None for rates_N in found[: stream.lag_bins]] == [True] * min(
        stream.lag_bins, len(bins)
    )
    rates = [rates_N for rates_N in found if rates_N is not None]
    return np.array([*rates, *stream.flush()])


@torch.inference_mode()
def whole(network, input_TN):
    """The rates of all bins in one pass with nothing hidden."""
    output = network(torch.as_tensor(np.asarray(input_TN), dtype=torch.int32)[None])
    return network.rates(output)[0].numpy()


def stream_of(network, mask=None, trained_on=None, **options):
    trained_on = trained_on or facts(network.shape.n_bins)
    return RateStream([(network, mask or MaskSettings())], trained_on, "run", **options)


MODELS = st.fixed_dictionaries(
    {
        "embedding": st.sampled_from(["linear", "count-table", "identity"]),
        "norm": st.sampled_from(["layer", "scale"]),
        "norm_place": st.sampled_from(["pre", "post"]),
        "activation": st.sampled_from(["relu", "gelu"]),
        "readout": st.sampled_from(["linear", "mlp"]),
        "n_layers": st.integers(1, 3),
        "n_heads": st.integers(1, 3),
        "head_spans": st.sampled_from([(), (), (3.0,), (1.0, 4.0), (0.5, 2.0, 30.0)]),
        "context_back": st.integers(0, 7),
        "context_forward": st.sampled_from([0, 0, 1, 3]),
    }
).map(lambda model: model | {"n_heads": len(model["head_spans"]) or model["n_heads"]})
LOSSES = st.sampled_from([{}, {"log_rates": False}, {"loss": "cross-entropy"}])


@settings(max_examples=30, deadline=None)
@given(
    model=MODELS,
    loss=LOSSES,
    positions=st.sampled_from(["learned", "sinusoid", "relative", "none"]),
    n_bins=st.integers(1, 30),
    seed=st.integers(0, 100),
    spans=st.booleans(),
)
def test_rates_bin_by_bin_are_those_of_the_whole_trial(model, loss, positions, n_bins, seed, spans):
    if spans:
        model = {**model, "head_spans": [2.0, 5.0, 9.0][: model["n_heads"]]}
    settings_ = model_settings(**model, **loss, positions=positions)
    in_trial = positions in ("learned", "sinusoid")
    network = shaken(
        build_network(settings_, N_NEURONS, n_bins if in_trial else 9, math=PlainMath()), seed
    )
    stream = stream_of(network)
    assert stream.lag_bins == settings_.n_layers * settings_.context_forward
    assert stream.delay_ms == 10.0 * stream.lag_bins
    bins = counts_TN(n_bins, seed)
    expected_TN = whole(network, bins)
    np.testing.assert_allclose(streamed(stream, bins), expected_TN, rtol=2e-4, atol=1e-5)
    stream.reset()
    np.testing.assert_allclose(streamed(stream, bins), expected_TN, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("context_forward", [0, 2])
def test_rates_stay_exact_over_thousands_of_bins(context_forward):
    settings_ = model_settings(
        n_layers=2, positions="relative", context_back=6, context_forward=context_forward
    )
    network = shaken(build_network(settings_, N_NEURONS, 20, math=PlainMath()))
    stream, bins = stream_of(network), counts_TN(3000)
    n_bytes = stream.n_bytes
    np.testing.assert_allclose(streamed(stream, bins), whole(network, bins), rtol=1e-3, atol=1e-5)
    assert stream.n_bytes == n_bytes


@pytest.mark.parametrize("shift", [-300.0, 300.0])
@pytest.mark.filterwarnings("error")
def test_scores_whose_exponentials_float32_does_not_hold_are_shifted(shift):
    settings_ = model_settings(positions="relative", context_forward=0, n_heads=2)
    network = shaken(build_network(settings_, N_NEURONS, 20, math=PlainMath()))
    bins = counts_TN(20)
    expected_TN = whole(network, bins)
    with torch.no_grad():  # the same for all bins of a window, so no weight changes
        network.layers[0].attention.relative.bias_HO[1] += shift
    found_TN = streamed(stream_of(network), bins)
    np.testing.assert_allclose(found_TN, expected_TN, rtol=1e-3, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(model=MODELS, n_bins=st.integers(1, 12))
def test_provisional_rates_are_those_of_a_trial_that_ends_now(model, n_bins):
    network = shaken(build_network(model_settings(**model), N_NEURONS, 12, math=PlainMath()))
    stream, bins = stream_of(network, provisional=True), counts_TN(n_bins)
    assert stream.delay_ms == 0
    exact = []
    for t in range(n_bins):
        now_N = stream.step(bins[t])
        assert stream.bin == t
        np.testing.assert_allclose(now_N, whole(network, bins[: t + 1])[t], rtol=2e-4, atol=1e-5)
        exact += [] if stream.exact_N is None else [stream.exact_N]
    exact += list(stream.flush())
    np.testing.assert_allclose(np.array(exact), whole(network, bins), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("zero_token", [True, False])
@pytest.mark.parametrize("embedding", ["linear", "count-table"])
def test_a_lost_bin_looks_as_hidden_bins_did_in_training(zero_token, embedding):
    network = shaken(build_network(model_settings(embedding=embedding), N_NEURONS, 10))
    stream = stream_of(network, MaskSettings(zero_token=zero_token))
    bins = counts_TN(10)
    given_ = [None if t in (0, 4) else counts_N for t, counts_N in enumerate(bins)]
    bins[[0, 4]] = 0 if zero_token else network.shape.max_count + 1
    found_TN = streamed(stream, given_)
    np.testing.assert_allclose(found_TN, whole(network, bins), rtol=2e-4, atol=1e-5)


def test_neurons_are_in_the_order_of_the_file_and_held_out_ones_are_not_looked_at():
    ids = [3, 0, 4, 1, 2]  # of the columns; the last two are held out
    trained_on = facts(neuron_ids_N=np.array(ids), n_heldout=2)
    network = shaken(build_network(model_settings(context_forward=0), N_NEURONS, 20))
    columns_TN = counts_TN(12)
    file_TN = np.empty_like(columns_TN)
    file_TN[:, ids] = columns_TN
    found_TN = streamed(stream_of(network, trained_on=trained_on), file_TN)
    columns_TN[:, 3:] = 0
    np.testing.assert_allclose(found_TN[:, ids], whole(network, columns_TN), rtol=2e-4, atol=1e-5)
    file_TN[:, ids[3:]] = 99
    np.testing.assert_array_equal(
        streamed(stream_of(network, trained_on=trained_on), file_TN), found_TN
    )


def test_a_saved_state_continues_as_if_never_interrupted(tmp_path):
    settings_ = model_settings(n_layers=2, positions="relative", context_forward=1)
    network, bins = shaken(build_network(settings_, N_NEURONS, 8)), counts_TN(30)
    first, expected_TN = stream_of(network), streamed(stream_of(network), bins)
    found = [first.step(counts_N) for counts_N in bins[:11]]
    np.savez(tmp_path / "state.npz", **first.state())
    for counts_N in bins[11:15]:
        first.step(counts_N)  # a state is a copy
    second = stream_of(network)
    second.restore(dict(np.load(tmp_path / "state.npz")))
    assert second.bin == 11 - 1 - 2
    found += [second.step(counts_N) for counts_N in bins[11:]]
    found_TN = np.array([*(rates for rates in found if rates is not None), *second.flush()])
    np.testing.assert_array_equal(found_TN, expected_TN)
    with pytest.raises(DataError, match=r"memory\.0 is .*; expected"):
        stream_of(build_network(model_settings(n_layers=3), N_NEURONS, 8)).restore(first.state())
    with pytest.raises(DataError, match="of a model with other weights"):
        stream_of(shaken(build_network(settings_, N_NEURONS, 8), seed=1)).restore(first.state())


def test_rates_that_were_returned_do_not_change():
    stream = stream_of(shaken(build_network(model_settings(context_forward=0), N_NEURONS, 8)))
    rates_N = stream.step([1, 2, 0, 0, 3])
    before_N = rates_N.copy()
    stream.step([0, 0, 5, 5, 0])
    np.testing.assert_array_equal(rates_N, before_N)
    np.testing.assert_allclose(stream.in_hz(rates_N), before_N * 100, rtol=1e-6)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([1, 2, 3], r"shape \(3,\); expected one count for each of 5 neurons"),
        ([0, 0, -1, 0, 0], "channel 2 is negative: -1"),
        ([0, 0, 0, 0, float("nan")], "channel 4 is not a number"),
        ([0, 1.5, 0, 0, 0], "channel 1 is not a whole number: 1.5"),
        ([0, 1e300, 0, 0, 0], r"channel 1 is above 65535: 1e\+300"),
        (["a"] * 5, "expected whole numbers"),
    ],
)
def test_counts_that_are_none_are_refused_and_change_nothing(counts, words):
    network = shaken(build_network(model_settings(context_forward=0), N_NEURONS, 8))
    stream, untouched = stream_of(network), stream_of(network)
    with pytest.raises(DataError, match=words):
        stream.step(counts)
    ones = np.ones(N_NEURONS)
    np.testing.assert_array_equal(stream.step(ones), untouched.step(ones))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"full_context": True}, "full_context=true.* never final"),
        ({"context_forward": -1}, "context_forward=-1.* never final"),
        ({"context_wrap_initial": True, "context_forward": 0}, "context_wrap_initial"),
    ],
)
def test_models_whose_rates_are_never_final_are_refused_by_name(model, words):
    with pytest.raises(RunError, match=words):
        stream_of(build_network(model_settings(**model), N_NEURONS, 8))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"positions": "learned"}, "positions=relative"),
        ({"positions": "sinusoid"}, "positions=relative"),
        ({"positions": "relative", "context_back": -1}, "context_back=20"),
    ],
)
def test_past_the_trained_length_such_models_stop_and_say_why(model, words):
    settings_ = model_settings(**{"context_forward": 0, **model})
    network = shaken(build_network(settings_, N_NEURONS, 8, math=PlainMath()))
    stream, bins = stream_of(network), counts_TN(9)
    for counts_N in bins[:8]:
        rates_N = stream.step(counts_N)
    np.testing.assert_allclose(rates_N, whole(network, bins[:8])[7], rtol=2e-4, atol=1e-5)
    with pytest.raises(DataError, match="trials of 8 bins") as caught:
        stream.step(bins[8])
    assert words in str(caught.value)
    stream.reset()
    assert stream.step(bins[8]) is not None


def test_after_the_end_a_stream_must_be_reset():
    stream = stream_of(build_network(model_settings(context_forward=0), N_NEURONS, 8))
    stream.step([0] * 5)
    assert list(stream.flush()) == []
    with pytest.raises(DataError, match="has ended"):
        stream.step([0] * 5)


# Decoding


@pytest.mark.parametrize("lags", [[0, 2], [3, 5], [-2, 1], [-1, -3]])
@pytest.mark.parametrize("context_forward", [0, 1])
def test_behavior_is_decoded_as_it_is_evaluated(lags, context_forward):
    settings_ = model_settings(context_forward=context_forward)
    network = shaken(build_network(settings_, N_NEURONS, 20, math=PlainMath()))
    rng, bins = np.random.default_rng(0), counts_TN(20)
    decoder = Decoder(
        lags_L=np.array(sorted(lags)),
        lag_V=np.array(lags),
        penalty_V=np.ones(2),
        center_N=rng.normal(size=N_NEURONS),
        weights_NV=rng.normal(size=(N_NEURONS, 2)),
        intercepts_V=rng.normal(size=2),
    )
    data = spike_data(1, 20, N_NEURONS)
    expected_TV = decoder.decode(whole(network, bins)[None], data, np.array([0]))[0]
    stream = stream_of(network, decoder=decoder)
    assert stream.decoding_delay_ms == 10 * (stream.lag_bins - min(lags))
    found_TV = np.full((40, 2), np.nan)
    for rates_N in [*(stream.step(counts_N) for counts_N in bins), *stream.flush()]:
        if rates_N is not None and stream.decoded_V is not None:
            found_TV[stream.decoded_bin] = stream.decoded_V
    # The evaluation scores only bins that all lags reach; a stream decodes at least those.
    known_T = np.isfinite(expected_TV).all(axis=1)
    assert known_T.sum() >= 20 - np.ptp([*lags, 0])


def test_a_variable_without_weights_does_not_delay_the_others():
    weights_NV = np.ones((N_NEURONS, 2))
    weights_NV[:, 1] = 0
    decoder = Decoder(
        lags_L=np.array([-4, 2]),
        lag_V=np.array([2, -4]),
        penalty_V=np.ones(2),
        center_N=np.zeros(N_NEURONS),
        weights_NV=weights_NV,
        intercepts_V=np.array([0.0, 3.0]),
    )
    network = shaken(build_network(model_settings(), N_NEURONS, 20, math=PlainMath()))
    stream = stream_of(network, decoder=decoder)
    assert stream.decoding_delay_ms == 10 * (stream.lag_bins - 2)
    decoded = []
    for counts_N in counts_TN(20):
        if stream.step(counts_N) is not None and stream.decoded_V is not None:
            decoded.append(stream.decoded_V[1])
    assert set(decoded) == {3.0}


def test_a_silent_channel_is_noticed_once_and_only_if_it_used_to_fire():
    data = spike_data(50, 40, 3, mean_count=0.5)
    data.spikes_BTN[:, :, 2] = 0
    watch = SilenceWatch(SplitFacts.of(data))
    rng = np.random.default_rng(1)
    for t in range(1000):
        counts_N = rng.poisson(0.5, 3) * [1, t < 300, 0]
        found = watch.step(counts_N)
        assert not found or (390 < t < 420 and found == [1])
    assert watch.silent_bins_N[1] >= 690
    assert watch.step(counts_N) == []


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = recording(n_bins=12, n_neurons=N_NEURONS)
    for name, forward in (("causal", 0), ("ahead", 2)):
        model = {"positions": "relative", "context_forward": forward, "context_back": 3}
        train(tiny_settings(model=model), out=folder / name, recording=data)
    save_ensemble([folder / "causal", folder / "ahead"], folder / "both")
    return folder


@pytest.mark.parametrize("name", ["causal", "ahead", "both"])
def test_a_run_gives_in_a_stream_what_it_gives_in_whole_trials_however_long(runs, name):
    model, long = load_trained(runs / name), spike_data(1, 50, N_NEURONS, seed=4)
    model.check_fits(long, "a long recording")
    stream = model.stream()
    assert stream.lag_bins == (0 if name == "causal" else 2)
    found_TN = streamed(stream, long.spikes_BTN[0])
    np.testing.assert_allclose(found_TN, model.rates(long)[0], rtol=1e-4, atol=1e-6)


def test_a_decoder_is_fitted_to_the_rates_that_a_stream_gives(runs):
    model = load_trained(runs / "causal")
    data = spike_data(30, 12, N_NEURONS)
    rates_BTN = model.rates(data)
    behavior_BTV = rates_BTN[:, :, :1] - rates_BTN[:, :, 1:2]
    data = replace(data, behavior_BTV=behavior_BTV, behavior_names=("hand",))
    stream = model.stream(decoder=fit_decoder(model, data))
    for t, counts_N in enumerate(data.spikes_BTN[3]):
        stream.step(counts_N)
        assert stream.decoded_V[0] == pytest.approx(behavior_BTV[3, t, 0], abs=0.02)
        assert stream.decoded_bin == t
