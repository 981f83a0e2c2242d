"""The optimiser of a training phase: which parameters learn at which rate, when, and its state by name."""

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
    """One stretch of training: what may change, how fast, by which recipe.

    Args:
        name: names its checkpoints; unique in a run.
        trainable: parameter names of the network; everything else is frozen.
        rates: learning rate of a parameter as a multiple of `recipe.learning_rate`; 1 where it is not named.
        decays: weight decay of a parameter where it is not `recipe.weight_decay`; of matrices only.
        members: the parameters of each head, where several learn side by side; empty: all learn as one.
        keeps_statistics: batch norms use the statistics they have and leave them so; their weights may learn.
        recipe: everything else.
    """

    name: str
    trainable: frozenset[str]
    recipe: Recipe
    rates: Mapping[str, float] = field(default_factory=dict)
    decays: Mapping[str, float] = field(default_factory=dict)
    members: tuple[frozenset[str], ...] = ()
    keeps_statistics: bool = False

    def member_of(self, name: str) -> int:
        """Which of `members` has this parameter; 0 where all learn as one."""
        return next((number for number, names in enumerate(self.members) if name in names), 0)

    def full_rate(self, member: int) -> float:
        """The recipe's learning rate; of a head among several, its own: it has one for all its parameters."""
        share = self.rates.get(min(self.members[member]), 1.0) if self.members else 1.0
        return (self.recipe.learning_rate or 0.0) * share


def freeze_for(network: nn.Module, phase: Phase) -> dict[str, nn.Parameter]:
    """Make exactly `phase.trainable` trainable; gives those parameters by name, in the network's order.

    Raises:
        ConfigError: a name that the network lacks, or nothing to train.
    """
    own = dict(network.named_parameters())
    unknown = sorted(phase.trainable - own.keys())
    if unknown:
        raise ConfigError(f"phase '{phase.name}' trains what the network lacks: {', '.join(unknown[:3])}")
    if not phase.trainable:
        raise ConfigError(f"phase '{phase.name}' has nothing to train")
    for name, parameter in own.items():
        parameter.requires_grad_(name in phase.trainable)
        parameter.grad = None
    return {name: parameter for name, parameter in own.items() if name in phase.trainable}


def set_training_mode(module: nn.Module, inherited: bool = True, *, keeps_statistics: bool = False) -> None:
    """Training mode for what is trained, eval mode for what is frozen, down to the last submodule.

    A submodule whose parameters are all frozen stays in eval mode, so that batch norm statistics can't drift and
    dropout in a frozen part is off. One without parameters, such as dropout, does as the module it is in.
    `keeps_statistics`: batch norms stay in eval mode all the same.
    """
    parameters = list(module.parameters())
    mode = any(parameter.requires_grad for parameter in parameters) if parameters else inherited
    module.training = mode and not (keeps_statistics and isinstance(module, _BatchNorm))
    for child in module.children():
        set_training_mode(child, mode, keeps_statistics=keeps_statistics)


def make_optimizer(parameters: Mapping[str, nn.Parameter], phase: Phase) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD, a group for each (member, rate, decay); the group's base rate is kept as 'full_lr'.

    Biases, norms and other vectors are not decayed, nor what `phase.decays` excepts. Adam adds the decay to the
    gradient (L2), AdamW takes it off the weights. The fused form is 3 to 4
    times faster on the CPU.
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
    """The learning rate of a step as a share of the full one: a pure function, so nothing has to be resumed.

    Warm-up is linear and ends at `warmup_epochs`; then cosine to 0 at the end of the last epoch, or constant
    ('plateau' is constant here: its factor depends on results and is kept with them).
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
    """Put back what `capture_optimizer` gave; a step counter stays where the optimiser wants it.

    The fused optimisers go through memory in its own order, so each tensor gets the order of its parameter.
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
    """A copy of `values` on the device of `tensor` and in its order of memory, such as channels last."""
    return torch.empty_like(tensor, dtype=values.dtype, requires_grad=False).copy_(values)
