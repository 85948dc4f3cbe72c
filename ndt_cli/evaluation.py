"""Scores of a run's rates, always beside those of the references."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ndt_cli.data.join import all_trials
from ndt_cli.data.load import load_file, load_recording
from ndt_cli.data.spike_data import FloatArray, Recording, SpikeData
from ndt_cli.engine.inference import (
    Ensemble,
    Float32Array,
    TrainedModel,
    hiding_folds,
    load_trained,
)
from ndt_cli.engine.same_neurons import unlike_neurons
from ndt_cli.metrics import PSTH_SMOOTHING_MS
from ndt_cli.references import References
from ndt_cli.scores import Estimate, Scores, score_estimate

__all__ = ["Evaluation", "Scores", "Split", "evaluate"]

Split = Literal["train", "valid", "all"]


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
        Smoothed spikes in spikes per bin; held-out neurons are foretold from the others.
    smoothing_ms : float
        Standard deviation of the smoothing kernel, chosen on the training trials.
    scores : dict of str to Scores
        ``"NDT"``, ``"smoothed spikes"``, ``"mean rate"`` and, where known, ``"true rates"``.
    warnings : tuple of str
        What makes these scores doubtful, such as neurons that look shuffled.
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
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain values; a number that is not defined is None.

        Arrays of neurons are in the order of ``heldin_neurons``, then ``heldout_neurons``: their
        places in the file.
        """
        return {
            "run": self.run,
            "checkpoint": self.checkpoint,
            "source": self.source,
            "split": self.split,
            "n_trials": self.data.n_trials,
            "n_bins": self.data.n_bins,
            "n_neurons": self.data.n_neurons,
            "bin_ms": self.data.bin_ms,
            "heldin_neurons": self.data.heldin_ids.tolist(),
            "heldout_neurons": self.data.heldout_ids.tolist(),
            "smoothing_ms": self.smoothing_ms,
            "psth_smoothing_ms": PSTH_SMOOTHING_MS,
            "warnings": list(self.warnings),
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
    lags_ms: Sequence[float] | None = None,
    other_neurons: bool = False,
) -> Evaluation:
    """Score the rates that a run infers, beside mean rate, smoothing and the true rates.

    Of validation trials, decoders of behaviour are fitted to the training trials of the same
    data, and PSTHs are theirs; of other trials, both are from parts of the scored trials.

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
    lags_ms : sequence of float, optional
        Lags to decode behaviour with, in ms from rates to behaviour; see
        `ndt_cli.metrics.decode_behaviour`.
    other_neurons : bool
        Evaluate though the file's neurons are known to be others than the run's.

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
    trained.check_fits(trials, evaluated.source, other_neurons=other_neurons)
    references = References.fit(own.train)
    train = evaluated.train if split == "valid" else None
    found = _score(trained, references, evaluated.source, split, trials, train, lags_ms)
    unlike = unlike_neurons(trained.neurons, trials)
    return replace(found, warnings=(unlike,)) if unlike else found


def _score(
    trained: TrainedModel | Ensemble,
    references: References,
    source: str,
    split: Split,
    data: SpikeData,
    train: SpikeData | None,
    lags_ms: Sequence[float] | None,
) -> Evaluation:
    both_behave = (
        train is not None and train.behaviour_BTV is not None and data.behaviour_BTV is not None
    )
    decoder_trials = train if both_behave else None
    folds_BTN = hiding_folds(data, trained.settings)
    inferred_BTN = trained.rates(data)
    estimates = {
        "NDT": Estimate(
            inferred_BTN,
            trained.rates_while_hidden(data, folds_BTN),
            None if decoder_trials is None else trained.rates(decoder_trials),
        ),
        **references.estimates(data, folds_BTN, decoder_trials),
    }
    return Evaluation(
        run=str(trained.run.path),
        checkpoint=trained.checkpoint,
        source=source,
        split=split,
        data=data,
        rates_BTN=inferred_BTN,
        smoothed_BTN=estimates["smoothed spikes"].seen_BTN,
        smoothing_ms=references.smoother.width_ms,
        scores={
            name: score_estimate(estimate, data, train, lags_ms)
            for name, estimate in estimates.items()
        },
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return None if isinstance(value, float) and not np.isfinite(value) else value
