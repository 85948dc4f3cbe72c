"""The model as an estimator that follows the conventions of scikit-learn, without importing it.

Axes in names: B trials, T bins, N neurons, D width of the encoder.
"""

import html
import inspect
import math
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.data.arrays import odd_width
from ndt_cli.data.loading import hold_out_neurons, limit_training
from ndt_cli.data.spike_data import (
    MAX_COUNT,
    NEURONS_FIRST,
    Recording,
    SpikeData,
    check_recording,
    compact_counts,
    looks_neurons_first,
    split_trials,
)
from ndt_cli.data.write import write_recording
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.events import Event, Started, Watcher
from ndt_cli.engine.inference import Model, hiding_folds, load_trained
from ndt_cli.engine.run_folder import HOLDER_FILE, LOCK_FILE, RunFolder
from ndt_cli.errors import DataError, ExistingFileError, RunError, RunWarning, SettingsError, count
from ndt_cli.evaluation import scored_parts
from ndt_cli.fitting import fit
from ndt_cli.metrics import SpikeScoreSums
from ndt_cli.metrics.scores import as_array
from ndt_cli.settings.explain import field_table
from ndt_cli.settings.load import load_settings
from ndt_cli.settings.tree import MAX_BIN_MS, MIN_BIN_MS, Settings
from ndt_cli.verdict import COMPARED

Trials: TypeAlias = NDArray[Any] | Sequence[NDArray[Any]] | SpikeData
"""Spike counts: (trials, bins, neurons), a list of (bins, neurons), or `SpikeData`."""

Values: TypeAlias = NDArray[np.float32] | list[NDArray[np.float32]]
"""Values of trials, arranged as the trials were given."""

SPIKES_FILE = "spikes.h5"
"""Name of the trials in the run folder of `NDT.out`."""

# What a copy of a run leaves out: it is for inference, not to train on.
_NOT_COPIED = {"figures", "tensorboard", SPIKES_FILE, "last.safetensors", LOCK_FILE, HOLDER_FILE}


class NDT:
    """Neural Data Transformer: firing rates of single trials from spike counts.

    Works with ``clone``, ``Pipeline``, ``cross_val_score`` and ``GridSearchCV`` of scikit-learn.
    ``X`` is spike counts with trials as its first axis: an array (trials, bins, neurons), or a list
    of arrays (bins, neurons) whose numbers of bins may differ; what NumPy takes as an array, such
    as one of xarray, counts as one. `SpikeData` works too: its split (``is_valid_B``) is kept, and
    its conditions, true rates and behavior are scored.

    Parameters
    ----------
    preset : str, Path or mapping
        Settings to start from, as ``config`` of `load_settings`.
    bin_ms : float, optional
        Bin width of the counts in ms. Here or in `fit`.
    settings : mapping, optional
        Settings to change, such as ``{"train.max_steps": 500, "model.dropout": 0.3}``. In
        `set_params` and a grid, one of them is ``settings__model.dropout``.
    seed : int, optional
        Seed of the weights, the masks and the validation split. Default: that of the settings.
    valid_fraction : float, optional
        Share of the trials that `fit` holds back, to choose the best weights and for the verdict.
        Default: that of the settings, 0.2.
    device : str, optional
        As the setting ``train.device``.
    out : Path or str, optional
        A new run folder with scores, figures and the trials, on which every `ndt` function and
        command works. Default: a temporary folder without figures, which is removed with the
        estimator.
    output : {"rates", "latents"}
        What `transform` returns.
    progress : bool, optional
        Show a progress bar on standard error. Default: on a terminal and in a notebook.

    Attributes
    ----------
    run_ : Path
        The run folder.

    Examples
    --------
    >>> spikes_BTN = np.random.default_rng(0).poisson(0.5, (20, 10, 4))
    >>> ndt = NDT(settings={"train.max_steps": 5}, seed=1).fit(spikes_BTN, bin_ms=20)
    >>> ndt.rates(spikes_BTN).shape  # in spikes per second
    (20, 10, 4)
    >>> ndt.latents(spikes_BTN[:2]).shape  # of the encoder, 64 channels
    (2, 10, 64)
    """

    def __init__(
        self,
        preset: str | Path | Mapping[str, Any] = "recordings",
        *,
        bin_ms: float | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int | None = None,
        valid_fraction: float | None = None,
        device: str | None = None,
        out: Path | str | None = None,
        output: Literal["rates", "latents"] = "rates",
        progress: bool | None = None,
    ) -> None:
        # Only stored: scikit-learn copies an estimator by its parameters.
        self.preset = preset
        self.bin_ms = bin_ms
        self.settings = settings
        self.seed = seed
        self.valid_fraction = valid_fraction
        self.device = device
        self.out = out
        self.output = output
        self.progress = progress

    # Training and inference ----------------------------------------------------------------------

    def fit(self, X: Trials, y: object = None, *, bin_ms: float | None = None) -> Self:
        """Train on the trials; part of them is held back for validation.

        Parameters
        ----------
        X : array (trials, bins, neurons), list of arrays (bins, neurons), or SpikeData
            Spike counts.
        y : object
            Ignored; part of the conventions.
        bin_ms : float, optional
            Bin width of the counts in ms, if it was not given before.

        Raises
        ------
        DataError
            If ``X`` is not spike counts of at least two trials.
        SettingsError
            If a parameter or setting cannot be used.
        """
        settings = self._settings()
        data = _as_data(X, self._bin_ms(X, bin_ms))
        if odd := odd_width(data.bin_ms):
            warnings.warn(f"`bin_ms={data.bin_ms:g}` gives {odd}", RunWarning, stacklevel=2)
        if looks_neurons_first(data):
            warnings.warn(f"`X`: {NEURONS_FIRST}", RunWarning, stacklevel=2)
        is_valid_B = data.is_valid_B
        if is_valid_B is not None and 0 < is_valid_B.sum() < data.n_trials:
            train, valid = np.flatnonzero(~is_valid_B), np.flatnonzero(is_valid_B)
        else:
            train, valid = split_trials(
                data.n_trials,
                valid_fraction=settings.data.valid_fraction,
                seed=settings.data.split_seed,
                conditions_B=data.conditions_B,
                source="`X`",
            )
        recording = Recording(data.take(train), data.take(valid), "array", "ndt")
        if recording.train.max_count == 0:
            raise DataError(
                f"`X`: found no spike in {count(len(train), 'training trial')}; expected some",
                "Is it the array of counts? Its axes are trials x bins x neurons.",
            )
        check_recording(replace(recording, source="`X`"))
        out = None if self.out is None else Path(self.out)
        if out is not None:
            stored = (out / SPIKES_FILE).absolute()
            settings = settings.model_copy(
                update={"data": settings.data.model_copy(update={"file": stored})}
            )
        with self._watching() as shown:

            def watch(event: Event) -> None:
                # Once the folder is there, and before minutes of training.
                if isinstance(event, Started) and out is not None:
                    write_recording(recording, event.run / SPIKES_FILE, overwrite=True)
                if shown is not None:
                    shown(event)

            run = out or _temporary_folder(self) / "run"
            chosen = hold_out_neurons(limit_training(recording, settings.data), settings.data)
            fit(settings, out=run, recording=chosen, watch=watch, draw=out is not None)
        self._use(run)
        return self

    @overload
    def rates(
        self, X: NDArray[Any] | SpikeData, *, unit: Literal["hz", "bin"] = "hz"
    ) -> NDArray[np.float32]: ...

    @overload
    def rates(
        self, X: Sequence[NDArray[Any]], *, unit: Literal["hz", "bin"] = "hz"
    ) -> list[NDArray[np.float32]]: ...

    def rates(self, X: Trials, *, unit: Literal["hz", "bin"] = "hz") -> Values:
        """Infer firing rates, arranged as ``X``.

        Parameters
        ----------
        X : array (trials, bins, neurons), list of arrays (bins, neurons), or SpikeData
            Spike counts of the same neurons, in bins of the same width. Trials may be shorter
            than those of the training, but not longer.
        unit : {"hz", "bin"}
            Spikes per second, or expected spikes per bin.

        Returns
        -------
        float array (trials, bins, neurons), or list of arrays (bins, neurons)
        """
        if unit not in ("hz", "bin"):
            raise SettingsError(f'`unit={unit!r}`: expected "hz" or "bin"')
        model, data, order_N = self._prepared(X)
        rates_BTN = model.rates(data)[..., order_N]
        if unit == "hz":
            rates_BTN *= 1000 / data.bin_ms
        return _as_given(rates_BTN, X, data)

    @overload
    def latents(self, X: NDArray[Any] | SpikeData) -> NDArray[np.float32]: ...

    @overload
    def latents(self, X: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]: ...

    def latents(self, X: Trials) -> Values:
        """Return what the encoder makes of each bin, (trials, bins, channels), like `rates`."""
        model, data, _ = self._prepared(X)
        return _as_given(model.activations(data), X, data)

    @overload
    def transform(self, X: NDArray[Any] | SpikeData) -> NDArray[np.float32]: ...

    @overload
    def transform(self, X: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]: ...

    def transform(self, X: Trials) -> Values:
        """Return rates in spikes per second, or latents where ``output="latents"``."""
        if self.output not in ("rates", "latents"):
            raise SettingsError(f'`output={self.output!r}`: expected "rates" or "latents"')
        return self.rates(X) if self.output == "rates" else self.latents(X)

    def fit_transform(self, X: Trials, y: object = None, *, bin_ms: float | None = None) -> Values:
        """Train on the trials and return what `transform` does of them."""
        return self.fit(X, y, bin_ms=bin_ms).transform(X)

    def score(self, X: Trials, y: object = None) -> float:
        """Score how well counts are predicted while they are hidden, in bits per spike.

        0 is as good as each neuron's mean rate; higher is better. Use trials that were not in
        `fit`, as ``cross_val_score`` does. NaN if the trials have no spike. In a list of trials of
        unequal length, some may be longer than those of the training: unless ``model.positions`` is
        ``"relative"`` or ``"none"``, their later bins are not scored, with a warning.

        Parameters
        ----------
        X : array (trials, bins, neurons), list of arrays (bins, neurons), or SpikeData
            Spike counts.
        y : object
            Ignored; part of the conventions.
        """
        model, data, _ = self._prepared(self._cut(X))
        rates_BTN = model.rates_while_hidden(data, hiding_folds(data, model.settings))
        bins, neurons = scored_parts(data)["hidden"]
        sums = SpikeScoreSums(neurons.stop)
        sums.add(
            rates_BTN[:, bins, neurons], data.spikes_BTN[:, bins, neurons], data.inside_BT[:, bins]
        )
        return sums.result().bits_per_spike

    # Runs on disk --------------------------------------------------------------------------------

    @classmethod
    def load(cls, run: Path | str, *, device: str | None = None) -> Self:
        """Return the estimator of a run folder or an ensemble, ready to infer.

        Examples
        --------
        >>> NDT.load("runs/first").rates(np.zeros((2, 10, 4), int)).shape
        (2, 10, 4)
        """
        ndt = cls(Path(run) / "settings.toml", device=device)
        ndt._use(Path(run))
        ndt.bin_ms = ndt._model().trained_on.bin_ms
        return ndt

    def save(self, path: Path | str) -> Path:
        """Copy what inference needs of the run to a new folder, and return its path.

        Raises
        ------
        ExistingFileError
            If there is something at that path.
        """
        target = Path(path)
        if target.exists():
            raise ExistingFileError(target, "Choose another `path`.")
        _write_files(_files_of(self._folder()), target)
        return target

    @property
    def summary_(self) -> dict[str, Any]:
        """Scores of the trials that `fit` held back, and the verdict, as in ``summary.json``."""
        folder = RunFolder(self._folder())
        name = "ensemble.json" if Ensemble.is_at(folder.path) else "summary.json"
        return folder.read_json(name) if (folder.path / name).is_file() else {}

    # Conventions of scikit-learn -----------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {name: getattr(self, name) for name in _parameters()}

    def set_params(self, **params: Any) -> Self:
        """Change parameters, for the next `fit`; ``settings__KEY`` changes one of the settings."""
        for name, value in params.items():
            if name.startswith("settings__"):
                key = name.removeprefix("settings__")
                # The last of equal keys counts, and another may be in a nested mapping.
                others = {k: v for k, v in (self.settings or {}).items() if k != key}
                self.settings = {**others, key: value}
            elif name in _parameters():
                setattr(self, name, value)
            else:
                keys = [f.key for f in field_table() if f".{f.key}".endswith(f".{name}")]
                raise SettingsError(
                    f"`{name}` is not a parameter of NDT; there are {', '.join(_parameters())}",
                    f"It is a setting: `settings__{keys[0]}`." if keys else None,
                )
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "run_")

    def __sklearn_tags__(self) -> Any:
        # Called by scikit-learn, so that it is installed.
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
            non_deterministic=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and the files of the run: a pickle works on any machine."""
        state = dict(self.get_params())
        if hasattr(self, "run_"):
            state["_files"] = _files_of(self.run_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        self.__dict__.update(state)
        if files is None:
            return
        folder = _temporary_folder(self) / "run"
        _write_files(files, folder)
        self._use(folder)

    def __repr__(self) -> str:
        changed = {
            name: value
            for name, value in self.get_params().items()
            if (default := _parameters()[name]) is not value
            and not (isinstance(value, str) and value == default)
        }
        return f"NDT({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def _repr_html_(self) -> str:
        title = f"<code>{html.escape(repr(self))}</code>"
        if not hasattr(self, "run_"):
            return f"{title}<p>Not fitted yet.</p>"
        evaluation = self.summary_.get("evaluation")
        if evaluation is None:
            return f"{title}<p>{html.escape(str(self.run_))}</p>"
        scores = evaluation["scores"]
        columns = [c for c in COMPARED if math.isfinite(c.of(scores["NDT"]))]
        head = "".join(f"<th>{c.label}<br>{c.unit}</th>" for c in columns)
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            + "".join(f"<td>{_number(column.of(values))}</td>" for column in columns)
            + "</tr>"
            for name, values in scores.items()
        )
        verdict = evaluation["verdict"]
        # The calls in warnings are of the run folder, which may be a temporary one.
        warned = (text.partition(", `resume(")[0] for text in verdict["warnings"])
        more = "".join(f"<li>{html.escape(text)}</li>" for text in warned)
        return (
            f"{title}<p>{html.escape(verdict['sentence'])}</p>{f'<ul>{more}</ul>' if more else ''}"
            f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{count(evaluation['n_trials'], 'trial')} that the training did not use.</p>"
        )

    def _settings(self) -> Settings:
        if not isinstance(self.settings, (Mapping, type(None))):
            raise SettingsError(
                f"`settings`: found {type(self.settings).__name__}; expected a mapping",
                "For example: settings={'train.max_steps': 500}.",
            )
        changes: dict[str, Any] = dict(self.settings or {})
        if self.seed is not None:
            changes |= {"train.seed": self.seed, "data.split_seed": self.seed}
        if self.valid_fraction is not None:
            changes["data.valid_fraction"] = self.valid_fraction
        if self.device is not None:
            changes["train.device"] = self.device
        settings = load_settings(self.preset, changes)
        if settings.data.bin_ms is not None:
            raise SettingsError(
                "`data.bin_ms` sums the bins of a file, not of an array",
                "Sum the counts of `X` yourself, and give `bin_ms` as it is then.",
            )
        # The trials are given, whatever file or set the settings name.
        return load_settings(self.preset, {**changes, "data.file": None, "data.synthetic": "none"})

    def _bin_ms(self, X: Trials, given: float | None = None) -> float:
        candidates = [given, self.bin_ms, X.bin_ms if isinstance(X, SpikeData) else None]
        try:
            known = [float(value) for value in candidates if value is not None]
        except (TypeError, ValueError) as error:
            raise SettingsError("`bin_ms`: expected one number, in ms") from error
        if not known and hasattr(self, "run_"):
            known = [float(self._model().trained_on.bin_ms)]
        if not known:
            raise SettingsError(
                "`bin_ms` is missing: the width of a bin of `X` in ms",
                "Give it: NDT(bin_ms=20), or fit(X, bin_ms=20).",
            )
        if len(set(known)) > 1:
            raise SettingsError(f"`bin_ms`: found {known[0]:g} and {known[1]:g} ms; expected one")
        [bin_ms] = set(known)
        if not MIN_BIN_MS <= bin_ms <= MAX_BIN_MS:
            raise SettingsError(
                f"`bin_ms={bin_ms:g}`: expected {MIN_BIN_MS:g} to {MAX_BIN_MS:g} ms"
            )
        return bin_ms

    def _folder(self) -> Path:
        if not hasattr(self, "run_"):
            raise RunError("this NDT is not fitted yet", "Call fit(X) first, or `NDT.load(run)`.")
        return self.run_

    def _use(self, run: Path) -> None:
        self.run_ = run
        self.__dict__.pop("_loaded", None)

    def _model(self) -> Model:
        if "_loaded" not in self.__dict__:
            self._loaded = load_trained(self._folder(), device=self.device or "auto")
        return self._loaded

    def _prepared(self, X: Trials) -> tuple[Model, SpikeData, NDArray[np.int64]]:
        """Return the model, the trials with its held-out neurons last, and how to undo that."""
        model = self._model()
        given = _as_data(X, self._bin_ms(X, model.trained_on.bin_ms))
        settings, known = model.settings.data, model.trained_on
        if known.n_neurons == given.n_neurons and not given.n_heldout:
            given = hold_out_neurons(Recording(given, given, "`X`", "ndt"), settings).train
        model.check_fits(given, "`X`")
        return model, given, given.file_order_N

    def _cut(self, X: Trials) -> Trials:
        """Leave out bins of a list of trials that no trial of the training had."""
        model = self._model()
        longest = min(member.network.shape.n_bins for member in model.members)
        in_trial = model.settings.model.positions in ("learned", "sinusoid")
        if not _is_list(X) or not in_trial:
            return X
        data = _as_data(X, model.trained_on.bin_ms)
        n_longer = int((data.lengths_B > longest).sum())
        if not n_longer:
            return X
        warnings.warn(
            f"`X`: {n_longer} of {data.n_trials} trials are longer than the {longest} bins of the "
            f"training, and only their first {longest} bins are scored; "
            "`model.positions=relative` has no such limit",
            RunWarning,
            stacklevel=3,
        )
        lengths = data.lengths_B.tolist()
        return [
            row_TN[: min(n, longest)] for row_TN, n in zip(data.spikes_BTN, lengths, strict=True)
        ]

    def _watching(self) -> AbstractContextManager[Watcher | None]:
        wanted = self.progress
        if wanted is None:
            wanted = _in_notebook() or bool(sys.stderr is not None and sys.stderr.isatty())
        if not wanted:
            return nullcontext()
        from ndt_cli.commands.progress import TrainingProgress

        return TrainingProgress()


# Trials as they are given, and back ---------------------------------------------------------------


def _as_data(X: Trials, bin_ms: float) -> SpikeData:
    """Check spike counts, and return them with unequal trials padded."""
    if isinstance(X, SpikeData):
        return X
    if not _is_list(X) and hasattr(X, "__array__"):
        X = as_array(X)
        if X.ndim != 3:
            hint = "One trial of bins x neurons is X[None]." if X.ndim == 2 else None
            raise DataError(
                f"`X`: found {X.ndim} axes, {X.shape}; expected counts, trials x bins x neurons",
                hint,
            )
        trials = list(X)
    elif _is_list(X):
        trials = [as_array(trial) for trial in X]
    else:
        raise DataError(
            f"`X`: found {type(X).__name__}; expected an array, trials x bins x neurons, or a list "
            "of arrays, bins x neurons"
        )
    if not len(trials):
        raise DataError("`X`: found no trials; expected at least one")
    for place, trial_TN in enumerate(trials):
        if trial_TN.ndim != 2 or 0 in trial_TN.shape:
            raise DataError(
                f"`X[{place}]`: found shape {trial_TN.shape}; expected a trial, bins x neurons"
            )
        if trial_TN.shape[1] != trials[0].shape[1]:
            raise DataError(
                f"`X[{place}]`: found {trial_TN.shape[1]} neurons, but {trials[0].shape[1]} in "
                "`X[0]`; expected the same",
                "The order is bins x neurons: are the axes swapped?",
            )
        _check_counts(trial_TN, place)
    lengths_B = np.array([len(trial_TN) for trial_TN in trials])
    spikes_BTN = np.zeros((len(trials), int(lengths_B.max()), trials[0].shape[1]), np.uint16)
    for row_TN, trial_TN in zip(spikes_BTN, trials, strict=True):
        row_TN[: len(trial_TN)] = trial_TN
    return SpikeData(
        spikes_BTN=compact_counts(spikes_BTN),
        bin_ms=bin_ms,
        lengths_B=lengths_B,
        trial_ids_B=np.arange(len(trials)),
    )


def _is_list(X: Trials) -> bool:
    """Tell whether trials are given one by one, so that their numbers of bins may differ."""
    return isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype == object)


def _check_counts(trial_TN: NDArray[Any], place: int) -> None:
    if trial_TN.dtype.kind not in "buif":
        raise DataError(f"`X[{place}]`: found values of type {trial_TN.dtype}; expected counts")
    if trial_TN.dtype.kind == "b":
        return
    if trial_TN.dtype == np.float16:  # cannot hold the largest count
        trial_TN = trial_TN.astype(np.float32)
    finite_TN = np.isfinite(trial_TN)
    rules = [
        (~finite_TN, "finite counts", "Shorter trials: give a list of arrays of unequal length."),
        (trial_TN < 0, "counts from 0 on", None),
        (trial_TN > MAX_COUNT, f"counts up to {MAX_COUNT}", "Are these spike times, not counts?"),
        (
            finite_TN & (trial_TN != np.floor(trial_TN)),
            "whole numbers",
            "Rates and smoothed counts are not counts: give the spikes in each bin.",
        ),
    ]
    for bad_TN, expected, hint in rules:
        if bad_TN.any():
            t, n = (int(i) for i in np.argwhere(bad_TN)[0])
            raise DataError(
                f"`X`: found {trial_TN[t, n]:g} at trial {place}, bin {t}, neuron {n}; "
                f"expected {expected}",
                hint,
            )


def _as_given(values_BTK: NDArray[np.float32], X: Trials, data: SpikeData) -> Values:
    """Return one array for an array, and a list of trials without padding for a list."""
    if not _is_list(X):
        return values_BTK
    return [
        values_TK[:length]
        for values_TK, length in zip(values_BTK, data.lengths_B.tolist(), strict=True)
    ]


# The run behind an estimator ----------------------------------------------------------------------


def _temporary_folder(owner: object) -> Path:
    """Make a folder that is removed with its owner, or when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="ndt-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _files_of(run: Path) -> dict[str, bytes]:
    """Return what inference needs of a run folder, by path in it."""
    paths = (path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file())
    return {
        path.as_posix(): (run / path).read_bytes()
        for path in paths
        if _NOT_COPIED.isdisjoint(path.parts)
    }


def _write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write what `_files_of` returned to a folder that does not exist yet."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _parameters() -> dict[str, Any]:
    """Return the parameters of `NDT` with their defaults."""
    found = inspect.signature(NDT.__init__).parameters
    return {name: parameter.default for name, parameter in found.items() if name != "self"}


def _in_notebook() -> bool:
    shell: Callable[[], Any] | None = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell is not None and type(shell()).__name__ == "ZMQInteractiveShell"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
