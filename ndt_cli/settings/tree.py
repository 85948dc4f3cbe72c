"""The one settings tree that every command shares.

The string below a field is its help: ``ndt presets --fields`` prints it. "NDT1" is the
research code of Ye & Pandarinath 2021; section numbers are those of that paper.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

# Bin widths from one sample of a fast recorder to far more than a trial.
MIN_BIN_MS, MAX_BIN_MS = 0.001, 100_000.0

# More is a slip of the finger, or damage. It also keeps every number within 64 bits.
_MANY = 1_000_000_000


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# TOML has lists; a frozen section holds a tuple.
NeuronList = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_as_tuple)]


class DataSettings(_Section):
    """Which spikes to train on."""

    file: Path | None = None
    """Spike file: LFADS or NLB HDF5, or the project's own .npz or .h5 layout. Without one, the
    synthetic set below is made."""

    synthetic: Literal["none", "lorenz", "chaotic-rnn"] = "lorenz"
    """Synthetic set that is made when no file is given; "none" means that a file is needed."""

    bin_ms: float | None = Field(None, ge=MIN_BIN_MS, le=MAX_BIN_MS)
    """Bin width to train at, in ms. Wider than the file's bins: neighboring bins are summed, and
    it must be a whole multiple. Default: the file's own."""

    file_bin_ms: float | None = Field(None, ge=MIN_BIN_MS, le=MAX_BIN_MS)
    """Bin width of the file, in ms, where the file does not say."""

    conversion_factor: float | None = Field(None, gt=0)
    """True rates are divided by this to become spikes per bin. Default: what the file says, or
    what the scale of the rates against the counts tells."""

    valid_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the trials that validate, where the file has no split; drawn within each
    condition where conditions are known."""

    split_seed: int = Field(0, ge=0, lt=2**31)
    """Seed of that split."""

    heldout_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the neurons that the model never sees and only predicts (co-smoothing); drawn at
    random."""

    heldout_seed: int = Field(0, ge=0, lt=2**31)
    """Seed of that draw."""

    heldout_neurons: NeuronList = ()
    """The neurons to hold out, by their place in the file, from 0; instead of a share."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heldout_neurons and self.heldout_fraction:
            raise ValueError(
                "heldout_neurons and heldout_fraction are both given: one of them says which "
                "neurons are held out"
            )
        if len(set(self.heldout_neurons)) < len(self.heldout_neurons):
            raise ValueError("heldout_neurons names a neuron twice")
        return self


class ModelSettings(_Section):
    """The network: embedding, encoder, context window, read-out."""

    embedding: Literal["identity", "count-table", "linear"] = "count-table"
    """How a bin's counts enter. identity: as they are; count-table: a learned vector for each
    count, shared by all neurons; linear: a learned projection."""

    embedding_size: int = Field(2, ge=1, le=64)
    """Numbers per neuron in the count table."""

    width: Annotated[int, Field(ge=16, le=16384)] | Literal["auto"] = "auto"
    """Numbers per bin inside the encoder. auto, as NDT1: one for each neuron (count-table:
    embedding_size for each), at least 16. Any width goes with a linear embedding; the others take
    no fewer than auto."""

    positions: Literal["learned", "sinusoid", "none"] = "learned"
    """What tells the encoder where in the trial a bin is."""

    position_offset: bool = True
    """Sinusoids start at one, not at zero."""

    n_layers: int = Field(6, ge=1, le=64)
    """Encoder layers."""

    n_heads: int = Field(2, ge=1, le=64)
    """Attention heads. The width is rounded up to a multiple of it."""

    feedforward_size: int = Field(128, ge=1, le=16384)
    """Hidden units of each layer's feed-forward part."""

    activation: Literal["relu", "gelu"] = "relu"
    """Non-linearity of the feed-forward part."""

    norm: Literal["layer", "scale"] = "layer"
    """LayerNorm, or ScaleNorm (g * x / ||x||, one learned g)."""

    norm_place: Literal["pre", "post"] = "post"
    """Normalize before each part of a layer, or after it."""

    tfixup_init: bool = False
    """T-Fixup initialization: smaller weights, the deeper the encoder."""

    context_back: int = Field(8, ge=-1, le=_MANY)
    """Bins before its own that a bin attends to in each layer; -1: all of them. Over L layers
    information travels L times as far."""

    context_forward: int = Field(4, ge=-1, le=_MANY)
    """Bins after its own that a bin attends to in each layer; -1: all of them."""

    full_context: bool = False
    """No limit in either direction, whatever the two above say."""

    context_wrap_initial: bool = False
    """The first context_back bins all see one another."""

    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout inside the encoder: attention weights, and after each part."""

    dropout_embedding: float = Field(0.2, ge=0, lt=1)
    """Dropout of the embedded counts."""

    dropout_rates: float = Field(0.2, ge=0, lt=1)
    """Dropout of the encoder's output before the read-out."""

    dropout_spikes: int | None = Field(None, ge=1, le=_MANY)
    """The dropouts above hold for up to this many training spikes. With more they shrink in
    proportion, to three tenths at least: data that are not overfitted need none. Default: they
    hold whatever the data."""

    readout: Literal["linear", "mlp"] = "linear"
    """linear, or two layers with 16 hidden units between."""

    readout_init: Literal["mean-rate", "zero"] = "mean-rate"
    """What the read-out gives before training. mean-rate: each neuron's mean rate in the training
    trials, so that no epoch is spent on finding it; zero: a bias of zero, as NDT1."""

    loss: Literal["poisson", "cross-entropy"] = "poisson"
    """Poisson likelihood of a rate, or a class for each spike count."""

    log_rates: bool = True
    """The read-out gives log-rates; otherwise a ReLU makes it a rate. Poisson loss only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.context_wrap_initial and not self.full_context and self.context_back < 1:
            raise ValueError(
                "context_wrap_initial needs a context_back of at least 1: it joins the first "
                f"context_back bins, and context_back is {self.context_back}"
            )
        return self


class MaskSettings(_Section):
    """Which counts are hidden from the model while it trains."""

    mode: Literal["timestep", "full", "neuron", "timestep-only"] = "timestep"
    """timestep: a hidden bin hides all neurons; full: entry by entry; neuron: a neuron is
    hidden for the whole trial; timestep-only: the same bins for every trial of a batch."""

    ratio: float = Field(0.25, ge=0.01, le=1)
    """Share of the entries that is hidden, in expectation, with spans or without."""

    token_ratio: float = Field(1.0, ge=0, le=1)
    """Of the hidden entries, the share that is replaced by zero (or by the mask token)."""

    empty_ratio: float = Field(0.0, ge=0, le=1)
    """Of the hidden bins (or what else the mode hides), the share that is wholly replaced by zero
    (or by the mask token). In the others the two ratios around this one decide entry by entry, as
    in NDT1. Above 0, validation and scores hide whole bins this way only."""

    random_ratio: float = Field(0.5, ge=0, le=1)
    """Of the hidden entries that are left, the share replaced by a random count; the rest
    stay as they were."""

    zero_token: bool = True
    """Hidden entries become zero; otherwise a token one past the largest count."""

    neuron_ratio: float = Field(0.0, ge=0, lt=1)
    """Largest share of the neurons that is hidden for a whole trial, beside the above: each trial
    draws its share from 0 to this. Their counts are predicted too."""

    max_span: int = Field(1, ge=1, le=10_000)
    """Longest run of bins hidden together; the width is drawn from 1 to this for each batch."""

    span_ramp_start_epoch: int = Field(0, ge=0, le=_MANY)
    """Epoch until which no spans are drawn."""

    span_ramp_end_epoch: int = Field(0, ge=0, le=_MANY)
    """Epoch from which every batch draws a span width."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.span_ramp_end_epoch < self.span_ramp_start_epoch:
            raise ValueError(
                f"span_ramp_end_epoch ({self.span_ramp_end_epoch}) must not be before "
                f"span_ramp_start_epoch ({self.span_ramp_start_epoch})"
            )
        if self.mode == "neuron" and self.max_span > 1:
            raise ValueError(
                f'mode = "neuron" hides whole trials, so max_span must be 1, not {self.max_span}'
            )
        if self.mode == "neuron" and self.neuron_ratio:
            raise ValueError(
                'mode = "neuron" hides neurons already: neuron_ratio must be 0, not '
                f"{self.neuron_ratio}"
            )
        return self


class InferenceSettings(_Section):
    """How a trained model infers rates."""

    passes: int = Field(1, ge=1, le=1000)
    """Infer rates this many times, each time with other bins hidden, and average the log-rates: for
    a model that was trained with hidden bins, better rates than one pass in which all are seen. The
    time grows with it. 1: one pass with nothing hidden."""

    hidden_ratio: float = Field(0.25, gt=0, lt=1)
    """Share of the bins hidden in each of several passes. A bin is hidden in as many of them as
    any other."""


class TrainSettings(_Section):
    """How long, how fast, on what, and when to stop."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "mps", "cuda", "cuda:N"],
    )
    """auto takes a CUDA GPU, then Apple's MPS, then the CPU."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Matrix products in float32 or bfloat16; weights and sums stay float32. auto takes
    bfloat16 where the processor multiplies it in hardware."""

    n_threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0 lets the engine choose."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the weights, the order of trials, the masks and the dropout."""

    max_epochs: int = Field(1000, ge=1, le=_MANY)
    """Passes over the training trials (NDT1 calls one an "update")."""

    max_steps: Annotated[int, Field(ge=1, le=_MANY)] | Literal["auto"] | None = None
    """The same in optimizer steps (batches); where both are given the shorter one counts, as for
    the other lengths in steps. auto: a step for 30 bins of the training trials, from 500 to
    2500."""

    batch_size: int = Field(64, ge=1, le=_MANY)
    """Trials in a step, over all devices together; a last, smaller batch is kept."""

    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak learning rate of AdamW."""

    weight_decay: float = Field(0.0, ge=0, le=1)
    """Weight decay of AdamW."""

    clip_norm: float = Field(200.0, gt=0, le=_MANY)
    """Gradients are scaled down to this norm."""

    schedule: Literal["constant", "cosine", "inverse-sqrt"] = "constant"
    """Learning rate over the epochs, after the warm-up."""

    warmup_epochs: int = Field(0, ge=0, le=_MANY)
    """Epochs over which the learning rate rises linearly from zero."""

    warmup_steps: int | None = Field(None, ge=0, le=_MANY)
    """The same in steps, rounded to whole epochs and to at most a tenth of the training."""

    topk_fraction: float = Field(1.0, gt=0, le=1)
    """Train on this share of the hidden entries, the worst predicted ones."""

    val_interval_epochs: int = Field(10, ge=1, le=_MANY)
    """Validate, and save the last checkpoint, every so many epochs."""

    val_interval_steps: int | None = Field(None, ge=1, le=_MANY)
    """The same in steps, rounded to whole epochs."""

    save_interval_minutes: float = Field(5.0, gt=0, le=_MANY)
    """Save the last checkpoint also when so much time has passed, within an epoch too: what a
    kill can cost at most. (Several processes save at the end of an epoch.)"""

    on_save_error: Literal["go-on", "stop"] = "go-on"
    """When a checkpoint cannot be written, as on a full disk: go-on warns, keeps what could not be
    written in memory and tries again at the next save; stop ends the run with the checkpoints that
    it has. A run whose last save fails always ends with an error."""

    deterministic: bool = False
    """On a GPU: only kernels that give the same bits each time, some of them slower. A CPU always
    does, with the same number of threads."""

    plain_layers: bool = False
    """Compute layers with PyTorch's own operations and automatic gradients only; slower, and the
    same results but for rounding. To check the faster ways against."""

    cuda_graph: bool = True
    """On a CUDA GPU: record a training step once and replay it as one, where a single process
    trains; and likewise what infers. false launches them kernel by kernel, to the same results."""

    compile_layers: bool = False
    """On a CUDA GPU: make kernels for the layers by torch.compile, which takes some ten seconds and
    a C compiler, and pays in runs of many thousand steps. Where it fails, and in a population,
    PyTorch's own kernels compute them, to the same results but for rounding."""

    tensorboard: bool = False
    """Write TensorBoard events to the run folder (needs the extra of that name)."""

    choose_by: Literal["masked-loss", "unmasked-loss", "rate-r2", "co-bps"] = "masked-loss"
    """Validation measure that picks the weights to evaluate, and that early stopping watches.
    rate-r2 needs true rates; co-bps (bits per spike of held-out neurons) needs held-out neurons."""

    patience_epochs: int = Field(750, ge=1, le=_MANY)
    """Stop when that measure has not improved for so many epochs."""

    patience_steps: int | None = Field(None, ge=1, le=_MANY)
    """The same in steps, rounded to whole epochs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        in_epochs = self.warmup_steps is None
        if self.schedule == "cosine" and in_epochs and self.warmup_epochs >= self.max_epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must be below max_epochs "
                f"({self.max_epochs}): the cosine begins after the warm-up; such as --set "
                f"train.warmup_epochs={(self.max_epochs - 1) // 2}"
            )
        if self.schedule == "inverse-sqrt" and in_epochs and self.warmup_epochs < 1:
            raise ValueError(
                'schedule = "inverse-sqrt" falls from the end of the warm-up, so warmup_epochs '
                "must be at least 1"
            )
        return self


class Settings(_Section):
    """All settings of a run."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    mask: MaskSettings = MaskSettings()
    inference: InferenceSettings = InferenceSettings()
    train: TrainSettings = TrainSettings()

    def for_size(self, n_trials: int, n_bins: int, n_spikes: int) -> "Settings":
        """Return the settings for training data of this size: lengths in epochs, dropout given.

        Parameters
        ----------
        n_trials, n_bins, n_spikes : int
            Of the training trials, bins and spikes of all of them together.
        """
        steps_per_epoch = -(-n_trials // self.train.batch_size)
        train = self.train.model_dump()
        for name in ("max", "warmup", "val_interval", "patience"):
            steps = train.pop(f"{name}_steps")
            if steps is None:
                continue
            if steps == "auto":
                steps = min(2500, max(500, n_bins // 30))
            epochs = round(steps / steps_per_epoch)
            epochs = min(epochs, train["max_epochs"] // 10) if name == "warmup" else max(epochs, 1)
            train[f"{name}_epochs"] = min(epochs, train[f"{name}_epochs"])
        model = self.model.model_dump()
        full = model.pop("dropout_spikes")
        if full is not None and n_spikes > full:
            for name in ("dropout", "dropout_embedding", "dropout_rates"):
                model[name] *= max(0.3, full / n_spikes)
        return self.model_copy(
            update={
                "train": TrainSettings.model_validate(train),
                "model": ModelSettings.model_validate(model),
            }
        )
