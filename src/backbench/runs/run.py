"""`run(config, context)` gives a record: one path for probes and for methods that train.

`adapt` adds checks before the work, and saves the model. A run that trains keeps its state in
`<out>/.working/<run_id>` until it is finished, so that the same command, or `backbench resume`, resumes it.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from backbench.backbones.faults import find_faults, refuse_faulty
from backbench.config import RunConfig
from backbench.data.load import Data, load_data
from backbench.data.survey import survey
from backbench.distributed import is_first, num_processes, wait_for_all
from backbench.errors import BudgetExceeded, ConfigError, Interrupted, PeerLost, StorageError
from backbench.methods.zeroshot import refuse_headless
from backbench.records import folders
from backbench.records.commands import bundle_of
from backbench.records.resume import forget_refused, hold_run, working_folder
from backbench.records.schema import RunRecord
from backbench.registry import ModelSpec
from backbench.runs.context import RunContext
from backbench.runs.estimate import describe_power
from backbench.runs.finish import finish, record_failure
from backbench.runs.identity import Resolved, resolve, slug
from backbench.runs.keep import keep_model
from backbench.runs.probe import Shared, fit_probe
from backbench.runs.train import train


def run(
    config: RunConfig | Resolved, context: RunContext, *, data: Data | None = None, shared: Shared | None = None
) -> RunRecord:
    """Carry out one run, or return its record if it is finished; `RunContext.keeps_probes` decides on its bundle.

    A second process with the same run waits for the first and uses its result. If a finished run lacks its bundle,
    the model is rebuilt from stored data, without using test images.

    Args:
        config: the run, or its result of `resolve`.
        data: its images, if they are loaded already.
        shared: the features of its model, shared with other probes.

    Raises:
        BackbenchError: the data, the model, the method or the output folder can't be used. A ranking turns errors
            of a model or a method into failure records instead; here they reach the caller.
    """
    resolved = resolve(config) if isinstance(config, RunConfig) else config
    if resolved.method.trains:
        refuse_model(resolved)
    keeps = resolved.method.trains or (context.keeps_probes and resolved.model.load is not None)
    data = load_data(resolved.config.data, context.progress) if data is None else data
    run_id, out = resolved.run_id(data), context.out
    alone = hold_run(
        out, run_id, deadline=context.deadline, stop_signal=context.stop_signal, progress=context.progress
    )
    with alone if is_first() else nullcontext():
        wait_for_all()  # until the first process holds the lock
        finished = folders.find_finished(out, run_id, progress=context.progress)
        if finished is not None and (bundle_of(out / run_id).is_dir() or not keeps):
            if keeps and not context.with_gallery:
                from backbench.classifier.gallery import warn_of_kept

                warn_of_kept(bundle_of(out / run_id), context.progress)
            record = finished
        else:
            try:
                record = _carry_out(resolved, data, context, shared, finished, keeps=keeps)
            except ConfigError:
                if is_first():
                    forget_refused(out, run_id)
                raise
        if record.run_id == run_id and is_first():
            shutil.rmtree(working_folder(out, run_id), ignore_errors=True)
    return record


def _carry_out(
    resolved: Resolved,
    data: Data,
    context: RunContext,
    shared: Shared | None,
    finished: RunRecord | None,
    *,
    keeps: bool,
) -> RunRecord:
    """Make the model, then its record (unless `finished` exists), then its bundle."""
    trains = resolved.method.trains
    made = train(resolved, data, context) if trains else fit_probe(resolved, data, context, shared)
    record = finished if made.cut_after is None else None  # a model ended by the budget has a different record
    record = record or finish(resolved, data, context, made)
    if keeps:
        keep_model(record, made, resolved.model, data, context)
    return record


@dataclass(frozen=True)
class Adapted:
    """The result of `adapt`: the record, its folder, and the folder of the model."""

    record: RunRecord
    run: Path
    bundle: Path


def adapt(config: RunConfig | Resolved, context: RunContext, *, resume: str | None = None) -> Adapted:
    """Adapt one model to the images by one method; write record and bundle, or return existing ones.
    In a process group (`distributed`) all processes call this, but only the first writes.

    Args:
        resume: the expected id; another id means that data or weights have changed since the interrupt.

    Raises:
        BackbenchError: see `run` and `training.train.fit`.
    """
    resolved = resolve(config) if isinstance(config, RunConfig) else config
    config, out, progress = resolved.config, context.out, context.progress
    if not resolved.method.trains and num_processes() > 1:
        raise ConfigError(
            f"'{resolved.method.name}' works with one process only: run it without torchrun, or choose another "
            "method."
        )
    refuse_model(resolved)
    if not is_begun(out, resolved.model):
        refuse_faulty(find_faults([resolved.model]), 1)
    folders.prepare_root(out)
    found = survey(config.data, progress)
    for sentence in (*found.sentences(), describe_power(found.num_test)):
        progress.say(sentence)
    data = load_data(config.data, progress, listing=found.listing)
    if resume is not None:
        _refuse_other(resume, resolved.run_id(data), out)
    try:
        record = run(resolved, replace(context, keeps_probes=True), data=data)
    except (Interrupted, StorageError, ConfigError, BudgetExceeded, PeerLost):
        raise
    except Exception as error:
        if is_first():
            record_failure(resolved, data, context, error)
        raise
    return Adapted(record, out / record.run_id, bundle_of(out / record.run_id))


def _refuse_other(wanted: str, run_id: str, out: Path) -> None:
    """Raise ConfigError if a run can't be resumed, or its model can't be rebuilt."""
    if run_id == wanted:
        return
    if (out / wanted / folders.RECORD_FILE).is_file():
        raise ConfigError(
            f"the model of run '{wanted}' can't be rebuilt: its images, weights or options, or the protocol of "
            "backbench, have changed. Rank or adapt again, and keep the new run."
        )
    raise ConfigError(
        f"run '{wanted}' can't be resumed: its images, weights or options have changed. Start a new one with "
        f"backbench adapt; the old state stays in {working_folder(out, wanted)}."
    )


def keep_run(folder: Path, context: RunContext) -> Adapted:
    """Save the model of a finished run from stored data, without using test images again.

    Args:
        folder: of the run; the bundle is written beside it, unless it exists.
        context: `out` is ignored.

    Raises:
        ConfigError: the run failed or is a baseline, or its images, weights or options have changed.
        BackbenchError: see `adapt`.
    Cost: none if the bundle exists. For a probe: features if they are not cached, and one fit.
    """
    record = folders.read_record(folder)
    if record.status != "done":
        reason = "" if record.failure is None else f": {record.failure.message}"
        raise ConfigError(f"run '{folder.name}' failed, so it has no model to save{reason}")
    bundle = bundle_of(folder)
    if bundle.is_dir():
        return Adapted(record, folder, bundle)
    return adapt(record.config, replace(context, out=folder.parent), resume=record.run_id)


def refuse_model(resolved: Resolved) -> None:
    """ConfigError if the model is a baseline, or lacks the published classifier that the method needs."""
    if resolved.model.load is None:
        raise ConfigError(
            f"'{resolved.model.name}' is a control (a baseline): it has no network to adapt. Choose a backbone."
        )
    if resolved.method.needs_head:
        refuse_headless(resolved.model.load_head)


def is_begun(out: Path, model: ModelSpec) -> bool:
    """Whether run folders of the model (or of one with the same prefix) exist: finished runs need no weights."""
    return any(out.glob(f"*-{slug(model.name)}-*"))
