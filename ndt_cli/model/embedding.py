"""From spike counts to the vectors that the encoder works on.

Axes: B trials, T bins, N neurons, D width, E numbers per neuron.
"""

import math

import torch
from torch import Tensor, nn

from ndt_cli.model.dropout import Dropout
from ndt_cli.settings.tree import ModelSettings

# Below this width a norm leaves too little of a vector: of one number nothing, of two a sign.
MIN_WIDTH = 16

# Learned positions start small beside counts of unit variance: at equal size the encoder takes
# many epochs to see the counts through them.
POSITION_STD = 0.1

# Counts that never occurred in training, up to this much above the largest, have a row too.
SPARE_COUNTS = 3

# On a GPU, rows are looked up by a product with ones and zeros if the table has at most this many
# rows, and if there are at most this many ones and zeros (a gigabyte).
_FEW_ROWS, _MOST_ONES = 32, 2**28


def encoder_width(settings: ModelSettings, n_neurons: int) -> int:
    """Width D, rounded up to a multiple of the heads.

    With ``width = "auto"`` it is a number for each input, at least 16. Numbers beyond the inputs
    start as zero, so that any count of neurons goes with any count of heads. (NDT1 fails when the
    width does not divide by the heads.)
    """
    if settings.width == "auto":
        least = max(n_inputs(settings, n_neurons), MIN_WIDTH)
    else:
        least = settings.width
    return math.ceil(least / settings.n_heads) * settings.n_heads


def n_inputs(settings: ModelSettings, n_neurons: int) -> int:
    """Return how many numbers stand for the counts of a bin."""
    return n_neurons * (settings.embedding_size if settings.embedding == "count-table" else 1)


def _normal(shape: tuple[int, int], std: float = 1.0) -> Tensor:
    """Return normal numbers; on the meta device, where torch takes seconds to load them, none."""
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_(std=std)


class Embedding(nn.Module):
    """Counts to vectors, times sqrt(D), plus positions, then dropout."""

    positions: Tensor | None

    def __init__(
        self, settings: ModelSettings, n_neurons: int, n_bins: int, max_count: int
    ) -> None:
        super().__init__()
        self.kind = settings.embedding
        self.p = settings.dropout_embedding
        self.width = encoder_width(settings, n_neurons)
        self.max_index = max_count + SPARE_COUNTS
        if self.kind == "count-table":
            rows = (self.max_index + 1, settings.embedding_size)
            # `nn.Embedding` would draw weights too: they are replaced, and move the random stream.
            self.table = nn.Embedding(*rows, _weight=_normal(rows))
            # Unit variance once multiplied by sqrt(D), as that factor is meant (Vaswani et al.
            # 2017, section 3.4). NDT1's vectors are sqrt(D) long, and drown what a layer adds.
            self.table.weight.data = _normal(rows, self.width**-0.5)
        elif self.kind == "linear":
            self.projection = nn.Linear(n_neurons, self.width)
        if settings.positions == "learned":
            self.positions = nn.Parameter(_normal((n_bins, self.width), POSITION_STD))
        elif settings.positions == "sinusoid":
            sinusoids = sinusoid_TD(n_bins, self.width, offset=int(settings.position_offset))
            self.register_buffer("positions", sinusoids, persistent=False)
        else:  # none, or those that attention knows
            self.positions = None

    def forward(self, input_BTN: Tensor, dropout: Dropout | None) -> Tensor:
        x_BTD = self._scaled_counts(input_BTN)
        if x_BTD.shape[-1] < self.width:
            x_BTD = nn.functional.pad(x_BTD, (0, self.width - x_BTD.shape[-1]))
        if self.positions is not None:
            x_BTD = x_BTD + self.positions[: input_BTN.shape[1]]
        return x_BTD if dropout is None else dropout(x_BTD, self.p)

    def _scaled_counts(self, input_BTN: Tensor) -> Tensor:
        scale = math.sqrt(self.width)
        if self.kind == "identity":
            return input_BTN.float() * scale
        if self.kind == "linear":
            weight, bias = self.projection.weight * scale, self.projection.bias * scale
            return nn.functional.linear(input_BTN.float(), weight, bias)
        counts_BTN = input_BTN.long().clamp_max(self.max_index)
        table = self.table.weight * scale
        if input_BTN.device.type != "cpu":
            return _rows(counts_BTN, table).flatten(-2)
        # The same rows; on a CPU the gradient of index_select is an eighth of the time.
        rows = table.index_select(0, counts_BTN.flatten())
        n_trials, n_bins, n_neurons = counts_BTN.shape
        return rows.view(n_trials, n_bins, n_neurons * table.shape[1])


def _rows(counts_BTN: Tensor, table: Tensor) -> Tensor:
    """Return the row of each count, (B, T, N, E)."""
    if len(table) > _FEW_ROWS or len(table) * counts_BTN.numel() > _MOST_ONES:
        return nn.functional.embedding(counts_BTN, table)
    # The same rows. On a GPU the gradient of the other way sorts all counts, or adds them up one
    # after another: half a millisecond.
    one_hot = counts_BTN[..., None] == torch.arange(len(table), device=table.device)
    return one_hot.to(table.dtype) @ table


def sinusoid_TD(n_bins: int, width: int, offset: int) -> Tensor:
    """Sines in even columns, cosines in odd ones (Vaswani et al. 2017, section 3.5); any width."""
    place_T1 = torch.arange(offset, offset + n_bins, dtype=torch.float64)[:, None]
    column_D = torch.arange(width, dtype=torch.float64)
    angle_TD = place_T1 * torch.exp(-math.log(10000.0) * (column_D - column_D % 2) / width)
    return torch.where(column_D % 2 == 0, angle_TD.sin(), angle_TD.cos()).float()
