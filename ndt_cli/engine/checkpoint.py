"""Checkpoints: tensors and JSON in one safetensors file, so that loading runs nothing.

A file holds ``model.*`` weights and, in a checkpoint to resume from, ``optimizer.*`` and
``stream.*`` states. Its header says what model it is and where training stood.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ndt_cli.atomic import write_atomic
from ndt_cli.errors import CheckpointError
from ndt_cli.model.network import ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import ModelSettings

FORMAT = "ndt-checkpoint"
VERSION = 1

_OPTIMIZER_STATES = ("step", "exp_avg", "exp_avg_sq")
_STREAMS = ("order", "mask", "dropout")


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

    def build_model(self) -> NeuralDataTransformer:
        """Return the network with these weights, on the CPU.

        Raises
        ------
        CheckpointError
            When the weights do not fit the network that the header describes.
        """
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
            model = NeuralDataTransformer(self.model_settings, self.shape)
        self.load_into(model)
        return model

    def load_into(self, model: NeuralDataTransformer) -> None:
        """Set the weights of a network of the same settings and shape.

        Raises
        ------
        CheckpointError
            When they do not fit.
        """
        if model.shape != self.shape:
            raise CheckpointError(
                f"{self.path}: it is for {self.shape}, and the data make {model.shape}",
                "give the data that the run was trained on",
            )
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            details = str(error).strip().splitlines()[-1].strip()
            raise self._damaged(f"its weights do not fit its own settings: {details}") from error

    def load_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Set the optimizer to the state that `optimizer_tensors` took.

        Raises
        ------
        CheckpointError
            When a state is missing or of another shape.
        """
        for name, parameter in model.named_parameters():
            state = {}
            for key in _OPTIMIZER_STATES:
                tensor = self.optimizer.get(f"{name}/{key}")
                if tensor is None or (key != "step" and tensor.shape != parameter.shape):
                    raise self._damaged(f"the optimizer's {key} of {name} is not in it")
                # The fused optimizer counts steps beside the parameters, others on the CPU.
                fused = optimizer.defaults["fused"]
                state[key] = tensor if key == "step" and not fused else tensor.to(parameter.device)
            optimizer.state[parameter] = state

    def stream_states(self, rank: int, world_size: int) -> dict[str, Tensor]:
        """Return the states of the random streams of a process.

        Raises
        ------
        CheckpointError
            When they are not all there, or another number of processes saved them.
        """
        saved_by = len({name.partition(".")[0] for name in self.streams})
        if saved_by not in (0, world_size):
            raise CheckpointError(
                f"{self.path}: it was saved by {saved_by} processes, and {world_size} resume it",
                "start as many as before: each has its own random streams",
            )
        states = {name: self.streams.get(f"rank{rank}.{name}") for name in _STREAMS}
        found = {name: state for name, state in states.items() if state is not None}
        if len(found) < len(_STREAMS):
            raise self._damaged("the random streams to resume with are not in it")
        return found

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {what}",
            "the file is damaged, was changed by hand, or is a best checkpoint, which holds "
            "weights alone; training resumes from last.safetensors",
        )

    def save(self, path: Path) -> None:
        """Write the file in one piece."""
        groups = {"model": self.model, "optimizer": self.optimizer, "stream": self.streams}
        tensors = {
            f"{group}.{name}": tensor.detach().cpu().contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        header = {
            "format": FORMAT,
            "version": str(VERSION),
            "model_settings": self.model_settings.model_dump_json(),
            "shape": json.dumps(asdict(self.shape)),
            "progress": json.dumps(self.progress, allow_nan=False),
        }
        write_atomic(path, lambda temporary: save_file(tensors, temporary, header))

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint file.

        Raises
        ------
        CheckpointError
            When the file is missing, truncated, not a checkpoint, or of a newer version.
        """
        if not path.is_file():
            raise CheckpointError(
                f"{path}: there is no such checkpoint",
                "a run has none before its first validation (train.val_interval_epochs), and "
                "none for a measure that its data do not allow",
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                _check_header(path, header)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "stream": {}}
            for name, tensor in tensors.items():
                group, _, member = name.partition(".")
                groups[group][member] = tensor
            return cls(
                model=groups["model"],
                model_settings=ModelSettings.model_validate_json(header["model_settings"]),
                shape=ModelShape(**json.loads(header["shape"])),
                progress=json.loads(header["progress"]),
                optimizer=groups["optimizer"],
                streams=groups["stream"],
                path=path,
            )
        except (SafetensorError, KeyError, TypeError, ValueError, ValidationError) as error:
            raise CheckpointError(
                f"{path}: not a whole ndt checkpoint ({type(error).__name__}: {error})",
                "use another checkpoint of the run: --checkpoint last, or best-masked-loss",
            ) from error


def _check_header(path: Path, header: dict[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a safetensors file, but not an ndt checkpoint",
            "give the run folder that ndt train wrote",
        )
    version = header.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {version or 'unknown'}; this ndt reads up to {VERSION}",
            "update ndt-cli",
        )


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: NeuralDataTransformer
) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named ``<parameter>/<state>``."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
