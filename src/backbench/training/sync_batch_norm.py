"""Batch norm over the images of all processes: the statistics of a batch are those of the whole batch.

torch's own SyncBatchNorm runs only on CUDA and replaces modules. This one does not change the network: within the
block, all calls of `F.batch_norm` in training mode sum over the processes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from backbench.config import Recipe
from backbench.distributed import num_processes, sum_tensor
from backbench.errors import ConfigError


def whole_batch_norm(*, is_counted: bool) -> AbstractContextManager[Any]:
    """Within the block, batch norm uses statistics of all processes, which must make the same calls. No-op for
    one.

    Args:
        is_counted: False: this process's images are placeholders that do not count.
    """
    return _WholeBatchNorm(is_counted) if num_processes() > 1 else nullcontext()


def refuse_checkpoints(network: nn.Module, recipe: Recipe) -> None:
    """Raise ConfigError if synchronised batch norm would run again in the backward pass: on a GPU that is
    another thread, which can't synchronise."""
    if num_processes() == 1 or not recipe.gradient_checkpointing:
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm) and any(weight.requires_grad for weight in module.parameters()):
            raise ConfigError(
                "recipe.gradient_checkpointing does not work with trained batch norms on several processes. Turn "
                "one of them off."
            )


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each loss depends on it, so its gradient is the sum of all gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        sum_tensor(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Any) -> Any:
        total = gradients[0].clone()
        sum_tensor(total)
        return total


class _WholeBatchNorm(TorchFunctionMode):
    def __init__(self, is_counted: bool) -> None:
        super().__init__()
        self.is_counted = is_counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return self._normalise(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalise(
        self,
        values: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As `F.batch_norm`: (b, channels, ...) -> the same shape and type."""
        if not training:
            return F.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
        precise, dims = values.float(), [0, *range(2, values.ndim)]
        shape = [1, -1] + [1] * (values.ndim - 2)
        counts = float(self.is_counted)
        count = values.new_tensor([values.numel() / values.shape[1] * counts], dtype=torch.float32)
        sum_tensor(count)
        mean = _sum(precise.sum(dims) * counts) / count
        centred = precise - mean.view(shape)
        variance = _sum(centred.square().sum(dims) * counts) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.detach(), momentum)
                running_var.lerp_(variance.detach() * count / (count - 1).clamp_min(1), momentum)
        normalised = centred * (variance + eps).rsqrt().view(shape)
        if weight is not None and bias is not None:
            normalised = normalised * weight.view(shape) + bias.view(shape)
        return normalised.to(values.dtype)


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total
