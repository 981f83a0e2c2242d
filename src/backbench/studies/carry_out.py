"""Carries out a study: ranking after ranking, and what the figures say beside those that were published.

Every ranking is one that `backbench rank` could make, so whatever is finished is read back, and the same command
goes on where it was cut.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from backbench import ledger
from backbench.adapt import adapt
from backbench.catalog import find_model
from backbench.elsewhere import Elsewhere, evaluate_elsewhere
from backbench.errors import BackbenchError, BudgetExceeded, Interrupted, StorageError
from backbench.progress import SILENT, Progress
from backbench.records import RunRecord
from backbench.report.rows import Row
from backbench.report.study_tables import Cell
from backbench.studies.schema import StudyFile
from backbench.studies.steps import Settings, Step, chain, choose, data_config, find_missing, plan_steps
from backbench.study import Ranking, rank


@dataclass
class Outcome:
    """What came of a study: a cell for each run, in the study's order, and what went wrong."""

    study: StudyFile
    cells: list[Cell] = field(default_factory=list)
    rankings: list[tuple[Step, Ranking]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False


def run_study(
    study: StudyFile, settings: Settings, *, budget_seconds: float | None = None, progress: Progress = SILENT
) -> Outcome:
    """Carry out every ranking of the study, and evaluate on other data what is to be.

    Args:
        budget_seconds: of everything; what does not fit is left out and said.

    Raises:
        ConfigError: the study names what there is not; found before any work.
        StorageError: the output folder can't be written.

    A data set that can't be had or a model that fails is noted, and the study goes on.
    """
    steps = plan_steps(study, settings)
    for note in find_missing(study, settings):
        progress.warn(note)
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    outcome = Outcome(study)
    for number, step in enumerate(steps, start=1):
        progress.say(f"{study.name} {number}/{len(steps)}: {step.title}")
        try:
            ready = _go_on(step, outcome)
            if ready is None:
                before = step.group.after or step.group.best_of
                outcome.failures.append(f"{step.title}: nothing to go on from: no finished run of '{before}'")
                continue
            _carry_out(ready, outcome, settings, deadline, progress)
        except BudgetExceeded:
            outcome.failures.append(f"{step.title}: not started, beyond the budget")
        except (KeyboardInterrupt, Interrupted):
            outcome.interrupted = True
        except StorageError:
            raise
        except BackbenchError as error:
            outcome.failures.append(f"{step.title}: {error}")
            progress.warn(outcome.failures[-1])
        if outcome.interrupted:
            outcome.failures.append(f"interrupted in {step.title}: the same command goes on from there")
            break
    return outcome


def _go_on(step: Step, outcome: Outcome) -> Step | None:
    """The step, its models as the group that it goes on from chose or left them; None if none is there."""
    group = step.group
    if group.best_of is not None:
        best = _find_best(step, outcome)
        return None if best is None else _chain(choose(step, best), outcome)
    return _chain(step, outcome)


def _find_best(step: Step, outcome: Outcome) -> str | None:
    """The model of the step that was best on validation in the group it names; the test images have no say."""
    rivals = [
        cell
        for cell in outcome.cells
        if (cell.group, cell.data, cell.seed) == (step.group.best_of, step.data, step.seed)
        and cell.model in step.names
        and cell.figure("val_accuracy") is not None
        and not cell.record.num_val_seen
    ]

    def merit(cell: Cell) -> tuple[float, float]:
        accuracy, loss = cell.figure("val_accuracy"), cell.figure("val_nll")
        return (0.0 if accuracy is None else accuracy.value, 0.0 if loss is None else -loss.value)

    return max(rivals, key=merit).model if rivals else None


def _chain(step: Step, outcome: Outcome) -> Step | None:
    """The step from the weights that the earlier group left, of the same seed, or of the only one there is."""
    group = step.group
    if group.after is None:
        return step
    earlier = [
        cell
        for cell in outcome.cells
        if (cell.group, cell.data, cell.method) == (group.after, group.after_data, group.after_method)
        and cell.model in step.names
    ]
    is_alone = len({cell.seed for cell in earlier}) == 1
    bundles = {cell.model: cell.bundle for cell in earlier if cell.seed == step.seed or is_alone}
    return chain(step, bundles) if bundles else None


def _carry_out(
    step: Step, outcome: Outcome, settings: Settings, deadline: float | None, progress: Progress
) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise BudgetExceeded("no time left")
    ranking = rank(replace(step.request, budget_seconds=left), progress)
    outcome.rankings.append((step, ranking))
    study_name = {find_model(name).name: model for model, name in step.names.items()}
    asked_for = [(row, _asked_model(row, settings)) for row in ranking.rows if not row.control]
    for row, asked in asked_for:
        if asked not in study_name:
            continue
        if row.has_failed:
            outcome.failures.append(f"{step.title}, {row.model} + {row.method}: {row.error}")
            continue
        record = ledger.read_record(settings.runs / row.run_id)
        cell = _make_cell(step, study_name[asked], record, settings, progress)
        outcome.cells.append(_evaluate_elsewhere(cell, step, settings, outcome, progress))
    outcome.interrupted = ranking.interrupted
    if not ranking.interrupted:
        outcome.failures += _list_missing(
            step, asked_for, "the budget ended" if deadline is not None else "not run"
        )


def _asked_model(row: Row, settings: Settings) -> str:
    """The model by the name it was asked for: weights that a card names go by another one in the row."""
    folder = ledger.find_attempt(settings.runs, row.run_id, has_failed=row.has_failed)
    is_there = (folder / ledger.RECORD_FILE).is_file()
    return ledger.read_record(folder).config.model if is_there else row.model


def _list_missing(step: Step, asked_for: Sequence[tuple[Row, str]], why: str) -> list[str]:
    """What the ranking was asked for and has no row of: beyond the budget, or after its model could not be had."""
    there = {(asked, row.method) for row, asked in asked_for}
    failed = {asked for row, asked in asked_for if row.has_failed}
    return [
        f"{step.title}, {model} + {method.name}: {why}; the same command goes on from there"
        for model, name in step.names.items()
        for method in step.request.methods
        if (real := find_model(name).name) not in failed and (real, method.name) not in there
    ]


def _make_cell(step: Step, model: str, record: RunRecord, settings: Settings, progress: Progress) -> Cell:
    """The cell of a finished run. A probe that was cut before its bundle was written gets it here."""
    bundle = settings.runs / f"{record.run_id}.bundle"
    if not bundle.is_dir() and ledger.is_whole(record.run_id):
        bundle = adapt(record.config, out=settings.runs, device=settings.device, progress=progress).bundle
    return Cell(
        group=step.group.name,
        data=step.data,
        model=model,
        method=record.config.method.name,
        seed=step.seed,
        record=record,
        folder=settings.runs / record.run_id,
        bundle=bundle,
    )


def _evaluate_elsewhere(cell: Cell, step: Step, settings: Settings, outcome: Outcome, progress: Progress) -> Cell:
    """The cell with its figures on other data sets."""
    found: dict[str, Elsewhere] = {}
    for name in step.group.test_on:
        config = data_config(outcome.study, name, settings)
        try:
            found[name] = evaluate_elsewhere(
                cell.bundle, config, device=settings.device, precision=settings.precision, progress=progress
            )
        except BackbenchError as error:
            outcome.failures.append(f"{step.title}, {cell.model} + {cell.method} on {name}: {error}")
    return replace(cell, elsewhere=found)
