"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels that come with the package, no download."""

from __future__ import annotations

import numpy as np

from backbench.config import DataConfig
from backbench.data.listing import Listing
from backbench.progress import Progress
from backbench.registry import SourceSpec

NUM_IMAGES = 1797
LICENCE = "CC BY 4.0"
CITATION = (
    "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998"
)
MAX_INK = 16


def load(config: DataConfig, progress: Progress) -> Listing:
    """All images as grey (8, 8, 3) uint8, ink white: 0..16 of the original becomes 0..255. No split is fixed."""
    from sklearn.datasets import load_digits

    ink, labels = load_digits(return_X_y=True)
    grey = np.round(ink.reshape(-1, 8, 8) * (255 / MAX_INK)).astype(np.uint8)
    return Listing(
        name="digits",
        ids=tuple(f"digits/{row:04d}" for row in range(len(grey))),
        labels=tuple(str(label) for label in labels),
        pixels=np.repeat(grey[..., None], 3, axis=3),
        facts={"licence": LICENCE, "citation": CITATION},
    )


SPECS = (
    SourceSpec(
        name="digits",
        summary="handwritten digits, 8 x 8 pixels, embedded in scikit-learn",
        load=load,
        num_images=NUM_IMAGES,
        num_classes=10,
        licence=LICENCE,
        citation=CITATION,
    ),
)
