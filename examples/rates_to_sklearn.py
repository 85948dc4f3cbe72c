"""Rates in scikit-learn: decode hand velocity and target, and plot neural trajectories.

    python examples/rates_to_sklearn.py [NEW_FOLDER [SETTING=VALUE ...]]

Needs scikit-learn: pip install scikit-learn. Takes half a minute. Everything is
decoded from smoothed spikes too, which shows what the model adds.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from made_up_session import write_session
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ndt_cli import load_settings, load_trained, train
from ndt_cli.baselines import Smoother
from ndt_cli.convert import ConvertOptions, convert

BEFORE_MS, AFTER_MS, BIN_MS = 200, 700, 20  # around the go cue
LAG_MS = 100  # motor cortex leads the hand by about this much


def main(folder: str = "sklearn-example", *changes: str) -> None:
    """Train, decode, draw."""
    out = Path(folder)
    out.mkdir(parents=True)

    # 1. A model of the session; `own_spikes.py` explains these options.
    options = ConvertOptions(
        bin_ms=BIN_MS,
        align="go_cue",
        window_ms=(-BEFORE_MS, AFTER_MS),
        where=("success == 1",),
        condition=("target_deg",),
        behavior=("hand_velocity",),
        behavior_times="hand_times",
    )
    recording = convert(write_session(out / "session.npz"), options).recording
    settings = load_settings(
        "lorenz-quick",
        [
            "train.max_epochs=150",
            "train.patience_epochs=150",
            "model.dropout=0.2",
            "model.dropout_embedding=0.2",
            "model.dropout_rates=0.2",
            *changes,
        ],
    )
    train(settings, out=out / "run", recording=recording)

    # 2. Rates of each estimate, trials x bins x neurons, in spikes per second. The decoders below
    # are fitted to the training trials and scored on the validation trials. The model used
    # those only to choose its checkpoint.
    model = load_trained(out / "run")
    # A fair comparison: of widths from 30 to 110 ms, this one decodes the hand best here. By
    # default, `Smoother.fit` chooses the width of the highest likelihood.
    smoother = Smoother.fit(recording.train, [80])
    estimates = {"NDT": model.rates, f"smoothed ({smoother.width_ms:.0f} ms)": smoother.rates}
    fitted, scored = recording.train, recording.valid
    rates = {
        name: [infer(data) * 1000 / BIN_MS for data in (fitted, scored)]
        for name, infer in estimates.items()
    }

    # 3. Hand velocity from earlier rates of all neurons. Neighboring bins of a trial are nearly
    # identical, so fit and score on different trials, never on different bins of the same ones.
    lag = LAG_MS // BIN_MS
    for name, (fitted_BTN, scored_BTN) in rates.items():
        decoder = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
        decoder.fit(pooled(fitted_BTN[:, :-lag]), pooled(fitted.behavior_BTV[:, lag:]))
        r2 = decoder.score(pooled(scored_BTN[:, :-lag]), pooled(scored.behavior_BTV[:, lag:]))
        print(f"{name}: hand velocity, R2 {r2:.3f}")

    # 4. Which of the eight targets, from a single bin at a fixed time. Chance is 1 in 8. Before a
    # reach begins, the plan carries this information.
    times_ms = np.array([0, 100, 200, 300, 400, 500])
    print(f"target from one bin, at {', '.join(map(str, times_ms))} ms after the go cue:")
    for name, (fitted_BTN, scored_BTN) in rates.items():
        right = []
        for at in (BEFORE_MS + times_ms) // BIN_MS:
            decoder = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            decoder.fit(fitted_BTN[:, at], fitted.conditions_B)
            right.append(decoder.score(scored_BTN[:, at], scored.conditions_B))
        print(f"{name}: {', '.join(f'{share:.2f}' for share in right)} correct")

    # 5. Single trials along the first two principal components of the model's rates. The square
    # root keeps neurons with high rates from dominating.
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.6), sharex=True, sharey=True)
    pca = PCA(2).fit(pooled(np.sqrt(rates["NDT"][0])))
    targets = np.unique(scored.conditions_B)
    for panel, (name, (_, scored_BTN)) in zip(panels, rates.items(), strict=True):
        for trial_TN, target in zip(scored_BTN, scored.conditions_B, strict=True):
            path_TP = pca.transform(np.sqrt(trial_TN))
            color = plt.cm.hsv(np.searchsorted(targets, target) / len(targets))
            panel.plot(path_TP[:, 0], path_TP[:, 1], color=color, linewidth=0.7)
        panel.set(title=f"{name}, {scored.n_trials} trials", xlabel="component 1")
    panels[0].set_ylabel("component 2")
    figure.suptitle("Single reaches, colored by target")
    figure.tight_layout()
    figure.savefig(out / "trajectories.png", dpi=150)
    plt.close(figure)
    print(out / "trajectories.png")


def pooled(values_BTK: np.ndarray) -> np.ndarray:
    """Stack the bins of all trials as samples for scikit-learn."""
    return values_BTK.reshape(-1, values_BTK.shape[2])


if __name__ == "__main__":
    main(*sys.argv[1:])
