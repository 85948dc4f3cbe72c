"""A synthetic recording session in place of yours: reaches to eight targets.

Not an example itself; three of them use it. It is one .npz file as a lab might have it, with
spike times in seconds, one value per trial for each event, and the hand with its own sample times.
"""

from pathlib import Path

import numpy as np

TRIAL_S = 2.0
HAND_STEP_S = 0.005


def write_session(file: Path, n_trials: int = 200, n_neurons: int = 30) -> Path:
    """Write the session.

    ============================  ===================  =====================================
    key                           shape                meaning
    ============================  ===================  =====================================
    ``spike_times``               spikes               seconds since the recording began
    ``spike_units``               spikes               neuron of each spike
    ``start_time``, ``go_cue``    trials               seconds, likewise
    ``target_deg``, ``success``   trials               condition; 1 for a correct reach
    ``hand_velocity``             samples x 2          cm/s
    ``hand_times``                samples              seconds, likewise
    ============================  ===================  =====================================
    """
    rng = np.random.default_rng(0)
    # The recording extends a second beyond the first and last trial.
    start_s_B = 1.0 + TRIAL_S * np.arange(n_trials)
    go_s_B = start_s_B + rng.uniform(0.5, 0.8, n_trials)
    target_deg_B = rng.permutation(np.arange(n_trials) % 8) * 45
    # Reaches to the same target differ in reaction time and speed. Averages over trials lose these
    # differences; single-trial rates keep them.
    onset_s_B = go_s_B + rng.uniform(0.12, 0.35, n_trials)
    width_s_B = rng.uniform(0.07, 0.13, n_trials)
    direction_B2 = np.stack([np.cos(np.radians(target_deg_B)), np.sin(np.radians(target_deg_B))], 1)

    time_s_T = np.arange(0.0, start_s_B[-1] + TRIAL_S + 1.0, HAND_STEP_S)
    reach_T2 = np.zeros((len(time_s_T), 2))  # direction x speed, up to about 1
    plan_T2 = np.zeros_like(reach_T2)
    for start, onset, width, direction in zip(
        start_s_B, onset_s_B, width_s_B, direction_B2, strict=True
    ):
        speed_T = 0.1 / width * np.exp(-0.5 * ((time_s_T - onset - 2 * width) / width) ** 2)
        reach_T2 += speed_T[:, None] * direction
        plan_T2[(time_s_T > start + 0.3) & (time_s_T < onset)] = direction

    # Each neuron prefers a direction of the reach, 100 ms ahead of the hand, and another direction
    # while the reach is planned. Both act on the logarithm of its rate.
    ahead_T2 = np.roll(reach_T2, -round(0.1 / HAND_STEP_S), axis=0)
    log_rate_TN = (
        np.log(rng.uniform(3, 12, n_neurons))
        + ahead_T2 @ rng.normal(0, 0.9, (2, n_neurons))
        + np.linalg.norm(ahead_T2, axis=1)[:, None] * rng.normal(0.3, 0.3, n_neurons)
        + plan_T2 @ rng.normal(0, 0.5, (2, n_neurons))
    )
    counts_TN = rng.poisson(np.exp(log_rate_TN) * HAND_STEP_S)
    steps, neurons = np.nonzero(counts_TN)
    n_each = counts_TN[steps, neurons]
    spike_s = np.repeat(time_s_T[steps], n_each) + rng.uniform(0, HAND_STEP_S, n_each.sum())
    order = np.argsort(spike_s)

    np.savez(
        file,
        spike_times=spike_s[order],
        spike_units=np.repeat(neurons, n_each)[order],
        start_time=start_s_B,
        go_cue=go_s_B,
        target_deg=target_deg_B,
        success=(rng.random(n_trials) < 0.95).astype(int),
        hand_velocity=40 * reach_T2,
        hand_times=time_s_T,
    )
    return file
