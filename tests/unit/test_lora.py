"""Adapters start as nothing, learn alone, and leave a plain network behind."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import Bottleneck, ResNet
from timm.models.resnetv2 import ResNetV2
from torch import nn

from backbench.backbones.architectures.vit import VisionTransformer
from backbench.backbones.architectures.vit_config import ViTConfig
from backbench.backbones.core.weights import digest_weights
from backbench.errors import ConfigError
from backbench.training.lora import TARGETS, add_lora, merge_lora
from backbench.training.optimise import Phase, freeze_for

SIZE = 32


class Attending(nn.Module):
    """torch's own attention, which reads its weights past its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        tokens = batch.flatten(1).unflatten(1, (-1, 24))
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)


def _timm(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=0, **options)


SWIN = {
    "img_size": SIZE,
    "patch_size": 2,
    "window_size": 4,
    "depths": (1, 1),
    "num_heads": (2, 4),
    "embed_dim": 24,
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and how many weights auto adapts at rank 2
    "timm vit": (_timm("vit_tiny_patch16_224", img_size=SIZE, depth=2), 4),
    "own vit": (lambda: VisionTransformer(ViTConfig(8, 32, 2, 2, 64, (SIZE, SIZE))), 4),
    "swin": (_timm("swin_tiny_patch4_window7_224", **SWIN), 4),
    "swinv2": (_timm("swinv2_tiny_window8_256", **SWIN), 5),  # one of them in its perceptron of positions
    "beit": (_timm("beit_base_patch16_224", img_size=SIZE, embed_dim=24, num_heads=2, depth=1), 2),
    "torch attention": (Attending, 2),
    "resnet18": (_timm("resnet18"), 20),
    "grouped": (lambda: ResNet(Bottleneck, (1, 1, 1, 1), num_classes=0, cardinality=4, base_width=8), 17),
    "mobilenetv2": (_timm("mobilenetv2_035", pad_type="same"), 0),
    "standardised": (lambda: ResNetV2((1, 1, 1, 1), (128,) * 4, num_classes=0), 17),
    "mixer": (lambda: MlpMixer(img_size=SIZE, patch_size=4, embed_dim=32, num_blocks=1, num_classes=0), 4),
}


def _make(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    body = NETWORKS[name][0]().eval()
    with torch.no_grad():  # branches that start at zero would hide what is in them
        for parameter in body.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return body, torch.randn(3, 3, SIZE, SIZE)


def _add(body: nn.Module, targets: str = "auto", rank: int = 2, seed: int = 0) -> frozenset[str]:
    return add_lora(body, rank=rank, alpha=4.0, targets=targets, rng=torch.Generator().manual_seed(seed))


def _train(body: nn.Module, batch: torch.Tensor, names: frozenset[str], steps: int = 2) -> None:
    chosen = {name: parameter for name, parameter in body.named_parameters() if name in names}
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name in names)
    optimizer = torch.optim.SGD(chosen.values(), lr=1.0)
    for step in range(steps):
        optimizer.zero_grad()
        output = body(batch)
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).mean().backward()
        assert all(parameter.grad is not None for parameter in chosen.values())
        if step == 0:
            assert all(chosen[name].grad.any() for name in chosen if name.endswith("up")), "an adapter is not read"
        torch.nn.utils.clip_grad_norm_(chosen.values(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("name", NETWORKS)
def test_fresh_adapters_change_no_bit(name: str) -> None:
    body, batch = _make(name)
    with torch.inference_mode():
        before = body(batch)
        names = _add(body)
        after = body(batch)
    assert torch.equal(before, after)
    expected = NETWORKS[name][1]
    assert len(names) == 2 * expected or (expected == 0 and names)
    assert names <= dict(body.named_parameters()).keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_training_moves_adapters_alone_and_merging_leaves_a_plain_network(name: str) -> None:
    body, batch = _make(name)
    plain = copy.deepcopy(body)
    frozen_before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    names = _add(body, "all")
    _train(body, batch, names)
    originals = {
        key.replace("parametrizations.", "").removesuffix(".original"): tensor
        for key, tensor in body.state_dict().items()
        if key not in names
    }
    assert originals.keys() == frozen_before.keys()
    assert all(torch.equal(originals[key], frozen_before[key]) for key in originals)
    with torch.inference_mode():
        tuned = body(batch)
        assert merge_lora(body) == len(names) // 2
        merged = body(batch)
        assert (merged - tuned).abs().max() <= 1e-6 * tuned.abs().max()
        assert (merged - plain(batch)).abs().max() > 1e-3 * merged.abs().max()
    assert list(body.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in body.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [type(module) for module in body.modules()] == [type(module) for module in plain.modules()]
    plain.load_state_dict(body.state_dict())
    with torch.inference_mode():
        assert torch.equal(plain(batch), merged)


def test_a_phase_freezes_everything_else() -> None:
    from backbench.config import Recipe

    body, _ = _make("resnet18")
    names = _add(body)
    chosen = freeze_for(body, Phase("lora", names, Recipe()))
    assert chosen.keys() == names
    assert sum(p.numel() for p in chosen.values()) < 0.05 * sum(p.numel() for p in body.parameters())


def test_the_same_seed_gives_the_same_adapters() -> None:
    digests = []
    for seed in (0, 0, 1):
        body, _ = _make("own vit")
        _add(body, seed=seed)
        digests.append(digest_weights(body))
    assert digests[0] == digests[1] != digests[2]


def test_merging_under_bf16_gives_what_training_saw() -> None:
    body, batch = _make("own vit")
    names = _add(body)
    _train(body, batch, names)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        tuned = body(batch)
        merge_lora(body)
        assert torch.equal(body(batch), tuned)


@pytest.mark.parametrize(
    ("name", "targets", "parts"),
    [
        ("timm vit", "attention", {"attn.qkv", "attn.proj"}),
        ("timm vit", "mlp", {"mlp.fc1", "mlp.fc2"}),
        ("timm vit", "linear", {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}),
        ("timm vit", "conv", {"patch_embed.proj"}),
    ],
)
def test_targets_choose(name: str, targets: str, parts: set[str]) -> None:
    body, _ = _make(name)
    found = {".".join(path.split(".parametrizations")[0].split(".")[-2:]) for path in _add(body, targets)}
    assert found == parts


def test_depthwise_shared_and_small_weights_are_left_alone() -> None:
    body = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Linear(16, 16), nn.Linear(16, 16))
    body[3].weight = body[2].weight
    assert {name.split(".")[0] for name in _add(body, "all", rank=1)} == {"1"}
    merge_lora(body)
    with pytest.raises(ConfigError, match="rank 4 is too high"):
        _add(body, "all", rank=4)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match="pixels"):
        _add(nn.Flatten())
    with pytest.raises(ConfigError, match=r"has none\. It has: .*conv"):
        _add(_make("resnet18")[0], "attention")
    with pytest.raises(ConfigError, match="Did you mean 'attention'"):
        _add(nn.Linear(9, 9), "attentoin")
    with pytest.raises(ConfigError, match="rank is 0"):
        _add(nn.Linear(9, 9), rank=0)
    with pytest.raises(ConfigError, match="alpha is 0"):
        add_lora(nn.Linear(9, 9), rank=1, alpha=0.0, rng=torch.Generator())
    body = nn.Linear(9, 9)
    assert _add(body) == {"parametrizations.weight.0.down", "parametrizations.weight.0.up"}
    with pytest.raises(ValueError, match="already"):
        _add(body)
    assert "auto" in TARGETS
