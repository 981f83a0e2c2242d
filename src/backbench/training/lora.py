"""Low-rank adapters: train a small correction of frozen weights, and merge it after training.

    W' = W + alpha / rank * B A        A: (rank, columns) random, B: (rows, rank) zero at first

New adapters do not change the output at all. After `merge_lora` the network has its original modules and tensor
names, without cost at inference. The kernel of a convolution is treated as a matrix of (channels out, channels in
x height x width).
Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".

The weight itself is replaced (torch's parametrization), not the layer's output. This works for all uses of a
weight: in `nn.MultiheadAttention`, in BEiT and Swin v2, which use `qkv.weight` outside the layer, and in
convolutions that pad or standardise. A wrapped layer would silently learn nothing or something else there. The
backward pass computes the gradient of the whole weight, so its cost is that of full training. The method saves
memory of the optimiser and size of checkpoints, and it limits overfitting.

Never adapted: depthwise convolutions (each channel has one small filter, so there is no rank to lower), weights
shared by several modules, and weights that are not larger than the adapter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from backbench.backbones.core.parts import parts_of
from backbench.errors import ConfigError, unknown_name

TARGETS = {
    "auto": "attention if there is any; otherwise linear layers or convolutions, whichever are more",
    "attention": "linear layers inside attention, query, key and value stacked as one",
    "mlp": "linear layers of perceptrons",
    "linear": "all linear layers",
    "conv": "all convolutions",
    "all": "linear layers and convolutions",
}


@dataclass(frozen=True)
class _Weight:
    """A matrix that can be adapted: tensor `name` of `owner`, which is at `path`."""

    path: str
    name: str
    owner: nn.Module
    kinds: frozenset[str]

    @property
    def tensor(self) -> Tensor:
        tensor = getattr(self.owner, self.name)
        assert isinstance(tensor, Tensor)
        return tensor


class LowRank(nn.Module):
    """Add scale * up @ down in the shape of the weight. `order`: the original order of the owner's parameters."""

    def __init__(
        self, weight: Tensor, rank: int, scale: float, order: tuple[str, ...], rng: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = _matrix_shape(weight)
        down = nn.init.kaiming_uniform_(torch.empty(rank, columns), a=math.sqrt(5), generator=rng)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = scale
        self.order = order

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # so that merged weights equal those of training
            return weight + (self.scale * (self.up @ self.down)).view_as(weight)


def add_lora(
    body: nn.Module, *, rank: int, alpha: float, targets: str = "auto", rng: torch.Generator
) -> frozenset[str]:
    """Add adapters to the chosen weights of `body`, in place; returns the names of the new parameters.

    Freezes nothing: train only these names and a head. Until `merge_lora`, an adapted tensor is called
    'PATH.parametrizations.weight.original', so call `stages_of` and `parts_of` before.

    Args:
        rank: of each correction, at least 1.
        alpha: above 0; corrections are scaled by alpha / rank, so that the rank can change at one learning rate.
        targets: a key of `TARGETS`.
        rng: a CPU generator for the random halves, in the order of the modules.

    Raises:
        ConfigError: a rank, alpha or targets out of range, or no suitable weight in `body`.
        ValueError: `body` has adapters already.
    """
    if rank < 1:
        raise ConfigError(f"lora: rank is {rank}; expected at least 1. Usual ranks are 4 to 32.")
    if not 0 < alpha < math.inf:
        raise ConfigError(
            f"lora: alpha is {alpha}; expected a number above 0, usually the rank or twice the rank."
        )
    if targets not in TARGETS:
        raise unknown_name("targets", targets, TARGETS, "lora", "the method's options")
    if _adapted(body):
        raise ValueError("the network has adapters already; merge them first")
    names = set()
    for weight in _choose(body, rank, targets):
        order = tuple(weight.owner._parameters)
        adapter = LowRank(weight.tensor, rank, alpha / rank, order, rng)
        parametrize.register_parametrization(weight.owner, weight.name, adapter)
        path = f"{weight.path}." if weight.path else ""
        names |= {f"{path}parametrizations.{weight.name}.0.{half}" for half in ("down", "up")}
    return frozenset(names)


def merge_lora(body: nn.Module) -> int:
    """Merge all adapters into the weights, in place; returns their number.

    Restores modules, names and order of tensors, and trainable parameters from before `add_lora`.
    """
    adapted = _adapted(body)
    for owner, name, adapter in adapted:
        parametrize.remove_parametrizations(owner, name, leave_parametrized=True)
        for other in adapter.order:  # removal puts the tensor last
            if other in owner._parameters:
                owner._parameters[other] = owner._parameters.pop(other)
    return len(adapted)


def _adapted(body: nn.Module) -> list[tuple[nn.Module, str, LowRank]]:
    return [
        (module, name, adapter)
        for module in list(body.modules())
        if parametrize.is_parametrized(module)
        for name, chain in list(module.parametrizations.items())  # type: ignore[operator, union-attr]
        for adapter in chain
        if isinstance(adapter, LowRank)
    ]


def _choose(body: nn.Module, rank: int, targets: str) -> list[_Weight]:
    """The weights to adapt, in the order of the modules; ConfigError if there are none."""
    weights = list(_list_weights(body))
    if targets == "auto":
        targets = _decide_targets(weights)
    fitting = [weight for weight in weights if targets in weight.kinds]
    chosen = [weight for weight in fitting if _is_smaller(weight.tensor, rank)]
    if chosen:
        return chosen
    if fitting:
        largest = max(min(_matrix_shape(weight.tensor)) for weight in fitting)
        raise ConfigError(
            f"lora: rank {rank} is too high: no adapter would be smaller than its weight (the largest has rank "
            f"{largest}). Give a rank well below {largest // 2}."
        )
    present = [kind for kind in TARGETS if any(kind in weight.kinds for weight in weights)]
    if present:
        raise ConfigError(
            f"lora: targets {targets} ({TARGETS[targets]}): this network has none. It has: {', '.join(present)}; "
            "or use auto."
        )
    raise ConfigError(
        "lora: this model has no linear layer and no convolution to adapt. Use a transformer or convolutional "
        "network, such as vit_tiny_patch16_224 or resnet18; for others, such as pixels, use a probe."
    )


def _decide_targets(weights: list[_Weight]) -> str:
    if any("attention" in weight.kinds for weight in weights):
        return "attention"
    sizes: Counter[str] = Counter()
    for weight in weights:
        sizes.update({kind: weight.tensor.numel() for kind in weight.kinds & {"linear", "conv"}})
    return "linear" if sizes["linear"] > sizes["conv"] else "conv"


def _list_weights(body: nn.Module) -> Iterator[_Weight]:
    """All weights that can have adapters, in the order of the modules."""
    parts = {name: kind for kind in ("attention", "mlp") for name in parts_of(body)[kind]}
    owners = Counter(id(parameter) for module in body.modules() for parameter in module.parameters(recurse=False))
    for path, module in body.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = _kind_of(module, name, parameter)
            if kind and owners[id(parameter)] == 1 and parameter.is_floating_point():
                full_name = f"{path}.{name}" if path else name
                kinds = {kind, "all"}
                if kind == "linear" and full_name in parts:
                    kinds.add(parts[full_name])
                yield _Weight(path, name, module, frozenset(kinds))


def _kind_of(module: nn.Module, name: str, parameter: Tensor) -> str | None:
    """'linear' or 'conv' for a weight that can have an adapter."""
    if isinstance(module, nn.Linear) and name == "weight":
        return "linear"
    if isinstance(module, nn.MultiheadAttention) and name.endswith("proj_weight"):
        return "linear"
    if isinstance(module, _ConvNd) and not module.transposed and name == "weight":
        is_depthwise = module.groups > 1 and parameter.shape[1] == 1
        return None if is_depthwise else "conv"
    return None


def _matrix_shape(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight[0].numel()


def _is_smaller(weight: Tensor, rank: int) -> bool:
    rows, columns = _matrix_shape(weight)
    return rank * (rows + columns) < rows * columns
