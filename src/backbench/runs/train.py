"""A method that trains on images: from its images to a classifier that is ready for the test split."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from backbench.data.load import Data
from backbench.distributed import is_first
from backbench.records.folders import utc_now
from backbench.records.resume import CONFIG, working_folder
from backbench.records.schema import Cost
from backbench.runs.context import RunContext
from backbench.runs.extract import (
    count_seen,
    extract_for,
    feature_task,
    load_backbone,
    warn_of_input,
    warn_of_seen,
)
from backbench.runs.finish import Made, calibrate_on
from backbench.runs.identity import Resolved, with_absolute_paths
from backbench.runs.speeds import remember_speed
from backbench.runtime import keep_memory, peak_memory_bytes
from backbench.stats.calibrate import softmax
from backbench.stats.metrics import fit_figures

if TYPE_CHECKING:
    from backbench.classifier.classifier import Classifier
    from backbench.task import ImageTask, Part, Task
    from backbench.training.checkpoint import Workspace
    from backbench.training.phases import Trained

FROM_RANDOM_WEIGHTS = {"pretrained_on": None, "licence": None, "source": "random weights"}
"""Facts of a backbone whose pretrained weights the method did not use."""


def train(resolved: Resolved, data: Data, context: RunContext) -> Made:
    """Train by a method of kind 'train', from the last checkpoint on if there is one, and calibrate on validation.

    Raises:
        BackbenchError: see `training.train.fit`.
    """
    from backbench.training.checkpoint import Workspace
    from backbench.training.phases import (
        Training,
        describe_cut,
        describe_method,
        refuse_unlearnt,
        training_figures,
    )
    from backbench.training.train import never_stop

    keep_memory()
    started = utc_now()
    workspace = Workspace(working_folder(context.out, resolved.run_id(data)), context.progress)
    if is_first():
        workspace.write_state(CONFIG, with_absolute_paths(resolved.config).model_dump(mode="json"))
    made: list[Cost] = []
    task = _image_task(resolved, data, context, workspace, made)
    doubts = warn_of_input(resolved.config, task.backbone)  # before training moves its weights
    training = Training(workspace, context.deadline, context.stop_signal or never_stop, context.progress)
    trained: Trained = resolved.method.adapt(task, resolved.options, training)
    refuse_unlearnt(trained)
    cost = Cost(
        seconds={"fit": workspace.elapsed_seconds()},
        images_per_second=None,
        num_images=len(data.manifest),
        features_from_cache=bool(made) and made[0].features_from_cache,
    )
    cut = describe_cut(trained)
    if cut is not None:
        context.progress.warn(cut)
    classifier, facts = trained.classifier.to(context.device), task.backbone.facts
    val_logits = _logits(classifier, task.val, resolved, data, context)
    calibration = calibrate_on(classifier, val_logits, task.val.labels)
    if resolved.method.forgets:
        classifier.backbone.facts = facts.model_copy(update=FROM_RANDOM_WEIGHTS)
    figures = training_figures(trained, len(task.train))
    return Made(
        answer=lambda: _answer_test(classifier, resolved, data, context, cost),
        classifier=lambda: classifier,
        started=started,
        model=facts,
        method=describe_method(resolved.method.name, resolved.options, trained),
        fit=figures | fit_figures({"val": (softmax(val_logits), task.val.labels)}),
        warnings=(
            *trained.warnings,
            *_warn_of_no_validation(trained, task),
            *([cut] if cut else []),
            *doubts,
            *warn_of_seen(resolved.model, data),
        ),
        seen=count_seen(resolved.model, data),
        calibration=calibration,
        history={name: asdict(result) for name, result in trained.phases.items()},
        cut_after=sum(result.num_steps for result in trained.phases.values()) if cut else None,
    )


def _answer_test(
    classifier: Classifier, resolved: Resolved, data: Data, context: RunContext, cost: Cost
) -> tuple[np.ndarray, Cost]:
    """The logits of the test images, and `cost` with what they cost."""
    test, clock = _part("test", data), time.perf_counter()
    logits = _logits(classifier, test, resolved, data, context)
    seconds = time.perf_counter() - clock
    remember_speed(
        resolved.model,
        len(test),
        seconds,
        flops=classifier.backbone.facts.flops,
        device=context.device,
        precision=resolved.config.precision,
    )
    update = {
        "seconds": cost.seconds | {"forward": seconds},
        "images_per_second": len(test) / seconds,
        "peak_memory_bytes": peak_memory_bytes(context.device),
    }
    return logits, cost.model_copy(update=update)


def _warn_of_no_validation(trained: Trained, task: ImageTask) -> tuple[str, ...]:
    if len(task.val) or not trained.phases:
        return ()
    return ("there were no validation images, so the last epoch was kept and nothing ended training early",)


def _image_task(
    resolved: Resolved, data: Data, context: RunContext, workspace: Workspace, made: list[Cost]
) -> ImageTask:
    """Append the cost of the features to `made` at each call. Cached features count at their original cost, so the
    order of runs does not matter."""
    from backbench.task import ImageTask

    def features() -> Task:
        extracted = extract_for(resolved, data, context)
        made.append(extracted.cost)
        if len(made) == 1 and extracted.cost.features_from_cache and extracted.cost.images_per_second:
            workspace.credit(extracted.cost.num_images / extracted.cost.images_per_second)
        return feature_task(resolved, data, extracted.values, context.device)

    config = resolved.config
    return ImageTask(
        backbone=load_backbone(resolved.model, config.seed, context.progress),
        read=data.read,
        train=_part("train", data),
        val=_part("val", data),
        class_names=data.manifest.classes,
        seed=config.seed,
        device=context.device,
        precision=config.precision,
        features=features,
        exact_resize=config.exact_resize,
    )


def _part(name: str, data: Data) -> Part:
    from backbench.task import Part

    rows = data.manifest.part_rows(name)
    return Part(rows, data.manifest.labels[rows], tuple(data.manifest.ids[row] for row in rows))


def _logits(classifier: Classifier, part: Part, resolved: Resolved, data: Data, context: RunContext) -> np.ndarray:
    return classifier.logits_for(
        lambda index: data.read(int(part.rows[index])),
        len(part),
        device=context.device,
        precision=resolved.config.precision,
        exact_resize=resolved.config.exact_resize,
        is_shared=True,
        progress=context.progress,
    )
