"""Time series of behaviour from a file, with their clock."""

from ndt_cli.convert.behaviour import Behaviour, sampled
from ndt_cli.convert.choices import Choices
from ndt_cli.convert.contents import Contents, SeriesItem
from ndt_cli.convert.continuous_counts import ContinuousCounts
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.ticks import Clock
from ndt_cli.errors import SettingsError

_FLAG = "--behaviour"


def read_behaviour(
    contents: Contents, choices: Choices, journal: Journal, spikes: ContinuousCounts | None
) -> list[Behaviour]:
    """Read the time series that come along.

    Times are the series' own (NWB), those of ``behaviour_times``, or those of the bins of
    continuous counts with as many samples.

    Raises
    ------
    SettingsError, DataError
        If a name is not there, has no times, or is no series of numbers.
    """
    parts = []
    for name in choices.behaviour:
        found, item = contents.find(name, _FLAG)
        if isinstance(item, SeriesItem):
            times_s, values = item.read()
            times_us = Clock().to_us(times_s)
        else:
            values = contents.numbers(found, _FLAG)
            if choices.behaviour_times is not None:
                times = contents.numbers(choices.behaviour_times, "--behaviour-times")
                times_us = choices.clock.to_us(times)
            elif spikes is not None and len(values) == len(spikes.counts_TN):
                times_us = spikes.centres_us_T
            else:
                raise SettingsError(
                    f"{contents.path}: {_FLAG} {name}: found no times of its samples",
                    hint="Give them: --behaviour-times NAME.",
                )
        if values.dtype.kind not in "buif" or values.ndim > 2 or len(values) != len(times_us):
            raise contents.wrong(
                _FLAG,
                found,
                f"shape {values.shape} of type {values.dtype}",
                f"numbers, {len(times_us)} samples x variables",
            )
        parts.append(sampled(times_us, values, found))
    if parts:
        journal.took("behaviour", ", ".join(choices.behaviour))
    return parts
