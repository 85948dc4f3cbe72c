"""No file makes another one be opened."""

import h5py
import numpy as np
import pytest

from ndt_cli.convert import list_contents
from ndt_cli.data.files import refuse_elsewhere
from ndt_cli.data.loading import load_file
from ndt_cli.errors import DataError
from ndt_cli.settings.load import load_settings


def _external_link(file, secret):
    file["units/times"] = h5py.ExternalLink(secret, "x")


def _external_storage(file, secret):
    file.create_dataset("a/b/raw", (8,), "u1", external=[(str(secret), 0, 8)])


def _virtual(file, secret):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (3,))
    file.create_virtual_dataset("a/virtual", layout)


@pytest.mark.parametrize("make", [_external_link, _external_storage, _virtual])
def test_a_part_that_lies_in_another_file_is_refused_by_name(tmp_path, make):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(3.0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file, secret)
    with pytest.raises(DataError, match="a reference to another file"):
        refuse_elsewhere(tmp_path / "a.h5")


def test_links_within_a_file_and_circles_are_fine(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b/x"] = np.arange(3)
        file["a/b/up"] = file["a"]  # a circle
        file["soft"] = h5py.SoftLink("/a/b/x")
        file["lost"] = h5py.SoftLink("/nowhere")
    refuse_elsewhere(tmp_path / "a.h5")


def test_the_benchmark_opens_no_other_file_either(tmp_path):
    pytest.importorskip("nlb_tools")
    pytest.importorskip("pynwb")
    from ndt_cli.nlb.catalog import find_dataset
    from ndt_cli.nlb.nlb_tools import open_nwb

    with h5py.File(tmp_path / "a.nwb", "w") as file:
        file["units"] = h5py.ExternalLink("other.h5", "units")
    with (
        pytest.raises(DataError, match=r"a reference to another file, other\.h5"),
        open_nwb(tmp_path / "a.nwb", find_dataset("mc_maze_small")),
    ):
        pass


def test_a_name_that_is_not_utf8_is_a_name_like_any_other(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["namex"] = np.arange(3)
        file["other"] = np.arange(3)
    path.write_bytes(path.read_bytes().replace(b"namex", b"nam\xffx"))
    with pytest.raises(DataError, match=r"found `other`, group `nam.x/`"):
        load_file(path, load_settings().data)
    assert [entry.name for entry in list_contents(path).entries] == ["other"]
