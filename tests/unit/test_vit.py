"""Our vision transformer is timm's, number for number, and reads the source's checkpoints strictly."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from backbench.backbones import card
from backbench.backbones.architectures.tiny_nets import TinyViT, make_untrained
from backbench.backbones.architectures.vit import (
    LayerScale,
    VisionTransformer,
    drop_head,
    resize_positions,
)
from backbench.backbones.architectures.vit_config import (
    ViTConfig,
    config_of_name,
    count_vit_flops,
    count_vit_parameters,
    list_names,
)
from backbench.backbones.architectures.vit_weights import convert_google, make_vit_from_state, read_google
from backbench.backbones.core.measure import count_parameters, measure_body
from backbench.backbones.core.selftest import check_backbone
from backbench.errors import BackbenchError, ModelError
from backbench.registry import find_model

SMALL = ViTConfig(patch=8, width=48, depth=3, heads=4, hidden=96, image_size=(32, 32))
TOLERANCE = 1e-5


def draw(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights with which every parameter shows in the output."""
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name and "weight" in name else 0.0, 0.1, generator=rng)
    return network.eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_timm(**changes: Any) -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    return draw(timm.models.vision_transformer.VisionTransformer(**{**options, "num_classes": 5, **changes}))


def features_of(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """timm's features before its head."""
    return network.forward_head(network.forward_features(batch), pre_logits=True)


def to_google(network: nn.Module) -> dict[str, np.ndarray]:
    """A timm network's weights in the layout of the source's files: the inverse of what is tested."""
    state = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    heads = network.blocks[0].attn.num_heads
    width = state["norm.weight"].shape[0]
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": np.einsum("oihw->hwio", state["patch_embed.proj.weight"]),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    if "head.weight" in state:
        arrays |= {"head/kernel": state["head.weight"].T, "head/bias": state["head.bias"]}
    for index in range(len(network.blocks)):
        ours, theirs = f"blocks.{index}.", f"Transformer/encoderblock_{index}/"
        attention = theirs + "MultiHeadDotProductAttention_1/"
        for number, kind in enumerate(("query", "key", "value")):
            rows = slice(number * width, (number + 1) * width)
            kernel = state[ours + "attn.qkv.weight"][rows]
            arrays[attention + f"{kind}/kernel"] = kernel.T.reshape(width, heads, width // heads)
            arrays[attention + f"{kind}/bias"] = state[ours + "attn.qkv.bias"][rows].reshape(heads, width // heads)
        arrays[attention + "out/kernel"] = state[ours + "attn.proj.weight"].T.reshape(heads, width // heads, width)
        arrays[attention + "out/bias"] = state[ours + "attn.proj.bias"]
        for norm, layer in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[theirs + f"{layer}/scale"] = state[ours + f"{norm}.weight"]
            arrays[theirs + f"{layer}/bias"] = state[ours + f"{norm}.bias"]
        for layer, dense in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[theirs + f"MlpBlock_3/{dense}/kernel"] = state[ours + f"mlp.{layer}.weight"].T
            arrays[theirs + f"MlpBlock_3/{dense}/bias"] = state[ours + f"mlp.{layer}.bias"]
    return arrays


@torch.inference_mode()
def test_the_same_as_timm_for_the_same_weights() -> None:
    theirs = draw(timm.create_model("vit_tiny_patch16_224", num_classes=7, depth=4))
    config = config_of_name("vit_tiny_patch16")
    assert config is not None
    config = replace(config, depth=4)
    ours = make_vit_from_state(config, theirs.state_dict(), where="timm")
    batch = images(1, 3, 224, 224)
    expected = features_of(theirs, batch)
    assert expected.abs().max() > 0.1
    assert (ours(batch) - expected).abs().max() < TOLERANCE
    with_head = make_vit_from_state(config, theirs.state_dict(), where="timm", keep_head=True)
    assert (with_head(batch) - theirs(batch)).abs().max() < TOLERANCE
    assert torch.equal(drop_head(with_head)(batch), ours(batch))


@torch.inference_mode()
def test_layer_scale_and_another_patch_as_in_dinov2() -> None:
    theirs = draw(timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=56, depth=2))
    config = config_of_name("vit_small_patch14")
    assert config is not None
    ours = make_vit_from_state(replace(config, depth=2), theirs.state_dict(), where="timm")
    assert ours.config.has_layer_scale
    batch = images(2, 3, 56, 56)
    assert (ours(batch) - features_of(theirs, batch)).abs().max() < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (24, 80), (8, 8), (16, 64)])
def test_other_image_sizes_as_timm_resizes_them(size: tuple[int, int]) -> None:
    theirs = make_timm(dynamic_img_size=True)
    ours = make_vit_from_state(SMALL, theirs.state_dict(), where="timm")
    batch = images(2, 3, *size)
    expected = features_of(theirs, batch)
    assert (ours(batch) - expected).abs().max() < TOLERANCE
    ours.set_image_size(size)
    assert ours.pos_embed.shape[1] == 1 + size[0] * size[1] // 64
    assert (ours(batch) - expected).abs().max() < TOLERANCE
    if size[0] * size[1] != 32 * 32:  # older timm overlooks a grid of another shape with as many patches
        theirs = make_timm()
        theirs.set_input_size(size)
        assert (ours.pos_embed - theirs.pos_embed).abs().max() < 1e-6


def test_a_size_that_patches_do_not_cover() -> None:
    network = VisionTransformer(SMALL).eval()
    for size in ((33, 32), (32, 36), (4, 32)):
        with pytest.raises(ModelError, match="multiples of 8"):
            network(images(1, 3, *size))
        with pytest.raises(ModelError, match="multiples of 8"):
            replace(SMALL, image_size=size)


def test_positions_of_the_same_grid_are_the_same_tensor() -> None:
    positions = torch.randn(1, 17, 8)
    assert resize_positions(positions, (4, 4), (4, 4)) is positions
    assert resize_positions(positions, (4, 4), (2, 8)).shape == (1, 17, 8)
    assert not torch.equal(resize_positions(positions, (4, 4), (2, 8)), positions)
    half = resize_positions(positions.bfloat16(), (4, 4), (8, 8))
    assert half.dtype == torch.bfloat16


@torch.inference_mode()
def test_fused_and_written_out_attention_agree() -> None:
    network = draw(VisionTransformer(SMALL))
    batch = images(2, 3, 32, 32)
    fused = network(batch)
    for block in network.blocks:
        block.attn.fused_attn = False
    assert (network(batch) - fused).abs().max() < TOLERANCE


@torch.inference_mode()
def test_poolings() -> None:
    network = draw(VisionTransformer(SMALL))
    state = network.state_dict()
    batch = images(2, 3, 32, 32)
    tokens = network.norm(network.blocks(network.embed(batch)))
    for pooling, expected in {
        "token": tokens[:, 0],
        "mean": tokens[:, 1:].mean(1),
        "token+mean": torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1),
    }.items():
        other = VisionTransformer(replace(SMALL, pooling=pooling)).eval()
        other.load_state_dict(state)
        assert torch.allclose(other(batch), expected)
        assert other.config.dim == expected.shape[1]
    theirs = make_timm(global_pool="avg", fc_norm=False)
    theirs.load_state_dict({**theirs.state_dict(), **state}, strict=True)
    other = make_vit_from_state(replace(SMALL, pooling="mean"), state, where="ours")
    assert (other(batch) - features_of(theirs, batch)).abs().max() < TOLERANCE


def test_dropout_acts_in_training_only() -> None:
    plain = draw(VisionTransformer(SMALL))
    dropping = VisionTransformer(replace(SMALL, dropout=0.1))
    dropping.load_state_dict(plain.state_dict())
    batch = images(2, 3, 32, 32)
    assert torch.equal(dropping.eval()(batch), plain(batch))
    assert torch.equal(plain.train()(batch), plain.eval()(batch))
    dropping.train()
    assert not torch.equal(dropping(batch), dropping(batch))
    tokens = images(4, 17, 48)
    for part in (dropping.blocks[0].attn, dropping.blocks[0].mlp, dropping.pos_drop):
        assert 0.02 < (part(tokens) == 0).float().mean() < 0.2
    num_dropped = sum(isinstance(module, nn.Dropout) and module.p == 0.1 for module in dropping.modules())
    assert num_dropped == 1 + 2 * SMALL.depth


def test_one_embedding_stays_trainable_or_frozen_when_resized() -> None:
    network = VisionTransformer(SMALL)
    network.set_image_size((64, 64))
    assert network.pos_embed.requires_grad
    network.requires_grad_(False)
    network.set_image_size((32, 64))
    assert not network.pos_embed.requires_grad
    assert network(images(1, 3, 32, 64)).shape == (1, 48)


@pytest.mark.parametrize(
    "changes",
    [{"heads": 5}, {"depth": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"pooling": "max"}, {"patch": 5}],
)
def test_configurations_that_can_not_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        replace(SMALL, **changes)


def test_counts_without_torch_are_those_of_the_network() -> None:
    for name in (*list_names()[:3], "vit_tiny_patch4_32"):
        config = config_of_name(name)
        assert config is not None
        with torch.device("meta"):
            network = VisionTransformer(config)
        network.requires_grad_(False).eval()
        assert count_parameters(network) == count_vit_parameters(config)
        assert measure_body(network, config.image_size, name) == (config.width, count_vit_flops(config))
    assert config_of_name("vit_base_patch16_224.augreg_in21k") is None
    assert config_of_name("vit_enormous_patch16") is None


def test_untrained_by_name() -> None:
    spec = find_model("backbench/vit_tiny_patch8_32")
    assert spec.load is not None
    backbone = spec.load(0)
    check_backbone(backbone)
    assert backbone.facts.pretrained_on is None
    assert (backbone.facts.num_parameters, backbone.facts.flops) == (spec.num_parameters, spec.flops)
    assert backbone.facts.weights_digest == spec.load(0).facts.weights_digest
    assert backbone.facts.weights_digest != spec.load(1).facts.weights_digest
    assert backbone.body.training is False
    with pytest.raises(BackbenchError):
        find_model("vit_tiny_patch8_32")  # without the prefix: nobody gets an untrained network by accident


def test_layer_scale_starts_where_it_should() -> None:
    network = make_untrained(lambda: VisionTransformer(replace(SMALL, has_layer_scale=True)), 0, "test")
    scales = [module.gamma for module in network.modules() if isinstance(module, LayerScale)]
    assert len(scales) == 2 * SMALL.depth
    assert all(torch.equal(gamma, torch.full((48,), 1e-5)) for gamma in scales)


def test_tiny_vit_is_a_configuration() -> None:
    assert isinstance(TinyViT(), VisionTransformer)
    assert TinyViT().config.dim == 192


# --- the source's checkpoints ---


@torch.inference_mode()
def test_an_npz_loads_as_timm_loads_it(tmp_path: Path) -> None:
    source = make_timm()
    file = tmp_path / "ViT-S_8.npz"
    np.savez(file, **to_google(source))
    oracle = make_timm(num_classes=5).eval()
    draw(oracle, seed=9)
    batch = images(2, 3, 32, 32)
    assert (oracle(batch) - source(batch)).abs().max() > 0.01
    oracle.load_pretrained(str(file))
    state, heads = read_google(file)
    assert heads == 4
    assert state.keys() == source.state_dict().keys()
    for name, tensor in source.state_dict().items():
        assert torch.equal(state[name], tensor), name
    ours = make_vit_from_state(SMALL, state, where="file", keep_head=True)
    assert (ours(batch) - oracle(batch)).abs().max() < TOLERANCE
    assert (ours(batch) - source(batch)).abs().max() < TOLERANCE


@torch.inference_mode()
def test_the_tanh_layer_of_imagenet_21k_files() -> None:
    rng = np.random.default_rng(0)
    arrays = to_google(make_timm(num_classes=48))
    layer = {"pre_logits/kernel": rng.normal(size=(48, 48)), "pre_logits/bias": rng.normal(size=48)}
    arrays |= {name: array.astype(np.float32) for name, array in layer.items()}
    state, _ = convert_google(arrays, "memory")
    batch = images(2, 3, 32, 32)
    whole = make_vit_from_state(SMALL, state, where="memory", keep_head=True)
    features = make_vit_from_state(SMALL, state, where="memory")(batch)
    hidden = np.tanh(features.numpy() @ arrays["pre_logits/kernel"] + arrays["pre_logits/bias"])
    expected = hidden @ arrays["head/kernel"] + arrays["head/bias"]
    assert np.abs(whole(batch).numpy() - expected).max() < 1e-4


def test_an_optimisers_state_is_left_aside(tmp_path: Path) -> None:
    arrays = to_google(make_timm())
    file = tmp_path / "sam.npz"
    extra = {"opt/state/step": np.array(3), "opt/state/param_states/cls/momentum": arrays["cls"]}
    np.savez(file, **{f"opt/target/{name}": array for name, array in arrays.items()}, **extra)
    state, _ = read_google(file)
    assert torch.equal(state["cls_token"], torch.tensor(arrays["cls"]))


CARD = """
name = "own_vit"
architecture = "{architecture}"
weights = "{weights}"
pretrained_on = "ImageNet-21k"
[preprocess]
size = {size}
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[options]
{options}
"""


def load_card(folder: Path, *, weights: str, options: str = "", size: int = 32, architecture: str = "") -> Any:
    architecture = architecture or "backbench/vit_tiny_patch8"
    options = options or "embed_dim = 48\ndepth = 3\nnum_heads = 4"
    text = CARD.format(architecture=architecture, weights=weights, size=size, options=options)
    (folder / "card.toml").write_text(text)
    spec = card.resolve(str(folder / "card.toml"))
    assert spec is not None
    assert spec.load is not None
    return spec.load(0)


@torch.inference_mode()
def test_a_card_with_an_npz(tmp_path: Path) -> None:
    theirs = draw(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, dynamic_img_size=True))
    np.savez(tmp_path / "ViT-Ti_16.npz", **to_google(theirs))
    given = {"weights": "ViT-Ti_16.npz", "architecture": "backbench/vit_tiny_patch16"}
    backbone = load_card(tmp_path, **given, size=64, options="depth = 2")
    check_backbone(backbone)
    batch = images(2, 3, 64, 64)
    assert (backbone(batch) - features_of(theirs, batch)).abs().max() < TOLERANCE
    assert backbone.facts.architecture == "backbench/vit_tiny_patch16"
    larger = images(2, 3, 96, 96)  # positions are resized once, from what the file holds
    for options in ("depth = 2", "depth = 2\nimg_size = 96"):
        backbone = load_card(tmp_path, **given, size=96, options=options)
        assert (backbone(larger) - features_of(theirs, larger)).abs().max() < TOLERANCE
    assert backbone.body.pos_embed.shape[1] == 37


@torch.inference_mode()
def test_a_card_with_timms_names_and_a_plain_pool(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs = make_timm(global_pool="avg", fc_norm=False)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    options = 'embed_dim = 48\ndepth = 3\nnum_heads = 4\nglobal_pool = "avg"\nnum_classes = 5'
    batch = images(2, 3, 32, 32)
    with pytest.raises(ModelError, match="hidden 96 and not 192"):
        load_card(tmp_path, weights="w.safetensors", options=options)
    theirs = make_timm(global_pool="avg", fc_norm=False, mlp_ratio=4.0)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    backbone = load_card(tmp_path, weights="w.safetensors", options=options)
    assert (backbone(batch) - features_of(theirs, batch)).abs().max() < TOLERANCE


@torch.inference_mode()
def test_the_real_weights(shared: Path, tmp_path: Path) -> None:
    real = card.resolve(str(shared / "weights" / "vit_tiny_patch16_224.toml"))
    assert real is not None
    assert real.load is not None
    text = (shared / "weights" / "vit_tiny_patch16_224.toml").read_text()
    text = text.replace("timm/vit_tiny_patch16_224", "backbench/vit_tiny_patch16")
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    (tmp_path / "own.toml").write_text(text)
    (tmp_path / weights.name).symlink_to(weights)
    own = card.resolve(str(tmp_path / "own.toml"))
    assert own is not None
    assert own.load is not None
    ours, theirs = own.load(0), real.load(0)
    batch = images(1, 3, 224, 224)
    assert (ours(batch) - theirs(batch)).abs().max() < TOLERANCE
    arrays = to_google(timm_with_head(weights))
    np.savez(tmp_path / "ViT-Ti_16.npz", **arrays)
    (tmp_path / "own.toml").write_text(text.replace(weights.name, "ViT-Ti_16.npz"))
    again = card.resolve(str(tmp_path / "own.toml"))
    assert again is not None
    assert again.load is not None
    assert again.load(0).facts.weights_digest == ours.facts.weights_digest


def timm_with_head(weights: Path) -> nn.Module:
    from safetensors.torch import load_file

    network = timm.create_model("vit_tiny_patch16_224", num_classes=200)
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return network


def change(arrays: dict[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    """A checkpoint with one fault."""
    block = "Transformer/encoderblock_1/"
    query = block + "MultiHeadDotProductAttention_1/query/kernel"
    faults: dict[str, dict[str, np.ndarray | None]] = {
        "missing": {block + "LayerNorm_2/bias": None},
        "a block missing": {name: None for name in arrays if name.startswith(block)},
        "left over": {block + "MlpBlock_3/Dense_2/kernel": np.ones((2, 2), np.float32)},
        "dimensions": {query: arrays[query].reshape(48, 48)},
        "query unlike key": {query: arrays[query][:, :2]},
        "width": {"embedding/kernel": arrays["embedding/kernel"][..., :24]},
        "not finite": {"cls": np.full_like(arrays["cls"], np.nan)},
        "integers": {"cls": np.zeros((1, 1, 48), np.int32)},
        "not a square": {
            "Transformer/posembed_input/pos_embedding": arrays["Transformer/posembed_input/pos_embedding"][:, :-1]
        },
        "hybrid": {"conv_root/kernel": np.ones((7, 7, 3, 64), np.float32)},
        "big_vision": {"Transformer/encoderblock_0/LayerNorm_1/scale": np.ones(48, np.float32)},
    }
    changed = {**arrays, **faults[what]}
    return {name: array for name, array in changed.items() if array is not None}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "lacks array 'Transformer/encoderblock_1/LayerNorm_2/bias'"),
        ("a block missing", "lacks array 'Transformer/encoderblock_1/"),
        ("left over", "MlpBlock_3/Dense_2/kernel"),
        ("dimensions", "query/kernel' has shape (48, 48)"),
        ("query unlike key", "differ in shape"),
        ("width", "width 24 and not 48"),
        ("not finite", "not finite"),
        ("integers", "'cls' is of type int32"),
        ("not a square", "not a square"),
        ("hybrid", "hybrid"),
        ("big_vision", "big_vision"),
    ],
)
def test_faulty_checkpoints_are_named(tmp_path: Path, what: str, words: str) -> None:
    np.savez(tmp_path / "w.npz", **change(to_google(make_timm(mlp_ratio=4.0)), what))
    with pytest.raises(ModelError) as caught:
        load_card(tmp_path, weights="w.npz")
    assert words in str(caught.value)
    assert "w.npz" in str(caught.value)


def test_a_checkpoint_of_another_size_says_which_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **to_google(make_timm()))
    with pytest.raises(ModelError, match=r"patch 8 and not 16.*width 48 and not 768.*depth 3 and not 12"):
        load_card(tmp_path, weights="w.npz", architecture="backbench/vit_base_patch16", options="depth = 12")
    np.savez(tmp_path / "w.npz", **to_google(make_timm(mlp_ratio=4.0)))
    with pytest.raises(ModelError, match="4 heads and not 6"):
        load_card(tmp_path, weights="w.npz", options="embed_dim = 48\ndepth = 3\nnum_heads = 6")
    with pytest.raises(ModelError, match="backbench/vit_"):
        load_card(tmp_path, weights="w.npz", architecture="timm/vit_tiny_patch16_224")
    with pytest.raises(ModelError, match="safetensors"):
        load_card(tmp_path, weights="w.npz", architecture="backbench/cnn", options="num_classes = 5")
    with pytest.raises(ModelError, match=r"Nearest: backbench/vit_base_patch1[46]"):
        load_card(tmp_path, weights="w.npz", architecture="backbench/vit_bse_patch16", options="depth = 12")
    with pytest.raises(ModelError, match="has no option 'qkv_bias'"):
        load_card(tmp_path, weights="w.npz", options="qkv_bias = true")


def test_files_that_are_no_checkpoints(tmp_path: Path, test_scale: float) -> None:
    whole = io.BytesIO()
    np.savez(whole, **to_google(make_timm(depth=1)))
    body = whole.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cls.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9")
    single, objects, huge = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(single, np.ones(3))
    np.savez(objects, cls=np.array([{"a": 1}], dtype=object))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6, 10**6)}
    )
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("cls.npy", header.getvalue())
    made = [file.getvalue() for file in (packed, single, objects, huge)]
    cases = [b"", b"PK\x03\x04", b"<html>", *made]
    cases += [os.urandom(500), body[: len(body) // 2], body[:-30]]
    rng = np.random.default_rng(0)
    for _ in range(int(30 * test_scale)):
        damaged = bytearray(body)
        damaged[rng.integers(len(body))] ^= 1 << rng.integers(8)
        cases.append(bytes(damaged))
    for case in cases:
        (tmp_path / "w.npz").write_bytes(case)
        with contextlib.suppress(ModelError):
            read_google(tmp_path / "w.npz")
            assert len(case) == len(body)  # a flipped bit that no check sees, in the padding of a header
