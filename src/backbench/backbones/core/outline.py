"""Networks without memory for their tensors, to see whether weights would fit before anything large is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Made = TypeVar("Made")


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks made within have shapes and no values; what is put into them is dropped, once it is seen to fit.

    torch's generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_outline(make: Callable[[], Made]) -> Made | None:
    """What `make` makes, without memory; None if its constructor needs values.

    A mistake in what is asked for gives None too: the real one tells it.
    """
    try:
        with without_memory():
            return make()
    except Exception:  # constructors object to the meta device in many ways
        return None
