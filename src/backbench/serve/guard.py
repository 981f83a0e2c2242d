"""The guard before the app: access, limits of size and time of uploads, and security headers.

Plain ASGI, so that a too large body is refused while it arrives.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "backbench_token"
UPLOAD_SECONDS = 30.0
MAX_UPLOADS = 32
MAX_HELD_BYTES = 256_000_000  # of all uploads in progress
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/healthz",)
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        b"media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Rules:
    """Rules of access.

    Args:
        host: the listening address.
        token: the required token, as `Authorization: Bearer` or in the page's link; None: loopback only.
        most_bytes: maximum size of a request's body.
    """

    host: str
    token: str | None
    most_bytes: int


class Guard:
    """ASGI middleware that refuses by `rules`, and sets the headers of every response."""

    def __init__(self, app: App, rules: Rules, *, upload_seconds: float = UPLOAD_SECONDS) -> None:
        self.app = app
        self.rules = rules
        self.upload_seconds = upload_seconds
        self._num_uploads = 0
        self._num_held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # there are no web sockets here
            return await send({"type": "websocket.close", "code": 1008})
        send = _with_headers(send)
        refusal = self._refuse(scope)
        if refusal is not None:
            return await _answer(send, *refusal)
        shown = _token_of_link(scope)
        if shown and self.rules.token is not None and _is_same(shown, self.rules.token):
            return await _enter(send, self.rules.token)
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self.app(scope, receive, send)
        if self._num_uploads >= MAX_UPLOADS:
            return await _answer(send, 503, "too many uploads at once; try again in a second")
        self._num_uploads += 1
        received = [0]
        try:
            return await self.app(scope, self._limited(receive, received), send)
        finally:
            self._num_uploads -= 1
            self._num_held_bytes -= received[0]

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        """(status, reason) of a refusal, or None to accept."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not is_known_host(headers.get("host", ""), self.rules.host):
            return 400, "unknown host name in the request"
        if scope["method"] not in ("GET", "HEAD") and not _is_own_page(headers):
            return 403, "requests from pages of other sites are refused"
        if self.rules.token is not None and scope["path"] not in OPEN_PATHS:
            given = [_bearer(headers), _token_of_cookie(headers), _token_of_link(scope)]
            if not any(_is_same(token, self.rules.token) for token in given):
                return 401, "a token is needed: open the link that backbench serve printed"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "the length of the request is not a number"
        if len(length) > 18 or int(length) > self.rules.most_bytes:
            return 413, f"too large: the limit is {self.rules.most_bytes / 1e6:.0f} MB"
        if headers.get("content-encoding", "identity") != "identity":
            return 415, "compressed requests are not supported; send the original image"
        return None

    def _limited(self, receive: Receive, received: list[int]) -> Receive:
        """A `receive` that raises 413, 408 or 503 if the body is too large, too slow, or there are too many
        uploads.

        received: a list with one number, the bytes received so far.
        """
        deadline = asyncio.get_running_loop().time() + self.upload_seconds
        is_whole = False

        async def limited() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the upload took too long", {"Connection": "close"}) from None
            num_bytes = len(message.get("body", b""))
            received[0] += num_bytes
            self._num_held_bytes += num_bytes
            is_whole = not message.get("more_body", False)
            if received[0] > self.rules.most_bytes:
                reason = f"too large: the limit is {self.rules.most_bytes / 1e6:.0f} MB"
                raise HTTPException(413, reason, {"Connection": "close"})
            if self._num_held_bytes > MAX_HELD_BYTES:
                busy = {"Connection": "close", "Retry-After": "1"}
                raise HTTPException(503, "too many uploads at once; try again in a second", busy)
            return message

        return limited


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached only from this computer."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_known_host(given: str, host: str) -> bool:
    """Whether a request's `Host` is a valid name of the server at `host`.

    Refuses names of foreign name servers that point here (DNS rebinding). A server open to the network also
    accepts any numeric address, which no name server can forge.
    """
    try:
        name = urlsplit(f"//{given}").hostname or ""
        urlsplit(f"//{given}").port  # noqa: B018 - raises if it is not a number
    except ValueError:
        return False
    if any(char in given for char in "/@?#\\ ,"):
        return False
    if name in LOOPBACK_NAMES or name == host.lower():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return not is_loopback(host)


def _is_own_page(headers: dict[str, str]) -> bool:
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True  # not a browser's page
    try:
        parts = urlsplit(origin)
    except ValueError:  # no browser sends it
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == headers.get("host", "").lower()


def _bearer(headers: dict[str, str]) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _token_of_cookie(headers: dict[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _token_of_link(scope: Scope) -> str:
    """The token in `/?token=...`, the link for people."""
    if scope["path"] != "/" or scope["method"] != "GET":
        return ""
    try:
        return parse_qs(scope["query_string"].decode("ascii"), max_num_fields=8).get("token", [""])[0]
    except ValueError:
        return ""


def _is_same(given: str, token: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


async def _enter(send: Send, token: str) -> None:
    """Store the token in a cookie, and redirect to the address without it."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, status: int, reason: str) -> None:
    """Send a refusal and close the connection, because the rest of the request is not read."""
    body = json.dumps({"error": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name, value) for name, value in HEADERS if name not in own]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sending
