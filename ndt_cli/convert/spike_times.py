"""Spike times in memory, and their counts in bins.

Axes in names: B trials, T bins, N neurons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.intervals import common_intervals, inside, merge_intervals
from ndt_cli.convert.ticks import Clock, TicksArray, ms_to_us
from ndt_cli.data.checks import compact_counts
from ndt_cli.data.spike_data import IntArray


@dataclass(frozen=True, eq=False)
class SpikeTimes:
    """Spikes of each unit.

    Parameters
    ----------
    times_us : tuple of int arrays
        Times of each unit's spikes in microseconds, ascending.
    unit_ids : (units,) array
        What each unit is called in the file.
    observed_us : tuple of (intervals, 2) int arrays, optional
        When each unit was observed, where the file says so.
    """

    times_us: tuple[TicksArray, ...]
    unit_ids: NDArray[Any]
    observed_us: tuple[TicksArray, ...] | None = None

    @property
    def n_units(self) -> int:
        return len(self.times_us)

    @property
    def n_spikes(self) -> int:
        return sum(len(times) for times in self.times_us)

    @property
    def span_us(self) -> tuple[int, int]:
        """From the first spike to just after the last one."""
        fired = [times for times in self.times_us if len(times)]
        if not fired:
            return 0, 0
        return int(min(t[0] for t in fired)), int(max(t[-1] for t in fired)) + 1

    def take(self, units: IntArray) -> "SpikeTimes":
        """Return some of the units, in this order."""
        observed = self.observed_us
        return SpikeTimes(
            tuple(self.times_us[i] for i in units),
            self.unit_ids[units],
            None if observed is None else tuple(observed[i] for i in units),
        )

    @property
    def observed_by_all_us(self) -> TicksArray | None:
        """Intervals in which every unit was observed, (intervals, 2); None where nobody says."""
        return None if self.observed_us is None else common_intervals(self.observed_us)

    def snapped(self, starts_us_B: TicksArray) -> TicksArray:
        """Return the times as they are: a trial may begin at any microsecond."""
        return starts_us_B

    def count(self, starts_us_B: TicksArray, n_bins_B: IntArray, bin_us: int) -> IntArray:
        """Count the spikes in each trial's bins.

        A bin holds the spikes from its first microsecond to the one before the next bin's first:
        a spike at an edge belongs to the bin that begins there.

        Parameters
        ----------
        starts_us_B : (trials,) int array
            Beginning of each trial's first bin.
        n_bins_B : (trials,) int array
            Bins of each trial.
        bin_us : int
            Bin width in microseconds.

        Returns
        -------
        spikes_BTN : (trials, bins, neurons) unsigned int array
            Counts; zero past the end of a shorter trial.
        """
        n_bins = int(np.max(n_bins_B, initial=0))
        # Edges past a trial's end all lie at its end, so that nothing falls between them.
        edges_BT = np.minimum(np.arange(n_bins + 1), np.asarray(n_bins_B)[:, None])
        edges_us_BT = starts_us_B[:, None] + bin_us * edges_BT
        spikes_BTN = np.zeros((len(starts_us_B), n_bins, self.n_units), dtype=np.uint32)
        for unit, times_us in enumerate(self.times_us):
            spikes_BTN[..., unit] = np.diff(np.searchsorted(times_us, edges_us_BT), axis=1)
        return compact_counts(spikes_BTN)

    def n_inside(self, starts_us_B: TicksArray, stops_us_B: TicksArray) -> int:
        """Spikes inside at least one of the trials, each counted once."""
        together = merge_intervals(np.stack([starts_us_B, stops_us_B], axis=1))
        return sum(int(inside(times, together).sum()) for times in self.times_us)


def bin_spikes(
    spike_times_s: Sequence[NDArray[Any]],
    starts_s: NDArray[Any],
    stops_s: NDArray[Any],
    bin_ms: float,
) -> tuple[IntArray, IntArray]:
    """Count spikes in the bins of trials, exactly.

    Times are rounded to the microsecond; a spike at an edge belongs to the bin that begins there;
    a partial last bin of a trial is left out.

    Parameters
    ----------
    spike_times_s : sequence of (spikes,) float arrays
        Spike times of each neuron in seconds.
    starts_s, stops_s : (trials,) float arrays
        When each trial begins and ends, in seconds.
    bin_ms : float
        Bin width in milliseconds.

    Returns
    -------
    spikes_BTN : (trials, bins, neurons) unsigned int array
        Counts; zero past the end of a shorter trial.
    lengths_B : (trials,) int array
        Bins of each trial.

    Raises
    ------
    SettingsError
        If the bin width is no whole number of microseconds.
    DataError
        If a bin has more than 65535 spikes.

    Examples
    --------
    >>> spikes_BTN, lengths_B = bin_spikes([np.array([0.1, 0.3])], np.array([0.0]),
    ...                                    np.array([0.4]), bin_ms=100)
    >>> spikes_BTN[0, :, 0], lengths_B
    (array([0, 1, 0, 1], dtype=uint8), array([4]))
    """
    clock, bin_us = Clock(), ms_to_us(bin_ms, "bin_ms")
    times_us = tuple(np.sort(clock.to_us(np.asarray(times))) for times in spike_times_s)
    starts_us_B = clock.to_us(np.asarray(starts_s))
    lengths_B = np.maximum(clock.to_us(np.asarray(stops_s)) - starts_us_B, 0) // bin_us
    spikes = SpikeTimes(times_us, np.arange(len(times_us)))
    return spikes.count(starts_us_B, lengths_B, bin_us), lengths_B
