"""Whatever a run folder from somebody else holds: a clear error, nothing run, nothing written."""

import io
import json
import pickle
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import build_network, recording, run_files, tiny_settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import CheckpointError, NdtError, RunError

SETTINGS = tiny_settings(train={"max_epochs": 2})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(SETTINGS, out=out, recording=recording())
    return out


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that may be damaged, alone in a folder."""
    out = tmp_path / "shared" / "run"
    shutil.copytree(trained, out)
    return out


def _files(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def _refused(run, kind=NdtError):
    """Resume and load a run; both must refuse it in words, and leave everything as it is."""
    outside = run.parents[1]
    before = _files(outside)
    errors = []
    for use in (lambda: resume(run, recording=recording()), lambda: load_trained(run)):
        with pytest.raises(kind) as caught:
            use()
        errors.append(caught.value)
        assert caught.value.message
    after = _files(outside)
    after.pop(run / "run.lock", None)
    before.pop(run / "run.lock", None)
    assert after == before
    return errors


# Checkpoints


def _safetensors(header, tensors=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tensors


def _npz():
    file = io.BytesIO()
    np.savez(file, spikes=np.zeros(3))
    return file.getvalue()


def _torch_save():
    file = io.BytesIO()
    torch.save({"model": torch.zeros(3)}, file)
    return file.getvalue()


_OURS = {"format": "ndt-checkpoint", "version": "1"}
NO_CHECKPOINTS = {
    "empty": b"",
    "seven bytes": b"1234567",
    "text": b"weights: see e-mail\n" * 9,
    "random": random.Random(0).randbytes(5000),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "npz": _npz(),
    "a pickle": pickle.dumps({"model": [1, 2, 3]}),
    "of torch.save": _torch_save(),
    "header of 2^64 bytes": _safetensors(b"{}", length=2**64 - 1),
    "header of 2^40 bytes": _safetensors(b"{}", length=2**40),
    "header of 90 MB that are not there": _safetensors(b"{}", length=90_000_000),
    "header longer than the file": _safetensors(b"{}", length=3),
    "header of no bytes": _safetensors(b""),
    "header that is no JSON": _safetensors(b"{{{{{{{{"),
    "header that is a list": _safetensors([1, 2]),
    "header nested deeply": _safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "metadata of numbers": _safetensors({"__metadata__": {"format": 1}}),
    "no metadata": _safetensors({}),
    "metadata of others": _safetensors({"__metadata__": {"format": "pt"}}),
    "metadata only": _safetensors({"__metadata__": _OURS}),
    "data past the end": _safetensors(
        {
            "__metadata__": _OURS,
            "model.x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        }
    ),
    "a shape that overflows": _safetensors(
        {
            "__metadata__": _OURS,
            "model.x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]},
        },
        bytes(4),
    ),
    "a dtype that is none": _safetensors(
        {
            "__metadata__": _OURS,
            "model.x": {"dtype": "PYTHON", "shape": [1], "data_offsets": [0, 4]},
        },
        bytes(4),
    ),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused(run, name):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(NO_CHECKPOINTS[name])
    for error in _refused(run, CheckpointError):
        assert ".safetensors: " in error.message
        assert error.hint


def _resave(path, tensors=None, drop=(), **texts):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in texts.items()}
    kept = {**load_file(path), **(tensors or {})}
    save_file({k: v for k, v in kept.items() if k not in drop}, path, metadata)


def _shape(**changes):
    return {"shape": {"n_neurons": 3, "n_bins": 6, "max_count": 4, **changes}}


def _progress(**changes):
    best = {"best-masked-loss": [0.5, 1]}
    return {"progress": {"epoch": 2, "step": 0, "best": best, **changes}}


BAD_HEADERS = {
    "a newer version": {"version": "2"},
    "a version of 5000 digits": {"version": "9" * 5000},
    "a version in other digits": {"version": "\N{ARABIC-INDIC DIGIT ONE}"},
    "another format": {"format": "ndt-ensemble"},
    "settings of another type": {"model_settings": [1]},
    "settings out of range": {"model_settings": {"n_layers": 10**9}},
    "an unknown setting": {"model_settings": {"os.system": "rm"}},
    "a shape of words": _shape(n_neurons="3"),
    "a shape of truth": _shape(n_neurons=True),
    "a shape of fractions": _shape(n_neurons=3.5),
    "no neurons": _shape(n_neurons=0),
    "a negative shape": _shape(n_bins=-6),
    "a trillion neurons": _shape(n_neurons=10**12),
    "a million neurons": _shape(n_neurons=10**6),
    "a billion bins": _shape(n_bins=10**9),
    "more neurons than torch counts": _shape(n_neurons=2**70),
    "a huge count": _shape(max_count=2**40),
    "other neurons than its weights": _shape(n_neurons=4),
    "a shape nested deeply": {"shape": "[" * 100_000},
    "a shape that is not a number": {"shape": '{"n_neurons": NaN, "n_bins": 6, "max_count": 4}'},
    "progress of words": {"progress": "yes"},
    "progress that is a list": {"progress": [1]},
    "an epoch of words": _progress(epoch="2"),
    "a negative epoch": _progress(epoch=-1),
    "half an epoch": _progress(epoch=1.5),
    "an epoch that is not a number": {"progress": '{"epoch": NaN}'},
    "a loss that is not a number": {"progress": '{"loss_total": NaN}'},
    "a best value that is not a number": _progress(best={"best-masked-loss": ["0.5", 1]}),
    "a best that is none": _progress(best={"best-masked-loss": 1}),
    "a best that is infinite": {"progress": '{"best": {"best-masked-loss": [Infinity, 1]}}'},
    "progress nested deeply": {"progress": '{"best":' * 50_000},
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_lies_is_refused_before_it_takes_memory(run, name, memory_limit):
    for path in (run / "checkpoints").iterdir():
        _resave(path, **BAD_HEADERS[name])
    with memory_limit:
        for error in _refused(run, CheckpointError):
            assert len(error.message) < 800


@pytest.fixture
def memory_limit():
    """At most 2 GB more than the process has, where the system can say so."""
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the size of this process is not known here")

    class Limit:
        def __enter__(self):
            size = int(statm.read_text().split()[0]) * resource.getpagesize()
            self.before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (size + 2 * 2**30, self.before[1]))

        def __exit__(self, *error):
            resource.setrlimit(resource.RLIMIT_AS, self.before)

    return Limit()


BIAS = "model.readout.last.bias"
BAD_WEIGHTS = {
    "NaN": {"tensors": {BIAS: torch.tensor([0.0, torch.nan, 0.0])}},
    "infinite": {"tensors": {BIAS: torch.tensor([0.0, torch.inf, 0.0])}},
    "of other neurons": {"tensors": {BIAS: torch.zeros(4)}},
    "integers": {"tensors": {BIAS: torch.zeros(3, dtype=torch.int64)}},
    "doubles": {"tensors": {BIAS: torch.zeros(3, dtype=torch.float64)}},
    "missing": {"drop": (BIAS,)},
    "one too many": {"tensors": {"model.door": torch.zeros(3)}},
    "of an unknown group": {"tensors": {"code.weight": torch.zeros(3)}},
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_of_the_wrong_kind_are_refused(run, name):
    for path in (run / "checkpoints").iterdir():
        _resave(path, **BAD_WEIGHTS[name])
    for error in _refused(run, CheckpointError):
        assert "holds" in error.message or "is" in error.message
        assert error.hint


@pytest.mark.parametrize(
    "tensors",
    [
        {"stream.rank0.mask": torch.zeros(16, dtype=torch.uint8)},  # as of a GPU
        {"stream.rank0.mask": torch.zeros(3)},
        {"stream.rank0.order": torch.zeros(0, dtype=torch.uint8)},
        {"stream.rank0.dropout": torch.zeros(1, dtype=torch.int64)},
        {"stream.rank1.mask": torch.zeros(16, dtype=torch.uint8)},
        {"optimizer.readout.last.bias/exp_avg": torch.zeros(99)},
        {"optimizer.readout.last.bias/exp_avg": torch.full((3,), torch.nan)},
        {"optimizer.readout.last.bias/exp_avg": torch.zeros(3, dtype=torch.int32)},
        {"optimizer.readout.last.bias/step": torch.zeros(2)},
    ],
)
def test_states_that_cannot_be_resumed_from_are_refused(run, tensors):
    _resave(RunFolder(run).checkpoint("last"), tensors)
    before = _files(run)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        resume(run, recording=recording(), overrides=["train.max_epochs=3"])
    assert _files(run) == before


def test_a_checkpoint_of_another_network_is_refused(run):
    # Heads change no shape: the weights would fit, and mean something else.
    other = build_network(SETTINGS.model.model_copy(update={"n_heads": 2}), max_count=4)
    last = RunFolder(run).checkpoint("last")
    mine = Checkpoint.load(last)
    Checkpoint(
        other.state_dict(), other.settings, mine.shape, mine.progress, mine.optimizer, mine.streams
    ).save(last)
    with pytest.raises(CheckpointError, match=r"other \[model\] settings"):
        resume(run, recording=recording())


def test_bytes_changed_at_random_never_give_more_than_an_error(run):
    rng = random.Random(0)
    path = RunFolder(run).checkpoint("best-masked-loss")
    whole = path.read_bytes()
    n_header = struct.unpack("<Q", whole[:8])[0] + 8
    n_refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(n_header)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            Checkpoint.load(path).build_model()
        except CheckpointError:
            n_refused += 1
    assert n_refused > 250


# Other files of the run


def _facts(run, **changes):
    content = json.loads((run / "run.json").read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return json.dumps(content)


BAD_FACTS = {
    "nothing": lambda run: "",
    "no JSON": lambda run: "{",
    "not text": lambda run: "\x00\x01",
    "a list": lambda run: "[]",
    "nested deeply": lambda run: "[" * 100_000,
    "nothing in it": lambda run: "{}",
    "data a number": lambda run: _facts(run, data=5),
    "data of nothing": lambda run: _facts(run, data={}),
    "a split of words": lambda run: _facts(run, data__train="all"),
    "neurons in words": lambda run: _facts(run, data__train__n_neurons="3"),
    "negative neurons": lambda run: _facts(run, data__train__n_neurons=-3),
    "a bin width of nothing": lambda run: _facts(run, data__train__bin_ms=None),
    "a bin width that is none": lambda run: _facts(run, data__valid__bin_ms=float("nan")),
    "spikes of other neurons": lambda run: _facts(run, data__train__spikes_N=[1, 2]),
    "an order that is none": lambda run: _facts(run, data__train__neuron_ids_N=[0, 0, 9]),
    "names that are numbers": lambda run: _facts(run, data__train__neuron_names=[1, 2, 3]),
    "a device that is none": lambda run: _facts(run, device="../../gpu"),
    "a precision that is none": lambda run: _facts(run, precision="int8"),
    "a million threads": lambda run: _facts(run, n_threads=10**6),
}


@pytest.mark.parametrize("name", BAD_FACTS)
def test_facts_of_a_run_that_are_not_right_are_refused(run, name):
    (run / "run.json").write_text(BAD_FACTS[name](run))
    for error in _refused(run, RunError):
        assert "run.json" in error.message


BAD_SETTINGS = {
    "nothing TOML": "][",
    "not text": "\x00",
    "an unknown key": "[train]\nexec = 'rm'\n",
    "another type": "[train]\nmax_epochs = 'all'\n",
    "absurd": "[model]\nn_layers = 99999999999999999999999\n",
    "a device that is a path": "[train]\ndevice = '../../x'\n",
    "a section that is none": "train = 3\n",
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_settings_of_a_run_that_are_not_right_are_refused(run, name):
    (run / "settings.toml").write_text(BAD_SETTINGS[name])
    _refused(run)


@pytest.mark.parametrize("path", ["../../secret.h5", "../..", "/etc/passwd", "~/x.h5", "run.json"])
def test_a_data_file_of_the_settings_is_read_at_most(run, path):
    settings = (run / "settings.toml").read_text()
    (run / "settings.toml").write_text(settings.replace("[data]", f'[data]\nfile = "{path}"'))
    outside = run.parents[1]
    (outside / "secret.h5").write_bytes(b"not spikes")
    before = _files(outside)
    with pytest.raises(NdtError):
        resume(run)
    assert _files(outside) == before


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "[1]",
        "null",
        '"epoch"',
        '{"epoch": "1"}',
        '{"epoch": true}',
        '{"epoch": 1.5}',
        '{"train_loss": 0.5}',
        '{"epoch": 1, "train_loss": "low"}',
        '{"epoch": 1, "train_loss": [1]}',
        "[" * 100_000,
        "\x00" * 4096,
        "\ud7ff\u2028",
        '{"epoch": ' + "9" * 5000 + "}",
    ],
)
def test_an_invalid_line_of_the_log_is_skipped(run, line):
    folder = RunFolder(run)
    records = folder.read_metrics()
    path = run / "metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *rest]) + "\n", encoding="utf-8")
    assert folder.read_metrics() == records
    assert resume(run, recording=recording()).history == records


def test_a_log_that_is_not_text_is_read_as_far_as_it_is(run):
    records = RunFolder(run).read_metrics()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(random.Random(0).randbytes(3000))
    assert RunFolder(run).read_metrics() == records
    assert "metrics.jsonl" in run_files(run)
