"""Small NWB files with the layout of two of the benchmark's data sets, for tests.

Files of a folder are those of one recording: the train file has train and validation trials, the
test file the held-in spikes of the test trials' windows only, one window after the other.
"""

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from pynwb import NWBHDF5IO, NWBFile, TimeSeries

from ndt_cli.nlb.catalog import DATASETS, NlbDataset

TRIAL_MS = 2700  # one trial follows the other, with GAP_MS between
GAP_MS = 100
# Align times from the start of the trial. Bins lie on a grid from the start of the recording:
# windows must begin on it.
MOVE_ONSET_MS = 1690
GO_MS = 1700


@dataclass(frozen=True)
class Written:
    """What was written: spikes and align times are those of the whole recording."""

    dataset: NlbDataset
    root: Path
    train: Path
    test: Path
    spikes_s: list[np.ndarray]
    is_heldout: np.ndarray
    splits: np.ndarray
    align_ms: np.ndarray

    def counts(self, split, first_ms, last_ms, bin_ms, heldout, moved_ms=0.0):
        """Spikes of a split's trials, counted from the spike times: trials x bins x neurons."""
        units = np.flatnonzero(self.is_heldout == heldout)
        trials = []
        for at_ms in self.align_ms[np.isin(self.splits, split)] + moved_ms:
            edges_s = (at_ms + np.arange(first_ms, last_ms + bin_ms, bin_ms)) / 1000
            counts_NT = [np.histogram(self.spikes_s[unit], edges_s)[0] for unit in units]
            trials.append(np.transpose(counts_NT))
        return np.stack(trials)


def write_maze(root, *, behavior=True, no_eye_in=None, **sizes):
    """Write mc_maze_small; in train trial `no_eye_in` the eye was not tracked."""
    dataset = DATASETS["mc_maze_small"]
    splits, rng = _splits(**sizes)
    rows = [
        {
            "move_onset_time": MOVE_ONSET_MS,
            "trial_type": k % 2,
            "trial_version": 0,
        }
        for k in range(len(splits))
    ]
    if no_eye_in is not None:
        no_eye_in = int(np.flatnonzero(splits == "train")[no_eye_in])
    series = {}
    if behavior:
        # A straight line in time, which no filter changes.
        line = np.arange(len(splits) * (TRIAL_MS + GAP_MS)) / 1000
        series = {"hand_vel": np.c_[line, -line], "eye_pos": np.c_[line, line]}
    return _write(root, dataset, splits, rows, series, no_eye_in, rng)


def write_rsg(root, **sizes):
    """Write dmfc_rsg: no time series, and train windows that nlb_tools moves."""
    dataset = DATASETS["dmfc_rsg"]
    splits, rng = _splits(**sizes)
    rows = [
        {
            "go_time": GO_MS,
            "set_time": GO_MS - 1200 - 20 * (k % 3),
            "is_eye": k % 2 == 0,
            "theta": 0.0,
            "is_short": True,
            "ts": 800.0,
            "tp": 1200.0 + 20 * (k % 3),
            "is_outlier": False,
        }
        for k in range(len(splits))
    ]
    return _write(root, dataset, splits, rows, {}, None, rng)


def _splits(n_train=6, n_val=4, n_test=3, seed=0):
    rng = np.random.default_rng(seed)
    names = ["train"] * n_train + ["val"] * n_val + ["test"] * n_test
    return rng.permutation(names), rng


def _write(root, dataset, splits, rows, series, no_eye_in, rng, n_heldin=4, n_heldout=2):
    root = Path(root)
    starts_ms = np.arange(len(splits)) * (TRIAL_MS + GAP_MS)
    n_ms = len(splits) * (TRIAL_MS + GAP_MS)
    seen = np.zeros(n_ms, dtype=bool)
    for start in starts_ms:
        seen[start : start + TRIAL_MS] = True
    is_heldout = np.arange(n_heldin + n_heldout) % 3 == 2
    spikes_s = []
    for _ in is_heldout:
        at_ms = np.flatnonzero((rng.random(n_ms) < 0.02) & seen)
        spikes_s.append((at_ms + 0.5) / 1000)
    for row, start, split in zip(rows, starts_ms, splits, strict=True):
        row |= {"start_time": start, "stop_time": start + TRIAL_MS, "split": str(split)}
        for name in ("move_onset_time", "go_time", "set_time"):
            if name in row:
                row[name] += start
    folder = root / dataset.dandiset
    written = Written(
        dataset,
        root,
        folder / dataset.train_file.path,
        folder / dataset.test_file.path,
        spikes_s,
        is_heldout,
        splits,
        np.array([row.get(dataset.align_field) for row in rows]),
    )
    _write_train(written, rows, seen, series, no_eye_in, starts_ms)
    _write_test(written)
    return written


def _write_train(written, rows, seen, series, no_eye_in, starts_ms):
    seen = seen.copy()
    for start in starts_ms[written.splits == "test"]:
        seen[start : start + TRIAL_MS] = False
    nwb = _new_file(written.dataset)
    _add_trials(nwb, [row for row in rows if row["split"] != "test"])
    edges = np.flatnonzero(np.diff(np.r_[0, seen.astype(int), 0])).reshape(-1, 2) / 1000
    for unit, (spikes_s, heldout) in enumerate(
        zip(written.spikes_s, written.is_heldout, strict=True)
    ):
        kept = spikes_s[seen[np.floor(spikes_s * 1000).astype(int)]]
        nwb.add_unit(id=10 * unit + 1, spike_times=kept, obs_intervals=edges, heldout=bool(heldout))
    if series:
        module = nwb.create_processing_module("behavior", "behavior")
    for name, values in series.items():
        at = seen.copy()
        if name == "eye_pos" and no_eye_in is not None:
            at[starts_ms[no_eye_in] : starts_ms[no_eye_in] + TRIAL_MS] = False
        module.add(
            TimeSeries(
                name=name,
                data=values[at],
                unit="mm",
                timestamps=np.flatnonzero(at) / 1000,
                comments="columns=[x,y]",
            )
        )
    _save(nwb, written.train)


def _write_test(written):
    start_ms, end_ms = written.dataset.window_ms
    step_ms = end_ms - start_ms + GAP_MS
    align_ms = written.align_ms[written.splits == "test"]
    nwb = _new_file(written.dataset)
    rows = [
        {
            "start_time": i * step_ms,
            "stop_time": (i + 1) * step_ms - GAP_MS,
            written.dataset.align_field: i * step_ms - start_ms,
            "split": "test",
        }
        for i in range(len(align_ms))
    ]
    _add_trials(nwb, rows)
    observed = np.array([[row["start_time"], row["stop_time"]] for row in rows]) / 1000
    for unit in np.flatnonzero(~written.is_heldout):
        spikes_ms = written.spikes_s[unit] * 1000
        kept = []
        for i, at in enumerate(align_ms):
            inside = (spikes_ms >= at + start_ms) & (spikes_ms < at + end_ms)
            kept.append(spikes_ms[inside] - (at + start_ms) + i * step_ms)
        nwb.add_unit(
            id=10 * int(unit) + 1,
            spike_times=np.concatenate(kept) / 1000,
            obs_intervals=observed,
            heldout=False,
        )
    _save(nwb, written.test)


def _new_file(dataset):
    nwb = NWBFile("written for a test", dataset.name, datetime(2021, 9, 1, tzinfo=timezone.utc))
    nwb.add_unit_column("heldout", "held out in the benchmark")
    return nwb


def _add_trials(nwb, rows):
    for name in rows[0]:
        if name not in ("start_time", "stop_time"):
            nwb.add_trial_column(name, name)
    for row in rows:
        nwb.add_trial(**{k: v / 1000 if k.endswith("_time") else v for k, v in row.items()})


def _save(nwb, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
