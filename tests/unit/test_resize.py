"""Resizing: the exact way is torchvision's, the fast ways are the exact one but for single grey levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from backbench.config import Preprocess
from backbench.inference.resize import (
    crop_origin,
    prepare_batch,
    prepare_reduced,
    reduce_image,
    resample_stack,
    resize_matrix,
    resized_shape,
)

INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
# Mean 0 and std 1/255 leave grey levels, so that differences read as such.
GREY_LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def make_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise at three scales: smooth parts, hard edges and clipped extremes."""
    noise = rng.normal(128, 120, (height, width, 3))
    coarse = rng.normal(0, 90, (1 + height // 8, 1 + width // 8, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.clip(noise + coarse, 0, 255).astype(np.uint8)


def random_cases(num: int, seed: int) -> list[tuple[int, int, Preprocess]]:
    rng = np.random.default_rng(seed)
    cases = []
    for index in range(num):
        height, width = (int(side) for side in np.exp(rng.uniform(np.log(8), np.log(500), 2)))
        side = int(rng.choice([32, 64, 96, 160, 224]))
        size = (side, side) if rng.random() < 0.7 else (side, int(rng.choice([48, 128, 224])))
        preprocess = Preprocess(
            size=size,
            resize="squash" if rng.random() < 0.3 else "short-side",
            crop_fraction=float(rng.choice([1.0, 0.875, 0.9, 0.95])),
            interpolation=INTERPOLATIONS[index % len(INTERPOLATIONS)],
            **GREY_LEVELS,
        )
        cases.append((height, width, preprocess))
    return cases


@pytest.mark.parametrize("seed", range(4))
def test_fast_way_is_the_exact_way_within_two_grey_levels(seed: int, test_scale: float) -> None:
    rng = np.random.default_rng(seed)
    for height, width, preprocess in random_cases(int(20 * test_scale), seed):
        image = make_image(rng, height, width)
        exact = prepare_batch([image], preprocess, exact=True)
        fast = prepare_batch([image], preprocess)
        difference = (fast - exact).abs().round()
        assert difference.max() <= 2, (height, width, preprocess)
        assert (difference > 1).float().mean() < 0.001, (height, width, preprocess)


@pytest.mark.parametrize("seed", range(4))
def test_matrices_are_pillow_within_two_grey_levels(seed: int, test_scale: float) -> None:
    rng = np.random.default_rng(seed)
    for height, width, preprocess in random_cases(int(20 * test_scale), seed + 100):
        image = make_image(rng, height, width)
        exact = prepare_batch([image], preprocess, exact=True)
        matrices = resample_stack(torch.from_numpy(image[None]), preprocess).permute(0, 3, 1, 2).float()
        difference = (matrices - exact).abs().round()
        assert difference.max() <= 2, (height, width, preprocess)
        assert (difference > 1).float().mean() < 0.001, (height, width, preprocess)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("side", [8, 28, 32, 64, 96])
def test_matrices_are_pillow_but_for_one_pixel_in_a_hundred(side: int, interpolation: str) -> None:
    image = make_image(np.random.default_rng(side), side, side)
    preprocess = Preprocess(size=(224, 224), interpolation=interpolation, **GREY_LEVELS)
    exact = prepare_batch([image], preprocess, exact=True).round()
    matrices = resample_stack(torch.from_numpy(image[None]), preprocess).permute(0, 3, 1, 2).float()
    share = (matrices != exact).float().mean()
    assert share < (0.2 if interpolation in ("bilinear", "box") else 0.01)  # halves are common in these two


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_uniform_images_stay_uniform(value: int, interpolation: str) -> None:
    preprocess = Preprocess(size=(64, 64), crop_fraction=0.875, interpolation=interpolation, **GREY_LEVELS)
    for side in (8, 64, 73, 200):
        image = np.full((side, side + 3, 3), value, np.uint8)
        for exact in (False, True):
            assert torch.allclose(prepare_batch([image], preprocess, exact=exact), torch.tensor(float(value)))
        assert (resample_stack(torch.from_numpy(image[None]), preprocess) == value).all()


def test_black_and_white_edges_do_not_wrap_around() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    preprocess = Preprocess(size=(64, 64), interpolation="lanczos", **GREY_LEVELS)
    exact = prepare_batch([image], preprocess, exact=True)
    matrices = resample_stack(torch.from_numpy(image[None]), preprocess).permute(0, 3, 1, 2).float()
    assert (matrices - exact).abs().max() <= 1


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (200, 300), (97, 411), (224, 224), (33, 37)])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.9])
def test_exact_way_is_torchvisions(height: int, width: int, crop_fraction: float, interpolation: str) -> None:
    from torchvision.transforms import InterpolationMode, v2

    image = make_image(np.random.default_rng(height), height, width)
    preprocess = Preprocess(size=(224, 224), crop_fraction=crop_fraction, interpolation=interpolation)
    theirs = v2.Compose(
        [
            v2.Resize(int(np.floor(224 / crop_fraction)), interpolation=InterpolationMode(interpolation)),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    )(Image.fromarray(image))
    ours = prepare_batch([image], preprocess, exact=True)[0]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_tall_images_are_resized_horizontally_first_whatever_pillow_prefers() -> None:
    image = make_image(np.random.default_rng(0), 393, 36)
    preprocess = Preprocess(size=(32, 32), crop_fraction=0.95, **GREY_LEVELS)
    picture = Image.fromarray(image).resize((33, 393), Image.Resampling.BICUBIC)
    expected = np.asarray(picture.resize((33, 360), Image.Resampling.BICUBIC))[164:196, 0:32]
    ours = prepare_batch([image], preprocess, exact=True)[0].permute(1, 2, 0).round()
    assert np.array_equal(ours.numpy(), expected)


@pytest.mark.parametrize("size", [(224, 160), (96, 240), (224, 224)])
@pytest.mark.parametrize(("resize", "crop_mode"), [("short-side", "center"), ("squash", "squash")])
def test_exact_way_is_timms(size: tuple[int, int], resize: str, crop_mode: str) -> None:
    from timm.data import create_transform

    preprocess = Preprocess(size=size, resize=resize, crop_fraction=0.9)
    theirs = create_transform(
        (3, *size),
        interpolation="bicubic",
        mean=preprocess.mean,
        std=preprocess.std,
        crop_pct=0.9,
        crop_mode=crop_mode,
    )
    for height, width in ((64, 96), (33, 500), (40, 40)):
        image = make_image(np.random.default_rng(width), height, width)
        ours = prepare_batch([image], preprocess, exact=True)[0]
        torch.testing.assert_close(ours, theirs(Image.fromarray(image)), rtol=0, atol=2e-6)


def test_the_crop_always_fits_in_the_resized_image(test_scale: float) -> None:
    rng = np.random.default_rng(0)
    for height, width, preprocess in random_cases(int(300 * test_scale), 7):
        for shape in ((height, width), (1, width), (height, 1), (int(rng.integers(1, 5000)), 1)):
            high, wide = resized_shape(preprocess, *shape)
            top, left = crop_origin(preprocess, high, wide)
            assert top >= 0
            assert left >= 0
            assert top + preprocess.size[0] <= high
            assert left + preprocess.size[1] <= wide


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    image = make_image(np.random.default_rng(0), 48, 48)
    for exact in (False, True):
        batch = prepare_batch([image], Preprocess(size=(48, 48), **GREY_LEVELS), exact=exact)
        assert torch.equal(batch[0].permute(1, 2, 0).round().to(torch.uint8), torch.from_numpy(image))


def test_an_image_of_the_right_size_is_still_enlarged_and_cropped_below_crop_fraction_one() -> None:
    image = make_image(np.random.default_rng(0), 48, 48)
    preprocess = Preprocess(size=(48, 48), crop_fraction=0.75, **GREY_LEVELS)
    batch = prepare_batch([image], preprocess, exact=True)[0].permute(1, 2, 0)
    resized = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))[8:56, 8:56]
    assert np.array_equal(batch.round().numpy(), resized)


def test_batches_of_mixed_sizes_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    images = [make_image(rng, *shape) for shape in ((32, 32), (50, 40), (32, 32), (64, 64), (50, 40), (300, 200))]
    preprocess = Preprocess(size=(64, 64), crop_fraction=0.875)
    for exact in (False, True):
        batch = prepare_batch(images, preprocess, exact=exact)
        reduced = [reduce_image(image, preprocess, exact=exact) for image in images]
        assert torch.equal(batch, prepare_reduced(reduced, preprocess, exact=exact))
        for row, image in zip(batch, images, strict=True):
            assert torch.equal(row, prepare_batch([image], preprocess, exact=exact)[0])


def test_what_was_reduced_is_small_and_final() -> None:
    image = make_image(np.random.default_rng(0), 300, 200)
    preprocess = Preprocess(size=(64, 64), crop_fraction=0.875)
    reduced = reduce_image(image, preprocess)
    assert reduced.is_final
    assert reduced.pixels.shape == (64, 64, 3)
    assert not reduce_image(image[:32, :32], preprocess).is_final


@pytest.mark.parametrize("exact", [False, True])
def test_a_panorama_is_not_resized_whole(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(np.random.default_rng(0), 4, 3000)
    preprocess = Preprocess(size=(64, 64), **GREY_LEVELS)
    made: list[tuple[int, int]] = []
    plain = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *args: object, **options: object) -> Image.Image:
        made.append(size)
        return plain(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    monkeypatch.setattr("backbench.inference.resize._MAX_PIXELS", 1_000_000)
    batch = prepare_batch([image], preprocess, exact=exact)
    assert made == [(64, 4), (64, 64)]
    whole = np.asarray(plain(Image.fromarray(image), (48000, 64), Image.Resampling.BICUBIC))[:, 23968:24032]
    assert np.abs(batch[0].permute(1, 2, 0).numpy() - whole).max() <= 1.01


def test_read_only_and_strided_images_are_taken() -> None:
    image = make_image(np.random.default_rng(0), 40, 40)
    preprocess = Preprocess(size=(32, 32))
    expected = prepare_batch([image[::2, ::-1].copy()], preprocess)
    image.setflags(write=False)
    assert torch.equal(prepare_batch([image[::2, ::-1]], preprocess), expected)
    reduce_image(image, preprocess)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_anything_but_rgb_bytes_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        prepare_batch([image], Preprocess(size=(8, 8)))


def test_matrices_hold_weights() -> None:
    for interpolation in INTERPOLATIONS:
        for old, new in ((1, 7), (32, 224), (500, 64), (7, 7)):
            matrix = resize_matrix(old, new, interpolation)
            assert matrix.shape == (new, old)
            assert np.allclose(matrix.sum(axis=1), 1, atol=1e-5)


def test_batches_are_channels_last() -> None:
    batch = prepare_batch([np.zeros((8, 8, 3), np.uint8)] * 2, Preprocess(size=(16, 16)))
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
