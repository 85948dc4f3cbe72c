"""The Neural Latents Benchmark from its public files to a checked and scored submission.

    python examples/nlb_from_scratch.py [NEW_FOLDER [SETTING=VALUE ...]]

Needs the extra ndt-cli[nlb] and nlb-tools; see "Installing" in the README. Downloads 30 MB into
nlb-data/, or uses the files there. Takes a few minutes on a laptop with the short settings below;
those of the paper (CONFIG = None) take hours on a GPU.
"""

import sys
from pathlib import Path

from ndt_cli import evaluate
from ndt_cli.errors import DataError
from ndt_cli.nlb.catalog import find_dataset
from ndt_cli.nlb.download import fetch, locate, public_path
from ndt_cli.nlb.submission import read_groups
from ndt_cli.nlb.submit import submit

DATASET = "mc_maze_small"  # 75 training trials of delayed reaches, 107 + 35 neurons
BIN_MS = 5  # the main track; 20 is the other
CONFIG = "nlb-quick"
MEMBERS = 2  # models with different seeds; the mean of their rates beats each of them


def main(folder: str = "nlb-example", *changes: str, data_dir: str = "nlb-data") -> None:
    """Fetch, train, write, check, score."""
    out = Path(folder)

    # 1. The public files, checked by their sha256 after the download. The train file has the train
    # and validation trials; the test file has only the held-in spikes of the test trials.
    dataset = find_dataset(DATASET)
    try:
        locate(dataset, Path(data_dir))
    except DataError:
        for file in dataset.files:
            fetch(file, public_path(dataset, file, Path(data_dir)))

    # 2. Train on the train split, and score on the validation split. The model sees the held-in
    # neurons; it predicts the held-out neurons (co-smoothing) and the next 200 ms of all neurons.
    # Make all choices on this split: phase="test" is for the final run, trained on both splits.
    result = submit(
        [DATASET],
        out=out,
        data_dir=Path(data_dir),
        bin_ms=BIN_MS,
        phase="val",
        config=CONFIG,
        members=MEMBERS,
        overrides=changes,
    )
    for finding in result.findings:
        print(f"{finding.severity}: {finding}")

    # 3. The benchmark's own metrics, computed by nlb_tools. A model no better than smoothing has
    # not learned how neurons covary. co-bps and fp-bps: bits per spike over the mean
    # rate; vel R2: hand velocity decoded from the rates; psth R2: match to condition averages.
    (made,) = result.datasets
    for estimate, scores in made.scores.items():
        print(f"{estimate}: {', '.join(f'{name} {v:.3f}' for name, v in scores.items())}")

    # 4. The rates as submitted: expected spikes per bin, trials x bins x neurons.
    rates = read_groups(result.file)[made.key]
    print(f"held-out rates of the validation trials: {rates['eval_rates_heldout'].shape}")

    # 5. Each member is an ordinary run, for evaluate, report and plot.
    for run, n_epochs in zip(made.runs, made.epochs, strict=True):
        heldout = evaluate(run).scores["NDT"].heldout
        print(f"{run}: best after {n_epochs} epochs, co-bps {heldout.bits_per_spike:.3f}")
    print(result.file)


# nlb_tools averages PSTHs in child processes, which import this file again on Windows and macOS:
# without this line they would train, too.
if __name__ == "__main__":
    main(*sys.argv[1:])
