"""The groups and arrays of a submission file."""

import re
from typing import NamedTuple

from ndt_cli.errors import nearest
from ndt_cli.nlb.catalogue import BINS_MS, DATASETS, FORWARD_MS, NlbDataset, submission_key

TRAIN_TRIALS, EVAL_TRIALS = "train trials", "eval trials"
WINDOW_BINS, FORWARD_BINS = "bins", "forward bins"
HELDIN, HELDOUT = "held-in neurons", "held-out neurons"

AXES = {
    "train_rates_heldin": (TRAIN_TRIALS, WINDOW_BINS, HELDIN),
    "train_rates_heldout": (TRAIN_TRIALS, WINDOW_BINS, HELDOUT),
    "eval_rates_heldin": (EVAL_TRIALS, WINDOW_BINS, HELDIN),
    "eval_rates_heldout": (EVAL_TRIALS, WINDOW_BINS, HELDOUT),
    "eval_rates_heldin_forward": (EVAL_TRIALS, FORWARD_BINS, HELDIN),
    "eval_rates_heldout_forward": (EVAL_TRIALS, FORWARD_BINS, HELDOUT),
}
"""The arrays of a group, and what each of their axes counts."""

RATE_KEYS = tuple(AXES)
FORWARD_KEYS = tuple(key for key in AXES if key.endswith("_forward"))

SCORED_KEYS = ("eval_rates_heldout", *FORWARD_KEYS)
"""The arrays that are scored by the likelihood of spikes."""


class Group(NamedTuple):
    """A dataset at a bin width."""

    dataset: NlbDataset
    bin_ms: int

    @property
    def name(self) -> str:
        """Name of the group in a file: ``mc_maze``, ``mc_maze_20``."""
        return submission_key(self.dataset.name, self.bin_ms)

    @property
    def sizes(self) -> dict[str, int]:
        """Bins of the window, and forward bins."""
        return {
            WINDOW_BINS: self.dataset.n_bins(self.bin_ms),
            FORWARD_BINS: FORWARD_MS // self.bin_ms,
        }

    @property
    def other_width(self) -> "Group":
        """The same dataset at the other bin width."""
        (other_ms,) = set(BINS_MS) - {self.bin_ms}
        return Group(self.dataset, other_ms)


GROUPS = {
    submission_key(name, bin_ms): Group(dataset, bin_ms)
    for name, dataset in DATASETS.items()
    for bin_ms in BINS_MS
}
"""Every group that the benchmark scores, by name."""


def nearest_group(name: str) -> Group | None:
    """Return the group that a misspelt name most likely means."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    close = nearest(plain, GROUPS)
    return GROUPS[close] if close else None
