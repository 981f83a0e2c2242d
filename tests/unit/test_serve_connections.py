"""Connections that are silent, slow, or too many, over real sockets on this computer."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest

from backbench.errors import ConfigError
from backbench.serve import connections, log_limit
from backbench.serve.connections import Door, Limits, Server, decide_limits
from backbench.serve.guard import Guard, Rules
from backbench.serve.log_limit import LogLimit

TOKEN = "a-token-of-24-characters"
LARGE = 30_000_000
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """The app behind the guard: a short answer; `/large` gives one that no socket takes at once."""
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(30):
            await send({"type": "http.response.body", "body": b"x" * (LARGE // 30), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Running:
    """A server in a thread of its own."""

    def __init__(self, limits: Limits, token: str | None) -> None:
        ready = threading.Event()
        door = Door(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.port: int = door.getsockname()[1]
        host = "127.0.0.1" if token is None else "0.0.0.0"
        self.server = Server(Guard(answer, Rules(host, token, 1000)), limits=limits, announce=ready.set)
        self.thread = threading.Thread(target=self.server.run, args=([door],))
        self.thread.start()
        assert ready.wait(10)

    def connect(self, said: bytes = b"") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        made.sendall(said)
        return made

    def health(self) -> int:
        return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=10).status_code

    def num_open(self) -> int:
        return len(self.server.server_state.connections)

    def wait_for(self, holds: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 10
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.01)
        return holds()

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running(limits: Limits, token: str | None = None) -> Iterator[Running]:
    made = Running(limits, token)
    try:
        yield made
    finally:
        made.end()


def list_descriptors() -> list[str]:
    return os.listdir("/dev/fd")  # noqa: PTH208


def drip(connection: socket.socket, piece: bytes) -> int:
    """Send a piece up to 30 times, for 1.5 seconds or more; how often that was possible."""
    for number in range(30):
        try:
            connection.sendall(piece)
        except OSError:
            return number
        time.sleep(0.05)
    return 30


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side ends it."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("said", [b"", GET, b"GET / HT", GET + b"X: " + b"y" * 60_000])
def test_connections_that_never_end_their_headers_shut_nobody_out(token: str | None, said: bytes) -> None:
    with running(Limits(20, 60.0, 60.0), token) as served, contextlib.ExitStack() as stack:
        for number in range(120):
            stack.enter_context(served.connect(said))
            if number % 30 == 0:
                assert served.health() == 200
        assert served.health() == 200
        assert served.num_open() <= 21


def test_headers_have_a_deadline_that_no_drop_by_drop_sender_puts_off() -> None:
    with running(Limits(20, 0.4, 60.0)) as served:
        silent, begun, dripping = served.connect(), served.connect(GET), served.connect(GET)
        assert drip(dripping, b"X: y\r\n") < 30
        for connection, known in ((silent, b""), (begun, b"HTTP/1.1 408"), (dripping, b"HTTP/1.1 408")):
            with connection:
                assert read_all(connection).startswith(known)
        assert served.wait_for(lambda: served.num_open() == 0)


def test_a_body_that_no_one_waits_for_does_not_keep_a_connection() -> None:
    with (
        running(Limits(20, 0.4, 60.0)) as served,
        served.connect(GET + b"Content-Length: 900\r\n\r\n") as dripping,
    ):
        assert dripping.recv(100).startswith(b"HTTP/1.1 200")
        assert drip(dripping, b"x") < 30
        assert served.wait_for(lambda: served.num_open() == 0)


def test_a_connection_answers_again_within_its_deadline_and_is_closed_after_it() -> None:
    with running(Limits(20, 1.0, 60.0)) as served, served.connect() as kept:
        for _ in range(4):
            time.sleep(0.3)  # together longer than the deadline of one request
            kept.sendall(GET + b"\r\n")
            found = b""
            while not found.endswith(b"ok"):
                found += kept.recv(1000)
        assert read_all(kept) == b""


@pytest.mark.parametrize("said", [b"", b"Connection: close\r\n"])
def test_an_answer_that_is_not_read_is_given_up(said: bytes) -> None:
    asked = GET.replace(b"/healthz", b"/large") + said + b"\r\n"
    with running(Limits(20, 0.3, 0.3)) as served, served.connect(asked):
        assert served.wait_for(lambda: served.num_open() == 1)
        assert served.wait_for(lambda: served.num_open() == 0)
        assert served.wait_for(lambda: not served.server.server_state.tasks)


def test_answers_that_are_not_read_make_room_too() -> None:
    asked = GET.replace(b"/healthz", b"/large") + b"\r\n"
    with running(Limits(5, 60.0, 60.0)) as served, contextlib.ExitStack() as stack:
        tasks = served.server.server_state.tasks
        for number in range(1, 6):
            stack.enter_context(served.connect(asked))
            assert served.wait_for(lambda number=number: len(tasks) == number)
        assert served.wait_for(lambda: all(each.is_waiting for each in served.server.server_state.connections))
        assert served.health() == 200


def test_an_answer_that_is_read_is_whole() -> None:
    with running(Limits(5, 5.0, 20.0)) as served:
        assert len(httpx.get(f"http://127.0.0.1:{served.port}/large").content) == LARGE


class Waiting:
    """What `_make_room` sees of a connection."""

    def __init__(self, address: str, since: float, *, is_waiting: bool = True) -> None:
        self.address, self.since, self.is_waiting = address, since, is_waiting
        self.is_aborted = False
        self.limits = Limits(4)
        self.refused = b""

    def abort(self) -> None:
        self.is_aborted = True

    def refuse(self, status: bytes) -> None:
        self.refused = status


def test_the_address_with_most_connections_makes_room_and_answers_are_never_cut() -> None:
    own = [Waiting("10.0.0.1", 1.0), Waiting("10.0.0.1", 2.0)]
    many = [Waiting("10.0.0.9", 0.5, is_waiting=False), Waiting("10.0.0.9", 4.0), Waiting("10.0.0.9", 3.0)]
    connections._make_room([*own, *many], many[1])  # type: ignore[arg-type]
    assert [waiting.is_aborted for waiting in (*own, *many)] == [False, False, False, False, True]
    connections._make_room([*own, *many], many[1])  # type: ignore[arg-type]
    assert sum(waiting.is_aborted for waiting in (*own, *many)) == 1  # enough room now
    busy = [Waiting("10.0.0.9", 0.5, is_waiting=False) for _ in range(4)]
    newest = Waiting("10.0.0.1", 5.0)
    connections._make_room([*busy, newest], newest)  # type: ignore[arg-type]
    assert newest.refused.startswith(b"503")
    assert not any(waiting.is_aborted for waiting in busy)


def test_without_descriptors_connections_are_turned_away_and_the_log_stays_short(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_short = True
    num_tried = 0
    accept = socket.socket.accept

    def short(self: socket.socket) -> Any:
        nonlocal num_tried
        num_tried += 1
        if is_short and isinstance(self, Door) and self._spare is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(self)

    with running(Limits(50, 5.0, 5.0)) as served:
        monkeypatch.setattr(socket.socket, "accept", short)
        for _ in range(40):
            with served.connect(GET + b"\r\n") as connection:
                assert read_all(connection) == b""
        time.sleep(0.2)
        assert num_tried < 200
        is_short = False
        assert served.health() == 200
    lines = [record for record in caplog.records if "connection was refused" in record.getMessage()]
    assert len(lines) == log_limit.MAX_LINES + 1
    assert lines[-1].getMessage().endswith("30 more times, not shown")


FEW_DESCRIPTORS = """
import os, resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from backbench.serve.connections import Door, Server, decide_limits

async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

with Door(socket.create_server(("127.0.0.1", 0), backlog=512)) as door:
    port = door.getsockname()[1]
    Server(answer, limits=decide_limits(), announce=lambda: print(port, flush=True)).run([door])
"""


def test_more_connections_at_once_than_descriptors_are_answered_all_the_same() -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", FEW_DESCRIPTORS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    port = int(started.stdout.readline())
    with contextlib.ExitStack() as stack:
        started.send_signal(signal.SIGSTOP)
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)).sendall(GET)
        started.send_signal(signal.SIGCONT)
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
        started.send_signal(signal.SIGTERM)
        _, said = started.communicate(timeout=20)
    assert "turned away" not in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= log_limit.MAX_LINES + 5


def test_a_door_gives_its_descriptor_back() -> None:
    before = list_descriptors()
    for _ in range(3):
        Door(socket.create_server(("127.0.0.1", 0))).close()
    assert len(list_descriptors()) == len(before)


def test_the_limit_leaves_descriptors_free(monkeypatch: pytest.MonkeyPatch) -> None:
    num_open = len(list_descriptors())
    for allowed, most in ((1024, 512), (100_000, 512), (num_open + 164, 100), (resource.RLIM_INFINITY, 512)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, allowed=allowed: (allowed, allowed))
        assert abs(decide_limits().num_connections - most) <= 5  # a file more or less may be open by now
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(ConfigError, match="ulimit -n"):
        decide_limits()


def test_a_log_says_a_thing_ten_times_a_minute_and_then_how_often(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    limit = LogLimit(lambda: now[0])
    logger = logging.getLogger("test.of.limit")
    logger.addFilter(limit)
    for number in range(1000):
        logger.warning("request %d is bad", number)
    logger.warning("another thing")
    limit.tick()
    assert [record.getMessage() for record in caplog.records][9:] == ["request 9 is bad", "another thing"]
    now[0] = 60.0
    limit.tick()
    assert caplog.records[-1].getMessage() == "request %d is bad: 990 more times, not shown"
    logger.warning("request %d is bad", 7)
    assert caplog.records[-1].getMessage() == "request 7 is bad"


def test_a_log_of_ever_new_messages_is_bounded_too(caplog: pytest.LogCaptureFixture) -> None:
    limit = LogLimit(lambda: 0.0)
    logger = logging.getLogger("test.of.kinds")
    logger.addFilter(limit)
    for number in range(1000):
        logger.warning(f"request {number} is bad")
    assert len(caplog.records) == log_limit.MAX_KINDS + log_limit.MAX_LINES
    limit.sum_up()
    assert caplog.records[-1].getMessage() == "other messages: 940 more times, not shown"
