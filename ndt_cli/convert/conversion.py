"""From a recording in any of the field's files to trials that can be trained on.

Axes in names: B trials, T bins, N neurons.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ndt_cli.convert.behavior import read_behavior
from ndt_cli.convert.clock import ms_to_us
from ndt_cli.convert.contents import (
    ArrayItem,
    Contents,
    ListsItem,
    guess,
    guess_counts,
    guess_spike_times,
)
from ndt_cli.convert.counts import (
    ContinuousCounts,
    as_counts,
    chosen_bin_us,
    no_spikes,
    read_axes,
    source_bin_us,
    unit_names,
)
from ndt_cli.convert.cutting import Spikes, cut_clocked, cut_counts
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.options import Choices
from ndt_cli.convert.readers import open_file
from ndt_cli.convert.spikes import read_labeled_trials, read_listed_trials, read_spike_times
from ndt_cli.convert.summary import ConvertReport, describe_cut
from ndt_cli.convert.tables import Table, find_table, kept_units
from ndt_cli.convert.trials import Cut, drop_silent_units, to_recording
from ndt_cli.data.checks import check_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.errors import SettingsError


@dataclass(frozen=True, eq=False)
class Converted:
    """What `convert` returns.

    Attributes
    ----------
    recording : Recording
        Training and validation trials.
    report : ConvertReport
        What was taken, left out and assumed.
    """

    recording: Recording
    report: ConvertReport


def convert(file: Path | str, choices: Choices | None = None) -> Converted:
    """Read a recording and cut it into trials of binned counts.

    Parameters
    ----------
    file : Path or str
        A .npz, MATLAB, HDF5, NWB or CSV file.
    choices : Choices, optional
        What in the file is what, and how it is cut. What is not chosen is found by its ordinary
        name, and the report says so.

    Returns
    -------
    Converted

    Raises
    ------
    DataError
        If the file cannot be read, or nothing is left of it.
    SettingsError
        If something chosen is not there, or cannot be.

    Examples
    --------
    >>> from ndt_cli.convert import Choices, convert
    >>> choices = Choices(
    ...     bin_ms=20, align="go_cue", window_ms=(-200, 400), condition=("target",)
    ... )
    >>> converted = convert("session.npz", choices)
    >>> converted.recording.train.spikes_BTN.shape  # trials, bins, neurons
    (19, 30, 5)
    >>> converted.report.conditions
    {'0': 6, '1': 6, '2': 6, '3': 6}
    """
    path, choices, journal = Path(file), choices or Choices(), Journal()
    with open_file(path) as contents:
        cut = _cut(contents, choices, journal)
    cut = drop_silent_units(cut, choices.min_rate_hz, journal)
    if choices.overlap_ms:
        journal.note("Spikes where windows overlap are counted in each of them.")
    names = tuple(str(name) for name in cut.unit_ids.tolist())
    cut = replace(cut, data=replace(cut.data, neuron_names=names))
    recording = to_recording(cut, choices, str(path))
    check_recording(recording)
    return Converted(recording, describe_cut(recording, cut, journal, contents.layout))


def _cut(contents: Contents, choices: Choices, journal: Journal) -> Cut:
    spikes, name = choices.spike_times, choices.counts
    if spikes is None and name is None:
        spikes = guess_spike_times(contents)
        name = guess_counts(contents) if spikes is None else None
    if name is not None:
        found, _ = contents.find(name, "--counts")
        values = read_axes(contents, found, choices.axes, "--counts")
        journal.took("counts", found)
        if values.ndim == 3:
            return cut_counts(contents, found, values, choices, journal)
        return _cut_continuous(contents, found, values, choices, journal)
    if spikes is None:
        raise no_spikes(contents)
    return _cut_times(contents, spikes, choices, journal)


def _cut_times(contents: Contents, name: str, choices: Choices, journal: Journal) -> Cut:
    if choices.bin_ms is None:
        raise SettingsError(
            "--bin-ms: found no bin width; spike times need one", "Give it, such as --bin-ms 20."
        )
    table: Table | None
    found = contents.resolve(name)
    item = None if found is None else contents.items[found]
    spikes: Spikes
    if found is not None and isinstance(item, ListsItem) and len(item.shape) == 2:
        spikes, table = read_listed_trials(contents, found, item, choices, journal)
    elif choices.spike_trials is not None:
        spikes, table = read_labeled_trials(contents, name, choices, journal)
    else:
        spikes = read_spike_times(contents, name, choices, journal)
        table = _find_trials(contents, choices, journal)
    if table is not None and table.zero_us_R is not None:
        _refuse_clock(contents, choices)
    spikes = spikes.take(kept_units(contents, choices, spikes.unit_ids, journal))
    behavior = read_behavior(contents, choices, journal, None)
    bin_us = ms_to_us(choices.bin_ms, "--bin-ms")
    return cut_clocked(spikes, table, behavior, bin_us, choices, journal, str(contents.path))


def _cut_continuous(
    contents: Contents, name: str, values_TN: NDArray[Any], choices: Choices, journal: Journal
) -> Cut:
    source_us = source_bin_us(contents, choices, journal)
    start_us = 0
    if choices.counts_times is not None:
        times = contents.numbers(choices.counts_times, "--counts-times")
        if times.shape != (len(values_TN),):
            raise contents.wrong(
                "--counts-times",
                choices.counts_times,
                f"shape {times.shape}",
                f"{len(values_TN)} times, one a bin",
            )
        start_us = int(choices.clock.to_us(times[:1])[0])
    counts_TN = as_counts(values_TN, contents, name)
    spikes = ContinuousCounts(
        counts_TN, unit_names(contents, counts_TN.shape[1]), source_us, start_us
    )
    table = _find_trials(contents, choices, journal)
    behavior = read_behavior(contents, choices, journal, spikes)
    kept = spikes.take(kept_units(contents, choices, spikes.unit_ids, journal))
    bin_us = chosen_bin_us(choices, source_us)
    return cut_clocked(kept, table, behavior, bin_us, choices, journal, str(contents.path))


def _find_trials(contents: Contents, choices: Choices, journal: Journal) -> Table | None:
    """Return the table of trials: the chosen one, an ordinary one, or columns at the top."""
    if choices.trials == "none":
        return None
    groups = sorted({n.rpartition("/")[0] for n in contents.items if "/" in n})
    name = choices.trials or guess(contents, "trials", groups)
    if name is not None:
        journal.took("trials", name)
        return find_table(contents, name, "--trials", choices.trials_clock)
    column = choices.align or choices.start or guess(contents, "start")
    item = contents.items.get(column or "")
    if column is None or not isinstance(item, ArrayItem) or len(item.shape) != 1:
        if choices.align or choices.start:
            raise contents.unknown(
                "--align" if choices.align else "--start", str(column), contents.items
            )
        return None
    return Table(contents, "", item.shape[0], "--trials", choices.trials_clock)


def _refuse_clock(contents: Contents, choices: Choices) -> None:
    """Refuse what needs the recording's clock where times count from each trial's own zero."""
    for flag, value in (("--chop-ms", choices.chop_ms), ("--behavior", choices.behavior)):
        if value:
            raise SettingsError(
                f"{contents.path}: {flag}: the times of these spikes count from each trial's own "
                f"zero; expected times on one clock for {flag}"
            )
