"""Augmentation of training batches: pure functions of pixels and random numbers, equivalent to torchvision's.

`draw_*` turn uniform numbers into parameters (NumPy, one row for each image); the others apply parameters to
(b, 3, H, W) float32 images in 0..1, on any device. Only the training loop calls these, on training images.
"""

from __future__ import annotations

from backbench.training.augment.batch import augment_batch

__all__ = ["augment_batch"]
