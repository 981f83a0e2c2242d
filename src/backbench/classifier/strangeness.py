"""Detect images unlike the training images from their features; stored in every bundle.

A classifier predicts one of its classes for any image, often with high confidence. This detects images whose
features are far from those of every class, in distance or in angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from backbench.errors import StorageError
from backbench.storage import write_synced

FILE = "strangeness.safetensors"
QUANTILE = 0.98
"""Share of validation images that do not count as strange: about one in fifty similar images does."""
MIN_VALIDATION = 20
_SHRINK = 0.1  # shrinkage of each feature's variance towards the mean: some features hardly vary among few images
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Strangeness:
    """Statistics of the training images' features.

    Args:
        means: (classes, dim) float32, the mean of each class.
        centre: (dim,) float32, the mean of all.
        spread: (dim,) float32, the standard deviation within a class, above 0.
        scales: (2,) float32, the distance and the angle above which an image is strange, above 0.
    """

    means: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    scales: np.ndarray

    def measure(self, features: np.ndarray) -> np.ndarray:
        """(n, dim) float features -> (n,) float32: the strangeness of each image; above 1 is strange.

        The larger of two ratios to their thresholds: the squared distance to the nearest class mean in units of
        the spread, and 1 - cosine to the nearest class mean after centring.
        """
        raw = [self._raw(features[first : first + _ROWS]) for first in range(0, len(features), _ROWS)]
        if not raw:
            return np.zeros(0, dtype=np.float32)
        largest: np.ndarray = (np.concatenate(raw) / self.scales).max(axis=1)
        return largest

    def _raw(self, features: np.ndarray) -> np.ndarray:
        """(n, 2): distance and angle of the nearest class."""
        centred = features.astype(np.float64) - self.centre
        means = self.means.astype(np.float64) - self.centre
        scaled, scaled_means = centred / self.spread, means / self.spread
        squares = (scaled**2).sum(axis=1)[:, None] + (scaled_means**2).sum(axis=1) - 2 * scaled @ scaled_means.T
        cosine = _unit(centred) @ _unit(means).T
        return np.stack([squares.min(axis=1) / features.shape[1], 1 - cosine.max(axis=1)], axis=1)


def fit_strangeness(features: np.ndarray, labels: np.ndarray, validation: np.ndarray) -> Strangeness | None:
    """Fit class means and spread on training images, and thresholds on held-back validation images.

    Args:
        features: (n, dim) float, of training images. labels: (n,) int, any numbers.
        validation: (m, dim) float, of images that the classifier was not trained on.

    Returns:
        None with fewer than 20 validation images, or if features do not vary.
    """
    if len(validation) < MIN_VALIDATION or not len(features):
        return None
    values = features.astype(np.float64)
    kinds, places = np.unique(labels, return_inverse=True)
    means = np.stack([values[places == place].mean(axis=0) for place in range(len(kinds))])
    variance = ((values - means[places]) ** 2).mean(axis=0)
    if variance.mean() <= 0:  # with one image of each class, use the spread of all
        variance = values.var(axis=0)
    if not np.isfinite(variance).all() or variance.mean() <= 0:
        return None
    spread = np.sqrt((1 - _SHRINK) * variance + _SHRINK * variance.mean())
    first = Strangeness(
        _single(means), _single(values.mean(axis=0)), _single(spread), np.ones(2, dtype=np.float32)
    )
    raw = first._raw(validation)
    scales = np.maximum(np.quantile(raw, QUANTILE, axis=0, method="higher"), 1e-9)
    scales *= np.quantile((raw / scales).max(axis=1), QUANTILE, method="higher")
    return Strangeness(first.means, first.centre, first.spread, _single(scales))


def write_strangeness(folder: Path, known: Strangeness) -> str:
    """Write the statistics into the folder of a bundle; returns the file name, for its checksum."""
    write_synced(folder / FILE, save(vars(known)))
    return FILE


def read_strangeness(path: Path, dim: int) -> Strangeness:
    """Read the statistics from a bundle's file with a verified checksum.

    Args:
        dim: of the backbone's features.

    Raises:
        StorageError: the file has another form or other features.
    """
    try:
        tensors = load_file(path)
        known = Strangeness(**{name: tensors[name] for name in Strangeness.__dataclass_fields__})
    except (OSError, SafetensorError, KeyError) as error:
        raise StorageError(
            f"{path} can't be read ({str(error)[:120]}). Copy the bundle again from its source."
        ) from error
    shapes = [known.means.shape[1:], known.centre.shape, known.spread.shape, known.scales.shape]
    values = (known.means, known.centre, known.spread, known.scales)
    is_sound = (
        all(np.isfinite(each).all() for each in values) and (known.spread > 0).all() and (known.scales > 0).all()
    )
    if shapes != [(dim,), (dim,), (dim,), (2,)] or not len(known.means) or not is_sound:
        raise StorageError(f"{path} does not fit features of {dim} values. Copy the bundle again from its source.")
    return known


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
