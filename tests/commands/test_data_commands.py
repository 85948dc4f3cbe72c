import inspect
import json

import numpy as np
import pytest

from ndt_cli.app import load_command
from ndt_cli.data.loading import load_file
from ndt_cli.data.synthetic import make_chaotic_rnn, make_lorenz
from ndt_cli.errors import typed
from ndt_cli.settings.tree import DataSettings

SMALL = ("--n-conditions", "3", "--n-repeats", "5", "--n-neurons", "4")


@pytest.mark.parametrize(
    ("command", "make"), [("chaotic-rnn", make_chaotic_rnn), ("lorenz", make_lorenz)]
)
@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_gen_data_writes_the_set_that_the_function_makes(ndt, tmp_path, command, make, ending):
    path = tmp_path / f"set{ending}"
    code, out, err = ndt("gen-data", command, "--out", path, *SMALL, "--seed", 3, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["train_trials"], facts["valid_trials"], facts["neurons"]) == (12, 3, 4)
    expected = make(seed=3, n_conditions=3, n_repeats=5, n_neurons=4)
    back = load_file(path, DataSettings())
    assert back.train.fingerprint == expected.train.fingerprint
    assert back.valid.fingerprint == expected.valid.fingerprint
    np.testing.assert_array_equal(back.valid.rates_BTN, expected.valid.rates_BTN)


@pytest.mark.parametrize(
    ("name", "make"), [("chaotic-rnn", make_chaotic_rnn), ("lorenz", make_lorenz)]
)
def test_every_number_of_a_set_is_an_option_with_its_default(name, make):
    options = {option.name: option for option in load_command("gen-data").commands[name].params}
    for argument, parameter in inspect.signature(make).parameters.items():
        assert options[argument].default == parameter.default
        assert options[argument].opts == [f"--{argument.replace('_', '-')}"]
        assert options[argument].help


def test_gen_data_replaces_a_file_only_when_asked(ndt, tmp_path):
    path = tmp_path / "set.npz"
    path.write_text("mine")
    code, out, err = ndt("gen-data", "lorenz", "--out", path, *SMALL)
    assert (code, out) == (1, "")
    assert "already exists" in err
    assert "--overwrite" in err
    assert path.read_text() == "mine"
    code, out, _ = ndt("gen-data", "lorenz", "-o", path, *SMALL, "--overwrite")
    assert code == 0
    assert str(path) in out
    assert "train trials" in out
    assert load_file(path, DataSettings()).train.n_neurons == 4


def test_gen_data_refuses_a_number_out_of_range(ndt, tmp_path):
    code, _, err = ndt("gen-data", "lorenz", "--out", tmp_path / "a.h5", "--n-repeats", 0)
    assert code == 2
    assert "--n-repeats" in err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "rat[1].npz"
    np.savez(path, spikes=np.ones((10, 6, 3)), bin_ms=10.0)
    return path


def test_check_data_passes_a_good_file(ndt, good):
    code, out, err = ndt("check-data", good)
    assert code == 0
    assert err == f"Next:  ndt train --data {typed(good)}\n"
    assert str(good) in out
    assert "10 ms, 60 ms per trial" in out
    assert "Good for: train" in out


def test_check_data_reads_the_settings(ndt, good):
    code, out, _ = ndt("check-data", good, "--set", "data.bin_ms=20", "--json")
    assert code == 0
    assert json.loads(out)["bin_ms"] == 20


def test_check_data_leaves_with_one_for_a_bad_file(ndt, tmp_path):
    path = tmp_path / "rat.npz"
    np.savez(path, spikes=np.full((10, 6, 3), -1), bin_ms=10.0)
    code, out, _ = ndt("check-data", path)
    assert code == 1
    assert "Problem:" in out
    assert "`spikes`" in out
    assert "10 x 6 x 3" in out
    code, out, _ = ndt("check-data", path, "--json")
    assert code == 1
    assert json.loads(out)["trainable"] is False
