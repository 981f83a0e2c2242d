"""Evidence of a page besides the ranked runs: small pictures, maps of features, explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: a data: address, and its size in pixels."""

    address: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of test images in two dimensions: indices into `RankedRuns.ids` and (m, 2) positions in 0..1."""

    model: str
    method: str
    rows: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """One model's explanation of one image; `said` is its prediction in words."""

    image: str
    model: str
    picture: Thumbnail
    said: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """Optional evidence that no record holds. `notes`: reasons for missing items, with remedies."""

    thumbnails: Mapping[str, Thumbnail] = field(default_factory=dict)
    maps: tuple[FeatureMap, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    bundles: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Run id -> (folder name, bytes) of its bundle."""
    root: str | None = None
    """The folder of the runs, as used in a command; None: unknown or several."""
    notes: tuple[str, ...] = ()
