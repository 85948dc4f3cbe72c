"""NDT: single-trial firing rates from spike counts, by masked modelling.

The package is used from the command line (``ndt --help``) and from Python::

    from ndt_cli import load_settings, train
    result = train(load_settings("lorenz-quick"), out="runs/first")

Importing it loads neither torch nor matplotlib: those come with the first call
that needs them.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt_cli.data.load import load_recording
    from ndt_cli.engine.train import train
    from ndt_cli.evaluation import evaluate
    from ndt_cli.settings.load import load_settings

try:
    __version__ = version("ndt-cli")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

# Where each public name lives; read on first use, so that `import ndt_cli` stays light.
_HOMES = {
    "evaluate": "ndt_cli.evaluation",
    "load_recording": "ndt_cli.data.load",
    "load_settings": "ndt_cli.settings.load",
    "train": "ndt_cli.engine.train",
}
__all__ = ["__version__", "evaluate", "load_recording", "load_settings", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ndt_cli' has no attribute {name!r}")
