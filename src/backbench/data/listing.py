"""The output of a data source: samples with labels and a way to read each; not yet split or checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

PARTS = ("train", "val", "test")
Loss = Literal["unread", "picture", "other", "litter"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
"""From what matters most to what matters least."""


@dataclass(frozen=True)
class Ignored:
    """Something in a source that is not a sample, and why.

    loss: kind of loss. 'unread': a picture, or a folder of pictures, that can't be read; 'picture': looks like a
    picture but has the wrong name or place; 'other': not a picture; 'litter': files of the operating system.
    """

    path: str
    reason: str
    loss: Loss = "other"


@dataclass(frozen=True)
class Listing:
    """Samples of a source, in an order that depends only on their ids.

    Exactly one of `files` and `pixels` is given: paths on disk, or decoded images in memory
    ((n, height, width, 3) uint8, or a sequence of (height, width, 3) uint8).

    Args:
        name: short name for tables, as in "digits" or the folder's name.
        ids: unique; '/'-separated path relative to the source's root for files.
        labels: class *names*, one for each sample; order of classes is decided by the manifest.
        groups: samples of one group are never in two splits; None: no group known. (): none of any.
        parts: 'train', 'val' or 'test' if the source fixes the split, else None. (): none is fixed.
        ignored: what was found and left out.
        class_names: all classes that the source declares, if it does (includes empty class folders).
        facts: facts for the record: licence, citation, published counts, coarse labels.
    """

    name: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str | None, ...] = ()
    parts: tuple[str | None, ...] = ()
    files: tuple[Path, ...] | None = None
    pixels: np.ndarray | Sequence[np.ndarray] | None = None
    ignored: tuple[Ignored, ...] = ()
    class_names: tuple[str, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.files is None) == (self.pixels is None):
            raise ValueError("a listing has either files or pixels")
        n = len(self.ids)
        for column in ("groups", "parts"):
            object.__setattr__(self, column, getattr(self, column) or (None,) * n)
        images = self.files if self.files is not None else self.pixels
        columns: list[Any] = [self.labels, self.groups, self.parts, images]
        if any(len(column) != n for column in columns):
            raise ValueError("columns of a listing differ in length")

    def __len__(self) -> int:
        return len(self.ids)
