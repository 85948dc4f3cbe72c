"""Where training stands: what a checkpoint keeps beside tensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ndt_cli.atomic import write_atomic
from ndt_cli.data.checks import MAX_COUNT
from ndt_cli.engine.measures import BEST_CHECKPOINTS, best_checkpoint
from ndt_cli.engine.streams import Streams
from ndt_cli.errors import CheckpointError
from ndt_cli.model.network import LayerMath, ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import ModelSettings


@dataclass
class Progress:
    """Position in the training, and the best validation so far.

    Attributes
    ----------
    epoch : int
        Epoch under way, from 0; equal to the epochs that are complete.
    step : int
        Steps taken in it.
    loss_total, n_scored : float
        Summed training loss and scored entries of the steps taken in it.
    seconds : float
        Time spent training so far, over all resumptions.
    validated_epoch : int
        Epochs that were complete at the last validation.
    best : dict
        By checkpoint name: the best value so far and the epochs done when it came.
    """

    epoch: int = 0
    step: int = 0
    loss_total: float = 0.0
    n_scored: float = 0.0
    seconds: float = 0.0
    validated_epoch: int = 0
    best: dict[str, tuple[float, int]] = field(default_factory=dict)

    def validated(self, measures: dict[str, float]) -> list[str]:
        """Note the measures of a validation; return the names of the checkpoints to save."""
        self.validated_epoch = self.epoch
        better = []
        for name, measure in BEST_CHECKPOINTS.items():
            value = measures.get(measure.key, math.nan)
            if not math.isfinite(value):
                continue
            before = self.best.get(name)
            if before is None or measure.is_better(value, before[0]):
                self.best[name] = (value, self.epoch)
                better.append(name)
        return better

    def epochs_without_improvement(self, choose_by: str) -> int:
        """Epochs from the best value of a measure of ``train.choose_by`` to the last validation.

        Epochs since that validation do not count: they may have been better.
        """
        best = self.best.get(best_checkpoint(choose_by))
        return self.validated_epoch - (best[1] if best else 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a checkpoint's header."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Return what `to_json` made."""
        best = {name: (float(v), int(epoch)) for name, (v, epoch) in values["best"].items()}
        return cls(**{**values, "best": best})


# ------------------------------------------------------------------------------------------------
# The header of a checkpoint: what model it is, and where training stood, as JSON texts.
# ------------------------------------------------------------------------------------------------


FORMAT = "ndt-checkpoint"
VERSION = 1

# Far more than can be trained on: a damaged number must not take the machine's memory.
_MOST_BINS, _MOST_NEURONS = 2**17, 2**20


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes
    ----------
    model_settings : ModelSettings
        The ``[model]`` section that the network was built from.
    shape : ModelShape
        Neurons, bins and largest count that it was built for.
    progress : dict
        Where training stood: the fields of `Progress` as plain JSON values.
    """

    model_settings: ModelSettings
    shape: ModelShape
    progress: dict[str, Any]

    def to_text(self) -> dict[str, str]:
        """Return the texts that the file carries."""
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "model_settings": self.model_settings.model_dump_json(),
            "shape": json.dumps(asdict(self.shape)),
            "progress": json.dumps(self.progress, allow_nan=False),
        }


def read_header(path: Path, texts: Mapping[str, str]) -> Header:
    """Read what `Header.to_text` made, and believe nothing of it.

    Raises
    ------
    CheckpointError
        If it is none, of a newer version, or a value is missing, of another type or absurd.
    """
    if texts.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a safetensors file, but not an ndt checkpoint",
            "give the run folder that ndt train wrote",
        )
    version = texts.get("version", "")
    # At most four digits: Python refuses to read a number of thousands of them.
    if not (version.isascii() and version.isdecimal() and len(version) < 5) or (
        int(version) > VERSION
    ):
        raise CheckpointError(
            f"{path}: checkpoint format {version[:9] or 'unknown'}; this ndt reads up to {VERSION}",
            "update ndt-cli",
        )
    try:
        header = Header(
            model_settings=ModelSettings.model_validate_json(texts["model_settings"]),
            shape=TypeAdapter(ModelShape).validate_json(texts["shape"], strict=True),
            progress=_read_progress(texts["progress"]),
        )
        _check_shape(header.shape)
    except (KeyError, ValueError, ValidationError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: its header is damaged ({reason[:300]})",
            "use another checkpoint of the run: --checkpoint last, or best-masked-loss",
        ) from error
    return header


def _read_progress(text: str) -> dict[str, Any]:
    progress = TypeAdapter(Progress).validate_json(text, strict=True)
    best_values = [value for value, _ in progress.best.values()]
    numbers = [progress.loss_total, progress.n_scored, progress.seconds, *best_values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("progress holds a number that is not finite")
    if min(progress.epoch, progress.step, progress.validated_epoch) < 0:
        raise ValueError("progress holds a negative epoch or step")
    return progress.to_json()


def _check_shape(shape: ModelShape) -> None:
    limits = (
        ("n_neurons", 1, _MOST_NEURONS),
        ("n_bins", 1, _MOST_BINS),
        ("max_count", 0, MAX_COUNT),
    )
    for name, least, most in limits:
        if not least <= getattr(shape, name) <= most:
            raise ValueError(f"{name} is {getattr(shape, name)}; expected {least} to {most}")


# ------------------------------------------------------------------------------------------------
# Checkpoints: tensors and JSON in one safetensors file, so that loading runs nothing.
#
# A file holds ``model.*`` weights and, in a checkpoint to resume from, ``optimizer.*`` and
# ``stream.*`` states. Its header says what model it is and where training stood.
# ------------------------------------------------------------------------------------------------


_OPTIMIZER_STATES = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes
    ----------
    model : dict of str to Tensor
        Weights by name.
    model_settings : ModelSettings
        The ``[model]`` section that the network was built from.
    shape : ModelShape
        Neurons, bins and largest count that it was built for.
    progress : dict
        Where training stood; plain JSON values.
    optimizer, streams : dict of str to Tensor
        States to resume from; empty in a best checkpoint.
    path : Path or None
        The file that it was read from.
    """

    model: dict[str, Tensor]
    model_settings: ModelSettings
    shape: ModelShape
    progress: dict[str, Any]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    streams: dict[str, Tensor] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def of_model(
        cls,
        model: NeuralDataTransformer,
        progress: dict[str, Any],
        optimizer: dict[str, Tensor] | None = None,
        streams: dict[str, Tensor] | None = None,
    ) -> "Checkpoint":
        """Take a checkpoint of a model; tensors are not copied."""
        state = model.state_dict()
        return cls(state, model.settings, model.shape, progress, optimizer or {}, streams or {})

    def build_model(self, math: LayerMath | None = None) -> NeuralDataTransformer:
        """Return the network with these weights, on the CPU, its layers computed by ``math``.

        Raises
        ------
        CheckpointError
            If the weights do not fit the network that the header describes.
        """
        self._check_weights()
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
            model = NeuralDataTransformer(self.model_settings, self.shape, math)
        self.load_into(model)
        return model

    def load_into(self, model: NeuralDataTransformer) -> None:
        """Set the weights of a network of the same settings and shape.

        Raises
        ------
        CheckpointError
            If they do not fit.
        """
        if model.shape != self.shape:
            raise CheckpointError(
                f"{self.path}: it is for {self.shape}, and the data make {model.shape}",
                "give the data that the run was trained on",
            )
        if model.settings != self.model_settings:
            raise self._damaged("it was saved with other [model] settings")
        self._check_weights()
        model.load_state_dict(self.model)

    def _check_weights(self) -> None:
        """Refuse weights that do not fit the header, before any memory is taken for them."""
        try:
            with torch.device("meta"):
                expected = NeuralDataTransformer(self.model_settings, self.shape).state_dict()
        except (RuntimeError, TypeError, ValueError) as error:  # sizes past what torch counts
            raise self._damaged(f"its header describes no network ({error})") from error
        for name in sorted(expected.keys() | self.model.keys()):
            mine, its = self.model.get(name), expected.get(name)
            if mine is None or its is None:
                raise self._damaged(f"{name} is {'missing' if mine is None else 'unknown'}")
            if mine.shape != its.shape or mine.dtype != its.dtype:
                raise self._damaged(
                    f"{name} is {_kind(mine)}, and its own settings make it {_kind(its)}"
                )

    def load_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Set the optimizer to the state that `optimizer_tensors` took.

        Raises
        ------
        CheckpointError
            If a state is missing or of another shape.
        """
        if not self.optimizer and not self.progress["epoch"] and not self.progress["step"]:
            return  # before the first step there is none
        for name, parameter in model.named_parameters():
            state = {}
            for key in _OPTIMIZER_STATES:
                tensor = self.optimizer.get(f"{name}/{key}")
                shape = torch.Size() if key == "step" else parameter.shape
                if tensor is None or tensor.shape != shape or tensor.dtype != torch.float32:
                    raise self._damaged(f"the optimizer's {key} of {name} is not in it")
                # The fused optimizer counts steps beside the parameters, others on the CPU.
                fused = optimizer.defaults["fused"]
                state[key] = tensor if key == "step" and not fused else tensor.to(parameter.device)
            optimizer.state[parameter] = state

    def load_streams(self, streams: Streams, rank: int, world_size: int) -> None:
        """Set the random streams of a process to where they stood.

        Raises
        ------
        CheckpointError
            If they are not all there, another number of processes saved them, or another kind
            of device did.
        """
        saved_by = len({name.partition(".")[0] for name in self.streams})
        if saved_by not in (0, world_size):
            raise CheckpointError(
                f"{self.path}: it was saved by {saved_by} processes, and {world_size} resume it",
                "start as many as before: each has its own random streams",
            )
        states = {name: self.streams.get(f"rank{rank}.{name}") for name in streams.state()}
        found = {name: state for name, state in states.items() if state is not None}
        if len(found) < len(states):
            raise self._damaged("the random streams to resume with are not in it")
        try:
            streams.restore(found)
        except (RuntimeError, TypeError, ValueError) as error:
            raise self._damaged(f"its random streams are not of this device ({error})") from error

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {what}",
            "the file is damaged, was changed by hand, or is a best checkpoint, which holds "
            "weights alone; training resumes from last.safetensors",
        )

    def save(self, path: Path) -> None:
        """Write the file in one piece.

        Raises
        ------
        OSError
            If the disk or the folder refuses it; an older file is left as it was.
        """
        groups = {"model": self.model, "optimizer": self.optimizer, "stream": self.streams}
        tensors = {
            f"{group}.{name}": tensor.detach().cpu().contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        header = Header(self.model_settings, self.shape, self.progress).to_text()
        # Its save_file would leave files of its own names after a kill, readable to no one else.
        content = save(tensors, header)
        write_atomic(path, lambda temporary: temporary.write_bytes(content), overwrite=True)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint file.

        Raises
        ------
        CheckpointError
            If the file is missing, truncated, not a checkpoint, or of a newer version.
        """
        if not path.is_file():
            raise CheckpointError(
                f"{path}: there is no such checkpoint",
                "best ones come with the first validation (train.val_interval_epochs), and only "
                "for measures that the data allow",
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = read_header(path, file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: not a whole ndt checkpoint ({error})",
                "use another checkpoint of the run: --checkpoint last, or best-masked-loss",
            ) from error
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "stream": {}}
        checkpoint = cls(
            model=groups["model"],
            model_settings=header.model_settings,
            shape=header.shape,
            progress=header.progress,
            optimizer=groups["optimizer"],
            streams=groups["stream"],
            path=path,
        )
        for name, tensor in tensors.items():
            group, _, member = name.partition(".")
            if group not in groups:
                raise checkpoint._damaged(f"it holds {name}, which no checkpoint does")
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise checkpoint._damaged(f"{name} holds numbers that are not finite")
            groups[group][member] = tensor
        return checkpoint


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: NeuralDataTransformer
) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named ``<parameter>/<state>``."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
