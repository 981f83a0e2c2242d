"""Classes with few images: left out or merged as asked, said in survey, warnings and manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbench.config import DataConfig
from backbench.data.load import load_data
from backbench.data.small_classes import settle_small_classes
from backbench.data.survey import survey
from backbench.errors import ConfigError, DataError
from listings import write_image

LABELS = ["a"] * 6 + ["b"] * 5 + ["c"] * 2 + ["d"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, label in enumerate(LABELS):
        write_image(tmp_path / "set" / label / f"{number}.png", seed=number)
    return tmp_path / "set"


def test_nothing_small_changes_nothing() -> None:
    for least in (None, 1):
        settled = settle_small_classes(LABELS, least, "drop")
        assert settled.labels == LABELS
        assert settled.warnings == ()


def test_small_classes_are_left_out() -> None:
    settled = settle_small_classes(LABELS, 5, "drop")
    assert settled.rows == list(range(11))
    assert settled.gone == {"c", "d"}
    assert "2 classes with fewer than 5 images left out, 3 images in all" in settled.warnings[0]
    assert "'c' (2), 'd' (1)" in settled.warnings[0]


def test_small_classes_are_merged() -> None:
    settled = settle_small_classes(LABELS, 5, "merge")
    assert settled.labels == ["a"] * 6 + ["b"] * 5 + ["other"] * 3
    assert "merged into one class, 'other' of 3 images" in settled.warnings[0]
    taken = settle_small_classes([*LABELS, *["other"] * 9], 5, "merge")
    assert set(taken.labels) == {"a", "b", "other", "other small classes"}
    again = settle_small_classes([*LABELS, "other"], 5, "merge")
    assert again.labels.count("other") == 4
    assert again.gone == {"c", "d"}


def test_one_small_class_has_none_to_merge_with() -> None:
    settled = settle_small_classes(["a"] * 6 + ["b"] * 5 + ["c"], 5, "merge")
    assert set(settled.labels) == {"a", "b"}
    assert "no second small class" in settled.warnings[0]


def test_two_classes_must_be_left() -> None:
    with pytest.raises(DataError, match=r"--min-images 6 leaves 1 class of 4.*'b' \(5\), 'c' \(2\), 'd' \(1\)"):
        settle_small_classes(LABELS, 6, "drop")


@pytest.mark.parametrize(("how", "classes"), [("drop", ("a", "b")), ("merge", ("a", "b", "other"))])
def test_survey_and_manifest_agree(folder: Path, how: str, classes: tuple[str, ...]) -> None:
    config = DataConfig(source=str(folder), min_images=5, small_classes=how)  # type: ignore[arg-type]
    found, data = survey(config), load_data(config)
    assert data.manifest.classes == classes
    assert found.num_classes == len(classes)
    assert found.parts == data.manifest.counts
    assert any("fewer than 5 images" in warning for warning in data.manifest.warnings)
    assert not any("no usable image" in warning for warning in data.manifest.warnings)
    with pytest.raises(DataError, match=r"1 class has one image: 'd'.*--min-images 2"):
        load_data(DataConfig(source=str(folder)))


def test_fractions_are_kept_to(folder: Path) -> None:
    config = DataConfig(source=str(folder), min_images=5, test_fraction=0.4, val_fraction=0.25)
    assert load_data(config).manifest.counts == {"train": 5, "val": 2, "test": 4}


def test_a_fraction_of_a_split_that_is_given_is_refused(tmp_path: Path) -> None:
    for number in range(20):
        part = "test" if number < 6 else "train"
        write_image(tmp_path / part / "ab"[number % 2] / f"{number}.png", seed=number)
    with pytest.raises(ConfigError, match=r"--test-fraction 0\.3: .*gives the test split.*--ignore"):
        load_data(DataConfig(source=str(tmp_path), test_fraction=0.3))
    assert load_data(DataConfig(source=str(tmp_path), val_fraction=0.3)).manifest.counts["val"] == 4
    assert (
        load_data(DataConfig(source=str(tmp_path), test_fraction=0.3, ignore=("test",))).manifest.counts["test"]
        == 4
    )
    table = tmp_path / "split.csv"
    table.write_text("id,part\na/1.png,val\n")
    with pytest.raises(ConfigError, match=r"--val-fraction 0\.3: --split .* gives the val split"):
        load_data(DataConfig(source=str(tmp_path), val_fraction=0.3, split=str(table)))
