"""Downloads from a server on this machine: whole and verified, or one line and nothing left behind."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time

import pytest

from fedsim.data import download
from fedsim.errors import UserError

CONTENT = b"To be, or not to be\n" * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BY_HAND = "download it yourself and set data.path=FILE"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the name of the file that is asked for."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/json":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"files": []}')
            return
        body = CONTENT.replace(b"not", b"now") if self.path == "/other" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path in ("/truncated", "/slow"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if self.path == "/slow":
                self.server.half_way.set()
                self.server.go_on.wait(30)
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.half_way, server.go_on = [], threading.Event(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetch(url, known_hash=f"sha256:{DIGEST}"):
    return download.fetch(url, known_hash, "plays", "hamlet.txt", BY_HAND)


def left_behind(cache):
    return [path for path in cache.rglob("*") if path.is_file()]


def test_fetched_once(server, cache, capsys):
    path = fetch(f"{server.url}/whole")
    assert path == cache / "plays" / "hamlet.txt"
    assert path.read_bytes() == CONTENT
    assert fetch(f"{server.url}/whole") == path
    assert server.requests == ["/whole"]
    assert left_behind(cache) == [path]  # no temporary file
    assert capsys.readouterr() == ("", "")


def test_other_digests(server, cache):
    digest = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert fetch(f"{server.url}/whole", f"md5:{digest}").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"its MD5 does not match.*\(MD5 00\)"):
        fetch(f"{server.url}/whole", "md5:00")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "the server answered 404 Not Found"),
        ("other", "its SHA-256 does not match"),
        ("truncated", "the connection broke off before the end"),
    ],
)
def test_failure_is_one_line_and_leaves_nothing(server, cache, name, reason, capsys):
    url = f"{server.url}/{name}"
    with pytest.raises(UserError) as error:
        fetch(url)
    message = str(error.value)
    assert message.startswith(f"{url}: could not be downloaded to {cache / 'plays' / 'hamlet.txt'}, because ")
    assert reason in message
    assert message.endswith(f"; {BY_HAND} (SHA-256 {DIGEST})")
    assert "\n" not in message
    assert left_behind(cache) == []
    assert capsys.readouterr() == ("", "")


def test_no_server(server, cache):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="the server cannot be reached; download it yourself"):
        fetch(f"{server.url}/whole")
    assert left_behind(cache) == []


def test_damaged_file_in_the_cache_is_fetched_again(server, cache):
    path = fetch(f"{server.url}/whole")
    path.write_bytes(CONTENT[:-1])
    assert fetch(f"{server.url}/whole").read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="404"):
        fetch(f"{server.url}/missing")  # and the damaged file is not used


def test_cache_that_cannot_be_written_to(server, cache):
    cache.touch()  # a file where the folder should be
    with pytest.raises(UserError, match=r"cannot be written to \(.*set FEDSIM_CACHE_DIR to use another\); download it"):
        fetch(f"{server.url}/whole")


def test_full_disk(server, cache, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.move", full)
    with pytest.raises(UserError, match=r"No space left on device.*download it yourself"):
        fetch(f"{server.url}/whole")
    assert left_behind(cache) == []


def test_json(server):
    assert download.fetch_json(f"{server.url}/json", BY_HAND) == {"files": []}
    for name, reason in (("missing", "the server answered 404 Not Found"), ("whole", "of JSONDecodeError")):
        with pytest.raises(UserError, match=f"/{name}: could not be read, because {reason}.*; {BY_HAND}"):
            download.fetch_json(f"{server.url}/{name}", BY_HAND)


def test_without_a_home(server, monkeypatch):
    monkeypatch.setattr(download, "cache_directories", list)
    with pytest.raises(UserError, match=f"set FEDSIM_CACHE_DIR, or {BY_HAND}"):
        fetch(f"{server.url}/whole")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("signal", [2, 9], ids=["SIGINT", "SIGKILL"])
def test_stopped_half_way(server, cache, signal):
    """Whatever is left then does not have the file's name."""
    code = f"from fedsim.data.download import fetch; fetch('{server.url}/slow', 'sha256:{DIGEST}', 'plays', 'x', '')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert server.half_way.wait(60)
    deadline = time.monotonic() + 20
    while not left_behind(cache) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal)
    assert process.wait(30) != 0
    assert not (cache / "plays" / "x").exists()
    if signal == 2:
        assert left_behind(cache) == []
