"""Ordinary names of things in recordings, tried where the user gives none."""

from ndt_cli.convert.contents import ArrayItem, Contents, ListsItem

_NAMES = {
    "spike_times": ("units/spike_times", "spike_times", "spiketimes", "spike_time", "spikes"),
    "spike_units": (
        "spike_units",
        "spike_unit",
        "spike_clusters",
        "unit",
        "units",
        "neuron",
        "neurons",
        "cluster",
        "cluster_id",
        "unit_id",
        "neuron_id",
    ),
    "counts": ("spikes", "counts", "spike_counts", "binned_spikes"),
    "trials": ("intervals/trials", "trials"),
    "start": ("start_time", "start", "trial_start", "start_times", "start_s", "start_ms"),
    "stop": (
        "stop_time",
        "stop",
        "end",
        "trial_stop",
        "trial_end",
        "end_time",
        "stop_s",
        "stop_ms",
    ),
    "units": ("units",),
    "lengths": ("lengths",),
    "length_ms": ("length_ms",),
}
_COLUMN_TIMES = ("time", "times", "time_s", "t")


def guess(contents: Contents, what: str, known: list[str] | None = None) -> str | None:
    """Return the ordinary name that the file has for something, or None.

    Capitals and underscores do not count: ``spikeTimes`` is ``spike_times``.
    """
    by_plain = {_plain(n): n for n in reversed(known or list(contents.items))}
    return next((by_plain[_plain(n)] for n in _NAMES[what] if _plain(n) in by_plain), None)


def guess_spike_times(contents: Contents) -> str | None:
    """Return the name of what looks like spike times: lists, or a column beside one of units."""
    for name in _NAMES["spike_times"]:
        found = guess_one(contents, name)
        item = None if found is None else contents.items[found]
        n_axes = (1,) if name == "spikes" else (1, 2)  # a matrix of that name holds counts
        if isinstance(item, ListsItem) or (
            isinstance(item, ArrayItem) and len(item.shape) in n_axes
        ):
            return found
    units = guess(contents, "spike_units")
    columns = (guess_one(contents, name) for name in _COLUMN_TIMES if units is not None)
    same = (
        c for c in columns if c and contents.items[c].shape == contents.items[units or ""].shape
    )
    return next(same, None)


def guess_counts(contents: Contents) -> str | None:
    """Return the name of what looks like counts: an ordinary name with two or three axes."""
    found = guess(contents, "counts")
    item = None if found is None else contents.items[found]
    return found if isinstance(item, ArrayItem) and len(item.shape) in (2, 3) else None


def guess_one(contents: Contents, name: str) -> str | None:
    """Return the file's spelling of one name, or None."""
    return next((n for n in contents.items if _plain(n) == _plain(name)), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
