"""Whether a file that is asked for can be written, told before minutes of work and not after."""

import os
from collections.abc import Sequence
from pathlib import Path

from ndt_cli.errors import RunError, SettingsError

PICTURE_ENDINGS = (".png", ".svg", ".pdf")


def check_new_file(file: Path, flag: str, endings: Sequence[str]) -> None:
    """Refuse a file of another ending, one that is there, and one that cannot be made.

    Parameters
    ----------
    file : Path
        What is to be written.
    flag : str
        The option that names it.
    endings : sequence of str
        Such as ``".png"``.

    Raises
    ------
    SettingsError
        When it has another ending.
    RunError
        When it is there already, or its folder cannot be one.
    """
    check_ending(file, flag, endings)
    if file.exists():
        raise RunError(
            f"{flag} {file}: it is there already, and nothing is overwritten",
            f"give another name to {flag}",
        )
    check_folder(file, flag)


def check_ending(file: Path, flag: str, endings: Sequence[str]) -> None:
    """Refuse a file whose ending is none of these.

    Raises
    ------
    SettingsError
        With the ending that was found.
    """
    found = file.suffix.lower()
    if found not in endings:
        raise SettingsError(
            f"{flag} {file}: found {f'the ending {found}' if found else 'no ending'}; expected "
            f"{', '.join(endings)}",
            f"give it such a name: {flag} {file.with_suffix(endings[0])}",
        )


def check_folder(file: Path, flag: str) -> None:
    """Refuse a file whose folder is none, or may not be written to.

    A folder that is missing is made when the file is written.

    Raises
    ------
    RunError
        With the part of the path that is in the way.
    """
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise RunError(
            f"{flag} {file}: {folder} is a file, not a folder", f"give another name to {flag}"
        )
    if not os.access(folder, os.W_OK):
        raise RunError(
            f"{flag} {file}: nothing can be written to the folder {folder}",
            "check who may write there, or give another folder",
        )


# ------------------------------------------------------------------------------------------------
# What is there already stays, unless its owner says otherwise.
# ------------------------------------------------------------------------------------------------


def refuse_to_replace(file: Path, overwrite: bool) -> None:
    """Check that a file may be written.

    Raises
    ------
    RunError
        When it is there and is not to be replaced, or is a folder.
    """
    if file.is_dir():
        raise RunError(f"{file} is a folder, not a file", "give a file's name to --out")
    if file.exists() and not overwrite:
        raise RunError(
            f"{file} is already there, and nothing is overwritten",
            "give another name to --out, or --force to replace it",
        )
