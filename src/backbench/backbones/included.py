"""Two small trained backbones that come with the package: `tiny_cnn.cifar100` and `tiny_vit.cifar100`.

Trained from scratch on CIFAR-100 by backbench itself; command, record and licence are beside them in `included/`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from backbench.backbones import card
from backbench.backbones.tiny import SPECS as UNTRAINED
from backbench.registry import ModelSpec

FOLDER = Path(__file__).with_name("included")


def _spec(file: Path) -> ModelSpec:
    """The spec of a packaged card, found by its name, so that records hold no path of the installation."""
    spec = card.resolve(str(file))
    assert spec is not None  # it ends in .toml
    network = spec.name.partition(".")[0]
    like = next(untrained for untrained in UNTRAINED if untrained.name == network)
    return replace(
        spec,
        summary=f"comes with the package: {like.num_parameters or 0:,} parameters, 32 px, {spec.pretrained_on}",
        num_parameters=like.num_parameters,
        flops=like.flops,
        file=None,
    )


SPECS = [_spec(file) for file in sorted(FOLDER.glob("*.toml"))]
