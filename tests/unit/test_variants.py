"""Models at other input sizes, and without their training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from backbench.backbones.networks import measure
from backbench.backbones.networks.base import Backbone
from backbench.backbones.networks.build import Build
from backbench.backbones.networks.measure import Origin, make_backbone, measure_body
from backbench.backbones.networks.rebuild import make_random, rebuild
from backbench.backbones.networks.resized import at_size
from backbench.catalog import find_model
from backbench.config import Preprocess
from backbench.errors import ConfigError, ModelError


def make(architecture: str, size: int) -> Backbone:
    build = Build(architecture=architecture)
    return make_backbone(
        make_random(build, 0),
        name="x",
        architecture=architecture,
        preprocess=Preprocess(size=(size, size)),
        origin=Origin("something"),
        build=build,
    )


@pytest.mark.parametrize(
    ("architecture", "own", "size"),
    [
        ("timm/resnet10t", 176, 64),
        ("timm/vit_tiny_patch16_224", 224, 64),
        ("torchvision/vit_b_16", 224, 64),
        ("backbench/vit_tiny_patch16", 224, 64),
        ("timm/vit_small_patch14_dinov2", 518, 56),
        ("timm/swin_tiny_patch4_window7_224", 224, 64),
    ],
)
def test_another_size_can_be_put_into_a_bundle_and_comes_back(architecture: str, own: int, size: int) -> None:
    backbone = make(architecture, own)
    resized = at_size(backbone, f"x@{size}", size)
    assert resized.preprocess.size == (size, size)
    assert resized.facts.name == f"x@{size}"
    assert resized.facts.pretrained_on == "something"
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32))
    assert resized.build is not None
    again = rebuild(resized.build, resized.body.state_dict(), where="here")
    with torch.no_grad():
        torch.testing.assert_close(again(images), resized(images))


def test_a_network_built_for_one_size_is_refused() -> None:
    with pytest.raises(ModelError, match="does not run on images of 64 x 64"):
        at_size(make("timm/mixer_s32_224", 224), "x@64", 64)


def test_an_untrained_network_is_built_for_another_size_instead() -> None:
    spec = find_model("resmlp_12_224.fb_in1k@random@64")
    assert spec.load is not None
    assert spec.load(0).preprocess.size == (64, 64)


@pytest.mark.parametrize(
    "name", ["resnet10t.c3_in1k", "vit_tiny_patch16_224.augreg_in21k", "swin_tiny_patch4_window7_224.ms_in1k"]
)
def test_an_untrained_network_at_another_size_is_the_one_that_is_resized(name: str) -> None:
    whole, small = find_model(f"{name}@random"), find_model(f"{name}@random@64")
    assert whole.load is not None
    assert small.load is not None
    expected = at_size(whole.load(3), small.name, 64)
    given = small.load(3)
    assert given.facts == expected.facts
    assert given.build == expected.build


def test_random_weights_need_no_download_and_follow_the_seed() -> None:
    spec = find_model("resnet18.a1_in1k@random@64")
    assert spec.load is not None
    assert (spec.name, spec.pretrained_on, spec.download_bytes) == ("resnet18.a1_in1k@random@64", None, 0)
    backbones = [spec.load(seed) for seed in (0, 0, 1)]
    digests = [backbone.facts.weights_digest for backbone in backbones]
    assert digests[0] == digests[1] != digests[2]
    assert backbones[0].preprocess.size == (64, 64)
    assert backbones[0].facts.pretrained_on is None
    assert backbones[0].preprocess.mean == pytest.approx((0.485, 0.456, 0.406))


def test_torchvision_too() -> None:
    spec = find_model("torchvision/resnet18@random")
    assert spec.load is not None
    assert spec.load(0).preprocess.crop_fraction == pytest.approx(224 / 256)


def test_what_follows_the_at_is_checked() -> None:
    for name in ("resnet18@", "resnet18@7", "resnet18@sixty", "resnet18@99999"):
        with pytest.raises(ConfigError, match="input size in pixels"):
            find_model(name)
    with pytest.raises(ConfigError, match="control"):
        find_model("majority@random")
    with pytest.raises(ConfigError, match="resnet81"):
        find_model("resnet81@random")


def test_what_is_untrained_anyway_stays_itself() -> None:
    assert find_model("tiny_cnn@random").name == "tiny_cnn"


def test_networks_are_measured_once_for_each_size_and_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int]] = []

    def count(body: nn.Module, size: tuple[int, int], name: str) -> tuple[int, float]:
        measured.append(size)
        return measure_body(body, size, name)

    monkeypatch.setattr(measure, "measure_body", count)
    monkeypatch.setattr(measure, "_MEASURED", {})
    names = ("tiny_cnn@16", "tiny_cnn@24", "tiny_cnn@16", "tiny_vit@16")
    found = [find_model(name).load(0) for name in names]  # type: ignore[misc]
    own = find_model("tiny_cnn").load(0).preprocess.size  # type: ignore[misc]
    assert sorted(measured) == sorted([own, (16, 16), (24, 24), own, (16, 16)])
    assert [backbone.facts.flops for backbone in found] == [
        measure_body(backbone.body, backbone.preprocess.size, "x")[1] for backbone in found
    ]
