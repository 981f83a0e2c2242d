"""Probes: fit a head to features of a frozen network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backbench.data.load import Data
from backbench.methods.zeroshot import map_classes
from backbench.records.folders import utc_now
from backbench.records.schema import Cost, MethodFacts
from backbench.runs.context import RunContext
from backbench.runs.extract import Extracted, extract_for, feature_task, features_of, load_engine
from backbench.runs.finish import Made, calibrate_on
from backbench.runs.identity import Resolved
from backbench.runtime import peak_memory_bytes
from backbench.stats.calibrate import softmax
from backbench.stats.metric import Metric
from backbench.stats.metrics import fit_figures
from backbench.task import Task

if TYPE_CHECKING:
    from backbench.classifier.classifier import Classifier
    from backbench.heads.heads import Fitted


@dataclass
class Shared:
    """The features of one model, for all its probes: extracted at first use."""

    extracted: Extracted | None = None


def fit_probe(resolved: Resolved, data: Data, context: RunContext, shared: Shared | None) -> Made:
    """Fit the head of a probe to features, which are extracted unless they are in `shared`."""
    method, options = resolved.method, resolved.options
    if shared is None:
        shared = Shared()
        if method.needs_head:  # finds missing classes before the long work
            map_classes(data.manifest.classes, resolved.model.load_head, options)  # type: ignore[arg-type]
    if shared.extracted is None:
        shared.extracted = extract_for(resolved, data, context)
    extracted, started = shared.extracted, utc_now()
    load_engine()
    clock = time.perf_counter()
    task = feature_task(resolved, data, extracted.values, context.device)
    fitted = method.adapt(task, options)
    fit_seconds = time.perf_counter() - clock

    def answer() -> tuple[np.ndarray, Cost]:
        clock = time.perf_counter()
        logits = fitted.head.logits(features_of("test", data, extracted.values).values)
        head_seconds = fit_seconds + time.perf_counter() - clock
        peak = extracted.cost.peak_memory_bytes or peak_memory_bytes(context.device)
        seconds = extracted.cost.seconds | {"head": head_seconds}
        return logits, extracted.cost.model_copy(update={"seconds": seconds, "peak_memory_bytes": peak})

    return Made(
        answer=answer,
        classifier=lambda: _make_classifier(fitted, extracted, data),
        started=started,
        model=extracted.model,
        method=MethodFacts(
            name=method.name,
            options=options.model_dump(mode="json"),
            choices=fitted.choices,
            fitted_on=fitted.fitted_on,
        ),
        fit=_fit_figures(task, fitted),
        warnings=(*fitted.warnings, *extracted.warnings),
        seen=extracted.seen,
        features=extracted.values,
    )


def _fit_figures(task: Task, fitted: Fitted) -> dict[str, Metric]:
    """Metrics of the head on its training data, and on validation of the head fitted only on train."""
    from backbench.heads.heads import LinearHead

    parts = {}
    if isinstance(fitted.head, LinearHead):  # for other heads it is costly or meaningless
        parts["train"] = softmax(fitted.head.logits(task.train.values)), task.train.labels
    if fitted.val_logits is not None:
        parts["val"] = softmax(fitted.val_logits), task.val.labels
    return fit_figures(parts)


def _make_classifier(fitted: Fitted, extracted: Extracted, data: Data) -> Classifier:
    """The head on its backbone, calibrated if there is a validation split."""
    from backbench.classifier.classifier import Classifier
    from backbench.heads.head_modules import to_module

    assert extracted.backbone is not None  # baselines, which have none, were refused before
    classifier = Classifier(extracted.backbone, to_module(fitted.head), data.manifest.classes)
    if fitted.val_logits is not None:
        calibrate_on(classifier, fitted.val_logits, data.manifest.labels[data.manifest.part_rows("val")])
    return classifier
