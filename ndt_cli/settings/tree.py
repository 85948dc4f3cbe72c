"""All settings of a run, shared by every command.

The string below a field is its help, which ``ndt presets`` prints. "NDT1" is the research code of
Ye & Pandarinath 2021.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

# From the sampling interval of a fast recorder to far more than a trial.
MIN_BIN_MS, MAX_BIN_MS = 0.001, 100_000.0

# A larger number is a typing error or damage; also, every number then fits into 64 bits.
_MANY = 1_000_000_000
# Lengths that may be given in epochs (`max_epochs`), in steps (`max_steps`) or in both.
_IN_STEPS = ("max", "warmup", "val_interval", "patience")


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# A TOML list becomes a tuple: sections are frozen.
NeuronList = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_as_tuple)]

HeadSpans = Annotated[
    tuple[Annotated[float, Field(ge=0.1, le=_MANY)], ...], BeforeValidator(_as_tuple)
]


PathList = Annotated[tuple[Path, ...], BeforeValidator(_as_tuple)]


class DataSettings(_Section):
    """Which spikes to train on."""

    file: Path | None = None
    """Spike file: LFADS or NLB HDF5, or .npz or .h5 with the keys spikes and bin_ms. If unset, the
    synthetic set below is used."""

    files: PathList = ()
    """Spike files of several sessions with neurons of their own, instead of one file: one encoder
    is trained on all, with a read-in and a read-out for each. Needs model.embedding = "linear"."""

    synthetic: Literal["none", "lorenz", "chaotic-rnn"] = "lorenz"
    """Synthetic set to make if no file is given; with "none", a file is required."""

    bin_ms: float | None = Field(None, ge=MIN_BIN_MS, le=MAX_BIN_MS)
    """Bin width to train at, in ms: a whole multiple of the file's, whose neighboring bins are
    summed. Default: the file's bin width."""

    file_bin_ms: float | None = Field(None, ge=MIN_BIN_MS, le=MAX_BIN_MS)
    """Bin width of the file, in ms, if the file does not contain it."""

    conversion_factor: float | None = Field(None, gt=0)
    """Number to divide the file's true rates by to get spikes per bin. Default: the one in the
    file, or else estimated from the mean rate and the mean count."""

    valid_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the trials used for validation if the file has no split; drawn within each
    condition if conditions are known."""

    split_seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the validation split."""

    train_trials: int | None = Field(None, ge=2, le=_MANY)
    """Train on this many of the training trials only, drawn with split_seed; of several files, of
    the last. For curves of scores over the number of trials."""

    heldout_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the neurons to hold out: the model predicts them without seeing them
    (co-smoothing). Drawn at random."""

    heldout_seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the draw of held-out neurons."""

    heldout_neurons: NeuronList = ()
    """Neurons to hold out, numbered from 0 in the order of the file; instead of a share."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heldout_neurons and self.heldout_fraction:
            raise ValueError(
                "heldout_neurons and heldout_fraction are both given; expected only one of them"
            )
        if self.file is not None and self.files:
            raise ValueError("file and files are both given; expected only one of them")
        if len(self.files) == 1 or len(set(self.files)) < len(self.files):
            raise ValueError(
                "files names a spike file twice, or a single one; expected two or more sessions "
                "(`data.file=FILE` is for one)"
            )
        if len(set(self.heldout_neurons)) < len(self.heldout_neurons):
            raise ValueError("heldout_neurons names a neuron twice")
        return self


class ModelSettings(_Section):
    """The network: embedding, encoder, context window, readout."""

    embedding: Literal["identity", "count-table", "linear"] = "count-table"
    """Input embedding of a bin's counts. identity: the counts themselves; count-table: a learned
    vector for each count, shared by all neurons; linear: a learned projection."""

    embedding_size: int = Field(2, ge=1, le=64)
    """Embedding size per neuron in the count table."""

    width: Annotated[int, Field(ge=16, le=16384)] | Literal["auto"] = "auto"
    """Width of the encoder. auto, as in NDT1: one number per neuron (count-table: embedding_size
    per neuron), at least 16. A linear embedding allows any width; the others need at least auto."""

    positions: Literal["learned", "sinusoid", "relative", "none"] = "learned"
    """Position of a bin. learned, sinusoid: in its trial, added to the embedded counts; relative:
    to the bins that it attends to, as a learned bias of attention per layer, head and offset.
    Trials longer than those trained on need relative positions, or none."""

    position_offset: bool = True
    """Number positions from 1 instead of 0 in the sinusoid embedding."""

    n_layers: int = Field(6, ge=1, le=64)
    """Number of encoder layers."""

    n_heads: int = Field(2, ge=1, le=64)
    """Attention heads. The network's width is rounded up to a multiple of this."""

    feedforward_size: int = Field(128, ge=1, le=16384)
    """Hidden units of the feed-forward block of each layer."""

    activation: Literal["relu", "gelu"] = "relu"
    """Nonlinearity of the feed-forward block."""

    norm: Literal["layer", "scale"] = "layer"
    """Norm of the encoder's output. layer: LayerNorm; scale: ScaleNorm (g * x / ||x||, with one
    learned g). Within the layers it is always LayerNorm, as in NDT1."""

    norm_place: Literal["pre", "post"] = "post"
    """Normalize before (pre) or after (post) the attention and feed-forward blocks."""

    tfixup_init: bool = False
    """T-Fixup initialization: the deeper the encoder, the smaller the initial weights."""

    context_back: int = Field(8, ge=-1, le=_MANY)
    """Past bins that each bin attends to in each layer; -1: all. Over L layers, information
    travels L times as far."""

    context_forward: int = Field(4, ge=-1, le=_MANY)
    """Future bins that each bin attends to in each layer; -1: all."""

    head_spans: HeadSpans = ()
    """Number of bins over which the attention of each head falls by a factor of e, one for each
    head: [1, 10] gives one head for fast signals and one for slow ones. Empty: attention does not
    fall with distance, as in NDT1."""

    full_context: bool = False
    """Attend to all bins of the trial, whatever context_back and context_forward are."""

    context_wrap_initial: bool = False
    """Let the first context_back bins all attend to one another."""

    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the encoder: of the attention weights, and after each block."""

    dropout_embedding: float = Field(0.2, ge=0, lt=1)
    """Dropout of the embedded counts."""

    dropout_rates: float = Field(0.2, ge=0, lt=1)
    """Dropout of the encoder's output, before the readout."""

    dropout_bins: int | None = Field(None, ge=1, le=_MANY)
    """With more training bins than this, over all trials, the dropouts above are divided by the
    cube root of the ratio: large data are overfitted less. Default: not reduced."""

    readout: Literal["linear", "mlp"] = "linear"
    """linear: one layer; mlp: two layers with 16 hidden units between them."""

    readout_init: Literal["mean-rate", "zero"] = "mean-rate"
    """Initial bias of the readout. mean-rate: each neuron's mean rate in the training trials, so
    that no epoch is spent on learning it; zero: a bias of zero, as in NDT1."""

    loss: Literal["poisson", "cross-entropy"] = "poisson"
    """poisson: Poisson negative log-likelihood of the rates; cross-entropy: classification of the
    spike count."""

    log_rates: bool = True
    """The readout gives log-rates; if false, rates, through a ReLU. Poisson loss only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.context_wrap_initial and not self.full_context and self.context_back < 1:
            raise ValueError(
                "context_wrap_initial needs a context_back of at least 1: it joins the first "
                f"context_back bins, and context_back is {self.context_back}"
            )
        if self.head_spans and len(self.head_spans) != self.n_heads:
            raise ValueError(
                f"head_spans has {len(self.head_spans)} values for {self.n_heads} heads; expected "
                "one for each head, or none"
            )
        return self


class MaskSettings(_Section):
    """Which counts are masked (hidden from the model) in training."""

    mode: Literal["timestep", "full", "neuron", "timestep-only"] = "timestep"
    """timestep: all neurons of a bin; full: each bin and neuron by itself; neuron: a neuron for the
    whole trial; timestep-only: the same bins in every trial of a batch."""

    ratio: float = Field(0.25, ge=0.01, le=1)
    """Expected share of the counts that is masked, with or without spans."""

    token_ratio: float = Field(1.0, ge=0, le=1)
    """Of the masked counts, the share replaced by zero (or by the mask token)."""

    empty_ratio: float = Field(0.0, ge=0, le=1)
    """Of the masked bins (or whatever the mode masks), the share whose counts are all replaced by
    zero (or by the mask token). In the other bins, token_ratio and random_ratio decide count by
    count, as in NDT1. Above 0, validation and scores mask whole bins in this way only."""

    random_ratio: float = Field(0.5, ge=0, le=1)
    """Of the other masked counts, the share replaced by a random count; the rest stay
    unchanged."""

    zero_token: bool = True
    """Replace masked counts by zero; if false, by a token: one more than the largest count."""

    neuron_ratio: float = Field(0.0, ge=0, lt=1)
    """Also mask neurons for a whole trial: each trial draws the share of its neurons uniformly from
    0 to this. Their counts are predicted too."""

    max_span: int = Field(1, ge=1, le=10_000)
    """Longest span of consecutive bins masked together; the length is drawn from 1 to this for
    each batch."""

    span_ramp_start_epoch: int = Field(0, ge=0, le=_MANY)
    """Epoch before which no spans are drawn."""

    span_ramp_end_epoch: int = Field(0, ge=0, le=_MANY)
    """Epoch from which every batch draws a span length."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.span_ramp_end_epoch < self.span_ramp_start_epoch:
            raise ValueError(
                f"span_ramp_end_epoch ({self.span_ramp_end_epoch}) must not be before "
                f"span_ramp_start_epoch ({self.span_ramp_start_epoch})"
            )
        if self.mode == "neuron" and self.max_span > 1:
            raise ValueError(
                f'mode = "neuron" masks whole trials, so max_span must be 1, not {self.max_span}'
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
    """Number of passes over a trial, each with other bins masked, whose log-rates are averaged. A
    model trained on masked bins gives better rates this way than in one pass that sees all bins;
    the time grows with the number. 1: one pass with nothing masked."""

    hidden_ratio: float = Field(0.25, gt=0, lt=1)
    """Share of the bins masked in each of several passes. All bins are masked equally often."""


ChooseBy = Literal["masked-loss", "unmasked-loss", "rate-r2", "co-bps"]
"""Names of the validation measures; `ndt_cli.engine.measures` describes them."""


class TrainSettings(_Section):
    """Optimization, device, checkpoints and stopping."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "mps", "cuda", "cuda:N"],
    )
    """auto: a CUDA GPU if there is one, else Apple's MPS, else the CPU."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; weights and sums are always float32. auto: bfloat16 if the
    processor multiplies it in hardware."""

    n_threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0: chosen automatically."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the initial weights, the order of trials, the masks and the dropout."""

    max_epochs: int = Field(1000, ge=1, le=_MANY)
    """Number of passes over the training trials (NDT1 calls one an "update")."""

    max_steps: Annotated[int, Field(ge=1, le=_MANY)] | Literal["auto"] | None = None
    """Limit of the training in optimizer steps (batches). If epochs and steps are both given, the
    shorter counts; likewise below. auto: one step per 60 bins of the training trials, from 300 to
    1200; fewer, but at least 150, where trials are long or neurons many: in all no more than 2.5
    million bins, or 600 million counts."""

    batch_size: int = Field(64, ge=1, le=_MANY)
    """Trials per step, over all devices together; a smaller last batch is kept."""

    session_batches: Literal["trials", "equal"] = "trials"
    """With several sessions, batches from each in an epoch. trials: in proportion to its trials,
    each of which is taken once; equal: as many from each, so that trials of a short session are
    taken more often."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """What updates the weights. muon: AdamW, but for the matrices of the encoder's layers
    orthogonalized momentum (Jordan et al. 2024), which needs several times fewer steps."""

    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak learning rate of AdamW; ten times as high for the matrices that muon trains."""

    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay, relative to the learning rate."""

    clip_norm: float = Field(200.0, gt=0, le=_MANY)
    """Largest norm of the gradient; a larger one is scaled down to it."""

    schedule: Literal["constant", "cosine", "inverse-sqrt"] = "constant"
    """Course of the learning rate over the epochs, after the warm-up."""

    warmup_epochs: int = Field(0, ge=0, le=_MANY)
    """Epochs over which the learning rate rises linearly from zero."""

    warmup_steps: int | None = Field(None, ge=0, le=_MANY)
    """The warm-up in steps, rounded to whole epochs, at most a tenth of the training."""

    topk_fraction: float = Field(1.0, gt=0, le=1)
    """Train on this share of the masked counts: those with the largest loss."""

    val_interval_epochs: int = Field(10, ge=1, le=_MANY)
    """Number of epochs between validations; each also saves the last checkpoint."""

    val_interval_steps: int | None = Field(None, ge=1, le=_MANY)
    """Steps between validations, rounded to whole epochs."""

    save_interval_minutes: float = Field(5.0, gt=0, le=_MANY)
    """Also save the last checkpoint after this many minutes, even within an epoch: a killed run
    loses no more than that. (Several processes save at the end of an epoch.)"""

    on_save_error: Literal["go-on", "stop"] = "go-on"
    """What to do if a checkpoint cannot be written, for example on a full disk. go-on: warn, keep
    it in memory and try again at the next save; stop: end the run, with the checkpoints saved so
    far. A run whose last save fails always ends with an error."""

    deterministic: bool = False
    """On a GPU, use only kernels that give bit-identical results each time; some are slower.
    Results on a CPU always are, for the same number of threads."""

    plain_layers: bool = False
    """Compute the layers with standard PyTorch operations and automatic gradients only: slower,
    equal results except for rounding. A reference for the faster implementations."""

    cuda_graph: bool = True
    """On a CUDA GPU, capture a training step as one CUDA graph and replay it, if a single process
    trains; the same for inference. If false, kernels are launched one by one; equal results."""

    start_from: Path | None = None
    """Run folder whose best weights training starts from: the encoder whole, read-in and read-out
    of the neurons that are known to be the same. If unset, weights are drawn at random."""

    start_neurons: Literal["auto", "same", "other"] = "auto"
    """Which neurons are those of the run started from. auto: those of the same name, or all if the
    trials are the same; same: all, in the same order; other: none."""

    start_fit: bool = True
    """After a start from a run, fit read-in and read-out of new neurons before the training, by
    regression on what the encoder makes of their counts. If false, they start at random. Needs a
    linear embedding and readout, and a Poisson loss of log-rates."""

    frozen_share: float = Field(0.7, ge=0, le=1)
    """After a start from a run, the share of the epochs in which only the read-in and the read-out
    learn; the encoder and its positions stay as they were."""

    thawed_rate: float = Field(0.3, gt=0, le=1)
    """Factor of the learning rate of everything after those epochs."""

    tensorboard: bool = False
    """Write TensorBoard events to the run folder (needs the extra "tensorboard")."""

    choose_by: ChooseBy = "masked-loss"
    """Validation measure that decides which weights are the best, and when to stop early. rate-r2
    needs true rates; co-bps (bits per spike of held-out neurons) needs held-out neurons."""

    patience_epochs: int = Field(750, ge=1, le=_MANY)
    """Stop when the measure of choose_by has not improved for this many epochs."""

    patience_steps: int | None = Field(None, ge=1, le=_MANY)
    """Patience in steps, rounded to whole epochs."""

    @model_validator(mode="before")
    @classmethod
    def _steps_alone(cls, values: Any) -> Any:
        """Where a length is given in steps alone, the default in epochs is no limit."""
        given = values if isinstance(values, dict) else {}
        alone = [name for name in _IN_STEPS if given.get(f"{name}_steps") is not None]
        return {f"{name}_epochs": _MANY for name in alone} | given if alone else values

    @model_validator(mode="after")
    def _check(self) -> Self:
        in_epochs = self.warmup_steps is None
        if self.schedule == "cosine" and in_epochs and self.warmup_epochs >= self.max_epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must be below max_epochs "
                f"({self.max_epochs}): the cosine begins after the warm-up; for example "
                f"`train.warmup_epochs={(self.max_epochs - 1) // 2}`"
            )
        if self.schedule == "inverse-sqrt" and in_epochs and self.warmup_epochs < 1:
            raise ValueError(
                'schedule = "inverse-sqrt" decays from the end of the warm-up, so warmup_epochs '
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

    def for_size(self, n_trials: int, n_bins: int, n_neurons: int = 1) -> "Settings":
        """Return the settings for training data of this size: lengths in epochs, dropout given.

        Parameters
        ----------
        n_trials, n_bins : int
            Number of training trials, and of bins of all of them together.
        n_neurons : int
            Number of neurons.
        """
        steps_per_epoch = -(-n_trials // self.train.batch_size)
        train = self.train.model_dump()
        for name in _IN_STEPS:
            steps = train.pop(f"{name}_steps")
            if steps is None:
                continue
            if steps == "auto":
                most_bins = min(2_500_000, 600_000_000 // n_neurons)
                most_steps = max(150, most_bins * steps_per_epoch // max(n_bins, 1))
                steps = min(max(300, n_bins // 60), 1200, most_steps)
            epochs = round(steps / steps_per_epoch)
            epochs = min(epochs, train["max_epochs"] // 10) if name == "warmup" else max(epochs, 1)
            train[f"{name}_epochs"] = min(epochs, train[f"{name}_epochs"])
        model = self.model.model_dump()
        few_bins = model.pop("dropout_bins")
        if few_bins is not None and n_bins > few_bins:
            for name in ("dropout", "dropout_embedding", "dropout_rates"):
                model[name] *= (few_bins / n_bins) ** (1 / 3)
        return self.model_copy(
            update={
                "train": TrainSettings.model_validate(train),
                "model": ModelSettings.model_validate(model),
            }
        )
