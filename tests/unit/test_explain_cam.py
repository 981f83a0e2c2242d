"""Grad-CAM against pytorch-grad-cam, on networks of every kind, and the choice of its layer."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.weights import digest_weights
from backbench.classifier.classifier import Classifier
from backbench.config import Preprocess
from backbench.errors import ModelError
from backbench.explain.cam import explain_by_cam
from backbench.heads.head_modules import HeadSpec, build_head, make_linear
from backbench.records.schema import ModelFacts
from backbench.registry import find_model

NAMES = ("ant", "bee", "cow")
SIZE = 64


def explain(*inputs: Any, **options: Any) -> Tensor:
    return explain_by_cam(*inputs, **options).values


def classify(body: nn.Module, size: tuple[int, int] = (SIZE, SIZE)) -> Classifier:
    """A frozen body with a random linear head, as a bundle gives it."""
    body = body.eval().requires_grad_(False)
    with torch.no_grad():
        dim = body(torch.zeros(1, 3, *size)).shape[1]
    preprocess = Preprocess(size=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    facts = ModelFacts(
        name="net",
        architecture="net",
        dim=dim,
        preprocess=preprocess,
        num_parameters=1,
        flops=None,
        weights_digest="0",
        pretrained_on=None,
        licence=None,
    )
    head = make_linear(dim, len(NAMES), torch.Generator().manual_seed(2))
    with torch.no_grad():
        head.get_parameter("weight").mul_(100)
    return Classifier(Backbone(body, facts), head.requires_grad_(False), NAMES).eval()


def make_batch(size: tuple[int, int] = (SIZE, SIZE), num: int = 2) -> Tensor:
    return torch.randn(num, 3, *size, generator=torch.Generator().manual_seed(1))


def make_timm(name: str, **options: object) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=0, **options)


def peer_cam(classifier: Classifier, batch: Tensor, targets: list[int], layer: str, num_prefix: int) -> Any:
    """What pytorch-grad-cam says at that layer, (n, height, width) at the size of the images."""

    def as_map(tokens: Tensor) -> Tensor:
        side = int((tokens.shape[1] - num_prefix) ** 0.5)
        return tokens[:, num_prefix:].reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)

    network = copy.deepcopy(classifier).requires_grad_(True)
    reshape = as_map if num_prefix else None
    with GradCAM(network, [network.backbone.body.get_submodule(layer)], reshape_transform=reshape) as cam:
        return cam(batch, [ClassifierOutputTarget(target) for target in targets])


@pytest.mark.parametrize(
    ("name", "options", "layer", "num_prefix"),
    [
        ("resnet18", {}, "layer4", 0),
        ("mobilenetv2_100", {}, "bn2", 0),
        ("vit_tiny_patch16_224", {"img_size": SIZE, "depth": 3}, "blocks.1", 1),
        ("deit_tiny_distilled_patch16_224", {"img_size": SIZE, "depth": 3}, "blocks.1", 2),
    ],
)
def test_it_is_what_pytorch_grad_cam_gives_at_the_layer_of_the_family(
    name: str, options: dict[str, object], layer: str, num_prefix: int
) -> None:
    classifier = classify(make_timm(name, **options))
    batch = make_batch()
    cam = explain_by_cam(classifier, batch, torch.tensor([1, 2]))
    assert cam.layer == layer
    expected = peer_cam(classifier, batch, [1, 2], layer, num_prefix)
    assert expected.max() > 0.99
    enlarged = scale_cam_image(cam.values.numpy(), (SIZE, SIZE))
    np.testing.assert_allclose(scale_cam_image(enlarged), expected, atol=1e-4)  # it scales before and after


@pytest.mark.parametrize(
    ("name", "options", "grid"),
    [
        ("convnext_atto", {}, (2, 2)),
        ("efficientnet_b0", {}, (2, 2)),
        ("densenet121", {}, (2, 2)),
        ("regnetx_002", {}, (2, 2)),
        ("swin_tiny_patch4_window7_224", {"img_size": SIZE, "window_size": 2, "embed_dim": 24}, (2, 2)),
        ("vit_base_patch16_siglip_224", {"img_size": SIZE, "depth": 2, "embed_dim": 48, "num_heads": 3}, (4, 4)),
        ("mixer_s16_224", {"img_size": SIZE}, (4, 4)),
        ("cait_xxs24_224", {"img_size": SIZE, "depth": 2}, (4, 4)),
        ("tnt_s_legacy_patch16_224", {"img_size": SIZE, "depth": 2}, (4, 4)),
    ],
)
def test_every_family_has_a_layer_with_places(
    name: str, options: dict[str, object], grid: tuple[int, int]
) -> None:
    classifier = classify(make_timm(name, **options))
    cam = explain_by_cam(classifier, make_batch(), torch.tensor([0, 2]))
    assert cam.values.shape == (2, *grid), cam.layer
    assert cam.values.min() == 0
    assert cam.values.max() == 1  # in one of the images: in the other all may speak against the class
    assert not cam.values.requires_grad


@pytest.mark.parametrize(("name", "side"), [("tiny_cnn", 4), ("tiny_vit", 8), ("cnn", 3)])
def test_our_own_networks(name: str, side: int) -> None:
    backbone = find_model(name).load(0)
    head = make_linear(backbone.facts.dim, 3, torch.Generator().manual_seed(2))
    values = explain(Classifier(backbone, head, NAMES), make_batch((32, 32)), torch.tensor([0, 1]))
    assert values.shape == (2, side, side)
    assert values.amax((1, 2)).tolist() == pytest.approx([1.0, 1.0])


def test_images_are_not_square() -> None:
    classifier = classify(make_timm("resnet10t"), (64, 128))
    assert explain(classifier, make_batch((64, 128)), torch.tensor([0, 1])).shape == (2, 2, 4)


def test_a_network_cut_at_a_layer() -> None:
    from backbench.backbones.core.cut import cut_at

    classifier = classify(cut_at(make_timm("resnet18").eval(), "layer3"))
    cam = explain_by_cam(classifier, make_batch(), torch.tensor([0, 1]))
    assert cam.values.shape == (2, 4, 4)
    assert cam.layer.startswith("trunk.layer3")


def test_neither_weights_nor_modes_nor_gradients_change() -> None:
    classifier = classify(make_timm("resnet10t"))
    parameter = next(classifier.parameters())
    parameter.requires_grad_()
    classifier.train()
    classifier.backbone.body.layer1.eval()
    before = digest_weights(classifier)
    explain(classifier, make_batch(), torch.tensor([0, 1]))
    assert digest_weights(classifier) == before
    assert parameter.grad is None
    assert classifier.backbone.body.layer2.training
    assert not classifier.backbone.body.layer1.training


def test_an_image_is_explained_alike_alone_and_among_others() -> None:
    classifier = classify(make_timm("resnet10t"))
    batch = make_batch(num=3)
    together = explain(classifier, batch, torch.tensor([0, 1, 2]))
    alone = explain(classifier, batch[1:2], torch.tensor([1]))
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)


def test_neighbours_that_agree_leave_nothing_to_explain() -> None:
    backbone = find_model("tiny_cnn").load(0)
    head = build_head(HeadSpec(kind="neighbours", dim=backbone.facts.dim, classes=3, num_rows=4, k=2))
    values = explain(Classifier(backbone, head, NAMES), make_batch((32, 32)), torch.tensor([0, 0]))
    assert values.shape == (2, 4, 4)
    assert not values.any()


def test_pixels_alone_keep_no_places() -> None:
    classifier = classify(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5)))
    with pytest.raises(ModelError, match="no layer has separate positions"):
        explain(classifier, make_batch(), torch.tensor([0, 1]))


def test_the_same_network_at_work_in_another_thread_is_not_mixed_in() -> None:
    classifier = classify(make_timm("resnet10t"))
    batch, targets = make_batch(), torch.tensor([0, 1])
    expected = explain(classifier, batch, targets)
    num_other = 0

    def disturb(_module: nn.Module, _inputs: object) -> None:
        nonlocal num_other
        if num_other == 0:
            num_other += 1
            other = threading.Thread(target=lambda: classifier(-batch.clone().requires_grad_()))
            other.start()
            other.join()

    classifier.head.register_forward_pre_hook(disturb)
    torch.testing.assert_close(explain(classifier, batch, targets), expected)
    assert num_other == 1


def test_a_network_without_gradients_says_so() -> None:
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(context: object, values: Tensor) -> Tensor:
            return values.round()

        @staticmethod
        def backward(context: object, slope: Tensor) -> Tensor:
            raise RuntimeError("no gradient of whole numbers")

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, batch: Tensor) -> Tensor:
            return Rounded.apply(self.conv(batch)).mean((2, 3))

    with pytest.raises(ModelError, match="can't be differentiated"):
        explain(classify(Quantised()), make_batch(), torch.tensor([0, 1]))
