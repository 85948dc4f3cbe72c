"""Tensors and scores against those of nlb_tools on the pandas 1.3.4 that it was written for.

The reference values were made there, from files that the shared tool writes with seed 0.
"""

import hashlib
import importlib.util
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nlb_tools", reason="nlb_tools is not installed")

from nlb_tools.evaluation import evaluate

from ndt_cli.nlb import nlb_tools as tools
from ndt_cli.nlb.catalog import BINS_MS, DATASETS, no_progress
from ndt_cli.nlb.nlb_tools import open_nwb
from ndt_cli.nlb.tensors import make_tensors

SHARED = Path(__file__).resolve().parents[3] / "shared"
REFERENCE = SHARED / "reference" / "nlb_tools_reference.json"

pytestmark = pytest.mark.skipif(not REFERENCE.is_file(), reason=f"{REFERENCE} is not there")


@pytest.fixture(scope="session")
def reference():
    return json.loads(REFERENCE.read_text())


@pytest.fixture(scope="session")
def write_nwb(tmp_path_factory):
    """Write a data set's files once; return the folder that they are in."""
    spec = importlib.util.spec_from_file_location("shared_nwb", SHARED / "tools/make_nlb_nwb.py")
    shared = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = shared  # its dataclasses look their own module up
    spec.loader.exec_module(shared)
    root = tmp_path_factory.mktemp("nwb")
    written = set()

    def write(name):
        if name not in written:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shared.make_dataset(root, shared.SPECS[name], seed=0)
            written.add(name)
        return root

    return write


# ------------------------------------------------------------------ as the reference was made
def digest(array):
    """Shape, dtype and sums of an array, in the words of the reference."""
    array = np.asarray(array)
    if array.dtype == object:
        text = json.dumps([np.asarray(row).tolist() for row in array])
        return {"obj": hashlib.md5(text.encode()).hexdigest()[:10], "shape": list(array.shape)}
    values = array.astype(float)
    known = np.nan_to_num(values)
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "nan": int(np.isnan(values).sum()),
        "sum": round(float(known.sum()), 6),
        "abs": round(float(np.abs(known).sum()), 6),
        "w": round(float((known.ravel() * np.cos(np.arange(values.size))).sum()), 5),
    }


def true_rates(dataset, bin_ms, truth, align_ms):
    """Expected counts of held-in and held-out neurons, in the window and after it."""
    start_ms, end_ms = dataset.window_ms

    def cut(first_ms, last_ms):
        rates_hz = np.stack([truth["rates"][at + first_ms : at + last_ms] for at in align_ms])
        n_trials, n_ms, n_neurons = rates_hz.shape
        bins = rates_hz.reshape(n_trials, n_ms // bin_ms, bin_ms, n_neurons)
        counts = bins.sum(axis=2) / 1000.0
        return [np.ascontiguousarray(counts[..., truth["heldout"] == held]) for held in (0, 1)]

    return [*cut(start_ms, end_ms), *cut(end_ms, end_ms + 200)]


def true_submission(tensors, truth, trial_info):
    """The true rates as a submission; windows moved as nlb_tools moves those of dmfc_rsg."""
    dataset, submission = tensors.dataset, {}
    for half, splits in (
        ("train", ["train"] if tensors.phase == "val" else ["train", "val"]),
        ("eval", [tensors.phase]),
    ):
        mask = np.isin(trial_info["split"], splits)
        align_ms = trial_info[dataset.align_field][mask].dt.total_seconds().to_numpy() * 1000
        if f"{half}_jitter" in tensors.target:
            align_ms = align_ms + tensors.target[f"{half}_jitter"] * tensors.bin_ms
        align_ms = np.floor(np.round(align_ms, 3)).astype(int)
        rates = true_rates(dataset, tensors.bin_ms, truth, align_ms)
        names = ("heldin", "heldout", "heldin_forward", "heldout_forward")
        for name, array in zip(names, rates, strict=True):
            if half == "eval" or "forward" not in name:
                submission[f"{half}_rates_{name}"] = array
    return {tensors.key: submission}


def load(path, dataset, bin_ms):
    """A whole file as nlb_tools holds it, for its trial table."""
    with tools.repaired(), open_nwb(path, dataset) as source:
        return resampled(source, bin_ms)


def resampled(source, bin_ms):
    """An open file as nlb_tools holds it, at this bin width."""
    loaded = tools.LeanDataset(tools.Session([source], no_progress))
    loaded.resample(bin_ms)
    return loaded


def tensor_digests(tensors):
    """What the reference holds of the tensors of a phase."""
    inputs = {**tensors.train, **tensors.eval}
    out = {f"{tensors.phase}/{key}": digest(array) for key, array in inputs.items()}
    return out | {f"{tensors.phase}/tgt/{key}": digest(a) for key, a in tensors.target.items()}


def values(dataset, bin_ms, root):
    """Everything the reference holds of one data set and bin width, made by this package."""
    folder = root / dataset.dandiset
    (private_file,) = (folder / "private").glob("*.nwb")
    truth = dict(np.load(folder / "private" / "truth.npz", allow_pickle=False))
    out = {}
    for phase in ("val", "test"):
        tensors = make_tensors(dataset, bin_ms, phase, root, cache=False)
        if phase == "test":
            target = private_target(dataset, bin_ms, private_file)
            tensors = replace(tensors, target=target)
        out |= tensor_digests(tensors)
        path = folder / dataset.train_file.path if phase == "val" else private_file
        loaded = load(path, dataset, bin_ms)
        submission = true_submission(tensors, truth, loaded.trial_info)
        targets = {tensors.key: tensors.target}
        out[f"{phase}/metrics"] = evaluate(targets, {k: dict(v) for k, v in submission.items()})
        if phase == "val":
            out["val/metrics_h5"] = evaluate_files(targets, submission, root)
        else:
            same = private_test_counts(loaded, dataset)
            out["test/public input equals private"] = bool(
                np.array_equal(tensors.eval["eval_spikes_heldin"], same)
            )
    return out


def evaluate_files(targets, submission, folder):
    """Scores of the same, written by nlb_tools and read back."""
    (key,) = targets
    paths = []
    for name, content in (("target", targets), ("submission", submission)):
        paths.append(str(folder / f"{key}-{name}.h5"))
        with tools.repaired() as make:
            make.save_to_h5(content, paths[-1], overwrite=True)
    return evaluate(*paths)


def private_target(dataset, bin_ms, path):
    """Targets of the test phase, from a file that has all trials and units."""
    with tools.repaired() as make, open_nwb(path, dataset) as source:
        loaded = resampled(source, bin_ms)
        return tools._target(make, loaded, dataset, ["train", "val"], "test")


def private_test_counts(loaded, dataset):
    with tools.repaired() as make:
        made = make.make_train_input_tensors(
            loaded,
            dataset.name,
            loaded.trial_info["split"] == "test",
            save_file=False,
            update_params={"jitter": None} if dataset.name == "dmfc_rsg" else None,
        )
    return made["train_spikes_heldin"]


def leaves(value, path=""):
    """All values of a nested structure under their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}/{i}")
    else:
        yield path, value


def assert_equals_reference(found, expected):
    found, expected = dict(leaves(found)), dict(leaves(expected))
    assert set(found) == set(expected)
    for path, value in expected.items():
        if isinstance(value, float):
            assert found[path] == pytest.approx(value, rel=1e-9, abs=2e-6), path
        else:
            assert found[path] == value, path


# ------------------------------------------------------------------ the rules
def test_a_data_set_equals_what_nlb_tools_made_of_it_on_pandas_1_3(reference, write_nwb):
    tensors = make_tensors("mc_maze_small", 20, "val", write_nwb("mc_maze_small"), cache=False)
    kept = reference["mc_maze_small/20"]["out"]
    expected = {key: kept[key] for key in kept if key.startswith("val/") and "metrics" not in key}
    assert_equals_reference(tensor_digests(tensors), expected)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [2**26, 2**17], ids=["at once", "few units at a time"])
@pytest.mark.parametrize("bin_ms", BINS_MS)
@pytest.mark.parametrize("name", list(DATASETS))
def test_every_value_equals_the_reference(name, bin_ms, cells, reference, write_nwb, monkeypatch):
    monkeypatch.setattr(tools, "_CELLS_AT_A_TIME", cells)
    found = values(DATASETS[name], bin_ms, write_nwb(name))
    assert_equals_reference(found, reference[f"{name}/{bin_ms}"]["out"])


def test_the_reference_holds_all_data_sets(reference):
    kept = {key: value["out"] for key, value in reference.items() if key != "versions"}
    assert set(kept) == {f"{name}/{bin_ms}" for name in DATASETS for bin_ms in BINS_MS}
    assert len(dict(leaves(kept))) == 3132


def test_the_comparison_sees_one_spike_more():
    counts = np.zeros((2, 3, 4), dtype="float16")
    more = counts.copy()
    more[1, 2, 3] = 1
    with pytest.raises(AssertionError):
        assert_equals_reference(digest(more), digest(counts))
