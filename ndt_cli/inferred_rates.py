"""Rates with what they are of: units, trials and times; the same in xarray, pandas and pynapple.

Axes in names: B trials, T bins, N neurons, D channels of the encoder, K principal components,
V behavioral variables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ndt_cli import __version__
from ndt_cli.across_sessions import activations_of
from ndt_cli.data.bins import merge, merged_bins
from ndt_cli.data.spike_data import (
    ByTrial,
    FloatArray,
    IntArray,
    Recording,
    SpikeData,
    Split,
    TrialValues,
    trial_blocks,
)
from ndt_cli.data.write import table_by_key
from ndt_cli.engine.inference import check_overrides, load_trained, recording_of
from ndt_cli.errors import DataError, SettingsError, needed


@dataclass(frozen=True, eq=False)
class Rates:
    """Inferred rates of some trials.

    Attributes
    ----------
    data : SpikeData
        The trials, with their counts and everything known about them.
    inferred : (trials, bins, neurons) float array or ByTrial
        Rates in spikes per bin, in the columns of ``data``.
    activations : (trials, bins, channels) float array or ByTrial, optional
        The encoder's activations.
    run, checkpoint, source : str
        The run folder, which of its weights, and the spike file.
    """

    data: SpikeData
    inferred: TrialValues
    activations: TrialValues | None = None
    run: str = ""
    checkpoint: str = ""
    source: str = ""

    @property
    def neuron_names(self) -> tuple[str, ...]:
        """Name of each neuron in the order of the file; its position, from 0, if it has none."""
        return self.data.neuron_names or tuple(str(n) for n in range(self.data.n_neurons))

    @property
    def rates_hz_BTN(self) -> FloatArray:
        """Rates in spikes per second, neurons in the order of the file; NaN past a trial's end."""
        rates_BTN = self.inferred[:][:, :, self.data.file_order_N] * (1000 / self.data.bin_ms)
        rates_BTN[~self.data.inside_BT] = np.nan
        return rates_BTN

    def labels(self) -> dict[str, NDArray[Any]]:
        """Return what is known about the trials, bins and neurons, as named arrays.

        Texts are arrays of text; a single number or text has no axes. Columns of the table of
        trials have the names ``trial_table/NAME``.
        """
        data = self.data
        found: dict[str, Any] = {
            "run": self.run or None,
            "checkpoint": self.checkpoint or None,
            "source": self.source or None,
            "bin_ms": float(data.bin_ms),
            "event": data.event or None,
            "start_ms": float(data.start_ms),
            "time_ms": data.times_ms_T,
            "lengths": data.lengths_B,
            "trial_ids": data.trial_ids_B,
            "split": self.splits,
            "conditions": data.conditions_B,
            "condition_labels": data.condition_labels,
            "start_times_s": data.start_times_s_B,
            "neuron_names": self.neuron_names,
            "heldout_neurons": data.heldout_ids if data.n_heldout else None,
            "behavior_names": data.behavior_names or None,
            "start_bins": data.start_bins_B,
        }
        if data.start_bins_B is not None:
            found["continuous_start_ms"] = 1000 * self._first_start_s
        found |= table_by_key(data.trial_table)
        found["written_by"] = f"ndt {__version__}"
        return {key: np.asarray(value) for key, value in found.items() if value is not None}

    @property
    def trial_ids_B(self) -> IntArray:
        """Number of each trial in the recording; its place, from 0, if it has none."""
        known_B = self.data.trial_ids_B
        return np.arange(self.data.n_trials) if known_B is None else known_B

    @property
    def trial_columns(self) -> dict[str, NDArray[Any]]:
        """What is known about each trial, by name: split, condition and the table of trials."""
        known: dict[str, Any] = {"split": self.splits, "condition": self.data.condition_labels}
        known |= {
            name: column for name, column in self.data.trial_table.items() if name not in known
        }
        return {name: np.asarray(column) for name, column in known.items() if column is not None}

    @property
    def splits(self) -> tuple[str, ...] | None:
        """The split of each trial, ``train`` or ``valid``, if known."""
        if self.data.is_valid_B is None:
            return None
        return tuple("valid" if is_valid else "train" for is_valid in self.data.is_valid_B)

    def components(self, n: int) -> tuple[ByTrial, NDArray[Any], NDArray[Any]]:
        """Return the leading principal components of the activations of these trials.

        Parameters
        ----------
        n : int
            How many.

        Returns
        -------
        scores_BTK : ByTrial
            (trials, bins, components); 0 past the end of a trial.
        axes_DK : (channels, components) array
            Directions of length 1.
        share_K : (components,) array
            Share of the variance along each.

        Raises
        ------
        SettingsError
            If there are no activations, or fewer channels.
        """
        values, data = self.activations, self.data
        n_channels = 0 if values is None else values.shape[2]
        if values is None or not 1 <= n <= n_channels:
            raise SettingsError(
                f"`n_components={n}`: expected a number from 1 to {n_channels}, the channels of "
                "the activations"
            )
        total_D, products_DD, n_entries = np.zeros(n_channels), np.zeros((n_channels,) * 2), 0
        for block in trial_blocks(data.n_trials, data.n_bins * n_channels):
            values_XD = values[block][data.inside_BT[block]].astype(np.float64)
            total_D += values_XD.sum(axis=0)
            products_DD += values_XD.T @ values_XD
            n_entries += len(values_XD)
        mean_D = total_D / n_entries
        variances, axes = np.linalg.eigh(products_DD / n_entries - np.outer(mean_D, mean_D))
        axes_DK = axes[:, ::-1][:, :n]
        # The sign of a direction is arbitrary: its largest entry is made positive.
        axes_DK = axes_DK * np.sign(axes_DK[np.abs(axes_DK).argmax(axis=0), np.arange(n)])
        share_K = np.maximum(variances[::-1][:n], 0) / max(float(variances.sum()), 1e-300)

        def scores(trials: IntArray) -> FloatArray:
            scores_BTK: FloatArray = ((values[trials] - mean_D) @ axes_DK).astype(np.float32)
            scores_BTK[~data.inside_BT[trials]] = 0
            return scores_BTK

        shape = (data.n_trials, data.n_bins, n)
        return ByTrial(shape, np.float32, scores, keep=False), axes_DK, share_K

    def table(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the columns of a long table, one row for each trial, bin and neuron, in blocks."""
        data = self.data
        n_neurons, order_N = data.n_neurons, data.file_order_N
        names_N, known = np.array(self.neuron_names), self.trial_columns
        by_trial = {name: known[name] for name in ("split", "condition") if name in known}
        # A row of names and numbers takes ten times the memory of a rate.
        for block in trial_blocks(data.n_trials, 10 * data.n_bins * n_neurons):
            inside_BT = data.inside_BT[block]
            trials_X, bins_X = np.nonzero(inside_BT)
            trials_X += block.start
            columns: dict[str, NDArray[Any]] = {
                "trial": self.trial_ids_B[trials_X].repeat(n_neurons)
            }
            for name, values_B in by_trial.items():
                columns[name] = values_B[trials_X].repeat(n_neurons)
            columns["time_ms"] = data.times_ms_T[bins_X].repeat(n_neurons)
            columns["neuron"] = np.tile(names_N, len(trials_X))
            if data.hidden_counts_known:
                columns["spikes"] = data.spikes_BTN[block][inside_BT][:, order_N].reshape(-1)
            rates_XN = self.inferred[block][inside_BT][:, order_N] * (1000 / data.bin_ms)
            columns["rate_hz"] = rates_XN.astype(np.float32).reshape(-1)
            yield columns

    def on_clock(
        self, values_BTK: TrialValues | None = None
    ) -> tuple[NDArray[np.float64], FloatArray]:
        """Return rates in order of time on the recording's clock; windows that overlap are merged.

        Parameters
        ----------
        values_BTK : (trials, bins, channels) float array or ByTrial, optional
            Other values of the same trials. Default: rates in spikes per second, neurons in the
            order of the file.

        Returns
        -------
        times_s_X : (bins,) array
            Middle of each bin.
        values_XK : (bins, channels) array

        Raises
        ------
        DataError
            If the times of the trials are not known.
        """
        data, bin_s = self.data, self.data.bin_ms / 1000
        found_BTK = self.rates_hz_BTN if values_BTK is None else values_BTK[:]
        if data.start_bins_B is not None:
            starts_B, lengths_B = np.asarray(data.start_bins_B), np.asarray(data.lengths_B)
            bins_X = np.arange(merged_bins(starts_B, lengths_B))
            merged_XK = merge(found_BTK, starts_B, lengths_B)
            known_X = np.isfinite(merged_XK).all(axis=1)
            return self._first_start_s + (bins_X[known_X] + 0.5) * bin_s, merged_XK[known_X]
        if data.start_times_s_B is None:
            raise DataError(
                f"{self.source or 'these trials'}: the times of the trials on the recording's "
                "clock are not known",
                "Convert the recording again, or add `start_times_s`, in seconds, to the file.",
            )
        times_BT = data.start_times_s_B[:, None] + bin_s * (np.arange(data.n_bins) + 0.5)
        times_X = times_BT[data.inside_BT]
        in_time = np.argsort(times_X, kind="stable")  # bins, since trials may overlap
        return times_X[in_time], found_BTK[data.inside_BT][in_time]

    @property
    def _first_start_s(self) -> float:
        """Start of the first window of a chopped recording, on the recording's clock."""
        starts_B, times_s_B = self.data.start_bins_B, self.data.start_times_s_B
        assert starts_B is not None
        if times_s_B is not None:
            return float(times_s_B[np.argmin(starts_B)])
        return float(starts_B.min() * self.data.bin_ms / 1000)

    def to_pandas(self) -> Any:
        """Return a long ``pandas.DataFrame``: one row for each trial, bin and neuron."""
        pandas = needed("pandas")
        blocks = [pandas.DataFrame(columns) for columns in self.table()]
        return pandas.concat(blocks, ignore_index=True)

    def to_xarray(self) -> Any:
        """Return an ``xarray.Dataset`` with the dimensions ``trial``, ``time_ms``, ``neuron``.

        Variables are ``rate_hz`` and, where known, ``activations`` and ``behavior``; NaN past the
        end of a trial. Columns of the table of trials are coordinates of ``trial``.
        """
        xarray = needed("xarray")
        data = self.data
        coordinates: dict[str, Any] = {
            "trial": self.trial_ids_B,
            "time_ms": ("time_ms", data.times_ms_T, {"units": "ms", "from": data.event}),
            "neuron": list(self.neuron_names),
        }
        starts = {} if data.start_times_s_B is None else {"start_time_s": data.start_times_s_B}
        axes = ("trial", "time_ms", "neuron")
        variables = {"rate_hz": (axes, self.rates_hz_BTN, {"units": "spikes/s"})}
        outside_BT = ~data.inside_BT
        for name, values_BTK, axis in (
            ("activations", self.activations, "channel"),
            ("behavior", data.behavior_BTV, "variable"),
        ):
            if values_BTK is not None:
                known_BTK = np.array(values_BTK[:], dtype=np.result_type(values_BTK.dtype, "f4"))
                known_BTK[outside_BT] = np.nan
                variables[name] = ((*axes[:2], axis), known_BTK, {})
        if data.behavior_names and data.behavior_BTV is not None:
            coordinates["variable"] = list(data.behavior_names)
        taken = {*coordinates, *variables}
        for name, values_B in {**starts, **self.trial_columns}.items():
            coordinates[f"source_{name}" if name in taken else name] = ("trial", values_B)
        about = {name: getattr(self, name) for name in ("run", "checkpoint", "source")}
        about |= {"event": data.event, "bin_ms": float(data.bin_ms)}
        return xarray.Dataset(variables, coordinates, about)

    def to_pynapple(self) -> Any:
        """Return a ``pynapple.TsdFrame`` of rates in Hz on the recording's clock.

        Its columns are the neurons' names, its time support the trials.

        Raises
        ------
        DataError
            If the times of the trials are not known.
        """
        pynapple = needed("pynapple")
        times_s_X, rates_hz_XN = self.on_clock()
        half_s = self.data.bin_ms / 2000
        gaps = np.flatnonzero(np.diff(times_s_X) > 3 * half_s)
        starts_s = times_s_X[np.append(0, gaps + 1)] - half_s
        stops_s = times_s_X[np.append(gaps, len(times_s_X) - 1)] + half_s
        return pynapple.TsdFrame(
            t=times_s_X,
            d=rates_hz_XN,
            columns=list(self.neuron_names),
            time_support=pynapple.IntervalSet(starts_s, stops_s),
        )


def infer_rates(
    run: Path | str,
    *,
    split: Split = "all",
    data: Path | str | None = None,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    recording: Recording | None = None,
    other_neurons: bool = False,
    other_window: bool = False,
    accept_changes: bool = False,
) -> Rates:
    """Infer the rates of the trials of a file, or of those that a run was trained on.

    Parameters
    ----------
    run : Path or str
        The folder of a run or of an ensemble.
    split : {"all", "train", "valid"}
        Which trials; all are in the order of the file.
    data, checkpoint, overrides, device, recording, other_neurons, other_window, accept_changes
        As in `ndt_cli.evaluation.evaluate`. Default: the file that the run was trained on.

    Returns
    -------
    Rates
        Inferred when they are used.

    Raises
    ------
    RunError, CheckpointError, DataError, DeviceError, SettingsError
        If the run, checkpoint, file, device or an argument is not usable.

    Examples
    --------
    >>> rates = infer_rates("runs/first")
    >>> rates.rates_hz_BTN.shape  # trials, bins, neurons
    (20, 10, 4)
    >>> infer_rates("runs/first", data="spikes.npz").neuron_names
    ('0', '1', '2', '3')
    """
    if split not in get_args(Split):
        raise SettingsError(f"`split={split!r}`: expected one of {', '.join(get_args(Split))}")
    check_overrides(data, overrides)
    trained = load_trained(run, checkpoint, device, accept_changes=accept_changes)
    if recording is None or data is not None:
        recording, _ = recording_of(trained, data, overrides, accept_changes=accept_changes)
    trials = recording.trials(split)
    trained.check_fits(
        trials, recording.source, other_neurons=other_neurons, other_window=other_window
    )
    return Rates(
        data=trials,
        inferred=ByTrial(
            trials.spikes_BTN.shape, np.float32, lambda some: trained.rates(trials.take(some))
        ),
        activations=activations_of(trained, trials),
        run=str(trained.run.path),
        checkpoint=trained.checkpoint,
        source=recording.source,
    )
