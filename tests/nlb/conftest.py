"""A submission and what it is checked against."""

import pytest
from nlb_arrays import make_example

from ndt_cli.nlb.check import Expected


@pytest.fixture
def example():
    return make_example()


@pytest.fixture
def arrays(example):
    return {key: array.astype("float32") for key, array in example.rates.items()}


@pytest.fixture
def expected(example):
    return Expected.of(example.tensors, example.targets)
