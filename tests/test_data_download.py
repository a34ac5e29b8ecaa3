"""`make data` against a server of our own: whole files or none, and errors of one line with exit code 2."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from data import download
from data.download import DOWNLOADS, Download, main

FILES = {"/pin/train.jsonl": b"train\n" * 40_000, "/pin/test.jsonl": b"test\n"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves FILES, and what servers do wrong under /404, /cut, /long, ...."""

    def do_GET(self):
        self.server.requests.append(self.path)
        trouble, _, path = self.path.lstrip("/").partition("/")
        body = FILES[self.path if trouble == "pin" else f"/{path}"]
        if trouble == "slow":
            self.server.release.wait(10)
        if trouble == "junk":
            self.wfile.write(b"no HTTP at all\r\n\r\n")
            return
        if trouble.isdigit():
            self.send_error(int(trouble))
            return
        self.send_response(200)
        if trouble != "long":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write({"cut": body[:-2], "wrong": body[::-1]}.get(trouble, body))
            for _ in range(400 if trouble == "long" else 0):  # 26 MB where 240 kB were promised
                self.wfile.write(b"x" * 65536)
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.release, server.hung_up = [], threading.Event(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def table(host: str) -> dict:
    """A table of our own, as `DOWNLOADS` is."""
    return {
        "small": {
            path.rpartition("/")[2]: Download(host, path.lstrip("/"), len(body), hashlib.sha256(body).hexdigest())
            for path, body in FILES.items()
        }
    }


def test_downloads_then_says_that_all_is_there(server, tmp_path, capsys):
    root = tmp_path / "new" / "datasets"
    assert main(["small", "--root", str(root)], table(server.url)) == 0
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {
        "train.jsonl": FILES["/pin/train.jsonl"],
        "test.jsonl": FILES["/pin/test.jsonl"],
    }
    out, err = capsys.readouterr()
    assert out.count("downloaded, checksum right") == 2
    assert "train.jsonl: 100%" in err, "a progress bar"
    assert main(["small", "--root", str(root)], table("http://127.0.0.1:1")) == 0, "no network needed any more"
    assert capsys.readouterr().out.count("already there, checksum right") == 2
    assert len(server.requests) == 2


def test_base_url_replaces_the_official_host(server, tmp_path):
    assert main(["small", "--root", str(tmp_path), "--base-url", server.url + "/mirror/"], table("http://unused")) == 0
    assert server.requests == [f"/mirror{path}" for path in FILES]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("/404", "404"),
        ("/500", "500"),
        ("/cut", "wrong checksum"),
        ("/wrong", "wrong checksum"),
        ("/long", "wrong checksum"),
        ("/junk", "cannot be fetched"),
        ("/slow", "timed out"),
    ],
)
def test_trouble_is_one_line_and_leaves_nothing(server, tmp_path, capsys, monkeypatch, trouble, reason):
    if trouble == "/slow":
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    root = tmp_path / "datasets"
    assert main(["small", "--root", str(root), "--base-url", server.url + trouble], table("")) == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and err.count("data:") == 1 and last.startswith("data: ") and reason in last
    assert list(tmp_path.iterdir()) == []
    if trouble == "/long":
        assert server.hung_up.wait(5), "an answer that is far too long is not read to its end"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "no-url", "http://[", "http://127.0.0.1:port", "gopher://x"])
def test_no_server(tmp_path, capsys, url):
    assert main(["small", "--root", str(tmp_path / "d"), "--base-url", url], table("")) == 2
    err = capsys.readouterr().err
    assert err.startswith("data: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_failing_beside_other_files_leaves_them(server, tmp_path):
    (tmp_path / "mine.jsonl").write_text("mine")
    assert main(["small", "--root", str(tmp_path), "--base-url", server.url + "/cut"], table("")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"]


def test_an_interrupt_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["small", "--root", str(tmp_path / "d")], table(server.url))
    assert list(tmp_path.iterdir()) == []


def test_another_file_of_that_name_is_kept(server, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text("mine")
    assert main(["small", "--root", str(tmp_path)], table(server.url)) == 2
    assert "train.jsonl: is there, but it is not the official file (checksum): move it away" in capsys.readouterr().err
    assert (tmp_path / "train.jsonl").read_text() == "mine" and server.requests == []


def test_a_root_that_is_a_file(server, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["small", "--root", str(tmp_path / "file")], table(server.url)) == 2
    assert capsys.readouterr().err.startswith("data: ")


def test_unknown_name(capsys):
    assert main(["gsm9k"]) == 2
    assert "unknown data set 'gsm9k'; there are gsm8k, math" in capsys.readouterr().err


def test_every_pin_names_a_full_commit_and_a_loader_reads_the_file():
    from data.sources.named import SOURCES

    for name, files in DOWNLOADS.items():
        assert sorted(files) == sorted(SOURCES[name].files.values())
        for pinned in files.values():
            assert any(len(part) == 40 and int(part, 16) for part in pinned.path.split("/")[2:4])
            assert len(pinned.sha256) == 64 and pinned.host.startswith("https://")
