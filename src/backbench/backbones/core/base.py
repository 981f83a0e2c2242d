"""`Backbone`: turns a batch of normalised images into features."""

from __future__ import annotations

import torch
from torch import nn

from backbench.backbones.core.build import Build
from backbench.config import Preprocess
from backbench.records.schema import ModelFacts


class Backbone(nn.Module):
    """A network without its classification head, with its facts.

    Args:
        body: (batch, 3, height, width) float -> (batch, dim) float.
        facts: name, dim, preprocessing, digest of the weights, licence, ...
        build: how to rebuild the body without a download; None: it can't be saved in a bundle.

    `forward` takes images normalised by `facts.preprocess`. A backbone is loaded in eval mode.
    """

    def __init__(self, body: nn.Module, facts: ModelFacts, build: Build | None = None) -> None:
        super().__init__()
        self.body = body
        self.facts = facts
        self.build = build
        self.eval()

    @property
    def preprocess(self) -> Preprocess:
        """How images must be prepared; every backbone has one."""
        assert self.facts.preprocess is not None  # only shortcut baselines lack it, and they are not a Backbone
        return self.facts.preprocess

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.body(batch)
