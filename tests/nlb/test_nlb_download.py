"""Downloads from a server of this process, which breaks connections as it is told."""

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("requests", reason="requests is not installed")

from ndt_cli.commands.nlb_data import nlb_data
from ndt_cli.errors import DataError
from ndt_cli.nlb import catalog as catalog
from ndt_cli.nlb import download
from ndt_cli.nlb.catalog import DATASETS, PublicFile
from ndt_cli.nlb.download import check_file, fetch

CONTENT = bytes(i * i % 251 for i in range(200_000))


class Server(ThreadingHTTPServer):
    """Serves one content; `breaks` holds how many bytes each of the next answers may send."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.breaks = []
        self.ranges = True
        self.status = None
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status is not None:
            self.send_error(server.status)
            return
        start = 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        allowed = server.breaks.pop(0) if server.breaks else len(body)
        self.wfile.write(body[:allowed])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(download, "_CHUNK_BYTES", 10_000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def public(*urls):
    return PublicFile("sub-X/x.nwb", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), urls)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "x.nwb"


def part_of(target):
    return target.with_name("x.nwb.part")


# ------------------------------------------------------------------ what comes
def test_a_file_comes_whole_and_alone(server, target):
    assert fetch(public(server.url), target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_is_there_is_not_fetched_again(server, target):
    fetch(public(server.url), target)
    assert not fetch(public(server.url), target)
    assert len(server.asked) == 1


def test_progress_counts_bytes_up_to_all(server, target):
    seen = []
    fetch(public(server.url), target, lambda *step: seen.append(step))
    assert seen[0][0] == "fetching x.nwb"
    assert ("fetching x.nwb", len(CONTENT), len(CONTENT)) in seen
    assert seen[-1] == ("checking x.nwb", len(CONTENT), len(CONTENT))


# ------------------------------------------------------------------ what breaks off
def test_a_broken_connection_is_taken_up_where_it_broke(server, target):
    server.breaks = [70_000, 50_000]
    fetch(public(server.url), target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=70000-", "bytes=120000-"]


def test_a_connection_that_keeps_breaking_leaves_a_part_and_no_file(server, target):
    server.breaks = [70_000, *[0] * 20]
    with pytest.raises(DataError, match=r"received 70,000 of 200,000 bytes") as caught:
        fetch(public(server.url), target)
    assert "to resume" in caught.value.hint
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:70_000]
    server.breaks = []
    server.asked.clear()
    fetch(public(server.url), target)
    assert server.asked == ["bytes=70000-"]
    assert target.read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_it_all_again(server, target):
    server.ranges = False
    server.breaks = [70_000]
    fetch(public(server.url), target)
    assert server.asked == [None, "bytes=70000-"]
    assert target.read_bytes() == CONTENT


def test_the_second_address_is_tried_where_the_first_does_not_answer(server, target):
    gone = server.url.replace(str(server.server_port), "1")
    fetch(public(gone, server.url), target)
    assert target.read_bytes() == CONTENT


def test_an_address_that_is_gone_is_named_and_asked_once(server, target):
    server.status = 404
    with pytest.raises(DataError, match=f"{server.url}: HTTP 404"):
        fetch(public(server.url), target)
    assert len(server.asked) == 1
    assert not target.exists()


# ------------------------------------------------------------------ what is wrong
def test_content_of_a_wrong_digest_gets_no_name(server, target):
    server.content = CONTENT[:-1] + b"\x00"
    with pytest.raises(DataError, match=r"not the public x\.nwb: found the sha256"):
        fetch(public(server.url), target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("leftover", [b"\x00" * 70_000, b"\x00" * len(CONTENT), CONTENT + b"more"])
def test_leftovers_of_something_else_are_replaced(server, target, leftover):
    target.parent.mkdir()
    part_of(target).write_bytes(leftover)
    fetch(public(server.url), target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_leftovers_that_are_complete_need_no_server(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    fetch(public(server.url), target)
    assert server.asked == []
    assert target.read_bytes() == CONTENT


def test_another_file_of_the_name_is_not_overwritten(server, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"a different file has this name: wrong size \(4 bytes\)"):
        fetch(public(server.url), target)
    assert target.read_bytes() == b"mine"


def test_a_check_prints_size_and_digest(target):
    target.parent.mkdir()
    file = public("http://127.0.0.1:1/")
    assert check_file(file, target).state == "missing"
    target.write_bytes(CONTENT[:-1])
    short = check_file(file, target)
    assert short.difference == "found 199,999 bytes, expected 200,000 bytes"
    target.write_bytes(CONTENT[:-1] + b"\x00")
    assert check_file(file, target).state == "wrong digest"
    target.write_bytes(CONTENT)
    assert check_file(file, target).state == "right"


# ------------------------------------------------------------------ the command
@pytest.fixture
def run(server, monkeypatch, tmp_path):
    """Run the command with a catalog whose files come from the server."""
    dataset = DATASETS["mc_maze_small"]
    small = public(server.url)
    files = [replace(small, path=file.path) for file in dataset.files]
    small_set = replace(dataset, train_file=files[0], test_file=files[1])
    monkeypatch.setitem(catalog.DATASETS, dataset.name, small_set)
    app = typer.Typer()
    app.command()(nlb_data)

    def call(*arguments):
        return CliRunner().invoke(app, [*arguments, "--data-dir", str(tmp_path)])

    return call


def test_the_command_fetches_both_files_and_names_them(run, tmp_path):
    done = run("mc_maze_small")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "000140" / "sub-Jenkins"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(file.name for file in DATASETS["mc_maze_small"].files)
    assert done.stdout.split() == [str(folder / f.name) for f in DATASETS["mc_maze_small"].files]
    assert "fetching sub-Jenkins_ses-small_desc-test_ecephys.nwb (0.2 MB)" in done.stderr


def test_a_check_fails_until_the_files_are_right(run, tmp_path):
    before = run("mc_maze_small", "--check")
    assert before.exit_code == 1
    assert before.stdout.count("missing: found nothing, expected 200,000 bytes") == 2
    run("mc_maze_small")
    after = run("mc_maze_small", "--check", "--json")
    assert after.exit_code == 0
    assert [file["state"] for file in json.loads(after.stdout)["files"]] == ["right", "right"]


def test_without_a_name_the_data_sets_are_listed(run):
    listed = run("--json")
    rows = {row["dataset"]: row for row in json.loads(listed.stdout)["datasets"]}
    assert set(rows) == set(DATASETS)
    assert rows["area2_bump"]["megabytes"] == 1823.4
    assert rows["mc_maze"]["trials"] == [1721, 574, 574]
