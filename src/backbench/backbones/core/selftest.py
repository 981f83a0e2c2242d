"""Self-test of a loaded backbone: checks the properties that later steps rely on."""

from __future__ import annotations

import torch

from backbench.backbones.core.base import Backbone
from backbench.errors import ModelError
from backbench.runtime import make_torch_rng

NUM_IMAGES = 4
TOLERANCE = 1e-4
"""Maximum difference caused by other images in the batch, relative to the largest feature (rounding)."""


def check_backbone(backbone: Backbone, device: str = "cpu") -> None:
    """Run the backbone on four random images and check its features. It must be on `device`, in float32.

    Checked: eval mode throughout; nothing trainable; (batch, dim) features of the stated dim; finite; equal for
    equal input; independent of other images in the batch; different for different images.

    Raises:
        ModelError: names the check that failed.
    Cost: forward passes of nine images.
    """
    name = backbone.facts.name
    in_training = [path for path, module in backbone.named_modules() if module.training]
    _require(not in_training, name, "eval mode", f"{in_training[:1]} is in training mode")
    trainable = [path for path, parameter in backbone.named_parameters() if parameter.requires_grad]
    _require(not trainable, name, "frozen", f"{trainable[:1]} can be trained")
    images = torch.randn(NUM_IMAGES, 3, *backbone.preprocess.size, generator=make_torch_rng(0, "self-test"))
    images = images.to(device)
    with torch.inference_mode():
        features, again, alone = backbone(images), backbone(images), backbone(images[:1])
    shape = (NUM_IMAGES, backbone.facts.dim)
    _require(tuple(features.shape) == shape, name, "feature size", f"{tuple(features.shape)} instead of {shape}")
    _require(bool(torch.isfinite(features).all()), name, "finite features", "some are not finite")
    _require(torch.equal(features, again), name, "equal features for equal input", "they differ")
    scale = float(features.abs().max())
    difference = float((features[:1] - alone).abs().max())
    _require(
        difference <= TOLERANCE * scale,
        name,
        "features independent of the rest of the batch",
        f"they differ by {difference:.1e}; the largest feature is {scale:.1e}",
    )
    _require(
        bool((features[0] != features[1]).any()),
        name,
        "features that depend on the image",
        "they are all the same",
    )


def _require(is_right: bool, name: str, check: str, found: str) -> None:
    if not is_right:
        raise ModelError(f"{name} fails its self-test '{check}': {found}. This model can't be evaluated.")
