"""adapt(config) -> a record and a model to walk away with: probes and training methods, on one path.

A run that trains keeps its state in `<out>/.working/<run_id>` until it is finished, so that the same command, or
`backbench resume`, goes on where it was cut.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbench import ledger
from backbench.catalog import MethodSpec, ModelSpec, find_method, find_model
from backbench.config import RunConfig
from backbench.data.load import Data, load_data
from backbench.data.manifest import write_manifest
from backbench.data.seen import Seen, add_seen, read_seen
from backbench.data.survey import survey
from backbench.engine.distributed import is_first, num_processes, wait_for_all
from backbench.errors import BackbenchError, BudgetExceeded, ConfigError, Interrupted, PeerLost, StorageError
from backbench.evaluate.calibrate import calibrate, measure_answered, softmax
from backbench.evaluate.metrics import fit_figures, per_class_recall, score
from backbench.methods.zeroshot import map_classes, refuse_headless
from backbench.plan import describe_power
from backbench.progress import SILENT, Progress
from backbench.records import Cost, Metric, Predictions, RunRecord
from backbench.run import (
    complete_run,
    count_seen,
    decide_run_id,
    describe_data,
    extract_for,
    features_of,
    find_head_loader,
    record_failure,
    resolve_options,
    test_groups,
    warn_of_seen,
)
from backbench.runtime import describe_environment, keep_memory, peak_memory_bytes
from backbench.unfinished import CONFIG, forget_refused, hold_run, lock_path, with_absolute_paths, working_folder

if TYPE_CHECKING:
    from backbench.engine.classifier import Classifier
    from backbench.engine.gallery import Gallery
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
    with_gallery: bool = True,
    progress: Progress = SILENT,
) -> Adapted:
    """Adapt one model to the images by one method; write record and bundle, or give back what is there already.
    In a process group (`engine.distributed`) all processes call this, and the first one alone writes.

    Args:
        resume: the id that the run must have, or else its data or weights have changed since it was cut.
        with_gallery: put small training and test images into the bundle; see `engine.gallery`.
        deadline: `time.monotonic()` at which training ends with what is best so far.
        stop_signal: see `engine.train.fit`.

    Raises:
        BackbenchError: see `run.run` and `engine.train.fit`.
    """
    resolve_options(method := find_method(config.method.name, "--method"), config.method)
    if method.kind == "probe" and num_processes() > 1:
        raise ConfigError(f"'{method.name}' is solved by one process: leave torchrun away, or choose another.")
    model = find_model(config.model_file or config.model, "--model")
    refuse_model(model, method)
    ledger.prepare_root(out)
    found = survey(config.data, progress)
    for sentence in (*found.sentences(), describe_power(found.num_test)):
        progress.say(sentence)
    data = load_data(config.data, progress, listing=found.listing)
    run_id = decide_run_id(config, data, model)
    if resume is not None and run_id != resume:
        raise ConfigError(
            f"run '{resume}' can't go on: its images, weights or options have changed since. "
            f"Start a new one with backbench adapt; the old state stays in {working_folder(out, resume)}."
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
            with_gallery=with_gallery,
            progress=progress,
        )
    except (Interrupted, StorageError, ConfigError, BudgetExceeded, PeerLost):
        raise
    except Exception as error:
        if is_first():
            record_failure(config, run_id, data, error, None, out=out, device=device)
        raise


def refuse_model(model: ModelSpec, method: MethodSpec) -> None:
    """Raises ConfigError for what runs no network, or has no classifier where the method takes that one."""
    if model.load is None:
        raise ConfigError(f"'{model.name}' is a control: there is no model in it to adapt. Name a backbone.")
    if method.needs_head:
        refuse_headless(model.load_head)


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
    with_gallery: bool = True,
    progress: Progress = SILENT,
) -> Adapted:
    """`adapt` on data that is loaded already. A record without its bundle is made again from what it kept.

    Of two processes with the same run, the second waits for the first and finds what it left.
    """
    limits: Any = {"deadline": deadline, "stop_signal": stop_signal}
    with hold_run(out, run_id, progress=progress, **limits) if is_first() else nullcontext():
        wait_for_all()  # until the first one holds the run
        from backbench.engine.gallery import warn_of_kept

        bundle = out / f"{run_id}.bundle"
        finished = ledger.find_finished(out, run_id)
        if finished is not None and bundle.is_dir():
            if not with_gallery:
                warn_of_kept(bundle, progress)
            adapted = Adapted(finished, out / run_id, bundle)
        else:
            where: Any = {"out": out, "device": device, "progress": progress}
            try:
                adapted = _adapt_alone(config, run_id, data, model, with_gallery=with_gallery, **where, **limits)
            except ConfigError:
                if is_first():
                    forget_refused(out, run_id)
                raise
        if adapted.record.run_id == run_id and is_first():
            shutil.rmtree(working_folder(out, run_id), ignore_errors=True)
            lock_path(out, run_id).unlink(missing_ok=True)  # whoever waits for it finds the finished run
    return adapted


def _adapt_alone(
    config: RunConfig,
    run_id: str,
    data: Data,
    model: ModelSpec,
    *,
    out: Path,
    device: str,
    deadline: float | None,
    stop_signal: Callable[[], int] | None,
    with_gallery: bool,
    progress: Progress,
) -> Adapted:
    where: Any = {"out": out, "device": device, "progress": progress}
    features: np.ndarray | None = None
    if find_method(config.method.name).kind == "probe":
        record, classifier, features = _probe(config, run_id, data, model, **where)
    else:
        limits: Any = {"deadline": deadline, "stop_signal": stop_signal}
        record, classifier = tune_run(config, run_id, data, model, **where, **limits)
    from backbench.engine.bundle import write_bundle

    bundle = out / f"{record.run_id}.bundle"
    if is_first() and not bundle.is_dir():  # another process may have been first
        gallery = _gallery(record, classifier, data, features, **where) if with_gallery else None
        seen = _collect_seen(record, classifier, data, model)
        write_bundle(bundle, classifier, record=record, gallery=gallery, seen=seen)
    return Adapted(record, out / record.run_id, bundle)


def _collect_seen(record: RunRecord, classifier: Classifier, data: Data, model: ModelSpec) -> Seen:
    """The images of training and validation, and those that the backbone had learned from before."""
    from backbench.backbones.networks.weights import digest_weights

    hashes = [data.manifest.hashes[row] for part in ("train", "val") for row in data.manifest.part_rows(part)]
    trained = record.model is None or record.model.weights_digest != digest_weights(classifier.backbone.body)
    before = None if model.seen_file is None else read_seen(Path(model.seen_file))
    return add_seen(hashes, by_backbone=trained, before=before)


def _gallery(
    record: RunRecord,
    classifier: Classifier,
    data: Data,
    features: np.ndarray | None,
    *,
    out: Path,
    device: str,
    progress: Progress,
) -> Gallery | None:
    """The gallery of a bundle; None, with a warning, if it can't be made: the model does not depend on it."""
    from backbench.engine.gallery import make_gallery

    try:
        predictions = ledger.read_predictions(out / record.run_id)
        return make_gallery(classifier, data, predictions, features=features, device=device, progress=progress)
    except BackbenchError as error:
        progress.warn(f"the bundle has no gallery: {error}")
        return None


def _probe(
    config: RunConfig, run_id: str, data: Data, model: ModelSpec, *, out: Path, device: str, progress: Progress
) -> tuple[RunRecord, Classifier, np.ndarray]:
    """The record of a probe, as a ranking makes it, its head on the backbone, and the features of all images."""
    from backbench.engine.classifier import Classifier
    from backbench.engine.head_modules import to_module

    method = find_method(config.method.name)
    options: Any = resolve_options(method, config.method)
    record = ledger.find_finished(out, run_id)
    if record is None and method.needs_head:
        map_classes(data.manifest.classes, model.load_head, options)  # what is wrong is found before the long work
    extracted = extract_for(model, config, data, device=device, progress=progress)
    if record is None:
        record = complete_run(config, run_id, data, extracted, out=out, device=device)
    task = _feature_task(config, data, extracted.values, device)
    fitted = method.adapt(task, options)
    assert extracted.backbone is not None  # controls, which have none, are refused by adapt
    classifier = Classifier(extracted.backbone, to_module(fitted.head), data.manifest.classes)
    if fitted.val_logits is not None:
        _calibrate(classifier, fitted.val_logits, task.val.labels)
    return record, classifier, extracted.values


def _feature_task(config: RunConfig, data: Data, values: np.ndarray, device: str) -> Task:
    from backbench.engine.task import Task

    return Task(
        train=features_of("train", data, values),
        val=features_of("val", data, values),
        class_names=data.manifest.classes,
        seed=config.seed,
        device=device,
        load_head=find_head_loader(config, find_method(config.method.name)),
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
    from backbench.engine.tune import Training, describe_cut, describe_method, refuse_unlearnt, training_figures

    keep_memory()
    started = ledger.utc_now()
    method = find_method(config.method.name)
    options = resolve_options(method, config.method)
    workspace = Workspace(working_folder(out, run_id), progress)
    if is_first():
        workspace.write_state(CONFIG, with_absolute_paths(config).model_dump(mode="json"))
    task = _image_task(config, data, model, device, progress)
    tuned: Tuned = method.adapt(task, options, Training(workspace, deadline, stop_signal or never_stop, progress))
    refuse_unlearnt(tuned)
    fit_seconds = workspace.elapsed_seconds()
    cut = describe_cut(tuned)
    if cut is not None:
        progress.warn(cut)
        run_id = f"{run_id}.cut-{sum(result.num_steps for result in tuned.phases.values())}"
    classifier = tuned.classifier.to(device)
    val_logits = _logits(classifier, task.val, data, config, device, progress)
    _calibrate(classifier, val_logits, task.val.labels)

    if is_first():
        ledger.log_opening(out, data.manifest.digest, run_id)
    test, clock = _part("test", data), time.perf_counter()
    logits = _logits(classifier, test, data, config, device, progress)
    seconds = time.perf_counter() - clock
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
        ),
        environment=describe_environment(device) | {"num_processes": str(num_processes())},
        warnings=(*tuned.warnings, *([cut] if cut else []), *warn_of_seen(model, data)),
        num_val_seen=seen.num_val,
        num_test_seen=seen.num_test,
    )
    if not is_first():
        return record, classifier
    history = {name: asdict(result) for name, result in tuned.phases.items()}
    record, _ = ledger.write_run(
        out,
        record,
        Predictions(test.ids, test.labels, softmax(logits), data.manifest.classes),
        lambda path: write_manifest(data.manifest, path),
        more={"history.json": json.dumps(history, indent=1).encode()},
    )
    return record, classifier


def _measure(logits: np.ndarray, test: Part, data: Data, classifier: Classifier) -> dict[str, Metric]:
    """Figures of the plain probabilities, then of the calibrated ones."""
    metrics = score(softmax(logits), test.labels, test_groups(data))
    calibrated = score(softmax(logits, classifier.temperature), test.labels)
    metrics |= {f"calibrated_{name}": calibrated[name] for name in ("nll", "ece")}
    return metrics | measure_answered(softmax(logits, classifier.temperature), test.labels, classifier.threshold)


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
        is_shared=True,
        progress=progress,
    )


def _calibrate(classifier: Classifier, logits: np.ndarray, labels: np.ndarray) -> None:
    """Temperature and reject threshold from validation; they travel with the model."""
    found = calibrate(logits, labels)
    classifier.temperature, classifier.threshold = found.temperature, found.threshold
