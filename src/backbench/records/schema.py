"""Results of a run: `RunRecord` and its parts, and `Predictions`. Frozen, strict, versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from backbench.config import Frozen, Preprocess, RunConfig
from backbench.stats.metric import Metric

SCHEMA_VERSION = 2
"""Version 2: a record has a checksum of itself."""
FIRST_VERSION = 1
"""The version of records without one."""
CORRECTED = "record.json disagrees with its predictions:"
"""Start of the first warning of a record whose metrics were replaced; see `records.recompute`."""
BUNDLE_SUFFIX = ".bundle"
"""Suffix of the folder with a run's model."""
CUT_BY_BUDGET = "training was cut by the budget"
"""Start of the warning of a record whose training was ended by the budget."""


def _check_folder_name(run_id: str) -> str:
    if run_id in ("", ".", "..") or not run_id.isprintable() or any(char in run_id for char in "/\\:"):
        raise ValueError("not a folder name")
    return run_id


RunId = Annotated[str, AfterValidator(_check_folder_name)]
"""A run id, which is joined to paths and shown in commands: must not lead out of a folder."""


class DataFacts(Frozen):
    """The data of a run."""

    name: str
    classes: tuple[str, ...]
    num_train: int
    num_val: int
    num_test: int
    manifest_digest: str
    image_digest: str
    num_skipped: int = 0
    num_groups: int | None = None
    common_sizes: dict[str, tuple[int, int, int]] = Field(
        default_factory=dict, description="split -> (width, height, images) of its most common size, in pixels"
    )


class ModelFacts(Frozen):
    """Facts of a backbone, from its weights."""

    name: str
    architecture: str
    dim: int = Field(description="feature size")
    preprocess: Preprocess | None = Field(description="None for a baseline that sees no pixels")
    num_parameters: int
    flops: float | None = Field(description="multiply and add counted as two, for one image")
    weights_digest: str
    weights_bytes: int = 0
    pretrained_on: str | None = Field(description="None: untrained weights")
    licence: str | None = None
    source: str | None = None
    checkpoint: str | None = Field(
        default=None, description="the tensors used from a file with wrappers or several sets of weights"
    )
    is_control: bool = False
    label: str | None = Field(
        default=None, description="display name, if `name` is that of the run that trained the weights"
    )

    @property
    def title(self) -> str:
        """The name of the model in tables and figures."""
        return self.label or self.name


class MethodFacts(Frozen):
    """A method with all its options and its choices on validation."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    choices: dict[str, Any] = Field(default_factory=dict)
    fitted_on: str = "train+val"


class Cost(Frozen):
    """The cost of a run. Stages are summed over threads, so they may overlap."""

    seconds: dict[str, float] = Field(description="read, decode, resize, forward, head")
    images_per_second: float | None = Field(description="extraction, end to end, wall clock")
    num_images: int = 0
    peak_memory_bytes: int | None = None
    features_from_cache: bool = Field(
        default=False, description="True: extraction seconds are those of the original extraction"
    )
    rounding: float | None = Field(
        default=None,
        description="distance of features in bf16 or fp16 from those in fp32, as a share of the spread of "
        "features; None in fp32",
    )


class Failure(Frozen):
    """The reason why a run has no metrics; `step`: the step at which training diverged."""

    kind: str
    message: str
    step: int | None = None
    traceback: str | None = None


class RunRecord(Frozen):
    """One finished or failed run, immutable once written; 'diverged': training met a non-finite value."""

    schema_version: int = SCHEMA_VERSION
    run_id: RunId
    status: Literal["done", "failed", "diverged"]
    started: str = Field(description="UTC, ISO 8601")
    config: RunConfig
    data: DataFacts
    model: ModelFacts | None = None
    method: MethodFacts | None = None
    metrics: dict[str, Metric] = Field(default_factory=dict)
    per_class: dict[str, Metric] = Field(default_factory=dict, description="recall of each class, by name")
    fit: dict[str, Metric] = Field(
        default_factory=dict, description="train_accuracy, train_nll, val_accuracy, val_nll: for curves and tables"
    )
    cost: Cost | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of the files beside record.json")
    warnings: tuple[str, ...] = ()
    num_val_seen: int = Field(
        default=0, description="validation images in the training data of the model's weights"
    )
    num_test_seen: int = Field(
        default=0,
        description="test images in that training data (contamination): the metrics are too good to be ranked",
    )
    failure: Failure | None = None
    checksum: str | None = Field(default=None, description="SHA-256 of all other fields; None in old records")

    @property
    def model_name(self) -> str:
        """The name of the model in tables and figures."""
        return self.config.model if self.model is None else self.model.title

    @property
    def is_tempered(self) -> bool:
        """Whether the model has a temperature: its probabilities then differ from the plain softmax."""
        return "calibrated_nll" in self.metrics or "calibrated_ece" in self.metrics

    @property
    def temperature(self) -> float:
        """The divisor of the logits in predictions; 1 if the model has no temperature."""
        given = self.method.choices.get("temperature") if self.is_tempered and self.method is not None else None
        return float(given) if given else 1.0

    def served_metric(self, name: str) -> Metric | None:
        """A metric of the predictions that users get: calibrated if the record has that."""
        return self.metrics.get(f"calibrated_{name}", self.metrics.get(name))


class Predictions:
    """The predictions of one run on all test images.

    Args:
        ids: n sample ids, in manifest order.
        labels: (n,) int, the true class as an index into `classes`.
        probabilities: (n, classes) float32, rows sum to 1.
        classes: class names; the columns of `probabilities`.
    """

    def __init__(
        self, ids: tuple[str, ...], labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]
    ) -> None:
        if probabilities.shape != (len(ids), len(classes)) or labels.shape != (len(ids),):
            raise ValueError("ids, labels, probabilities and classes differ in length")
        self.ids = ids
        self.labels = labels
        self.probabilities = probabilities
        self.classes = classes

    @cached_property
    def correct(self) -> np.ndarray:
        """(n,) bool: the most probable class is the true one."""
        return self.probabilities.argmax(axis=1) == self.labels


@dataclass(frozen=True, eq=False)
class StoredRun:
    """One run folder in memory: predictions only of finished runs, `history` only of trained ones."""

    record: RunRecord
    predictions: Predictions | None = None
    history: Mapping[str, Any] | None = None
    path: Path | None = None
