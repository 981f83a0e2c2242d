"""The optimiser of a training phase: which parameters are trained, at which rate, and its state by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbench.config import Recipe
from backbench.errors import ConfigError


@dataclass(frozen=True)
class Phase:
    """One phase of training: trainable parameters, their rates, and the recipe.

    Args:
        name: names its checkpoints; unique in a run.
        trainable: parameter names of the network; everything else is frozen.
        rates: learning rate of a parameter as a multiple of `recipe.learning_rate`; default 1.
        decays: weight decay of a parameter if it differs from `recipe.weight_decay`; matrices only.
        members: the parameters of each of several heads; empty: a single head.
        keeps_statistics: batch norms use and keep their stored statistics; their weights may be trained.
        recipe: all other settings.
    """

    name: str
    trainable: frozenset[str]
    recipe: Recipe
    rates: Mapping[str, float] = field(default_factory=dict)
    decays: Mapping[str, float] = field(default_factory=dict)
    members: tuple[frozenset[str], ...] = ()
    keeps_statistics: bool = False

    def member_of(self, name: str) -> int:
        """Index of this parameter's member; 0 for a single head."""
        return next((number for number, names in enumerate(self.members) if name in names), 0)

    def full_rate(self, member: int) -> float:
        """The recipe's learning rate; for one of several heads, its own rate."""
        share = self.rates.get(min(self.members[member]), 1.0) if self.members else 1.0
        return (self.recipe.learning_rate or 0.0) * share


def freeze_for(network: nn.Module, phase: Phase) -> dict[str, nn.Parameter]:
    """Make exactly `phase.trainable` trainable; returns them by name, in the network's order.

    Raises:
        ConfigError: a name that the network lacks, or nothing to train.
    """
    own = dict(network.named_parameters())
    unknown = sorted(phase.trainable - own.keys())
    if unknown:
        raise ConfigError(
            f"phase '{phase.name}' trains parameters that the network lacks: {', '.join(unknown[:3])}"
        )
    if not phase.trainable:
        raise ConfigError(f"phase '{phase.name}' has nothing to train")
    for name, parameter in own.items():
        parameter.requires_grad_(name in phase.trainable)
        parameter.grad = None
    return {name: parameter for name, parameter in own.items() if name in phase.trainable}


def set_training_mode(module: nn.Module, inherited: bool = True, *, keeps_statistics: bool = False) -> None:
    """Set training mode for trained modules and eval mode for frozen ones, recursively.

    A submodule whose parameters are all frozen stays in eval mode, so that batch norm statistics can't drift and
    dropout in a frozen part is off. A module without parameters, such as dropout, follows its parent.
    `keeps_statistics`: all batch norms stay in eval mode.
    """
    parameters = list(module.parameters())
    mode = any(parameter.requires_grad for parameter in parameters) if parameters else inherited
    module.training = mode and not (keeps_statistics and isinstance(module, _BatchNorm))
    for child in module.children():
        set_training_mode(child, mode, keeps_statistics=keeps_statistics)


def make_optimizer(parameters: Mapping[str, nn.Parameter], phase: Phase) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD, one group for each (member, rate, decay); its peak rate is stored as 'full_lr'.

    Biases, norms and other vectors have no weight decay, nor do exceptions in `phase.decays`. Adam adds the decay
    to the gradient (L2), AdamW subtracts it from the weights. The fused form is 3 to 4 times faster on the CPU.
    """
    recipe = phase.recipe
    if recipe.learning_rate is None:
        raise ConfigError(f"phase '{phase.name}' has no learning rate")
    groups: dict[tuple[int, float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = phase.decays.get(name, recipe.weight_decay) if parameter.ndim > 1 else 0.0
        groups.setdefault((phase.member_of(name), phase.rates.get(name, 1.0), decay), []).append(parameter)
    settings = [
        {"params": group, "lr": recipe.learning_rate * rate, "weight_decay": decay, "member": member}
        for (member, rate, decay), group in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(settings, fused=True)
    elif recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(settings, fused=True)
    else:
        optimizer = torch.optim.SGD(settings, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    for group in optimizer.param_groups:
        group["full_lr"] = group["lr"]
    return optimizer


def rate_factor(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """The learning rate of a step as a share of the full one: a pure function, so it needs no state to resume.

    Warm-up is linear and ends at `warmup_epochs`; then cosine to 0 at the end of the last epoch, or constant
    ('plateau' is constant here: its factor depends on results and is stored with them).
    """
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2) * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule != "cosine":
        return 1.0
    total = recipe.epochs * steps_per_epoch
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


def capture_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's tensors as 'KEY/PARAMETER' -> tensor."""
    return {
        f"{key}/{name}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Restore the result of `capture_optimizer`; a step counter stays on the device that the optimiser needs.

    The fused optimisers use memory order, so each tensor gets the memory order of its parameter.
    """
    optimizer.state.clear()
    for path, value in tensors.items():
        key, _, name = path.partition("/")
        parameter = parameters[name]
        is_shaped = value.shape == parameter.shape
        optimizer.state[parameter][key] = (
            ordered_as(parameter, value) if is_shaped else value.to(parameter.device).clone()
        )


def ordered_as(tensor: Tensor, values: Tensor) -> Tensor:
    """A copy of `values` on the device of `tensor` and in its memory order, such as channels last."""
    return torch.empty_like(tensor, dtype=values.dtype, requires_grad=False).copy_(values)
