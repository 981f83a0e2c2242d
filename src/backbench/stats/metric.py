"""A metric with its interval, as stored in records."""

from __future__ import annotations

from pydantic import Field

from backbench.config import Frozen


class Metric(Frozen):
    """A metric with its uncertainty: fractions in 0..1 unless the name says otherwise."""

    value: float
    low: float | None = Field(default=None, description="lower end of the 95 % interval")
    high: float | None = Field(default=None, description="upper end of the 95 % interval")
    n: int = Field(description="number of images (or of classes, for a mean over classes)")
