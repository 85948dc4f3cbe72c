"""From spike times and events to single-trial firing rates of your own recording.

    python examples/own_spikes.py [NEW_FOLDER [SETTING=VALUE ...]]

Run it unchanged first: it makes a synthetic session of reaches and takes half a minute. Then
replace the synthetic file by your own, and the names in `ConvertOptions` by its names. Spike
times in memory can be saved as in `made_up_session.py`.
"""

import sys
from pathlib import Path

from made_up_session import write_session

from ndt_cli import (
    describe_file,
    fit,
    infer_rates,
    load_settings,
    write_rates,
    write_recording,
)
from ndt_cli.convert import ConvertOptions, convert, list_contents


def main(folder: str = "own-spikes-example", *changes: str) -> None:
    """Convert, check, fit, and write the rates of all trials."""
    out = Path(folder)
    out.mkdir(parents=True)

    # 1. What is in the file? `ConvertOptions` below takes these names. NWB, MATLAB, HDF5 and
    # CSV files are read in the same way.
    session = write_session(out / "session.npz")
    print(f"{session} holds")
    for entry in list_contents(session).entries:
        print(f"  {entry.name:14} {entry.shape!s:12} {entry.values}")

    # 2. Trials of spike counts. Bins of 10 to 20 ms suit most recordings: narrower bins
    # hold few spikes and make long trials, wider ones lose fast changes.
    options = ConvertOptions(
        bin_ms=20,
        align="go_cue",
        window_ms=(-200, 700),
        where=("success == 1",),  # error trials may follow other dynamics
        condition=("target_deg",),  # keeps the targets in proportion in training and validation
        min_rate_hz=0.5,  # too few spikes to learn from
        behavior=("hand_velocity",),  # for decoding from the rates; never seen by the model
        behavior_times="hand_times",
    )
    converted = convert(session, options)
    for dropped in converted.report.dropped:
        print(f"left out: {dropped.n} of {dropped.n_all} {dropped.what}: {dropped.why}")
    spikes = out / "reaches.npz"
    write_recording(converted.recording, spikes)

    # 3. Is anything unusual about the data? Look here first when a fit is poor.
    settings = load_settings(
        "lorenz-quick",
        [
            f"data.file={spikes}",
            "train.max_epochs=150",
            "train.patience_epochs=150",  # no early stop: the learning rate falls until the end
            # A few hundred trials are easily overfitted. If the masked loss of the validation
            # trials rises again (figures/training.png), use more dropout.
            "model.dropout=0.2",
            "model.dropout_embedding=0.2",
            "model.dropout_rates=0.2",
            *changes,
        ],
    )
    report = describe_file(spikes, settings.data)
    for split in report.splits:
        print(
            f"{split.name}: {split.n_trials} trials x {split.n_bins} bins x {split.n_neurons} "
            f"neurons, {split.mean_rate_hz:.1f} Hz"
        )
    for warning in report.warnings:
        print(f"look at this: {warning}")

    # 4. Train, and score on the validation trials. Compare models by `hidden`, where each count is
    # predicted while it is hidden. With nothing hidden, smoothing copies the spikes it predicts.
    result = fit(settings, out=out / "run")
    for name, scores in result.evaluation.scores.items():
        print(f"{name}: {scores.hidden.bits_per_spike:.3f} bits per spike on hidden bins")

    # 5. Rates of all trials, in the order of the session. This includes the training trials, so
    # compare models on the validation trials only.
    rates = infer_rates(out / "run")
    write_rates(out / "rates.h5", rates)  # or .mat, .nwb, .csv, ...
    rates_hz = rates.rates_hz_BTN
    print(f"rates of {rates_hz.shape} trials, bins, neurons: up to {rates_hz.max():.0f} Hz")
    print(f"{out / 'rates.h5'}; pictures in {out / 'run' / 'figures'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
