"""Synthetic sets with known rates: a Lorenz system and a chaotic RNN.

In both, conditions are initial states of a dynamical system, trials of a condition share their
rates, and spikes are Poisson. Axes in names: B trials, T bins, N neurons, C conditions.
"""

from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import (
    MAX_COUNT,
    FloatArray,
    IntArray,
    Recording,
    SpikeData,
    compact_counts,
    split_trials,
)
from ndt_cli.errors import SettingsError
from ndt_cli.memory import check_memory
from ndt_cli.settings.tree import MAX_BIN_MS, MIN_BIN_MS

_MAX_NUMBER = 1e9
# Smallest and largest value of an argument; others may be any number up to 10^9.
_RANGES = {
    "seed": (0, 2**32 - 1),
    "train_fraction": (0, 1),
    "bin_ms": (MIN_BIN_MS, MAX_BIN_MS),
    "dt_s": (MIN_BIN_MS / 1000, MAX_BIN_MS / 1000),
    **dict.fromkeys(("n_conditions", "n_repeats", "n_bins", "n_neurons"), (1, _MAX_NUMBER)),
    **dict.fromkeys(("tau_s", "lorenz_time_per_s", "max_step"), (1e-6, _MAX_NUMBER)),
    **dict.fromkeys(
        ("duration_s", "x0_std", "peak_rate_hz", "base_rate_hz", "log_rate_std", "transient"),
        (0, _MAX_NUMBER),
    ),
}
_MAX_STEPS = 1e7  # of integration: minutes; the defaults take 2400


def make_lorenz(
    *,
    seed: int = 0,
    n_conditions: int = 65,
    n_repeats: int = 24,
    n_bins: int = 50,
    bin_ms: float = 20.0,
    n_neurons: int = 29,
    train_fraction: float = 0.8,
    base_rate_hz: float = 5.0,
    log_rate_std: float = 1.0,
    sigma: float = 10.0,
    rho: float = 28.0,
    beta: float = 8 / 3,
    lorenz_time_per_s: float = 2.0,
    max_step: float = 0.005,
    transient: float = 10.0,
) -> Recording:
    """Make a Lorenz set: spikes of neurons that read out a Lorenz system.

    The defaults give a set of the size of the one in section 3.1 of Ye & Pandarinath 2021 (after
    Sussillo et al. 2016, LFADS), whose file and generator are not public. The log-rate of each
    neuron is ``log(base_rate_hz)`` plus a random linear function of the three standardized states,
    scaled to the same spread for all neurons.

    Parameters
    ----------
    seed : int
        Seed of the initial states, the readout, the split and the spikes.
    n_conditions : int
        Conditions (initial states).
    n_repeats : int
        Trials per condition.
    n_bins : int
        Bins per trial.
    bin_ms : float
        Bin width in milliseconds.
    n_neurons : int
        Neurons.
    train_fraction : float
        Share of the trials used for training, in proportion within each condition.
    base_rate_hz : float
        Firing rate at the mean state, in Hz.
    log_rate_std : float
        Standard deviation of each neuron's log-rate.
    sigma, rho, beta : float
        Parameter of the Lorenz system.
    lorenz_time_per_s : float
        Lorenz time per second; one turn around a wing takes about 0.75.
    max_step : float
        Largest Runge-Kutta step, in Lorenz time.
    transient : float
        Lorenz time discarded before each trial.

    Returns
    -------
    Recording
        Counts, true rates in spikes per bin, conditions, the three standardized states as
        latents, and trial ids that run condition by condition.

    Raises
    ------
    SettingsError
        If an argument is out of range, the integration diverges or would take hours, a split
        would be empty, or the set does not fit into memory or has no spike.

    Examples
    --------
    >>> small = make_lorenz(n_conditions=2, n_repeats=5)
    >>> small.train.spikes_BTN.shape, small.valid.spikes_BTN.shape
    ((8, 50, 29), (2, 50, 29))
    """
    _check_ranges(locals())
    n_trials = n_conditions * n_repeats
    if n_trials < 2:
        raise SettingsError("`n_conditions` x `n_repeats` is 1 trial; at least 2 are needed")
    if not 0 < train_fraction < 1:
        raise SettingsError(f"`train_fraction={train_fraction:g}` leaves one split empty")
    time_per_bin = lorenz_time_per_s * bin_ms / 1000
    n_steps = (n_bins + transient / time_per_bin) * max(1, time_per_bin / max_step)
    if n_steps > _MAX_STEPS:
        raise SettingsError(
            f"{n_bins} bins of {time_per_bin:g} Lorenz time and a transient of {transient:g} take "
            f"{n_steps:.3g} integration steps; expected at most {_MAX_STEPS:.3g}",
            hint="Increase `max_step` or `lorenz_time_per_s`, or decrease `transient`.",
        )
    _check_size(
        n_rates=n_conditions * n_bins * n_neurons,
        n_counts=n_trials * n_bins * n_neurons,
        n_more=3 * n_conditions * (n_bins + ceil(transient / time_per_bin)),
        n_conditions=n_conditions,
        n_repeats=n_repeats,
        n_bins=n_bins,
        n_neurons=n_neurons,
    )

    rng = np.random.default_rng(seed)
    start_C3 = rng.standard_normal((n_conditions, 3)) * 10 + [0.0, 0.0, rho - 1.0]
    parameters = (sigma, rho, beta)
    states_CT3 = _integrate(start_C3, parameters, n_bins, time_per_bin, max_step, transient)
    if not np.isfinite(states_CT3).all():
        raise SettingsError(
            f"the Lorenz system diverged in steps of at most {max_step:g}",
            hint="Decrease `max_step`.",
        )
    spread_3 = states_CT3.std(axis=(0, 1))
    # The states of a system at rest (small rho) have no spread: they stay at zero.
    latents_CT3 = (states_CT3 - states_CT3.mean(axis=(0, 1))) / np.where(spread_3 > 0, spread_3, 1)

    readout_3N = rng.standard_normal((3, n_neurons))
    # Three products in a fixed order, not a BLAS call: the same file on every machine.
    x_CT1, y_CT1, z_CT1 = np.split(latents_CT3, 3, axis=-1)
    drive_CTN = x_CT1 * readout_3N[0] + y_CT1 * readout_3N[1] + z_CT1 * readout_3N[2]
    drive_std_N = drive_CTN.std(axis=(0, 1))
    drive_CTN = drive_CTN / np.where(drive_std_N > 0, drive_std_N, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # the next line refuses these
        rates_CTN = base_rate_hz * bin_ms / 1000 * np.exp(log_rate_std * drive_CTN)
    rate_arguments = "`base_rate_hz`, `log_rate_std` and `bin_ms`"
    _check_highest_rate(float(rates_CTN.max()), rate_arguments)

    conditions_B = np.repeat(np.arange(n_conditions), n_repeats)
    train, valid = split_trials(
        n_trials,
        valid_fraction=1 - train_fraction,
        seed=int(rng.integers(2**31)),
        conditions_B=conditions_B,
    )
    spikes_BTN = compact_counts(rng.poisson(rates_CTN[conditions_B]))
    whole = _some_spikes(spikes_BTN, bin_ms, rates_CTN, conditions_B, rate_arguments)
    whole = replace(whole, latents_BTK=latents_CT3[conditions_B])
    return Recording(whole.take(train), whole.take(valid), source="lorenz", layout="synthetic")


def _integrate(
    state_C3: FloatArray, parameters: tuple[float, float, float], n_bins: int,
    time_per_bin: float, max_step: float, transient: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the states at the end of each bin, (conditions, bins, 3): Runge-Kutta of order 4."""
    sigma, rho, beta = parameters

    def slope(state_C3: FloatArray) -> NDArray[np.float64]:
        x, y, z = state_C3.T
        return np.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], axis=1)

    steps_per_bin = ceil(time_per_bin / max_step)
    h = time_per_bin / steps_per_bin
    n_transient_bins = ceil(transient / time_per_bin)
    states = []
    with np.errstate(over="ignore", invalid="ignore"):  # the caller checks for divergence
        for _ in range(n_transient_bins + n_bins):
            for _ in range(steps_per_bin):
                k1 = slope(state_C3)
                k2 = slope(state_C3 + h / 2 * k1)
                k3 = slope(state_C3 + h / 2 * k2)
                k4 = slope(state_C3 + h * k3)
                state_C3 = state_C3 + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            states.append(state_C3)
    return np.stack(states[n_transient_bins:], axis=1)


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
    """Make the chaotic RNN set: spikes of a random rate network.

    The defaults give the set of Ye & Pandarinath 2021, count for count. The network is the
    vanilla rate RNN of Sussillo et al. 2016 (LFADS), section 4.1, without input:
    tau dx/dt = -x + g W r, r = tanh(x), W ~ N(0, 1/N), in Euler steps of one bin.

    Parameters
    ----------
    seed : int
        Seed of all random draws.
    duration_s : float
        Length of a trial, in seconds.
    dt_s : float
        Euler step and bin width, in seconds.
    n_conditions : int
        Conditions (initial states).
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
        Firing rate at the largest activity of a unit in a trial, in Hz.
    train_fraction : float
        Share of each condition's repeats used for training: the first ones.

    Returns
    -------
    Recording
        Counts, true rates in spikes per bin, conditions, and trial ids that run condition by
        condition, repeat by repeat.

    Raises
    ------
    SettingsError
        If an argument is out of range, a split would be empty, a trial would have fewer than two
        bins, the steps are too long for the network's time constant, or the set does not fit into
        memory or has no spike.

    Examples
    --------
    >>> small = make_chaotic_rnn(n_conditions=2, n_repeats=5)
    >>> small.train.spikes_BTN.shape, small.valid.spikes_BTN.shape
    ((8, 100, 50), (2, 100, 50))
    """
    _check_ranges(locals())
    n_observed = n_neurons if n_observed is None else n_observed
    bin_ms = round(1000 * dt_s, 9)  # 1000 * 0.007 is 7.000000000000001
    n_bins = int(duration_s / dt_s + 1e-6)  # 0.3 / 0.1 is 2.9999999999999996
    n_trials = n_conditions * n_repeats
    if not 1 <= n_observed <= n_neurons:
        raise SettingsError(
            f"`n_observed={n_observed}`: expected 1 to {n_neurons}, the units of the network"
        )
    _check_size(
        n_rates=n_conditions * n_bins * n_neurons,
        n_counts=n_trials * n_bins * n_observed,
        n_more=2 * n_neurons**2,
        n_conditions=n_conditions,
        n_repeats=n_repeats,
        duration_s=duration_s,
        dt_s=dt_s,
        n_neurons=n_neurons,
    )
    rate_arguments = "`peak_rate_hz` and `dt_s`"
    _check_highest_rate(peak_rate_hz * dt_s, rate_arguments)
    if dt_s >= 2 * tau_s:  # |1 - dt/tau| >= 1: Euler's method itself no longer decays
        raise SettingsError(
            f"`dt_s={dt_s:g}` and `tau_s={tau_s:g}`: the step must be below twice the time constant"
        )
    if n_bins < 2:
        raise SettingsError(
            f"`duration_s={duration_s:g}` holds {n_bins} bins of {dt_s:g} s; expected at least 2"
        )
    trains_R = np.arange(1, n_repeats + 1) <= train_fraction * n_repeats
    if trains_R.all() or not trains_R.any():
        raise SettingsError(
            f"`train_fraction={train_fraction:g}` of {n_repeats} repeats leaves one split empty",
            hint="Ask for more repeats, or a share closer to 0.5.",
        )

    # RandomState's stream never changes; the order of the draws below defines the set.
    rng = np.random.RandomState(seed)
    weights_NN = rng.randn(n_neurons, n_neurons) / np.sqrt(n_neurons)
    # The public generator draws two input vectors and an input time for each trial, but runs
    # without input: draw them here too, to advance the stream.
    rng.randn(n_neurons)
    rng.randn(n_neurons)
    x0_CN = x0_std * rng.randn(n_conditions, n_neurons)
    rng.choice(int(n_bins / 2), size=n_trials)

    activity_CTN = _run_network(gain * weights_NN, x0_CN, n_bins, dt_s / tau_s)[..., :n_observed]
    low_C1N = activity_CTN.min(axis=1, keepdims=True)
    high_C1N = activity_CTN.max(axis=1, keepdims=True)
    if (high_C1N == low_C1N).any():
        raise SettingsError(
            "the activity of a unit does not change in a whole trial, so its rate has no scale",
            hint="Try a larger `gain` or `x0_std`.",
        )
    scaled_CTN = (activity_CTN - low_C1N) / (high_C1N - low_C1N)
    rates_CTN = scaled_CTN * peak_rate_hz * dt_s

    spikes = []
    for rates_TN in rates_CTN:
        rates_NT = np.ascontiguousarray(rates_TN.T)  # drawn neuron by neuron
        for _ in range(n_repeats):
            spikes.append(compact_counts(rng.poisson(rates_NT).T))
    conditions_B = np.repeat(np.arange(n_conditions), n_repeats)
    whole = _some_spikes(np.stack(spikes), bin_ms, rates_CTN, conditions_B, rate_arguments)
    trains_B = np.tile(trains_R, n_conditions)
    train, valid = whole.take(np.flatnonzero(trains_B)), whole.take(np.flatnonzero(~trains_B))
    return Recording(train, valid, source="chaotic-rnn", layout="synthetic")


def _run_network(
    weights_NN: FloatArray, x0_CN: FloatArray, n_bins: int, step: float
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


# Checks of the arguments -------------------------------------------------------------------------


def _check_ranges(arguments: dict[str, float | None]) -> None:
    for name, value in arguments.items():
        low, high = _RANGES.get(name, (-_MAX_NUMBER, _MAX_NUMBER))
        if value is not None and not low <= value <= high:
            raise SettingsError(f"{_call(**{name: value})}: expected {low:g} to {high:.10g}")


def _check_size(*, n_rates: int, n_counts: int, n_more: int, **sizes: float) -> None:
    """Refuse a set that does not fit into memory; rates and counts are held twice at least."""
    n_bytes = np.dtype(np.float64).itemsize * (2 * n_rates + 2 * n_counts + n_more)
    what = f"a set with {_call(**sizes)}"
    check_memory(n_bytes, what, "Make one of them smaller.", SettingsError)


def _check_highest_rate(highest_per_bin: float, arguments: str) -> None:
    if not highest_per_bin <= MAX_COUNT:
        found = f"a rate of {highest_per_bin:g} spikes per bin"
        raise SettingsError(f"{arguments} give {found}; expected at most {MAX_COUNT}")


def _some_spikes(
    spikes_BTN: IntArray, bin_ms: float, rates_CTN: FloatArray, conditions_B: IntArray, by: str
) -> SpikeData:
    """Return the trials of a set; refuse arguments that give none of them a spike."""
    if not spikes_BTN.any():
        raise SettingsError(
            f"{by} give no spike in the whole set; expected at least one",
            "Make the rate higher, or ask for more trials.",
        )
    n_trials, n_bins, _ = spikes_BTN.shape
    return SpikeData(
        spikes_BTN=spikes_BTN,
        bin_ms=bin_ms,
        lengths_B=np.full(n_trials, n_bins),
        rates_BTN=rates_CTN[conditions_B],
        conditions_B=conditions_B,
        trial_ids_B=np.arange(n_trials),
    )


def _call(**arguments: float) -> str:
    """Return arguments as they are written in a call, for a message."""
    return ", ".join(
        f"`{name}={value:.9g}`" if isinstance(value, float) else f"`{name}={value}`"
        for name, value in arguments.items()
    )
