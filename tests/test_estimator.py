"""The estimator: rates of arrays from Python, by the conventions of scikit-learn."""

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ndt_cli import NDT, evaluate, load_settings
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError, ExistingFileError, RunError, RunWarning, SettingsError

TINY = {
    "train": {"max_steps": 4, "n_threads": 1, "device": "cpu", "precision": "float32"},
    "model.n_layers": 1,
    "model.width": 16,
}


def counts(n_trials=12, n_bins=8, n_neurons=4, seed=0):
    return np.random.default_rng(seed).poisson(0.7, (n_trials, n_bins, n_neurons))


def tiny(**parameters):
    return NDT(**{"bin_ms": 20, "settings": TINY, "seed": 1, **parameters})


@pytest.fixture(scope="module")
def fitted():
    return tiny().fit(counts())


def test_rates_are_in_spikes_per_second_and_arranged_as_the_counts(fitted):
    X = counts()
    rates_hz = fitted.rates(X)
    assert rates_hz.shape == X.shape
    assert rates_hz == pytest.approx(fitted.rates(X, unit="bin") * 50)
    assert rates_hz.mean() == pytest.approx(X.mean() * 50, rel=0.5)


def test_trials_of_unequal_length_come_back_as_a_list(fitted):
    trials = [trial[: 4 + i % 5] for i, trial in enumerate(counts())]
    rates = fitted.rates(trials)
    assert [trial.shape for trial in rates] == [trial.shape for trial in trials]
    alone = fitted.rates([trials[0]])[0]
    assert rates[0] == pytest.approx(alone, rel=1e-4)
    assert tiny().fit(trials).rates(trials)[1].shape == trials[1].shape


def test_held_out_neurons_come_back_in_the_order_of_the_array():
    X = counts() * np.array([1, 1, 1, 20])
    ndt = tiny(settings={**TINY, "data.heldout_neurons": [0]}).fit(X)
    assert np.argmax(ndt.rates(X).mean(axis=(0, 1))) == 3


def test_transform_gives_rates_or_latents(fitted):
    X = counts()
    assert np.array_equal(fitted.transform(X), fitted.rates(X))
    latents = copy.deepcopy(fitted).set_params(output="latents").transform(X)
    assert latents.shape == (12, 8, 16)
    with pytest.raises(SettingsError, match="`output='both'`"):
        copy.copy(fitted).set_params(output="both").transform(X)


def test_the_same_seed_gives_the_same_rates(fitted):
    X = counts()
    assert np.array_equal(tiny().fit(X).rates(X), fitted.rates(X))
    assert not np.array_equal(tiny(seed=2).fit(X).rates(X), fitted.rates(X))


def test_of_trials_longer_than_the_training_the_bins_it_knew_are_scored(fitted):
    X = counts(n_bins=11)
    trials = [*X[:3], X[3, :5]]
    with pytest.warns(RunWarning, match="3 of 4 trials are longer than the 8 bins"):
        score = fitted.score(trials)
    assert score == fitted.score([trial[:8] for trial in trials])
    relative = tiny(settings={**TINY, "model.positions": "relative"}).fit(counts())
    assert relative.score(trials) != relative.score([trial[:8] for trial in trials])


# Conventions -------------------------------------------------------------------------------------


def test_scikit_learn_clones_it_and_scores_held_back_trials():
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    X, ndt = counts(), tiny()
    assert base.clone(ndt).get_params() == ndt.get_params()
    trials = [trial[: 4 + i % 5] for i, trial in enumerate(X)]
    for given in (X, trials):
        scores = cross_val_score(ndt, given, cv=2)
        assert scores.shape == (2,)
        assert np.isfinite(scores).all()
    assert not hasattr(ndt, "run_")
    mean_rates = FunctionTransformer(lambda rates: rates.mean(axis=1))
    pipeline = Pipeline([("ndt", ndt), ("mean", mean_rates)])
    assert pipeline.fit_transform(X).shape == (12, 4)
    assert "NDT" in pipeline._repr_html_()


def test_a_score_is_that_of_the_evaluation_on_the_same_trials(tmp_path):
    ndt = tiny(out=tmp_path / "run").fit(counts())
    evaluation = evaluate(ndt.run_)  # the run holds the trials: every command works on it
    valid = evaluation.data.spikes_BTN
    assert ndt.score(valid) == pytest.approx(evaluation.scores["NDT"].hidden.bits_per_spike)
    assert (tmp_path / "run" / "figures" / "rates.png").is_file()
    assert np.array_equal(NDT.load(tmp_path / "run").rates(valid), ndt.rates(valid))
    with pytest.raises(ExistingFileError, match="already exists"):
        tiny(out=tmp_path / "run").fit(counts())


def test_a_pickle_holds_the_weights(fitted, tmp_path):
    X = counts()
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):  # noqa: S301
        assert other.run_ != fitted.run_
        assert np.array_equal(other.rates(X), fitted.rates(X))
        assert other.summary_ == fitted.summary_
    fitted.save(tmp_path / "kept")
    assert np.array_equal(NDT.load(tmp_path / "kept").rates(X), fitted.rates(X))
    with pytest.raises(ExistingFileError):
        fitted.save(tmp_path / "kept")


def test_a_temporary_run_goes_with_its_estimator():
    ndt = tiny().fit(counts())
    run = ndt.run_
    assert run.is_dir()
    del ndt
    gc.collect()
    assert not run.exists()


def test_a_notebook_shows_the_verdict_and_the_scores(fitted):
    shown = fitted._repr_html_()
    assert fitted.summary_["evaluation"]["verdict"]["sentence"] in shown
    assert "smoothed spikes" in shown
    assert "`" not in shown  # no call on a temporary folder
    assert "Not fitted" in tiny()._repr_html_()
    assert repr(NDT(bin_ms=20)) == "NDT(bin_ms=20)"
    assert repr(pickle.loads(pickle.dumps(NDT(bin_ms=20)))) == "NDT(bin_ms=20)"  # noqa: S301


def test_parameters_are_set_by_name(fitted):
    assert NDT().set_params(seed=3).seed == 3
    for name in ("dropout", "model.dropout"):
        with pytest.raises(SettingsError, match=r"is not a param.*\n.* `settings__model.dropout`"):
            NDT().set_params(**{name: 0.3})
    with pytest.raises(SettingsError, match=r"did you mean train\.max_steps"):
        tiny(settings={"max_steps": 3}).fit(counts())
    with pytest.raises(SettingsError, match="`settings`: found list; expected a mapping"):
        NDT(settings=["train.max_steps=3"], bin_ms=20).fit(counts())


def test_one_of_the_settings_is_set_by_its_key_and_the_others_stay():
    given = {"model.dropout": 0.1, "model": {"dropout": 0.2, "width": 16}}
    ndt = NDT(bin_ms=20, settings=given)
    ndt.set_params(**{"settings__model.dropout": 0.3})
    settings = load_settings("recordings", ndt.settings)
    assert (settings.model.dropout, settings.model.width) == (0.3, 16)
    assert given["model.dropout"] == 0.1  # the caller's mapping is not changed


def test_a_grid_varies_single_settings_in_a_pipeline():
    search = pytest.importorskip("sklearn.model_selection", reason="needs scikit-learn")
    from sklearn.pipeline import Pipeline

    grid = {"ndt__settings__model.dropout": [0.0, 0.4]}
    found = search.GridSearchCV(Pipeline([("ndt", tiny())]), grid, cv=2).fit(counts())
    assert len(set(found.cv_results_["mean_test_score"])) == 2
    assert found.best_estimator_["ndt"].settings["model.width"] == 16
    first = Pipeline([("ndt", NDT(settings=TINY)), ("last", "passthrough")])
    assert first.fit_transform(counts(), ndt__bin_ms=20).shape == (12, 8, 4)


def test_what_numpy_takes_as_an_array_is_one(fitted):
    class Labeled:
        def __array__(self, dtype=None, copy=None):
            return counts()

    assert np.array_equal(fitted.rates(Labeled()), fitted.rates(counts()))
    torch = pytest.importorskip("torch")
    assert np.array_equal(fitted.transform(torch.tensor(counts())), fitted.rates(counts()))


def test_neurons_on_the_first_axis_are_a_warning():
    rates_N = np.array([0.1, 0.2, 0.5, 1, 2, 4])
    X = np.random.default_rng(0).poisson(rates_N[:, None, None], (6, 7, 9))
    with pytest.warns(RunWarning, match="`X`: Mean rates differ far more along the first axis"):
        tiny().fit(X)


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (counts()[0], r"`X`: found 2 axes, \(8, 4\)"),
        (counts() + 0.5, r"`X`: found \S+ at trial 0, bin 0, neuron 0; expected whole numbers"),
        (counts() - 9, "expected counts from 0 on"),
        (np.where(counts() > 2, np.nan, 1.0), "expected finite counts"),
        (counts() * 40_000, "spike times"),
        ([counts()[0], counts()[0].T], r"`X\[1\]`: found 8 neurons, but 4"),
        ([counts()], r"`X\[0\]`: found shape"),
        (counts().astype(str), "expected counts"),
        ("spikes.npz", "`X`: found str"),
        ([], "found no trials"),
        (counts()[:1], "needs at least 2"),
    ],
)
def test_what_is_not_counts_is_refused_by_the_name_of_the_argument(X, message):
    with pytest.raises(DataError, match=message):
        tiny().fit(X)


def test_counts_without_a_spike_are_refused_by_the_name_of_the_argument():
    with pytest.raises(DataError, match="`X`: found no spike in 8 training trials") as refused:
        tiny().fit(np.zeros((10, 8, 3), dtype=int))
    assert "file" not in str(refused.value)
    with pytest.raises(DataError, match="`X`: found multiples of 50 alone"):
        tiny().fit(50 * counts())


def test_the_bin_width_is_asked_for_and_must_be_one():
    with pytest.raises(SettingsError, match="`bin_ms` is missing"):
        NDT().fit(counts())
    with pytest.raises(SettingsError, match="found 10 and 20 ms"):
        NDT(bin_ms=20).fit(counts(), bin_ms=10)
    with pytest.raises(SettingsError, match="`bin_ms`: expected one number"):
        NDT(bin_ms="20 ms").fit(counts())
    with pytest.raises(SettingsError, match="`bin_ms=0`"):
        NDT(bin_ms=0).fit(counts())
    data = SpikeData(counts().astype(np.uint8), bin_ms=5.0, lengths_B=np.full(12, 8))
    with pytest.raises(SettingsError, match="20 and 5 ms"):
        tiny().fit(data)


def test_other_trials_than_those_of_the_training_are_refused(fitted):
    with pytest.raises(DataError, match="`X` has 3 neurons"):
        fitted.rates(counts(n_neurons=3))
    with pytest.raises(DataError, match="`X` has trials of 9 bins"):
        fitted.score(counts(n_bins=9))
    with pytest.raises(RunError, match="not fitted"):
        NDT().rates(counts())


def test_settings_are_mappings_nested_or_dotted():
    nested = load_settings({"train": {"max_epochs": np.int64(3)}, "data.heldout_neurons": (1, 2)})
    assert nested.train.max_epochs == 3
    assert nested.data.heldout_neurons == (1, 2)
    assert load_settings("recordings", {"model.width": 32}).model.width == 32
    with pytest.raises(SettingsError, match=r"train.max_epochs = 0 \(`config`\)"):
        load_settings({"train.max_epochs": 0})


USER_CODE = """
import numpy as np
from ndt_cli import NDT, fit, load_settings

spikes = np.zeros((10, 20, 5), dtype=np.int64)
ndt = NDT(bin_ms=20, settings={"train.max_steps": 5}).fit(spikes)
first = ndt.rates(spikes)[0].mean()
lengths = [len(trial) for trial in ndt.rates([spikes[0], spikes[1][:10]])]
score: float = ndt.score([spikes[0], spikes[1][:10]])
result = fit(load_settings({"train": {"max_epochs": 3}}), out="runs/first")
assert result.evaluation is not None
bits: float = result.evaluation.scores["NDT"].hidden.bits_per_spike
reveal_type(ndt)
"""
# Large packages whose types are not in these lines: reading them takes minutes.
CONFIG = """
[mypy]
strict = true
[mypy-torch.*,scipy.*,h5py.*,matplotlib.*,rich.*,optuna.*,pydantic.*,safetensors.*,jinja2.*]
follow_imports = skip
ignore_missing_imports = true
"""


@pytest.mark.slow
def test_type_checkers_know_the_types_in_code_of_users(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "user.py").write_text(USER_CODE)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    root = str(Path(__file__).parents[1])
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "user.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": root},
        capture_output=True,
        text=True,
    )
    mine = [line for line in checked.stdout.splitlines() if line.startswith("user.py")]
    assert len(mine) == 1, checked.stdout
    assert 'Revealed type is "ndt_cli.estimator.NDT"' in mine[0]


def test_masked_counts_are_unknown_and_refused(fitted):
    X = np.ma.masked_less(counts(), 1)
    with pytest.raises(DataError, match=r"found nan at trial 0, .* expected finite counts"):
        fitted.rates(X)
    with pytest.raises(DataError, match="found nan"):
        fitted.rates(list(X))
    nothing_masked = np.ma.masked_less(counts(), 0)
    assert np.array_equal(fitted.rates(nothing_masked), fitted.rates(counts()))


def test_counts_in_half_precision_are_counts(fitted):
    assert np.array_equal(fitted.rates(counts().astype(np.float16)), fitted.rates(counts()))


def test_a_bin_width_in_seconds_is_a_warning():
    with pytest.warns(RunWarning, match=r"`bin_ms=0.02` gives bins of 0.02 ms: is its unit right"):
        tiny(bin_ms=0.02).fit(counts())


def test_train_trials_limits_the_trials_of_a_fit():
    ndt = tiny(settings={**TINY, "data.train_trials": 3}).fit(counts())
    assert json.loads((ndt.run_ / "run.json").read_text())["data"]["train"]["n_trials"] == 3


def test_the_split_of_given_data_is_kept():
    """Windows of one recording overlap: drawn at random, validation would share bins."""
    X = counts().astype(np.uint8)
    is_valid_B = np.arange(12) >= 5
    data = SpikeData(X, 20.0, np.full(12, 8), is_valid_B=is_valid_B)
    assert tiny(bin_ms=None).fit(data).summary_["evaluation"]["n_trials"] == 7
