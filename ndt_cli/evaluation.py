"""Scores of a run's rates, always beside those of the references.

Two ways to score rates against spikes are kept apart, because a model, and a smoother, could
copy the count that they are asked to predict:

- *hidden*: each entry is predicted in a pass in which its own count is hidden. This is a fair
  prediction, and the one to compare.
- *seen*: nothing is hidden. These are the rates that a user takes away.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ndt_cli.baselines import Smoother, constant_rates
from ndt_cli.data.join import all_trials
from ndt_cli.data.load import load_file, load_recording
from ndt_cli.data.spike_data import FloatArray, Recording, SpikeData
from ndt_cli.engine.inference import (
    Float32Array,
    TrainedModel,
    hiding_folds,
    load_trained,
)
from ndt_cli.metrics import RateScores, SpikeScores, bits_per_spike, rate_scores

Split = Literal["train", "valid", "all"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one estimate of the rates.

    Attributes
    ----------
    rates : RateScores or None
        Against true rates, nothing hidden; None where they are not known.
    hidden, seen : SpikeScores
        Against the counts of held-in neurons in the window; see the module's text.
    heldout, forward : SpikeScores or None
        Against the counts of held-out neurons in the window (co-smoothing), and of all neurons
        in the forward bins; None where there are none, or their counts are not known.
    """

    rates: RateScores | None
    hidden: SpikeScores
    seen: SpikeScores
    heldout: SpikeScores | None
    forward: SpikeScores | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` returns.

    Attributes
    ----------
    run, checkpoint, source, split : str
        What was evaluated on what.
    data : SpikeData
        The trials.
    rates_BTN : (trials, bins, neurons) float array
        Inferred rates in spikes per bin, nothing hidden.
    smoothed_BTN : (trials, bins, neurons) float array
        Smoothed spikes in spikes per bin.
    smoothing_ms : float
        Standard deviation of the smoothing kernel, chosen on the training trials.
    scores : dict of str to Scores
        ``"NDT"``, ``"smoothed spikes"``, ``"mean rate"`` and, where known, ``"true rates"``.
    """

    run: str
    checkpoint: str
    source: str
    split: Split
    data: SpikeData
    rates_BTN: Float32Array
    smoothed_BTN: FloatArray
    smoothing_ms: float
    scores: dict[str, Scores]

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain values; a number that is not defined is None."""
        return {
            "run": self.run,
            "checkpoint": self.checkpoint,
            "source": self.source,
            "split": self.split,
            "n_trials": self.data.n_trials,
            "n_bins": self.data.n_bins,
            "n_neurons": self.data.n_neurons,
            "bin_ms": self.data.bin_ms,
            "smoothing_ms": self.smoothing_ms,
            "scores": {name: _plain(asdict(scores)) for name, scores in self.scores.items()},
        }


def evaluate(
    run: Path | str,
    *,
    split: Split | None = None,
    data: Path | str | None = None,
    checkpoint: str | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
    recording: Recording | None = None,
) -> Evaluation:
    """Score the rates that a run infers, beside mean rate, smoothing and the true rates.

    Parameters
    ----------
    run : Path or str
        The run folder.
    split : {"train", "valid", "all"}, optional
        Which trials. Default: validation trials of the run's own data, all trials of another
        file.
    data : Path or str, optional
        Another file of the same neurons and bin width; read with the run's ``[data]`` settings.
    checkpoint : str, optional
        Which weights: see `ndt_cli.engine.inference.load_trained`.
    overrides : tuple of str
        Changes to the ``[data]`` settings for that file, as ``"data.file_bin_ms=5"``.
    device : str
        As the setting ``train.device``.
    recording : Recording, optional
        The run's own data, where they are in memory already.

    Returns
    -------
    Evaluation

    Raises
    ------
    RunError, CheckpointError, DataError, DeviceError, SettingsError
        When the run, the checkpoint, the file or the device will not do.
    """
    trained = load_trained(run, checkpoint, device)
    own = recording or load_recording(trained.settings.data)
    if data is None:
        evaluated, split = own, split or "valid"
    else:
        data_settings = trained.run.settings(overrides).data
        evaluated, split = load_file(Path(data), data_settings), split or "all"
    trials = all_trials(evaluated) if split == "all" else getattr(evaluated, split)
    trained.check_fits(trials, evaluated.source)
    smoother = Smoother.fit(own.train)
    return _score(trained, smoother, evaluated.source, split, trials)


def _score(
    trained: TrainedModel, smoother: Smoother, source: str, split: Split, data: SpikeData
) -> Evaluation:
    folds_BTN = hiding_folds(data, trained.settings)
    inferred_BTN = trained.rates(data)
    smoothed_BTN = smoother.rates(data)
    mean_BTN = constant_rates(smoother.mean_rates_N, data)
    # (nothing hidden, each count hidden once); the last two look at no count.
    estimates: dict[str, tuple[FloatArray, FloatArray]] = {
        "NDT": (inferred_BTN, trained.rates_while_hidden(data, folds_BTN)),
        "smoothed spikes": (smoothed_BTN, _smoothed_while_hidden(smoother, data, folds_BTN)),
        "mean rate": (mean_BTN, mean_BTN),
    }
    if data.rates_BTN is not None:
        estimates["true rates"] = (data.rates_BTN, data.rates_BTN)
    return Evaluation(
        run=str(trained.run.path),
        checkpoint=trained.checkpoint,
        source=source,
        split=split,
        data=data,
        rates_BTN=inferred_BTN,
        smoothed_BTN=smoothed_BTN,
        smoothing_ms=smoother.width_ms,
        scores={name: _scores(data, *pair) for name, pair in estimates.items()},
    )


def _smoothed_while_hidden(
    smoother: Smoother, data: SpikeData, folds_BTN: "np.ndarray"
) -> FloatArray:
    rates_BTN = np.zeros(data.spikes_BTN.shape)
    for fold in range(int(folds_BTN.max()) + 1):
        hidden_BTN = np.broadcast_to(folds_BTN == fold, rates_BTN.shape)
        np.copyto(rates_BTN, smoother.rates_hidden(data, hidden_BTN), where=hidden_BTN)
    return rates_BTN


def _scores(data: SpikeData, seen_BTN: FloatArray, hidden_BTN: FloatArray) -> Scores:
    inside_BT = data.inside_BT
    window = slice(0, data.n_bins - data.n_forward)
    heldin = slice(0, data.n_neurons - data.n_heldout)
    heldout = slice(data.n_neurons - data.n_heldout, None)
    forward = slice(data.n_bins - data.n_forward, None)

    def against_spikes(rates_BTN: FloatArray, bins: slice, neurons: slice) -> SpikeScores:
        counts_BTN = data.spikes_BTN[:, bins, neurons]
        return bits_per_spike(rates_BTN[:, bins, neurons], counts_BTN, inside_BT[:, bins])

    known = data.hidden_counts_known
    return Scores(
        rates=None if data.rates_BTN is None else rate_scores(seen_BTN, data.rates_BTN, inside_BT),
        hidden=against_spikes(hidden_BTN, window, heldin),
        seen=against_spikes(seen_BTN, window, heldin),
        heldout=against_spikes(seen_BTN, window, heldout) if data.n_heldout and known else None,
        forward=against_spikes(seen_BTN, forward, slice(None))
        if data.n_forward and known
        else None,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return None if isinstance(value, float) and not np.isfinite(value) else value
