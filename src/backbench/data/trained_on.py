"""The training images of a model, to detect contamination: eight bytes of each content hash, in a small file.

Two images share these bytes by chance once in 10^19 pairs. Only exact copies are found: a re-encoded image has
another hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from backbench.errors import StorageError
from backbench.storage import read_file, write_synced

_HEX_DIGITS = 16


@dataclass(frozen=True, eq=False)
class Seen:
    """Shortened hashes, (n,) uint64 each, sorted: of images that trained the backbone, and of images that trained
    only the head."""

    backbone: np.ndarray
    head: np.ndarray

    @cached_property
    def all(self) -> np.ndarray:
        """Both, (n,) uint64, sorted."""
        return np.union1d(self.backbone, self.head)


def shorten(hashes: Iterable[str]) -> np.ndarray:
    """Content hashes in hex -> (n,) uint64, in their order."""
    return np.array([int(text[:_HEX_DIGITS], 16) for text in hashes], dtype=np.uint64)


def add_seen(hashes: Iterable[str], *, by_backbone: bool, before: Seen | None = None) -> Seen:
    """Add training images with these content hashes to the images known to a model.

    Args:
        by_backbone: the backbone was trained, not only its head.
        before: the images known to the backbone before the run; those of an earlier head are dropped.
    """
    nothing = np.empty(0, dtype=np.uint64)
    earlier = nothing if before is None else before.backbone
    now = np.unique(shorten(hashes))
    if by_backbone:
        return Seen(np.union1d(earlier, now), nothing)
    return Seen(earlier, np.setdiff1d(now, earlier))


def find_seen(hashes: Sequence[str], known: np.ndarray) -> np.ndarray:
    """(n,) bool: True for content hashes that are among the shortened ones."""
    return np.isin(shorten(hashes), known)


def write_seen(path: Path, seen: Seen) -> None:
    """Write the hashes (eight bytes for each image) and sync the file. Raises OSError."""
    write_synced(path, save({"backbone": seen.backbone, "head": seen.head}))


def read_seen(path: Path) -> Seen:
    """Read the file of `write_seen`; StorageError if that fails."""
    try:
        arrays = load(read_file(path))
        backbone, head = (arrays[name].astype(np.uint64, casting="safe") for name in ("backbone", "head"))
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is damaged ({error}). Copy the bundle again from its source.") from error
    return Seen(backbone, head)
