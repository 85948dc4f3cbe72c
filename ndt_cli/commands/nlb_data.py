"""``ndt nlb-data``: the public files of the Neural Latents Benchmark, and their trials."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ndt_cli.commands.console import log, next_step, note, out, plain_table, print_json, say
from ndt_cli.commands.flags import JsonOption
from ndt_cli.errors import SettingsError, typed

if TYPE_CHECKING:
    from ndt_cli.nlb.download import FileState


def nlb_data(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET...", help="mc_maze, mc_rtt, ...; without any: a list."),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(help="Folder of the files, with one folder per dandiset."),
    ] = Path("nlb-data"),
    check: Annotated[
        bool,
        typer.Option("--check", help="Only compare the files with the public ones."),
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
            help="Only write the train and validation trials of one dataset as a spike file (.h5 "
            "or .npz), for ndt train and ndt sweep.",
        ),
    ] = None,
    bin_ms: Annotated[
        int | None,
        typer.Option("--bin-ms", help="Bin width of --spikes: 5 or 20.", show_default="5"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file of --spikes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download or check the public files of the Neural Latents Benchmark.

    Files are verified by size and sha256. Existing files are kept; an incomplete
    download is resumed.

    With --spikes: write the trials of a dataset as a spike file.
    """
    if spikes is not None:
        if check or test_labels or len(names or []) != 1:
            raise SettingsError(
                "--spikes writes the trials of one dataset from existing files",
                "Give one dataset, and leave out --check and --test-labels.",
            )
        _write_spikes((names or [""])[0], bin_ms or 5, data_dir, spikes, overwrite, as_json)
        next_step(f"ndt sweep --data {typed(spikes)} --choose-by co-bps")
        return
    if bin_ms is not None or overwrite:
        option = "--overwrite" if bin_ms is None else "--bin-ms"
        raise SettingsError(f"{option} is an option of --spikes", "Add --spikes FILE.")
    from ndt_cli.nlb.catalog import TEST_LABELS, find_dataset
    from ndt_cli.nlb.download import check_dataset, check_file, fetch, fetch_dataset

    if not names and not test_labels:
        _show_catalog(as_json)
        return
    names = names or []
    for name in names:
        find_dataset(name)
    labels = data_dir / TEST_LABELS.name
    paths: list[Path] = []
    states: list[FileState] = []
    with _DownloadBars() as bars:
        for name in names:
            if check:
                states += check_dataset(name, data_dir, bars.show)
            else:
                paths += [path for path in fetch_dataset(name, data_dir, bars.show) if path]
        if test_labels and check:
            states.append(check_file(TEST_LABELS, labels, bars.show))
        elif test_labels:
            fetch(TEST_LABELS, labels, bars.show)
            paths.append(labels)
    if check:
        _show_states(states, as_json)
        if any(state.state != "right" for state in states):
            raise typer.Exit(1)
        return
    if as_json:
        print_json("nlb-data/1", {"files": paths})
    else:
        for path in paths:
            say(str(path))
    if names:
        next_step(f"ndt nlb-submit {names[0]} --data-dir {typed(data_dir)}")


def _write_spikes(
    name: str, bin_ms: int, data_dir: Path, path: Path, overwrite: bool, as_json: bool
) -> None:
    from ndt_cli.commands.progress import SubmitProgress
    from ndt_cli.nlb.tensors import write_spike_file

    with SubmitProgress() as progress:
        recording = write_spike_file(
            name, bin_ms, data_dir, path, overwrite=overwrite, progress=progress.stage
        )
    for text in recording.notes:
        note(text)
    train, valid = recording.train, recording.valid
    n_heldin, n_bins = train.n_neurons - train.n_heldout, train.n_bins - train.n_forward
    if as_json:
        print_json(
            "nlb-spikes/1",
            {
                "spikes": path,
                "dataset": name,
                "bin_ms": bin_ms,
                "trials": [train.n_trials, valid.n_trials],
                "neurons": [n_heldin, train.n_heldout],
                "bins": [n_bins, train.n_forward],
            },
        )
        return
    say(
        f"{name}: {train.n_trials} train + {valid.n_trials} validation trials x "
        f"{n_bins} + {train.n_forward} forward bins of {bin_ms} ms x "
        f"{n_heldin} + {train.n_heldout} held-out neurons\nspikes: {path}"
    )
    hint = f"Search: ndt sweep --config nlb-quick --choose-by co-bps --set data.file={typed(path)}"
    if bin_ms != 5:
        hint += (
            "\nThe context window of the presets is in bins of 5 ms: set model.context_back and "
            f"model.context_forward in bins of {bin_ms} ms."
        )
    note(hint)


class _DownloadBars(Progress):
    """One bar per file on standard error; in a log file, one line when it begins."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=log,
            disable=not log.is_terminal,
        )
        self._task_of: dict[str, TaskID] = {}

    def show(self, what: str, done: int, total: int) -> None:
        if what not in self._task_of:
            self._task_of[what] = self.add_task(what, total=total)
            if self.disable:
                note(f"{what} ({total / 1e6:,.1f} MB)")
        self.update(self._task_of[what], completed=done)


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
        print_json("nlb-datasets/1", {"datasets": rows})
        return
    table = plain_table(
        "dataset", "dandiset", "MB", "trials: train, val, test", "held-in + held-out"
    )
    table.columns[2].justify = "right"
    for row in rows:
        table.add_row(
            str(row["dataset"]),
            str(row["dandiset"]),
            f"{row['megabytes']:,.1f}",
            ", ".join(map(str, row["trials"])),
            " + ".join(map(str, row["neurons"])),
        )
    out.print(table)
    note("Download: ndt nlb-data DATASET...")


def _show_states(states: "list[FileState]", as_json: bool) -> None:
    if as_json:
        records = [
            {"file": s.path, "state": s.state, "found": s.found, "expected": s.expected}
            for s in states
        ]
        print_json("nlb-files/1", {"files": records})
        return
    for s in states:
        what = s.state if s.state == "right" else f"{s.state}: {s.difference}"
        say(f"{s.path}  {what}")
