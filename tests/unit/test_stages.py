"""Every parameter of any backbone is in one stage and of one kind, and stages come in the order they run."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.cut import cut_at
from backbench.backbones.core.parts import KINDS, SELECTIONS
from backbench.backbones.core.stages import Stage, parts_of, stages_of
from backbench.backbones.loaders import torchvision as torchvision_body
from backbench.backbones.loaders.own import make_untrained_body
from backbench.registry import find_model

BLOCKS12 = [f"blocks.{index}" for index in range(12)]
TIMM = {  # what the stages are called, from input to output
    "resnet18": ["stem", "layer1", "layer2", "layer3", "layer4"],
    "resnet50d": ["stem", "layer1", "layer2", "layer3", "layer4"],
    "regnety_002": ["stem", "s1", "s2", "s3", "s4"],
    "efficientnet_b0": ["stem", *BLOCKS12[:7], "conv_head"],
    "tf_efficientnetv2_b0": ["stem", *BLOCKS12[:6], "conv_head"],
    "mobilenetv2_050": ["stem", *BLOCKS12[:7], "conv_head"],
    "mobilenetv3_small_050": ["stem", *BLOCKS12[:6], "conv_head"],
    "convnext_atto": ["stem", "stages.0", "stages.1", "stages.2", "stages.3"],
    "vit_tiny_patch16_224": ["stem", *BLOCKS12],
    "vit_base_patch16_clip_224": ["stem", *BLOCKS12],
    "deit3_small_patch16_224": ["stem", *BLOCKS12],
    "vit_small_patch14_reg4_dinov2": ["stem", *BLOCKS12],
    "swin_tiny_patch4_window7_224": ["stem", "layers.0", "layers.1", "layers.2", "layers.3"],
    "pvt_v2_b0": ["stem", "stages.0", "stages.1", "stages.2", "stages.3"],
    "mixer_s32_224": ["stem", *BLOCKS12[:8]],
    "twins_pcpvt_small": ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"],
    "densenet121": [
        "stem",
        *(f"features.{name}" for name in ("denseblock1", "transition1", "denseblock2", "transition2")),
        *(f"features.{name}" for name in ("denseblock3", "transition3", "denseblock4")),
    ],
    "inception_v3": [
        "stem",
        *(
            f"Mixed_{size}{letter}"
            for size, letters in ((5, "bcd"), (6, "abcde"), (7, "abc"))
            for letter in letters
        ),
    ],
    "vgg11": [
        "stem",
        *(f"features.{index}" for index in (3, 6, 8, 11, 13, 16, 18)),
        "pre_logits.fc1",
        "pre_logits.fc2",
    ],
}
TORCHVISION = {
    "resnet18": ["stem", "layer1", "layer2", "layer3", "layer4"],
    "squeezenet1_1": ["stem", *(f"features.{index}" for index in (3, 4, 6, 7, 9, 10, 11, 12))],
    "alexnet": ["stem", *(f"features.{index}" for index in (3, 6, 8, 10)), "classifier.1", "classifier.4"],
    "mobilenet_v2": ["stem", *(f"features.{index}" for index in range(1, 19))],
    "vit_b_16": ["stem", *(f"encoder.layers.encoder_layer_{index}" for index in range(12))],
    "swin_t": ["stem", *(f"features.{index}" for index in range(1, 8))],
    "convnext_tiny": ["stem", *(f"features.{index}" for index in range(1, 8))],
}


def on_meta(library: str, name: str) -> nn.Module:
    """A headless network, nearly always without memory for its weights."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # old timm finds its widths with torch
        if library == "timm":
            return timm.create_model(name, num_classes=0).eval()
        return torchvision_body.drop_head(models.get_model(name, weights=None)).eval()


def check_partition(body: nn.Module) -> list[Stage]:
    """Every parameter in one stage, stages in the network's order, prefixes that hold just those."""
    stages = stages_of(body)
    names = [name for name, _ in body.named_parameters()]
    assert sorted(name for stage in stages for name in stage.parameters) == sorted(names)
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        assert list(stage.parameters) == [name for name in names if name in set(stage.parameters)]
        below = [name for name in names if any(f"{name}.".startswith(f"{path}.") for path in stage.prefixes)]
        assert list(stage.parameters) == below
    parts = parts_of(body)
    assert list(parts) == [*KINDS, *SELECTIONS]
    assert sorted(name for kind in KINDS for name in parts[kind]) == sorted(names)
    return stages


def order_of_use(body: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """When each module that holds parameters is first called, seen on one forward pass."""
    calls: dict[str, int] = {}

    def note(path: str, *_: object) -> None:
        calls.setdefault(path, len(calls))

    for path, module in body.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_pre_hook(partial(note, path))
    with torch.no_grad():
        body(torch.zeros(2, 3, *size, device=next(body.parameters()).device))
    return calls


def check_order(body: nn.Module, size: tuple[int, int]) -> None:
    """No stage begins before the one before it has begun, and nothing runs after the last one."""
    calls = order_of_use(body, size)
    spans = []
    for stage in stages_of(body):
        holders = {name.rpartition(".")[0] for name in stage.parameters}
        times = [calls[path] for path in holders if path in calls]
        spans.append((min(times), max(times)))
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    assert spans[-1][1] == max(calls.values())
    assert all(end < start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks(name: str) -> None:
    body = on_meta("timm", name)
    assert [stage.name for stage in check_partition(body)] == TIMM[name]
    if name != "twins_pcpvt_small":  # its position convolutions run inside the blocks
        check_order(body, body.default_cfg["input_size"][1:])


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks(name: str) -> None:
    body = on_meta("torchvision", name)
    assert [stage.name for stage in check_partition(body)] == TORCHVISION[name]
    check_order(body, (224, 224))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", ["stem", "stage1", "stage2", "stage3"]),
        ("cnn_small", ["stem", "stage2", "stage3"]),
        ("lenet", ["stem", "stage2", "dense"]),
        ("tiny_cnn", ["stem", "stage1", "stage2", "deepen", "stage3"]),
        ("tiny_vit", ["stem", *BLOCKS12[:6]]),
        ("vit_tiny_patch16", ["stem", *BLOCKS12]),
    ],
)
def test_our_own_networks(name: str, expected: list[str]) -> None:
    body = make_untrained_body(name, 0)
    assert [stage.name for stage in check_partition(body)] == expected
    check_order(body, (224, 224) if name.startswith("vit") else (32, 32))


def test_a_backbone_and_a_network_cut_at_a_layer() -> None:
    backbone = find_model("tiny_vit").load(0)  # type: ignore[misc]
    assert isinstance(backbone, Backbone)
    assert [stage.name for stage in check_partition(backbone)] == [
        "stem",
        *(f"body.{name}" for name in BLOCKS12[:6]),
    ]
    cut = cut_at(models.resnet18(weights=None), "layer3")
    assert [stage.name for stage in check_partition(cut)] == [
        "stem",
        *(f"trunk.layer{index}" for index in (1, 2, 3)),
    ]
    cut = cut_at(models.squeezenet1_1(weights=None), "features")
    assert [stage.name for stage in check_partition(cut)][:3] == ["stem", "trunk.features.3", "trunk.features.4"]


def test_what_stem_and_last_stage_hold() -> None:
    stages = stages_of(on_meta("timm", "vit_small_patch14_reg4_dinov2"))
    assert set(stages[0].prefixes) == {"cls_token", "reg_token", "pos_embed", "patch_embed"}
    assert stages[-1].prefixes == ("blocks.11", "norm")
    stages = stages_of(on_meta("timm", "vit_base_patch16_clip_224"))
    assert "norm_pre" in stages[0].prefixes
    stages = stages_of(on_meta("timm", "efficientnet_b0"))
    assert stages[0].prefixes == ("conv_stem", "bn1")
    assert stages[-1].prefixes == ("conv_head", "bn2")
    stages = stages_of(on_meta("torchvision", "vit_b_16"))
    assert set(stages[0].prefixes) == {"class_token", "conv_proj", "encoder.pos_embedding"}
    assert stages[-1].prefixes == ("encoder.layers.encoder_layer_11", "encoder.ln")
    stages = stages_of(on_meta("timm", "twins_pcpvt_small"))
    assert set(stages[2].prefixes) == {"blocks.1", "patch_embeds.1", "pos_block.1"}


def test_networks_of_no_known_shape() -> None:
    assert stages_of(nn.Flatten()) == []
    assert [stage.name for stage in check_partition(nn.Linear(2, 2))] == ["stem"]
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    assert [(stage.name, stage.prefixes) for stage in check_partition(plain)] == [
        ("stem", ("0",)),
        ("2", ("2", "3")),
    ]
    named = nn.ModuleDict({"first": nn.Linear(2, 3), "second": nn.Linear(3, 3), "last": nn.Linear(3, 2)})
    assert [stage.name for stage in check_partition(named)] == ["stem", "second", "last"]
    lone = nn.ModuleDict({name: nn.Sequential(nn.Linear(2, 2)) for name in ("first", "second", "block1", "last")})
    assert [stage.name for stage in check_partition(lone)] == ["stem", "second", "block1", "last"]
    tied = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    tied["second"].weight = tied["first"].weight
    assert [stage.parameters for stage in check_partition(tied)] == [
        ("first.weight", "first.bias"),
        ("second.bias",),
    ]


# --- parts ---


def test_parts_of_a_transformer() -> None:
    parts = parts_of(on_meta("timm", "vit_small_patch14_reg4_dinov2"))
    assert set(parts["embedding"]) == {
        *("cls_token", "reg_token", "pos_embed"),
        *("patch_embed.proj.weight", "patch_embed.proj.bias"),
    }
    first = {kind: [name for name in names if name.startswith("blocks.0.")] for kind, names in parts.items()}
    assert first["mlp"] == [
        f"blocks.0.mlp.{layer}.{what}" for layer in ("fc1", "fc2") for what in ("weight", "bias")
    ]
    assert first["attention"] == [
        f"blocks.0.attn.{layer}.{what}" for layer in ("qkv", "proj") for what in ("weight", "bias")
    ]
    assert first["mlp-norm"] == ["blocks.0.norm2.weight", "blocks.0.norm2.bias"]
    assert first["attention-norm"] == ["blocks.0.norm1.weight", "blocks.0.norm1.bias"]
    assert set(first["norm"]) == {
        *first["mlp-norm"],
        *first["attention-norm"],
        "blocks.0.ls1.gamma",
        "blocks.0.ls2.gamma",
    }
    assert parts["conv"] == ()
    assert parts["norm"][-2:] == ("norm.weight", "norm.bias")
    assert set(parts["bias"]) == {name for kind in KINDS for name in parts[kind] if name.endswith(".bias")}


def test_the_selection_of_the_seed_that_tuned_perceptrons() -> None:
    """All perceptrons and their norms of ViT-B/16: 12 x (4.7 M + 1,536) numbers."""
    body = make_untrained_body("vit_tiny_patch16", 0)
    parts = parts_of(body)
    sizes = {name: parameter.numel() for name, parameter in body.named_parameters()}
    width, hidden = 192, 768
    assert sum(sizes[name] for name in parts["mlp"]) == 12 * (2 * width * hidden + hidden + width)
    assert sum(sizes[name] for name in parts["mlp-norm"]) == 12 * 2 * width
    assert sum(sizes[name] for name in parts["attention"]) == 12 * 4 * width * (width + 1)


def test_parts_of_a_convolutional_network() -> None:
    body = on_meta("timm", "resnet18")
    parts = parts_of(body)
    convolutions = [f"{path}.weight" for path, module in body.named_modules() if isinstance(module, nn.Conv2d)]
    assert list(parts["conv"]) == convolutions
    assert not parts["mlp"]
    assert not parts["attention"]
    assert not parts["embedding"]
    assert len(parts["norm"]) == 2 * len(convolutions)
    gated = parts_of(on_meta("timm", "regnety_002"))
    assert "s1.b1.se.fc1.weight" in gated["conv"]
    assert not gated["attention"]
    named_attention = on_meta("timm", "seresnext26ts")
    assert any(".attn." in name for name, _ in named_attention.named_parameters())
    assert not parts_of(named_attention)["attention"]


@pytest.mark.parametrize(
    ("library", "name", "has"),
    [
        ("timm", "swin_tiny_patch4_window7_224", {"attention", "mlp", "embedding"}),
        ("timm", "swinv2_tiny_window8_256", {"attention", "mlp", "embedding"}),
        ("timm", "pvt_v2_b0", {"attention", "mlp", "embedding"}),
        ("timm", "twins_pcpvt_small", {"attention", "mlp", "embedding", "conv"}),
        ("timm", "mixer_s32_224", {"mlp", "embedding"}),
        ("timm", "convnext_atto", {"mlp", "conv"}),
        ("torchvision", "vit_b_16", {"attention", "mlp", "embedding"}),
        ("torchvision", "swin_t", {"attention", "mlp", "embedding", "conv"}),
        ("torchvision", "convnext_tiny", {"mlp", "conv"}),
        ("torchvision", "alexnet", {"mlp", "conv"}),
    ],
)
def test_which_parts_a_family_has(library: str, name: str, has: set[str]) -> None:
    parts = parts_of(on_meta(library, name))
    assert {kind for kind in ("attention", "mlp", "embedding", "conv") if parts[kind]} == has


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "pvt_v2_b0"])
def test_norms_before_and_after_their_sublayers(name: str) -> None:
    parts = parts_of(on_meta("timm", name))
    in_blocks = [path for path in parts["norm"] if path.rpartition(".")[0].endswith(("norm1", "norm2"))]
    assert set(parts["attention-norm"]) == {path for path in in_blocks if ".norm1." in path}
    assert set(parts["mlp-norm"]) == {path for path in in_blocks if ".norm2." in path}


@pytest.mark.parametrize(
    ("name", "before_attention", "before_mlp"),
    [("vit_b_16", ".ln_1.", ".ln_2."), ("swin_t", ".norm1.", ".norm2.")],
)
def test_norms_of_torchvision(name: str, before_attention: str, before_mlp: str) -> None:
    body = on_meta("torchvision", name)
    parts = parts_of(body)
    names = [path for path, _ in body.named_parameters()]
    assert list(parts["attention-norm"]) == [path for path in names if before_attention in path]
    assert list(parts["mlp-norm"]) == [path for path in names if before_mlp in path]


def test_a_norm_without_a_sublayer_of_its_own() -> None:
    """ResMLP mixes tokens by a bare linear layer: only the second of its two norms is a perceptron's."""
    parts = parts_of(on_meta("timm", "resmlp_12_224"))
    assert parts["mlp-norm"]
    assert all(".norm2." in path for path in parts["mlp-norm"])


def test_attention_is_told_by_its_class_too() -> None:
    body = on_meta("timm", "edgenext_xx_small")
    expected = [name for name, _ in body.named_parameters() if ".xca." in name]
    assert expected
    assert set(expected) == set(parts_of(body)["attention"])


def test_a_table_is_no_bias() -> None:
    layer = nn.Linear(2, 2)
    layer.register_parameter("position_bias", nn.Parameter(torch.zeros(3, 3)))
    layer.register_parameter("q_bias", nn.Parameter(torch.zeros(3)))
    assert parts_of(nn.Sequential(layer))["bias"] == ("0.bias", "0.q_bias")
