"""Read the three layouts of spike files: LFADS, Neural Latents Benchmark (NLB) and the own layout.

Axes in names: B trials, T bins, N neurons, K latents, V behavioral variables.

The own layout is one set of trials in an .npz or HDF5 file. Only the first two keys are required.

===================  =======================  ====================================================
key                  shape                    meaning
===================  =======================  ====================================================
``spikes``           trials x bins x neurons  spike counts
``bin_ms``           one number               bin width in milliseconds
``lengths``          trials                   bins of each trial, if they differ
``length_ms``        trials                   the same in milliseconds
``split``            trials                   ``train`` or ``valid``; default: a seeded split
``conditions``       trials                   condition, numbers or text (or ``condition``)
``condition_names``  conditions               their names, in ascending order of the numbers
``trial_ids``        trials                   number of each trial in the recording
``trial_table/...``  trials                   further columns, under their own names
``event``            one text                 what the trials are aligned to
``start_ms``         one number               start of the first bin, from the event
``start_times_s``    trials                   start of each trial's first bin on the clock, seconds
``start_bins``       trials                   first bin of each window of a chopped recording
``rates``            as ``spikes``            true rates in expected spikes per bin
``latents``          trials x bins x latents  latent states of synthetic data
``behavior``         trials x bins x values   behavior, NaN where missing (or ``behaviour``)
``behavior_names``   values                   names of the variables, such as ``hand velocity x``
``neuron_names``     neurons                  names of the neurons; compared when evaluating
``n_heldout``        one number               the last neurons are held out
``n_forward``        one number               the last bins are forward bins, past the window
``hidden_known``     trials                   False: the file lacks the counts of those two
===================  =======================  ====================================================
"""

import math
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.arrays import (
    MISSING,
    as_whole,
    as_words,
    check_same_window,
    find_rate_scale,
    look_alikes,
    needed_bin_ms,
    read_columns,
    read_counts,
    read_labels,
    read_names,
    read_per_trial,
    read_rates,
    read_series,
    read_size,
    read_text,
    scale_rates,
    stored_bin_ms,
)
from ndt_cli.data.files import ArrayFile
from ndt_cli.data.spike_data import (
    FloatArray,
    IntArray,
    Recording,
    SpikeData,
    split_trials,
    unmarked_padding,
)
from ndt_cli.errors import DataError
from ndt_cli.memory import check_memory
from ndt_cli.settings.tree import DataSettings

T = TypeVar("T")

# LFADS -------------------------------------------------------------------------------------------

LFADS_COUNT_KEYS = ("train_data", "valid_data")
LFADS_TORCH_KEYS = ("train_recon_data", "valid_recon_data", "train_encod_data", "valid_encod_data")
_HALVES = ("train", "valid")


def read_lfads(file: ArrayFile, settings: DataSettings) -> Recording:
    """Read an LFADS file.

    Required keys are ``train_data`` and ``valid_data`` (counts). Optional ones are ``train_truth``
    and ``valid_truth`` (true rates), ``conversion_factor``, ``dt`` (bin width in seconds),
    ``train_inds`` and ``valid_inds`` (positions of the trials in the original order, from 0 or 1),
    ``condition_labels_train`` and ``condition_labels_valid``, ``train_lowd`` and ``valid_lowd``
    (latents). Other keys are ignored. Without ``dt``, the bin width is that of the settings, or
    follows from the scale of the rates.

    Files of lfads-torch have ``train_encod_data`` and ``valid_encod_data`` (held-in neurons in the
    window) within ``train_recon_data`` and ``valid_recon_data``: of these, further neurons are
    held out, and further bins are forward bins. ``train_behavior`` and ``valid_behavior`` are read.
    """
    is_torch = any(key in file for key in LFADS_TORCH_KEYS)
    needed = LFADS_TORCH_KEYS if is_torch else LFADS_COUNT_KEYS
    for key in needed:
        if key not in file:
            raise file.missing(key, known_keys=needed)
    check_same_window(file, *needed[:2])
    counts = [read_counts(file, key) for key in needed[:2]]
    n_heldout, n_forward = _hidden_parts(file, counts) if is_torch else (0, 0)
    bin_ms, notes = stored_bin_ms(file, "dt", settings, ms_per_unit=1000)

    truth = _pairs(file, "{}_truth", counts)
    alone = [key for key in ("train_truth", "valid_truth") if key in file and not truth]
    notes += [f"`{key}` is not used: the other split has no true rates." for key in alone]
    rates = [read_rates(file, key, spikes_BTN.shape) for key, spikes_BTN in truth]
    if rates:
        mean_rate, mean_count = _pooled_mean(rates), _pooled_mean(counts)
        ratio = mean_rate / mean_count if mean_count > 0 else math.nan
        factor, bin_ms, scale_notes = find_rate_scale(file, settings, bin_ms, ratio)
        notes += scale_notes
        for (key, _), rates_BTN in zip(truth, rates, strict=True):
            scale_rates(file, key, rates_BTN, factor)
    bin_ms = needed_bin_ms(file, "dt", bin_ms)

    sizes = [len(spikes_BTN) for spikes_BTN in counts]
    ids, id_notes = _read_trial_ids(file, sizes)
    latents, latent_notes = _read_latents(file, counts)
    labels = dict(_pairs(file, "condition_labels_{}", sizes))
    conditions, condition_names = read_labels(file, labels) if labels else ([], {})
    notes += look_alikes(condition_names.values())
    splits = []
    for i, (half, spikes_BTN) in enumerate(zip(_HALVES, counts, strict=True)):
        behavior_BTV, behavior_notes = _read_behavior(file, half, spikes_BTN.shape[:2], n_forward)
        notes += behavior_notes
        splits.append(
            SpikeData(
                spikes_BTN=spikes_BTN,
                bin_ms=bin_ms,
                lengths_B=np.full(len(spikes_BTN), spikes_BTN.shape[1]),
                rates_BTN=rates[i] if rates else None,
                conditions_B=conditions[i] if conditions else None,
                latents_BTK=latents[i] if latents else None,
                behavior_BTV=behavior_BTV,
                trial_ids_B=ids[i] if ids else None,
                condition_names=condition_names,
                n_heldout=n_heldout,
                n_forward=n_forward,
            )
        )
    notes += id_notes + latent_notes
    return Recording(splits[0], splits[1], str(file.path), "lfads", tuple(notes))


def _hidden_parts(file: ArrayFile, counts: list[IntArray]) -> tuple[int, int]:
    """Return the held-out neurons and forward bins of lfads-torch: what only its recon data has."""
    for key, recon_BTN in zip(LFADS_TORCH_KEYS[2:], counts, strict=True):
        encod_BTN = read_counts(file, key)
        _, n_bins, n_neurons = encod_BTN.shape
        if not np.array_equal(encod_BTN, recon_BTN[:, :n_bins, :n_neurons]):
            expected = f"the first bins and neurons of `{key.replace('encod', 'recon')}`"
            raise file.wrong(key, f"other counts, {encod_BTN.shape}", expected)
    check_same_window(file, *LFADS_TORCH_KEYS[2:])
    return recon_BTN.shape[2] - n_neurons, recon_BTN.shape[1] - n_bins


def _pooled_mean(arrays: list[IntArray] | list[FloatArray]) -> float:
    total = sum(float(array.sum(dtype=np.float64)) for array in arrays)
    return total / sum(array.size for array in arrays)


def _pairs(file: ArrayFile, key: str, values: list[T]) -> list[tuple[str, T]]:
    """Return the key of each split with its value if the file has both keys, else nothing."""
    keys = [key.format(half) for half in _HALVES]
    return list(zip(keys, values, strict=True)) if all(key in file for key in keys) else []


def _read_latents(file: ArrayFile, counts: list[IntArray]) -> tuple[list[FloatArray], list[str]]:
    pairs = _pairs(file, "{}_lowd", counts) or _pairs(file, "{}_latents", counts)
    try:
        return [read_series(file, key, *spikes.shape[:2]) for key, spikes in pairs], []
    except DataError as error:
        return [], [f"Latents are not used: {error.message}."]


def _read_trial_ids(file: ArrayFile, sizes: list[int]) -> tuple[list[IntArray], list[str]]:
    """Return each split's positions in the original order, from 0; MATLAB counts from 1."""
    ids: list[IntArray] = []
    for key, size in _pairs(file, "{}_inds", sizes):
        values = as_whole(read_per_trial(file, key, size))
        if values is None:
            return [], [f"`{key}` is not used: its values are not whole numbers."]
        ids.append(values)
    both = np.concatenate(ids) if ids else np.arange(0)
    if len(np.unique(both)) < len(both):
        return [], ["`train_inds` and `valid_inds` are not used: some trials occur twice."]
    if ids and both.min() == 1 and both.max() == len(both):
        return [i - 1 for i in ids], ["`train_inds` and `valid_inds` count from 1; converted to 0."]
    return ids, []


# NLB ---------------------------------------------------------------------------------------------


_STEMS = ("spikes", "data")  # "data" in files of early versions of nlb_tools
_AXES = ("trials", "bins", "neurons")
_PARTS = ("heldin", "heldout", "heldin_forward", "heldout_forward")
NLB_COUNT_KEYS = tuple(
    f"{half}_{s}_{p}" for half in ("train", "eval") for s in _STEMS for p in _PARTS
)


def read_nlb(file: ArrayFile, settings: DataSettings) -> Recording:
    """Read a benchmark file written by nlb_tools; its ``eval_`` trials are the validation split.

    Such files hold counts in four parts: held-in and held-out neurons, each in the window and in
    the forward bins after it. They become one array, held-out neurons and forward bins last.
    Required keys are ``train_spikes_heldin`` and ``eval_spikes_heldin``. The other parts may be
    missing from both halves, or, in a test-phase file, from the ``eval_`` half: those counts are
    then unknown and stored as zero. ``train_behavior`` and ``eval_behavior`` are read if they
    cover the window. The bin width is that of the settings: these files do not contain it.
    """
    stem = next((s for s in _STEMS if f"train_{s}_heldin" in file), _STEMS[0])
    train_keys = {part: f"train_{stem}_{part}" for part in _PARTS}
    eval_keys = {part: f"eval_{stem}_{part}" for part in _PARTS}
    for key in (train_keys["heldin"], eval_keys["heldin"]):
        if key not in file:
            raise file.missing(key, known_keys=NLB_COUNT_KEYS)
    width, notes = stored_bin_ms(file, "bin_ms", settings)
    bin_ms = needed_bin_ms(file, "bin_ms", width)
    for part in _PARTS:
        if train_keys[part] in file and eval_keys[part] in file:
            check_same_window(file, train_keys[part], eval_keys[part])

    train_parts = {p: read_counts(file, key) for p, key in train_keys.items() if key in file}
    eval_parts = {p: read_counts(file, key) for p, key in eval_keys.items() if key in file}
    _check_parts(file, train_keys, train_parts)
    unknown = [part for part in train_parts if part not in eval_parts]
    for part in unknown:
        shape = (len(eval_parts["heldin"]), *train_parts[part].shape[1:])
        check_memory(math.prod(shape), f"{file.path}: `{eval_keys[part]}`")
        eval_parts[part] = np.zeros(shape, dtype=np.uint8)
    if unknown:
        names = ", ".join(f"`{eval_keys[part]}`" for part in unknown)
        notes.append(f"No {names} in the file: those counts are unknown and not scored.")
    for part in eval_parts:
        if part not in train_parts:
            raise file.missing(train_keys[part], known_keys=NLB_COUNT_KEYS)
    _check_parts(file, eval_keys, eval_parts)

    n_heldout = train_parts["heldout"].shape[2] if "heldout" in train_parts else 0
    n_forward = train_parts["heldin_forward"].shape[1] if "heldin_forward" in train_parts else 0
    splits = []
    for half, parts in (("train", train_parts), ("eval", eval_parts)):
        spikes_BTN = _assemble(parts)
        behavior_BTV, behavior_notes = _read_behavior(file, half, spikes_BTN.shape[:2], n_forward)
        notes += behavior_notes
        splits.append(
            SpikeData(
                spikes_BTN=spikes_BTN,
                bin_ms=bin_ms,
                lengths_B=np.full(len(spikes_BTN), spikes_BTN.shape[1]),
                behavior_BTV=behavior_BTV,
                n_heldout=n_heldout,
                n_forward=n_forward,
                hidden_counts_known=half == "train" or not unknown,
            )
        )
    train, valid = splits
    return Recording(train, valid, str(file.path), "nlb", tuple(notes))


def _check_parts(file: ArrayFile, keys: dict[str, str], parts: dict[str, IntArray]) -> None:
    """Refuse parts that do not form one array."""
    has_forward = "heldin_forward" in parts or "heldout_forward" in parts
    for part, is_needed in (
        ("heldin_forward", has_forward),
        ("heldout_forward", has_forward and "heldout" in parts),
        ("heldout", "heldout_forward" in parts),
    ):
        if is_needed and part not in parts:
            raise file.missing(keys[part], known_keys=NLB_COUNT_KEYS)
    # Axes that two parts share: trials; bins, in the same stretch; neurons, of the same kind.
    for part, other, axis in (
        ("heldout", "heldin", 0), ("heldout", "heldin", 1),
        ("heldin_forward", "heldin", 0), ("heldin_forward", "heldin", 2),
        ("heldout_forward", "heldout", 0), ("heldout_forward", "heldout", 2),
        ("heldout_forward", "heldin_forward", 0), ("heldout_forward", "heldin_forward", 1),
    ):  # fmt: skip
        if part in parts and other in parts:
            found, reference = parts[part].shape[axis], parts[other].shape[axis]
            if found != reference:
                what, expected = _AXES[axis], f"{reference} as in `{keys[other]}`"
                raise file.wrong(keys[part], f"{found} {what}", expected)


def _assemble(parts: dict[str, IntArray]) -> IntArray:
    stretches = []
    for names in (("heldin", "heldout"), ("heldin_forward", "heldout_forward")):
        present = [parts[name] for name in names if name in parts]
        if present:
            stretches.append(np.concatenate(present, axis=2))
    return np.concatenate(stretches, axis=1)


def _read_behavior(
    file: ArrayFile, half: str, shape: tuple[int, ...], n_forward: int
) -> tuple[FloatArray | None, list[str]]:
    """Return the behavior of the window, with NaN in the forward bins."""
    key = f"{half}_behavior"
    if key not in file:
        return None, []
    n_trials, n_bins = shape
    shape = file.shape(key)
    if shape[1:2] == (n_bins,):
        n_forward = 0  # known in the forward bins too
    try:
        window_BTV = read_series(file, key, n_trials, n_bins - n_forward)
    except DataError as error:
        # dmfc_rsg has one value per trial, not a time series.
        return None, [f"Behavior is not used: {error.message}."]
    blank = ((0, 0), (0, n_forward), (0, 0))
    return np.pad(window_BTV, blank, constant_values=np.nan), []


# Own layout --------------------------------------------------------------------------------------

_OWN_KEYS = (
    "spikes", "bin_ms", "lengths", "length_ms", "split", "conditions", "condition",
    "condition_names", "trial_ids", "event", "start_ms", "start_times_s", "start_bins", "rates",
    "latents", "behavior", "behaviour", "behavior_names", "behaviour_names", "neuron_names",
    "n_heldout", "n_forward", "hidden_known",
)  # fmt: skip
_SIMILAR = 0.85  # share of letters
# True rates that differ from this many spikes by this factor are in another unit.
_ENOUGH_SPIKES, _RATE_FACTOR = 100, 3.0


def read_own(file: ArrayFile, settings: DataSettings, *, to_train: bool = True) -> Recording:
    """Read a file of the own layout; without ``split``, draw one with the seed of the settings.

    With ``to_train`` False, for inference, a single trial or a single split is enough.
    """
    width, notes = stored_bin_ms(file, "bin_ms", settings)
    bin_ms = needed_bin_ms(file, "bin_ms", width)
    spikes_BTN = read_counts(file, "spikes", n_copies=2)  # all of them, and then both splits
    n_trials, n_bins, n_neurons = spikes_BTN.shape

    def optional(key: str, read: Callable[..., Any], *sizes: int, default: Any = None) -> Any:
        return read(file, key, *sizes) if key in file else default

    keys = [key for key in ("lengths", "length_ms") if key in file]
    stated = [_read_lengths(file, key, n_trials, n_bins, bin_ms) for key in keys]
    lengths_B, length_notes = stated[0] if stated else (np.full(n_trials, n_bins), [])
    if stated and (stated[-1][0] != lengths_B).any():
        raise file.wrong("length_ms", "other lengths", "those of `lengths`", "Save one of them.")
    inside_BT = np.arange(n_bins) < lengths_B[:, None]
    n_past = int(np.count_nonzero(spikes_BTN[~inside_BT]))
    if n_past:
        spikes_BTN[~inside_BT] = 0
        notes.append(f"Counts in {n_past} entries past the end of their trial were set to 0.")
    rates_BTN = None
    if "rates" in file:
        rates_BTN, factor = read_rates(file, "rates", spikes_BTN.shape, inside_BT), 1.0
        if settings.conversion_factor is not None:
            factor = settings.conversion_factor
            notes.append(f"True rates were divided by `data.conversion_factor`, {factor:.6g}.")
        scale_rates(file, "rates", rates_BTN, factor)
        if "hidden_known" not in file:  # else some counts are 0 that are not known
            notes += _odd_rates(rates_BTN, spikes_BTN)
    condition_key = "conditions" if "conditions" in file else "condition"
    conditions_B: IntArray | None = None
    condition_names: dict[int, str] = {}
    if condition_key in file:
        (conditions_B,), condition_names = read_labels(file, {condition_key: n_trials})
        numbers = np.unique(conditions_B).tolist()
        if "condition_names" in file:
            names = read_names(file, "condition_names", len(numbers))
            condition_names = dict(zip(numbers, names, strict=True))
    # British spelling is read too.
    behavior_key = "behaviour" if "behaviour" in file else "behavior"
    behavior_BTV = optional(behavior_key, read_series, n_trials, n_bins)
    behavior_names: list[str] = []
    if behavior_BTV is not None:
        n_variables = behavior_BTV.shape[2]
        behavior_names = optional(f"{behavior_key}_names", read_names, n_variables, default=[])
    numbers_B = [] if conditions_B is None else conditions_B.tolist()
    notes += look_alikes(condition_names.values())
    n_unknown = sum(condition_names.get(n) in MISSING for n in numbers_B)
    if n_unknown:
        notes.append(f"{n_unknown} trials have no condition, and are a condition of their own.")
    trial_table, table_notes = read_columns(file, n_trials)
    trial_ids_B, names_B = _read_ids(file, n_trials)
    if names_B is not None:
        trial_table["trial_ids"] = names_B
        notes.append(
            "`trial_ids` are not whole numbers, or some occur twice: they are a column of the "
            "trial table, and trials are numbered from 0."
        )
    whole = SpikeData(
        spikes_BTN=spikes_BTN,
        bin_ms=bin_ms,
        lengths_B=lengths_B,
        rates_BTN=rates_BTN,
        conditions_B=conditions_B,
        latents_BTK=optional("latents", read_series, n_trials, n_bins),
        behavior_BTV=behavior_BTV,
        behavior_names=tuple(behavior_names),
        trial_ids_B=trial_ids_B,
        condition_names=condition_names,
        trial_table=trial_table,
        event=optional("event", read_text, default=""),
        start_ms=optional("start_ms", _read_start_ms, default=0.0),
        start_times_s_B=optional("start_times_s", _read_start_times, n_trials),
        places_B=np.arange(n_trials),
        neuron_names=optional("neuron_names", _read_neuron_names, n_neurons, default=()),
        start_bins_B=optional("start_bins", _read_start_bins, n_trials),
        n_heldout=optional("n_heldout", read_size, n_neurons, default=0),
        n_forward=optional("n_forward", read_size, n_bins, default=0),
    )
    if not stated and "hidden_known" not in file and whole.max_count:
        notes += unmarked_padding(whole)
    train, valid, split_notes = _read_split(file, whole, settings, to_train)
    known_B = optional("hidden_known", read_per_trial, n_trials, default=np.ones(n_trials))
    splits = [
        replace(whole.take(trials), hidden_counts_known=bool(known_B[trials].all()))
        for trials in (train, valid)
    ]
    all_notes = (*notes, *length_notes, *split_notes, *table_notes, *_misspelled(file))
    return Recording(splits[0], splits[1], str(file.path), "ndt", all_notes)


def _odd_rates(rates_BTN: FloatArray, spikes_BTN: IntArray) -> list[str]:
    """Return a note if true rates are far from the counts that they are expected to have."""
    n_expected, n_found = float(rates_BTN.sum()), int(spikes_BTN.sum(dtype=np.int64))
    if n_found < _ENOUGH_SPIKES or 1 / _RATE_FACTOR < n_expected / n_found < _RATE_FACTOR:
        return []
    return [
        f"True rates are {n_expected / n_found:.3g} times the counts on average; expected spikes "
        "per bin. If they are in another unit, `data.conversion_factor` divides them."
    ]


def _misspelled(file: ArrayFile) -> list[str]:
    """Return a note for each key that is not read, and is or nearly is one that would be."""
    unread = [key for key in file.keys if key not in _OWN_KEYS and "/" not in key]
    absent = [key for key in _OWN_KEYS if key not in file]
    pairs = (("conditions", "condition"), ("behaviour", "behavior"))
    both = [pair for pair in pairs if all(key in file for key in pair)]
    notes = [f"`{other}` is not read beside `{key}`." for key, other in both]
    for key in unread:
        like = get_close_matches(key.lower(), absent, n=1, cutoff=_SIMILAR)
        if like:
            notes.append(f"`{key}` is not read. If it is `{like[0]}`, rename it.")
    return notes


def _read_lengths(
    file: ArrayFile, key: str, n_trials: int, n_bins: int, bin_ms: float
) -> tuple[IntArray, list[str]]:
    """Return the number of whole bins of each trial."""
    values = read_per_trial(file, key, n_trials)
    if values.dtype.kind not in "uif":
        raise file.wrong(key, f"values of type {values.dtype}", "numbers")
    bins = values / bin_ms if key == "length_ms" else values.astype(float)
    whole = np.floor(bins + 1e-6)
    bad = ~((whole >= 1) & (whole <= n_bins))
    if key == "lengths":
        bad |= whole != bins
    if bad.any():
        trial = int(np.argmax(bad))
        limits = f"{bin_ms:g} to {n_bins * bin_ms:g} ms" if key == "length_ms" else f"1 to {n_bins}"
        raise file.wrong(
            key, f"{values[trial]:g} at trial {trial}", f"{limits}, the bins of the array"
        )
    n_cut = int((bins - whole > 1e-6).sum())
    notes = [f"{n_cut} of {n_trials} trials lost a partial last bin."] if n_cut else []
    return whole.astype(np.int64), notes


def _read_ids(file: ArrayFile, n_trials: int) -> tuple[IntArray, NDArray[Any] | None]:
    """Return the number of each trial, from 0 if the file has none, and what it has instead."""
    places_B = np.arange(n_trials)
    if "trial_ids" not in file:
        return places_B, None
    ids_B = read_per_trial(file, "trial_ids", n_trials)
    numbers_B = as_whole(ids_B)
    if numbers_B is not None:
        is_unique = len(np.unique(numbers_B)) == n_trials
        return (numbers_B, None) if is_unique else (places_B, numbers_B)
    if ids_B.dtype.kind not in "iufSUO":
        raise file.wrong("trial_ids", f"values of type {ids_B.dtype}", "whole numbers or text")
    return places_B, np.array(as_words(ids_B))


def _read_start_ms(file: ArrayFile, key: str) -> float:
    values = file.read(key)
    if values.size != 1 or values.dtype.kind not in "uif" or not np.isfinite(values).all():
        found = f"shape {values.shape} of type {values.dtype}"
        raise file.wrong(key, found, "one finite number, in ms")
    return float(values.item())


def _read_start_times(file: ArrayFile, key: str, n_trials: int) -> FloatArray:
    values = read_per_trial(file, key, n_trials)
    if values.dtype.kind not in "uif" or not np.isfinite(values).all():
        found = f"values of type {values.dtype}, or not finite"
        raise file.wrong(key, found, "times in seconds")
    return values.astype(np.float64)


def _read_start_bins(file: ArrayFile, key: str, n_trials: int) -> IntArray:
    values = read_per_trial(file, key, n_trials)
    whole = as_whole(values)
    if whole is None or not (np.abs(whole) < 2**53).all():
        raise file.wrong(key, f"values of type {values.dtype}", "whole numbers, in bins")
    return whole


def _read_neuron_names(file: ArrayFile, key: str, n_neurons: int) -> tuple[str, ...]:
    numbers = as_whole(file.read(key)) if file.dtype(key).kind in "iuf" else None
    # Numbers of units, which MATLAB saves as floats.
    names = read_names(file, key, n_neurons) if numbers is None else as_words(numbers)
    if len(names) != n_neurons or len(set(names)) < n_neurons:
        found = f"{len(set(names))} different names"
        raise file.wrong(key, found, f"{n_neurons}, one for each neuron")
    return tuple(names)


def _read_split(
    file: ArrayFile, whole: SpikeData, settings: DataSettings, to_train: bool
) -> tuple[IntArray, IntArray, list[str]]:
    """Return the trials of each split, from the file or drawn."""
    if "split" in file:
        words = np.array(as_words(read_per_trial(file, "split", whole.n_trials)))
        train, valid = (np.flatnonzero(words == word) for word in ("train", "valid"))
        empty = to_train and not (len(train) and len(valid))
        if empty or len(train) + len(valid) < whole.n_trials:
            found = ", ".join(f"`{word}`" for word in np.unique(words)[:5])
            raise file.wrong("split", found, "`train` and `valid`, one for each trial")
        return train, valid, []
    if whole.n_trials == 1 and not to_train:
        return np.arange(0), np.arange(1), []
    train, valid = split_trials(
        whole.n_trials,
        valid_fraction=settings.valid_fraction,
        seed=settings.split_seed,
        conditions_B=whole.conditions_B,
        source=f"{file.path}: `spikes`",
    )
    numbers_B = whole.conditions_B
    is_within = numbers_B is not None and len(np.unique(numbers_B)) < len(numbers_B)
    within = ", in proportion within each condition" if is_within else ""
    note = (
        f"The file has no split: {len(valid)} of {whole.n_trials} trials were drawn for "
        f"validation{within} (`data.split_seed` {settings.split_seed})."
    )
    return train, valid, [note]
