import json

import pytest

from ndt_cli.app import main
from ndt_cli.errors import SettingsError
from ndt_cli.settings.load import load_settings, preset_names, read_preset

NLB = {
    "data.synthetic": "none",
    "data.file_bin_ms": 5.0,
    "model.embedding": "identity",
    "model.positions": "learned",
    "model.norm_place": "pre",
    "model.tfixup_init": True,
    "model.n_layers": 4,
    "model.n_heads": 2,
    "mask.ratio": 0.25,
    "mask.span_ramp_start_epoch": 8000,
    "mask.span_ramp_end_epoch": 12000,
    "train.schedule": "cosine",
    "train.learning_rate": 1e-3,
    "train.warmup_epochs": 5000,
    "train.max_epochs": 50501,
    "train.patience_epochs": 3000,
    "train.weight_decay": 5e-5,
    "train.val_interval_epochs": 20,
    "train.batch_size": 64,
    "train.clip_norm": 200.0,
}
# NDT1's configs/*.yaml, over its src/config/default.py.
PAPER = {
    "lorenz": {
        "data.synthetic": "lorenz",
        "model.embedding": "count-table",
        "model.embedding_size": 2,
        "model.positions": "learned",
        "model.norm_place": "pre",
        "model.tfixup_init": True,
        "model.n_layers": 6,
        "model.context_back": 8,
        "model.context_forward": 4,
        "model.dropout": 0.1,
        "model.dropout_embedding": 0.2,
        "model.dropout_rates": 0.2,
        "mask.ratio": 0.25,
        "train.schedule": "constant",
        "train.learning_rate": 1e-3,
        "train.max_epochs": 20001,
        "train.patience_epochs": 2500,
        "train.weight_decay": 0.0,
    },
    "chaotic-rnn": {
        "data.synthetic": "chaotic-rnn",
        "model.embedding": "count-table",
        "model.embedding_size": 2,
        "model.positions": "learned",
        "model.norm_place": "post",
        "model.tfixup_init": False,
        "model.n_layers": 6,
        "model.context_back": 8,
        "model.context_forward": 4,
        "mask.ratio": 0.25,
        "train.schedule": "constant",
        "train.learning_rate": 1e-3,
        "train.max_epochs": 5001,
        "train.patience_epochs": 750,
        "train.weight_decay": 1e-4,
    },
    "mc_maze": NLB,
    "mc_rtt": NLB,
    "mc_maze_large": NLB,
    "mc_maze_medium": NLB,
    "mc_maze_small": {
        **NLB,
        "train.warmup_epochs": 2000,
        "train.patience_epochs": 2000,
        "mask.span_ramp_start_epoch": 5000,
        "mask.span_ramp_end_epoch": 10000,
    },
    "dmfc_rsg": {**NLB, "model.n_layers": 6, "train.patience_epochs": 4000},
    "area2_bump": {
        **NLB,
        "model.embedding": "count-table",
        "model.embedding_size": 2,
        "train.max_epochs": 40001,
        "train.patience_epochs": 2500,
        "mask.span_ramp_start_epoch": 600,
        "mask.span_ramp_end_epoch": 1200,
    },
}
ABLATED = {
    "ablation-postnorm": {"model.norm_place": "post", "model.tfixup_init": False},
    "ablation-rates": {"model.log_rates": False},
    "ablation-no-span": {
        "mask.max_span": 1,
        "mask.span_ramp_start_epoch": 0,
        "mask.span_ramp_end_epoch": 0,
    },
    "ablation-mask-token": {"mask.zero_token": False},
    "ablation-low-dropout": {
        "model.dropout": 0.15,
        "model.dropout_embedding": 0.15,
        "model.dropout_rates": 0.15,
    },
}
QUICK = ["chaotic-rnn-quick", "lorenz-quick", "nlb-quick", "recordings", "recordings-causal"]


def flat(name: str) -> dict[str, object]:
    sections = read_preset(name).settings.model_dump()
    return {f"{section}.{key}": v for section, keys in sections.items() for key, v in keys.items()}


def ndt(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    printed = capsys.readouterr()
    return caught.value.code, printed.out, printed.err


def test_the_shipped_presets_are_these():
    assert sorted(preset_names()) == sorted([*PAPER, *ABLATED, *QUICK])


@pytest.mark.parametrize("name", PAPER)
def test_a_preset_has_the_values_of_the_paper(name):
    found = flat(name)
    assert {key: found[key] for key in PAPER[name]} == PAPER[name]


@pytest.mark.parametrize("name", ABLATED)
def test_an_ablation_differs_from_mc_maze_in_what_it_ablates_and_nothing_else(name):
    whole, ablated = flat("mc_maze"), flat(name)
    assert {key: v for key, v in ablated.items() if v != whole[key]} == ABLATED[name]


@pytest.mark.parametrize("name", [name for name in PAPER if PAPER[name].get("data.file_bin_ms")])
def test_a_span_ramp_has_a_span_to_ramp_to(name):
    found = flat(name)
    assert found["mask.max_span"] > 1
    assert found["mask.span_ramp_end_epoch"] < found["train.max_epochs"]


@pytest.mark.parametrize("name", ["chaotic-rnn-quick", "lorenz-quick"])
def test_a_quick_preset_trains_the_full_one_s_set_for_fewer_epochs(name):
    quick, full = flat(name), flat(name.removesuffix("-quick"))
    assert quick["data.synthetic"] == full["data.synthetic"]
    assert quick["train.max_epochs"] < full["train.max_epochs"]


@pytest.mark.parametrize("name", [*PAPER, *ABLATED, *QUICK])
def test_a_preset_has_a_title_of_one_line(name):
    title = read_preset(name).title
    assert 10 < len(title) <= 80
    assert "\n" not in title


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(SettingsError, match="did you mean the preset mc_maze"):
        read_preset("mc_mase")


@pytest.mark.parametrize("name", [*PAPER, *ABLATED])
def test_a_preset_of_the_paper_hides_and_infers_as_ndt1(name):
    found = flat(name)
    assert (found["mask.empty_ratio"], found["mask.neuron_ratio"]) == (0, 0)
    assert (found["inference.passes"], found["model.width"]) == (1, "auto")


# ndt presets


def test_the_list_names_every_preset_with_its_title(capsys):
    code, out, _ = ndt(capsys, "presets")
    assert code == 0
    for name in preset_names():
        assert name in out
        assert read_preset(name).title in out


@pytest.mark.parametrize("name", ["lorenz", "mc_maze_small"])
def test_a_preset_shown_in_a_pipe_is_a_config_with_the_same_settings(capsys, tmp_path, name):
    code, out, _ = ndt(capsys, "presets", name)
    assert code == 0
    assert "\x1b" not in out
    (tmp_path / "mine.toml").write_text(out, encoding="utf-8")
    assert load_settings(tmp_path / "mine.toml") == read_preset(name).settings
    assert "# Decoupled weight decay, relative to the learning rate. (A number, at least 0" in out


def test_json_is_the_only_thing_on_standard_output(capsys):
    listed = json.loads(ndt(capsys, "presets", "--json")[1])["presets"]
    assert [row["name"] for row in listed] == preset_names()
    shown = json.loads(ndt(capsys, "presets", "lorenz", "--json")[1])
    assert shown["settings"] == read_preset("lorenz").settings.model_dump(mode="json")
    fields = json.loads(ndt(capsys, "presets", "--fields", "--json")[1])["fields"]
    assert "train.learning_rate" in [field["key"] for field in fields]


def test_the_fields_are_listed_with_range_and_default(capsys):
    _, out, _ = ndt(capsys, "presets", "--fields")
    row = next(line for line in out.splitlines() if "train.learning_rate" in line)
    assert "a number, above 0, at most 1" in row
    assert "0.001" in row
    assert "model.context_wrap_initial" in out  # a name is never cut short


def test_a_preset_and_fields_together_are_refused(capsys):
    code, out, err = ndt(capsys, "presets", "lorenz", "--fields")
    assert (code, out) == (2, "")
    assert "not both" in err


def test_a_preset_that_does_not_exist_ends_in_a_message(capsys):
    code, out, err = ndt(capsys, "presets", "lorens")
    assert (code, out) == (2, "")
    assert "Error: there is no preset 'lorens'; did you mean the preset lorenz?" in err
    assert "Traceback" not in err
