"""The guard: foreign hosts, origins and tokens, and bodies that are too large or too slow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from backbench.serve import guard
from backbench.serve.guard import Guard, Rules, is_known_host, is_loopback

TOKEN = "a-token-of-24-characters"


class Inner:
    """The app behind the guard: reads the whole body, and says how much there was."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.has_run = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.has_run = True
        status = 200
        try:
            more = scope["method"] == "POST"
            while more:
                message = await receive()
                self.num_bytes += len(message.get("body", b""))
                more = message.get("more_body", False)
        except HTTPException as error:
            status = error.status_code
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def ask(
    inner: Inner,
    rules: Rules,
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/api/predict",
    query: str = "",
    pieces: Sequence[bytes] = (b"",),
    upload_seconds: float = 5.0,
) -> tuple[int, dict[str, str]]:
    """(status, headers) of the answer to one request; a piece of None never comes."""
    given = {"host": "127.0.0.1:8765"} | (headers or {})
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    waiting = list(pieces)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or not pieces[-1]}

    async def whole() -> dict[str, Any]:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    is_stalled = pieces[-1] == b"" and len(pieces) > 1
    made = Guard(inner, rules, upload_seconds=upload_seconds)
    with ThreadPoolExecutor(1) as pool:  # a loop may be running in this thread, of a browser's tests
        pool.submit(asyncio.run, made(scope, receive if is_stalled else whole, send)).result()
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found


RULES = Rules("127.0.0.1", None, 1000)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost@evil.example", "", "localhost, x",
     "10.0.0.1", "[::1", "localhost:x", "LOCALHOST.evil"],
)  # fmt: skip
def test_a_foreign_host_is_refused(host: str) -> None:
    inner = Inner()
    assert ask(inner, RULES, {"host": host}, method="GET", path="/")[0] == 400
    assert not inner.has_run


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "localhost", "[::1]:8765", "LocalHost:1"])
def test_its_own_names_are_answered(host: str) -> None:
    assert ask(Inner(), RULES, {"host": host}, method="GET", path="/")[0] == 200


def test_an_open_server_goes_by_numbers_and_its_own_name_alone() -> None:
    assert is_known_host("192.168.1.5:80", "0.0.0.0")
    assert is_known_host("box.lan:80", "box.lan")
    assert not is_known_host("evil.example", "0.0.0.0")
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "box.lan")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "file://"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "cross-site"},
    ],
)
def test_pages_of_others_may_not_post_or_delete(headers: dict[str, str]) -> None:
    inner = Inner()
    assert ask(inner, RULES, headers)[0] == 403
    assert ask(inner, RULES, headers, method="DELETE")[0] == 403
    assert not inner.has_run


def test_its_own_page_and_programs_may() -> None:
    own = {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}
    assert [ask(Inner(), RULES, headers)[0] for headers in (own, {})] == [200, 200]


def test_a_body_is_cut_off_while_it_arrives() -> None:
    inner = Inner()
    assert ask(inner, RULES, pieces=[b"x" * 400] * 100)[0] == 413
    assert inner.num_bytes <= 1000
    said = Inner()
    assert ask(said, RULES, {"content-length": "1001"})[0] == 413
    assert not said.has_run
    assert ask(Inner(), RULES, pieces=[b"x" * 500] * 2)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": "-1"}, 400),
        ({"content-length": "1e3"}, 400),
        ({"content-length": "9" * 5000}, 413),
        ({"content-encoding": "gzip"}, 415),
    ],
)
def test_odd_lengths_and_compressed_bodies_are_refused(headers: dict[str, str], status: int) -> None:
    assert ask(Inner(), RULES, headers)[0] == status


def test_a_slow_body_is_given_up() -> None:
    assert ask(Inner(), RULES, pieces=[b"x", b""], upload_seconds=0.05)[0] == 408


def test_uploads_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_UPLOADS", 0)
    status, headers = ask(Inner(), RULES)
    assert (status, headers["retry-after"]) == (503, "1")
    assert ask(Inner(), RULES, method="GET", path="/healthz")[0] == 200


def test_the_bytes_of_all_uploads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_HELD_BYTES", 600)
    assert ask(Inner(), RULES, pieces=[b"x" * 500])[0] == 200
    assert ask(Inner(), RULES, pieces=[b"x" * 500] * 2)[0] == 503


def test_a_token_opens_the_door_and_nothing_else_does() -> None:
    rules = Rules("0.0.0.0", TOKEN, 1000)
    asked = {"method": "GET", "path": "/api/models"}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"},
                    {"cookie": f"{guard.COOKIE}=wrong"}, {"authorization": "Bearer é"}):  # fmt: skip
        inner = Inner()
        assert ask(inner, rules, headers, **asked)[0] == 401
        assert not inner.has_run
    assert ask(Inner(), rules, query=f"token={TOKEN}", **asked)[0] == 401  # only the page takes it from the link
    for headers in ({"authorization": f"Bearer {TOKEN}"}, {"cookie": f"other=1; {guard.COOKIE}={TOKEN}"}):
        assert ask(Inner(), rules, headers, **asked)[0] == 200
    assert ask(Inner(), rules, method="GET", path="/healthz")[0] == 200


def test_the_link_leaves_the_token_in_a_cookie_and_not_in_the_address() -> None:
    status, headers = ask(Inner(), Rules("0.0.0.0", TOKEN, 1000), method="GET", path="/", query=f"token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"] == f"{guard.COOKIE}={TOKEN}; HttpOnly; SameSite=Strict; Path=/"


def test_every_answer_forbids_what_it_does_not_need() -> None:
    for headers, method in (({}, "GET"), ({"host": "evil.example"}, "GET"), ({"content-length": "9999"}, "POST")):
        found = ask(Inner(), RULES, headers, method=method)[1]
        policy = found["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert found["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in found
