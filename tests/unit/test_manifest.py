"""The manifest: what is refused, what is warned of, and that everything travels by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backbench.config import DataConfig
from backbench.data.listing import Ignored, Listing
from backbench.data.load import load_data
from backbench.data.manifest import Manifest, make_manifest, read_manifest, write_manifest
from backbench.errors import ConfigError, DataError, StorageError
from listings import CONFIG, census_of, make_listing, manifest_of, write_image

TEN = ["ant", "bee"] * 10


def config_with(**changes: object) -> DataConfig:
    return CONFIG.model_copy(update=changes)


def same(one: Manifest, other: Manifest) -> bool:
    columns = ("name", "classes", "ids", "groups", "parts", "hashes", "skipped", "warnings")
    return all(getattr(one, name) == getattr(other, name) for name in columns) and (
        np.array_equal(one.labels, other.labels) and np.array_equal(one.rows, other.rows)
    )


def test_a_plain_set_is_split_and_counted() -> None:
    manifest = manifest_of(make_listing(TEN))
    assert manifest.counts == {"train": 12, "val": 4, "test": 4}
    assert manifest.classes == ("ant", "bee")
    assert manifest.label_names == tuple(TEN)
    assert manifest.labels.dtype == np.int64
    assert sorted(np.concatenate([manifest.part_rows(part) for part in ("train", "val", "test")])) == list(
        range(20)
    )
    assert manifest.warnings == ()


def test_classes_are_ordered_by_code_point_of_the_composed_name() -> None:
    names = ["10", "2", "1", "B", "a", "z\u0301x", "\u017a", "é", "e\u0301x"]
    manifest = manifest_of(make_listing(names * 3))
    assert manifest.label_names == tuple(names * 3)
    assert manifest.classes == ("1", "10", "2", "B", "a", "é", "e\u0301x", "\u017a", "z\u0301x")


def test_the_order_of_the_listing_changes_nothing_that_counts() -> None:
    listing = make_listing(TEN)
    order = np.random.default_rng(0).permutation(20)
    shuffled = replace(
        listing,
        ids=tuple(listing.ids[row] for row in order),
        labels=tuple(listing.labels[row] for row in order),
        pixels=listing.pixels[order],
    )
    one, other = manifest_of(listing), manifest_of(shuffled)
    assert one.digest == other.digest
    assert one.image_digest == other.image_digest
    assert dict(zip(one.ids, one.parts, strict=True)) == dict(zip(other.ids, other.parts, strict=True))


def test_the_digest_knows_everything_a_figure_depends_on() -> None:
    listing = make_listing(TEN)
    base = manifest_of(listing)
    others = [
        manifest_of(listing, config_with(split_seed=1)),
        manifest_of(replace(listing, groups=("g",) + (None,) * 19)),
        manifest_of(replace(listing, labels=("bee", *TEN[1:]))),
        manifest_of(make_listing(TEN, contents=range(1, 21))),
        manifest_of(replace(listing, ids=("other", *listing.ids[1:]))),
        replace(base, skipped=(Ignored("ant/x", "broken"),)),
        replace(base, classes=("ANT", "bee")),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 8
    assert replace(base, name="renamed").digest == base.digest


def test_the_image_digest_knows_content_alone() -> None:
    base = manifest_of(make_listing(TEN))
    renamed = manifest_of(make_listing(["wasp", "fly"] * 10), config_with(split_seed=3))
    assert renamed.image_digest == base.image_digest
    assert manifest_of(make_listing(TEN, contents=range(1, 21))).image_digest != base.image_digest


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, "no images"),
        (["ant"] * 5, {}, "one class, 'ant'"),
        (["ant"] * 5 + ["bee"], {}, r"1 class has one image: 'bee'"),
        ([*TEN, "Ant"], {}, "'Ant' and 'ant'"),
        (TEN + ["caf\u00e9"] * 3 + ["cafe\u0301"] * 3, {}, "differ only"),
        (TEN, {"parts": ["train", "test"] * 10}, "training split has one class|without any training"),
        (
            [*TEN, "cat"],
            {"parts": ["train"] * 18 + ["test"] * 3},
            r"'test' split without any training image: 'cat'",
        ),
        ([*TEN, "cat"], {"parts": ["train"] * 17 + ["test"] * 3 + ["val"]}, r"'val' split without any .*'cat'"),
        (TEN, {"parts": ["test"] * 20}, "the 'train' split has no images"),
        (TEN, {"groups": ["g"] * 20}, "the 'test' split has no images"),
    ],
)
def test_what_cannot_be_ranked_on_is_refused(labels: list, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        manifest_of(make_listing(labels, **options))


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (TEN + ["cat"] * 2, {"parts": [*["train"] * 16, *["test"] * 4, "train", "train"]}, "no test image.*'cat'"),
        (
            ["ant", "ant", "bee", "bee"],
            {"class_names": ("ant", "bee", "cat")},
            "1 class has no usable image.*'cat'",
        ),
        (
            [f"class {row % 9}" for row in range(18)],
            {"parts": ["train"] * 9 + ["train"] * 4 + ["test"] * 5},
            "more classes",
        ),
        (
            TEN,
            {"parts": ["train"] * 10 + ["test"] * 10, "contents": [*range(19), 0]},
            "1 test image is also in training",
        ),
        (TEN, {"contents": [*range(19), 0]}, r"2 images with identical content have different labels"),
        (
            TEN,
            {"parts": ["train"] * 10 + ["test"] * 10, "groups": ["g"] + [None] * 18 + ["g"]},
            "1 group is in several",
        ),
        (["ant", "ant", "bee", "bee"], {}, "no class has enough images for a validation split"),
    ],
)
def test_what_a_reader_must_know_is_a_warning(labels: list, options: dict, message: str) -> None:
    warnings = manifest_of(make_listing(labels, **options)).warnings
    assert any(re.search(message, warning) for warning in warnings), warnings


def test_copies_never_sit_in_two_parts_of_our_own_split() -> None:
    for seed in range(10):
        contents = [row // 2 for row in range(40)]
        manifest = manifest_of(make_listing(TEN * 2, contents=contents), config_with(split_seed=seed))
        of_content: dict[str, set[str]] = {}
        for content, part in zip(manifest.hashes, manifest.parts, strict=True):
            of_content.setdefault(content, set()).add(part)
        assert all(len(parts) == 1 for parts in of_content.values())


def photos_with_bad(root: Path) -> Path:
    for number in range(12):
        write_image(root / "ab"[number % 2] / f"{number:02d}.png", seed=number)
    for number in range(7):
        (root / "a" / f"bad {number}.png").write_text("no image")
    return root


def test_bad_files_stop_the_work_with_a_list(tmp_path: Path) -> None:
    config = DataConfig(source=str(photos_with_bad(tmp_path / "set")))
    with pytest.raises(DataError, match=r"7 of 19 images") as caught:
        load_data(config)
    assert str(caught.value).count("a/bad") == 5
    assert "and 2 more" in str(caught.value)
    assert "--on-bad skip" in str(caught.value)


def test_skipped_files_are_left_out_before_the_split_and_recorded(tmp_path: Path) -> None:
    root = photos_with_bad(tmp_path / "set")
    skipping = load_data(DataConfig(source=str(root), on_bad="skip"))
    assert len(skipping.manifest.skipped) == 7
    assert any("7 broken images left out" in warning for warning in skipping.warnings)
    for number in range(7):
        (root / "a" / f"bad {number}.png").unlink()
    clean = load_data(DataConfig(source=str(root)))
    assert clean.manifest.ids == skipping.manifest.ids
    assert clean.manifest.parts == skipping.manifest.parts
    assert clean.manifest.digest != skipping.manifest.digest
    for row, name in enumerate(skipping.manifest.ids):  # no picture is ever replaced by another
        assert np.array_equal(skipping.read(row), clean.read(row)), name


def test_nothing_but_bad_files_is_refused_with_both_policies(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_text("no image")
    for policy in ("fail", "skip"):
        with pytest.raises(DataError, match="No image is left"):
            load_data(DataConfig(source=str(tmp_path / "set"), on_bad=policy))


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    listing = make_listing(
        ["ant\n=cmd", "b\u202eee", "caf\udce9", "<img>"] * 5, groups=["g", None, "\udcff", "x"] * 5
    )
    manifest = manifest_of(listing)
    write_manifest(manifest, tmp_path / "manifest.json")
    again = read_manifest(tmp_path / "manifest.json")
    assert same(manifest, again)
    assert manifest.digest == again.digest


def test_labels_are_stored_by_name_not_by_number(tmp_path: Path) -> None:
    manifest = manifest_of(make_listing(TEN))
    write_manifest(manifest, tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    assert document["samples"]["label"] == TEN
    document["classes"].reverse()
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="digest"):  # another order of classes is another manifest ...
        read_manifest(tmp_path / "m.json")
    turned = replace(manifest, classes=("bee", "ant"), labels=1 - manifest.labels)
    write_manifest(turned, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json").label_names == tuple(TEN)  # ... that keeps every label


@pytest.mark.parametrize("key", ["id", "label", "group", "part", "sha256"])
def test_a_manifest_changed_by_hand_is_refused(key: str, tmp_path: Path) -> None:
    write_manifest(manifest_of(make_listing(TEN)), tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    column = document["samples"][key]
    column[0], column[5] = column[5], "train" if key == "part" else "ant"
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"m\.json"):
        read_manifest(tmp_path / "m.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": 9}', '"x"', "[" * 100_000])
def test_no_manifest_is_a_clear_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DataError, match="manifest"):
        read_manifest(tmp_path / "m.json")


def test_a_damaged_manifest_is_one_error(tmp_path: Path, test_scale: float) -> None:
    write_manifest(manifest_of(make_listing(TEN)), tmp_path / "m.json")
    whole = (tmp_path / "m.json").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(round(50 * test_scale)):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(7))
        (tmp_path / "m.json").write_bytes(data)
        try:
            again = read_manifest(tmp_path / "m.json")
        except DataError:
            continue
        assert again.digest == manifest_of(make_listing(TEN)).digest


def test_a_manifest_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        write_manifest(manifest_of(make_listing(TEN)), tmp_path / "file" / "m.json")


def test_a_stored_split_is_used_again(tmp_path: Path) -> None:
    listing = make_listing(TEN)
    first = manifest_of(listing, config_with(split_seed=7))
    write_manifest(first, tmp_path / "m.json")
    again = manifest_of(listing, config_with(split=str(tmp_path / "m.json")))
    assert again.parts == first.parts
    assert again.digest == first.digest
    assert again.parts != manifest_of(listing).parts


@pytest.mark.parametrize("header", ["id,part", "path,split", "image,part", "Filename,Split"])
def test_a_split_from_a_table(header: str, tmp_path: Path) -> None:
    listing = make_listing(TEN)
    rows = [f"./{name},{['train', 'Val', 'test', 'validation'][row % 4]}" for row, name in enumerate(listing.ids)]
    (tmp_path / "s.csv").write_text("\n".join([header, *reversed(rows)]))
    listing = replace(listing, labels=tuple((["ant"] * 4 + ["bee"] * 4) * 2 + ["ant"] * 4))
    manifest = manifest_of(listing, config_with(split=str(tmp_path / "s.csv")))
    assert manifest.parts == ("train", "val", "test", "val") * 5


def test_a_split_without_validation_gets_one_from_training(tmp_path: Path) -> None:
    listing = make_listing(TEN)
    rows = [f"{name},{'test' if row < 6 else 'train'}" for row, name in enumerate(listing.ids)]
    (tmp_path / "s.csv").write_text("\n".join(["id,part", *rows]))
    manifest = manifest_of(listing, config_with(split=str(tmp_path / "s.csv")))
    assert manifest.counts == {"train": 12, "val": 2, "test": 6}


def test_a_split_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    listing = make_listing(TEN)
    path = tmp_path / "s.csv"
    path.write_text("id,part\nant/0000,train\n")
    with pytest.raises(DataError, match="no split for 19 of 20 images: 'bee/0001'"):
        manifest_of(listing, config_with(split=str(path)))
    path.write_text("id,part\nant/0000,rejects\n")
    with pytest.raises(DataError, match="row 2: 'rejects' is not a split"):
        manifest_of(listing, config_with(split=str(path)))
    path.write_text("id,part\nx,train\nx,test\n")
    with pytest.raises(DataError, match="two different splits"):
        manifest_of(listing, config_with(split=str(path)))
    path.write_text("id,fold\nx,train\n")
    with pytest.raises(ConfigError, match="part, split"):
        manifest_of(listing, config_with(split=str(path)))
    with pytest.raises(ConfigError, match="no such file"):
        manifest_of(listing, config_with(split=str(tmp_path / "gone.json")))


def test_a_split_names_images_that_are_gone(tmp_path: Path) -> None:
    write_manifest(manifest_of(make_listing(TEN)), tmp_path / "m.json")
    warnings = manifest_of(make_listing(TEN[:18]), config_with(split=str(tmp_path / "m.json"))).warnings
    assert any("names 2 images that are missing or unusable" in warning for warning in warnings)


def test_a_split_of_other_images_is_refused(tmp_path: Path) -> None:
    write_manifest(manifest_of(make_listing(TEN)), tmp_path / "m.json")
    changed = make_listing(TEN, contents=[100, *range(1, 20)])
    with pytest.raises(DataError, match=r"1 image changed .*'ant/0000'"):
        manifest_of(changed, config_with(split=str(tmp_path / "m.json")))


def test_rows_point_into_the_listing(tmp_path: Path) -> None:
    listing = make_listing(TEN)
    census = replace(census_of(listing), bad={0: "broken", 7: "broken"})
    manifest = make_manifest(listing, census, config_with(on_bad="skip"))
    assert [listing.ids[row] for row in manifest.rows] == list(manifest.ids)
    assert len(manifest) == 18


def test_a_listing_is_checked_for_length() -> None:
    with pytest.raises(ValueError, match="length"):
        Listing("x", ("a",), ("b", "c"), (None,), (None,), pixels=[np.zeros((1, 1, 3), np.uint8)])
