"""The scale of pixels that weights were trained with: wrong ones are noticed, right ones are left in peace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.input_check import MAX_DISTANCE, PHOTOGRAPHS, _draw_photographs, doubt_input
from backbench.config import Preprocess
from backbench.records.schema import ModelFacts
from backbench.registry import find_model
from real import HALF, IMAGENET, write_card

Scale = tuple[tuple[float, ...], tuple[float, ...]]
UNIT: Scale = ((0.0,) * 3, (1.0,) * 3)
BYTES: Scale = ((0.0,) * 3, (1 / 255,) * 3)


class Stem(nn.Module):
    """A convolution and a norm that has seen images of one scale, as in any convolutional network."""

    def __init__(self, scale: Scale | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 24, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(24, momentum=None)
        if scale is not None:
            mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in scale)
            with torch.no_grad():
                for seed in range(3):
                    torch.manual_seed(seed)
                    self.norm(self.conv((photographs(seed) - mean) / std))
        self.eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(batch)).mean((2, 3))


def photographs(seed: int) -> torch.Tensor:
    """Unlike those of the check: smooth blobs with edges, in the mean and deviation of photographs."""
    torch.manual_seed(seed)
    coarse = torch.nn.functional.interpolate(torch.rand(6, 3, 9, 9), size=64, mode="bilinear")
    fine = torch.nn.functional.interpolate(torch.rand(6, 3, 32, 32), size=64, mode="nearest")
    images = coarse + 0.15 * fine
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in PHOTOGRAPHS)
    return (images * std + mean).clamp(0, 1)


def make_backbone(body: nn.Module, scale: Scale) -> Backbone:
    facts = ModelFacts(
        name="stem",
        architecture="stem",
        dim=24,
        preprocess=Preprocess(size=(64, 64), mean=scale[0], std=scale[1]),
        num_parameters=1,
        flops=1.0,
        weights_digest="0",
        pretrained_on="photographs",
    )
    return Backbone(body, facts)


@pytest.mark.parametrize("stated", [HALF, IMAGENET, UNIT, BYTES], ids=["half", "imagenet", "unit", "bytes"])
@pytest.mark.parametrize("trained", [HALF, IMAGENET, UNIT, BYTES], ids=["half", "imagenet", "unit", "bytes"])
def test_a_stem_is_doubted_where_its_scale_is_another_one(trained: Scale, stated: Scale) -> None:
    said = doubt_input(make_backbone(Stem(trained), stated))
    assert (said is None) == (trained == stated)


def test_what_tells_nothing_is_not_doubted() -> None:
    untrained = Stem(None)  # as where norms were folded into the convolutions
    assert doubt_input(make_backbone(untrained, BYTES)) is None
    layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(), nn.LayerNorm(2048))
    assert doubt_input(make_backbone(layers, BYTES)) is None
    assert doubt_input(make_backbone(nn.Flatten(), BYTES)) is None
    strange = Stem(HALF)
    strange.norm.running_var.mul_(2.0 ** torch.arange(-12, 12))  # no scale fits such channels
    assert doubt_input(make_backbone(strange, HALF)) is None


def test_it_leaves_the_network_as_it_was() -> None:
    body = Stem(HALF)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    state = torch.random.get_rng_state()
    assert doubt_input(make_backbone(body, BYTES))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in body.state_dict().items())
    assert not [module for module in body.modules() if module._forward_pre_hooks]
    assert body(torch.zeros(1, 3, 64, 64)).shape == (1, 24)


def test_included_weights_are_right_and_the_drawn_images_are_like_photographs() -> None:
    spec = find_model("tiny_cnn.cifar100")
    assert spec.load is not None
    assert doubt_input(spec.load(0)) is None
    drawn = _draw_photographs((96, 128))
    assert drawn.shape == (8, 3, 96, 128)
    assert torch.allclose(drawn.mean((0, 2, 3)), torch.tensor(PHOTOGRAPHS[0]), atol=0.02)
    assert torch.allclose(drawn.std((0, 2, 3)), torch.tensor(PHOTOGRAPHS[1]), atol=0.04)
    assert 0 < MAX_DISTANCE < 1


@pytest.mark.parametrize(
    ("scale", "is_right"), [(HALF, True), (IMAGENET, False), (UNIT, False), (BYTES, False)], ids=str
)
def test_real_weights_with_each_usual_scale(scale: Scale, is_right: bool, lite0: Path) -> None:
    spec = find_model(str(write_card(lite0.parent, "another", scale)))
    assert spec.load is not None
    said = doubt_input(spec.load(0))
    assert (said is None) == is_right
    assert is_right or "mean 0.5 and std 0.5 fits their first batch norm better" in str(said)
