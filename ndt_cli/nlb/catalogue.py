"""The seven data sets of the Neural Latents Benchmark '21, as published.

Numbers are those of the released files and of Pei et al. 2021, arXiv 2109.04463. Names, sizes and
digests of the files are in ``files.json``, as the DANDI archive records them.
"""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from ndt_cli.errors import SettingsError, nearest

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
        How much later than the spikes the behaviour is taken, in ms.
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


def _read_catalogue() -> tuple[dict[str, NlbDataset], PublicFile]:
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


DATASETS, TEST_LABELS = _read_catalogue()
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
