"""The grey scale of a source: which values of images with more than 8 bits are black and white.

All images of a source share one scale, so that equal values look the same. It depends only on the values of all
images, not on order, labels, splits or threads:

* Each image has a black and a white point: its minimum and maximum without a thousandth of its pixels at each
  end (at least one pixel if there are 64 or more), because a hot or dead pixel is not part of the picture.
* * Of 20 or more images, one percent (at least one) may exceed the scale at each end and is clipped.
* The scale is 0 to 255, 511, 1023, ... or 65535: the first range that holds all others (for floats also 0 to 1),
as for 8,
  12 and 16 bits. If the values use less than a quarter of it, are negative or larger, the scale is from the
  smallest black point to the largest white point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backbench.config import GreyScale
from backbench.wording import count, list_some, quote

UNSCALED = (
    "with more than 8 bits, but the model was trained on 8-bit images, so their brightness may differ; convert "
    "them to 8 bits in the same way as its training images"
)
_MANY_VALUES = 2**12 - 1  # of a camera; fewer in a 16-bit file give a warning
_PLAIN = ((0.0, 1.0), (0.0, 65535.0))
_MIN_TRIMMED_PIXELS = 64
_MIN_TRIMMED_IMAGES = 20
_TRIMMED_PIXELS = 1000
_TRIMMED_IMAGES = 100
_MAX_SORTED = 1 << 20
_TOPS = tuple(float(2**bits - 1) for bits in range(8, 17))
_NARROW = 4
_FAINT = 16

Span = tuple[float, float]


@dataclass(frozen=True)
class Depth:
    """The values of one image with more than 8 bits: minimum and maximum, and its black and white point."""

    is_float: bool
    low: float
    high: float
    black: float
    white: float


def measure_depth(values: np.ndarray) -> Depth:
    """Measure the values of an image; above a million pixels the points come from every k-th value.

    Args:
        values: (h, w) of any integer or float type, finite.
    """
    flat = values.reshape(-1)
    some = flat[:: math.ceil(flat.size / _MAX_SORTED)]
    trimmed = math.ceil(some.size / _TRIMMED_PIXELS) if some.size >= _MIN_TRIMMED_PIXELS else 0
    places = (trimmed, some.size - 1 - trimmed)
    ordered = np.partition(some, places)
    black, white = (float(ordered[place]) for place in places)
    return Depth(values.dtype.kind == "f", float(flat.min()), float(flat.max()), black, white)


def decide_scale(depths: Iterable[Depth]) -> GreyScale | None:
    """The scale of a source from all its images with more than 8 bits; None without any."""
    known = list(depths)
    if not known:
        return None
    whole, fractions = ([each for each in known if each.is_float is wanted] for wanted in (False, True))
    return GreyScale(integers=_decide_span(whole, _TOPS), floats=_decide_span(fractions, (1.0, *_TOPS)))


def _decide_span(depths: Sequence[Depth], tops: Sequence[float]) -> Span | None:
    if not depths:
        return None
    trimmed = math.ceil(len(depths) / _TRIMMED_IMAGES) if len(depths) >= _MIN_TRIMMED_IMAGES else 0
    black = sorted(depth.black for depth in depths)[trimmed]
    white = sorted((depth.white for depth in depths), reverse=True)[trimmed]
    top = next((top for top in tops if white <= top), None) if black >= 0 else None
    if top is not None and (white <= black or white - black >= top / _NARROW):
        return 0.0, top
    return black, max(black, white)


def warn_of_depths(
    depths: Mapping[int, Depth], scale: GreyScale | None, ids: Sequence[str], num_images: int
) -> list[str]:
    """Warnings on images with more than 8 bits.

    Args:
        depths: of the rows of `ids` that are such images; `num_images`: number of usable images.
    """
    if scale is None:
        return []
    warnings = []
    for is_float, span in ((False, scale.integers), (True, scale.floats)):
        rows = [row for row, depth in depths.items() if depth.is_float is is_float]
        if span is not None and rows:
            warnings += _warn_of_span(rows, depths, span, ids)
    if len(depths) < num_images:
        warnings.append(
            f"{len(depths):,} of {num_images:,} images have more than 8 bits: these use the grey scale of the "
            "source, the others are unchanged. If classes differ in their number of bits, that is a shortcut"
        )
    return warnings


def _warn_of_span(rows: Sequence[int], depths: Mapping[int, Depth], span: Span, ids: Sequence[str]) -> list[str]:
    warnings = []
    black, white = (f"{end:,.6g}" for end in span)
    if span not in _PLAIN:
        low, high = min(depths[row].low for row in rows), max(depths[row].high for row in rows)
        is_few = not depths[rows[0]].is_float and span[1] - span[0] < _MANY_VALUES
        few = ", a small part of their bits" if is_few else ""
        warnings.append(
            f"{count(len(rows), 'image')} with more than 8 bits have values in the range {low:,.6g} to "
            f"{high:,.6g}{few}. They share one grey scale: {black} is black, {white} is white"
        )
    beyond = [row for row in rows if depths[row].white > span[1] or depths[row].black < span[0]]
    if beyond:
        what = count(len(beyond), "image goes", "images go")
        names = list_some((quote(ids[row]) for row in beyond), 3)
        warnings.append(f"{what} beyond the grey scale of the source ({black} to {white}) and clipped: {names}")
    faint = [row for row in rows if depths[row].white - depths[row].black < (span[1] - span[0]) / _FAINT]
    if faint:
        what = count(len(faint), "image uses", "images use")
        names = list_some((quote(ids[row]) for row in faint), 3)
        warnings.append(
            f"{what} less than a sixteenth of the grey scale of the source ({black} to {white}): {names}. Such "
            "images are almost flat. Check whether the files were written with different ranges"
        )
    return warnings
