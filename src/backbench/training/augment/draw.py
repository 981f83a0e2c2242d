"""All random numbers of a batch, drawn before any pixel is changed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from backbench.config import Augment
from backbench.training.augment import colour, geometry, mixing, rand_augment
from backbench.training.order import draw_uniforms


@dataclass(frozen=True)
class Drawn:
    """Parameters for b images, a row for each; None for settings that are off.

    boxes, offsets, is_flipped, is_turned, erased: see the `draw_*` of `geometry` and `mixing`.
    """

    boxes: np.ndarray | None = None
    offsets: np.ndarray | None = None
    is_flipped: np.ndarray | None = None
    is_turned: np.ndarray | None = None
    jitter: colour.Jitter | None = None
    operations: rand_augment.Operations | None = None
    erased: np.ndarray | None = None

    def part(self, rows: slice) -> Self:
        """The same for some of the images."""
        return type(self)(*(_rows_of(getattr(self, field.name), rows) for field in fields(self)))

    @property
    def is_empty(self) -> bool:
        """Whether crops and pixels (except erasing) are as in evaluation."""
        return all(getattr(self, field.name) is None for field in fields(self) if field.name != "erased")


def _rows_of(value: np.ndarray | colour.Jitter | rand_augment.Operations | None, rows: slice) -> Any:
    if isinstance(value, tuple):
        return type(value)(*(part[rows] for part in value))
    return None if value is None else value[rows]


def draw_parameters(
    augment: Augment, shapes: np.ndarray, size: tuple[int, int], *, seed: int, epoch: int, indices: np.ndarray
) -> Drawn:
    """Draw the parameters of each image: row i depends only on (augment, shapes[i], size, seed, epoch,
    indices[i]).

    Each use has its own numbers, so that turning one on never changes another.

    Args:
        shapes: (b, 2) heights and widths of the images.
        size: (height, width) of the network's input.
        indices: (b,) each image's index in the training split.
    """

    def uniforms(num: int, use: str) -> np.ndarray:
        return draw_uniforms(seed, epoch, indices, num, f"augment/{use}")

    boxes = jitter = operations = erased = None
    if augment.crop == "random-resized":
        numbers = uniforms(geometry.NUM_CROP_UNIFORMS, "crop")
        boxes = geometry.draw_crop_boxes(numbers, shapes[:, 0], shapes[:, 1], augment.scale, augment.ratio)
    strengths = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if any(strengths):
        numbers = uniforms(colour.NUM_JITTER_UNIFORMS, "jitter")
        jitter = colour.draw_jitter(numbers, strengths, augment.jitter_probability)
    if augment.rand_augment is not None:
        operations = rand_augment.draw_operations(uniforms(2 * augment.rand_augment[0], "rand-augment"))
    if augment.erasing:
        numbers = uniforms(mixing.NUM_ERASING_UNIFORMS, "erasing")
        erased = mixing.draw_erasing(numbers, size, augment.erasing)
    return Drawn(
        boxes=boxes,
        offsets=geometry.draw_pad_offsets(uniforms(2, "pad"), augment.padding) if augment.crop == "pad" else None,
        is_flipped=uniforms(1, "flip")[:, 0] < 0.5 if augment.flip else None,
        is_turned=uniforms(1, "vertical-flip")[:, 0] < 0.5 if augment.vertical_flip else None,
        jitter=jitter,
        operations=operations,
        erased=erased,
    )
