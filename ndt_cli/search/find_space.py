"""Where spaces come from: those that ship with the package, and a user's own files."""

from importlib.resources import files
from pathlib import Path

from ndt_cli.errors import SettingsError, nearest
from ndt_cli.search.space import Space
from ndt_cli.settings.load import ConfigSource, parse_config, read_toml_text

DEFAULT_SPACE = "generic"

# The presets of the Neural Latents Benchmark have spaces of their own (Ye & Pandarinath 2021);
# the ablations are of mc_maze, and the short runs search near what they found. Everything else
# takes the generic one.
SPACE_OF_PRESET = {
    "chaotic-rnn-quick": "quick",
    "lorenz-quick": "quick",
    "nlb-quick": "nlb-quick",
    "mc_maze": "maze-rtt",
    "mc_maze_large": "maze-rtt",
    "mc_maze_medium": "maze-rtt",
    "mc_maze_small": "maze-rtt",
    "mc_rtt": "maze-rtt",
    "ablation-low-dropout": "maze-rtt",
    "ablation-mask-token": "maze-rtt",
    "ablation-no-span": "maze-rtt",
    "ablation-postnorm": "maze-rtt",
    "ablation-rates": "maze-rtt",
    "area2_bump": "area2_bump",
    "dmfc_rsg": "dmfc_rsg",
}


def space_names() -> list[str]:
    """Return the shipped spaces, the default first."""
    names = [
        entry.name.removesuffix(".toml")
        for entry in files("ndt_cli.search").joinpath("spaces").iterdir()
        if entry.name.endswith(".toml")
    ]
    return sorted(names, key=lambda name: (name != DEFAULT_SPACE, name))


def space_text(name: str) -> str:
    """Return the TOML text of a shipped space; its first line is a comment that says what it is."""
    path = files("ndt_cli.search").joinpath("spaces", f"{name}.toml")
    return path.read_text(encoding="utf-8")


def default_space(preset: str) -> str:
    """Return the shipped space for a preset, a benchmark data set, or a config file's stem."""
    return SPACE_OF_PRESET.get(preset, DEFAULT_SPACE)


def find_space(space: str | Path) -> Space:
    """Return the space that ``--space`` means: the file if it exists, else the shipped one.

    Parameters
    ----------
    space : str or Path
        A TOML file, or a shipped space's name.

    Raises
    ------
    SettingsError
        When there is neither, or the file is no space.

    Examples
    --------
    >>> space = find_space("generic")
    >>> space.draws["train.learning_rate"]
    LogUniform(low=1e-05, high=0.005)
    >>> list(space.draw(seed=0, member=3))[:2]
    ['model.dropout', 'model.dropout_embedding']
    """
    path = Path(space).expanduser()
    name = str(space)
    if path.is_file():
        return read_space(path, name)
    stem = name.removesuffix(".toml")
    if stem in space_names():
        source = ConfigSource(stem, "file", space_text(stem), None)
        return Space.from_tables(stem, parse_config(source))
    close = nearest(path.stem, space_names())
    suggestion = f"; did you mean the space {close}?" if close else ""
    raise SettingsError(
        f"there is no file {name}, and no space of that name{suggestion}",
        "List the spaces with: ndt sweep spaces",
    )


def read_space(path: Path, name: str) -> Space:
    """Read a space's file; ``name`` is what messages call it.

    Raises
    ------
    SettingsError
        When it is no text, no TOML, or no space.
    """
    hint = "--space takes a TOML file or a space's name (see: ndt sweep spaces)"
    text = read_toml_text(path, "a space", hint)
    return Space.from_tables(name, parse_config(ConfigSource(name, "file", text, path)))
