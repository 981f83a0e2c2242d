"""Files that backbench reads back, damaged in every way: an error that says it, or as if there were none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbench.backbones.card import read_card
from backbench.backbones.core.bundle_files import find_bundle, read_document
from backbench.backbones.core.model_index import main_revision
from backbench.backbones.shards import list_parts
from backbench.cli.adapt import parse_settings
from backbench.data.manifest import read_manifest
from backbench.data.openimages_labels import read_parents
from backbench.documents import MAX_LEVELS, TooDeep, parse_json, parse_toml
from backbench.errors import BackbenchError, ConfigError
from backbench.locks import _read_owner
from backbench.progress import SILENT
from backbench.records import folders
from backbench.records.openings import count_openings
from backbench.records.resume import find_unfinished
from backbench.registry import find_model
from backbench.runs.cross_dataset import _read_found
from backbench.runs.speeds import guess_forward
from backbench.serve.inbox import list_entries
from backbench.studies.schema import read_study
from backbench.training.checkpoint import Workspace

BAD: dict[str, bytes] = {
    "nothing": b"",
    "zeros": b"\0" * 4096,
    "no Unicode": b'{"a": "\xff"}',
    "half a character": b'{"a": "\xc3',
    "torn": b'{"schema": 1, "name": "ph',
    "lists without end": b"[" * 200_000,
    "deep lists": b"[" * 900 + b"]" * 900,
    "deep groups": b'{"a":' * 300 + b"1" + b"}" * 300,
    "a long number": b'{"schema": ' + b"9" * 5000 + b"}",
    "more than a float": b'{"schema_version": 1e999, "schema": 1e999, "digest": NaN}',
    "a list": b"[1, 2]",
    "a word": b'"text"',
    "null": b"null",
    "wrong types": b'{"schema": 1, "schema_version": 1, "classes": 5,"samples": [],"config": [], "weight_map": 3}',
    "columns of unequal length": b'{"schema": 1, "name": "x", "classes": ["a"], "skipped": [], "warnings": [],'
    b'"samples":'
    b'{"id": ["1"], "label": [], "group": [], "part": [], "sha256": [], "row": []}}',
    "of the future": b'{"schema": 99, "schema_version": 99, "version": 99}',
    "twice": b'{"schema": 1, "schema": 99, "schema_version": 1, "schema_version": 99}',
    "TOML, deep": b"a = " + b"[" * 5000,
    "TOML, a deep key": b"a" + b".a" * 5000 + b" = 1",
    "TOML, a deep table": b"[a" + b".a" * 300 + b"]",
    "TOML, a long number": b"a = " + b"9" * 5000,
    "TOML, no Unicode": b"a = '\xff'",
    "TOML, twice": b"a = 1\na = 2",
}

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "record": ("record.json", lambda path: folders.read_record(path.parent)),
    "whole run": ("record.json", lambda path: folders.read_whole(path.parent)),
    "finished run": ("run/record.json", lambda path: folders.find_finished(path.parent.parent, "run")),
    "how to make a bundle": ("record.json", lambda path: find_bundle(path.parent)),
    "predictions": ("predictions.npz", lambda path: folders.read_predictions(path.parent)),
    "openings": ("openings.jsonl", lambda path: count_openings(path.parent, "a")),
    "manifest": ("manifest.json", read_manifest),
    "bundle": ("model.json", lambda path: read_document(path.parent)),
    "card": ("card.toml", read_card),
    "card as a model": ("card.toml", lambda path: find_model(str(path))),
    "study": ("study.toml", read_study),
    "unfinished run": (".working/run/config.json", lambda path: find_unfinished(path.parents[2], "run")),
    "state of training": ("config.json", lambda path: Workspace(path.parent, SILENT).read_state("config")),
    "inbox": (f"{'a' * 32}.json", lambda path: list_entries(path.parent)),
    "figures elsewhere": ("x.json", _read_found),
    "owner of a lock": ("x.lock.owner", _read_owner),
    "revision of a repository": ("models--a--b/refs/main", lambda path: main_revision(path.parents[1])),
    "index of weights": ("model.safetensors.index.json", list_parts),
    "hierarchy": ("hierarchy.json", read_parents),
}


@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize("reader", READERS)
def test_what_cannot_be_read_is_said_or_counts_as_absent(reader: str, content: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BAD[content])
    try:
        read(path)
    except BackbenchError as error:
        said = str(error)
    else:
        said = "as if there were none"
    assert 0 < len(said) < 1500


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_in_the_place_of_a_file_is_said(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    (tmp_path / name).mkdir(parents=True)
    with contextlib.suppress(BackbenchError):
        read(tmp_path / name)


@pytest.mark.parametrize("content", BAD)
def test_speeds_that_cannot_be_read_are_none(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path))
    (tmp_path / "speed.json").write_bytes(BAD[content])
    assert guess_forward([find_model("tiny_cnn")], device="cuda", precision="fp32")["tiny_cnn"] > 0


@pytest.mark.parametrize("speed", [[1e999, 1e9], [1e9, 1e999], [10**400, 1], [-1, 1], [0, 0], ["x", 1], [1], None])
def test_impossible_speeds_are_none(speed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path))
    (tmp_path / "speed.json").write_text(json.dumps({"cuda/fp32": {"tiny_cnn": speed}}))
    seconds = guess_forward([find_model("tiny_cnn")], device="cuda", precision="fp32")["tiny_cnn"]
    assert 0 < seconds < 1


@pytest.mark.parametrize(
    "setting",
    [
        f"options.blocks={'[' * 200_000}",
        f"options.blocks={'[' * 900}{']' * 900}",
        f"recipe{'.a' * 5000}=1",
        "blocks=" + '{"a":' * 300 + "1" + "}" * 300,
    ],
)
def test_a_setting_that_is_nested_too_deeply_is_an_error(setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"--set .{{60}}\.\.\. can't be used: .*more than {MAX_LEVELS} levels"):
        parse_settings((setting,))


def test_what_is_nested_as_far_as_allowed_is_read() -> None:
    text = "[" * MAX_LEVELS + "]" * MAX_LEVELS
    assert parse_json(text) == json.loads(text)
    assert parse_toml(f"a = {text[1:-1]}")["a"] == json.loads(text[1:-1])
    with pytest.raises(TooDeep):
        parse_json(f"[{text}]")
