"""Weights for our vision transformer: the source's `.npz` checkpoints, and files with timm's names.

    state, heads = read_google(Path("ViT-B_16.npz"))     # names and shapes as in timm
    network = make_vit_from_state(config, state, where="ViT-B_16.npz")

The source's files hold arrays such as `Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel` of
shape (width, heads, width / heads). Their format: google-research/vision_transformer, `vit_jax/models_vit.py`.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path

import numpy as np
import torch

from backbench.backbones.architectures.vit import VisionTransformer, drop_head
from backbench.backbones.architectures.vit_config import ViTConfig
from backbench.backbones.core.weights import put_state
from backbench.errors import ModelError
from backbench.storage import open_file
from backbench.wording import list_some

OPTIMISER_PREFIX = "opt/target/"
"""Prefix of the weights in files that also hold the state of the optimiser."""
BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/")
HEAD_NAMES = ("head.weight", "head.bias", "pre_logits.fc.weight", "pre_logits.fc.bias")


def read_google(path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """(tensors by timm's names, number of heads) of one of the source's `.npz` checkpoints.

    Raises:
        ModelError: not such a file, damaged, of another network (a hybrid, big_vision), or with missing,
            extra or wrongly shaped arrays.
    Cost: reads the file once; the arrays are in memory twice during conversion.
    """
    return convert_google(_read_arrays(path), str(path))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the network in the file, as float32, without the prefix and without an optimiser's state."""
    try:
        with open_file(path) as stream:  # opened here, because np.load leaves damaged files open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ModelError(f"{path} holds one array; a ViT checkpoint is a .npz archive of many.")
            names = list(archive.files)
            if any(name.startswith(OPTIMISER_PREFIX) for name in names):
                names = [name for name in names if name.startswith(OPTIMISER_PREFIX)]
            return {name.removeprefix(OPTIMISER_PREFIX): _as_float32(archive[name], name, path) for name in names}
    except MemoryError as error:
        raise ModelError(f"{path} needs more memory than is free, or its header is damaged.") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{path} is not a whole .npz checkpoint: {reason}. Download it again.") from error
    except (RuntimeError, SyntaxError) as error:  # odd compression, encryption, crafted header
        raise ModelError(f"{path} is not a .npz archive that NumPy can read: {str(error)[:200]}.") from error


def _as_float32(array: object, name: str, path: Path) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ModelError(f"{path}: array '{name}' is of type {kind}; expected floating-point numbers.")
    return array.astype(np.float32, copy=False)


def convert_google(arrays: Mapping[str, np.ndarray], where: str) -> tuple[dict[str, torch.Tensor], int]:
    """The same as `read_google`, from arrays in memory; `where` names their file in messages."""
    _check_kind(arrays, where)
    given = _Arrays(arrays, where)
    depth = 1 + max(int(match[1]) for name in arrays if (match := BLOCK.match(name)))
    state = {
        "cls_token": given.take("cls", 3),
        "pos_embed": given.take("Transformer/posembed_input/pos_embedding", 3),
        "patch_embed.proj.weight": given.take("embedding/kernel", 4).permute(3, 2, 0, 1),
        "patch_embed.proj.bias": given.take("embedding/bias", 1),
        "norm.weight": given.take("Transformer/encoder_norm/scale", 1),
        "norm.bias": given.take("Transformer/encoder_norm/bias", 1),
    }
    for index in range(depth):
        state |= _convert_block(given, f"Transformer/encoderblock_{index}/", f"blocks.{index}.")
    for theirs, ours in (("head", "head"), ("pre_logits", "pre_logits.fc")):
        if f"{theirs}/kernel" in arrays:
            state[f"{ours}.weight"] = given.take(f"{theirs}/kernel", 2).T
            state[f"{ours}.bias"] = given.take(f"{theirs}/bias", 1)
    given.check_all_taken()
    heads = arrays["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"].shape[1]
    return {name: tensor.contiguous() for name, tensor in state.items()}, heads


def _convert_block(given: _Arrays, theirs: str, ours: str) -> dict[str, torch.Tensor]:
    attention = theirs + "MultiHeadDotProductAttention_1/"
    kinds = ("query", "key", "value")
    kernels = [given.take(f"{attention}{kind}/kernel", 3).flatten(1).T for kind in kinds]  # (heads * d, width)
    biases = [given.take(f"{attention}{kind}/bias", 2).flatten() for kind in kinds]
    state = {
        "attn.qkv.weight": given.join(kernels, attention),
        "attn.qkv.bias": given.join(biases, attention),
        "attn.proj.weight": given.take(attention + "out/kernel", 3).flatten(0, 1).T,
        "attn.proj.bias": given.take(attention + "out/bias", 1),
    }
    for number, norm in ((1, "LayerNorm_0"), (2, "LayerNorm_2")):
        state[f"norm{number}.weight"] = given.take(f"{theirs}{norm}/scale", 1)
        state[f"norm{number}.bias"] = given.take(f"{theirs}{norm}/bias", 1)
    for number, dense in ((1, "Dense_0"), (2, "Dense_1")):
        state[f"mlp.fc{number}.weight"] = given.take(f"{theirs}MlpBlock_3/{dense}/kernel", 2).T
        state[f"mlp.fc{number}.bias"] = given.take(f"{theirs}MlpBlock_3/{dense}/bias", 1)
    return {ours + name: tensor for name, tensor in state.items()}


def _check_kind(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Raise ModelError that names the kind of file, unless it is an original ViT checkpoint."""
    if any(name.startswith("params/") or "LayerNorm_1/" in name for name in arrays):
        other = "a big_vision checkpoint, whose layout differs; timm has these models: 'backbench list models'"
    elif any(name.startswith(("conv_root/", "block1/")) for name in arrays):
        other = "a hybrid of a ResNet and a ViT, which backbench/vit_* can't load"
    elif not any(BLOCK.match(name) for name in arrays):
        some = ", ".join(list(arrays)[:3]) or "nothing"
        other = f"not a ViT checkpoint: it holds {some}, but no 'Transformer/encoderblock_0/...'"
    else:
        return
    raise ModelError(f"{where} is {other}.")


class _Arrays:
    """Takes arrays of one file one by one and detects missing and extra arrays."""

    def __init__(self, arrays: Mapping[str, np.ndarray], where: str) -> None:
        self.arrays = arrays
        self.where = where
        self.taken: set[str] = set()

    def take(self, name: str, num_dims: int) -> torch.Tensor:
        if name not in self.arrays:
            raise ModelError(f"{self.where} lacks array '{name}'. Check that it is a complete ViT checkpoint.")
        array = self.arrays[name]
        if array.ndim != num_dims:
            raise ModelError(f"{self.where}: '{name}' has shape {array.shape}; expected {num_dims} dimensions.")
        self.taken.add(name)
        return torch.tensor(array)  # a copy: an array from a file may be read-only

    def join(self, tensors: list[torch.Tensor], name: str) -> torch.Tensor:
        if len({tensor.shape for tensor in tensors}) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise ModelError(f"{self.where}: query, key and value of '{name}' differ in shape: {shapes}.")
        return torch.cat(tensors)

    def check_all_taken(self) -> None:
        left = sorted(set(self.arrays) - self.taken)
        if left:
            raise ModelError(f"{self.where} holds arrays that a ViT does not have: {list_some(left, 3)}.")


def config_of_state(config: ViTConfig, state: Mapping[str, torch.Tensor], where: str) -> ViTConfig:
    """`config` completed from the weights: stored image size, layer scale, tanh layer and head.

    Raises:
        ModelError: patch, width, depth or perceptron differ from those of `config`, or the position
            embedding is neither square nor that of `config`. (Weights don't show the number of heads.)
    """
    told = _describe_state(state, where)
    asked = {"patch": config.patch, "width": config.width, "depth": config.depth, "hidden": config.hidden}
    if told != asked:
        differing = ", ".join(
            f"{key} {told[key]} and not {asked[key]}" for key in asked if told[key] != asked[key]
        )
        raise ModelError(f"{where} is a ViT with {differing}. Check the architecture and its options.")
    num_patches = state["pos_embed"].shape[1] - 1
    rows, columns = (side // config.patch for side in config.image_size)
    if rows * columns != num_patches:
        rows = columns = isqrt(max(num_patches, 0))
    if rows * columns != num_patches or not num_patches:
        raise ModelError(
            f"{where} has position embeddings for {num_patches} patches, which is not a square. Give their image "
            "size: options.img_size = [height, width]."
        )
    head, layer = state.get("head.bias"), state.get("pre_logits.fc.bias")
    return replace(
        config,
        image_size=(rows * config.patch, columns * config.patch),
        has_layer_scale="blocks.0.ls1.gamma" in state,
        representation=0 if layer is None else len(layer),
        num_classes=0 if head is None else len(head),
    )


def _describe_state(state: Mapping[str, torch.Tensor], where: str) -> dict[str, int]:
    needed = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2}
    for name, num_dims in needed.items():
        if name not in state or state[name].ndim != num_dims:
            raise ModelError(f"{where} is not a ViT: it has no '{name}' with {num_dims} dimensions.")
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    blocks = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d{1,6})\.", name))]
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    return {"patch": patch, "width": width, "depth": 1 + max(blocks), "hidden": hidden}


def make_vit_from_state(
    config: ViTConfig, state: Mapping[str, torch.Tensor], *, where: str, keep_head: bool = False
) -> VisionTransformer:
    """Make a network with these weights, all checked, in eval mode; without a head unless it is kept.

    Args:
        config: patch, width, depth, heads, perceptron, pooling; the weights decide the rest.
        state: tensors by timm's names. Position embeddings are stored as they are; see `set_image_size`.

    Raises:
        ModelError: the weights do not fit such a network.
    """
    config = config_of_state(config, state, where)
    with torch.device("meta"):
        network = VisionTransformer(config)
    if not keep_head:
        drop_head(network)
    network.to_empty(device="cpu")
    put_state(network, state, where=where, unused=() if keep_head else HEAD_NAMES)
    return network.eval()
