"""backbench: which pretrained vision model, adapted how, is best for your images."""

from __future__ import annotations

from backbench.api import adapt, evaluate, load, open_ranking, open_run, rank
from backbench.results import Ranking, Run

__all__ = ["Ranking", "Run", "adapt", "evaluate", "load", "open_ranking", "open_run", "rank"]
