"""The submission file of the benchmark: six arrays of rates per dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.atomic import check_may_write, write_stream_atomic
from ndt_cli.data.files import DAMAGE, check_announced, open_hdf5, own_items
from ndt_cli.errors import DataError
from ndt_cli.nlb.check import require_scorable

SubmissionRates = dict[str, NDArray[Any]]
"""Rates of one dataset at one bin width, by the keys of the file (`ndt_cli.nlb.catalog.AXES`).

Expected spike counts per bin, trials x bins x neurons. In the test phase the training trials are
train and validation trials together.
"""


def split_rates(
    train_rates_BTN: NDArray[Any], eval_rates_BTN: NDArray[Any], n_heldout: int, n_forward: int
) -> SubmissionRates:
    """Split a model's rates, expected counts per bin, into the six arrays.

    Held-out neurons are the last columns, forward bins the last bins; train rates may have the
    window only.
    """
    n_window, n_heldin = eval_rates_BTN.shape[1] - n_forward, eval_rates_BTN.shape[2] - n_heldout
    n_train_bins = train_rates_BTN.shape[1]
    fits = train_rates_BTN.shape[2] == eval_rates_BTN.shape[2] and n_train_bins in (
        n_window,
        n_window + n_forward,
    )
    if not fits or min(n_window, n_heldin, n_heldout, n_forward) < 1:
        raise ValueError(
            f"train rates {train_rates_BTN.shape} and eval rates {eval_rates_BTN.shape} cannot "
            f"be split into {n_heldout} held-out neurons and {n_forward} forward bins"
        )
    return {
        "train_rates_heldin": train_rates_BTN[:, :n_window, :n_heldin],
        "train_rates_heldout": train_rates_BTN[:, :n_window, n_heldin:],
        "eval_rates_heldin": eval_rates_BTN[:, :n_window, :n_heldin],
        "eval_rates_heldout": eval_rates_BTN[:, :n_window, n_heldin:],
        "eval_rates_heldin_forward": eval_rates_BTN[:, n_window:, :n_heldin],
        "eval_rates_heldout_forward": eval_rates_BTN[:, n_window:, n_heldin:],
    }


def write_submission(
    path: Path, rates: Mapping[str, SubmissionRates], overwrite: bool = False
) -> None:
    """Write rates by group (``mc_maze``, ``mc_maze_20``) as float32; check first that they fit."""
    check_may_write(path, overwrite)
    if not rates:
        raise DataError(f"{path}: found no rates to write; expected at least one dataset")
    for name, arrays in rates.items():
        require_scorable(name, arrays, source=f"{path}: ")

    def write(temporary: BinaryIO) -> None:
        with h5py.File(temporary, "w") as file:
            for name, arrays in rates.items():
                for key, array in arrays.items():
                    file.create_dataset(f"{name}/{key}", data=np.asarray(array, dtype=np.float32))

    write_stream_atomic(path, write, overwrite=overwrite)


def read_groups(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Read the arrays of a submission or target file, by group and key.

    Examples
    --------
    >>> train_BTN, eval_BTN = np.full((3, 140, 4), 0.1), np.full((2, 180, 4), 0.1)
    >>> rates = split_rates(train_BTN, eval_BTN, n_heldout=1, n_forward=40)
    >>> write_submission(Path("submission.h5"), {"mc_maze": rates})
    >>> read_groups(Path("submission.h5"))["mc_maze"]["eval_rates_heldout_forward"].shape
    (2, 40, 1)
    """
    try:
        with open_hdf5(path) as file:
            groups = {
                name: {
                    key: _read(path, item)
                    for key, item in own_items(group).items()
                    if isinstance(item, h5py.Dataset) and item.shape is not None
                }
                for name, group in own_items(file).items()
                if isinstance(group, h5py.Group)
            }
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DAMAGE as error:
        hint = "Check that it is an HDF5 file and that it was copied completely."
        raise DataError(f"{path}: cannot be read as HDF5: {error}", hint) from error
    if not groups:
        raise DataError(f"{path}: found no groups; expected one per dataset, such as mc_maze")
    return groups


def _read(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    check_announced(path, dataset)
    return np.asarray(dataset[()])
