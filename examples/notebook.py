"""Rates of an array of spike counts, cell by cell, for a notebook or an editor that knows cells.

Jupyter (with jupytext), VS Code, Spyder and PyCharm run each part below a `# %%` as a cell. As a
script it takes about a minute:

    python examples/notebook.py
"""

# %% Spike counts, trials x bins x neurons. These are synthetic, so that the true rates are known.
import matplotlib.pyplot as plt
import numpy as np

from ndt_cli import NDT, make_lorenz

recording = make_lorenz(n_conditions=10, n_repeats=20)
spikes, new_spikes = recording.train.spikes_BTN, recording.valid.spikes_BTN
bin_ms = recording.train.bin_ms
print(f"{len(spikes)} trials x {spikes.shape[1]} bins x {spikes.shape[2]} neurons")

# %% A model. A fifth of the trials is held back to choose the best weights, and for the verdict.
ndt = NDT(bin_ms=bin_ms, settings={"train.max_steps": 400, "train.warmup_steps": 50}, seed=0)
ndt.fit(spikes)
print(ndt.summary_["evaluation"]["verdict"]["sentence"])

# %% The last expression of a cell is shown: for a fitted model, the verdict and its scores.
ndt  # noqa: B018

# %% Bits per spike of trials that it has never seen, each count predicted while it is hidden.
print(f"new trials: {ndt.score(new_spikes):.3f} bits/spike")

# %% Rates in spikes per second, arranged as the counts. Lists of trials of unequal length work too.
rates_hz = ndt.rates(new_spikes)
short = ndt.rates([new_spikes[0], new_spikes[1][:20]])
print(rates_hz.shape, [trial.shape for trial in short])

# %% Beside the true rates, for one trial.
trial, neuron = 0, int(np.argmax(new_spikes[0].sum(axis=0)))
times_ms = np.arange(spikes.shape[1]) * bin_ms
figure, panel = plt.subplots(figsize=(5, 2.5))
panel.plot(times_ms, recording.valid.rates_BTN[trial, :, neuron] * 1000 / bin_ms, label="true")
panel.plot(times_ms, rates_hz[trial, :, neuron], label="NDT")
panel.set(xlabel="time (ms)", ylabel="rate (spikes/s)", title=f"neuron {neuron}")
panel.legend(frameon=False)

# %% Keep the model, and load it again. A pickle works too; a run folder with figures: NDT(out=...).
# ndt.save("models/lorenz"); ndt = NDT.load("models/lorenz")
