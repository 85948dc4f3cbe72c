"""From an array of counts in a file to counts with known axes and bin width.

Axes in names: B trials, T bins, N neurons.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import TicksArray, inside, merge_intervals, ms_to_us
from ndt_cli.convert.contents import ArrayItem, Contents, guess
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.options import Choices
from ndt_cli.data.checks import MAX_COUNT, compact_counts
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError, SettingsError, typed

_FLAG = "--counts"
_LONGEST = 1e12  # bins or ms: longer than any trial, and within 64 bits
_ORDER = ("trials", "bins", "neurons")
_DEFAULT_AXES = {3: _ORDER, 2: ("bins", "neurons"), 1: ("bins",)}


def read_axes(
    contents: Contents, name: str, axes: tuple[str, ...] | None, flag: str
) -> NDArray[Any]:
    """Read an array and put its axes in the order trials, bins, neurons.

    A recording without trials has no such axis in the result; a missing axis of neurons is added.

    Raises
    ------
    SettingsError
        If ``axes`` does not name the axes that there are.
    """
    values = contents.numbers(name, flag)
    if values.dtype == np.float16:  # which has no number for the largest count
        values = values.astype(np.float32)
    axes = axes or _DEFAULT_AXES.get(values.ndim, ())
    if len(set(axes)) != values.ndim or not {"bins"} <= set(axes) <= set(_ORDER):
        raise SettingsError(
            f"--axes {','.join(axes) or '?'}: found {values.ndim} axes of `{name}`, "
            f"{values.shape}; expected a word for each of them, of trials, bins, neurons",
            hint="Such as: --axes neurons,bins,trials. Lists of spike times go to --spike-times.",
        )
    ordered = np.transpose(values, [axes.index(word) for word in _ORDER if word in axes])
    return ordered if "neurons" in axes else ordered[..., None]


def own_lengths(values_BTN: NDArray[Any]) -> IntArray:
    """Return how many bins of each trial come before the NaN that pads it.

    A trial that is NaN all through has length 0.
    """
    if values_BTN.dtype.kind != "f":
        return np.full(values_BTN.shape[0], values_BTN.shape[1])
    known_BT = ~np.isnan(values_BTN).all(axis=2)
    n_after = np.argmax(known_BT[:, ::-1], axis=1)
    return np.where(known_BT.any(axis=1), known_BT.shape[1] - n_after, 0)


def as_counts(values: NDArray[Any], contents: Contents, name: str) -> IntArray:
    """Return counts as uint16.

    Raises
    ------
    DataError
        If an entry is not a whole number from 0 to 65535.
    """
    hint = None
    with np.errstate(invalid="ignore"):
        bad = ~((values >= 0) & (values <= MAX_COUNT) & (values % 1 == 0))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        if np.isfinite(values[at]) and values[at] % 1:
            hint = "Rates and smoothed counts are no counts. Spike times go to --spike-times."
        raise contents.wrong(
            _FLAG, name, f"{values[at]:g} at {at}", f"whole numbers from 0 to {MAX_COUNT}", hint
        )
    return values.astype(np.uint16)


def source_bin_us(contents: Contents, choices: Choices, journal: Journal) -> int:
    """Return the bin width of the counts, as chosen or as the file says.

    Raises
    ------
    SettingsError
        If nobody says.
    """
    if choices.counts_bin_ms is not None:
        return ms_to_us(choices.counts_bin_ms, "--counts-bin-ms")
    for name, ms_per_unit in (("bin_ms", 1.0), ("dt", 1000.0)):
        item = contents.items.get(name)
        if isinstance(item, ArrayItem) and int(np.prod(item.shape)) == 1:
            width_ms = float(contents.numbers(name, "bin width").reshape(())) * ms_per_unit
            width_us = ms_to_us(round(width_ms, 9), name)
            if width_us < 1:
                raise contents.wrong("bin width", name, f"{width_ms:g} ms", "a width above 0")
            journal.took("bin width of the counts", f"{name}, {width_ms:g} ms")
            return width_us
    raise SettingsError(
        f"{contents.path}: found no bin width of the counts; expected `bin_ms` in the file",
        hint="Give it: --counts-bin-ms WIDTH, in milliseconds.",
    )


def chosen_bin_us(choices: Choices, source_us: int) -> int:
    """Return the bin width to make, a whole multiple of that of the counts.

    Raises
    ------
    SettingsError
        If it is none.
    """
    if choices.bin_ms is None:
        return source_us
    bin_us = ms_to_us(choices.bin_ms, "--bin-ms")
    if bin_us % source_us:
        widths = ", ".join(f"{source_us * k / 1000:g}" for k in (1, 2, 5, 10))
        raise SettingsError(
            f"--bin-ms: found {choices.bin_ms:g} ms; expected a whole multiple of the counts' bins "
            f"of {source_us / 1000:g} ms",
            hint=f"Such as {widths} ms.",
        )
    return bin_us


def read_lengths(
    contents: Contents, choices: Choices, n_trials: int, source_us: int, journal: Journal
) -> IntArray | None:
    """Return the length of each trial in bins of the file, None where nobody says.

    Raises
    ------
    SettingsError, DataError
        If there are more or fewer of them than trials, or one is no length.
    """
    in_bins = choices.lengths or (None if choices.length_ms else guess(contents, "lengths"))
    name = in_bins or choices.length_ms or guess(contents, "length_ms")
    if name is None:
        return None
    flag = "--lengths" if in_bins else "--length-ms"
    values = contents.numbers(name, flag)
    journal.took("length of a trial", name)
    if values.shape != (n_trials,):
        raise contents.wrong(flag, name, f"shape {values.shape}", f"{n_trials} values, one a trial")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise contents.wrong(flag, name, f"{np.min(values):g}", "finite lengths from 0 on")
    if in_bins and (values % 1 != 0).any():
        fraction = values[values % 1 != 0][0]
        raise contents.wrong(flag, name, f"{fraction:g}", "whole numbers of bins")
    values = np.minimum(values.astype(np.float64), _LONGEST)
    if in_bins:
        return values.astype(np.int64)
    return np.asarray(np.rint(values * 1000).astype(np.int64) // source_us)


def unit_names(contents: Contents, n_units: int) -> NDArray[Any]:
    """Return what a file calls its neurons, else their numbers."""
    name = guess(contents, "spike_units")
    item = None if name is None else contents.items[name]
    if isinstance(item, ArrayItem) and item.shape == (n_units,):
        return item.read()
    return np.arange(n_units)


def no_spikes(contents: Contents) -> DataError:
    """Return the error for a file in which nothing looks like spikes."""
    names = ", ".join(f"`{n}`" for n in list(contents.items)[:12]) or "nothing"
    if {"train_data", "train_spikes_heldin"} & contents.items.keys():
        return DataError(
            f"{contents.path}: found training and validation trials already; expected a recording",
            hint=f"Such a file is read as it is:  ndt check-data {typed(contents.path)}",
        )
    return DataError(
        f"{contents.path}: found no spikes under an ordinary name; there are {names}",
        hint="Name them: --spike-times NAME (and --spike-units NAME), or --counts NAME. "
        f"See what is there:  ndt convert {typed(contents.path)} --list",
    )


# ------------------------------------------------------------------------------------------------
# A continuous recording that is binned already.
#
# Axes in names: B trials, T bins, N neurons.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ContinuousCounts:
    """Counts of one long stretch.

    Parameters
    ----------
    counts_TN : (bins, neurons) unsigned int array
        Spike counts.
    unit_ids : (neurons,) array
        What each neuron is called in the file.
    source_bin_us : int
        Width of those bins in microseconds.
    start_us : int
        Beginning of the first one.
    """

    counts_TN: IntArray
    unit_ids: NDArray[Any]
    source_bin_us: int
    start_us: int = 0

    @property
    def n_units(self) -> int:
        return int(self.counts_TN.shape[1])

    @property
    def n_spikes(self) -> int:
        return int(self.counts_TN.sum(dtype=np.int64))

    @property
    def span_us(self) -> tuple[int, int]:
        """Beginning of the first bin and end of the last one."""
        return self.start_us, self.start_us + len(self.counts_TN) * self.source_bin_us

    @property
    def observed_by_all_us(self) -> TicksArray:
        """The one interval that was recorded, (1, 2)."""
        return np.array([self.span_us], dtype=np.int64)

    @property
    def centers_us_T(self) -> TicksArray:
        """Middle of each bin."""
        n_bins = len(self.counts_TN)
        return self.start_us + self.source_bin_us // 2 + self.source_bin_us * np.arange(n_bins)

    def take(self, units: IntArray) -> "ContinuousCounts":
        """Return some of the neurons, in this order."""
        return ContinuousCounts(
            self.counts_TN[:, units], self.unit_ids[units], self.source_bin_us, self.start_us
        )

    def count(self, starts_us_B: TicksArray, n_bins_B: IntArray, bin_us: int) -> IntArray:
        """Sum the counts in each trial's bins; see `SpikeTimes.count`.

        Trials begin at edges of the recording's bins (see `snapped`) and lie inside it.

        Raises
        ------
        SettingsError
            If the new width is no whole multiple of the old one.
        """
        k, rest = divmod(bin_us, self.source_bin_us)
        if rest:
            raise SettingsError(
                f"--bin-ms: found {bin_us / 1000:g} ms; expected a whole multiple of the counts' "
                f"bins of {self.source_bin_us / 1000:g} ms"
            )
        shape = (len(starts_us_B), int(np.max(n_bins_B, initial=0)), self.n_units)
        spikes_BTN = np.zeros(shape, dtype=np.uint32)
        firsts = (starts_us_B - self.start_us) // self.source_bin_us
        for trial, (first, n_bins) in enumerate(
            zip(firsts.tolist(), n_bins_B.tolist(), strict=True)
        ):
            grouped = self.counts_TN[first : first + n_bins * k].reshape(n_bins, k, self.n_units)
            spikes_BTN[trial, :n_bins] = grouped.sum(axis=1, dtype=np.uint32)
        return compact_counts(spikes_BTN)

    def n_inside(self, starts_us_B: TicksArray, stops_us_B: TicksArray) -> int:
        """Spikes inside at least one of the trials, each counted once."""
        together = merge_intervals(np.stack([starts_us_B, stops_us_B], axis=1))
        return int(self.counts_TN[inside(self.centers_us_T, together)].sum(dtype=np.int64))

    def snapped(self, starts_us_B: TicksArray) -> TicksArray:
        """Return the nearest edge of a bin for each time: where in a bin a spike was is lost."""
        half = self.source_bin_us // 2
        bins = (starts_us_B - self.start_us + half) // self.source_bin_us
        return np.asarray(self.start_us + bins * self.source_bin_us)
