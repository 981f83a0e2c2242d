"""Train many heads on the same features in one pass, each with its own learning rate and weight decay.

The heads start equal and see the same batches and dropout. Their losses are added, so each gets the same gradient
as alone. Clipping and early stopping work for each head separately (`Phase.members`). The result of each head is
that of a separate run with its rate and decay.
Source: Oquab et al. 2023, "DINOv2", whose linear evaluation trains a grid of heads in this way.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbench.errors import ModelError
from backbench.heads.choose import Score, choose_best
from backbench.heads.head_modules import HeadModule, LinearModule, MlpModule
from backbench.training.optimise import Phase
from backbench.training.train import FitResult


@dataclass(frozen=True)
class Setting:
    """The setting of one head of a grid: peak learning rate > 0; weight decay >= 0 of its matrices."""

    learning_rate: float
    weight_decay: float


def make_grid(rates: Sequence[float], decays: Sequence[float]) -> tuple[Setting, ...]:
    """Every rate with every decay, each pair once."""
    return tuple(dict.fromkeys(Setting(rate, decay) for rate, decay in product(rates, decays)))


class ManyHeads(HeadModule):
    """(batch, dim) -> (batch, heads, classes) logits of `num` copies of one head; `spec` is that of each.

    Cost: that of one head with `num` times the classes, and of a copy of the weights for each pass.

    Raises:
        ModelError: the head is neither linear nor with one hidden layer.
    """

    def __init__(self, head: HeadModule, num: int) -> None:
        super().__init__(head.spec)
        if not isinstance(head, LinearModule | MlpModule):
            raise ModelError(f"a head of kind '{head.spec.kind}' can't be trained by gradient steps")
        self.heads = nn.ModuleList([copy.deepcopy(head) for _ in range(num)])

    def head(self, number: int) -> HeadModule:
        """One of them, in place."""
        head = self.heads[number]
        assert isinstance(head, HeadModule)  # all that `__init__` puts there
        return head

    def forward(self, values: Tensor) -> Tensor:
        if self.spec.kind == "linear":
            values = F.dropout(values, self.spec.dropout, self.training)
            return self._apply_first("weight", "bias", values)
        hidden = torch.relu(self._apply_first("hidden.weight", "hidden.bias", values))
        mask = F.dropout(
            torch.ones_like(hidden[:, 0]), self.spec.dropout, self.training
        )  # the same mask as for one head
        hidden = hidden * mask.unsqueeze(1)
        weights = torch.stack(self._parameters_of("out.weight"))
        biases = torch.stack(self._parameters_of("out.bias"))
        return (hidden.transpose(0, 1) @ weights.mT).transpose(0, 1) + biases

    def _apply_first(self, weight: str, bias: str, values: Tensor) -> Tensor:
        """(batch, heads, width): the first layers of all heads in one multiplication."""
        weights, biases = torch.cat(self._parameters_of(weight)), torch.cat(self._parameters_of(bias))
        return F.linear(values, weights, biases).unflatten(1, (len(self.heads), -1))

    def _parameters_of(self, name: str) -> list[Tensor]:
        return [head.get_parameter(name) for head in self.heads]


def spread_phase(phase: Phase, prefix: str, grid: Sequence[Setting]) -> Phase:
    """The same phase for `ManyHeads`, whose parameters are trainable in it: head i uses `grid[i]`.

    Args:
        prefix: path of the `ManyHeads` in the network, such as 'head.inner.'.
    """
    members = tuple(
        frozenset(name for name in phase.trainable if name.startswith(f"{prefix}heads.{number}."))
        for number in range(len(grid))
    )
    highest = max(setting.learning_rate for setting in grid)
    rates, decays = dict(phase.rates), dict(phase.decays)
    for names, setting in zip(members, grid, strict=True):
        rates |= dict.fromkeys(names, setting.learning_rate / highest)
        decays |= dict.fromkeys(names, setting.weight_decay)
    recipe = phase.recipe.model_copy(update={"learning_rate": highest})
    return replace(phase, recipe=recipe, rates=rates, decays=decays, members=members)


def choose_head(result: FitResult, num_val: int) -> int:
    """The head of `result.members` to keep: the lowest loss among the most accurate (`choose_best`)."""
    scores = [Score(member.best_accuracy, member.best_loss) for member in result.members]
    return choose_best(scores, num_val) if num_val else 0


def result_of_head(result: FitResult, chosen: int) -> FitResult:
    """The result of one head; ended by the budget if any head was, because that head might have won."""
    head = result.members[chosen]
    was_cut = any(member.ended == "budget" for member in result.members)
    return replace(head, ended="budget") if was_cut else head


def describe_heads(result: FitResult, grid: Sequence[Setting], chosen: int) -> dict[str, Any]:
    """The choice, and the validation metrics of all heads, for the record."""
    heads = [
        {
            "learning_rate": setting.learning_rate,
            "weight_decay": setting.weight_decay,
            "val_accuracy": member.best_accuracy,
            "val_nll": member.best_loss,
            "best_epoch": member.best_epoch,
            "ended": member.ended,
        }
        for setting, member in zip(grid, result.members, strict=True)
    ]
    own = {name: value for name, value in heads[chosen].items() if name not in ("best_epoch", "ended")}
    return own | {"heads": heads}


def warn_of_diverged(result: FitResult, grid: Sequence[Setting]) -> tuple[str, ...]:
    """A warning on heads whose loss or gradient became non-finite."""
    found = [
        f"{setting.learning_rate:g} with decay {setting.weight_decay:g}"
        for setting, member in zip(grid, result.members, strict=False)
        if member.ended == "diverged"
    ]
    if not found:
        return ()
    return (f"{len(found)} of {len(grid)} heads diverged, at rate {', '.join(found)}; the others continued",)
