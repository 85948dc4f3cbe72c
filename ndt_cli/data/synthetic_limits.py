"""What a synthetic set may be asked for: numbers that exist, and sizes that fit."""

from ndt_cli.data.checks import MAX_COUNT
from ndt_cli.errors import SettingsError
from ndt_cli.memory import check_memory
from ndt_cli.settings.tree import MAX_BIN_MS, MIN_BIN_MS

_BYTES = 8  # of a float64
_LARGEST = 1e9


def check_numbers(**arguments: float) -> None:
    """Refuse arguments that are not finite, or so large that computing with them is not.

    Raises
    ------
    SettingsError
        The first one that is not, by its name.
    """
    for name, value in arguments.items():
        if not abs(value) <= _LARGEST:
            raise SettingsError(f"{name} is {value:g}; it must be a number of at most {_LARGEST:g}")


def check_bin_width(name: str, value: float, bin_ms: float) -> None:
    """Refuse a bin width that no data have.

    Raises
    ------
    SettingsError
        By the name of the argument that says it.
    """
    if not MIN_BIN_MS <= bin_ms <= MAX_BIN_MS:
        raise SettingsError(
            f"{name} is {value:g}, a bin width of {bin_ms:g} ms; it must be from {MIN_BIN_MS:g} to "
            f"{MAX_BIN_MS:g} ms"
        )


def check_set_size(
    sizes: dict[str, float], *, n_rates: int, n_counts: int, n_more: int = 0
) -> None:
    """Refuse a set that does not fit into memory, before any of it is made.

    Parameters
    ----------
    sizes : dict of str to float
        The arguments that decide, for the message.
    n_rates, n_counts : int
        Rates to compute (conditions x bins x neurons), and counts to draw (trials x bins x
        neurons), each held twice at least.
    n_more : int
        Other numbers to hold at the same time.

    Raises
    ------
    SettingsError
        If it does not.
    """
    asked = ", ".join(f"{name} {value:.9g}" for name, value in sizes.items())
    n_bytes = _BYTES * (2 * n_rates + 2 * n_counts + n_more)
    check_memory(n_bytes, f"a set with {asked}", "Make one of them smaller.", SettingsError)


def check_some_spikes(n_spikes: int, names: str) -> None:
    """Refuse a set without a spike, which nothing can be learned from.

    Parameters
    ----------
    n_spikes : int
        Spikes in all trials.
    names : str
        The arguments that make them so few.

    Raises
    ------
    SettingsError
        If there are none.
    """
    if n_spikes == 0:
        raise SettingsError(
            f"{names} make no spike in the whole set; at least one is needed",
            "Make the rate higher, or ask for more trials.",
        )


def check_highest_rate(highest_per_bin: float, names: str) -> None:
    """Refuse rates from which no counts can be drawn.

    Parameters
    ----------
    highest_per_bin : float
        Highest rate, in expected spikes per bin.
    names : str
        The arguments that make it.

    Raises
    ------
    SettingsError
        If it is above the largest count.
    """
    if not highest_per_bin <= MAX_COUNT:
        raise SettingsError(
            f"{names} make a rate of {highest_per_bin:g} spikes per bin; it must be at most "
            f"{MAX_COUNT}"
        )
