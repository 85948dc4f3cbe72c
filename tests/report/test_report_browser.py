"""The page of a run in a real browser, where there is one."""

import shutil
import subprocess

import numpy as np
import pytest
from builders import recording, tiny_settings
from matplotlib.image import imread

from ndt_cli.engine.training import train
from ndt_cli.report.page import write_report

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium here"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    spikes = recording(12, 6, rates=True, n_bins=20, n_neurons=5)
    run = train(tiny_settings(), out=folder / "run", recording=spikes).run
    return write_report(run, recording=spikes)


def browse(page, tmp_path, *options):
    command = [
        BROWSER,
        *OPTIONS,
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_a_browser_shows_every_figure(page, tmp_path):
    shot = tmp_path / "page.png"
    browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1000,6000")
    pixels = imread(shot)[:, :, :3]
    assert pixels.shape[:2] == (6000, 1000)
    # The blue of the model is in its row of the table and in the lines of the figures.
    blue = (np.abs(pixels - np.array([0, 0x72, 0xB2]) / 255) < 0.02).all(axis=2)
    assert (blue.sum(axis=1) > 0).sum() > 300


def test_it_prints(page, tmp_path):
    file = tmp_path / "page.pdf"
    browse(page, tmp_path, f"--print-to-pdf={file}")
    assert file.read_bytes().startswith(b"%PDF")
    assert file.stat().st_size > 50_000
