import builtins
import hashlib
import json
import logging
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from nlb_arrays import GROUP, N_EVAL, N_TRAIN, as_dmfc, make_example

from ndt_cli.errors import DataError, MissingExtraError
from ndt_cli.nlb import dependencies as extra
from ndt_cli.nlb import download
from ndt_cli.nlb.benchmark_scores import mean_rate_submission, score
from ndt_cli.nlb.catalog import TEST_LABELS, PublicFile
from ndt_cli.nlb.download import verify_label_file

needs_nlb_tools = pytest.mark.skipif(
    find_spec("nlb_tools") is None or find_spec("sklearn") is None,
    reason="needs nlb-tools and scikit-learn: pip install --no-deps nlb-tools==0.0.4",
)

# Of make_example() at seed 0, as nlb_tools.evaluation.evaluate gives them in Python 3.9.18 with
# pandas 1.3.4, numpy 1.26.4, scipy 1.13.1 and scikit-learn 1.6.1.
OLD_SCORES = {
    "co-bps": 0.39246163313655197,
    "vel R2": 0.9815846225300993,
    "psth R2": 0.27491336594203897,
    "fp-bps": 0.4665385385086133,
}
OLD_DMFC_SCORES = {"co-bps": 0.34601371860162444, "tp corr": 0.04923562407225336}


@pytest.fixture
def example():
    return make_example()


def mean_rates(example):
    tensors = example.tensors
    forward = [tensors[f"train_spikes_{part}_forward"] for part in ("heldin", "heldout")]
    return mean_rate_submission(
        tensors["train_spikes_heldin"],
        tensors["train_spikes_heldout"],
        np.concatenate(forward, axis=2),
        N_EVAL,
    )


def widened(rates):
    """Stretch a window of 35 bins to the 75 of dmfc_rsg."""
    return {
        key: array if key.endswith("forward") else np.repeat(array, 3, axis=1)[:, :75]
        for key, array in rates.items()
    }


def dmfc_targets(example):
    targets = as_dmfc(example)
    spikes = np.repeat(targets["eval_spikes_heldout"], 3, axis=1)[:, :75]
    return targets | {"eval_spikes_heldout": spikes}


@needs_nlb_tools
def test_scores_are_those_of_the_packages_that_nlb_tools_was_written_for(example):
    assert score({GROUP: example.targets}, {GROUP: example.rates}) == {
        GROUP: pytest.approx(OLD_SCORES, abs=1e-9)
    }
    found = score({"dmfc_rsg_20": dmfc_targets(example)}, {"dmfc_rsg_20": widened(example.rates)})
    assert found == {"dmfc_rsg_20": pytest.approx(OLD_DMFC_SCORES, abs=1e-9)}


@needs_nlb_tools
def test_names_of_scores_are_the_same_for_every_dataset(example):
    groups = (GROUP, "mc_maze_large_20", "mc_maze_20")
    found = score(dict.fromkeys(groups, example.targets), dict.fromkeys(groups, example.rates))
    assert set(found) == set(groups)
    for name in groups:
        assert tuple(found[name]) == ("co-bps", "vel R2", "psth R2", "fp-bps")
        assert found[name] == found[GROUP]


@needs_nlb_tools
def test_the_mean_rate_is_worth_nothing_and_the_true_rates_are(example):
    targets = {GROUP: example.targets}
    mean = score(targets, {GROUP: mean_rates(example)})[GROUP]
    true = score(targets, {GROUP: example.rates})[GROUP]
    assert -0.1 < mean["co-bps"] < 0.01
    assert -0.1 < mean["fp-bps"] < 0.01
    assert true["co-bps"] > 0.1
    assert true["vel R2"] > mean["vel R2"] + 0.3
    assert true["psth R2"] > mean["psth R2"] + 0.2


@needs_nlb_tools
def test_scoring_tells_what_it_does_and_changes_nothing(example, capsys, caplog):
    rates = dict(example.rates)
    rates["eval_rates_heldout"] = rates["eval_rates_heldout"].copy()
    rates["eval_rates_heldout"][0, 0, 0] = 0  # nlb_tools logs a warning, and writes 1e-9
    before = {key: array.copy() for key, array in rates.items()}
    told = []
    with caplog.at_level(logging.INFO):
        score({GROUP: example.targets}, {GROUP: rates}, progress=lambda *args: told.append(args))
    assert told == [(f"scoring {GROUP}", 0, 1), (f"scoring {GROUP}", 1, 1)]
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
    assert not logging.getLogger("nlb_tools.evaluation").disabled
    for key, array in before.items():
        np.testing.assert_array_equal(rates[key], array)


@needs_nlb_tools
def test_forward_rates_are_scored_only_where_they_are(example):
    arrays = dict(example.rates)
    del arrays["eval_rates_heldin_forward"], arrays["eval_rates_heldout_forward"]
    assert "fp-bps" not in score({GROUP: example.targets}, {GROUP: arrays})[GROUP]


@needs_nlb_tools
def test_constant_rates_have_no_speed_to_correlate(example):
    targets = {"dmfc_rsg_20": dmfc_targets(example)}
    flat = {"dmfc_rsg_20": widened(mean_rates(example))}
    assert np.isnan(score(targets, flat)["dmfc_rsg_20"]["tp corr"])

    alone = targets["dmfc_rsg_20"]["eval_behavior"]
    alone[0, :3] = [1, 1, 1]
    with pytest.raises(DataError, match="tp corr needs two evaluated trials of each") as caught:
        score(targets, flat)
    assert "1 of 3 combinations have only one" in caught.value.message


@needs_nlb_tools
def test_rates_that_cannot_be_scored_are_refused_with_their_place(example):
    targets = {GROUP: example.targets}
    rates = dict(example.rates)
    few = {**rates, "eval_rates_heldout": rates["eval_rates_heldout"][1:]}
    with pytest.raises(DataError, match=f"{GROUP}/eval_rates_heldout: has 7 eval trials"):
        score(targets, {GROUP: few})
    few = rates | {key: array[1:] for key, array in rates.items() if key.startswith("train")}
    with pytest.raises(DataError, match=f"expected {N_TRAIN}, as in the targets"):
        score(targets, {GROUP: few})
    with pytest.raises(DataError, match="nothing to score: there are rates of mc_maze_20"):
        score(targets, {"mc_maze_20": example.rates})


def test_nothing_of_nlb_tools_is_imported_before_it_is_needed():
    probe = "import sys, ndt_cli.nlb.benchmark_scores, json; print('nlb_tools' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.lower()) is False


def test_without_nlb_tools_the_error_is_one_line_to_run(example, monkeypatch):
    found = extra.find_spec
    monkeypatch.setattr(
        extra, "find_spec", lambda name: None if name == "nlb_tools" else found(name)
    )

    def no_import(name, *args, **kwargs):
        assert not name.startswith("nlb_tools"), "imported although it is not there"
        return real_import(name, *args, **kwargs)

    real_import = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", no_import)
    with pytest.raises(MissingExtraError) as caught:
        score({GROUP: example.targets}, {GROUP: example.rates})
    assert "nlb_tools" in caught.value.message
    assert "--no-deps nlb-tools==0.0.4" in caught.value.hint
    assert "\n" not in caught.value.hint


def test_only_the_published_label_file_is_taken(tmp_path, monkeypatch):
    path = tmp_path / "eval_data_test.h5"
    with pytest.raises(DataError, match="no such file") as caught:
        verify_label_file(path)
    assert "105,927,616 bytes" in caught.value.message
    assert "f2f434d30193251b58e6a693381fdd185c8fbc0e47d38f8810e65295bc42c865" in (
        caught.value.message
    )
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:f2f4\n")
    with pytest.raises(DataError, match="Git LFS pointer") as caught:
        verify_label_file(path)
    assert "git lfs pull" in caught.value.hint
    path.write_bytes(b"other labels")
    with pytest.raises(DataError, match="has 12 bytes"):
        verify_label_file(path)

    stand_in = PublicFile(TEST_LABELS.path, 12, hashlib.sha256(b"right labels").hexdigest(), ("a",))
    monkeypatch.setattr(download, "TEST_LABELS", stand_in)
    with pytest.raises(DataError, match=hashlib.sha256(b"other labels").hexdigest()):
        verify_label_file(path)
    path.write_bytes(b"right labels")
    verify_label_file(path)
