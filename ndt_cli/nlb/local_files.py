"""Finding a data set's NWB files in a folder, whoever put them there."""

from pathlib import Path
from typing import NamedTuple

from ndt_cli.errors import DataError, typed
from ndt_cli.nlb.catalogue import DATASETS, NlbDataset, Phase, PublicFile

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
    >>> from ndt_cli.nlb.catalogue import find_dataset
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
    >>> from ndt_cli.nlb.catalogue import find_dataset
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
