"""What a method is given: features and labels of train and validation. It never sees the test part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    """Train and validation features, and the seed; `val` may be empty (then a method uses its defaults)."""

    train: Features
    val: Features
    class_names: tuple[str, ...]
    seed: int = 0
    device: str = "cpu"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
