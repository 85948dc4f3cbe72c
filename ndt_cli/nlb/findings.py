"""What a check of a submission says."""

from dataclasses import dataclass
from typing import Literal

from ndt_cli.nlb.groups import RATE_KEYS

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found in a submission file.

    Parameters
    ----------
    severity : {"error", "warning", "note"}
        error: the file cannot be scored, or its score would be wrong.
    group : str
        Group of the file, such as ``mc_maze_20``; empty when it is about the whole file.
    key : str
        Array of the group, or several with commas; empty when it is about the whole group.
    message : str
        What was found, and what was expected.
    hint : str, optional
        How to mend it.
    """

    severity: Severity
    group: str
    key: str
    message: str
    hint: str | None = None

    @property
    def place(self) -> str:
        """Group and key, as a path in the file."""
        if self.key == ", ".join(RATE_KEYS):
            return f"{self.group}, all arrays"
        return f"{self.group}/{self.key}" if self.key else self.group

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message
