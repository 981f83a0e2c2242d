"""The first screen and the table: verdict, three boxes, one line for each run, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from backbench.progress import format_bytes
from backbench.report.charts.chart import Axis, make_axis
from backbench.report.charts.cost import SECONDS, Point, cost_points, row_kind
from backbench.report.findings import total_seconds
from backbench.report.page.inputs import Evidence
from backbench.report.page.marks import name, sentence
from backbench.report.page.svg import draw_whisker
from backbench.report.ranked import Entry, RankedRuns
from backbench.report.row_text import show_interval, show_memory, show_rank, show_rate, show_size
from backbench.report.rows import STAGES, Row
from backbench.report.summary import describe_cheaper
from backbench.report.text import duration, percent, quantity
from backbench.wording import count

MAX_PLOTTED = 12
ROWS_ON_PHONES = 5  # as in style.css
_WIDEST_SCALE = 0.30
_LONGEST_METHOD = 60


@dataclass(frozen=True)
class Cell:
    """One cell of the table: its text, the value it sorts by ('' sorts last), and a note below it."""

    text: str
    sort: str = ""
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One run as the page shows it. `kind` is best, tied, other, control or failed; `number` its place from 1."""

    number: int
    kind: str
    model: str
    method: str
    run_id: str
    rank: str
    figure: str
    interval: str
    whisker: Markup
    word: str
    cells: tuple[Cell, ...]
    warnings: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class Column:
    """One column of the table; `is_extra` ones are hidden until asked for."""

    key: str
    heading: str
    unit: str = ""
    is_number: bool = True
    is_extra: bool = False


COLUMNS = (
    Column("rank", "Rank"),
    Column("model", "Model", is_number=False),
    Column("method", "Method", is_number=False),
    Column("accuracy", "Accuracy", "%"),
    Column("interval", "95 % interval", "%"),
    Column("class_mean", "Class mean", "%", is_extra=True),
    Column("top5", "Top-5", "%", is_extra=True),
    Column("nll", "Log loss", is_extra=True),
    Column("ece", "Calibration error", "%", is_extra=True),
    Column("size", "Input", "px"),
    Column("rate", "Speed", "images/s"),
    Column("seconds", "Time", "s"),
    Column("memory", "Peak memory", is_extra=True),
    Column("parameters", "Parameters"),
    Column("licence", "Licence", is_number=False, is_extra=True),
    Column("mark", "Note", is_number=False),
)


def decide_axis(rows: Sequence[Row]) -> Axis:
    """The scale of the ranking plot: gaps near the best matter, so it reaches at most 30 points below it."""
    shown = [row for row in rows if row.accuracy is not None and not row.control]
    shown = shown or [row for row in rows if row.accuracy is not None]
    if not shown:
        return make_axis([0.0, 1.0])
    best = max(row.accuracy or 0.0 for row in shown)
    lows = [_low(row) for row in shown if (row.accuracy or 0.0) >= best - _WIDEST_SCALE]
    above = [row for row in rows if row.control and (row.accuracy or 0.0) > best]  # must not look truncated
    highs = [row.high if row.high is not None else row.accuracy or 0.0 for row in [*shown, *above]]
    return make_axis([max(min(lows), best - 1.3 * _WIDEST_SCALE), *highs])


def make_lines(ranked: RankedRuns) -> list[Line]:
    """One line for each run, in the order of the ranking."""
    axis = decide_axis(ranked.rows)
    return [_make_line(number, entry, axis) for number, entry in enumerate(ranked.entries, start=1)]


def choose_plotted(lines: Sequence[Line]) -> list[Line]:
    """The lines of the first screen: the first twelve rows, then the controls."""
    ordinary = [line for line in lines if line.kind in ("best", "tied", "other")]
    return ordinary[:MAX_PLOTTED] + [line for line in lines if line.kind == "control"]


def is_cut_on_phones(lines: Sequence[Line]) -> bool:
    """Whether a narrow screen hides rows of the first screen: those not tied, and those after the limit."""
    ordinary = [line for line in choose_plotted(lines) if line.kind != "control"]
    return len(ordinary) > ROWS_ON_PHONES or any(line.kind == "other" for line in ordinary)


def _make_line(number: int, entry: Entry, axis: Axis) -> Line:
    row = entry.row
    kind = row_kind(row)
    whisker = Markup("")
    if row.accuracy is not None:
        whisker = draw_whisker(row.accuracy, row.low, row.high, axis, kind)
    return Line(
        number=number,
        kind=kind,
        model=name(row.model),
        method=name(row.how, _LONGEST_METHOD),
        run_id=name(row.run_id, 120),
        rank=show_rank(row),
        figure=percent(row.accuracy, row.n, unit=False) or row.status,
        interval=show_interval(row.low, row.high, row.n),
        whisker=whisker,
        word="seen" if row.num_test_seen else kind if kind in ("best", "tied") else "",
        cells=_cells(entry, kind, number),
        warnings=tuple(name(warning, 300) for warning in row.warnings),
        error=name(" ".join((row.error or "").split()), 400),
    )


_MARKS = {"best": "best", "tied": "tied with the best", "control": "control", "failed": "failed", "other": ""}


def _cells(entry: Entry, kind: str, number: int) -> tuple[Cell, ...]:
    row, record = entry.row, entry.record
    ece, nll = record.served_metric("ece"), record.served_metric("nll")
    size, total = show_size(row), row.seconds.get("total")
    return (
        Cell(show_rank(row), str(number)),
        Cell(name(row.model)),
        Cell(name(row.how, _LONGEST_METHOD)),
        Cell(percent(row.accuracy, row.n, unit=False) or row.status, _sort(row.accuracy)),
        Cell(show_interval(row.low, row.high, row.n), _sort(row.low)),
        Cell(percent(row.per_class_mean, row.n, unit=False), _sort(row.per_class_mean)),
        Cell(percent(row.top5, row.n, unit=False), _sort(row.top5)),
        Cell("" if nll is None else f"{nll.value:.3f}", _sort(nll.value if nll else None)),
        Cell(percent(ece.value, row.n, unit=False) if ece else "", _sort(ece.value if ece else None)),
        Cell(size, size.split("x")[0]),
        Cell(show_rate(row), _sort(row.images_per_second)),
        Cell(duration(total), _sort(total)),
        Cell(show_memory(row), _sort(row.peak_memory_bytes)),
        Cell(quantity(row.parameters or None), _sort(row.parameters)),
        Cell(name(row.licence or "", 30)),
        Cell(
            "not ranked" if row.num_test_seen else _MARKS[kind],
            note="; ".join(name(warning, 160) for warning in row.warnings),
        ),
    )


def _sort(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _low(row: Row) -> float:
    return row.low if row.low is not None else row.accuracy or 0.0


@dataclass(frozen=True)
class Box:
    """One of the three boxes: pairs of a term and its text."""

    title: str
    facts: tuple[tuple[str, str], ...]


_NOTHING = {
    "nothing": "no run finished",
    "untrusted": "no row can be trusted",
    "chance": "no row is significantly better than always predicting one class",
}


def describe_winner(ranked: RankedRuns, evidence: Evidence) -> Box:
    """What you get: the bundle if there is one, size, time for one image, licence."""
    entry = ranked.recommended
    if entry is None:
        return Box("What you get", (("nothing yet", _NOTHING[ranked.findings.kind]),))
    row, model = entry.row, entry.record.model
    bundle = evidence.bundles.get(row.run_id)
    facts = [("model", f"{name(row.model, 40)} + {name(row.how, 40)}")]
    if bundle is not None:
        facts.append(("bundle", f"{name(bundle[0], 48)}, {format_bytes(bundle[1])}"))
    elif model is not None and model.weights_bytes:
        facts.append(("weights", format_bytes(model.weights_bytes)))
    if row.images_per_second:
        facts.append(("one image", f"about {_time_of_one(row.images_per_second)} in a batch"))
    facts.append(("licence", name(row.licence or "not stated: ask before you publish or sell", 40)))
    return Box("What you get", tuple(facts))


def describe_certainty(ranked: RankedRuns) -> Box:
    """How sure: tied rows, test images, and number of test-set evaluations."""
    found, facts = ranked.findings, []
    if found.kind == "chance":
        facts.append(("better than always one class", "no row, significantly"))
    if found.num_rows == 1:
        facts.append(("ranking", "none: one row only. Add a second model"))
    elif found.tied:
        facts.append(("tied at the top", f"{len(found.tied) + 1} of {count(found.num_rows, 'row')}"))
    elif found.num_rows:
        others = f"all {found.num_rows - 1} others" if found.num_rows > 2 else "the other"
        facts.append(("the best", f"apart from {others}"))
    if found.certificate is not None:
        facts.append(("no other row is better by more than", f"{found.certificate.points:.1f} points (95 %)"))
    best = None if ranked.best is None else ranked.best.row
    if best is not None and best.corrected is not None:
        facts.append(("the best, corrected for the choice", percent(best.corrected, best.n)))
    num_groups = None if best is None else best.num_groups
    groups = "" if num_groups is None else f" in {count(num_groups, 'group')}"
    is_few = ranked.data.num_test < 50 or found.units_needed is not None
    facts.append(("test images", f"{ranked.data.num_test:,}{groups}" + " – few" * is_few))
    if ranked.details.num_openings:
        facts.append(("test evaluations", count(ranked.details.num_openings, "time")))
    method = next((entry.record.method for entry in ranked.candidates if entry.row.is_best), None)
    sizes = {"train": ranked.data.num_train, "val": ranked.data.num_val}
    fitted_on = "nothing" if method is None else method.fitted_on
    num_trained = sum(sizes.get(part, 0) for part in fitted_on.split("+"))
    facts.append(("the best was trained on", f"{num_trained:,} images" if num_trained else "none of the images"))
    return Box("How sure", tuple(facts))


def choose_warnings(ranked: RankedRuns) -> list[str]:
    """At most three warnings, worst first, as they come."""
    return [sentence(name(text, 260)) for text in ranked.warnings[:3]]


def describe_checks(ranked: RankedRuns) -> str:
    """The checks without findings, as far as the runs allow them."""
    done = [row for row in ranked.rows if row.status == "done"]
    if not done:
        return "No run has results, so nothing could be checked."
    checks = ["leaks between splits"]
    checks += ["shortcuts, by baseline rows"] * any(row.control for row in done)
    checks += ["unequal settings"] * (len(done) > 1)
    missing = "" if any(row.control for row in done) else " No baselines were run, so shortcuts can't be detected."
    return f"No problems found. Checked for: {', '.join(checks)}.{missing}"


def list_costs(ranked: RankedRuns) -> list[Point]:
    """The rows whose seconds are known, best first; with names of the best and of the recommended cheaper one."""
    cheaper = ranked.findings.cheaper
    named = [row.run_id for row in ranked.rows if row.is_best or (cheaper is not None and row is cheaper.row)]
    return cost_points(ranked.rows, SECONDS, important=named)


def conclude_cost(ranked: RankedRuns) -> str:
    """One sentence: the cheapest row that is tied with the best, as the summary has it."""
    found, best = ranked.findings, ranked.best
    if found.kind == "untrusted":
        return "No row can be trusted, so costs are not compared."
    if found.kind == "chance":
        return "No row is significantly better than always predicting one class, so none is worth its cost."
    if best is None or not total_seconds(best.row):
        return "No cost was recorded."
    if found.cheaper is not None:
        return (
            f"{name(found.cheaper.row.name, 90)}, tied with the best, {describe_cheaper(found.cheaper, best.row)}."
        )
    if found.tied and not found.is_cheapest:
        return "No row that is tied with the best is much cheaper."
    if not found.tied:
        return "No other row is tied with the best, so there is no cheaper choice."
    return "The best row is also the cheapest of the tied rows."


_COLOURS = {stage: place for place, stage in enumerate(STAGES)} | {"fit": STAGES.index("head")}
"""Colours are the same in every row; training uses that of solving a head, because a row has only one of them."""


@dataclass(frozen=True)
class Stages:
    """Time of one row by stage: (stage, seconds, share of the longest row in percent, colour 0 to 4)."""

    label: str
    parts: tuple[tuple[str, str, float, int], ...]
    total: str


def split_time(ranked: RankedRuns) -> list[Stages]:
    """Busy seconds by stage, without baselines."""
    rows = [row for row in ranked.rows if not row.control and row.seconds.get("total")]
    longest = max((sum(v for k, v in row.seconds.items() if k != "total") for row in rows), default=0.0)
    found = []
    for row in rows:
        stages = [stage for stage in (*STAGES, *row.seconds) if stage != "total" and row.seconds.get(stage)]
        parts = tuple(
            (
                name(stage, 16),
                duration(row.seconds[stage]),
                round(100 * row.seconds[stage] / longest, 2),
                _COLOURS.get(stage, 0),
            )
            for stage in dict.fromkeys(stages)
        )
        found.append(Stages(f"{name(row.model, 34)} + {name(row.how, 40)}", parts, duration(row.seconds["total"])))
    return found


def _time_of_one(rate: float) -> str:
    """Time for one image at `rate` images per second: '0.83 ms', '120 ms', '2.0 s'."""
    milliseconds = 1000 / rate
    if milliseconds >= 1000:
        return f"{duration(1 / rate)} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 99.5 else f"{milliseconds:.2g} ms"
