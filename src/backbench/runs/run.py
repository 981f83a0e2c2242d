"""adapt(config) -> a record and a model to walk away with: probes and training methods, on one path.

A run that trains keeps its state in `<out>/.working/<run_id>` until it is finished, so that the same command, or
`backbench resume`, goes on where it was cut.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbench.backbones.faults import find_faults, refuse_faulty
from backbench.config import RunConfig
from backbench.data.load import Data, load_data
from backbench.data.survey import survey
from backbench.data.trained_on import Seen, add_seen, read_seen
from backbench.distributed import is_first, num_processes, wait_for_all
from backbench.errors import BackbenchError, BudgetExceeded, ConfigError, Interrupted, PeerLost, StorageError
from backbench.methods.zeroshot import map_classes, refuse_headless
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.records.commands import bundle_of
from backbench.records.resume import forget_refused, hold_run, lock_path, working_folder
from backbench.records.schema import RunRecord
from backbench.registry import MethodSpec, ModelSpec, find_method, find_model, resolve_options
from backbench.runs.estimate import describe_power
from backbench.runs.extract import Extracted, extract_for, feature_task
from backbench.runs.identity import decide_run_id
from backbench.runs.probe import complete_run, is_begun, record_failure
from backbench.runs.train import calibrate_on, tune_run

if TYPE_CHECKING:
    from backbench.classifier.classifier import Classifier
    from backbench.classifier.gallery import Gallery
    from backbench.heads.heads import Fitted


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
    In a process group (`distributed`) all processes call this, and the first one alone writes.

    Args:
        resume: the id that the run must have, or else its data or weights have changed since it was cut.
        with_gallery: put small training and test images into the bundle; see `classifier.gallery`.
        deadline: `time.monotonic()` at which training ends with what is best so far; features must be there by
            then.
        stop_signal: see `training.train.fit`.

    Raises:
        BackbenchError: see `runs.rank.rank` and `training.train.fit`.
    """
    resolve_options(method := find_method(config.method.name, "--method"), config.method)
    if method.kind == "probe" and num_processes() > 1:
        raise ConfigError(f"'{method.name}' is solved by one process: leave torchrun away, or choose another.")
    model = find_model(config.model_file or config.model, "--model")
    refuse_model(model, method)
    if not is_begun(out, model):
        refuse_faulty(find_faults([model]), 1)
    folders.prepare_root(out)
    found = survey(config.data, progress)
    for sentence in (*found.sentences(), describe_power(found.num_test)):
        progress.say(sentence)
    data = load_data(config.data, progress, listing=found.listing)
    run_id = decide_run_id(config, data, model)
    if resume is not None and run_id != resume:
        if (out / resume / folders.RECORD_FILE).is_file():
            raise ConfigError(
                f"the model of run '{resume}' can't be made: its images, weights or options, or the rules of "
                "backbench, have changed since. Rank or adapt once more, and keep that run."
            )
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


def keep_run(
    run: Path,
    *,
    device: str = "cpu",
    stop_signal: Callable[[], int] | None = None,
    with_gallery: bool = True,
    progress: Progress = SILENT,
) -> Adapted:
    """The model of a finished run, made from what the run left; no test image is looked at again.

    Args:
        run: its folder; the bundle is written beside it, unless it lies there.

    Raises:
        ConfigError: it failed or is a control, or its images, weights or options have changed since.
        BackbenchError: see `adapt`.
    Cost: none for a run that has its bundle. Of a probe, its features where they are not cached, and one fit.
    """
    record = folders.read_record(run)
    if record.status != "done":
        reason = "" if record.failure is None else f": {record.failure.message}"
        raise ConfigError(f"run '{run.name}' failed, so there is no model to keep{reason}")
    bundle = bundle_of(run)
    if bundle.is_dir():
        return Adapted(record, run, bundle)
    limits: Any = {"stop_signal": stop_signal, "with_gallery": with_gallery, "progress": progress}
    return adapt(record.config, out=run.parent, device=device, resume=record.run_id, **limits)


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
        from backbench.classifier.gallery import warn_of_kept

        bundle = bundle_of(out / run_id)
        finished = folders.find_finished(out, run_id, progress=progress)
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
    method = find_method(config.method.name)
    if method.forgets:  # what the weights had seen is gone with them
        model = replace(model, seen_file=None)
    if method.kind == "probe":
        record, classifier, features = _probe(config, run_id, data, model, deadline=deadline, **where)
    else:
        limits: Any = {"deadline": deadline, "stop_signal": stop_signal}
        record, classifier = tune_run(config, run_id, data, model, **where, **limits)
    if method.forgets:
        start = {"pretrained_on": None, "licence": None, "source": "random weights"}
        classifier.backbone.facts = classifier.backbone.facts.model_copy(update=start)
    bundle = _write_bundle(record, classifier, features, data, model, with_gallery=with_gallery, **where)
    return Adapted(record, out / record.run_id, bundle)


def keep_probe(
    record: RunRecord,
    fitted: Fitted,
    extracted: Extracted,
    data: Data,
    model: ModelSpec,
    *,
    out: Path,
    device: str,
    progress: Progress = SILENT,
) -> Path:
    """Write the bundle of a probe that `probe.complete_run` has just fitted, as `adapt` would; its folder.

    Raises:
        ModelError: how the backbone was made is not known. StorageError: the folder can't be written.
    """
    classifier = _probe_classifier(fitted, extracted, data)
    where: Any = {"out": out, "device": device, "progress": progress}
    return _write_bundle(record, classifier, extracted.values, data, model, with_gallery=True, **where)


def _write_bundle(
    record: RunRecord,
    classifier: Classifier,
    features: np.ndarray | None,
    data: Data,
    model: ModelSpec,
    *,
    with_gallery: bool,
    out: Path,
    device: str,
    progress: Progress,
) -> Path:
    from backbench.classifier.bundle import write_bundle

    bundle = bundle_of(out / record.run_id)
    if is_first() and not bundle.is_dir():  # another process may have been first
        where: Any = {"out": out, "device": device, "progress": progress}
        gallery = _look_at_training(record, classifier, data, features, with_gallery=with_gallery, **where)
        seen = _collect_seen(record, classifier, data, model)
        classifier.grey = data.manifest.grey
        write_bundle(bundle, classifier, record=record, gallery=gallery, seen=seen)
    return bundle


def _collect_seen(record: RunRecord, classifier: Classifier, data: Data, model: ModelSpec) -> Seen:
    """The images of training and validation, and those that the backbone had learned from before."""
    from backbench.backbones.core.weights import digest_weights

    hashes = [data.manifest.hashes[row] for part in ("train", "val") for row in data.manifest.part_rows(part)]
    trained = record.model is None or record.model.weights_digest != digest_weights(classifier.backbone.body)
    before = None if model.seen_file is None else read_seen(Path(model.seen_file))
    return add_seen(hashes, by_backbone=trained, before=before)


def _look_at_training(
    record: RunRecord,
    classifier: Classifier,
    data: Data,
    features: np.ndarray | None,
    *,
    with_gallery: bool,
    out: Path,
    device: str,
    progress: Progress,
) -> Gallery | None:
    """The gallery of a bundle, and in the classifier what tells strange images; answers depend on neither.

    None, with a warning, if the images can't be read.
    """
    from backbench.classifier.gallery import find_known, know_features, make_gallery
    from backbench.classifier.strangeness import fit_strangeness

    try:
        if features is None:
            known = know_features(classifier, data, device=device, progress=progress)
        else:
            known = find_known(data, features)
        labels = data.manifest.labels[known.train]
        classifier.strangeness = fit_strangeness(known.train_features, labels, known.val_features)
        if not with_gallery:
            return None
        predictions = folders.read_predictions(out / record.run_id)
        return make_gallery(classifier, data, predictions, known, device=device)
    except Interrupted:
        raise
    except BackbenchError as error:
        progress.warn(f"the bundle has no gallery: {error}")
        return None


def _probe(
    config: RunConfig,
    run_id: str,
    data: Data,
    model: ModelSpec,
    *,
    out: Path,
    device: str,
    deadline: float | None,
    progress: Progress,
) -> tuple[RunRecord, Classifier, np.ndarray]:
    """The record of a probe, as a ranking makes it, its head on the backbone, and the features of all images."""
    method = find_method(config.method.name)
    options: Any = resolve_options(method, config.method)
    record = folders.find_finished(out, run_id)
    if record is None and method.needs_head:
        map_classes(data.manifest.classes, model.load_head, options)  # what is wrong is found before the long work
    extracted = extract_for(model, config, data, device=device, deadline=deadline, progress=progress)
    if record is None:
        record, fitted = complete_run(config, run_id, data, extracted, out=out, device=device)
    else:
        fitted = method.adapt(feature_task(config, data, extracted.values, device), options)
    return record, _probe_classifier(fitted, extracted, data), extracted.values


def _probe_classifier(fitted: Fitted, extracted: Extracted, data: Data) -> Classifier:
    """The head on the backbone whose features it was fitted to, calibrated where there is validation."""
    from backbench.classifier.classifier import Classifier
    from backbench.heads.head_modules import to_module

    assert extracted.backbone is not None  # controls, which have none, are refused by the callers
    classifier = Classifier(extracted.backbone, to_module(fitted.head), data.manifest.classes)
    if fitted.val_logits is not None:
        calibrate_on(classifier, fitted.val_logits, data.manifest.labels[data.manifest.part_rows("val")])
    return classifier
