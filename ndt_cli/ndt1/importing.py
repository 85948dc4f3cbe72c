"""Models and configs of NDT1, the research code of Ye & Pandarinath 2021, as runs and settings.

Axes: N neurons.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
import yaml

from ndt_cli.baselines.smoothing_reference import SmoothingReference
from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint, Progress
from ndt_cli.engine.device import choose_compute
from ndt_cli.engine.measures import best_checkpoint
from ndt_cli.engine.run_folder import RunFolder, describe_run
from ndt_cli.errors import CheckpointError, DataError, SettingsError, nearest
from ndt_cli.model.embedding import MIN_WIDTH, SPARE_COUNTS, encoder_width, n_inputs
from ndt_cli.model.network import ModelShape
from ndt_cli.ndt1.checkpoint_file import Ndt1File, flattened, not_a_checkpoint
from ndt_cli.settings.explain import shortened
from ndt_cli.settings.load import ConfigSource, read_toml_text, resolve_config
from ndt_cli.settings.tree import Settings

# ------------------------------------------------------------------------------------------------
# NDT1's settings
# ------------------------------------------------------------------------------------------------

# NDT1's settings that have a counterpart here: the default there, and the setting here that has the
# same value; none if `_settings_of_ndt1` converts it.
_SETTINGS: dict[str, tuple[Any, str | None]] = {
    "SEED": (100, "train.seed"),
    "MODEL.NAME": ("NeuralDataTransformer", None),
    "MODEL.CONTEXT_FORWARD": (4, None),
    "MODEL.CONTEXT_BACKWARD": (8, None),
    "MODEL.CONTEXT_WRAP_INITIAL": (False, None),
    "MODEL.FULL_CONTEXT": (False, "model.full_context"),
    "MODEL.HIDDEN_SIZE": (128, "model.feedforward_size"),
    "MODEL.DROPOUT": (0.1, "model.dropout"),
    "MODEL.DROPOUT_RATES": (0.2, "model.dropout_rates"),
    "MODEL.DROPOUT_EMBEDDING": (0.2, "model.dropout_embedding"),
    "MODEL.NUM_HEADS": (2, "model.n_heads"),
    "MODEL.NUM_LAYERS": (6, "model.n_layers"),
    "MODEL.ACTIVATION": ("relu", "model.activation"),
    "MODEL.LINEAR_EMBEDDER": (False, None),
    "MODEL.EMBED_DIM": (2, None),
    "MODEL.LEARNABLE_POSITION": (False, None),
    "MODEL.LOGRATE": (True, "model.log_rates"),
    "MODEL.FIXUP_INIT": (False, "model.tfixup_init"),
    "MODEL.PRE_NORM": (False, None),
    "MODEL.SCALE_NORM": (False, None),
    "MODEL.DECODER.LAYERS": (1, None),
    "MODEL.LOSS.TYPE": ("poisson", None),
    "MODEL.LOSS.TOPK": (1.0, "train.topk_fraction"),
    "MODEL.POSITION.OFFSET": (True, "model.position_offset"),
    "TRAIN.BATCH_SIZE": (64, "train.batch_size"),
    "TRAIN.NUM_UPDATES": (10000, "train.max_epochs"),
    "TRAIN.MAX_GRAD_NORM": (200.0, "train.clip_norm"),
    "TRAIN.USE_ZERO_MASK": (True, "mask.zero_token"),
    "TRAIN.MASK_RATIO": (0.2, "mask.ratio"),
    "TRAIN.MASK_TOKEN_RATIO": (1.0, "mask.token_ratio"),
    "TRAIN.MASK_RANDOM_RATIO": (0.5, "mask.random_ratio"),
    "TRAIN.MASK_MODE": ("timestep", None),
    "TRAIN.MASK_MAX_SPAN": (1, "mask.max_span"),
    "TRAIN.MASK_SPAN_RAMP_START": (600, "mask.span_ramp_start_epoch"),
    "TRAIN.MASK_SPAN_RAMP_END": (1200, "mask.span_ramp_end_epoch"),
    "TRAIN.LR.INIT": (1e-3, "train.learning_rate"),
    "TRAIN.LR.SCHEDULE": (True, None),
    "TRAIN.LR.SCHEDULER": ("cosine", None),
    "TRAIN.LR.WARMUP": (1000, None),
    "TRAIN.WEIGHT_DECAY": (0.0, "train.weight_decay"),
    "TRAIN.PATIENCE": (750, "train.patience_epochs"),
    "TRAIN.VAL_INTERVAL": (10, "train.val_interval_epochs"),
}

# Settings that change nothing here while they have these values, and are reported otherwise.
_EXPECTED: dict[str, Any] = {
    "DATA.OVERFIT_TEST": False,
    "DATA.RANDOM_SUBSET_TRIALS": 1.0,
    "DATA.IGNORE_FORWARD": False,
    "MODEL.UNMASKED_LOSS_SCALE": 0.0,
    "MODEL.SPIKE_LOG_INIT": False,
    "MODEL.REQUIRES_RATES": False,
    "TRAIN.EPS": 1e-8,
    "TRAIN.DO_VAL": True,
}

# Settings of how NDT1 runs: folders, logging, devices, search.
_IGNORED = frozenset((
    "VARIANT", "USE_TENSORBOARD", "TENSORBOARD_DIR", "CHECKPOINT_DIR", "LOG_DIR",
    "SYSTEM.TORCH_GPU_ID", "SYSTEM.GPU_AUTO_ASSIGN", "SYSTEM.NUM_GPUS", "DATA.DATAPATH",
    "DATA.TRAIN_FILENAME", "DATA.VAL_FILENAME", "DATA.TEST_FILENAME", "DATA.LOG_EPSILON",
    "MODEL.TRIAL_LENGTH", "MODEL.MAX_SPIKE_COUNT", "TRAIN.DO_R2", "TRAIN.CHECKPOINT_INTERVAL",
    "TRAIN.LOG_INTERVAL", "TRAIN.TUNE_MODE", "TRAIN.TUNE_EPOCHS_PER_GENERATION",
    "TRAIN.TUNE_HP_JSON", "TRAIN.TUNE_WARMUP", "TRAIN.TUNE_METRIC",
))  # fmt: skip
_KNOWN = (*_SETTINGS, *_EXPECTED, *sorted(_IGNORED))

_SCHEDULES = {"cosine": "cosine", "invsqrt": "inverse-sqrt"}
_CHOICES = {
    "MODEL.NAME": ("NeuralDataTransformer",),
    "MODEL.LOSS.TYPE": ("poisson", "cel"),
    "TRAIN.LR.SCHEDULER": tuple(_SCHEDULES),
}
_EXPONENT = re.compile(r"[+-]?[0-9]{1,9}[eE][+-]?[0-9]{1,3}")
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _settings_of_ndt1(config: Mapping[str, Any], source: str) -> tuple[dict[str, Any], list[str]]:
    """Return sections of settings as in NDT1's config, or its defaults, and what cannot be kept."""
    given = {key: config.get(key, default) for key, (default, _) in _SETTINGS.items()}
    _check_types(given, source)
    notes = [
        f"{source}: {key} = {shortened(repr(config[key]))} has no counterpart here"
        for key, usual in _EXPECTED.items()
        if key in config and config[key] != usual
    ]
    notes += [_unknown(key, source) for key in config if key not in _KNOWN]

    def model(key: str) -> Any:
        return given[f"MODEL.{key}"]

    back, embedding_size = model("CONTEXT_BACKWARD"), model("EMBED_DIM")
    embedding = "count-table" if embedding_size else "identity"
    scheduled = given["TRAIN.LR.SCHEDULE"]
    values: dict[str, Any] = {
        "data": {"synthetic": "none"},
        "model": {
            "embedding": "linear" if model("LINEAR_EMBEDDER") else embedding,
            **({"embedding_size": embedding_size} if embedding_size else {}),
            "positions": "learned" if model("LEARNABLE_POSITION") else "sinusoid",
            "norm": "scale" if model("SCALE_NORM") else "layer",
            "norm_place": "pre" if model("PRE_NORM") else "post",
            # NDT1 takes 0 too as no limit on past bins, and joins no initial segment then.
            "context_back": back if back > 0 else -1,
            "context_forward": max(model("CONTEXT_FORWARD"), -1),
            "context_wrap_initial": model("CONTEXT_WRAP_INITIAL") and back > 0,
            "readout": "linear" if model("DECODER.LAYERS") == 1 else "mlp",
            "readout_init": "zero",
            "loss": "poisson" if model("LOSS.TYPE") == "poisson" else "cross-entropy",
        },
        "mask": {"mode": given["TRAIN.MASK_MODE"].replace("_", "-")},
        "train": {
            "schedule": _SCHEDULES[given["TRAIN.LR.SCHEDULER"]] if scheduled else "constant",
            "warmup_epochs": given["TRAIN.LR.WARMUP"] if scheduled else 0,
        },
    }
    for key, (_, ours) in _SETTINGS.items():
        if ours is not None:
            section, _, name = ours.partition(".")
            values[section][name] = given[key]
    order = Settings().model_dump()  # to read well as TOML
    return {
        section: {name: found[name] for name in order[section] if name in found}
        for section, found in values.items()
    }, notes


def _check_types(given: Mapping[str, Any], source: str) -> None:
    """Refuse values of another type than NDT1's default, as NDT1 does, and unknown choices."""
    for key, value in given.items():
        kind, expected = type(_SETTINGS[key][0]), None
        if type(value) is not kind and not (kind is float and type(value) is int):
            expected = _TYPES[kind]
        elif key in _CHOICES and value not in _CHOICES[key]:
            expected = " or ".join(_CHOICES[key])
        if expected is not None:
            raise SettingsError(f"{source}: {key} is {shortened(repr(value))}; expected {expected}")


def _unknown(key: str, source: str) -> str:
    close = nearest(key, _KNOWN)
    guess = f"; did you mean {close}?" if close else ""
    return f"{source}: {shortened(key)} is not a setting of NDT1{guess}"


def read_ndt1_config(path: Path) -> tuple[str, list[str]]:
    """Read a YAML config of NDT1; return it as TOML, and notes on what has no counterpart here.

    Raises
    ------
    SettingsError
        If the file is not YAML, holds a setting that NDT1 does not know, or a value that is not
        allowed here.

    Examples
    --------
    >>> _ = Path("config.yaml").write_text("TRAIN: {MASK_RATIO: 0.25, LR: {SCHEDULE: false}}")
    >>> toml, notes = read_ndt1_config(Path("config.yaml"))
    >>> [line for line in toml.splitlines() if line.startswith(("ratio", "schedule"))]
    ['ratio = 0.25', 'schedule = "constant"']
    """
    hint = "Give a config of NDT1, such as configs/mc_maze.yaml of that code."
    text = read_toml_text(path, "a YAML config", hint)
    try:
        config = yaml.safe_load(text)
        if not isinstance(config, dict):
            raise ValueError("it holds no table of settings")
        # To YAML, a number without a point, such as 1e-3, is text; NDT1 reads it as a number.
        config = {
            key: float(value) if _EXPONENT.fullmatch(str(value)) else value
            for key, value in flattened(config).items()
        }
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"{path} is not a YAML config: {reason}", hint) from error
    # A typing error would leave a default in its place.
    if unknown := [_unknown(key, str(path)) for key in config if key not in _KNOWN]:
        raise SettingsError("\n".join(unknown), "NDT1 refuses such a config too.")
    values, notes = _settings_of_ndt1(config, str(path))
    toml = tomli_w.dumps(values)
    resolve_config(ConfigSource(f"{path}, read as settings", "file", toml, None))
    return toml, notes


# ------------------------------------------------------------------------------------------------
# A run
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ndt1Import:
    """What `import_ndt1` returns."""

    run: Path  # the new run folder
    settings: Settings
    epochs: int  # that NDT1 had trained it for, which it calls updates
    notes: tuple[str, ...]  # what could not be taken over, or looks wrong; to be shown


def import_ndt1(
    checkpoint: Path | str,
    *,
    out: Path | str,
    overrides: Sequence[str] = (),
    recording: Recording | None = None,
) -> Ndt1Import:
    """Make a run folder from a checkpoint of NDT1, without running anything in it.

    The run infers what NDT1 does, and is evaluated like any run. It cannot be resumed: NDT1's
    states of optimizer and random numbers mean nothing here.

    Parameters
    ----------
    checkpoint : Path or str
        A ``.pth`` file of NDT1.
    out : Path or str
        A new run folder.
    overrides : sequence of str
        Changes to the settings. ``"data.file=FILE"``, or ``"data.synthetic=..."``, names the
        spikes that it was trained on; NDT1's files do not have their bin width, so that
        ``"data.file_bin_ms=20"`` may be needed too.
    recording : Recording, optional
        Those spikes, if they are in memory.

    Raises
    ------
    CheckpointError
        If the file is not a checkpoint of NDT1, or not one that a network here can have.
    SettingsError
        If the spikes are not named, or settings are wrong.
    DataError
        If the spikes are of other neurons, or longer trials.
    RunError
        If ``out`` is in use.

    Examples
    --------
    >>> found = import_ndt1(
    ...     "chaotic.lve.pth", out="runs/ndt1", overrides=["data.synthetic=chaotic-rnn"]
    ... )  # doctest: +SKIP
    """
    path, folder = Path(checkpoint), RunFolder(Path(out))
    folder.check_unused()
    named = ("data.file=", "data.synthetic=")
    if recording is None and not any(o.replace(" ", "").startswith(named) for o in overrides):
        raise SettingsError(
            f"{path}: a checkpoint of NDT1 does not hold the spikes that it was trained on",
            "Name them: `data.file=FILE`, and their bin width if the file lacks it: "
            "`data.file_bin_ms=10`.",
        )
    file = Ndt1File.read(path)
    values, notes = _settings_of_ndt1(file.config, path.name)
    source = ConfigSource(f"{path.name}, read as settings", "file", tomli_w.dumps(values), None)
    settings = resolve_config(source, overrides)
    recording = recording or load_recording(settings.data)
    model = _converted(file, settings)
    _check_data(model.shape, recording, path)
    train = recording.train
    window, heldin = train.n_bins - train.n_forward, train.n_neurons - train.n_heldout
    largest = int(train.spikes_BTN[:, :window, :heldin].max(initial=0))
    if largest != model.shape.max_count:
        notes.append(
            f"{recording.source}: its largest training count is {largest}, and that of "
            f"{path.name} was {model.shape.max_count}: are these its training trials?"
        )
    epochs = _count(file, "update", 0)
    compute = choose_compute(settings.train)
    folder.create()
    model.save(folder.checkpoint(best_checkpoint(settings.train.choose_by)))
    SmoothingReference.fit(train).save(folder.smoothing)
    facts = describe_run(recording, compute, torch.get_num_threads())
    about = {"from": "NDT1", "file": str(path.absolute()), "epochs": epochs}
    folder.write_json("run.json", {**facts, "imported": about})
    folder.write_settings(settings)  # last: it makes the folder a run
    return Ndt1Import(folder.path, settings, epochs, tuple(notes))


def _check_data(shape: ModelShape, recording: Recording, path: Path) -> None:
    train, was = recording.train, f"but {path} was trained with"
    if train.n_neurons != shape.n_neurons:
        raise DataError(
            f"{recording.source} has {train.n_neurons} neurons, {was} {shape.n_neurons}",
            "Give the spikes that it was trained on.",
        )
    if train.n_bins > shape.n_bins:
        raise DataError(
            f"{recording.source} has trials of {train.n_bins} bins, {was} {shape.n_bins}",
            "NDT1 cuts trials into pieces of MODEL.TRIAL_LENGTH bins; so must the file be cut.",
        )


def _count(file: Ndt1File, name: str, default: int | None = None) -> int:
    extra = file.facts.get("extra_state")
    found = file.facts.get(name, extra.get(name) if isinstance(extra, dict) else None)
    if type(found) is not int or found < 0:
        if default is not None:
            return default
        raise not_a_checkpoint(file.path, ValueError(f"it has no {name}"))
    return found


def _converted(file: Ndt1File, settings: Settings) -> Checkpoint:
    """Return NDT1's weights under the names of a network here, checked against its settings."""
    path, model = file.path, settings.model
    if model.loss != "poisson":
        raise CheckpointError(
            f"{path}: MODEL.LOSS.TYPE is 'cel', whose networks NDT1 builds but cannot train"
        )
    weights = {name.removeprefix("module."): w for name, w in file.weights.items()}
    shape = ModelShape(
        n_neurons=_count(file, "num_neurons"),
        n_bins=_count(file, "trial_length"),
        # NDT1 leaves room for larger counts than the largest in training, as here.
        max_count=max(0, _count(file, "max_spikes") - SPARE_COUNTS),
    )
    width = n_inputs(model, shape.n_neurons)
    if encoder_width(model, shape.n_neurons) != width:
        raise CheckpointError(
            f"{path}: its encoder is {width} wide, with {model.n_heads} heads; expected at least "
            f"{MIN_WIDTH}, and a multiple of the heads"
        )
    ours = {ours: weights.pop(theirs) for theirs, ours in _names(settings) if theirs in weights}
    weights.pop("pos_encoder.pe", None)  # numbers of the bins, or sinusoids
    if weights:
        raise CheckpointError(f"{path}: no network of its settings has the weights {min(weights)}")
    if (table := ours.get("embedding.table.weight")) is not None:
        n_rows = shape.max_count + SPARE_COUNTS + 1
        rows = table[:n_rows].clone()
        if not settings.mask.zero_token and len(table) > n_rows:
            # NDT1's mask token has the row after the spare ones; here it follows the largest count.
            rows[shape.max_count + 1] = table[n_rows]
        ours["embedding.table.weight"] = rows
    for name, tensor in ours.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
    try:
        network = Checkpoint(ours, model, shape, {}, path=path).build_model()
    except CheckpointError as error:
        raise CheckpointError(error.message, "Its weights do not fit its own config.") from error
    return Checkpoint.of_model(network, Progress().to_json())


def _names(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give NDT1's name of each weight, and the name here."""
    yield "embedder.0.weight", "embedding.table.weight"
    yield "embedder.weight", "embedding.projection.weight"
    yield "embedder.bias", "embedding.projection.bias"
    yield "pos_encoder.pos_embedding.weight", "embedding.positions"
    parts = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm1.": "norm_attention.",
        "norm2.": "norm_feedforward.",
    }
    for i in range(settings.model.n_layers):
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                yield f"transformer_encoder.layers.{i}.{theirs}{kind}", f"layers.{i}.{ours}{kind}"
    yield "transformer_encoder.norm.scale", "norm.gain"
    mlp = settings.model.readout == "mlp"
    for kind in ("weight", "bias"):
        yield f"transformer_encoder.norm.{kind}", f"norm.{kind}"
        yield f"decoder.0.{kind}", f"readout.{'hidden' if mlp else 'last'}.{kind}"
        yield f"decoder.2.{kind}", f"readout.last.{kind}"
