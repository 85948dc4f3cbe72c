"""Progress of a submission: one display at a time, each stage with its duration."""

import io
import re
import time

import pytest

from ndt_cli.commands import console, nlb_submit
from ndt_cli.commands import progress as nlb_progress
from ndt_cli.commands.console import make_console
from ndt_cli.commands.progress import SubmitProgress
from ndt_cli.engine.events import EpochDone, Started
from ndt_cli.nlb.submit import DatasetResult

STARTED = Started(
    run="r", compute="cpu", n_threads=1, n_parameters=9, n_train_trials=2, n_valid_trials=1,
    first_epoch=0, max_epochs=2, steps_per_epoch=1, notes=(),
)  # fmt: skip
EPOCH = EpochDone({"epoch": 1.0, "train_loss": 0.5, "seconds": 1.0})


@pytest.fixture
def shown(monkeypatch):
    """Replace standard error; tell whether it is a terminal, get what was written."""

    def replace(terminal):
        stream = io.StringIO()
        log = make_console(file=stream, width=80, force_terminal=terminal)
        for module in (console, nlb_progress):
            monkeypatch.setattr(module, "log", log)
        return stream

    return replace


def test_a_log_file_has_a_line_for_each_stage_with_its_seconds(shown):
    stream = shown(terminal=False)
    with SubmitProgress() as progress:
        progress.stage("mc_rtt: reading [spikes]", 0, 6)
        progress.stage("mc_rtt: reading [spikes]", 6, 6)
        assert stream.getvalue() == "mc_rtt: reading [spikes]"  # what it is at, while it is
        progress.training(STARTED)
        progress.training(EPOCH)
        progress.stage("mc_rtt: scoring NDT", 0, 1)
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"mc_rtt: reading \[spikes\]  \d+\.\d s", lines[0])
    assert lines[1].startswith("2 training and 1 validation trials")
    assert re.fullmatch(r"mc_rtt: scoring NDT  \d+\.\d s", lines[-1])
    assert "\x1b" not in stream.getvalue()


def test_a_failed_stage_is_not_reported_as_done(shown):
    stream = shown(terminal=False)

    def fail(progress):
        with progress:
            progress.stage("scoring", 0, 1)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail(SubmitProgress())
    assert re.fullmatch(r"scoring  stopped after \d+\.\d s\n", stream.getvalue())


def test_on_a_terminal_the_time_moves_while_a_stage_tells_nothing(shown):
    stream = shown(terminal=True)
    with SubmitProgress() as progress:
        progress.stage("scoring NDT", 0, 1)
        time.sleep(0.2)
        before = len(stream.getvalue())
        time.sleep(0.3)
        assert len(stream.getvalue()) > before
        assert "0:00:00" in stream.getvalue()


def test_a_terminal_shows_the_progress_of_a_stage(shown):
    stream = shown(terminal=True)
    with SubmitProgress() as progress:
        progress.stage("reading spikes", 2, 6)
        time.sleep(0.2)
    assert "reading spikes 2/6" in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_stages_and_training_are_never_shown_at_once(shown, terminal, monkeypatch):
    shown(terminal)
    alive = []

    class Training:
        def __enter__(self):
            assert not alive
            alive.append(self)
            return self

        def __exit__(self, *error):
            alive.remove(self)

        def __call__(self, event):
            assert alive == [self]

    class Stage(nlb_progress._Stage):
        def __init__(self, what):
            assert not alive
            super().__init__(what)
            alive.append(self)

        def end(self, done):
            super().end(done)
            alive.remove(self)

    monkeypatch.setattr(nlb_progress, "TrainingProgress", Training)
    monkeypatch.setattr(nlb_progress, "_Stage", Stage)
    with SubmitProgress() as progress:
        for step in (STARTED, "reading", "cutting", STARTED, EPOCH, STARTED, "scoring"):
            if isinstance(step, str):
                progress.stage(step, 0, 1)
                progress.stage(step, 1, 1)
            else:
                progress.training(step)
            assert len(alive) == 1
    assert not alive


# ------------------------------------------------------------------ the table
def shown_table(scores, capsys):
    nlb_submit._show(DatasetResult("dmfc_rsg_20", "val", None, ["a"], [7], scores))
    return capsys.readouterr().out


def test_a_score_that_is_not_defined_is_a_dash_with_its_reason(capsys):
    scores = {"NDT": {"tp corr": -0.5}, "mean rate": {"tp corr": float("nan")}}
    text = shown_table(scores, capsys)
    assert "nan" not in text
    assert re.search(r"mean rate +-\n", text)
    assert "constant rates" in text
    assert "one member trained for 7 epochs" in text
    del scores["mean rate"]
    assert "constant rates" not in shown_table(scores, capsys)
