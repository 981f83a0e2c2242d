"""Shortcut baselines (controls) that see no shapes: only class sizes, colours or file facts.

A backbone that is hardly better than a baseline may use the same shortcut instead of the content of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backbench.registry import ModelSpec

if TYPE_CHECKING:
    from backbench.data.census import Census


def describe_majority(census: Census) -> np.ndarray:
    """(n, 1) float32, all ones: no information on images, so every method falls back on class sizes."""
    return np.ones((len(census.hashes), 1), dtype=np.float32)


def describe_colours(census: Census) -> np.ndarray:
    """(n, m) float32: brightness and colour statistics of each image, without positions."""
    return np.ascontiguousarray(census.colours, dtype=np.float32)


def describe_file_facts(census: Census) -> np.ndarray:
    """(n, k) float32: dimensions, bytes, format and the like, without any pixel."""
    return np.ascontiguousarray(census.facts, dtype=np.float32)


SPECS = [
    ModelSpec(name, f"control: {what}", describe=describe, num_parameters=0, flops=0.0, is_control=True)
    for name, what, describe in (
        ("majority", "always the most frequent class", describe_majority),
        ("colour", "brightness and colour statistics, no shapes", describe_colours),
        ("file-facts", "file facts (dimensions, bytes, format), no pixels", describe_file_facts),
    )
]
