"""A run that starts from another: what it takes over, what stays, what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import changed, recording, tiny_settings, vars_of
from same_run import assert_same_run

from ndt_cli.app import main
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import RunFolder, SplitFacts
from ndt_cli.engine.starting import Start
from ndt_cli.engine.trainer import new_network
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import DataError, NdtError, SettingsError
from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.search.loop import sweep
from ndt_cli.search.space import find_space
from ndt_cli.settings.load import load_settings

LINEAR = {"embedding": "linear", "width": 16, "n_heads": 2, "n_layers": 2}
ENCODER = ("layers.", "norm.", "embedding.positions")
TRAIN = {"max_epochs": 4, "weight_decay": 0.01, "learning_rate": 0.01}


def _named(data, names, **fields):
    """A recording whose neurons have these names."""
    return Recording(
        *(
            SpikeData(**{**vars_of(split), "neuron_names": tuple(names), **fields})
            for split in (data.train, data.valid)
        ),
        source="tiny",
        layout="synthetic",
    )


def _day_1():
    return _named(recording(n_neurons=3), "abc")


def _day_2(names="cxa", **fields):
    return _named(recording(6, 4, n_neurons=len(names), mean_count=1.5), names, **fields)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a run on the first day."""
    out = tmp_path_factory.mktemp("first") / "run"
    train(tiny_settings(model=LINEAR, train=TRAIN), out=out, recording=_day_1())
    return out


def _settings(run, **train_settings):
    return tiny_settings(model=LINEAR, train={**TRAIN, "start_from": run, **train_settings})


def _started(run, data, settings):
    """Return the weights of a run, and those of a new network as drawn and as it starts."""
    start = Start.load(run)
    network = new_network(settings, data.train, CpuMath())
    drawn = {name: w.clone() for name, w in network.state_dict().items()}
    start.fill(network, start.match(settings, data.train, data.source))
    return start.checkpoint.model, drawn, network.state_dict()


@pytest.mark.parametrize("kind", ["identity", "count-table", "linear"])
@pytest.mark.parametrize("positions", ["learned", "relative"])
@pytest.mark.parametrize("loss", ["poisson", "cross-entropy"])
def test_a_model_of_the_same_trials_starts_with_every_weight(tmp_path, kind, positions, loss):
    model = {"embedding": kind, "positions": positions, "loss": loss, "readout": "mlp"}
    settings = tiny_settings(model=model, train={"max_epochs": 1})
    train(settings, out=tmp_path / "run", recording=recording())
    old, drawn, new = _started(tmp_path / "run", recording(), settings)
    assert all(torch.equal(new[name], old[name]) for name in old)
    assert not all(torch.equal(new[name], drawn[name]) for name in drawn)


def test_neurons_of_the_same_name_take_their_own_weights_and_others_new_ones(first):
    old, drawn, new = _started(first, _day_2("cxa"), _settings(first))
    for name in old:
        if name.startswith(ENCODER):
            assert torch.equal(new[name], old[name])
    read_in, read_out = "embedding.projection.weight", "readout.last.weight"
    bias = "readout.last.bias"
    for here, there in ((0, 2), (2, 0)):
        assert torch.equal(new[read_in][:, here], old[read_in][:, there])
        assert torch.equal(new[read_out][here], old[read_out][there])
        assert torch.equal(new[bias][here], old[bias][there])
    assert torch.equal(new[read_in][:, 1], drawn[read_in][:, 1])
    assert torch.equal(new[read_out][1], drawn[read_out][1])
    assert torch.equal(new[bias][1], drawn[bias][1])  # the mean rate of its own trials


def test_held_out_neurons_are_matched_by_name_though_their_columns_move(first):
    # Held-out neurons stand last: the columns are those of c, a and b.
    data = _day_2("abc", neuron_ids_N=np.array([2, 0, 1]), n_heldout=1)
    columns_N = Start.load(first).match(_settings(first), data.train, "day 2")
    assert columns_N.tolist() == [2, 0, 1]


def test_names_that_occur_twice_tell_nothing(first):
    columns_N = Start.load(first).match(_settings(first), _day_2("aab").train, "day 2")
    assert columns_N.tolist() == [-1, -1, 1]


def test_without_names_only_the_same_trials_are_known_to_be_of_the_same_neurons(first):
    start, unnamed = Start.load(first), recording(6, 4, n_neurons=3, mean_count=1.5)
    for which, expected in (("auto", [-1, -1, -1]), ("same", [0, 1, 2]), ("other", [-1, -1, -1])):
        settings = _settings(first, start_neurons=which)
        assert start.match(settings, unnamed.train, "day 2").tolist() == expected
    assert start.match(_settings(first), recording(n_neurons=3).train, "1").tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="they are not the same"):
        start.match(_settings(first, start_neurons="same"), _day_2("wxyz").train, "day 2")


def test_the_bias_of_an_offset_is_kept_in_shorter_and_longer_trials(tmp_path):
    model = {**LINEAR, "positions": "relative", "context_back": -1, "context_forward": 0}
    settings = tiny_settings(model=model, train={"max_epochs": 2, "learning_rate": 0.1})
    train(settings, out=tmp_path / "run", recording=recording(n_bins=6))
    name = "layers.1.attention.relative.bias_HO"  # offsets -5 to 0
    for n_bins in (4, 9):
        data = recording(n_bins=n_bins, n_neurons=4)
        old, _, new = _started(tmp_path / "run", data, settings)
        n_same = min(n_bins, 6)
        assert torch.equal(new[name][:, -n_same:], old[name][:, -n_same:])
        assert (new[name][:, : n_bins - n_same] == old[name][:, :1]).all()  # the farthest
        assert new[name].shape[1] == n_bins


@pytest.mark.parametrize("plain", [True, False])
def test_the_encoder_stays_as_it_was_while_it_is_frozen_and_learns_afterwards(
    first, tmp_path, plain
):
    weights = {}
    for share in (1.0, 0.5):
        out = tmp_path / str(share)
        settings = _settings(first, frozen_share=share, plain_layers=plain)
        train(settings, out=out, recording=_day_2())
        weights[share] = Checkpoint.load(RunFolder(out).checkpoint("last")).model
    old = Start.load(first).checkpoint.model
    for name in old:
        if name.startswith(ENCODER):
            assert torch.equal(weights[1.0][name], old[name]), name
    assert not torch.equal(weights[1.0]["readout.last.bias"], old["readout.last.bias"])
    for name in ("layers.0.expand.weight", "norm.weight", "embedding.positions"):
        assert not torch.equal(weights[0.5][name], old[name])


def test_a_resumed_start_is_the_run_that_never_stopped_whatever_became_of_the_first(
    first, tmp_path
):
    gone = tmp_path / "gone"
    shutil.copytree(first, gone)
    settings = _settings(gone)
    train(settings, out=tmp_path / "whole", recording=_day_2())
    train(settings, out=tmp_path / "stopped", recording=_day_2(), until_epoch=1)
    train(settings, out=tmp_path / "killed", recording=_day_2(), until_epoch=1)
    (tmp_path / "killed" / "metrics.jsonl").unlink()  # killed before its first save
    for saved in (tmp_path / "killed" / "checkpoints").iterdir():
        saved.unlink()
    resume(tmp_path / "killed", recording=_day_2())
    shutil.rmtree(gone)
    resume(tmp_path / "stopped", recording=_day_2())
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_other_neurons_need_a_linear_embedding(tmp_path):
    settings = tiny_settings(model={"embedding": "identity"}, train={"max_epochs": 1})
    train(settings, out=tmp_path / "run", recording=_day_1())
    settings = changed(settings, "train", start_from=tmp_path / "run")
    for names in ("cxa", "acb", "wxyz"):
        with pytest.raises(DataError, match="place of its own"):
            train(settings, out=tmp_path / "new", recording=_day_2(names))
    assert not (tmp_path / "new").exists()


def test_what_would_change_the_meaning_of_the_weights_is_refused(first, tmp_path):
    wide, long = (
        _named(recording(n_neurons=3, **fields), "abc")
        for fields in ({"bin_ms": 20.0}, {"n_bins": 7})
    )
    out = tmp_path / "new"
    for data, message in ((wide, "bins of 20 ms"), (long, "learned the positions of 6")):
        with pytest.raises(DataError, match=message):
            train(_settings(first), out=out, recording=data)
    for change in ({"context_back": 3}, {"n_layers": 3}, {"width": 32}, {"norm_place": "pre"}):
        settings = changed(_settings(first), "model", **change)
        with pytest.raises(SettingsError, match=rf"model\.{next(iter(change))} is"):
            train(settings, out=out, recording=_day_2())
    with pytest.raises(NdtError, match="not a run folder"):
        train(_settings(tmp_path / "nothing"), out=out, recording=_day_2())
    assert not out.exists()


def test_settings_from_a_run_keep_its_model_and_take_lengths_by_the_size_of_the_data(first):
    settings = Start.load(first).settings(["data.synthetic=lorenz"])
    assert settings.model == RunFolder(first).settings().model
    assert (settings.data.bin_ms, settings.train.max_steps) == (10.0, "auto")
    train = settings.train
    assert (train.optimizer, train.learning_rate, train.batch_size) == ("adamw", 0.01, 4)
    assert settings.train.start_from == first


def test_dropout_of_a_preset_goes_by_the_size_of_the_new_data(first):
    many_bins = SplitFacts.of(_day_1().train).model_copy(update={"n_observed_bins": 120_000})
    dropouts = ("dropout", "dropout_embedding", "dropout_rates")

    def of_new_data(before, n_bins):
        """Dropout on new data, from a run of many bins with this dropout."""
        settings = changed(_settings(None), "model", **dict.fromkeys(dropouts, before))
        RunFolder(first).write_settings(settings)
        found = replace(Start.load(first), trained_on=many_bins).settings()
        return [getattr(found.for_size(10, n_bins).model, name) for name in dropouts]

    kept = RunFolder(first).settings()
    preset = load_settings("recordings")
    of_many = preset.for_size(1000, 120_000).model.dropout
    try:
        for n_bins in (1_000, 480_000):
            own = preset.for_size(10, n_bins).model.dropout
            assert own != of_many
            assert of_new_data(of_many, n_bins) == pytest.approx([own] * 3)
            assert of_new_data(0.4, n_bins) == [0.4] * 3
    finally:
        RunFolder(first).write_settings(kept)


def test_an_automatic_width_is_kept_for_another_number_of_neurons(tmp_path):
    settings = tiny_settings(model={"embedding": "linear"}, train={"max_epochs": 1})
    train(settings, out=tmp_path / "run", recording=recording(n_neurons=20))
    start = Start.load(tmp_path / "run")
    settings = start.settings(["data.synthetic=none"])
    assert settings.model.width == 20
    assert (start.match(settings, recording(n_neurons=7).train, "day 2") == -1).all()


def test_train_from_a_run_says_what_it_takes_over(first, tmp_path, capsys):
    spikes_BTN = _day_2().train.spikes_BTN
    np.savez(tmp_path / "day2.npz", spikes=spikes_BTN, bin_ms=10.0, neuron_names=list("cxa"))
    common = ["train", "--from", str(first), "--out", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as stopped:
        main(common)
    assert stopped.value.code == 2
    assert "--from needs spikes" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([*common, "--data", str(tmp_path / "day2.npz"), "--set", "train.max_epochs=1"])
    said = capsys.readouterr()
    assert not stopped.value.code, said.err
    assert "read-in and read-out of 2 of the 3 neurons" in " ".join(said.err.split())
    assert load_trained(tmp_path / "new").trained_on.n_neurons == 3


def test_a_sweep_starts_each_member_from_the_run_and_draws_no_other_network(first, tmp_path):
    settings, data = _settings(first, max_epochs=1), _day_2()
    generic = find_space("generic")
    with pytest.raises(SettingsError, match=r"space generic draws model\.context_") as refused:
        sweep(settings, generic, n_members=2, out=tmp_path / "sweep", recording=data)
    assert "`space=from-run`" in refused.value.hint
    other = changed(settings, "model", n_layers=1)
    with pytest.raises(SettingsError, match=r"model\.n_layers is 1, and 2 in"):
        sweep(other, n_members=2, out=tmp_path / "sweep", recording=data)
    assert not (tmp_path / "sweep").exists()
    results = sweep(settings, n_members=2, out=tmp_path / "sweep", recording=data).results
    assert len(results.ranked) == 2
    for member in results.members:
        drawn = RunFolder(member.folder).settings().train
        assert drawn.start_from == first
        assert drawn.frozen_share == member.drawn["train.frozen_share"]
        alone = train(
            RunFolder(member.folder).settings(), out=tmp_path / str(member.index), recording=data
        )
        assert_same_run(alone.run, member.folder)
