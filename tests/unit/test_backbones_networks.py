"""Digest, measures, cut and self-test of networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from backbench.backbones.architectures.tiny_nets import TinyCNN, TinyViT, make_untrained
from backbench.backbones.core import selftest
from backbench.backbones.core.base import Backbone
from backbench.backbones.core.cut import cut_at
from backbench.backbones.core.measure import Origin, copy_to_meta, make_backbone, measure_body
from backbench.backbones.core.skip_init import undrawn
from backbench.backbones.core.weights import digest_weights, is_finite, put_state
from backbench.backbones.loaders import timm as timm_body
from backbench.backbones.loaders import torchvision as torchvision_body
from backbench.config import Preprocess
from backbench.errors import ModelError

PREPROCESS = Preprocess(size=(16, 16))


def _backbone(body: nn.Module) -> Backbone:
    return make_backbone(
        body, name="a body", architecture="test", preprocess=PREPROCESS, origin=Origin(pretrained_on=None)
    )


def test_digest_follows_names_shapes_dtypes_and_bytes() -> None:
    layer = nn.BatchNorm2d(4)
    digests = {digest_weights(layer)}
    layer.running_mean[2] += 1e-7  # a buffer, by the least that float32 can show
    digests.add(digest_weights(layer))
    layer.weight.data = layer.weight.data.reshape(2, 2)
    digests.add(digest_weights(layer))
    digests.add(digest_weights(layer.half()))
    digests.add(digest_weights(nn.Sequential(layer)))
    assert len(digests) == 5


def test_digest_does_not_depend_on_memory_layout_or_order() -> None:
    conv = nn.Conv2d(3, 4, 3)
    before = digest_weights(conv)
    assert digest_weights(copy.deepcopy(conv).to(memory_format=torch.channels_last)) == before
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    assert digest_weights(nn.ModuleDict({"a": a, "b": b})) == digest_weights(nn.ModuleDict({"b": b, "a": a}))
    assert digest_weights(nn.Linear(2, 2).to(torch.bfloat16))


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "test_efficientnet"])
def test_nothing_is_drawn_for_networks_that_are_filled_afterwards(name: str) -> None:
    before = torch.get_rng_state()
    with undrawn():
        inside = torch.get_rng_state()
        network = timm_body.make_network(name, {})
        assert torch.equal(torch.get_rng_state(), inside)
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = timm_body.make_network(name, {})
    assert not torch.equal(torch.get_rng_state(), before)  # outside, weights are drawn as ever
    put_state(network, drawn.state_dict(), where="here")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), drawn.eval()(images))


def test_constructors_that_draw_until_it_fits_come_to_an_end() -> None:
    weights = torch.empty(400)
    with undrawn():
        torch.nn.init.trunc_normal_(weights, std=0.02)
        assert (weights == 0).all()
        torch.nn.init.trunc_normal_(weights, mean=1.0, std=2.0, a=0.5, b=1.5)  # narrow: by the inverse of the law
        assert weights.uniform_(2, to=4).mean() == 3
        assert weights.normal_(mean=5).mean() == 5


def test_what_is_finite() -> None:
    values = torch.full((4, 5), 3e38)  # their sum is infinite
    assert is_finite(values)
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.arange(3))
    for bad in (float("nan"), float("inf"), -float("inf")):
        values[2, 3] = bad
        assert not is_finite(values)
        assert not is_finite(torch.tensor([1.0, bad]))
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))


def test_flops_count_multiply_and_add() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    facts = _backbone(conv).facts
    assert facts.flops == 2 * 3 * 8 * 9 * 16 * 16
    assert facts.dim == 8
    assert facts.num_parameters == 3 * 8 * 9
    assert facts.weights_bytes == 4 * facts.num_parameters


def test_attention_counts() -> None:
    body = make_untrained(TinyViT, 0, "test").requires_grad_(False)
    tokens, width = 65, 96
    linear = 2 * tokens * width * (4 * width + 4 * width)  # q, k, v, out and both layers of the perceptron
    attention = 2 * 2 * tokens * tokens * width
    patches = 2 * 64 * 48 * width
    assert measure_body(body, (32, 32), "vit") == (192, 6 * (linear + attention) + patches)


def test_the_copy_to_meta_holds_no_memory_and_leaves_the_original() -> None:
    body = make_untrained(TinyCNN, 0, "test").requires_grad_(False)
    before = digest_weights(body)
    meta = copy_to_meta(body)
    assert {tensor.device.type for tensor in meta.state_dict().values()} == {"meta"}
    assert digest_weights(body) == before


def test_a_body_that_does_not_give_rows() -> None:
    with pytest.raises(ModelError, match="another feature layer"):
        _backbone(nn.Conv2d(3, 8, 3))
    with pytest.raises(ModelError, match="16 x 16 pixels"):
        _backbone(nn.Sequential(nn.Flatten(), nn.Linear(5, 5)))


class _ReadsValues(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        assert float(batch.sum()) == 0.0
        return batch.flatten(1)


def test_a_body_that_looks_at_values_is_run_for_real() -> None:
    assert _backbone(_ReadsValues()).facts.dim == 3 * 16 * 16


def test_measuring_moves_nothing_even_in_a_body_given_in_training_mode() -> None:
    body = nn.Sequential(nn.BatchNorm2d(3), _ReadsValues()).train()
    before = digest_weights(body)
    assert _backbone(body).facts.weights_digest == before


class _Faulty(nn.Module):
    """Features with one fault, which only shows on real images."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 4)
        self.fault = fault
        self.num_calls = 0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        features = self.layer(batch.flatten(1))
        if self.fault == "rest of the batch":
            return features - features.mean(0)
        if self.fault == "not finite" and len(batch) > 1:
            return features / 0.0
        if self.fault == "random":
            return features + torch.rand(1)
        if self.fault == "constant":
            return features * 0 + 1
        if self.fault == "another dim" and len(batch) > 1:
            return features[:, :2]
        return features


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("rest of the batch", "rest of the batch"),
        ("not finite", "finite features"),
        ("random", "equal features for equal input"),
        ("constant", "depend on the image"),
        ("another dim", "feature size"),
        ("training", "eval mode"),
        ("trainable", "frozen"),
    ],
)
def test_the_self_test_names_what_is_wrong(fault: str, check: str) -> None:
    backbone = _backbone(_Faulty(fault))
    if fault == "training":
        backbone.body.layer.train()
    if fault == "trainable":
        backbone.body.layer.bias.requires_grad_(True)
    with pytest.raises(ModelError, match=check):
        selftest.check_backbone(backbone)
    selftest.check_backbone(_backbone(_Faulty("none")))


def test_a_cut_network_gives_the_values_of_that_layer() -> None:
    from torchvision import models

    network = models.resnet18(weights=None).eval()
    for module in network.modules():  # running statistics that show whether they are used
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    seen: dict[str, torch.Tensor] = {}
    handle = network.layer2.register_forward_hook(lambda _m, _i, output: seen.update(layer2=output))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network(images)
        handle.remove()
        body = cut_at(network, "layer2").eval()
        assert torch.equal(body(images), seen["layer2"].mean((2, 3)))
    kept = {name.split(".")[1] for name in body.state_dict()}
    assert kept == {"conv1", "bn1", "layer1", "layer2"}
    assert not any(module.training for module in body.modules())
    make_backbone(body, name="cut", architecture="x", preprocess=PREPROCESS, origin=Origin(None))


def test_maps_with_channels_last_are_averaged_over_positions() -> None:
    from torchvision import models

    network = models.swin_t(weights=None).eval()
    assert measure_body(cut_at(network, "features").requires_grad_(False), (96, 64), "swin")[0] == 768
    network = timm_body.make_network("swin_tiny_patch4_window7_224", {}).eval()
    assert measure_body(cut_at(network, "layers.2").requires_grad_(False), (224, 224), "swin")[0] == 384


def test_a_layer_that_gives_tokens_is_refused() -> None:
    network = timm_body.make_network("test_vit", {}).eval()
    with pytest.raises(ModelError, match="another feature layer"):
        measure_body(cut_at(network, "norm").requires_grad_(False), (160, 160), "vit")


@pytest.mark.parametrize(
    ("name", "dim", "head"),
    [
        ("alexnet", 4096, "classifier.6"),
        ("mobilenet_v2", 1280, "classifier.1"),
        ("mobilenet_v3_small", 1024, "classifier.3"),
        ("squeezenet1_1", 512, "classifier.1"),
        ("vit_b_16", 768, "heads.head"),
        ("resnet18", 512, "fc"),
        ("densenet121", 1024, "classifier"),
        ("googlenet", 1024, "fc"),
    ],
)
def test_what_is_left_of_torchvision_networks(name: str, dim: int, head: str) -> None:
    with torch.device("meta"):
        network = torchvision_body.make_network(name).eval().requires_grad_(False)
        assert torchvision_body.head_path(network) == head
        body = torchvision_body.drop_head(network)
        assert not any(path.startswith(("aux", "AuxLogits")) for path in body.state_dict())
        assert body(torch.zeros(1, 3, 224, 224)).shape == (1, dim)


def test_densenet_names_of_old_files() -> None:
    old = ("features.denseblock1.denselayer2.norm.1.weight", "features.norm5.weight")
    new = {"features.denseblock1.denselayer2.norm1.weight", "features.norm5.weight"}
    assert set(map(torchvision_body.rename_old_name, old)) == new


def test_untrained_weights_leave_torchs_own_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_untrained(TinyCNN, 0, "a use")
    assert torch.equal(torch.rand(3), expected)


def test_timm_crop_modes() -> None:
    def decide(**said: Any) -> Preprocess:
        network = nn.Identity()
        network.pretrained_cfg = {"input_size": (3, 160, 192), "crop_pct": 0.9, **said}  # type: ignore[assignment]
        return timm_body.decide_preprocess(network)

    assert decide(crop_mode="center").resize == "short-side"
    assert decide(crop_mode="squash").resize == "squash"
    assert decide(crop_mode="border").resize == "squash"
    assert decide().size == (160, 192)
    assert decide(crop_pct=1.15).crop_fraction == 1.0


@pytest.mark.parametrize("make", [lambda: torch.empty(10**16), lambda: np.empty(10**16), lambda: 1 / 0])
def test_memory_that_is_not_there_is_no_wrong_input_size(make: Callable[[], object]) -> None:
    class Greedy(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            make()
            return images.flatten(1)

    with pytest.raises(ModelError) as caught:
        measure_body(Greedy(), (8, 8), "greedy")
    is_memory = not isinstance(caught.value.__cause__, ZeroDivisionError)
    assert ("not enough memory" in str(caught.value)) is is_memory
    assert ("input size" in str(caught.value)) is not is_memory
