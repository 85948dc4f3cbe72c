"""Open a recording of any format; its content tells which. Here: CSV, .npz and phy themselves."""

import csv
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import Clock
from ndt_cli.convert.contents import Contents, Item, array_item, fields_of, held, is_number
from ndt_cli.convert.hdf5 import list_hdf5
from ndt_cli.convert.matlab import is_mat73, list_mat5, list_mat73
from ndt_cli.data.arrays import MISSING
from ndt_cli.data.files import DAMAGE, ArrayFile, check_text, damaged, open_hdf5, text_array
from ndt_cli.errors import DataError, needed
from ndt_cli.memory import check_memory

_Read = TypeVar("_Read")

_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d*(?:[eE][+-]?\d+)?\s*")
_NO_ROW = re.compile(r"\s*#|sep=.$")  # comments, and what Excel writes in front
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_MAX_COLUMNS = 20_000
_TEXT_ENDINGS = (".csv", ".tsv", ".txt")


def open_file(path: Path) -> Contents:
    """Open a .npz, MATLAB, HDF5, NWB, CSV or parquet file, or a phy folder, or raise DataError.

    Damage in a file becomes a DataError here: as it is opened, and as its items are read.
    """
    contents = Contents(path)
    try:
        _guarded(path, lambda: _list(contents))
    except BaseException:
        contents.on_close.close()
        raise
    for name, item in contents.items.items():
        contents.items[name] = replace(item, read=partial(_guarded, path, item.read))
    return contents


def _guarded(path: Path, read: Callable[[], _Read]) -> _Read:
    """Return what ``read`` does, with damage and text that cannot be written as a DataError."""
    try:
        found = read()
        for part in found if isinstance(found, list) else (found,):
            check_text(part)
    except DAMAGE as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    return found


def _list(contents: Contents) -> None:
    """List what a file holds, by its format."""
    path = contents.path
    if path.is_dir():
        _list_phy(contents)
    elif not path.is_file():
        _list_npz(contents)  # which says what is there instead
    elif h5py.is_hdf5(path):
        try:
            file = contents.on_close.enter_context(open_hdf5(path))
            list_h5 = list_mat73 if is_mat73(file) else list_hdf5
            list_h5(contents, file)
        except DAMAGE as error:
            raise damaged(path, str(error)) from error
    elif path.suffix.lower() in _TEXT_ENDINGS:
        contents.layout = "CSV"
        contents.items = {name: held(values) for name, values in _read_csv(path).items()}
    else:
        with path.open("rb") as stream:
            head = stream.read(16)
        # Version 4 of MATLAB's files has no mark of its own, so the file's name has to tell.
        if head.startswith(b"MATLAB 5.0") or (head and path.suffix.lower() == ".mat"):
            list_mat5(contents)
        elif head.startswith(b"PAR1"):
            _list_parquet(contents)
        elif path.suffix.lower() in (".xlsx", ".ods"):
            raise DataError(
                f"{path}: found a spreadsheet; expected a text table",
                "Save each sheet as CSV UTF-8.",
            )
        # What is empty, cut short or a Git LFS pointer is best explained there.
        elif zipfile.is_zipfile(path) or not head or head.startswith((b"PK", b"version https:")):
            _list_npz(contents)
        else:
            raise _unknown(path, head)


def _unknown(path: Path, head: bytes) -> DataError:
    """Return the error for a file that is read in another way, or not at all."""
    savez = "numpy.savez(FILE, spike_times=..., spike_units=..., start_time=..., stop_time=...)."
    if head.startswith(np.lib.format.MAGIC_PREFIX):
        return DataError(
            f"{path}: found one array without a name (.npy); expected arrays with names",
            f"Save it with its units and trials: {savez} Of Kilosort or phy, give the folder.",
        )
    if path.suffix.lower() in (".pkl", ".pickle", ".joblib") or head[:1] == b"\x80":
        return DataError(
            f"{path}: found a pickle of Python, which could run code when it is read",
            f"Load it in Python, and save its arrays with {savez}",
        )
    return DataError(
        f"{path}: found neither .npz, MATLAB, HDF5, NWB, CSV nor parquet content",
        hint="A text table must end in .csv, .tsv or .txt; save anything else with numpy.savez.",
    )


# A folder of Kilosort or phy ----------------------------------------------------------------------
#
# spike_times.npy is in samples; params.py has the sampling rate, and is read as text.

_SAMPLE_RATE = re.compile(r"^[ \t]*sample_rate[ \t]*=([^#\n]*)", re.MULTILINE)


def _list_phy(contents: Contents) -> None:
    """List the spikes of a folder and, as ``units``, one row per cluster of all its tables."""
    folder, contents.layout = contents.path, "phy"
    if not (folder / "spike_times.npy").is_file():
        marks = (".zgroup", ".zattrs", "zarr.json")
        is_zarr = folder.suffix == ".zarr" or any((folder / name).exists() for name in marks)
        raise DataError(
            f"{folder}: found a {'Zarr store' if is_zarr else 'folder without spike_times.npy'}; "
            "expected a file, or a folder of Kilosort or phy",
            "Export it to HDF5 or NWB, in one file." if is_zarr else "Give one file in it.",
        )
    names = ("spike_times", "spike_clusters", "spike_templates")
    for path in [p for name in names if (p := folder / f"{name}.npy").is_file()]:
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except DAMAGE as error:
            raise DataError(
                f"{path}: the file is damaged or incomplete ({error})", "Copy the folder again."
            ) from error
        read = partial(np.array, values)
        contents.items[path.stem] = array_item(values.shape, str(values.dtype), read)
    if "spike_clusters" not in contents.items and "spike_templates" in contents.items:
        contents.items["spike_clusters"] = contents.items.pop("spike_templates")
    params = folder / "params.py"
    text = params.read_text(errors="replace") if params.is_file() else ""
    found = [number.replace("_", "") for number in _SAMPLE_RATE.findall(text)]
    rate_hz = float(found[-1]) if found and is_number(found[-1]) else None  # the last counts
    contents.spike_clock = Clock("samples", rate_hz)
    if "spike_clusters" in contents.items:
        columns = _phy_units(folder, np.unique(contents.items["spike_clusters"].read()))
        contents.items |= {f"units/{name}": held(values) for name, values in columns.items()}


def _phy_units(folder: Path, ids: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the columns of all tables of clusters; NaN or empty text for one without a row."""
    columns: dict[str, NDArray[Any]] = {"cluster_id": ids}
    # cluster_info.tsv, which repeats the others, may be older than they are.
    for path in sorted(folder.glob("cluster_*.tsv"), key=lambda p: p.stem == "cluster_info"):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if not text.partition("\n")[2].strip():
            continue  # names of columns, and no cluster yet
        table = _read_csv(path)
        key = next((name for name in ("cluster_id", "id") if name in table), None)
        if key is None:
            raise DataError(f"{path}: found no column 'cluster_id'; expected one")
        if table[key].dtype.kind == "U":
            found = f"values of type {table[key].dtype}"
            raise DataError(f"{path}: {key!r}: found {found}; expected numbers")
        row_of = {number: row for row, number in enumerate(table[key].tolist())}
        rows = np.array([row_of.get(number, -1) for number in ids.tolist()])
        for name in [n for n in table if n != key and n not in columns]:
            columns[name] = table[name][rows]
            columns[name][rows < 0] = "" if table[name].dtype.kind == "U" else np.nan
    return columns


def _read_csv(path: Path) -> dict[str, NDArray[Any]]:
    """Read a text table with names in its first row; a gap in a column of numbers becomes NaN.

    A column without a name, such as the row numbers that pandas and R write, is left out.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: found bytes that are not UTF-8 text ({error.reason}); expected a text table",
            hint="Save it as CSV UTF-8.",
        ) from error
    # Not splitlines, which also ends a line at characters within a cell, such as U+2028.
    all_lines = re.split("\r\n|\n|\r", text)
    lines = [line for line in all_lines if not _NO_ROW.match(line)]
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=head.count)
    _check_lines(path, all_lines, head, delimiter)
    try:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(
            f"{path}: not a text table ({error}); expected columns separated by commas, semicolons "
            "or tabs",
            hint="Is a quotation mark left open?",
        ) from error
    if len(rows) < 2:
        raise DataError(f"{path}: found {len(rows)} rows; expected names and at least one row")
    names = [name.strip() for name in rows[0]]
    _check_rows(path, names, rows)
    return {
        name: _column(f"{path}: {name!r}", cells, decimal_comma=delimiter != ",")
        for name, cells in zip(names, zip(*rows[1:], strict=True), strict=True)
        if name
    }


def _check_lines(path: Path, lines: list[str], head: str, delimiter: str) -> None:
    """Refuse columns separated by blanks, and rows that begin with # as comments do."""
    if not lines or not head.strip():
        return
    at, n_columns = lines.index(head), head.count(delimiter) + 1
    below = [line for line in lines[at + 1 :] if line.strip()]
    if n_columns == 1 and below and len(below[0].split()) == len(head.split()) > 1:
        raise DataError(
            f"{path}: found columns separated by blanks, {head.strip()!r}; expected commas, "
            "semicolons or tabs",
            hint="Save it as CSV.",
        )
    for line in [line for line in below if line.lstrip().startswith("#")]:
        cells = line.split(delimiter)
        if len(cells) == n_columns > 1 and any(map(is_number, cells)):
            raise DataError(
                f"{path}: found a row that begins with #, {line.strip()[:40]!r}; expected comments "
                "only there",
                hint="Is # part of its first value? Put that in quotes. Else delete the row.",
            )


def _check_rows(path: Path, names: list[str], rows: list[list[str]]) -> None:
    """Refuse a table without names, with a name twice, or with rows of unequal length."""
    if any(is_number(name) for name in names):
        raise DataError(
            f"{path}: found numbers in the first row, {', '.join(names[:4])}; expected the names "
            "of the columns",
            hint="Add a first row, such as: unit,time",
        )
    if len(names) > _MAX_COLUMNS:
        raise DataError(
            f"{path}: found {len(names)} columns; expected at most {_MAX_COLUMNS}",
            hint="Is it a table of one row? Write one value per row, or save an array as .npz.",
        )
    repeated = next((name for name, n in Counter(filter(None, names)).items() if n > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: found two columns with the name {repeated!r}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise DataError(
                f"{path}: found {len(row)} values in row {number}; expected {len(names)}, one for "
                "each name in the first row"
            )


def _column(where: str, cells: tuple[str, ...], decimal_comma: bool) -> NDArray[Any]:
    """Return a column as numbers if it can be, else as text; a decimal comma if told."""
    texts = list(cells)
    if decimal_comma:
        _check_commas(where, texts)
        texts = [c.replace(",", ".") if _DECIMAL_COMMA.fullmatch(c) else c for c in texts]
    missing = MISSING if any(map(is_number, texts)) else ("",)
    numbers = ["nan" if cell.strip() in missing else cell for cell in texts]
    digits = {cell.strip() for cell in cells if cell.strip().isdecimal()}
    are_names = len(set(map(float, digits))) < len(digits)  # 1 and 01, or beyond 2^53
    if all(map(is_number, numbers)) and not are_names:
        return np.array(numbers, dtype=np.float64)
    return text_array(where, [cell.strip() for cell in cells])


def _check_commas(where: str, texts: list[str]) -> None:
    """Refuse numbers such as 999 and 1,000, whose comma may be of thousands or of decimals."""
    grouped = [text.strip() for text in texts if "," in text and is_number(text.replace(",", ""))]
    whole = [text.strip() for text in texts if text.strip().isdecimal()]
    if grouped and all(map(_THOUSANDS.fullmatch, grouped)) and any(len(w) == 3 for w in whole):
        raise DataError(
            f"{where}: found numbers such as {whole[0]} and {grouped[0]}; expected commas of "
            "decimals, or none",
            hint="If it separates thousands, save the table without separators.",
        )


def _list_parquet(contents: Contents) -> None:
    """List the columns of a parquet file; a gap in a column of numbers is NaN, in text empty."""
    path, contents.layout = contents.path, "parquet"
    pyarrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    try:
        file = contents.on_close.enter_context(parquet.ParquetFile(path))
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        n_bytes = max(8 * file.metadata.num_rows, sum(group.total_byte_size for group in groups))
    except pyarrow.ArrowException as error:
        raise damaged(path, str(error)) from error
    is_type = pyarrow.types

    def read(name: str) -> Any:
        check_memory(n_bytes, f"{path}: {name!r}")
        try:
            column = file.read([name]).column(0)
            if is_type.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if is_type.is_list(column.type) or is_type.is_large_list(column.type):
                return [np.asarray(part or [], dtype=np.float64) for part in column.to_pylist()]
            if is_type.is_string(column.type) or is_type.is_large_string(column.type):
                return text_array(f"{path}: {name!r}", [word or "" for word in column.to_pylist()])
            if column.null_count:
                column = column.cast(pyarrow.float64())
            return np.asarray(column.to_numpy())
        except pyarrow.ArrowException as error:
            raise damaged(path, f"{name}: {error}") from error

    for field in file.schema_arrow:
        kind, shape = field.type, (file.metadata.num_rows,)
        is_list = is_type.is_list(kind) or is_type.is_large_list(kind)
        kind = kind.value_type if is_list or is_type.is_dictionary(kind) else kind
        is_text = is_type.is_string(kind) or is_type.is_large_string(kind)
        is_number = (
            is_type.is_integer(kind) or is_type.is_floating(kind) or is_type.is_boolean(kind)
        )
        if is_list and is_number:
            item = Item(shape, f"lists of {kind}", partial(read, field.name), "lists")
        elif not is_list and (is_number or is_text):
            item = Item(shape, "text" if is_text else str(kind), partial(read, field.name))
        else:
            unread = (f"values of type {field.type}", "Write them as numbers, such as seconds.")
            item = Item(shape, f"{field.type}, not read", lambda: np.zeros(0), unread=unread)
        if field.name != "__index_level_0__":  # row numbers, which pandas writes
            contents.items[field.name] = item


def _list_npz(contents: Contents) -> None:
    """List an .npz file by the headers of its arrays; Python objects in it are never loaded."""
    contents.layout = "npz"
    file = contents.on_close.enter_context(ArrayFile(contents.path))
    for key in file.keys:
        shape, dtype, read = file.shape(key), file.dtype(key), partial(file.read, key)
        if dtype.names:  # of an array of rows
            contents.items |= fields_of(key, shape, dtype, read)
            continue
        kind = "Python objects, not read" if dtype.hasobject else str(dtype)
        kind = "text" if dtype.kind in "SU" else kind
        contents.items[key] = array_item(shape, kind, read)
