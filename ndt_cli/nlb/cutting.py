"""Cutting a data set into tensors with nlb_tools, its errors turned into ours."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import DataError
from ndt_cli.nlb.catalogue import NlbDataset, Phase
from ndt_cli.nlb.local_files import NwbFiles, data_dir_of, fetch_command
from ndt_cli.nlb.nwb_source import NwbSource, open_nwb
from ndt_cli.nlb.progress import Progress
from ndt_cli.nlb.tools import CutTrials, LeanDataset, Session, repaired

if TYPE_CHECKING:
    from collections.abc import Iterator

Arrays = dict[str, NDArray[Any]]
Split = str | list[str] | NDArray[np.bool_]


def cut_tensors(
    dataset: NlbDataset, bin_ms: int, phase: Phase, files: NwbFiles, progress: Progress
) -> dict[str, Any]:
    """Return the fields of an `ndt_cli.nlb.tensors.NlbTensors`, made from the NWB files."""
    with ExitStack() as stack:
        train_source = stack.enter_context(open_nwb(files.train, dataset))
        train_source.check_train()
        sources = [train_source]
        if files.test is not None and phase == "test":
            test_source = stack.enter_context(open_nwb(files.test, dataset))
            test_source.check_test(train_source)
            sources.insert(0, test_source)
        tools = stack.enter_context(repaired())
        stack.enter_context(_explained(files.train, dataset))
        loaded = _load(sources, bin_ms, progress)
        train_split, eval_split = _splits(phase)
        cut = _Cutter(loaded, sources)
        progress("cutting trials", 0, 2)
        train, train_trials = cut(
            train_split,
            lambda: tools.make_train_input_tensors(
                loaded,
                dataset.name,
                train_split,
                save_file=False,
                include_behavior=True,
                include_forward_pred=True,
            ),
        )
        progress("cutting trials", 1, 2)
        evaluated, eval_trials = cut(
            eval_split,
            lambda: tools.make_eval_input_tensors(
                loaded, dataset.name, eval_split, save_file=False
            ),
        )
        progress("cutting trials", 2, 2)
        target = None
        if phase == "val":
            target = _target(tools, loaded, dataset, train_split, eval_split)
    return {
        "train": train,
        "eval": evaluated,
        "target": target,
        "train_trial_ids": train_trials.rows,
        "eval_trial_ids": eval_trials.rows,
        # The train file comes last, and trials to evaluate are of the first file.
        "train_start_ms": train_trials.starts_ms - _file_start_ms(loaded, sources),
        "eval_start_ms": eval_trials.starts_ms,
        "notes": _neuron_notes(dataset, train),
    }


def cut_private_target(
    dataset: NlbDataset, bin_ms: int, path: Path, train_file: Path | None, progress: Progress
) -> Arrays:
    """Return the target of the test phase from a file that has everything."""
    with ExitStack() as stack:
        private = stack.enter_context(open_nwb(path, dataset))
        train_split: Split = ["train", "val"]
        if train_file is not None:
            public = stack.enter_context(open_nwb(train_file, dataset)).trials
            public = public[np.isin(public["split"], train_split)]
            train_split = np.isin(private.trials["start_time"], public["start_time"])
        tools = stack.enter_context(repaired())
        stack.enter_context(_explained(path, dataset))
        loaded = _load([private], bin_ms, progress)
        return _target(tools, loaded, dataset, train_split, "test")


def _splits(phase: Phase) -> tuple[str | list[str], str]:
    return ("train", "val") if phase == "val" else (["train", "val"], "test")


@contextmanager
def _explained(path: Path, dataset: NlbDataset) -> "Iterator[None]":
    """Turn what nlb_tools raises over content that it did not expect into a DataError."""
    try:
        yield
    except (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: nlb_tools cannot make tensors of {dataset.name} from it "
            f"({type(error).__name__}: {error})",
            hint="Compare it with the public file:  "
            f"{fetch_command(dataset, data_dir_of(dataset, path))} --check",
        ) from error


def _load(sources: Sequence[NwbSource], bin_ms: int, progress: Progress) -> LeanDataset:
    loaded = LeanDataset(Session(sources, sources[-1].dataset.behavior_series, progress))
    loaded.resample(bin_ms)
    return loaded


def _file_start_ms(loaded: LeanDataset, sources: Sequence[NwbSource]) -> int:
    """Return where nlb_tools has put the last file, behind those before it."""
    first_row = sum(len(source.trials) for source in sources[:-1])
    moved_s: float = loaded.trial_info["start_time"].iloc[first_row].total_seconds()
    own_s: float = sources[-1].trials["start_time"].iloc[0]
    return round(1000 * (moved_s - own_s))


class _Cutter:
    """Cuts trials, and refuses files of which nlb_tools leaves some out: it does so silently.

    It drops them from the counts and keeps them in the behaviour, so that rows would not match.
    """

    def __init__(self, loaded: LeanDataset, sources: Sequence[NwbSource]) -> None:
        self._loaded = loaded
        self._paths = " and ".join(str(source.path) for source in sources)

    def __call__(
        self, split: str | list[str], make: Callable[[], Arrays]
    ) -> tuple[Arrays, CutTrials]:
        """Return tensors, and which trials they are of."""
        self._loaded.cut_trials.clear()
        arrays = make()
        table = self._loaded.trial_info
        wanted = table.loc[np.isin(table["split"], split), "trial_id"].to_numpy()
        for cut in self._loaded.cut_trials:  # the window, the behaviour, the forward bins
            lost = wanted[~np.isin(wanted, cut.rows)]
            if len(lost):
                names = " and ".join([split] if isinstance(split, str) else split)
                raise DataError(
                    f"{self._paths}: nlb_tools cuts {len(cut.rows)} of {len(wanted)} {names} "
                    f"trials; row {lost[0]} of the trial table lacks its align time, or samples "
                    "of a time series in its window",
                    hint="Set the split of such trials to 'none', or fill in the samples.",
                )
        return arrays, self._loaded.cut_trials[0]


def _target(
    tools: Any, loaded: LeanDataset, dataset: NlbDataset, train_split: Split, eval_split: str
) -> Arrays:
    made = tools.make_eval_target_tensors(
        loaded, dataset.name, train_split, eval_split, save_file=False, include_psth=True
    )
    (target,) = made.values()
    for key in ("train_cond_idx", "eval_cond_idx"):
        if key in target:
            target[key] = _ragged(target[key])
    return dict(target)


def _ragged(rows: Sequence[Any]) -> NDArray[Any]:
    """Return a list of index arrays as a 1-D array of objects, also where all are equally long.

    numpy makes a 2-D array of those, which nlb_tools cannot save.
    """
    ragged = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        ragged[i] = np.asarray(row, dtype=np.int64)
    return ragged


def _neuron_notes(dataset: NlbDataset, train: Arrays) -> tuple[str, ...]:
    found = tuple(train[f"train_spikes_{part}"].shape[2] for part in ("heldin", "heldout"))
    if found == (dataset.n_heldin, dataset.n_heldout):
        return ()
    return (
        f"{found[0]} held-in and {found[1]} held-out neurons; the public {dataset.name} has "
        f"{dataset.n_heldin} and {dataset.n_heldout}.",
    )
