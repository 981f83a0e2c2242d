"""What a page shows beside the ranked runs: small pictures, maps of features, explanations."""

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
    """What one model looked at in one image; `said` is its answer in words."""

    image: str
    model: str
    picture: Thumbnail
    said: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What no record holds; all of it optional. `notes` say why something is missing, and what to do."""

    thumbnails: Mapping[str, Thumbnail] = field(default_factory=dict)
    maps: tuple[FeatureMap, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    bundles: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Run id to (folder name, bytes) of the bundle that was made of it."""
    root: str | None = None
    """The folder of the runs, as a command names it; None: not known, or there are several."""
    notes: tuple[str, ...] = ()
