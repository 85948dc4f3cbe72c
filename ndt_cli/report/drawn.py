"""A figure together with the words that a reader needs beside it."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from ndt_cli.report.conditions import Group
from ndt_cli.report.run_contents import RunContents

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
