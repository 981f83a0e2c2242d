"""The inputs of the shortcut baselines: facts of an image file and its colours, but no shapes."""

from __future__ import annotations

import math

import numpy as np

from backbench.data.decode import Header

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "other")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "other")
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L"})

FACT_NAMES = (
    "log_width",
    "log_height",
    "log_aspect",
    "log_bytes",
    *(f"format_{name}" for name in FORMATS),
    *(f"mode_{name}" for name in MODES),
    "has_exif",
    "was_grey",
)
"""Logarithms are natural; the rest is 0 or 1."""

PLANES = ("red", "green", "blue", "brightness")
NUM_BINS = 10
COLOUR_NAMES = (
    *(f"{plane}_mean" for plane in PLANES),
    *(f"{plane}_std" for plane in PLANES),
    *(f"{plane}_share_{index}" for plane in PLANES for index in range(NUM_BINS)),
    "saturation_mean",
    "saturation_std",
)
"""All in 0..1; `red_share_3` is the share of pixels whose red is in the fourth tenth of the range."""

MAX_MEASURED_PIXELS = 1 << 14
_BIN_STARTS = np.array([math.ceil(256 * index / NUM_BINS) for index in range(NUM_BINS)])
_LEVELS = np.arange(256) / 255


def measure_file(header: Header) -> np.ndarray:
    """(len(FACT_NAMES),) float32: facts from the header and the size of a file."""
    mode = header.mode.partition(";16")[0] + ";16" if header.mode.startswith("I;16") else header.mode
    width, height = max(header.width, 1), max(header.height, 1)
    values = [math.log(width), math.log(height), math.log(width / height), math.log(max(header.num_bytes, 1))]
    values += _one_hot(header.format, FORMATS) + _one_hot(mode, MODES)
    values += [float(header.has_exif), float(header.mode in GREY_MODES)]
    return np.array(values, dtype=np.float32)


def measure_array(width: int, height: int) -> np.ndarray:
    """(len(FACT_NAMES),) float32 for an image that came without a file: its size only."""
    facts = np.zeros(len(FACT_NAMES), dtype=np.float32)
    facts[:4] = math.log(width), math.log(height), math.log(width / height), math.log(3 * width * height)
    return facts


def measure_colours(images: np.ndarray) -> np.ndarray:
    """(n, height, width, 3) uint8 -> (n, len(COLOUR_NAMES)) float32: means, spreads and histograms.

    Large images are measured on every k-th row and column, at most about 16,000 pixels each.
    """
    num, height, width = images.shape[:3]
    step = max(1, math.ceil(math.sqrt(height * width / MAX_MEASURED_PIXELS)))
    planes = np.ascontiguousarray(images[:, ::step, ::step].transpose(3, 0, 1, 2)).reshape(3, num, -1)
    red, green, blue = planes.astype(np.uint16)
    brightness = (red * 77 + green * 150 + blue * 29) >> 8  # at most 255 * 256: fits
    shares = np.stack([_count_levels(plane) for plane in (*planes, brightness)], axis=1)
    means = shares @ _LEVELS
    spreads = np.sqrt(np.maximum(shares @ _LEVELS**2 - means**2, 0))
    bins = np.add.reduceat(shares, _BIN_STARTS, axis=2).reshape(num, -1)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = (high - low) / np.maximum(high, 1).astype(np.float32)
    columns = [means, spreads, bins, saturation.mean(axis=1)[:, None], saturation.std(axis=1)[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _count_levels(plane: np.ndarray) -> np.ndarray:
    """(n, pixels) of 0..255 -> (n, 256) shares."""
    num, num_pixels = plane.shape
    offsets = 256 * np.arange(num, dtype=np.intp)[:, None]
    return np.bincount((plane + offsets).ravel(), minlength=256 * num).reshape(num, 256) / num_pixels


def _one_hot(name: str, names: tuple[str, ...]) -> list[float]:
    found = name if name in names else "other"
    return [float(found == known) for known in names]
