"""The most common image size of each split: in scan, in records, and in the data table of a study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from backbench.cli import app
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.data.census import take_census
from backbench.data.load import load_listing
from backbench.data.sizes import common_size, common_sizes
from backbench.data.store import PixelStore
from backbench.runs.context import RunContext
from backbench.runs.cross_dataset import evaluate_elsewhere
from backbench.runs.labelled import read_source
from backbench.runs.run import adapt
from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.tables import SIZE_NOTE, make_data_table


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes; training images of 48 x 32 but for one on its side, test images of three sizes."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for part, sizes in {
            "train": [(48, 32)] * 7 + [(32, 48)],
            "test": [(24, 20)] * 2 + [(20, 24)] * 2 + [(20_000, 2)],
        }.items():
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for number, (width, height) in enumerate(sizes):
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    turned = Image.fromarray(rng.integers(0, 256, (48, 32, 3), dtype=np.uint8))  # seen upright it is 48 x 32
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "photos" / "train" / "cat" / "turned.jpg", exif=exif)
    return tmp_path / "photos"


def test_sizes_are_counted_upright_by_split(photos: Path) -> None:
    config = DataConfig(source=str(photos))
    listing = load_listing(config)
    census = take_census(listing, PixelStore(listing, config.max_pixels), max_pixels=config.max_pixels)
    rows = list(range(len(listing)))
    assert common_sizes(census, rows, listing.parts) == {"train": (48, 32, 15), "test": (24, 20, 4)}
    assert common_size(census, []) is None
    wide = [row for row in rows if census.facts[row, 0] > 9]
    assert common_size(census, wide) == (20_000, 2, 2)
    both = [rows[listing.ids.index(name)] for name in ("train/cat/0.png", "test/cat/0.png")]
    assert common_size(census, both) == (48, 32, 1)  # of equally common ones the largest


def test_scan_says_it_for_each_split(photos: Path) -> None:
    done = CliRunner().invoke(app, ["scan", str(photos), "--quiet"])
    line = " ".join(done.stdout.split()).partition("Most common size: ")[2]
    assert line.startswith("48 x 32")
    assert "24 x 20 (4 of 10 test)" in line
    sizes = json.loads(CliRunner().invoke(app, ["scan", str(photos), "--json", "--quiet"]).stdout)["common_sizes"]
    assert sizes["test"] == [24, 20, 4]
    assert list(sizes) == ["train", "val", "test"]


def test_the_data_table_has_it_from_the_record_and_for_other_sources(photos: Path, tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(source=str(photos)), model="pixels", method=MethodConfig(name="knn"))
    adapted = adapt(config, RunContext(tmp_path / "runs"))
    record = adapted.record
    assert record.data.common_sizes["test"] == (24, 20, 4)
    other = tmp_path / "other"
    for label in ("cat", "dog"):
        (other / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (9, 30 + (number == 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(other / label / f"{number}.png")
    source = read_source(DataConfig(source=str(other)))
    found = evaluate_elsewhere(adapted.bundle, source, RunContext())
    assert found.common_size == (30, 9, 4)
    assert evaluate_elsewhere(adapted.bundle, source, RunContext()) == found  # as it was kept
    cell = Cell("g", "photos", "pixels", "knn", 0, record, adapted.run, adapted.bundle, {"other": found})
    table = make_data_table([cell])
    assert table.columns[-3:] == ("most common size in train", "in validation", "in test")
    first, second = table.rows
    assert first[-1] == "24 x 20 (40 %)"
    assert first[-3].startswith("48 x 32 (")
    assert second[-3:] == ("-", "-", "30 x 9 (67 %)")
    assert table.notes == (SIZE_NOTE,)
    old = record.model_copy(update={"data": record.data.model_copy(update={"common_sizes": {}})})
    assert make_data_table([replace(cell, record=old, elsewhere={})]).rows[0][-3:] == ("-", "-", "-")
