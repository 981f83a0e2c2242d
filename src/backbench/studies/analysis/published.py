"""Makes the published tables of a study, with our figures beside them. Pure, from records."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any

from backbench.report.markdown import Table
from backbench.studies.analysis.cells import COUNTS, PERCENT, Cell, find_fit_remarks, mark_seen, over_seeds
from backbench.studies.analysis.wording import NOT_COMPARED, describe_facts


def make_published_tables(
    published: Sequence[Any], cells: Sequence[Cell], *, is_trial: bool = False
) -> list[Table]:
    """Return the published tables, our figure beside each, and the reason where ours must differ.

    Args:
        published: `studies.schema.Published` entries.
        is_trial: weights or images differ from the study's, so differences are left out.
    """
    tables = []
    for title in dict.fromkeys(entry.table for entry in published):
        entries = [entry for entry in published if entry.table == title]
        reasons = list(dict.fromkeys(entry.why for entry in entries if entry.why is not None))
        places = {(entry.row, entry.column): entry for entry in entries}
        columns = list(dict.fromkeys(entry.column for entry in entries))
        rows = []
        for row in dict.fromkeys(entry.row for entry in entries):
            line = [row]
            for column in columns:
                entry = places.get((row, column))
                line += ["", ""] if entry is None else _compare_figure(entry, cells, reasons, is_trial=is_trial)
            rows.append(tuple(line))
        notes = [NOT_COMPARED] if is_trial else []
        notes += [f"[{number}] {text}" for number, text in enumerate(reasons, 1)]
        wanted = {
            (entry.group, entry.model, entry.method) for entry in entries if entry.figure.startswith("train_")
        }
        trained = [cell for cell in cells if cell.recipe and (cell.group, cell.model, cell.method) in wanted]
        notes += describe_facts(find_fit_remarks(trained))
        heads = (f"{column}{which}" for column in columns for which in (": published", ": here"))
        tables.append(Table(title, ("", *heads), tuple(rows), tuple(notes)))
    return tables


def _compare_figure(entry: Any, cells: Sequence[Cell], reasons: Sequence[str], *, is_trial: bool) -> list[str]:
    """The published figure; ours with the difference and the number of its reason."""
    wanted = (entry.group, entry.model, entry.method, entry.data)
    beside = None if entry.value is None or is_trial else float(entry.value)
    found = _find_cells(cells, *wanted)
    theirs = "not stated" if entry.value is None else _show_published(entry)
    mark = "" if entry.why is None else f" [{reasons.index(entry.why) + 1}]"
    if not found:  # an image count may be of a source that models were only tried on
        there = [
            f"{source.num_images:,} of classes that {cell.data} has too"
            for cell in cells
            if (cell.group, cell.model, cell.method) == wanted[:3] and (source := cell.elsewhere.get(entry.data))
        ]
        return [theirs, f"{', '.join(dict.fromkeys(there))}{mark}" if there else "not run"]
    if entry.label is not None and all(entry.label not in cell.record.data.classes for cell in found):
        return [theirs, f"there is no class '{entry.label}' here"]
    if entry.over is not None:
        return [theirs, f"{_show_gain(found, _find_cells(cells, entry.over, *wanted[1:]), entry, beside)}{mark}"]
    ours = over_seeds(found, entry.figure, entry.label)
    gap = _gap(entry.figure, beside, _values(found, entry).values())
    return [theirs, f"{ours}{gap and f', {gap}'}{mark}"]


def _gap(figure: str, published: float | None, ours: Collection[float]) -> str:
    if published is None or not ours:
        return ""
    gap = sum(ours) / len(ours) - published
    if figure == "seconds":
        ratio = sum(ours) / len(ours) / published if published else 0.0
        return f"{ratio:,.0f} times as long" if ratio >= 10 else f"{ratio:.2g} times as long" if ratio else ""
    if figure in COUNTS:
        return f"{gap:+,.0f}" if gap else ""
    if figure in PERCENT:
        return f"{100 * gap:+.1f} points"
    return f"{gap:+,.0f}" if abs(gap) >= 10 else f"{gap:+.3g}"


def _find_cells(cells: Sequence[Cell], group: str, model: str, method: str, data: str) -> list[Cell]:
    wanted = (group, model, method, data)
    return [cell for cell in cells if (cell.group, cell.model, cell.method, cell.data) == wanted]


def _values(cells: Sequence[Cell], entry: Any) -> dict[int, float]:
    """Seed -> the figure of a published entry."""
    found = {cell.seed: cell.figure(entry.figure, entry.label) for cell in cells}
    return {seed: metric.value for seed, metric in found.items() if metric is not None}


def _show_gain(cells: Sequence[Cell], over: Sequence[Cell], entry: Any, beside: float | None) -> str:
    """The gain over the other group, over the seeds that both have, and its difference from the published gain."""
    mine, theirs = _values(cells, entry), _values(over, entry)
    seeds = [seed for seed in mine if seed in theirs]
    gains = [100 * (mine[seed] - theirs[seed]) for seed in seeds]
    if not gains:
        is_there = {cell.seed for cell in cells} & {cell.seed for cell in over}
        return "-" if is_there else "not run"
    mean = sum(gains) / len(gains)
    shown = f"{mean:+.1f} points"
    if len(gains) > 1:
        shown += f" ({min(gains):+.1f} to {max(gains):+.1f} over {len(gains)} seeds)"
    gap = 0.0 if beside is None else mean - 100 * beside
    if abs(gap) >= 0.05:
        shown += f", {abs(gap):.1f} points {'more' if gap > 0 else 'less'} than published"
    for words, group in (("", cells), (f" in '{entry.over}'", over)):
        if mark := mark_seen(entry.figure, [cell for cell in group if cell.seed in seeds]):
            shown += f"{mark[:-1]}{words})"
    return shown


def _show_published(entry: Any) -> str:
    """The published figure with all its digits."""
    value: Decimal = entry.value
    if entry.over is not None:
        return f"{value.scaleb(2):+f} points"
    return f"{value.scaleb(2):f} %" if entry.figure in PERCENT else f"{value:,f}"
