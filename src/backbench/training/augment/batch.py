"""The one entry the training loop calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from backbench.config import Augment, Preprocess
from backbench.inference.resize import prepare_batch
from backbench.training.augment import colour, geometry, mixing
from backbench.training.augment.draw import Drawn, draw_parameters
from backbench.training.augment.rand_augment import rand_augment
from backbench.training.order import draw_uniforms

CACHE_BYTES = 1 << 20
"""Bytes of float32 pixels to process at once: fits a core's second-level cache."""


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
    """Augment decoded training images and convert them to the network's input, with their targets.

    In torchvision's usual order: crop and resize, flips, jitter, RandAugment, normalise, erasing, mixup or cutmix.
    An image's pixels before mixing are a function of (image, augment, preprocess, seed, epoch, index), independent
    of batch, step, worker and process. Mixing is a function of (seed, epoch, step) and of the images of the whole
    batch: augment before splitting a batch into micro-batches.

    Args:
        images: b images of the training split, each (h, w, 3) uint8.
        targets: (b, num_classes) float, rows summing to 1: one-hot or smoothed labels.
        augment: the settings; with everything off the result equals `prepare_batch`, bit for bit.
        step: the number of this batch in its epoch, or in the run.
        indices: (b,) each image's place in the training split, the same in every epoch.
        device: device of the result; all steps after the crop run there.
        exact: resize with Pillow, as in `prepare_batch`.

    Returns:
        (b, 3, H, W) float32, normalised, channels last in memory, and (b, num_classes) float32; both on `device`.

    torch's global generators are not used or changed.
    """
    if not len(images) == len(targets) == len(indices) or targets.shape[1:] != (num_classes,):
        raise ValueError(
            f"{len(images)} images, {len(indices)} indices, targets {tuple(targets.shape)}, {num_classes} classes"
        )
    targets = targets.to(device=device, dtype=torch.float32)
    shapes = np.array([image.shape[:2] for image in images])
    drawn = draw_parameters(augment, shapes, preprocess.size, seed=seed, epoch=epoch, indices=indices)
    batch = torch.empty((len(images), 3, *preprocess.size), device=device, memory_format=torch.channels_last)
    for rows in _blocks(len(images), preprocess, device):
        batch[rows] = _augment_images(
            images[rows], augment, drawn.part(rows), preprocess, device=device, exact=exact
        )
    chance = draw_uniforms(seed, epoch, np.array([step]), mixing.NUM_MIXING_UNIFORMS, "augment/mixing")[0]
    return mixing.mix_batch(batch, targets, chance, mixup=augment.mixup, cutmix=augment.cutmix)


def _blocks(num: int, preprocess: Preprocess, device: str) -> Iterator[slice]:
    """Blocks of rows: as many as fit a core's cache, or all at once on an accelerator."""
    image_bytes = 3 * math.prod(preprocess.size) * 4
    block = max(1, CACHE_BYTES // image_bytes) if device == "cpu" else num
    return (slice(first, first + block) for first in range(0, num, block))


def _augment_images(
    images: Sequence[np.ndarray],
    augment: Augment,
    drawn: Drawn,
    preprocess: Preprocess,
    *,
    device: str,
    exact: bool,
) -> Tensor:
    """All but mixing: (b, 3, H, W), normalised, channels last in memory."""
    if drawn.is_empty:
        batch = prepare_batch(images, preprocess, device=device, exact=exact)
    else:
        levels = _crop(images, augment, drawn, preprocess, device=device, exact=exact)
        if drawn.jitter is None and drawn.operations is None:
            batch = _normalise(levels, preprocess, white=255.0)
        else:
            batch = _normalise(_recolour(levels, augment, drawn), preprocess, white=1.0)
    return batch if drawn.erased is None else mixing.erase(batch, drawn.erased)


def _crop(
    images: Sequence[np.ndarray],
    augment: Augment,
    drawn: Drawn,
    preprocess: Preprocess,
    *,
    device: str,
    exact: bool,
) -> Tensor:
    """Crop, resize and flip: (b, 3, H, W) uint8, channels last in memory."""
    if drawn.boxes is not None:
        levels = geometry.crop_resize(
            images, drawn.boxes, preprocess.size, preprocess.interpolation, device=device, exact=exact
        )
    else:
        plain = preprocess.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
        levels = prepare_batch(images, plain, device=device, exact=exact).mul_(255).round_().to(torch.uint8)
    if drawn.offsets is not None:
        levels = geometry.pad_crop(levels, drawn.offsets, augment.padding)
    if drawn.is_flipped is not None:
        levels = geometry.flip(levels, drawn.is_flipped)
    if drawn.is_turned is not None:
        levels = geometry.flip(levels, drawn.is_turned, vertical=True)
    return levels


def _recolour(levels: Tensor, augment: Augment, drawn: Drawn) -> Tensor:
    """(b, 3, H, W) uint8 -> float32 in 0..1, jitter and RandAugment applied."""
    pixels = levels.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    if drawn.jitter is not None:
        pixels = colour.jitter(pixels, drawn.jitter)
    if drawn.operations is not None and augment.rand_augment is not None:
        pixels = rand_augment(pixels, drawn.operations, augment.rand_augment[1])
    return pixels


def _normalise(pixels: Tensor, preprocess: Preprocess, *, white: float) -> Tensor:
    """(b, 3, H, W) in 0..white -> float32, (pixels / white - mean) / std, channels last in memory."""
    b, _, height, width = pixels.shape
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    # One row of pixels at a time: three channels are too few for the vector units.
    factor = (1 / (white * std)).repeat(width).to(pixels.device)
    offset = (-mean / std).repeat(width).to(pixels.device)
    rows = pixels.permute(0, 2, 3, 1).reshape(b, height, width * 3).float()
    return torch.addcmul(offset, rows, factor).view(b, height, width, 3).permute(0, 3, 1, 2)
