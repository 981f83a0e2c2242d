"""Which images a model was trained on: the first eight bytes of each one's content hash, in a small file.

Two images share those bytes by chance once in 10^19 pairs. Only copies with the same content are found: an image
that was saved anew has another hash.
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
    """Shortened hashes, (n,) uint64 each, sorted: of images the backbone's weights were trained on, and of those
    that its head alone was fitted to."""

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
    """What a model has seen after training on images with these content hashes.

    Args:
        by_backbone: the weights of the backbone learned, not those of its head alone.
        before: what its backbone had seen when the run began; an earlier head is gone.
    """
    nothing = np.empty(0, dtype=np.uint64)
    earlier = nothing if before is None else before.backbone
    now = np.unique(shorten(hashes))
    if by_backbone:
        return Seen(np.union1d(earlier, now), nothing)
    return Seen(earlier, np.setdiff1d(now, earlier))


def find_seen(hashes: Sequence[str], known: np.ndarray) -> np.ndarray:
    """(n,) bool: which of these content hashes are among the shortened ones."""
    return np.isin(shorten(hashes), known)


def write_seen(path: Path, seen: Seen) -> None:
    """Write it and wait until it is on the disk: eight bytes for each image. Raises OSError."""
    write_synced(path, save({"backbone": seen.backbone, "head": seen.head}))


def read_seen(path: Path) -> Seen:
    """Read what `write_seen` wrote; StorageError if that can't be done."""
    try:
        arrays = load(read_file(path))
        backbone, head = (arrays[name].astype(np.uint64, casting="safe") for name in ("backbone", "head"))
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is damaged ({error}). Take a fresh copy of the bundle.") from error
    return Seen(backbone, head)
