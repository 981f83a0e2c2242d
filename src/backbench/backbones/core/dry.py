"""Whether weights fit their network, and at what sizes of images it runs, seen before it takes memory."""

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
    """Raises what keeps a network from being had with its weights.

    Args:
        make: makes it and fills it, strictly; called where networks have no memory.
        load: does all that is done to use it: called where nothing can be said otherwise.
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
    """Raises ModelError where a network can't be had for square images of `size` pixels; see `resized.at_size`."""
    try:
        with without_memory():
            body = make_random(build, 0)
            if not _runs_on(body, own_size):  # then it is not the size
                return
            body, _ = resize_body(body, build, size, name=name, is_trained=is_trained)
            run_once(body, (size, size), "meta")
    except Exception as error:  # networks object in as many ways as there are networks
        if isinstance(error, ModelError) and not _wants_values(error):
            raise
        if not _wants_values(error):
            raise does_not_run(name, (size, size), error) from error


def _runs_on(body: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a network gives features of such images; False also where it looks at values while it runs."""
    try:
        shape, _ = run_once(body, size, "meta")
    except Exception:
        return False
    return len(shape) == 2


def _wants_values(error: BaseException | None) -> bool:
    """Whether a constructor failed as it looked at values, of which there are none."""
    while error is not None:
        if isinstance(error, NotImplementedError):
            return True
        error = error.__cause__
    return False
