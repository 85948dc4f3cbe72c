"""Finding a data set's NWB files in a folder, whoever put them there."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ndt_cli.errors import DataError, typed
from ndt_cli.nlb.catalog import DATASETS, NlbDataset, Phase, Progress, PublicFile, no_progress
from ndt_cli.nlb.dependencies import require_nlb_extra

if TYPE_CHECKING:
    import requests


DEFAULT_DATA_DIR = Path("nlb-data")
"""Where files are fetched to, and looked for: in the folder that the command runs in."""


class NwbFiles(NamedTuple):
    """The two files of a data set; the validation phase needs no test file."""

    train: Path
    test: Path | None


def public_path(dataset: NlbDataset, file: PublicFile, data_dir: Path) -> Path:
    """Return where a public file is fetched to: as the DANDI client does, by dandiset.

    Examples
    --------
    >>> from ndt_cli.nlb.catalog import find_dataset
    >>> dataset = find_dataset("mc_maze_small")
    >>> public_path(dataset, dataset.test_file, Path("nlb-data")).parts[:3]
    ('nlb-data', '000140', 'sub-Jenkins')
    """
    return data_dir / dataset.dandiset / file.path


def fetch_command(dataset: NlbDataset, data_dir: Path) -> str:
    """Return what to run to have the public files in a folder."""
    option = "" if data_dir == DEFAULT_DATA_DIR else f" --data-dir {typed(data_dir)}"
    return f"ndt nlb-data {dataset.name}{option}"


def data_dir_of(dataset: NlbDataset, path: Path) -> Path:
    """Return the folder of files that an NWB file was found in."""
    for file in dataset.files:
        below = Path(dataset.dandiset, file.path)
        if path.parts[-len(below.parts) :] == below.parts:
            return path.parents[len(below.parts) - 1]
    return path.parent


def locate(dataset: NlbDataset, data_dir: Path, phase: Phase = "test") -> NwbFiles:
    """Find the NWB files of a data set.

    First under their public names, in ``<data_dir>/<dandiset>/sub-<subject>/`` or any folder
    above or left out of that; then as the only ``*train*.nwb`` and ``*test*.nwb`` of such a
    folder.

    Parameters
    ----------
    dataset : NlbDataset
    data_dir : Path
    phase : {"val", "test"}
        The validation phase does without the test file.

    Raises
    ------
    DataError
        When a file is not there, with what to download; or when there are several.

    Examples
    --------
    >>> from ndt_cli.nlb.catalog import find_dataset
    >>> locate(find_dataset("mc_maze_small"), Path("nlb-data"))
    Traceback (most recent call last):
    ndt_cli.errors.DataError: nlb-data: NWB files of mc_maze_small are not there. Needed:...
    """
    train = _find(dataset, dataset.train_file, "*train*.nwb", data_dir)
    test = _find(dataset, dataset.test_file, "*test*.nwb", data_dir)
    found = {dataset.train_file: train}
    if phase == "test":
        found[dataset.test_file] = test
    missing = [file for file, path in found.items() if path is None]
    if missing or train is None:
        raise _missing(dataset, missing, data_dir)
    return NwbFiles(train, test)


def _folders(dataset: NlbDataset, data_dir: Path) -> list[Path]:
    by_dandiset = data_dir / dataset.dandiset
    return [
        by_dandiset / dataset.subject_folder,
        by_dandiset,
        data_dir / dataset.subject_folder,
        data_dir,
    ]


def _find(dataset: NlbDataset, public: PublicFile, pattern: str, data_dir: Path) -> Path | None:
    folders = [folder for folder in _folders(dataset, data_dir) if folder.is_dir()]
    for folder in folders:
        if (folder / public.name).is_file():
            return folder / public.name
    # The maze sets share subject and folder names: one's files must not pass for another's.
    others = {file.name for other in DATASETS.values() for file in other.files}
    for folder in folders:
        paths = sorted(path for path in folder.glob(pattern) if path.name not in others)
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise DataError(
                f"{folder}: found several files {pattern} ({names}), and none is {public.name}",
                hint=f"Leave one of {dataset.name} there, or give it that name.",
            )
        if paths:
            return paths[0]
    return None


def _missing(dataset: NlbDataset, files: list[PublicFile], data_dir: Path) -> DataError:
    wanted = "".join(
        f"\n  {file.name}  {file.n_bytes / 1e6:,.1f} MB  {file.urls[0]}" for file in files
    )
    return DataError(
        f"{data_dir}: NWB files of {dataset.name} are not there. Needed:{wanted}",
        hint=f"Run  {fetch_command(dataset, data_dir)}  to fetch them, or give the folder that "
        "has them with --data-dir.",
    )


# ------------------------------------------------------------------------------------------------
# Fetching the public files: going on where a download broke off, and checking what came.
#
# The transfer is that of requests. Downloaders for data sets such as pooch check a digest, but
# throw
# away what they have when the connection breaks; the largest file here has 1.8 GB.
# ------------------------------------------------------------------------------------------------


_CHUNK_BYTES = 2**16  # a chunk that breaks off is lost
_TIMEOUT_S = (10.0, 60.0)  # to connect; without a byte
_WAITS_S = (0.0, 1.0, 5.0)
"""Pauses before the tries that bring nothing; one that brings bytes starts them over."""

State = Literal["right", "missing", "wrong size", "wrong digest"]


@dataclass(frozen=True)
class FileState:
    """How a local file compares with the public one.

    Attributes
    ----------
    path : Path
    file : PublicFile
    state : {"right", "missing", "wrong size", "wrong digest"}
    found : str
        The size or digest that was found, empty where it is right or missing.
    """

    path: Path
    file: PublicFile
    state: State
    found: str = ""

    @property
    def expected(self) -> str:
        """The public file's digest, or its size where that tells already."""
        if self.state in ("right", "wrong digest"):
            return self.file.sha256
        return f"{self.file.n_bytes:,} bytes"

    @property
    def difference(self) -> str:
        return f"found {self.found or 'nothing'}, expected {self.expected}"


def check_file(file: PublicFile, path: Path, progress: Progress = no_progress) -> FileState:
    """Compare a local file with the public one by size and sha256."""
    if not path.is_file():
        return FileState(path, file, "missing")
    n_bytes = path.stat().st_size
    if n_bytes != file.n_bytes:
        return FileState(path, file, "wrong size", f"{n_bytes:,} bytes")
    digest = _sha256(path, f"checking {path.name}", progress)
    if digest != file.sha256:
        return FileState(path, file, "wrong digest", digest)
    return FileState(path, file, "right")


def fetch(file: PublicFile, path: Path, progress: Progress = no_progress) -> bool:
    """Fetch a public file, unless it is there already.

    What has come is kept as ``<path>.part`` until size and sha256 are right; only then the file
    gets its name. The next call goes on from there.

    Parameters
    ----------
    file : PublicFile
    path : Path
        Final name; its folder is made.
    progress : callable, optional
        Told how many bytes are there.

    Returns
    -------
    bool
        False when the right file was there already.

    Raises
    ------
    DataError
        When another file has the name, no address answers, the connection keeps breaking, or what
        came is not the public file.
    MissingExtraError
        When requests is not installed.

    Examples
    --------
    >>> from ndt_cli.nlb.catalog import find_dataset
    >>> file = find_dataset("mc_maze_small").train_file
    >>> fetch(file, Path(file.name))  # doctest: +SKIP
    True
    """
    before = check_file(file, path, progress)
    if before.state == "right":
        return False
    if before.state != "missing":
        raise DataError(
            f"{path}: there is another file of this name, with {before.state} ({before.found})",
            hint="Move it away or remove it, and run the command again.",
        )
    require_nlb_extra("requests")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    resumed = part.is_file()
    while True:
        _fill(file, part, progress)
        digest = _sha256(part, f"checking {path.name}", progress)
        if digest == file.sha256:
            break
        # Going on from it could never make it right.
        part.unlink()
        if not resumed:
            raise DataError(
                f"{file.urls[0]}: what came is not the public {file.name}: its sha256 is "
                f"{digest}, expected {file.sha256}",
                hint="Try again later, or over another network: something between changes files.",
            )
        resumed = False
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
    return True


def _fill(file: PublicFile, part: Path, progress: Progress) -> None:
    """Bring the partial file to its full size, over broken connections and several addresses."""
    import requests

    problems = {}
    for url in file.urls:
        tries = 0
        while tries < len(_WAITS_S):
            time.sleep(_WAITS_S[tries])
            before = _size(part)
            try:
                _transfer(requests.get, url, file, part, progress)
                problems[url] = "the connection broke"
            except requests.RequestException as error:
                problems[url] = _reason(error)
                if _is_final(error):
                    break
            size = _size(part)
            if size == file.n_bytes:
                return
            tries = 0 if size > before else tries + 1
    lines = "".join(f"\n  {url}: {reason}" for url, reason in problems.items())
    raise DataError(
        f"{file.name}: {_size(part):,} of {file.n_bytes:,} bytes came{lines}",
        hint="Run the command again: it goes on from there.",
    )


def _transfer(
    get: "Callable[..., requests.Response]",
    url: str,
    file: PublicFile,
    part: Path,
    progress: Progress,
) -> None:
    """Append what is missing, or start over where the server or the partial file demand it."""
    start = _size(part)
    if start > file.n_bytes:
        start = 0
    if start == file.n_bytes:
        return
    # Compressed, the bytes would not be those of the file.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if response.status_code == 416:  # the server's file ends before
            part.unlink()
        response.raise_for_status()
        said = response.headers.get("Content-Range", "")
        goes_on = response.status_code == 206 and said.startswith(f"bytes {start}-")
        if not goes_on:
            start = 0
        with part.open("ab" if goes_on else "wb") as stream:
            for chunk in response.iter_content(_CHUNK_BYTES):
                stream.write(chunk)
                start += len(chunk)
                progress(f"fetching {file.name}", min(start, file.n_bytes), file.n_bytes)
                if start > file.n_bytes:
                    return


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _is_final(error: "requests.RequestException") -> bool:
    """Tell whether asking again is of no use: not found, not allowed."""
    return error.response is not None and error.response.status_code in (401, 403, 404, 410)


def _reason(error: "requests.RequestException") -> str:
    if error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    return type(error).__name__


def _sha256(path: Path, what: str, progress: Progress) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(what, done, total)
    return digest.hexdigest()
