"""What the user may choose. ``ndt convert`` has one flag for each field, of the same name."""

from dataclasses import dataclass
from typing import Literal

from ndt_cli.convert.clock import Clock, TimeUnit, ms_to_us
from ndt_cli.errors import SettingsError

SplitBy = Literal["random", "condition", "blocks"]


@dataclass(frozen=True)
class Choices:
    """How a recording becomes trials of binned counts. Names are those in the file.

    Parameters
    ----------
    bin_ms : float, optional
        Bin width. Default: that of the counts in the file.
    spike_times : str, optional
        Times of the spikes: one array for all (then ``spike_units`` too), lists (one a unit, or
        trials x units), a group with one array a unit, or a matrix with one row a unit, padded
        with NaN.
    spike_units : str, optional
        Unit of each of those spikes.
    spike_trials : str, optional
        Trial of each of those spikes; the times then count from each trial's own zero.
    counts : str, optional
        Counts in bins: trials x bins x neurons, or bins x neurons of one continuous recording.
    axes : tuple of str, optional
        Order of their axes, of the words ``trials``, ``bins``, ``neurons``.
    counts_bin_ms : float, optional
        Their bin width, where the file has no ``bin_ms``.
    counts_times : str, optional
        When each bin of a continuous recording begins. Default: the first at 0.
    lengths, length_ms : str, optional
        Real length of each trial of counts, in bins or in ms. Default: NaN marks the padding.
    time_unit, trials_time_unit : {"s", "ms", "us", "samples"}
        Unit of all times, and of those of the trials table where they differ.
    sample_rate_hz : float, optional
        Samples per second, where times are samples.
    trials : str, optional
        Table of trials: a group or struct in the file, another file, or ``"none"``.
    start, stop : str, optional
        Columns of the trials: when each begins and ends.
    align : str, optional
        Column of the event that ``window_ms`` counts from. Default: the start.
    window_ms : (float, float), optional
        Cut this window around the event; whole trials without it.
    where : tuple of str
        Conditions that a trial must fulfil, as ``"success == 1"``.
    condition : tuple of str
        Columns that name a trial's condition.
    units : str, optional
        Table of units: a group or struct in the file, or another file.
    units_where : tuple of str
        Conditions that a unit must fulfil, as ``"quality == good"``.
    min_rate_hz : float
        Units below this rate, in the trials kept, are left out.
    behavior : tuple of str
        Time series to bring along, averaged in each bin.
    behavior_times : str, optional
        Times of their samples, where they do not carry them.
    chop_ms, overlap_ms : float, optional
        Chop the recording, or each trial, into windows of this length and overlap.
    split : {"random", "condition", "blocks"}, optional
        How validation trials are drawn. Default: within each condition where conditions are
        chosen, in blocks where the recording is chopped, at random otherwise.
    valid_where : str, optional
        Condition that makes a trial a validation trial; nothing is drawn then.
    valid_fraction : float
        Share of the trials that validates.
    seed : int
        Seed of the draw.

    Raises
    ------
    SettingsError
        If a value cannot be, or two of them contradict each other.

    Examples
    --------
    >>> Choices(bin_ms=20, align="go_cue", window_ms=(-250, 450)).window_ms
    (-250, 450)
    >>> Choices(bin_ms=20, align="go_cue")
    Traceback (most recent call last):
    ndt_cli.errors.SettingsError: --align go_cue: found no window around that event
    ...
    """

    bin_ms: float | None = None
    spike_times: str | None = None
    spike_units: str | None = None
    spike_trials: str | None = None
    counts: str | None = None
    axes: tuple[str, ...] | None = None
    counts_bin_ms: float | None = None
    counts_times: str | None = None
    lengths: str | None = None
    length_ms: str | None = None
    time_unit: TimeUnit = "s"
    trials_time_unit: TimeUnit | None = None
    sample_rate_hz: float | None = None
    trials: str | None = None
    start: str | None = None
    stop: str | None = None
    align: str | None = None
    window_ms: tuple[float, float] | None = None
    where: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    units: str | None = None
    units_where: tuple[str, ...] = ()
    min_rate_hz: float = 0.0
    behavior: tuple[str, ...] = ()
    behavior_times: str | None = None
    chop_ms: float | None = None
    overlap_ms: float = 0.0
    split: SplitBy | None = None
    valid_where: str | None = None
    valid_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.counts is not None and self.spike_times is not None:
            raise SettingsError(
                "--counts and --spike-times were both given; expected one: counts in bins, or "
                "spike times"
            )
        if "samples" in (self.time_unit, self.trials_time_unit) and not self.sample_rate_hz:
            raise SettingsError(
                "--time-unit samples: found no rate", "Give --sample-rate-hz, such as 30000."
            )
        if self.align is not None and self.window_ms is None:
            raise SettingsError(
                f"--align {self.align}: found no window around that event",
                hint="Give --window, such as --window -250 450, in ms.",
            )
        if self.chop_ms is not None and self.window_ms is not None:
            raise SettingsError(
                "--window and --chop-ms were both given; expected one: a window around an event, "
                "or windows all along the recording"
            )
        if not 0 < self.valid_fraction < 1:
            raise SettingsError(
                f"--valid-fraction: found {self.valid_fraction:g}; expected a share between 0 and 1"
            )
        self._check_windows()

    def _check_windows(self) -> None:
        for flag, value in (("--bin-ms", self.bin_ms), ("--counts-bin-ms", self.counts_bin_ms)):
            if value is not None and ms_to_us(value, flag) < 1:
                raise SettingsError(f"{flag}: found {value:g} ms; expected a width above 0")
        if self.window_ms is not None and not self.window_ms[0] < self.window_ms[1]:
            before, after = self.window_ms
            raise SettingsError(
                f"--window: found {before:g} to {after:g} ms; expected the beginning first",
                hint="A negative number is before the event: --window -250 450.",
            )
        if self.chop_ms is None and self.overlap_ms:
            raise SettingsError("--overlap-ms was given without --chop-ms, the length of a window")
        if self.chop_ms is not None and not self.chop_ms > 0:
            raise SettingsError(f"--chop-ms: found {self.chop_ms:g} ms; expected a length above 0")
        if self.chop_ms is not None and not 0 <= self.overlap_ms < self.chop_ms:
            raise SettingsError(
                f"--overlap-ms: found {self.overlap_ms:g} ms; expected 0 to less than the window "
                f"of {self.chop_ms:g} ms"
            )

    @property
    def clock(self) -> Clock:
        """Clock of the file's times."""
        return Clock(self.time_unit, self.sample_rate_hz)

    @property
    def trials_clock(self) -> Clock:
        """Clock of the trials table."""
        return Clock(self.trials_time_unit or self.time_unit, self.sample_rate_hz)


def in_bins(value_ms: float, bin_us: int, flag: str) -> int:
    """Return a duration in bins.

    Raises
    ------
    SettingsError
        If it is no whole number of bins.
    """
    value_us = ms_to_us(value_ms, flag)
    if value_us % bin_us:
        low = value_us // bin_us * bin_us / 1000
        raise SettingsError(
            f"{flag}: found {value_ms:g} ms, which is {value_us / bin_us:g} bins of "
            f"{bin_us / 1000:g} ms; expected a whole number of bins",
            hint=f"Take {low:g} or {low + bin_us / 1000:g} ms, or another --bin-ms.",
        )
    return value_us // bin_us
