"""NDT: single-trial firing rates from spike counts, by masked modeling.

The package is used from the command line (``ndt --help``) and from Python::

    from ndt_cli import load_settings
    from ndt_cli.fit import fit

    result = fit(load_settings("lorenz-quick"), out="runs/first")
    result.evaluation.scores["NDT"].hidden.bits_per_spike

What a notebook needs is at hand here, or in the modules ``baselines``, ``convert``, ``fit`` and
``metrics``. Importing the package loads neither torch nor matplotlib: those come with the first
name that needs them.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt_cli import baselines, convert, fit, metrics
    from ndt_cli.data.chaotic_rnn import make_chaotic_rnn
    from ndt_cli.data.describe import describe_file
    from ndt_cli.data.loading import load_recording
    from ndt_cli.data.lorenz import make_lorenz
    from ndt_cli.data.spike_data import Recording, SpikeData, all_trials
    from ndt_cli.data.write import write_recording
    from ndt_cli.engine.ensembles import save_ensemble
    from ndt_cli.engine.inference import load_trained
    from ndt_cli.engine.training import resume, train
    from ndt_cli.evaluation import evaluate
    from ndt_cli.rates_file import write_rates
    from ndt_cli.report.page.write_report import write_report
    from ndt_cli.search.choose import choose_members
    from ndt_cli.search.loop import resume_sweep, sweep
    from ndt_cli.search.space import find_space
    from ndt_cli.settings.load import load_settings

try:
    __version__ = version("ndt-cli")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

# Where each public name lives; read on first use, so that `import ndt_cli` stays light. None may
# be that of a module beside this file: whoever imports the module puts it in the name's place.
_HOMES = {
    "Recording": "ndt_cli.data.spike_data",
    "SpikeData": "ndt_cli.data.spike_data",
    "all_trials": "ndt_cli.data.spike_data",
    "choose_members": "ndt_cli.search.choose",
    "describe_file": "ndt_cli.data.describe",
    "evaluate": "ndt_cli.evaluation",
    "find_space": "ndt_cli.search.space",
    "load_recording": "ndt_cli.data.loading",
    "load_settings": "ndt_cli.settings.load",
    "load_trained": "ndt_cli.engine.inference",
    "make_chaotic_rnn": "ndt_cli.data.chaotic_rnn",
    "make_lorenz": "ndt_cli.data.lorenz",
    "resume": "ndt_cli.engine.training",
    "resume_sweep": "ndt_cli.search.loop",
    "save_ensemble": "ndt_cli.engine.ensembles",
    "sweep": "ndt_cli.search.loop",
    "train": "ndt_cli.engine.training",
    "write_rates": "ndt_cli.rates_file",
    "write_recording": "ndt_cli.data.write",
    "write_report": "ndt_cli.report.page.write_report",
}
_MODULES = ("baselines", "convert", "fit", "metrics")
__all__ = [
    "Recording",
    "SpikeData",
    "__version__",
    "all_trials",
    "baselines",
    "choose_members",
    "convert",
    "describe_file",
    "evaluate",
    "find_space",
    "fit",
    "load_recording",
    "load_settings",
    "load_trained",
    "make_chaotic_rnn",
    "make_lorenz",
    "metrics",
    "resume",
    "resume_sweep",
    "save_ensemble",
    "sweep",
    "train",
    "write_rates",
    "write_recording",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"ndt_cli.{name}")
    raise AttributeError(f"module 'ndt_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    # A notebook completes names by this list.
    return sorted({*globals(), *__all__})
