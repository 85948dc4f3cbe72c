"""The layout of the Neural Latents Benchmark, as nlb_tools writes it.

Counts come in four parts: held-in and held-out neurons, each in the window and in the forward
bins after it. Here they are one array: held-out neurons last, forward bins last.

Axes in names: B trials, T bins, N neurons, V behavioural variables.
"""

import math

import numpy as np

from ndt_cli.data.arrays import ArrayFile
from ndt_cli.data.read_array import check_same_window, read_counts, read_series
from ndt_cli.data.scales import no_bin_ms, stored_bin_ms
from ndt_cli.data.spike_data import FloatArray, IntArray, Recording, SpikeData
from ndt_cli.errors import DataError
from ndt_cli.memory import check_memory
from ndt_cli.settings.tree import DataSettings

_STEMS = ("spikes", "data")  # files of early nlb_tools say "data"
_PARTS = ("heldin", "heldout", "heldin_forward", "heldout_forward")
COUNT_KEYS = tuple(f"{half}_{s}_{p}" for half in ("train", "eval") for s in _STEMS for p in _PARTS)


def read_nlb(file: ArrayFile, settings: DataSettings) -> Recording:
    """Read a benchmark file; its ``eval_`` trials are the validation split.

    Needed are ``train_spikes_heldin`` and ``eval_spikes_heldin``. The held-out and forward parts
    may be absent from both halves, or, in a test-phase file, from the ``eval_`` half: those
    counts are then unknown and stored as zero. ``data`` is read for ``spikes``, and
    ``train_behavior`` and ``eval_behavior`` where they cover the window.

    Raises
    ------
    DataError
        If a part is missing or of another shape than its neighbours, or nobody says the bin
        width: these files do not hold it.
    """
    stem = next((s for s in _STEMS if f"train_{s}_heldin" in file), _STEMS[0])
    train_keys, eval_keys = (
        {part: f"{half}_{stem}_{part}" for part in _PARTS} for half in ("train", "eval")
    )
    for key in (train_keys["heldin"], eval_keys["heldin"]):
        if key not in file:
            raise file.missing(key, known_keys=COUNT_KEYS)
    bin_ms, notes = stored_bin_ms(file, "bin_ms", settings)
    if bin_ms is None:
        raise no_bin_ms(file, "bin_ms")
    for part in _PARTS:
        if train_keys[part] in file and eval_keys[part] in file:
            check_same_window(file, train_keys[part], eval_keys[part])

    train_parts = {p: read_counts(file, key) for p, key in train_keys.items() if key in file}
    eval_parts = {p: read_counts(file, key) for p, key in eval_keys.items() if key in file}
    _check_parts(file, train_keys, train_parts)
    unknown = [part for part in train_parts if part not in eval_parts]
    for part in unknown:
        shape = (len(eval_parts["heldin"]), *train_parts[part].shape[1:])
        check_memory(math.prod(shape), f"{file.path}: `{eval_keys[part]}`, which is not in it,")
        eval_parts[part] = np.zeros(shape, dtype=np.uint8)
    if unknown:
        names = ", ".join(f"`{eval_keys[part]}`" for part in unknown)
        notes.append(f"No {names} in the file: those counts are unknown and are not scored.")
    for part in eval_parts:
        if part not in train_parts:
            raise file.missing(train_keys[part], known_keys=COUNT_KEYS)
    _check_parts(file, eval_keys, eval_parts)

    n_heldout = train_parts["heldout"].shape[2] if "heldout" in train_parts else 0
    n_forward = train_parts["heldin_forward"].shape[1] if "heldin_forward" in train_parts else 0
    splits = []
    for half, parts in (("train", train_parts), ("eval", eval_parts)):
        spikes_BTN = _assemble(parts)
        behaviour_BTV, behaviour_notes = _read_behaviour(
            file, half, spikes_BTN.shape[:2], n_forward
        )
        notes += behaviour_notes
        splits.append(
            SpikeData(
                spikes_BTN=spikes_BTN,
                bin_ms=bin_ms,
                lengths_B=np.full(len(spikes_BTN), spikes_BTN.shape[1]),
                behaviour_BTV=behaviour_BTV,
                n_heldout=n_heldout,
                n_forward=n_forward,
                hidden_counts_known=half == "train" or not unknown,
            )
        )
    train, valid = splits
    return Recording(train, valid, str(file.path), "nlb", tuple(notes))


def _check_parts(file: ArrayFile, keys: dict[str, str], parts: dict[str, IntArray]) -> None:
    """Refuse parts that do not fit together into one array."""
    if "heldin_forward" in parts or "heldout_forward" in parts:
        needed = ("heldin_forward", "heldout_forward")[: 1 + ("heldout" in parts)]
        for part in needed:
            if part not in parts:
                raise file.missing(keys[part], known_keys=COUNT_KEYS)
    if "heldout_forward" in parts and "heldout" not in parts:
        raise file.missing(keys["heldout"], known_keys=COUNT_KEYS)
    # Which axes two parts share: trials always; bins in the same stretch; neurons of one kind.
    for part, other, axes in (
        ("heldout", "heldin", (0, 1)),
        ("heldin_forward", "heldin", (0, 2)),
        ("heldout_forward", "heldout", (0, 2)),
        ("heldout_forward", "heldin_forward", (0, 1)),
    ):
        if part not in parts or other not in parts:
            continue
        found, reference = parts[part].shape, parts[other].shape
        for axis in axes:
            if found[axis] != reference[axis]:
                what = ("trials", "bins", "neurons")[axis]
                expected = f"{reference[axis]} as in `{keys[other]}`"
                raise file.wrong(keys[part], f"{found[axis]} {what}", expected)


def _assemble(parts: dict[str, IntArray]) -> IntArray:
    stretches = []
    for names in (("heldin", "heldout"), ("heldin_forward", "heldout_forward")):
        present = [parts[name] for name in names if name in parts]
        if present:
            stretches.append(np.concatenate(present, axis=2))
    return np.concatenate(stretches, axis=1)


def _read_behaviour(
    file: ArrayFile, half: str, shape: tuple[int, ...], n_forward: int
) -> tuple[FloatArray | None, list[str]]:
    """Return behaviour of the window, NaN in the forward bins: the file has none there."""
    key = f"{half}_behavior"
    if key not in file:
        return None, []
    n_trials, n_bins = shape
    try:
        window_BTV = read_series(file, key, n_trials, n_bins - n_forward)
    except DataError as error:
        # dmfc_rsg stores one value a trial, which is no time series.
        return None, [f"Behaviour is not used: {error.message}."]
    blank = ((0, 0), (0, n_forward), (0, 0))
    return np.pad(window_BTV, blank, constant_values=np.nan), []
