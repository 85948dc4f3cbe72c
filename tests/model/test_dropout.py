"""Dropout: fraction, scale, expectation, independence, gradient, and a state that can be saved."""

import pytest
import torch

from ndt_cli.model.dropout import LANES, Dropout, RandomBits, SharedDropout

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
N = 400_000


def _dropout(seed=0):
    return Dropout(RandomBits(seed))


@DTYPES
@pytest.mark.parametrize("p", [0.002, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_the_asked_fraction_is_dropped_and_the_expectation_is_kept(dtype, p):
    dropped = _dropout()(torch.ones(N, dtype=dtype), p).float()
    sigma = (p * (1 - p) / N) ** 0.5
    rounding = 1 / 256  # p is rounded to a byte
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=5 * sigma + rounding)
    # A scale in bfloat16 is rounded to eight bits.
    bias = 2**-8 if dtype == torch.bfloat16 else 0
    sigma = max(sigma, (1 / 256 / N) ** 0.5)
    assert dropped.double().mean().item() == pytest.approx(1.0, abs=5 * sigma / (1 - p) + bias)


@DTYPES
@pytest.mark.parametrize("p", [0.1, 0.5, 0.7])
def test_an_entry_is_either_zero_or_scaled_by_one_number(dtype, p):
    x = torch.linspace(-3, 3, 999, dtype=dtype)
    dropped = _dropout()(x, p)
    assert dropped.dtype == dtype
    scale = torch.tensor(256 / round(256 * (1 - p)), dtype=dtype)
    assert torch.equal(dropped[dropped != 0], (x * scale)[dropped != 0])
    assert 0 < (dropped != 0).sum() < 999


@DTYPES
def test_no_dropout_is_the_identity_and_draws_nothing(dtype):
    dropout = _dropout()
    before = dropout.stream.get_state()
    x = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout.stream.get_state(), before)


@DTYPES
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8])
def test_entries_are_dropped_independently_of_their_neighbors(dtype, lag):
    # Several entries may share one random number: none may follow from another.
    p = 0.3
    kept = (_dropout()(torch.ones(N, dtype=dtype), p) != 0).float()
    both = (kept[lag:] * kept[:-lag]).mean().item()
    assert both == pytest.approx(kept.mean().item() ** 2, abs=5 * 0.5 / N**0.5)


@DTYPES
def test_the_gradient_passes_where_the_entry_did(dtype):
    x = torch.ones(1000, dtype=dtype, requires_grad=True)
    dropped = _dropout()(x, 0.4)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


@DTYPES
def test_a_restored_generator_drops_the_same_entries(dtype):
    dropout, x = _dropout(), torch.ones(33, 7, dtype=dtype)
    dropout(x, 0.5)
    state = dropout.stream.get_state()
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    assert not torch.equal(first, second)
    dropout.stream.set_state(state)
    assert torch.equal(dropout(x, 0.5), first)
    assert torch.equal(dropout(x, 0.5), second)


@DTYPES
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (5, 1, 7), (2, 3, 4, 5)])
def test_any_shape_can_be_dropped(dtype, shape):
    x = torch.ones(shape, dtype=dtype)
    dropped = _dropout()(x, 0.5)
    assert dropped.shape == x.shape
    assert set(dropped.flatten().tolist()) <= {0.0, 2.0}


def test_a_tensor_that_is_not_contiguous_keeps_its_values_in_place():
    x = torch.arange(1.0, 13.0).view(3, 4).T
    dropped = _dropout()(x, 0.5)
    assert torch.equal(dropped[dropped != 0], (2 * x)[dropped != 0])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    _dropout()(torch.ones(100), 0.5)
    assert torch.equal(torch.get_rng_state(), before)


@DTYPES
def test_lanes_keep_or_clear_all_bits_of_what_is_kept_or_dropped(dtype):
    x = torch.randn(9, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    lanes = _dropout().kept_lanes(x.shape, 0.4, dtype)
    assert lanes.dtype == LANES[dtype]
    assert set(lanes.flatten().tolist()) == {0, -1}
    cleared = (x.view(lanes.dtype) & lanes).view(dtype)
    assert torch.equal(cleared, x * _dropout().kept(x, 0.4))


def test_bits_are_uniform_and_unlike_those_of_another_seed():
    bits = RandomBits(0).draw(200_000)
    for shift in range(16):
        share = (bits >> shift & 1).float().mean().item()
        assert share == pytest.approx(0.5, abs=5 * 0.5 / 200_000**0.5)
    other = RandomBits(1).draw(200_000)
    assert (bits == other).sum() < 20


def test_the_state_of_another_generator_is_refused():
    with pytest.raises(ValueError, match="SFC64"):
        RandomBits(0).set_state(torch.Generator().get_state())


@DTYPES
@pytest.mark.parametrize("n_trials", [3, 5, 8])
@pytest.mark.parametrize("n_shares", [1, 2, 3])
def test_trials_shared_out_are_dropped_as_they_are_together(dtype, n_trials, n_shares):
    places = [((3, 5), 0.2), ((4, 9), 0.5), ((1,), 0.7)]  # shape of a trial
    whole = _dropout()
    expected = [whole(torch.ones(n_trials, *shape, dtype=dtype), p) for shape, p in places]
    shared = SharedDropout(RandomBits(0), n_trials)
    parts = torch.arange(n_trials).tensor_split(n_shares)
    shares = [shared.share(int(part[0]), len(part)) for part in parts]
    for i, (shape, p) in enumerate(places):
        found = [torch.empty(0)] * n_shares
        # At every second place the last share comes first.
        for j in range(n_shares) if i % 2 else reversed(range(n_shares)):
            found[j] = shares[j](torch.ones(len(parts[j]), *shape, dtype=dtype), p)
        assert torch.equal(torch.cat(found), expected[i])
    assert torch.equal(shared.stream.get_state(), whole.stream.get_state())
