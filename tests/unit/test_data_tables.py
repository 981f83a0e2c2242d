"""Tables of images: every way people write them, and every way they go wrong."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from backbench.config import DataConfig
from backbench.data.listing import Listing
from backbench.data.load import load_data, load_listing
from backbench.errors import ConfigError, DataError, MissingExtra
from listings import write_image

ROWS = [("images/0.png", "ant"), ("images/1.png", "bee")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(6):
        write_image(tmp_path / "images" / f"{number}.png", seed=number)
    return tmp_path


def read(folder: Path, text: str | bytes, name: str = "labels.csv", **options: Any) -> Listing:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_listing(DataConfig(source=str(folder / name), **options))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_marks_and_line_ends(images: Path, mark: str, start: str, end: str) -> None:
    lines = [mark.join(row) for row in [("file", " label "), *ROWS]]
    listing = read(images, start + end.join(lines) + end + end)
    assert listing.ids == ("images/0.png", "images/1.png")
    assert listing.labels == ("ant", "bee")
    assert listing.files == (images / "images" / "0.png", images / "images" / "1.png")


@pytest.mark.parametrize("image", ["image", "file", "path", "filename", "File"])
@pytest.mark.parametrize("label", ["label", "class", "species", "Species"])
def test_usual_names_of_columns_are_found(images: Path, image: str, label: str) -> None:
    assert read(images, f"{label},{image}\nant,images/0.png\n").labels == ("ant",)


def test_columns_by_name_groups_and_parts(images: Path) -> None:
    rows = "images/0.png, ant ,north,train\nimages/1.png,bee,,Validation\nimages/2.png,bee,x,\n"
    options = {"image_column": "where", "label_column": "what", "group_column": "camera"}
    listing = read(images, "where,what,camera,split\n" + rows, **options)
    assert listing.labels == ("ant", "bee", "bee")
    assert listing.groups == ("north", None, "x")
    assert listing.parts == ("train", "val", None)


def test_a_group_column_of_that_name_is_used_unasked(images: Path) -> None:
    assert read(images, "file,label,group\nimages/0.png,ant,g\n").groups == ("g",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_column": "fiel"}, ["'fiel'", "--image-column", "Did you mean 'file'", "'label'"]),
        ({"label_column": "lable"}, ["'lable'", "--label-column", "Did you mean 'label'"]),
        ({"group_column": "camera"}, ["'camera'", "--group-column", "'file', 'label'"]),
    ],
)
def test_a_missing_column_names_the_nearest_and_all(images: Path, options: dict, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(images, "file,label\nimages/0.png,ant\n", **options)
    assert all(text in str(caught.value) for text in expected)


def test_no_usual_column_says_what_was_looked_for(images: Path) -> None:
    with pytest.raises(ConfigError, match=r"image, file, path, filename.*'photo', 'label'.*--image-column"):
        read(images, "photo,label\nimages/0.png,ant\n")


BROKEN = {
    "empty file": (b"", "empty"),
    "header only": (b"file,label\n", "no rows"),
    "empty label": (b"file,label\nimages/0.png,ant\nimages/1.png, \n", "no label: row 3"),
    "empty image": (b"file,label\n,ant\n", "no image: row 2"),
    "too many fields": (b"file,label\nimages/0.png,ant,bee\n", "row 2 has 3 fields"),
    "too few fields": (b"file,label\nimages/0.png\n", "row 2 has 1 field"),
    "column twice": (b"file,label,label\nimages/0.png,a,b\n", "more than once"),
    "stray quote": (b'file,label\nimages/0.png,"ant\nimages/1.png,bee\n', "quotation mark"),
    "not UTF-8": ("file,label\nimages/0.png,caf\xe9\n".encode("latin-1"), "UTF-8"),
    "two labels": (b"file,label\nimages/0.png,ant\n./images/0.png,bee\n", r"rows 2 and 3.*'ant' and 'bee'"),
    "two groups": (b"file,label,group\nimages/0.png,ant,x\nimages/0.png,ant,y\n", "two groups or parts"),
    "unknown part": (b"file,label,part\nimages/0.png,ant,holdout\n", r"'holdout' in row 2.*train, val, test"),
    "one image missing": (b"file,label\nimages/0.png,ant\nimages/9.png,ant\n", r"1 of 2 images.*images/9\.png"),
    "all missing": (b"file,label\n0.png,ant\n", r"none of its 1 image.*looked for at.*0\.png"),
    "name too long": (b"file,label\n" + b"x" * 5000 + b",ant\n", "none of its"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_is_one_clear_error(case: str, images: Path) -> None:
    text, message = BROKEN[case]
    with pytest.raises(DataError, match=message) as caught:
        read(images, text)
    assert "labels.csv" in str(caught.value)


def test_many_missing_images_are_counted(images: Path) -> None:
    rows = "".join(f"gone {number}.png,ant\n" for number in range(9))
    with pytest.raises(DataError, match=r"9 of 10 images can't be found: 'gone 0.png', .* and 4 more"):
        read(images, "file,label\nimages/0.png,ant\n" + rows)


def test_missing_images_are_skipped_where_that_is_asked(images: Path) -> None:
    rows = "".join(f"images/{number}.png,{'ab'[number % 2]}\n" for number in range(6))
    (images / "t.csv").write_text("file,label\n" + rows + "gone.png,a\n")
    data = load_data(DataConfig(source=str(images / "t.csv"), on_bad="skip"))
    assert len(data.manifest) == 6
    assert [bad.path for bad in data.manifest.skipped] == ["gone.png"]
    assert data.read(0).shape == (5, 7, 3)


def test_the_same_row_twice_counts_once(images: Path) -> None:
    listing = read(images, "file,label\nimages/0.png,ant\nimages/0.png,ant\nimages/1.png,bee\n")
    assert len(listing) == 2
    assert listing.ignored[0].reason == "listed twice (rows 2 and 3)"


def test_the_order_of_rows_and_columns_does_not_count(images: Path) -> None:
    rows = [(f"images/{number}.png", "ab"[number % 2]) for number in range(6)]
    first = read(images, "file,label\n" + "".join(f"{file},{label}\n" for file, label in rows))
    other = read(images, "label,file\n" + "".join(f"{label},{file}\n" for file, label in rows[::-1]))
    assert first == other


def test_paths_may_be_absolute_or_written_on_windows(images: Path) -> None:
    listing = read(images, f"file,label\n{images / 'images' / '0.png'},ant\nimages\\1.png,bee\n")
    assert all(file.is_file() for file in listing.files or ())


@pytest.mark.parametrize("values", [["ant", "bee"], [3, 12], [True, False]])
def test_a_parquet_table_is_read_like_a_csv(images: Path, values: list) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"file": [row[0] for row in ROWS], "label": values, "thumb": [b"\xff", b"\xfe"]})
    parquet.write_table(table, images / "labels.parquet")
    listing = load_listing(DataConfig(source=str(images / "labels.parquet")))
    assert listing.ids == ("images/0.png", "images/1.png")
    assert listing.labels == tuple(str(value) for value in values)


def test_missing_values_in_parquet_are_empty_labels(images: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"file": ["images/0.png"] * 2, "label": [float("nan"), None]})
    parquet.write_table(table, images / "t.parquet")
    with pytest.raises(DataError, match="no label: row 2, 3"):
        load_listing(DataConfig(source=str(images / "t.parquet")))


def test_a_damaged_parquet_file_is_a_data_error(images: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="no Parquet file"):
        read(images, b"PAR1 nothing", name="t.parquet")


def test_parquet_without_pyarrow_says_what_to_install(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return whole(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"backbench\[parquet\]"):
        read(images, b"PAR1", name="t.parquet")
