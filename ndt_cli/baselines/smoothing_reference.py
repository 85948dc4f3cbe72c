"""Smoothing as the reference of a run: fitted once, and stored beside the weights.

Axes in names: B trials, T bins, N neurons.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from typing_extensions import Self

from ndt_cli.atomic import write_atomic
from ndt_cli.baselines.heldout import HeldoutRegression
from ndt_cli.baselines.smoothing import Float64Array, Smoother
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import RunError

_HINT = "The file is damaged; without it, smoothing is fitted to the training trials again."


@dataclass(frozen=True, eq=False)
class SmoothingReference:
    """Smoothed held-in spikes, and held-out neurons predicted from them by regression."""

    smoother: Smoother  # also holds the mean rates
    regression: HeldoutRegression | None  # None without held-out neurons
    trained_on: str = ""  # fingerprint of the training trials; empty in files of older versions

    @classmethod
    def fit(cls, train: SpikeData) -> Self:
        """Fit kernel and regression to training trials.

        Raises
        ------
        DataError
            As `Smoother.fit` and `HeldoutRegression.fit`.
        """
        smoother = Smoother.fit(train)
        regression = HeldoutRegression.fit(train, smoother) if train.n_heldout else None
        return cls(smoother, regression, train.fingerprint)

    def rates(self, data: SpikeData) -> Float64Array:
        """Return rates with nothing hidden, (trials, bins, neurons) in spikes per bin."""
        smoothed_BTN = self.smoother.rates(data)
        if self.regression is not None:
            smoothed_BTN[:, :, data.n_neurons - data.n_heldout :] = self.regression.rates(data)
        return smoothed_BTN

    def rates_while_hidden(self, data: SpikeData, folds_BTN: NDArray[np.integer]) -> Float64Array:
        """Return each rate as smoothed while its own count is hidden.

        ``folds_BTN`` broadcasts to the counts: the number of the pass in which each is hidden.
        """
        rates_BTN = np.zeros(data.spikes_BTN.shape)
        for fold in range(int(folds_BTN.max()) + 1):
            hidden_BTN = np.broadcast_to(folds_BTN == fold, rates_BTN.shape)
            np.copyto(rates_BTN, self.smoother.rates_hidden(data, hidden_BTN), where=hidden_BTN)
        return rates_BTN

    def save(self, path: Path) -> None:
        """Write the fields of both as a safetensors file, which holds numbers only.

        An earlier file is replaced.
        """
        arrays = dict(vars(self.smoother))
        if self.regression is not None:
            arrays |= vars(self.regression)
            del arrays["smoother"]
        stored = {name: np.array(a, dtype=float, order="C", ndmin=1) for name, a in arrays.items()}
        content = save(stored, metadata={"trained_on": self.trained_on})
        write_atomic(path, lambda temporary: temporary.write_bytes(content), overwrite=True)

    @classmethod
    def load(
        cls, path: Path, *, n_neurons: int, n_heldout: int, bin_ms: float, trained_on: str = ""
    ) -> Self:
        """Read a file of `save`, of a run with these neurons, bins and training trials.

        Raises
        ------
        RunError
            If it is damaged, or of other trials, neurons or bins.
        """
        n_heldin = n_neurons - n_heldout
        shapes: dict[str, tuple[int, ...]] = {
            "width_ms": (1,),
            "prior_spikes": (1,),
            "mean_rates_N": (n_neurons,),
            "bin_ms": (1,),
        }
        if n_heldout:
            shapes |= {
                "weights_FN": (n_heldin, n_heldout),
                "intercepts_N": (n_heldout,),
                "means_F": (n_heldin,),
                "scales_F": (n_heldin,),
                "highest_N": (n_heldout,),
                "penalty": (1,),
            }
        try:
            with safe_open(path, "numpy") as file:
                fitted_to = (file.metadata() or {}).get("trained_on", "")
                stored: dict[str, Any] = {
                    name: file.get_tensor(name) for name in set(file.keys()) & set(shapes)
                }
        except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
            raise RunError(f"{path} cannot be read: {error}", _HINT) from error
        if "" not in (fitted_to, trained_on) and fitted_to != trained_on:
            raise RunError(
                f"{path}: smoothing was fitted to other training trials than those of this run",
                "Put back the file of this run; without it, smoothing is fitted again.",
            )
        for name, shape in shapes.items():
            values = stored.get(name)
            if values is None or values.shape != shape or values.dtype != np.float64:
                found = "nothing" if values is None else f"{values.dtype} of shape {values.shape}"
                raise RunError(f"{path}: {name}: found {found}; expected float64 {shape}", _HINT)
            if not np.isfinite(values).all():
                raise RunError(f"{path}: {name}: found a number that is not finite", _HINT)
        numbers = ("width_ms", "prior_spikes", "bin_ms", "penalty")
        one = {name: float(stored.pop(name)[0]) for name in numbers if name in stored}
        if one["bin_ms"] != bin_ms or not (one["width_ms"] > 0 and one["prior_spikes"] > 0):
            raise RunError(
                f"{path}: found a kernel of {one['width_ms']:g} ms for bins of "
                f"{one['bin_ms']:g} ms; expected one for bins of {bin_ms:g} ms",
                _HINT,
            )
        stored |= one
        smoother = Smoother(**{f.name: stored.pop(f.name) for f in fields(Smoother)})
        return cls(
            smoother, HeldoutRegression(smoother, **stored) if n_heldout else None, fitted_to
        )
