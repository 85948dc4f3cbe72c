"""What was taken, left out and assumed on the way from a file to trials."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dropped:
    """Something that was left out.

    Attributes
    ----------
    what : str
        ``"trials"``, ``"units"`` or ``"spikes"``.
    n, n_all : int
        How many, of how many.
    why : str
        The reason, as the end of a sentence.
    """

    what: str
    n: int
    n_all: int
    why: str


@dataclass
class Journal:
    """Kept while a file is converted; shown to the user in the end.

    Attributes
    ----------
    taken : dict of str to str
        Which name of the file served as what.
    dropped : list of Dropped
    notes : list of str
        Assumptions, one sentence each.
    """

    taken: dict[str, str] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def took(self, what: str, name: str) -> None:
        self.taken[what] = name

    def note(self, text: str) -> None:
        self.notes.append(text)

    def drop(self, what: str, n: int, n_all: int, why: str) -> None:
        if n:
            self.dropped.append(Dropped(what, n, n_all, why))

    def keep(self, what: str, kept: NDArray[np.bool_], among: NDArray[np.bool_], why: str) -> None:
        """Leave out of ``among`` what is not ``kept``; ``among`` is changed."""
        n_all = int(among.sum())
        among &= kept
        self.drop(what, n_all - int(among.sum()), n_all, why)

    def reasons(self) -> str:
        """Everything that was left out, for the error that nothing is left."""
        return "; ".join(f"{d.n} of {d.n_all} {d.what} {d.why}" for d in self.dropped)
