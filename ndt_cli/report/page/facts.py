"""What a run was trained on and how, as rows of two columns."""

from datetime import datetime

import numpy as np

from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.ensemble import Ensemble
from ndt_cli.report.drawn import count
from ndt_cli.report.run_contents import RunContents

Row = tuple[str, str]

_STOPPED = {
    "finished": "all epochs done",
    "early": "no improvement for train.patience_epochs",
    "interrupted": "interrupted",
}


def data_rows(run: RunContents) -> list[Row]:
    """Say what the data are and how the run went."""
    recording = run.recording
    train, valid = recording.train, recording.valid
    rows = [
        ("data", f"{recording.source} (layout: {recording.layout})"),
        ("trials", f"{train.n_trials} training, {valid.n_trials} validation"),
        ("bins", _bins(recording)),
        ("neurons", _neurons(train)),
        ("spikes", _spikes(recording)),
        ("conditions", _conditions(recording)),
        ("also known", _known(train)),
    ]
    return rows + training_rows(run)


def _bins(recording: Recording) -> str:
    lengths = np.concatenate([recording.train.lengths_B, recording.valid.lengths_B])
    shortest, longest, bin_ms = int(lengths.min()), int(lengths.max()), recording.train.bin_ms
    bins = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    text = f"{bins} a trial, of {bin_ms:g} ms (the longest trial: {longest * bin_ms:g} ms)"
    n_forward = recording.train.n_forward
    return f"{text}; the last {n_forward} are never seen" if n_forward else text


def _neurons(train: SpikeData) -> str:
    if not train.n_heldout:
        return str(train.n_neurons)
    return f"{train.n_neurons}, of which {train.n_heldout} are held out: never seen, only predicted"


def _spikes(recording: Recording) -> str:
    train = recording.train
    n_bins = max(int(train.inside_BT.sum()), 1)
    rates_hz_N = train.spikes_BTN.sum(axis=(0, 1)) / n_bins * 1000 / train.bin_ms
    return (
        f"{rates_hz_N.mean():.3g} Hz a neuron on average ({rates_hz_N.min():.2g} to "
        f"{rates_hz_N.max():.3g} Hz); at most {train.max_count} in a bin"
    )


def _conditions(recording: Recording) -> str:
    splits = (recording.train.conditions_B, recording.valid.conditions_B)
    known = [conditions_B for conditions_B in splits if conditions_B is not None]
    return str(len(np.unique(np.concatenate(known)))) if known else "none named"


def _known(train: SpikeData) -> str:
    known = {
        "true rates": train.rates_BTN,
        "latent states": train.latents_BTK,
        "behaviour": train.behaviour_BTV,
    }
    return ", ".join(name for name, array in known.items() if array is not None) or "nothing"


def training_rows(run: RunContents) -> list[Row]:
    """Say what was trained, how long, and where."""
    about, settings, summary = run.about, run.settings, run.summary
    rows = [("model", _model(run))]
    if run.is_ensemble:
        return rows
    done, most = len(run.history), settings.train.max_epochs
    stopped = str(summary.get("stopped", "finished" if done == most else "interrupted"))
    epochs = f"{done} of at most {most} epochs ({_STOPPED.get(stopped, stopped)})"
    seconds = summary.get("seconds") or (run.history[-1]["seconds"] if run.history else None)
    took = f" in {duration(float(seconds))}" if seconds else ""
    rows.append(("training", f"{epochs}{took}; begun {_moment(about['started'])}"))
    threads = count(about["n_threads"], "CPU thread")
    rows.append(("device", f"{about['device']}, {about['precision']}, {threads}"))
    checkpoint = run.trained.checkpoint
    best = summary.get("best", {}).get(checkpoint)
    when = f", of epoch {best['epoch']}" if best else ""
    rows.append(("weights", f"{checkpoint}{when}"))
    return rows


def _model(run: RunContents) -> str:
    trained = run.trained
    if isinstance(trained, Ensemble):
        return f"the mean of {count(len(trained.members), 'model')}"
    network, model = trained.network, trained.settings.model
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    context = network.context
    back, forward = (
        "all" if bins is None else f"{bins} bins" for bins in (context.back, context.forward)
    )
    return (
        f"{count(model.n_layers, 'layer')} of {count(model.n_heads, 'head')}, width "
        f"{network.embedding.width}, {n_parameters:,} parameters; a layer sees {back} before and "
        f"{forward} after"
    )


def _moment(started: str) -> str:
    """Return a time of ``run.json`` as people write it."""
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return started


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def member_rows(run: RunContents) -> list[Row]:
    """Say what an ensemble is made of; nothing for a run."""
    if not run.is_ensemble:
        return []
    members = run.folder.read_json("ensemble.json")["members"]
    return [(f"member {i}", f"{m.get('from', m['folder'])}") for i, m in enumerate(members)]
