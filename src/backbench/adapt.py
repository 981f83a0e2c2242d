"""adapt(config) -> a record and a model to walk away with: probes and training methods, on one path.

A run that trains keeps its state in `<out>/.working/<run_id>` until it is finished, so that the same command, or
`backbench resume`, goes on where it was cut.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbench import ledger
from backbench.catalog import ModelSpec, find_method, find_model, find_source
from backbench.config import Frozen, RunConfig
from backbench.data.load import Data, load_data
from backbench.data.manifest import write_manifest
from backbench.errors import ConfigError, Interrupted, StorageError, nearest
from backbench.evaluate.calibrate import calibrate, softmax
from backbench.evaluate.metrics import per_class_recall, score
from backbench.progress import SILENT, Progress
from backbench.records import Cost, MethodFacts, Metric, Predictions, RunRecord
from backbench.run import (
    complete_run,
    decide_run_id,
    describe_data,
    extract_for,
    features_of,
    record_failure,
    resolve_options,
    test_groups,
)
from backbench.runtime import describe_environment, peak_memory_bytes

if TYPE_CHECKING:
    from backbench.engine.classifier import Classifier
    from backbench.engine.task import ImageTask, Part, Task
    from backbench.engine.tune import Tuned


@dataclass(frozen=True)
class Adapted:
    """What `adapt` leaves: the record, its folder, and the folder of the model (None: nothing to keep)."""

    record: RunRecord
    run: Path
    bundle: Path


def adapt(
    config: RunConfig,
    *,
    out: Path = Path("runs"),
    device: str = "cpu",
    deadline: float | None = None,
    stop_signal: Callable[[], int] | None = None,
    resume: str | None = None,
    progress: Progress = SILENT,
) -> Adapted:
    """Adapt one model to the images by one method; write record and bundle, or give back what is there already.

    Args:
        resume: the id that the run must have, or else its data or weights have changed since it was cut.
        deadline: `time.monotonic()` at which training ends with what is best so far.
        stop_signal: see `engine.train.fit`.

    Raises:
        BackbenchError: see `run.run` and `engine.train.fit`.
    """
    method = find_method(config.method.name)
    resolve_options(method, config.method)
    model = find_model(config.model_file or config.model)
    if model.load is None:
        raise ConfigError(f"'{model.name}' is a control: there is no model in it to adapt. Name a backbone.")
    ledger.prepare_root(out)
    data = load_data(config.data, progress)
    run_id = decide_run_id(config, data, model)
    if resume is not None and run_id != resume:
        raise ConfigError(
            f"run '{resume}' can't go on: its images, weights or options have changed since. "
            f"Start a new one with backbench adapt; the old state stays in {out / '.working' / resume}."
        )
    try:
        return adapt_run(
            config,
            run_id,
            data,
            model,
            out=out,
            device=device,
            deadline=deadline,
            stop_signal=stop_signal,
            progress=progress,
        )
    except (Interrupted, StorageError, ConfigError):
        raise
    except Exception as error:
        record_failure(config, run_id, data, error, None, out=out, device=device)
        raise


def adapt_run(
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
) -> Adapted:
    """`adapt` on data that is loaded already. A record without its bundle is made again from what it kept."""
    bundle = out / f"{run_id}.bundle"
    finished = ledger.find_finished(out, run_id)
    if finished is not None and bundle.is_dir():
        return Adapted(finished, out / run_id, bundle)
    where: Any = {"out": out, "device": device, "progress": progress}
    if find_method(config.method.name).kind == "probe":
        record, classifier = _probe(config, run_id, data, model, **where)
    else:
        limits: Any = {"deadline": deadline, "stop_signal": stop_signal}
        record, classifier = tune_run(config, run_id, data, model, **where, **limits)
    from backbench.engine.bundle import write_bundle

    bundle = out / f"{record.run_id}.bundle"
    if not bundle.is_dir():  # another process may have been first
        write_bundle(bundle, classifier, record=record)
    if record.run_id == run_id:
        shutil.rmtree(_working_folder(out, run_id), ignore_errors=True)
    return Adapted(record, out / record.run_id, bundle)


def _working_folder(out: Path, run_id: str) -> Path:
    return out / ".working" / run_id


def _probe(
    config: RunConfig, run_id: str, data: Data, model: ModelSpec, *, out: Path, device: str, progress: Progress
) -> tuple[RunRecord, Classifier]:
    """The record of a probe, as a ranking makes it, and its head on the backbone."""
    from backbench.engine.classifier import Classifier
    from backbench.engine.head_modules import to_module

    extracted = extract_for(model, config, data, device=device, progress=progress)
    record = ledger.find_finished(out, run_id)
    if record is None:
        record = complete_run(config, run_id, data, extracted, out=out, device=device)
    method = find_method(config.method.name)
    task = _feature_task(config, data, extracted.values, device)
    fitted = method.adapt(task, resolve_options(method, config.method))
    assert model.load is not None  # checked by adapt
    classifier = Classifier(model.load(config.seed), to_module(fitted.head), data.manifest.classes)
    if fitted.val_logits is not None:
        _calibrate(classifier, fitted.val_logits, task.val.labels)
    return record, classifier


def _feature_task(config: RunConfig, data: Data, values: np.ndarray, device: str) -> Task:
    from backbench.engine.task import Task

    return Task(
        train=features_of("train", data, values),
        val=features_of("val", data, values),
        class_names=data.manifest.classes,
        seed=config.seed,
        device=device,
    )


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
    """Train by a method of kind 'tune', calibrate on validation, open the test part once, write the record."""
    from backbench.engine.checkpoint import Workspace
    from backbench.engine.train import never_stop
    from backbench.engine.tune import Training

    started, clock = ledger.utc_now(), time.perf_counter()
    method = find_method(config.method.name)
    options = resolve_options(method, config.method)
    workspace = Workspace(_working_folder(out, run_id), progress)
    workspace.write_state("config", _with_absolute_paths(config).model_dump(mode="json"))
    task = _image_task(config, data, model, device, progress)
    tuned: Tuned = method.adapt(task, options, Training(workspace, deadline, stop_signal or never_stop, progress))
    fit_seconds = time.perf_counter() - clock
    cut = _describe_cut(tuned)
    if cut is not None:
        run_id = f"{run_id}.cut-{sum(result.num_steps for result in tuned.phases.values())}"
    classifier = tuned.classifier.to(device)
    _calibrate(classifier, _logits(classifier, task.val, data, config, device, progress), task.val.labels)

    ledger.log_opening(out, data.manifest.digest, run_id)
    test, clock = _part("test", data), time.perf_counter()
    logits = _logits(classifier, test, data, config, device, progress)
    seconds = time.perf_counter() - clock
    record = RunRecord(
        run_id=run_id,
        status="done",
        started=started,
        config=config,
        data=describe_data(data),
        model=task.backbone.facts,
        method=_describe_method(config.method.name, options, tuned),
        metrics=_measure(logits, test, data, classifier),
        per_class=per_class_recall(softmax(logits), test.labels, data.manifest.classes),
        cost=Cost(
            seconds={"fit": fit_seconds, "forward": seconds},
            images_per_second=len(test) / seconds,
            num_images=len(data.manifest),
            peak_memory_bytes=peak_memory_bytes(device),
        ),
        environment=describe_environment(device),
        warnings=tuned.warnings if cut is None else (*tuned.warnings, cut),
    )
    history = {name: asdict(result) for name, result in tuned.phases.items()}
    record, _ = ledger.write_run(
        out,
        record,
        Predictions(test.ids, test.labels, softmax(logits), data.manifest.classes),
        lambda path: write_manifest(data.manifest, path),
        more={"history.json": json.dumps(history, indent=1).encode()},
    )
    return record, classifier


def _describe_cut(tuned: Tuned) -> str | None:
    """What to say of training that the budget ended; None if it ended by itself.

    Such a run has an id of its own and its state is kept: the same command with more time goes on from there.
    """
    for name, result in tuned.phases.items():
        if result.ended == "budget":
            epochs = "1 whole epoch" if len(result.history) == 1 else f"{len(result.history)} whole epochs"
            return (
                f"training was cut by the budget in phase '{name}' after {epochs}: this is the best by then; the "
                f"same command with a larger --budget goes on from there"
            )
    return None


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """So that the run can be resumed from any folder."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).resolve()) if path is not None and os.path.exists(path) else path  # noqa: PTH110

    is_named = find_source(config.data.source) is not None
    source = config.data.source if is_named else absolute(config.data.source)
    data = config.data.model_copy(update={"source": source, "split": absolute(config.data.split)})
    return config.model_copy(update={"data": data, "model_file": absolute(config.model_file)})


def _describe_method(name: str, options: Frozen, tuned: Tuned) -> MethodFacts:
    calibration = {"temperature": tuned.classifier.temperature, "threshold": tuned.classifier.threshold}
    best = {f"{phase}_best_epoch": result.best_epoch for phase, result in tuned.phases.items()}
    return MethodFacts(
        name=name,
        options=options.model_dump(mode="json"),
        choices=tuned.choices | calibration | best,
        fitted_on="train",
    )


def _measure(logits: np.ndarray, test: Part, data: Data, classifier: Classifier) -> dict[str, Metric]:
    """Figures of the plain probabilities, then of the calibrated ones."""
    metrics = score(softmax(logits), test.labels, test_groups(data))
    calibrated = score(softmax(logits, classifier.temperature), test.labels)
    metrics |= {f"calibrated_{name}": calibrated[name] for name in ("nll", "ece")}
    return metrics | _coverage(logits, test.labels, classifier)


def _image_task(config: RunConfig, data: Data, model: ModelSpec, device: str, progress: Progress) -> ImageTask:
    from backbench.engine.task import ImageTask

    assert model.load is not None  # checked by the callers
    return ImageTask(
        backbone=model.load(config.seed),
        read=data.read,
        train=_part("train", data),
        val=_part("val", data),
        class_names=data.manifest.classes,
        seed=config.seed,
        device=device,
        precision=config.precision,
        features=lambda: _feature_task(
            config, data, extract_for(model, config, data, device=device, progress=progress).values, device
        ),
    )


def _part(name: str, data: Data) -> Part:
    from backbench.engine.task import Part

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
        progress=progress,
    )


def _calibrate(classifier: Classifier, logits: np.ndarray, labels: np.ndarray) -> None:
    """Temperature and reject threshold from validation; they travel with the model."""
    found = calibrate(logits, labels)
    classifier.temperature, classifier.threshold = found.temperature, found.threshold


def _coverage(logits: np.ndarray, labels: np.ndarray, classifier: Classifier) -> dict[str, Metric]:
    """How much of test is answered above the threshold, and how often those answers are right."""
    probabilities = softmax(logits, classifier.temperature)
    answered = probabilities.max(axis=1) >= classifier.threshold
    right = (probabilities.argmax(axis=1) == labels)[answered]
    found = {"coverage": Metric(value=float(answered.mean()), n=len(labels))}
    if len(right):
        found["answered_accuracy"] = Metric(value=float(right.mean()), n=len(right))
    return found


def find_unfinished(out: Path, given: str) -> tuple[str, RunConfig]:
    """Id and config of the run that was cut whose id is, or begins with, `given`.

    Raises:
        ConfigError: there is none, several, or it is finished.
    """
    folder = out / ".working"
    names = sorted(path.parent.name for path in folder.glob("*/config.json"))
    matching = [name for name in names if name == given] or [name for name in names if name.startswith(given)]
    if len(matching) == 1:
        path = folder / matching[0] / "config.json"
        try:
            return matching[0], RunConfig.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} is damaged: start the run anew with `backbench adapt`.") from error
    if matching:
        few = ", ".join(matching[:5])
        raise ConfigError(f"'{given}' is the beginning of {len(matching)} unfinished runs: {few}.")
    if (out / given / ledger.RECORD_FILE).is_file():
        raise ConfigError(f"run '{given}' is finished: there is nothing to resume. See: backbench show {given}")
    close = nearest(given, names)
    hint = f"Did you mean {close[0]}?" if close else f"Unfinished runs in {out}: {', '.join(names[:5]) or 'none'}."
    raise ConfigError(f"no unfinished run '{given}'. {hint}")
