"""Changes of colour; images are (b, 3, H, W) float32 in 0..1, results too. After torchvision's float functions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbench.training.augment.rows import as_column, change_by_choice

NUM_JITTER_UNIFORMS = 9
NUM_LEVELS = 256


class Jitter(NamedTuple):
    """Drawn parameters of `jitter`, one row for each image.

    orders: (b, 4) int, each row the order of 0 brightness, 1 contrast, 2 saturation, 3 hue.
    factors: (b, 4) float64: three factors (1: no change), and the hue shift (0: no change).
    is_on: (b,) bool; False: the image is unchanged.
    """

    orders: np.ndarray
    factors: np.ndarray
    is_on: np.ndarray


def draw_jitter(uniforms: np.ndarray, strengths: tuple[float, float, float, float], probability: float) -> Jitter:
    """Draw parameters as torchvision's `ColorJitter`, applied with a probability.

    Args:
        uniforms: (b, NUM_JITTER_UNIFORMS) in [0, 1).
        strengths: brightness, contrast, saturation (factor in [max(0, 1 - s), 1 + s]) and hue (turn in [-s, s]).
    """
    strong = np.array(strengths)
    low = np.array([*np.maximum(0.0, 1.0 - strong[:3]), -strong[3]])
    high = np.array([*(1.0 + strong[:3]), strong[3]])
    return Jitter(
        orders=np.argsort(uniforms[:, 1:5], axis=1, kind="stable"),
        factors=low + uniforms[:, 5:9] * (high - low),
        is_on=uniforms[:, 0] < probability,
    )


def jitter(images: Tensor, drawn: Jitter) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image in its own order."""
    parts = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    neutral = np.array([1.0, 1.0, 1.0, 0.0])
    needed = [part for part in range(4) if (drawn.factors[:, part] != neutral[part]).any()]
    for place in range(4):
        choices = np.where(drawn.is_on, drawn.orders[:, place], -1)
        changes = {
            part: lambda some, rows, part=part: parts[part](some, drawn.factors[rows, part]) for part in needed
        }
        images = change_by_choice(images, choices, changes)
    return images


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blend(images: Tensor, others: Tensor, factors: np.ndarray) -> Tensor:
    """Factor 1 gives `images`, 0 gives `others`, more than 1 goes beyond."""
    share = as_column(factors, images)
    return (images * share).addcmul_(others, 1.0 - share).clamp_(0.0, 1.0)


def adjust_brightness(images: Tensor, factors: np.ndarray) -> Tensor:
    """Multiply by `factors` ((b,), at least 0)."""
    return (images * as_column(factors, images)).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factors: np.ndarray) -> Tensor:
    """Move away from (factor above 1) or to (below 1) the mean grey of each image."""
    return _blend(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), factors)


def adjust_saturation(images: Tensor, factors: np.ndarray) -> Tensor:
    """Move away from (factor above 1) or to (below 1) each pixel's grey."""
    return _blend(images, _grey(images), factors)


def adjust_sharpness(images: Tensor, factors: np.ndarray) -> Tensor:
    """Move away from (factor above 1) or to (below 1) a 3 x 3 blur; the outermost pixels are unchanged."""
    if min(images.shape[2:]) <= 2:
        return images
    inner = images[..., 1:-1, 1:-1]
    columns = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    sums = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]
    blurred = sums.add_(inner, alpha=4.0).mul_(1 / 13)  # the kernel: ones, and a five in the middle
    sharp = images.clone()
    sharp[..., 1:-1, 1:-1] = _blend(inner, blurred, factors)
    return sharp


def adjust_hue(images: Tensor, turns: np.ndarray) -> Tensor:
    """Turn the hue of HSV by `turns` ((b,), -0.5..0.5 of the full circle); saturation and value stay.

    Back from HSV, a channel is value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 hue) mod 6 and
    n = 5, 3, 1 for red, green, blue: the usual six cases in one line.
    """
    red, green, blue = images.unbind(dim=1)
    low, value = images.aminmax(dim=1)
    chroma = value - low
    safe = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    sixths = sixths + 6.0 * as_column(turns, images)[:, 0]
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = torch.remainder(sixths + offset, 6.0)
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0))
    return torch.stack(channels, dim=1).clamp_(0.0, 1.0)


def posterize(images: Tensor, bits: int) -> Tensor:
    """Keep 2**bits grey levels of each channel."""
    levels = 1 << bits
    return (images * levels).floor_().clamp_(0, levels - 1).mul_(1.0 / levels)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert values at or above `threshold` (0..1)."""
    return torch.where(images >= threshold, 1.0 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to 0..1; a channel with one value is unchanged."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    is_flat = low == high
    low = torch.where(is_flat, 0.0, low)
    span = torch.where(is_flat, 1.0, high - low)
    return ((images - low) / span).clamp_(0.0, 1.0)


def equalize(images: Tensor) -> Tensor:
    """Spread each channel's grey levels evenly over 0..255, by Pillow's table (`ImageOps.equalize`)."""
    levels = (images * (NUM_LEVELS - 1e-3)).to(torch.int64).clamp_(0, NUM_LEVELS - 1).flatten(2)
    counts = torch.zeros((*levels.shape[:2], NUM_LEVELS), dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones((), dtype=torch.int64, device=images.device).expand_as(levels))
    below = counts.cumsum(dim=2)
    num_brightest = counts.gather(2, levels.amax(dim=2, keepdim=True))
    step = (levels.shape[2] - num_brightest) // (NUM_LEVELS - 1)
    table = (F.pad(below[..., :-1], (1, 0)) + step // 2) // step.clamp(min=1)
    table[..., 0] = 0
    table = table.clamp_(0, NUM_LEVELS - 1).to(images.dtype) / (NUM_LEVELS - 1)
    equal = table.gather(2, levels).view_as(images)
    return torch.where((step == 0)[..., None], images, equal)
