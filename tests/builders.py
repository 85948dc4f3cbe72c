"""Tiny spike data, recordings and settings for tests of the model and the engine.

Axes: B trials, T bins, N neurons.
"""

import json
from contextlib import contextmanager

import numpy as np
import torch

from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.model.network import ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import (
    DataSettings,
    InferenceSettings,
    MaskSettings,
    ModelSettings,
    Settings,
    TrainSettings,
)

NO_DROPOUT = {"dropout": 0.0, "dropout_embedding": 0.0, "dropout_rates": 0.0}


def model_settings(**model):
    """One layer of one head; the rest as the defaults."""
    return ModelSettings(**{"n_layers": 1, "n_heads": 1, "feedforward_size": 8, **model})


def tiny_settings(*, model=None, mask=None, train=None, inference=None):
    """Settings of a run of three epochs on the CPU, one thread, float32."""
    run = {
        "device": "cpu",
        "precision": "float32",
        "n_threads": 1,
        "max_epochs": 3,
        "batch_size": 4,
        "val_interval_epochs": 1,
    }
    return Settings(
        data=DataSettings(synthetic="none"),
        model=model_settings(**(model or {})),
        mask=MaskSettings(**(mask or {})),
        inference=InferenceSettings(**(inference or {})),
        train=TrainSettings(**{**run, **(train or {})}),
    )


def changed(settings, section, **values):
    """The settings with some values of a section changed."""
    old = getattr(settings, section)
    return settings.model_copy(update={section: old.model_copy(update=values)})


def spike_data(n_trials=10, n_bins=6, n_neurons=3, *, seed=0, mean_count=1.0, **fields):
    """Poisson counts of one rate; any field of SpikeData may be given."""
    rng = np.random.default_rng(seed)
    spikes_BTN = rng.poisson(mean_count, (n_trials, n_bins, n_neurons)).astype(np.uint8)
    lengths_B = np.asarray(fields.pop("lengths_B", np.full(n_trials, n_bins)))
    spikes_BTN[np.arange(n_bins)[None, :] >= lengths_B[:, None]] = 0
    return SpikeData(**{"spikes_BTN": spikes_BTN, "bin_ms": 10.0, "lengths_B": lengths_B, **fields})


def recording(n_train=10, n_valid=5, *, rates=False, **fields):
    """A recording of such trials, with known true rates when ``rates``."""
    splits = []
    for seed, n_trials in ((1, n_train), (2, n_valid)):
        data = spike_data(n_trials, seed=seed, **fields)
        if rates:
            shape = data.spikes_BTN.shape
            truth = np.random.default_rng(seed + 10).gamma(2.0, 0.5, shape)
            data = SpikeData(**{**vars_of(data), "rates_BTN": truth})
        splits.append(data)
    return Recording(*splits, source="tiny", layout="synthetic")


def vars_of(data):
    """The fields of a SpikeData, without what it has computed from them."""
    return {name: getattr(data, name) for name in SpikeData.__dataclass_fields__}


def with_spikes(data, spikes_BTN):
    """The same trials with other counts."""
    return SpikeData(**{**vars_of(data), "spikes_BTN": spikes_BTN})


def build_network(settings=None, n_neurons=3, n_bins=6, max_count=4, seed=0, math=None):
    """A network from a seed, without touching the global generator; by the kernels for CPUs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = ModelShape(n_neurons, n_bins, max_count)
        return NeuralDataTransformer(settings or model_settings(), shape, math or CpuMath())


def counts_BTN(n_trials, n_bins, n_neurons, max_count=4, seed=0):
    """Random counts as a tensor, 0 to ``max_count``."""
    stream = torch.Generator().manual_seed(seed)
    shape = (n_trials, n_bins, n_neurons)
    return torch.randint(0, max_count + 1, shape, generator=stream).to(torch.uint8)


def snapshot(model):
    """A copy of the weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same_tensors(first, second):
    """Tell whether two dicts of tensors are equal bit for bit, names included."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@contextmanager
def assert_generators_untouched():
    """Fail when the block draws from, or seeds, the global generators of torch or numpy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # a state that no earlier run can have left
        np.random.seed(987)
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
        yield
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], numpy_before)


def run_files(run):
    """Names of the files in a run folder, sorted."""
    return sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())


def run_metrics(run):
    """The lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def last_checkpoint(run):
    """The checkpoint that a run resumes from."""
    return Checkpoint.load(RunFolder(run).checkpoint("last"))


def evaluation_of(data, inferred_BTN, smoothed_BTN=None, **fields):
    """An evaluation whose rates are these, for figures; scores are given or absent."""
    from ndt_cli.data.spike_data import ByTrial
    from ndt_cli.evaluation import Evaluation

    def by_trial(values_BTK):
        return ByTrial(values_BTK.shape, values_BTK.dtype, lambda trials: values_BTK[trials])

    inferred = by_trial(inferred_BTN)
    smoothed = by_trial(inferred_BTN if smoothed_BTN is None else smoothed_BTN)
    return Evaluation(
        **{
            "run": "run", "checkpoint": "last", "source": "made", "split": "valid", "data": data,
            "inferred": inferred, "smoothed": smoothed, "inferred_while_hidden": inferred,
            "smoothed_while_hidden": smoothed, "activations": inferred, "smoothing_ms": 60.0,
            "scores": {}, "hiding": "", "verdict": None, **fields,
        }
    )  # fmt: skip
