"""A server on the loopback that answers like the hub, and like any server of files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A server on the loopback that answers like the hub: files of repositories, with ETag and commit."""

    files: dict[str, bytes] = field(default_factory=dict)  # '/owner/repo/resolve/main/file' -> body
    folder: Path | None = None  # of more files, by the same paths; they may be written while the hub is up
    cut: set[str] = field(default_factory=set)  # paths whose body ends half-way
    gated: set[str] = field(default_factory=set)  # repositories, 'owner/repo', that ask for a login
    is_down: bool = False  # answers 503 to everything
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def find(self, path: str) -> bytes | None:
        """The body at a path; None if there is none."""
        if self.folder is not None and (place := self.folder / path.removeprefix("/")).is_file():
            return place.read_bytes()
        return self.files.get(path)

    def has_repo(self, path: str) -> bool:
        """Whether there is a file of a repository, '/owner/repo'."""
        is_written = self.folder is not None and (self.folder / path.removeprefix("/")).is_dir()
        return is_written or any(each.startswith(path + "/") for each in self.files)


def _make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if hub.is_down:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path.split("/resolve/")[0].removeprefix("/") in hub.gated:
                self.send_response(401)
                self.send_header("X-Error-Code", "GatedRepo")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = hub.find(self.path)
            if body is None:
                self.send_response(404)
                known = hub.has_repo(self.path.split("/resolve/")[0])
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body[: len(body) // 2] if self.path in hub.cut else body)

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()
