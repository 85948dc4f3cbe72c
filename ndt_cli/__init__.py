"""NDT: single-trial firing rates from spike counts, by masked modeling.

The package is used from the command line (``ndt``) and from Python::

    from ndt_cli import NDT

    rates_hz = NDT().fit(spikes, bin_ms=20).rates(spikes)

The names below are the public ones, with those of ``baselines``, ``convert`` and ``metrics``.
Importing the package loads neither torch nor matplotlib: each name is imported on first use.
"""

import logging
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("ndt-cli")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

# Silent unless the program that imports the package asks for its log messages.
logging.getLogger("ndt_cli").addHandler(logging.NullHandler())

# The module of each public name; None for a subpackage. No name may be that of another module
# beside this file: importing the module would replace the name.
_MODULES = {
    "NDT": "estimator",
    "Evaluation": "evaluation",
    "Fit": "fitting",
    "Rates": "inferred_rates",
    "Recording": "data.spike_data",
    "Settings": "settings.tree",
    "SpikeData": "data.spike_data",
    "all_trials": "data.spike_data",
    "baselines": None,
    "choose_members": "search.choose",
    "compare_runs": "comparing",
    "convert": None,
    "describe_file": "data.describe",
    "evaluate": "evaluation",
    "find_space": "search.space",
    "fit": "fitting",
    "fit_seeds": "seeds",
    "import_ndt1": "ndt1.importing",
    "infer_rates": "inferred_rates",
    "load_recording": "data.loading",
    "load_settings": "settings.load",
    "load_trained": "engine.inference",
    "make_chaotic_rnn": "data.synthetic",
    "make_lorenz": "data.synthetic",
    "metrics": None,
    "plot": "report.registry",
    "resume": "engine.training",
    "resume_fit": "fitting",
    "resume_seeds": "seeds",
    "resume_sweep": "search.loop",
    "save_ensemble": "engine.ensembles",
    "sweep": "search.loop",
    "train": "engine.training",
    "write_rates": "rates_file",
    "write_recording": "data.write",
    "write_report": "report.page",
}

__all__ = ["__version__", *_MODULES]

# The same for type checkers, which do not run this file; a test compares the two.
if TYPE_CHECKING:
    from ndt_cli import baselines as baselines
    from ndt_cli import convert as convert
    from ndt_cli import metrics as metrics
    from ndt_cli.comparing import compare_runs as compare_runs
    from ndt_cli.data.describe import describe_file as describe_file
    from ndt_cli.data.loading import load_recording as load_recording
    from ndt_cli.data.spike_data import Recording as Recording
    from ndt_cli.data.spike_data import SpikeData as SpikeData
    from ndt_cli.data.spike_data import all_trials as all_trials
    from ndt_cli.data.synthetic import make_chaotic_rnn as make_chaotic_rnn
    from ndt_cli.data.synthetic import make_lorenz as make_lorenz
    from ndt_cli.data.write import write_recording as write_recording
    from ndt_cli.engine.ensembles import save_ensemble as save_ensemble
    from ndt_cli.engine.inference import load_trained as load_trained
    from ndt_cli.engine.training import resume as resume
    from ndt_cli.engine.training import train as train
    from ndt_cli.estimator import NDT as NDT
    from ndt_cli.evaluation import Evaluation as Evaluation
    from ndt_cli.evaluation import evaluate as evaluate
    from ndt_cli.fitting import Fit as Fit
    from ndt_cli.fitting import fit as fit
    from ndt_cli.fitting import resume_fit as resume_fit
    from ndt_cli.inferred_rates import Rates as Rates
    from ndt_cli.inferred_rates import infer_rates as infer_rates
    from ndt_cli.ndt1.importing import import_ndt1 as import_ndt1
    from ndt_cli.rates_file import write_rates as write_rates
    from ndt_cli.report.page import write_report as write_report
    from ndt_cli.report.registry import plot as plot
    from ndt_cli.search.choose import choose_members as choose_members
    from ndt_cli.search.loop import resume_sweep as resume_sweep
    from ndt_cli.search.loop import sweep as sweep
    from ndt_cli.search.space import find_space as find_space
    from ndt_cli.seeds import fit_seeds as fit_seeds
    from ndt_cli.seeds import resume_seeds as resume_seeds
    from ndt_cli.settings.load import load_settings as load_settings
    from ndt_cli.settings.tree import Settings as Settings


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ndt_cli' has no attribute {name!r}")
    module = _MODULES[name]
    if module is None:
        return import_module(f"ndt_cli.{name}")
    return getattr(import_module(f"ndt_cli.{module}"), name)


def __dir__() -> list[str]:  # for completion in notebooks
    return sorted({*globals(), *__all__})
