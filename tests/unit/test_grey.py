"""One grey scale for all images of a source with more than 8 bits, whatever hot pixels or single images say."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import backbench
from backbench.config import DataConfig, GreyScale
from backbench.data import census as census_module
from backbench.data import decode
from backbench.data.audit import audit_source
from backbench.data.census import Census, take_census
from backbench.data.grey import decide_scale, measure_depth
from backbench.data.load import Data, load_data, load_listing
from backbench.data.manifest import read_manifest, write_manifest
from backbench.data.store import PixelStore
from backbench.inference.cache import feature_key
from backbench.registry import find_model
from backbench.runs import labelled

SHAPE = (32, 40)


def draw(seed: int, low: float, high: float, kind: type = np.uint16) -> np.ndarray:
    values = np.random.default_rng(seed).random(SHAPE) * (high - low) + low
    return values.astype(kind) if np.issubdtype(kind, np.floating) else np.rint(values).astype(kind)


def scale_of(images: list[np.ndarray]) -> GreyScale:
    scale = decide_scale(measure_depth(image) for image in images)
    assert scale is not None
    return scale


def with_pixel(image: np.ndarray, value: float) -> np.ndarray:
    changed = image.copy()
    changed[5, 7] = value
    return changed


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 200, (0, 255)),  # 8 bits in a file of 16
        (0, 1000, (0, 1023)),
        (100, 4000, (0, 4095)),
        (0, 16000, (0, 16383)),
        (0, 65535, (0, 65535)),
        (20000, 60000, (0, 65535)),
    ],
)
def test_whole_numbers_take_the_bits_that_hold_them(low: int, high: int, expected: tuple[float, float]) -> None:
    assert scale_of([draw(seed, low, high) for seed in range(8)]).integers == expected


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (260, 383, np.uint16),  # a dark camera above its black level
        (29000, 31000, np.uint16),  # temperatures in hundredths of a kelvin
        (-1000, 3000, np.int16),  # Hounsfield units
        (0, 3_000_000, np.int32),
        (-0.2, 0.9, np.float32),
        (0, 0.05, np.float32),  # reflectances
        (0, 1.4, np.float32),
    ],
)
def test_other_values_take_the_range_they_use(low: float, high: float, kind: type) -> None:
    scale = scale_of([draw(seed, low, high, kind) for seed in range(8)])
    black, white = scale.floats if np.issubdtype(kind, np.floating) else scale.integers
    assert abs(black - low) < 0.03 * (high - low)
    assert abs(white - high) < 0.03 * (high - low)


@pytest.mark.parametrize(("high", "expected"), [(1, (0, 1)), (255, (0, 255)), (60000, (0, 65535))])
def test_floats(high: float, expected: tuple[float, float]) -> None:
    assert scale_of([draw(seed, 0, high, np.float32) for seed in range(8)]).floats == expected


def test_a_hot_or_a_dead_pixel_changes_nothing() -> None:
    images = [draw(seed, 260, 383) for seed in range(8)]
    hot = [with_pixel(image, 65535) for image in images]
    dead = [with_pixel(image, 0) for image in images]
    black, white = scale_of(images).integers
    for changed in (hot, dead, [hot[0], *images[1:]]):
        other = scale_of(changed).integers
        assert abs(other[0] - black) <= 2
        assert abs(other[1] - white) <= 2


def test_one_bright_image_of_many_darkens_no_other() -> None:
    images = [draw(seed, 0, 1000) for seed in range(30)]
    assert scale_of([*images, draw(99, 0, 60000)]).integers == (0, 1023)
    bright = [draw(seed, 0, 60000) for seed in range(3)]  # a class of its own, not a freak
    assert scale_of([*images, *bright]).integers == (0, 65535)


def test_the_order_of_images_does_not_matter() -> None:
    images = [draw(seed, seed, 400 + 7 * seed) for seed in range(60)]
    scale = scale_of(images)
    random.Random(0).shuffle(images)
    assert scale_of(images) == scale


def test_a_source_of_one_value_is_black_and_no_error() -> None:
    assert scale_of([np.full(SHAPE, 7, np.uint16)]).integers == (0, 255)
    assert scale_of([np.full(SHAPE, -7.0, np.float32)]).floats == (-7, -7)
    assert decide_scale([]) is None


# Whole sources

Maker = Callable[[int, int], np.ndarray]


def write_source(folder: Path, make: Maker, num: int = 8, suffix: str = "png") -> Path:
    for number in range(num):
        for label, name in enumerate(("fine", "coarse")):
            path = folder / name / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make(label, number)).save(path)
    return folder


def dark(label: int, number: int) -> np.ndarray:
    side = (2, 8)[label]
    values = np.random.default_rng([label, number]).integers(260, 384, (32 // side, 32 // side))
    return np.kron(values, np.ones((side, side))).astype(np.uint16)


def load(folder: Path) -> Data:
    return load_data(DataConfig(source=str(folder)))


def test_dark_images_use_the_whole_range_and_a_hot_pixel_does_no_harm(tmp_path: Path) -> None:
    def hot(label: int, number: int) -> np.ndarray:
        return with_pixel(dark(label, number), 65535) if number == 3 else dark(label, number)

    plain, changed = load(write_source(tmp_path / "plain", dark)), load(write_source(tmp_path / "hot", hot))
    for data in (plain, changed):
        assert data.manifest.grey == GreyScale(integers=(260, 383))
        images = [data.read(row) for row in range(len(data.manifest))]
        assert min(image.min() for image in images) == 0
        assert all(60 < image.mean() < 200 and image.max() > 180 for image in images)
    row = changed.manifest.ids.index("coarse/3.png")
    difference = changed.read(row).astype(int) - plain.read(plain.manifest.ids.index("coarse/3.png"))
    assert np.count_nonzero(difference.any(axis=2)) == 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_equal_values_are_equal_levels_in_all_images_of_a_source(tmp_path: Path, suffix: str) -> None:
    """Float images alone were scaled by their own maximum, and 32-bit ones."""
    kind = np.float32 if suffix == "tif" else np.uint16

    def make(label: int, number: int) -> np.ndarray:
        values = np.full(SHAPE, 100 * (number + 1), kind)
        values[:4] = 500
        return values

    data = load(write_source(tmp_path / "set", make, suffix=suffix))
    assert len({int(data.read(row)[0, 0, 0]) for row in range(len(data.manifest))}) == 1
    means = {data.manifest.ids[row]: data.read(row).mean() for row in range(len(data.manifest))}
    assert means[f"fine/0.{suffix}"] < means[f"fine/1.{suffix}"] < means[f"fine/6.{suffix}"]


def test_the_scale_is_in_the_manifest_and_its_digest(tmp_path: Path) -> None:
    data = load(write_source(tmp_path / "set", dark))
    write_manifest(data.manifest, tmp_path / "manifest.json")
    again = read_manifest(tmp_path / "manifest.json")
    assert again.grey == data.manifest.grey
    assert again.digest == data.manifest.digest
    text = (tmp_path / "manifest.json").read_text()
    assert '"integers": [260.0, 383.0]' in text
    (tmp_path / "manifest.json").write_text(text.replace("[260.0, 383.0]", "[260.0, 384.0]"))
    with pytest.raises(Exception, match="changed after it was written"):
        read_manifest(tmp_path / "manifest.json")


def test_features_by_another_scale_have_another_key() -> None:
    facts = find_model("tiny_cnn").load(0).facts

    def key(grey: GreyScale | None) -> str:
        return feature_key(facts, "s", ["00" * 32], precision="fp32", exact_resize=False, device="cpu", grey=grey)

    assert len({key(None), key(GreyScale(integers=(0, 255))), key(GreyScale(integers=(0, 511)))}) == 3


def census_of(folder: Path, cache: Path) -> tuple[Census, PixelStore]:
    listing = load_listing(DataConfig(source=str(folder)))
    store = PixelStore(listing, 10_000_000)
    return take_census(listing, store, max_pixels=10_000_000, cache_dir=cache), store


def test_a_second_census_decodes_nothing_and_knows_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = write_source(tmp_path / "set", dark), tmp_path / "cache"
    first, _ = census_of(folder, cache)
    monkeypatch.setattr(decode, "decode_image", lambda *_, **__: pytest.fail("an image was decoded"))
    monkeypatch.setattr(decode, "measure_values", lambda *_, **__: pytest.fail("an image was decoded"))
    second, store = census_of(folder, cache)
    assert (second.grey, second.depths) == (first.grey, first.depths)
    assert store.grey == GreyScale(integers=(260, 383))
    assert np.array_equal(first.colours, second.colours)
    assert first.colours[:, 3].min() > 0.3  # brightness by that scale


def test_added_images_may_change_the_scale_and_with_it_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census_module, "_cache_file", lambda folder, *_: folder / "one.safetensors")
    folder, cache = write_source(tmp_path / "set", dark), tmp_path / "cache"
    census_of(folder, cache)
    for number in range(4):
        Image.fromarray(draw(number, 0, 60000)).save(folder / "fine" / f"bright{number}.png")
    known, _ = census_of(folder, cache)
    anew, _ = census_of(folder, tmp_path / "other cache")
    assert known.grey == anew.grey == GreyScale(integers=(0, 65535))
    assert np.array_equal(known.colours, anew.colours)


def test_the_number_of_threads_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_source(tmp_path / "set", lambda label, number: draw(number, number, 300 + number), num=40)
    monkeypatch.setattr(census_module, "BLOCK", 3)
    found = []
    for workers in (1, 5):
        monkeypatch.setattr(census_module, "num_workers", lambda workers=workers: workers)
        found.append(census_of(folder, tmp_path / f"cache{workers}")[0])
    assert found[0].grey == found[1].grey
    assert np.array_equal(found[0].colours, found[1].colours)


def test_a_store_with_another_scale_forgets_what_it_decoded(tmp_path: Path) -> None:
    data = load(write_source(tmp_path / "set", dark))
    before = data.read(0).mean()
    data.store.grey = GreyScale(integers=(0, 65535))
    assert data.read(0).max() <= 1 < before


def test_models_of_two_scales_each_see_the_images_by_their_own_and_files_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bright(label: int, number: int) -> np.ndarray:
        return dark(label, number) * 150

    bundles = []
    for name, make in (("dark", dark), ("bright", bright)):
        run = backbench.adapt(
            write_source(tmp_path / name, make), "pixels", "logistic", out=tmp_path / "runs", quiet=True
        )
        assert run.bundle is not None
        bundles.append(run.bundle)
    others = write_source(tmp_path / "others", lambda label, number: dark(label, number + 100) * 2)
    listed: list[str] = []
    read = labelled.load_listing
    monkeypatch.setattr(labelled, "load_listing", lambda *given: listed.append("once") or read(*given))
    together = backbench.evaluate(bundles, others, quiet=True)
    assert listed == ["once"]
    for evaluation in together:
        answers = backbench.load(evaluation.bundle).predict([others / name for name in evaluation.ids])
        right = [dict(answer.top)[answer.path.split("/")[-2]] for answer in answers]
        assert evaluation.metrics["calibrated_nll"].value == pytest.approx(-np.log(right).mean(), rel=1e-3)


def test_sources_of_8_bits_are_as_they_were(tmp_path: Path) -> None:
    def eight(label: int, number: int) -> np.ndarray:
        return draw(number + 100 * label, 0, 90, np.uint8)

    data = load(write_source(tmp_path / "set", eight))
    assert data.manifest.grey is None
    assert data.warnings == ()
    row = data.manifest.ids.index("fine/2.png")
    assert np.array_equal(data.read(row)[..., 0], eight(0, 2))
    write_manifest(data.manifest, tmp_path / "manifest.json")
    assert "grey" not in (tmp_path / "manifest.json").read_text()


def test_what_is_odd_about_the_depth_of_images_is_said(tmp_path: Path) -> None:
    def mixed(label: int, number: int) -> np.ndarray:
        if number == 0:
            return draw(label, 0, 255, np.uint8)
        return draw(100 * label + number, 0, 60000 if (label, number) == (0, 1) else 900)

    folder = write_source(tmp_path / "set", mixed, num=15)
    text = "\n".join(audit_source(DataConfig(source=str(folder))).sentences())
    assert "28 images with more than 8 bits have values in the range 0 to" in text
    assert "a small part of their bits. They share one grey scale: 0 is black, 1,023 is white" in text
    assert "1 image goes beyond the grey scale of the source (0 to 1,023) and clipped: 'fine/1.png'" in text
    assert "28 of 30 images have more than 8 bits" in text
    assert "No problems found" not in text


def test_files_of_several_ranges_in_one_source_are_told(tmp_path: Path) -> None:
    def make(label: int, number: int) -> np.ndarray:
        return draw(10 * number + label, 0, (1, 255)[number % 2], np.float32)

    data = load(write_source(tmp_path / "set", make, suffix="tif"))
    assert data.manifest.grey == GreyScale(floats=(0, 255))
    (warning,) = (each for each in data.warnings if "sixteenth" in each)
    assert warning.startswith("8 images use")
    assert "'coarse/0.tif'" in warning


def test_a_whole_range_calls_for_no_word(tmp_path: Path) -> None:
    data = load(write_source(tmp_path / "set", lambda label, number: draw(10 * number + label, 0, 65535)))
    assert data.manifest.grey == GreyScale(integers=(0, 65535))
    assert data.warnings == ()


def test_16_bits_of_colour_are_told_and_that_few_are_used(tmp_path: Path) -> None:
    from test_decode import COLOURS, make_png

    for number in range(8):
        for label in "ab":
            path = tmp_path / "set" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.roll(COLOURS, number + 8 * (label == "b"), axis=1).astype(np.uint16) * 8  # 11 bits
            path.write_bytes(make_png(values, 2, 16))
    warnings = " ".join(load(tmp_path / "set").warnings)
    assert "16 images with 16 bits for each colour: the upper 8 bits are used" in warnings
    assert "16 of 16 images with 16 bits for each colour are almost black" in warnings


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    folder = write_source(tmp_path / "set", lambda label, number: draw(number, 0, 1, np.float32), suffix="tif")
    Image.fromarray(with_pixel(draw(0, 0, 1, np.float32), value)).save(folder / "fine" / "bad.tif")
    found = audit_source(DataConfig(source=str(folder)))
    assert [(bad.path, "not finite" in bad.reason) for bad in found.broken] == [("fine/bad.tif", True)]
