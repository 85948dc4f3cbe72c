"""Time series of behaviour from a file, with their clock."""

import numpy as np

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
        clock = Clock()
        if isinstance(item, SeriesItem):
            times, values = item.read()
        else:
            values = contents.numbers(found, _FLAG)
            if choices.behaviour_times is not None:
                times = contents.numbers(choices.behaviour_times, "--behaviour-times")
                clock = choices.clock
            elif spikes is not None and values.shape[:1] == (len(spikes.counts_TN),):
                times, clock = spikes.centres_us_T, Clock("us")
            else:
                raise SettingsError(
                    f"{contents.path}: {_FLAG} {name}: found no times of its samples",
                    hint="Give them: --behaviour-times NAME.",
                )
        if (
            times.ndim != 1
            or times.dtype.kind not in "uif"
            or values.dtype.kind not in "buif"
            or values.ndim not in (1, 2)
            or len(values) != len(times)
        ):
            raise contents.wrong(
                _FLAG,
                found,
                f"shape {values.shape} of type {values.dtype}, with times of shape {times.shape} "
                f"of type {times.dtype}",
                "numbers, samples x variables, with a time for each sample",
            )
        known = np.isfinite(times)
        journal.drop("samples", int((~known).sum()), len(known), f"of {found} have no time")
        parts.append(sampled(clock.to_us(times[known]), values[known], found))
    if parts:
        journal.took("behaviour", ", ".join(choices.behaviour))
    return parts
