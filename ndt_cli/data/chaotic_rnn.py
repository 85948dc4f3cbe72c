"""The chaotic RNN set: spikes of a random rate network, drawn exactly as its public generator does.

The network is the vanilla rate RNN of Sussillo et al. 2016 (LFADS), section 4.1, without input:
tau dx/dt = -x + g W r, r = tanh(x), W ~ N(0, 1/N), in Euler steps of one bin. With the default
arguments the spikes equal those of the set that Ye & Pandarinath 2021 trained on, bit for bit.

Axes in names: B trials, T bins, N neurons, C conditions.
"""

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.checks import compact_counts
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.data.synthetic_limits import (
    check_bin_width,
    check_highest_rate,
    check_numbers,
    check_set_size,
    check_some_spikes,
)
from ndt_cli.errors import SettingsError


def make_chaotic_rnn(
    *,
    seed: int = 5,
    duration_s: float = 1.0,
    dt_s: float = 0.01,
    n_conditions: int = 130,
    n_repeats: int = 10,
    n_neurons: int = 50,
    n_observed: int | None = None,
    gain: float = 1.5,
    tau_s: float = 0.025,
    x0_std: float = 1.0,
    peak_rate_hz: float = 30.0,
    train_fraction: float = 0.8,
) -> Recording:
    """Simulate the network and draw its spikes.

    Parameters
    ----------
    seed : int
        Seed of the one random generator that everything is drawn from.
    duration_s : float
        Length of a trial, in seconds.
    dt_s : float
        Euler step and bin width, in seconds.
    n_conditions : int
        Initial states; trials of a condition share one, and so their rates.
    n_repeats : int
        Trials per condition.
    n_neurons : int
        Units of the network.
    n_observed : int, optional
        Units whose spikes are recorded, the first ones. Default: all.
    gain : float
        Scale g of the recurrent weights; above 1 the network is chaotic.
    tau_s : float
        Time constant of a unit, in seconds.
    x0_std : float
        Standard deviation of the initial states.
    peak_rate_hz : float
        Firing rate at the largest activity that a unit reaches in a trial, in spikes per second.
    train_fraction : float
        Share of each condition's repeats that trains: the first ones.

    Returns
    -------
    Recording
        Counts, true rates in spikes per bin, conditions, and trial ids that run condition by
        condition, repeat by repeat.

    Raises
    ------
    SettingsError
        If the arguments leave a split empty, a trial with fewer than two bins, observe more units
        than there are, are beyond 10^9, take steps too long for the network's own time, or make a
        set that does not fit into memory or has no spike.

    Examples
    --------
    >>> small = make_chaotic_rnn(n_conditions=2, n_repeats=5)
    >>> small.train.spikes_BTN.shape, small.valid.spikes_BTN.shape
    ((8, 100, 50), (2, 100, 50))
    """
    n_observed = n_neurons if n_observed is None else n_observed
    check_numbers(
        duration_s=duration_s,
        dt_s=dt_s,
        gain=gain,
        tau_s=tau_s,
        x0_std=x0_std,
        peak_rate_hz=peak_rate_hz,
        train_fraction=train_fraction,
    )
    check_bin_width("dt_s", dt_s, _round_ms(1000 * dt_s))
    n_bins = int(duration_s / dt_s + 1e-6)  # 0.3 / 0.1 is 2.9999999999999996
    n_trials = n_conditions * n_repeats
    check_set_size(
        {
            "n_conditions": n_conditions,
            "n_repeats": n_repeats,
            "duration_s": duration_s,
            "dt_s": dt_s,
            "n_neurons": n_neurons,
        },
        n_rates=n_conditions * n_bins * n_neurons,
        n_counts=n_trials * n_bins * n_observed,
        n_more=2 * n_neurons**2,
    )
    check_highest_rate(peak_rate_hz * dt_s, "peak_rate_hz and dt_s")
    repeats = np.arange(n_repeats)
    trains_R = repeats + 1 <= train_fraction * n_repeats
    if not 1 <= n_observed <= n_neurons:
        raise SettingsError(f"n_observed is {n_observed}, but the network has {n_neurons} units")
    if dt_s >= 2 * tau_s:  # |1 - dt/tau| >= 1: Euler's method itself no longer decays
        raise SettingsError(
            f"dt_s is {dt_s:g} and tau_s is {tau_s:g}; the step must be below twice tau_s",
            hint="Make tau_s larger or dt_s smaller.",
        )
    if n_bins < 2:
        raise SettingsError(
            f"duration_s {duration_s:g} holds {n_bins} bins of {dt_s:g} s; at least 2 are needed"
        )
    if trains_R.all() or not trains_R.any():
        raise SettingsError(
            f"train_fraction {train_fraction:g} of {n_repeats} repeats leaves one split empty",
            hint="Ask for more repeats, or move train_fraction towards 0.5.",
        )

    # RandomState's stream never changes; the order of the draws below is what defines the set.
    rng = np.random.RandomState(seed)
    weights_NN = rng.randn(n_neurons, n_neurons) / np.sqrt(n_neurons)
    # The public generator draws two input vectors and an input time for each trial, then runs
    # without input: they are drawn here only to move the stream.
    rng.randn(n_neurons)
    rng.randn(n_neurons)
    x0_CN = x0_std * rng.randn(n_conditions, n_neurons)
    rng.choice(int(n_bins / 2), size=n_trials)

    activity_CTN = _run_network(gain * weights_NN, x0_CN, n_bins, dt_s / tau_s)[..., :n_observed]
    low_C1N = activity_CTN.min(axis=1, keepdims=True)
    high_C1N = activity_CTN.max(axis=1, keepdims=True)
    if (high_C1N == low_C1N).any():
        raise SettingsError(
            "a unit of the network does not change in a whole trial, so its rate has no scale",
            hint="Try a larger gain or x0_std.",
        )
    scaled_CTN = (activity_CTN - low_C1N) / (high_C1N - low_C1N)
    rates_CTN = scaled_CTN * peak_rate_hz * dt_s

    spikes = []
    for rates_TN in rates_CTN:
        rates_NT = np.ascontiguousarray(rates_TN.T)  # drawn neuron by neuron
        for _ in range(n_repeats):
            spikes.append(compact_counts(rng.poisson(rates_NT).T))
    conditions_B = np.repeat(np.arange(n_conditions), n_repeats)
    spikes_BTN = np.stack(spikes)
    check_some_spikes(int(spikes_BTN.sum()), "peak_rate_hz and dt_s")
    whole = SpikeData(
        spikes_BTN=spikes_BTN,
        bin_ms=_round_ms(1000 * dt_s),
        lengths_B=np.full(n_trials, n_bins),
        rates_BTN=rates_CTN[conditions_B],
        conditions_B=conditions_B,
        trial_ids_B=np.arange(n_trials),
    )
    trains_B = np.tile(trains_R, n_conditions)
    return Recording(
        train=whole.take(np.flatnonzero(trains_B)),
        valid=whole.take(np.flatnonzero(~trains_B)),
        source="chaotic-rnn",
        layout="synthetic",
    )


def _run_network(
    weights_NN: NDArray[np.float64], x0_CN: NDArray[np.float64], n_bins: int, step: float
) -> NDArray[np.float64]:
    """Return tanh(x), (conditions, bins, neurons); ``step`` is the Euler step over tau."""
    activity_CTN = np.empty((len(x0_CN), n_bins, x0_CN.shape[1]))
    stepped_NN = step * weights_NN
    # One product per condition: a product of all at once sums in another order, and the dynamics
    # amplify the difference a hundredfold.
    for c, x0_N in enumerate(x0_CN):
        x_N, r_N = x0_N, np.tanh(x0_N)
        for t in range(n_bins):
            x_N = (1.0 - step) * x_N + stepped_NN @ r_N
            r_N = np.tanh(x_N)
            activity_CTN[c, t] = r_N
    return activity_CTN


def _round_ms(bin_ms: float) -> float:
    # 1000 * 0.007 is 7.000000000000001; a bin width is compared and printed.
    return round(bin_ms, 9)
