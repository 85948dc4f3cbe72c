"""Search for settings, interrupt and resume the search, and average the best models.

    python examples/sweep_and_ensemble.py [NEW_FOLDER [SETTING=VALUE ...]]

Takes about two minutes. The published ensembles of NDT on the Neural Latents Benchmark were made
in this way: random search, then the mean rates of the best members.
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
from ndt_cli.search.loop import Watching
from ndt_cli.search.space import Space

# The settings that are drawn for each member. Search those that depend on the size of your data:
# the learning rate, and what prevents overfitting. The search spaces of the paper are included:
# `find_space("generic")`, `find_space("maze-rtt")`.
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
    """Search, resume, choose, and compare on trials that no choice depends on."""
    out = Path(folder)
    out.mkdir(parents=True)

    # Validation trials rank the members and decide how many are averaged. So half of them are set
    # aside for the comparison at the end.
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
            # better measure than the masked loss (data.heldout_fraction, train.choose_by=co-bps).
            "train.choose_by=masked-loss",
            *changes,
        ],
    )

    # 1. Half of the search. After Ctrl-C, a full disk or a power cut it is the same: finished
    # members are kept, and the current one resumes from its last checkpoint.
    ended = []

    def tell(member, results):
        ended.append(member)
        print(f"member {member.index}: loss on hidden bins {results.score(member):.4f}")

    sweep(
        settings,
        Space.from_tables("mine", SPACE),
        n_members=N_MEMBERS,
        out=out / "sweep",
        watching=Watching(ended=tell),
        default_run=False,
        should_stop=lambda: len(ended) >= N_MEMBERS // 2,
    )

    # 2. The other half. Each member has its own seed, so the interruption changes no result.
    print("stopped; resuming")
    results = resume_sweep(out / "sweep", watching=Watching(ended=tell)).results
    for member in results.ranked:
        drawn = ", ".join(f"{name.split('.')[1]} {v:.3g}" for name, v in member.drawn.items())
        print(f"{results.score(member):.4f}  member {member.index}: {drawn}")
    # In any random search, some members learn nothing. They are ranked last.
    print(f"no better than the mean rate: {len(results.collapsed)} of {N_MEMBERS}")

    # 3. Average the best. The curve shows what each further member adds.
    choice = choose_members(out / "sweep")
    print("loss of the best 1, 2, ... together:", ", ".join(f"{v:.4f}" for v in choice.curve))
    save_ensemble(choice.runs, out / "ensemble", settings=choice.settings)

    # 4. Compare on the trials set aside. An ensemble is loaded, scored and drawn like a run.
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
