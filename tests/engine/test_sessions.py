"""Several sessions in one run: each is trained, scored and resumed as if it were alone."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import build_network, changed, recording, spike_data, tiny_settings
from same_run import assert_same_run

from ndt_cli import evaluate, fit, fit_seeds, load_recording, load_trained, resume_fit, sweep
from ndt_cli.app import main
from ndt_cli.data.sessions import split_sessions, stack_sessions
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.batches import TrialSet
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.ensembles import save_ensemble, save_ensembles
from ndt_cli.engine.executors import InTurn, Processes
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trainer import Validator, new_network
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import DataError, ExistingFileError, RunError, SettingsError
from ndt_cli.metrics import RateScoreSums, decode_behavior
from ndt_cli.metrics.decoding import load_decoders, variable_names
from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.model.masking import hide
from ndt_cli.search.folder import SweepFolder, choose_members
from ndt_cli.search.loop import resume_sweep
from ndt_cli.search.space import Space

MODEL = {"embedding": "linear", "width": 16, "n_heads": 2}
SETTINGS = tiny_settings(
    model=MODEL,
    mask={"max_span": 2, "token_ratio": 0.6, "neuron_ratio": 0.3, "empty_ratio": 0.5},
    train={"max_epochs": 4, "learning_rate": 0.01, "batch_size": 3},
)
CPU = torch.device("cpu")


def _days(**fields):
    """Two sessions: 3 neurons and 6 bins, 4 neurons and 5 bins."""
    one = recording(7, 4, n_neurons=3, rates=True)
    two = recording(5, 3, n_neurons=4, n_bins=5, mean_count=2.0, rates=True, **fields)
    return [
        Recording(day.train, day.valid, name, "synthetic")
        for name, day in (("day1", one), ("day2", two))
    ]


def _both():
    return stack_sessions(_days())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of both, never stopped, with the folders of its sessions."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fit(SETTINGS, out=out, recording=_both())
    return out


# The recording


def test_sessions_come_apart_as_they_were_put_together():
    for day, again in zip(_days(), split_sessions(_both()), strict=True):
        for split in ("train", "valid"):
            before, after = getattr(day, split), getattr(again, split)
            np.testing.assert_array_equal(after.spikes_BTN[:, : before.n_bins], before.spikes_BTN)
            np.testing.assert_array_equal(after.rates_BTN[:, : before.n_bins], before.rates_BTN)
            np.testing.assert_array_equal(after.lengths_B, before.lengths_B)
            assert not after.spikes_BTN[:, before.n_bins :].any()


def test_held_out_neurons_of_all_sessions_stand_last():
    days = [
        Recording(
            spike_data(n_neurons=n, n_heldout=1), spike_data(n_neurons=n, n_heldout=1), "d", "x"
        )
        for n in (3, 4)
    ]
    both = stack_sessions(days)
    assert both.train.sessions.of_neuron_N.tolist() == [0, 0, 1, 1, 1, 0, 1]
    assert both.train.sessions.names == ("d-1", "d-2")
    assert both.train.n_heldout == 2
    for day, again in zip(days, split_sessions(both), strict=True):
        np.testing.assert_array_equal(again.train.spikes_BTN, day.train.spikes_BTN)
        assert again.train.n_heldout == 1


def test_the_same_counts_in_other_sessions_are_another_recording():
    one = recording(n_neurons=4)
    whole = Recording(one.train, one.valid, "a", "x")
    both = stack_sessions([whole, whole])
    other = stack_sessions([whole, whole])
    other.train.sessions.of_trial_B[:] = 0
    assert both.train.fingerprint != other.train.fingerprint


def test_sessions_of_other_bin_widths_or_with_forward_bins_are_refused():
    one = _days()[0]
    with pytest.raises(DataError, match="share one bin width"):
        stack_sessions([one, *_days(bin_ms=20.0)[1:]])
    with pytest.raises(DataError, match="forward bins"):
        stack_sessions([one, *_days(n_forward=1)[1:]])


# Training


def test_neurons_of_another_session_are_neither_seen_nor_scored():
    data = _both().train
    trials = TrialSet.load(data, CPU)
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
    stream = torch.Generator().manual_seed(0)
    masked = hide(
        trials.counts_BTN, trials.visible, trials.scorable, everywhere, SETTINGS.mask, 9, stream
    )
    present_B1N = torch.from_numpy(data.sessions.present_BN[:, None])
    assert not (masked.input_BTN * ~present_B1N).any()
    inside_BTN = torch.from_numpy(data.inside_BT[..., None]) & present_B1N
    assert torch.equal(masked.scored_BTN.expand(trials.shape), inside_BTN)


def test_the_read_out_of_each_neuron_starts_at_its_mean_rate_in_its_own_session():
    network = new_network(SETTINGS, _both().train, CpuMath())
    of_neuron_N = _both().train.sessions.of_neuron_N
    for place, day in enumerate(_days()):
        expected_N = np.log(day.train.spikes_BTN.mean(axis=(0, 1)))
        found_N = network.readout.last.bias.detach().numpy()[of_neuron_N == place]
        np.testing.assert_allclose(found_N, expected_N, rtol=1e-5)


def _taken(monkeypatch):
    """Note the trials of each batch in a list."""
    taken, take = [], TrialSet.take

    def noted(self, trials):
        if isinstance(trials, torch.Tensor) and trials.dtype == torch.int64:
            taken.append(trials.tolist())
        return take(self, trials)

    monkeypatch.setattr(TrialSet, "take", noted)
    return taken


def test_each_batch_is_of_one_session_and_an_epoch_takes_every_trial_once(tmp_path, monkeypatch):
    taken = _taken(monkeypatch)
    data = _both()
    train(SETTINGS, out=tmp_path / "run", recording=data, until_epoch=2)
    assert len(taken) == 2 * (3 + 2)  # 7 and 5 trials in batches of 3
    for epoch in (taken[:5], taken[5:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(12))
    for batch in taken:
        assert len(set(data.train.sessions.of_trial_B[batch])) == 1


@pytest.mark.parametrize("loss", ["poisson", "cross-entropy"])
def test_the_model_of_a_session_gives_what_the_model_of_all_gives(loss):
    data = _both()
    settings = changed(SETTINGS, "model", loss=loss)
    network = build_network(settings.model, 7, 6, max_count=5)
    checkpoint = Checkpoint.of_model(network, {})
    for place, day in enumerate(split_sessions(data)):
        columns = torch.from_numpy(np.flatnonzero(data.train.sessions.of_neuron_N == place))
        rows = np.flatnonzero(data.train.sessions.of_trial_B == place)
        alone = checkpoint.of_neurons(columns).build_model()
        inside_BT = torch.from_numpy(day.train.inside_BT)
        counts_BTN = torch.from_numpy(day.train.spikes_BTN)
        whole_BTN = torch.from_numpy(data.train.spikes_BTN[rows])
        with torch.inference_mode():
            torch.testing.assert_close(
                alone(counts_BTN, inside_BT), network(whole_BTN, inside_BT)[:, :, columns]
            )


def test_validation_scores_each_session_on_its_own_trials():
    data = _both()
    network = new_network(SETTINGS, data.train, CpuMath())
    measured = Validator(data.valid, SETTINGS, CPU)(network)
    r2_N = []
    for place, day in enumerate(split_sessions(data)):
        columns = torch.from_numpy(np.flatnonzero(data.train.sessions.of_neuron_N == place))
        alone = Checkpoint.of_model(network, {}).of_neurons(columns).build_model()
        trials = TrialSet.load(day.valid, CPU)
        with torch.inference_mode():
            rates = alone.rates(alone(trials.counts_BTN, trials.inside_BT))
        sums = RateScoreSums(day.valid.n_neurons)
        sums.add(rates.numpy(), day.valid.rates_BTN, day.valid.inside_BT)
        r2_N += [sums.result().r2_mean] * day.valid.n_neurons
    assert measured["valid_rate_r2"] == pytest.approx(np.mean(r2_N), rel=1e-5)


def test_a_resumed_run_of_sessions_is_the_run_that_never_stopped(whole, tmp_path):
    asked = iter(range(100))
    train(SETTINGS, out=tmp_path / "run", recording=_both(), should_stop=lambda: next(asked) == 6)
    found = resume_fit(tmp_path / "run", recording=_both())
    assert_same_run(tmp_path / "run", whole)
    assert list(found.sessions) == ["day1", "day2"]
    for name in found.sessions:
        assert_same_run(tmp_path / "run/sessions" / name, whole / "sessions" / name)


# What a run of sessions leaves


def test_each_session_has_a_run_folder_that_is_evaluated_like_any_other(whole):
    for day in split_sessions(_both()):
        run = whole / "sessions" / day.source
        model = load_trained(run)
        assert model.trained_on.n_neurons == day.train.n_neurons
        rates_BTN = model.rates(day.valid)
        assert rates_BTN.shape == day.valid.spikes_BTN.shape
        found = evaluate(run, recording=day).to_json()
        stored = json.loads((whole / "summary.json").read_text())["sessions"][day.source]
        bits = [s["scores"]["NDT"]["hidden"]["bits_per_spike"] for s in (found, stored)]
        assert bits[0] == pytest.approx(bits[1], rel=1e-6)
        assert (run / "figures" / "rates.png").is_file()


def test_where_the_model_of_one_session_is_needed_the_sessions_are_named(whole, tmp_path):
    for use in (
        lambda: evaluate(whole, recording=_both()),
        lambda: load_trained(whole),
        lambda: save_ensemble([whole], tmp_path / "ensemble"),
    ):
        with pytest.raises(RunError, match="a run of 2 sessions: day1, day2") as caught:
            use()
        assert str(whole / "sessions" / "day1") in caught.value.hint
    with pytest.raises(RunError, match="is one session of"):
        resume(whole / "sessions" / "day1")


def test_an_ensemble_of_runs_with_other_sessions_is_refused_before_anything_is_written(
    whole, tmp_path
):
    with pytest.raises(RunError, match="one without a name; expected day1, day2"):
        save_ensembles([whole, whole / "sessions" / "day1"], tmp_path / "ensemble")
    assert not (tmp_path / "ensemble").exists()


def test_what_several_sessions_cannot_do_is_refused(tmp_path):
    for model in ({"embedding": "identity"}, {"embedding": "linear"}):
        with pytest.raises(SettingsError, match="linear embedding of a given width"):
            train(tiny_settings(model=model), out=tmp_path / "run", recording=_both())


def test_each_session_has_an_ensemble_of_several_seeds(tmp_path):
    found = fit_seeds(
        changed(SETTINGS, "train", max_epochs=1), 2, out=tmp_path / "seeds", recording=_both()
    )
    assert found.finished
    assert list(found.sessions) == ["day1", "day2"]
    for name, day in zip(found.sessions, split_sessions(_both()), strict=True):
        of_session = found.sessions[name]
        assert len(of_session.scores[0].values) == 2
        rates_BTN = [load_trained(run / "sessions" / name).rates(day.valid) for run in found.runs]
        mean_BTN = load_trained(tmp_path / "seeds/ensemble" / name).rates(day.valid)
        np.testing.assert_allclose(mean_BTN, np.mean(rates_BTN, axis=0), rtol=1e-5)
    assert json.loads((tmp_path / "seeds/summary.json").read_text())["sessions"].keys() == {
        "day1",
        "day2",
    }


def test_equal_batches_take_trials_of_a_short_session_more_often(tmp_path, monkeypatch):
    taken = _taken(monkeypatch)
    data = stack_sessions(
        [
            Recording(
                recording(n, 2, n_neurons=3).train, recording(2, 2, n_neurons=3).valid, name, "x"
            )
            for n, name in ((12, "long"), (4, "short"))
        ]
    )
    settings = changed(SETTINGS, "train", session_batches="equal")
    train(settings, out=tmp_path / "run", recording=data, until_epoch=1)
    of_batch = [set(data.train.sessions.of_trial_B[rows]) for rows in taken]
    assert sorted(of_batch, key=min) == [{0}] * 3 + [{1}] * 3
    times = np.bincount(np.concatenate(taken), minlength=16)
    assert times[:12].max() == 1
    assert times[12:].min() >= 1


def test_a_new_session_starts_from_the_encoder_of_the_others(whole, tmp_path):
    settings = changed(SETTINGS, "train", start_from=whole, max_epochs=1, frozen_share=1.0)
    train(settings, out=tmp_path / "new", recording=recording(5, 3, n_neurons=5))
    old, new = (
        Checkpoint.load(RunFolder(run).checkpoint(name)).model
        for run, name in ((whole, "best-masked-loss"), (tmp_path / "new", "last"))
    )
    for name in old:
        if name.startswith("layers."):
            assert torch.equal(old[name], new[name])


def _with_behavior(day, names=("x", "y"), seed=0):
    """The day with behavior that its mean count decides, as both days' counts do."""

    def known(data):
        mean_BT = data.spikes_BTN.mean(axis=2) + data.spikes_BTN.sum(axis=(1, 2))[:, None] / 20
        behavior_BTV = np.stack([mean_BT, -mean_BT], axis=2).astype(np.float32)
        return replace(data, behavior_BTV=behavior_BTV, behavior_names=names)

    return replace(day, train=known(day.train), valid=known(day.valid))


def test_behavior_is_decoded_with_the_decoders_of_the_other_sessions(tmp_path):
    files = []
    for day in _days():
        day = _with_behavior(day)
        files.append(tmp_path / f"{day.source}.npz")
        both = [day.train, day.valid]
        np.savez(
            files[-1],
            spikes=np.concatenate([data.spikes_BTN for data in both]),
            behavior=np.concatenate([data.behavior_BTV for data in both]),
            split=np.repeat(["train", "valid"], [data.n_trials for data in both]),
            bin_ms=10.0,
        )
    settings = changed(changed(SETTINGS, "data", files=tuple(files)), "train", max_epochs=1)
    found = fit(settings, out=tmp_path / "both", draw=False)
    for name, evaluation in found.sessions.items():
        assert list(evaluation.across) == ["other sessions", "this session"]
        # The decoder of the other day, and not another: applied by hand it gives the same score.
        other = tmp_path / "both/sessions" / ({"day1", "day2"} - {name}).pop()
        names, decoders = load_decoders(RunFolder(other).own_decoder, "", 16)
        assert names == variable_names(evaluation.data)
        decoder = decoders["activations"]
        by_hand = decode_behavior(evaluation.activations, evaluation.data, decoder=decoder)
        assert evaluation.across["other sessions"].r2_mean == pytest.approx(by_hand.r2_mean)
        assert "fitted in other sessions" in evaluation.verdict.across_sessions
        assert "behavior_from_activations" in evaluation.to_json()
        # The decoders are of the best weights, and say nothing of others.
        run = tmp_path / "both/sessions" / name
        assert not evaluate(run, checkpoint="best-unmasked-loss").across


def test_a_session_without_known_behavior_is_scored_by_the_decoder_of_the_run_it_starts_from(
    tmp_path,
):
    day1, day2 = (_with_behavior(day) for day in _days())
    first = fit(changed(SETTINGS, "train", max_epochs=1), out=tmp_path / "day1", recording=day1)
    assert first.evaluation.across == {}
    settings = changed(SETTINGS, "train", max_epochs=1, start_from=tmp_path / "day1")
    unlabeled = replace(day2.train, behavior_BTV=np.full_like(day2.train.behavior_BTV, np.nan))
    found = fit(settings, out=tmp_path / "new", recording=replace(day2, train=unlabeled))
    across = found.evaluation.across
    assert np.isfinite(across["other sessions"].r2_mean)
    assert np.isnan(across["this session"].r2_mean)
    shutil.rmtree(tmp_path / "day1")  # the new run does not need it
    again = evaluate(tmp_path / "new", recording=replace(day2, train=unlabeled)).across
    assert again["other sessions"].r2_mean == pytest.approx(across["other sessions"].r2_mean)


def test_decoders_of_other_variables_are_not_used(tmp_path):
    day1, day2 = _days()
    fit(
        changed(SETTINGS, "train", max_epochs=1),
        out=tmp_path / "day1",
        recording=_with_behavior(day1),
    )
    settings = changed(SETTINGS, "train", max_epochs=1, start_from=tmp_path / "day1")
    other = _with_behavior(day2, names=("pupil", "running"))
    found = fit(settings, out=tmp_path / "new", recording=other)
    assert found.evaluation.across == {}
    assert found.evaluation.verdict.across_sessions == ""


# A search over several sessions


def _two_files(folder):
    for name, n_neurons in (("day1", 3), ("day2", 5)):
        counts_BTN = spike_data(12, n_neurons=n_neurons).spikes_BTN
        np.savez(folder / f"{name}.npz", spikes=counts_BTN, bin_ms=10.0)
    return folder / "day1.npz", folder / "day2.npz"


def _searched(out, **how):
    space = Space.from_tables("mine", {"train": {"learning_rate": {"log-uniform": [1e-3, 1e-2]}}})
    shared = {"n_members": 2, "default_run": True, "seed": 1, "out": out}
    return sweep(space=space, **{**shared, **how})


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A sweep over two sessions in memory, whose true rates are known."""
    out = tmp_path_factory.mktemp("searched") / "sweep"
    _searched(out, settings=changed(SETTINGS, "train", max_epochs=2), recording=_both())
    return out


def test_a_sweep_over_sessions_ranks_by_the_mean_over_them(searched):
    results = SweepFolder.open(searched).results()
    runs = [member.folder for member in results.ranked]
    assert len(runs) == 2
    scored = {run: _mean_of_evaluations(run, split_sessions(_both())) for run in runs}
    for member in results.ranked:
        assert member.scores["rate-r2"] == pytest.approx(scored[member.folder][MODEL_ROW][0])
    # The same seed as the sweep: the same bins are hidden.
    first, default = runs[results.ranked[0].index != 0], searched / "default"
    losses = [results.members[0].scores["masked-loss"]]
    losses += [results.references[name]["masked-loss"] for name in ("default run", "smoothing")]
    others = _mean_of_evaluations(default, split_sessions(_both()))
    expected = [scored[first][MODEL_ROW][1], others[MODEL_ROW][1], others[SMOOTHED_ROW][1]]
    assert losses == pytest.approx(expected, rel=1e-5)


MODEL_ROW, SMOOTHED_ROW = "NDT", "smoothed spikes"


def _mean_of_evaluations(run, days):
    """R2 and loss of hidden bins, as `evaluate` gives them, averaged over the sessions."""
    found = [evaluate(run / "sessions" / day.source, recording=day).scores for day in days]
    return {
        row: [
            np.mean([scores[row].rates.r2_mean for scores in found]),
            np.mean([scores[row].hidden.poisson_loss for scores in found]),
        ]
        for row in (MODEL_ROW, SMOOTHED_ROW)
    }


def test_the_best_members_of_a_sweep_over_sessions_are_averaged_in_each(searched, tmp_path):
    choice = choose_members(searched, recording=_both())
    assert len(choice.curve) == 2
    best = SweepFolder.open(searched).results().ranked[0]
    assert choice.curve[0] == pytest.approx(best.scores["masked-loss"])
    choice = choose_members(searched, 2)
    assert choice.save(tmp_path / "both") == [tmp_path / "both" / day for day in ("day1", "day2")]
    for day in split_sessions(_both()):
        rates_BTN = [
            load_trained(run / "sessions" / day.source).rates(day.valid) for run in choice.runs
        ]
        mean_BTN = load_trained(tmp_path / "both" / day.source).rates(day.valid)
        np.testing.assert_allclose(mean_BTN, np.mean(rates_BTN, axis=0), rtol=1e-5)
    with pytest.raises(ExistingFileError):
        choice.save(tmp_path / "both")


def test_a_resumed_sweep_makes_the_session_folders_that_a_kill_left_out(searched, tmp_path):
    shutil.copytree(searched, tmp_path / "sweep")
    member = tmp_path / "sweep/members/001"
    (member / "sessions/day2/settings.toml").unlink()
    resume_sweep(tmp_path / "sweep", recording=_both())
    day = split_sessions(_both())[1]
    again = load_trained(member / "sessions/day2").rates(day.valid)
    np.testing.assert_array_equal(
        again, load_trained(searched / "members/001/sessions/day2").rates(day.valid)
    )


def test_members_in_processes_train_on_the_same_files(tmp_path):
    settings = changed(SETTINGS, "data", files=_two_files(tmp_path))
    settings = changed(settings, "train", max_epochs=1)
    how = {"settings": settings, "n_members": 1, "default_run": False}
    scores = [
        _searched(tmp_path / name, executor=executor, **how).results.members[0].scores
        for name, executor in (("here", InTurn()), ("there", Processes(1)))
    ]
    assert scores[0] == scores[1]
    assert RunFolder(tmp_path / "there/members/000").settings().data.files == settings.data.files
    assert evaluate(tmp_path / "there/members/000/sessions/day2").data.n_neurons == 5


def test_a_population_over_sessions_copies_no_session_folders(tmp_path):
    settings = changed(SETTINGS, "train", max_epochs=2, val_interval_epochs=1)
    how = {"n_members": 4, "default_run": False, "pbt_interval": 1, "recording": _both()}
    results = _searched(tmp_path / "sweep", settings=settings, **how).results
    assert len(results.ranked) == 4
    replaced = next((tmp_path / "sweep/members").glob("*-until-1"))
    assert not (replaced / "sessions").exists()
    for member in results.ranked:
        assert (member.folder / "sessions/day2/settings.toml").is_file()


# The commands


def test_train_takes_several_files_and_prints_the_scores_of_each(tmp_path, capsys):
    files = list(_two_files(tmp_path))
    fast = ["train.max_epochs=1", "model.width=16", "model.n_layers=1", "inference.passes=1"]
    with pytest.raises(SystemExit) as stopped:
        main(
            ["train", "--out", str(tmp_path / "run")]
            + [word for file in files for word in ("--data", str(file))]
            + [word for setting in fast for word in ("--set", setting)]
        )
    said = capsys.readouterr()
    assert not stopped.value.code, said.err
    assert "together, by neurons" in said.out
    assert "R2 of NDT" not in said.out  # the true rates are not known
    # One session alone cannot be resumed.
    assert f"ndt train --resume {tmp_path / 'run'} --set" in " ".join(said.err.split())
    assert f"run of day2: {tmp_path / 'run' / 'sessions' / 'day2'}" in said.out
    settings = RunFolder(tmp_path / "run").settings()
    assert settings.data.files == tuple(files)
    assert load_recording(settings.data).train.sessions.names == ("day1", "day2")
    assert evaluate(tmp_path / "run/sessions/day2").data.n_neurons == 5


def test_sweep_takes_several_files_and_an_ensemble_has_a_folder_for_each(tmp_path, capsys):
    files = list(_two_files(tmp_path))
    fast = ["train.max_epochs=1", "model.width=16", "model.n_layers=1", "inference.passes=1"]
    (tmp_path / "mine.toml").write_text("[mask]\nratio = { uniform = [0.1, 0.4] }\n")
    words = ["--members", "1", "--no-default-run", "--space", str(tmp_path / "mine.toml")]
    words += [word for file in files for word in ("--data", str(file))]
    words += [word for setting in fast for word in ("--set", setting)]
    for command in (
        ["sweep", "--out", str(tmp_path / "sweep"), *words],
        ["ensemble", str(tmp_path / "sweep"), "--out", str(tmp_path / "best")],
        ["evaluate", str(tmp_path / "best" / "day2")],
        ["ensemble", str(tmp_path / "sweep/members/000"), "--out", str(tmp_path / "given")],
        ["report", str(tmp_path / "sweep")],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        said = capsys.readouterr()
        assert not stopped.value.code, said.err
        if command[0] == "ensemble":
            assert f"ndt evaluate {command[-1]}/day1" in said.err.replace("\n", "")
    averaged = [load_trained(tmp_path / out / "day2").weights_digest for out in ("best", "given")]
    assert averaged[0] == averaged[1]
    page = (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8")
    assert f"{tmp_path / 'day1.npz'}, {tmp_path / 'day2.npz'}" in page
    assert f"ndt report {tmp_path / 'sweep/members/000/sessions/day1'}" in page
