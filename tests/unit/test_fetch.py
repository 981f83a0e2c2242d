"""Downloads against a local server that cuts, lies, changes its mind and sends web pages."""

from __future__ import annotations

import hashlib
import http.server
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backbench.data.fetch import MAX_FAILURES, fetch_file
from backbench.errors import DownloadError, StorageError
from backbench.progress import Progress

BODY = bytes(range(256)) * 157 + b"tail"  # 40,196 bytes; 20 does not divide it
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server:
    """A local web server; `plan` answers each request, `requests` are the headers of those that came."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.plan: Callable[[http.server.BaseHTTPRequestHandler, int], None] = send_range
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append(dict(self.headers))
                self.close_connection = True
                outer.plan(self, len(outer.requests))

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/images.tar"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def send(handler: Any, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def send_range(
    handler: Any, count: int, body: bytes = BODY, etag: str = '"one"', limit: int | None = None
) -> None:
    """What an honest server does, except that it sends at most `limit` bytes of what it announced."""
    start = 0
    given = handler.headers.get("Range")
    if given and handler.headers.get("If-Range", etag) == etag:
        start = int(given.removeprefix("bytes=").rstrip("-"))
    if start and start >= len(body):
        send(handler, 416, b"", Content_Range=f"bytes */{len(body)}")
        return
    rest = body[start:]
    headers = {"ETag": etag} if etag else {}
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    send(handler, 206 if start else 200, rest[:limit], len(rest), **headers)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "images.tar"


class Pauses(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetch(server: Server, target: Path, **options: Any) -> Path:
    options = {"sha256": SHA256, "num_bytes": len(BODY), "sleep": Pauses()} | options
    return fetch_file(server.url, target, **options)


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


def test_whole_file(server: Server, target: Path) -> None:
    assert fetch(server, target) == target
    assert target.read_bytes() == BODY
    assert leftovers(target) == ["images.tar"]


def test_right_file_needs_no_network(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(BODY)
    fetch(server, target)
    assert server.requests == []


def test_wrong_file_in_place_is_replaced_with_a_warning(server: Server, target: Path) -> None:
    told: list[str] = []

    class Told(Progress):
        def warn(self, text: str) -> None:
            told.append(text)

    target.parent.mkdir()
    target.write_bytes(b"x" + BODY[1:])
    fetch(server, target, progress=Told())
    assert target.read_bytes() == BODY
    assert "not the expected file" in told[0]


def test_cut_at_every_twentieth(server: Server, target: Path) -> None:
    step = len(BODY) // 20
    server.plan = lambda handler, count: send_range(handler, count, limit=step)
    pauses = Pauses()
    fetch(server, target, sleep=pauses)
    assert target.read_bytes() == BODY
    starts = [request.get("Range") for request in server.requests]
    assert starts == [None, *(f"bytes={i * step}-" for i in range(1, 21))]
    assert max(pauses) <= 1


@pytest.mark.parametrize("part", range(20))
def test_cut_once_then_resumed_by_a_later_call(server: Server, target: Path, part: int) -> None:
    cut = len(BODY) * part // 20
    server.plan = lambda handler, count: (
        send_range(handler, count, limit=cut) if count == 1 else send(handler, 404, b"gone")
    )
    with pytest.raises(DownloadError, match="404"):
        fetch(server, target)
    assert not target.exists()
    server.plan = send_range
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.requests[-1].get("Range") == (f"bytes={cut}-" if cut else None)
    assert server.requests[-1].get("If-Range") == ('"one"' if cut else None)


def test_server_that_ignores_ranges(server: Server, target: Path) -> None:
    server.plan = lambda handler, count: send(handler, 200, BODY[: 5000 if count == 1 else None], len(BODY))
    fetch(server, target)
    assert target.read_bytes() == BODY


def test_changed_etag_starts_again(server: Server, target: Path) -> None:
    old = bytes(len(BODY))

    def plan(handler: Any, count: int) -> None:
        if count == 1:
            send_range(handler, count, body=old, etag='"old"', limit=9000)
        else:
            send_range(handler, count)

    server.plan = plan
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.requests[1]["If-Range"] == '"old"'


def test_changed_etag_on_a_server_that_ignores_if_range(server: Server, target: Path) -> None:
    def plan(handler: Any, count: int) -> None:
        if count == 1:
            send_range(handler, count, body=bytes(len(BODY)), etag='"old"', limit=9000)
        else:
            del handler.headers["If-Range"]
            send_range(handler, count)

    server.plan = plan
    pauses = Pauses()
    fetch(server, target, sleep=pauses)
    assert target.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=9000-", None]
    assert len(pauses) == 2  # seen at once, not only in the hash of the whole


def test_wrong_range_is_not_appended(server: Server, target: Path) -> None:
    def plan(handler: Any, count: int) -> None:
        if count == 1:
            send_range(handler, count, limit=9000)
        elif count == 2:
            send(handler, 206, BODY[5000:], ETag='"one"', Content_Range=f"bytes 5000-{len(BODY) - 1}/{len(BODY)}")
        else:
            send_range(handler, count)

    server.plan = plan
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.requests[2].get("Range") is None


def test_joined_versions_without_any_etag_are_fetched_anew(server: Server, target: Path) -> None:
    def plan(handler: Any, count: int) -> None:
        body = bytes(len(BODY)) if count == 1 else BODY
        send_range(handler, count, body=body, etag="", limit=9000 if count == 1 else None)

    server.plan = plan
    fetch(server, target)
    assert target.read_bytes() == BODY


def test_joined_versions_again_and_again_end(server: Server, target: Path) -> None:
    server.plan = lambda handler, count: send_range(
        handler, count, body=bytes(len(BODY)), etag="", limit=9000 if count % 2 else None
    )
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(server, target)
    assert len(server.requests) == 4


@pytest.mark.parametrize("num_bytes", [len(BODY), None])
def test_416_for_a_part_that_is_whole(server: Server, target: Path, num_bytes: int | None) -> None:
    target.parent.mkdir()
    (target.parent / "images.tar.part").write_bytes(BODY)
    (target.parent / "images.tar.part.json").write_text(json.dumps({"url": server.url, "validator": '"one"'}))
    fetch(server, target, num_bytes=num_bytes)
    assert target.read_bytes() == BODY


def test_416_for_a_part_that_is_too_long_starts_again(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "images.tar.part").write_bytes(BODY + b"more")
    (target.parent / "images.tar.part.json").write_text(json.dumps({"url": server.url, "validator": '"one"'}))
    pauses = Pauses()
    fetch(server, target, num_bytes=None, sleep=pauses)
    assert target.read_bytes() == BODY
    assert len(server.requests) == 2
    assert len(pauses) == 1  # the part was not even hashed


def test_part_of_another_address_is_not_continued(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "images.tar.part").write_bytes(b"?" * 1000)
    (target.parent / "images.tar.part.json").write_text(json.dumps({"url": "http://else.where/", "validator": ""}))
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert "Range" not in server.requests[0]


@pytest.mark.parametrize("note", ["", "[]", "{", '{"url": 3}', "null"])
def test_garbled_note_means_a_fresh_start(server: Server, target: Path, note: str) -> None:
    target.parent.mkdir()
    (target.parent / "images.tar.part").write_bytes(b"?" * 1000)
    (target.parent / "images.tar.part.json").write_text(note)
    fetch(server, target)
    assert target.read_bytes() == BODY


def test_wrong_bytes_never_get_the_name(server: Server, target: Path) -> None:
    wrong = b"x" + BODY[1:]
    server.plan = lambda handler, count: send_range(handler, count, body=wrong)
    with pytest.raises(DownloadError) as error:
        fetch(server, target)
    assert SHA256 in str(error.value)
    assert hashlib.sha256(wrong).hexdigest() in str(error.value)
    assert leftovers(target) == []


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>Log in", b"\n <HTML><body>Sorry", b"\xef\xbb\xbf<html>"])
def test_web_page_instead_of_data(server: Server, target: Path, page: bytes) -> None:
    server.plan = lambda handler, count: send(handler, 200, page, Content_Type="text/html")
    with pytest.raises(DownloadError, match="web page"):
        fetch(server, target, num_bytes=None)
    assert not target.exists()
    assert len(server.requests) == 1


def test_length_that_promises_too_much(server: Server, target: Path) -> None:
    server.plan = lambda handler, count: send(handler, 200, BODY, len(BODY) + 500)
    with pytest.raises(DownloadError, match="ended after"):
        fetch(server, target, num_bytes=None)
    assert not target.exists()


def test_length_that_promises_too_little(server: Server, target: Path) -> None:
    server.plan = lambda handler, count: send(handler, 200, BODY, len(BODY) - 500)
    with pytest.raises(DownloadError, match=r"40,196|SHA-256"):
        fetch(server, target)
    assert not target.exists()


def test_endless_answer_is_cut_off(server: Server, target: Path) -> None:
    def plan(handler: Any, count: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(BODY)
        except OSError:
            pass

    server.plan = plan
    with pytest.raises(DownloadError, match="more than the 40,196 bytes expected"):
        fetch(server, target)
    assert leftovers(target) == []


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_passing_trouble_is_waited_for(server: Server, target: Path, status: int) -> None:
    server.plan = lambda handler, count: send(handler, status, b"") if count < 4 else send_range(handler, count)
    pauses = Pauses()
    fetch(server, target, sleep=pauses)
    assert target.read_bytes() == BODY
    assert pauses == sorted(pauses)
    assert len(pauses) == 3


def test_lasting_trouble_ends(server: Server, target: Path) -> None:
    server.plan = lambda handler, count: send(handler, 500, b"")
    pauses = Pauses()
    with pytest.raises(DownloadError, match="500"):
        fetch(server, target, sleep=pauses)
    assert len(server.requests) == MAX_FAILURES + 1
    assert max(pauses) <= 30


def test_retry_after_is_heeded_within_bounds(server: Server, target: Path) -> None:
    answers = {1: "7", 2: "86400", 3: "soon"}
    server.plan = lambda handler, count: (
        send(handler, 503, b"", Retry_After=answers[count]) if count in answers else send_range(handler, count)
    )
    pauses = Pauses()
    fetch(server, target, sleep=pauses)
    assert pauses[:2] == [7, 30]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_final_answers_are_not_repeated(server: Server, target: Path, status: int) -> None:
    server.plan = lambda handler, count: send(handler, status, b"no")
    with pytest.raises(DownloadError, match=str(status)):
        fetch(server, target)
    assert len(server.requests) == 1


def test_offline_says_what_to_put_where(target: Path) -> None:
    server = Server()
    server.close()
    with pytest.raises(DownloadError) as error:
        fetch(server, target)
    for fact in (server.url, str(target), SHA256, "images.tar", "put the file yourself"):
        assert fact in str(error.value)


@pytest.mark.parametrize("where", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_other_schemes_are_refused(server: Server, target: Path, where: str) -> None:
    server.plan = lambda handler, count: send(handler, 302, b"", Location=where)
    with pytest.raises(DownloadError):
        fetch(server, target, num_bytes=None)
    assert not target.exists()


@pytest.mark.parametrize("url", ["ftp://host/x", "data:,hello", "/etc/hostname", "javascript:1", "hf-hub:a/b"])
def test_other_schemes_are_refused(target: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="Allowed: http, https, file"):
        fetch_file(url, target, sha256=SHA256)


def test_file_urls(tmp_path: Path, target: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    fetch_file((tmp_path / "source").as_uri(), target, sha256=SHA256.upper())
    assert target.read_bytes() == BODY
    pauses = Pauses()
    with pytest.raises(DownloadError, match="put the file yourself"):
        fetch_file((tmp_path / "absent").as_uri(), tmp_path / "other", sha256=SHA256, sleep=pauses)
    assert pauses == []


def test_disk_trouble_is_a_storage_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        fetch(server, tmp_path / "file" / "images.tar")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="is a folder"):
        fetch(server, tmp_path / "folder")
    assert server.requests == []


def test_full_disk_is_a_storage_error(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"No space left on device\. Make room \(.* free\), or set BACK"):
        fetch(server, target)
    assert not target.exists()


def test_bytes_are_on_disk_before_they_have_the_name(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("replace"), replace(self, to))[1])
    fetch(server, target)
    assert events == ["fsync", "replace", "fsync"]


def _fetch_in_process(url: str, target: str, barrier: Any) -> None:
    barrier.wait()
    fetch_file(url, Path(target), sha256=SHA256, num_bytes=len(BODY))


def test_two_processes_fetch_once(server: Server, target: Path) -> None:
    held = threading.Event()

    def plan(handler: Any, count: int) -> None:
        held.wait(0.3)  # long enough for the other process to ask as well, if nothing held it back
        send_range(handler, count)

    server.plan = plan
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=_fetch_in_process, args=(server.url, str(target), barrier)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.requests) == 1
    assert target.read_bytes() == BODY
