"""Are these the neurons that a model was trained on, in the same order?

A model's columns mean neurons. Trials of as many other neurons, or of the same in another order,
would pass every check of shapes and give rates of the wrong neurons.
"""

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.run_facts import SplitFacts, observed_spikes
from ndt_cli.errors import DataError

# Fewer neurons than these tell nothing by their rates.
_FEWEST = 8
# Of the variance of the log-rates between neurons, what may be chance.
_MOST_NOISE = 0.25
# Shuffled neurons correlate less than this, and once both sides are sorted by rate, little is
# left of their differences. Where neurons truly changed their rates, as in one condition of many,
# more is left.
_LEAST_CORRELATION = 0.5
_MOST_LEFT = 0.12


def check_same_neurons(trained_on: SplitFacts, data: SpikeData, source: str, run: str) -> None:
    """Refuse trials whose columns are known to stand for other neurons than the model's.

    Parameters
    ----------
    trained_on : SplitFacts
        Of the training trials.
    data : SpikeData
        Trials to infer, of as many neurons.
    source, run : str
        Where they are from, and which run it is; for the message.

    Raises
    ------
    DataError
        When both sides name their neurons and the names, or their order, differ; or when other
        neurons are held out.
    """
    in_file_order = list(range(data.n_neurons))
    before = trained_on.neuron_ids_N or in_file_order
    now = in_file_order if data.neuron_ids_N is None else data.neuron_ids_N.tolist()
    if trained_on.neuron_names and data.neuron_names:
        names_before = [trained_on.neuron_names[place] for place in before]
        _compare(names_before, [data.neuron_names[place] for place in now], source, run)
    elif before != now:
        raise DataError(
            f"{source}: other neurons are held out here than {run} was trained with",
            "use the same data.heldout_seed, data.heldout_fraction and data.heldout_neurons",
        )


def unlike_neurons(trained_on: SplitFacts, data: SpikeData) -> str | None:
    """Say so where the neurons' mean rates look like those of the training trials, shuffled.

    Compared are the logarithms of the mean rates of the visible neurons: they hardly correlate,
    yet sorted they are nearly the same. Nothing is said of fewer than 8 neurons, nor where chance
    makes a quarter or more of the differences between neurons, as where all fire alike.

    Returns
    -------
    A sentence to show, or None.
    """
    n_seen = data.n_neurons - data.n_heldout
    if len(trained_on.spikes_N) != data.n_neurons or n_seen < _FEWEST:
        return None
    log_rates: list[NDArray[np.float64]] = []
    before = (trained_on.n_observed_bins, np.array(trained_on.spikes_N))
    for n_bins, spikes_N in (before, observed_spikes(data)):
        # Half a spike more: the logarithm of a silent neuron's is finite.
        seen_N = spikes_N[:n_seen].astype(np.float64) + 0.5
        log_rates_N = np.log(seen_N / max(n_bins, 1))
        # Of a Poisson count n, the logarithm has a variance of about 1 / n.
        if float((1 / seen_N).mean()) > _MOST_NOISE * float(log_rates_N.var()):
            return None
        log_rates.append(log_rates_N)
    before_N, now_N = log_rates
    correlation = float(np.asarray(np.corrcoef(np.stack(log_rates)))[0, 1])
    left = np.mean((np.sort(before_N) - np.sort(now_N)) ** 2)
    if correlation >= _LEAST_CORRELATION or left > _MOST_LEFT * np.mean((before_N - now_N) ** 2):
        return None
    return (
        "The neurons' mean rates are those of the training trials on other neurons (correlation of "
        f"their logarithms {correlation:.2f}): are these the same neurons, in the same order?"
    )


def _compare(ours: list[str], theirs: list[str], source: str, run: str) -> None:
    if ours == theirs:
        return
    column = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    found = f"column {column} is neuron {theirs[column]}, and was {ours[column]}"
    if sorted(ours) == sorted(theirs):
        raise DataError(
            f"{source}: its neurons stand in another order than those of {run}: {found}",
            "put the columns into the order of the training file",
        )
    missing = [name for name in ours if name not in set(theirs)]
    raise DataError(
        f"{source}: {len(missing)} of its {len(theirs)} neurons are not those of {run}: {found}",
        "evaluate trials of the neurons that the model was trained on",
    )
