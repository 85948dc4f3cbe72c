"""TensorBoard events of a run, if they are asked for."""

import math
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import MissingExtraError
from ndt_cli.settings.explain import plain_values
from ndt_cli.settings.tree import Settings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def require_tensorboard() -> None:
    """Check that TensorBoard is installed, before anything is written."""
    if find_spec("tensorboard") is None:
        raise MissingExtraError(
            "train.tensorboard = true needs TensorBoard, which is not installed",
            'install it with: pip install "ndt-cli[tensorboard]"',
        )


class EventLog:
    """Scalars by epoch; writes nothing when made without a writer."""

    def __init__(self, writer: "SummaryWriter | None") -> None:
        self._writer = writer

    @classmethod
    def maybe(cls, folder: RunFolder, wanted: bool, first_epoch: int) -> "EventLog":
        """Open a run's log where it is wanted; events past ``first_epoch`` are dropped."""
        if not wanted:
            return cls(None)
        from torch.utils.tensorboard import SummaryWriter

        _wait_for_the_next_second(folder.tensorboard)
        return cls(SummaryWriter(str(folder.tensorboard), purge_step=first_epoch + 1))

    def add(self, record: Mapping[str, float]) -> None:
        """Add the record of an epoch."""
        if self._writer is not None:
            for name, value in record.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(record["epoch"]))

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def _wait_for_the_next_second(events: Path) -> None:
    """Wait while a file of this second is there.

    TensorBoard reads files in the order of their names, which begin with the second; a resumed
    run's file that sorts before the first one would take its events away.
    """
    now = time.time()
    if any(events.glob(f"events.out.tfevents.{int(now):010d}.*")):
        time.sleep(1 - now % 1)


def log_results(
    folder: RunFolder,
    settings: Settings,
    scores: Mapping[str, float],
    pictures: Sequence[Path],
    epoch: int,
) -> None:
    """Add what a finished run came to: its line on the hyperparameter page, and its pictures.

    Scores that are not finite are left out.
    """
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter

    hyperparameters = {
        f"{section}.{name}": value if isinstance(value, bool | int | float | str) else str(value)
        for section, values in plain_values(settings).items()
        for name, value in values.items()
    }
    final = {f"final/{name}": score for name, score in scores.items() if math.isfinite(score)}
    _wait_for_the_next_second(folder.tensorboard)
    with SummaryWriter(str(folder.tensorboard)) as writer:
        # The name "." puts them into the run itself; any other would be a run of its own.
        writer.add_hparams(hyperparameters, final, run_name=".", global_step=epoch)
        for picture in pictures:
            pixels = imread(picture)[:, :, :3]
            writer.add_image(f"figures/{picture.stem}", pixels, epoch, dataformats="HWC")
