"""Limits on connections and their time, so that slow or silent clients can't block others.

Every connection always has a deadline: for the headers of its next request, or for the complete response. Above
a number of connections that leaves descriptors free, a waiting connection is closed to make room.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from backbench.errors import ConfigError
from backbench.serve.log_limit import LogLimit

MAX_CONNECTIONS = 512
MIN_CONNECTIONS = 16
SPARE_DESCRIPTORS = 64
"""Descriptors reserved for the inbox, images of the page, and closing connections."""
BACKLOG = 512
"""Maximum number of connections that wait to be accepted."""
LOGGERS = ("uvicorn.error", "asyncio", "backbench.serve.app", "backbench.serve.connections")
_CLOSE_SECONDS = 1.0  # for the client to read a last response
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Args:
        num_connections: maximum number of open connections.
        header_seconds: from the start of a connection, or from its last response, to the end of the next headers.
        answer_seconds: from the headers of a request to the last byte of its response. Uploads and models have
            shorter limits; this one also ends connections that do not read their response.
    """

    num_connections: int = MAX_CONNECTIONS
    header_seconds: float = 10.0
    answer_seconds: float = 120.0


def decide_limits() -> Limits:
    """Limits that leave file descriptors free.

    Raises:
        ConfigError: the limit of open files is too low for a server.
    """
    try:
        import resource

        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        num_open = len(os.listdir("/dev/fd"))  # noqa: PTH208
    except (ImportError, OSError):  # no such limit, or unknown
        return Limits()
    if allowed == resource.RLIM_INFINITY:
        return Limits()
    left = allowed - num_open - SPARE_DESCRIPTORS
    if left < MIN_CONNECTIONS:
        raise ConfigError(
            f"this process may open only {allowed:,} files, which is too few for a server. Raise the limit: "
            "ulimit -n 1024"
        )
    return Limits(num_connections=min(MAX_CONNECTIONS, left))


class Connection(H11Protocol):
    """One connection with its deadline.

    Args:
        limits: see `Limits`. given: uvicorn's arguments for a protocol.
    """

    def __init__(self, *, limits: Limits, **given: Any) -> None:
        super().__init__(**given)
        self.limits = limits
        self.since = self.loop.time()
        self.is_aborted = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_answering(self) -> bool:
        """Whether a request has an incomplete response."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_waiting(self) -> bool:
        """Whether the server waits for the client: for a request, or for reading the response."""
        return not self.is_answering or self.flow.write_paused

    @property
    def address(self) -> str:
        """The client's address; empty if unknown."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()
        _make_room(self.connections, self)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._set_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which may start the next request if it has arrived
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection at once, without sending the rest."""
        self.is_aborted = True
        self.transport.abort()

    def refuse(self, status: bytes) -> None:
        """Close the connection after a short response."""
        self.transport.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)
        self.transport.close()
        self._set_timer(_CLOSE_SECONDS, self.abort)

    def _set_deadline(self) -> None:
        self.since = self.loop.time()
        if self.is_answering:
            self._set_timer(self.limits.answer_seconds, self.abort)
        else:
            self._set_timer(self.limits.header_seconds, self._give_up)

    def _set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then)

    def _give_up(self) -> None:
        has_begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if has_begun and not self.transport.is_closing():
            self.refuse(b"408 Request Timeout")
        else:
            self.abort()


def _make_room(connections: Iterable[Any], newest: Connection) -> None:
    """If there are too many connections, close the longest waiting one of the address with most connections."""
    kept = [connection for connection in connections if not connection.is_aborted]
    if len(kept) <= newest.limits.num_connections:
        return
    waiting = [connection for connection in kept if connection.is_waiting and connection is not newest]
    if not waiting:
        newest.refuse(b"503 Service Unavailable\r\nRetry-After: 1")
        return
    num_of = Counter(connection.address for connection in kept)
    min(waiting, key=lambda connection: (-num_of[connection.address], connection.since)).abort()
    _log.warning("the limit of %d open connections is reached: a waiting one was closed", len(kept) - 1)


class Door(socket.socket):
    """A listening socket with a spare descriptor, to refuse connections when no other is free.

    Otherwise a connection in the queue would wake the event loop and be logged again and again.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; BlockingIOError if a connection was refused."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            _log.warning("a connection was refused: %s", error.strerror)
            self._turn_away()
            raise BlockingIOError from error

    def _turn_away(self) -> None:
        try:
            if self._spare is not None:
                os.close(self._spare)
                self._spare = None
                super().accept()[0].close()
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            time.sleep(0.02)  # nothing to do but wait

    def close(self) -> None:
        """Close the socket and the spare descriptor."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        super().close()


class Server(uvicorn.Server):
    """uvicorn with these connections and a rate-limited log.

    Args:
        app: an ASGI app. limits: see `Limits`. announce: called when the server is ready.
    """

    def __init__(self, app: Any, *, limits: Limits, announce: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(Connection, limits=limits),  # type: ignore[arg-type]
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                backlog=1,  # one connection per turn of the loop, so that room is made before the next one
                timeout_keep_alive=limits.header_seconds,  # type: ignore[arg-type] # a fraction also works
                timeout_graceful_shutdown=5,
                proxy_headers=False,
            )
        )
        self.log_limit = LogLimit()
        self.announce = announce

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on listening sockets until stopped, with a rate-limited log."""
        loggers = [getLogger(name) for name in LOGGERS]
        for logger in loggers:
            logger.addFilter(self.log_limit)
        try:
            super().run(sockets)
        finally:
            self.log_limit.sum_up()
            for logger in loggers:
                logger.removeFilter(self.log_limit)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and announce."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)  # asyncio has set it to the number accepted in one turn
        self.announce()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        self.log_limit.tick()
        return await super().on_tick(counter)
