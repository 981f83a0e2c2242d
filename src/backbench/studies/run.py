"""Runs a study, one ranking after the other.

Every ranking is one that `backbench rank` could make. Finished runs are read back, so the same command resumes an
interrupted study.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from backbench.errors import BackbenchError, BudgetExceeded, Interrupted, StorageError
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.records.commands import bundle_of
from backbench.records.schema import RunRecord
from backbench.registry import find_method, find_model
from backbench.report.rows import Row
from backbench.runs.context import deadline_after
from backbench.runs.cross_dataset import evaluate_elsewhere, was_evaluated
from backbench.runs.labelled import read_source
from backbench.runs.rank import rank
from backbench.runs.run import adapt
from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.comparable import best_on_validation
from backbench.studies.analysis.facts import Choice
from backbench.studies.analysis.front import select_front
from backbench.studies.analysis.wording import count_rivals, describe_choice
from backbench.studies.schema import StudyFile
from backbench.studies.steps import (
    Settings,
    Step,
    chain,
    choose,
    data_config,
    find_missing,
    plan_steps,
    with_models,
)
from backbench.studies.usable import Usable, find_usable
from backbench.wording import join_names

GOES_ON = "the same command resumes from there"
ALL = "all runs"


@dataclass(frozen=True)
class Undone:
    """A missing part of a study, and the reason; each on one line."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass
class Outcome:
    """The results of a study: a cell for each run, by ranking in the study's order, and what is missing.

    Args:
        choices: which models went on to later groups.
        chosen: (group, data, seed) of rankings whose models an earlier group chose -> those models.
        controls: (group, data, seed) of each ranking -> the folders of its controls.
        cut: (group, data, seed) of rankings that the budget ended -> the runs that it left out, or `ALL`. The same
            command adds them.
    """

    study: StudyFile
    cells: list[Cell] = field(default_factory=list)
    controls: dict[tuple[str, str, int], list[Path]] = field(default_factory=dict)
    undone: list[Undone] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    chosen: dict[tuple[str, str, int], list[str]] = field(default_factory=dict)
    cut: dict[tuple[str, str, int], list[str]] = field(default_factory=dict)
    interrupted: bool = False

    def note(self, what: str, why: object) -> Undone:
        """Add a missing part; `why` may be an error of several lines and is kept as one line."""
        self.undone.append(Undone(what, " ".join(str(why).split()).rstrip(".")))
        return self.undone[-1]

    def describe_choices(self) -> list[str]:
        """Sentences on which models went on to later groups, and why."""
        return [sentence for choice in self.choices for sentence in describe_choice(choice)]

    def by_reason(self) -> dict[str, list[str]]:
        """Missing runs, grouped by reason."""
        found: dict[str, list[str]] = {}
        for undone in self.undone:
            found.setdefault(undone.why, []).append(undone.what)
        return found


def run_study(
    study: StudyFile, settings: Settings, *, budget_seconds: float | None = None, progress: Progress = SILENT
) -> Outcome:
    """Run every ranking of the study, and the cross-dataset evaluations that it asks for.

    Args:
        budget_seconds: for everything; runs that do not fit are left out and noted.

    Raises:
        ConfigError: the study has an unknown name; found before any work.
        ModelError: none of its models can be used; found before any work too.
        StorageError: the output folder can't be written.

    If a data set or a model fails, the study notes it and continues.
    """
    steps = plan_steps(study, settings)
    for note in find_missing(study, settings):
        progress.warn(note)
    deadline = deadline_after(budget_seconds)
    outcome = Outcome(study)
    usable = find_usable(steps, settings, progress)
    for number, step in enumerate(steps, start=1):
        if outcome.interrupted:
            outcome.note(step.title, f"not started because of the interrupt; {GOES_ON}")
            continue
        progress.say(f"{study.name} {number}/{len(steps)}: {step.title}")
        try:
            part = _leave_out(step, usable, outcome)
            if part is None:
                progress.say(f"{step.title}: left out, as none of its models can be used")
                continue
            ready = _go_on(part, outcome)
            if ready is None:
                progress.warn(str(outcome.undone[-1]))
                continue
            _carry_out(ready, outcome, settings, deadline, progress)
        except BudgetExceeded:
            outcome.cut[_place(step)] = [ALL]
            outcome.note(step.title, f"not started, beyond the budget; {GOES_ON}")
        except (KeyboardInterrupt, Interrupted):
            outcome.interrupted = True
        except StorageError:
            raise
        except BackbenchError as error:
            progress.warn(str(outcome.note(step.title, error)))
        if outcome.interrupted:
            outcome.note(step.title, f"interrupted; {GOES_ON}")
    return outcome


def _place(step: Step) -> tuple[str, str, int]:
    return step.group.name, step.data, step.seed


def _leave_out(step: Step, usable: Usable, outcome: Outcome) -> Step | None:
    """The step without unusable models, which are noted; None if no model is left."""
    names, faults = usable.split(step)
    for model, why in faults.items():
        outcome.note(f"{step.title}, {model}", why)
    if not names:
        return None
    part = with_models(step, names)
    return replace(part, request=replace(part.request, checked=usable.checked))


def _go_on(step: Step, outcome: Outcome) -> Step | None:
    """The step with the models and weights of earlier groups; None, and noted, if there are none."""
    if step.group.chosen_from is None:
        return _chain(step, outcome)
    chosen = _choose_models(step, outcome)
    if chosen:
        outcome.chosen[_place(step)] = chosen
    return _chain(choose(step, chosen), outcome) if chosen else None


def _choose_models(step: Step, outcome: Outcome) -> list[str]:
    """The models of the step that were best on validation in an earlier group; test images are not used.

    While runs of that group are left out by the budget, no model is chosen: one of them may be the best. Failed
    runs are noted and not waited for.
    """
    before = next(group for group in outcome.study.groups if group.name == step.group.chosen_from)
    place = (before.name, step.data, step.seed)
    there = [model for model in step.names if model in outcome.chosen.get(place, step.names)]
    rivals = {
        (cell.model, cell.method): cell
        for cell in outcome.cells
        if (cell.group, cell.data, cell.seed) == place
        and cell.model in there
        and cell.figure("val_accuracy") is not None
        and not cell.record.num_val_seen
    }
    asked = [(model, method) for model in there for method in before.methods]
    absent = [f"{model} + {method}" for model, method in asked if (model, method) not in rivals]
    left_out = [run for run in outcome.cut.get(place, ()) if run == ALL or run.partition(" + ")[0] in there]
    if left_out:
        why = f"waits for '{before.name}', where the budget left out {join_names(left_out)}; {GOES_ON}"
        outcome.note(step.title, why)
        outcome.cut[_place(step)] = [ALL]
        return []
    if not rivals:
        outcome.note(
            step.title,
            f"no model to choose: '{before.name}' has no finished run whose weights saw no validation image",
        )
        return []
    choice = Choice(step.title, (), before.name, len(rivals), len(asked))
    if step.group.front_size is None:
        choice = replace(choice, models=(best_on_validation(rivals.values()).model,))
    else:
        found = select_front(rivals.values(), outcome.study.families, step.group.front_size)
        choice = replace(choice, models=tuple(one.model for one in found.taken), selection=found)
    outcome.choices.append(choice)
    chosen = list(choice.models)
    if absent:
        why = f"missing, or its weights saw validation images: {join_names(absent)}"
        outcome.note(
            step.title,
            f"{join_names(chosen)} {'was' if len(chosen) == 1 else 'were'} chosen {count_rivals(choice)} ({why})",
        )
    return chosen


def _chain(step: Step, outcome: Outcome) -> Step | None:
    """The step with the weights that the earlier group trained, of the same seed, or of its only seed.

    Models without such weights are noted; None if no model has them.
    """
    group = step.group
    if group.after is None:
        return step
    earlier = [
        cell
        for cell in outcome.cells
        if (cell.group, cell.data, cell.method) == (group.after, group.after_data, group.after_method)
        and cell.model in step.names
    ]
    before = next(each for each in outcome.study.groups if each.name == group.after)
    is_alone = len(before.seeds) == 1  # of those asked for: one that is missing is not to be replaced by another
    bundles = {cell.model: cell.bundle for cell in earlier if cell.seed == step.seed or is_alone}
    missing = [model for model in step.names if model not in bundles]
    if missing and not (bundles and before.chosen_from):  # which goes on with these models, as it should
        is_cut = any((name, data) == (group.after, group.after_data) for name, data, _ in outcome.cut)
        if is_cut:
            outcome.cut[_place(step)] = [
                f"{model} + {method}" for model in missing for method in step.group.methods
            ]
        why = f"which the budget ended; {GOES_ON}" if is_cut else "see above"
        needed = f"no finished {group.after_method} of '{group.after}' on {group.after_data}"
        outcome.note(f"{step.title}, {join_names(missing)}", f"no weights to start from: {needed}, {why}")
    return chain(step, bundles) if bundles else None


def _carry_out(
    step: Step, outcome: Outcome, settings: Settings, deadline: float | None, progress: Progress
) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0 and not _was_begun(step, settings):
        raise BudgetExceeded("no time left")
    ranking = rank(replace(step.request, budget_seconds=left), progress)
    outcome.controls[_place(step)] = [
        entry.path for entry in ranking.entries if entry.row.control and not entry.row.has_failed
    ]
    names: dict[str, list[str]] = {}  # two of the study may be one here, as at one --image-size
    for model, name in step.names.items():
        names.setdefault(find_model(name).name, []).append(model)
    entries = [entry for entry in ranking.entries if not entry.row.control]
    asked_for = [(entry.row, entry.record.config.model) for entry in entries]  # a card's weights have another name
    left_out = []
    for entry, model in [(each, model) for each in entries for model in names.get(each.record.config.model, ())]:
        row = entry.row
        run = f"{model} + {row.method}"
        if row.has_failed:
            outcome.note(f"{step.title}, {run}", row.error)
            continue
        if not folders.is_whole(row.run_id):  # its figures are real, but not those that the study asks for
            left_out.append(run)
            outcome.note(f"{step.title}, {run}", f"training was cut; {GOES_ON}")
            continue
        outcome.cells.append(_make_cell(step, model, entry.record, settings, progress))
    outcome.interrupted = ranking.interrupted
    missing = [] if ranking.interrupted else _list_missing(step, asked_for)
    if deadline is not None:
        left_out += missing
    if left_out:
        outcome.cut[_place(step)] = left_out
    for run in missing:
        why = "the budget ended" if deadline is not None else "not run"
        outcome.note(f"{step.title}, {run}", f"{why}; {GOES_ON}")
    if not ranking.interrupted:
        _evaluate_elsewhere(step, outcome, settings, deadline, progress)


def _was_begun(step: Step, settings: Settings) -> bool:
    """Whether there are runs on the step's images; reading finished runs takes almost no time."""
    for path in settings.runs.glob(f"*/{folders.RECORD_FILE}"):
        with suppress(StorageError):  # a damaged one is moved aside when its turn comes
            if folders.read_record(path.parent).config.data == step.request.data:
                return True
    return False


def _list_missing(step: Step, asked_for: Sequence[tuple[Row, str]]) -> list[str]:
    """Requested runs without a row: beyond the budget, or of a model that could not be loaded."""
    there = {(asked, row.method) for row, asked in asked_for}
    had = {asked for row, asked in asked_for if not row.has_failed}  # else no method could have it
    failed = {asked for row, asked in asked_for if row.has_failed} - had
    return [
        f"{model} + {method.name}"
        for model, name in step.names.items()
        for method in step.request.methods
        if (real := find_model(name).name) not in failed and (real, method.name) not in there
    ]


def _make_cell(step: Step, model: str, record: RunRecord, settings: Settings, progress: Progress) -> Cell:
    """The cell of a finished run. A probe that was interrupted before its bundle was written gets it here."""
    bundle = bundle_of(settings.runs / record.run_id)
    if not bundle.is_dir():
        bundle = adapt(record.config, settings.context(progress)).bundle
    return Cell(
        group=step.group.name,
        data=step.data,
        model=model,
        method=record.config.method.name,
        seed=step.seed,
        record=record,
        folder=settings.runs / record.run_id,
        bundle=bundle,
        forgets=find_method(record.config.method.name).forgets,
    )


def _evaluate_elsewhere(
    step: Step, outcome: Outcome, settings: Settings, deadline: float | None, progress: Progress
) -> None:
    """Evaluate the step's cells on other data sets; an interrupt keeps the cells."""
    context = settings.context(progress, deadline)
    own = [place for place, cell in enumerate(outcome.cells) if (cell.group, cell.data, cell.seed) == _place(step)]
    for name in step.group.test_on if own else ():
        config = data_config(outcome.study, name, settings, on_bad="skip")
        is_known = any(was_evaluated(outcome.cells[place].bundle, config.source) for place in own)
        if not is_known and deadline is not None and time.monotonic() >= deadline:  # it may have to be fetched
            outcome.note(f"{step.title} on {name}", f"the budget ended; {GOES_ON}")
            continue
        try:
            source = read_source(config, progress)
        except BackbenchError as error:
            outcome.note(f"{step.title} on {name}", error)
            continue
        for place in own:
            cell = outcome.cells[place]
            try:
                found = evaluate_elsewhere(cell.bundle, source, context, precision=settings.precision)
            except BackbenchError as error:
                why = f"the budget ended; {GOES_ON}" if isinstance(error, BudgetExceeded) else error
                outcome.note(f"{step.title}, {cell.model} + {cell.method} on {name}", why)
            else:
                outcome.cells[place] = replace(cell, elsewhere={**cell.elsewhere, name: found})
