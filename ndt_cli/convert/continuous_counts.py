"""A continuous recording that is binned already.

Axes in names: B trials, T bins, N neurons.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.intervals import inside, merge_intervals
from ndt_cli.convert.ticks import TicksArray
from ndt_cli.data.checks import compact_counts
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import SettingsError


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
    def centres_us_T(self) -> TicksArray:
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
        return int(self.counts_TN[inside(self.centres_us_T, together)].sum(dtype=np.int64))

    def snapped(self, starts_us_B: TicksArray) -> TicksArray:
        """Return the nearest edge of a bin for each time: where in a bin a spike was is lost."""
        half = self.source_bin_us // 2
        bins = (starts_us_B - self.start_us + half) // self.source_bin_us
        return np.asarray(self.start_us + bins * self.source_bin_us)
