"""Downloads that resume; a file gets its name only after its content is verified.

During the download a file is called `NAME.part`; `NAME.part.json` beside it holds the server's version tag.
`NAME.lock` lets one process at a time download.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.documents import parse_json
from backbench.errors import DownloadError, StorageError
from backbench.locks import Lock
from backbench.progress import SILENT, Bar, Progress, format_bytes
from backbench.storage import IN_CACHE, advise, read_file, sync_file, sync_folder

SCHEMES = ("http", "https", "file")
CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
MAX_FAILURES = 5  # in a row without progress
MAX_ATTEMPTS = 100
MAX_DELAY_SECONDS = 30.0
USER_AGENT = "backbench"
CHECKSUMS = {"sha256": ("SHA-256", 64), "md5": ("MD5", 32)}


class _Retry(Exception):
    """A temporary failure; `delay_seconds` if the server asked for a delay."""

    def __init__(self, why: str, delay_seconds: float | None = None) -> None:
        super().__init__(why)
        self.delay_seconds = delay_seconds


@dataclass(frozen=True)
class _Order:
    """A download: its source, target and checks."""

    url: str
    target: Path
    algorithm: str
    digest: str
    num_bytes: int | None

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        return self.target.with_name(self.target.name + ".part.json")

    @property
    def checksum(self) -> str:
        """The expected checksum in words; '' if there is none."""
        return f"{CHECKSUMS[self.algorithm][0]} {self.digest}" if self.algorithm else ""


def fetch_file(
    url: str,
    target: Path,
    *,
    sha256: str = "",
    md5: str = "",
    num_bytes: int | None = None,
    progress: Progress = SILENT,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download `url` to `target`, unless the right file is there already.

    An interrupted download resumes if the server still has the same version; else it starts again. Temporary
    failures are retried with growing pauses, at most five times in a row without progress. If several processes
    need the same file, one downloads it and the others wait.

    Args:
        url: http, https or file.
        target: its folder is created if missing.
        sha256: of the whole file, 64 hex digits.
        md5: the same, 32 hex digits, if the publisher gives no SHA-256. Without either, an existing file
            counts as right, and only the announced length of a download is checked.
        num_bytes: of the whole file, if known; a longer download is stopped.
        progress: gets a bar in kB.
        sleep: waits some seconds between attempts.

    Raises:
        DownloadError: no network, no such file, or unexpected content.
        StorageError: the target can't be written.

    Cost: the download, and one pass over the file to check its hash, also if it exists already.
    """
    algorithm = "sha256" if sha256 else "md5" if md5 else ""
    order = _Order(url, Path(target), algorithm, (sha256 or md5).lower(), num_bytes)
    if algorithm and not re.fullmatch(f"[0-9a-f]{{{CHECKSUMS[algorithm][1]}}}", order.digest):
        raise ValueError(f"not a {CHECKSUMS[algorithm][0]} in hex: {order.digest!r}")
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise DownloadError(
            f"can't fetch '{url}': the address starts with '{scheme}:'. Allowed: {', '.join(SCHEMES)}"
        )
    with _as_storage_error(order):
        if _is_there(order):
            return order.target
        if order.target.is_dir():
            raise StorageError(f"can't store '{order.target}': it is a folder")
        order.target.parent.mkdir(parents=True, exist_ok=True)
        with _only_process(order, progress):
            if _is_there(order):
                return order.target
            if order.target.exists():
                progress.warn(
                    f"'{order.target}' is not the expected file (expected {order.checksum}); downloading it again"
                )
            _download(order, progress, sleep)
    return order.target


def _is_there(order: _Order) -> bool:
    return order.target.is_file() and _hash_file(order, order.target) == order.digest


def _hash_file(order: _Order, path: Path) -> str:
    """The hash in hex; '' if no checksum is expected."""
    if not order.algorithm:
        return ""
    with open(path, "rb") as file:
        # MD5 only detects damage; downloads are unpacked as untrusted data
        return hashlib.file_digest(file, lambda: hashlib.new(order.algorithm, usedforsecurity=False)).hexdigest()


@contextmanager
def _only_process(order: _Order, progress: Progress) -> Iterator[None]:
    lock = Lock(order.target.with_name(order.target.name + ".lock"))
    if not lock.acquire(0):
        progress.say(f"waiting for another process that downloads {order.target.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _as_storage_error(order: _Order) -> Iterator[None]:
    """Convert errors of the disk; network errors never arrive here as OSError."""
    try:
        yield
    except OSError as error:
        where = error.filename or order.target
        told = f"can't store '{order.target}': {where}: {error.strerror or error}."
        raise StorageError(f"{told} {advise(order.target, error, IN_CACHE)}") from error


def _download(order: _Order, progress: Progress, sleep: Callable[[float], None]) -> None:
    failures = 0
    may_restart = True
    label = f"fetching {order.target.name}"
    with progress.bar(label, (order.num_bytes or 0) // 1000, unit="kB") as bar:
        for _ in range(MAX_ATTEMPTS):
            resumed_at = _find_resume_point(order)
            try:
                _fetch_rest(order, resumed_at, bar)
                if _finish(order, may_restart=may_restart and resumed_at > 0):
                    return
                may_restart = False  # two versions were joined: download once more from the start
            except _Retry as error:
                has_progress = _size(order.part) > resumed_at
                failures = 0 if has_progress else failures + 1
                if failures > MAX_FAILURES:
                    raise _give_up(order, str(error)) from error
                delay = error.delay_seconds if error.delay_seconds is not None else 0.5 * 2**failures
                sleep(min(delay, MAX_DELAY_SECONDS))
    raise _give_up(order, f"it was still incomplete after {MAX_ATTEMPTS} attempts")


def _find_resume_point(order: _Order) -> int:
    """Bytes of the part file to keep; 0 if it came from another address or is too long."""
    size = _size(order.part)
    is_ours = _read_note(order).get("url") == order.url
    is_too_long = order.num_bytes is not None and size > order.num_bytes
    return size if is_ours and not is_too_long else 0


def _fetch_rest(order: _Order, start: int, bar: Bar) -> None:
    """Make one request; return when the part file has the length that the server announced."""
    if start and start == order.num_bytes:
        return
    validator = _read_note(order).get("validator", "")
    request = urllib.request.Request(order.url, headers={"User-Agent": USER_AGENT})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator:
            request.add_header("If-Range", validator)
    with _open(order, request, start) as response:
        if response is None:  # there is nothing after `start`
            return
        is_continued = getattr(response, "status", None) == 206
        if is_continued and not _continues(response, start, validator):
            order.note.unlink(missing_ok=True)
            raise _Retry("the file on the server changed")
        if not is_continued:
            start = 0
        _receive(order, response, start, bar)


@contextmanager
def _open(order: _Order, request: urllib.request.Request, start: int) -> Iterator[Any]:
    try:
        response = _make_opener().open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                if not _is_whole(error, start):
                    order.note.unlink(missing_ok=True)
                    raise _Retry("the server has fewer bytes than were downloaded") from error
                response = None
            elif error.code in (408, 425, 429) or error.code >= 500:
                raise _Retry(f"the server answered {error.code} {error.reason}", _read_delay(error)) from error
            else:
                raise _give_up(order, f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError) or request.type == "file":
            raise _give_up(order, str(error.reason)) from error
        raise _Retry(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Retry(f"{error or type(error).__name__}") from error
    with contextlib.closing(response) if response is not None else contextlib.nullcontext():
        yield response


def _make_opener() -> urllib.request.OpenerDirector:
    """An opener for the allowed schemes alone, so that no redirect leads to another."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.FileHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _is_whole(refusal: urllib.error.HTTPError, start: int) -> bool:
    """Whether a 416 response means that our part file is complete."""
    return str(refusal.headers.get("Content-Range", "")).strip() == f"bytes */{start}"


def _continues(response: Any, start: int, validator: str) -> bool:
    """Whether a 206 response is the rest of the same version; some servers know Range but not If-Range."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    now = _read_validator(response)
    return found is not None and int(found[1]) == start and (not validator or not now or now == validator)


def _receive(order: _Order, response: Any, start: int, bar: Bar) -> None:
    length = str(response.headers.get("Content-Length", ""))
    end = start + int(length) if length.isascii() and length.isdigit() else None
    position = start
    with open(order.part, "r+b" if start else "wb") as file:
        file.seek(start)
        if start == 0:
            note = {"url": order.url, "validator": _read_validator(response)}
            order.note.write_text(json.dumps(note), encoding="utf-8")
        while True:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _Retry(f"the connection broke: {error or type(error).__name__}") from error
            if not chunk:
                break
            if position == 0 and _is_web_page(chunk):
                file.truncate(0)
                raise _give_up(
                    order, "the server sent a web page instead of the file (a login page or a proxy's message?)"
                )
            file.write(chunk)
            bar.advance((position + len(chunk)) // 1000 - position // 1000)
            position += len(chunk)
            if order.num_bytes is not None and position > order.num_bytes:
                raise _discard(order, f"the server sends more than the {order.num_bytes:,} bytes expected")
        file.truncate()
        sync_file(file)
    if end is not None and position < end:
        raise _Retry(f"the connection ended after {position:,} of {end:,} bytes")
    if order.num_bytes is not None and position < order.num_bytes:
        raise _Retry(f"the server sent {position:,} of {order.num_bytes:,} bytes")


def _finish(order: _Order, *, may_restart: bool) -> bool:
    """Rename the part file if it is right; else return False if a new download may start, or raise an error."""
    found = _hash_file(order, order.part)
    if found != order.digest:
        num_bytes = _size(order.part)
        error = _discard(
            order,
            f"its {CHECKSUMS[order.algorithm][0]} is {found} ({num_bytes:,} bytes), expected {order.digest}",
        )
        if may_restart:
            return False
        raise error
    order.part.replace(order.target)
    order.note.unlink(missing_ok=True)
    sync_folder(order.target.parent)
    return True


def _discard(order: _Order, why: str) -> DownloadError:
    order.part.unlink(missing_ok=True)
    order.note.unlink(missing_ok=True)
    return _give_up(order, why)


def _give_up(order: _Order, why: str) -> DownloadError:
    failure = f"could not download {order.target.name} from {order.url}: {why}."
    if not order.checksum:  # without a checksum a file from elsewhere can't be verified
        return DownloadError(failure)
    size = f"{format_bytes(order.num_bytes)}, " if order.num_bytes is not None else ""
    return DownloadError(
        f"{failure} If this address does not work, put the file yourself at '{order.target}' "
        f"({size}{order.checksum})."
    )


def _read_note(order: _Order) -> dict[str, str]:
    try:
        note = parse_json(read_file(order.note))
    except (FileNotFoundError, ValueError):
        return {}
    is_note = isinstance(note, dict) and all(isinstance(value, str) for value in note.values())
    return note if is_note else {}


def _read_validator(response: Any) -> str:
    """The version tag of the file: a strong ETag, else the date of change, else ''."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _read_delay(response: Any) -> float | None:
    given = str(response.headers.get("Retry-After", ""))
    if given.isascii() and given.isdigit():
        return float(given)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None


def _is_web_page(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower().startswith((b"<!doctype html", b"<html", b"<head"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
