"""Two run folders compared, bit for bit, in all that does not depend on the time of day."""

import json

from builders import same_tensors

from ndt_cli.engine.checkpoint import Checkpoint


def timeless(record):
    """A record of metrics or progress without the seconds."""
    return {key: value for key, value in record.items() if key != "seconds"}


def timeless_metrics(run):
    """The lines of ``metrics.jsonl`` without the seconds."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [timeless(json.loads(line)) for line in lines]


def assert_same_run(found, expected):
    """Compare all that two runs leave, bit for bit, except how long they took."""
    assert timeless_metrics(found) == timeless_metrics(expected)
    names, others = (
        sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (expected, found)
    )
    assert names == others, (names, others)
    for name in names:
        one, other = (Checkpoint.load(run / "checkpoints" / name) for run in (found, expected))
        assert same_tensors(one.model, other.model), name
        assert same_tensors(one.optimizer, other.optimizer), name
        assert same_tensors(one.streams, other.streams), name
        assert timeless(one.progress) == timeless(other.progress), name
