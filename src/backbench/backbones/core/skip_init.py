"""Makes networks without drawing random weights that are replaced anyway."""

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
    """What constructors fill weights with takes most of the time that a network of some size takes to make.

    What is left to torch or timm to draw is given its mean: some draw again until all values lie within bounds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        if func is torch.Tensor.erfinv_:  # of means
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
    """For constructors of networks that are filled afterwards, strictly: weights are constant, or as memory was.

    torch's generator is left as it was, whatever is drawn all the same.
    """
    with torch.random.fork_rng(devices=[]), _Undrawn():
        yield
