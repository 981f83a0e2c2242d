"""Augmentations that replace a part of an image: erasing, mixup and cutmix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from backbench.training.augment.geometry import NUM_TRIES

ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)
NUM_ERASING_UNIFORMS = 1 + 2 * NUM_TRIES + 2
NUM_MIXING_UNIFORMS = 5


def draw_erasing(uniforms: np.ndarray, size: tuple[int, int], probability: float) -> np.ndarray:
    """Draw boxes to erase, as torchvision's `RandomErasing` (2 % to 33 % of the area, aspect ratio 0.3 to 3.3).

    Args:
        uniforms: (b, NUM_ERASING_UNIFORMS) in [0, 1).
        size: (height, width) of the images.
        probability: that an image loses a box; none is erased if ten tries do not fit.

    Returns:
        (b, 4) int64: top, left, height, width; height and width 0 if nothing is erased.
    """
    height, width = size
    tries = uniforms[:, 1 : 1 + 2 * NUM_TRIES]
    areas = height * width * (ERASED_AREA[0] + tries[:, 0::2] * (ERASED_AREA[1] - ERASED_AREA[0]))
    low, high = np.log(ERASED_ASPECT)
    aspects = np.exp(low + tries[:, 1::2] * (high - low))
    tall = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    wide = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    fits = (tall < height) & (wide < width)
    rows, first = np.arange(len(uniforms)), fits.argmax(axis=1)
    tall, wide = tall[rows, first], wide[rows, first]
    top = np.floor(uniforms[:, -2] * (height - tall + 1)).astype(np.int64)
    left = np.floor(uniforms[:, -1] * (width - wide + 1)).astype(np.int64)
    is_on = (uniforms[:, 0] < probability) & fits.any(axis=1)
    return np.where(is_on[:, None], np.stack([top, left, tall, wide], axis=1), 0)


def erase(images: Tensor, boxes: np.ndarray) -> Tensor:
    """Set boxes ((b, 4) int64: top, left, height, width) of (b, 3, H, W) images to 0, the mean once normalised."""
    top, left, tall, wide = torch.from_numpy(boxes).to(images.device)[:, :, None].unbind(1)
    y = torch.arange(images.shape[2], device=images.device)[None]
    x = torch.arange(images.shape[3], device=images.device)[None]
    in_rows, in_columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def draw_symmetric_beta(uniforms: np.ndarray, alpha: float) -> float:
    """A draw of Beta(alpha, alpha), alpha > 0, from two numbers in [0, 1), exactly and without rejection.

    Source: T = cos(2 pi V) sqrt(2 alpha (U^(-1/alpha) - 1)) has Student's distribution with 2 alpha degrees of
    freedom (Bailey 1994), and (1 + T / sqrt(2 alpha + T^2)) / 2 the beta distribution; safe from overflow.
    """
    power = (1.0 - float(uniforms[0])) ** (1.0 / alpha)
    cosine = math.cos(2.0 * math.pi * float(uniforms[1]))
    square = (1.0 - power) * cosine**2
    return 0.5 * (1.0 + math.copysign(math.sqrt(square / (power + square)), cosine))


def draw_cut(uniforms: np.ndarray, share: float, height: int, width: int) -> tuple[int, int, int, int]:
    """The box that cutmix takes from the other image, (top, left, bottom, right), as torchvision's `CutMix`.

    Args:
        uniforms: (2,) for the middle: across, then down.
        share: of the image to keep; the box is clipped at the edge.
    """
    x, y = int(uniforms[0] * width), int(uniforms[1] * height)
    half = 0.5 * math.sqrt(1.0 - share)
    across, down = int(half * width), int(half * height)
    return max(y - down, 0), max(x - across, 0), min(y + down, height), min(x + across, width)


def _one_before(rows: Tensor) -> Tensor:
    return torch.cat([rows[-1:], rows[:-1]])  # as roll(1, 0), but channels stay last in memory


def mix(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Mixup: `share` of each image and target, and the rest from the one before it in the batch."""
    return images.lerp(_one_before(images), 1.0 - share), targets.lerp(_one_before(targets), 1.0 - share)


def cut_and_mix(images: Tensor, targets: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Cutmix: the box of each image from the one before it in the batch, the targets by area."""
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = _one_before(images)[..., top:bottom, left:right]
    taken = (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return mixed, targets.lerp(_one_before(targets), taken)


def mix_batch(
    images: Tensor, targets: Tensor, uniforms: np.ndarray, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """One of mixup and cutmix for the whole batch, with equal probability if both are on, as in torchvision.

    Args:
        images: (b, 3, H, W); targets: (b, classes).
        uniforms: (NUM_MIXING_UNIFORMS,) in [0, 1), of this batch.
        mixup, cutmix: alpha of their beta distributions; 0: off.

    The partner is the previous image (for the first, the last): random, because the order of the epoch is.
    """
    if mixup == 0 and cutmix == 0:
        return images, targets
    is_mixup = cutmix == 0 or (mixup > 0 and uniforms[0] < 0.5)
    share = draw_symmetric_beta(uniforms[1:3], mixup if is_mixup else cutmix)
    if is_mixup:
        return mix(images, targets, share)
    return cut_and_mix(images, targets, draw_cut(uniforms[3:5], share, images.shape[2], images.shape[3]))
