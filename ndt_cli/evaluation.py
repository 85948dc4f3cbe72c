"""Scores of a run's rates, always beside those of the references."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ndt_cli.data.loading import load_file, load_recording
from ndt_cli.data.spike_data import ByTrial, FloatArray, IntArray, Recording, SpikeData, all_trials
from ndt_cli.engine.inference import (
    Ensemble,
    Float32Array,
    TrainedModel,
    hiding_folds,
    load_trained,
)
from ndt_cli.engine.trained_model import unlike_neurons
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.metrics import PSTH_SMOOTHING_MS
from ndt_cli.model.masking import describe_scoring
from ndt_cli.scores import Estimate, References, Scores, score_estimate

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
    inferred, smoothed : ByTrial
        ``rates_BTN`` and ``smoothed_BTN`` a few trials at a time, such as ``inferred[:10]``: of a
        set that is too large to be held as floats.
    activations : ByTrial
        What the encoder makes of the counts, (trials, bins, channels).
    smoothing_ms : float
        Standard deviation of the smoothing kernel, chosen on the training trials.
    scores : dict of str to Scores
        ``"NDT"``, ``"smoothed spikes"``, ``"mean rate"`` and, where known, ``"true rates"``.
    hiding : str
        What the ``hidden`` scores hide, and what stands in its place.
    warnings : tuple of str
        What makes these scores doubtful, such as neurons that look shuffled.
    """

    run: str
    checkpoint: str
    source: str
    split: Split
    data: SpikeData
    inferred: ByTrial
    smoothed: ByTrial
    activations: ByTrial
    smoothing_ms: float
    scores: dict[str, Scores]
    hiding: str
    warnings: tuple[str, ...] = ()

    @cached_property
    def rates_BTN(self) -> FloatArray:
        """Inferred rates in spikes per bin, from all counts, (trials, bins, neurons)."""
        return self.inferred[:]

    @cached_property
    def smoothed_BTN(self) -> FloatArray:
        """Smoothed spikes in spikes per bin; held-out neurons are foretold from the others."""
        return self.smoothed[:]

    def take(self, trials: IntArray) -> "Evaluation":
        """Return the trials at these positions with their rates, beside the scores of all."""
        return replace(
            self,
            data=self.data.take(trials),
            inferred=self.inferred.take(trials),
            smoothed=self.smoothed.take(trials),
            activations=self.activations.take(trials),
        )

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
            "hiding": self.hiding,
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

    Rates are inferred and scored a block of trials at a time, so that a large set takes little
    more memory than its counts.

    Of validation trials, decoders of behavior are fitted to the training trials of the same
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
        Lags to decode behavior with, in ms from rates to behavior; see
        `ndt_cli.metrics.decode_behavior`.
    other_neurons : bool
        Evaluate though the file's neurons are known to be others than the run's.

    Returns
    -------
    Evaluation

    Raises
    ------
    RunError, CheckpointError, DataError, DeviceError, SettingsError
        When the run, the checkpoint, the file or the device will not do, or a rate is not finite.

    Examples
    --------
    >>> evaluation = evaluate("runs/first")
    >>> evaluation.split, evaluation.rates_BTN.shape
    ('valid', (4, 10, 4))
    >>> list(evaluation.scores)
    ['NDT', 'smoothed spikes', 'mean rate']
    >>> evaluation.scores["NDT"].hidden.bits_per_spike_N.shape
    (4,)
    >>> evaluate("runs/first", data="spikes.npz").split  # another file, all of its trials
    'all'
    """
    if split not in (None, *get_args(Split)):
        raise SettingsError(
            f"the split {split!r} is not one of {', '.join(get_args(Split))}", "give one of them"
        )
    if overrides and data is None:
        raise SettingsError(
            "overrides are for another file, and none is given",
            "give data=..., or train a run with those settings",
        )
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
    source = evaluated.source
    del own, evaluated  # what is not scored need not stay in memory
    found = _score(trained, references, source, split, trials, train, lags_ms)
    unlike = unlike_neurons(trained.trained_on, trials)
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
        train is not None and train.behavior_BTV is not None and data.behavior_BTV is not None
    )
    decoder_trials = train if both_behave else None
    folds_of = partial(hiding_folds, data, trained.settings)
    inferred = _inferred(trained, data)
    estimates = {
        "NDT": Estimate(
            inferred,
            ByTrial(
                data.spikes_BTN.shape,
                np.float32,
                lambda trials: _finite(
                    trained, trained.rates_while_hidden(data.take(trials), folds_of(trials))
                ),
                keep=False,
            ),
            None if decoder_trials is None else _inferred(trained, decoder_trials),
        ),
        **references.estimates(data, folds_of, decoder_trials),
    }
    smoothed = estimates["smoothed spikes"].seen_BTN
    assert isinstance(smoothed, ByTrial)
    return Evaluation(
        run=str(trained.run.path),
        checkpoint=trained.checkpoint,
        source=source,
        split=split,
        data=data,
        inferred=inferred,
        smoothed=smoothed,
        activations=ByTrial(
            (data.n_trials, data.n_bins, trained.width),
            np.float32,
            lambda trials: trained.activations(data.take(trials)),
        ),
        smoothing_ms=references.smoother.width_ms,
        scores={
            name: score_estimate(estimate, data, train, lags_ms)
            for name, estimate in estimates.items()
        },
        hiding=describe_scoring(trained.settings.mask),
    )


def _inferred(trained: TrainedModel | Ensemble, data: SpikeData) -> ByTrial:
    return ByTrial(
        data.spikes_BTN.shape,
        np.float32,
        lambda trials: _finite(trained, trained.rates(data.take(trials))),
    )


def _finite(trained: TrainedModel | Ensemble, rates_BTN: Float32Array) -> Float32Array:
    if not np.isfinite(rates_BTN).all():
        raise RunError(
            f"{trained.run.path}: rates that {trained.checkpoint} infers of these trials are not "
            "finite",
            "the run has diverged; try another --checkpoint, or train anew with a lower "
            "train.learning_rate",
        )
    return rates_BTN


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return None if isinstance(value, float) and not np.isfinite(value) else value
