"""Bad command lines and settings: every command says what is wrong, and leaves nothing behind."""

import pytest
from bad_inputs import Case, folder, limit_memory, npz, raw
from bad_lab import SETS, build_lab, check_refused, read_only, where_memory_is_limited

from ndt_cli.app import COMMANDS

pytestmark = pytest.mark.timeout(60)

BILLION = 10**9
LORENZ = "gen-data lorenz --out a.h5"
CHAOS = "gen-data chaotic-rnn --out a.h5"
CONVERT = "convert spikes.h5 --out a.h5"
TRAIN = f"train --data spikes.h5 --out new {SETS}"
SWEEP = f"sweep --out new --members 2 --set data.file=spikes.h5 {SETS}"
BENCH = "bench --device cpu --threads 1 --steps 1"
ALL = (
    "gen-data lorenz", "gen-data chaotic-rnn", "convert", "check-data", "presets", "train",
    "evaluate", "rates", "report", "plot", "compare", "sweep", "sweep show", "sweep spaces",
    "ensemble", "import-ndt1", "stream", "bench",
    "nlb-data", "nlb-submit", "nlb-check",
)  # fmt: skip

CASES = [
    Case("a command that is not", "trian", "did you mean train", 2),
    Case("a flag before the command", "--fast train", "--fast", 2),
    Case("a set that is not", "gen-data lorentz --out a.h5", "lorenz", 2),
    *(Case("an unknown flag", f"{name} --no-such-flag 1", "--no-such-flag", 2) for name in ALL),
    # gen-data
    Case("no file", "gen-data lorenz", "--out", 2),
    Case("a flag that is nearly right", f"{LORENZ} --n-neuron 3", "--n-neurons", 2),
    Case("a number in words", f"{LORENZ} --n-neurons many", "--n-neurons", 2),
    Case("no neurons", f"{LORENZ} --n-neurons 0", "--n-neurons", 2),
    Case("a seed below 0", f"{LORENZ} --seed -1", "--seed", 2),
    Case("a number of 5000 digits", f"{LORENZ} --n-repeats 1{5000 * '0'}", "--n-repeats", 2),
    Case("10^9 bins", f"{LORENZ} --n-bins {BILLION}", "1000000000 bins.*at most 1e.07", 2),
    Case("10^9 neurons", f"{LORENZ} --n-neurons {BILLION}", r"--n-neurons 1000000000.*GB.*free", 2),
    Case("10^9 trials", f"{LORENZ} --n-repeats {BILLION}", r"--n-repeats 1000000000.*memory", 2),
    Case("10^30 conditions", f"{LORENZ} --n-conditions 1{30 * '0'}", "--n-conditions 10{30}", 2),
    Case("bins of NaN ms", f"{LORENZ} --bin-ms nan", "bin.ms", 2),
    Case("endless bins", f"{LORENZ} --bin-ms inf", "--bin-ms inf.* 100000", 2),
    Case("a NaN parameter", f"{LORENZ} --sigma nan", "--sigma nan: expected", 2),
    Case(
        "a rate of 10^300 Hz",
        f"{LORENZ} --base-rate-hz 1e300",
        "--base-rate-hz 1e.300: exp",
        2,
    ),
    Case("log-rates without end", f"{LORENZ} --log-rate-std 1e9", "--log-rate-std.* 65535", 2),
    Case("no rate", f"{LORENZ} --base-rate-hz 0", "--base-rate-hz.*no spike", 2),
    Case("a system that explodes", f"{LORENZ} --rho 1e9", "diverged.*--max-step", 2),
    Case("10^11 steps", f"{LORENZ} --transient 1e9", "transient of 1e.09.*decrease --transient", 2),
    Case("one trial", f"{LORENZ} --n-conditions 1 --n-repeats 1", "at least 2 are needed", 2),
    Case("only training trials", f"{LORENZ} --train-fraction 1", "--train-fraction 1 leaves", 2),
    Case("a wrong ending", "gen-data lorenz --out a.csv", r"a\.csv.*\.npz, \.h5", 1),
    Case("no ending", "gen-data chaotic-rnn --out a", r"a: found the ending ''", 1),
    Case("a file that is there", "gen-data lorenz --out spikes.h5", "exists.*--overwrite", 1),
    Case("a file as folder", "gen-data lorenz --out spikes.h5/a.h5", "is a file, not a folder", 1),
    Case(
        "a folder nobody may write to",
        "gen-data lorenz --out shut/a.h5",
        "shut/a.h5: no permission to write",
        1,
        read_only("shut"),
    ),
    Case("10^9 units", f"{CHAOS} --n-neurons {BILLION}", "--n-neurons 1000000000.*memory", 2),
    Case("more observed than are", f"{CHAOS} --n-observed 51", "observed 51: expected 1 to 50", 2),
    Case("trials of 30000 years", f"{CHAOS} --duration-s 1e12", "--duration-s 1000000000000", 2),
    Case("trials of 30 years", f"{CHAOS} --duration-s 1e9", "--duration-s 1000000000.*memory", 2),
    Case("bins longer than trials", f"{CHAOS} --dt-s 5 --tau-s 9", "holds 0 bins", 2),
    Case("steps too long", f"{CHAOS} --tau-s 0.001", "--tau-s 0.001.*below twice", 2),
    Case(
        "weights without end",
        f"{CHAOS} --gain 1e308",
        r"--gain 1e\+308: .* to 1000000000",
        2,
    ),
    Case("a network at rest", f"{CHAOS} --x0-std 0", "does not change.*--x0-std", 2),
    Case("silent units", f"{CHAOS} --peak-rate-hz 0", "--peak-rate-hz.*no spike", 2),
    # convert; tests/test_convert_*.py know more
    Case("no file to write", "convert spikes.h5", "--out", 2),
    Case("no such recording", "convert x.mat --out a.h5", r"x\.mat: there is no such file", 1),
    Case("the recording itself", "convert spikes.h5 --out spikes.h5 --overwrite", "itself", 2),
    Case("NaN ms", f"{CONVERT} --bin-ms nan", "--bin-ms: found nan", 2),
    Case("a share of -5", f"{CONVERT} --valid-fraction -5", "--valid-fraction: found -5", 2),
    Case("a window of one end", f"{CONVERT} --window 5", "--window", 2),
    Case("a window backwards", f"{CONVERT} --window 50 -50", "--window: found 50 to -50", 2),
    Case("endless samples", f"{CONVERT} --sample-rate-hz inf", "--sample-rate-hz", 2),
    Case("hours", f"{CONVERT} --time-unit h", "--time-unit.*samples", 2),
    Case(
        "two ways to split",
        ("convert", "spikes.h5", "--out", "a.h5", "--split=random", "--valid-where=split == valid"),
        "--split and --valid-where were both given",
        2,
    ),
    # check-data, presets
    Case("two files", "check-data spikes.h5 run", "extra argument", 2),
    Case("no multiple of 10 ms", "check-data spikes.h5 --set data.bin_ms=15", "15.*multiple", 1),
    Case("a preset nearly right", "presets lorens", "did you mean the preset lorenz", 2),
    Case("a preset and all fields", "presets lorenz --fields", "not both", 2),
    Case("a path as preset", "presets ../../etc/passwd", "no preset '../../etc/passwd'", 2),
    # train
    Case("no such setting", f"{TRAIN} --set train.sed=1", "train.sed.*did you mean train.seed", 2),
    Case("no name", f"{TRAIN} --set =1", "--set =1 has no name", 2),
    Case("no value", f"{TRAIN} --set train.seed=", "--set train.seed= has no value", 2),
    Case("text for a number", f'{TRAIN} --set train.seed="1"', 'train.seed = "1".*number', 2),
    Case("a fraction", f"{TRAIN} --set train.seed=1.5", "train.seed = 1.5.*whole number", 2),
    Case("a NaN rate", f"{TRAIN} --set train.learning_rate=nan", "train.learning_rate = nan", 2),
    Case("batches of 0", f"{TRAIN} --set train.batch_size=0", "train.batch_size = 0.*least 1", 2),
    Case("10^10 epochs", f"{TRAIN} --set train.max_epochs={BILLION}0", "at most 1000000000", 2),
    Case("a clip of 10^308", f"{TRAIN} --set train.clip_norm=1e308", "train.clip_norm = 1e", 2),
    Case("a device that is not", f"{TRAIN} --set train.device=gpu", 'device = "gpu".*cuda', 2),
    Case("GPU 99", f"{TRAIN} --set train.device=cuda:99", "cuda:99", 2),
    Case("a precision", f"{TRAIN} --set train.precision=float16", "did you mean bfloat16", 2),
    Case("10^5 threads", f"{TRAIN} --set train.n_threads=100000", "at most 1024", 2),
    Case("65 heads", f"{TRAIN} --set model.n_heads=65", "model.n_heads = 65.*at most 64", 2),
    Case("a context of -5", f"{TRAIN} --set model.context_back=-5", "context_back = -5.* -1", 2),
    Case("all dropped", f"{TRAIN} --set model.dropout=1", "model.dropout = 1.*below 1", 2),
    Case("10^10 units", f"{TRAIN} --set model.feedforward_size={BILLION}0", "at most 16384", 2),
    Case("nothing hidden", f"{TRAIN} --set mask.ratio=0", "mask.ratio = 0.*at least 0.01", 2),
    Case("spans beyond trials", f"{TRAIN} --set mask.max_span=9", "max_span is 9.* 8 bins", 2),
    Case(
        "spans of neurons",
        f"{TRAIN} --set mask.mode=neuron --set mask.max_span=3",
        "max_span must be 1, not 3",
        2,
    ),
    Case(
        "a warm-up beyond the end",
        f"{TRAIN} --config lorenz-quick --set train.schedule=cosine --set train.warmup_epochs=5",
        r"warmup_epochs \(5\) must be below max_epochs \(2\)",
        2,
    ),
    Case(
        "more weights than memory",
        f"{TRAIN} --config lorenz-quick --set model.n_layers=64 --set model.feedforward_size=16384 "
        "--set model.embedding_size=64",
        "needs at least .* GB of memory.*smaller model",
        2,
        where_memory_is_limited,
    ),
    Case("15 ms of 10 ms", f"{TRAIN} --set data.bin_ms=15", "15 ms.*10 ms.*whole multiple", 1),
    Case("bins beyond trials", f"{TRAIN} --set data.bin_ms=100", "trial 0 is only 80 ms", 1),
    Case(
        "all neurons held out",
        f"{TRAIN} --set data.heldout_neurons=[0,1,2]",
        "heldout_neurons names all 3 neurons",
        2,
    ),
    Case(
        "neuron 10^9 held out",
        f"{TRAIN} --set data.heldout_neurons=[{BILLION}]",
        "neuron 1000000000.*expected 0 to 2",
        2,
    ),
    Case(
        "held out twice over",
        f"{TRAIN} --set data.heldout_neurons=[0] --set data.heldout_fraction=0.5",
        "heldout_neurons and heldout_fraction are both given",
        2,
    ),
    Case("nothing to judge by", f"{TRAIN} --set train.choose_by=co-bps", "co-bps.*held-out", 1),
    Case("two spike files", f"{TRAIN} --set data.file=b.h5", "--data and --set data.file", 2),
    Case(
        "no spikes",
        "train --out new --set data.synthetic=none",
        "Give a file: --set data.file=FILE",
        1,
    ),
    Case("a folder of spikes", f"train --data run --out new {SETS}", "run: found a folder", 1),
    Case("a run that is there", f"train --data spikes.h5 --out run {SETS}", "--resume run", 1),
    Case(
        "a file as run", f"train --data spikes.h5 --out spikes.h5/a {SETS}", "cannot be created", 1
    ),
    Case("another run's settings", "train --resume run --config lorenz", "Leave out --config", 2),
    Case(
        "another network",
        "train --resume run --set model.n_layers=3",
        "model.n_layers was 1, and is 3.*Only these can change.*new run",
        2,
    ),
    Case(
        "fewer epochs than were trained",
        "train --resume run --set train.max_epochs=1",
        "max_epochs is 1, but run has trained for 2 epochs.*max_epochs=4",
        2,
    ),
    Case("a resumed ensemble", "train --resume ensemble", "ensemble is an ensemble", 1),
    Case("a resumed file", "train --resume spikes.h5", "spikes.h5 is not a run.*it is a file", 1),
    # evaluate
    Case("no run", "evaluate nowhere", "nowhere is not a run folder", 1),
    Case("weights that are not", "evaluate run --checkpoint best", "--checkpoint.*best-co-bps", 2),
    Case("weights not saved", "evaluate run --checkpoint best-co-bps", "no such checkpoint", 1),
    Case("neuron -1", "evaluate run --figure a.png --neuron -1", "neuron -1.*from 0 to 2", 1),
    Case("neuron 3 of 3", "evaluate run --figure a.png --neuron 3", "neuron 3.*from 0 to 2", 1),
    Case("trial 10^30", f"evaluate run --figure a.png --trial 1{30 * '0'}", "from 0 to 5", 1),
    Case("a neuron of no figure", "evaluate run --neuron 1", "add --figure", 2),
    Case("a lag of NaN ms", "evaluate run --lag-ms nan", "--lag-ms nan: expected", 2),
    Case("an endless lag", "evaluate run --lag-ms -inf", "--lag-ms -inf: expected", 2),
    Case("a lag of 10^300", "evaluate run --lag-ms 1e300", r"--lag-ms 1e\+300: expected", 2),
    Case("a lag as long as trials", "evaluate run --lag-ms 90", "90 ms.*80 ms", 2),
    Case("a picture's ending", "evaluate run --figure a.jpg", r"a\.jpg: found .*\.jpg.*\.png", 2),
    Case(
        "a picture over another",
        "evaluate run --figure run/run.json",
        r"run\.json: found.*\.png",
        2,
    ),
    Case("rates of old", "evaluate run --rates a.h5", "ndt rates run --out a.h5", 2),
    Case(
        "a picture below a file",
        "evaluate run --figure spikes.h5/a.png",
        r"spikes\.h5/a\.png: .*spikes\.h5 is a file, not a folder",
        1,
    ),
    # rates
    Case("rates without a name", "rates run", "--out", 2),
    Case(
        "rates over spikes",
        "rates run --out spikes.h5",
        "spikes.h5 already exists.*--overwrite",
        1,
    ),
    Case(
        "rates over a folder",
        "rates run --out run.h5 --overwrite",
        "run.h5 is a folder",
        1,
        folder("run.h5"),
    ),
    Case("rates as a picture", "rates run --out a.png", r"a\.png: found .*\.png.*\.h5", 2),
    Case("components in a table", "rates run --out a.csv --pca 2", "no place for principal", 2),
    Case("too many components", "rates run --out a.h5 --pca 999", "--pca 999: expected a nu", 2),
    Case("NWB of no NWB", "rates run --out a.h5 --nwb spikes.h5", "--nwb: .*expected an .nwb", 2),
    Case("no run", "rates nowhere --out a.h5", "nowhere is not a run folder", 1),
    Case("settings of no file", "evaluate run --set data.bin_ms=20", "add --data", 2),
    Case(
        "another network",
        "evaluate run --data spikes.h5 --set model.n_layers=3",
        "model.n_layers=3: the run was trained with its own settings",
        2,
    ),
    Case(
        "other neurons",
        "evaluate run --data a.npz",
        "a.npz has 7 neurons, but run was trained with 3",
        1,
        npz(spikes=[[[1] * 7] * 6] * 4),
    ),
    Case("a device that is not", "evaluate run --device gpu", '"gpu".*cuda', 2),
    # report, plot
    Case("no run", "report nowhere", "nowhere is not a run folder", 1),
    Case("a page's suffix", "report run --out a.pdf", r"a\.pdf.*\.html", 2),
    Case("a page over spikes", "report run --out spikes.h5 --overwrite", "expected .html", 2),
    Case("a page in a file", "report run --out spikes.h5/a.html", "is a file, not a folder", 1),
    Case("a page that is there", "report run --out a.html", "--overwrite", 1, raw("a.html", b"x")),
    Case(
        "a folder as page",
        "report run --out a.html --overwrite",
        "is a folder",
        1,
        folder("a.html"),
    ),
    Case("the split of a sweep", "report sweep --split valid", "--split.*is a sweep", 2),
    Case("a figure that is not", "plot run rate --out a.png", "did you mean rates", 2),
    Case("a sweep's figure", "plot sweep rates --out a.png", "settings, measures, importance", 2),
    Case("a figure's suffix", "plot run rates --out a.jpg", r"a\.jpg.*\.png, \.svg, \.pdf", 2),
    Case("a figure over spikes", "plot run rates --out spikes.h5 --overwrite", r"\.h5.*\.png", 2),
    Case("a figure in a file", "plot run rates --out spikes.h5/a.png", "not a folder", 1),
    Case("trial 99 of 6", "plot run rates --out a.png --trial 99", "trials.*from 0 to 5", 1),
    Case("neurons of no rates", "plot run training --out a.png --neuron 1", "--neuron does not", 2),
    # sweep, ensemble, compare
    Case("no run to compare", "compare nowhere", "nowhere is not a run folder", 1),
    Case("no members", "sweep --members 0", "--members", 2),
    Case("10^9 members", f"{SWEEP} --members {BILLION}", "--members 1000000000.*10000", 2),
    Case("a measure", f"{SWEEP} --choose-by rate_r2", "did you mean rate-r2", 2),
    Case("a space nearly right", f"{SWEEP} --space generc", "did you mean the space generic", 2),
    Case("a folder as space", f"{SWEEP} --space run", "run.*ndt sweep spaces", 2),
    Case("a cluster's flag", f"{SWEEP} --cpus-per-worker 2", "add --backend ray", 2),
    Case("a backend", f"{SWEEP} --backend slurm", "slurm.*local.*ray", 2),
    Case("a new seed", "sweep --resume sweep --seed 1", "leave out everything but --members", 2),
    Case("fewer members", "sweep --resume sweep --members 1", "ask for more", 2),
    Case("two formats", "sweep show sweep --csv --json", "not both", 2),
    Case("a run as sweep", "sweep show run", "run is not a sweep", 1),
    Case("no space", "sweep spaces generc", "did you mean the space generic", 2),
    Case("no run", "ensemble nowhere --out new", "nowhere is not a run folder", 1),
    Case("a sweep and a run", "ensemble sweep run --out new", "not both", 2),
    Case("3 of 2", "ensemble sweep --members 3 --out new", "2 ranked members", 2),
    Case("the same twice", "ensemble run run --out new", "each of them once", 2),
    Case("of an ensemble", "ensemble ensemble --out new", "the runs that it was made of", 1),
    Case("a file as folder", "ensemble run --out spikes.h5", "spikes.h5 already exists", 1),
    # import-ndt1, stream
    Case(
        "a model that is not",
        "import-ndt1 nowhere.pth --out new --data spikes.h5",
        "no.*nowhere.pth|nowhere.pth.*no",
        1,
    ),
    Case("no model and no config", "import-ndt1 --out new", "CHECKPOINT|--config", 2),
    Case("a stream of no run", "stream nowhere", "nowhere", 1),
    # bench
    Case("10^9 neurons", f"{BENCH} --neurons {BILLION}", "1000000000 neurons.*GB.*--neurons", 2),
    Case("10^9 bins", f"{BENCH} --bins {BILLION}", "1000000000 bins.*GB.*free", 2),
    Case("10^9 trials", f"{BENCH} --trials {BILLION}", "1000000000 trials.*GB.*free", 2),
    Case("10^30 neurons", f"{BENCH} --neurons 1{30 * '0'}", "neurons.*GB.*free", 2),
    Case("weights beyond memory", f"{BENCH} --trials 1 --neurons 20000", "20000 neurons.*GB", 2),
    Case("-1 threads", "bench --threads -1", "--threads", 2),
    Case("a GPU that is not", "bench --device cuda:99", "cuda:99", 2),
    # nlb-data, nlb-submit, nlb-check
    Case("a set nearly right", "nlb-data mc_mazes", "Did you mean mc_maze", 2),
    Case("bins of 7 ms", "nlb-data mc_maze --spikes a.h5 --bin-ms 7", "5 and 20 ms, not 7", 2),
    Case("bins of nothing", "nlb-data --bin-ms 20", "Add --spikes", 2),
    Case("spikes of two sets", "nlb-data mc_maze mc_rtt --spikes a.h5", "Give one dataset", 2),
    Case("a file of files", "nlb-data mc_maze_small --data-dir spikes.h5", "spikes.h5", 1),
    Case("a set nearly right", "nlb-submit mc_mazes --out new", "Did you mean mc_maze", 2),
    Case("labels of no test", "nlb-submit mc_rtt --labels a.h5", "Add --phase test", 2),
    Case("own settings", "nlb-submit mc_rtt --run run --config lorenz", "Leave out --config", 2),
    Case("no files", "nlb-submit mc_maze_small --out new", "ndt nlb-data mc_maze_small", 1),
    Case("no file", "nlb-check nowhere.h5", r"nowhere\.h5: no such file", 1),
    Case("no targets", "nlb-check spikes.h5 --targets nowhere.h5", r"nowhere\.h5: no such", 1),
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
def test_an_invalid_command_line_is_an_error_message(case, lab, tmp_path, monkeypatch, capsys):
    check_refused(case, lab, tmp_path, monkeypatch, capsys)


def test_every_command_is_in_the_table():
    assert {case.words[0] for case in CASES} >= set(COMMANDS)
    assert {name.split()[0] for name in ALL} == set(COMMANDS)
