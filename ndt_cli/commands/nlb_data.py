"""``ndt nlb-data``: the public files of the Neural Latents Benchmark, and their trials."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ndt_cli.commands.console import log, out, print_json
from ndt_cli.commands.flags import JsonOption
from ndt_cli.errors import SettingsError, typed

if TYPE_CHECKING:
    from ndt_cli.nlb.download import FileState


def nlb_data(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET...", help="mc_maze, mc_rtt, ...; without one: a list."),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(help="Folder of the files; below it, one folder a dandiset."),
    ] = Path("nlb-data"),
    check: Annotated[
        bool, typer.Option("--check", help="Fetch nothing: compare the files with the public ones.")
    ] = False,
    test_labels: Annotated[
        bool,
        typer.Option(
            "--test-labels", help="Also the labels of the test phase, public since 2026 (106 MB)."
        ),
    ] = False,
    spikes: Annotated[
        Path | None,
        typer.Option(
            "--spikes",
            metavar="FILE",
            help="Fetch nothing: write the train and validation trials of one dataset as a spike "
            "file (.h5 or .npz), for ndt train and ndt sweep.",
        ),
    ] = None,
    bin_ms: Annotated[
        int | None,
        typer.Option("--bin-ms", help="Bin width of --spikes: 5 or 20.", show_default="5"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch or check the public files of the Neural Latents Benchmark.

    What is there already is checked and kept; a download that broke off goes on
    where it stopped.

    With --spikes: the trials of a dataset's files as one spike file.
    """
    if spikes is not None:
        if check or test_labels or len(names or []) != 1:
            raise SettingsError(
                "--spikes writes the trials of one dataset, of files that are there",
                "give one dataset, and leave out --check and --test-labels",
            )
        _write_spikes((names or [""])[0], bin_ms or 5, data_dir, spikes, as_json)
        return
    if bin_ms is not None:
        raise SettingsError(
            "--bin-ms is the bin width of --spikes", "add --spikes FILE, or leave it out"
        )
    from ndt_cli.nlb.catalog import TEST_LABELS, find_dataset
    from ndt_cli.nlb.download import check_file, fetch, public_path

    datasets = [find_dataset(name) for name in names or []]
    wanted = [(file, public_path(d, file, data_dir)) for d in datasets for file in d.files]
    if test_labels:
        wanted.append((TEST_LABELS, data_dir / TEST_LABELS.name))
    if not wanted:
        _show_catalog(as_json)
        return
    with _Bars() as bars:
        if not check:
            for file, path in wanted:
                fetch(file, path, bars.show)
        states = [check_file(file, path, bars.show) for file, path in wanted] if check else []
    if not check:
        _show_files([path for _, path in wanted], as_json)
        return
    _show_states(states, as_json)
    if any(state.state != "right" for state in states):
        raise typer.Exit(1)


def _write_spikes(name: str, bin_ms: int, data_dir: Path, path: Path, as_json: bool) -> None:
    from ndt_cli.commands.nlb_progress import SubmitProgress
    from ndt_cli.nlb.recordings import write_spike_file

    with SubmitProgress() as progress:
        recording = write_spike_file(name, bin_ms, data_dir, path, progress=progress.stage)
    for note in recording.notes:
        log.print(note, highlight=False, soft_wrap=True)
    train, valid = recording.train, recording.valid
    if as_json:
        print_json(
            {
                "spikes": str(path),
                "dataset": name,
                "bin_ms": bin_ms,
                "trials": [train.n_trials, valid.n_trials],
                "neurons": [train.n_neurons - train.n_heldout, train.n_heldout],
                "bins": [train.n_bins - train.n_forward, train.n_forward],
            }
        )
        return
    out.print(
        f"{name}: {train.n_trials} train + {valid.n_trials} validation trials x "
        f"{train.n_bins - train.n_forward} + {train.n_forward} forward bins of {bin_ms} ms x "
        f"{train.n_neurons - train.n_heldout} + {train.n_heldout} held-out neurons",
        highlight=False,
        soft_wrap=True,
    )
    out.print(f"spikes: {path}", highlight=False, soft_wrap=True)
    log.print(
        f"Search: ndt sweep --config nlb-quick --choose-by co-bps --set data.file={typed(path)}",
        highlight=False,
        soft_wrap=True,
    )
    if bin_ms != 5:
        log.print(
            "The presets count their context window in bins of 5 ms: give model.context_back and "
            f"model.context_forward in bins of {bin_ms} ms.",
            highlight=False,
            soft_wrap=True,
        )


class _Bars:
    """A bar for each file on standard error; without a terminal, a line when one begins."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=log,
            disable=not log.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Bars":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
            if not log.is_terminal:
                log.print(f"{what} ({total / 1e6:,.1f} MB)", highlight=False, soft_wrap=True)
        self._bars.update(self._tasks[what], completed=done)


def _show_catalog(as_json: bool) -> None:
    from ndt_cli.nlb.catalog import DATASETS

    rows: list[dict[str, Any]] = [
        {
            "dataset": d.name,
            "dandiset": d.dandiset,
            "megabytes": round(sum(file.n_bytes for file in d.files) / 1e6, 1),
            "trials": [d.n_train, d.n_val, d.n_test],
            "neurons": [d.n_heldin, d.n_heldout],
        }
        for d in DATASETS.values()
    ]
    if as_json:
        print_json({"datasets": rows})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("data set", "dandiset", "MB", "trials: train, val, test", "held-in + held-out"):
        table.add_column(title, justify="right" if title == "MB" else "left")
    for row in rows:
        table.add_row(
            str(row["dataset"]),
            str(row["dandiset"]),
            f"{row['megabytes']:,.1f}",
            ", ".join(map(str, row["trials"])),
            " + ".join(map(str, row["neurons"])),
        )
    out.print(table)
    log.print("Fetch some with  ndt nlb-data DATASET...", highlight=False)


def _show_files(paths: list[Path], as_json: bool) -> None:
    if as_json:
        print_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        out.print(str(path), highlight=False, soft_wrap=True)


def _show_states(states: "list[FileState]", as_json: bool) -> None:
    if as_json:
        records = [
            {"file": str(s.path), "state": s.state, "found": s.found, "expected": s.expected}
            for s in states
        ]
        print_json({"files": records})
        return
    for s in states:
        what = s.state if s.state == "right" else f"{s.state}: {s.difference}"
        out.print(f"{s.path}  {what}", highlight=False, soft_wrap=True)
