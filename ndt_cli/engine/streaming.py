"""Rates bin by bin, as a recording goes on.

A bin sees no more than the context window of each layer, so a new bin costs the work of one bin,
however long the recording is, and memory does not grow. Where layers look ahead, the rates of a
bin are those of a pass over the whole recording, but for rounding, ``n_layers * context_forward``
bins later.

Axes: B trials, T bins, N neurons, V behavioral variables.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt_cli.data.spike_data import MAX_COUNT, SpikeData
from ndt_cli.engine.checkpoint import digest_weights
from ndt_cli.engine.run_folder import SplitFacts
from ndt_cli.errors import DataError
from ndt_cli.metrics.decoding import Decoder, lag_bins, load_decoders
from ndt_cli.model.cpu.stepwise import StepwiseNetwork
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import MaskSettings

if TYPE_CHECKING:
    from ndt_cli.engine.trained_model import Model

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
StreamState = dict[str, NDArray[Any]]
"""Everything that a stream remembers, as arrays: `numpy.savez` stores it."""

# A channel is reported as silent once its training rate would have made this many spikes.
_MISSED_SPIKES = 50


class RateStream:
    """Rates bin by bin, from one model or as the mean of several; `TrainedModel.stream` makes one.

    Rates are those of ``model.rates`` with ``inference.passes = 1``, nothing hidden, of a trial
    that begins with the first bin; to float32 rounding, whatever the precision of the run.

    Parameters
    ----------
    networks : sequence of (NeuralDataTransformer, MaskSettings)
        The models, and how each was trained to see hidden bins.
    trained_on : SplitFacts
        Neurons and bin width.
    name : str
        Of the run, for messages.
    provisional : bool
        Give rates of each bin at once, as if the recording ended there. The exact ones, in
        ``exact_N``, follow ``lag_bins`` later.
    decoder : Decoder, optional
        Decodes behavior from the rates.

    Attributes
    ----------
    n_neurons : int
        Channels that a bin of counts must have, in the order of the spike file.
    bin_ms : float
        Width of a bin.
    lag_bins : int
        A bin's exact rates are known this many bins later: layers times ``context_forward``.
    delay_ms : float
        The same in ms, 0 if provisional. Computing comes on top.
    decoding_delay_ms : float
        How much later behavior is known than it happens; below 0, it is foreseen.
    bin : int
        The bin, from 0, of the rates returned last; -1 before any.
    exact_N : (neurons,) float32 array or None
        The exact rates that became known with the last bin.
    decoded_V : (variables,) float array or None
        The behavior that became known with the last rates returned, of bin ``decoded_bin``.
    decoded_bin : int
        Ahead of ``bin`` if behavior follows the rates.

    Raises
    ------
    RunError
        For a model whose rates are never final: each bin attends to all bins after it, or, with
        `model.context_wrap_initial`, differently at the start.

    Examples
    --------
    >>> from ndt_cli import load_trained
    >>> stream = load_trained("runs/first").stream()
    >>> stream.lag_bins, stream.delay_ms
    (40, 800.0)
    >>> rates = [stream.step(counts_N) for counts_N in np.ones((10, 4), dtype=int)]
    >>> rates[9] is None, len(list(stream.flush()))  # ten bins, each known 40 bins later
    (True, 10)
    """

    def __init__(
        self,
        networks: Sequence[tuple[NeuralDataTransformer, MaskSettings]],
        trained_on: SplitFacts,
        name: str,
        *,
        provisional: bool = False,
        decoder: Decoder | None = None,
    ) -> None:
        self.n_neurons, self.bin_ms = trained_on.n_neurons, trained_on.bin_ms
        self.provisional = provisional
        self._networks = [
            StepwiseNetwork(
                network,
                _columns_N(trained_on),
                trained_on.n_heldout,
                0 if mask.zero_token else network.shape.max_count + 1,
                name,
            )
            for network, mask in networks
        ]
        self.lag_bins = max(network.lag_bins for network in self._networks)
        self.delay_ms = 0.0 if provisional else self.lag_bins * self.bin_ms
        # A member that looks less far ahead waits for the others.
        self._waiting: list[deque[Float32Array]] = [deque() for _ in self._networks]
        self._decoding = None
        self.decoding_delay_ms = math.nan
        if decoder is not None:
            self._decoding = _Decoding(decoder, _file_order_N(trained_on))
            self.decoding_delay_ms = self.delay_ms - self._decoding.earliest * self.bin_ms
        digest = digest_weights(network for network, _ in networks)
        self._weights = np.frombuffer(bytes.fromhex(digest), dtype=np.uint8)
        self.reset()

    def reset(self) -> None:
        """Forget all bins: the next one is the first of a trial or recording."""
        self.bin, self.decoded_bin = -1, -1
        self.exact_N: Float32Array | None = None
        self.decoded_V: Float64Array | None = None
        self._n_exact = 0
        self._ended = False
        for network, waiting in zip(self._networks, self._waiting, strict=True):
            network.reset()
            waiting.clear()
        if self._decoding is not None:
            self._decoding.reset()

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights and of what is kept of earlier bins; they stay the same."""
        return sum(network.n_bytes for network in self._networks)

    def step(self, counts_N: ArrayLike | None) -> Float32Array | None:
        """Take the spike counts of the next bin, and return the rates that are now known.

        Parameters
        ----------
        counts_N : (neurons,) array of whole numbers, or None
            In the order of the spike file. Those of held-out neurons are not looked at. None for a
            bin that was lost: the model sees what it saw in place of hidden bins in training.

        Returns
        -------
        rates_N : (neurons,) float32 array or None
            Expected spikes per bin, in the order of the spike file (`in_hz`), of the bin
            ``lag_bins`` before this one, or of this one if provisional. None while there is no
            such bin.

        Raises
        ------
        DataError
            If the counts are not as many as there are neurons, negative, not whole, not finite or
            above 65535; if the stream was flushed; or past the trained length where the model
            ends there.
        """
        if self._ended:
            raise DataError("the stream has ended", "Call `reset()` before the next recording.")
        counts_N = None if counts_N is None else self._checked(counts_N)
        self.decoded_V = None
        for network, waiting in zip(self._networks, self._waiting, strict=True):
            rates_N = network.push(counts_N)
            if rates_N is not None:
                waiting.append(rates_N)
        exact_N = self._next()
        if not self.provisional:
            return exact_N if exact_N is None else self._give(exact_N, self._n_exact - 1)
        now_N = _mean([network.provisional() for network in self._networks])
        return self._give(now_N, self.bin + 1)

    def flush(self) -> Iterator[Float32Array]:
        """End the recording, and give the rates of its last bins, one bin after the other.

        Nothing where rates have no lag. `reset` begins another recording.
        """
        if self._ended:
            return
        self._ended, self.decoded_V = True, None
        for network, waiting in zip(self._networks, self._waiting, strict=True):
            waiting.extend(network.flush())
        while (exact_N := self._next()) is not None:
            if self.provisional:  # their bins have had rates
                self.bin = self._n_exact - 1
                yield exact_N
            else:
                yield self._give(exact_N, self._n_exact - 1)

    def in_hz(self, rates_N: Float32Array) -> Float32Array:
        """Return rates in spikes per second."""
        return rates_N * np.float32(1000 / self.bin_ms)

    def state(self) -> StreamState:
        """Return a copy of everything that is remembered; `restore` continues there."""
        flags = [self.bin, self.decoded_bin, self._n_exact, int(self._ended)]
        state: StreamState = {"stream": np.array(flags, dtype=np.int64)}
        for i, (network, waiting) in enumerate(zip(self._networks, self._waiting, strict=True)):
            state[f"memory.{i}"] = network.memory.copy()
            state[f"bins.{i}"] = np.array(network.bins, dtype=np.int64)
            kept = np.array(list(waiting), dtype=np.float32)
            state[f"waiting.{i}"] = kept.reshape(len(waiting), self.n_neurons)
        if self._decoding is not None:
            state["decoding"] = self._decoding.memory.copy()
            state["decoding.bins"] = np.array(self._decoding.n_bins)
        state["weights"] = self._weights.copy()  # a digest: whose state it is
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a `state` of this model.

        Raises
        ------
        DataError
            If it is of another model.
        """
        own = self.state()
        for key, value in own.items():
            found = state[key].shape if key in state else None
            what = None
            if found is None or (not key.startswith("waiting") and found != value.shape):
                what = f"{key} is {found or 'missing'}; expected {value.shape}"
            elif key == "weights" and not np.array_equal(state[key], value):
                what = "it is of a model with other weights"
            if what is not None:
                raise DataError(
                    f"`state`: {what}", "Restore a state of the same model, with the same decoder."
                )
        flags = [int(value) for value in state["stream"]]
        self.bin, self.decoded_bin, self._n_exact = flags[:3]
        self._ended = bool(flags[3])
        self.exact_N = self.decoded_V = None
        for i, (network, waiting) in enumerate(zip(self._networks, self._waiting, strict=True)):
            network.memory[:] = state[f"memory.{i}"]
            network.bins[:] = [int(value) for value in state[f"bins.{i}"]]
            waiting.clear()
            waiting.extend(np.array(state[f"waiting.{i}"], dtype=np.float32))
        if self._decoding is not None:
            self._decoding.memory[:] = state["decoding"]
            self._decoding.n_bins = int(state["decoding.bins"])

    def _checked(self, counts_N: ArrayLike) -> NDArray[Any]:
        counts = np.asarray(counts_N)
        if counts.shape != (self.n_neurons,):
            raise DataError(
                f"`counts_N`: found an array of shape {counts.shape}; expected one count for each "
                f"of {self.n_neurons} neurons",
                "Give the neurons of the spike file, in its order.",
            )
        if counts.dtype.kind not in "uib":
            if counts.dtype.kind != "f":
                raise DataError(f"`counts_N`: found {counts.dtype}; expected whole numbers")
            for wrong_N, what in (
                (~np.isfinite(counts), "is not a number"),
                (counts != np.rint(counts), "is not a whole number"),
            ):
                _refuse(counts, wrong_N, what)
        if counts.dtype.kind != "u" and counts.min() < 0:
            _refuse(counts, counts < 0, "is negative")
        if counts.max() > MAX_COUNT:
            _refuse(counts, counts > MAX_COUNT, f"is above {MAX_COUNT}")
        return counts

    def _next(self) -> Float32Array | None:
        """Return the next exact rates, if all members have them."""
        if not all(self._waiting):
            self.exact_N = None
            return None
        self.exact_N = _mean([waiting.popleft() for waiting in self._waiting])
        self._n_exact += 1
        return self.exact_N

    def _give(self, rates_N: Float32Array, bin_: int) -> Float32Array:
        self.bin = bin_
        if self._decoding is not None:
            self.decoded_V = self._decoding(rates_N)
            self.decoded_bin = bin_ + self._decoding.earliest
        return rates_N


def _refuse(counts_N: NDArray[Any], wrong_N: NDArray[np.bool_], what: str) -> None:
    if wrong_N.any():
        first = int(wrong_N.argmax())
        raise DataError(
            f"`counts_N`: the count of channel {first} {what}: {counts_N[first]:g}",
            "Give the number of spikes of each channel in the bin, or None for a lost bin.",
        )


def _mean(rates: list[Float32Array]) -> Float32Array:
    if len(rates) == 1:
        return rates[0]
    return np.asarray(np.mean(rates, axis=0, dtype=np.float64), dtype=np.float32)


def _columns_N(trained_on: SplitFacts) -> NDArray[np.int64]:
    """Return which channel of the file each column of the model is."""
    return np.array(trained_on.neuron_ids_N or range(trained_on.n_neurons), dtype=np.int64)


def _file_order_N(trained_on: SplitFacts) -> NDArray[np.int64]:
    """Return which column of the model each channel of the file is."""
    return np.argsort(_columns_N(trained_on))


def stored_decoder(model: "Model") -> tuple[Decoder, tuple[str, ...]] | None:
    """Return the decoder that `ndt_cli.fit` stored with a run, for `RateStream`.

    Parameters
    ----------
    model : Model

    Returns
    -------
    (Decoder, tuple of str) or None
        With the names of its variables. None if there is none, or if it was fitted to rates of
        several passes: those of a stream are of one, so that `fit_decoder` has to fit another.

    Raises
    ------
    RunError
        If its file is damaged.
    """
    if any(member.settings.inference.passes != 1 for member in model.members):
        return None
    n_neurons = model.trained_on.n_neurons
    names, decoders = load_decoders(model.run.decoders, model.weights_digest, n_neurons)
    return (decoders["NDT"], names) if "NDT" in decoders else None


def fit_decoder(model: "Model", train: SpikeData) -> Decoder:
    """Fit the decoder of `evaluate` to rates as a stream gives them, in one pass each.

    Parameters
    ----------
    model : Model
    train : SpikeData
        Training trials, with behavior.

    Returns
    -------
    Decoder
        For the argument ``decoder`` of `RateStream`.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from ndt_cli import load_recording, load_trained
    >>> model = load_trained("runs/first")
    >>> train = load_recording(model.settings.data).train
    >>> hand_BTV = np.zeros((train.n_trials, train.n_bins, 2))
    >>> fit_decoder(model, replace(train, behavior_BTV=hand_BTV)).weights_NV.shape
    (4, 2)
    """
    rates_BTN = np.zeros(train.spikes_BTN.shape, dtype=np.float32)
    one_pass = model.settings.inference.model_copy(update={"passes": 1})
    for member in model.members:
        settings = member.settings.model_copy(update={"inference": one_pass})
        rates_BTN += replace(member, settings=settings).rates(train) / len(model.members)
    return Decoder.fit(rates_BTN, train, lag_bins(train))


class SilenceWatch:
    """Notices channels that have been silent for far longer than their training rate explains.

    Parameters
    ----------
    trained_on : SplitFacts
        With the spikes of each neuron. Held-out neurons, and those that hardly fired, are not
        watched.

    Examples
    --------
    >>> from ndt_cli import load_trained
    >>> watch = SilenceWatch(load_trained("runs/first").trained_on)
    >>> silent = [watch.step(np.array([0, 1, 1, 1])) for _ in range(200)]
    >>> [channels for channels in silent if channels]
    [[0]]
    """

    def __init__(self, trained_on: SplitFacts) -> None:
        order_N = _file_order_N(trained_on)
        spikes_N = np.array(trained_on.spikes_N or [0] * trained_on.n_neurons, dtype=np.float64)
        spikes_N[trained_on.n_neurons - trained_on.n_heldout :] = 0
        self.rate_N = (spikes_N / max(trained_on.n_observed_bins, 1))[order_N]
        self.silent_bins_N = np.zeros(trained_on.n_neurons, dtype=np.int64)
        self._reported_N = self.rate_N == 0

    def step(self, counts_N: NDArray[Any]) -> list[int]:
        """Take the counts of a bin; return the channels that are now silent, each of them once."""
        self.silent_bins_N += 1
        self.silent_bins_N[counts_N > 0] = 0
        found_N = (self.silent_bins_N * self.rate_N > _MISSED_SPIKES) & ~self._reported_N
        if not found_N.any():
            return []
        self._reported_N |= found_N
        return [int(channel) for channel in np.flatnonzero(found_N)]


class _Decoding:
    """Behavior from the latest rates, each variable from those its own lag earlier."""

    def __init__(self, decoder: Decoder, order_N: NDArray[np.int64]) -> None:
        # A variable without weights waits for no rates.
        weighted_V = decoder.weights_NV.any(axis=0)
        weighted_lags = decoder.lag_V[weighted_V] if weighted_V.any() else decoder.lag_V
        # With the rates of bin s, behavior up to bin s + the smallest lag can be decoded.
        self.earliest = int(weighted_lags.min())
        self.lags = np.where(weighted_V, decoder.lag_V, self.earliest).tolist()
        n_rows = max(self.lags) - self.earliest + 1
        self.weights_VN = np.ascontiguousarray(decoder.weights_NV[order_N].T)
        self.intercepts_V = decoder.intercepts_V - decoder.center_N @ decoder.weights_NV
        self.memory = np.zeros((n_rows, self.weights_VN.shape[1]))
        self.n_bins = 0

    def reset(self) -> None:
        self.n_bins = 0

    def __call__(self, rates_N: Float32Array) -> Float64Array | None:
        """Return the behavior of the bin ``earliest`` after that of these rates, (V,)."""
        n_rows = len(self.memory)
        newest = self.n_bins % n_rows
        self.memory[newest] = rates_N
        self.n_bins += 1
        if self.n_bins < n_rows or self.n_bins <= -self.earliest:
            return None
        decoded_V = self.intercepts_V.copy()
        for v, lag in enumerate(self.lags):
            row_N = self.memory[(newest + self.earliest - lag) % n_rows]
            decoded_V[v] += self.weights_VN[v].dot(row_N)
        return decoded_V
