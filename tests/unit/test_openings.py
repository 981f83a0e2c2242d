"""How often a test split was looked at: never too low, whatever happened to the list."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backbench.errors import StorageError
from backbench.records.openings import check_openings, count_openings, log_opening, one_look

OLD = '{"time": "2026-01-01T00:00:00Z", "manifest": "a", "run": "digits-x-1"}\n'


def add(root: Path, content: bytes) -> None:
    with open(root / "openings.jsonl", "ab") as stream:
        stream.write(content)


def test_a_ranking_is_one_look_however_many_rows_it_has(tmp_path: Path) -> None:
    with one_look():
        for run in ("majority", "colour", "best"):
            log_opening(tmp_path, "a", run)
        log_opening(tmp_path, "b", "other")
    assert (count_openings(tmp_path, "a"), count_openings(tmp_path, "b")) == (1, 1)
    with one_look():
        log_opening(tmp_path, "a", "one more")
    log_opening(tmp_path, "a", "by itself")
    assert count_openings(tmp_path, "a") == 3
    assert check_openings(tmp_path) == ()


def test_lines_without_a_look_count_one_each(tmp_path: Path) -> None:
    add(tmp_path, OLD.encode() * 3)
    log_opening(tmp_path, "a", "new")
    assert count_openings(tmp_path, "a") == 4
    assert count_openings(tmp_path, "b") == 0
    assert count_openings(tmp_path / "nowhere", "a") == 0


@pytest.mark.parametrize(
    ("damage", "num"),
    [
        (b'{"time": "2026", "manifest": "a", "ru', 1),
        (b"\xff\xfe\x00", 1),
        (b"\0" * 4096, 1),
        (b"[" * 100_000, 1),
        (b'{"manifest": ' * 50_000, 1),
        (b'{"time": "2026", "manif' + OLD.encode(), 1),  # two were glued together: the second is whole
        (b'{"time": "2026", "manifest": 7, "run": "x"}\n', 1),
        (b'"text"\nnull\n[]\n', 3),
        (OLD.replace('"a"', '"\\ud800"').encode().replace(b"\\ud800", b"\xed\xa0\x80"), 1),
        (b"9" * 5000 + b"\n", 1),
    ],
)
def test_a_damaged_line_counts_and_swallows_no_other(tmp_path: Path, damage: bytes, num: int) -> None:
    glued = damage.count(b'"manifest": "a", "run"')
    log_opening(tmp_path, "a", "before")
    add(tmp_path, damage)
    log_opening(tmp_path, "a", "after")
    assert count_openings(tmp_path, "a") == 2 + num + glued
    assert count_openings(tmp_path, "b") == num  # nobody knows whose it was
    (said,) = check_openings(tmp_path)
    assert f"openings.jsonl: {num} damaged line" in said
    last = (tmp_path / "openings.jsonl").read_bytes().splitlines()[-1]
    assert json.loads(last)["run"] == "after"


def test_a_list_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "openings.jsonl").mkdir()
    assert count_openings(tmp_path, "a") is None
    assert "unknown" in check_openings(tmp_path)[0]
    with pytest.raises(StorageError, match="is a folder where a file is needed"):
        log_opening(tmp_path, "a", "run")


def test_a_line_that_was_written_in_part_is_an_error_and_the_next_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: whole(handle, data[:20]))
        with pytest.raises(StorageError, match="No space left"):
            log_opening(tmp_path, "a", "first")
    log_opening(tmp_path, "a", "second")
    assert count_openings(tmp_path, "a") == 2
