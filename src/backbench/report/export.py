"""A ranking as Markdown, CSV or JSON, for papers, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from backbench.report.page.ranking import COLUMNS, make_lines
from backbench.report.ranked import RankedRuns
from backbench.report.rows import Row
from backbench.report.text import in_csv, printable

_CSV_FIELDS = (
    "data", "manifest", "model", "method", "run_id", "status", "control", "rank_low", "rank_high",
    "tied_with_best", "accuracy", "low", "high", "n", "p_value", "per_class_mean", "top5", "nll", "total_seconds",
    "images_per_second", "peak_memory_bytes", "parameters", "flops", "licence", "precision", "warnings", "error",
    "difference",
)  # fmt: skip


def render_markdown(rankings: Sequence[RankedRuns]) -> str:
    """A heading, the summary and a table for each ranked."""
    return "\n".join(_markdown(ranked) for ranked in rankings)


def _markdown(ranked: RankedRuns) -> str:
    columns = [index for index, column in enumerate(COLUMNS) if not column.is_extra]
    heads = [
        COLUMNS[index].heading + (f" ({COLUMNS[index].unit})" * bool(COLUMNS[index].unit)) for index in columns
    ]
    rules = ["---:" if COLUMNS[index].is_number else "---" for index in columns]
    lines = [f"## {in_markdown(ranked.data.name)}", "", in_markdown(" ".join(ranked.summary)), ""]
    lines += [_table_row(heads), _table_row(rules)]
    for line in make_lines(ranked):
        cells = [line.cells[index] for index in columns]
        lines.append(_table_row([in_markdown("; ".join(filter(None, (cell.text, cell.note)))) for cell in cells]))
    lines += ["", *(f"- {in_markdown(warning)}" for warning in ranked.warnings)]
    return "\n".join(lines) + "\n"


def _table_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def in_markdown(text: str) -> str:
    """Outside text on one line, escaped for Markdown and HTML."""
    kept = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\`*[]|":
        kept = kept.replace(char, "\\" + char)
    return kept


def render_csv(rankings: Sequence[RankedRuns]) -> str:
    """One line for each run, all rankings in sequence; fractions in 0..1, plain numbers."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_FIELDS)
    for ranked in rankings:
        for row in ranked.rows:
            values = _csv_values(ranked, row)
            writer.writerow([in_csv(values[key]) for key in _CSV_FIELDS])
    return stream.getvalue()


def _csv_values(ranked: RankedRuns, row: Row) -> dict[str, object]:
    document = row.to_json()
    return document | {
        "data": ranked.data.name,
        "manifest": ranked.data.manifest_digest,
        "total_seconds": row.seconds.get("total"),
        "warnings": "; ".join(row.warnings),
    }


def render_json(rankings: Sequence[RankedRuns]) -> str:
    """One document: for each ranking its data, rows (as `rank --json` has them), summary and warnings."""
    document = {
        "schema": 1,
        "comparisons": [
            {
                "data": ranked.data.model_dump(mode="json"),
                "rows": [row.to_json() for row in ranked.rows],
                **ranked.findings.to_json(),
                "summary": " ".join(ranked.summary),
                "warnings": list(ranked.warnings),
            }
            for ranked in rankings
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
