"""Recording what a GPU then repeats as a whole; where that fails, it is said once."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ndt_cli.errors import RunWarning

Record = Callable[[Callable[[], None], Sequence[torch.Generator]], Callable[[], None]]
"""Records what a function does on the device, drawing from these generators, without doing it;
returns what does it."""

_T = TypeVar("_T")


class Recording:
    """What this process may record.

    Attributes
    ----------
    works : bool
        False after a recording failed: CUDA may not recover from it, so none is tried again.
    """

    works = True

    @classmethod
    def attempt(cls, what: str, record: Callable[[], _T]) -> _T | None:
        """Return what ``record`` returns; None where recording has failed, now or before.

        Warns
        -----
        RunWarning
            When it fails now; ``what`` is its subject.
        """
        if not cls.works:
            return None
        try:
            return record()
        except RuntimeError as error:
            cls.works = False
            # The first error; ending the recording is another. Only its text: an error kept by the
            # frame that it came through keeps the step's tensors alive.
            told = str(error.__context__ or error).partition("\n")[0]
            warnings.warn(
                f"{what} cannot be recorded as a CUDA graph here, and launched kernel by kernel it "
                f"is slower: {told}",
                RunWarning,
                stacklevel=3,
            )
            return None
