"""Settings for a benchmark data set at one bin width."""

from collections.abc import Sequence

from ndt_cli.nlb.catalogue import find_dataset
from ndt_cli.settings.load import load_settings
from ndt_cli.settings.tree import Settings

# The best here by measurement, on files of every set: see "Benchmark part" in the README. The
# presets named after the sets are the paper's, for many hours on a GPU.
DEFAULT_CONFIG = "nlb-quick"


def dataset_settings(
    name: str, bin_ms: int, config: str | None, overrides: Sequence[str]
) -> Settings:
    """Return the settings for a data set; those of `DEFAULT_CONFIG` without a config.

    A config counts its context window in bins of its ``data.file_bin_ms`` (5 in the presets). For
    other bins the window is scaled, so that it stays the same in time; an override still wins.

    Raises
    ------
    SettingsError
        When there is no such data set, or the config will not do.
    """
    find_dataset(name)
    source = config or DEFAULT_CONFIG
    base = load_settings(source)
    scale = (base.data.file_bin_ms or bin_ms) / bin_ms
    windows = {
        "context_back": base.model.context_back,
        "context_forward": base.model.context_forward,
    }
    scaled = [
        f"model.{field}={max(1, round(bins * scale))}"
        for field, bins in windows.items()
        if bins > 0 and scale != 1
    ]
    return load_settings(source, [*scaled, "train.choose_by=co-bps", *overrides])
