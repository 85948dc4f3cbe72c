"""The seven datasets of the Neural Latents Benchmark '21, and the layout of a submission.

Numbers are from the released files and Pei et al. 2021, arXiv 2109.04463. ``files.json`` has the
names, sizes and digests of the files from the DANDI archive.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple

from ndt_cli.errors import SettingsError, nearest
from ndt_cli.settings.load import load_settings
from ndt_cli.settings.tree import Settings

BINS_MS = (5, 20)
"""Bin widths of the benchmark's two tracks, in ms."""

FORWARD_MS = 200
"""Length of the forward prediction after the window, in ms."""

Phase = Literal["val", "test"]
"""Which trials are scored: the validation split, or the test split."""


@dataclass(frozen=True)
class PublicFile:
    """A published file: path in its dandiset, size, digest, and addresses to try in order."""

    path: str
    n_bytes: int
    sha256: str
    urls: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class NlbDataset:
    """A dataset of the benchmark: its files, window and sizes."""

    name: str  # in nlb_tools and in a submission
    dandiset: str
    train_file: PublicFile  # with the validation trials
    test_file: PublicFile
    align_field: str  # column of the trial table with the time that the window is relative to
    # In dmfc_rsg, train and validation windows are jittered by up to 300 ms with a fixed seed.
    window_ms: tuple[int, int]
    behavior_series: str | None  # None: the behavior is in the trial table
    n_train: int
    n_val: int
    n_test: int
    n_heldin: int
    n_heldout: int

    @property
    def files(self) -> tuple[PublicFile, PublicFile]:
        return self.train_file, self.test_file

    def n_bins(self, bin_ms: int) -> int:
        """Return the number of bins in the scored window."""
        start_ms, end_ms = self.window_ms
        return (end_ms - start_ms) // bin_ms


_MAZE = ("move_onset_time", (-250, 450), "hand_vel")
# The fields of NlbDataset from `align_field` on.
_FACTS: dict[str, tuple[Any, ...]] = {
    "mc_maze": (*_MAZE, 1721, 574, 574, 137, 45),
    "mc_rtt": ("start_time", (0, 600), "finger_vel", 810, 270, 272, 98, 32),
    "area2_bump": ("move_onset_time", (-100, 500), "hand_vel", 272, 92, 92, 49, 16),
    "dmfc_rsg": ("go_time", (-1500, 0), None, 748, 258, 283, 40, 14),
    "mc_maze_large": (*_MAZE, 375, 125, 100, 122, 40),
    "mc_maze_medium": (*_MAZE, 188, 62, 100, 114, 38),
    "mc_maze_small": (*_MAZE, 75, 25, 100, 107, 35),
}


def _public_file(record: dict[str, Any]) -> PublicFile:
    return PublicFile(record["path"], record["bytes"], record["sha256"], tuple(record["urls"]))


def _read_catalog() -> tuple[dict[str, NlbDataset], PublicFile]:
    text = resources.files(__package__).joinpath("files.json").read_text(encoding="utf-8")
    records = json.loads(text)
    datasets = {}
    for name, facts in _FACTS.items():
        record = records["datasets"][name]
        train, test = (_public_file(record[f"{part}_file"]) for part in ("train", "test"))
        datasets[name] = NlbDataset(name, record["dandiset"], train, test, *facts)
    return datasets, _public_file(records["test_labels"])


DATASETS, TEST_LABELS = _read_catalog()
"""The datasets by name, and the file of test labels, public since January 2026."""


def find_dataset(name: str) -> NlbDataset:
    """Return the dataset of this name.

    Examples
    --------
    >>> dataset = find_dataset("mc_maze_small")
    >>> dataset.dandiset, dataset.train_file.name
    ('000140', 'sub-Jenkins_ses-small_desc-train_behavior+ecephys.nwb')
    """
    if name in DATASETS:
        return DATASETS[name]
    like = nearest(name.lower().replace("-", "_"), DATASETS)
    raise SettingsError(
        f"There is no benchmark dataset {name!r}",
        hint=f"Did you mean {like}?" if like else f"There are {', '.join(DATASETS)}.",
    )


def submission_key(name: str, bin_ms: int) -> str:
    """Return the dataset's group in a submission: ``mc_maze``, or ``mc_maze_20`` for 20 ms."""
    find_dataset(name)
    if bin_ms not in BINS_MS:
        raise SettingsError(f"The benchmark has bins of 5 and 20 ms, not {bin_ms} (`bin_ms`)")
    return name if bin_ms == 5 else f"{name}_{bin_ms}"


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
"""The arrays of a group, and their axes."""

RATE_KEYS = tuple(AXES)
FORWARD_KEYS = tuple(key for key in AXES if key.endswith("_forward"))

SCORED_KEYS = ("eval_rates_heldout", *FORWARD_KEYS)
"""The arrays scored by the likelihood of spikes."""


class SubmissionGroup(NamedTuple):
    """A dataset at a bin width."""

    dataset: NlbDataset
    bin_ms: int

    @property
    def name(self) -> str:
        """Name of the group: ``mc_maze``, ``mc_maze_20``."""
        return submission_key(self.dataset.name, self.bin_ms)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of window bins and forward bins."""
        return {
            WINDOW_BINS: self.dataset.n_bins(self.bin_ms),
            FORWARD_BINS: FORWARD_MS // self.bin_ms,
        }

    @property
    def other_width(self) -> "SubmissionGroup":
        """The same dataset at the other bin width."""
        (other_ms,) = set(BINS_MS) - {self.bin_ms}
        return SubmissionGroup(self.dataset, other_ms)


GROUPS = {
    submission_key(name, bin_ms): SubmissionGroup(dataset, bin_ms)
    for name, dataset in DATASETS.items()
    for bin_ms in BINS_MS
}
"""All groups of the benchmark, by name."""


def nearest_group(name: str) -> SubmissionGroup | None:
    """Return the group that a misspelled name most likely means."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    close = nearest(plain, GROUPS)
    return GROUPS[close] if close else None


# The best preset in our measurements (README.md in this folder). The presets named after the
# datasets are the paper's, for many hours on a GPU.
DEFAULT_CONFIG = "nlb-quick"


def dataset_settings(
    name: str, bin_ms: int, config: str | None, overrides: Sequence[str]
) -> Settings:
    """Return the settings for a dataset; default: `DEFAULT_CONFIG`.

    A config gives its context window in bins of its ``data.file_bin_ms`` (5 in the presets). For
    another bin width the window is scaled to the same duration; overrides take precedence.
    """
    find_dataset(name)
    source = config or DEFAULT_CONFIG
    base = load_settings(source)
    scale = (base.data.file_bin_ms or bin_ms) / bin_ms
    scaled = [
        f"model.{field}={max(1, round(bins * scale))}"
        for field in ("context_back", "context_forward")
        if (bins := getattr(base.model, field)) > 0 and scale != 1
    ]
    return load_settings(source, [*scaled, "train.choose_by=co-bps", *overrides])


Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""

StopRequest = Callable[[], bool]
"""Returns True once the caller wants to stop."""


class Interrupted(Exception):  # noqa: N818  (a request, not an error)
    """The caller asked to stop; the run folders keep what was trained so far."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def stop_if_asked(should_stop: StopRequest) -> None:
    """Raise `Interrupted` if ``should_stop()`` is true."""
    if should_stop():
        raise Interrupted
