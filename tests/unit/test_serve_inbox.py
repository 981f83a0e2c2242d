"""The inbox: images with what a person said of them, and their way out as a data set for training."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from backbench.cli import app
from backbench.data.decode import FORMATS
from backbench.errors import ConfigError, StorageError
from backbench.progress import Progress
from backbench.serve import inbox
from backbench.serve.inbox import (
    check_inbox,
    count_entries,
    export_entries,
    list_entries,
    remove_entry,
    save_entry,
)


def make_png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


def said(**changes: Any) -> dict[str, Any]:
    return {
        "name": "=moth.png",
        "model": "m",
        "weights_digest": "w" * 64,
        "answer": "bee",
        "confidence": 0.5,
        "verdict": "wrong",
        "label": "ant",
    } | changes


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_entry_is_an_image_with_its_provenance(tmp_path: Path) -> None:
    entry = save_entry(tmp_path / "inbox", make_png("red"), "PNG", said())
    assert (tmp_path / "inbox" / entry.image).read_bytes() == make_png("red")
    document = json.loads((tmp_path / "inbox" / f"{entry.id}.json").read_bytes())
    assert (document["answer"], document["label"], document["part"]) == ("bee", "ant", "train")
    assert list_entries(tmp_path / "inbox") == [entry]
    remove_entry(tmp_path / "inbox", entry)
    remove_entry(tmp_path / "inbox", entry)
    assert not list((tmp_path / "inbox").iterdir())


def test_an_image_of_every_format_that_is_read_can_be_kept() -> None:
    assert set(inbox.SUFFIXES) == {*FORMATS, "MPO", "HEIF"}


def test_an_export_is_a_table_for_training_with_each_image_once(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    save_entry(folder, make_png("red"), "PNG", said())
    unlabelled = save_entry(folder, make_png("blue"), "PNG", said(label=None))
    last = save_entry(folder, make_png("green"), "PNG", said(label="=cmd"))
    made = invoke("inbox", "export", tmp_path / "set", "--inbox", folder, "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["num_images"] == 2
    rows = list(csv.DictReader(io.StringIO((tmp_path / "set" / "labels.csv").read_text())))
    assert sorted(row["label"] for row in rows) == ["=cmd", "ant"]  # a class name stays what it is
    assert {row["part"] for row in rows} == {"train"}
    assert {row["name"] for row in rows} == {"'=moth.png"}
    assert (tmp_path / "set" / last.image).read_bytes() == make_png("green")
    assert not (tmp_path / "set" / unlabelled.image).exists()
    with pytest.raises(StorageError, match="exists already"):
        export_entries(folder, tmp_path / "set")


def test_the_same_image_judged_twice_counts_as_judged_last(tmp_path: Path) -> None:
    labels = [str(number) for number in range(9)]  # in the same second
    for label in labels:
        save_entry(tmp_path, make_png("red"), "PNG", said(label=label))
    assert [entry.label for entry in list_entries(tmp_path)] == labels
    assert [entry.label for entry in export_entries(tmp_path, tmp_path / "set")] == labels[-1:]


def test_an_inbox_that_can_keep_nothing_is_found_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_inbox(tmp_path / "not" / "there" / "yet")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"is a file where a folder is needed: .* with --inbox, or --no-inbox"):
        check_inbox(tmp_path / "file" / "inbox")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StorageError, match=r"no permission to write .* with --inbox, or --no-inbox"):
        check_inbox(tmp_path / "inbox")


def test_the_last_judgement_of_an_image_counts_in_list_and_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inbox"
    for number, (colour, label) in enumerate([("red", "ant"), ("blue", "cow"), ("red", None)]):
        entry = save_entry(folder, make_png(colour), "PNG", said(label=label))
        dated = entry.model_copy(update={"saved": f"2026-01-0{number + 1}T00:00:00Z"})
        (folder / f"{entry.id}.json").write_text(dated.model_dump_json())
    listed = json.loads(invoke("inbox", "list", "--inbox", folder, "--json").stdout)["entries"]
    assert [entry["label"] for entry in listed] == ["cow", None]  # of red, nothing is known any more
    assert invoke("inbox", "export", tmp_path / "set", "--inbox", folder).stdout.startswith("1 image:")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "set" / "labels.csv").read_text())))
    assert [row["label"] for row in rows] == ["cow"]


def test_the_list_is_readable_and_is_json(tmp_path: Path) -> None:
    save_entry(tmp_path, make_png("red"), "PNG", said(name="\x1b[31mred.png", label=None))
    shown = invoke("inbox", "list", "--inbox", tmp_path)
    assert "1 image, 0 with a label" in shown.stdout
    assert "\x1b" not in shown.stdout
    document = json.loads(invoke("inbox", "list", "--inbox", tmp_path, "--json").stdout)
    assert document["entries"][0]["answer"] == "bee"


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def test_mistakes_end_in_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no inbox"):
        list_entries(tmp_path / "none")
    with pytest.raises(ConfigError, match="has a label"):
        export_entries(tmp_path, tmp_path / "set")
    (tmp_path / "bad.json").write_text("{}")
    log = Log()
    assert list_entries(tmp_path, log) == []
    assert log.lines == [f"left out: {tmp_path / 'bad.json'} is not an inbox entry, or is damaged."]
    monkeypatch.setattr(inbox, "MAX_ENTRIES", 1)
    with pytest.raises(StorageError, match="is full"):
        save_entry(tmp_path, make_png("red"), "PNG", said())
    assert count_entries(tmp_path) == 1


def test_an_entry_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    entry = save_entry(tmp_path, make_png("red"), "PNG", said())
    path = tmp_path / f"{entry.id}.json"
    path.write_text(path.read_text().replace(entry.image, "../../secret.png"))
    log = Log()
    assert list_entries(tmp_path, log) == []
    assert "is not an inbox entry" in log.lines[0]


def test_damaged_entries_are_left_out_and_the_rest_is_exported(tmp_path: Path) -> None:
    folder, log = tmp_path / "inbox", Log()
    whole, changed, gone = (
        save_entry(folder, make_png(colour), "PNG", said()) for colour in ("red", "blue", "lime")
    )
    (folder / "bad.json").write_bytes(b"\0" * 100)
    (folder / changed.image).write_bytes(make_png("black"))
    (folder / gone.image).unlink()
    assert export_entries(folder, tmp_path / "set", log) == [whole]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted([whole.image, "labels.csv"])
    assert sorted(line.rpartition("/")[2].split(" ", 1)[1] for line in log.lines) == [
        "can't be read: No such file or directory",
        "is not an inbox entry, or is damaged.",
        "was changed after it was judged",
    ]
