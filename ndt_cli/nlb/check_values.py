"""Are the numbers of an array rates at all?"""

import numpy as np

from ndt_cli.nlb.expected import Array
from ndt_cli.nlb.findings import Finding
from ndt_cli.nlb.groups import SCORED_KEYS

PLAUSIBLE_HZ = (0.05, 100.0)
"""Between these lies the mean rate of any of the benchmark's populations."""

_SHOWN_NEURONS = 5


def check_values(group: str, key: str, rates_BTN: Array, bin_ms: int | None) -> list[Finding]:
    """Check that rates are finite and not negative; errors only.

    Parameters
    ----------
    group, key : str
        Where the array lies.
    rates_BTN : (trials, bins, neurons) array
        Its numbers.
    bin_ms : int, optional
        Bin width, to recognise logarithms by.
    """
    finite = np.isfinite(rates_BTN)
    findings = []
    if not finite.all():
        n_nan = int(np.isnan(rates_BTN).sum())
        n_bad = int((~finite).sum())
        kinds = [f"{n_nan} NaN"] * (n_nan > 0) + [f"{n_bad - n_nan} infinite"] * (n_bad > n_nan)
        n_trials = int((~finite).any(axis=(1, 2)).sum())
        findings.append(
            Finding(
                "error",
                group,
                key,
                f"{' and '.join(kinds)} of {rates_BTN.size} values, in {n_trials} of "
                f"{len(rates_BTN)} trials; the first at {_first(~finite)}",
                "Every bin of every trial needs a rate, also bins that are not scored.",
            )
        )
    negative = finite & (rates_BTN < 0)
    if negative.any():
        n_negative = int(negative.sum())
        lowest = rates_BTN[negative].min()
        findings.append(
            Finding(
                "error",
                group,
                key,
                f"{n_negative} of {rates_BTN.size} values below 0, the lowest {lowest:.4g}; the "
                f"first at {_first(negative)}",
                _log_hint(rates_BTN[finite], n_negative / int(finite.sum()), bin_ms)
                or "Clip them with numpy.maximum(rates, 1e-9), or model log-rates instead.",
            )
        )
    return findings


def check_variation(group: str, key: str, rates_BTN: Array) -> list[Finding]:
    """Warn of rates that carry nothing: zeros, and no change over time or trials.

    The parameters are those of `check_values`, which must have found nothing.
    """
    if not rates_BTN.any():
        return [
            Finding("warning", group, key, "is 0 everywhere", "Was the array ever filled?"),
        ]
    findings = []
    if (rates_BTN == rates_BTN[:, :1]).all():
        findings.append(
            Finding(
                "warning",
                group,
                key,
                "is constant over time in every trial, as a mean rate is",
                "If a model made it, it has collapsed: look at its training.",
            )
        )
    elif len(rates_BTN) > 1 and (rates_BTN == rates_BTN[:1]).all():
        findings.append(
            Finding(
                "warning",
                group,
                key,
                "is the same in every trial",
                "If a model made it, it does not see its input.",
            )
        )
    return findings + (_zeros(group, key, rates_BTN) if key in SCORED_KEYS else [])


def _zeros(group: str, key: str, rates_BTN: Array) -> list[Finding]:
    zero = rates_BTN == 0
    if not zero.any():
        return []
    text = f"{zero.mean():.1%} of the rates are exactly 0"
    silent = np.flatnonzero(zero.all(axis=(0, 1)))
    if len(silent):
        shown = ", ".join(map(str, silent[:_SHOWN_NEURONS]))
        more = ", ..." if len(silent) > _SHOWN_NEURONS else ""
        text += f"; throughout for {len(silent)} of {zero.shape[2]} neurons: {shown}{more}"
    hint = (
        "The benchmark puts 1e-9 there, and a spike in such a bin costs 30 bits: give a small "
        "positive rate."
    )
    return [Finding("warning", group, key, text, hint)]


def _first(bad_BTN: Array) -> str:
    trial, bin_, neuron = np.unravel_index(int(np.argmax(bad_BTN)), bad_BTN.shape)
    return f"trial {trial}, bin {bin_}, neuron {neuron} (from 0)"


def _log_hint(values: Array, negative_share: float, bin_ms: int | None) -> str | None:
    """Recognise logarithms by what they are logarithms of."""
    if bin_ms is None:
        return None
    low, high = PLAUSIBLE_HZ
    # Rates this large would overflow, and are no logarithms of any rate.
    values = values.astype(np.float64)
    mean_exp = float(np.exp(np.minimum(values, 50.0)).mean())
    with np.errstate(over="ignore"):
        mean = float(values.mean())
    if negative_share > 0.5 and low <= mean_exp * 1000 / bin_ms <= high:
        return "They look like log-rates: write numpy.exp(rates)."
    if mean > 1 and low <= mean_exp <= high:
        return (
            f"They look like logarithms of rates in Hz: write numpy.exp(rates) / {1000 // bin_ms}."
        )
    return None
