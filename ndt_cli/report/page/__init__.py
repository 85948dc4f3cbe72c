"""Report pages of runs and sweeps: one HTML file each, which needs no other file."""

from collections.abc import Callable
from pathlib import Path

from ndt_cli.atomic import check_may_write, check_suffix, write_text_atomic
from ndt_cli.data.spike_data import Recording, Split
from ndt_cli.report.page.pages import GENERATOR, run_html, sweep_html
from ndt_cli.report.registry import RunContents
from ndt_cli.search.folder import SweepFolder

PAGE_FILE = "report.html"


def write_report(
    path: Path | str,
    out: Path | str | None = None,
    *,
    split: Split = "valid",
    data: Path | None = None,
    checkpoint: str | None = None,
    device: str = "auto",
    recording: Recording | None = None,
    overwrite: bool = False,
    as_typed: Callable[[str], str] = str,
) -> Path:
    """Write the page of a run, an ensemble or a sweep: one HTML file that needs no network.

    Parameters
    ----------
    path : Path or str
        Folder of the run, ensemble or sweep.
    out : Path or str, optional
        File to write, ``.html`` or ``.htm``. Default: ``report.html`` in that folder.
    split, data, checkpoint, device, recording
        As in `ndt_cli.report.registry.RunContents`; ignored for a sweep.
    overwrite : bool
        Replace an existing file. The page in the folder itself is replaced without.
    as_typed : callable
        Rewrites the Python calls in the page's texts, which are in backticks. Default: they stay.
        The command line passes `ndt_cli.commands.wording.as_typed`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ExistingFileError
        If the file exists and may not be replaced.
    RunError
        If the folder is not a run or a sweep.
    CheckpointError, DataError, DeviceError
        If the weights, the data or the device are not usable.
    SettingsError
        If the file has another suffix.

    Examples
    --------
    >>> write_report("runs/first").name
    'report.html'
    """
    path = Path(path)
    file = Path(out) if out is not None else path / PAGE_FILE
    check_suffix(file, (".html", ".htm"))
    overwrite = overwrite or (out is None and _is_own(file))
    if SweepFolder.is_at(path):
        sweep = SweepFolder.open(path)
        check_may_write(file, overwrite)
        text = sweep_html(sweep, as_typed)
    else:
        run = RunContents(
            path, split=split, data=data, checkpoint=checkpoint, device=device, recording=recording
        )
        check_may_write(file, overwrite)
        text = run_html(run, as_typed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, text, overwrite=overwrite)
    return file


def _is_own(file: Path) -> bool:
    """Return whether a file is a page that this program wrote."""
    if not file.is_file():
        return False
    with file.open("rb") as page:
        return f'name="generator" content="{GENERATOR}"'.encode() in page.read(4096)
