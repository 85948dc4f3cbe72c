"""The true rates of a recording, where they are known, cut into trials as the spikes are.

A synthetic recording can bring them in an .npz file of this layout:

============  ===============  ====================================================================
key           shape            meaning
============  ===============  ====================================================================
``rates``     ms x units       spikes per second, a row a millisecond from the train file's time 0
``heldout``   units            True for held-out units
``unit_ids``  units            ids of the units in the train file; without it, they are sorted by id
``split``     trials           ``train``, ``val``, ``test``, ...; of all trials, in order of time
``align_ms``  trials           align time of the window of each, in ms on the same clock
============  ===============  ====================================================================

``split`` and ``align_ms`` are for the test phase only: in a test file one window follows the
other, so its own times do not tell when a trial was.

Axes in names: M milliseconds, U units in the order of the file; B trials, T bins, N neurons.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.arrays import read_per_trial, read_words
from ndt_cli.data.files import ArrayFile
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError
from ndt_cli.nlb.catalog import NlbDataset
from ndt_cli.nlb.download import locate
from ndt_cli.nlb.submission import SubmissionRates, split_rates
from ndt_cli.nlb.tensors import NlbTensors

FILE_NAME = "truth.npz"
"""Looked for beside the train file, and in a folder ``private`` beside its subject's folder."""


def true_rates(tensors: NlbTensors, data_dir: Path) -> SubmissionRates | None:
    """Return the true rates as a submission, cut from the bins that the spikes were counted in.

    A bin's expected count is the mean of its rates at 1 ms times its width.

    Parameters
    ----------
    tensors : NlbTensors
        The trials.
    data_dir : Path
        Where the NWB files are that they were made from.

    Returns
    -------
    SubmissionRates or None
        None where no file of true rates is beside them.

    Raises
    ------
    DataError
        When there is one that is damaged, or does not fit the trials.
    """
    path = _find(tensors.dataset, data_dir)
    if path is None:
        return None
    try:
        with ArrayFile(path) as file:
            return _cut_all(file, tensors)
    except DataError as error:
        hint = "It holds the true rates to compare with; move it away to do without them."
        raise DataError(error.message, hint) from error


def _find(dataset: NlbDataset, data_dir: Path) -> Path | None:
    folder = locate(dataset, data_dir, "val").train.parent
    folders = [folder]
    if folder.name == dataset.subject_folder:
        folders.append(folder.parent / "private")
    return next((f / FILE_NAME for f in folders if (f / FILE_NAME).is_file()), None)


def _cut_all(file: ArrayFile, tensors: NlbTensors) -> SubmissionRates:
    parts = ("heldin", "heldout", "heldin_forward")
    heldin, heldout, forward = (tensors.train[f"train_spikes_{part}"].shape for part in parts)
    n_window, n_heldin, n_heldout, n_forward = heldin[1], heldin[2], heldout[2], forward[1]
    units_N = _columns(file, n_heldin, n_heldout)
    eval_start_ms = tensors.eval_start_ms
    if tensors.phase == "test":
        eval_start_ms = _test_start_ms(file, tensors)
    bin_ms = tensors.bin_ms
    train_BTN = _cut(file, units_N, tensors.train_start_ms, n_window, bin_ms)
    eval_BTN = _cut(file, units_N, eval_start_ms, n_window + n_forward, bin_ms)
    return split_rates(train_BTN, eval_BTN, n_heldout, n_forward)


def _columns(file: ArrayFile, n_heldin: int, n_heldout: int) -> IntArray:
    """Return the columns of ``rates`` in the order of the tensors: by id, held-out ones last."""
    shape, kind = file.shape("rates"), file.dtype("rates").kind
    n_units = n_heldin + n_heldout
    if kind not in "uif" or len(shape) != 2 or shape[1] != n_units:
        found = f"shape {shape} of type {file.dtype('rates')}"
        raise file.wrong("rates", found, f"numbers, milliseconds x {n_units} units")
    is_heldout = file.read("heldout")
    if is_heldout.shape != (n_units,) or is_heldout.dtype.kind not in "bui":
        found = f"shape {is_heldout.shape} of type {is_heldout.dtype}"
        raise file.wrong("heldout", found, f"true or false for each of {n_units} units")
    if np.count_nonzero(is_heldout) != n_heldout:
        found = f"{np.count_nonzero(is_heldout)} held-out units"
        raise file.wrong("heldout", found, f"{n_heldout}, as in the train file")
    ids = np.arange(n_units)
    if "unit_ids" in file:
        ids = file.read("unit_ids")
        if ids.shape != (n_units,):
            raise file.wrong("unit_ids", f"shape {ids.shape}", f"{n_units} ids")
    return np.lexsort((ids, is_heldout.astype(bool)))


def _test_start_ms(file: ArrayFile, tensors: NlbTensors) -> IntArray:
    """Return the first bin of each test trial, on the clock of the rates."""
    n_rows, n_trials = int(np.size(file.read("split"))), len(tensors.eval_start_ms)
    is_test = np.array([word == "test" for word in read_words(file, "split", n_rows)])
    if np.count_nonzero(is_test) != n_trials:
        found = f"{np.count_nonzero(is_test)} trials `test`"
        raise file.wrong("split", found, f"{n_trials}, as in the test file")
    align_ms = read_per_trial(file, "align_ms", n_rows)[is_test]
    if align_ms.dtype.kind not in "uif" or not np.isfinite(align_ms).all():
        raise file.wrong("align_ms", "a test trial without a time", "milliseconds")
    window_ms = align_ms + tensors.dataset.window_ms[0]
    # Bins lie on a grid from time 0; nlb_tools takes those that begin inside of the window.
    bin_ms = tensors.bin_ms
    return np.asarray(np.ceil(np.round(window_ms / bin_ms, 6)) * bin_ms).astype(int)


def _cut(
    file: ArrayFile, units_N: IntArray, start_ms_B: IntArray, n_bins: int, bin_ms: int
) -> NDArray[np.float64]:
    """Return expected counts per bin, trials x bins x neurons."""
    n_ms = n_bins * bin_ms
    trials = []
    for trial, start_ms in enumerate(start_ms_B):
        rates_MU: NDArray[Any] = file.read("rates", max(0, start_ms), start_ms + n_ms)
        if start_ms < 0 or len(rates_MU) < n_ms:
            found = f"{file.shape('rates')[0]} ms"
            expected = f"all of trial {trial}, {start_ms} to {start_ms + n_ms} ms"
            raise file.wrong("rates", found, expected)
        bad_MU = ~(np.isfinite(rates_MU) & (rates_MU >= 0))
        if bad_MU.any():
            ms, unit = (int(i) for i in np.argwhere(bad_MU)[0])
            found = f"{rates_MU[ms, unit]:g} at {start_ms + ms} ms, unit {unit}"
            raise file.wrong("rates", found, "finite rates from 0 on")
        bins_TMN = rates_MU[:, units_N].astype(np.float64).reshape(n_bins, bin_ms, -1)
        trials.append(bins_TMN.mean(axis=1) * (bin_ms / 1000))
    return np.stack(trials)
