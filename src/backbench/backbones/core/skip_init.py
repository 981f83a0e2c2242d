"""Make networks without random initial weights, which would be replaced anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    {
        init.uniform_,
        init.normal_,
        init.trunc_normal_,
        init.xavier_uniform_,
        init.xavier_normal_,
        init.kaiming_uniform_,
        init.kaiming_normal_,
    }
)


class _Undrawn(TorchFunctionMode):
    """Skips random initialisation, which takes most of the time of making a large network.

    Random values get their mean, because some initialisers draw again until all values are within bounds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        if func is torch.Tensor.erfinv_:  # inverse error function of means
            return args[0]
        if func is torch.Tensor.normal_:
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("mean", 0.0))
        if func is torch.Tensor.uniform_:
            low = args[1] if len(args) > 1 else kwargs.get("from", 0.0)
            high = args[2] if len(args) > 2 else kwargs.get("to", 1.0)
            return args[0].fill_((low + high) / 2)
        return func(*args, **kwargs)


@contextmanager
def undrawn() -> Iterator[None]:
    """Skip initialisation of networks whose weights are all loaded later: weights are constant or undefined.

    torch's generator is not changed.
    """
    with torch.random.fork_rng(devices=[]), _Undrawn():
        yield
