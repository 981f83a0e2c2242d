"""What a study leaves behind: its tables as Markdown, its pictures, and one page with everything."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from backbench.explain.evidence import ReportRequest, gather_report
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.report.markdown import render_tables
from backbench.report.page.render import Foreword, render_report
from backbench.report.ranked import RankedRuns
from backbench.report.text import printable
from backbench.storage import write_atomically
from backbench.studies.analysis.answers import Asked, answer_question
from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.facts import Facts, Kind, Remark
from backbench.studies.analysis.published import make_published_tables
from backbench.studies.analysis.recipes import make_recipe_table
from backbench.studies.analysis.tables import make_data_table, make_group_tables
from backbench.studies.analysis.wording import describe_facts
from backbench.studies.document import DOCUMENT_FILE, make_document
from backbench.studies.drawings import draw_study
from backbench.studies.run import Outcome
from backbench.studies.steps import Settings
from backbench.studies.what_ran import describe_data, describe_here, list_groups

TABLES_FILE = "tables.md"
REPORT_FILE = "report.html"
FIGURES_FOLDER = "figures"
MAX_SERVED = 6
MAX_TRIED = 20
"""Runs of a trial that explain an image in the report."""


def write_up(
    outcome: Outcome, settings: Settings, *, has_figures: bool = True, progress: Progress = SILENT
) -> tuple[list[Path], list[str]]:
    """Write tables, report, figures as JSON, and pictures of what is finished; their paths, and what could not be
    made.

    Raises:
        StorageError: the output folder can't be written.
    """
    pictures: list[Path] = []
    faults: list[str] = []
    if has_figures and outcome.cells:
        pictures, faults = draw_study(
            outcome.study,
            outcome.cells,
            settings.pages / FIGURES_FOLDER,
            device=settings.device,
            is_trial=settings.random_weights,
            progress=progress,
        )
    target = settings.pages / TABLES_FILE
    report, document = settings.pages / REPORT_FILE, settings.pages / DOCUMENT_FILE
    if not outcome.cells:
        write_atomically(target, render_study(outcome, settings).encode())
        return [target], _remove_old(report, document)
    request = ReportRequest(
        runs=tuple(map(str, [*(cell.folder for cell in outcome.cells), *_find_controls(outcome, settings)])),
        out=settings.runs,
        has_images=has_figures,
        map_method="none" if not has_figures else "pca" if settings.random_weights else "tsne",
        num_explained=_num_explained(outcome, settings) if has_figures else 0,
        titles=_tell_apart(outcome.cells),
    )
    rankings, evidence, warnings = gather_report(request, progress)
    answers = answer_questions(outcome, settings, rankings)
    write_atomically(target, render_study(outcome, settings, answers, pictures, faults).encode())
    title = outcome.study.title
    if settings.random_weights:
        title = f"A trial, its figures mean nothing: {title}"
    foreword = Foreword(
        about=" ".join(outcome.study.about.split()),
        source=outcome.study.source,
        answers=tuple((ask, describe_facts(facts)) for ask, facts in answers),
        tables=tuple(make_published_tables(outcome.study.published, outcome.cells, is_trial=settings.is_trial)),
        more=(make_data_table(outcome.cells),),
        here=(
            *(f"'{name}': {what}" for name, what in list_groups(outcome, settings)),
            *describe_here(outcome, settings),
            *describe_data(outcome, settings),
        ),
        choices=tuple(outcome.describe_choices()),
        undone={why: tuple(whats) for why, whats in outcome.by_reason().items()},
    )
    page = render_report(rankings, evidence, title=title, foreword=foreword)
    write_atomically(report, page.encode("utf-8", "backslashreplace"))
    written = [target, report, document, *pictures]
    text = json.dumps(make_document(outcome, written), indent=1, allow_nan=False)
    write_atomically(document, f"{text}\n".encode())
    return written, faults + warnings


def _remove_old(*pages: Path) -> list[str]:
    """Take away pages of earlier settings: they would stand beside tables that say that nothing is finished."""
    there = [page for page in pages if page.exists()]
    try:
        for page in there:
            page.unlink()
    except OSError as error:
        return [f"{error.filename} is of an earlier run, and can't be removed: {error.strerror}"]
    names = " and ".join(page.name for page in there)
    where = f"{names} of an earlier run went from {pages[0].parent}/"
    return [f"nothing is finished, so {where}; its runs are where they were"] if there else []


def _find_controls(outcome: Outcome, settings: Settings) -> list[Path]:
    """The control runs of the rankings that have a cell: the report warns of what they show."""
    there = {(cell.group, cell.data, cell.seed) for cell in outcome.cells}
    return [
        settings.runs / row.run_id
        for step, rows in outcome.rankings
        if (step.group.name, step.data, step.seed) in there
        for row in rows
        if row.control and not row.has_failed
    ]


def _num_explained(outcome: Outcome, settings: Settings) -> int:
    """Images that every model explains in the report: each model is loaded for it, too much for a large trial."""
    if not settings.random_weights:
        return 4
    return 1 if len(outcome.cells) <= MAX_TRIED else 0


def _tell_apart(cells: Sequence[Cell]) -> dict[str, str]:
    """Titles for the models of runs that else had one name on one page: the same model and method by the options
    of another group or from another seed, or weights that two groups left."""
    alike: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        key = (cell.record.data.manifest_digest, cell.record.model_name)
        alike.setdefault(key, {}).setdefault(cell.record.run_id, cell)
    titles = {}
    for (_, name), found in alike.items():
        num_starts = len(
            {"" if cell.record.model is None else cell.record.model.weights_digest for cell in found.values()}
        )
        methods = Counter(cell.method for cell in found.values())
        twins = {run: cell for run, cell in found.items() if num_starts > 1 or methods[cell.method] > 1}
        several_seeds = len({cell.seed for cell in twins.values()}) > 1
        for run_id, cell in twins.items():
            titles[run_id] = f"{name} ({cell.group}{f', seed {cell.seed}' if several_seeds else ''})"
    return titles


def answer_questions(
    outcome: Outcome, settings: Settings, rankings: Sequence[RankedRuns]
) -> list[tuple[str, Facts]]:
    """Each question of the study with what the runs say, item by item.

    Args:
        rankings: of the same runs: they know which test images hang together.
    """
    groups = {
        found.data.manifest_digest: dict(zip(found.ids, found.details.groups, strict=True))
        for found in rankings
        if found.details.groups is not None
    }
    told = {cell.record.run_id: folders.read_answers(cell.folder)[1] for cell in outcome.cells}
    answers = []
    for question in outcome.study.questions:
        cells = [cell for cell in outcome.cells if cell.group in question.groups]
        asked = Asked(cells, told, groups, question.model, question.models, question.groups)
        answer = (Remark(Kind.TRIAL),) if settings.random_weights else answer_question(question.by, asked)
        answers.append((question.ask, answer))
    return answers


def render_study(
    outcome: Outcome,
    settings: Settings,
    answers: Sequence[tuple[str, Facts]] = (),
    pictures: Sequence[Path] = (),
    faults: Sequence[str] = (),
) -> str:
    """Everything that the study says, as Markdown."""
    study = outcome.study
    parts = [
        f"# {printable(study.title)}",
        printable(" ".join(study.about.split())),
        f"Source: {printable(study.source)}",
    ]
    if settings.random_weights:
        parts.append(
            "**A trial: random weights, and drawn images where the data set was not given. The figures say "
            "nothing about any model.**"
        )
    if outcome.undone:
        parts.append("**Not whole: what is missing, and why, stands under 'Not done'.**")
    heading = "## {} (a trial)".format if settings.random_weights else "## {}".format
    parts.append(_describe_groups(outcome, settings))
    if answers:
        parts.append("\n\n".join(["## Questions", *(_render_answer(ask, answer) for ask, answer in answers)]))
    if study.published:
        parts.append("# As published, and here")
        tables = make_published_tables(study.published, outcome.cells, is_trial=settings.is_trial)
        parts.append(render_tables(tables, heading).strip())
    if outcome.cells:
        tables = [
            make_data_table(outcome.cells),
            *make_group_tables(outcome.cells),
            *make_recipe_table(outcome.cells),
        ]
        parts.append("# All runs")
        parts.append(render_tables(tables, heading).strip())
        parts.append(_describe_use(outcome))
    if outcome.undone:
        parts.append("# Not done\n\n" + "\n".join(map(_describe_reason, outcome.by_reason().items())))
    if pictures or faults:
        shown = sorted(path.relative_to(settings.pages).as_posix() for path in pictures)
        lines = [
            *(printable(" ".join(fault.split())) for fault in faults),
            *(f"[{path}]({path})" for path in shown),
        ]
        parts.append("\n".join(["# Pictures", "", *(f"- {line}" for line in lines)]))
    return "\n\n".join(parts) + "\n"


def _render_answer(ask: str, facts: Facts) -> str:
    """A question in bold, and its answer on the same line, or as a list where there is more to say."""
    sentences = [printable(sentence) for sentence in describe_facts(facts)]
    if len(sentences) == 1:
        return f"**{printable(ask)}** {sentences[0]}"
    return "\n".join([f"**{printable(ask)}**", "", *(f"- {sentence}" for sentence in sentences)])


def _describe_reason(found: tuple[str, list[str]]) -> str:
    """One reason why something is not there, as an item of a list, with what it stopped."""
    why, whats = found
    if len(whats) == 1:
        return f"- {printable(whats[0])}: {printable(why)}"
    return "\n".join([f"- {printable(why)}:", *(f"    - {printable(what)}" for what in whats)])


def _describe_use(outcome: Outcome) -> str:
    """How to have one picture judged by the study's models: those of the first data set, at most `MAX_SERVED`."""
    bundles = list(dict.fromkeys(cell.bundle for cell in outcome.cells if cell.data == outcome.cells[-1].data))[
        -MAX_SERVED:
    ]
    names = " ".join(shlex.quote(str(bundle)) for bundle in bundles)
    return "\n".join(
        [
            "# Try them",
            "",
            "One picture, one model; and a page that takes pictures and shows what each of the models says:",
            "",
            "```",
            printable(f"backbench predict {shlex.quote(str(bundles[-1]))} PICTURE.jpg"),
            printable(f"backbench serve {names}"),
            "```",
        ]
    )


def _describe_groups(outcome: Outcome, settings: Settings) -> str:
    lines = [f"**{printable(name)}**: {what}" for name, what in list_groups(outcome, settings)]
    here = [*describe_here(outcome, settings), *outcome.describe_choices(), *describe_data(outcome, settings)]
    lines += map(printable, here)
    return "\n".join(["## What was run", "", *(f"- {line}" for line in lines)])
