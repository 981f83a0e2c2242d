"""Crops, flips, and shears, shifts and turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backbench.config import Interpolation
from backbench.inference.resize import resize_matrix
from backbench.training.augment.rows import change_by_choice

NUM_TRIES = 10
NUM_CROP_UNIFORMS = 2 * NUM_TRIES + 2
_PILLOW = {name: Image.Resampling[name.upper()] for name in ("nearest", "box", "bilinear", "bicubic", "lanczos")}
_TORCH_UINT8 = ("bilinear", "bicubic")


def draw_crop_boxes(
    uniforms: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """Draw boxes of random area, aspect ratio and place, as torchvision's `RandomResizedCrop.get_params`.

    Uses the first of ten tries that fits (area uniform, logarithm of the aspect ratio uniform), else the largest
    central box with an allowed aspect ratio.

    Args:
        uniforms: (b, NUM_CROP_UNIFORMS) in [0, 1).
        heights, widths: (b,) of the images, in pixels.
        scale: minimum and maximum area, as a share of the image.
        ratio: minimum and maximum width / height.

    Returns:
        (b, 4) int64: top, left, height, width; each inside its image.
    """
    heights, widths = np.asarray(heights), np.asarray(widths)
    areas = (heights * widths)[:, None] * _between(uniforms[:, 0 : 2 * NUM_TRIES : 2], *scale)
    aspects = np.exp(_between(uniforms[:, 1 : 2 * NUM_TRIES : 2], *np.log(ratio)))
    wide = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    high = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    fits = (wide > 0) & (wide <= widths[:, None]) & (high > 0) & (high <= heights[:, None])
    rows, first = np.arange(len(uniforms)), fits.argmax(axis=1)
    wide, high = wide[rows, first], high[rows, first]
    top = np.floor(uniforms[:, -2] * (heights - high + 1)).astype(np.int64)
    left = np.floor(uniforms[:, -1] * (widths - wide + 1)).astype(np.int64)
    drawn = np.stack([top, left, high, wide], axis=1)
    return np.where(fits.any(axis=1)[:, None], drawn, _central_boxes(heights, widths, ratio))


def _between(uniforms: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + uniforms * (high - low)


def _central_boxes(heights: np.ndarray, widths: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    high = np.where(widths / heights < ratio[0], np.rint(widths / ratio[0]), heights).astype(np.int64)
    wide = np.where(widths / heights > ratio[1], np.rint(heights * ratio[1]), widths).astype(np.int64)
    return np.stack([(heights - high) // 2, (widths - wide) // 2, high, wide], axis=1)


def crop_resize(
    images: Sequence[np.ndarray],
    boxes: np.ndarray,
    size: tuple[int, int],
    interpolation: Interpolation,
    *,
    device: str = "cpu",
    exact: bool = False,
) -> Tensor:
    """Cut a box out of each image and resize it, as `inference.resize` resizes: antialiased, to whole grey levels.

    Args:
        images: each (h, w, 3) uint8.
        boxes: (b, 4) int: top, left, height, width, inside the image.
        size: (height, width) of the result.
        exact: resize with Pillow; otherwise values may differ by single grey levels.

    Returns:
        (b, 3, height, width) uint8 on `device`, channels last in memory.

    Cost: about 0.5 ms of a core an image for 224 x 224. On an accelerator, images that are all of one size and
    no larger than the result are resized there, by two matrix products each.
    """
    shapes = {image.shape for image in images}
    is_small = len(shapes) == 1 and np.prod(images[0].shape[:2]) <= size[0] * size[1]
    if device != "cpu" and is_small and not exact:
        return resample_boxes(torch.from_numpy(np.stack(images)).to(device), boxes, size, interpolation)
    resized = np.empty((len(images), *size, 3), dtype=np.uint8)
    for image, (top, left, high, wide), target in zip(images, boxes, resized, strict=True):
        target[:] = _resize(image[top : top + high, left : left + wide], size, interpolation, exact=exact)
    return torch.from_numpy(resized).to(device).permute(0, 3, 1, 2)


def _resize(pixels: np.ndarray, size: tuple[int, int], interpolation: Interpolation, *, exact: bool) -> np.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    if exact or interpolation not in _TORCH_UINT8:
        method = _PILLOW[interpolation]
        narrowed = Image.fromarray(pixels).resize(
            (size[1], len(pixels)), method
        )  # horizontal first in every version of Pillow
        return np.asarray(narrowed.resize(size[::-1], method))
    image = torch.from_numpy(pixels[None].copy()).permute(0, 3, 1, 2)  # channels last: torch's fast kernels
    return F.interpolate(image, size=size, mode=interpolation, antialias=True).permute(0, 2, 3, 1)[0].numpy()


def resample_boxes(
    stack: Tensor, boxes: np.ndarray, size: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """As `crop_resize`, for a (b, h, w, 3) uint8 tensor on its device: one matrix for each direction and image."""
    b, h, w, _ = stack.shape
    down = np.zeros((b, size[0], h), dtype=np.float32)
    across = np.zeros((b, size[1], w), dtype=np.float32)
    for row, (top, left, high, wide) in enumerate(boxes.tolist()):
        down[row, :, top : top + high] = resize_matrix(high, size[0], interpolation)
        across[row, :, left : left + wide] = resize_matrix(wide, size[1], interpolation)
    lines = stack.permute(0, 3, 1, 2).float().reshape(b, 3 * h, w)
    lines = torch.bmm(lines, torch.from_numpy(across).to(stack.device).mT).add_(0.5).floor_().clamp_(0, 255)
    columns = lines.view(b, 3, h, size[1])
    levels = torch.matmul(torch.from_numpy(down).to(stack.device)[:, None], columns).add_(0.5).floor_()
    return levels.clamp_(0, 255).to(torch.uint8, memory_format=torch.channels_last)


def draw_pad_offsets(uniforms: np.ndarray, padding: int) -> np.ndarray:
    """(b, 2) uniforms -> (b, 2) int64 (top, left) in 0..2 padding: as torchvision's `RandomCrop`."""
    return np.floor(uniforms * (2 * padding + 1)).astype(np.int64)


def pad_crop(images: Tensor, offsets: np.ndarray, padding: int) -> Tensor:
    """Surround (b, 3, H, W) images with `padding` black pixels, and cut out (H, W) at `offsets` ((b, 2) int64)."""
    height, width = images.shape[2:]
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.from_numpy(offsets).to(images.device).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip(images: Tensor, is_flipped: np.ndarray, *, vertical: bool = False) -> Tensor:
    """Mirror the images for which `is_flipped` ((b,) bool) left to right, or upside down if `vertical`."""
    axis = 2 if vertical else 3
    return change_by_choice(images, np.asarray(is_flipped), {True: lambda some, _: some.flip(axis)})


def map_nearest(images: Tensor, matrices: np.ndarray) -> Tensor:
    """Move pixels by affine maps, each new pixel the nearest old one, black outside.

    Args:
        images: (b, 3, H, W).
        matrices: (b, 2, 3): (x, y) of the old pixel from (x, y, 1) of the new one, in pixels from the middle.

    The arithmetic is torchvision's (`_affine_grid`, in float32), so that ties give the same pixel except
    for rounding. It is computed by element, because a matrix product may round differently in another batch.
    """
    height, width = images.shape[2:]
    x = torch.linspace((1 - width) * 0.5, (width - 1) * 0.5, width, device=images.device)[None, None, :]
    y = torch.linspace((1 - height) * 0.5, (height - 1) * 0.5, height, device=images.device)[None, :, None]
    scaled = matrices / np.array([[[0.5 * width], [0.5 * height]]])
    theta = torch.from_numpy(scaled.astype(np.float32)).to(images.device)[..., None, None]
    axes = [theta[:, axis, 0] * x + theta[:, axis, 1] * y + theta[:, axis, 2] for axis in (0, 1)]
    return F.grid_sample(images, torch.stack(axes, dim=-1), "nearest", "zeros", align_corners=False)
