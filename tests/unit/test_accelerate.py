"""The inference copy gives the features of the plain network, and never touches it."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from backbench.backbones.core.base import Backbone
from backbench.config import Preprocess
from backbench.inference import accelerate as module
from backbench.inference.accelerate import _OneDNNLinear, _try_onednn_linears, accelerate
from backbench.inference.resize import prepare_batch
from backbench.records.schema import ModelFacts
from backbench.registry import find_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another make tiny networks slow on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wrap(body: nn.Module, dim: int, side: int = 32) -> Backbone:
    facts = ModelFacts(
        name="test",
        architecture="test",
        dim=dim,
        preprocess=Preprocess(size=(side, side)),
        num_parameters=0,
        flops=None,
        weights_digest="0" * 64,
        pretrained_on=None,
    )
    return Backbone(body, facts)


def stir(body: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with statistics far from those of any batch, as trained ones have."""
    rng = torch.Generator().manual_seed(seed)
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(generator=rng)
            norm.running_var.uniform_(0.5, 2.0, generator=rng)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5, generator=rng)
                norm.bias.normal_(generator=rng)
    return body


def pooled(*layers: nn.Module) -> nn.Module:
    return stir(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def simple() -> nn.Module:
    torch.manual_seed(0)
    return pooled(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )


class Forked(nn.Module):
    """The output of the convolution goes to the batch norm and past it: folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (x + self.norm(x)).mean((2, 3))


class Shared(nn.Module):
    """One convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(self.conv(x))).mean((2, 3))


class LooksAtItsNorm(nn.Module):
    """Fails once its batch norm is replaced."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(self.conv(x)) + self.norm.num_features).mean((2, 3))


class MakesFloat32(nn.Module):
    """Multiplies by a tensor made on the way, which pure bf16 can't."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 32 * 32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)) @ torch.eye(8)


class NeedsDigits(nn.Module):
    """Comes out wrong, without failing, where 8 bits of precision are all there is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.mean((2, 3)) + 1e4) - 1e4) * 8


def timm_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        torch.manual_seed(0)
        return stir(timm.create_model(name, num_classes=0))

    return make


def torchvision_resnet() -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Identity()
    return stir(network)


NETWORKS = {
    "simple": (simple, 8),
    "forked": (lambda: stir(Forked()), 8),
    "shared": (lambda: stir(Shared()), 3),
    "looks": (lambda: stir(LooksAtItsNorm()), 8),
    "makes_float32": (MakesFloat32, 8),
    "timm_resnet18": (timm_model("resnet18"), 512),
    "timm_mobilenetv3": (timm_model("mobilenetv3_small_050"), 1024),
    "timm_tf_efficientnet": (timm_model("tf_efficientnet_b0"), 1280),
    "timm_resnetv2": (timm_model("resnetv2_50"), 2048),
    "timm_convnext": (timm_model("convnext_atto"), 320),
    "torchvision_resnet18": (torchvision_resnet, 512),
}


def plain_features(backbone: Backbone, batch: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return backbone.eval()(batch)


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_features_are_the_plain_ones(name: str) -> None:
    make, dim = NETWORKS[name]
    backbone = wrap(make(), dim)
    batch = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = plain_features(backbone, batch)
    values = accelerate(backbone)(batch)
    assert values.dtype == torch.float32
    assert values.is_inference()
    assert (values - expected).abs().max() / expected.abs().max() < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_features_point_the_same_way(name: str) -> None:
    make, dim = NETWORKS[name]
    backbone = wrap(make(), dim)
    batch = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    values = accelerate(backbone, precision="bf16")(batch)
    assert values.dtype == torch.float32
    assert F.cosine_similarity(values, plain_features(backbone, batch), dim=1).min() > 0.99


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_vit_features_are_the_plain_ones(precision: str) -> None:
    import timm

    torch.manual_seed(0)
    backbone = wrap(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64), 192, side=64)
    batch = torch.randn(2, 3, 64, 64)
    values, expected = accelerate(backbone, precision=precision)(batch), plain_features(backbone, batch)
    if precision == "fp32":
        assert (values - expected).abs().max() / expected.abs().max() < 1e-4
    else:
        assert F.cosine_similarity(values, expected, dim=1).min() > 0.99


@pytest.mark.parametrize("name", ["simple", "timm_resnet18", "timm_mobilenetv3", "torchvision_resnet18"])
def test_batch_norms_after_convolutions_are_gone(name: str) -> None:
    make, dim = NETWORKS[name]
    network = accelerate(wrap(make(), dim))
    assert not [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["forked", "shared", "looks"])
def test_what_can_not_be_folded_is_not(name: str) -> None:
    make, dim = NETWORKS[name]
    network = accelerate(wrap(make(), dim))
    assert [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_original_is_never_touched(precision: str) -> None:
    backbone = wrap(simple(), 8)
    backbone.train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    network = accelerate(backbone, precision=precision)
    network(torch.randn(4, 3, 32, 32))
    after = backbone.state_dict()
    assert list(before) == list(after)
    assert all(
        torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before
    )
    assert all(part.training for part in backbone.modules())
    assert all(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["forked", "simple"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_do_not_depend_on_batch_mates_even_of_a_backbone_in_train_mode(name: str, precision: str) -> None:
    make, dim = NETWORKS[name]
    backbone = wrap(make(), dim)
    backbone.train()
    network = accelerate(backbone, precision=precision)
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(network(batch), alone, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(network(batch), plain_features(backbone, batch), rtol=5e-2, atol=5e-2)


def test_the_copy_is_kept_while_the_weights_stay_and_the_backbone_lives() -> None:
    backbone = wrap(simple(), 8)
    first = accelerate(backbone)
    assert accelerate(backbone) is first
    assert accelerate(copy.deepcopy(backbone)) is not first
    assert accelerate(backbone, precision="bf16") is not first
    with torch.no_grad():
        next(backbone.parameters()).mul_(2.0)
    images = torch.randn(2, 3, 32, 32)
    changed = accelerate(backbone)
    torch.testing.assert_close(changed(images), backbone(images), rtol=1e-4, atol=1e-5)
    backbone.body[1].running_mean.add_(1.0)  # a buffer counts too
    assert accelerate(backbone) is not changed
    gone = weakref.ref(accelerate(backbone))
    del backbone
    gc.collect()
    assert gone() is None


def test_a_network_that_fails_or_errs_in_bf16_runs_under_autocast() -> None:
    assert accelerate(wrap(MakesFloat32(), 8), precision="bf16").autocast
    assert accelerate(wrap(NeedsDigits(), 3), precision="bf16").autocast
    assert not accelerate(wrap(simple(), 8), precision="bf16").autocast


def test_attention_is_unfused_in_bf16_only() -> None:
    import timm

    backbone = wrap(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=1), 192)
    for precision, fused in (("fp32", True), ("bf16", False)):
        network = accelerate(backbone, precision=precision)
        states = [part.fused_attn for part in network.modules() if hasattr(part, "fused_attn")]
        assert states
        assert all(state is fused for state in states)


@pytest.mark.parametrize("bias", [True, False])
def test_onednn_linear_is_the_plain_one(bias: bool) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no such operator")
    linear = nn.Linear(96, 32, bias=bias).requires_grad_(False)
    for shape in ((5, 96), (2, 7, 96)):
        x = torch.randn(shape)
        torch.testing.assert_close(_OneDNNLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)


def test_linears_change_only_if_the_features_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(27, 4)).requires_grad_(False)
    batch = torch.randn(2, 3, 3, 3)
    expected = network(batch)
    changed = _try_onednn_linears(network, batch, expected)
    torch.testing.assert_close(changed(batch), expected)
    monkeypatch.setattr(_OneDNNLinear, "forward", lambda self, x: x @ self.weight.T + 1.0)
    assert _try_onednn_linears(network, batch, expected) is network


def test_amd_takes_onednn_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no such operator")
    for processor, expected in (("AMD EPYC 9R45", True), ("Intel Xeon", False)):
        backbone = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8)), 8)
        monkeypatch.setattr(module, "describe_environment", lambda _, name=processor: {"processor": name})
        found = [part for part in accelerate(backbone).modules() if isinstance(part, _OneDNNLinear)]
        assert bool(found) is expected


CARDS = {  # the least cosine in bf16: depthwise networks rescued from int8 have little precision to lose
    "mobilenetv2_100": 0.98,
    "resnet18_to_layer3": 0.99,
    "squeezenet1_1": 0.99,
    "vit_tiny_patch16_224": 0.99,
}


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS)
def test_real_weights_give_the_same_features(shared: Path, card: str) -> None:
    load = find_model(str(shared / "weights" / f"{card}.toml")).load
    assert load is not None
    backbone = load(0)
    files = sorted((shared / "data" / "caltech-mini").glob("*/*.jpg"))[::60]
    batch = prepare_batch([np.asarray(Image.open(file).convert("RGB")) for file in files], backbone.preprocess)
    expected = plain_features(backbone, batch)
    fp32 = accelerate(backbone)(batch)
    assert (fp32 - expected).abs().max() / expected.abs().max() < 1e-4
    assert F.cosine_similarity(accelerate(backbone, precision="bf16")(batch), expected, dim=1).min() > CARDS[card]
