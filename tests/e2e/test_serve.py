"""`backbench serve` as a person starts it, over real sockets: answers, floods, refusals, and the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from click.testing import CliRunner

from backbench.cli import app
from backbench.cli.serve import address_of, decide_token, open_socket
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.errors import ConfigError
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from conftest import make_photos

START = "from backbench.cli import main; main()"


class Served:
    """A running server, and the photos its model learned from."""

    def __init__(self, root: Path) -> None:
        os.environ["BACKBENCH_CACHE"] = str(root / "cache")
        self.root = root
        self.photos = make_photos(root / "photos")
        config = RunConfig(
            data=DataConfig(source=str(self.photos)), model="tiny_cnn", method=MethodConfig(name="centroid")
        )
        self.bundle = adapt(config, RunContext(root / "runs")).bundle
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                START,
                "serve",
                str(self.bundle),
                "--port",
                "0",
                "--json",
                "--max-image-mb",
                "1",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        self.document = self._read_document()
        self.url: str = self.document["url"]

    def _read_document(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        lines = ""
        for line in self.process.stdout:
            lines += line
            if line.rstrip() == "}":
                return dict(json.loads(lines))
        raise AssertionError(self.process.communicate()[1])

    def connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), timeout=20)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.process.send_signal(signal.SIGINT)
    _, said = made.process.communicate(timeout=30)
    assert made.process.returncode == 0, said
    assert "Traceback" not in said


def ask_status(served: Served, head: str, body: bytes = b"") -> int:
    """The status of the answer to a request as it stands."""
    with served.connect() as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return int(connection.recv(64).split()[1])


def test_the_api_says_what_the_command_line_says(served: Served) -> None:
    paths = sorted(served.photos.glob("*/*.png"))[::9]
    done = CliRunner().invoke(app, ["predict", str(served.bundle), *map(str, paths), "--json", "--quiet"])
    expected = json.loads(done.stdout)["predictions"]
    name = served.document["models"][0]
    for path, known in zip(paths, expected, strict=True):
        response = httpx.post(
            served.url + "api/predict", data={"model": name}, files={"image": (path.name, path.read_bytes())}
        )
        (given,) = response.json()["predictions"]
        assert set(given) == set(known)
        assert (given["label"], given["unsure"]) == (known["label"], known["unsure"])
        assert abs(given["confidence"] - known["confidence"]) <= 1e-6


def test_a_foreign_host_and_origin_are_refused(served: Served) -> None:
    assert ask_status(served, "GET /api/models HTTP/1.1\nHost: evil.example") == 400
    own = urlsplit(served.url).netloc
    length = "Content-Length: 0"
    assert (
        ask_status(served, f"POST /api/predict HTTP/1.1\nHost: {own}\nOrigin: http://evil.example\n{length}")
        == 403
    )
    assert ask_status(served, f"GET /healthz HTTP/1.1\nHost: {own}") == 200


def test_an_endless_upload_is_cut_off_soon_after_the_limit(served: Served) -> None:
    own = urlsplit(served.url).netloc
    head = f"POST /api/predict HTTP/1.1\nHost: {own}\nContent-Type: multipart/form-data; boundary=b\n"
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    sent = 0
    with served.connect() as connection:
        connection.sendall((head + "Transfer-Encoding: chunked").replace("\n", "\r\n").encode() + b"\r\n\r\n")
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        piece = b"%x\r\n%s\r\n" % (65536, b"x" * 65536)
        with contextlib.suppress(OSError):
            while sent < 300_000_000:
                connection.sendall(piece)
                sent += 65536
    assert sent < 20_000_000  # the limit, and what lies in the buffers of both sides
    assert ask_status(served, head + "Content-Length: 300000000") == 413
    assert httpx.get(served.url + "healthz").json()["status"] == "ok"


def test_half_open_uploads_do_not_shut_others_out(served: Served) -> None:
    own = urlsplit(served.url).netloc
    head = f"POST /api/predict HTTP/1.1\r\nHost: {own}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(served.connect())
            connection.sendall((head + "Content-Length: 1000\r\n\r\n--b").encode())
        assert httpx.get(served.url + "healthz", timeout=10).status_code == 200
        assert httpx.get(served.url, timeout=10).status_code == 200
        busy = httpx.post(served.url + "api/predict", files={"image": ("a", b"x")}, timeout=10)
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    image = next(served.photos.glob("*/*.png")).read_bytes()
    asked = {"data": {"model": served.document["models"][0]}, "files": {"image": ("a", image)}}
    statuses = []
    for _ in range(100):  # the closed connections are noticed one by one
        statuses.append(httpx.post(served.url + "api/predict", timeout=10, **asked).status_code)
        if statuses[-1] == 200:
            break
    assert statuses[-1] == 200


def test_nothing_is_written_by_questions(served: Served) -> None:
    assert not (served.root / "inbox").exists()


def test_an_address_for_others_needs_a_token() -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::"):
        with pytest.raises(ConfigError, match="--token new"):
            decide_token(host, None)
    assert decide_token("127.0.0.1", None) is None
    made = decide_token("0.0.0.0", "new")
    assert made is not None
    assert len(made) >= 24
    assert decide_token("0.0.0.0", made) == made
    for easy in ("short", "x" * 16 + ";", "é" * 20):
        with pytest.raises(ConfigError, match="16 to 128"):
            decide_token("127.0.0.1", easy)


def test_a_port_that_is_taken_is_said() -> None:
    with open_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert address_of(listening, "127.0.0.1") == f"http://127.0.0.1:{port}/"
        with pytest.raises(ConfigError, match=f"port {port}"):
            open_socket("127.0.0.1", port)
    with pytest.raises(ConfigError, match="can't listen"):
        open_socket("no such host", 0)


def test_mistakes_end_in_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error_of(*arguments: object) -> BaseException | None:
        return CliRunner().invoke(app, [str(argument) for argument in arguments]).exception

    assert "no bundle" in str(error_of("serve", tmp_path / "nothing", "--port", 0))
    assert "--token" in str(error_of("serve", tmp_path, "--host", "0.0.0.0"))
    monkeypatch.setitem(sys.modules, "fastapi", None)
    error = error_of("serve", tmp_path)
    assert isinstance(error, ConfigError)
    assert "'fastapi', a dependency of backbench" in str(error)
