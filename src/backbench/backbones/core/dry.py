"""Check whether weights fit their network and which image sizes it takes, before it uses memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from backbench.backbones.core.build import Build
from backbench.backbones.core.measure import does_not_run, run_once
from backbench.backbones.core.outline import without_memory
from backbench.backbones.core.rebuild import make_random
from backbench.backbones.core.resized import resize_body
from backbench.errors import ModelError


def check_body(
    make: Callable[[], nn.Module], load: Callable[[], object], size: tuple[int, int] | None = None
) -> None:
    """Raise an error if a network can't be loaded with its weights.

    Args:
        make: makes the network and loads its weights strictly; called without memory for tensors.
        load: does everything that is needed to use it; called if `make` gives no answer.
        size: (height, width) of images that it must run on.
    """
    try:
        with without_memory():
            body = make()
            is_fine = size is None or _runs_on(body, size)
    except (ModelError, NotImplementedError) as error:
        if not _wants_values(error):
            raise
        is_fine = False
    if not is_fine:
        load()


def check_size(build: Build, own_size: tuple[int, int], size: int, *, name: str, is_trained: bool) -> None:
    """Raise ModelError if a network can't be made for square images of `size` pixels; see `resized.at_size`."""
    try:
        with without_memory():
            body = make_random(build, 0)
            if not _runs_on(body, own_size):  # then the size is not the cause
                return
            body, _ = resize_body(body, build, size, name=name, is_trained=is_trained)
            run_once(body, (size, size), "meta")
    except Exception as error:  # networks fail in many ways
        if isinstance(error, ModelError) and not _wants_values(error):
            raise
        if not _wants_values(error):
            raise does_not_run(name, (size, size), error) from error


def _runs_on(body: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a network gives features of such images; also False if its control flow depends on values."""
    try:
        shape, _ = run_once(body, size, "meta")
    except Exception:
        return False
    return len(shape) == 2


def _wants_values(error: BaseException | None) -> bool:
    """Whether a constructor failed because it needs values, which do not exist here."""
    while error is not None:
        if isinstance(error, NotImplementedError):
            return True
        error = error.__cause__
    return False
