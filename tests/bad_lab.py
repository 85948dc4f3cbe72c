"""A folder with one of everything that commands take, and ways to damage it.

``spikes.h5`` (12 training and 6 validation trials of 8 bins of 10 ms, 3 neurons, with true rates,
behavior and conditions), ``run``, ``sweep`` of two members, ``ensemble``.
"""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from bad_inputs import check
from builders import recording, vars_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SMALL = (
    "model.n_layers=1", "model.feedforward_size=8", "train.max_epochs=2", "train.device=cpu",
    "train.val_interval_epochs=1", "train.n_threads=1", "train.warmup_epochs=0",
)  # fmt: skip
SETS = " ".join(f"--set {change}" for change in SMALL)


def build_lab(lab):
    """Make it in an empty folder, and return that."""
    from ndt_cli.data.spike_data import Recording, SpikeData
    from ndt_cli.data.write import write_recording
    from ndt_cli.engine.ensembles import save_ensemble
    from ndt_cli.engine.training import train
    from ndt_cli.search.loop import sweep
    from ndt_cli.search.space import find_space
    from ndt_cli.settings.load import load_settings

    made = recording(12, 6, rates=True, n_bins=8)
    whole = Recording(
        *(
            SpikeData(
                **{
                    **vars_of(half),
                    "behavior_BTV": np.random.default_rng(0).normal(size=(half.n_trials, 8, 2)),
                    "conditions_B": np.arange(half.n_trials) % 2,
                }
            )
            for half in (made.train, made.valid)
        ),
        source="tiny",
        layout="synthetic",
    )
    write_recording(whole, lab / "spikes.h5")
    settings = load_settings(None, [*SMALL, f"data.file={lab / 'spikes.h5'}"])
    train(settings, out=lab / "run")
    sweep(settings, find_space("quick"), n_members=2, out=lab / "sweep")
    save_ensemble([lab / "run"], lab / "ensemble")
    return lab


def contents(folder):
    """Return the bytes of each file below a folder; None for what cannot be read, or is huge."""

    def held(path):
        small = path.is_file() and path.stat().st_size < 1e8
        return path.read_bytes() if small and os.access(path, os.R_OK) else None

    return {path: held(path) for path in folder.rglob("*")}


def check_refused(case, lab, folder, monkeypatch, capsys):
    """Run a row in a copy of the lab: it says why, and leaves every file as it was."""
    monkeypatch.setenv("COLUMNS", "250")  # usage errors stand in a frame that would break lines
    before = {}

    def make(here):
        shutil.copytree(lab, here, dirs_exist_ok=True)
        case.make(here)
        before.update(contents(here))

    check(replace(case, make=make), folder, monkeypatch, capsys)
    assert contents(folder) == before


# Ways to damage it


def text(name, content):
    """Write a text file."""
    return lambda here: (here / name).write_text(content, encoding="utf-8")


def changed(name, old, new):
    """Replace a text in a file that is there."""

    def make(here):
        before = (here / name).read_text(encoding="utf-8")
        assert old in before
        (here / name).write_text(before.replace(old, new), encoding="utf-8")

    return make


def cut_short(name):
    """Keep the first half of a file that is there."""

    def make(here):
        whole = (here / name).read_bytes()
        (here / name).write_bytes(whole[: len(whole) // 2])

    return make


def gone(name):
    """Remove a file or folder."""

    def make(here):
        path = here / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def both(*makes):
    """Do several of these."""

    def make(here):
        for one in makes:
            one(here)

    return make


def huge(name, n_bytes=5_000_000_000):
    """Write a file that is long and stores nothing."""

    def make(here):
        with (here / name).open("wb") as file:
            file.truncate(n_bytes)

    return make


def loop(name):
    """Make a link to itself."""

    def make(here):
        if sys.platform == "win32":
            pytest.skip("links need a right there")
        (here / name).symlink_to(name)

    return make


def read_only(name):
    """Make a folder that nobody may write to."""

    def make(here):
        if not hasattr(os, "geteuid") or os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (here / name).mkdir(mode=0o555)

    return make


def where_memory_is_limited(here):
    """Make nothing; skip where `limit_memory` limits nothing, as the row would then work."""
    del here
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is limited on Linux only")


def checkpoint_of_format(version):
    """Write another format's number into the checkpoint of the run."""

    def make(here):
        path = Path(here / "run/checkpoints/best-masked-loss.safetensors")
        with safe_open(path, framework="pt") as file:
            metadata = {**file.metadata(), "version": version}
        save_file(load_file(path), path, metadata)

    return make


def submission(**arrays):
    """Write a submission file of one group, ``a.h5``; a callable writes its array itself."""

    def make(here):
        with h5py.File(here / "a.h5", "w") as file:
            group = file.create_group("mc_maze_small")
            for key, value in arrays.items():
                if callable(value):
                    value(group, key)
                else:
                    group[key] = value

    return make
