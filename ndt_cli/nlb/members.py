"""Models for one benchmark data set: trained, averaged, turned into the six rate arrays."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ndt_cli.data.spike_data import FloatArray, Recording, SpikeData
from ndt_cli.data.write_own import write_recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import EpochDone, Event, Watcher
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.train import train
from ndt_cli.engine.trainer import TrainResult
from ndt_cli.errors import RunError
from ndt_cli.nlb.submission import SubmissionRates, split_rates
from ndt_cli.settings.tree import Settings

StopRequest = Callable[[], bool]


def train_member(
    settings: Settings,
    recording: Recording,
    out: Path,
    *,
    seed: int,
    n_epochs: int | None = None,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> TrainResult:
    """Train one model; its data lie beside its run, so that the run can be resumed and evaluated.

    Parameters
    ----------
    settings : Settings
        Without a data file: ``recording`` is written and named there.
    recording : Recording
        Trials of the benchmark.
    out : Path
        New run folder.
    seed : int
        ``train.seed`` of this member.
    n_epochs : int, optional
        Stop after so many epochs, with the schedule as it is. Default: as the settings say.
    watch, should_stop
        As in `ndt_cli.engine.train.train`.
    """
    data_file = out.with_name("spikes.h5")
    if not data_file.exists():
        write_recording(recording, data_file)
    data = settings.data.model_copy(update={"file": data_file.absolute(), "file_bin_ms": None})
    member = settings.model_copy(
        update={"data": data, "train": settings.train.model_copy(update={"seed": seed})}
    )
    epochs_done = 0

    def count(event: Event) -> None:
        nonlocal epochs_done
        if isinstance(event, EpochDone):
            epochs_done = int(event.record["epoch"])
        if watch is not None:
            watch(event)

    return train(
        member,
        out=out,
        recording=replace(recording, source=str(data_file)),
        watch=count,
        should_stop=lambda: should_stop() or (n_epochs is not None and epochs_done >= n_epochs),
    )


def chosen_epochs(run: Path) -> int:
    """Return after how many epochs a run had its best weights, by ``train.choose_by``.

    Raises
    ------
    RunError
        When it has not validated yet.
    """
    folder = RunFolder.open(run)
    name = f"best-{folder.settings().train.choose_by}"
    # The checkpoint's own header says when it was taken.
    epochs = int(Checkpoint.load(folder.checkpoint(name)).progress["epoch"])
    if epochs < 1:
        raise RunError(f"{run}: it has not come to its first validation")
    return epochs


def member_rates(
    runs: Sequence[Path],
    checkpoint: str | None,
    train_trials: SpikeData,
    eval_trials: SpikeData,
    device: str = "auto",
) -> SubmissionRates:
    """Infer rates with each run's weights and return the mean over runs.

    Parameters
    ----------
    runs : sequence of Path
        Run folders of the members.
    checkpoint : str or None
        Which weights; None: each run's best by ``train.choose_by``.
    train_trials, eval_trials : SpikeData
        What is inferred; counts of held-out neurons and forward bins are never looked at.
    device : str
        As ``train.device``.
    """

    def mean_BTN(trials: SpikeData) -> FloatArray:
        total_BTN = np.zeros(trials.spikes_BTN.shape)
        for run in runs:
            trained = load_trained(run, checkpoint, device)
            trained.check_fits(trials, str(run))
            total_BTN += trained.rates(trials)
        return total_BTN / len(runs)

    return split_rates(
        mean_BTN(train_trials), mean_BTN(eval_trials), eval_trials.n_heldout, eval_trials.n_forward
    )
