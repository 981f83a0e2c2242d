"""tune_run(config, ...): one run of a method that trains, from its images to its record and classifier.

`adapt` carries it out, and makes the bundle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbench.config import RunConfig
from backbench.data.load import Data
from backbench.data.manifest import write_manifest
from backbench.distributed import is_first, num_processes
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.records.openings import log_opening
from backbench.records.resume import CONFIG, working_folder
from backbench.records.schema import Cost, Predictions, RunRecord
from backbench.registry import ModelSpec, find_method, resolve_options
from backbench.runs.extract import (
    count_seen,
    extract_for,
    feature_task,
    load_backbone,
    warn_of_input,
    warn_of_seen,
)
from backbench.runs.identity import describe_data, test_groups, with_absolute_paths
from backbench.runs.speeds import remember_speed
from backbench.runtime import describe_environment, keep_memory, peak_memory_bytes
from backbench.stats.calibrate import calibrate, measure_answered, softmax
from backbench.stats.metric import Metric
from backbench.stats.metrics import fit_figures, per_class_recall, score

if TYPE_CHECKING:
    from backbench.classifier.classifier import Classifier
    from backbench.task import ImageTask, Part, Task
    from backbench.training.checkpoint import Workspace
    from backbench.training.tune import Tuned


def tune_run(
    config: RunConfig,
    run_id: str,
    data: Data,
    model: ModelSpec,
    *,
    out: Path,
    device: str,
    deadline: float | None = None,
    stop_signal: Callable[[], int] | None = None,
    progress: Progress = SILENT,
) -> tuple[RunRecord, Classifier]:
    """Train by a method of kind 'tune', calibrate on validation, open the test split once, write the record."""
    from backbench.training.checkpoint import Workspace
    from backbench.training.train import never_stop
    from backbench.training.tune import Training, describe_cut, describe_method, refuse_unlearnt, training_figures

    keep_memory()
    started = folders.utc_now()
    method = find_method(config.method.name)
    options = resolve_options(method, config.method)
    workspace = Workspace(working_folder(out, run_id), progress)
    if is_first():
        workspace.write_state(CONFIG, with_absolute_paths(config).model_dump(mode="json"))
    made: list[Cost] = []
    task = _image_task(config, data, model, device, deadline, progress, workspace, made)
    doubts = warn_of_input(config, task.backbone)  # before training moves its weights
    tuned: Tuned = method.adapt(task, options, Training(workspace, deadline, stop_signal or never_stop, progress))
    refuse_unlearnt(tuned)
    fit_seconds = workspace.elapsed_seconds()
    cut = describe_cut(tuned)
    if cut is not None:
        progress.warn(cut)
        run_id = folders.cut_id(run_id, sum(result.num_steps for result in tuned.phases.values()))
    classifier = tuned.classifier.to(device)
    val_logits = _logits(classifier, task.val, data, config, device, progress)
    calibrate_on(classifier, val_logits, task.val.labels)

    if is_first():
        log_opening(out, data.manifest.digest, run_id)
    test, clock = _part("test", data), time.perf_counter()
    logits = _logits(classifier, test, data, config, device, progress)
    seconds = time.perf_counter() - clock
    remember_speed(
        model, len(test), seconds, flops=task.backbone.facts.flops, device=device, precision=config.precision
    )
    seen = count_seen(model, data)
    record = RunRecord(
        run_id=run_id,
        status="done",
        started=started,
        config=config,
        data=describe_data(data),
        model=task.backbone.facts,
        method=describe_method(config.method.name, options, tuned),
        metrics=_measure(logits, test, data, classifier),
        per_class=per_class_recall(softmax(logits), test.labels, data.manifest.classes),
        fit=training_figures(tuned, len(task.train))
        | fit_figures({"val": (softmax(val_logits), task.val.labels)}),
        cost=Cost(
            seconds={"fit": fit_seconds, "forward": seconds},
            images_per_second=len(test) / seconds,
            num_images=len(data.manifest),
            peak_memory_bytes=peak_memory_bytes(device),
            features_from_cache=bool(made) and made[0].features_from_cache,
        ),
        environment=describe_environment(device) | {"num_processes": str(num_processes())},
        warnings=(
            *tuned.warnings,
            *_warn_of_no_validation(tuned, task),
            *([cut] if cut else []),
            *doubts,
            *warn_of_seen(model, data),
        ),
        num_val_seen=seen.num_val,
        num_test_seen=seen.num_test,
    )
    if not is_first():
        return record, classifier
    history = {name: asdict(result) for name, result in tuned.phases.items()}
    record, _ = folders.write_run(
        out,
        record,
        Predictions(test.ids, test.labels, softmax(logits), data.manifest.classes),
        lambda path: write_manifest(data.manifest, path),
        more={"history.json": json.dumps(history, indent=1).encode()},
    )
    return record, classifier


def _warn_of_no_validation(tuned: Tuned, task: ImageTask) -> tuple[str, ...]:
    if len(task.val) or not tuned.phases:
        return ()
    return ("there were no validation images, so the last epoch was kept and nothing ended training early",)


def _measure(logits: np.ndarray, test: Part, data: Data, classifier: Classifier) -> dict[str, Metric]:
    """Figures of the plain probabilities, then of the calibrated ones."""
    metrics = score(softmax(logits), test.labels, test_groups(data))
    calibrated = score(softmax(logits, classifier.temperature), test.labels)
    metrics |= {f"calibrated_{name}": calibrated[name] for name in ("nll", "ece")}
    probabilities = softmax(logits, classifier.temperature)
    return metrics | measure_answered(probabilities, test.labels, classifier.threshold, test_groups(data))


def _image_task(
    config: RunConfig,
    data: Data,
    model: ModelSpec,
    device: str,
    deadline: float | None,
    progress: Progress,
    workspace: Workspace,
    made: list[Cost],
) -> ImageTask:
    """`made` is given what the features cost, each time they are asked for. Those from the cache count as when
    they were made, or the order of runs would decide which method is cheap."""
    from backbench.task import ImageTask

    def features() -> Task:
        extracted = extract_for(model, config, data, device=device, deadline=deadline, progress=progress)
        made.append(extracted.cost)
        if len(made) == 1 and extracted.cost.features_from_cache and extracted.cost.images_per_second:
            workspace.credit(extracted.cost.num_images / extracted.cost.images_per_second)
        return feature_task(config, data, extracted.values, device)

    return ImageTask(
        backbone=load_backbone(model, config.seed, progress),
        read=data.read,
        train=_part("train", data),
        val=_part("val", data),
        class_names=data.manifest.classes,
        seed=config.seed,
        device=device,
        precision=config.precision,
        features=features,
        exact_resize=config.exact_resize,
    )


def _part(name: str, data: Data) -> Part:
    from backbench.task import Part

    rows = data.manifest.part_rows(name)
    return Part(rows, data.manifest.labels[rows], tuple(data.manifest.ids[row] for row in rows))


def _logits(
    classifier: Classifier, part: Part, data: Data, config: RunConfig, device: str, progress: Progress
) -> np.ndarray:
    return classifier.logits_for(
        lambda index: data.read(int(part.rows[index])),
        len(part),
        device=device,
        precision=config.precision,
        exact_resize=config.exact_resize,
        is_shared=True,
        progress=progress,
    )


def calibrate_on(classifier: Classifier, logits: np.ndarray, labels: np.ndarray) -> None:
    """Put temperature and reject threshold into the classifier, from (n, classes) logits of validation."""
    found = calibrate(logits, labels)
    classifier.temperature, classifier.threshold = found.temperature, found.threshold
