"""Each augmentation beside torchvision: the pixels for given parameters, and the law of the parameters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as reference

from backbench.training.augment import colour, geometry, mixing
from backbench.training.augment.rand_augment import (
    OPERATIONS,
    Operations,
    draw_operations,
    move_matrix,
    rand_augment,
)
from backbench.training.order import draw_uniforms

MIN_P = 1e-3  # seeds are fixed, so this fails by a change of the code alone
NUM_DRAWS = 3000
SIZES = [(300, 400), (20, 100), (100, 30), (7, 5)]


def draw(num: int, rows: int = 20_000, use: str = "test") -> np.ndarray:
    return draw_uniforms(0, 0, np.arange(rows), num, use)


def make_images(num: int = 8, height: int = 24, width: int = 32) -> torch.Tensor:
    """Noise, and the corners of the colour space: black, white, one grey, one colour, two colours."""
    images = torch.from_numpy(np.random.default_rng(0).random((num, 3, height, width), dtype=np.float32))
    images[1, :, :5], images[1, :, 5:10], images[1, :, 10:15] = 0.0, 1.0, 0.5
    images[2] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    images[3, 1:] = 0.25
    images[4] = (images[4] * 255).round() / 255
    return images


def same_law(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert stats.ks_2samp(ours, theirs).pvalue > MIN_P


def draw_theirs(transform: v2.Transform, height: int, width: int, names: tuple[str, ...]) -> np.ndarray:
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [transform.make_params([image]) for _ in range(NUM_DRAWS)]
    return np.array([[params[name] for name in names] for params in drawn], dtype=float)


# crops


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.6), (0.5, 3.0)), ((0.9, 1.0), (1.0, 1.0))]
)
def test_crop_boxes_follow_torchvisions_law(height, width, scale, ratio) -> None:
    ours = draw_boxes(height, width, scale, ratio)
    theirs = draw_theirs(
        v2.RandomResizedCrop(1, scale=scale, ratio=ratio), height, width, ("top", "left", "height", "width")
    )
    for column in range(4):
        same_law(ours[:, column], theirs[:, column])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] >= 1).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


def draw_boxes(height: int, width: int, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), rows: int = 20_000) -> np.ndarray:
    uniforms = draw(geometry.NUM_CROP_UNIFORMS, rows)
    return geometry.draw_crop_boxes(uniforms, np.full(rows, height), np.full(rows, width), scale, ratio)


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (1, 1), (13, 14), (1, 50)])
def test_where_no_try_fits_the_middle_is_taken(height: int, width: int) -> None:
    ours = draw_boxes(height, width, scale=(1.0, 1.0), ratio=(1.01, 1.05), rows=1)[0]
    transform = v2.RandomResizedCrop(1, scale=(1.0, 1.0), ratio=(1.01, 1.05))
    assert ours.tolist() == list(transform.make_params([torch.zeros(3, height, width)]).values())


def test_boxes_of_images_of_different_sizes_are_drawn_together() -> None:
    uniforms = draw(geometry.NUM_CROP_UNIFORMS, 4)
    heights, widths = np.array(SIZES).T
    together = geometry.draw_crop_boxes(uniforms, heights, widths, (0.08, 1.0), (0.75, 1.3))
    for row in range(4):
        one = slice(row, row + 1)
        alone = geometry.draw_crop_boxes(uniforms[one], heights[one], widths[one], (0.08, 1.0), (0.75, 1.3))
        assert np.array_equal(alone[0], together[row])


INTERPOLATIONS = {
    "nearest": InterpolationMode.NEAREST,
    "box": InterpolationMode.BOX,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("exact", [False, True])
def test_crop_resize_equals_torchvisions(interpolation, exact) -> None:
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (high, wide, 3), dtype=np.uint8) for high, wide in [(32, 32), (90, 61), (40, 45)]
    ]
    boxes = np.array([[3, 5, 20, 26], [0, 1, 90, 60], [2, 1, 30, 35]])
    ours = geometry.crop_resize(images, boxes, (30, 35), interpolation, exact=exact)
    assert ours.dtype == torch.uint8
    ours = ours.float()
    for image, box, pixels in zip(images, boxes.tolist(), ours, strict=True):
        cut = reference.crop(Image.fromarray(image), *box)  # Pillow 13 resizes downwards first where that is less
        for size in ([box[2], 35], [30, 35]):  # work: then other noise is rounded away
            cut = reference.resize(cut, size, INTERPOLATIONS[interpolation])
        distance = (pixels - reference.pil_to_tensor(cut)).abs()
        assert distance.max() <= (0 if exact else 1)
        assert distance.mean() < 0.05
        if interpolation in ("bilinear", "bicubic"):
            tensor = torch.from_numpy(image).permute(2, 0, 1)
            other = reference.resized_crop(tensor, *box, [30, 35], INTERPOLATIONS[interpolation], antialias=True)
            assert (pixels - other).abs().max() <= (1 + exact)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_accelerators_crop_is_the_processors(interpolation) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 28, 3), dtype=np.uint8)
    boxes = np.array(
        [[0, 0, 32, 28], [4, 3, 9, 12], [31, 27, 1, 1], [0, 20, 32, 8], [10, 0, 3, 28], [5, 5, 20, 20]]
    )
    there = geometry.resample_boxes(torch.from_numpy(images), boxes, (40, 36), interpolation)
    here = geometry.crop_resize(list(images), boxes, (40, 36), interpolation)
    assert (there.float() - here.float()).abs().max() <= 1
    assert (there != here).float().mean() < 0.05


def test_pad_crop_equals_torchvisions() -> None:
    images, padding = make_images(), 3
    offsets = geometry.draw_pad_offsets(draw(2, len(images)), padding)
    ours = geometry.pad_crop(images, offsets, padding)
    for image, (top, left), pixels in zip(images, offsets.tolist(), ours, strict=True):
        padded = reference.pad(image, [padding] * 4)
        assert torch.equal(pixels, reference.crop(padded, top, left, *image.shape[1:]))


def test_pad_offsets_follow_torchvisions_law() -> None:
    ours = geometry.draw_pad_offsets(draw(2), 4)
    for column in ours.T:
        counts = np.bincount(column)
        assert len(counts) == 9
        assert stats.chisquare(counts).pvalue > MIN_P
    theirs = draw_theirs(v2.RandomCrop(32, padding=4), 32, 32, ("top", "left"))
    assert set(np.unique(theirs)) == set(range(9))


def test_flips_equal_torchvisions() -> None:
    images = make_images()
    is_flipped = np.arange(len(images)) % 3 == 0
    for vertical, flip in [(False, reference.horizontal_flip), (True, reference.vertical_flip)]:
        ours = geometry.flip(images, is_flipped, vertical=vertical)
        for image, flipped, pixels in zip(images, is_flipped, ours, strict=True):
            assert torch.equal(pixels, flip(image) if flipped else image)


# colour

ADJUSTMENTS = [
    (colour.adjust_brightness, reference.adjust_brightness, (0.0, 0.3, 1.0, 1.9)),
    (colour.adjust_contrast, reference.adjust_contrast, (0.0, 0.3, 1.0, 1.9)),
    (colour.adjust_saturation, reference.adjust_saturation, (0.0, 0.3, 1.0, 1.9)),
    (colour.adjust_sharpness, reference.adjust_sharpness, (0.0, 0.3, 1.0, 1.9)),
    (colour.adjust_hue, reference.adjust_hue, (-0.5, -0.13, 0.0, 0.29, 0.5)),
]


@pytest.mark.parametrize(("ours", "theirs", "factors"), ADJUSTMENTS)
def test_adjustments_equal_torchvisions(ours, theirs, factors) -> None:
    images = make_images()
    for shift in range(len(factors)):
        drawn = np.array([factors[(row + shift) % len(factors)] for row in range(len(images))])
        before = images.clone()
        for image, factor, pixels in zip(images, drawn, ours(images, drawn), strict=True):
            torch.testing.assert_close(pixels, theirs(image, float(factor)), rtol=0, atol=2e-6)
        assert torch.equal(images, before)


def test_sharpness_leaves_the_smallest_images() -> None:
    images = make_images(height=2)
    assert torch.equal(colour.adjust_sharpness(images, np.full(len(images), 1.5)), images)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_equals_torchvisions(bits: int) -> None:
    images = make_images()
    torch.testing.assert_close(colour.posterize(images, bits), reference.posterize(images, bits))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_solarize_equals_torchvisions(threshold: float) -> None:
    images = make_images()
    torch.testing.assert_close(colour.solarize(images, threshold), reference.solarize(images, threshold))


@pytest.mark.parametrize(("height", "width"), [(24, 32), (4, 5), (100, 100)])
def test_autocontrast_and_equalize_equal_torchvisions(height: int, width: int) -> None:
    images = make_images(height=height, width=width)
    images[5] = images[5] * 0.3 + 0.2
    images[6] = (images[6] * 3).round() / 3
    images[7] = images[7] ** 4
    torch.testing.assert_close(colour.autocontrast(images), reference.autocontrast(images))
    for image, pixels in zip(images, colour.equalize(images), strict=True):
        torch.testing.assert_close(pixels, reference.equalize(image), rtol=0, atol=1 / 255 + 1e-6)
    levels = (images * 255).round() / 255
    exact = reference.equalize((levels * 255).round().to(torch.uint8))
    assert torch.equal((colour.equalize(levels) * 255).round().to(torch.uint8), exact)


def test_jitter_equals_torchvisions_in_every_order() -> None:
    orders = np.array(list(itertools.permutations(range(4))))
    images = make_images(num=24)
    factors = draw(4, 24) * np.array([2, 2, 2, 1]) - np.array([0, 0, 0, 0.5])
    is_on = np.arange(24) % 5 != 0
    ours = colour.jitter(images, colour.Jitter(orders, factors, is_on))
    parts = [theirs for _, theirs, _ in (ADJUSTMENTS[0], ADJUSTMENTS[1], ADJUSTMENTS[2], ADJUSTMENTS[4])]
    for image, order, row, on, pixels in zip(images, orders, factors, is_on, ours, strict=True):
        for part in order if on else ():
            image = parts[part](image, float(row[part]))
        torch.testing.assert_close(pixels, image, rtol=0, atol=2e-5)


def test_jitter_follows_torchvisions_law() -> None:
    drawn = colour.draw_jitter(draw(colour.NUM_JITTER_UNIFORMS), (0.4, 1.5, 0.0, 0.1), 0.8)
    transform = v2.ColorJitter(0.4, 1.5, 0.0, 0.1)
    theirs = draw_theirs(transform, 4, 4, ("brightness_factor", "contrast_factor", "hue_factor"))
    for ours, other in zip(drawn.factors[:, [0, 1, 3]].T, theirs.T, strict=True):
        same_law(ours, other)
    assert (drawn.factors[:, 2] == 1.0).all()
    counts = np.unique(drawn.orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > MIN_P
    assert stats.binomtest(int(drawn.is_on.sum()), len(drawn.is_on), 0.8).pvalue > MIN_P
    columns = np.column_stack([drawn.orders[:, 0], drawn.is_on, drawn.factors[:, [0, 1, 3]]])
    assert abs(np.corrcoef(columns.T) - np.eye(5)).max() < 0.04


# RandAugment

THEIR_NAMES = tuple(v2.RandAugment._AUGMENTATION_SPACE)


def apply_theirs(image: torch.Tensor, operation: int, sign: float, magnitude: int) -> torch.Tensor:
    name = THEIR_NAMES[operation]
    magnitudes, is_signed = v2.RandAugment._AUGMENTATION_SPACE[name]
    values = magnitudes(31, *image.shape[1:])
    value = 0.0 if values is None else float(values[magnitude]) * (sign if is_signed else 1.0)
    return v2.RandAugment()._apply_image_or_video_transform(image, name, value, InterpolationMode.NEAREST, {})


@pytest.mark.parametrize("operation", range(len(OPERATIONS)), ids=OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 1, 9, 21, 30])
def test_each_operation_equals_torchvisions(operation: int, magnitude: int) -> None:
    images = make_images(height=33, width=40)
    signs = np.where(np.arange(len(images)) % 2, 1.0, -1.0)
    drawn = Operations(np.full((len(images), 1), operation), signs[:, None])
    for image, sign, pixels in zip(images, signs, rand_augment(images, drawn, magnitude), strict=True):
        theirs = apply_theirs(image, operation, sign, magnitude)
        is_other = ((pixels - theirs).abs() > 1 / 255 + 1e-5).float().mean()
        assert is_other <= (0.002 if 1 <= operation <= 5 else 0.0)  # a tie may fall to the other neighbour


def test_a_grey_level_on_the_solarize_threshold_is_inverted_as_in_eight_bits() -> None:
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 4, 256)
    solarize = OPERATIONS.index("solarize")
    for magnitude in range(31):
        drawn = Operations(np.array([[solarize]]), np.array([[1.0]]))
        ours = rand_augment(levels[None].float() * (1 / 255), drawn, magnitude)[0]
        theirs = apply_theirs(levels, solarize, 1.0, magnitude)
        if magnitude % 2 == 0:  # threshold 255 - 8.5 magnitude is a grey level
            assert ours[0, 0, 255 - 17 * magnitude // 2] == pytest.approx(17 * magnitude / 2 / 255, abs=1e-6)
        is_other = (ours * 255).round().to(torch.uint8) != theirs
        assert is_other.float().mean() <= 1 / 256  # torchvision's own threshold is off by rounding for some


def test_shifts_are_torchvisions_for_every_side_and_magnitude() -> None:
    for side, magnitude, sign in itertools.product([*range(1, 260), 331, 384, 512, 662], range(31), (-1.0, 1.0)):
        for name in ("TranslateX", "TranslateY"):
            theirs = int(float(v2.RandAugment._AUGMENTATION_SPACE[name][0](31, side, side)[magnitude]) * sign)
            ours = move_matrix(OPERATIONS[THEIR_NAMES.index(name)], sign, magnitude, side, side)
            assert -ours[:, 2].sum() == theirs


def test_several_operations_follow_one_another() -> None:
    images = make_images()
    drawn = draw_operations(draw(6, len(images)))
    ours = rand_augment(images, drawn, 9)
    for row in range(len(images)):
        one = images[row : row + 1]
        for place in range(3):
            step = Operations(*(part[row : row + 1, place : place + 1] for part in drawn))
            one = rand_augment(one, step, 9)
        torch.testing.assert_close(ours[row], one[0], rtol=0, atol=1e-5)


def test_operations_are_torchvisions_and_evenly_drawn() -> None:
    renamed = {"color": "saturation", "autocontrast": "autocontrast"}
    theirs = [name.lower() for name in THEIR_NAMES]
    assert [renamed.get(name, name) for name in theirs] == [name.replace("-", "") for name in OPERATIONS]
    drawn = draw_operations(draw(4))
    for place in range(2):
        counts = np.bincount(drawn.choices[:, place])
        assert len(counts) == 14
        assert stats.chisquare(counts).pvalue > MIN_P
        positive = int((drawn.signs[:, place] == 1.0).sum())
        assert stats.binomtest(positive, len(drawn.signs)).pvalue > MIN_P
    assert set(np.unique(drawn.signs)) == {-1.0, 1.0}
    cells = np.histogram2d(*drawn.choices.T, bins=14)[0]
    assert stats.chisquare(cells.ravel()).pvalue > MIN_P


# erasing, mixup, cutmix


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 32), (30, 200), (4, 3)])
def test_erased_boxes_follow_torchvisions_law(height: int, width: int) -> None:
    ours = mixing.draw_erasing(draw(mixing.NUM_ERASING_UNIFORMS), (height, width), 1.0)
    names = ("i", "j", "h", "w")
    theirs = draw_theirs(v2.RandomErasing(p=1.0), height, width, names)
    theirs[(theirs[:, 2:] == [height, width]).all(axis=1)] = 0  # how torchvision says that none fitted
    for column in range(4):
        same_law(ours[:, column], theirs[:, column])


def test_erasing_has_its_probability_and_equals_torchvisions() -> None:
    boxes = mixing.draw_erasing(draw(mixing.NUM_ERASING_UNIFORMS), (24, 32), 0.25)
    assert stats.binomtest(int((boxes[:, 2] > 0).sum()), len(boxes), 0.25).pvalue > MIN_P
    images = make_images(num=40) - 0.5
    ours = mixing.erase(images, boxes[:40])
    for image, box, pixels in zip(images, boxes.tolist(), ours, strict=False):
        assert torch.equal(pixels, reference.erase(image, *box, torch.zeros(1)) if box[2] else image)


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.4, 0.5, 1.0, 3.0, 40.0])
def test_shares_follow_the_beta_law(alpha: float) -> None:
    shares = np.array([mixing.draw_symmetric_beta(pair, alpha) for pair in draw(2)])
    assert shares.min() >= 0.0
    assert shares.max() <= 1.0
    inner = shares[(shares > 1e-12) & (shares < 1 - 1e-12)]  # nearer to 1 a float64 has no room
    low, high = stats.beta.cdf([1e-12, 1 - 1e-12], alpha, alpha)
    assert stats.kstest(inner, lambda x: (stats.beta.cdf(x, alpha, alpha) - low) / (high - low)).pvalue > MIN_P


@pytest.mark.parametrize("pair", [(0.0, 0.0), (0.0, 0.5), (0.0, 0.25), (1 - 2**-53, 0.25), (1 - 2**-53, 0.0)])
@pytest.mark.parametrize("alpha", [1e-6, 0.2, 1.0, 100.0])
def test_a_share_is_finite_at_the_edges(pair, alpha) -> None:
    assert 0.0 <= mixing.draw_symmetric_beta(np.array(pair), alpha) <= 1.0


def test_mixup_equals_torchvisions() -> None:
    images, targets = make_images(), torch.eye(8)
    ours = mixing.mix(images, targets, 0.3)
    params = {"lam": 0.3, "labels": targets, "batch_size": 8}
    torch.testing.assert_close(ours[0], v2.MixUp().transform(images, params))
    torch.testing.assert_close(ours[1], v2.MixUp().transform(targets, params))


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 20), (1, 1)])
def test_cut_boxes_follow_torchvisions_law(height: int, width: int) -> None:
    uniforms = draw(4)
    ours = np.array(
        [mixing.draw_cut(row[2:], mixing.draw_symmetric_beta(row[:2], 1.0), height, width) for row in uniforms]
    )
    theirs = draw_theirs(v2.CutMix(alpha=1.0), height, width, ("box",))[:, 0][:, [1, 0, 3, 2]]
    for column in range(4):
        same_law(ours[:, column], theirs[:, column])


def test_a_cut_box_takes_what_should_not_stay() -> None:
    assert mixing.draw_cut(np.array([0.5, 0.5]), 0.75, 100, 60) == (25, 15, 75, 45)
    assert mixing.draw_cut(np.array([0.0, 0.99]), 0.75, 100, 60) == (74, 0, 100, 15)


def test_cutmix_equals_torchvisions() -> None:
    images, targets = make_images(), torch.eye(8)
    ours = mixing.cut_and_mix(images, targets, (2, 3, 10, 20))
    area = 1 - 8 * 17 / (24 * 32)
    params = {"box": (3, 2, 20, 10), "lam_adjusted": area, "labels": targets, "batch_size": 8}
    assert torch.equal(ours[0], v2.CutMix().transform(images, params))
    torch.testing.assert_close(ours[1], v2.CutMix().transform(targets, params))


def test_mixing_chooses_evenly_between_the_two() -> None:
    images, targets = make_images(), torch.eye(8)
    is_cut = []
    for uniforms in draw(mixing.NUM_MIXING_UNIFORMS, 200):
        mixed, _ = mixing.mix_batch(images, targets, uniforms, mixup=1.0, cutmix=1.0)
        rolled = images.roll(1, 0)
        is_cut.append(bool(((mixed == images) | (mixed == rolled)).all()))
        one, _ = mixing.mix_batch(images, targets, uniforms, mixup=0.0, cutmix=1.0)
        assert ((one == images) | (one == rolled)).all()
    assert stats.binomtest(sum(is_cut), len(is_cut)).pvalue > MIN_P
    assert mixing.mix_batch(images, targets, uniforms, mixup=0.0, cutmix=0.0) == (images, targets)
