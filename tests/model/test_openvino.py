"""Single trials by OpenVINO: the network's own read-out, and nothing told to anyone."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import build_network, counts_BTN, model_settings, recording, tiny_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt_cli.engine import openvino_network as openvino_module
from ndt_cli.engine import trained_model
from ndt_cli.engine.device import Compute
from ndt_cli.engine.ensembles import save_ensemble
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.openvino_network import OpenVinoNetwork
from ndt_cli.engine.trained_model import inferring
from ndt_cli.engine.training import train
from ndt_cli.errors import DeviceError, MissingExtraError
from ndt_cli.model.cpu.prepared import PreparedNetwork
from ndt_cli.settings.tree import TrainSettings

installed = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs the extra: pip install -e '.[openvino]'"
)


def openvino_network(network):
    return OpenVinoNetwork(network, otherwise=network)


_windows = st.sampled_from([-1, 0, 3, 40])


@installed
@settings(max_examples=40, deadline=None)
@given(
    model=st.fixed_dictionaries(
        {
            "n_layers": st.integers(1, 2),
            "norm_place": st.sampled_from(["pre", "post"]),
            "norm": st.sampled_from(["layer", "scale"]),
            "activation": st.sampled_from(["relu", "gelu"]),
            "embedding": st.sampled_from(["count-table", "linear", "identity"]),
            "positions": st.sampled_from(["learned", "sinusoid", "none"]),
            "readout": st.sampled_from(["linear", "mlp"]),
            "loss": st.sampled_from(["poisson", "cross-entropy"]),
            "context_back": _windows,
            "context_forward": _windows,
            "n_heads": st.integers(1, 4),
        }
    ),
    log_rates=st.booleans(),
    n_neurons=st.sampled_from([3, 17, 40]),
    n_bins=st.sampled_from([1, 2, 30, 90]),
    seed=st.integers(0, 5),
)
def test_it_infers_what_the_network_does(model, log_rates, n_neurons, n_bins, seed):
    log_rates = log_rates or model["loss"] == "cross-entropy"
    settings = model_settings(**model, log_rates=log_rates)
    network = build_network(settings, n_neurons, 100, seed=seed)
    # Counts beyond those of training too.
    counts = counts_BTN(1, n_bins, n_neurons, max_count=9, seed=seed)
    fast = openvino_network(network)
    with torch.inference_mode():
        expected, found = network(counts), fast(counts)
        assert fast.lengths == (n_bins,)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@installed
@pytest.mark.parametrize("norm_place", ["pre", "post"])
def test_bfloat16_rounds_as_the_network_s_own_products_do(norm_place):
    model = model_settings(n_layers=4, n_heads=2, feedforward_size=128, norm_place=norm_place)
    network = build_network(model, 60, 100)
    network.plain = True
    counts = counts_BTN(1, 100, 60)
    with torch.inference_mode():
        exact = network(counts)
        network.compute_dtype = torch.bfloat16
        errors = [f(counts) - exact for f in (network, openvino_network(network))]
    own, found = (error.square().mean().sqrt() for error in errors)
    assert own / 3 < found < own * 3


@installed
def test_what_it_is_not_for_is_computed_as_ever():
    network = build_network(model_settings(context_back=5, context_forward=5), 5, 300)
    fast = openvino_network(network)
    for counts in (counts_BTN(3, 30, 5), counts_BTN(1, 300, 5)):
        with torch.inference_mode():
            found, expected = fast(counts), network(counts)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not fast.lengths


@installed
@pytest.mark.parametrize("loss", ["poisson", "cross-entropy"])
def test_a_padded_trial_is_inferred_at_its_own_length(loss):
    network = build_network(model_settings(loss=loss), 5, 40)
    fast = openvino_network(network)
    counts, inside_BT = counts_BTN(1, 40, 5), torch.arange(40)[None] < 25
    with torch.inference_mode():
        found, expected = fast(counts, inside_BT), network(counts, inside_BT)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[:, :25], expected[:, :25], rtol=1e-4, atol=1e-4)
    assert fast.lengths == (25,)


@installed
def test_lengths_are_compiled_for_once_each_and_no_more_than_a_few(monkeypatch):
    monkeypatch.setattr(openvino_module, "MOST_LENGTHS", 8)
    network = build_network(n_bins=40)
    fast = openvino_network(network)
    for _ in range(2):
        for n_bins in range(20, 32):
            counts = counts_BTN(1, n_bins, 3, seed=n_bins)
            with torch.inference_mode():
                torch.testing.assert_close(fast(counts), network(counts), rtol=1e-4, atol=1e-5)
    assert fast.lengths == tuple(range(20, 28))


@installed
def test_threads_each_get_their_own_trial_s_read_out():
    network = build_network(model_settings(), 40, 50)
    fast = openvino_network(network)
    trials = [counts_BTN(1, n_bins, 40, seed=n_bins) for n_bins in (30, 30, 50)]
    trials[1] = 4 - trials[1]
    with torch.inference_mode():
        expected = [network(counts) for counts in trials]

    def infer(i):
        with torch.inference_mode():
            for _ in range(300):
                torch.testing.assert_close(fast(trials[i]), expected[i], rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(infer, range(3)))


@installed
def test_plain_layers_stay_plain_where_openvino_does_not_infer():
    network, cpu = build_network(), torch.device("cpu")
    fast = inferring(network, TrainSettings(plain_layers=True), cpu, openvino=True)
    assert fast.otherwise is network
    assert isinstance(
        inferring(network, TrainSettings(), cpu, openvino=True).otherwise, PreparedNetwork
    )


@installed
def test_a_read_out_is_the_caller_s_own():
    network = build_network(model_settings(log_rates=False))
    fast = openvino_network(network)
    counts = [counts_BTN(1, 6, 3, seed=seed) for seed in range(3)]
    with torch.inference_mode():
        outputs = [fast(one) for one in counts]
        for one, output in zip(counts, outputs, strict=True):
            torch.testing.assert_close(output, network(one), rtol=1e-4, atol=1e-5)


@installed
def test_nothing_is_reported_and_processors_stay_free(tmp_path):
    code = (
        "import os, sys, torch\n"
        "before = os.sched_getaffinity(0)\n"
        "from builders import build_network, counts_BTN\n"
        "from ndt_cli.engine.openvino_network import OpenVinoNetwork\n"
        "network = build_network()\n"
        "OpenVinoNetwork(network, network)(counts_BTN(1, 6, 3))\n"
        "assert os.sched_getaffinity(0) == before\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "import openvino_telemetry  # for others it is there\n"
    )
    # It is silent by itself where CI is set.
    tests = str(Path(__file__).parents[1])
    env = {**os.environ, "HOME": str(tmp_path), "CI": "", "PYTHONPATH": tests}
        **os.environ,
        "HOME": str(tmp_path),
        "CI": "",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert not list(tmp_path.iterdir())


@installed
def test_a_signal_is_handled_after_networks_are_gone():
    code = (
        "import faulthandler, gc, signal\n"
        "faulthandler.enable()\n"  # with a stack of its own for handlers
        "from builders import build_network, counts_BTN\n"
        "from ndt_cli.engine.openvino_network import OpenVinoNetwork\n"
        "networks = [OpenVinoNetwork(build_network(), None) for _ in range(2)]\n"
        "for network in networks:\n"
        "    network(counts_BTN(1, 6, 3))\n"
        "del network\n"
        "while networks:\n"
        "    networks.pop(0)\n"
        "    gc.collect()\n"
        "signal.signal(signal.SIGINT, lambda number, frame: print('handled'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n")


@pytest.fixture(scope="module")
def spikes():
    return recording(12, 6, n_bins=8)


@pytest.fixture(scope="module")
def run(spikes, tmp_path_factory):
    return train(tiny_settings(), out=tmp_path_factory.mktemp("runs") / "a", recording=spikes).run


@installed
def test_a_trained_model_and_an_ensemble_infer_single_trials_by_it(run, spikes, tmp_path):
    ensemble = save_ensemble([run], tmp_path / "ensemble")
    expected_BTN = load_trained(run).rates(spikes.valid)
    for path in (run, ensemble):
        model = load_trained(path, device="cpu", openvino=True)
        trials = [spikes.valid.take(np.array([i])) for i in range(6)]
        rates_BTN = np.concatenate([model.rates(trial) for trial in trials])
        np.testing.assert_allclose(rates_BTN, expected_BTN, rtol=1e-4)
        member = model if path == run else model.members[0]
        assert member._forward.lengths == (8,)


@pytest.mark.parametrize("found", [None, ModuleSpec("openvino", None)])  # a mere folder
def test_where_it_is_missing_the_extra_is_named(monkeypatch, run, found):
    monkeypatch.setattr(openvino_module, "find_spec", lambda name: found)
    for ask in (
        lambda: openvino_network(build_network()),
        lambda: load_trained(run, openvino=True),
    ):
        with pytest.raises(MissingExtraError, match="OpenVINO is not installed") as caught:
            ask()
        assert 'pip install "ndt-cli[openvino]"' in caught.value.hint


def test_on_a_gpu_it_is_refused(monkeypatch, run):
    gpu = Compute(torch.device("cuda:0"), torch.bfloat16)
    monkeypatch.setattr(trained_model, "choose_compute", lambda settings: gpu)
    with pytest.raises(DeviceError, match="the device is cuda:0"):
        load_trained(run, openvino=True)
