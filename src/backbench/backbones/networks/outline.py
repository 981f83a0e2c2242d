"""Networks without memory for their tensors, to see whether weights would fit before anything large is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

Made = TypeVar("Made")


def make_outline(make: Callable[[], Made]) -> Made | None:
    """What `make` makes, on the meta device: names and shapes alone; None if its constructor needs values.

    torch's generators are left as they were. A mistake in what is asked for gives None too: the real one tells it.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Exception:  # constructors object to the meta device in many ways
        return None
