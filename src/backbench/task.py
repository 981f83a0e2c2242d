"""What a method is given: features and labels of train and validation. It never sees the test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backbench.config import Precision

if TYPE_CHECKING:
    from backbench.backbones.core.base import Backbone
    from backbench.backbones.core.original_head import OriginalHead, TextHead


@dataclass(frozen=True)
class Features:
    """Frozen features of some images.

    values: (n, dim) float32; labels: (n,) int64 in 0..classes-1; ids: n sample ids. Rows correspond.
    """

    values: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (len(self.values) == len(self.labels) == len(self.ids)):
            raise ValueError("values, labels and ids disagree in length")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Task:
    """Train and validation features, and the seed; `val` may be empty (then a method uses its defaults).

    `load_head` gives the classifier that the backbone was published with; None: it has none to be had.
    """

    train: Features
    val: Features
    class_names: tuple[str, ...]
    seed: int = 0
    device: str = "cpu"
    load_head: Callable[[], OriginalHead | TextHead] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one part: (n,) int64 rows of the manifest, (n,) int64 labels, n ids."""

    rows: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class ImageTask:
    """What a method that trains on images is given; it never sees the test split either.

    Args:
        backbone: a copy of its own for this run.
        read: row of the manifest -> (height, width, 3) uint8; any thread may ask.
        features: extracts the frozen backbone's features when first called, and gives them as a `Task`.
        exact_resize: by Pillow itself, as `RunConfig` has it.
    """

    backbone: Backbone
    read: Callable[[int], np.ndarray]
    train: Part
    val: Part
    class_names: tuple[str, ...]
    seed: int
    device: str
    precision: Precision
    features: Callable[[], Task]
    exact_resize: bool = False

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
