"""What made a run: versions, device, data."""

import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ndt_cli import __version__
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.device import Compute

_PACKAGES = ("torch", "numpy", "scipy", "h5py", "pydantic", "safetensors")


def describe_run(recording: Recording, compute: Compute, n_threads: int) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "ndt": __version__,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": str(compute.device),
        "precision": str(compute.dtype).removeprefix("torch."),
        "n_threads": n_threads,
        "data": {
            "source": recording.source,
            "layout": recording.layout,
            "notes": list(recording.notes),
            "train": describe_split(recording.train),
            "valid": describe_split(recording.valid),
        },
    }


def describe_split(data: SpikeData) -> dict[str, Any]:
    """Return what identifies a split."""
    return {
        "n_trials": data.n_trials,
        "n_bins": data.n_bins,
        "n_neurons": data.n_neurons,
        "n_heldout": data.n_heldout,
        "n_forward": data.n_forward,
        "bin_ms": data.bin_ms,
        "fingerprint": data.fingerprint,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
