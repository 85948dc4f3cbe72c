"""Writing the page of a run or of a sweep."""

from pathlib import Path

from ndt_cli.atomic import write_text_atomic
from ndt_cli.commands.output_path import refuse_to_replace
from ndt_cli.data.spike_data import Recording
from ndt_cli.evaluation import Split
from ndt_cli.report.page.run_page import run_page
from ndt_cli.report.page.sweep_page import sweep_page
from ndt_cli.report.run_contents import RunContents
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
) -> Path:
    """Write the page of a run or sweep: one HTML file that needs no other file and no network.

    Parameters
    ----------
    path : Path or str
        Folder of a run, an ensemble or a sweep.
    out : Path or str, optional
        File to write. Default: ``report.html`` in that folder.
    split, data, checkpoint, device, recording
        As in `ndt_cli.report.run_contents.RunContents`; of no meaning for a sweep.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    RunError
        When the file is there already, or the folder is no run.
    CheckpointError, DataError, DeviceError
        When the weights, the data or the device will not do.

    Examples
    --------
    >>> write_report("runs/first").name
    'report.html'
    """
    path = Path(path)
    file = Path(out) if out is not None else path / PAGE_FILE
    if SweepFolder.is_at(path):
        sweep = SweepFolder.open(path)
        refuse_to_replace(file, overwrite)
        text = sweep_page(sweep)
    else:
        run = RunContents(
            path, split=split, data=data, checkpoint=checkpoint, device=device, recording=recording
        )
        refuse_to_replace(file, overwrite)
        text = run_page(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, text, overwrite=True)
    return file
