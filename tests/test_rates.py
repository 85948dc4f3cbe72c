"""Rates in every format, with the units, trials, conditions and times that they are of."""

import json
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.io
from builders import spike_data, tiny_settings

from ndt_cli import rates_file
from ndt_cli.data.loading import load_file
from ndt_cli.data.spike_data import Recording, all_trials
from ndt_cli.data.write import write_recording
from ndt_cli.engine.ensembles import save_ensemble
from ndt_cli.errors import DataError, MissingExtraError, RunError, SettingsError
from ndt_cli.evaluation import evaluate
from ndt_cli.fitting import complete_ensemble, fit
from ndt_cli.inferred_rates import Rates, infer_rates
from ndt_cli.metrics.decoding import load_decoders
from ndt_cli.rates_file import write_rates

NAMES = ("u12", "u3", "u7")
IDS = [3, 5, 8, 9]
LABELS = ["left", "right", "left", "up"]
STARTS_S = [10.5, 12.25, 15.0, 19.75]


def labeled(n_trials=4, seed=0, **fields):
    """Trials of unequal length with everything that a recording says about them."""
    n = np.arange(n_trials)
    known = {
        "lengths_B": np.array([6, 4, 6, 5] * 5)[:n_trials],
        "conditions_B": np.array([0, 1, 0, 2] * 5)[:n_trials],
        "condition_names": {0: "left", 1: "right", 2: "up"},
        "trial_ids_B": np.array(IDS)[:n_trials] if n_trials <= 4 else n,
        "places_B": n,
        "event": "go cue",
        "start_ms": -20.0,
        "start_times_s_B": np.array(STARTS_S)[:n_trials] if n_trials <= 4 else 2.0 * n,
        "trial_table": {"reach time (s)": 0.5 + n, "block": np.array(["a", "b"] * 10)[:n_trials]},
        "neuron_names": NAMES,
        "is_valid_B": n % 2 == 1,
    }
    data = spike_data(n_trials, seed=seed, **{**known, **fields})
    behavior_BTV = np.cumsum(data.spikes_BTN[:, :, :2], axis=1).astype(float)
    return replace(data, behavior_BTV=behavior_BTV, behavior_names=("hand x", "hand y"))


@pytest.fixture
def rates():
    """Rates of held-out neuron u12: the columns are in another order than in the file."""
    data = replace(labeled(), neuron_ids_N=np.array([1, 2, 0]), n_heldout=1)
    rng = np.random.default_rng(0)
    inferred = rng.random(data.spikes_BTN.shape).astype(np.float32) * data.inside_BT[..., None]
    activations = rng.standard_normal((4, 6, 5)).astype(np.float32)
    return Rates(data, inferred, activations, "runs/first", "best-masked-loss", "rat.h5")


def expected_hz(rates):
    """Rates in spikes per second, in bins of 10 ms, in the order of the file."""
    return rates.inferred[:, :, [2, 0, 1]] * 100


def as_dict(path):
    """The arrays of an HDF5, .npz or MATLAB file, text as text."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if path.suffix == ".mat":
        found = scipy.io.loadmat(path, simplify_cells=True)
        table = found.pop("trial_table")
        return {**found, **{f"trial_table/{name}": column for name, column in table.items()}}
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            is_text = h5py.check_string_dtype(item.dtype)
            found[name] = item.asstr()[()] if is_text else item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
        return {**found, **file.attrs}


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".mat"])
def test_labels_ids_and_times_come_back_from_a_file_of_arrays(rates, tmp_path, suffix):
    write_rates(tmp_path / f"rates{suffix}", rates, n_components=2)
    found = as_dict(tmp_path / f"rates{suffix}")
    np.testing.assert_allclose(found["rates_hz"], expected_hz(rates), rtol=1e-6)
    np.testing.assert_allclose(found["rates"] * 100, expected_hz(rates), rtol=1e-6)
    assert found["activations"].shape == (4, 6, 5)
    assert (found["activations"][1, 4:] == 0).all()
    assert found["components"].shape == (4, 6, 2)
    assert list(found["neuron_names"]) == list(NAMES)
    assert np.ravel(found["heldout_neurons"]).tolist() == [0]
    assert list(found["trial_ids"]) == IDS
    assert list(found["split"]) == ["train", "valid"] * 2
    assert list(found["condition_labels"]) == LABELS
    assert list(found["conditions"]) == [0, 1, 0, 2]
    assert list(found["start_times_s"]) == STARTS_S
    assert list(found["time_ms"]) == [-15, -5, 5, 15, 25, 35]
    assert (str(found["event"]), float(found["start_ms"])) == ("go cue", -20)
    assert list(found["behavior_names"]) == ["hand x", "hand y"]
    np.testing.assert_array_equal(found["behavior"], rates.data.behavior_BTV)
    time_name = "reach_time__s_" if suffix == ".mat" else "reach time (s)"
    assert list(found[f"trial_table/{time_name}"]) == [0.5, 1.5, 2.5, 3.5]
    assert list(found["trial_table/block"]) == ["a", "b", "a", "b"]
    assert (str(found["run"]), str(found["checkpoint"])) == ("runs/first", "best-masked-loss")


def test_matlab_files_keep_numbers_that_are_no_doubles(rates, tmp_path):
    long_B = 2**60 + np.arange(4)
    write_rates(tmp_path / "a.mat", replace(rates, data=replace(rates.data, trial_ids_B=long_B)))
    found = as_dict(tmp_path / "a.mat")
    assert found["trial_ids"].tolist() == long_B.tolist()
    assert found["lengths"].dtype == np.float64


def test_the_clock_runs_forward_where_trials_overlap(rates):
    starts_s_B = np.array([10.0, 10.032, 11.0, 10.5])
    overlapping = replace(rates, data=replace(rates.data, start_times_s_B=starts_s_B))
    times_s_X, rates_hz_XN = overlapping.on_clock()
    assert (np.diff(times_s_X) > 0).all()
    here = np.flatnonzero(np.isclose(times_s_X, 10.037))  # the first bin of the second trial
    np.testing.assert_allclose(rates_hz_XN[here], expected_hz(rates)[1, :1], rtol=1e-6)


def test_windows_counted_from_the_start_have_the_clock_of_their_trials(rates):
    windows = {"start_bins_B": np.array([0, 4, 8, 12]), "lengths_B": np.full(4, 6)}
    data = replace(rates.data, start_times_s_B=100.0 + 0.04 * np.arange(4), **windows)
    chopped = replace(rates, data=data)
    np.testing.assert_allclose(chopped.on_clock()[0][[0, -1]], [100.005, 100.175])
    assert float(chopped.labels()["continuous_start_ms"]) == 100_000


def test_columns_of_the_table_of_trials_may_have_slashes(rates, tmp_path):
    """In HDF5, which has them as columns of one group, a slash would be a group of its own."""
    table = {"rt": np.arange(4), "rt/ms": 1000 * np.arange(4), "rt.ms": np.arange(4)}
    write_rates(tmp_path / "rates.h5", replace(rates, data=replace(rates.data, trial_table=table)))
    with h5py.File(tmp_path / "rates.h5") as file:
        assert sorted(file["trial_table"]) == ["rt", "rt.ms", "rt.ms_"]
        assert [file[f"trial_table/{name}"][3] for name in ("rt.ms", "rt.ms_")] == [3, 3000]


def test_an_hdf5_file_says_units_and_axes(rates, tmp_path):
    write_rates(tmp_path / "rates.h5", rates)
    with h5py.File(tmp_path / "rates.h5") as file:
        assert file["rates"].attrs["unit"] == "spikes/bin"
        assert file["rates_hz"].attrs["unit"] == "spikes/s"
        assert file["rates_hz"].attrs["axes"] == "trials x bins x neurons"
        assert file["time_ms"].attrs["unit"] == "ms"


def test_what_matlab_files_cannot_hold_is_refused_with_another_format(rates, tmp_path, monkeypatch):
    monkeypatch.setattr(rates_file, "_MAT_BYTES", 100)
    with pytest.raises(SettingsError, match=r"rates\.mat: found an array of up to") as caught:
        write_rates(tmp_path / "rates.mat", rates)
    assert "rates.h5" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def check_long_table(table, rates):
    """Check the columns of a long table: one row for each trial, bin and neuron."""
    data = rates.data
    assert len(table["rate_hz"]) == 3 * (6 + 4 + 6 + 5)
    row = 3 * (6 + 2) + 1  # of trial 5 (place 1), bin 2, neuron u3
    assert [table[name][row] for name in ("trial", "split", "condition", "neuron")] == [
        5, "valid", "right", "u3",
    ]  # fmt: skip
    assert table["time_ms"][row] == 5
    assert table["spikes"][row] == data.spikes_BTN[1, 2, 0]
    assert table["rate_hz"][row] == pytest.approx(expected_hz(rates)[1, 2, 1], rel=1e-5)


def test_a_csv_file_has_a_row_for_each_trial_bin_and_neuron(rates, tmp_path):
    write_rates(tmp_path / "rates.csv", rates)
    header, *rows = [line.split(",") for line in (tmp_path / "rates.csv").read_text().split()]
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    read = {"trial": int, "time_ms": float, "spikes": int, "rate_hz": float}
    check_long_table({n: [read.get(n, str)(v) for v in c] for n, c in columns.items()}, rates)


def test_a_parquet_file_has_the_same_rows(rates, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason='needs "ndt-cli[rates]"')
    write_rates(tmp_path / "rates.parquet", rates)
    table = parquet.read_table(tmp_path / "rates.parquet")
    check_long_table(table.to_pydict(), rates)
    assert table.schema.metadata[b"run"] == b"runs/first"
    assert table.schema.metadata[b"event"] == b"go cue"


def test_pandas_has_the_same_rows(rates):
    pytest.importorskip("pandas", reason='needs "ndt-cli[rates]"')
    check_long_table(rates.to_pandas().to_dict("list"), rates)


def test_xarray_has_labels_as_coordinates(rates):
    pytest.importorskip("xarray", reason='needs "ndt-cli[rates]"')
    found = rates.to_xarray()
    one = found.rate_hz.sel(trial=5, neuron="u3", time_ms=5)
    assert float(one) == pytest.approx(expected_hz(rates)[1, 2, 1], rel=1e-6)
    assert np.isnan(found.rate_hz.sel(trial=5, time_ms=35)).all()  # past its end
    assert found.condition.values.tolist() == LABELS
    assert found.block.values.tolist() == ["a", "b", "a", "b"]
    assert float(found.behavior.sel(trial=3, variable="hand y", time_ms=-15)) >= 0
    assert (found.attrs["run"], found.attrs["event"]) == ("runs/first", "go cue")
    table = {"rate_hz": np.arange(4), "trial": np.arange(4)}
    found = replace(rates, data=replace(rates.data, trial_table=table)).to_xarray()
    assert (
        found.source_rate_hz.values.tolist() == found.source_trial.values.tolist() == [0, 1, 2, 3]
    )


def test_pynapple_has_the_clock_of_the_recording(rates):
    pytest.importorskip("pynapple", reason='needs "ndt-cli[rates]"')
    found = rates.to_pynapple()
    assert list(found.columns) == list(NAMES)
    np.testing.assert_allclose(found.t[:2], [10.505, 10.515])
    np.testing.assert_allclose(found.values[6], expected_hz(rates)[1, 0], rtol=1e-6)
    np.testing.assert_allclose(found.time_support.start, STARTS_S)
    np.testing.assert_allclose(found.time_support.end, [10.56, 12.29, 15.06, 19.80])


@pytest.mark.parametrize("appended", [False, True])
def test_an_nwb_file_has_rates_on_its_clock_and_tables_of_trials_and_neurons(
    rates, tmp_path, appended
):
    pynwb = pytest.importorskip("pynwb", reason='needs "ndt-cli[rates]"')
    source = None
    if appended:
        from nlb_nwb import write_maze

        write_maze(tmp_path / "files", n_train=3, n_val=2, n_test=2)
        source = next((tmp_path / "files").rglob("*.nwb"))
        before = source.read_bytes()
    path = tmp_path / "rates.nwb"
    write_rates(path, rates, n_components=2, nwb_source=source)
    assert [str(e) for e in pynwb.validate(path=str(path))] == []
    with pynwb.NWBHDF5IO(str(path), "r") as io:
        file = io.read()
        module = file.processing["ndt"]
        assert "runs/first" in module.description
        assert "event: go cue" in module.description
        np.testing.assert_allclose(module["rates"].timestamps[:2], [10.505, 10.515])
        np.testing.assert_allclose(module["rates"].data[6], expected_hz(rates)[1, 0], rtol=1e-6)
        assert module["rates"].unit == "Hz"
        assert module["activations"].data.shape == (21, 5)
        assert module["components"].data.shape == (21, 2)
        assert list(module["neurons"]["neuron_name"][:]) == list(NAMES)
        trials = module["trials"].to_dataframe()
        assert trials["trial_id"].tolist() == IDS
        assert trials["start_time"].tolist() == STARTS_S
        assert trials["condition"].tolist() == LABELS
        assert trials["block"].tolist() == ["a", "b", "a", "b"]
        assert (file.units is not None) == appended
    if appended:
        assert source.read_bytes() == before


def test_an_nwb_file_needs_the_times_of_the_trials(rates, tmp_path):
    pytest.importorskip("pynwb", reason='needs "ndt-cli[rates]"')
    without = replace(rates, data=replace(rates.data, start_times_s_B=None))
    with pytest.raises(DataError, match=r"rat\.h5: the times of the trials .* are not known"):
        write_rates(tmp_path / "rates.nwb", without)
    assert list(tmp_path.iterdir()) == []


def test_principal_components_are_those_of_the_bins_inside_the_trials(rates):
    scores, axes_DK, share_K = rates.components(5)
    inside_BT = rates.data.inside_BT
    values_XD = rates.activations[inside_BT].astype(float)
    covariance = np.cov(values_XD.T, bias=True)
    np.testing.assert_allclose(share_K, np.linalg.eigvalsh(covariance)[::-1] / np.trace(covariance))
    np.testing.assert_allclose(axes_DK.T @ axes_DK, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(
        scores[:][inside_BT], (values_XD - values_XD.mean(0)) @ axes_DK, atol=1e-5
    )
    assert (scores[:][~inside_BT] == 0).all()
    with pytest.raises(SettingsError, match="`n_components=6`: expected a number from 1 to 5"):
        rates.components(6)


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("rates.txt", {}, r"rates\.txt: found the suffix \.txt; expected \.h5, \.npz, \.mat"),
        ("rates.csv", {"n_components": 2}, "no place for principal components"),
        ("rates.h5", {"nwb_source": "rat.nwb"}, r"`nwb_source`: .* expected an \.nwb file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(rates, tmp_path, name, options, cause):
    with pytest.raises(SettingsError, match=cause):
        write_rates(tmp_path / name, rates, **options)


def test_a_package_that_is_missing_is_named(rates, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="needs pyarrow") as caught:
        write_rates(tmp_path / "rates.parquet", rates)
    assert "ndt-cli[rates]" in caught.value.hint


# A run and its data ------------------------------------------------------------------------------


def first_of_each(columns, key, name):
    """The value of a column of a long table for each trial or neuron, in order."""
    return [columns[name][row] for row in np.sort(np.unique(columns[key], return_index=True)[1])]


def told_by(path):
    """What a file of rates says about its trials, neurons and times, whatever its format."""
    if path.suffix == ".nwb":
        pynwb = pytest.importorskip("pynwb", reason='needs "ndt-cli[rates]"')
        with pynwb.NWBHDF5IO(str(path), "r") as io:
            module = io.read().processing["ndt"]
            trials = module["trials"].to_dataframe()
            return {
                "neurons": list(module["neurons"]["neuron_name"][:]),
                "trials": trials["trial_id"].tolist(),
                "split": trials["split"].tolist(),
                "condition": trials["condition"].tolist(),
                "starts_s": trials["start_time"].tolist(),
                "block": trials["block"].tolist(),
                "event": re.search("event: ([^;]+)", module.description)[1],
                "start_ms": float(re.search("start_ms: ([^;]+)", module.description)[1]),
            }
    if path.suffix in (".csv", ".parquet"):
        pandas = pytest.importorskip("pandas", reason='needs "ndt-cli[rates]"')
        read = pandas.read_csv if path.suffix == ".csv" else pandas.read_parquet
        table = read(path).to_dict("list")
        told = {
            "neurons": first_of_each(table, "neuron", "neuron"),
            "trials": first_of_each(table, "trial", "trial"),
            "split": first_of_each(table, "trial", "split"),
            "condition": first_of_each(table, "trial", "condition"),
            "time_ms": sorted(set(table["time_ms"])),
        }
        return {**told, "neurons": [name for name in NAMES if name in told["neurons"]]}
    found = as_dict(path)
    return {
        "neurons": list(found["neuron_names"]),
        "trials": list(found["trial_ids"]),
        "split": list(found["split"]),
        "condition": list(found["condition_labels"]),
        "time_ms": list(found["time_ms"]),
        "lengths": list(found["lengths"]),
        "starts_s": list(found["start_times_s"]),
        "block": list(found["trial_table/block"]),
        "event": str(found["event"]),
        "start_ms": float(found["start_ms"]),
        "bin_ms": float(found["bin_ms"]),
        "source": str(found["source"]),
        "heldout": np.ravel(found["heldout_neurons"]).tolist(),
        "behavior": list(found["behavior_names"]),
    }


@pytest.mark.parametrize("source", [".npz", ".h5"])
@pytest.mark.parametrize("suffix", rates_file.RATES_SUFFIXES)
def test_what_a_spike_file_says_comes_back_from_every_format(tmp_path, source, suffix):
    if suffix in (".parquet", ".nwb"):
        package = "pyarrow" if suffix == ".parquet" else "pynwb"
        pytest.importorskip(package, reason='needs "ndt-cli[rates]"')
    whole = labeled()
    halves = [whole.take(np.flatnonzero(whole.is_valid_B == half)) for half in (False, True)]
    file = tmp_path / f"rat{source}"
    write_recording(Recording(*halves, "", ""), file)
    settings = tiny_settings().data.model_copy(update={"heldout_neurons": (0,)})
    data = all_trials(load_file(file, settings))
    inferred = np.ones(data.spikes_BTN.shape, np.float32)
    path = tmp_path / f"rates{suffix}"
    write_rates(path, Rates(data, inferred, source=str(file)))
    expected = {
        "neurons": list(NAMES),
        "trials": IDS,
        "split": ["train", "valid"] * 2,
        "condition": LABELS,
        "time_ms": [-15, -5, 5, 15, 25, 35],
        "lengths": [6, 4, 6, 5],
        "starts_s": STARTS_S,
        "block": ["a", "b", "a", "b"],
        "event": "go cue",
        "start_ms": -20,
        "bin_ms": 10,
        "source": str(file),
        "heldout": [0],
        "behavior": ["hand x", "hand y"],
    }
    told = told_by(path)
    assert {"neurons", "trials", "split", "condition"} <= told.keys()
    assert told == {name: expected[name] for name in told}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, the file that it was trained on, and another session's file."""
    made = tmp_path_factory.mktemp("rates")
    for name, seed in (("own", 1), ("other", 2)):
        whole = labeled(20, seed=seed, mean_count=2.0)
        halves = [whole.take(np.flatnonzero(whole.is_valid_B == half)) for half in (False, True)]
        write_recording(Recording(*halves, "", ""), made / f"{name}.h5")
    settings = tiny_settings(train={"max_epochs": 2})
    data = settings.data.model_copy(update={"file": made / "own.h5"})
    fit(settings.model_copy(update={"data": data}), out=made / "run")
    (made / "own.h5").rename(made / "moved.h5")
    return made


def test_training_writes_the_rates_of_all_trials_in_the_order_of_the_file(folder):
    found = as_dict(folder / "run" / "rates.h5")
    assert list(found["trial_ids"]) == list(range(20))
    assert list(found["split"]) == ["train", "valid"] * 10
    inferred = infer_rates(folder / "run", data=folder / "moved.h5")
    np.testing.assert_allclose(found["rates_hz"], np.nan_to_num(inferred.rates_hz_BTN), rtol=1e-4)
    with h5py.File(folder / "moved.h5") as file:
        assert (found["lengths"] == file["lengths"][:]).all()


def test_a_missing_training_file_is_asked_for_and_found_in_its_new_place(folder):
    for call in (infer_rates, evaluate):
        with pytest.raises(DataError, match=r"own\.h5: the spike file that .* is not there") as e:
            call(folder / "run")
        assert "`data='FILE'`" in e.value.hint
    moved = evaluate(folder / "run", data=folder / "moved.h5")
    assert moved.split == "valid"
    stored = json.loads((folder / "run" / "summary.json").read_text())["evaluation"]
    assert moved.to_json()["scores"] == stored["scores"]


def test_another_file_is_scored_by_what_is_stored_with_the_run(folder):
    found = evaluate(folder / "run", data=folder / "other.h5")
    assert (found.split, found.data.n_trials) == ("all", 20)
    for scores in found.scores.values():
        assert scores.behavior.n_folds == 0  # decoded by the fit to the training trials
        assert not scores.psth.split_half  # PSTHs of the training trials
    assert np.isfinite(found.scores["NDT"].behavior.r2_V).all()
    # The same time may be another bin there, so that the PSTHs of the run do not apply.
    shifted = evaluate(folder / "run", data=folder / "other.h5", other_window=True)
    assert shifted.scores["NDT"].psth.split_half
    last = evaluate(folder / "run", data=folder / "other.h5", checkpoint="last")
    same = last.model.weights_digest == found.model.weights_digest
    assert (last.scores["NDT"].behavior.n_folds == 0) == same


@pytest.mark.parametrize("n_trials", [1, 3])
def test_a_few_new_trials_are_enough_for_inference(folder, tmp_path, n_trials):
    data = labeled(20, seed=3).take(np.arange(n_trials))
    if n_trials > 1:  # all of one split, without a spike
        data = replace(data, is_valid_B=None, spikes_BTN=0 * data.spikes_BTN)
    few = data.take(np.arange(0))
    write_recording(Recording(few, data, "few", "ndt"), tmp_path / "few.h5")
    rates = infer_rates(folder / "run", data=tmp_path / "few.h5")
    assert rates.rates_hz_BTN.shape == data.spikes_BTN.shape
    scores = evaluate(folder / "run", data=tmp_path / "few.h5").scores["NDT"]
    assert np.isfinite(scores.hidden.bits_per_spike) == (n_trials == 1)
    with pytest.raises(DataError, match="found no train trials"):
        infer_rates(folder / "run", data=tmp_path / "few.h5", split="train")
    with pytest.raises(DataError, match="expected `train` and `valid`"):
        load_file(tmp_path / "few.h5", tiny_settings().data)


def test_an_ensemble_scores_another_file_by_what_is_stored_with_it(folder, tmp_path):
    ensemble = save_ensemble([folder / "run"], tmp_path / "ensemble")
    without = evaluate(ensemble, data=folder / "other.h5")
    assert without.scores["NDT"].behavior.n_folds == 5
    assert not without.scores["NDT"].psth.split_half
    (folder / "moved.h5").rename(folder / "own.h5")
    try:
        complete_ensemble(ensemble)
    finally:
        (folder / "own.h5").rename(folder / "moved.h5")
    found = evaluate(ensemble, data=folder / "other.h5").scores["NDT"].behavior
    alone = evaluate(folder / "run", data=folder / "other.h5").scores["NDT"].behavior
    assert found.n_folds == 0
    np.testing.assert_allclose(found.r2_V, alone.r2_V, atol=1e-4)


@pytest.mark.parametrize("name", ["decoders", "psths"])
def test_a_damaged_file_of_what_is_stored_is_named(folder, name):
    path = folder / "run" / f"{name}.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-5])
        with pytest.raises(RunError, match=rf"{name}\.safetensors cannot be read"):
            evaluate(folder / "run", data=folder / "other.h5")
    finally:
        path.write_bytes(content)


def test_stored_decoders_are_those_of_the_weights(folder):
    """Weights that were trained further keep their name, not their decoders."""
    decoders = folder / "run" / "decoders.safetensors"
    before = decoders.read_bytes()
    own = evaluate(folder / "run", data=folder / "moved.h5")
    fitted = own.decoders["NDT"].weights_NV
    names, stored = load_decoders(decoders, own.model.weights_digest, 3)
    assert names == ("hand x", "hand y")
    assert np.array_equal(stored["NDT"].weights_NV, fitted)
    assert load_decoders(decoders, "other weights", 3) == ((), {})
    assert decoders.read_bytes() == before


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"event": "movement onset"}, "trials from -20 ms on around 'movement onset', but .* 'go"),
        ({"start_ms": -10.0}, "trials from -10 ms on around 'go cue', but .* from -20 ms on"),
        ({"neuron_names": ("u12", "u3", "u8")}, "1 of its 3 neurons are not those"),
        ({"neuron_names": ("u3", "u12", "u7")}, "in another order"),
        ({"bin_ms": 20.0}, "20 ms as bin width"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_difference(folder, tmp_path, fields, cause):
    data = labeled(4, **fields)
    write_recording(Recording(data, data, "", ""), tmp_path / "unlike.h5")
    for call in (infer_rates, evaluate):
        with pytest.raises(DataError, match=cause):
            call(folder / "run", data=tmp_path / "unlike.h5")


def test_another_window_is_taken_when_asked_to(folder, tmp_path):
    data = labeled(4, event="movement onset")
    write_recording(Recording(data, data, "", ""), tmp_path / "unlike.h5")
    taken = infer_rates(folder / "run", data=tmp_path / "unlike.h5", other_window=True)
    assert taken.rates_hz_BTN.shape == (8, 6, 3)
