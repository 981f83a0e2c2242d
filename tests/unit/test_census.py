"""The census and the pixel store: everything is looked at once, and known by its content."""

from __future__ import annotations

import colorsys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.config import DataConfig, GreyScale
from backbench.data import census as census_module
from backbench.data import decode
from backbench.data.census import Census, take_census
from backbench.data.image_stats import COLOUR_NAMES, FACT_NAMES, measure_colours
from backbench.data.listing import Listing
from backbench.data.load import load_listing
from backbench.data.store import PixelStore
from backbench.errors import BadImage
from backbench.progress import Progress
from listings import CONFIG, census_of, make_listing, write_image


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files decoded so far."""
    names: list[str] = []
    whole = decode.decode_image

    def counting(data: bytes, name: str, *, max_pixels: int, grey: GreyScale | None = None) -> np.ndarray:
        names.append(Path(name).name)
        return whole(data, name, max_pixels=max_pixels, grey=grey)

    monkeypatch.setattr(decode, "decode_image", counting)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        write_image(tmp_path / "set" / "ab"[number % 2] / f"{number}.png", seed=number)
    return tmp_path / "set"


def listing_of(folder: Path) -> Listing:
    return load_listing(DataConfig(source=str(folder)))


def same(one: Census, other: Census) -> bool:
    return (
        one.hashes == other.hashes
        and one.bad == other.bad
        and np.array_equal(one.facts, other.facts)
        and np.array_equal(one.colours, other.colours)
    )


def test_a_second_census_decodes_nothing_and_says_the_same(folder: Path, decoded: list[str]) -> None:
    first = census_of(listing_of(folder))
    assert len(decoded) == 6
    second = census_of(listing_of(folder))
    assert len(decoded) == 6
    assert same(first, second)


def test_only_new_content_is_decoded(folder: Path, decoded: list[str]) -> None:
    census_of(listing_of(folder))
    decoded.clear()
    (folder / "a" / "0.png").rename(folder / "b" / "renamed.png")
    write_image(folder / "a" / "new.png", seed=99)
    (folder / "a" / "copy.png").write_bytes((folder / "b" / "1.png").read_bytes())
    after = census_of(listing_of(folder))
    # where the new image has the smallest hash of all, the cache has another name and all is done again
    assert set(decoded) in ({"new.png"}, {"new.png", "1.png", "2.png", "3.png", "4.png", "5.png", "renamed.png"})
    assert len(decoded) == len(set(decoded))
    assert (
        after.hashes[listing_of(folder).ids.index("a/copy.png")]
        == after.hashes[listing_of(folder).ids.index("b/1.png")]
    )


def test_identical_files_are_decoded_once(tmp_path: Path, decoded: list[str]) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        write_image(tmp_path / "set" / name, seed=0)
    census = census_of(listing_of(tmp_path / "set"))
    assert len(decoded) == 1
    assert np.array_equal(census.colours[0], census.colours[2])
    assert census.colours[2].any()


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "folder"])
def test_a_damaged_cache_is_made_again(damage: str, folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    first = census_of(listing_of(folder), cache_dir=tmp_path / "cache")
    [path] = (tmp_path / "cache" / "census").iterdir()
    data = bytearray(path.read_bytes())
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "bit":
        data[-200] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    assert same(first, census_of(listing_of(folder), cache_dir=tmp_path / "cache"))
    assert len(decoded) == 12


def test_every_bit_of_the_cache_is_guarded(folder: Path, tmp_path: Path, test_scale: float) -> None:
    first = census_of(listing_of(folder), cache_dir=tmp_path)
    [path] = (tmp_path / "census").iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(round(50 * test_scale)):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        assert census_module._read_cache(path) == {}
    path.write_bytes(whole)
    assert set(census_module._read_cache(path)) == set(first.hashes)


def test_another_decoder_pixel_limit_or_version_makes_it_anew(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    census_of(listing_of(folder))
    census_of(listing_of(folder), CONFIG.model_copy(update={"max_pixels": 1000}))
    assert len(decoded) == 12
    monkeypatch.setattr(decode, "DECODER_VERSION", decode.DECODER_VERSION + 1)
    census_of(listing_of(folder))
    assert len(decoded) == 18
    monkeypatch.setattr(census_module, "CENSUS_VERSION", census_module.CENSUS_VERSION + 1)
    census_of(listing_of(folder))
    assert len(decoded) == 24


def test_a_cache_that_cannot_be_written_is_a_warning(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Listening(Progress):
        def warn(self, text: str) -> None:
            told.append(text)

    (tmp_path / "cache").write_text("a file where the folder should be")
    listing = listing_of(folder)
    store = PixelStore(listing, CONFIG.max_pixels)
    census = take_census(listing, store, max_pixels=1000, cache_dir=tmp_path / "cache", progress=Listening())
    assert not census.bad
    assert len(told) == 1


def test_bad_files_are_rows_with_a_reason_the_second_time_too(folder: Path) -> None:
    (folder / "a" / "text.png").write_text("no image")
    (folder / "a" / "empty.png").write_bytes(b"")
    (folder / "b" / "large.png").write_bytes(write_image(folder / "x.png", size=(50, 40)).read_bytes())
    config = CONFIG.model_copy(update={"max_pixels": 1999})
    listing = listing_of(folder)
    for _ in range(2):
        census = census_of(listing, config)
        assert {listing.ids[row] for row in census.bad} == {"a/text.png", "a/empty.png", "b/large.png"}
        assert all(census.bad.values())
        assert not census.facts[list(census.bad)].any()


def test_facts_are_those_of_the_file(tmp_path: Path) -> None:
    write_image(tmp_path / "set" / "a" / "1.png", size=(8, 4))
    Image.new("L", (6, 6), 200).save(tmp_path / "set" / "b.png")
    (tmp_path / "set" / "b").mkdir()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.new("L", (6, 6), 200).save(tmp_path / "set" / "b" / "2.jpg", exif=exif)
    census = census_of(listing_of(tmp_path / "set"))
    first, second = (dict(zip(census.fact_names, row.tolist(), strict=True)) for row in census.facts)
    assert np.isclose(first["log_width"], np.log(8))
    assert np.isclose(first["log_aspect"], np.log(2))
    assert np.isclose(first["log_bytes"], np.log((tmp_path / "set" / "a" / "1.png").stat().st_size))
    assert (first["format_PNG"], first["mode_RGB"], first["was_grey"], first["has_exif"]) == (1, 1, 0, 0)
    assert (second["format_JPEG"], second["mode_L"], second["was_grey"], second["has_exif"]) == (1, 1, 1, 1)
    assert census.facts.shape[1] == len(FACT_NAMES)


def test_facts_of_images_in_memory_tell_nothing_apart() -> None:
    census = census_of(make_listing(["a", "b", "a"]))
    assert len(np.unique(census.facts, axis=0)) == 1
    assert len(set(census.hashes)) == 3


def test_images_in_memory_of_several_sizes() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (4 + row % 3, 5, 3)).astype(np.uint8) for row in range(100)]
    nothing = (None,) * 100
    listing = Listing("given", tuple(map(str, range(100))), ("a",) * 100, nothing, nothing, pixels=images)
    census = census_of(listing)
    assert all(np.allclose(census.colours[row], measure_colours(images[row][None])[0]) for row in range(100))
    assert np.allclose(np.exp(census.facts[:3, 1]), [4, 5, 6])


def test_the_hash_of_an_image_in_memory_knows_its_shape() -> None:
    flat = np.zeros((1, 12, 3), np.uint8)
    listing = Listing(
        "given", ("x", "y"), ("a", "b"), (None,) * 2, (None,) * 2, pixels=[flat, flat.reshape(2, 6, 3)]
    )
    assert len(set(census_of(listing).hashes)) == 2


def test_colours_are_right_and_blind_to_place() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3)).astype(np.uint8)
    found = dict(zip(COLOUR_NAMES, measure_colours(image)[0].tolist(), strict=True))
    pixels = image.reshape(-1, 3) / 255
    assert np.isclose(found["red_mean"], pixels[:, 0].mean())
    assert np.isclose(found["blue_std"], pixels[:, 2].std(), atol=1e-6)
    assert np.isclose(found["saturation_mean"], np.mean([colorsys.rgb_to_hsv(*p)[1] for p in pixels]))
    counts = np.histogram(image[..., 1] * (10 / 256), bins=10, range=(0, 10))[0] / 63
    assert np.allclose([found[f"green_share_{index}"] for index in range(10)], counts)
    shuffled = np.random.default_rng(1).permutation(image.reshape(-1, 3)).reshape(image.shape)
    assert np.allclose(measure_colours(shuffled), measure_colours(image))


def test_large_images_are_measured_on_a_grid() -> None:
    image = np.zeros((1, 1000, 1000, 3), np.uint8)
    image[:, :500] = 255
    assert np.isclose(measure_colours(image)[0][0], 0.5, atol=0.01)


def test_what_the_census_decoded_is_not_decoded_again(folder: Path, decoded: list[str]) -> None:
    listing = listing_of(folder)
    store = PixelStore(listing, CONFIG.max_pixels)
    take_census(listing, store, max_pixels=CONFIG.max_pixels)
    seconds = store.decode_seconds
    images = [store.read(row) for row in range(6)]
    assert len(decoded) == 6
    assert store.decode_seconds == seconds
    assert all(image.shape == (5, 7, 3) for image in images)


def test_beyond_the_cap_images_are_decoded_again(folder: Path, decoded: list[str]) -> None:
    store = PixelStore(listing_of(folder), CONFIG.max_pixels, cap_bytes=2 * 7 * 5 * 3)
    first = [store.read(row) for row in range(6)]
    again = [store.read(row) for row in range(6)]
    assert len(decoded) == 10
    assert store.kept_bytes == 2 * 7 * 5 * 3
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_file_that_changed_is_refused_not_used(folder: Path) -> None:
    listing = listing_of(folder)
    store = PixelStore(listing, CONFIG.max_pixels, cap_bytes=0)
    take_census(listing, store, max_pixels=CONFIG.max_pixels)
    write_image(folder / "a" / "0.png", seed=1234)
    with pytest.raises(BadImage, match="changed"):
        store.read(listing.ids.index("a/0.png"))
    assert store.read(listing.ids.index("a/2.png")).shape == (5, 7, 3)


def test_many_threads_read_the_same_images(folder: Path) -> None:
    listing = listing_of(folder)
    store = PixelStore(listing, CONFIG.max_pixels)
    expected = [store.read(row).copy() for row in range(6)]
    store = PixelStore(listing, CONFIG.max_pixels, cap_bytes=3 * 105)
    wrong: list[int] = []

    def read_all(seed: int) -> None:
        for row in np.random.default_rng(seed).integers(0, 6, 60).tolist():
            if not np.array_equal(store.read(row), expected[row]):
                wrong.append(row)

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.kept_bytes <= store.cap_bytes
    assert store.read_seconds > 0
    assert store.decode_seconds > 0
