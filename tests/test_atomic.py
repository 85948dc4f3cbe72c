"""Atomic writes: the old file or the new one, and nothing left behind."""

import pytest

from ndt_cli.atomic import write_atomic, write_text_atomic


def test_text_is_written_and_replaces_an_older_file(tmp_path):
    path = tmp_path / "settings.toml"
    write_text_atomic(path, "old\n")
    write_text_atomic(path, "µs\nnew\n")
    assert path.read_bytes() == "µs\nnew\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "rates.npz"
    path.write_bytes(b"old")

    def write(temporary):
        assert temporary.parent == path.parent  # a rename must not cross file systems
        assert temporary.suffix == ".npz"
        temporary.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        temporary.write_bytes(b"new")

    write_atomic(path, write)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_data_reach_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("os.fsync", lambda descriptor: order.append("fsync"))
    replace = type(tmp_path).replace

    def traced(self, target):
        order.append("replace")
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", traced)
    write_text_atomic(tmp_path / "run.json", "{}")
    assert order[:2] == ["fsync", "replace"]
