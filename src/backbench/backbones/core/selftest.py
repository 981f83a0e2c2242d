"""Checks that a loaded backbone does what every later step relies on."""

from __future__ import annotations

import torch

from backbench.backbones.core.base import Backbone
from backbench.errors import ModelError
from backbench.runtime import make_torch_rng

NUM_IMAGES = 4
TOLERANCE = 1e-4
"""Largest difference from batch mates, relative to the largest feature: batched products round differently."""


def check_backbone(backbone: Backbone, device: str = "cpu") -> None:
    """Run the backbone on four random images and check what comes out. It must be on `device`, in float32.

    Checked: eval mode throughout; nothing trainable; (batch, dim) features of the stated dim; finite; equal for
    equal input; for one image alone the same as among others; not the same for all images.

    Raises:
        ModelError: names the check that failed.
    Cost: nine images' forwards.
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
        "features that do not depend on batch mates",
        f"they differ by {difference:.1e}, where the largest feature is {scale:.1e}",
    )
    _require(
        bool((features[0] != features[1]).any()), name, "features that see the image", "they are all the same"
    )


def _require(is_right: bool, name: str, check: str, found: str) -> None:
    if not is_right:
        raise ModelError(f"{name} fails its self-test '{check}': {found}. Nothing can be measured with it.")
