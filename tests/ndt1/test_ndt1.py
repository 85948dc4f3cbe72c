"""Models and configs of NDT1: the same numbers, and nothing in their pickles is run."""

import io
import os
import pickle
import random
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import spike_data, with_spikes

from ndt_cli import evaluate, load_settings, load_trained, make_chaotic_rnn, resume
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import CheckpointError, DataError, NdtError, RunError, SettingsError
from ndt_cli.ndt1.checkpoint_file import Ndt1File
from ndt_cli.ndt1.importing import import_ndt1, read_ndt1_config

HERE = Path(__file__).parent / "files"
SHARED = Path(__file__).resolve().parents[3] / "shared/reference/ndt1_parity"
CASES = [
    "backward-unlimited",
    "count-table-post",
    "count-table-pre-fixup",
    "identity-learned-full",
    "identity-sinusoid",
    "linear-wrap-initial",
    "mlp-decoder-offset-off",
    "rates-not-log",
    "scale-norm-gelu",
]
EXACT = ["data.synthetic=none", "train.device=cpu", "train.precision=float32", "train.n_threads=1"]
MODEL = HERE / "scale-norm-gelu.pth"


def _files(name):
    """The checkpoint and the arrays of a case, from here or from the shared folder."""
    for folder in (HERE, SHARED):
        if (folder / f"{name}.pth").is_file():
            return folder / f"{name}.pth", dict(np.load(folder / f"{name}.npz"))
    pytest.skip(f"shared/reference/ndt1_parity/{name}.pth is not here")


def _recording(counts_BTN):
    """A recording whose training and validation trials are these counts."""
    data = with_spikes(spike_data(*counts_BTN.shape), counts_BTN)
    return Recording(data, data, source="ndt1", layout="synthetic")


def _imported(path, out, counts_BTN, *overrides):
    return import_ndt1(
        path, out=out, overrides=[*EXACT, *overrides], recording=_recording(counts_BTN)
    )


@pytest.mark.parametrize("plain", ["true", "false"])
@pytest.mark.parametrize("name", CASES)
def test_a_network_of_ndt1_gives_what_ndt1_computed(tmp_path, name, plain):
    path, arrays = _files(name)
    _imported(path, tmp_path / "run", arrays["counts_BTN"], f"train.plain_layers={plain}")
    model = load_trained(tmp_path / "run")
    network = model.members[0].network
    with torch.inference_mode():
        output = network(torch.from_numpy(arrays["input_BTN"]))
        hidden = torch.from_numpy(arrays["hidden_BT"])
        loss_BTN = network.loss_BTN(output, torch.from_numpy(arrays["counts_BTN"]))
    np.testing.assert_allclose(output, arrays["output_BTN"], rtol=0, atol=2e-6)
    assert loss_BTN[hidden].mean().item() == pytest.approx(float(arrays["masked_loss"]), abs=2e-6)
    # The same through the whole of the inference, which computes in other ways.
    seen = with_spikes(spike_data(*arrays["input_BTN"].shape), arrays["input_BTN"])
    rates_BTN = arrays["output_BTN"] if name == "rates-not-log" else np.exp(arrays["output_BTN"])
    np.testing.assert_allclose(model.rates(seen), rates_BTN, rtol=1e-5, atol=1e-5)


def test_a_model_that_ndt1_trained_infers_the_same_rates(tmp_path):
    path, arrays = _files("trained-chaotic")
    found = _imported(path, tmp_path / "run", arrays["counts_BTN"])
    assert found.epochs == 15
    data = with_spikes(spike_data(*arrays["counts_BTN"].shape), arrays["counts_BTN"])
    rates_BTN = load_trained(found.run).rates(data)
    np.testing.assert_allclose(rates_BTN, np.exp(arrays["output_BTN"]), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_model_that_ndt1_trained_has_the_r2_that_ndt1_measured(tmp_path):
    path, arrays = _files("trained-chaotic")
    chaotic, overrides = make_chaotic_rnn(), [*EXACT, "data.synthetic=chaotic-rnn"]
    import_ndt1(path, out=tmp_path / "run", overrides=overrides, recording=chaotic)
    scores = evaluate(tmp_path / "run", recording=chaotic).scores["NDT"]
    assert scores.rates.r2_mean == pytest.approx(float(arrays["r2_all_260_valid_trials"]), abs=1e-6)


def test_an_imported_run_is_evaluated_and_cannot_be_resumed(tmp_path):
    path, arrays = _files("identity-learned-full")
    trials = _recording(arrays["counts_BTN"])
    found = import_ndt1(path, out=tmp_path / "run", overrides=EXACT, recording=trials)
    assert found.notes == ()
    assert set(evaluate(found.run, recording=trials).scores) >= {"NDT", "smoothed spikes"}
    with pytest.raises(RunError, match="was imported"):
        resume(found.run, recording=trials)
    with pytest.raises(NdtError, match="already exists"):
        import_ndt1(path, out=tmp_path / "run", overrides=EXACT, recording=trials)


def test_scale_norm_is_the_norm_of_the_output_alone_as_in_ndt1(tmp_path):
    path, arrays = _files("scale-norm-gelu")
    found = _imported(path, tmp_path / "run", arrays["counts_BTN"])
    network = load_trained(found.run).members[0].network
    assert found.settings.model.norm == "scale"
    assert type(network.norm).__name__ == "ScaleNorm"
    assert {type(layer.norm_attention) for layer in network.layers} == {torch.nn.LayerNorm}


def test_a_run_with_scale_norm_in_every_layer_is_refused_and_says_why(tmp_path):
    path, arrays = _files("scale-norm-gelu")
    found = _imported(path, tmp_path / "run", arrays["counts_BTN"])
    file = RunFolder(found.run).checkpoint("best-masked-loss")
    saved = Checkpoint.load(file)
    weights = {
        name.replace("norm_attention.weight", "norm_attention.gain"): tensor
        for name, tensor in saved.model.items()
        if "norm_attention.bias" not in name
    }
    Checkpoint(weights, saved.model_settings, saved.shape, saved.progress).save(file)
    with pytest.raises(CheckpointError, match="ScaleNorm into every layer"):
        load_trained(found.run)


def test_the_mask_token_of_ndt1_is_the_mask_token_here(tmp_path):
    path, arrays = _files("scale-norm-gelu")
    theirs = Ndt1File.read(path).weights["embedder.0.weight"]
    for zero_token, row in (("true", 5), ("false", len(theirs) - 1)):
        out = tmp_path / zero_token
        _imported(path, out, arrays["counts_BTN"], f"mask.zero_token={zero_token}")
        table = load_trained(out).members[0].network.embedding.table.weight
        assert torch.equal(table[:5], theirs[:5])
        assert torch.equal(table[5], theirs[row])  # one more than the largest training count, 4


# What does not fit


def test_the_spikes_of_an_imported_model_must_be_named(tmp_path):
    with pytest.raises(SettingsError, match="does not hold the spikes"):
        import_ndt1(MODEL, out=tmp_path / "run", overrides=["train.device=cpu"])


def test_spikes_of_other_neurons_or_longer_trials_are_refused(tmp_path):
    for shape, what in (((5, 14, 15), "15 neurons"), ((5, 15, 16), "trials of 15 bins")):
        with pytest.raises(DataError, match=what):
            _imported(MODEL, tmp_path / "run", np.ones(shape, np.uint8))
    assert not (tmp_path / "run").exists()


def test_other_training_trials_are_noticed_by_their_largest_count(tmp_path):
    counts_BTN = np.full((5, 14, 16), 7, np.uint8)
    (said,) = _imported(MODEL, tmp_path / "run", counts_BTN).notes
    assert "largest training count is 7" in said


# Configs


def test_a_config_becomes_settings_with_the_defaults_of_ndt1(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "MODEL: {EMBED_DIM: 0, PRE_NORM: true, CONTEXT_BACKWARD: 0, DECODER: {LAYERS: 2}}\n"
        "TRAIN: {MASK_MODE: timestep_only, MASK_MAX_SPAN: 3, LR: {WARMUP: 50, INIT: 5e-4}}\n"
        "DATA: {RANDOM_SUBSET_TRIALS: 0.5}\n"
    )
    toml, notes = read_ndt1_config(path)
    (tmp_path / "config.toml").write_text(toml)
    settings = load_settings(tmp_path / "config.toml")
    assert settings.model.embedding == "identity"
    assert settings.model.positions == "sinusoid"
    assert settings.model.context_back == -1  # NDT1 has no limit at 0
    assert (settings.model.norm_place, settings.model.readout) == ("pre", "mlp")
    assert (settings.mask.mode, settings.mask.max_span) == ("timestep-only", 3)
    assert (settings.mask.ratio, settings.train.max_epochs) == (0.2, 10000)
    assert (settings.train.schedule, settings.train.warmup_epochs) == ("cosine", 50)
    assert settings.train.learning_rate == 5e-4  # which YAML takes for text
    assert notes == [f"{path}: DATA.RANDOM_SUBSET_TRIALS = 0.5 has no counterpart here"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {NUM_LAYER: 3}", "MODEL.NUM_LAYER is not a setting .* mean MODEL.NUM_LAYERS"),
        ("MODEL: {NUM_LAYERS: three}", "MODEL.NUM_LAYERS is 'three'; expected a whole number"),
        ("MODEL: {NUM_LAYERS: 0}", "model.n_layers"),
        ("MODEL: {NAME: RandomModel}", "MODEL.NAME is 'RandomModel'"),
        ("MODEL: {LOSS: {TYPE: mse}}", "MODEL.LOSS.TYPE is 'mse'"),
        ("- 1", "not a YAML config"),
        ("a: [", "not a YAML config"),
        ("!!python/object/apply:os.system [exit]", "not a YAML config"),
        ("&a {b: *a}", "not a YAML config"),
    ],
)
def test_a_config_that_ndt1_would_not_take_is_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_ndt1_config(path)


# Pickles


class CfgNode(dict):
    """Stands for the class of yacs, which is not installed here."""


@pytest.fixture
def yacs(monkeypatch):
    """Let pickles name `CfgNode` as yacs does."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)


def _content():
    config = CfgNode(SEED=1, MODEL=CfgNode(LOSS=CfgNode(TOPK=1.0)))
    config.frozen = {"a", "b"}  # attributes, as yacs has
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4).view(2, 2).t()}
    return {"state_dict": weights, "config": config, "best_r2": {"value": np.float64(0.5)}}


@pytest.mark.parametrize("new_format", [True, False])
def test_both_formats_of_torch_are_read(tmp_path, yacs, new_format):
    path, content = tmp_path / "model.pth", _content()
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    file = Ndt1File.read(path)
    assert file.config == {"SEED": 1, "MODEL.LOSS.TOPK": 1.0}
    assert file.facts == {"best_r2": {"value": 0.5}}
    for name, weights in content["state_dict"].items():
        assert torch.equal(file.weights[name], weights)


class _Runs:
    """An object whose pickle runs a command when it is opened."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def _zip(content):
    """Pack a pickle as torch.save does."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", content)
    return file.getvalue()


def _malicious(marker):
    """Pickles that would write a file, and what a refusal must name."""
    import os
    import subprocess

    command = f"touch {marker}"
    system, evaluates = _Runs(os.system, command), _Runs(eval, f"open({str(marker)!r}, 'w')")

    class Persistent(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", system, "0", "cpu", 1) if value == "weights" else None

    nested = io.BytesIO()
    Persistent(nested, 2).dump({"state_dict": {"a": "weights"}, "config": {}})
    name = os.system.__module__
    arguments = f"(S'{command}'\n".encode()
    yield "a call in the config", pickle.dumps({"state_dict": {}, "config": system}, 2), name
    yield "protocol 4", pickle.dumps([evaluates], 4), "builtins.eval"
    yield "protocol 0", pickle.dumps([evaluates], 0), "eval"
    yield "in a persistent id", nested.getvalue(), name
    popen = pickle.dumps(_Runs(subprocess.Popen, ["touch", str(marker)]), 4)
    yield "a class", popen, "subprocess.Popen"
    yield "INST", arguments + f"i{name}\nsystem\n.".encode(), "INST"
    yield "OBJ", f"(c{name}\nsystem\n".encode() + arguments[1:] + b"o.", name
    yield "EXT", b"\x80\x02\x82\x01.", "EXT1"
    yield "a call of a value", b"(dS'x'\n\x85R.", "a call of a value"
    yield "an attribute of torch", b"ctorch\nload\n(S'x'\ntR.", "torch.load"
    yield "a dotted name", b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.", "torch.os.system"
    yield "import", b"cbuiltins\n__import__\n(S'os'\ntR.", "builtins.__import__"
    yield "state of a name", b"ctorch\nhub\n}b.", "torch.hub"


_NAMES = [name for name, _, _ in _malicious("x")]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", _NAMES)
def test_a_pickle_that_would_run_something_is_refused_by_name_and_not_run(tmp_path, name, legacy):
    marker = tmp_path / "was-run"
    content, named = next(c[1:] for c in _malicious(marker) if c[0] == name)
    path = tmp_path / "model.pth"
    if legacy:
        start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in start) + content)
    else:
        path.write_bytes(_zip(content))
    with pytest.raises(CheckpointError, match="nothing was run") as caught:
        import_ndt1(path, out=tmp_path / "run", overrides=["data.synthetic=lorenz"])
    assert named in caught.value.message
    assert not marker.exists()
    assert not (tmp_path / "run").exists()


def test_the_malicious_pickles_of_these_tests_do_run_when_opened(tmp_path):
    marker = tmp_path / "was-run"
    content = next(c[1] for c in _malicious(marker) if c[0] == "a call in the config")
    pickle.loads(content)  # noqa: S301 - it is ours
    assert marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"spikes",
        _zip(b""),
        _zip(b"N."),
        _zip(b"}."),
        _zip(b"\x80\x02}q\x00h\x00h\x00s."),
        _zip(b"(((((("),
        _zip(b"]" * 10 + b"a" * 20 + b"."),
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps({"state_dict": {}, "config": {}}),
    ],
)
def test_a_file_that_is_no_checkpoint_of_ndt1_is_refused(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pth: not a whole checkpoint of NDT1"):
        Ndt1File.read(path)


def test_bytes_changed_at_random_never_give_more_than_an_error(tmp_path):
    rng, path = random.Random(0), tmp_path / "model.pth"
    with zipfile.ZipFile(MODEL) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = [name for name in members if name.endswith("data.pkl")]
    whole, n_refused = members[name], 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, bytes(damaged) if member == name else content)
        try:
            Ndt1File.read(path)
        except CheckpointError:
            n_refused += 1
    assert 20 < n_refused < 150


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "whole"),
    [
        (0, (2, 3), (3, 1), True),
        (2, (2, 2), (1, 2), True),
        (3, (2, 2), (1, 2), False),
        (0, (7,), (1,), False),
        (0, (10**6, 10**6), (0, 0), False),
        (-1, (2,), (1,), False),
        (0, (2,), (1, 1), False),
        (0, ("2",), (1,), False),
    ],
)
def test_tensors_of_more_numbers_than_the_file_holds_are_refused(
    tmp_path, offset, shape, stride, whole
):
    class Persistent(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 6) if value == "numbers" else None

    rebuild, pickled = torch._utils._rebuild_tensor_v2, io.BytesIO()
    tensor = _Runs(rebuild, "numbers", offset, shape, stride, False, None)
    Persistent(pickled, 2).dump({"state_dict": {"a": tensor}, "config": {}})
    path = tmp_path / "model.pth"
    path.write_bytes(_zip(pickled.getvalue()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/0", np.arange(6, dtype=np.float32).tobytes())
    if whole:
        expected = torch.arange(6.0).as_strided(shape, stride, offset)
        assert torch.equal(Ndt1File.read(path).weights["a"], expected)
    else:
        with pytest.raises(CheckpointError, match=r"holds a tensor|is outside"):
            Ndt1File.read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes")
def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="it is a folder, device or pipe"):
        Ndt1File.read(tmp_path / "model.pth")
