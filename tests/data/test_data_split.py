import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ndt_cli.data.spike_data import split_trials


@given(
    conditions=st.lists(st.integers(0, 5), min_size=2, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_every_trial_is_in_one_split_and_no_split_is_empty(conditions, fraction, seed):
    train, valid = split_trials(
        len(conditions), valid_fraction=fraction, seed=seed, conditions_B=np.array(conditions)
    )
    assert len(train)
    assert len(valid)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), range(len(conditions)))


@given(st.lists(st.integers(2, 12), min_size=1, max_size=10), st.floats(0.05, 0.95))
def test_each_condition_keeps_a_training_trial(sizes, fraction):
    conditions_B = np.repeat(np.arange(len(sizes)), sizes)
    train, valid = split_trials(
        len(conditions_B), valid_fraction=fraction, seed=0, conditions_B=conditions_B
    )
    assert set(conditions_B[train]) == set(range(len(sizes)))
    spare = len(conditions_B) - len(sizes)
    assert len(valid) == min(max(round(fraction * len(conditions_B)), 1), spare)


def test_conditions_give_their_share():
    conditions_B = np.repeat([0, 1], [40, 10])
    _, valid = split_trials(50, valid_fraction=0.2, seed=0, conditions_B=conditions_B)
    np.testing.assert_array_equal(np.bincount(conditions_B[valid]), [8, 2])


def test_conditions_of_one_trial_each_are_ignored():
    train, valid = split_trials(10, valid_fraction=0.2, seed=0, conditions_B=np.arange(10))
    assert (len(train), len(valid)) == (8, 2)


def test_the_seed_decides():
    one, same, other = (split_trials(100, valid_fraction=0.2, seed=s)[1] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert set(one.tolist()) != set(other.tolist())
