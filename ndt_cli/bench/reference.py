"""The same model, built from stock PyTorch layers: the baseline of ``ndt bench``.

`torch.nn.TransformerEncoder` and a `DataLoader`, in eager mode and float32. It computes what the
settings ask for, dropout included.

Axes: B trials, T bins, N neurons, D width of the encoder.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import SettingsError
from ndt_cli.model.context import Context
from ndt_cli.model.embedding import encoder_width, sinusoid_TD
from ndt_cli.model.network import ModelShape
from ndt_cli.settings.tree import ModelSettings, Settings


class StockModel(nn.Module):
    """Stock layers with the sizes, context window and dropout of a `NeuralDataTransformer`.

    Raises
    ------
    SettingsError
        For a norm, loss or readout that the stock encoder does not have.
    """

    positions: Tensor | None

    def __init__(self, settings: ModelSettings, shape: ModelShape) -> None:
        super().__init__()
        if settings.norm != "layer" or settings.loss != "poisson" or settings.readout != "linear":
            raise SettingsError(
                "The stock model has LayerNorm, the Poisson loss and a linear readout; found "
                f'model.norm = "{settings.norm}", model.loss = "{settings.loss}" and '
                f'model.readout = "{settings.readout}".',
                "Use `model.norm=layer`, `model.loss=poisson` and `model.readout=linear`.",
            )
        self.settings = settings
        width = encoder_width(settings, shape.n_neurons)
        self.width = width
        if settings.embedding == "count-table":
            self.embed: nn.Module = nn.Embedding(shape.max_count + 4, settings.embedding_size)
        elif settings.embedding == "linear":
            self.embed = nn.Linear(shape.n_neurons, width)
        else:
            self.embed = nn.Identity()
        if settings.positions == "learned":
            self.positions = nn.Parameter(0.1 * torch.randn(shape.n_bins, width))
        elif settings.positions == "sinusoid":
            offset = int(settings.position_offset)
            self.register_buffer("positions", sinusoid_TD(shape.n_bins, width, offset))
        else:
            self.positions = None
        layer = nn.TransformerEncoderLayer(
            width,
            settings.n_heads,
            settings.feedforward_size,
            settings.dropout,
            settings.activation,
            batch_first=True,
            norm_first=settings.norm_place == "pre",
        )
        self.encoder = nn.TransformerEncoder(
            layer, settings.n_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.drop_embedding = nn.Dropout(settings.dropout_embedding)
        self.drop_rates = nn.Dropout(settings.dropout_rates)
        self.readout = nn.Linear(width, shape.n_neurons)
        allowed_TS = Context.from_settings(settings).allowed_TS(shape.n_bins)
        blocked_TS = torch.zeros(allowed_TS.shape).masked_fill(~allowed_TS, -math.inf)
        self.register_buffer("blocked_TS", blocked_TS)

    def forward(self, input_BTN: Tensor) -> Tensor:
        """Return log-rates (rates without ``model.log_rates``) of counts; both (B, T, N)."""
        if self.settings.embedding == "count-table":
            x_BTD = self.embed(input_BTN.long()).flatten(-2)
        else:
            x_BTD = self.embed(input_BTN.float())
        if x_BTD.shape[-1] < self.width:
            x_BTD = F.pad(x_BTD, (0, self.width - x_BTD.shape[-1]))
        x_BTD = x_BTD * math.sqrt(self.width)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions
        # Without `is_causal=False` the encoder compares the mask with a causal one: a GPU sync.
        x_BTD = self.encoder(self.drop_embedding(x_BTD), mask=self.blocked_TS, is_causal=False)
        output_BTN: Tensor = self.readout(self.drop_rates(x_BTD))
        return output_BTN if self.settings.log_rates else output_BTN.relu()

    def rates(self, output_BTN: Tensor) -> Tensor:
        """Turn the output into rates, (B, T, N) in expected spikes per bin."""
        return output_BTN.exp() if self.settings.log_rates else output_BTN


class StockTraining:
    """Training of a `StockModel`, step by step: shuffled trials, masked Poisson loss, AdamW.

    Whole bins are masked and replaced by zeros, whatever masking the settings ask for.

    Parameters
    ----------
    settings : Settings
        Sizes, dropout, mask ratio, learning rate.
    data : SpikeData
        Training trials.
    device : torch.device
        Where to compute.
    """

    def __init__(self, settings: Settings, data: SpikeData, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        shape = ModelShape(data.n_neurons, data.n_bins, data.max_count)
        self.model = StockModel(settings.model, shape).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.train.learning_rate,
            weight_decay=settings.train.weight_decay,
        )
        # Held-out neurons and forward bins are always masked, and always predicted.
        unseen_TN = torch.zeros(data.n_bins, data.n_neurons, dtype=torch.bool)
        unseen_TN[:, data.n_neurons - data.n_heldout :] = True
        unseen_TN[data.n_bins - data.n_forward :] = True
        self.unseen_TN = unseen_TN.to(device)
        self.loader = DataLoader(
            TensorDataset(torch.from_numpy(data.spikes_BTN)),
            batch_size=settings.train.batch_size,
            shuffle=True,
        )
        self._batches = iter(self.loader)

    def step(self) -> None:
        """Train on the next batch of shuffled trials."""
        try:
            (counts_BTN,) = next(self._batches)
        except StopIteration:
            self._batches = iter(self.loader)
            (counts_BTN,) = next(self._batches)
        counts_BTN = counts_BTN.to(self.device)
        hidden_BT = torch.rand(counts_BTN.shape[:2], device=self.device) < self.settings.mask.ratio
        scored_BTN = hidden_BT[..., None] | self.unseen_TN
        output_BTN = self.model(counts_BTN.masked_fill(scored_BTN, 0))
        loss_BTN = F.poisson_nll_loss(
            output_BTN, counts_BTN, log_input=self.settings.model.log_rates, reduction="none"
        )
        # In a small batch, nothing may be masked.
        loss = (loss_BTN * scored_BTN).sum() / scored_BTN.sum().clamp_min(1)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.train.clip_norm)
        self.optimizer.step()

    def infer(self) -> Callable[[Tensor], Tensor]:
        """Return the function from counts to rates, (B, T, N) in host memory, of these weights."""
        model = self.model.eval()
        return lambda counts_BTN: model.rates(model(counts_BTN.to(self.device))).cpu()
