"""Checks before the first step: data and settings that cannot be trained, or exceed memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording, SpikeData, check_recording
from ndt_cli.engine.checkpoint import PLACES, RESUMABLE, changed_settings, refuse_unless
from ndt_cli.engine.device import choose_compute, free_gpu_bytes, n_cores, visible_gpus
from ndt_cli.engine.measures import MEASURES
from ndt_cli.engine.run_folder import RunFolder, SplitFacts
from ndt_cli.errors import DataError, SettingsError, called
from ndt_cli.memory import free_bytes, in_gb
from ndt_cli.model.context import Context
from ndt_cli.model.embedding import encoder_width, n_inputs
from ndt_cli.model.network import ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import DataSettings, Settings


def check_trainable(recording: Recording, settings: Settings) -> None:
    """Refuse data that cannot be trained on with these settings.

    Among them are validation trials without what ``train.choose_by`` measures.
    """
    check_recording(recording)
    if not recording.train.hidden_counts_known:
        raise DataError(
            f"{recording.source}: the training trials lack the counts of held-out neurons or "
            "forward bins, which are what training predicts",
            "give a file with all training counts, or leave those neurons and bins out",
        )
    if recording.train.sessions is not None and (
        settings.model.embedding != "linear" or settings.model.width == "auto"
    ):
        raise SettingsError(
            "several sessions are trained with a read-in for each: they need a linear embedding "
            f'of a given width, and model.embedding is "{settings.model.embedding}" with '
            f"model.width = {settings.model.width}",
            "Use the preset recordings, or `model.embedding=linear` and `model.width=64`.",
        )
    choose_by = settings.train.choose_by
    measure = MEASURES[choose_by]
    if not measure.is_defined(recording.valid):
        raise DataError(
            f'train.choose_by = "{choose_by}" needs {measure.needs}, and the validation '
            f"trials of {recording.source} have none",
            "Use `train.choose_by=masked-loss`.",
        )


def check_resumable(before: Settings, now: Settings) -> None:
    """Refuse to resume a run with settings that would make it another run."""
    check_same_settings(
        before,
        now,
        "a resumed run keeps its settings",
        f"Only these can change: {', '.join(RESUMABLE)}. For others start a new run from the "
        "settings.toml of this one.",
        RESUMABLE,
    )


def check_same_settings(
    before: Settings, now: Settings, what: str, hint: str, free: Sequence[str] = PLACES
) -> None:
    """Raise a SettingsError that names the settings that differ, but for those of ``free``."""
    plain = [settings.model_dump(mode="json") for settings in (before, now)]
    changes = changed_settings(plain[0], plain[1], free)
    if changes:
        raise SettingsError(f"{what}: {'; '.join(changes)}", hint)


def load_own_data(
    run: Path, settings: DataSettings, hint: str = "Give its new place: `data.file=FILE`."
) -> Recording:
    """Load the trials of a run; if their file is gone, ``hint`` says how to give its new place."""
    for file in settings.files or [settings.file]:
        if file is not None and not file.exists():
            raise DataError(f"{file}: the spike file that {run} was trained on is not there", hint)
    return load_recording(settings)


def check_same_data(
    folder: RunFolder, recording: Recording, *, accept_changes: bool = False
) -> None:
    """Refuse to resume or evaluate a run on other data.

    If changes are accepted, a difference is a warning.
    """
    other = {"fingerprint": "other counts", "rates_fingerprint": "other true rates"}
    facts = folder.facts().data
    for split, before in (("train", facts.train), ("valid", facts.valid)):
        now = SplitFacts.of(getattr(recording, split))
        key = before.difference(now)
        if key is not None:
            what = f"{key} is {getattr(now, key)}, was {getattr(before, key)}"
            refuse_unless(
                accept_changes,
                f"{recording.source}: its {split} trials are not those that {folder.path} was "
                f"trained on: {other.get(key, what)}",
                "Put the old file back, or start a new run. To evaluate the run on other trials: "
                f"{called('evaluate', folder.path, data='FILE')}",
            )


def is_same_data(folder: RunFolder, recording: Recording) -> bool:
    """Tell whether these are the very trials that a run was trained on."""
    facts = folder.facts().data
    pairs = ((facts.train, recording.train), (facts.valid, recording.valid))
    return all(before.n_trials == now.n_trials for before, now in pairs) and all(
        before.difference(SplitFacts.of(now)) is None for before, now in pairs
    )


@dataclass(frozen=True)
class MemoryNeeds:
    """The least memory that training takes, in bytes."""

    weights: int  # weight, gradient and AdamW's two moments, 4 bytes each
    # What the forward pass keeps of a batch: of each layer its input (float32) and its hidden units
    # (2 bytes), and the read-out and its gradient.
    batch: int
    context: int  # which bin attends to which, and the scores of one layer

    @property
    def total(self) -> int:
        return self.weights + self.batch + self.context


def memory_needs(settings: Settings, shape: ModelShape, n_trials: int) -> MemoryNeeds:
    """Return the least memory for a network of this shape and a batch of this many trials."""
    model = settings.model
    with torch.device("meta"):  # shapes alone
        network = NeuralDataTransformer(model, shape)
    n_weights = sum(weights.numel() for weights in network.parameters())
    width = encoder_width(model, shape.n_neurons)
    n_classes = shape.max_count + 1 if model.loss == "cross-entropy" else 1
    layer = model.n_layers * (4 * width + 2 * model.feedforward_size)
    output = 2 * 4 * shape.n_neurons * n_classes
    context = Context.from_settings(model)
    limited = context.back is not None and context.forward is not None and not context.wrap_initial
    n_scores = shape.n_bins**2
    if limited:  # a block of one bin is the least that can be cut
        n_scores = min(n_scores, shape.n_bins * (1 + (context.back or 0) + (context.forward or 0)))
    return MemoryNeeds(
        weights=16 * n_weights,
        batch=n_trials * shape.n_bins * (layer + output),
        context=8 * shape.n_bins**2 + 2 * n_trials * model.n_heads * n_scores,
    )


def runs_that_fit(settings: Settings, train: SpikeData) -> int:
    """Return how many runs can train here at the same time: by GPU memory, or by CPU cores."""
    device = choose_compute(settings.train).device
    if device.type != "cuda":
        return n_cores()
    shape = ModelShape(train.n_neurons, train.n_bins, train.max_count)
    needs = memory_needs(settings, shape, min(settings.train.batch_size, train.n_trials))
    counts = train.n_trials * train.n_bins * train.n_neurons
    # The estimate is a lower bound; torch itself and captured graphs come on top.
    one = 3 * needs.total + 8 * counts + 2**30
    on_one_gpu = int(0.8 * free_gpu_bytes(device) // one)
    n_gpus = len(visible_gpus(settings.train.device)) or 1  # one that is named
    return max(1, min(on_one_gpu * n_gpus, n_cores()))


def check_limits(
    train: SpikeData, settings: Settings, device: torch.device, n_processes: int = 1
) -> None:
    """Refuse settings that make no sense for these trials, or need more memory than there is.

    A batch is shared among ``n_processes``. The hint names the setting that matters most.
    """
    span = settings.mask.max_span
    if span > train.n_bins:
        raise SettingsError(
            f"mask.max_span is {span}, but the trials have {train.n_bins} bins",
            "Use a span of a few bins: `mask.max_span=5`.",
        )
    least = n_inputs(settings.model, train.n_neurons)
    width = settings.model.width
    if width != "auto" and width < least and settings.model.embedding != "linear":
        raise SettingsError(
            f'model.embedding = "{settings.model.embedding}" makes {least} numbers of '
            f"{train.n_neurons} neurons, and model.width is {width}",
            "Use `model.embedding=linear`, or `model.width=auto`.",
        )
    free = free_bytes_on(device)
    n_trials = -(-min(settings.train.batch_size, train.n_trials) // n_processes)
    shape = ModelShape(train.n_neurons, train.n_bins, train.max_count)
    needs = memory_needs(settings, shape, n_trials)
    if free is None or needs.total <= free:
        return
    hints = [
        (
            needs.weights,
            "Use a smaller `model.embedding_size`, `model.n_layers`, or `model.feedforward_size`.",
        ),
        (needs.batch, f"Use smaller batches: `train.batch_size={max(1, n_trials // 4)}`."),
        (needs.context, "Cut the trials into shorter windows: `convert(FILE, chop_ms=1000)`."),
    ]
    raise SettingsError(
        f"training needs at least {in_gb(needs.total)} of memory, and {in_gb(free)} are free: "
        f"weights {in_gb(needs.weights)}, a batch of {n_trials} trials {in_gb(needs.batch)}, "
        f"attention over {train.n_bins} bins {in_gb(needs.context)}",
        max(hints)[1],
    )


def free_bytes_on(device: torch.device) -> int | None:
    """Return how much memory could still be taken; None where the system does not tell."""
    if device.type == "cuda":
        return free_gpu_bytes(device)
    return free_bytes()
