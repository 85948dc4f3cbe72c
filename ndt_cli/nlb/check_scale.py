"""Are rates expected counts per bin, or in Hz, or of another bin width?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ndt_cli.nlb.catalogue import BINS_MS
from ndt_cli.nlb.check_values import PLAUSIBLE_HZ
from ndt_cli.nlb.expected import Array
from ndt_cli.nlb.findings import Finding, Severity

# Any model gets a population's mean rate right within this factor.
_TOLERATED = 2.0
# A ratio this near to a factor is called by the factor's name.
_NAMED_WITHIN = 1.6


class _Verdict(NamedTuple):
    severity: Severity
    message: str
    hint: str


@dataclass(frozen=True)
class Scale:
    """Mean of one array, and of the spike counts that it predicts, where they are known."""

    mean_rate: float
    mean_count: float | None

    @classmethod
    def of(cls, rates_BTN: Array, counts_BTN: Array | None) -> "Scale":
        """Measure an array; counts that are NaN are left out on both sides."""
        if counts_BTN is None:
            return cls(float(rates_BTN.mean(dtype=np.float64)), None)
        known = ~np.isnan(counts_BTN)
        if not known.any():
            return cls(float(rates_BTN.mean(dtype=np.float64)), None)
        return cls(
            float(rates_BTN.mean(dtype=np.float64, where=known)),
            float(counts_BTN.mean(dtype=np.float64, where=known)),
        )


def check_scale(group: str, scales: Mapping[str, Scale], bin_ms: int) -> list[Finding]:
    """Recognise rates that are not counts per bin, by their mean.

    Compared with spike counts where they are known, else with what a population can fire.

    Parameters
    ----------
    group : str
        Where the arrays lie.
    scales : mapping of str to Scale
        By key.
    bin_ms : int
        Bin width.
    """
    verdicts: dict[_Verdict, list[str]] = {}
    for key, scale in scales.items():
        verdict = _verdict(scale, bin_ms)
        if verdict is not None:
            verdicts.setdefault(verdict, []).append(key)
    findings = []
    for verdict, keys in verdicts.items():
        means = [scales[key].mean_rate for key in keys]
        text = (
            f"mean of {_range(means)} per bin of {bin_ms} ms, "
            f"{_range([mean * 1000 / bin_ms for mean in means])} Hz: {verdict.message}"
        )
        findings.append(Finding(verdict.severity, group, ", ".join(keys), text, verdict.hint))
    return findings


def _range(values: list[float]) -> str:
    ends = (min(values), max(values))
    shown = dict.fromkeys(f"{end:,.0f}" if end >= 100 else f"{end:.3g}" for end in ends)
    return " to ".join(shown)


def _verdict(scale: Scale, bin_ms: int) -> _Verdict | None:
    if scale.mean_rate == 0:
        return None
    if not scale.mean_count:
        return _implausible(scale.mean_rate * 1000 / bin_ms, bin_ms)
    ratio = scale.mean_rate / scale.mean_count
    if 1 / _TOLERATED <= ratio <= _TOLERATED:
        return None
    named = _named_factors(bin_ms)

    def distance(factor: float) -> float:
        return abs(math.log(ratio / factor))

    nearest_factor = min(named, key=distance)
    if distance(nearest_factor) <= math.log(_NAMED_WITHIN):
        return named[nearest_factor]
    message = f"{ratio:.3g} times the mean spike count, {scale.mean_count:.3g}"
    return _Verdict("warning", message, "Rates are expected spike counts per bin: is that so?")


def _implausible(as_hz: float, bin_ms: int) -> _Verdict | None:
    low, high = PLAUSIBLE_HZ
    if as_hz > high:
        return _named_factors(bin_ms)[1000 / bin_ms]
    if as_hz < low:
        message = f"a population fires at {low:g} Hz or more"
        return _Verdict("warning", message, "Rates are expected spike counts per bin: is that so?")
    return None


def _named_factors(bin_ms: int) -> dict[float, _Verdict]:
    """Return what a ratio of rates to counts means, by the ratio."""
    to_hz = 1000 // bin_ms
    (other_ms,) = set(BINS_MS) - {bin_ms}
    return {
        1000 / bin_ms: _Verdict(
            "error",
            f"these are rates in Hz, not expected counts per bin, {to_hz} times too large",
            f"Divide by {to_hz} (1000 / bin_ms).",
        ),
        bin_ms / 1000: _Verdict(
            "error",
            f"{to_hz} times too small, as if counts per bin were taken for Hz and divided again",
            f"Multiply by {to_hz} (1000 / bin_ms).",
        ),
        other_ms / bin_ms: _Verdict(
            "error",
            f"these are counts per bin of {other_ms} ms",
            f"Multiply by {bin_ms} / {other_ms}.",
        ),
        1 / bin_ms: _Verdict(
            "error",
            f"these are counts per ms, {bin_ms} times too small",
            f"Multiply by {bin_ms} (bin_ms).",
        ),
    }
