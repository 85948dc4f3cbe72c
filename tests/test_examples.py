"""The scripts in ``examples/`` run, in small form."""

import runpy
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_own_spikes_gives_rates_for_an_array(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "own_spikes.py"))["main"]
    rates_hz = main(tmp_path, max_epochs=3)
    assert rates_hz.shape == (12, 40, 12)
    assert np.isfinite(rates_hz).all()
    assert "NDT" in capsys.readouterr().out
