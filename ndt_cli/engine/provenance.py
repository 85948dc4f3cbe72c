"""What made a run: versions, device, data."""

import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ndt_cli import __version__
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import Compute
from ndt_cli.engine.run_facts import SplitFacts

_PACKAGES = ("torch", "numpy", "scipy", "h5py", "pydantic", "safetensors")
_OF_NEURONS = {"neuron_ids_N", "neuron_names", "spikes_N"}  # said once, of the training trials


def describe_run(recording: Recording, compute: Compute, n_threads: int) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "ndt": __version__,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "device": str(compute.device),
        "precision": str(compute.dtype).removeprefix("torch."),
        "n_threads": n_threads,
        "data": {
            "source": recording.source,
            "layout": recording.layout,
            "notes": list(recording.notes),
            "train": SplitFacts.of(recording.train).model_dump(),
            "valid": SplitFacts.of(recording.valid).model_dump(exclude=_OF_NEURONS),
        },
    }


def package_version(name: str) -> str | None:
    """Return the version of a package as it was installed; None where it was not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
