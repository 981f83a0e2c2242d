"""RandAugment (Cubuk et al. 2020) with torchvision's operations, magnitudes and signs."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from backbench.training.augment import colour
from backbench.training.augment.geometry import map_nearest
from backbench.training.augment.rows import Change, change_by_choice

OPERATIONS = (
    "identity",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
MAX_MAGNITUDE = 30
_MOVES = OPERATIONS[1:6]
_BLENDS = {
    "brightness": colour.adjust_brightness,
    "saturation": colour.adjust_saturation,
    "contrast": colour.adjust_contrast,
    "sharpness": colour.adjust_sharpness,
}


class Operations(NamedTuple):
    """Drawn for each image: (b, num_ops) int indices into OPERATIONS, and (b, num_ops) signs, -1.0 or 1.0."""

    choices: np.ndarray
    signs: np.ndarray


def draw_operations(uniforms: np.ndarray) -> Operations:
    """(b, 2 num_ops) uniforms -> operations, all equally likely, with replacement; both signs equally likely."""
    choices = np.floor(uniforms[:, 0::2] * len(OPERATIONS)).astype(np.int64)
    return Operations(choices, np.where(uniforms[:, 1::2] < 0.5, -1.0, 1.0))


def rand_augment(images: Tensor, drawn: Operations, magnitude: int) -> Tensor:
    """Apply the drawn operations in order to (b, 3, H, W) images in 0..1; `magnitude` in 0..30."""
    for choices, signs in zip(drawn.choices.T, drawn.signs.T, strict=True):
        images = change_by_choice(_move(images, choices, signs, magnitude), choices, _changes(signs, magnitude))
    return images


def _changes(signs: np.ndarray, magnitude: int) -> dict[int, Change]:
    share = magnitude / MAX_MAGNITUDE
    bits = 8 - round(4 * share)
    changes: dict[int, Change] = {
        OPERATIONS.index(name): partial(_blend, adjust=adjust, factors=1.0 + 0.9 * share * signs)
        for name, adjust in _BLENDS.items()
    }
    changes[OPERATIONS.index("posterize")] = lambda some, _: colour.posterize(some, bits)
    threshold = 1.0 - share - 1e-6  # a grey level on the threshold is inverted, for any rounding
    changes[OPERATIONS.index("solarize")] = lambda some, _: colour.solarize(some, threshold)
    changes[OPERATIONS.index("autocontrast")] = lambda some, _: colour.autocontrast(some)
    changes[OPERATIONS.index("equalize")] = lambda some, _: colour.equalize(some)
    return changes


def _blend(some: Tensor, rows: np.ndarray, *, adjust: Change, factors: np.ndarray) -> Tensor:
    return adjust(some, factors[rows])


def _move(images: Tensor, choices: np.ndarray, signs: np.ndarray, magnitude: int) -> Tensor:
    """The five operations that move pixels, at once: each is an affine map."""
    height, width = images.shape[2:]
    names = [OPERATIONS[choice] for choice in choices]
    is_moved = np.array([name in _MOVES for name in names])

    def change(some: Tensor, rows: np.ndarray) -> Tensor:
        maps = [move_matrix(names[row], signs[row], magnitude, height, width) for row in rows]
        return map_nearest(some, np.stack(maps))

    return change_by_choice(images, is_moved, {True: change})


def move_matrix(name: str, sign: float, magnitude: int, height: int, width: int) -> np.ndarray:
    """(2, 3): (x, y) of the old pixel from (x, y, 1) of the new one, in pixels from the middle of the image.

    Shears keep the top left corner, up to 0.3; shifts go up to 150 / 331 of the side, in whole pixels; turns up
    to 30 degrees about the middle.
    """
    share = sign * magnitude / MAX_MAGNITUDE
    shear, angle = 0.3 * share, np.radians(30.0 * share)
    shift_x, shift_y = (150 * side * magnitude // (331 * MAX_MAGNITUDE) for side in (width, height))
    cos, sin = np.cos(angle), np.sin(angle)
    matrices = {
        "shear-x": [[1, shear, shear * height / 2], [0, 1, 0]],
        "shear-y": [[1, 0, 0], [shear, 1, shear * width / 2]],
        "translate-x": [[1, 0, -sign * shift_x], [0, 1, 0]],
        "translate-y": [[1, 0, 0], [0, 1, -sign * shift_y]],
        "rotate": [[cos, -sin, 0], [sin, cos, 0]],
    }
    return np.array(matrices[name], dtype=np.float64)
