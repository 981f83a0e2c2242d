"""Heads as torch modules: trained heads, and converted solved heads; each can be rebuilt from its description."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from backbench.config import Frozen
from backbench.errors import ModelError
from backbench.heads.heads import (
    MIN_PRIOR,
    UNMAPPED_LOGIT,
    CosineHead,
    GroupedHead,
    Head,
    LinearHead,
    NeighbourHead,
)
from backbench.heads.standardise import to_tensor

START_STD = 0.01
"""Standard deviation of a new head's weights: small, so that training starts from nearly equal probabilities."""

HeadKind = Literal["linear", "mlp", "cosine", "neighbours", "grouped"]


class HeadSpec(Frozen):
    """The description of a head besides its tensors."""

    kind: HeadKind
    dim: int = Field(ge=1, le=10_000_000)
    classes: int = Field(ge=1, le=10_000_000)
    hidden: int = Field(default=0, ge=0, le=10_000_000, description="mlp: width of the hidden layer")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="linear, mlp: in training only")
    num_rows: int = Field(default=0, ge=0, description="neighbours: stored rows; grouped: finer classes")
    k: int = Field(default=0, ge=0, description="neighbours: number that vote")
    temperature: float = Field(default=1.0, gt=0.0, description="neighbours: temperature of the votes")


class HeadModule(nn.Module):
    """(batch, dim) float32 features -> (batch, classes) logits; `spec` says how to build an empty one like it."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec


class LinearModule(HeadModule):
    """values @ weight.T + bias; dropout of the values in training."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.weight = nn.Parameter(torch.zeros(spec.classes, spec.dim))
        self.bias = nn.Parameter(torch.zeros(spec.classes))

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(F.dropout(values, self.spec.dropout, self.training), self.weight, self.bias)


class MlpModule(HeadModule):
    """One hidden layer with ReLU, then dropout."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.hidden = nn.Linear(spec.dim, spec.hidden)
        self.drop = nn.Dropout(spec.dropout)
        self.out = nn.Linear(spec.hidden, spec.classes)

    def forward(self, values: Tensor) -> Tensor:
        return self.out(self.drop(torch.relu(self.hidden(values))))


class CosineModule(HeadModule):
    """As `heads.CosineHead`. Nothing in it is trained."""

    centre: Tensor
    directions: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.register_buffer("centre", torch.zeros(spec.dim))
        self.register_buffer("directions", torch.zeros(spec.classes, spec.dim))
        self.register_buffer("bias", torch.zeros(spec.classes))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, values: Tensor) -> Tensor:
        return self.scale * (_unit_rows(values - self.centre) @ self.directions.T) + self.bias


class NeighbourModule(HeadModule):
    """As `heads.NeighbourHead`. Nothing in it is trained; it holds a row for each training image."""

    directions: Tensor
    labels: Tensor
    mean: Tensor
    inverse_std: Tensor

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.register_buffer("directions", torch.zeros(spec.num_rows, spec.dim))
        self.register_buffer("labels", torch.zeros(spec.num_rows, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(spec.dim))
        self.register_buffer("inverse_std", torch.ones(spec.dim))

    def forward(self, values: Tensor) -> Tensor:
        spec = self.spec
        prior = torch.bincount(self.labels, minlength=spec.classes).float() / spec.num_rows + MIN_PRIOR
        queries = _unit_rows((values - self.mean) * self.inverse_std)
        similarity, nearest = (queries @ self.directions.T).topk(spec.k, dim=1)
        votes = torch.exp((similarity - similarity[:, :1]) / spec.temperature)
        counts = torch.zeros(len(values), spec.classes, device=values.device)
        counts.scatter_add_(1, self.labels[nearest], votes * (spec.k / votes.sum(dim=1, keepdim=True)))
        return torch.log((counts + prior) / (spec.k + prior.sum()))


class GroupedModule(HeadModule):
    """As `heads.GroupedHead`. Nothing in it is trained."""

    weight: Tensor
    bias: Tensor
    groups: Tensor

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.register_buffer("weight", torch.zeros(spec.num_rows, spec.dim))
        self.register_buffer("bias", torch.zeros(spec.num_rows))
        self.register_buffer("groups", torch.zeros(spec.num_rows, dtype=torch.int64))

    def forward(self, values: Tensor) -> Tensor:
        scores = F.linear(values, self.weight, self.bias)
        parts = torch.exp(scores - scores.amax(dim=1, keepdim=True))
        shares = parts.new_zeros(len(values), self.spec.classes).index_add(1, self.groups, parts)
        logits = torch.log(shares.clamp_min(torch.finfo(torch.float32).tiny))
        is_mapped = torch.zeros(self.spec.classes, dtype=torch.bool, device=values.device)
        is_mapped[self.groups] = True
        return logits.masked_fill(~is_mapped, UNMAPPED_LOGIT)


KINDS: dict[HeadKind, type[HeadModule]] = {
    "linear": LinearModule,
    "mlp": MlpModule,
    "cosine": CosineModule,
    "neighbours": NeighbourModule,
    "grouped": GroupedModule,
}


def build_head(spec: HeadSpec) -> HeadModule:
    """An empty head of that description, to be filled with `load_state_dict`; ModelError if it is inconsistent."""
    if spec.kind == "mlp" and not spec.hidden:
        raise ModelError("a head of kind 'mlp' needs a hidden layer")
    if spec.kind == "neighbours" and not 1 <= spec.k <= spec.num_rows:
        raise ModelError(f"a head of kind 'neighbours' can't use {spec.k} of {spec.num_rows} rows")
    if spec.kind == "grouped" and not spec.num_rows:
        raise ModelError("a head of kind 'grouped' needs rows")
    with torch.random.fork_rng(
        devices=[]
    ):  # layers draw weights that are replaced: keep torch's generator unchanged
        return KINDS[spec.kind](spec).eval()


def make_linear(dim: int, classes: int, rng: torch.Generator, dropout: float = 0.0) -> HeadModule:
    """A new linear head: weights of standard deviation 0.01 from `rng`, biases 0."""
    head = build_head(HeadSpec(kind="linear", dim=dim, classes=classes, dropout=dropout))
    assert isinstance(head, LinearModule)
    nn.init.normal_(head.weight, std=START_STD, generator=rng)
    return head


def make_mlp(dim: int, hidden: int, classes: int, dropout: float, rng: torch.Generator) -> HeadModule:
    """A new head with one hidden layer; random weights keep the scale of the features."""
    head = build_head(HeadSpec(kind="mlp", dim=dim, hidden=hidden, classes=classes, dropout=dropout))
    assert isinstance(head, MlpModule)
    nn.init.normal_(head.hidden.weight, std=math.sqrt(2.0 / dim), generator=rng)
    nn.init.normal_(head.out.weight, std=START_STD, generator=rng)
    nn.init.zeros_(head.hidden.bias)
    nn.init.zeros_(head.out.bias)
    return head


def to_module(head: Head, dropout: float = 0.0) -> HeadModule:
    """A solved head as a module with the same logits; it shares no memory with it.

    Args:
        dropout: of the features, for further training of a linear head; 0 <= dropout < 1.

    Raises:
        ModelError: an unknown kind of head.
    """
    if isinstance(head, LinearHead):
        classes, dim = head.weights.shape
        spec = HeadSpec(kind="linear", dim=dim, classes=classes, dropout=dropout)
        arrays = {"weight": head.weights, "bias": head.bias}
    elif isinstance(head, CosineHead):
        classes, dim = head.directions.shape
        spec = HeadSpec(kind="cosine", dim=dim, classes=classes)
        arrays = {"centre": head.centre, "directions": head.directions, "bias": head.bias}
    elif isinstance(head, NeighbourHead):
        num_rows, dim = head.directions.shape
        spec = HeadSpec(
            kind="neighbours",
            dim=dim,
            classes=head.num_classes,
            num_rows=num_rows,
            k=head.k,
            temperature=head.temperature,
        )
        arrays = {
            "directions": head.directions,
            "labels": head.labels,
            "mean": head.mean,
            "inverse_std": head.inverse_std,
        }
    elif isinstance(head, GroupedHead):
        num_rows, dim = head.weights.shape
        spec = HeadSpec(kind="grouped", dim=dim, classes=head.num_classes, num_rows=num_rows)
        arrays = {"weight": head.weights, "bias": head.bias, "groups": head.groups}
    else:
        raise ModelError(f"a head of type {type(head).__name__} can't be converted to a module")
    module = build_head(spec)
    tensors = {name: to_tensor(array, "cpu") for name, array in arrays.items()}
    if isinstance(head, CosineHead):
        tensors["scale"] = torch.tensor(head.scale, dtype=torch.float32)
    module.load_state_dict(tensors, strict=True)
    return module


def _unit_rows(values: Tensor) -> Tensor:
    """Rows scaled to length 1, rows of zeros unchanged; the same steps as `heads.normalise_rows`."""
    largest = values.abs().amax(dim=1, keepdim=True)  # squares of 1e20 and of 1e-30 would exceed float32's range
    scaled = values / torch.where(largest > 0, largest, torch.ones_like(largest))
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / length.clamp_min(torch.finfo(torch.float32).tiny)
