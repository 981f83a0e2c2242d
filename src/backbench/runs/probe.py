"""One run of a probe, from features to its record; and the record of any run that failed.

A ranking runs many probes on the same images and features: `runs.identity` names each, `runs.extract` makes the
features once, `complete_run` does the rest.
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from backbench.config import RunConfig
from backbench.data.load import Data, load_data
from backbench.data.manifest import write_manifest
from backbench.errors import (
    OUT_OF_MEMORY,
    BackbenchError,
    TrainingDiverged,
    is_out_of_memory,
)
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.records.openings import log_opening
from backbench.records.resume import hold_probe
from backbench.records.schema import Failure, MethodFacts, ModelFacts, Predictions, RunRecord
from backbench.registry import ModelSpec, find_method, find_model, resolve_options
from backbench.runs.extract import Extracted, extract_for, feature_task, features_of, load_engine
from backbench.runs.identity import decide_run_id, describe_data, slug, test_groups
from backbench.runtime import describe_environment, peak_memory_bytes
from backbench.stats.calibrate import softmax
from backbench.stats.metric import Metric
from backbench.stats.metrics import fit_figures, per_class_recall, score
from backbench.task import Task

if TYPE_CHECKING:
    from backbench.heads.heads import Fitted


def run(
    config: RunConfig, *, out: Path = Path("runs"), device: str = "cpu", progress: Progress = SILENT
) -> RunRecord:
    """Carry out one run, or give back its record if it is finished already.

    Raises:
        BackbenchError: the data, the model or the output folder can't be used. A ranking turns errors of a
            model or a method into failure records instead; here they reach the caller.
    """
    data = load_data(config.data, progress)
    model = find_model(config.model_file or config.model)
    run_id = decide_run_id(config, data, model)
    with hold_probe(out, run_id, progress=progress):
        finished = folders.find_finished(out, run_id, progress=progress)
        if finished is not None:
            return finished
        extracted = extract_for(model, config, data, device=device, progress=progress)
        return complete_run(config, run_id, data, extracted, out=out, device=device)[0]


def is_begun(out: Path, model: ModelSpec) -> bool:
    """Whether there are runs of the model, or of one whose name begins alike: finished ones need no weights."""
    return any(out.glob(f"*-{slug(model.name)}-*"))


def complete_run(
    config: RunConfig, run_id: str, data: Data, extracted: Extracted, *, out: Path, device: str
) -> tuple[RunRecord, Fitted]:
    """Fit the method on train and validation, open the test split once, score, write the run folder.

    Returns:
        The record, and the head it is of.

    Raises:
        StorageError: the output folder can't be written.
    """
    started = folders.utc_now()
    method = find_method(config.method.name)
    options = resolve_options(method, config.method)
    manifest = data.manifest
    load_engine()
    clock = time.perf_counter()
    task = feature_task(config, data, extracted.values, device)
    fitted = method.adapt(task, options)

    log_opening(out, manifest.digest, run_id)
    test = features_of("test", data, extracted.values)
    probabilities = softmax(fitted.head.logits(test.values))
    head_seconds = time.perf_counter() - clock

    record = RunRecord(
        run_id=run_id,
        status="done",
        started=started,
        config=config,
        data=describe_data(data),
        model=extracted.model,
        method=MethodFacts(
            name=method.name,
            options=options.model_dump(mode="json"),
            choices=fitted.choices,
            fitted_on=fitted.fitted_on,
        ),
        metrics=score(probabilities, test.labels, test_groups(data)),
        per_class=per_class_recall(probabilities, test.labels, manifest.classes),
        fit=_fit_figures(task, fitted),
        cost=extracted.cost.model_copy(
            update={
                "seconds": extracted.cost.seconds | {"head": head_seconds},
                "peak_memory_bytes": extracted.cost.peak_memory_bytes or peak_memory_bytes(device),
            }
        ),
        environment=describe_environment(device),
        warnings=(*fitted.warnings, *extracted.warnings),
        num_val_seen=extracted.seen.num_val,
        num_test_seen=extracted.seen.num_test,
    )
    predictions = Predictions(test.ids, test.labels, probabilities, manifest.classes)
    record, _ = folders.write_run(out, record, predictions, lambda path: write_manifest(manifest, path))
    return record, fitted


def _fit_figures(task: Task, fitted: Fitted) -> dict[str, Metric]:
    """How well the head does on what it was fitted to, and the one fitted on train alone on validation."""
    from backbench.heads.heads import LinearHead

    parts = {}
    if isinstance(fitted.head, LinearHead):  # of others it is costly, or says nothing
        parts["train"] = softmax(fitted.head.logits(task.train.values)), task.train.labels
    if fitted.val_logits is not None:
        parts["val"] = softmax(fitted.val_logits), task.val.labels
    return fit_figures(parts)


def record_failure(
    config: RunConfig,
    run_id: str,
    data: Data,
    error: Exception,
    model: ModelFacts | None,
    *,
    out: Path,
    device: str,
) -> RunRecord:
    """Write the record of a run that has no figures, with the reason."""
    expected = isinstance(error, BackbenchError)
    record = RunRecord(
        run_id=run_id,
        status="diverged" if isinstance(error, TrainingDiverged) else "failed",
        started=folders.utc_now(),
        config=config,
        data=describe_data(data),
        model=model,
        environment=describe_environment(device),
        failure=Failure(
            kind=type(error).__name__,
            message=_describe(error),
            step=error.step if isinstance(error, TrainingDiverged) else None,
            traceback=None if expected else "".join(traceback.format_exception(error)),
        ),
    )
    record, _ = folders.write_run(out, record, None, lambda path: write_manifest(data.manifest, path))
    return record


def _describe(error: Exception) -> str:
    if isinstance(error, BackbenchError):
        return str(error)
    return f"{OUT_OF_MEMORY}." if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
