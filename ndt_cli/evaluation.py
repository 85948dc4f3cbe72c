"""Score the rates that a run infers, next to smoothed spikes, mean rates and true rates.

Rates are scored against spike counts in two ways, because a model, or a smoother, could copy the
count that it is asked to predict:

- *hidden*: each count is predicted in a pass in which it is hidden. Compare models by these.
- *seen*: nothing is hidden. These are the rates that a user analyzes.

Axes in names: B trials, T bins, N neurons, V behavioral variables.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ndt_cli.across_sessions import activations_of, decode_across
from ndt_cli.baselines import constant_rates
from ndt_cli.baselines.smoothing_reference import SmoothingReference
from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import (
    KEPT_BYTES,
    ByTrial,
    FloatArray,
    IntArray,
    Recording,
    SpikeData,
    Split,
    TrialValues,
    trial_blocks,
)
from ndt_cli.engine.checkpoint import check_log
from ndt_cli.engine.inference import (
    Model,
    check_overrides,
    hiding_folds,
    load_trained,
    recording_of,
)
from ndt_cli.engine.preflight import check_same_data
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trained_model import unlike_neurons
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.jsonable import jsonable
from ndt_cli.metrics import (
    PSTH_SMOOTHING_MS,
    DecodingScores,
    PsthScores,
    RateScores,
    RateScoreSums,
    SpikeScores,
    SpikeScoreSums,
    decode_behavior,
    psth_scores,
)
from ndt_cli.metrics.decoding import (
    Decoder,
    check_lags,
    lag_bins,
    load_decoders,
    save_decoders,
    variable_names,
)
from ndt_cli.metrics.psth import Psths
from ndt_cli.model.masking import describe_scoring
from ndt_cli.verdict import MEAN_RATE, MODEL, SMOOTHED, TRUE_RATES, TrainingFacts, Verdict, judge


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one estimate of the rates: the model's, or a reference's.

    Attributes
    ----------
    rates : RateScores or None
        Against true rates, from all counts; None where these are not known.
    hidden, seen : SpikeScores
        Against the counts of held-in neurons in the window: each predicted while it is hidden,
        and from all counts.
    heldout : SpikeScores or None
        Against the counts of held-out neurons in the window (co-smoothing); None without
        held-out neurons, or where their counts are not known.
    forward : SpikeScores or None
        Against the counts of all neurons in the forward bins, likewise.
    behavior : DecodingScores or None
        Behavior decoded from these rates of all neurons; None without behavior.
    psth : PsthScores or None
        Condition-averaged rates, from all counts, against PSTHs; None without conditions of
        enough trials.
    """

    rates: RateScores | None
    hidden: SpikeScores
    seen: SpikeScores
    heldout: SpikeScores | None
    forward: SpikeScores | None
    behavior: DecodingScores | None = None
    psth: PsthScores | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` returns.

    Attributes
    ----------
    run, checkpoint, source, split : str
        The run folder, the weights, the data and the trials that were evaluated.
    data : SpikeData
        The trials.
    inferred, smoothed : ByTrial
        ``rates_BTN`` and ``smoothed_BTN`` a few trials at a time, such as ``inferred[:10]``, for
        sets that are too large to hold as floats.
    inferred_while_hidden, smoothed_while_hidden : ByTrial
        The same for held-in neurons in the window, each rate while its own count is hidden;
        computed again each time.
    activations : ByTrial
        Output of the encoder, (trials, bins, channels).
    smoothing_ms : float
        Standard deviation of the smoothing kernel, chosen on the training trials.
    scores : dict of str to Scores
        ``"NDT"``, ``"smoothed spikes"``, ``"mean rate"`` and, where known, ``"true rates"``.
    hiding : str
        What the ``hidden`` scores hide, and what stands in its place.
    verdict : Verdict
        Whether the model is better than smoothing, and what to try if it is not.
    warnings : tuple of str
        Reasons to doubt these scores, such as neurons that look shuffled.
    decoders : dict of str to Decoder
        Decoders of behavior that were fitted to other trials than the scored ones, for each
        estimate of the rates.
    model : Model or None
        The model itself.
    across : dict of str to DecodingScores
        Behavior decoded from the encoder's activations, by whose behavior the decoder was fitted
        to: ``"other sessions"`` and ``"this session"``. Empty for an encoder of one session.
    """

    run: str
    checkpoint: str
    source: str
    split: Split
    data: SpikeData
    inferred: ByTrial
    smoothed: ByTrial
    inferred_while_hidden: ByTrial
    smoothed_while_hidden: ByTrial
    activations: ByTrial
    smoothing_ms: float
    scores: dict[str, Scores]
    hiding: str
    verdict: Verdict
    warnings: tuple[str, ...] = ()
    decoders: dict[str, Decoder] = field(default_factory=dict)
    model: Model | None = None
    across: dict[str, DecodingScores] = field(default_factory=dict)

    @cached_property
    def rates_BTN(self) -> FloatArray:
        """Inferred rates in spikes per bin, from all counts, (trials, bins, neurons)."""
        return self.inferred[:]

    @cached_property
    def smoothed_BTN(self) -> FloatArray:
        """Smoothed spikes in spikes per bin; held-out neurons are predicted from the others."""
        return self.smoothed[:]

    @property
    def sources(self) -> dict[str, FloatArray]:
        """Rates of each estimate in spikes per bin, the true ones first, where they are known."""
        true = {} if self.data.rates_BTN is None else {TRUE_RATES: self.data.rates_BTN}
        return {**true, MODEL: self.rates_BTN, SMOOTHED: self.smoothed_BTN}

    def take(self, trials: IntArray) -> "Evaluation":
        """Return the trials at these positions with their rates; scores stay those of all."""
        return replace(
            self,
            data=self.data.take(trials),
            inferred=self.inferred.take(trials),
            smoothed=self.smoothed.take(trials),
            inferred_while_hidden=self.inferred_while_hidden.take(trials),
            smoothed_while_hidden=self.smoothed_while_hidden.take(trials),
            activations=self.activations.take(trials),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values; an undefined number is None.

        Arrays over neurons are in the order of ``heldin_neurons``, then ``heldout_neurons``,
        which are positions in the file.
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
            "verdict": jsonable(self.verdict),
            "scores": jsonable(self.scores),
            "behavior_from_activations": jsonable(self.across),
        }


def evaluate(
    run: Path | str,
    *,
    split: Split | None = None,
    data: Path | str | None = None,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    recording: Recording | None = None,
    lags_ms: Sequence[float] | None = None,
    other_neurons: bool = False,
    other_window: bool = False,
    accept_changes: bool = False,
) -> Evaluation:
    """Score the rates that a run infers, next to mean rate, smoothing and the true rates.

    Rates are inferred and scored in blocks of trials, so that a large set takes little more
    memory than its counts.

    Smoothing, and on validation trials decoders of behavior and PSTHs, come from the training
    trials. `ndt_cli.fitting.fit` stores all three with the run, to evaluate another file without
    these trials: the decoders if they are of these weights and the same variables, the PSTHs if
    conditions have the same names. Otherwise both come from parts of the scored trials.

    Parameters
    ----------
    run : Path or str
        The run folder.
    split : {"train", "valid", "all"}, optional
        Which trials. Default: validation trials of the run's own data, all trials of another
        file.
    data : Path or str, optional
        Another file of the same neurons, bin width and window, read with the run's ``[data]``
        settings; or the run's own file, if it was moved.
    checkpoint : str, optional
        Which weights: see `ndt_cli.engine.inference.load_trained`.
    overrides : sequence of str
        Changes to the ``[data]`` settings for that file, such as ``"data.file_bin_ms=5"``.
    device : str
        As the setting ``train.device``.
    recording : Recording, optional
        The run's own data, if they are in memory already.
    lags_ms : sequence of float, optional
        Lags from rates to behavior to decode with, in ms; see `ndt_cli.metrics.decode_behavior`.
    other_neurons : bool
        Evaluate even if the file's neurons are known to differ from the run's.
    other_window : bool
        Evaluate even if the file's trials are known to be aligned otherwise than the run's.
    accept_changes : bool
        Warn, instead of refusing, if the settings, data, log or checkpoints of the run were
        changed since it was saved.

    Returns
    -------
    Evaluation

    Raises
    ------
    RunError, CheckpointError, DataError, DeviceError, SettingsError
        If the run, checkpoint, file, device or an argument is not usable, or a rate is not
        finite.

    Examples
    --------
    >>> evaluation = evaluate("runs/first")
    >>> evaluation.split, evaluation.rates_BTN.shape
    ('valid', (4, 10, 4))
    >>> list(evaluation.scores)
    ['NDT', 'smoothed spikes', 'mean rate']
    >>> evaluation.scores["NDT"].hidden.bits_per_spike_N.shape
    (4,)
    >>> evaluate("runs/first", data="spikes.npz").split  # the run's own file, wherever it is now
    'valid'
    """
    _check_arguments(split, data, overrides, lags_ms)
    trained = load_trained(run, checkpoint, device, accept_changes=accept_changes)
    n_logged = max((int(r["epoch"]) for r in trained.run.read_metrics()), default=0)
    check_log(trained.run, n_logged, accept_changes=accept_changes)
    smoothing = _stored_smoothing(trained)
    evaluated, is_own = recording, True
    if evaluated is None or data is not None:
        evaluated, is_own = recording_of(trained, data, overrides, accept_changes=accept_changes)
    else:  # the file may have changed: trials trained on would pass for valid ones
        check_same_data(trained.run, evaluated, accept_changes=accept_changes)
    if smoothing is None:
        own = evaluated if is_own else recording or load_recording(trained.settings.data)
        smoothing = SmoothingReference.fit(own.train)
    split = split or ("valid" if is_own else "all")
    trials = evaluated.trials(split)
    trained.check_fits(
        trials, evaluated.source, other_neurons=other_neurons, other_window=other_window
    )
    train = evaluated.train if split == "valid" else None
    source = evaluated.source
    del evaluated  # trials that are not scored need not stay in memory

    decoders: dict[str, Decoder] = {}
    if trials.behavior_BTV is not None and not lags_ms and (train is not None or not is_own):
        decoders = _stored_decoders(trained, trials)
    decoded = train is not None and train.behavior_BTV is not None and not decoders
    decoder_trials = train if decoded and trials.behavior_BTV is not None else None
    estimates = _estimates(trained, smoothing, trials, decoder_trials)
    model, smoothed = estimates[MODEL], estimates[SMOOTHED]
    if decoder_trials is not None:
        lags_L = lag_bins(trials, lags_ms)
        decoders = {
            name: Decoder.fit(estimate.train_BTN, decoder_trials, lags_L)
            for name, estimate in estimates.items()
            if estimate.train_BTN is not None
        }
    psths = None
    # Trials that are aligned otherwise have other bins: the same time may be another bin.
    if not is_own and train is None and not other_window and trained.run.psths.is_file():
        facts = trained.trained_on
        psths = Psths.load(trained.run.psths, facts.n_neurons, facts.fingerprint)
    scores = {
        name: _score(estimate, trials, train, lags_ms, decoders.get(name), psths)
        for name, estimate in estimates.items()
    }
    unlike = unlike_neurons(trained.trained_on, trials)
    seen = None
    if is_own and split != "valid":
        n_seen, n_all = trained.trained_on.n_trials, trials.n_trials
        which = f"{n_seen} of " if n_seen < n_all else ""
        which += f"these {n_all} trials" if n_all > 1 else "this trial"
        seen = f"The model was trained on {which}: scores of new trials are lower."
    across = decode_across(trained, trials, train)
    return Evaluation(
        run=str(trained.run.path),
        checkpoint=trained.checkpoint,
        source=source,
        split=split,
        data=trials,
        inferred=_by_trial(model.seen_BTN),
        smoothed=_by_trial(smoothed.seen_BTN),
        inferred_while_hidden=_by_trial(model.hidden_BTN),
        smoothed_while_hidden=_by_trial(smoothed.hidden_BTN),
        activations=activations_of(trained, trials),
        smoothing_ms=smoothing.smoother.width_ms,
        scores=scores,
        hiding=describe_scoring(trained.settings.mask),
        verdict=judge(scores, _training_facts(trained), trials.n_trials, across),
        warnings=tuple(text for text in (unlike, seen) if text),
        decoders=decoders,
        model=trained,
        across=across,
    )


def _by_trial(values: TrialValues) -> ByTrial:
    assert isinstance(values, ByTrial)
    return values


def _stored_smoothing(trained: Model) -> SmoothingReference | None:
    path, facts = trained.run.smoothing, trained.trained_on
    if not path.is_file():
        return None
    return SmoothingReference.load(
        path,
        n_neurons=facts.n_neurons,
        n_heldout=facts.n_heldout,
        bin_ms=facts.bin_ms,
        trained_on=facts.fingerprint,
    )


def _stored_decoders(trained: Model, data: SpikeData) -> dict[str, Decoder]:
    path = trained.run.decoders
    if not path.is_file():
        return {}
    names, found = load_decoders(path, trained.weights_digest, data.n_neurons)
    scored = {MODEL, SMOOTHED, MEAN_RATE} | ({TRUE_RATES} if data.rates_BTN is not None else set())
    # All by the same trials, or none.
    return found if names == variable_names(data) and scored <= found.keys() else {}


def store_references(evaluation: Evaluation, train: SpikeData) -> None:
    """Store with a run what it takes to score other files without the training trials.

    These are the decoders of behavior of an evaluation of the validation trials, and the PSTHs of
    the training trials, unless they are very large.
    """
    folder = RunFolder(Path(evaluation.run))
    if evaluation.decoders and evaluation.model is not None:
        digest, names = evaluation.model.weights_digest, variable_names(evaluation.data)
        save_decoders(folder.decoders, evaluation.decoders, digest, names)
    conditions = 0 if train.conditions_B is None else len(np.unique(train.conditions_B))
    if conditions and 4 * conditions * train.n_bins * train.n_neurons <= KEPT_BYTES:
        psths = Psths.of(train)
        if psths is not None:
            psths.save(folder.psths)


def _training_facts(trained: Model) -> TrainingFacts:
    # A session of several is trained, and resumed, in the run of all.
    whole = trained.run.read_json("run.json").get("trained_in")
    return TrainingFacts(
        run=Path(whole) if whole is not None else trained.run.path,
        settings=trained.settings,
        history=trained.run.read_metrics(),
        n_weights=sum(weights.numel() for weights in trained.members[0].network.parameters()),
        n_trials=trained.trained_on.n_trials,
        n_spikes=sum(trained.trained_on.spikes_N),
        n_networks=len(trained.members),
    )


def _check_arguments(
    split: str | None,
    data: Path | str | None,
    overrides: Sequence[str],
    lags_ms: Sequence[float] | None,
) -> None:
    """Check what can be checked before minutes of computing."""
    if split not in (None, *get_args(Split)):
        raise SettingsError(f"`split={split!r}`: expected one of {', '.join(get_args(Split))}")
    check_overrides(data, overrides)
    check_lags(lags_ms or ())


# Estimates of the rates: the model's and the references' ------------------------------------------


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Rates in spikes per bin: of the scored trials, and of those to fit decoders to."""

    seen_BTN: TrialValues
    hidden_BTN: TrialValues  # held-in neurons in the window, each count hidden once
    train_BTN: TrialValues | None


# For the trials at some positions, the number of the pass in which each entry is hidden: an int
# array that broadcasts to (trials, bins, neurons).
_FoldsOf = Callable[[IntArray], NDArray[np.integer]]


def _estimate(
    model: Model | SmoothingReference,
    data: SpikeData,
    folds_of: _FoldsOf,
    train: SpikeData | None,
    checked: Callable[[FloatArray], FloatArray] = lambda rates_BTN: rates_BTN,
) -> _Estimate:
    """Return the rates of a model or of smoothing, inferred a block of trials at a time."""
    dtype = np.float64 if isinstance(model, SmoothingReference) else np.float32

    def inferred(given: SpikeData) -> ByTrial:
        return ByTrial(
            given.spikes_BTN.shape, dtype, lambda trials: checked(model.rates(given.take(trials)))
        )

    def while_hidden(trials: IntArray) -> FloatArray:
        return checked(model.rates_while_hidden(data.take(trials), folds_of(trials)))

    return _Estimate(
        inferred(data),
        ByTrial(data.spikes_BTN.shape, dtype, while_hidden, keep=False),
        None if train is None else inferred(train),
    )


def _finite(trained: Model, rates_BTN: FloatArray) -> FloatArray:
    if not np.isfinite(rates_BTN).all():
        raise RunError(
            f"{trained.run.path}: {trained.checkpoint} infers rates of these trials that are not "
            "finite: the run has diverged",
            "Try another `checkpoint`, or train again with a lower `train.learning_rate`.",
        )
    return rates_BTN


def _estimates(
    trained: Model, smoothing: SmoothingReference, data: SpikeData, train: SpikeData | None
) -> dict[str, _Estimate]:
    """Return the model's rates and the references', by name; the true rates where known."""
    folds_of = partial(hiding_folds, data, trained.settings)
    mean_N = smoothing.smoother.mean_rates_N
    mean_BTN = constant_rates(mean_N, data)
    mean_train_BTN = None if train is None else constant_rates(mean_N, train)
    estimates = {
        MODEL: _estimate(trained, data, folds_of, train, partial(_finite, trained)),
        SMOOTHED: _estimate(smoothing, data, folds_of, train),
        MEAN_RATE: _Estimate(mean_BTN, mean_BTN, mean_train_BTN),
    }
    if data.rates_BTN is not None:
        true_train_BTN = None if train is None else train.rates_BTN
        estimates[TRUE_RATES] = _Estimate(data.rates_BTN, data.rates_BTN, true_train_BTN)
    return estimates


# Scores of one estimate ---------------------------------------------------------------------------


def scored_parts(data: SpikeData) -> dict[str, tuple[slice, slice]]:
    """Return bins and neurons whose counts each score is of, by its name in `Scores`."""
    heldin = slice(0, data.n_neurons - data.n_heldout)
    window = slice(0, data.n_bins - data.n_forward)
    parts = {"hidden": (window, heldin), "seen": (window, heldin)}
    if data.n_heldout and data.hidden_counts_known:
        parts["heldout"] = window, slice(heldin.stop, data.n_neurons)
    if data.n_forward and data.hidden_counts_known:
        parts["forward"] = slice(window.stop, data.n_bins), slice(0, data.n_neurons)
    return parts


def _score(
    estimate: _Estimate,
    data: SpikeData,
    train: SpikeData | None,
    lags_ms: Sequence[float] | None,
    decoder: Decoder | None,
    psths: Psths | None,
) -> Scores:
    """Score an estimate in every way that the trials allow, a block of trials at a time."""
    scored = scored_parts(data)
    sums = {
        name: SpikeScoreSums(neurons.stop - neurons.start) for name, (_, neurons) in scored.items()
    }
    rate_sums = RateScoreSums(data.n_neurons)
    for trials in trial_blocks(data.n_trials, data.n_bins * data.n_neurons):
        seen_BTN, hidden_BTN = estimate.seen_BTN[trials], estimate.hidden_BTN[trials]
        inside_BT = data.inside_BT[trials]
        for name, (bins, neurons) in scored.items():
            rates_BTN = hidden_BTN if name == "hidden" else seen_BTN
            counts_BTN = data.spikes_BTN[trials, bins, neurons]
            sums[name].add(rates_BTN[:, bins, neurons], counts_BTN, inside_BT[:, bins])
        if data.rates_BTN is not None:
            rate_sums.add(seen_BTN, data.rates_BTN[trials], inside_BT)
    behavior = None
    if data.behavior_BTV is not None:
        behavior = decode_behavior(estimate.seen_BTN, data, lags_ms=lags_ms, decoder=decoder)
    return Scores(
        rates=None if data.rates_BTN is None else rate_sums.result(),
        hidden=sums["hidden"].result(),
        seen=sums["seen"].result(),
        heldout=sums["heldout"].result() if "heldout" in sums else None,
        forward=sums["forward"].result() if "forward" in sums else None,
        behavior=behavior,
        psth=psth_scores(estimate.seen_BTN, data, train, psths=psths),
    )
