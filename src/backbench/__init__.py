"""backbench: which pretrained vision model, adapted how, is best for your images."""

from __future__ import annotations

from backbench.api import adapt, evaluate, load, open_run, open_study, rank
from backbench.results import Run, Study

__all__ = ["Run", "Study", "adapt", "evaluate", "load", "open_run", "open_study", "rank"]
