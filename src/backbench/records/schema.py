"""What came out: `RunRecord` and its parts, and `Predictions`. Frozen, strict, versioned."""

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
"""2: a record carries a checksum of itself."""
FIRST_VERSION = 1
"""Of records that carry none."""
CORRECTED = "record.json does not say what its predictions say:"
"""How the first warning of a record begins whose figures were replaced; see `records.recompute`."""
BUNDLE_SUFFIX = ".bundle"
"""What follows the id of a run in the name of the folder with its model, beside it."""
CUT_BY_BUDGET = "training was cut by the budget"
"""How the warning of a record begins whose training had no time to end."""


def _check_folder_name(run_id: str) -> str:
    if run_id in ("", ".", "..") or not run_id.isprintable() or any(char in run_id for char in "/\\:"):
        raise ValueError("no name of a folder")
    return run_id


RunId = Annotated[str, AfterValidator(_check_folder_name)]
"""Joined to paths, and shown in commands: what leads out of a folder is no run's."""


class DataFacts(Frozen):
    """What was measured on."""

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
    """What a backbone is, resolved from its weights."""

    name: str
    architecture: str
    dim: int = Field(description="feature size")
    preprocess: Preprocess | None = Field(description="None for a control that sees no pixels")
    num_parameters: int
    flops: float | None = Field(description="multiply and add counted as two, for one image")
    weights_digest: str
    weights_bytes: int = 0
    pretrained_on: str | None = Field(description="None: untrained weights")
    licence: str | None = None
    source: str | None = None
    checkpoint: str | None = Field(
        default=None, description="which tensors of a file that wraps them, or holds several sets, were taken"
    )
    is_control: bool = False
    label: str | None = Field(
        default=None, description="a name for people, where `name` is that of the run that trained the weights"
    )

    @property
    def title(self) -> str:
        """The model as tables and pictures call it."""
        return self.label or self.name


class MethodFacts(Frozen):
    """What a method did: all its options, and what it chose on validation."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    choices: dict[str, Any] = Field(default_factory=dict)
    fitted_on: str = "train+val"


class Cost(Frozen):
    """What a run cost. Stages are busy seconds of the threads that did them, so they may overlap."""

    seconds: dict[str, float] = Field(description="read, decode, resize, forward, head")
    images_per_second: float | None = Field(description="extraction, end to end, wall clock")
    num_images: int = 0
    peak_memory_bytes: int | None = None
    features_from_cache: bool = Field(
        default=False, description="extraction seconds are then those measured when the features were made"
    )
    rounding: float | None = Field(
        default=None,
        description="how far features in bf16 or fp16 lie from those in fp32, as a share of how far those of "
        "different images lie from their mean; None in fp32",
    )


class Failure(Frozen):
    """Why a run has no figures; `step`: of training, where that diverged."""

    kind: str
    message: str
    step: int | None = None
    traceback: str | None = None


class RunRecord(Frozen):
    """One finished or failed run, immutable once written; 'diverged': training met what is no finite number."""

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
    num_val_seen: int = Field(default=0, description="validation images that taught the model's weights before")
    num_test_seen: int = Field(
        default=0, description="test images that did: the figures are too good to be ranked"
    )
    failure: Failure | None = None
    checksum: str | None = Field(default=None, description="SHA-256 of all else here; None in old records")

    @property
    def model_name(self) -> str:
        """The model as tables and pictures call it."""
        return self.config.model if self.model is None else self.model.title

    @property
    def is_tempered(self) -> bool:
        """Whether a temperature travels with the model: its answers then are not the plain softmax."""
        return "calibrated_nll" in self.metrics or "calibrated_ece" in self.metrics

    @property
    def temperature(self) -> float:
        """What the logits are divided by before a user gets an answer; 1 where none travels with the model."""
        given = self.method.choices.get("temperature") if self.is_tempered and self.method is not None else None
        return float(given) if given else 1.0

    def served_metric(self, name: str) -> Metric | None:
        """A figure of the answers as a user gets them: after the temperature where the record has it so."""
        return self.metrics.get(f"calibrated_{name}", self.metrics.get(name))


class Predictions:
    """The predictions of one run: what the classifier said of each test image.

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
            raise ValueError("ids, labels, probabilities and classes disagree in length")
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
    """One run folder as it was read: predictions only of finished runs, `history` only of trained ones."""

    record: RunRecord
    predictions: Predictions | None = None
    history: Mapping[str, Any] | None = None
    path: Path | None = None
