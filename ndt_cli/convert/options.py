"""What the user may choose, declared once: `ndt convert` makes its flags from these fields."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from ndt_cli.convert.clock import Clock, TimeUnit, bin_to_us
from ndt_cli.errors import SettingsError, nearest

SplitBy = Literal["random", "condition", "blocks"]

# What a text names. The help page shows the word in place of the value.
Name = Annotated[str, "NAME"]
Column = Annotated[str, "COLUMN"]
Rule = Annotated[str, "CONDITION"]
TableName = Annotated[str, "NAME|FILE"]
Axes = Annotated[str, "AXIS,..."]


class ConvertOptions(BaseModel):
    """How a recording becomes trials of binned counts.

    Names are those in the file. What is not given is looked for under its usual name. The string
    below each field is its help.

    Raises
    ------
    SettingsError
        If a value is out of its range, or two of them contradict each other.

    Examples
    --------
    >>> ConvertOptions(bin_ms=20, align="go_cue", window_ms=(-250, 450)).window_ms
    (-250.0, 450.0)
    >>> ConvertOptions(bin_ms=20, align="go_cue")
    Traceback (most recent call last):
    ndt_cli.errors.SettingsError: `align='go_cue'`: found no window around that event
    ...
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    bin_ms: float | None = Field(None, gt=0)
    """Bin width, ms. Default: that of the counts."""

    spike_times: Name | None = None
    """Spike times: one array for all units, or one array per unit (cells, a ragged column, a
    group, rows padded with NaN, arrays or columns such as 'unit*' or 'units/*/times')."""

    spike_units: Name | None = None
    """Unit of each spike, where all units share one array; the word none if there is one unit.
    NAME:1 is column 1, from 0, of an array with two axes. Where each unit has its own times, the
    names of the units."""

    spike_trials: Name | None = None
    """Trial of each spike, whose time then counts from the start of its own trial; or of each bin
    of counts, where trials lie end to end."""

    sort_spikes: bool = False
    """Sort spike times that step back. Default: refuse them, since the clock may have restarted."""

    counts: Name | None = None
    """Spike counts in bins: trials x bins x neurons, bins x neurons, or a column per neuron,
    such as 'unit*'."""

    axes: Axes | None = None
    """Order of the axes of the counts, such as neurons,bins,trials, or of lists of spike times:
    neurons,trials or trials. Default: trials first, or a list per unit."""

    counts_bin_ms: float | None = Field(None, gt=0)
    """Bin width of the counts in the file, ms. Default: its bin_ms."""

    counts_times: Name | None = None
    """Start of each bin of a continuous recording, or of trials end to end. Default: a column time
    beside the counts, else the first bin starts at 0."""

    time_unit: TimeUnit = "s"
    """Unit of all times in the file."""

    sample_rate_hz: float | None = Field(None, ge=1e-3, le=1e9)
    """Sampling rate in Hz, where times are counted in samples."""

    trials: TableName | None = None
    """Table of trials: a group or struct in the file, another file, or the word none."""

    start: Column | None = None
    """Start of each trial."""

    stop: Column | None = None
    """End of each trial."""

    align: Column | None = None
    """Event that the window is around. Default: the start of the trial."""

    window_ms: tuple[float, float] | None = None
    """Cut this window around the event, ms, such as -250 450. Default: whole trials."""

    trials_time_unit: TimeUnit | None = None
    """Unit of the times of trials. Default: `time_unit`."""

    where: tuple[Rule, ...] = ()
    """Keep trials that meet this condition: "success == 1", "block in 1, 3". If repeated, all
    must hold."""

    condition: tuple[Column, ...] = ()
    """Column with the condition of each trial. If repeated, the columns together define it."""

    lengths: Name | None = None
    """Length of each trial of counts, in bins. Default: NaN marks the padding."""

    length_ms: Name | None = None
    """Length of each trial of counts, in ms."""

    units: TableName | None = None
    """Table of units: a group or struct in the file, or another file."""

    units_where: tuple[Rule, ...] = ()
    """Keep units that meet this condition: "quality == good". If repeated, all must hold."""

    ignore_intervals: bool = False
    """Take every unit as observed all the time: ignore obs_intervals and invalid_times (NWB)."""

    min_rate_hz: float = Field(0.0, ge=0)
    """Drop units with a mean rate in the trials below this, Hz."""

    behavior: tuple[TableName, ...] = ()
    """Time series of behavior, averaged in each bin, or columns such as 'hand_*', or a table in
    another file, with a column time. May be repeated."""

    behavior_times: Name | None = None
    """Sample times of the behavior. Default: its own, in NWB."""

    behavior_time_unit: TimeUnit | None = None
    """Unit of the sample times of the behavior. Default: `time_unit`."""

    chop_ms: float | None = Field(None, gt=0)
    """Chop the recording, or long trials, into windows of this length, ms."""

    overlap_ms: float = Field(0.0, ge=0)
    """Overlap of neighboring windows, ms."""

    split: SplitBy | None = None
    """Draw validation trials at random, in proportion within each condition, or in blocks of
    neighbors. Default: condition if there are any, blocks for windows, else random."""

    valid_where: Rule | None = None
    """Validate on the trials that meet this condition, such as "split == val", and draw none."""

    valid_fraction: float = Field(0.2, gt=0, lt=1)
    """Fraction of the trials that validate."""

    seed: int = Field(0, ge=0)
    """Seed of the draw."""

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Raise the first problem that pydantic finds as a `SettingsError`."""
        try:
            return handler(values)
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0])
            if problem["type"] == "extra_forbidden":
                close = nearest(name, cls.model_fields)
                hint = f"Did you mean `{close}`?" if close else None
                raise SettingsError(f"{name!r} is not an option of convert", hint) from None
            found, said = problem["input"], problem["msg"].removeprefix("Input should be ")
            shown = f"{found:g}" if isinstance(found, float) else repr(found)
            raise SettingsError(f"`{name}`: found {shown}; expected {said}") from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for one, other, expected in (
            ("counts", "spike_times", "counts in bins, or spike times"),
            ("window_ms", "chop_ms", "a window around an event, or windows to chop"),
            ("split", "valid_where", "a random draw, or a condition for validation trials"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise SettingsError(
                    f"`{one}` and `{other}` were both given; expected one: {expected}"
                )
        if self.split == "condition" and not self.condition:
            raise SettingsError(
                "`split='condition'`: found no condition to draw within",
                "Name its column: `condition=COLUMN`.",
            )
        units = ("time_unit", "trials_time_unit", "behavior_time_unit")
        name = next((n for n in units if getattr(self, n) == "samples"), None)
        if name is not None and self.sample_rate_hz is None:
            raise SettingsError(
                f"`{name}='samples'`: found no sampling rate", "Give it: `sample_rate_hz=30000`."
            )
        if self.align is not None and self.window_ms is None:
            raise SettingsError(
                f"`align={self.align!r}`: found no window around that event",
                "Give one in ms: `window_ms=(-250, 450)`.",
            )
        if self.window_ms is not None and not self.window_ms[0] < self.window_ms[1]:
            first, last = self.window_ms
            raise SettingsError(
                f"`window_ms`: found {first:g} to {last:g} ms; expected the beginning first",
                "Negative times are before the event: `window_ms=(-250, 450)`.",
            )
        if self.overlap_ms and self.chop_ms is None:
            raise SettingsError("`overlap_ms` was given without `chop_ms`, the length of a window")
        if self.chop_ms is not None and self.overlap_ms >= self.chop_ms:
            raise SettingsError(
                f"`overlap_ms`: found {self.overlap_ms:g} ms; expected less than the window of "
                f"{self.chop_ms:g} ms"
            )
        for name in ("bin_ms", "counts_bin_ms"):
            value = getattr(self, name)
            if value is not None:
                bin_to_us(value, name)
        return self

    @property
    def clock(self) -> Clock:
        """Clock of the file's times."""
        return Clock(self.time_unit, self.sample_rate_hz)

    @property
    def behavior_clock(self) -> Clock:
        """Clock of the sample times of the behavior."""
        unit = self.behavior_time_unit
        return Clock(unit or self.time_unit, self.sample_rate_hz, is_given=unit is not None)

    @property
    def trials_clock(self) -> Clock:
        """Clock of the table of trials."""
        unit = self.trials_time_unit
        return Clock(unit or self.time_unit, self.sample_rate_hz, is_given=unit is not None)
