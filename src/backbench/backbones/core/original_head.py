"""The published classifier of a pretrained network: the layer after its features, and the classes of its rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from backbench.errors import ModelError, nearest
from backbench.storage import read_file

_MAX_CHANGE = 1e-4  # maximum difference of logits between the network and the layer, relative to the largest
# names of subsets of ImageNet -> timm's file of ids, in the order of the rows, and how many there are
_SUBSETS = {
    "imagenet-1k": ("imagenet_synsets.txt", 1000),
    "imagenet-12k": ("imagenet12k_synsets.txt", 11821),
    "imagenet-21k": ("imagenet21k_goog_synsets.txt", 21843),
    "imagenet-21k-miil": ("imagenet21k_miil_synsets.txt", 11221),
    "imagenet-22k": ("imagenet22k_synsets.txt", 21841),
    "imagenet-22k-ms": ("imagenet22k_ms_synsets.txt", 21842),
}
MAX_CLASSES_BYTES = 20_000_000


@dataclass(frozen=True, eq=False)
class OriginalHead:
    """logits = features @ weights.T + bias, over the published classes of a network.

    weights: (rows, dim) float32; bias: (rows,) float32; classes: the class of each row, as a WordNet id
    ('n02123045') if known, else a name.
    """

    weights: np.ndarray
    bias: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TextHead:
    """The head of an image-text network: any words can be its classes.

    embed: n texts -> (n, dim) float32 of length 1; scale: the factor of the cosine of image and text.
    """

    embed: Callable[[Sequence[str]], np.ndarray]
    scale: float


def take_head(
    network: nn.Module,
    body: nn.Module,
    layer: nn.Module,
    classes: Sequence[str],
    *,
    name: str,
    size: tuple[int, int],
) -> OriginalHead:
    """The head of a network if it is one linear layer on the features of `body`; checked on two random images.

    Args:
        network: complete, in eval mode: (batch, 3, height, width) -> (batch, rows).
        body: the same without its head, without sharing modules that dropping the head changes.
        layer: the layer of `network` that gives the logits: linear, or a 1 x 1 convolution.
        classes: one for each row.
        size: (height, width) in pixels of its images.

    Raises:
        ModelError: the head has another form, such as a convolution before pooling, or another number of rows.
    """
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise _no_head(name, f"its classifier is a {type(layer).__name__}, not one linear layer")
    weights = layer.weight.detach().float().flatten(1)
    bias = torch.zeros(len(weights)) if layer.bias is None else layer.bias.detach().float()
    if len(classes) != len(weights):
        raise _no_head(name, f"its classifier has {len(weights):,} rows for {len(classes):,} known classes")
    batch = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, features = network(batch), body(batch)
    if expected.ndim != 2 or features.shape[1] != weights.shape[1]:
        raise _no_head(name, "its classifier does not work on its features")
    change = (features @ weights.T + bias - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    if not bool(change < _MAX_CHANGE):
        raise _no_head(name, "its classifier is more than one linear layer")
    return OriginalHead(weights.numpy().copy(), bias.numpy().copy(), tuple(classes))


def take_timm_head(
    network: nn.Module, classes: Sequence[str], *, name: str, size: tuple[int, int]
) -> OriginalHead:
    """The head of a whole timm network; errors as `take_head`."""
    from backbench.backbones.loaders.timm import drop_head

    if not hasattr(network, "get_classifier"):
        raise _no_head(name, "it was published without one")
    layer = network.get_classifier()  # type: ignore[operator]
    body = drop_head(copy.deepcopy(network)).eval()
    return take_head(network.eval(), body, layer, classes, name=name, size=size)


def take_torchvision_head(
    network: nn.Module, classes: Sequence[str], *, name: str, size: tuple[int, int]
) -> OriginalHead:
    """The head of a whole torchvision network; errors as `take_head`."""
    from backbench.backbones.loaders.torchvision import drop_head, head_path

    layer = network.get_submodule(head_path(network))
    body = drop_head(copy.deepcopy(network)).eval()
    return take_head(network.eval(), body, layer, classes, name=name, size=size)


def classes_of_size(num_classes: int, name: str) -> tuple[str, ...]:
    """The ids of the ImageNet subset with this number of classes, in row order; ModelError if there is none."""
    subset = next((name for name, (_, num) in _SUBSETS.items() if num == num_classes), None)
    if not num_classes:
        raise _no_head(name, "it was published without one")
    if subset is None:
        raise _no_head(name, f"it has {num_classes:,} outputs, which matches no subset of ImageNet")
    return read_subset(subset)


def read_subset(subset: str) -> tuple[str, ...]:
    """The ids of a subset of ImageNet by name, in the order of the rows; from the lists that timm packages."""
    return tuple(_info_file(_SUBSETS[subset][0]).read_text(encoding="utf-8").split())


def read_head_classes(said: str, folder: Path, where: str) -> tuple[str, ...]:
    """Read a card's `head_classes`: the name of a subset of ImageNet, or a file in `folder` with one class a line.

    Raises:
        ModelError: neither, with the nearest name.
    """
    if said.casefold() in _SUBSETS:
        return read_subset(said.casefold())
    path = folder / said
    try:
        lines = read_file(path, MAX_CLASSES_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        close = nearest(said, _SUBSETS) or list(_SUBSETS)
        raise ModelError(
            f"{where}: head_classes = '{said}' is neither a subset of ImageNet (nearest: {', '.join(close)}) nor "
            "a readable text file beside the card."
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


@cache
def read_lemmas() -> Mapping[str, tuple[str, ...]]:
    """WordNet id -> its words, the usual one first, for every class of every subset of ImageNet."""
    pairs = _pairs("imagenet_synset_to_lemma.txt")
    return MappingProxyType({key: tuple(text.split(", ")) for key, text in pairs})


@cache
def read_definitions() -> Mapping[str, str]:
    """WordNet id -> its definition, for every class of every subset of ImageNet."""
    return MappingProxyType(dict(_pairs("imagenet_synset_to_definition.txt")))


def _pairs(file: str) -> list[tuple[str, str]]:
    lines = _info_file(file).read_text(encoding="utf-8").splitlines()
    return [(key, text.strip('"')) for key, _, text in (line.partition("\t") for line in lines)]


def _info_file(name: str) -> Path:
    import timm.data

    return Path(timm.data.__file__).parent / "_info" / name


def _no_head(name: str, reason: str) -> ModelError:
    return ModelError(
        f"the original classifier of {name} can't be used: {reason}. Choose another model, or a method that fits "
        "a head, such as logistic."
    )
