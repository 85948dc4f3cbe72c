"""The public NWB files: where they are, resumable downloads, checksum verification.

Downloads use requests: libraries such as pooch verify a checksum but cannot resume, and the
largest file has 1.8 GB.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

from ndt_cli.errors import DataError, called
from ndt_cli.nlb.catalog import (
    DATASETS,
    TEST_LABELS,
    NlbDataset,
    Phase,
    Progress,
    PublicFile,
    find_dataset,
    no_progress,
)
from ndt_cli.nlb.dependencies import require_nlb_extra

DEFAULT_DATA_DIR = Path("nlb-data")
"""Default folder of the files, relative to the current folder."""


class NwbFiles(NamedTuple):
    """The two files of a dataset; the validation phase needs no test file."""

    train: Path
    test: Path | None


def public_path(dataset: NlbDataset, file: PublicFile, data_dir: Path) -> Path:
    """Return where a public file is stored; the same layout as the DANDI client's.

    Examples
    --------
    >>> dataset = find_dataset("mc_maze_small")
    >>> public_path(dataset, dataset.test_file, Path("nlb-data")).parts[:3]
    ('nlb-data', '000140', 'sub-Jenkins')
    """
    return data_dir / dataset.dandiset / file.path


def fetch_call(dataset: NlbDataset, data_dir: Path) -> str:
    """Return the call that fetches the public files into a folder, for a hint."""
    folder = {} if data_dir == DEFAULT_DATA_DIR else {"data_dir": data_dir}
    return called("fetch_dataset", dataset.name, **folder)


def data_dir_of(dataset: NlbDataset, path: Path) -> Path:
    """Return the ``data_dir`` in which an NWB file was found."""
    for file in dataset.files:
        below = Path(dataset.dandiset, file.path)
        if path.parts[-len(below.parts) :] == below.parts:
            return path.parents[len(below.parts) - 1]
    return path.parent


def locate(dataset: NlbDataset, data_dir: Path, phase: Phase = "test") -> NwbFiles:
    """Find the NWB files of a dataset.

    First by their public names, in ``<data_dir>/<dandiset>/sub-<subject>/`` or with either folder
    left out; then as the only ``*train*.nwb`` and ``*test*.nwb`` of such a folder. The validation
    phase does not need the test file.

    Examples
    --------
    >>> locate(find_dataset("mc_maze_small"), Path("nlb-data"))
    Traceback (most recent call last):
    ndt_cli.errors.DataError: nlb-data: found no NWB files of mc_maze_small. Missing:...
    """
    train = _find(dataset, dataset.train_file, "*train*.nwb", data_dir)
    test = _find(dataset, dataset.test_file, "*test*.nwb", data_dir)
    if train is None or (test is None and phase == "test"):
        wanted = "".join(
            f"\n  {file.name}  {file.n_bytes / 1e6:,.1f} MB  {file.urls[0]}"
            for file, path in zip(dataset.files, (train, test), strict=True)
            if path is None and (phase == "test" or file is dataset.train_file)
        )
        raise DataError(
            f"{data_dir}: found no NWB files of {dataset.name}. Missing:{wanted}",
            f"Fetch them: {fetch_call(dataset, data_dir)}, or give their folder as `data_dir`.",
        )
    return NwbFiles(train, test)


def _find(dataset: NlbDataset, public: PublicFile, pattern: str, data_dir: Path) -> Path | None:
    subject = dataset.train_file.path.partition("/")[0]
    known = (f"{dataset.dandiset}/{subject}", dataset.dandiset, subject, "")
    folders = [data_dir / name for name in known if (data_dir / name).is_dir()]
    for folder in folders:
        if (folder / public.name).is_file():
            return folder / public.name
    # The maze datasets share their subject and folders: do not confuse their files.
    others = {file.name for other in DATASETS.values() for file in other.files}
    for folder in folders:
        paths = sorted(path for path in folder.glob(pattern) if path.name not in others)
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise DataError(
                f"{folder}: found several files {pattern} ({names}); expected one, or "
                f"{public.name}",
                f"Keep only the file of {dataset.name} there, or rename it.",
            )
        if paths:
            return paths[0]
    return None


_CHUNK_BYTES = 2**16  # an incomplete chunk is lost
_TIMEOUT_S = (10.0, 60.0)  # to connect; between bytes
# Pauses before attempts that receive nothing; any received byte starts over.
_WAITS_S = (0.0, 1.0, 5.0)
_FINAL = (401, 403, 404, 410)


class FileState(NamedTuple):
    """Comparison of a local file with the public one: the size or digest of each that decides."""

    path: Path
    state: Literal["right", "missing", "wrong size", "wrong digest"]
    found: str  # empty if the file is right or missing
    expected: str

    @property
    def difference(self) -> str:
        return f"found {self.found or 'nothing'}, expected {self.expected}"


def check_file(file: PublicFile, path: Path, progress: Progress = no_progress) -> FileState:
    """Compare a local file with the public one by size and sha256."""
    expected = f"{file.n_bytes:,} bytes"
    if not path.is_file():
        return FileState(path, "missing", "", expected)
    n_bytes = path.stat().st_size
    if n_bytes != file.n_bytes:
        return FileState(path, "wrong size", f"{n_bytes:,} bytes", expected)
    digest = sha256_of(path, f"checking {path.name}", progress)
    if digest != file.sha256:
        return FileState(path, "wrong digest", digest, file.sha256)
    return FileState(path, "right", "", file.sha256)


def verify_label_file(path: Path) -> None:
    """Check that a file is the benchmark's published file of test labels."""
    labels = TEST_LABELS
    expected = f"expected {labels.n_bytes:,} bytes with the sha256 {labels.sha256}"
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; {expected}",
            f"Download {labels.path} of the nlb_tools repository: {labels.urls[0]}",
        )
    with path.open("rb") as file:
        if file.read(24) == b"version https://git-lfs.":
            raise DataError(
                f"{path}: holds a Git LFS pointer, not the labels; {expected}",
                "Run `git lfs pull` in that repository.",
            )
    local = check_file(labels, path)
    if local.state != "right":
        found = f"the sha256 {local.found}" if local.state == "wrong digest" else local.found
        hint = "Copy it again; other labels are not accepted."
        raise DataError(f"{path}: has {found}; {expected}", hint)


def check_dataset(
    name: str, data_dir: Path = DEFAULT_DATA_DIR, progress: Progress = no_progress
) -> list[FileState]:
    """Compare the local files of a dataset with the public ones."""
    dataset = find_dataset(name)
    return [
        check_file(file, public_path(dataset, file, data_dir), progress) for file in dataset.files
    ]


def fetch_dataset(
    name: str, data_dir: Path = DEFAULT_DATA_DIR, progress: Progress = no_progress
) -> NwbFiles:
    """Fetch the two public files of a dataset, each as `fetch` does."""
    dataset = find_dataset(name)
    paths = [public_path(dataset, file, data_dir) for file in dataset.files]
    for file, path in zip(dataset.files, paths, strict=True):
        fetch(file, path, progress)
    return NwbFiles(*paths)


def fetch(file: PublicFile, path: Path, progress: Progress = no_progress) -> bool:
    """Fetch a public file unless it exists already.

    The download is kept as ``<path>.part`` until size and sha256 are right, and only then renamed.
    The next call resumes it. Returns False if the right file existed already; another file of this
    name is an error.

    Examples
    --------
    >>> file = find_dataset("mc_maze_small").train_file
    >>> fetch(file, Path(file.name))  # doctest: +SKIP
    True
    """
    before = check_file(file, path, progress)
    if before.state == "right":
        return False
    if before.state != "missing":
        raise DataError(
            f"{path}: a different file has this name: {before.state} ({before.found})",
            "Move or remove it, and try again.",
        )
    require_nlb_extra("requests")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    resumed = part.is_file()
    while True:
        _fill(file, part, progress)
        digest = sha256_of(part, f"checking {path.name}", progress)
        if digest == file.sha256:
            break
        # Resuming a wrong file never makes it right.
        part.unlink()
        if not resumed:
            raise DataError(
                f"{file.urls[0]}: the download is not the public {file.name}: found the sha256 "
                f"{digest}; expected {file.sha256}",
                "Try again later, or over another network: a proxy may change files.",
            )
        resumed = False
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
    return True


def _fill(file: PublicFile, part: Path, progress: Progress) -> None:
    """Complete the partial file, over broken connections and several addresses."""
    import requests

    problems = {}
    for url in file.urls:
        tries = 0
        while tries < len(_WAITS_S):
            time.sleep(_WAITS_S[tries])
            before = _size(part)
            try:
                _transfer(url, file, part, progress)
                problems[url] = "the connection broke"
            except requests.RequestException as error:
                answer = error.response
                problems[url] = type(error).__name__
                if answer is not None:
                    problems[url] = f"HTTP {answer.status_code} {answer.reason}"
                    if answer.status_code in _FINAL:  # trying again is useless
                        break
            size = _size(part)
            if size == file.n_bytes:
                return
            tries = 0 if size > before else tries + 1
    lines = "".join(f"\n  {url}: {reason}" for url, reason in problems.items())
    raise DataError(
        f"{file.name}: received {_size(part):,} of {file.n_bytes:,} bytes{lines}",
        "Run it again to resume the download.",
    )


def _transfer(url: str, file: PublicFile, part: Path, progress: Progress) -> None:
    """Append the missing bytes, or start over if the server cannot resume."""
    import requests

    start = _size(part)
    if start == file.n_bytes:
        return
    if start > file.n_bytes:
        start = 0
    # Compressed bytes could not be appended.
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if response.status_code == 416:  # the server's file is shorter
            part.unlink()
        response.raise_for_status()
        sent = response.headers.get("Content-Range", "")
        resumes = response.status_code == 206 and sent.startswith(f"bytes {start}-")
        if not resumes:
            start = 0
        with part.open("ab" if resumes else "wb") as stream:
            for chunk in response.iter_content(_CHUNK_BYTES):
                stream.write(chunk)
                start += len(chunk)
                progress(f"fetching {file.name}", min(start, file.n_bytes), file.n_bytes)
                if start > file.n_bytes:
                    return


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def sha256_of(path: Path, what: str = "", progress: Progress = no_progress) -> str:
    """Return the hexadecimal sha256 of a file's content."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(what, done, total)
    return digest.hexdigest()
