"""The one entry the training loop calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from backbench.config import Augment, Preprocess
from backbench.engine.augment import colour, geometry, mixing
from backbench.engine.augment.rand_augment import draw_operations, rand_augment
from backbench.engine.order import draw_uniforms
from backbench.engine.resize import prepare_batch

CACHE_BYTES = 2 << 20
Draw = Callable[[int, str], np.ndarray]
"""(how many numbers for each image, what for) -> (b, that many) uniform numbers."""


def augment_batch(
    images: Sequence[np.ndarray],
    targets: Tensor,
    augment: Augment,
    preprocess: Preprocess,
    *,
    seed: int,
    epoch: int,
    step: int,
    indices: np.ndarray,
    num_classes: int,
    device: str = "cpu",
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """Decoded training images to the network's input, augmented, and their targets.

    In torchvision's usual order: crop and resize, flips, jitter, RandAugment, normalise, erasing, mixup or cutmix.
    An image's pixels before mixing are a function of (image, augment, preprocess, seed, epoch, index): the batch
    it is in, the step, the worker and the process change nothing. Mixing is a function of (seed, epoch, step) and
    of the images of the whole batch: a batch that is split into micro-batches is to be augmented before.

    Args:
        images: b images of the training part, each (h, w, 3) uint8.
        targets: (b, num_classes) float, rows summing to 1: one-hot or smoothed labels.
        augment: what to do; with everything off the batch is that of `prepare_batch`, bit for bit.
        step: the number of this batch in its epoch, or in the run.
        indices: (b,) each image's place in the training part, the same in every epoch.
        device: where the result is wanted; everything after the crop is done there.
        exact: resize by Pillow itself, as in `prepare_batch`.

    Returns:
        (b, 3, H, W) float32, normalised, channels last in memory, and (b, num_classes) float32; both on `device`.

    torch's global generators are neither read nor moved.
    """
    if not len(images) == len(targets) == len(indices) or targets.shape[1:] != (num_classes,):
        raise ValueError(
            f"{len(images)} images, {len(indices)} indices, targets {tuple(targets.shape)}, {num_classes} classes"
        )
    targets = targets.to(device=device, dtype=torch.float32)
    batch = torch.empty((len(images), 3, *preprocess.size), device=device, memory_format=torch.channels_last)
    for rows in _blocks(len(images), preprocess, device):
        draw = partial(_draw, seed=seed, epoch=epoch, indices=np.asarray(indices)[rows])
        batch[rows] = _augment_images(images[rows], augment, preprocess, draw, device=device, exact=exact)
    chance = draw_uniforms(seed, epoch, np.array([step]), mixing.NUM_MIXING_UNIFORMS, "augment/mixing")[0]
    return mixing.mix_batch(batch, targets, chance, mixup=augment.mixup, cutmix=augment.cutmix)


def _blocks(num: int, preprocess: Preprocess, device: str) -> Iterator[slice]:
    """Rows to work on together: as many as stay in a core's cache, all at once on an accelerator."""
    image_bytes = 3 * math.prod(preprocess.size) * 4
    block = max(1, CACHE_BYTES // image_bytes) if device == "cpu" else num
    return (slice(first, first + block) for first in range(0, num, block))


def _draw(num: int, use: str, *, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    return draw_uniforms(seed, epoch, indices, num, f"augment/{use}")


def _augment_images(
    images: Sequence[np.ndarray], augment: Augment, preprocess: Preprocess, draw: Draw, *, device: str, exact: bool
) -> Tensor:
    """All but mixing: (b, 3, H, W), normalised."""
    if not _changes_pixels(augment):
        batch = prepare_batch(images, preprocess, device=device, exact=exact)
    else:
        levels = _crop(images, augment, preprocess, draw, device=device, exact=exact)
        if _changes_colours(augment):
            batch = _normalise(_recolour(levels, augment, draw), preprocess, white=1.0)
        else:
            batch = _normalise(levels, preprocess, white=255.0)
    if augment.erasing:
        uniforms = draw(mixing.NUM_ERASING_UNIFORMS, "erasing")
        batch = mixing.erase(batch, mixing.draw_erasing(uniforms, preprocess.size, augment.erasing))
    return batch


def _changes_pixels(augment: Augment) -> bool:
    return augment.model_copy(update={"erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}) != Augment()


def _changes_colours(augment: Augment) -> bool:
    return any((*_jitter_strengths(augment), augment.rand_augment is not None))


def _jitter_strengths(augment: Augment) -> tuple[float, float, float, float]:
    return augment.brightness, augment.contrast, augment.saturation, augment.hue


def _crop(
    images: Sequence[np.ndarray], augment: Augment, preprocess: Preprocess, draw: Draw, *, device: str, exact: bool
) -> Tensor:
    """Crop, resize and flip: (b, 3, H, W) uint8, channels last in memory."""
    if augment.crop == "random-resized":
        heights, widths = np.array([image.shape[:2] for image in images]).T
        uniforms = draw(geometry.NUM_CROP_UNIFORMS, "crop")
        boxes = geometry.draw_crop_boxes(uniforms, heights, widths, augment.scale, augment.ratio)
        levels = geometry.crop_resize(
            images, boxes, preprocess.size, preprocess.interpolation, device=device, exact=exact
        )
    else:
        plain = preprocess.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
        levels = prepare_batch(images, plain, device=device, exact=exact).mul_(255).round_().to(torch.uint8)
    if augment.crop == "pad":
        offsets = geometry.draw_pad_offsets(draw(2, "pad"), augment.padding)
        levels = geometry.pad_crop(levels, offsets, augment.padding)
    if augment.flip:
        levels = geometry.flip(levels, draw(1, "flip")[:, 0] < 0.5)
    if augment.vertical_flip:
        levels = geometry.flip(levels, draw(1, "vertical-flip")[:, 0] < 0.5, vertical=True)
    return levels


def _recolour(levels: Tensor, augment: Augment, draw: Draw) -> Tensor:
    """(b, 3, H, W) uint8 -> float32 in 0..1, jitter and RandAugment applied."""
    pixels = levels.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    strengths = _jitter_strengths(augment)
    if any(strengths):
        uniforms = draw(colour.NUM_JITTER_UNIFORMS, "jitter")
        pixels = colour.jitter(pixels, colour.draw_jitter(uniforms, strengths, augment.jitter_probability))
    if augment.rand_augment is not None:
        num_ops, magnitude = augment.rand_augment
        pixels = rand_augment(pixels, draw_operations(draw(2 * num_ops, "rand-augment")), magnitude)
    return pixels


def _normalise(pixels: Tensor, preprocess: Preprocess, *, white: float) -> Tensor:
    """(b, 3, H, W) in 0..white -> float32, (pixels / white - mean) / std, channels last in memory."""
    b, _, height, width = pixels.shape
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    # One row of pixels at a time: three channels alone are too few for the vector units.
    factor = (1 / (white * std)).repeat(width).to(pixels.device)
    offset = (-mean / std).repeat(width).to(pixels.device)
    rows = pixels.permute(0, 2, 3, 1).reshape(b, height, width * 3).float()
    return torch.addcmul(offset, rows, factor).view(b, height, width, 3).permute(0, 3, 1, 2)
