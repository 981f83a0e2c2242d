"""Networks without memory for their tensors, to check weights before anything large is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Made = TypeVar("Made")


@contextmanager
def without_memory() -> Iterator[None]:
    """Make networks in this block without values; loaded weights are checked for shape and dropped.

    torch's generators are not changed.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_outline(make: Callable[[], Made]) -> Made | None:
    """What `make` makes, without memory; None if its constructor needs values.

    Wrong options also give None; the real constructor reports them.
    """
    try:
        with without_memory():
            return make()
    except Exception:  # constructors fail on the meta device in many ways
        return None
