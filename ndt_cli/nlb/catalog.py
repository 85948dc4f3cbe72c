"""The seven data sets of the Neural Latents Benchmark '21, as published.

Numbers are those of the released files and of Pei et al. 2021, arXiv 2109.04463. Names, sizes and
digests of the files are in ``files.json``, as the DANDI archive records them.
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
"""How far past the window rates are predicted, in ms."""

Phase = Literal["val", "test"]
"""Which trials are scored: those of the validation split, or those whose labels were hidden."""

Behavior = Literal["hand velocity", "finger velocity", "produced interval"]


@dataclass(frozen=True)
class PublicFile:
    """A file as it was published.

    Attributes
    ----------
    path : str
        Where it lies, relative to its data set's folder.
    n_bytes : int
        Size.
    sha256 : str
        Digest, in hexadecimal.
    urls : tuple of str
        Addresses of the same bytes, to be tried in this order.
    """

    path: str
    n_bytes: int
    sha256: str
    urls: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class NlbDataset:
    """A data set of the benchmark.

    Attributes
    ----------
    name : str
        As nlb_tools and the submission spell it.
    dandiset, version : str
        Number and version in the DANDI archive.
    subject : str
        The monkey; its files lie in the folder ``sub-<subject>``.
    train_file, test_file : PublicFile
        The two NWB files. The train file has the validation trials too.
    align_field : str
        Time in the trial table that the window is relative to.
    window_ms : tuple of int
        Start and end of the scored window, in ms from the align time. dmfc_rsg: train and
        validation windows are moved by up to 300 ms, always with the same seed.
    lag_ms : int
        How much later than the spikes the behavior is taken, in ms.
    behavior : str
        What is decoded from the rates.
    behavior_series : str or None
        Name of the time series that holds it; None where the trial table does.
    metrics : tuple of str
        As nlb_tools' ``evaluate`` spells them.
    n_heldin, n_heldout : int
        Neurons.
    n_train, n_val, n_test : int
        Trials of the public files.
    """

    name: str
    dandiset: str
    version: str
    subject: str
    train_file: PublicFile
    test_file: PublicFile
    align_field: str
    window_ms: tuple[int, int]
    lag_ms: int
    behavior: Behavior
    behavior_series: str | None
    metrics: tuple[str, ...]
    n_heldin: int
    n_heldout: int
    n_train: int
    n_val: int
    n_test: int

    @property
    def subject_folder(self) -> str:
        return f"sub-{self.subject}"

    @property
    def files(self) -> tuple[PublicFile, PublicFile]:
        return self.train_file, self.test_file

    def n_bins(self, bin_ms: int) -> int:
        """Return the number of bins in the scored window."""
        start_ms, end_ms = self.window_ms
        return (end_ms - start_ms) // bin_ms


_VELOCITY = ("co-bps", "vel R2", "psth R2", "fp-bps")
_MAZE = {
    "align_field": "move_onset_time",
    "window_ms": (-250, 450),
    "behavior": "hand velocity",
    "behavior_series": "hand_vel",
    "metrics": _VELOCITY,
}
_SCALING = {**_MAZE, "lag_ms": 120}
_RTT = {
    "align_field": "start_time",
    "window_ms": (0, 600),
    "lag_ms": 140,
    "behavior": "finger velocity",
    "behavior_series": "finger_vel",
    "metrics": ("co-bps", "vel R2", "fp-bps"),  # no conditions, so no PSTHs
}
_BUMP = {
    "align_field": "move_onset_time",
    "window_ms": (-100, 500),
    "lag_ms": -20,
    "behavior": "hand velocity",
    "behavior_series": "hand_vel",
    "metrics": _VELOCITY,
}
_RSG = {
    "align_field": "go_time",
    "window_ms": (-1500, 0),
    "lag_ms": 0,
    "behavior": "produced interval",
    "behavior_series": None,
    "metrics": ("co-bps", "tp corr", "psth R2", "fp-bps"),
}
# Trials: train, val, test; neurons: held-in, held-out.
_FACTS: dict[str, tuple[dict[str, Any], tuple[int, int, int, int, int]]] = {
    "mc_maze": ({**_MAZE, "lag_ms": 100}, (1721, 574, 574, 137, 45)),
    "mc_rtt": (_RTT, (810, 270, 272, 98, 32)),
    "area2_bump": (_BUMP, (272, 92, 92, 49, 16)),
    "dmfc_rsg": (_RSG, (748, 258, 283, 40, 14)),
    "mc_maze_large": (_SCALING, (375, 125, 100, 122, 40)),
    "mc_maze_medium": (_SCALING, (188, 62, 100, 114, 38)),
    "mc_maze_small": (_SCALING, (75, 25, 100, 107, 35)),
}


def _public_file(record: dict[str, Any]) -> PublicFile:
    return PublicFile(record["path"], record["bytes"], record["sha256"], tuple(record["urls"]))


def _read_catalog() -> tuple[dict[str, NlbDataset], PublicFile]:
    text = resources.files(__package__).joinpath("files.json").read_text(encoding="utf-8")
    records = json.loads(text)
    datasets = {}
    for name, (facts, counts) in _FACTS.items():
        record = records["datasets"][name]
        train_file, test_file = (_public_file(record[f"{part}_file"]) for part in ("train", "test"))
        n_train, n_val, n_test, n_heldin, n_heldout = counts
        datasets[name] = NlbDataset(
            name=name,
            dandiset=record["dandiset"],
            version=record["version"],
            subject=train_file.path.partition("/")[0].removeprefix("sub-"),
            train_file=train_file,
            test_file=test_file,
            n_train=n_train,
            n_val=n_val,
            n_test=n_test,
            n_heldin=n_heldin,
            n_heldout=n_heldout,
            **facts,
        )
    return datasets, _public_file(records["test_labels"])


DATASETS, TEST_LABELS = _read_catalog()
"""The data sets by name, and the file of the test phase's labels, public since January 2026."""


def find_dataset(name: str) -> NlbDataset:
    """Return the data set of this name.

    Raises
    ------
    SettingsError
        When there is none; the message has the nearest name.

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
        f"There is no benchmark data set {name!r}",
        hint=f"Did you mean {like}?" if like else f"There are {', '.join(DATASETS)}.",
    )


def submission_key(name: str, bin_ms: int) -> str:
    """Return the name of the data set's group in a submission: ``mc_maze``, or ``mc_maze_20``.

    Raises
    ------
    SettingsError
        When the benchmark has no such data set or bin width.
    """
    find_dataset(name)
    if bin_ms not in BINS_MS:
        raise SettingsError(f"The benchmark has bins of 5 and 20 ms, not {bin_ms}")
    return name if bin_ms == 5 else f"{name}_{bin_ms}"


# ------------------------------------------------------------------------------------------------
# The groups and arrays of a submission file.
# ------------------------------------------------------------------------------------------------


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


class SubmissionGroup(NamedTuple):
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
    def other_width(self) -> "SubmissionGroup":
        """The same dataset at the other bin width."""
        (other_ms,) = set(BINS_MS) - {self.bin_ms}
        return SubmissionGroup(self.dataset, other_ms)


GROUPS = {
    submission_key(name, bin_ms): SubmissionGroup(dataset, bin_ms)
    for name, dataset in DATASETS.items()
    for bin_ms in BINS_MS
}
"""Every group that the benchmark scores, by name."""


def nearest_group(name: str) -> SubmissionGroup | None:
    """Return the group that a misspelled name most likely means."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    close = nearest(plain, GROUPS)
    return GROUPS[close] if close else None


# ------------------------------------------------------------------------------------------------
# Settings for a benchmark data set at one bin width.
# ------------------------------------------------------------------------------------------------


# The best here by measurement, on files of every set: see "Benchmark part" in the README. The
# presets named after the sets are the paper's, for many hours on a GPU.
DEFAULT_CONFIG = "nlb-quick"


def dataset_settings(
    name: str, bin_ms: int, config: str | None, overrides: Sequence[str]
) -> Settings:
    """Return the settings for a data set; those of `DEFAULT_CONFIG` without a config.

    A config counts its context window in bins of its ``data.file_bin_ms`` (5 in the presets). For
    other bins the window is scaled, so that it stays the same in time; an override still wins.

    Raises
    ------
    SettingsError
        When there is no such data set, or the config will not do.
    """
    find_dataset(name)
    source = config or DEFAULT_CONFIG
    base = load_settings(source)
    scale = (base.data.file_bin_ms or bin_ms) / bin_ms
    windows = {
        "context_back": base.model.context_back,
        "context_forward": base.model.context_forward,
    }
    scaled = [
        f"model.{field}={max(1, round(bins * scale))}"
        for field, bins in windows.items()
        if bins > 0 and scale != 1
    ]
    return load_settings(source, [*scaled, "train.choose_by=co-bps", *overrides])


# ------------------------------------------------------------------------------------------------
# How long work reports what it does, so that a command or a notebook can show it.
# ------------------------------------------------------------------------------------------------


Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it is done, and how much there is."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""
