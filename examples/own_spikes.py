"""Rates for spikes that you hold as an array: save, check, fit, take the rates.

Run it as it is to see it work on made-up spikes, then put your own array in `load_spikes`.

    python examples/own_spikes.py
"""

from pathlib import Path

import numpy as np

from ndt_cli import load_settings
from ndt_cli.engine.inference import load_trained
from ndt_cli.fit import fit


def load_spikes() -> tuple[np.ndarray, float]:
    """Return spike counts (trials, bins, neurons) and the bin width in ms."""
    rng = np.random.default_rng(0)
    time_s = np.arange(40) * 0.02
    phase_B = rng.uniform(0, 2 * np.pi, 60)
    preferred_N = rng.uniform(0, 2 * np.pi, 12)
    phase_BTN = phase_B[:, None, None] + 2 * np.pi * 1.5 * time_s[:, None] + preferred_N
    rates_hz = 20 * np.exp(np.cos(phase_BTN))
    return rng.poisson(rates_hz * 0.02), 20.0


def main(folder: Path, max_epochs: int = 60) -> np.ndarray:
    """Fit a model in `folder` and return rates_hz (trials, bins, neurons) of all trials."""
    folder.mkdir(parents=True, exist_ok=True)
    spikes_BTN, bin_ms = load_spikes()
    file = folder / "spikes.npz"
    np.savez(file, spikes=spikes_BTN, bin_ms=bin_ms)  # conditions=... keeps the split balanced

    settings = load_settings(
        "lorenz-quick",
        [f"data.file={file}", f"train.max_epochs={max_epochs}", "train.patience_epochs=1000"],
    )
    result = fit(settings, out=folder / "run")
    scores = result.evaluation.scores
    for name, score in scores.items():
        print(f"{name}: {score.hidden.bits_per_spike:.3f} bits per spike on hidden bins")

    model = load_trained(folder / "run")
    rates_per_bin = model.rates(result.evaluation.data)  # validation trials
    return rates_per_bin * 1000 / bin_ms


if __name__ == "__main__":
    rates_hz = main(Path("own_spikes_example"))
    print(f"rates_hz: {rates_hz.shape}, {rates_hz.min():.1f} to {rates_hz.max():.1f} Hz")
