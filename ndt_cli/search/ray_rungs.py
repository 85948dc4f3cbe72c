"""What a member scored at each rung where members are compared: ``rungs.json`` of its run folder.

At a rung the best checkpoint so far is measured as all members are at their end, with the bins
that the sweep's own settings hide: validation losses of members that train with different masks
cannot be compared (`ndt_cli.search.scoring`).
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError
from ndt_cli.search.scoring import run_scores
from ndt_cli.settings.tree import Settings

_FILE = "rungs.json"


def _number_or_nan(written: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    return math.nan if written is None else written


@dataclass(frozen=True)
class Rung:
    """A comparison of a member with the others.

    Parameters
    ----------
    epoch : int
        Epochs that were done.
    score : float
        Its best checkpoint by then, by the measure of ``train.choose_by``.
    """

    epoch: int
    score: Annotated[float, BeforeValidator(_number_or_nan)]


def read_rungs(run: Path) -> list[Rung]:
    """Return the rungs of a member, none for one that has not come to the first.

    Raises
    ------
    RunError
        When the file cannot be read, or holds something else.
    """
    if not (run / _FILE).is_file():
        return []
    content = RunFolder(run).read_json(_FILE)
    try:
        return TypeAdapter(list[Rung]).validate_python(content.get("rungs"))
    except ValidationError as error:
        raise RunError(
            f"{run / _FILE}: not whole ({error.errors()[0]['msg']})",
            "take it from a copy, or remove the member's folder to train it anew",
        ) from error


def write_rungs(run: Path, rungs: list[Rung]) -> None:
    """Write the rungs of a member."""
    RunFolder(run).write_json(_FILE, {"rungs": [asdict(rung) for rung in rungs]})


def score_so_far(run: Path, data: SpikeData, settings: Settings) -> float:
    """Measure a run's best checkpoint by the sweep's measure; NaN where there is none.

    Parameters
    ----------
    run : Path
        The member's run folder.
    data : SpikeData
        Validation trials.
    settings : Settings
        The sweep's, the same for all members.
    """
    choose_by = settings.train.choose_by
    if not RunFolder(run).checkpoint(f"best-{choose_by}").is_file():
        return math.nan
    return run_scores(run, data, settings).get(choose_by, math.nan)
