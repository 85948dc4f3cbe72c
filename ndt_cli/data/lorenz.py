"""The Lorenz set: Poisson spikes of neurons that read out a Lorenz system.

The shape of the set of Ye & Pandarinath 2021, section 3.1 (after Sussillo et al. 2016, LFADS):
conditions are initial states, trials of a condition share their rates. The authors' file and
generator are not public, so this is a set of the same kind, not the same set.

Axes in names: B trials, T bins, N neurons, C conditions.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.checks import compact_counts
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.data.split import split_trials
from ndt_cli.data.synthetic_limits import (
    check_bin_width,
    check_highest_rate,
    check_numbers,
    check_set_size,
    check_some_spikes,
)
from ndt_cli.errors import SettingsError

# Minutes of work; the defaults take 2400.
_MOST_STEPS = 1e7


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
    """Integrate the system from random states, read out log-rates, draw the spikes.

    Each neuron's log-rate is ``log(base_rate_hz)`` plus a random linear function of the three
    standardised states, scaled to the same spread for all neurons.

    Parameters
    ----------
    seed : int
        Seed of the initial states, the read-out, the split and the spikes.
    n_conditions : int
        Initial states.
    n_repeats : int
        Trials per condition.
    n_bins : int
        Bins per trial.
    bin_ms : float
        Bin width in milliseconds.
    n_neurons : int
        Neurons.
    train_fraction : float
        Share of the trials that trains. Of each condition's repeats the nearest whole numbers
        below and above train, so that the total is right; which trials, is drawn.
    base_rate_hz : float
        Firing rate at the mean of the states, in spikes per second.
    log_rate_std : float
        Standard deviation of each neuron's log-rate over the whole set.
    sigma, rho, beta : float
        Parameters of the Lorenz system.
    lorenz_time_per_s : float
        Lorenz time that passes in a second. One turn around a wing takes about 0.75.
    max_step : float
        Largest Runge-Kutta step, in Lorenz time; a bin is a whole number of steps.
    transient : float
        Lorenz time that is discarded before a trial begins.

    Returns
    -------
    Recording
        Counts, true rates in spikes per bin, conditions, the three standardised states as
        latents, and trial ids that run condition by condition.

    Raises
    ------
    SettingsError
        If the integration diverges or would take hours, there are fewer than two trials, a split
        would be empty, an argument is beyond 10^9, the set does not fit into memory, or it has no
        spike.

    Examples
    --------
    >>> small = make_lorenz(n_conditions=2, n_repeats=5)
    >>> small.train.spikes_BTN.shape, small.valid.spikes_BTN.shape
    ((8, 50, 29), (2, 50, 29))
    """
    n_trials = n_conditions * n_repeats
    if n_trials < 2:
        raise SettingsError(f"n_conditions x n_repeats is {n_trials}; at least 2 are needed")
    if not 0 < train_fraction < 1:
        raise SettingsError(f"train_fraction is {train_fraction:g}; it must be between 0 and 1")
    check_numbers(
        base_rate_hz=base_rate_hz,
        log_rate_std=log_rate_std,
        sigma=sigma,
        rho=rho,
        beta=beta,
        lorenz_time_per_s=lorenz_time_per_s,
        max_step=max_step,
        transient=transient,
    )
    check_bin_width("bin_ms", bin_ms, bin_ms)
    time_per_bin = lorenz_time_per_s * bin_ms / 1000
    n_steps = (n_bins + transient / time_per_bin) * max(1, time_per_bin / max_step)
    if n_steps > _MOST_STEPS:
        raise SettingsError(
            f"{n_bins} bins of {time_per_bin:g} Lorenz time and a transient of {transient:g} take "
            f"{n_steps:.3g} integration steps; at most {_MOST_STEPS:.3g} are done",
            hint="Make max_step or lorenz_time_per_s larger, or transient shorter.",
        )
    check_set_size(
        {
            "n_conditions": n_conditions,
            "n_repeats": n_repeats,
            "n_bins": n_bins,
            "n_neurons": n_neurons,
        },
        n_rates=n_conditions * n_bins * n_neurons,
        n_counts=n_trials * n_bins * n_neurons,
        n_more=3 * n_conditions * (n_bins + ceil(transient / time_per_bin)),
    )
    rng = np.random.default_rng(seed)
    start_C3 = rng.standard_normal((n_conditions, 3)) * 10 + [0.0, 0.0, rho - 1.0]
    states_CT3 = _integrate(
        start_C3,
        (sigma, rho, beta),
        n_bins=n_bins,
        time_per_bin=time_per_bin,
        max_step=max_step,
        transient=transient,
    )
    if not np.isfinite(states_CT3).all():
        raise SettingsError(
            f"the Lorenz system diverged in steps of at most {max_step:g}",
            hint="Make max_step smaller.",
        )
    spread_3 = states_CT3.std(axis=(0, 1))
    # A system at rest (a small rho) has states without spread: they stay at zero.
    latents_CT3 = (states_CT3 - states_CT3.mean(axis=(0, 1))) / np.where(spread_3 > 0, spread_3, 1)

    readout_3N = rng.standard_normal((3, n_neurons))
    # Three products in a fixed order, not a BLAS call: the same file on every machine.
    x_CT1, y_CT1, z_CT1 = np.split(latents_CT3, 3, axis=-1)
    drive_CTN = x_CT1 * readout_3N[0] + y_CT1 * readout_3N[1] + z_CT1 * readout_3N[2]
    drive_std_N = drive_CTN.std(axis=(0, 1))
    drive_CTN = drive_CTN / np.where(drive_std_N > 0, drive_std_N, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # refused in the next line
        rates_CTN = base_rate_hz * bin_ms / 1000 * np.exp(log_rate_std * drive_CTN)
    check_highest_rate(float(rates_CTN.max()), "base_rate_hz, log_rate_std and bin_ms")

    conditions_B = np.repeat(np.arange(n_conditions), n_repeats)
    train, valid = split_trials(
        n_trials,
        valid_fraction=1 - train_fraction,
        seed=int(rng.integers(2**31)),
        conditions_B=conditions_B,
    )
    rates_BTN = rates_CTN[conditions_B]
    spikes_BTN = rng.poisson(rates_BTN)
    check_some_spikes(int(spikes_BTN.sum()), "base_rate_hz, log_rate_std and bin_ms")
    whole = SpikeData(
        spikes_BTN=compact_counts(spikes_BTN),
        bin_ms=bin_ms,
        lengths_B=np.full(n_trials, n_bins),
        rates_BTN=rates_BTN,
        conditions_B=conditions_B,
        latents_BTK=latents_CT3[conditions_B],
        trial_ids_B=np.arange(n_trials),
    )
    return Recording(
        train=whole.take(train), valid=whole.take(valid), source="lorenz", layout="synthetic"
    )


def _integrate(
    start_C3: NDArray[np.float64],
    parameters: tuple[float, float, float],
    *,
    n_bins: int,
    time_per_bin: float,
    max_step: float,
    transient: float,
) -> NDArray[np.float64]:
    """Return the states at the end of each bin, (conditions, bins, 3): Runge-Kutta of order 4."""
    sigma, rho, beta = parameters

    def slope(state_C3: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, z = state_C3.T
        return np.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], axis=1)

    steps_per_bin = ceil(time_per_bin / max_step)
    h = time_per_bin / steps_per_bin
    n_transient_bins = ceil(transient / time_per_bin)
    state_C3 = start_C3
    states = []
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for divergence
        for _ in range(n_transient_bins + n_bins):
            for _ in range(steps_per_bin):
                k1 = slope(state_C3)
                k2 = slope(state_C3 + h / 2 * k1)
                k3 = slope(state_C3 + h / 2 * k2)
                k4 = slope(state_C3 + h * k3)
                state_C3 = state_C3 + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            states.append(state_C3)
    return np.stack(states[n_transient_bins:], axis=1)
