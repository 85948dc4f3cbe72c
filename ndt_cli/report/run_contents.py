"""A run as its figures and its page need it, each part read when it is asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.preflight import check_same_data
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trained_model import TrainedModel
from ndt_cli.evaluation import Evaluation, Split, evaluate
from ndt_cli.report.attention_weights import AttentionAverage, average_attention
from ndt_cli.report.conditions import Group
from ndt_cli.settings.tree import Settings


class RunContents:
    """A run, or an ensemble of runs, that can be drawn.

    Learning curves need only the folder; the other figures need the weights and the data.

    Parameters
    ----------
    path : Path or str
        The run folder.
    split : {"train", "valid", "all"}
        Trials that are scored and drawn.
    data : Path, optional
        Where the run's data file is now, if it is elsewhere than it was.
    checkpoint : str, optional
        Which weights: see `ndt_cli.engine.inference.load_trained`.
    device : str
        As the setting ``train.device``.
    recording : Recording, optional
        The run's data, where they are in memory already.

    Raises
    ------
    RunError
        When it is no run.

    Examples
    --------
    >>> run = RunContents("runs/first")
    >>> run.history[-1]["epoch"]
    5
    >>> run.evaluation.rates_BTN.shape  # trials, bins, neurons
    (4, 10, 4)
    >>> run.attention.maps_LHTS.shape  # layers, heads, bins, bins
    (1, 2, 10, 10)
    """

    def __init__(
        self,
        path: Path | str,
        *,
        split: Split = "valid",
        data: Path | None = None,
        checkpoint: str | None = None,
        device: str = "auto",
        recording: Recording | None = None,
    ) -> None:
        self.folder = RunFolder.open(Path(path))
        self.split: Split = split
        self._data = data
        self._checkpoint = checkpoint
        self._device = device
        self._in_memory = recording

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def is_ensemble(self) -> bool:
        return Ensemble.is_at(self.path)

    @cached_property
    def settings(self) -> Settings:
        """Settings of the run."""
        return self.folder.settings()

    @cached_property
    def about(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        return self.folder.read_json("run.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says; empty before training has ended."""
        there = (self.path / "summary.json").is_file()
        return self.folder.read_json("summary.json") if there else {}

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Records of the epochs."""
        return self.folder.read_metrics()

    @cached_property
    def trained(self) -> TrainedModel | Ensemble:
        """The weights."""
        return load_trained(self.path, self._checkpoint, self._device)

    @cached_property
    def recording(self) -> Recording:
        """The data that the run was trained on.

        Raises
        ------
        DataError, RunError
            When they cannot be read, or have changed.
        """
        if self._in_memory is not None:
            return self._in_memory
        settings = self.settings.data
        if self._data is not None:
            settings = settings.model_copy(update={"file": self._data.absolute()})
        recording = load_recording(settings)
        check_same_data(self.folder, recording)
        return recording

    @cached_property
    def evaluation(self) -> Evaluation:
        """Scores and rates of the split."""
        return evaluate(
            self.path,
            split=self.split,
            checkpoint=self._checkpoint,
            device=self._device,
            recording=self.recording,
        )

    @cached_property
    def attention(self) -> AttentionAverage:
        """Mean attention weights over the split; of the best member of an ensemble."""
        trained = self.trained
        model = trained.members[0] if isinstance(trained, Ensemble) else trained
        return average_attention(model, self.evaluation.data)


# ------------------------------------------------------------------------------------------------
# A figure together with the words that a reader needs beside it.
# ------------------------------------------------------------------------------------------------


_SPLITS = {"train": "training", "valid": "validation", "all": "training and validation"}


@dataclass(frozen=True)
class Choice:
    """What of a run is drawn, where a figure lets one choose.

    Attributes
    ----------
    trial : int or None
        A trial of the split; None: a typical one.
    neurons : tuple of int
        Neurons by their places in the file; empty: the most modulated.
    """

    trial: int | None = None
    neurons: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure and its words.

    Attributes
    ----------
    figure : Figure
        The figure.
    caption : str
        What is drawn, of how many trials and bins.
    alt : str
        The figure in a sentence, for readers who cannot see it.
    """

    figure: Figure
    caption: str
    alt: str


def trials_text(run: RunContents) -> str:
    """Return such words as "22 validation trials of 51 to 76 bins of 20 ms"."""
    data = run.evaluation.data
    shortest, longest = int(data.lengths_B.min()), int(data.lengths_B.max())
    bins = f"{shortest} to {longest}" if shortest < longest else f"{longest}"
    kind = _SPLITS[run.evaluation.split]
    return f"{count(data.n_trials, f'{kind} trial')} of {bins} bins of {data.bin_ms:g} ms"


def groups_text(groups: list[Group], run: RunContents) -> str:
    """Return such words as "8 of 130 conditions, 2 trials each"."""
    conditions_B = run.evaluation.data.conditions_B
    if conditions_B is None:
        return f"{len(groups)} of {count(run.evaluation.data.n_trials, 'trial')}"
    n_all = len(set(conditions_B.tolist()))
    sizes = sorted({len(group.trials) for group in groups})
    trials = count(sizes[0], "trial") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} trials"
    which = f"{len(groups)} of {n_all} conditions"
    if len(groups) == n_all:
        which = count(n_all, "condition")
    return f"{which}, {trials} each"


def count(n: int, noun: str) -> str:
    """Return such words as "1 trial" or "2 trials"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
