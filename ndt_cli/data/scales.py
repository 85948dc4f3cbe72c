"""Bin width and the scale of true rates: what the file says, the settings say, the numbers tell."""

from dataclasses import dataclass

from ndt_cli.data.arrays import ArrayFile
from ndt_cli.data.read_array import read_scalar
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import MAX_BIN_MS, MIN_BIN_MS, DataSettings

_LONG_BIN_MS = 1000.0
_ORDINARY_BINS_MS = (1.0, 2.0, 4.0, 5.0, 10.0, 20.0, 25.0, 40.0, 50.0, 100.0)
_TOLERANCE = 0.1  # ordinary widths lie at least 20 % apart


def stored_bin_ms(
    file: ArrayFile, key: str, settings: DataSettings, *, ms_per_unit: float = 1.0
) -> tuple[float | None, list[str]]:
    """Return the bin width that the file gives under ``key``, else the one of the settings.

    Parameters
    ----------
    file : ArrayFile
        Where from.
    key : str
        Name of the scalar.
    settings : DataSettings
        Its ``file_bin_ms`` serves where the file says nothing.
    ms_per_unit : float
        Milliseconds in the unit of the scalar.

    Returns
    -------
    bin_ms : float or None
        Width in milliseconds; None where neither says.
    notes : list of str
        Says so where the two differ, or bins are so wide that the unit may be another.

    Raises
    ------
    DataError
        If the file's value is not a number, or no bin is so wide.
    """
    asked = settings.file_bin_ms
    if key not in file:
        return asked, []
    stored = read_scalar(file, key)
    bin_ms = round(stored * ms_per_unit, 9)
    if not MIN_BIN_MS <= bin_ms <= MAX_BIN_MS:
        unit = "milliseconds" if ms_per_unit == 1 else "seconds"
        limits = f"{MIN_BIN_MS / ms_per_unit:g} to {MAX_BIN_MS / ms_per_unit:g}"
        raise file.wrong(key, f"{stored:g}", f"a bin width in {unit}, from {limits}")
    notes = []
    if bin_ms >= _LONG_BIN_MS:
        notes.append(f"`{key}` says bins of {bin_ms / 1000:g} seconds: is its unit right?")
    if asked is not None and asked != bin_ms:
        notes.append(
            f"`{key}` says bins of {bin_ms:g} ms; data.file_bin_ms, {asked:g}, is not used."
        )
    return bin_ms, notes


def no_bin_ms(file: ArrayFile, key: str) -> DataError:
    """Return the error for a file whose bin width nobody knows."""
    return DataError(
        f"{file.path}: `{key}`: found no bin width in the file; expected one there or in the "
        "settings",
        hint="Give it: --set data.file_bin_ms=WIDTH, in milliseconds.",
    )


@dataclass(frozen=True)
class RateScale:
    """How true rates become spikes per bin.

    Parameters
    ----------
    factor : float
        Rates are divided by it.
    bin_ms : float
        Bin width in milliseconds, which the rates may have told.
    notes : tuple of str
        What was taken, and why.
    """

    factor: float
    bin_ms: float
    notes: tuple[str, ...]


def find_rate_scale(
    file: ArrayFile,
    settings: DataSettings,
    bin_ms: float | None,
    mean_truth: float,
    mean_count: float,
) -> RateScale:
    """Find what the true rates of an LFADS file are divided by, and its bin width if unknown.

    The setting ``data.conversion_factor`` comes first, then the file's ``conversion_factor``.
    Without either, mean truth over mean count tells: near 1 the rates are spikes per bin; near
    the bins in a second they are in Hz.

    Parameters
    ----------
    file : ArrayFile
        The LFADS file.
    settings : DataSettings
        Its ``conversion_factor`` is used.
    bin_ms : float or None
        Bin width, where it is known.
    mean_truth, mean_count : float
        Means of the file's true rates and of its counts, over all trials, bins and neurons.

    Raises
    ------
    DataError
        If the scale fits no reading, or the bin width stays unknown.
    """
    ratio = mean_truth / mean_count if mean_count > 0 else float("nan")
    scale = f"the mean of the true rates is {ratio:.4g} times the mean count"
    notes = []
    if bin_ms is None:
        bin_ms = next((w for w in _ORDINARY_BINS_MS if _near(ratio, 1000 / w)), None)
        if bin_ms is None:
            raise no_bin_ms(file, "dt")
        notes.append(
            f"No `dt` in the file: bins of {bin_ms:g} ms taken, because {scale}, as for rates in "
            "Hz. Set data.file_bin_ms if that is wrong."
        )
    key = "conversion_factor"
    if settings.conversion_factor is not None:
        factor = settings.conversion_factor
        notes.append(f"True rates were divided by {factor:.6g}, as data.conversion_factor says.")
    elif key in file:
        factor = read_scalar(file, key)
        notes.append(f"True rates were divided by {factor:.6g}, the file's `{key}`.")
    else:
        readings = {1.0: "spikes per bin", 1000 / bin_ms: "Hz"}
        fitting = next((f for f in readings if _near(ratio, f)), None)
        if fitting is None:
            raise DataError(
                f"{file.path}: `{key}`: found no such key, and {scale}; expected 1 (spikes per "
                f"bin) or {1000 / bin_ms:g} (Hz)",
                hint="Say what the rates are divided by to be spikes per bin: "
                "--set data.conversion_factor=NUMBER.",
            )
        factor = fitting
        notes.append(
            f"No `{key}` in the file: true rates read as {readings[factor]} and divided by "
            f"{factor:g}, because {scale}. Set data.conversion_factor if that is wrong."
        )
    if mean_count > 0 and not _near(ratio, factor):
        notes.append(f"That factor looks wrong: {scale}, so {ratio:.4g} would fit.")
    return RateScale(factor, bin_ms, tuple(notes))


def _near(value: float, target: float) -> bool:
    return abs(value / target - 1) < _TOLERANCE
