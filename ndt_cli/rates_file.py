"""Inferred rates as a file that other programs read."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ndt_cli.atomic import write_atomic
from ndt_cli.data.chop import merge
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.inference import Float32Array
from ndt_cli.errors import DataError

_ENDINGS = (".h5", ".npz")

# Rates per bin and per second cannot be told apart by looking at them.
_UNITS = {
    "rates": "spikes/bin",
    "rates_hz": "spikes/s",
    "continuous_rates": "spikes/bin",
    "continuous_rates_hz": "spikes/s",
    "bin_ms": "ms",
}


def write_rates(
    path: Path, data: SpikeData, rates_BTN: Float32Array, activations_BTD: Float32Array
) -> None:
    """Write rates and the encoder's activations.

    Parameters
    ----------
    path : Path
        A new ``.h5`` or ``.npz`` file; in the first rates have an attribute ``unit``. Its keys:
        ``rates`` (expected spikes per bin), ``rates_hz``, ``activations``, all trials x bins x
        channels; ``bin_ms``; ``lengths`` (bins of each trial, beyond which everything is 0);
        ``trial_ids`` where known. Neurons are in the order of the file; ``heldout_neurons`` are
        the places of those that were held
        out, where there are any. Windows chopped from a continuous recording are also merged:
        ``continuous_rates`` and ``continuous_rates_hz`` (bins x neurons, NaN where there is no
        window), and ``continuous_start_ms``, when their first bin begins on the recording's
        clock.
    data : SpikeData
        The trials.
    rates_BTN, activations_BTD : float32 array
        What the model makes of them.

    Raises
    ------
    DataError
        When the file is there already, its ending is another, or a rate is not finite.
    """
    if path.suffix not in _ENDINGS:
        raise DataError(f"{path}: rates are written as {' or '.join(_ENDINGS)}")
    if path.exists():
        raise DataError(f"{path} is already there", "give another name to --rates")
    rates_BTN = rates_BTN[:, :, data.file_order_N]
    if not np.isfinite(rates_BTN).all():
        trial = int(np.argwhere(~np.isfinite(rates_BTN))[0][0])
        raise DataError(
            f"{path} was not written: rates of trial {trial} are not finite",
            "the run has diverged there; try --checkpoint best-masked-loss, or train anew with a "
            "lower learning rate",
        )
    arrays: dict[str, Any] = {
        "rates": rates_BTN,
        "rates_hz": rates_BTN * np.float32(1000.0 / data.bin_ms),
        "activations": np.where(data.inside_BT[:, :, None], activations_BTD, np.float32(0)),
        "bin_ms": np.float64(data.bin_ms),
        "lengths": np.asarray(data.lengths_B),
    }
    if data.trial_ids_B is not None:
        arrays["trial_ids"] = np.asarray(data.trial_ids_B)
    if data.n_heldout:
        arrays["heldout_neurons"] = data.heldout_ids
    if data.start_bins_B is not None:
        rates_TN = merge(rates_BTN, data.start_bins_B, data.lengths_B)
        arrays["start_bins"] = np.asarray(data.start_bins_B)
        arrays["continuous_rates"] = rates_TN
        arrays["continuous_rates_hz"] = rates_TN * np.float32(1000.0 / data.bin_ms)
        arrays["continuous_start_ms"] = np.float64(data.start_bins_B.min() * data.bin_ms)

    def write(temporary: Path) -> None:
        if path.suffix == ".npz":
            np.savez_compressed(temporary, **arrays)
            return
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
                if name in _UNITS:
                    file[name].attrs["unit"] = _UNITS[name]

    write_atomic(path, write)
