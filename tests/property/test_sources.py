"""Whatever a file system or a table may hold comes through by name, unchanged."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.config import DataConfig
from backbench.data.label_text import is_missing, merge_spellings
from backbench.data.load import load_data, load_listing
from backbench.data.manifest import make_manifest, read_manifest, write_manifest
from backbench.errors import BackbenchError
from counts import cases
from listings import CONFIG, census_of, make_listing, write_image

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=20)
names = text.map(str.strip).filter(bool)
any_name = st.text(st.characters(), min_size=1, max_size=20)


@given(
    st.lists(st.tuples(names.filter(lambda name: not is_missing(name)), names), min_size=1, max_size=12),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
)
@cases(100)
def test_labels_of_a_table_come_through(rows: list, mark: str, has_mark: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=mark)
        writer.writerow(["file", "label", "group"])
        for number, (label, group) in enumerate(rows):
            (folder / f"{number:03d}.png").touch()
            writer.writerow([f"{number:03d}.png", label, group])
        (folder / "t.csv").write_bytes(stream.getvalue().encode("utf-8-sig" if has_mark else "utf-8"))
        listing = load_listing(DataConfig(source=str(folder / "t.csv")))
        assert list(listing.labels) == merge_spellings([row[0] for row in rows])[0]
        assert listing.groups == tuple(None if is_missing(row[1]) else row[1] for row in rows)
        assert listing.ids == tuple(f"{number:03d}.png" for number in range(len(rows)))


@given(st.binary(max_size=300))
@cases(100)
def test_any_bytes_as_a_table_are_a_listing_or_one_clear_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".csv", ".parquet"):
            path = Path(name) / f"t{suffix}"
            path.write_bytes(data)
            with pytest.raises(BackbenchError):
                load_listing(DataConfig(source=str(path)))


@given(st.dictionaries(any_name, st.integers(2, 6), min_size=2, max_size=6), st.integers(0, 3))
@cases(80)
def test_a_manifest_survives_any_name(sizes: dict, seed: int) -> None:
    listing = make_listing([name for name, num in sizes.items() for _ in range(num)])
    try:
        manifest = make_manifest(listing, census_of(listing), CONFIG.model_copy(update={"split_seed": seed}))
    except BackbenchError as error:
        str(error).encode()  # twins among the names; the message can be printed
        return
    with tempfile.TemporaryDirectory() as name:
        write_manifest(manifest, Path(name) / "m.json")
        again = read_manifest(Path(name) / "m.json")
    assert again.digest == manifest.digest
    assert again.label_names == listing.labels
    assert again.classes == manifest.classes
    assert np.array_equal(again.rows, manifest.rows)


def test_a_folder_and_a_table_of_it_are_the_same_data(tmp_path: Path) -> None:
    rows = []
    for number in range(20):
        name = f"{['ant', 'bee'][number % 2]}/{number:02d}.png"
        write_image(tmp_path / name, seed=number)
        rows.append(f"{name},{name[:3]}")
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    table = load_data(DataConfig(source=str(tmp_path / "t.csv")))
    (tmp_path / "t.csv").unlink()
    folder = load_data(DataConfig(source=str(tmp_path)))
    assert table.manifest.digest == folder.manifest.digest
    assert table.manifest.image_digest == folder.manifest.image_digest


@pytest.mark.parametrize(
    ("name", "counts", "num_classes"),
    [
        ("cifar10-mini", {"train": 800, "val": 200, "test": 500}, 10),
        ("cifar100-mini", {"train": 1600, "val": 400, "test": 500}, 100),
        ("caltech-mini", {"train": 228, "val": 60, "test": 72}, 12),
    ],
)
def test_real_folders(name: str, counts: dict, num_classes: int, shared: Path) -> None:
    data = load_data(DataConfig(source=str(shared / "data" / name)))
    assert data.manifest.counts == counts
    assert len(data.manifest.classes) == num_classes
    assert data.warnings == ()
    assert data.read(0).dtype == np.uint8


def test_digits_are_split_the_same_each_time() -> None:
    first, second = (load_data(DataConfig(source="digits")) for _ in range(2))
    assert first.manifest.digest == second.manifest.digest
    assert first.manifest.counts == {"train": 1151, "val": 287, "test": 359}
    assert first.read(5).max() == 255
    assert first.manifest.classes == tuple("0123456789")
