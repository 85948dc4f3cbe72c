"""Configs, runs, sweeps, spaces and submissions that are wrong: named, and left as they are."""

import numpy as np
import pytest
from bad_inputs import Case, announced, folder, limit_memory, npz, raw, run_ndt, unreadable
from bad_lab import (
    SETS,
    both,
    build_lab,
    changed,
    check_refused,
    checkpoint_of_format,
    cut_short,
    gone,
    huge,
    loop,
    submission,
    text,
)

pytestmark = pytest.mark.timeout(60)

BINARY = bytes(range(256))
TRAIN = "train --out new --config a.toml"
RESUME = "train --resume run --set train.max_epochs=3"
SWEEP = f"sweep --out new --members 2 --set data.file=spikes.h5 {SETS} --space a.toml"
MEMBER = "sweep/members/001/member.json"
BEST = "run/checkpoints/best-masked-loss.safetensors"
LAST = "run/checkpoints/last.safetensors"


def config(content):
    return text("a.toml", content)


CASES = [
    # Configs
    Case("no such file", TRAIN, "no config file a.toml.*ndt presets", 2),
    Case("a preset nearly right", "train --config lorens", "did you mean the preset lorenz", 2),
    Case("a folder", "train --config run", "run is a folder, not a config file", 2),
    Case("a device", "train --config /dev/zero", "/dev/zero is a device", 2),
    Case("a link to itself", "train --config loop", "no config file loop", 2, loop("loop")),
    Case("a spike file", "train --config spikes.h5", "byte 0 is not UTF-8", 2),
    Case("bytes", TRAIN, "a.toml is not a config file: byte 128", 2, raw("a.toml", BINARY)),
    Case("zeros", TRAIN, "a.toml, line 1, column 1", 2, raw("a.toml", bytes(99))),
    Case("5 GB", TRAIN, "a.toml is not a config file: it has more than", 2, huge("a.toml")),
    Case("UTF-16, cut", TRAIN, "is not UTF-16", 2, raw("a.toml", b"\xff\xfe[")),
    Case("Latin-1", TRAIN, "byte 3 is not UTF-8", 2, raw("a.toml", "# für".encode("latin1"))),
    Case("not to be read", TRAIN, "a.toml: Permission", 1, unreadable(config(""), "a.toml")),
    Case("JSON", TRAIN, "a.toml, line 1, column 1", 2, config('{"train": {"seed": 1}}')),
    Case("a wrong name", TRAIN, "did you mean train.seed", 2, config("[train]\nsed = 1")),
    Case("a wrong section", TRAIN, r"did you mean \[train\]", 2, config("[trian]\nseed = 1")),
    Case("no section", TRAIN, "did you mean train.seed", 2, config("seed = 1")),
    Case("a key twice", TRAIN, "a.toml, line 3", 2, config("[train]\nseed = 1\nseed = 2")),
    Case("a section of lists", TRAIN, "must be a section", 2, config("[[train]]\nseed = 1")),
    Case("5000 brackets", TRAIN, "a.toml: too many lists", 2, config("a = " + 5000 * "[")),
    Case("5000 digits", TRAIN, "too many digits", 2, config("[train]\nseed = " + 5000 * "9")),
    Case("a date", TRAIN, "train.seed = 2020-01-01", 2, config("[train]\nseed = 2020-01-01")),
    Case("no spike file", TRAIN, "x.h5: there is no such", 1, config('[data]\nfile = "x.h5"')),
    # Runs
    Case("an empty folder", "evaluate a", "a is not a run folder: no settings", 1, folder("a")),
    Case("a sweep", "evaluate sweep", "sweep is not a run folder", 1),
    Case("no settings", "evaluate run", "no settings.toml", 1, gone("run/settings.toml")),
    Case("settings of bytes", "evaluate run", "not UTF-8", 2, raw("run/settings.toml", BINARY)),
    Case(
        "settings of a later version",
        "evaluate run",
        "train.new_key .*run/settings.toml.* is not a setting",
        2,
        changed("run/settings.toml", "[train]", "[train]\nnew_key = 1"),
    ),
    Case(
        "data that are gone",
        "evaluate run",
        "nowhere.h5: the spike file that run was trained on is not there.*--data FILE",
        1,
        changed("run/settings.toml", "spikes.h5", "nowhere.h5"),
    ),
    Case("no run.json", RESUME, "run/run.json cannot be read", 1, gone("run/run.json")),
    Case("run.json, cut", RESUME, "run/run.json cannot be read", 1, cut_short("run/run.json")),
    Case("run.json of nothing", RESUME, "data: field required", 1, text("run/run.json", "{}")),
    Case("run.json, a list", RESUME, "JSON object", 1, text("run/run.json", "[]")),
    Case("10^5 brackets", RESUME, "run.json cannot be read", 1, text("run/run.json", 10**5 * "[")),
    Case("no checkpoints", RESUME, "there is no such checkpoint", 1, gone("run/checkpoints")),
    Case("a checkpoint, cut", RESUME, "last.safetensors: not a whole", 1, cut_short(LAST)),
    Case("an empty checkpoint", "evaluate run", "not a whole ndt checkpoint", 1, raw(BEST, b"")),
    Case("a folder as checkpoint", RESUME, "no such checkpoint", 1, both(gone(LAST), folder(LAST))),
    Case(
        "a checkpoint of a later version",
        "evaluate run",
        "checkpoint format 99.*update ndt-cli",
        1,
        checkpoint_of_format("99"),
    ),
    Case(
        "other spikes",
        "report run --data a.npz",
        "train trials are not those",
        1,
        npz(spikes=np.ones((10, 8, 3))),
    ),
    Case("no epoch", "plot run training --out a.png", "no epoch", 1, text("run/metrics.jsonl", "")),
    # Ensembles
    Case("no members", "evaluate ensemble", "members/000", 1, gone("ensemble/members")),
    Case("no list", "evaluate ensemble", "ensemble.json", 1, text("ensemble/ensemble.json", "{}")),
    Case(
        "a list, cut", "evaluate ensemble", "ensemble.json", 1, cut_short("ensemble/ensemble.json")
    ),
    Case("a run, cut", "ensemble run --out new", "best-masked-loss.*whole", 1, cut_short(BEST)),
    # Sweeps
    Case("an empty folder", "sweep show a", "a is not a sweep", 1, folder("a")),
    Case("a plan of bytes", "sweep show sweep", "sweep.toml", 2, raw("sweep/sweep.toml", BINARY)),
    Case(
        "an empty plan",
        "sweep show sweep",
        "members: field required",
        1,
        text("sweep/sweep.toml", ""),
    ),
    *(
        Case(
            f"a plan of {n} members",
            command,
            "sweep.toml: not the plan of a sweep .members: input should be",
            1,
            text("sweep/sweep.toml", f'members = {n}\nseed = 0\nspace = "quick"'),
        )
        for n in (-1, 0, 10**9)
        for command in ("sweep show sweep", "sweep --resume sweep")
    ),
    Case(
        "a plan of seed -1",
        "sweep show sweep",
        "seed: input should be greater than or equal to 0",
        1,
        text("sweep/sweep.toml", 'members = 2\nseed = -1\nspace = "quick"'),
    ),
    Case("no settings", "sweep show sweep", "base.toml: no such file", 1, gone("sweep/base.toml")),
    Case("no space", "sweep --resume sweep", "space.toml: no such", 1, gone("sweep/space.toml")),
    Case("a member, cut", "sweep show sweep", "ndt sweep --resume", 1, cut_short(MEMBER)),
    Case(
        "a member in 10^5 brackets",
        "sweep show sweep",
        "member.json: damaged",
        1,
        text(MEMBER, 10**5 * "["),
    ),
    Case(
        "no members",
        "ensemble sweep --out new",
        "no member is ranked",
        1,
        gone("sweep/members"),
    ),
    # Spaces
    Case("no such file", SWEEP, "no file a.toml.*ndt sweep spaces", 2),
    Case("an empty file", SWEEP, "no setting is searched", 2, config("")),
    Case("bytes", SWEEP, "a.toml is not a space: byte 128", 2, raw("a.toml", BINARY)),
    Case("5 GB", SWEEP, "a.toml is not a space: it has more than", 2, huge("a.toml")),
    Case("a wrong name", SWEEP, "did you mean train.seed", 2, config("[train]\nsed = 1")),
    Case("a value", SWEEP, "expected a draw", 2, config("[train]\nseed = 1")),
    Case("a draw", SWEEP, "did you mean uniform", 2, config("mask.ratio = {unifrm = [0.1, 1.0]}")),
    Case(
        "ends exchanged", SWEEP, "lower end first", 2, config("mask.ratio = {uniform = [1, 0.1]}")
    ),
    Case("a NaN end", SWEEP, "found .nan", 2, config("mask.ratio = {uniform = [nan, 0.1]}")),
    Case("out of range", SWEEP, "mask.ratio = 9", 2, config("mask.ratio = {uniform = [0.1, 9]}")),
    Case(
        "far out", SWEEP, "train.clip_norm", 2, config("train.clip_norm = {uniform = [1, 1e308]}")
    ),
    Case("other data", SWEEP, "share the same data", 2, config("data.bin_ms = {choice = [1, 2]}")),
    Case("a spike file", "sweep spaces spikes.h5", "not a space: byte 0", 2),
    # Submissions
    Case("an empty file", "nlb-check a.h5", "is not HDF5: it is empty", 1, raw("a.h5", b"")),
    Case("spikes as .npz", "nlb-check a.npz", "not HDF5: it is a zip", 1, npz()),
    Case("a folder", "nlb-check run", "run", 1),
    Case(
        "a file, cut",
        "nlb-check a.h5",
        "cannot be opened as HDF5",
        1,
        both(submission(eval_rates_heldin=np.ones((20, 30, 40))), cut_short("a.h5")),
    ),
    Case(
        "one array of four",
        "nlb-check a.h5",
        "train_rates_heldout: is missing",
        1,
        submission(eval_rates_heldin=np.ones((2, 3, 4))),
    ),
    Case(
        "text for rates",
        "nlb-check a.h5",
        "eval_rates_heldin",
        1,
        submission(eval_rates_heldin=np.array([[[b"x"]]])),
    ),
    Case(
        "rates of 8 TB",
        "nlb-check a.h5",
        "declares|memory",
        1,
        submission(
            **{
                f"{half}_rates_{part}": announced((10**4, 10**4, 10**4), "f8")
                for half in ("train", "eval")
                for part in ("heldin", "heldout")
            }
        ),
    ),
    Case(
        "targets of text",
        "nlb-check spikes.h5 --targets a.h5",
        "a.h5: cannot be read as HDF5",
        1,
        text("a.h5", 99 * "abc"),
    ),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return build_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(autouse=True)
def _limited():
    undo = limit_memory()
    yield
    undo()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.words[0]}: {case.what}")
def test_an_invalid_file_or_folder_is_an_error_message(case, lab, tmp_path, monkeypatch, capsys):
    check_refused(case, lab, tmp_path, monkeypatch, capsys)


def test_settings_that_are_odd_and_right_train(lab, tmp_path, monkeypatch, capsys):
    """More heads than channels, a window, a batch and an interval beyond everything."""
    monkeypatch.chdir(tmp_path)
    # As PowerShell's > writes it, from which comes: ndt presets NAME > mine.toml
    odd = "model.n_heads = 64\nmodel.context_back = 1000000000\ntrain.batch_size = 1000000000\n"
    (tmp_path / "odd.toml").write_bytes(
        (odd + "train.save_interval_minutes = 1e9\n").encode("utf-16")
    )
    words = f"train --config odd.toml --data {lab / 'spikes.h5'} --out new {SETS}"
    code, printed = run_ndt(words.split(), capsys)
    assert code == 0, printed
    assert (tmp_path / "new" / "summary.json").is_file()
