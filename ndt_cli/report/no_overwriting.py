"""What is there already stays, unless its owner says otherwise."""

from pathlib import Path

from ndt_cli.errors import RunError


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
