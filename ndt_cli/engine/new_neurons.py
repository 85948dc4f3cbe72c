"""Start values for the read-in and the read-out of neurons that a trained encoder has not met.

Neither is known, and each is easy to find from the other:

- Given a read-in, the encoder infers the activity of the population. Each neuron's read-out is
  then a Poisson regression of its counts on that activity, in bins that are hidden from the
  encoder; its prior is the distribution of the read-outs of the trained neurons.
- Given a read-out, the read-in follows: neurons that reflect the activity alike are read in alike
  by the trained encoder. Ridge regression on the trained neurons gives the rule.

The two alternate from several starts, and the one that predicts hidden bins of the validation
trials best is kept. A start is the weights of neurons that are known to be the same, or the
read-in of trained neurons, dealt out at random.

Axes: B trials, T bins, N neurons, M trained neurons, D width of the encoder, X entries (bins of
trials).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.batches import TrialSet, make_stream, stream_seed
from ndt_cli.model.masking import draw_passes, hide, scoring_mask
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import InferenceSettings, Settings

# Fewer trained neurons do not show how neurons are read in and out.
_FEWEST_TRAINED = 4

_N_STARTS, _N_ROUNDS, _N_LAST_ROUNDS = 6, 4, 8
# To regress on, and to choose by: more take longer, and are left to the training.
_MOST_BINS, _MOST_VALID_BINS = 20_000, 5_000
_BATCH_SIZE = 64
_PASSES = InferenceSettings(passes=4, hidden_ratio=0.25)  # each bin is hidden in one of them

# Both relative to the mean variance of a coordinate of the trained read-outs.
_SPARE_VARIANCE, _RIDGE = 1e-2, 1.0
_N_NEWTON_STEPS = 12


class _Weights(NamedTuple):
    """Of all neurons of a network."""

    read_in_ND: Tensor
    read_out_ND: Tensor
    bias_N: Tensor

    @classmethod
    def of(cls, network: NeuralDataTransformer) -> "_Weights":
        last = network.readout.last
        read_in_ND = network.embedding.projection.weight.T
        return cls(*(w.detach().cpu().double() for w in (read_in_ND, last.weight, last.bias)))

    def put(self, network: NeuralDataTransformer) -> None:
        network.embedding.projection.weight.copy_(self.read_in_ND.T.float())
        network.readout.last.weight.copy_(self.read_out_ND.float())
        network.readout.last.bias.copy_(self.bias_N.float())

    def keep(self, kept_N: Tensor, others: "_Weights") -> "_Weights":
        """Return these, and the others' where ``kept_N`` is true."""
        kept_N1 = kept_N[:, None]
        return _Weights(
            torch.where(kept_N1, others.read_in_ND, self.read_in_ND),
            torch.where(kept_N1, others.read_out_ND, self.read_out_ND),
            torch.where(kept_N, others.bias_N, self.bias_N),
        )


class _Bins:
    """The bins of some trials: their counts, and what an encoder makes of them while hidden."""

    def __init__(
        self, data: SpikeData, most_bins: int, settings: Settings, device: torch.device
    ) -> None:
        n_trials = min(data.n_trials, max(1, most_bins // data.n_bins))
        rows = np.linspace(0, data.n_trials - 1, n_trials).round().astype(np.int64)
        data = data.take(rows)
        known = data.hidden_counts_known
        self.trials = TrialSet.load(data, device)
        self.inside_BT = torch.from_numpy(data.inside_BT)
        self.scored = slice(0, data.n_neurons if known else data.n_neurons - data.n_heldout)
        if not known:
            self.inside_BT[:, data.n_bins - data.n_forward :] = False
        self.counts_XN = torch.from_numpy(data.spikes_BTN.astype(np.float64))[self.inside_BT]
        self.mask = scoring_mask(settings.mask)
        seed = stream_seed(settings.train.seed, "inference-passes")
        hidden = draw_passes(data.n_bins, data.n_neurons, "timestep", _PASSES, seed)
        self.hidden_PT = torch.from_numpy(hidden[:, :, 0]).to(device)
        self.seed = seed

    def encode(self, network: NeuralDataTransformer) -> Tensor:
        """Return the encoder's activations in these bins, each while it is hidden, (X, D)."""
        parts = []
        for batch in self.trials.batches(_BATCH_SIZE):
            stream = torch.Generator(batch.counts_BTN.device).manual_seed(self.seed)
            encoded_BTD: Tensor | None = None
            for hidden_T in self.hidden_PT:
                input_BTN = hide(
                    batch.counts_BTN,
                    batch.visible,
                    batch.scorable,
                    hidden_T[None, :, None],
                    self.mask,
                    network.shape.max_count,
                    stream,
                ).input_BTN
                found_BTD = network.encode(input_BTN, batch.inside_BT)
                if encoded_BTD is None:
                    encoded_BTD = torch.zeros_like(found_BTD)
                encoded_BTD[:, hidden_T] = found_BTD[:, hidden_T]
            assert encoded_BTD is not None
            parts.append(encoded_BTD.cpu())
        encoded_XD: Tensor = torch.cat(parts)[self.inside_BT].double()
        return encoded_XD

    def loss(self, network: NeuralDataTransformer, weights: _Weights) -> float:
        """Return the mean Poisson loss of the counts, each while it is hidden."""
        log_rates_XN = self.encode(network) @ weights.read_out_ND.T + weights.bias_N
        loss_XN = log_rates_XN.exp() - self.counts_XN * log_rates_XN
        loss = float(loss_XN[:, self.scored].mean())
        return loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True)
class TrainedNeurons:
    """Read-in and read-out of the neurons that an encoder was trained with and sees, (M, D)."""

    read_in_MD: Tensor
    read_out_MD: Tensor

    @classmethod
    def of(cls, network: NeuralDataTransformer, n_heldout: int) -> "TrainedNeurons | None":
        """Return those of a network; None if it has too few, or reads them in or out otherwise."""
        model = network.settings
        n_seen = network.shape.n_neurons - n_heldout
        linear = model.embedding == "linear" and model.readout == "linear"
        if not linear or model.loss != "poisson" or not model.log_rates or n_seen < _FEWEST_TRAINED:
            return None
        found = _Weights.of(network)
        return cls(found.read_in_ND[:n_seen], found.read_out_ND[:n_seen])

    def read_in(self, read_out_ND: Tensor) -> Tensor:
        """Return the read-in of neurons with this read-out, (N, D)."""
        mean_in_D, mean_out_D = self.read_in_MD.mean(0), self.read_out_MD.mean(0)
        out_MD = self.read_out_MD - mean_out_D
        products_DD = out_MD.T @ out_MD
        ridge_DD = _RIDGE * products_DD.diagonal().mean() * torch.eye(len(products_DD)).double()
        rule_DD: Tensor = torch.linalg.solve(
            products_DD + ridge_DD, out_MD.T @ (self.read_in_MD - mean_in_D)
        )
        return (read_out_ND - mean_out_D) @ rule_DD + mean_in_D

    def prior(self) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of the read-outs, (D,) and (D, D)."""
        mean_D = self.read_out_MD.mean(0)
        out_MD = self.read_out_MD - mean_D
        covariance_DD = out_MD.T @ out_MD / len(out_MD)
        spare = _SPARE_VARIANCE * covariance_DD.diagonal().mean()
        return mean_D, covariance_DD + spare * torch.eye(len(mean_D)).double()


@torch.no_grad()
def fit_new_neurons(
    network: NeuralDataTransformer,
    trained: TrainedNeurons,
    recording: Recording,
    known_N: Tensor,
    settings: Settings,
) -> bool:
    """Find read-in and read-out of the neurons that are not known, and set the network to them.

    Names may repeat from day to day without naming the same neurons: known neurons, too, lose
    their weights where others predict hidden bins better.

    Parameters
    ----------
    network : NeuralDataTransformer
        With the trained encoder, and the weights of the known neurons.
    trained : TrainedNeurons
        Of the run that the encoder is from.
    recording : Recording
        Trials of the new neurons; validation trials decide among the starts.
    known_N : (neurons,) bool Tensor
        Neurons that are taken to be the same as in that run.
    settings : Settings
        Of the new run: masks and seed.

    Returns
    -------
    False if hidden bins are predicted better without the weights of the known neurons, which are
    new as well then; else True.
    """
    device = network.readout.last.weight.device
    train = _Bins(recording.train, _MOST_BINS, settings, device)
    valid = _Bins(recording.valid, _MOST_VALID_BINS, settings, device)
    known, n_trained = _Weights.of(network), len(trained.read_in_MD)
    best = _Found(math.inf, known, known_N)

    def alternate(weights: _Weights, kept_N: Tensor, n_rounds: int) -> None:
        nonlocal best
        for _ in range(n_rounds):
            weights.put(network)
            read_out_ND, bias_N = fit_read_out(train.encode(network), train.counts_XN, trained)
            weights = _Weights(trained.read_in(read_out_ND), read_out_ND, bias_N)
            weights = weights.keep(kept_N, known)
            weights.put(network)
            found = _Found(valid.loss(network, weights), weights, kept_N)
            best = min(best, found, key=lambda one: one.loss)

    if known_N.any():
        nothing_ND = torch.zeros_like(known.read_in_ND)
        start = known._replace(read_in_ND=nothing_ND).keep(known_N, known)
        alternate(start, known_N, 1 if known_N.all() else _N_ROUNDS)
    stream = make_stream(settings.train.seed, "new-neurons", torch.device("cpu"))
    for _ in range(_N_STARTS):
        dealt_N = torch.randperm(max(len(known_N), n_trained), generator=stream)[: len(known_N)]
        start = known._replace(read_in_ND=trained.read_in_MD[dealt_N % n_trained])
        alternate(start, torch.zeros_like(known_N), _N_ROUNDS)
    if not best.kept_N.all():
        alternate(best.weights, best.kept_N, _N_LAST_ROUNDS)
    best.weights.put(network)
    return bool(best.kept_N.equal(known_N))


class _Found(NamedTuple):
    """The best weights so far: loss of hidden bins in validation trials, and neurons kept."""

    loss: float
    weights: _Weights
    kept_N: Tensor


def fit_read_out(
    encoded_XD: Tensor, counts_XN: Tensor, trained: TrainedNeurons
) -> tuple[Tensor, Tensor]:
    """Find the most probable read-out of each neuron, by Poisson regression.

    The prior is the normal distribution of the trained read-outs. Steps are Newton's with the
    curvature at the mean rate, halved where they do not help.

    Parameters
    ----------
    encoded_XD : (entries, D) Tensor
        Activations of the encoder.
    counts_XN : (entries, neurons) Tensor
        Spike counts in the same bins.
    trained : TrainedNeurons
        Whose read-outs are the prior.

    Returns
    -------
    read_out_ND, bias_N : Tensor
        Of which ``encoded_XD @ read_out_ND.T + bias_N`` are log-rates.
    """
    prior_D, covariance_DD = trained.prior()
    center_D = encoded_XD.mean(0)
    # Coordinates in which the prior is of unit variance and the activity is uncorrelated.
    root_DD = torch.linalg.cholesky(covariance_DD)
    scaled_XD = (encoded_XD - center_D) @ root_DD
    spread_D, axes_DD = torch.linalg.eigh(scaled_XD.T @ scaled_XD)
    along_XD, basis_DD = scaled_XD @ axes_DD, root_DD @ axes_DD
    offset_X1 = ((encoded_XD - center_D) @ prior_D)[:, None]
    mean_N = (counts_XN.sum(0) + 0.5) / len(counts_XN)  # a silent neuron has a rate, too
    curvature_ND = mean_N[:, None] * spread_D.clamp_min(0) + 1

    place_ND, bias_N = counts_XN.new_zeros(len(mean_N), len(prior_D)), mean_N.log()
    step_ND, step_N = torch.zeros_like(place_ND), torch.zeros_like(bias_N)
    least_N, share_N = torch.full_like(bias_N, math.inf), torch.ones_like(bias_N)
    for _ in range(_N_NEWTON_STEPS):
        next_ND, next_N = place_ND + share_N[:, None] * step_ND, bias_N + share_N * step_N
        log_rates_XN = offset_X1 + along_XD @ next_ND.T + next_N
        rates_XN = log_rates_XN.exp()
        loss_N = (rates_XN - counts_XN * log_rates_XN).sum(0) + next_ND.square().sum(1) / 2
        left_XN = counts_XN - rates_XN
        better_N = loss_N < least_N
        better_N1 = better_N[:, None]
        place_ND = torch.where(better_N1, next_ND, place_ND)
        bias_N = torch.where(better_N, next_N, bias_N)
        step_ND = torch.where(better_N1, (left_XN.T @ along_XD - next_ND) / curvature_ND, step_ND)
        step_N = torch.where(better_N, left_XN.sum(0) / rates_XN.sum(0), step_N)
        share_N = torch.where(better_N, 1.0, share_N / 2)
        least_N = torch.where(better_N, loss_N, least_N)
    read_out_ND = prior_D + place_ND @ basis_DD.T
    return read_out_ND, bias_N - read_out_ND @ center_D
