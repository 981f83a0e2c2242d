"""Tables of images: every way people write them, and every way they go wrong."""

from __future__ import annotations

import builtins
import json
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
        read(images, "photo,label\nimages/0,ant\n")


BROKEN = {
    "empty file": (b"", "empty"),
    "header only": (b"file,label\n", "no rows"),
    "no label": (b"file,label\nimages/0.png,nan\nimages/1.png, \n", "none of 2 rows has a label"),
    "no test label": (b"file,label,split\nimages/0.png,a,train\nimages/1.png,,test\n", "row of the split 'test'"),
    "empty image": (b"file,label\n,ant\n", "no image: row 2"),
    "too many fields": (b"file,label\nimages/0.png,ant,bee\n", "row 2 has 3 fields"),
    "too few fields": (b"file,label\nimages/0.png\n", "row 2 has 1 field"),
    "column twice": (b"file,label,label\nimages/0.png,a,b\n", "more than once"),
    "stray quote": (b'file,label\nimages/0.png,"ant\nimages/1.png,bee\n', "quotation mark"),
    "no known encoding": (b"file,label\nimages/0.png,caf" + b"\x81\xe9\n", "UTF-8"),
    "two labels": (b"file,label\nimages/0.png,ant\n./images/0.png,bee\n", r"rows 2 and 3.*'ant' and 'bee'"),
    "two groups": (b"file,label,group\nimages/0.png,ant,x\nimages/0.png,ant,y\n", "two groups or splits"),
    "unknown part": (b"file,label,part\nimages/0.png,ant,rejects\n", r"'rejects' in row 2.*train, val, test"),
    "one image missing": (b"file,label\nimages/0.png,ant\nimages/9.png,ant\n", r"1 of 2 images.*images/9\.png"),
    "all missing": (b"file,label\n99.png,ant\n", r"none of its 1 image.*expected at.*99\.png.*--image-root"),
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
    with pytest.raises(DataError, match="none of 2 rows has a label"):
        load_listing(DataConfig(source=str(images / "t.parquet")))


def test_a_damaged_parquet_file_is_a_data_error(images: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="not a readable Parquet file"):
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


def notes(listing: Listing) -> str:
    return " ".join(listing.facts["notes"])


def warnings(listing: Listing) -> str:
    return "\n".join(listing.facts.get("warnings", ()))


ACCENTS = [("images/0.png", "café"), ("images/1.png", "Wasser")]


@pytest.mark.parametrize(
    ("encoding", "start"),
    [
        ("utf-8", ""),
        ("utf-8", "\ufeff"),
        ("utf-16", ""),
        ("utf-16-le", ""),
        ("utf-16-be", ""),
        ("utf-16-be", "\ufeff"),
        ("utf-32", ""),
        ("cp1252", ""),
        ("latin-1", ""),
    ],
)
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_way_to_save_a_table_gives_the_same_labels(
    images: Path, encoding: str, start: str, mark: str, end: str
) -> None:
    lines = [mark.join(row) for row in [("file", "label"), *ACCENTS]]
    for name in ("labels.csv", "labels.tsv", "labels.txt"):
        listing = read(images, (start + end.join(lines) + end).encode(encoding), name=name)
        assert listing.labels == ("café", "Wasser")
    assert ("Windows-1252" in warnings(listing)) == (encoding in ("cp1252", "latin-1"))


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_line_of_excel_is_no_header(images: Path, first: str, end: str) -> None:
    text = end.join([first, "file;label", "images/0.png;ant, red", "images/1.png;"])
    listing = read(images, text)
    assert listing.labels == ("ant, red",)
    assert "row 4)" in warnings(listing)


def test_decimal_commas_do_not_make_the_separator(images: Path) -> None:
    rows = "".join(f"images/{number}.png;0,{number};{'ab'[number % 2]}\n" for number in range(6))
    assert set(read(images, "file;score;label\n" + rows).labels) == {"a", "b"}
    assert len(read(images, rows.replace(";0,", ";0,5;0,"), label_column="column 4")) == 6


def test_values_over_several_lines(images: Path) -> None:
    text = 'file,remark,label\nimages/0.png,"one\ntwo",ant\nimages/1.png,"x",bee\n'
    assert read(images, text).labels == ("ant", "bee")
    assert read(images, text.replace("\n", "\r")).labels == ("ant", "bee")


@pytest.mark.parametrize(
    "header",
    [
        *("file_name,label", "File Name,Label", "image_path,class_name", "img,category", "filepath,target"),
        *("image-id,species", "somewhere,label"),
    ],
)
def test_names_of_columns_that_people_write(images: Path, header: str) -> None:
    listing = read(images, f"{header}\nimages/0.png,ant\nimages/1.png,bee\n")
    assert listing.labels == ("ant", "bee")
    image, label = header.split(",")
    assert notes(listing) == f"Images from column '{image}', labels from column '{label}'"


@pytest.mark.parametrize("mark", [",", "\t", " "])
def test_a_list_without_a_header(images: Path, mark: str) -> None:
    write_image(images / "my images" / "a b.png")
    listing = read(images, f"images/0.png{mark}3\nmy images/a b.png{mark}12\n", name="train.txt")
    assert dict(zip(listing.ids, listing.labels, strict=True)) == {"images/0.png": "3", "my images/a b.png": "12"}


def test_a_broken_line_of_a_list_is_named(images: Path) -> None:
    with pytest.raises(DataError, match=r"line 3: 'images/1\.png' is not an image and label"):
        read(images, "images/0.png 3\n\nimages/1.png\n", name="list.txt")


def test_lines_of_json(images: Path) -> None:
    text = '{"file_name": "images/0.png", "label": 1}\n\n{"file_name": "images/1.png", "label": ["a", "b"]}\n'
    listing = read(images, text, name="metadata.jsonl")
    assert listing.labels == ("1", '["a", "b"]')
    assert "several labels for one image" in warnings(listing)
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read(images, '{"file_name": "images/0.png", "label": 1}\n{broken\n', name="metadata.jsonl")
    with pytest.raises(DataError, match="an object such as"):
        read(images, "[1]\n", name="metadata.jsonl")


@pytest.mark.parametrize(("start", "kind"), [(b"PK\x03\x04", "spreadsheet"), (b"\xd0\xcf\x11\xe0", "old Excel")])
def test_a_spreadsheet_with_the_wrong_name(images: Path, start: bytes, kind: str) -> None:
    with pytest.raises(DataError, match=f"{kind}.*Save it as CSV"):
        read(images, start + bytes(100))


@pytest.mark.parametrize(
    "address", ["https://x.org/a.jpg", "HTTP://x/a.png", "s3://b/k.png", "data:image/png;base64,A"]
)
def test_addresses_are_named_as_what_they_are(images: Path, address: str) -> None:
    with pytest.raises(DataError, match=r"1 image is a URL: '.*' in row 3.*download") as caught:
        read(images, f'file,label\nimages/0.png,a\n"{address}",b\n')
    assert address[:20] in str(caught.value)


MISSING = ["nan", "NaN", "null", "NULL", "None", "NA", "na", "N/A", "#N/A", "<NA>", "?", ""]


@pytest.mark.parametrize("empty", MISSING)
def test_rows_without_a_label_are_left_out_and_counted(images: Path, empty: str) -> None:
    listing = read(images, f"file,label\nimages/0.png,a\nimages/1.png,b\nimages/2.png,{empty}\n")
    assert listing.labels == ("a", "b")
    assert f"1 row without a label left out ({empty!r}; row 4)" in warnings(listing)
    assert [(entry.path, entry.reason) for entry in listing.ignored] == [("images/2.png", f"no label ({empty!r})")]


def test_none_may_be_a_class_and_that_is_said(images: Path) -> None:
    listing = read(images, "file,label\nimages/0.png,scratch\nimages/1.png,none\n")
    assert listing.labels == ("scratch", "none")
    assert "'none' is a class here" in warnings(listing)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (["0", "0.0", "1"], ["0", "0", "1"]),
        (["0.0", "1.0", "1"], ["0.0", "1", "1"]),
        (["caf\u00e9", "cafe\u0301", "the"], ["cafe\u0301", "cafe\u0301", "the"]),
        (["a b", "a\u00a0b", "a  b"], ["a  b", "a  b", "a  b"]),
        (["a\u200b", "a", "b"], ["a", "a", "b"]),
        (["01", "1", "2.5"], ["01", "1", "2.5"]),
    ],
)
def test_spellings_of_one_class_are_one_class(images: Path, written: list[str], kept: list[str]) -> None:
    rows = "".join(f'images/{number}.png,"{label}"\n' for number, label in enumerate(written))
    listing = read(images, "file,label\n" + rows)
    assert list(listing.labels) == kept
    assert ("merged into one class" in warnings(listing)) == (written != kept)


@pytest.mark.parametrize(
    "labels", [["a", "b", "a|b"], ["a;b", "a;c", "d"], ["a, b", "b", "c"], ["['a', 'b']", "a", "b"]]
)
def test_joined_labels_are_named(images: Path, labels: list[str]) -> None:
    rows = "".join(f'images/{number}.png,"{label}"\n' for number, label in enumerate(labels))
    assert "several labels for one image" in warnings(read(images, "file,label\n" + rows))


def test_what_was_done_with_labels_is_in_the_manifest(images: Path) -> None:
    rows = "".join(f"images/{number}.png,{'ab'[number % 2]}\n" for number in range(5))
    (images / "t.csv").write_text(f"file,label\n{rows}images/5.png,nan\n")
    data = load_data(DataConfig(source=str(images / "t.csv")))
    assert "1 row without a label left out" in data.manifest.warnings[0]
    assert data.warnings == data.manifest.warnings


def test_a_mark_inside_names_is_not_yet_several_labels(images: Path) -> None:
    assert not warnings(read(images, "file,label\nimages/0.png,and/or\nimages/1.png,R&D\n"))


def test_scores_are_no_classes(images: Path) -> None:
    for number in range(60):
        write_image(images / "many" / f"{number}.png")
    scores = [f"many/{number}.png,0.{number:02d}" for number in range(60)]
    with pytest.raises(DataError, match=r"60 different numbers for 60 images.*score"):
        read(images, "\n".join(["file,label", *scores]))
    half = [f"many/{number}.png,0.{number // 2:02d}" for number in range(60)]
    assert "looks like a score" in warnings(read(images, "\n".join(["file,label", *half])))
    whole = [f"many/{number}.png,{number // 2}" for number in range(60)]
    assert not warnings(read(images, "\n".join(["file,label", *whole])))


def split_table(column: str, *values: str) -> str:
    rows = "".join(f"images/{number}.png,{'ab'[number % 2]},{value}\n" for number, value in enumerate(values))
    return f"file,label,{column}\n{rows}"


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("split", ("train", "train", "val", "val", "test", "test")),
        ("part", ("Training", "Training", "dev", "dev", "Testing", "Testing")),
        ("fold_x", ("train", "train", "valid", "valid", "holdout", "holdout")),
        ("Verwendung", ("Training", "Training", "Validierung", "Validierung", "Prüfung", "Prüfung")),
    ],
)
def test_a_column_of_splits_is_used_and_that_is_said(images: Path, column: str, values: tuple[str, ...]) -> None:
    listing = read(images, split_table(column, *values))
    assert listing.parts == ("train", "train", "val", "val", "test", "test")
    assert f"splits from column '{column}'" in notes(listing)
    without = read(images, split_table(column, *values), split_column="none")
    assert set(without.parts) == {None}
    assert "splits" not in notes(without)


@pytest.mark.parametrize(("column", "part"), [("is_test", "test"), ("is_training_image", "train")])
def test_a_flag_of_a_split(images: Path, column: str, part: str) -> None:
    other = "train" if part == "test" else "test"
    assert read(images, split_table(column, *"110011")).parts == (part, part, other, other, part, part)


def test_numbers_of_folds_are_not_used_and_that_is_said(images: Path) -> None:
    listing = read(images, split_table("fold", *"012012"))
    assert set(listing.parts) == {None}
    assert "column 'fold' may hold splits but was not used. It holds '0', '1', '2'" in warnings(listing)


def test_several_columns_of_splits_need_a_choice(images: Path) -> None:
    text = "file,label,split_1,split_2\nimages/0.png,a,train,test\nimages/1.png,b,test,train\n"
    with pytest.raises(DataError, match=r"several columns look like splits: 'split_1', 'split_2'.*--split-column"):
        read(images, text)
    assert read(images, text, split_column="split_2").parts == ("test", "train")
    with pytest.raises(ConfigError, match=r"no column 'split_3' \(--split-column\)"):
        read(images, text, split_column="split_3")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("Usage", ("Training", "Training", "PublicTest", "PublicTest", "PrivateTest", "PrivateTest")),
        ("dataset", ("dev", "dev", "dev", "dev", "test", "test")),
        ("type", ("train", "train", "train", "extra", "test", "test")),
        ("test", ("0", "0", "0", "0", "1", "1")),
        ("validation", ("no", "no", "no", "no", "yes", "yes")),
    ],
)
def test_no_split_is_made_beside_a_column_that_looks_like_one(
    images: Path, column: str, values: tuple[str, ...]
) -> None:
    with pytest.raises(DataError, match=rf"column '{column}' looks like a split: it holds '{values[0]}'") as error:
        read(images, split_table(column, *values))
    assert "--split-column none" in str(error.value)
    assert set(read(images, split_table(column, *values), split_column="none").parts) == {None}


@pytest.mark.parametrize("values", [("rain", "rain", "snow"), ("test", "test", "control"), ("1", "0", "1")])
def test_other_columns_of_few_words_are_no_splits(images: Path, values: tuple[str, ...]) -> None:
    listing = read(images, split_table("weather", *values, *values))
    assert set(listing.parts) == {None}
    assert "splits" not in notes(listing)


def test_a_flag_that_was_asked_for(images: Path) -> None:
    listing = read(images, split_table("test", *"001100"), split_column="test")
    assert listing.parts == ("train", "train", "test", "test", "train", "train")


@pytest.mark.parametrize("empty", ["", "nan", "NA", "None"])
def test_an_empty_cell_of_splits_is_not_said(images: Path, empty: str) -> None:
    listing = read(images, split_table("phase", "train", "train", "TEST", "test", empty, empty))
    assert listing.parts == ("train", "train", "test", "test", None, None)


@pytest.mark.parametrize(
    ("values", "is_made"), [("train val", True), ("train train", True), ("train test", False)]
)
def test_a_test_split_that_the_table_lacks_is_said_to_be_made(images: Path, values: str, is_made: bool) -> None:
    listing = read(images, split_table("split", *values.split() * 3))
    assert "splits from column 'split'" in notes(listing)
    assert ("no test split is given" in notes(listing)) is is_made


@pytest.mark.parametrize("empty", ["", "nan", "NA", "n/a", "None"])
def test_images_without_a_group_do_not_form_one(images: Path, empty: str) -> None:
    listing = read(images, split_table("camera", "x", "x", empty, empty, empty, "y"), group_column="camera")
    assert listing.groups == ("x", "x", None, None, None, "y")


def test_a_column_that_was_asked_for_must_hold_splits(images: Path) -> None:
    with pytest.raises(DataError, match=r"column 'fold' holds '0' in row 2.*--split-column none"):
        read(images, split_table("fold", *"012012"), split_column="fold")


@pytest.mark.parametrize(("one", "zero"), [("1", "0"), ("1.0", "0.0"), ("True", "False")])
@pytest.mark.parametrize("mark", [",", ", ", ";"])
def test_a_column_for_each_class_gives_labels(images: Path, one: str, zero: str, mark: str) -> None:
    rows = [("filename", "ant", "bee", "cow")]
    rows += [
        (f"images/{number}.png", *(one if number % 3 == place else zero for place in range(3)))
        for number in range(6)
    ]
    listing = read(images, "\n".join(mark.join(row) for row in rows))
    assert listing.labels == ("ant", "bee", "cow") * 2
    assert "labels from column 'class whose column holds 1'" in notes(listing)


def test_columns_for_classes_beside_others(images: Path) -> None:
    rows = "".join(
        f"images/{i}.png,{i * 7},{int(i < 3)},{int(i > 2)},{'test' if i % 2 else 'train'}\n" for i in range(6)
    )
    listing = read(images, f"file,age,ant,bee,split\n{rows}")
    assert listing.labels == ("ant",) * 3 + ("bee",) * 3
    assert listing.parts == ("train", "test") * 3
    assert read(images, f"file,age,ant,bee,split\n{rows}", split_column="none").labels == listing.labels


@pytest.mark.parametrize(("cells", "told"), [("1,1", r"row 2 \('ant' and 'bee'\)"), ("0,0", r"row 2 \(none\)")])
def test_rows_of_several_classes_or_none_stop(images: Path, cells: str, told: str) -> None:
    with pytest.raises(
        DataError, match=rf"'ant', 'bee' look like one column for each class.*{told}.*--label-column"
    ):
        read(images, f"file,ant,bee\nimages/0.png,{cells}\nimages/1.png,0,1\n")


def test_spaces_after_separators_and_separators_at_the_end(images: Path) -> None:
    quoted = read(images, '"file", "label"\n"images/0.png", "a"\n"images/1.png", "b, c"\n')
    assert quoted.labels == ("a", "b, c")
    assert read(images, "file,label\nimages/0.png,a,\nimages/1.png,b,\n").labels == ("a", "b")
    with pytest.raises(DataError, match="row 2 has 3 fields"):
        read(images, "file,label\nimages/0.png,a,c\nimages/1.png,b,\n")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("images/{}.PNG", "'0.png' exists: the case of the names differs"),
        ("images/{}.jpg", "suffixes differ"),
    ],
)
def test_names_that_differ_a_little_from_the_files_are_the_cause(images: Path, name: str, told: str) -> None:
    with pytest.raises(DataError, match=f"none of its 2 images was found.*{told}"):
        read(images, f"file,label\n{name.format(0)},a\n{name.format(1)},b\n")


@pytest.mark.parametrize("form", ["[{}]", '["{}"]', "['{}']", "[ '{}', ]"])
def test_lists_of_one_label_are_that_label(images: Path, form: str) -> None:
    rows = "".join(
        json.dumps({"file": f"images/{i}.png", "label": form.format("ab"[i % 2])}) + "\n" for i in range(5)
    )
    listing = read(images, rows + '{"file": "images/5.png", "label": "[]"}\n', "labels.jsonl")
    assert listing.labels == ("a", "b", "a", "b", "a")
    assert "several labels" not in warnings(listing)


def test_lists_of_several_labels_stay_and_are_named(images: Path) -> None:
    rows = [{"file": f"images/{i}.png", "label": (["a"], ["a", "b"])[i % 2]} for i in range(6)]
    listing = read(images, "".join(f"{json.dumps(row)}\n" for row in rows), "labels.jsonl")
    assert set(listing.labels) == {'["a"]', '["a", "b"]'}
    assert "like several labels for one image" in warnings(listing)


def test_labels_of_several_words_are_joined_only_where_each_is_a_class(images: Path) -> None:
    joined = read(
        images,
        "file,label\n" + "".join(f"images/{i}.png,{('rust', 'scab', 'rust scab')[i % 3]}\n" for i in range(6)),
    )
    assert "1 label of 2 images looks like several labels for one image ('rust scab')" in warnings(joined)
    plain = read(
        images, "file,label\n" + "".join(f"images/{i}.png,{('rust', 'red rust')[i % 2]}\n" for i in range(6))
    )
    assert not warnings(plain)


def test_a_table_of_test_images_beside_that_of_training_is_named(images: Path) -> None:
    (images / "test.csv").write_text("file\nimages/1.png\n")
    assert "'test.csv' beside 'train.csv'" in warnings(
        read(images, "file,label\nimages/0.png,a\n", name="train.csv")
    )


@pytest.mark.parametrize(
    "path",
    ["{}.png", "{}", "/home/me/set/images/{}.png", "C:\\Users\\me\\images\\{}.png", "set/images/{}.png"],
)
def test_images_that_lie_elsewhere_are_found_and_that_is_said(images: Path, path: str) -> None:
    rows = "".join(f"{path.format(number)},{'ab'[number % 2]}\n" for number in range(6))
    listing = read(images, "file,label\n" + rows)
    assert [file.name for file in listing.files or ()] == [f"{number}.png" for number in range(6)]
    assert "using '" in warnings(listing)


def test_images_in_two_places_need_a_choice(images: Path) -> None:
    write_image(images / "older" / "0.png")
    with pytest.raises(DataError, match=r"several places.*--image-root"):
        read(images, "file,label\n0.png,a\n")
    listing = read(images, "file,label\n0.png,a\n", image_root=str(images / "older"))
    assert listing.files == (images / "older" / "0.png",)
    with pytest.raises(DataError, match="no such folder"):
        read(images, "file,label\n0.png,a\n", image_root="nowhere")


class TestFoldersWithMetadata:
    """Folders as hubs of data sets have them."""

    def fill(self, root: Path, folder: str, name: str, *, labelled: bool = True) -> None:
        rows = []
        for number in range(6):
            write_image(root / folder / f"{number}.png", seed=number)
            label = {"label": "ab"[number % 2]} if labelled else {"caption": "x"}
            rows.append({"file_name": f"{number}.png"} | label)
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        text = "\n".join(lines if name.endswith(".csv") else map(json.dumps, rows))
        (root / folder / name).write_text(text)

    def load(self, root: Path, **options: Any) -> Listing:
        return load_listing(DataConfig(source=str(root), **options))

    @pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
    @pytest.mark.parametrize("folder", ["", "data", "images"])
    def test_labels_beside_the_images(self, tmp_path: Path, name: str, folder: str) -> None:
        self.fill(tmp_path / "set", folder, name)
        listing = self.load(tmp_path / "set")
        assert listing.labels == tuple("ababab")
        assert set(listing.parts) == {None}
        assert f"labels from column 'label'; read from '{Path(folder, name)}'" in notes(listing)
        assert not warnings(listing)

    def test_parquet(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        for number in range(2):
            write_image(tmp_path / "set" / f"{number}.png", seed=number)
        table = arrow.table({"file_name": ["0.png", "1.png"], "label": [3, 12], "boxes": [[1], [2]]})
        parquet.write_table(table, tmp_path / "set" / "metadata.parquet")
        assert self.load(tmp_path / "set").labels == ("3", "12")

    @pytest.mark.parametrize("around", ["", "data"])
    def test_folders_say_the_split(self, tmp_path: Path, around: str) -> None:
        for part in ("train", "validation", "test"):
            self.fill(tmp_path / "set", str(Path(around, part)), "metadata.csv")
        listing = self.load(tmp_path / "set")
        assert [listing.parts.count(part) for part in ("train", "val", "test")] == [6, 6, 6]
        assert "splits from the folders" in notes(listing)
        assert str(Path(around, "train", "0.png")) in listing.ids

    def test_one_file_for_all_splits(self, tmp_path: Path) -> None:
        rows = []
        for number in range(8):
            part = ("train", "test")[number % 2]
            write_image(tmp_path / "set" / part / f"{number}.png", seed=number)
            rows.append(f"{part}/{number}.png,{'ab'[number // 4]}")
        (tmp_path / "set" / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
        assert self.load(tmp_path / "set").parts.count("test") == 4

    @pytest.mark.parametrize(("column", "is_refused"), [("train,test", False), (",", False), ("test,train", True)])
    def test_folders_and_a_column_that_say_two_splits_stop(
        self, tmp_path: Path, column: str, is_refused: bool
    ) -> None:
        rows = []
        for number in range(8):
            part, said = ("train", "test")[number % 2], column.split(",")[number % 2]
            write_image(tmp_path / "set" / part / f"{number}.png", seed=number)
            rows.append(f"{part}/{number}.png,{'ab'[number // 4]},{said}")
        (tmp_path / "set" / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows]))
        if not is_refused:
            assert self.load(tmp_path / "set").parts.count("test") == 4
            return
        with pytest.raises(
            DataError, match=r"8 images the folder and column 'split' give different splits: 'train/0\.png'"
        ):
            self.load(tmp_path / "set")
        for name in ("split", "folder of the image"):
            listing = self.load(tmp_path / "set", split_column=name)
            assert (listing.parts[0] == listing.ids[0].split("/")[0]) is (name != "split")

    def test_a_test_split_without_labels_stops(self, tmp_path: Path) -> None:
        root = tmp_path / "set"
        self.fill(root, "train", "metadata.csv")
        write_image(root / "test" / "0.png")
        with pytest.raises(DataError, match=r"'test/'.*no image with a label: 1 x not named in a metadata file"):
            self.load(root)
        listing = self.load(root, ignore=("test",))
        assert set(listing.parts) == {"train"}
        assert [entry.path for entry in listing.ignored] == ["test/0.png"]
        self.fill(root, "test", "metadata.csv", labelled=False)
        with pytest.raises(DataError, match="none of 6 rows of the split 'test' has a label"):
            self.load(root)

    def test_images_that_no_file_names_are_told(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "set", "", "metadata.csv")
        write_image(tmp_path / "set" / "more.png")
        listing = self.load(tmp_path / "set")
        assert "'more.png': not named in a metadata file" in warnings(listing)

    def test_captions_beside_class_folders_change_nothing(self, tmp_path: Path) -> None:
        for number in range(4):
            write_image(tmp_path / "set" / "ab"[number % 2] / f"{number}.png", seed=number)
        (tmp_path / "set" / "metadata.csv").write_text("file_name,caption\na/0.png,x\n")
        assert self.load(tmp_path / "set").labels == ("a", "a", "b", "b")
        (tmp_path / "set" / "metadata.csv").write_text('broken,"\n')
        assert self.load(tmp_path / "set").labels == ("a", "a", "b", "b")

    def test_a_table_in_a_folder_without_classes_is_named(self, tmp_path: Path) -> None:
        write_image(tmp_path / "set" / "0.png")
        (tmp_path / "set" / "labels.csv").write_text("file,label\n0.png,a\n")
        with pytest.raises(DataError, match=r"'labels.csv' in it.*give that file"):
            self.load(tmp_path / "set")


@pytest.mark.parametrize("options", [{"ignore": ("a",)}, {"follow_links": True}, {"split_folders": {}}])
def test_options_of_folders_are_refused_with_a_table(images: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="for folders"):
        read(images, "file,label\nimages/0.png,ant\n", **options)
    with pytest.raises(ConfigError, match="Leave out --ignore"):
        load_listing(DataConfig(source="digits", **options))


@pytest.mark.parametrize("options", [{"split_column": "a"}, {"image_root": "a"}])
def test_options_of_tables_are_refused_with_a_folder(images: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="only tables have columns"):
        load_listing(DataConfig(source=str(images), **options))
