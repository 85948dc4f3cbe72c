"""Validation: the same masks every time, in batches, R2 and co-smoothing where they are defined."""

import math

import numpy as np
import torch

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.measures import measures_of
from ndt_cli.engine.passes import mean_over_passes
from ndt_cli.engine.streams import make_stream
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.metrics import RateScoreSums, SpikeScoreSums
from ndt_cli.model.losses import masked_sum
from ndt_cli.model.masking import draw_hidden, hide, span_probability
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import Settings

# Trials in a validation batch: bounds memory, and part of what fixes the masks.
BATCH_SIZE = 64


class Validator:
    """Measures a model on the validation trials.

    The masks come from a stream that is made anew each time from a seed of its own, with spans
    as after the ramp, so that two measurements differ only by the model.

    Parameters
    ----------
    data : SpikeData
        The validation split.
    settings : Settings
        Masking, and the seed.
    device : torch.device
        Where the model is.
    """

    def __init__(self, data: SpikeData, settings: Settings, device: torch.device) -> None:
        self.data = data
        self.settings = settings
        self.device = device
        self.trials = TrialSet.load(data, device)
        self.keys = [measure.key for measure in measures_of(data)]

    @torch.no_grad()
    def __call__(self, model: NeuralDataTransformer) -> dict[str, float]:
        """Return the value of each measure that is defined on the trials, by its key."""
        stream = make_stream(self.settings.train.seed, "validation-mask", self.device)
        mask = self.settings.mask
        if mask.empty_ratio:  # as scores hide: whole bins
            mask = mask.model_copy(update={"empty_ratio": 1.0})
        p_span = span_probability(mask, mask.span_ramp_end_epoch)
        sums: list[torch.Tensor] = []  # read at the end: the host waits for the device once
        true_rates_BTN = self.data.rates_BTN
        rate_scores = RateScoreSums(self.data.n_neurons)
        heldout_scores = SpikeScoreSums(self.data.n_heldout)
        diverged = False
        window = slice(0, self.data.n_bins - self.data.n_forward)
        heldout = slice(self.data.n_neurons - self.data.n_heldout, None)
        for i, batch in enumerate(self.trials.batches(BATCH_SIZE)):
            hidden = draw_hidden(batch.shape, mask, p_span, stream)
            masked = hide(
                batch.counts_BTN,
                batch.visible_1TN,
                batch.scorable & (batch.visible_1TN | self.data.hidden_counts_known),
                hidden,
                mask,
                model.shape.max_count,
                stream,
            )
            output = model(masked.input_BTN, batch.inside_BT)
            loss_BTN = model.loss_BTN(output, batch.counts_BTN)
            sums.append(torch.stack(masked_sum(loss_BTN, masked.scored_BTN.expand(batch.shape))))

            output = model(torch.where(batch.visible_1TN, batch.counts_BTN, 0), batch.inside_BT)
            loss_BTN = model.loss_BTN(output, batch.counts_BTN)
            seen_BTN = (batch.visible_1TN & batch.scorable).expand(batch.shape)
            sums.append(torch.stack(masked_sum(loss_BTN, seen_BTN)))
            if not {"valid_co_bps", "valid_rate_r2"} & set(self.keys):
                continue
            here = slice(i * BATCH_SIZE, (i + 1) * BATCH_SIZE)
            rates = model.rates(output)
            if self.settings.inference.passes > 1:
                rates = mean_over_passes(model, model, batch, self.settings)
            rates_BTN = rates.cpu().numpy()
            if not np.isfinite(rates_BTN).all():
                diverged = True
                continue
            if "valid_co_bps" in self.keys:
                heldout_scores.add(
                    rates_BTN[:, window, heldout],
                    self.data.spikes_BTN[here, window, heldout],
                    self.data.inside_BT[here, window],
                )
            if true_rates_BTN is not None:
                rate_scores.add(rates_BTN, true_rates_BTN[here], self.data.inside_BT[here])
        totals = torch.stack(sums).cpu().double().view(-1, 2, 2).sum(0)
        (masked_total, n_masked), (seen_total, n_seen) = totals.tolist()
        measures = {
            "valid_masked_loss": masked_total / max(n_masked, 1),
            "valid_unmasked_loss": seen_total / max(n_seen, 1),
        }
        if "valid_rate_r2" in self.keys:
            measures["valid_rate_r2"] = math.nan if diverged else rate_scores.result().r2_mean
        if "valid_co_bps" in self.keys:
            bits = heldout_scores.result().bits_per_spike
            measures["valid_co_bps"] = math.nan if diverged else bits
        return measures
