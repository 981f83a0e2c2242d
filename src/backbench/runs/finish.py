"""The end of every run: evaluate on the test split once and write the record, or record a failure."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from backbench.data.load import Data
from backbench.data.manifest import write_manifest
from backbench.distributed import is_first, num_processes
from backbench.errors import OUT_OF_MEMORY, BackbenchError, TrainingDiverged, is_out_of_memory
from backbench.records import folders
from backbench.records.openings import log_opening
from backbench.records.schema import Cost, Failure, MethodFacts, ModelFacts, Predictions, RunRecord
from backbench.runs.context import RunContext
from backbench.runs.extract import NOTHING_SEEN, SeenCounts
from backbench.runs.identity import Resolved, describe_data, test_groups
from backbench.runtime import describe_environment
from backbench.stats.calibrate import Calibration, calibrate, measure_answered, softmax
from backbench.stats.metric import Metric
from backbench.stats.metrics import per_class_recall, score

if TYPE_CHECKING:
    from backbench.classifier.classifier import Classifier


@dataclass(frozen=True)
class Made:
    """A model made from training and validation images, ready for the test split.

    Args:
        answer: returns (n, classes) logits of the test images and the cost of the run; `finish` calls it once.
        classifier: returns the model to save.
        model, method, fit, warnings: for the record.
        seen: validation and test images in the weights' earlier training data.
        features: (n, dim) of all images of the manifest, if they were extracted.
        calibration: returns the calibrated metrics; None: none, as for a probe.
        history: history of each training phase, for `history.json`.
        cut_after: steps after which the budget ended training; None: it ended by itself.
    """

    answer: Callable[[], tuple[np.ndarray, Cost]]
    classifier: Callable[[], Classifier]
    started: str
    model: ModelFacts
    method: MethodFacts
    fit: dict[str, Metric]
    warnings: tuple[str, ...] = ()
    seen: SeenCounts = NOTHING_SEEN
    features: np.ndarray | None = None
    calibration: Calibration | None = None
    history: dict[str, Any] = field(default_factory=dict)
    cut_after: int | None = None


def calibrate_on(classifier: Classifier, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Set temperature and threshold of the classifier from (n, classes) validation logits."""
    found = calibrate(logits, labels)
    classifier.temperature, classifier.threshold = found.temperature, found.threshold
    return found


def finish(resolved: Resolved, data: Data, context: RunContext, made: Made) -> RunRecord:
    """Evaluate on the test split once and write the run folder; in a process group only the first writes.

    Raises:
        StorageError: the output folder can't be written.
    """
    run_id, manifest = resolved.run_id(data), data.manifest
    if made.cut_after is not None:
        run_id = folders.cut_id(run_id, made.cut_after)
    if is_first():
        log_opening(context.out, manifest.digest, run_id)
    logits, cost = made.answer()
    rows, probabilities = manifest.part_rows("test"), softmax(logits)
    labels, ids = manifest.labels[rows], tuple(manifest.ids[row] for row in rows)
    processes = {"num_processes": str(num_processes())} if resolved.method.trains else {}
    record = RunRecord(
        run_id=run_id,
        status="done",
        started=made.started,
        config=resolved.config,
        data=describe_data(data),
        model=made.model,
        method=made.method,
        metrics=_measure(logits, labels, test_groups(data), made.calibration),
        per_class=per_class_recall(probabilities, labels, manifest.classes),
        fit=made.fit,
        cost=cost,
        environment=describe_environment(context.device) | processes,
        warnings=made.warnings,
        num_val_seen=made.seen.num_val,
        num_test_seen=made.seen.num_test,
    )
    if is_first():
        record, _ = folders.write_run(
            context.out,
            record,
            Predictions(ids, labels, probabilities, manifest.classes),
            lambda path: write_manifest(manifest, path),
            more={"history.json": json.dumps(made.history, indent=1).encode()} if resolved.method.trains else {},
        )
    return record


def _measure(
    logits: np.ndarray, labels: np.ndarray, groups: tuple[str | None, ...] | None, calibration: Calibration | None
) -> dict[str, Metric]:
    """Metrics of uncalibrated, then of calibrated probabilities."""
    metrics = score(softmax(logits), labels, groups)
    if calibration is None:
        return metrics
    probabilities = softmax(logits, calibration.temperature)
    calibrated = score(probabilities, labels)
    metrics |= {f"calibrated_{name}": calibrated[name] for name in ("nll", "ece")}
    return metrics | measure_answered(probabilities, labels, calibration.threshold, groups)


def record_failure(
    resolved: Resolved, data: Data, context: RunContext, error: Exception, model: ModelFacts | None = None
) -> RunRecord:
    """Write the record of a failed run, with the reason."""
    expected = isinstance(error, BackbenchError)
    record = RunRecord(
        run_id=resolved.run_id(data),
        status="diverged" if isinstance(error, TrainingDiverged) else "failed",
        started=folders.utc_now(),
        config=resolved.config,
        data=describe_data(data),
        model=model,
        environment=describe_environment(context.device),
        failure=Failure(
            kind=type(error).__name__,
            message=_describe(error),
            step=error.step if isinstance(error, TrainingDiverged) else None,
            traceback=None if expected else "".join(traceback.format_exception(error)),
        ),
    )
    record, _ = folders.write_run(context.out, record, None, lambda path: write_manifest(data.manifest, path))
    return record


def _describe(error: Exception) -> str:
    if isinstance(error, BackbenchError):
        return str(error)
    return f"{OUT_OF_MEMORY}." if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
