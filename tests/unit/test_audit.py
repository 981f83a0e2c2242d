"""`backbench scan`: every kind of trouble is found, named and counted; a clean set is called clean."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backbench.config import DataConfig
from backbench.data.audit import Audit, audit, audit_source
from backbench.data.survey import survey
from listings import census_of, make_listing, write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for number in range(12):
            seed = number + 100 * (part == "test")
            write_image(tmp_path / "set" / part / "ab"[number % 2] / f"{number:02d}.png", seed=seed)
    return tmp_path / "set"


def look(folder: Path) -> Audit:
    found = audit_source(DataConfig(source=str(folder)))
    json.dumps(found.to_json(), allow_nan=False)
    return found


def test_a_clean_set_is_clean(folder: Path) -> None:
    found = look(folder)
    assert not found.has_trouble
    assert found.class_counts == {"a": 12, "b": 12}
    assert found.parts == {"train": 10, "val": 2, "test": 12}
    assert (found.widths, found.heights) == ((7, 7, 7), (5, 5, 5))
    assert found.sentences()[-1] == "No problems found."


def test_every_warning_is_printed(folder: Path, tmp_path: Path) -> None:
    """A class without a test image, ids of --split that are not there: what --json holds, the text says too."""
    write_image(folder / "train" / "untested" / "1.png", seed=701)
    rows = [f"{path.relative_to(folder)},{path.parts[-3]}" for path in sorted(folder.rglob("*.png"))]
    (tmp_path / "split.csv").write_text("\n".join(["id,part", *rows, "gone.png,train"]))
    found = audit_source(DataConfig(source=str(folder), split=str(tmp_path / "split.csv")))
    assert not found.has_trouble
    assert len(found.to_json()["warnings"]) >= 2
    text = "\n".join(found.sentences())
    assert all(warning in text for warning in found.to_json()["warnings"])
    assert "no test image" in text
    assert "gone.png" in text
    assert "No problems found" not in text


def test_a_warning_that_asks_ends_in_its_question_mark(folder: Path) -> None:
    found = replace(audit_source(DataConfig(source=str(folder))), warnings=("is it so?", "it is so"))
    assert {"warning: is it so?", "warning: it is so."} <= set(found.sentences())


def test_broken_files_are_findings_not_errors(folder: Path) -> None:
    (folder / "train" / "a" / "x.png").write_text("no image")
    found = look(folder)
    assert [entry.path for entry in found.broken] == ["train/a/x.png"]
    assert found.has_trouble
    assert any("train/a/x.png" in line for line in found.sentences())
    assert found.num_images == 24


def test_a_leak_between_parts(folder: Path) -> None:
    shutil.copy(folder / "train" / "a" / "00.png", folder / "test" / "a" / "copy.png")
    found = look(folder)
    assert [[copy.id for copy in same] for same in found.leaks] == [["train/a/00.png", "test/a/copy.png"]] or [
        [copy.id for copy in same] for same in found.leaks
    ] == [["test/a/copy.png", "train/a/00.png"]]
    assert found.num_leaked == 1
    assert not found.repeats
    assert found.has_trouble
    assert any("leak" in line for line in found.sentences())


def test_two_labels_for_one_image(folder: Path) -> None:
    shutil.copy(folder / "train" / "a" / "00.png", folder / "train" / "b" / "copy.png")
    found = look(folder)
    assert len(found.conflicts) == 1
    assert {copy.label for copy in found.conflicts[0]} == {"a", "b"}
    assert found.has_trouble


def test_copies_within_a_class_and_part_are_told_but_harmless(folder: Path) -> None:
    for number in range(8):
        shutil.copy(
            folder / "test" / "a" / f"{2 * (number % 6):02d}.png", folder / "test" / "a" / f"copy {number}.png"
        )
    found = look(folder)
    assert len(found.repeats) == 6
    assert not found.has_trouble
    assert any("1 more" in line for line in found.sentences())


def test_an_image_with_two_labels_in_two_parts_is_both(folder: Path) -> None:
    shutil.copy(folder / "train" / "a" / "00.png", folder / "test" / "b" / "copy.png")
    found = look(folder)
    assert len(found.conflicts) == len(found.leaks) == 1


def test_empty_and_small_classes(folder: Path) -> None:
    (folder / "train" / "empty").mkdir()
    write_image(folder / "train" / "small" / "1.png", seed=501)
    write_image(folder / "train" / "small" / "2.png", seed=502)
    found = look(folder)
    assert found.empty_classes == ("empty",)
    assert found.small_classes == ("small",)
    assert found.has_trouble


def test_what_forbids_a_ranking_is_said(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "set" / "only" / f"{number}.png", seed=number)
    found = look(tmp_path / "set")
    assert found.has_trouble
    assert "one class" in str(found.problem)
    assert any(line.startswith("No ranking is possible") for line in found.sentences())


def test_twins_in_a_table(tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        write_image(tmp_path / f"{number}.png", seed=number)
        rows.append(f"{number}.png,{['cat', 'Cat', 'dog'][number % 3]}")
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    found = look(tmp_path / "t.csv")
    assert found.twins == (("Cat", "cat"),)
    assert found.has_trouble


def test_names_with_control_characters_are_shown_escaped() -> None:
    listing = make_listing(["\x1b[31mred", "\u202ebidi", "caf\udce9"] * 4, contents=[0] * 12)
    text = "\n".join(audit(listing, census_of(listing), None, problem=None).sentences())
    assert "\x1b" not in text
    assert "\u202e" not in text
    text.encode()


def test_what_a_source_says_of_itself_is_shown(folder: Path) -> None:
    write_image(folder / "train" / "a" / "winter" / "x.png", seed=500)
    found = look(folder)
    assert not found.has_trouble
    assert [
        line for line in found.sentences() if "'train/a/winter'" in line and "count for the class above" in line
    ]
    assert found.to_json()["warnings"][0] == found.notes[0]


def test_that_near_copies_were_not_looked_for_is_said(folder: Path) -> None:
    found = audit_source(DataConfig(source=str(folder)))
    assert any("Near-duplicates" in line and "not detected" in line for line in found.sentences())
    assert found.to_json()["near_copies"] == "not looked for"


def test_how_a_table_was_read_is_said(tmp_path: Path) -> None:
    rows = [f"{number}.png,{'ab'[number % 2]},{'test' if number > 5 else 'train'}" for number in range(10)]
    for number in range(10):
        write_image(tmp_path / f"{number}.png", seed=number)
    (tmp_path / "t.csv").write_text("\n".join(["file,label,split", *rows]))
    told = "Images from column 'file', labels from column 'label', splits from column 'split'"
    assert f"{told}." in audit_source(DataConfig(source=str(tmp_path / "t.csv"))).sentences()
    assert f"{told}." in survey(DataConfig(source=str(tmp_path / "t.csv"))).sentences()
