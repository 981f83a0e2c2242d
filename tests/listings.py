"""Listings and image files for tests of the data modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbench.config import DataConfig
from backbench.data.census import Census, take_census
from backbench.data.listing import Listing
from backbench.data.manifest import Manifest, make_manifest
from backbench.data.store import PixelStore

CONFIG = DataConfig(source="given")


def make_listing(
    labels: Sequence[str],
    *,
    parts: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
    contents: Sequence[int] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Listing:
    """Images in memory, all different unless `contents` repeats a number."""
    num = len(labels)
    numbers = list(range(num)) if contents is None else list(contents)
    pixels = np.zeros((num, 4, 4, 3), dtype=np.uint8)
    for row, number in enumerate(numbers):
        pixels[row].reshape(-1)[:4] = np.frombuffer(int(number).to_bytes(4, "little"), np.uint8)
    return Listing(
        name="given",
        ids=tuple(f"{label}/{row:04d}" for row, label in enumerate(labels)),
        labels=tuple(labels),
        groups=(None,) * num if groups is None else tuple(groups),
        parts=(None,) * num if parts is None else tuple(parts),
        pixels=pixels,
        class_names=class_names,
    )


def census_of(listing: Listing, config: DataConfig = CONFIG, cache_dir: Path | None = None) -> Census:
    store = PixelStore(listing, config.max_pixels)
    return take_census(listing, store, max_pixels=config.max_pixels, cache_dir=cache_dir)


def manifest_of(listing: Listing, config: DataConfig = CONFIG) -> Manifest:
    return make_manifest(listing, census_of(listing, config), config)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (7, 5)) -> Path:
    """A PNG of noise; one seed, one content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path
