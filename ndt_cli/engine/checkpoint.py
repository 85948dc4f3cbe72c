"""Checkpoints: where training stands, the file that holds it, and saving it while a run trains."""

import hashlib
import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ndt_cli.atomic import write_atomic
from ndt_cli.data.spike_data import MAX_COUNT
from ndt_cli.engine.batches import Streams
from ndt_cli.engine.measures import BEST_CHECKPOINTS, best_checkpoint
from ndt_cli.engine.optimizer import state_names
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trackers import EventLog
from ndt_cli.errors import CheckpointError, RunError, RunWarning, called
from ndt_cli.model.network import LayerMath, ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import ModelSettings, Settings, TrainSettings


@dataclass
class Progress:
    """Position in the training, and the best validation so far."""

    epoch: int = 0  # under way, from 0: as many as are complete
    step: int = 0  # steps taken in it
    loss_total: float = 0.0  # of the steps taken in it
    n_scored: float = 0.0  # entries, of the steps taken in it
    seconds: float = 0.0  # spent training so far, over all resumptions
    validated_epoch: int = 0  # epochs that were complete at the last validation
    # By checkpoint name: the best value so far, and the epochs that were complete then.
    best: dict[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunFolder) -> "Progress":
        """Return how far a run is after its last complete epoch, from its metrics."""
        progress = cls()
        for record in run.read_metrics():
            progress.epoch, progress.seconds = int(record["epoch"]), record.get("seconds", 0.0)
            progress.validated(record)
        return progress

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


# Settings that may differ between a run and its checkpoints: where the data and the processor are,
# how it is saved, and how long it trains.
PLACES = (
    "data.file",
    "data.files",
    "train.device",
    "train.tensorboard",
    "train.save_interval_minutes",
    "train.on_save_error",
)
RESUMABLE = ("train.max_epochs", "train.patience_epochs", *PLACES)


def changed_settings(
    before: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
    free: Sequence[str] = RESUMABLE,
) -> list[str]:
    """Say which settings differ, but for those of `free`; both as plain values."""
    return [
        f"{section}.{name} was {value}, and is {other}"
        for section, values in before.items()
        for name, value in values.items()
        if (other := now.get(section, {}).get(name, value)) != value
        and f"{section}.{name}" not in free
    ]


@dataclass(frozen=True)
class Origin:
    """The run that a checkpoint is of: its name, its settings and the data it trained on."""

    id: str
    data: dict[str, str]  # fingerprints
    settings: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, folder: RunFolder, settings: Settings) -> "Origin":
        """Return what the checkpoints of a run with these settings must say."""
        facts = folder.facts()
        data = {
            f"{split} {what}": value
            for split, its in (("training", facts.data.train), ("validation", facts.data.valid))
            for what, value in (("counts", its.fingerprint), ("true rates", its.rates_fingerprint))
            if value is not None
        }
        return cls(facts.id, data, settings.model_dump(mode="json"))

    def differences(self, run: "Origin") -> list[str]:
        """Say in what a checkpoint is not of a run, the most telling first; empty if it is."""
        changes = changed_settings(self.settings, run.settings)
        found = [f"{change} in settings.toml" for change in changes]
        found += [f"other {what}" for what, its in self.data.items() if run.data.get(what) != its]
        if self.id != run.id and not found:
            found = ["another run of the same settings and data"]
        return found


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself: its network, its `Progress` and the run it is of."""

    model_settings: ModelSettings
    shape: ModelShape
    progress: dict[str, Any]
    origin: Origin | None = None  # None in runs of older versions

    def to_text(self) -> dict[str, str]:
        """Return the texts that the file carries."""
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "model_settings": self.model_settings.model_dump_json(),
            "shape": json.dumps(asdict(self.shape)),
            "progress": json.dumps(self.progress, allow_nan=False),
            **({"origin": json.dumps(asdict(self.origin))} if self.origin else {}),
        }


def read_header(path: Path, texts: Mapping[str, str]) -> Header:
    """Read what `Header.to_text` made, checking every value; raise `CheckpointError`."""
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
            origin=TypeAdapter(Origin).validate_json(texts["origin"], strict=True)
            if "origin" in texts
            else None,
        )
        _check_shape(header.shape)
    except (KeyError, ValueError, ValidationError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else []
        unknown = [p["loc"][-1] for p in problems if p["type"] == "extra_forbidden"]
        if unknown:
            raise CheckpointError(
                f"{path}: it was saved by another version of ndt, with the setting model."
                f"{unknown[0]}, which this one does not know",
                "evaluate it with the version that trained it (run.json names it), or train again",
            ) from error
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: its header is damaged ({reason[:300]})",
            _others(path),
        ) from error
    return header


def _others(path: Path) -> str:
    """Say which checkpoints there are in place of one that cannot be used."""
    names = sorted(other.stem for other in path.parent.glob("*.safetensors") if other != path)
    found = ", ".join(f"`checkpoint='{name}'`" for name in names)
    return f"The run has {found or 'no other'}; training resumes from last alone."


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


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, what they belong to, and the states to resume from.

    A best checkpoint has no states of the optimizer and the random streams.
    """

    model: dict[str, Tensor]
    model_settings: ModelSettings
    shape: ModelShape
    progress: dict[str, Any]  # a `Progress` as plain JSON values
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    streams: dict[str, Tensor] = field(default_factory=dict)
    path: Path | None = None
    origin: Origin | None = None

    def check_origin(self, run: Origin, *, accept_changes: bool = False) -> None:
        """Refuse a checkpoint of another run, or warn if changes are accepted."""
        found = [] if self.origin is None else self.origin.differences(run)
        if found:
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            refuse_unless(
                accept_changes,
                f"{self.path}: it was not saved by this run as it is now: "
                f"{'; '.join(found[:3])}{more}",
                "Put back what was changed",
            )

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

    def of_neurons(self, columns: Tensor) -> "Checkpoint":
        """Return the model of some of the neurons, which gives the same rates of them.

        Parameters
        ----------
        columns : (neurons,) int tensor
            Which. The counts of all others stand as zero: the embedding must be linear.
        """
        assert self.model_settings.embedding == "linear"
        kept = dict(self.model)
        kept["embedding.projection.weight"] = kept["embedding.projection.weight"][:, columns]
        for name in ("readout.last.weight", "readout.last.bias"):
            rows = kept[name].view(self.shape.n_neurons, -1, *kept[name].shape[1:])
            kept[name] = rows[columns].flatten(0, 1)
        shape = replace(self.shape, n_neurons=len(columns))
        return replace(self, model=kept, shape=shape, optimizer={}, streams={})

    def build_model(self, math: LayerMath | None = None) -> NeuralDataTransformer:
        """Return the network with these weights, on the CPU, its layers computed by ``math``."""
        self._check_weights()
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
            model = NeuralDataTransformer(self.model_settings, self.shape, math)
        self.load_into(model)
        return model

    def load_into(self, model: NeuralDataTransformer) -> None:
        """Set the weights of a network of the same settings and shape."""
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
        if "layers.0.norm_attention.gain" in self.model:
            raise CheckpointError(
                f'{self.path}: it was trained when model.norm = "scale" put ScaleNorm into every '
                "layer; now it is the norm of the encoder's output alone, as in NDT1",
                "train it again; the version of ndt that trained it still evaluates it",
            )
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
        """Set the optimizer to the state that `optimizer_tensors` took."""
        if not self.optimizer and not self.progress["epoch"] and not self.progress["step"]:
            return  # before the first step there is none
        for name, parameter in model.named_parameters():
            state = {}
            for key in state_names(optimizer, parameter):
                tensor = self.optimizer.get(f"{name}/{key}")
                shape = torch.Size() if key == "step" else parameter.shape
                if tensor is None or tensor.shape != shape or tensor.dtype != torch.float32:
                    raise self._damaged(f"the optimizer's {key} of {name} is not in it")
                # The fused optimizer counts steps beside the parameters, others on the CPU.
                fused = optimizer.defaults["fused"]
                state[key] = tensor if key == "step" and not fused else tensor.to(parameter.device)
            optimizer.state[parameter] = state

    def load_streams(self, streams: Streams, rank: int, world_size: int) -> None:
        """Set the random streams of a process to where they stood."""
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
        """Write the file in one piece; after an OSError an older file is left as it was."""
        groups = {"model": self.model, "optimizer": self.optimizer, "stream": self.streams}
        tensors = {
            f"{group}.{name}": tensor.detach().cpu().contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        header = Header(self.model_settings, self.shape, self.progress, self.origin).to_text()
        # Its save_file would leave files of its own names after a kill, readable to no one else.
        content = save(tensors, header)
        write_atomic(path, lambda temporary: temporary.write_bytes(content), overwrite=True)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint file."""
        if not path.is_file():
            raise CheckpointError(
                f"{path}: there is no such checkpoint",
                f"{_others(path)} Best ones come with the first validation "
                "(train.val_interval_epochs), and only for measures that the data allow.",
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = read_header(path, file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: not a whole ndt checkpoint ({error})", _others(path)
            ) from error
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # of safetensors' Rust, out of memory
                raise MemoryError(f"{path}: {error}") from error
            raise
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "stream": {}}
        checkpoint = cls(
            model=groups["model"],
            model_settings=header.model_settings,
            shape=header.shape,
            progress=header.progress,
            optimizer=groups["optimizer"],
            streams=groups["stream"],
            path=path,
            origin=header.origin,
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


def digest_weights(networks: Iterable[nn.Module]) -> str:
    """Return a digest of the weights of networks."""
    digest = hashlib.sha256()
    for network in networks:
        for weights in network.state_dict().values():
            digest.update(weights.cpu().numpy().tobytes())
    return digest.hexdigest()


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: NeuralDataTransformer
) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named ``<parameter>/<state>``."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


# ------------------------------------------------------------------------------------------------
# Saving a run while it trains, on a disk that may be full for a while.
# ------------------------------------------------------------------------------------------------


History = Sequence[Mapping[str, float]]


class Saver:
    """Writes checkpoints and ``metrics.jsonl``, and keeps what could not be written.

    The last checkpoint is written after the best ones and the log that it counts on, so that
    what is on disk fits together at whatever moment the process is killed. If ``on_save_error``
    is "go-on", what cannot be written is kept until the next save, with a warning.
    """

    def __init__(self, folder: RunFolder, settings: TrainSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._saved_at = time.monotonic()
        self._waiting: dict[str, Checkpoint] = {}  # best ones; a newer last one replaces the last
        self._log_is_whole = True
        self._shows = True
        self._place: tuple[int, int] | None = None  # of run.json on its disk
        self._id = ""
        self.is_behind = False  # something that should be on disk is not

    def is_due(self) -> bool:
        """Return whether ``save_interval_minutes`` have passed since the last checkpoint."""
        minutes = (time.monotonic() - self._saved_at) / 60
        return minutes >= self._settings.save_interval_minutes

    def record(self, history: History) -> None:
        """Add the last record of a history to the log."""
        if not self._log_is_whole:  # the next save writes all of it
            return
        self._log_is_whole = False
        try:
            self._check_place()
            self._folder.append_metrics(history[-1])
            self._log_is_whole = True
        except OSError as error:
            self._failed("metrics.jsonl", error)

    def show(self, events: EventLog, history: History) -> None:
        """Add the last record to the TensorBoard log, until that cannot be written.

        Its writer does not recover, and ``metrics.jsonl`` says the same, so training continues
        whatever ``on_save_error`` is.
        """
        if not self._shows:
            return
        try:
            events.add(history[-1])
        except OSError as error:
            self._shows = False
            warnings.warn(
                f"{self._folder.tensorboard} cannot be written ({error.strerror or error}): there "
                "will be no more TensorBoard events until the run is resumed",
                RunWarning,
                stacklevel=2,
            )

    @staticmethod
    def close(events: EventLog) -> None:
        """Close the TensorBoard log; what it could not write is in ``metrics.jsonl``."""
        with suppress(OSError):
            events.close()

    def save(
        self, name: str, checkpoint: Checkpoint, history: History, *, must: bool = False
    ) -> None:
        """Write a checkpoint, after those that are waiting; ``must`` raises errors in any case."""
        writing = name
        if name == "last":
            self._saved_at = time.monotonic()
        else:
            self._waiting[name] = checkpoint
        try:
            self._check_place()
            self._folder.remove_results()
            for writing in list(self._waiting):
                self._waiting[writing].save(self._folder.checkpoint(writing))
                del self._waiting[writing]
            if name == "last":
                writing = name
                if not self._log_is_whole:  # a line is missing, or stands there in part
                    self._folder.write_metrics(history)
                    self._log_is_whole = True
                self._folder.sync_metrics()
                checkpoint.save(self._folder.checkpoint(name))
                self.is_behind = False
        except OSError as error:
            if name in self._waiting:
                self._waiting[name] = _copied(checkpoint)
            self._failed(f"checkpoints/{writing}.safetensors", error, must=must)

    def _check_place(self) -> None:
        """Refuse to write where the run folder is not, or where another run now is."""
        path = self._folder.path
        status = (path / "run.json").stat()
        place = status.st_dev, status.st_ino
        if place == self._place:
            return
        id_ = self._folder.facts().id
        if self._place is not None and id_ != self._id:
            raise RunError(
                f"{path} holds another run now: the folder was moved or removed while it trained",
                "What was saved before is where it was moved to; resume it there.",
            )
        self._place, self._id = place, id_

    def _failed(self, name: str, error: OSError, *, must: bool = False) -> None:
        path, hint = self._folder.path, "free some space, then resume"
        what = f"{path / name} cannot be written ({error.strerror or error})"
        if not path.is_dir():
            what = f"{path} is not there: it was moved, renamed or removed while it trained"
            hint = "put it back, then resume"
        if must or self._settings.on_save_error == "stop":
            raise RunError(
                f"{what}; the checkpoints that were saved before are whole",
                f"{hint}: {called('resume', path)}",
            ) from error
        if not self.is_behind:
            warnings.warn(
                f"{what}. The checkpoints that were saved before are whole; training continues and "
                "tries again at the next save",
                RunWarning,
                stacklevel=2,
            )
        self.is_behind = True


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """Copy the weights, which training continues to change."""
    model = {name: tensor.detach().cpu().clone() for name, tensor in checkpoint.model.items()}
    return replace(checkpoint, model=model)


def refuse_unless(accepted: bool, what: str, hint: str) -> None:
    """Refuse a run of which a part was changed, or warn if that is accepted."""
    if accepted:
        warnings.warn(what, RunWarning, stacklevel=3)
    else:
        raise RunError(what, f"{hint}, or insist: `accept_changes=True`.")


def check_log(folder: RunFolder, n_epochs: int, *, accept_changes: bool = False) -> None:
    """Refuse a ``metrics.jsonl`` that lacks one of the first epochs, or has one of them twice."""
    logged = Counter(int(record["epoch"]) for record in folder.read_metrics())
    wrong = next((e for e in range(1, n_epochs + 1) if logged[e] != 1), None)
    if wrong is not None:
        refuse_unless(
            accept_changes,
            f"{folder.path / 'metrics.jsonl'}: found {logged[wrong]} lines of epoch {wrong}; "
            "expected one",
            "Put back the original file",
        )


def take_later_best(
    folder: RunFolder, progress: Progress, run: Origin, *, accept_changes: bool = False
) -> None:
    """Count best checkpoints that were saved after the last one, before a kill.

    Going on gives the same again where computing is exact. Where it is not, as on most GPUs, what
    replaces them must be better still.
    """
    for name in BEST_CHECKPOINTS:
        path = folder.checkpoint(name)
        if path.is_file():
            checkpoint = Checkpoint.load(path)
            checkpoint.check_origin(run, accept_changes=accept_changes)
            saved = Progress.from_json(checkpoint.progress)
            if saved.epoch > progress.epoch and name in saved.best:
                progress.best[name] = saved.best[name]
