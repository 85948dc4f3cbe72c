"""Figures of a run: the page of a run, its figures in your format, and one of your own.

    python examples/figures.py RUN NEW_FOLDER

RUN is any run folder, such as own-spikes-example/run. `ndt report` and `ndt plot` make the first
two without a script.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ndt_cli import write_report
from ndt_cli.errors import DataError
from ndt_cli.report.figures import save_figure
from ndt_cli.report.registry import RunContents, draw


def main(run: str, folder: str = "figures-example") -> None:
    """Draw a run."""
    out = Path(folder)
    out.mkdir(parents=True)

    # 1. Everything on one page, to look through and to send: one file, no network needed.
    print(write_report(run, out / "report.html"))

    # 2. Some of its figures by themselves, at the width of two journal columns, with the text for
    # a caption. `ndt plot --help` lists them all. A run without conditions has no figure of
    # them.
    contents = RunContents(run)
    for name in ("rates", "conditions"):
        try:
            drawn = draw(contents, name)
        except DataError as error:
            print(f"{name}: {error.message}")
            continue
        save_figure(drawn.figure, out / f"{name}.pdf")
        print(f"{out / name}.pdf: {drawn.caption}")

    # 3. One of your own. All arrays behind the figures are here, of the validation trials: counts
    # and rates are trials x bins x neurons. Shown is the neuron whose rate varies most for its
    # mean, trials in the order in which it peaks: single spikes can hardly be sorted so.
    evaluation = contents.evaluation
    data = evaluation.data
    neurons = data.file_order_N  # in memory, neurons that are held out stand last
    spikes_BTN = data.spikes_BTN[:, :, neurons]
    rates_hz = evaluation.rates_BTN[:, :, neurons] * 1000 / data.bin_ms
    rates_hz = np.where(data.inside_BT[:, :, None], rates_hz, np.nan)  # no rates past a trial's end
    spread_N = np.nanvar(rates_hz, axis=(0, 1)) / np.nanmean(rates_hz, axis=(0, 1))
    neuron = int(spread_N.argmax())
    order = np.nanargmax(rates_hz[:, :, neuron], axis=1).argsort(kind="stable")

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3), sharey=True)
    extent = (0, data.n_bins * data.bin_ms, data.n_trials, 0)
    left.imshow(
        spikes_BTN[order, :, neuron], aspect="auto", extent=extent, cmap="Grays",
        interpolation="nearest",
    )  # fmt: skip
    shown = right.imshow(
        rates_hz[order, :, neuron], aspect="auto", extent=extent, interpolation="nearest"
    )
    left.set(title=f"spikes of neuron {neuron}", xlabel="time (ms)", ylabel="trial")
    right.set(title="inferred rate", xlabel="time (ms)")
    figure.colorbar(shown, label="spikes / s")
    figure.tight_layout()
    figure.savefig(out / "one-neuron.png", dpi=150)
    plt.close(figure)
    print(out / "one-neuron.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
