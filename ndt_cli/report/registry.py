"""All figures of runs and sweeps by name, and the parts of a run that they are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ndt_cli.atomic import check_may_write, check_suffix
from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording, SpikeData, Split
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.inference import Model
from ndt_cli.engine.preflight import check_same_data
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import DataError, RunError, SettingsError, nearest
from ndt_cli.evaluation import Evaluation, evaluate
from ndt_cli.report.attention_weights import (
    AttentionAverage,
    average_attention,
    draw_attention_lags,
    draw_attention_maps,
)
from ndt_cli.report.conditions import draw_conditions, draw_psth
from ndt_cli.report.curves import draw_training
from ndt_cli.report.figures import FIGURE_SUFFIXES, CaptionedFigure, save_figure
from ndt_cli.report.neurons import draw_neurons_bits, draw_neurons_heldout, draw_neurons_r2
from ndt_cli.report.sweep_figures import SWEEP_FIGURES
from ndt_cli.report.trajectories import (
    draw_behavior,
    draw_trajectories_2d,
    draw_trajectories_3d,
)
from ndt_cli.report.trial import draw_heatmaps, draw_rates
from ndt_cli.search.folder import SweepFolder
from ndt_cli.settings.tree import Settings


class RunContents:
    """A run or an ensemble of runs that can be drawn; each part is read on first use.

    Learning curves need only the folder; the other figures need the weights and the data.
    ``split`` has the trials that are scored and drawn, ``data`` is where the data file is now if it
    was moved, ``recording`` the data if they are in memory already, and ``checkpoint`` the weights,
    as for `load_trained`.

    Examples
    --------
    >>> run = RunContents("runs/first")
    >>> run.history[-1]["epoch"]
    5
    >>> run.evaluation.rates_BTN.shape  # trials, bins, neurons
    (4, 10, 4)
    >>> run.attention.maps_LHTS.shape  # layers, heads, bins, bins
    (1, 4, 10, 10)
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
        accept_changes: bool = False,
    ) -> None:
        self.folder = RunFolder.open(Path(path))
        self.path = self.folder.path
        self.is_ensemble = Ensemble.is_at(self.path)
        self.split: Split = split
        self._data = data
        self._checkpoint = checkpoint
        self._device = device
        self._in_memory = recording
        self._accept_changes = accept_changes

    @cached_property
    def settings(self) -> Settings:
        """Settings of the run."""
        return self.folder.settings()

    @cached_property
    def about(self) -> dict[str, Any]:
        """Content of ``run.json``."""
        return self.folder.read_json("run.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``; empty before training has ended."""
        exists = (self.path / "summary.json").is_file()
        return self.folder.read_json("summary.json") if exists else {}

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Records of the epochs."""
        return self.folder.read_metrics()

    @property
    def trained(self) -> Model:
        """The model."""
        assert self.evaluation.model is not None
        return self.evaluation.model

    @cached_property
    def recording(self) -> Recording:
        """The data that the run was trained on; `RunError` if they have changed."""
        if self._in_memory is not None:
            return self._in_memory
        settings = self.settings.data
        if self._data is not None:
            settings = settings.model_copy(update={"file": self._data.absolute()})
        recording = load_recording(settings)
        check_same_data(self.folder, recording, accept_changes=self._accept_changes)
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
            accept_changes=self._accept_changes,
        )

    @cached_property
    def attention(self) -> AttentionAverage:
        """Mean attention weights over the split; of the first member of an ensemble."""
        return average_attention(self.trained.members[0], self.evaluation.data)


class RunFigure(NamedTuple):
    """A figure that any run may have."""

    title: str
    section: str  # of the report page
    draw: Callable[..., CaptionedFigure]  # of the evaluation of a run
    selects: tuple[str, ...] = ()  # what can be selected: ``trial``, ``neurons``
    of_run: bool = False  # ``draw`` takes `RunContents`
    suits: Callable[[SpikeData], bool] = lambda data: True  # otherwise a page leaves it out


_CURVES, _RATES, _NEURONS = "Learning curves", "Spikes and inferred rates", "Single neurons"
_STATES, _ATTENTION = "Population trajectories", "Attention"

FIGURES = {
    "training": RunFigure("Learning curves", _CURVES, draw_training, of_run=True),
    "rates": RunFigure("Spikes and rates of one trial", _RATES, draw_rates, ("trial", "neurons")),
    "heatmaps": RunFigure("Rates of all neurons in one trial", _RATES, draw_heatmaps, ("trial",)),
    "conditions": RunFigure("Spikes and rates by condition", _RATES, draw_conditions, ("neurons",)),
    "psth": RunFigure("Averages over PSTHs", _RATES, draw_psth, ("neurons",)),
    "neurons-r2": RunFigure(
        "R2 of each neuron",
        _NEURONS,
        draw_neurons_r2,
        suits=lambda data: data.rates_BTN is not None,
    ),
    "neurons-bits": RunFigure("Bits per spike of each neuron", _NEURONS, draw_neurons_bits),
    "neurons-heldout": RunFigure(
        "Bits per spike of held-out neurons",
        _NEURONS,
        draw_neurons_heldout,
        suits=lambda data: data.n_heldout > 0,
    ),
    "behavior": RunFigure(
        "Decoded and true behavior",
        "Behavior",
        draw_behavior,
        suits=lambda data: data.behavior_BTV is not None,
    ),
    "trajectories-2d": RunFigure("Trajectories in two dimensions", _STATES, draw_trajectories_2d),
    "trajectories-3d": RunFigure("Trajectories in three dimensions", _STATES, draw_trajectories_3d),
    "attention-maps": RunFigure(
        "Attention between bins", _ATTENTION, draw_attention_maps, of_run=True
    ),
    "attention-lags": RunFigure("Attention by lag", _ATTENTION, draw_attention_lags, of_run=True),
}


def draw(
    run: RunContents, name: str, *, trial: int | None = None, neurons: Sequence[int | str] = ()
) -> CaptionedFigure:
    """Draw one figure of a run, a key of `FIGURES`.

    ``trial`` (default: a typical one) counts trials of the split; ``neurons`` (default: the most
    modulated ones) are names in the recording, or positions in the file.

    Examples
    --------
    >>> drawn = draw(RunContents("runs/first"), "rates", trial=2)
    >>> drawn.caption[:43], drawn.figure.axes[-1].get_xlabel()
    ('Trial 10 (place 2, from 0, of 4 validation ', 'time in trial (ms)')
    """
    _check_name(name, FIGURES, "run")
    given = {"trial": trial, "neurons": neurons or None}
    selected = {key: value for key, value in given.items() if value is not None}
    for key in selected:
        if key not in FIGURES[name].selects:
            possible = ", ".join(other for other in FIGURES if key in FIGURES[other].selects)
            raise SettingsError(
                f"`{key}` does not apply to the figure {name}", f"It applies to: {possible}."
            )
    return FIGURES[name].draw(run if FIGURES[name].of_run else run.evaluation, **selected)


def draw_sweep(sweep: SweepFolder, name: str) -> CaptionedFigure:
    """Draw one figure of a sweep, a key of `SWEEP_FIGURES`."""
    _check_name(name, SWEEP_FIGURES, "sweep")
    _, draw = SWEEP_FIGURES[name]
    return draw(sweep.results(), sweep.space.draws)


def _check_name(name: str, figures: Mapping[str, object], kind: str) -> None:
    if name not in figures:
        close = nearest(name, figures)
        raise SettingsError(
            f"a {kind} has no figure {name!r}" + (f"; did you mean {close}?" if close else ""),
            f"Figures of a {kind}: {', '.join(figures)}.",
        )


def plot(
    path: Path | str,
    figure: str,
    out: Path | str,
    *,
    trial: int | None = None,
    neurons: Sequence[int | str] = (),
    overwrite: bool = False,
    **contents: Any,
) -> dict[Path, CaptionedFigure]:
    """Draw a figure of a run, an ensemble or a sweep, or all that it has, and write files.

    Parameters
    ----------
    path : Path or str
        Folder of the run, ensemble or sweep.
    figure : str
        A key of `FIGURES` or, of a sweep, of `SWEEP_FIGURES`; or ``"all"``.
    out : Path or str
        File to write: ``.png``, ``.svg`` or ``.pdf``. For all figures a folder, of ``rates.png``,
        ``training.png`` and so on, which is made if it is missing.
    trial, neurons
        As in `draw`; of all figures, for those that can be of one trial or a few neurons.
    overwrite : bool
        Replace existing files.
    **contents
        ``split``, ``data``, ``checkpoint``, ``device``, ``recording`` and ``accept_changes`` of
        `RunContents`; ignored for a sweep.

    Returns
    -------
    dict of Path to CaptionedFigure
        What was written. Of all figures, those that these data do not have are left out.

    Raises
    ------
    SettingsError
        If there is no such figure, or the file's suffix is another.
    ExistingFileError
        If a file exists and may not be replaced.
    CheckpointError, DataError, DeviceError, RunError
        If the run has no such figure, or its weights, data or device are not usable.

    Examples
    --------
    >>> [drawn] = plot("runs/first", "neurons-bits", "neurons.pdf").values()
    >>> drawn.caption[:30]
    'Bits per spike over the mean r'
    >>> [file.name for file in plot("runs/first", "all", "figures")][:3]
    ['training.png', 'rates.png', 'heatmaps.png']
    """
    path, out = Path(path), Path(out)
    is_sweep = SweepFolder.is_at(path)
    kinds: Mapping[str, object] = SWEEP_FIGURES if is_sweep else FIGURES
    of_all = figure == "all"
    if of_all and out.suffix.lower() in FIGURE_SUFFIXES:
        hint = f"For example: {out.with_suffix('')}"
        raise SettingsError(f"{out}: all figures are written to a folder, not to one file", hint)
    files = {name: out / f"{name}.png" for name in kinds} if of_all else {figure: out}
    for name, file in files.items():  # before minutes of computing
        _check_name(name, kinds, "sweep" if is_sweep else "run")
        check_suffix(file, FIGURE_SUFFIXES)
        check_may_write(file, overwrite)
    opened = SweepFolder.open(path) if is_sweep else RunContents(path, **contents)
    given: dict[str, Any] = {"trial": trial, "neurons": neurons}
    drawn: dict[Path, CaptionedFigure] = {}
    for name, file in files.items():
        try:
            if isinstance(opened, SweepFolder):
                drawn[file] = draw_sweep(opened, name)
            elif not of_all:
                drawn[file] = draw(opened, name, **given)
            elif FIGURES[name].suits(opened.evaluation.data):
                selected = {key: given[key] for key in FIGURES[name].selects}
                drawn[file] = draw(opened, name, **selected)
            else:
                continue
        except (DataError, RunError):
            if of_all:
                continue
            raise
        save_figure(drawn[file].figure, file, overwrite=overwrite)
    return drawn


def write_run_figures(folder: RunFolder, evaluation: Evaluation) -> list[Path]:
    """Write the figures that every run gets into its folder, replacing earlier ones.

    These are ``rates.png``, ``heatmaps.png``, ``training.png`` and ``neurons.png``: R2 of each
    neuron where true rates are known and vary, else bits per spike.
    """
    figures = {
        "rates.png": draw_rates(evaluation).figure,
        "heatmaps.png": draw_heatmaps(evaluation).figure,
        "training.png": draw_training(RunContents(folder.path)).figure,
    }
    for draw_neurons in (draw_neurons_r2, draw_neurons_bits):
        try:
            figures["neurons.png"] = draw_neurons(evaluation).figure
            break
        except DataError:  # no true rates, or no spikes
            continue
    return [
        save_figure(figure, folder.figures / name, overwrite=True)
        for name, figure in figures.items()
    ]
