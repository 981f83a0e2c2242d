"""Attention maps of every kind of vision transformer, against what the networks themselves compute."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backbench.backbones.architectures.vit import VisionTransformer
from backbench.backbones.architectures.vit_config import ViTConfig
from backbench.backbones.core.weights import digest_weights
from backbench.errors import ModelError
from backbench.explain.attention import overhear_attention, read_patches, roll_out, stretch
from backbench.explain.tokens import reads_class_token, shape_grid, token_grid

SMALL = {"num_classes": 0, "depth": 3, "embed_dim": 48, "num_heads": 3}
TIMM = {  # name -> options, (prefix tokens, rows, columns), is read from the class token
    "vit_tiny_patch16_224": ({"img_size": 64}, (1, 4, 4), True),
    "vit_tiny_patch16_224 wide": ({"img_size": (48, 80)}, (1, 3, 5), True),
    "deit_tiny_distilled_patch16_224": ({"img_size": 64}, (2, 4, 4), True),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56}, (5, 4, 4), True),
    "vit_base_patch16_clip_224": ({"img_size": 64}, (1, 4, 4), True),
    "vit_base_patch16_siglip_224": ({"img_size": 64}, (0, 4, 4), False),
    "beit_base_patch16_224": ({"img_size": 64}, (1, 4, 4), False),
    "eva02_tiny_patch14_224": ({"img_size": 56}, (1, 4, 4), False),
    "vit_small_patch16_dinov3": ({"img_size": 64}, (5, 4, 4), None),
}


def make_timm(name: str) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(name.split()[0], pretrained=False, **{**SMALL, **TIMM[name][0]}).eval()


def make_batch(height: int, width: int, num: int = 2) -> Tensor:
    return torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(1))


def batch_for(name: str) -> Tensor:
    size = TIMM[name][0]["img_size"]
    return make_batch(*(size if isinstance(size, tuple) else (size, size)))


def maps_by_hooks(body: nn.Module, batch: Tensor) -> list[Tensor]:
    """The slow way round: timm's attention told not to use the fused kernel, and heard at its dropout."""
    seen: list[Tensor] = []
    for name, module in body.named_modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if name.endswith("attn_drop") and name.startswith("blocks"):
            module.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.no_grad():
        body(batch)
    return seen


def make_own(**changes: object) -> VisionTransformer:
    options = {"patch": 8, "width": 24, "depth": 2, "heads": 2, "hidden": 48, "image_size": (32, 48)}
    torch.manual_seed(0)
    return VisionTransformer(ViTConfig(**{**options, **changes})).eval()


def rollout(body: nn.Module, batch: Tensor) -> Tensor:
    _, maps, grid = overhear_attention(body, batch, mean_heads=True)
    return read_patches(roll_out(maps), grid, from_class_token=reads_class_token(body))


def make_torchvision() -> nn.Module:
    from torchvision.models import VisionTransformer as TorchvisionViT

    torch.manual_seed(0)
    network = TorchvisionViT(32, 8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=2)
    network.heads = nn.Identity()
    return network.eval()


@pytest.mark.parametrize("name", TIMM)
def test_every_family_of_timm_gives_the_attention_it_uses(name: str) -> None:
    body, batch = make_timm(name), batch_for(name)
    before = digest_weights(body)
    with torch.no_grad():
        expected = body(batch)
    features, maps, grid = overhear_attention(body, batch)
    assert torch.equal(features, expected)
    assert digest_weights(body) == before
    assert (grid.num_prefix, grid.height, grid.width) == TIMM[name][1]
    if TIMM[name][2] is not None:
        assert reads_class_token(body) is TIMM[name][2]
    tokens = grid.num_prefix + grid.height * grid.width
    assert [weights.shape for weights in maps] == [(2, 3, tokens, tokens)] * 3
    reference = maps_by_hooks(body, batch)
    assert len(reference) == 3
    for weights, expected_weights in zip(maps, reference, strict=True):
        torch.testing.assert_close(weights, expected_weights, atol=1e-5, rtol=1e-4)


def test_unfused_attention_gives_the_same_maps() -> None:
    body, batch = make_timm("vit_tiny_patch16_224"), make_batch(64, 64)
    fused = overhear_attention(body, batch)[1]
    for module in body.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    torch.testing.assert_close(overhear_attention(body, batch)[1], fused, atol=1e-6, rtol=1e-5)


def test_our_own_transformer_gives_the_attention_it_uses() -> None:
    body, batch = make_own(), make_batch(32, 48)
    maps = overhear_attention(body, batch)[1]
    torch.testing.assert_close(maps, maps_by_hooks(body, batch), atol=1e-6, rtol=1e-5)
    assert rollout(body, batch).shape == (2, 4, 6)


def test_torchvisions_transformer_gives_the_attention_it_uses() -> None:
    body, batch = make_torchvision(), make_batch(32, 32)
    with torch.no_grad():
        expected = body(batch)
        first = body.encoder.layers[0]
        tokens = torch.cat([body.class_token.expand(2, -1, -1), body._process_input(batch)], 1)
        tokens = first.ln_1(tokens + body.encoder.pos_embedding)
        first_maps = first.self_attention(tokens, tokens, tokens, average_attn_weights=False)[1]
    features, maps, grid = overhear_attention(body, batch)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert (grid.num_prefix, grid.height, grid.width) == (1, 4, 4)
    assert [weights.shape for weights in maps] == [(2, 2, 17, 17)] * 2
    torch.testing.assert_close(maps[0], first_maps, atol=1e-6, rtol=1e-5)


def test_rollout_is_the_product_of_layers_written_out() -> None:
    body, batch = make_own(depth=3), make_batch(32, 48, num=1)
    maps = [weights[0].numpy().astype(np.float64) for weights in overhear_attention(body, batch)[1]]
    total = np.eye(25)
    for weights in maps:
        step = np.zeros((25, 25))
        for row in range(25):
            step[row] = np.mean([head[row] for head in weights], axis=0)
            step[row, row] += 1
            step[row] /= step[row].sum()
        total = step @ total
    expected = total[0, 1:].reshape(4, 6)
    np.testing.assert_allclose(rollout(body, batch)[0].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(roll_out([torch.tensor(maps[0]).float()[None]])[0].sum(-1), 1.0, atol=1e-6)


def test_features_from_patches_are_explained_by_the_rows_of_patches() -> None:
    body, batch = make_own(pooling="mean"), make_batch(32, 48)
    weights = roll_out(overhear_attention(body, batch)[1])
    torch.testing.assert_close(rollout(body, batch).flatten(1), weights[:, 1:, 1:].mean(1))
    assert not torch.allclose(weights[:, 0, 1:], weights[:, 1:, 1:].mean(1), atol=1e-4)


def test_modes_come_back_and_dropout_is_off_meanwhile() -> None:
    body, batch = make_own(dropout=0.5), make_batch(32, 48)
    expected = rollout(body, batch)
    body.train()
    body.blocks[0].eval()
    torch.testing.assert_close(rollout(body, batch), expected)
    assert body.training
    assert not body.blocks[0].training
    assert body.blocks[1].attn.training


NOT_GLOBAL: dict[str, dict[str, object]] = {
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1)},
    "resnet10t": {},
    "mobilevit_xxs": {},
    "pvt_v2_b0": {},
    "xcit_nano_12_p16_224": {"img_size": 64, "embed_dim": 128, "num_heads": 2, "depth": 2},  # 64 channels: 8 x 8?
}


@pytest.mark.parametrize("name", NOT_GLOBAL)
def test_networks_without_global_attention_name_grad_cam(name: str) -> None:
    import timm

    body = timm.create_model(name, pretrained=False, num_classes=0, **NOT_GLOBAL[name]).eval()
    with pytest.raises(ModelError, match="grad-cam"):
        rollout(body, make_batch(64, 64))


@pytest.mark.parametrize(
    ("num", "size", "expected"),
    [(196, (224, 224), (14, 14)), (15, (48, 80), (3, 5)), (12, (64, 64), None), (0, (64, 64), None)],
)
def test_patches_lie_in_the_proportions_of_the_image(
    num: int, size: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    assert shape_grid(num, size) == expected


def test_the_number_of_prefix_tokens_is_found_where_the_network_does_not_say() -> None:
    found = token_grid(nn.Identity(), 261, (224, 224))
    assert found is not None
    assert (found.num_prefix, found.height, found.width) == (5, 16, 16)


def test_stretching_goes_from_0_to_1_and_leaves_flat_maps_at_0() -> None:
    maps: Callable[[list[float]], Tensor] = lambda values: torch.tensor(values).reshape(1, 2, 2)  # noqa: E731
    assert stretch(maps([0.2, 0.4, 0.3, 0.2])).flatten().tolist() == pytest.approx([0, 1, 0.5, 0])
    assert not stretch(maps([0.7, 0.7, 0.7, 0.7])).any()


def test_another_thread_is_not_overheard() -> None:
    body, batch = make_own(), make_batch(32, 48)
    expected = overhear_attention(body, batch)[1]

    def disturb(_module: nn.Module, _inputs: object) -> None:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=lambda: body(-batch))
            other.start()
            other.join()

    body.blocks[1].register_forward_pre_hook(disturb)
    maps = overhear_attention(body, batch)[1]
    assert len(maps) == len(expected) == 2
    torch.testing.assert_close(maps, expected)


def test_the_mean_over_heads_is_kept_alone_on_demand() -> None:
    body, batch = make_own(), make_batch(32, 48)
    maps, means = (overhear_attention(body, batch, mean_heads=mean)[1] for mean in (False, True))
    assert means[0].shape == (2, 1, 25, 25)
    torch.testing.assert_close(means[1][:, 0], maps[1].mean(1))
