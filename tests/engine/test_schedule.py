"""The learning rate as a function of the epoch."""

import math
from itertools import pairwise

import pytest

from ndt_cli.engine.optimizer import learning_rate
from ndt_cli.settings.tree import TrainSettings


def _rates(epochs, **train):
    settings = TrainSettings(**{"learning_rate": 1e-3, "max_epochs": 100, **train})
    return [learning_rate(epoch, settings) for epoch in epochs]


def test_constant_stays_and_needs_no_warm_up():
    assert _rates((0, 1, 50, 99)) == [1e-3] * 4


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse-sqrt"])
def test_warm_up_rises_linearly_to_the_peak_in_its_last_epoch(schedule):
    rates = _rates(range(10), schedule=schedule, warmup_epochs=10)
    assert rates == pytest.approx([1e-4 * (epoch + 1) for epoch in range(10)])


def test_cosine_falls_from_the_peak_to_zero_at_the_last_epoch():
    epochs = (20, 40, 60, 80, 99, 100, 150)
    rates = _rates(epochs, schedule="cosine", warmup_epochs=20)
    last = 0.5 * (1 + math.cos(math.pi * 79 / 80))
    expected = [1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 - 2**-0.5), last, 0, 0]
    assert rates == pytest.approx([1e-3 * value for value in expected], abs=1e-12)
    assert 0 < rates[4] < 1e-6


def test_ndt1_fault_inverse_sqrt_peaks_at_the_asked_rate():
    # NDT1 multiplies the base rate twice: its peak is 1e-6 where 1e-3 was asked.
    rates = _rates(range(100), schedule="inverse-sqrt", warmup_epochs=4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 3
    # Half the peak at four times its epoch.
    assert rates[15] == pytest.approx(0.5e-3)
    assert rates[99] == pytest.approx(1e-3 * math.sqrt(4 / 100))
    assert all(later < earlier for earlier, later in pairwise(rates[3:]))


def test_the_rate_is_a_function_of_the_epoch_alone():
    settings = TrainSettings(schedule="cosine", warmup_epochs=5, max_epochs=40)
    forwards = [learning_rate(epoch, settings) for epoch in range(40)]
    backwards = [learning_rate(epoch, settings) for epoch in reversed(range(40))]
    assert forwards == backwards[::-1]
