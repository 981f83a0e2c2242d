"""backbench: which pretrained vision model, adapted how, is best for your images."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from backbench.engine.classifier import Classifier

__all__ = ["load"]


def load(path: str | os.PathLike[str]) -> Classifier:
    """The classifier of a bundle, ready to predict: `backbench.load("bundle").predict(["photo.jpg"])`.

    Args:
        path: the bundle's folder, or that of the run that wrote it.

    Raises:
        BackbenchError: not a bundle, damaged, or written by a newer backbench; see `engine.bundle.load_bundle`.
    """
    from pathlib import Path

    from backbench.engine.bundle import load_bundle

    return load_bundle(Path(path))
