"""Which members of a sweep make an ensemble, by the validation trials alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.inference import hiding_folds, load_trained
from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import RunError, SettingsError, called
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.results import scores_of_rates
from ndt_cli.settings.tree import Settings


@dataclass(frozen=True)
class EnsembleChoice:
    """The best ``n_members`` of a sweep's ranked members."""

    sweep: Path
    ranked: list[Path]
    n_members: int
    settings: Settings
    choose_by: str
    # Validation score of the mean rates of the best 1, 2, ... members; empty if their number was
    # given.
    curve: list[float]

    @property
    def runs(self) -> list[Path]:
        """Run folders of the chosen members, best first."""
        return self.ranked[: self.n_members]


def choose_members(
    sweep: Path | str, n_members: int | None = None, *, recording: Recording | None = None
) -> EnsembleChoice:
    """Choose the best members of a sweep.

    Parameters
    ----------
    sweep : Path or str
        A sweep's folder; a RunError says if it is none, or no member is ranked yet.
    n_members : int, optional
        How many; a SettingsError says that fewer are ranked. Default: members are added in order
        of rank, and the number whose mean rates score best on the validation trials is kept.
    recording : Recording, optional
        The data of the sweep, if they are in memory already.

    Examples
    --------
    >>> from ndt_cli import save_ensemble
    >>> choice = choose_members("runs/sweep")
    >>> len(choice.curve) == len(choice.ranked) == 2
    True
    >>> save_ensemble(choice.runs, Path("runs/best"), settings=choice.settings).name
    'best'
    """
    folder = SweepFolder.open(Path(sweep))
    results = folder.results()
    ranked = results.ranked
    others = len(results.members) - len(ranked)
    if not ranked:
        hint = f"Resume it: {called('resume_sweep', sweep)}"
        raise RunError(f"{sweep}: no member is ranked yet", hint)
    if n_members is not None and not 1 <= n_members <= len(ranked):
        more = f"; {others} more have diverged or are not trained" if others else ""
        raise SettingsError(
            f"`n_members={n_members}`: {sweep} has {len(ranked)} ranked members{more}",
            f"Ask for at most {len(ranked)}.",
        )
    curve: list[float] = []
    if n_members is None:
        settings, data = folder.settings, (recording or load_recording(folder.settings.data)).valid
        folds_BTN = hiding_folds(data, settings)
        seen_BTN, hidden_BTN = np.zeros(data.spikes_BTN.shape), np.zeros(data.spikes_BTN.shape)
        for n, member in enumerate(ranked, start=1):
            trained = load_trained(member.folder, device=settings.train.device)
            # Running means: the rates of all members need not be in memory together.
            seen_BTN += (trained.rates(data) - seen_BTN) / n
            hidden_BTN += (trained.rates_while_hidden(data, folds_BTN) - hidden_BTN) / n
            curve.append(scores_of_rates(data, seen_BTN, hidden_BTN)[settings.train.choose_by])
        best = np.argmin if MEASURES[results.choose_by].lower_is_better else np.argmax
        n_members = int(best(curve)) + 1
    runs = [member.folder for member in ranked]
    return EnsembleChoice(Path(sweep), runs, n_members, folder.settings, results.choose_by, curve)
