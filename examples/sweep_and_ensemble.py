"""Search for settings, survive a stop, and average the best models.

    python examples/sweep_and_ensemble.py [NEW_FOLDER [SETTING=VALUE ...]]

Takes about two minutes. Random search and the mean of the best members' rates is how the published
ensembles of NDT on the Neural Latents Benchmark were made.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from ndt_cli import (
    choose_members,
    load_settings,
    load_trained,
    make_lorenz,
    resume_sweep,
    save_ensemble,
    sweep,
    write_recording,
)
from ndt_cli.engine.inference import hiding_folds
from ndt_cli.metrics import bits_per_spike, rate_scores
from ndt_cli.search.space import Space

# What is drawn for each member, by the names of the settings. Search what the size of your data
# decides: how fast to learn, and what keeps the model from learning trials by heart. The spaces of
# the paper ship with the package: `find_space("generic")`, `find_space("maze-rtt")`.
SPACE = {
    "train": {"learning_rate": {"log-uniform": [1e-3, 1e-2]}},
    "mask": {"ratio": {"uniform": [0.1, 0.4]}},
    "model": {
        "dropout": {"uniform": [0.0, 0.3]},
        "dropout_embedding": {"uniform": [0.0, 0.3]},
        "dropout_rates": {"uniform": [0.0, 0.3]},
        "context_back": {"integer": [4, 32]},
    },
}
N_MEMBERS = 6  # the paper draws 20; published ensembles of NDT average the best of 120


def main(folder: str = "sweep-example", *changes: str) -> None:
    """Search, go on, choose, and compare on trials that nothing was chosen by."""
    out = Path(folder)
    out.mkdir(parents=True)

    # The members are ranked by the validation trials, and how many of them are averaged is chosen
    # by these too. So half of them are put aside, for the comparison at the end.
    made = make_lorenz(n_conditions=40, n_repeats=10)
    halves = np.arange(made.valid.n_trials) % 2
    recording = replace(made, valid=made.valid.take(np.flatnonzero(halves == 0)))
    test = made.valid.take(np.flatnonzero(halves == 1))
    write_recording(recording, out / "spikes.h5")

    settings = load_settings(
        "lorenz-quick",
        [
            f"data.file={out / 'spikes.h5'}",
            "train.max_epochs=40",
            "train.patience_epochs=40",
            "model.n_layers=3",
            # Real recordings have no true rates to choose by. With held-out neurons, co-bps is a
            # better judge than the masked loss (data.heldout_fraction, train.choose_by=co-bps).
            "train.choose_by=masked-loss",
            *changes,
        ],
    )

    # 1. Half of the search, as if the night were over. Ctrl-C, a full disk or a power cut do the
    # same: members that are done are kept, the one under way goes on from its last checkpoint.
    ended = []

    def tell(member, results):
        ended.append(member)
        print(f"member {member.index}: loss on hidden bins {results.score(member):.4f}")

    sweep(
        settings,
        Space.from_tables("mine", SPACE),
        n_members=N_MEMBERS,
        out=out / "sweep",
        tell=tell,
        should_stop=lambda: len(ended) >= N_MEMBERS // 2,
    )

    # 2. The other half. Each member draws from a seed of its own, so the stop changes nothing.
    print("stopped; going on")
    results = resume_sweep(out / "sweep", tell=tell).results
    for member in results.ranked:
        drawn = ", ".join(f"{name.split('.')[1]} {v:.3g}" for name, v in member.drawn.items())
        print(f"{results.score(member):.4f}  member {member.index}: {drawn}")
    # Some members of any random search learn nothing. They are ranked last and never averaged
    # unless that helps.
    print(f"no better than the mean rate: {len(results.collapsed)} of {N_MEMBERS}")

    # 3. Average the best. The curve says what one more member brings.
    choice = choose_members(out / "sweep")
    print("loss of the best 1, 2, ... together:", ", ".join(f"{v:.4f}" for v in choice.curve))
    save_ensemble(choice.runs, out / "ensemble", settings=choice.settings)

    # 4. On the trials put aside. An ensemble is loaded, scored and drawn as a run is.
    folds_BTN = hiding_folds(test, settings)
    for name, path in (("best member", choice.runs[0]), ("ensemble", out / "ensemble")):
        model = load_trained(path)
        hidden_BTN = model.rates_while_hidden(test, folds_BTN)
        print(
            f"{name}: {bits_per_spike(hidden_BTN, test.spikes_BTN).bits_per_spike:.3f} bits per "
            f"spike on hidden bins, R2 {rate_scores(model.rates(test), test.rates_BTN).r2_mean:.3f}"
        )
    print(f"{out / 'sweep' / 'results.csv'}; {out / 'ensemble'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
