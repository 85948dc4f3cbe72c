"""Models trained before, for a submission: runs that are named, ensembles, the best of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checks import check_same_data
from ndt_cli.engine.ensemble import Ensemble
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError
from ndt_cli.nlb.recordings import to_recording
from ndt_cli.nlb.tensors import NlbTensors
from ndt_cli.search.choose import choose_members
from ndt_cli.search.folder import SweepFolder


@dataclass(frozen=True)
class SweepChoice:
    """How members of a sweep were chosen.

    Attributes
    ----------
    sweep : Path
        The sweep's folder.
    choose_by : str
        The measure that ranks, as ``train.choose_by``; always of the validation trials.
    n_members, n_ranked : int
        Members that were chosen, and how many there are to choose from.
    curve : list of float
        Validation score of the mean rates of the best 1, 2, ... members; empty when their number
        was given.
    """

    sweep: Path
    choose_by: str
    n_members: int
    n_ranked: int
    curve: list[float]


def check_trained_on(runs: Sequence[Path], tensors: NlbTensors) -> None:
    """Refuse runs that were not trained on a data set's trials of the validation phase.

    Parameters
    ----------
    runs : sequence of Path
        Run folders.
    tensors : NlbTensors
        Of the validation phase.

    Raises
    ------
    RunError
        When there is no such run, or its train or validation trials were others: in number, bins,
        neurons, bin width or counts.
    """
    _check_trials(runs, to_recording(tensors), tensors)


def with_members(paths: Sequence[Path]) -> list[Path]:
    """Return run folders, with an ensemble's members in place of the ensemble.

    Raises
    ------
    RunError, CheckpointError
        When one is not there, or an ensemble is damaged.
    """
    runs: list[Path] = []
    for path in paths:
        # A member's folder is a run with the one checkpoint that the ensemble uses.
        if Ensemble.is_at(path):
            runs += [member.run.path for member in Ensemble.load(path, device="cpu").members]
        else:
            runs.append(RunFolder.open(path).path)
    return runs


def best_of_sweep(
    sweep: Path, n_members: int | None, tensors: NlbTensors
) -> tuple[list[Path], SweepChoice]:
    """Choose the best members of a sweep over a data set's trials of the validation phase.

    Parameters
    ----------
    sweep : Path
        A sweep's folder. Its data file need not be there any more.
    n_members : int, optional
        How many. Default: as many as score best together on the validation trials.
    tensors : NlbTensors
        Of the validation phase.

    Returns
    -------
    list of Path
        Their run folders, best first.
    SweepChoice

    Raises
    ------
    RunError
        When it is no sweep, none of its members is ranked yet, or they were trained on other
        trials.
    SettingsError
        When more members are asked for than are ranked.
    """
    recording = to_recording(tensors)
    ranked = [member.folder for member in SweepFolder.open(sweep).results().ranked]
    _check_trials(ranked, recording, tensors)
    choice = choose_members(sweep, n_members, recording=recording)
    about = SweepChoice(sweep, choice.choose_by, choice.n_members, len(ranked), choice.curve)
    return choice.runs, about


def _check_trials(runs: Sequence[Path], recording: Recording, tensors: NlbTensors) -> None:
    for run in runs:
        folder = RunFolder.open(run)
        # First, since what to do about a damaged run is another thing.
        folder.facts()
        try:
            check_same_data(folder, recording)
        except RunError as error:
            raise RunError(
                error.message,
                "it must be trained on the file that this writes: ndt nlb-data "
                f"{tensors.dataset.name} --bin-ms {tensors.bin_ms} --spikes FILE",
            ) from error
