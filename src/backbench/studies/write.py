"""Writes the results of a study: tables as Markdown, pictures, and one page with everything."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
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
TRIAL = (
    "**This is a trial: random weights, and generated images for data sets that were not given. Its figures say "
    "nothing about any model.**"
)
TRY_THEM = "Classify one image with one model, or serve a web page that shows the predictions of each model:"


def write_up(
    outcome: Outcome, settings: Settings, *, has_figures: bool = True, progress: Progress = SILENT
) -> tuple[list[Path], list[str]]:
    """Write tables, report, figures as JSON, and pictures of the finished runs.

    Returns:
        Paths of the files, and a sentence for each that could not be written.

    Raises:
        StorageError: the output folder can't be written.
    """
    names = (TABLES_FILE, REPORT_FILE, DOCUMENT_FILE)
    target, report, document = (settings.pages / name for name in names)
    if not outcome.cells:
        write_atomically(target, render_study(make_foreword(outcome, settings), outcome, settings).encode())
        return [target], _remove_old(report, document)
    pictures, faults = _draw(outcome, settings, progress) if has_figures else ([], [])
    request = ReportRequest(
        runs=tuple(map(str, [*(cell.folder for cell in outcome.cells), *_find_controls(outcome)])),
        out=settings.runs,
        has_images=has_figures,
        map_method="none" if not has_figures else "pca" if settings.random_weights else "tsne",
        num_explained=_num_explained(outcome, settings) if has_figures else 0,
        titles=_tell_apart(outcome.cells),
    )
    rankings, evidence, warnings = gather_report(request, progress)
    foreword = make_foreword(outcome, settings, answer_questions(outcome, settings, rankings))
    write_atomically(target, render_study(foreword, outcome, settings, pictures, faults).encode())
    title = outcome.study.title
    if settings.random_weights:
        title = f"A trial, its figures mean nothing: {title}"
    page = render_report(rankings, evidence, title=title, foreword=foreword)
    write_atomically(report, page.encode("utf-8", "backslashreplace"))
    written = [target, report, document, *pictures]
    text = json.dumps(make_document(outcome, written), indent=1, allow_nan=False)
    write_atomically(document, f"{text}\n".encode())
    return written, faults + warnings


def _draw(outcome: Outcome, settings: Settings, progress: Progress) -> tuple[list[Path], list[str]]:
    return draw_study(
        outcome.study,
        outcome.cells,
        settings.pages / FIGURES_FOLDER,
        device=settings.device,
        is_trial=settings.random_weights,
        progress=progress,
    )


def _remove_old(*pages: Path) -> list[str]:
    """Delete the pages of an earlier run: they would contradict tables without a finished run."""
    there = [page for page in pages if page.exists()]
    try:
        for page in there:
            page.unlink()
    except OSError as error:
        return [f"{error.filename} is of an earlier run and can't be deleted: {error.strerror}"]
    names = " and ".join(page.name for page in there)
    where = f"{names} of an earlier run were deleted from {pages[0].parent}/"
    return [f"no run is finished, so {where}; its runs are kept"] if there else []


def _find_controls(outcome: Outcome) -> list[Path]:
    """Folders of the baselines in rankings that have a cell: the report warns where models are no better."""
    there = {(cell.group, cell.data, cell.seed) for cell in outcome.cells}
    return [folder for place, controls in outcome.controls.items() if place in there for folder in controls]


def _num_explained(outcome: Outcome, settings: Settings) -> int:
    """Images to explain in the report; every model is loaded for it, which is too much for a large trial."""
    if not settings.random_weights:
        return 4
    return 1 if len(outcome.cells) <= MAX_TRIED else 0


def _tell_apart(cells: Sequence[Cell]) -> dict[str, str]:
    """Run id -> title, for runs that would have the same name on the page.

    They have the same model and method with the options of another group or another seed, or weights that two
    groups trained.
    """
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
    """Each question of the study with its answer.

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


def make_foreword(outcome: Outcome, settings: Settings, answers: Sequence[tuple[str, Facts]] = ()) -> Foreword:
    """Return what both pages of a study say before its runs, in sentences and tables."""
    study, cells = outcome.study, outcome.cells
    return Foreword(
        about=" ".join(study.about.split()),
        source=study.source,
        answers=tuple((ask, describe_facts(facts)) for ask, facts in answers),
        tables=tuple(make_published_tables(study.published, cells, is_trial=settings.is_trial)),
        more=(make_data_table(cells),) if cells else (),
        here=(
            *(f"'{name}': {what}" for name, what in list_groups(outcome, settings)),
            *describe_here(outcome, settings),
            *describe_data(outcome, settings),
        ),
        choices=tuple(outcome.describe_choices()),
        undone={why: tuple(whats) for why, whats in outcome.by_reason().items()},
    )


def render_study(
    foreword: Foreword,
    outcome: Outcome,
    settings: Settings,
    pictures: Sequence[Path] = (),
    faults: Sequence[str] = (),
) -> str:
    """Return the page of a study as Markdown."""
    heading = "## {} (a trial)".format if settings.random_weights else "## {}".format
    parts = [
        f"# {printable(outcome.study.title)}",
        printable(foreword.about),
        f"Source: {printable(foreword.source)}",
    ]
    if settings.random_weights:
        parts.append(TRIAL)
    if foreword.undone:
        parts.append("**Incomplete: 'Missing runs' at the end says what is missing and why.**")
    parts.append(_list_items("## What was run", map(printable, (*foreword.here, *foreword.choices))))
    if foreword.answers:
        parts.append("\n\n".join(["## Questions", *(_render_answer(*answer) for answer in foreword.answers)]))
    if foreword.tables:
        parts += ["# Published figures and ours", render_tables(foreword.tables, heading).strip()]
    if outcome.cells:
        tables = [*foreword.more, *make_group_tables(outcome.cells), *make_recipe_table(outcome.cells)]
        parts += ["# All runs", render_tables(tables, heading).strip(), _describe_use(outcome)]
    if foreword.undone:
        parts.append("# Missing runs\n\n" + "\n".join(_describe_reason(*each) for each in foreword.undone.items()))
    if pictures or faults:
        shown = sorted(path.relative_to(settings.pages).as_posix() for path in pictures)
        lines = [printable(" ".join(fault.split())) for fault in faults] + [f"[{path}]({path})" for path in shown]
        parts.append(_list_items("# Pictures", lines))
    return "\n\n".join(parts) + "\n"


def _list_items(heading: str, lines: Iterable[str]) -> str:
    return "\n".join([heading, "", *(f"- {line}" for line in lines)])


def _render_answer(ask: str, sentences: Sequence[str]) -> str:
    """A question in bold, with one sentence on the same line or several as a list."""
    if len(sentences) == 1:
        return f"**{printable(ask)}** {printable(sentences[0])}"
    return _list_items(f"**{printable(ask)}**", map(printable, sentences))


def _describe_reason(why: str, whats: Sequence[str]) -> str:
    """One reason as an item of a list, with the runs that are missing because of it."""
    if len(whats) == 1:
        return f"- {printable(whats[0])}: {printable(why)}"
    return "\n".join([f"- {printable(why)}:", *(f"    - {printable(what)}" for what in whats)])


def _describe_use(outcome: Outcome) -> str:
    """How to use the study's models on one image: those of the last data set, at most `MAX_SERVED`."""
    bundles = list(dict.fromkeys(cell.bundle for cell in outcome.cells if cell.data == outcome.cells[-1].data))[
        -MAX_SERVED:
    ]
    names = " ".join(shlex.quote(str(bundle)) for bundle in bundles)
    commands = (f"backbench predict {shlex.quote(str(bundles[-1]))} IMAGE.jpg", f"backbench serve {names}")
    return "\n".join(["# Try them", "", TRY_THEM, "", "```", *map(printable, commands), "```"])
