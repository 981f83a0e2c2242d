"""The first look: from names and headers alone, within its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbench.config import DataConfig
from backbench.data import decode
from backbench.data import survey as survey_module
from backbench.data.load import load_data
from backbench.data.survey import survey
from backbench.errors import BadImage, ConfigError
from conftest import make_photos
from listings import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(20):
        write_image(tmp_path / "set" / "ab"[number % 2] / f"{number:02d}.png", seed=number, size=(10 + number, 8))
    return tmp_path / "set"


def test_a_folder_is_described_without_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a survey decodes nothing")

    (folder / "a" / "broken.png").write_text("no image")
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "x.png").write_bytes(b"x")
    monkeypatch.setattr(decode, "decode_image", refuse)
    monkeypatch.setattr(decode, "read_file", refuse)
    found = survey(DataConfig(source=str(folder)))
    assert (found.num_images, found.num_classes, str(found.class_counts)) == (21, 2, "10-11")
    assert (str(found.widths), str(found.heights), found.num_headers_read) == ("10-29", "8", 21)
    assert found.num_unreadable == 1
    assert found.unreadable[0].path == "a/broken.png"
    assert ".thumbs" in found.ignored[0].path
    assert found.download_bytes == 0
    text = "\n".join(found.sentences())
    assert "21 images, 2 classes, 10-11 each, 1 unreadable, 1 ignored ('.thumbs" in text
    assert "broken.png" in text


def test_the_expected_parts_are_those_of_the_split(folder: Path) -> None:
    config = DataConfig(source=str(folder), test_fraction=0.3, split_seed=4)
    found = survey(config)
    assert found.parts == load_data(config, listing=found.listing).manifest.counts
    assert found.num_test == found.parts["test"]


def test_headers_are_read_until_time_is_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(survey_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(survey_module, "num_workers", lambda: 1)
    monkeypatch.setattr(survey_module, "BLOCK", 2)
    found = survey(DataConfig(source=str(folder)), seconds=6)
    assert 1 <= found.num_headers_read <= 8
    assert found.num_images == 20
    assert "images checked" in "\n".join(found.sentences())


def test_digits_are_described_without_a_download() -> None:
    found = survey(DataConfig(source="digits"))
    assert (found.num_images, found.num_classes, found.download_bytes) == (1797, 10, 0)
    assert sum(found.parts.values()) == 1797
    assert found.sentences()[0] == "digits: 1,797 images, 10 classes, 174-183 each."


def test_a_data_set_to_be_fetched_is_described_from_what_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a survey fetches nothing")

    monkeypatch.setattr("backbench.data.sources.cifar.fetch_file", refuse)
    found = survey(DataConfig(source="cifar100"))
    assert found.parts == {"train": 40_000, "val": 10_000, "test": 10_000}
    assert (found.num_images, found.num_classes, found.download_bytes) == (60_000, 100, 169_001_437)
    assert found.listing is None


def test_a_wrong_name_gives_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for given, expected in (("digit", "'digits'"), ("photso", "'photos'"), ("cifar", "'cifar10'")):
        with pytest.raises(ConfigError, match=expected):
            survey(DataConfig(source=given))
    with pytest.raises(ConfigError, match="photos"):
        survey(DataConfig(source=f"{tmp_path}/photoss"))
    for given in ("", "nowhere/at/all", "nul\0byte", "x" * 5000):
        with pytest.raises(ConfigError):
            survey(DataConfig(source=given))


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.rar").write_bytes(b"Rar!")
    with pytest.raises(ConfigError, match="neither a folder"):
        survey(DataConfig(source=str(tmp_path / "set.rar")))


def test_a_folder_has_no_columns(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--label-column species"):
        survey(DataConfig(source=str(folder), label_column="species"))


def test_a_path_with_the_name_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        write_image(tmp_path / "digits" / "ab"[number % 2] / f"{number}.png", seed=number)
    assert survey(DataConfig(source="digits")).num_images == 1797
    assert survey(DataConfig(source="./digits")).num_images == 4


def test_an_image_too_large_counts_as_unreadable(folder: Path) -> None:
    found = survey(DataConfig(source=str(folder), max_pixels=100))
    assert found.num_unreadable == 17
    assert BadImage("x", found.unreadable[0].reason)


def test_a_given_split_is_what_is_announced(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", num=4)
    ids = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    table = tmp_path / "split.csv"
    lines = [f"{name},{'test' if row % 2 else 'train'}" for row, name in enumerate(ids)]
    table.write_text("\n".join(["id,part", *lines]))
    assert survey(DataConfig(source=str(folder), split=str(table))).parts == {"train": 6, "val": 0, "test": 6}
    with pytest.raises(ConfigError, match=r"nowhere\.csv"):
        survey(DataConfig(source=str(folder), split=str(tmp_path / "nowhere.csv")))
