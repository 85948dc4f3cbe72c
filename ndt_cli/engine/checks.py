"""What is refused before the first step."""

from ndt_cli.data.checks import check_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.run_facts import SplitFacts
from ndt_cli.engine.run_folder import BEST, RunFolder
from ndt_cli.engine.validation import measures_of
from ndt_cli.errors import DataError, RunError, SettingsError
from ndt_cli.settings.tree import Settings


def check_trainable(recording: Recording, settings: Settings) -> None:
    """Refuse data that cannot be trained on with these settings.

    Raises
    ------
    DataError
        When they are not sound (`check_recording`), when training counts are unknown, or when
        the validation trials lack what ``train.choose_by`` measures.
    """
    check_recording(recording)
    if not recording.train.hidden_counts_known:
        raise DataError(
            f"{recording.source}: the training trials lack the counts of held-out neurons or "
            "forward bins, which are what training predicts",
            "give a file with all training counts, or leave those neurons and bins out",
        )
    choose_by = settings.train.choose_by
    measure, _ = BEST[f"best-{choose_by}"]
    if measure not in measures_of(recording.valid):
        needs = {"rate-r2": "true rates", "co-bps": "held-out neurons whose counts are known"}
        raise DataError(
            f'train.choose_by = "{choose_by}" needs {needs[choose_by]}, and the validation '
            f"trials of {recording.source} have none",
            "use --set train.choose_by=masked-loss",
        )


# Settings that say how long a run goes on and how it is saved, not what it computes.
_FREE = ("max_epochs", "patience_epochs", "save_interval_minutes", "on_save_error")


def check_resumable(before: Settings, now: Settings) -> None:
    """Refuse to resume a run with settings that would make it another run.

    Raises
    ------
    SettingsError
        When more than ``train.max_epochs``, ``train.patience_epochs`` and how it is saved differ.
    """
    free = {name: getattr(now.train, name) for name in _FREE}
    if before.model_copy(update={"train": before.train.model_copy(update=free)}) != now:
        allowed = ", ".join(f"train.{name}" for name in _FREE)
        raise SettingsError(
            f"a resumed run takes --set for these only: {allowed}",
            "for other settings start a new run: ndt train --config RUN/settings.toml --set ...",
        )


def check_same_data(folder: RunFolder, recording: Recording) -> None:
    """Refuse to resume a run on other data.

    Raises
    ------
    RunError
        When a split is not the one that the run was trained on; the message says what differs.
    """
    facts = folder.facts().data
    for split, before in (("train", facts.train), ("valid", facts.valid)):
        now = SplitFacts.of(getattr(recording, split))
        key = before.difference(now)
        if key is not None:
            what = f"{key} is {getattr(now, key)}, was {getattr(before, key)}"
            raise RunError(
                f"{recording.source}: its {split} trials are not those that {folder.path} was "
                f"trained on: {'other counts' if key == 'fingerprint' else what}",
                "put the old file back, or start a new run: ndt train --data FILE",
            )
