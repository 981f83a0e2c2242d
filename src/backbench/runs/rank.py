"""Rank models x methods on one data set.

Baselines run first, then models from cheap to expensive, so that there are early results. Finished runs are read,
never repeated; failures become records and rows; the budget and Ctrl-C end the work but still give a ranking.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from backbench.backbones.card_folders import expand_cards
from backbench.backbones.core.defaults import decide_models
from backbench.backbones.faults import describe_faults, find_faults, refuse_faulty
from backbench.config import DataConfig, MethodConfig, Precision, RunConfig
from backbench.data.load import Data, load_data
from backbench.data.survey import survey
from backbench.errors import BackbenchError, BudgetExceeded, ConfigError, Interrupted, StorageError
from backbench.progress import SILENT, Progress, format_seconds
from backbench.records import folders
from backbench.records.openings import check_openings, count_openings, one_look
from backbench.records.schema import RunRecord, StoredRun
from backbench.registry import ModelSpec, find_method, find_model, resolve_options
from backbench.report.ranked import RankedRuns, describe_manifest, rank_runs
from backbench.report.rows import Row, make_rows
from backbench.report.table import render_live_line, render_table
from backbench.runs.context import RunContext, deadline_after, stoppable
from backbench.runs.estimate import Plan, describe_power, estimate_training, make_plan
from backbench.runs.finish import record_failure
from backbench.runs.identity import Resolved, describe_data, resolve, test_groups
from backbench.runs.probe import Shared
from backbench.runs.run import is_begun, run
from backbench.wording import join_names

CONTROLS = ("majority", "colour", "file-facts", "untrained")
CONTROL_METHOD = MethodConfig(name="logistic")


@dataclass(frozen=True)
class RankRequest:
    """What to rank, and how. `models` empty: a short list that fits the data and the machine."""

    data: DataConfig
    models: tuple[str, ...] = ()
    methods: tuple[MethodConfig, ...] = (MethodConfig(name="logistic"),)
    seed: int = 0
    precision: Precision = "fp32"
    training_precision: Precision = "fp32"
    device: str = "cpu"
    exact_resize: bool = False
    out: Path = Path("runs")
    budget_seconds: float | None = None
    top: int | None = None
    """Methods that train run on this many models, the best by their probes on validation; None: on all."""
    keeps_probes: bool = False
    """Also save a bundle of every probe, while its head and network are in memory."""
    checked: frozenset[str] = frozenset()
    """Models that were already checked, for example by the study of this ranking."""


@dataclass
class _Bench:
    """A running ranking: its request and its results so far.

    runs: finished and failed runs, each with its predictions (None if it failed).
    faults: errors of unusable models, reported before any work.
    """

    request: RankRequest
    data: Data
    progress: Progress
    deadline: float | None
    runs: list[StoredRun] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    not_started: list[str] = field(default_factory=list)
    models_left: int = 0
    is_shown: bool = False
    rows: list[Row] | None = None  # of `runs`; None: outdated after a new run
    faults: dict[str, BackbenchError] = field(default_factory=dict)

    @property
    def records(self) -> list[RunRecord]:
        return [run.record for run in self.runs]


@one_look()
def rank(request: RankRequest, progress: Progress = SILENT) -> RankedRuns:
    """Rank models x methods on the images of `request.data`.

    Args:
        request: what to rank.
        progress: gets an overview, the plan, and each row as it finishes.

    Raises:
        ConfigError: a wrong name or option; found before any work.
        DataError: the images can't be ranked on; the message gives the reason and the remedy.
        StorageError: the output folder can't be written; found before any work if possible.

    Cost: one pass over the images for the data scan, one for each model; nothing is repeated, over all calls.
    """
    deadline = deadline_after(request.budget_seconds)
    specs = [find_method(method.name) for method in request.methods]
    methods = [(spec, resolve_options(spec, method)) for spec, method in zip(specs, request.methods, strict=True)]
    _check_top(request)
    asked = _find_models(request.models)
    folders.prepare_root(request.out)

    found = survey(request.data, progress)
    for sentence in (*found.sentences(), describe_power(found.num_test)):
        progress.say(sentence)
    models = asked or decide_models(request.data.source, request.device, progress)
    new = [model for model in models if not is_begun(request.out, model)]
    faults = find_faults(model for model in new if model.name not in request.checked)
    refuse_faulty(faults, len(models))
    usable = [model for model in models if model.name not in faults]
    plan = make_plan(usable, found, device=request.device, precision=request.precision)
    training_seconds = estimate_training(
        usable,
        methods,
        found.parts["train"],
        top=request.top,
        device=request.device,
        precision=request.training_precision,
    )
    for sentence in plan.sentences(len(request.methods), training_seconds):
        progress.say(sentence)

    data = load_data(request.data, progress, listing=found.listing)
    bench = _Bench(request, data, progress, deadline, warnings=list(data.warnings))
    for warning in data.warnings:
        progress.warn(warning)
    bench.faults = faults | find_faults(
        model for model in models if model not in new and not _is_done(bench, model)
    )
    refuse_faulty(bench.faults, len(models))
    if bench.faults:
        progress.warn(
            f"{len(bench.faults)} of {len(models)} models can't be used.\n{describe_faults(bench.faults)}"
        )
    interrupted = False
    try:
        for name in CONTROLS:
            _rank_one(bench, find_model(name), (CONTROL_METHOD,), deadline=None)
        _rank_models(bench, models, plan)
    except (KeyboardInterrupt, Interrupted):
        interrupted = True
        bench.warnings.append("interrupted: these runs were finished. Run the same command again to resume")
    return _conclude(bench, interrupted)


def _find_models(names: Sequence[str]) -> list[ModelSpec]:
    """The models of these names, each once. ConfigError for an unknown model or two of one name."""
    found: dict[str, ModelSpec] = {}
    for model in map(find_model, expand_cards(names)):
        other = found.setdefault(model.name, model)
        if other.identity != model.identity:
            raise ConfigError(
                f"'{model.name}' is the name of two different models in --models: "
                f"{other.file or 'the published one'} and {model.file or 'the published one'}. Change 'name' in "
                "one of the cards."
            )
    return list(found.values())


def _check_top(request: RankRequest) -> None:
    """Raise ConfigError for `--top` without probes that find the best models."""
    kinds = {find_method(method.name).trains for method in request.methods}
    if request.top is not None and len(kinds) < 2:
        raise ConfigError(
            "--top chooses the models to train by their probes: give --methods at least one probe and one method "
            "that trains, such as logistic,two-phase."
        )


def _rank_models(bench: _Bench, models: Sequence[ModelSpec], plan: Plan) -> None:
    """Run models from cheap to expensive, for early results; starts nothing that exceeds the budget."""
    bench.models_left = len(models)
    trained = _trained(bench.request)
    probes = [method for method in bench.request.methods if method not in trained]
    has_answer = False
    seconds = {model.name: plan.seconds.get(model.name, 0.0) for model in models}  # unusable models take none
    for model in sorted(models, key=lambda model: seconds[model.name]):
        bench.models_left -= 1
        needed = seconds[model.name] if has_answer else 0.0
        try:
            _rank_one(bench, model, probes, deadline=bench.deadline, needed_seconds=needed)
            has_answer = has_answer or (bool(probes) and model.name not in bench.faults)
        except BudgetExceeded as reason:
            bench.not_started.append(model.name)
            bench.progress.say(f"{model.name}: left out, beyond the budget ({reason})")
    if trained:
        _train_best(bench, models, trained)
    if bench.not_started:
        bench.warnings.append(
            f"the budget ended before {join_names(bench.not_started)}; the same command with a larger --budget "
            f"adds {'it' if len(bench.not_started) == 1 else 'them'} without repeating finished runs"
        )


def _trained(request: RankRequest) -> list[MethodConfig]:
    """The requested methods that train."""
    return [method for method in request.methods if find_method(method.name).trains]


def _train_best(bench: _Bench, models: Sequence[ModelSpec], methods: Sequence[MethodConfig]) -> None:
    """Run methods that train on the models with the best probes on validation; the test split is not used."""
    by_probe: dict[str, float] = {}
    asked = {model.name for model in models}  # baselines are not candidates
    for record in bench.records:
        if record.config.model not in asked or record.method is None:
            continue
        if (accuracy := record.method.choices.get("val_accuracy")) is not None:
            by_probe[record.config.model] = max(accuracy, by_probe.get(record.config.model, 0.0))
    known = [model for model in models if model.name in by_probe or not by_probe]
    if bench.request.top is not None:
        known = _pass_over_seen(bench, known)
    best_first = sorted(known, key=lambda model: -by_probe.get(model.name, 0.0))
    for model in best_first[: bench.request.top]:
        try:
            _rank_one(bench, model, methods, deadline=bench.deadline)
        except BudgetExceeded as reason:
            bench.not_started.append(f"{model.name} (training)")
            bench.progress.say(f"{model.name}: left out, beyond the budget ({reason})")


def _pass_over_seen(bench: _Bench, models: Sequence[ModelSpec]) -> list[ModelSpec]:
    """`models` without those trained on validation images: for them, validation is too optimistic for a choice."""
    num_seen = {record.config.model: record.num_val_seen for record in bench.records if record.num_val_seen}
    passed = [model.name for model in models if model.name in num_seen]
    if passed:
        theirs = "it was" if len(passed) == 1 else "they were"
        warning = (
            f"--top skips {join_names(passed)}: {theirs} trained on validation images, which it uses for the "
            f"choice. To train {'it' if len(passed) == 1 else 'them'} anyway, leave out --top"
        )
        bench.warnings.append(warning)
        bench.progress.warn(warning)
    return [model for model in models if model.name not in num_seen]


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: libraries wrap it in their own errors during import."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _refuse_late(deadline: float | None, needed_seconds: float) -> None:
    """Raise BudgetExceeded if work of this length may not start."""
    left = math.inf if deadline is None else deadline - time.monotonic()
    if left <= 0 or needed_seconds > left:
        about = f"needs about {format_seconds(needed_seconds)}" if needed_seconds else "no time is left"
        raise BudgetExceeded(about)


def _rank_one(
    bench: _Bench,
    model: ModelSpec,
    methods: Sequence[MethodConfig],
    *,
    deadline: float | None,
    needed_seconds: float = 0.0,
) -> None:
    """Run all methods on one model; its features are extracted once, only if a probe is missing.

    Finished runs are read even without time left; missing ones need `needed_seconds` for features. StorageError
    and BudgetExceeded reach the caller.
    """
    shared, out = Shared(), bench.request.out
    for method in methods:
        resolved = _resolve(bench.request, model, method)
        found = folders.find_whole(out, resolved.run_id(bench.data), progress=bench.progress)
        is_new = found is None
        if found is None:
            _refuse_late(deadline, 0.0 if shared.extracted else needed_seconds)
            if bench.runs and not bench.is_shown:  # show finished runs while the first new one is running
                _show(bench)
            record = _run_or_fail(bench, resolved, shared, deadline)
            if record.status == "done":
                found = folders.read_run(out / record.run_id)
            else:
                found = StoredRun(record, path=folders.find_attempt(out, record.run_id, has_failed=True))
        bench.runs.append(found)
        bench.rows = None
        if is_new:
            _show(bench)
        is_trained = resolved.method.trains and model.name not in bench.faults
        if not (found.record.status == "done" or shared.extracted or is_trained):  # one failure is enough
            return


def _run_or_fail(bench: _Bench, resolved: Resolved, shared: Shared, deadline: float | None) -> RunRecord:
    """The record of the run, or that of its failure, where the model or the method raises an error."""
    request, data, fault = bench.request, bench.data, bench.faults.get(resolved.model.name)
    context = RunContext(
        out=request.out,
        device=request.device,
        deadline=deadline,
        keeps_probes=request.keeps_probes and not resolved.model.is_control,
        progress=bench.progress,
    )
    try:
        if fault is not None:
            raise fault
        with stoppable(context) if resolved.method.trains else nullcontext(context) as context:
            return run(resolved, context, data=data, shared=shared)
    except (BudgetExceeded, Interrupted):
        raise
    except Exception as error:
        if isinstance(error, StorageError) and error is not fault:
            raise
        if _is_interrupt(error):
            raise KeyboardInterrupt from error
        facts = None if shared.extracted is None else shared.extracted.model
        record = record_failure(resolved, data, context, error, facts)
        if error is not fault:  # which was reported already
            bench.progress.warn(f"{resolved.model.name} + {resolved.method.name} failed: {error}")
        return record


def _resolve(request: RankRequest, model: ModelSpec, method: MethodConfig) -> Resolved:
    precision = request.training_precision if find_method(method.name).trains else request.precision
    sees_pixels = model.describe is None  # baselines without pixels are the same in any precision
    config = RunConfig(
        data=request.data,
        model=model.name,
        model_file=model.file,
        method=method,
        seed=request.seed,
        precision=precision if sees_pixels else "fp32",
        exact_resize=request.exact_resize and sees_pixels,
    )
    return resolve(config, model)


def _is_done(bench: _Bench, model: ModelSpec) -> bool:
    """Whether every run of the model seems finished, by the names of their folders."""
    ids = [_resolve(bench.request, model, method).run_id(bench.data) for method in bench.request.methods]
    return all((bench.request.out / run_id).is_dir() for run_id in ids)


def _show(bench: _Bench) -> None:
    bench.is_shown = True
    rows = _rows_of(bench)
    left = None if bench.deadline is None else bench.deadline - time.monotonic()
    bench.progress.show(
        render_live_line(rows, bench.models_left, left), lambda width: render_table(rows, width=width, colour=True)
    )


def _rows_of(bench: _Bench) -> list[Row]:
    """The rows of all runs so far, made once for each new run: the tests between all pairs take time."""
    if bench.rows is None:
        predictions = [run.predictions for run in bench.runs]
        bench.rows = make_rows(bench.records, predictions, test_groups(bench.data))
    return bench.rows


def _conclude(bench: _Bench, interrupted: bool) -> RankedRuns:
    facts, out = describe_data(bench.data), bench.request.out
    openings = count_openings(out, facts.manifest_digest)
    details = describe_manifest(bench.data.manifest, bench.runs, num_openings=openings)
    details = replace(details, warnings=(*bench.warnings, *check_openings(out)))
    return rank_runs(bench.runs, details, data=facts, rows=_rows_of(bench), interrupted=interrupted)
