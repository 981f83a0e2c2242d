"""Data sets of the `datasets` library, from files written here: columns, parts, errors; never the network."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.config import DataConfig
from backbench.data.listing import Listing
from backbench.data.load import load_data, load_listing
from backbench.data.sources import hub
from backbench.errors import ConfigError, DataError, DownloadError, MissingExtra
from backbench.registry import find_source
from backbench.runtime import cache_folder

datasets = pytest.importorskip("datasets")


def draw(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_table(num: int = 20, start: int = 0, label: str = "fine_label"):
    kinds = datasets.Features(
        {
            "img": datasets.Image(),
            label: datasets.ClassLabel(names=["ant", "bee"]),
            "coarse_label": datasets.ClassLabel(names=["insect"]),
            "place": datasets.Value("string"),
        }
    )
    rows = range(start, start + num)
    return datasets.Dataset.from_dict(
        {
            "img": [{"bytes": draw(row), "path": None} for row in rows],
            label: [row % 2 for row in rows],
            "coarse_label": [0] * num,
            "place": [f"place {row % 5}" for row in rows],
        },
        features=kinds,
    )


def load(path: Path | str, **columns: str) -> Listing:
    return load_listing(DataConfig(source=f"hub:{path}", **columns))


def test_a_parquet_file_is_read_with_aliases_of_columns(tmp_path: Path) -> None:
    make_table().to_parquet(str(tmp_path / "t.parquet"))
    data = load_data(DataConfig(source=f"hub:{tmp_path / 't.parquet'}"))
    assert data.manifest.classes == ("ant", "bee")
    assert all(data.manifest.counts.values())
    row = data.manifest.ids.index("train/0000003")
    assert data.manifest.label_names[row] == "bee"
    assert np.array_equal(data.read(row), np.array(Image.open(io.BytesIO(draw(3)))))


def test_a_saved_data_set_keeps_its_parts_and_is_copied_once(tmp_path: Path) -> None:
    parts = {
        "train": make_table(),
        "validation": make_table(4, 20),
        "test": make_table(6, 24),
        "odd": make_table(2),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    listing = load(tmp_path / "saved")
    assert [listing.parts.count(part) for part in ("train", "val", "test")] == [20, 4, 6]
    assert any("'odd'" in warning for warning in listing.facts["warnings"])
    before = {path: path.stat().st_mtime_ns for path in (cache_folder() / "datasets").glob("hub-*/*")}
    assert load(tmp_path / "saved").ids == listing.ids
    assert {path: path.stat().st_mtime_ns for path in (cache_folder() / "datasets").glob("hub-*/*")} == before


def test_columns_can_be_named_and_wrong_ones_are_explained(tmp_path: Path) -> None:
    make_table(label="kind").to_parquet(str(tmp_path / "t.parquet"))
    path = tmp_path / "t.parquet"
    assert set(load(path, label_column="place", group_column="kind").labels) == {f"place {n}" for n in range(5)}
    for columns, message in (
        ({}, "several columns may hold the labels.*--label-column"),
        ({"label_column": "kund"}, "no column 'kund'.*'kind'"),
        ({"image_column": "place"}, "'place' .--image-column. holds no images"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(path, **columns)


def test_a_cell_that_names_a_file_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(draw(1))
    assert hub._read_cell({"bytes": None, "path": str(tmp_path / "secret.png")}, [tmp_path / "other"]) is None
    assert hub._read_cell({"bytes": None, "path": str(tmp_path / "secret.png")}, [tmp_path]) == draw(1)


def test_what_can_not_be_read_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"<html>")
    with pytest.raises(DataError, match="can't be read"):
        load(tmp_path / "bad.parquet")
    with pytest.raises(ConfigError, match="is neither"):
        load("parquet")
    with pytest.raises(ConfigError, match="is neither"):
        load("../nothing/there")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="not in the cache"):
        load("nobody/nothing-there")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"backbench\[hf\]"):
        load("cifar10")


def test_the_name_holds_the_absolute_path_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    spec = find_source("hub:saved")
    assert spec is not None
    assert spec.name == f"hub:{tmp_path / 'saved'}"
    assert not spec.is_embedded


def test_a_part_of_another_usual_name_is_used_or_told(tmp_path: Path) -> None:
    def save(*names: str) -> Path:
        parts = {name: make_table(4, 10 * number) for number, name in enumerate(names)}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "-".join(names)))
        return tmp_path / "-".join(names)

    assert set(load(save("train", "eval")).parts) == {"train", "test"}
    listing = load(save("train", "eval", "test"))
    assert len(listing) == 8
    assert "'eval'" in listing.facts["warnings"][0]
    several = save("train", "eval", "unseen")
    with pytest.raises(DataError, match="several splits with the same meaning: 'eval', 'unseen'"):
        load(several)
    assert set(load_listing(DataConfig(source=f"hub:{several}", ignore=("unseen",))).parts) == {"train", "test"}
    with pytest.raises(ConfigError, match=r"no split of that name\. Splits: 'train', 'eval', 'unseen'"):
        load_listing(DataConfig(source=f"hub:{several}", ignore=("tset",)))


def test_a_test_part_without_labels_stops(tmp_path: Path) -> None:
    hidden = make_table(4, 20).map(lambda row: {"fine_label": -1}, load_from_cache_file=False)
    datasets.DatasetDict({"train": make_table(8), "test": hidden}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(DataError, match=r"none of the 4 rows of 'test' has both.*--ignore test"):
        load(tmp_path / "d")
    listing = load_listing(DataConfig(source=f"hub:{tmp_path / 'd'}", ignore=("test",)))
    assert set(listing.parts) == {"train"}
