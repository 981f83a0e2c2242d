"""The input of a method: features and labels of train and validation. It never sees the test split."""

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
            raise ValueError("values, labels and ids differ in length")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Task:
    """Train and validation features, and the seed; `val` may be empty; the method then uses its defaults.

    `load_head` loads the published classifier of the backbone; None: there is none.
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
    """Images of one split: (n,) int64 rows of the manifest, (n,) int64 labels, n ids."""

    rows: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class ImageTask:
    """The input of a method that trains on images; it never sees the test split either.

    Args:
        backbone: a private copy for this run.
        read: row of the manifest -> (height, width, 3) uint8; thread-safe.
        features: extracts the frozen backbone's features at the first call and returns them as a `Task`.
        exact_resize: resize with Pillow, as in `RunConfig`.
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
