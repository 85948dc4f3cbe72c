"""One small session, written in every format that `ndt convert` reads."""

import csv
from dataclasses import dataclass

import h5py
import numpy as np
import scipy.io


@dataclass(frozen=True)
class Session:
    """Spike times of three units, eight trials of unequal length and a trace of the hand."""

    times_s: list
    quality: list
    start: np.ndarray
    stop: np.ndarray
    go: np.ndarray
    success: np.ndarray
    side: list
    hand_t: np.ndarray
    hand: np.ndarray

    @property
    def trials(self):
        return {
            "start_time": self.start,
            "stop_time": self.stop,
            "go": self.go,
            "success": self.success,
            "side": np.array(self.side),
        }


def session(seed=0):
    rng = np.random.default_rng(seed)
    start = 10.0 + 2.0 * np.arange(8)
    stop = start + np.array([1.0, 1.2, 1.0, 0.8, 1.0, 1.5, 1.0, 1.0])
    times_s = [np.sort(np.round(rng.uniform(9.5, 26.5, n), 3)) for n in (120, 200, 80)]
    hand_t = np.arange(9000, 27000, 5) / 1000
    return Session(
        times_s=times_s,
        quality=["good", "mua", "good"],
        start=start,
        stop=stop,
        go=start + 0.3,
        success=np.array([1, 1, 0, 1, 1, 1, 0, 1]),
        side=["left", "right"] * 4,
        hand_t=hand_t,
        hand=np.stack([hand_t, -hand_t], axis=1),
    )


def flat(made):
    """Times of all spikes in one array, and the unit of each, in order of time."""
    times = np.concatenate(made.times_s)
    units = np.repeat([0, 1, 2], [len(t) for t in made.times_s])
    order = np.argsort(times, kind="stable")
    return times[order], units[order]


def write_npz(path, made):
    times, units = flat(made)
    np.savez(
        path,
        spike_times=times,
        spike_units=units,
        quality=made.quality,
        hand=made.hand,
        hand_t=made.hand_t,
        **made.trials,
    )
    return path


def write_csv(path, made):
    """Write the spikes, and a table of trials beside them: ``trials.csv``."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["neuron", "time"])
        writer.writerows([int(u), repr(float(t))] for t, u in zip(*flat(made), strict=True))
    with path.with_name("trials.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(made.trials)
        writer.writerows(zip(*(column.tolist() for column in made.trials.values()), strict=True))
    return path


def write_hdf5(path, made):
    with h5py.File(path, "w") as file:
        lists = file.create_dataset("units/spike_times", 3, h5py.vlen_dtype(np.float64))
        for unit, times in enumerate(made.times_s):
            lists[unit] = times
        file["units/quality"] = made.quality
        for name, column in made.trials.items():
            file[f"trials/{name}"] = column.astype("S") if column.dtype.kind == "U" else column
    return path


def write_mat5(path, made):
    """Write an array of structs for the units, a struct of columns for the trials."""
    units = np.zeros((1, 3), dtype=[("spike_times", "O"), ("quality", "O")])
    for i, (times, quality) in enumerate(zip(made.times_s, made.quality, strict=True)):
        units[0, i] = (times[:, None], quality)
    trials = {
        name: np.array(column.tolist(), dtype=object) if column.dtype.kind == "U" else column
        for name, column in made.trials.items()
    }
    scipy.io.savemat(path, {"units": units, "trials": trials})
    return path


def write_mat73(path, made):
    """Write what MATLAB's ``save -v7.3`` writes: reversed axes, references, text as numbers."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")
        units, trials = file.create_group("units"), file.create_group("trials")
        for group in (units, trials):
            group.attrs["MATLAB_class"] = np.bytes_("struct")
        parts = {
            "spike_times": [mat_number(refs, t[:, None]) for t in made.times_s],
            "quality": [mat_char(refs, word) for word in made.quality],
        }
        for name, items in parts.items():  # an array of structs: no class at its fields
            units[name] = references(items)
        for name, column in made.trials.items():
            if column.dtype.kind == "U":
                cell = references([mat_char(refs, word) for word in column])
                trials[name] = cell
                trials[name].attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                mat_number(trials, column[:, None], name)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, written for a test".ljust(124))
    return path


def mat_number(group, values, name=None):
    dataset = group.create_dataset(name or f"n{len(group)}", data=np.asarray(values, float).T)
    dataset.attrs["MATLAB_class"] = np.bytes_("double")
    return dataset


def mat_char(group, word):
    codes = np.frombuffer(word.encode("utf-16-le"), np.uint16)
    dataset = group.create_dataset(f"n{len(group)}", data=codes[:, None])
    dataset.attrs["MATLAB_class"] = np.bytes_("char")
    return dataset


def references(items):
    cell = np.empty((len(items), 1), dtype=h5py.ref_dtype)
    cell[:, 0] = [item.ref for item in items]
    return cell


def write_nwb(path, made):
    """Write the parts of an NWB file that matter here, with its ragged columns."""
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        file["identifier"] = "test"
        file["general/institution"] = "nowhere"
        trials, units = file.create_group("intervals/trials"), file.create_group("units")
        trials["id"] = np.arange(len(made.start))
        for name, column in made.trials.items():
            trials[name] = column.tolist() if column.dtype.kind == "U" else column
        units["id"] = [101, 205, 309]
        units["quality"] = made.quality
        units["spike_times"] = np.concatenate(made.times_s)
        units["spike_times_index"] = np.cumsum([len(t) for t in made.times_s])
        series = file.create_group("processing/behavior/hand")
        series["data"] = made.hand * 1000
        series["data"].attrs.update({"conversion": 1e-3, "unit": "m"})
        series["timestamps"] = made.hand_t
    return path


# By file name: the function that writes it, and the options that it needs.
WRITERS = {
    "rat.npz": (write_npz, {}),
    "rat.csv": (write_csv, {"trials": "trials.csv"}),
    "rat.h5": (write_hdf5, {}),
    "old.mat": (write_mat5, {}),
    "new.mat": (write_mat73, {}),
    "rat.nwb": (write_nwb, {}),
}
CHOSEN = {"bin_ms": 50.0, "where": ("success == 1",), "condition": ("side",)}
