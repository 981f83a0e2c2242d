"""Log of test-set evaluations: `openings.jsonl` beside the run folders, one line for each evaluated run.

All lines of one ranking share one evaluation id, because its table is seen once. Older lines have no id and count
once each. An unreadable line also counts, for every test set: the count may be too high, never too low.
"""

from __future__ import annotations

import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from backbench.documents import parse_json
from backbench.records.folders import OPENINGS_FILE, utc_now
from backbench.storage import read_file, storage_error

_LOOK: ContextVar[str | None] = ContextVar("look", default=None)
_LINE_START = re.compile(rb'(?=\{"time")')
"""Separator that splits a torn line from the next one."""


@contextmanager
def one_look() -> Iterator[None]:
    """All test-set evaluations of this thread within the block count as one."""
    token = _LOOK.set(uuid.uuid4().hex)
    try:
        yield
    finally:
        _LOOK.reset(token)


def log_opening(root: Path, manifest_digest: str, run_id: str) -> None:
    """Log an evaluation on the test split of a manifest; in one write, so that lines of processes never mix.

    A torn last line (after a kill or a full disk) is ended first.

    Raises:
        StorageError: the log can't be written, so the test split must not be used.
    """
    entry = {
        "time": utc_now(),
        "manifest": manifest_digest,
        "run": run_id,
        "look": _LOOK.get() or uuid.uuid4().hex,
    }
    line = (json.dumps(entry) + "\n").encode()
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / OPENINGS_FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if _is_torn(handle):
                line = b"\n" + line
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root / OPENINGS_FILE))
        finally:
            os.close(handle)
    except OSError as error:
        raise storage_error(root, error) from error


def _is_torn(handle: int) -> bool:
    if os.lseek(handle, 0, os.SEEK_END) == 0:
        return False
    os.lseek(handle, -1, os.SEEK_END)
    return os.read(handle, 1) != b"\n"


def count_openings(root: Path, manifest_digest: str) -> int | None:
    """Number of evaluations on the test split of a manifest; None: the log is unreadable."""
    entries = _read_entries(root)
    if entries is None:
        return None
    own = [entry for entry in entries if entry is None or entry["manifest"] == manifest_digest]
    looks = [None if entry is None else entry.get("look") for entry in own]
    named = {look for look in looks if isinstance(look, str)}
    return len(named) + sum(not isinstance(look, str) for look in looks)


def check_openings(root: Path) -> tuple[str, ...]:
    """A warning on a log that is unreadable or partly damaged; empty if it is valid."""
    entries = _read_entries(root)
    if entries is None:
        return (f"{root / OPENINGS_FILE} can't be read: the number of test-set evaluations is unknown",)
    num = entries.count(None)
    if not num:
        return ()
    damaged = f"{num:,} damaged line{'s' * (num > 1)}"
    return (f"{root / OPENINGS_FILE}: {damaged}; each counts as one test-set evaluation",)


def _read_entries(root: Path) -> list[dict[str, Any] | None] | None:
    """The lines, with None for an unreadable one; None for an unreadable log. A missing log is empty."""
    try:
        content = read_file(root / OPENINGS_FILE)
    except FileNotFoundError:
        return []
    except OSError:
        return None
    lines = (line for text in content.split(b"\n") for line in _LINE_START.split(text) if line.strip())
    return [_parse(line) for line in lines]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = parse_json(line.decode())
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("manifest"), str) else None
