"""Read a checkpoint of NDT1 without running it.

NDT1 saves a model by ``torch.save``: a pickle, which is a program. Here that program is read but
never run: `_read_pickle` knows the few instructions that build tables, texts and numbers. What
would call something gives a value only for the names in `_VALUES`, and is refused for any other.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ndt_cli.errors import CheckpointError

# ------------------------------------------------------------------------------------------------
# A pickle as data
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names. It stays a name: nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class _StoredTensor:
    """Where the numbers of a tensor lie in the file."""

    storage: str
    dtype: torch.dtype
    n_stored: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _RefusedError(Exception):
    """Something that no file of NDT1 holds."""


_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _stored_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _StoredTensor:
    """Stand for ``torch._utils._rebuild_tensor_v2``."""
    del rest  # whether it wants a gradient, and hooks
    key, dtype, n_stored = storage
    sizes = (*shape, *stride, offset, n_stored)
    if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in sizes):
        raise _RefusedError("a tensor of impossible shape")
    return _StoredTensor(str(key), dtype, n_stored, offset, tuple(shape), tuple(stride))


def _numpy_scalar(dtype: Any, content: Any) -> Any:
    """Stand for NumPy's ``multiarray.scalar``; ``dtype`` is a code such as "f8"."""
    if type(dtype) is not str or dtype not in ("f4", "f8", "i4", "i8", "b1"):
        raise _RefusedError("a NumPy value that is not a number")
    # A pickle of protocol 2 stores bytes as latin-1 text.
    raw = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(raw, f"<{dtype}", count=1)[0].item()


# What a call of these names gives. The config class of NDT1 is read as the table that it is.
_VALUES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda *pairs: dict(*pairs),
    "yacs.config.CfgNode": lambda *pairs: dict(*pairs),
    "__builtin__.set": lambda *items: list(*items),
    "builtins.set": lambda *items: list(*items),
    "_codecs.encode": lambda text, *coding: text,
    "torch._utils._rebuild_tensor_v2": _stored_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *rest: tensor,
    "numpy.dtype": lambda code, *rest: code,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}

# Instructions whose argument is the value itself.
_CONSTANTS = frozenset((
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
))  # fmt: skip
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_MARK = object()


def _read_pickle(file: IO[bytes]) -> Any:
    """Return what the pickle at this place describes; an error if it is damaged, or more than data.

    That is tables, lists (also for sets), texts, numbers, and `_StoredTensor` for each tensor.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def to_mark() -> list[Any]:
        place = next(i for i in reversed(range(len(stack))) if stack[i] is _MARK)
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def call(named: Any, arguments: Any) -> Any:
        make = _VALUES.get(str(named)) if type(named) is _Name else None
        if make is None:
            raise _RefusedError(
                f"a call of {named}" if type(named) is _Name else "a call of a value"
            )
        return make(*arguments)

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name == "LIST":
            stack.append(to_mark())
        elif name == "DICT":
            items = to_mark()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("APPENDS", "ADDITEMS"):
            items = to_mark()
            _only(stack[-1], list).extend(items)
        elif name == "APPEND":
            item = stack.pop()
            _only(stack[-1], list).append(item)
        elif name == "SETITEMS":
            items = to_mark()
            _only(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "SETITEM":
            key, value = stack[-2:]
            del stack[-2:]
            _only(stack[-1], dict)[key] = value
        elif name == "GLOBAL":
            stack.append(_named(*str(argument).split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_named(*stack[-2:])]
        elif name in ("REDUCE", "NEWOBJ"):
            stack[-2:] = [call(*stack[-2:])]
        elif name == "BUILD":
            stack.pop()  # further attributes of an object; what is read here has none
        elif name == "BINPERSID":
            kind, storage_type, key, _, n_stored, *view = stack.pop()
            dtype = _DTYPES.get(storage_type.name) if type(storage_type) is _Name else None
            if kind != "storage" or dtype is None or any(part is not None for part in view):
                raise _RefusedError(f"a stored object of kind {kind!r}, {storage_type}")
            stack.append((key, dtype, n_stored))
        else:
            raise _RefusedError(f"the pickle instruction {name}")
    raise ValueError("it has no end")


def _named(module: object, name: object) -> _Name:
    found = _Name(str(module), str(name))
    is_storage = found.module == "torch" and found.name in _DTYPES
    if str(found) not in _VALUES and not is_storage:
        raise _RefusedError(f"{found}")
    return found


def _only(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where a {kind.__name__} was expected")
    return value


# ------------------------------------------------------------------------------------------------
# The two formats of torch.save
# ------------------------------------------------------------------------------------------------

_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError,
    ValueError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Ndt1File:
    """A checkpoint of NDT1."""

    path: Path
    weights: dict[str, Tensor]  # NDT1's ``state_dict``
    config: dict[str, Any]  # NDT1's settings, by names such as "MODEL.LOSS.TOPK"
    # The rest, such as ``max_spikes`` and ``trial_length``; tensors in it are not read.
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Ndt1File":
        """Read a checkpoint, running nothing in it.

        Raises
        ------
        CheckpointError
            If it is not a checkpoint of NDT1, is damaged, or holds anything but tensors, plain
            values and NDT1's config; the message names what.
        """
        if path.exists() and not path.is_file():
            raise not_a_checkpoint(path, ValueError("it is a folder, device or pipe"))
        try:
            with path.open("rb") as file:
                zipped = zipfile.is_zipfile(file)
                file.seek(0)
                content, bytes_of = (_read_zip if zipped else _read_legacy)(file)
                if not isinstance(content, dict):
                    raise ValueError(f"it holds a {type(content).__name__}, not a table")
                missing = [key for key in ("state_dict", "config") if key not in content]
                if missing:
                    raise ValueError(f"it has no {missing[0]}")
                state = dict(content.pop("state_dict"))
                weights = {
                    name: _tensor(part, bytes_of(part.storage)) for name, part in state.items()
                }
                config = flattened(_only(content.pop("config"), dict))
        except _RefusedError as refused:
            raise CheckpointError(
                f"{path}: it holds {refused}, which no model of NDT1 does; nothing was run",
                "A pickle can run any program; do not open this file with torch.load.",
            ) from None
        except _DAMAGE as error:
            raise not_a_checkpoint(path, error) from error
        return cls(path, weights, config, content)


def not_a_checkpoint(path: Path, error: Exception) -> CheckpointError:
    """Return the error of a file that is not a checkpoint of NDT1, or a damaged one."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return CheckpointError(
        f"{path}: not a whole checkpoint of NDT1 ({reason})",
        "Give a .pth file that NDT1 saved, such as ckpts/NAME/NAME.lve.pth.",
    )


# What each format gives: the content of the pickle, and the bytes of a storage by its name.
_Stored = tuple[Any, Callable[[str], bytes]]


def _read_zip(file: IO[bytes]) -> _Stored:
    """Read the format since PyTorch 1.6: a ZIP archive with a pickle and a file per storage."""
    archive = zipfile.ZipFile(io.BytesIO(file.read()))
    (pickle_name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    folder = pickle_name.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and _member(archive, order) != b"little":
        raise ValueError("its numbers are in the byte order of another kind of machine")
    content = _read_pickle(io.BytesIO(_member(archive, pickle_name)))
    return content, lambda storage: _member(archive, f"{folder}data/{storage}")


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which torch.save does not do")
    return archive.read(name)


def _read_legacy(file: IO[bytes]) -> _Stored:
    """Read the format before PyTorch 1.6: pickles one after another, then the storages."""
    if _read_pickle(file) != _LEGACY_MAGIC or _read_pickle(file) != _LEGACY_VERSION:
        raise ValueError("it was not written by torch.save")
    if not _read_pickle(file).get("little_endian", True):
        raise ValueError("its numbers are in the byte order of another kind of machine")
    content = _read_pickle(file)
    sizes = {stored.storage: stored.dtype.itemsize for stored in _stored_tensors(content)}
    storages: dict[str, bytes] = {}
    for key in _read_pickle(file):
        (n_stored,) = struct.unpack("<q", file.read(8))
        storages[str(key)] = file.read(n_stored * sizes[str(key)]) if n_stored > 0 else b""
    return content, storages.__getitem__


def _stored_tensors(content: Any) -> Iterator[_StoredTensor]:
    """Find every tensor in nested tables and lists, each of which is looked into once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _StoredTensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _tensor(stored: _StoredTensor, content: bytes) -> Tensor:
    """Return a tensor of its own; more numbers than are stored are refused."""
    n_numbers = math.prod(stored.shape)
    last = stored.offset + sum(
        (n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True)
    )
    size = stored.dtype.itemsize
    if n_numbers == 0 or last >= stored.n_stored or n_numbers > stored.n_stored:
        raise ValueError(
            f"a tensor of shape {stored.shape} is outside its {stored.n_stored} numbers"
        )
    if len(content) < stored.n_stored * size:
        raise ValueError("it ends before its last number")
    numbers = torch.frombuffer(bytearray(content[: stored.n_stored * size]), dtype=stored.dtype)
    return numbers.as_strided(stored.shape, stored.stride, stored.offset).contiguous()


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as "MODEL.LOSS.TOPK"; sections without settings are left out."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
