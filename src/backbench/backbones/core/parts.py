"""The kinds of parts of a backbone: embeddings, convolutions, attention, perceptrons, norms, biases.

The class name or attribute name of a module decides; the innermost name wins.
"""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

KINDS = ("embedding", "conv", "attention", "mlp", "norm")
"""Every parameter is of exactly one of these."""
SELECTIONS = ("bias", "attention-norm", "mlp-norm")
"""Cross sections: all biases, and the norms that belong to attention or to perceptrons."""

NORM = re.compile(r"norm|affine|layerscale", re.IGNORECASE)
ATTENTION_CLASS = re.compile(r"attention|attn|xca$|mhsa", re.IGNORECASE)
ATTENTION_NAME = re.compile(r"attn|self_attn|self_attention|attention")
GATE_CLASS = re.compile(
    r"(se(module|layer|block)?$|squeeze|effectivese|ceca|eca|(light)?cbam|globalcontext|gatherexcite|coordattn|splitattn)",
    re.IGNORECASE,
)
"""Channel gates of convolutional networks, which some networks call attention."""
PERCEPTRON_CLASS = re.compile(r"mlp|feedforward|perceptron|ffn|swiglu", re.IGNORECASE)
PERCEPTRON_NAME = re.compile(r"mlp\w*|ffn\w*|feed_forward|perceptron|intermediate")
EMBEDDING_CLASS = re.compile(r"embed|patchmerging", re.IGNORECASE)
EMBEDDING_NAME = re.compile(r"\w*embed\w*|conv_proj")
SCALE_NAME = re.compile(r"gamma\w*|ls\d|\w*scale\w*")


def parts_of(body: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of parameters by part, each in the order of `body.named_parameters()`; a part may be empty.

    `KINDS` cover each parameter exactly once: 'embedding' is patch, position and other embeddings, tokens, and
    the merging of patches; 'attention' and 'mlp' are whole sublayers, without norms but with convolutions inside;
    'conv' and 'mlp' also take the convolutions and linear layers that belong to no sublayer; 'norm' includes
    layer scales. `SELECTIONS` cut across them. So "perceptrons and their norms" is 'mlp' with 'mlp-norm'.
    """
    kinds = {name: _kind_of(body, name) for name, _ in body.named_parameters()}
    norms = _norms_by_sublayer(body)
    parts: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        parts[kind] = tuple(name for name in kinds if kinds[name] == kind)
    parts["bias"] = tuple(name for name, parameter in body.named_parameters() if _is_bias(name, parameter))
    for kind in ("attention", "mlp"):
        parts[f"{kind}-norm"] = tuple(name for name in kinds if norms.get(name.rpartition(".")[0]) == kind)
    return parts


def is_norm(module: nn.Module) -> bool:
    """Whether the module only shifts and scales: a norm, an affine layer, a layer scale."""
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm):
        return True
    return bool(NORM.search(type(module).__name__)) and not any(
        isinstance(child, _ConvNd | nn.Linear) for child in module.modules()
    )


def _is_bias(name: str, parameter: nn.Parameter) -> bool:
    last = name.rpartition(".")[2]
    return parameter.ndim == 1 and (last == "bias" or last.endswith("_bias"))


def _kind_of(body: nn.Module, name: str) -> str:
    path, _, last = name.rpartition(".")
    owner = body.get_submodule(path)
    if path and is_norm(owner):
        return "norm"
    while path:
        kind = _kind_of_module(body.get_submodule(path), path.rpartition(".")[2])
        if kind:
            return kind
        path = path.rpartition(".")[0]
    if isinstance(owner, _ConvNd):
        return "conv"
    if SCALE_NAME.fullmatch(last):
        return "norm"
    return "mlp" if isinstance(owner, nn.Linear) else "embedding"


def _kind_of_module(module: nn.Module, name: str) -> str | None:
    """'attention', 'mlp' or 'embedding' for a module that is completely of that kind; else None."""
    class_name = type(module).__name__
    if GATE_CLASS.match(class_name):
        return None
    if PERCEPTRON_CLASS.search(class_name) or PERCEPTRON_NAME.fullmatch(name):
        return "mlp"
    is_block = class_name.endswith(("Block", "Stage", "Layer"))
    if (ATTENTION_CLASS.search(class_name) and not is_block) or ATTENTION_NAME.fullmatch(name):
        return "attention"
    if EMBEDDING_CLASS.search(class_name) or EMBEDDING_NAME.fullmatch(name):
        return "embedding"
    return None


def _norms_by_sublayer(body: nn.Module) -> dict[str, str]:
    """'attention' or 'mlp' for the path of each norm beside such a sublayer.

    Norms and sublayers of a block are paired in the order of their registration, from the last.
    """
    kinds = {}
    for path, block in body.named_modules():
        start = f"{path}." if path else ""
        norms = [name for name, child in block.named_children() if _is_plain_norm(child)]
        sublayers = [_kind_of_module(child, name) for name, child in block.named_children()]
        sublayers = [kind for kind in sublayers if kind in ("attention", "mlp")]
        if path and not _kind_of_module(block, path.rpartition(".")[2]):
            pairs = zip(reversed(norms), reversed(sublayers), strict=False)
            kinds.update({start + name: kind for name, kind in pairs if kind})
    return kinds


def _is_plain_norm(module: nn.Module) -> bool:
    return is_norm(module) and "scale" not in type(module).__name__.lower()
