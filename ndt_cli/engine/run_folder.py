"""The folder of a run: what it holds, the one place that writes it, and who may train in it.

::

    settings.toml          every setting, resolved
    run.json               versions, device, data fingerprint, when and where
    metrics.jsonl          one line per epoch
    summary.json           final scores, once training has ended
    smoothing.safetensors  the smoothing that they are compared with, once training has ended
    decoders.safetensors   decoders of behavior, if the data have some, once training has ended
    psths.safetensors      averages of the training trials by condition, likewise
    activations-decoder.safetensors, other-decoder.safetensors
                           decoders of behavior from the encoder's activations: fitted here, and
                           in the other sessions that the encoder was trained in
    rates.h5               rates of all trials, unless they are very large
    checkpoints/           last, and the best by each validation measure (.safetensors)
    sessions/              of several sessions: a run folder of each, to evaluate
    figures/               training curves, rates over rasters
    tensorboard/           events, where requested
    run.lock               keeps a second process from training here
    running.json           which process trains here, while one does

A run folder is never overwritten: a new run takes a new folder, and a resumed one continues in its
own. Files appear whole (`ndt_cli.atomic`), except for the last line of ``metrics.jsonl``.
"""

import errno
import json
import math
import os
import platform
import secrets
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import Self

from ndt_cli import __version__
from ndt_cli.atomic import check_name, leftovers, remove_leftovers, write_text_atomic
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.measures import CHECKPOINTS
from ndt_cli.errors import ExistingFileError, RunError, RunWarning, called
from ndt_cli.jsonable import json_text
from ndt_cli.settings.load import Overrides, load_settings, settings_to_toml
from ndt_cli.settings.tree import Settings

if TYPE_CHECKING:
    from ndt_cli.engine.device import Compute


def _to_line(record: Mapping[str, float]) -> str:
    """Return a record as a line of ``metrics.jsonl``."""
    return json_text(record, indent=None) + "\n"


def _read_line(line: str) -> dict[str, float] | None:
    """Return the record of an epoch that a line holds, or None where it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        return None
    if not 1 <= record["epoch"] < 2**53:
        return None
    # JSON has no NaN: a measure that was not finite is stored as null.
    record = {key: math.nan if value is None else value for key, value in record.items()}
    values = record.values()
    is_number = all(type(v) is float or (type(v) is int and abs(v) < 2**53) for v in values)
    return record if is_number else None


# ------------------------------------------------------------------------------------------------
# ``run.json``. A run folder travels between people and machines, so its files are checked input.
# ------------------------------------------------------------------------------------------------


_Count = Annotated[int, Field(ge=0)]

# The fingerprint comes last: a difference that can be read is named before it.
_IDENTITY = (
    *("bin_ms", "n_neurons", "n_heldout", "n_forward", "n_bins", "n_trials"),
    *("fingerprint", "rates_fingerprint"),
)


class _Facts(BaseModel):
    # Other keys are for people, or of a later version.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class SplitFacts(_Facts):
    """Identity of one split of the data, and of its neurons."""

    n_trials: _Count
    n_bins: _Count
    n_neurons: _Count
    n_heldout: _Count
    n_forward: _Count
    bin_ms: float
    fingerprint: str
    rates_fingerprint: str | None = None  # of the true rates; None in runs of older versions
    neuron_ids_N: list[_Count] = []  # position in the file; empty if columns have its order
    neuron_names: list[str] = []  # in the order of the file
    session_names: list[str] = []  # of several sessions
    event: str = ""  # that the trials are aligned to; empty if unknown
    start_ms: float = 0.0  # beginning of the first bin, from the event
    # Bins without padding and forward bins, and each neuron's spikes in them; 0 and empty in runs
    # of older versions.
    n_observed_bins: _Count = 0
    spikes_N: list[_Count] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("neuron_ids_N", "neuron_names", "spikes_N"):
            n_values = len(getattr(self, name))
            if n_values not in (0, self.n_neurons):
                raise ValueError(f"{name} has {n_values} values for {self.n_neurons} neurons")
        if self.neuron_ids_N and sorted(self.neuron_ids_N) != list(range(self.n_neurons)):
            raise ValueError("neuron_ids_N is not a permutation of the neurons")
        return self

    @classmethod
    def of(cls, data: SpikeData) -> "SplitFacts":
        """Return the facts of a split."""
        n_observed_bins, spikes_N = observed_spikes(data)
        return cls(
            n_trials=data.n_trials,
            n_bins=data.n_bins,
            n_neurons=data.n_neurons,
            n_heldout=data.n_heldout,
            n_forward=data.n_forward,
            bin_ms=float(data.bin_ms),
            fingerprint=data.fingerprint,
            rates_fingerprint=data.rates_fingerprint,
            neuron_ids_N=[] if data.neuron_ids_N is None else data.neuron_ids_N.tolist(),
            neuron_names=list(data.neuron_names),
            session_names=[] if data.sessions is None else list(data.sessions.names),
            event=data.event,
            start_ms=float(data.start_ms),
            n_observed_bins=n_observed_bins,
            spikes_N=spikes_N.tolist(),
        )

    def of_neurons(self, neurons: Sequence[int]) -> "SplitFacts":
        """Return the facts for the neurons of one of several sessions."""
        n_seen = self.n_neurons - self.n_heldout
        update = {
            "n_neurons": len(neurons),
            "n_heldout": sum(neuron >= n_seen for neuron in neurons),
            "session_names": [],
            "spikes_N": [self.spikes_N[neuron] for neuron in neurons] if self.spikes_N else [],
        }
        return self.model_copy(update=update)

    def difference(self, other: "SplitFacts") -> str | None:
        """Return the name of the first fact in which other trials differ; None for the same."""
        for key in _IDENTITY:
            mine, its = getattr(self, key), getattr(other, key)
            if None not in (mine, its) and mine != its:
                return key
        return None


def observed_spikes(data: SpikeData) -> tuple[int, NDArray[np.int64]]:
    """Return the bins of all trials without padding and forward bins, and each neuron's spikes."""
    window = slice(0, data.n_bins - data.n_forward)
    # Counts in padding are zero.
    spikes_N = data.spikes_BTN[:, window].sum(axis=(0, 1), dtype=np.int64)
    return int(data.inside_BT[:, window].sum()), spikes_N


class DataFacts(_Facts):
    """Facts of the training and the validation trials."""

    train: SplitFacts
    valid: SplitFacts


class RunFacts(_Facts):
    """The part of ``run.json`` that the program uses."""

    data: DataFacts
    id: str = ""  # empty in runs of older versions, as below
    cpu_capability: str = ""
    device: str = Field(pattern=r"^(cpu|mps|cuda)(:\d+)?$")
    ndt: str = ""
    python: str = ""
    platform: str = ""
    command: list[str] = []
    precision: str = Field(pattern=r"^(float32|bfloat16)$")
    n_threads: int = Field(ge=1, le=1024)
    packages: dict[str, str | None] = {}


# Of a JSON file of a run, with room for the spikes of a million neurons.
_MOST_JSON_BYTES = 2**25


def read_small_text(path: Path) -> str:
    """Return the text of a file of a run; raise OSError or ValueError if it is none, or large."""
    if path.exists() and not path.is_file():
        raise ValueError("it is a folder, device or pipe")
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise ValueError(f"it has more than {_MOST_JSON_BYTES} bytes")
    return path.read_text(encoding="utf-8")


def read_record(adapter: TypeAdapter[Any], file: Path, hint: str, **known: Any) -> Any:
    """Read a JSON object that may be damaged; what is ``known`` stands in no file."""
    try:
        content = {**json.loads(read_small_text(file)), **known}
        # As JSON: the strict check of Python values takes no dict for a dataclass.
        return adapter.validate_json(json_text(content), strict=True)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise RunError(f"{file}: damaged ({why})", hint) from error


def check_run_facts(content: dict[str, Any], path: Path) -> RunFacts:
    """Check the content of a ``run.json``; the error names the first wrong key."""
    try:
        return RunFacts.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RunError(
            f"{path}: {key}: {first['msg'].lower()}",
            "The file was edited by hand or damaged; put back the original.",
        ) from error


_PACKAGES = ("torch", "numpy", "scipy", "h5py", "pydantic", "safetensors")
# Stored once, with the training trials.
_OF_BOTH = {"neuron_ids_N", "neuron_names", "spikes_N", "event", "start_ms"}


def describe_run(recording: Recording, compute: "Compute", n_threads: int) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "id": secrets.token_hex(8),
        "ndt": __version__,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "device": str(compute.device),
        "precision": str(compute.dtype).removeprefix("torch."),
        "n_threads": n_threads,
        "cpu_capability": compute.cpu_capability,
        "data": describe_data(recording),
    }


def describe_data(recording: Recording) -> dict[str, Any]:
    """Return the part of ``run.json`` about the data."""
    return {
        "source": recording.source,
        "layout": recording.layout,
        "notes": list(recording.notes),
        "train": SplitFacts.of(recording.train).model_dump(),
        "valid": SplitFacts.of(recording.valid).model_dump(exclude=_OF_BOTH),
    }


def package_version(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# ------------------------------------------------------------------------------------------------
# The folder
# ------------------------------------------------------------------------------------------------


LOCK_FILE, HOLDER_FILE = "run.lock", "running.json"
# Files that a start writes before settings.toml, which makes the folder a run.
_OTHER_DECODER = "other-decoder.safetensors"
_BEFORE_SETTINGS = ("run.json", LOCK_FILE, HOLDER_FILE, _OTHER_DECODER)


class RunFolder:
    """A run's folder on disk: `create` makes a new one, `open` takes one that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Create the folder."""
        self.check_unused()
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self.figures.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path}: the run folder cannot be created ({error.strerror})"
            ) from error

    def check_unused(self) -> None:
        """Refuse a path that is in use, unless it holds only a start that was cut off."""
        path = self.path
        check_name(path)
        if not path.exists():
            return
        temporary = leftovers(path, ("settings.toml", *_BEFORE_SETTINGS))
        if not path.is_dir() or not all(
            _is_of_a_start(p) or p in temporary for p in path.iterdir()
        ):
            raise ExistingFileError(
                path,
                "Runs are never overwritten: choose another folder with `out`, or resume this one: "
                f"{called('resume', path)}.",
            )

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Open the folder of an earlier run."""
        path = Path(path)
        if not (path / "settings.toml").is_file():
            what = "no settings.toml in it" if path.is_dir() else "there is no such folder"
            if path.is_file():
                what = "it is a file"
            runs = [str(file.parent) for file in sorted(path.glob("*/settings.toml"))[:4]]
            hint = f"Give a run in it, such as {', '.join(runs)}." if runs else None
            raise RunError(
                f"{path} is not a run folder: {what}", hint or "Runs are in runs/ by default."
            )
        return cls(path)

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    @property
    def smoothing(self) -> Path:
        """File of the smoothing that the run is compared with."""
        return self.path / "smoothing.safetensors"

    @property
    def decoders(self) -> Path:
        """File of the decoders of behavior that were fitted to the training trials."""
        return self.path / "decoders.safetensors"

    @property
    def psths(self) -> Path:
        """File of the PSTHs of the training trials."""
        return self.path / "psths.safetensors"

    @property
    def own_decoder(self) -> Path:
        """File of the decoder of behavior from activations, fitted to the training trials."""
        return self.path / "activations-decoder.safetensors"

    @property
    def other_decoder(self) -> Path:
        """File of the decoder from activations that was fitted to trials of other sessions."""
        return self.path / _OTHER_DECODER

    @property
    def rates(self) -> Path:
        """File of the rates of all trials."""
        return self.path / "rates.h5"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    def checkpoint(self, name: str) -> Path:
        """Path of a checkpoint: a name of `CHECKPOINTS`."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def settings(self, overrides: Overrides = ()) -> Settings:
        """Read the settings of the run, with some of them overridden."""
        return load_settings(self.path / "settings.toml", overrides)

    def write_settings(self, settings: Settings) -> None:
        """Save the resolved settings, with every field."""
        write_text_atomic(self.path / "settings.toml", settings_to_toml(settings), overwrite=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run; numbers that are not finite become null."""
        write_text_atomic(self.path / name, json_text(content) + "\n", overwrite=True)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run."""
        path = self.path / name
        try:
            content = json.loads(read_small_text(path))
            json.dumps(content, ensure_ascii=False).encode()  # no text beyond Unicode
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{path} cannot be read: {error}",
                "The file is missing or damaged; put back the original.",
            ) from error
        if not isinstance(content, dict):
            raise RunError(f"{path} does not hold a JSON object")
        if name == "run.json":
            check_run_facts(content, path)
        if name == "summary.json" and "run" in content and content["run"] != self.facts().id:
            raise RunError(
                f"{path}: these are the scores of another run",
                "Put back the original, or remove it.",
            )
        return content

    def facts(self) -> RunFacts:
        """Read data, device and packages of the run from ``run.json``."""
        return check_run_facts(self.read_json("run.json"), self.path / "run.json")

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with self._metrics.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_to_line(record))

    def write_metrics(self, records: Sequence[Mapping[str, float]]) -> None:
        """Replace ``metrics.jsonl``."""
        write_text_atomic(self._metrics, "".join(map(_to_line, records)), overwrite=True)

    def sync_metrics(self) -> None:
        """Wait until ``metrics.jsonl`` is on disk and survives a loss of power."""
        if self._metrics.exists():
            with self._metrics.open("rb+") as file:
                os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, float]]:
        """Read ``metrics.jsonl``; lines without the record of an epoch are skipped.

        A kill may have cut the last line, and a loss of power may have filled it with anything.
        """
        if not self._metrics.is_file():  # nor a pipe, which would wait
            return []
        lines = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        return [record for record in map(_read_line, lines) if record is not None]

    def keep_metrics(self, last_epoch: int) -> list[dict[str, float]]:
        """Drop records after an epoch, which a resumed run will write again; return the rest."""
        records = [record for record in self.read_metrics() if record["epoch"] <= last_epoch]
        self.write_metrics(records)
        return records

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def is_untrained(self) -> bool:
        """Return whether no step of the run is on disk: it was cut off as it started."""
        saved = any(self.checkpoint(name).exists() for name in CHECKPOINTS)
        return not saved and not self.read_metrics()

    def remove_results(self) -> None:
        """Remove scores and rates of an earlier end: training goes on, and they are outdated."""
        for path in (self.path / "summary.json", self.rates):
            path.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove half-written files of killed processes; only for the process that trains."""
        mine = (
            *("settings.toml", "metrics.jsonl", "summary.json", self.smoothing.name),
            *(self.decoders.name, self.own_decoder.name, self.psths.name, self.rates.name),
            *_BEFORE_SETTINGS,
        )
        remove_leftovers(self.path, mine)
        remove_leftovers(self.path / "checkpoints")
        remove_leftovers(self.figures)


class NewMetrics:
    """Reads what a ``metrics.jsonl`` that grows has got since the last time."""

    def __init__(self, run: Path) -> None:
        self._path, self._offset, self.epoch = run / "metrics.jsonl", 0, 0

    def read(self) -> list[dict[str, float]]:
        """Return the records of new epochs; ``epoch`` is that of the last one."""
        try:
            with self._path.open("rb") as file:
                # A resumed run has dropped lines.
                file.seek(self._offset if self._offset <= file.seek(0, 2) else 0)
                start, new = file.tell(), file.read()
        except OSError:
            return []
        new = new[: new.rfind(b"\n") + 1]
        self._offset = start + len(new)
        records = [_read_line(line) for line in new.decode(errors="replace").splitlines()]
        found = [record for record in records if record and record["epoch"] > self.epoch]
        self.epoch = int(found[-1]["epoch"]) if found else self.epoch
        return found


def default_path(name: str, now: datetime | None = None) -> Path:
    """Return a fresh folder name under ``runs``, as ``runs/lorenz-20260131-142500``."""
    stem = f"{name}-{now or datetime.now():%Y%m%d-%H%M%S}"
    path = Path("runs") / stem
    number = 2
    while path.exists():
        path = Path("runs") / f"{stem}-{number}"
        number += 1
    return path


def claim_default_path(name: str) -> Path:
    """Create the folder of `default_path`, so that no other process can take it."""
    while True:
        path = default_path(name)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():  # `runs` itself is a file
                raise RunError(f"{path}: the run folder cannot be created") from None
        except OSError as error:
            raise RunError(
                f"{path}: the run folder cannot be created ({error.strerror})"
            ) from error
        else:
            return path


def _is_of_a_start(path: Path) -> bool:
    if path.is_dir():
        return path.name in ("checkpoints", "figures") and not any(path.iterdir())
    return path.name in _BEFORE_SETTINGS


# ------------------------------------------------------------------------------------------------
# One process at a time trains in a run folder. The operating system drops the lock when the
# process ends, however that happens, so none is left to be removed by hand. Between machines it
# holds where the file system passes locks on: NFSv4 does, NFSv3 with its lock service. Reading
# needs none.
# ------------------------------------------------------------------------------------------------


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def hold_run(path: Path) -> Iterator[None]:
    """Keep every other process from training in a run folder while the block runs.

    If the file system has no locks, a `RunWarning` says that nothing keeps a second process out.
    """
    lock = FileLock(path / LOCK_FILE)
    was_removed = (path / HOLDER_FILE).exists() and not (path / LOCK_FILE).exists()
    try:
        _acquire(lock, path)
        if was_removed and _may_be_running(path):
            lock.release()
            (path / LOCK_FILE).unlink(missing_ok=True)  # as it was
            raise RunError(
                f"{path}: {LOCK_FILE} was removed, and {_holder(path)} may still be training here",
                f"If it is not, remove {path / HOLDER_FILE}.",
            )
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_text_atomic(path / HOLDER_FILE, json_text(holder, indent=None) + "\n", overwrite=True)
    except OSError as error:
        lock.release()
        raise RunError(
            f"{path}: the run folder cannot be written ({error.strerror})",
            "Check the disk and who may write there; evaluating a run only reads it.",
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # without the lock it means nothing
            (path / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def wait_until_free(path: Path, seconds: float) -> None:
    """Wait, no longer than this, for a process that trains in a run folder to save and stop."""
    if (path / LOCK_FILE).exists():
        with (
            suppress(OSError, NotImplementedError),
            FileLock(path / LOCK_FILE).acquire(timeout=seconds),
        ):
            pass


def _acquire(lock: FileLock, path: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{path}: {_holder(path)} is already training in this run folder",
            "Wait until it is done, or press Ctrl-C there: it saves and stops.",
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{path}: its file system has no locks; take care that no other process trains here",
            RunWarning,
            stacklevel=3,
        )


def _may_be_running(path: Path) -> bool:
    """Return whether the process that `HOLDER_FILE` names cannot be known to have ended."""
    try:
        holder = json.loads(read_small_text(path / HOLDER_FILE))
        if os.name == "nt" or holder["host"] != socket.gethostname():
            return True
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return True
    return True


def _holder(path: Path) -> str:
    try:
        holder = json.loads(read_small_text(path / HOLDER_FILE))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (OSError, ValueError, TypeError, KeyError):  # it is being written, or just gone
        return "another process"
