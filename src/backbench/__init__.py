"""backbench: which pretrained vision model, adapted how, is best for your images."""

from __future__ import annotations

import sys
from types import ModuleType

from backbench.api import adapt, load, open_run, open_study, rank
from backbench.opened import Run, Study

__all__ = ["Run", "Study", "adapt", "load", "open_run", "open_study", "rank"]


class _Package(ModuleType):
    """This package: what is public keeps its name, though a module of the same name lies in the package's folder.

    Whoever imports the module `backbench.adapt` first has Python set `backbench.adapt` to it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
