"""Explain why weights do not fit a network: the usual causes, each with a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt

from torch import Tensor

State = Mapping[str, Tensor]

_UNKNOWN = "Check the architecture and its options."
_POSITIONS = re.compile(r"(^|\.)(pos_embed|pos_embedding|position_embeddings?|positional_embedding)$")
_TABLES = re.compile(r"(relative_position|rel_pos|attn_mask|attention_biases)")
_TRANSFORMERS = re.compile(
    r"(^|\.)(embeddings\.(patch_embeddings|cls_token|position_embeddings|patch_embedding)\b|embedder\.embedder\."
    r"|encoder\.layers?\.\d+\.(attention\.|self_attn\.|intermediate\.|blocks\.)"
    r"|encoder\.stages\.\d+\.layers\.|encoder\.layers\.\d+\.blocks\.\d+\.layernorm)"
    r"|^(mobilenet_v[12]|efficientnet|pvt|pvt_v2|poolformer|mobilevit|mobilevitv2|levit|cvt)\."
)
_TORCHVISION = re.compile(
    r"(^|\.)(encoder\.layers\.encoder_layer_\d|conv_proj\.|features\.\d+\.\d+\.|features\.\d+\.weight"
    r"|trunk_output\.block\d|features\.denseblock\d)"
)
_TIMM = re.compile(
    r"(^|\.)(blocks\.\d+\.|patch_embed\.|stages\.\d+\.blocks\.|conv_stem\.|stem\.conv\d?\.|layers\.\d+\.blocks\.)"
)
_CLIP = re.compile(r"(^|\.)(visual\.(conv1|transformer|trunk|proj)\b|transformer\.resblocks\.\d)")
_NUMBERED = re.compile(r"^((?:blocks|layers|stages|encoder\.layers\.encoder_layer_|layer)[._]?)(\d+)\.")
_ADAPTER = re.compile(r"(^|\.)(lora_[A-Za-z]+|hada_w\d_[ab]|lokr_w\d|ia3_l|oft_[rR])(\.|$)|\.base_layer\.")
_OF_QUANTIZED = re.compile(
    r"(^|[._])(zero_point|zero_points|_packed_params|qweight|qzeros|scb|absmax|quant_map|quant_state"
    r"|weight_scale)([._]|$)",
    re.IGNORECASE,
)
_NUM_PREFIX_TOKENS = (1, 0, 2, 5)


def explain_misfit(own: State, state: State, architecture: str, otherwise: str = _UNKNOWN) -> str:
    """One or two sentences: why `state` does not fit a network with the tensors `own`, and what to do.

    Args:
        own: all tensors of the network, on any device, including the head if needed.
        state: the tensors of the file, with names converted to the network's as far as possible.
        architecture: as in the card, 'timm/NAME'.
        otherwise: advice for an unknown cause.
    """
    return (
        _adapters(state)
        or _quantized(own, state)
        or _other_code(own, state, architecture)
        or _channels(own, state)
        or _positions(own, state, architecture)
        or _tokens(own, state)
        or _depth(own, state)
        or _head(own, state)
        or otherwise
    )


def _adapters(state: State) -> str:
    if not any(_ADAPTER.search(name) for name in state):
        return ""
    return (
        "It holds adapters (LoRA), which need the weights of their base model. Merge them and save the network: "
        "in peft, model.merge_and_unload() and then save its state_dict()."
    )


def _quantized(own: State, state: State) -> str:
    if not any(_OF_QUANTIZED.search(name) for name in state if name not in own):
        return ""
    return "It is quantized: give the original weights, or save the dequantized network."


def _other_code(own: State, state: State, architecture: str) -> str:
    """The names are those of another library, or of layers in another form."""
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    strange = [name for name in state if name not in own]
    if (
        any(".parametrizations." in name or name.endswith(("weight_g", "weight_orig")) for name in strange)
        and missing
    ):
        return (
            "Its layers are parametrised (weight or spectral norm). Remove the parametrisation before saving, "
            "with torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.remove_weight_norm."
        )
    if not strange or len(missing) < len(own) / 2:
        return ""
    library, _, name = architecture.partition("/")
    if _has(strange, _CLIP):
        return "Its tensor names are those of CLIP: use open_clip/MODEL:TAG, or convert its image encoder."
    if _has(strange, _TRANSFORMERS):
        return (
            "Its tensor names are those of the transformers library: put config.json and preprocessor_config.json "
            "beside the weights (model.safetensors) and give the folder as hf/FOLDER, without a card."
        )
    if library != "torchvision" and _has(strange, _TORCHVISION):
        return f"Its tensor names are torchvision's: write architecture = 'torchvision/...'{_counterpart(name)}."
    if library == "torchvision" and _has(strange, _TIMM):
        return f"Its tensor names are timm's: write architecture = 'timm/...'{_counterpart(name)}."
    return ""


def _has(names: list[str], pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(name) for name in names)


def _counterpart(name: str) -> str:
    sizes = {"b": "base", "l": "large", "h": "huge", "base": "b", "large": "l", "huge": "h"}
    found = re.match(r"vit_(b|l|h|base|large|huge)_(?:patch)?(\d+)", name)
    if found is None:
        return ""
    size = sizes[found[1]]
    other = f"vit_{size}_patch{found[2]}_224" if len(found[1]) == 1 else f"vit_{size}_{found[2]}"
    return f", here '{other}'"


def _channels(own: State, state: State) -> str:
    """The first layer takes images of another number of channels."""
    for name, tensor in own.items():
        if name not in state or tensor.ndim != 4 or state[name].ndim != 4 or tensor.shape[1] != 3:
            continue
        there, here = state[name].shape, tensor.shape
        if there[1] == here[1] or (there[0], *there[2:]) != (here[0], *here[2:]):
            continue
        if there[1] == 1:
            return (
                f"Its first layer, {name}, takes grey images of one channel: write in_chans = 1 under [options] "
                "of the card; images are then converted to grey."
            )
        return (
            f"Its first layer, {name}, takes images of {there[1]} channels, but backbench reads images with three "
            "(red, green, blue): these weights can't be used."
        )
    return ""


def _positions(own: State, state: State, architecture: str) -> str:
    """Position embeddings, or tables of relative positions, for another image size."""
    differing = [name for name in own if name in state and own[name].shape != state[name].shape]
    option = "options.image_size" if architecture.startswith("torchvision/") else "options.img_size"
    for name in differing:
        if not _POSITIONS.search(name):
            continue
        there, here = _grid(state[name]), _grid(own[name])
        if there is None or state[name].shape[-1] != own[name].shape[-1]:
            continue
        patch = _patch(own)
        sides = (
            "" if patch is None else f": write {option} = {there * patch} and preprocess.size = {there * patch}"
        )
        return (
            f"Its position embeddings are for {there} x {there} patches and the network's for {here} x {here}, so "
            f"it was trained at another image size{sides or f': set {option} and preprocess.size'}."
        )
    if differing and all(_TABLES.search(name) for name in differing):
        return (
            f"Its tables of relative positions are for another image or window size: set {option} and "
            "preprocess.size to the size it was trained at."
        )
    return ""


def _grid(tensor: Tensor) -> int | None:
    """The side of a square grid of position embeddings, less the tokens before it."""
    if tensor.ndim == 4 and tensor.shape[1] == tensor.shape[2]:
        return tensor.shape[1]
    count = tensor.shape[-2] if tensor.ndim > 1 else 0
    sides = [isqrt(count - extra) for extra in _NUM_PREFIX_TOKENS if count >= extra]
    return next((side for side in sides if side and any(side**2 + n == count for n in _NUM_PREFIX_TOKENS)), None)


def _patch(own: State) -> int | None:
    names = ("patch_embed.proj.weight", "conv_proj.weight")
    return next((own[name].shape[-1] for name in names if name in own and own[name].ndim == 4), None)


def _tokens(own: State, state: State) -> str:
    """Parts of a vision transformer that decide which of its kinds it is."""
    if "fc_norm.weight" in state and "fc_norm.weight" not in own:
        return "Its features are averages of all patches: write options.global_pool = 'avg'."
    if "dist_token" in state and "dist_token" not in own:
        return "It was distilled: choose a distilled architecture, such as timm/deit_base_distilled_patch16_224."
    if "reg_token" in state and "reg_token" not in own:
        num = state["reg_token"].shape[1]
        return f"It has {num} register tokens: choose an architecture with 'reg' in its name."
    if "norm_pre.weight" in state and "norm_pre.weight" not in own:
        return "It is the image encoder of CLIP: choose an architecture such as timm/vit_base_patch16_clip_224."
    return ""


def _depth(own: State, state: State) -> str:
    """Another number of blocks, or another width: a relative of the network."""
    there, here = _count(state), _count(own)
    if there and here and there != here:
        return f"It has {there} blocks and the network has {here}: choose another size of this network."
    differing = [name for name in own if name in state and own[name].shape != state[name].shape]
    if len(differing) > len(own) / 2:
        return "Nearly all its shapes differ: choose another size of this network."
    return ""


def _count(state: State) -> int:
    numbers = {(match[1], match[2]) for name in state if (match := _NUMBERED.match(name))}
    return len(numbers)


def _head(own: State, state: State) -> str:
    """Its classifier has another number of rows, or is missing."""
    differing = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    rows = {state[name].shape[0] for name in differing}
    if differing and len(rows) == 1 and len(differing) <= 4:
        return f"If that is its classifier, it has {rows.pop():,} classes: set options.num_classes to this number."
    if missing and not differing and len(missing) <= 2:
        return "It has no classifier of its own: leave head_classes out, or save the whole network."
    return ""
