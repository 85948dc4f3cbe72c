"""Behavior on a clock of its own, averaged in the bins of the spikes.

Axes in names: B trials, T bins, V behavioral variables, S samples.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import FAR_BACK_US, FEW_STEPS, Clock, TicksArray
from ndt_cli.convert.contents import guess, listed
from ndt_cli.convert.reading import open_file
from ndt_cli.convert.tables import ConvertJob
from ndt_cli.data.arrays import MAX_VALUE
from ndt_cli.data.spike_data import FloatArray, IntArray
from ndt_cli.errors import DataError, SettingsError

# Samples that are further apart than this, and span this many times as long as the trials, are in
# another unit.
_FEW_BINS, _LONGER = 4, 50

# Angles jump by more than this share of their range, and move less before and after.
_TURN, _FEW_TURNS = 0.9, 3

_WIDEST_GAP = 3.0  # sampling intervals: a camera may drop a frame or two


@dataclass(frozen=True, eq=False)
class Behavior:
    """Samples with their times."""

    times_us_S: TicksArray  # ascending
    values_SV: FloatArray  # NaN where a value is missing
    names: tuple[str, ...]  # of the variables

    def cut(self, starts_us_B: TicksArray, n_bins_B: IntArray, bin_us: int) -> FloatArray:
        """Return the behavior in each trial's bins, (trials, bins, variables).

        A bin has the mean of the samples in it. A bin without a sample, and every bin where these
        are further apart than a bin is wide, has the value interpolated linearly at its middle,
        across gaps of up to three sampling intervals, if it is known. A missing value (NaN) among
        the samples makes a bin NaN. Past the end of a trial it is NaN.
        """
        shape = (len(starts_us_B), int(np.max(n_bins_B, initial=0)), self.values_SV.shape[1])
        behavior_BTV = np.full(shape, np.nan)
        for trial, (start, n_own) in enumerate(
            zip(starts_us_B.tolist(), n_bins_B.tolist(), strict=True)
        ):
            behavior_BTV[trial, :n_own] = self._bins(start, n_own, bin_us)
        return behavior_BTV

    def check_known(
        self,
        cut_BTV: FloatArray,
        starts_us_B: TicksArray,
        stops_us_B: TicksArray,
        bin_us: int,
        source: str,
        notes: list[str],
    ) -> None:
        """Refuse behavior of another clock: NaN in all bins, or too far apart; note events."""
        if not np.isfinite(self.values_SV).any():
            return
        first, last = self.times_us_S[[0, -1]] / 1e6
        begin, end = starts_us_B.min() / 1e6, stops_us_B.max() / 1e6
        if not np.isfinite(cut_BTV).any():
            found = "no sample in any trial; samples are"
        elif self.interval_us > _FEW_BINS * bin_us and last - first > _LONGER * (end - begin):
            found = f"samples {self.interval_us / 1e6:g} s apart,"
        elif self.interval_us <= _FEW_BINS * bin_us:
            return
        else:
            notes.append(
                f"Samples of {self.names[0]} are {self.interval_us / 1e6:g} s apart, and bins "
                "between are interpolated: are they events?"
            )
            return
        raise DataError(
            f"{source}: behavior {', '.join(self.names)}: found {found} from {first:g} to "
            f"{last:g} s, trials from {begin:g} to {end:g} s",
            hint="Are both on one clock, in one unit? See `behavior_times` and `time_unit`; for "
            "continuous counts, `counts_times` gives the start of each bin.",
        )

    def _bins(self, start: int, n_bins: int, bin_us: int) -> FloatArray:
        """Return the behavior in the bins of one trial."""
        first, last = np.searchsorted(self.times_us_S, [start, start + n_bins * bin_us])
        bin_S = (self.times_us_S[first:last] - start) // bin_us
        n_samples_T = np.bincount(bin_S, minlength=n_bins)
        values_TV = np.zeros((n_bins, self.values_SV.shape[1]))
        for variable, values_S in enumerate(self.values_SV[first:last].T):
            values_TV[:, variable] = np.bincount(bin_S, values_S, minlength=n_bins)
        with np.errstate(invalid="ignore"):
            values_TV /= n_samples_T[:, None]  # NaN in a bin without a sample
        between_T = (n_samples_T == 0) | (self.interval_us > bin_us)
        middles_us = start + bin_us * np.flatnonzero(between_T) + bin_us // 2
        middles_TV = self._interpolated(middles_us)
        values_TV[between_T] = np.where(np.isnan(middles_TV), values_TV[between_T], middles_TV)
        return values_TV

    def _interpolated(self, at_us: TicksArray) -> FloatArray:
        """Return the behavior at some times; NaN in wide gaps and outside of the samples."""
        times = self.times_us_S
        values = np.full((len(at_us), self.values_SV.shape[1]), np.nan)
        after = np.searchsorted(times, at_us)
        between = np.flatnonzero((after > 0) & (after < len(times)))
        after = after[between]
        gap_us = times[after] - times[after - 1]
        near = gap_us <= _WIDEST_GAP * self.interval_us
        between, after, gap_us = between[near], after[near], gap_us[near]
        share = ((at_us[between] - times[after - 1]) / gap_us)[:, None]
        before_SV = self.values_SV[after - 1]
        values[between] = before_SV + share * (self.values_SV[after] - before_SV)
        return values

    @cached_property
    def interval_us(self) -> float:
        """Time from one sample to the next at another time, the median."""
        steps_us = np.diff(self.times_us_S)
        return float(np.median(steps_us[steps_us > 0])) if steps_us.any() else 0.0


def sampled(times_us_S: TicksArray, values_S: NDArray[Any], name: str) -> Behavior:
    """Return samples in order of time, with a name for each variable."""
    values_SV = np.asarray(values_S, dtype=np.float64).reshape(len(values_S), -1)
    order = np.argsort(times_us_S, kind="stable")
    return Behavior(times_us_S[order], values_SV[order], variable_names(name, values_SV.shape[1]))


def variable_names(name: str, n_variables: int) -> tuple[str, ...]:
    """Return a name for each variable of an array: ``hand_vel 0``, ``hand_vel 1``."""
    short = name.rpartition("/")[2]
    return (short,) if n_variables == 1 else tuple(f"{short} {i}" for i in range(n_variables))


def read_behavior(job: ConvertJob, bins_us_T: TicksArray | None = None) -> list[Behavior]:
    """Read the chosen time series.

    Their times are their own (NWB), those of the option ``behavior_times``, or the centers of the
    bins of continuous counts, if there are as many samples.
    """
    contents, options = job.contents, job.options
    parts = []
    for name in options.behavior:
        if contents.resolve(name) is None and Path(name).is_file():
            parts.append(_read_file(job, Path(name)))
            continue
        found, item = contents.find(name, "behavior")
        clock = Clock()
        if item.kind == "series":
            times, values = item.read()
        else:
            values = contents.numbers(found, "behavior")
            if options.behavior_times is not None:
                times = contents.numbers(options.behavior_times, "behavior_times")
                clock = options.behavior_clock
                clock.check_name(options.behavior_times, contents.path)
            elif bins_us_T is not None and values.shape[:1] == bins_us_T.shape:
                times, clock = bins_us_T, Clock("us")
            else:
                raise SettingsError(
                    f"{contents.path}: `behavior={name!r}`: found no times of its samples",
                    hint="Give them: `behavior_times=NAME`.",
                )
        are_numbers = times.dtype.kind in "uif" and values.dtype.kind in "buif"
        if not are_numbers or values.ndim not in (1, 2) or times.shape != values.shape[:1]:
            shown = (
                f"shape {values.shape} of type {values.dtype}, with times of shape {times.shape} "
                f"of type {times.dtype}"
            )
            expected = "numbers, samples x variables, with a time for each sample"
            raise contents.wrong("behavior", found, shown, expected)
        part = _known(job, clock, times, values, found)
        parts.append(replace(part, names=contents.column_names(found)) if "*" in found else part)
    if parts:
        job.taken["behavior"] = ", ".join(options.behavior)
    return parts


def _known(
    job: ConvertJob, clock: Clock, times: NDArray[Any], values: NDArray[Any], name: str
) -> Behavior:
    """Return the samples that have a time; refuse a clock that restarts."""
    known = np.isfinite(times)
    job.drop("samples", int((~known).sum()), len(known), f"of {name} have no time")
    clock.note_coarse(times, name, job.notes)
    times_us = clock.to_us(times[known])
    steps_us = np.diff(times_us)
    far = np.flatnonzero(steps_us < -FAR_BACK_US)
    # Sorted, samples of several clocks would be averaged with one another.
    if 0 < len(far) < FEW_STEPS * len(times_us):
        at = far[np.argmin(steps_us[far])]
        raise DataError(
            f"{job.contents.path}: `behavior={name!r}`: found sample times that step back "
            f"{len(far)} times, the furthest from {times_us[at] / 1e6:g} to "
            f"{times_us[at + 1] / 1e6:g} s; expected ascending times on one clock",
            hint="If they count from the start of each trial, add that to them. If they are only "
            "out of order, sort them, and save them again.",
        )
    samples = sampled(times_us, without_infinite(job, name, values[known]), name)
    _note_angles(job, samples)
    return samples


def without_infinite(job: ConvertJob, name: str, values: NDArray[Any]) -> FloatArray:
    """Return values of behavior with NaN for those that are infinite or too large, noted."""
    values = np.array(values, dtype=np.float64)
    far = np.abs(values) > MAX_VALUE
    if far.any():
        job.notes.append(f"{far.sum()} values of {name} are beyond {MAX_VALUE:g}, and are missing.")
    values[far] = np.nan
    return values


def _note_angles(job: ConvertJob, samples: Behavior) -> None:
    """Note variables that run to one end of their range, and on from the other, as angles do."""
    for name, values_S in zip(samples.names, samples.values_SV.T, strict=True):
        known = values_S[np.isfinite(values_S)]
        span = float(np.ptp(known)) if len(known) else 0.0
        steps = np.abs(np.diff(known)) / (span or 1.0)
        is_jump = (steps[1:-1] > _TURN) & (steps[:-2] < 1 - _TURN) & (steps[2:] < 1 - _TURN)
        if is_jump.sum() >= _FEW_TURNS and len(np.unique(known)) > len(known) / 10:
            job.notes.append(
                f"{name} jumps from one end of its range to the other {is_jump.sum()} times. If it "
                "is an angle, means over bins are wrong there: save its cosine and its sine."
            )


def _read_file(job: ConvertJob, path: Path) -> Behavior:
    """Read a table of another file: a column of times, and a variable in each column of numbers."""
    option = job.options.behavior_times
    with open_file(path) as contents:
        times_name = option or guess(contents, "times")
        if times_name is None:
            expected, hint = (
                "a column time, with that of samples",
                "Name it: `behavior_times=COLUMN`.",
            )
            raise contents.wrong("behavior", str(path), listed(contents.items), expected, hint)
        times = contents.numbers(times_name, "behavior_times")
        columns = {
            name: contents.numbers(name, "behavior")
            for name, item in list(contents.items.items())
            if name != contents.resolve(times_name)
            and contents.has_array(name, times.shape)
            and item.dtype != "text"
        }
        if not columns:
            raise contents.wrong("behavior", str(path), "no other column of numbers", "some")
    clock, values = job.options.behavior_clock, np.stack(list(columns.values()), axis=1)
    clock.check_name(times_name, path)
    read = _known(job, clock, times, values, path.stem)
    return replace(read, names=tuple(columns))
