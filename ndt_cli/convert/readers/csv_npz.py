"""Columns of a text table: comma, semicolon or tab between them, names in the first row."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents
from ndt_cli.data.files import ArrayFile
from ndt_cli.errors import DataError

ENDINGS = (".csv", ".tsv", ".txt")


def open_csv(path: Path) -> Contents:
    """Read a text table; a column of numbers may have gaps, which become NaN.

    Raises
    ------
    DataError
        If the file is missing, empty or no table, has no names in its first row, two columns of
        one name or a row that is longer or shorter than that.
    """
    if not path.is_file():
        ArrayFile(path)  # says what is there instead
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: found bytes that are no UTF-8 text ({error.reason}); expected a text table",
            hint="Save it as CSV UTF-8.",
        ) from error
    lines = text.splitlines()
    head = lines[0] if lines else ""
    mark = max(",;\t", key=head.count)
    try:
        rows = [row for row in csv.reader(lines, delimiter=mark) if any(c.strip() for c in row)]
    except csv.Error as error:
        raise DataError(
            f"{path}: found no text table ({error}); expected columns between commas, "
            "semicolons or tabs",
            hint="Is a quotation mark left open?",
        ) from error
    if len(rows) < 2:
        raise DataError(f"{path}: found {len(rows)} rows; expected names and at least one row")
    names = [name.strip() for name in rows[0]]
    _check(path, names, rows)
    contents = Contents(path, "CSV")
    for name, cells in zip(names, zip(*rows[1:], strict=True), strict=True):
        values = _column(cells)
        shown = "text" if values.dtype.kind == "U" else str(values.dtype)
        contents.items[name] = ArrayItem(values.shape, shown, partial(np.asarray, values))
    return contents


def _check(path: Path, names: list[str], rows: list[list[str]]) -> None:
    if any(_is_number(name) for name in names):
        raise DataError(
            f"{path}: found numbers in the first row, {', '.join(names[:4])}; expected the names "
            "of the columns",
            hint="Put a first row there, such as: unit,time",
        )
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{path}: found two columns of the name {repeated!r}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise DataError(
                f"{path}: found {len(row)} values in row {number}; expected {len(names)}, one for "
                "each name in the first row"
            )


def _column(cells: tuple[str, ...]) -> NDArray[Any]:
    try:
        return np.array([cell if cell.strip() else "nan" for cell in cells], dtype=np.float64)
    except ValueError:
        return np.array([cell.strip() for cell in cells])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------
# Arrays of an .npz file. Their headers are read first, so that listing a file costs nothing.
# ------------------------------------------------------------------------------------------------


def open_npz(path: Path) -> Contents:
    """Open an .npz file; Python objects in it are listed and never loaded.

    Raises
    ------
    DataError
        If the file is missing, damaged or no .npz file.
    """
    contents = Contents(path, "npz")
    file = contents.on_close.enter_context(ArrayFile(path))
    for key in file.keys:
        _add(contents, file, key, file.shape(key), file.dtype(key))
    return contents


def _add(
    contents: Contents, file: ArrayFile, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    if dtype.names:
        for name in dtype.names:
            contents.items[f"{key}/{name}"] = ArrayItem(
                (*shape, *dtype[name].shape),
                str(dtype[name].base),
                partial(_read_field, file, key, name),
            )
        return

    shown = "Python objects, not read" if dtype.hasobject else str(dtype)
    kind = "text" if dtype.kind in "SU" else shown
    contents.items[key] = ArrayItem(shape, kind, partial(file.read, key))


def _read_field(file: ArrayFile, key: str, name: str) -> NDArray[Any]:
    return np.asarray(file.read(key)[name])
