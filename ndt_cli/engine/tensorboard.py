"""TensorBoard events of a run, where they are asked for."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import MissingExtraError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def require_tensorboard() -> None:
    """Check that TensorBoard is installed, before anything is written.

    Raises
    ------
    MissingExtraError
        When it is not.
    """
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
