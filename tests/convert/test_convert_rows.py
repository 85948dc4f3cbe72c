"""Counts with a row per bin: columns of a text table, or an array beside the trial of each row."""

import numpy as np
import pytest

from ndt_cli.convert import ConvertOptions, convert, list_contents
from ndt_cli.data.spike_data import all_trials
from ndt_cli.errors import DataError, SettingsError

LENGTHS = np.array([12, 7, 12, 10, 9])
START_MS = 1000 + 500 * np.arange(5)
COLUMNS = {"counts": "unit*", "counts_bin_ms": 20}


def counts():
    """Trials x bins x units, zero past the end of a trial."""
    counts_BTN = np.random.default_rng(0).poisson(0.8, (5, 12, 3))
    return np.where((np.arange(12) < LENGTHS[:, None])[..., None], counts_BTN, 0)


def table(path, place, head="trial,bin", order=None, without=()):
    """Write a row per bin; ``place`` gives its number or time. Units are not in their order."""
    rows = [
        [trial + 5, place(trial, k), "LR"[trial % 2], *counts()[trial, k, [0, 2, 1]], 0]
        for trial in range(5)
        for k in range(LENGTHS[trial])
        if (trial, k) not in without
    ]
    if order is not None:
        rows = [rows[i] for i in np.random.default_rng(order).permutation(len(rows))]
    lines = [f"{head},side,unit_1,unit_10,unit_2,unit_11", *(",".join(map(str, r)) for r in rows)]
    path.write_text("\n".join(lines))
    return path


def converted(path, **options):
    return all_trials(convert(path, ConvertOptions(**options)).recording)


def check(data):
    np.testing.assert_array_equal(data.spikes_BTN[..., :3], counts())
    assert data.lengths_B.tolist() == LENGTHS.tolist()


@pytest.mark.parametrize(
    ("head", "place", "options"),
    [
        ("trial,bin", lambda trial, k: k, {}),
        ("trial,bin", lambda trial, k: k + 1, {}),
        ("trial,bin", lambda trial, k: 100 * trial + k, {}),
        ("trial,time", lambda trial, k: f"{0.02 * k - 0.1:.3f}", {}),
        ("trial,time", lambda trial, k: f"{(START_MS[trial] + 20 * k) / 1000:.3f}", {}),
        ("trial,time_ms", lambda trial, k: 20 * k, {"time_unit": "ms"}),
        ("trial,at", lambda trial, k: f"{0.02 * k:.3f}", {"counts_times": "at"}),
    ],
)
def test_rows_of_a_text_table_are_bins_of_their_trials_in_any_order(tmp_path, head, place, options):
    for order in (None, 1):
        path = table(tmp_path / "a.csv", place, head, order)
        data = converted(path, condition=("side",), **COLUMNS, **options)
        check(data)
        assert data.neuron_names == ("unit_1", "unit_2", "unit_10", "unit_11")
        assert data.trial_ids_B.tolist() == [5, 6, 7, 8, 9]
        assert data.condition_labels == ("L", "R", "L", "R", "L")
        assert list(data.trial_table) == ["trial", "side"]  # a silent unit is no label


def test_times_of_rows_from_an_event_place_the_bins_and_the_window_around_it(tmp_path):
    path = table(tmp_path / "a.csv", lambda trial, k: f"{0.02 * k - 0.1:.3f}", "trial,time", 1)
    data = converted(path, **COLUMNS)
    assert (data.event, data.start_ms, data.start_times_s_B) == ("zero of time", -100.0, None)
    data = converted(path, window_ms=(-40, 40), **COLUMNS)
    np.testing.assert_array_equal(data.spikes_BTN[..., :3], counts()[:, 3:7])
    assert (data.event, data.start_ms) == ("zero of time", -40.0)


def test_times_of_rows_on_the_recording_s_clock_are_kept(tmp_path):
    rows = [
        f"{trial},{START_MS[trial] / 1000 + 0.02 * k:.3f},{START_MS[trial] / 1000 + 0.06:.3f},"
        f"{counts()[trial, k, 0]}"
        for trial in range(5)
        for k in range(LENGTHS[trial])
    ]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["trial,time,go,unit_0", *rows]))
    data = converted(path, **COLUMNS)
    assert (data.event, data.start_ms) == ("", 0.0)
    np.testing.assert_allclose(data.start_times_s_B, START_MS / 1000)
    data = converted(path, align="go", window_ms=(-40, 60), **COLUMNS)
    np.testing.assert_array_equal(data.spikes_BTN[..., 0], counts()[:, 1:6, 0])
    np.testing.assert_allclose(data.start_times_s_B, START_MS / 1000 + 0.02)
    assert (data.event, data.start_ms) == ("go", -40.0)


@pytest.mark.parametrize(
    ("head", "place", "without", "said"),
    [
        ("trial,bin", lambda trial, k: k, [(2, 4)], "another place than bin 4 of its trial"),
        ("trial,bin", lambda trial, k: k, [(2, 0)], "begin with different bins"),
        ("trial,bin", lambda trial, k: 20 * k, [], "another place than bin 1"),
        ("trial,bin", lambda trial, k: k // 2, [], "another place than bin 1"),
        ("trial,bin", lambda trial, k: k / 2, [], "found fractions"),
        ("trial,time", lambda trial, k: 0.01 * k, [], "another place than bin 2"),
        ("trial,at", lambda trial, k: k % 3, [], None),
    ],
)
def test_bins_that_are_missing_or_shifted_are_refused(tmp_path, head, place, without, said):
    path = table(tmp_path / "a.csv", place, head, without=without)
    if said is None:  # without a place, rows have the order of the file
        return check(converted(path, **COLUMNS))
    with pytest.raises(DataError, match=said):
        converted(path, **COLUMNS)


def test_rows_in_no_order_need_the_place_of_each(tmp_path):
    path = table(tmp_path / "a.csv", lambda trial, k: k, "trial,at", order=2)
    with pytest.raises(DataError, match="rows do not follow one another"):
        converted(path, **COLUMNS)


def laid_out(values_BTK):
    return np.concatenate([own[:n] for own, n in zip(values_BTK, LENGTHS, strict=True)])


def test_an_array_of_rows_is_folded_with_its_behavior(tmp_path):
    trials = np.repeat(np.arange(5), LENGTHS)
    hand = np.random.default_rng(1).random((5, 12, 2))
    arrays = {"spikes": laid_out(counts()), "trial": trials, "hand": laid_out(hand), "bin_ms": 20}
    np.savez(tmp_path / "a.npz", **arrays)
    data = converted(tmp_path / "a.npz", behavior=("hand",))
    check(data)
    past = np.arange(12) >= LENGTHS[:, None]
    np.testing.assert_array_equal(data.behavior_BTV, np.where(past[..., None], np.nan, hand))
    # A length of windows, or trials by their times, say that the recording is continuous.
    assert converted(tmp_path / "a.npz", chop_ms=100).n_trials == 10


@pytest.mark.parametrize("options", [{}, {"chop_ms": 100}])
def test_columns_of_behavior_have_their_own_names(tmp_path, options):
    rows = [f"{k // 20},{k % 3},{k % 2},{k},{-k}" for k in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(["trial,unit_a,unit_b,hand_x,hand_y", *rows]))
    data = converted(tmp_path / "a.csv", behavior=("hand_*",), **COLUMNS, **options)
    assert data.behavior_names == ("hand_x", "hand_y")
    places = np.arange(100).reshape(data.spikes_BTN.shape[:2])
    np.testing.assert_array_equal(data.behavior_BTV, np.stack([places, -places], axis=2))


def test_rows_without_a_trial_are_left_out_and_trials_without_rows_too(tmp_path):
    trials = np.repeat([np.nan, 1.0, 2.0, 3.0, 4.0], LENGTHS)
    np.savez(tmp_path / "a.npz", spikes=laid_out(counts()), trial=trials, bin_ms=20)
    (tmp_path / "t.csv").write_text("trial,side\n" + "\n".join(f"{n},{n % 3}" for n in range(6)))
    options = {"spike_trials": "trial", "trials": str(tmp_path / "t.csv"), "condition": ("side",)}
    made = convert(tmp_path / "a.npz", ConvertOptions(**options))
    data = all_trials(made.recording)
    np.testing.assert_array_equal(data.spikes_BTN, counts()[1:])
    assert data.conditions_B.tolist() == [1, 2, 0, 1]
    assert [(d.what, d.n) for d in made.report.dropped] == [("bins", 12), ("trials", 2)]


def test_continuous_columns_begin_where_their_times_do(tmp_path):
    rows = [f"{100 + 0.02 * k:.2f},{k % 5},{k % 3}" for k in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(["time,unit_a,unit_b", *rows]))
    data = converted(tmp_path / "a.csv", chop_ms=200, **COLUMNS)
    assert data.start_times_s_B[0] == 100
    np.testing.assert_array_equal(data.spikes_BTN[..., 0].reshape(-1), np.arange(100) % 5)
    rows = [f"{k + 1},{k % 5},{k % 3}" for k in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(["time,unit_a,unit_b", *rows]))
    data = converted(tmp_path / "a.csv", chop_ms=200, **COLUMNS)
    assert data.start_times_s_B[0] == 0  # the number of a row is no time
    rows = [f"{2000 + 20 * k},{k % 5},{k % 3}" for k in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(["time,unit_a,unit_b", *rows]))
    with pytest.raises(DataError, match="the time of bin 1 19980 ms from where"):
        converted(tmp_path / "a.csv", chop_ms=200, **COLUMNS)
    data = converted(tmp_path / "a.csv", chop_ms=200, time_unit="ms", **COLUMNS)
    assert data.start_times_s_B[0] == 2
    with pytest.raises(SettingsError, match="no such name"):
        converted(tmp_path / "a.csv", chop_ms=200, counts="neuron*", counts_bin_ms=20)


def test_a_parquet_file_is_read_as_the_text_table_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason='needs "ndt-cli[rates]"')
    parquet = pytest.importorskip("pyarrow.parquet")
    text = table(tmp_path / "a.csv", lambda trial, k: k, order=1)
    cells = [line.split(",") for line in text.read_text().splitlines()]
    columns = dict(zip(cells[0], zip(*cells[1:], strict=True), strict=True))
    made = {n: v if n == "side" else [int(x) for x in v] for n, v in columns.items()}
    made["side"] = pyarrow.array(made["side"]).dictionary_encode()  # as pandas writes categories
    parquet.write_table(pyarrow.table(made), tmp_path / "a.parquet", row_group_size=16)
    data = converted(tmp_path / "a.parquet", condition=("side",), **COLUMNS)
    check(data)
    assert data.condition_labels == ("L", "R", "L", "R", "L")


def test_columns_of_a_parquet_file_may_have_gaps_and_lists(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason='needs "ndt-cli[rates]"')
    parquet = pytest.importorskip("pyarrow.parquet")
    times = [[0.01, 0.35], [0.02], None]
    columns = {
        "id": [2**53 + 1, 2**53 + 2, 5], "spike_times": times, "area": ["M1", None, "S1"],
        "depth": [1, None, 3], "good": [True, None, False],
        "day": pyarrow.array([1, 2, 3], pyarrow.date32()),
    }  # fmt: skip
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (listing,) = [list_contents(tmp_path / "a.parquet")]
    values = {entry.name: entry.values for entry in listing.entries}
    assert (values["area"], values["depth"], values["good"]) == (
        "M1, , S1",
        "1, nan, 3",
        "1, nan, 0",
    )
    assert values["id"] == "9007199254740993, 9007199254740994, 5"
    (tmp_path / "t.csv").write_text("start,stop\n0,0.2\n0.2,0.4")
    with pytest.raises(DataError, match="'day'"):
        converted(tmp_path / "a.parquet", bin_ms=20, trials=str(tmp_path / "t.csv"), counts="day")
    data = converted(tmp_path / "a.parquet", bin_ms=20, trials=str(tmp_path / "t.csv"))
    assert data.spikes_BTN.sum(axis=(1)).tolist() == [[1, 1, 0], [1, 0, 0]]
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-300])
    with pytest.raises(DataError, match="damaged or incomplete"):
        list_contents(tmp_path / "b.parquet")
