"""A comparison as Markdown, CSV or JSON, for papers, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from backbench.report.page.inputs import Comparison
from backbench.report.page.ranking import COLUMNS, make_lines
from backbench.report.rows import Row
from backbench.report.text import in_csv, printable

_CSV_FIELDS = (
    "data", "manifest", "model", "method", "run_id", "status", "control", "rank_low", "rank_high",
    "tied_with_best", "accuracy", "low", "high", "n", "p_value", "per_class_mean", "top5", "nll", "total_seconds",
    "images_per_second", "peak_memory_bytes", "parameters", "flops", "licence", "precision", "warnings", "error",
    "difference",
)  # fmt: skip


def render_markdown(comparisons: Sequence[Comparison]) -> str:
    """A heading, the summary and a table for each comparison."""
    return "\n".join(_markdown(comparison) for comparison in comparisons)


def _markdown(comparison: Comparison) -> str:
    columns = [index for index, column in enumerate(COLUMNS) if not column.is_extra]
    heads = [
        COLUMNS[index].heading + (f" ({COLUMNS[index].unit})" * bool(COLUMNS[index].unit)) for index in columns
    ]
    rules = ["---:" if COLUMNS[index].is_number else "---" for index in columns]
    lines = [f"## {in_markdown(comparison.data.name)}", "", in_markdown(" ".join(comparison.summary)), ""]
    lines += [_table_row(heads), _table_row(rules)]
    for line in make_lines(comparison):
        cells = [line.cells[index] for index in columns]
        lines.append(_table_row([in_markdown("; ".join(filter(None, (cell.text, cell.note)))) for cell in cells]))
    lines += ["", *(f"- {in_markdown(warning)}" for warning in comparison.warnings)]
    return "\n".join(lines) + "\n"


def _table_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def in_markdown(text: str) -> str:
    """Text from outside on one line, with what Markdown or HTML would take for markup escaped."""
    kept = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\`*[]|":
        kept = kept.replace(char, "\\" + char)
    return kept


def render_csv(comparisons: Sequence[Comparison]) -> str:
    """One line for each run, all comparisons below one another; fractions in 0..1, plain numbers."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_FIELDS)
    for comparison in comparisons:
        for row in comparison.rows:
            values = _csv_values(comparison, row)
            writer.writerow([in_csv(values[key]) for key in _CSV_FIELDS])
    return stream.getvalue()


def _csv_values(comparison: Comparison, row: Row) -> dict[str, object]:
    document = row.to_json()
    return document | {
        "data": comparison.data.name,
        "manifest": comparison.data.manifest_digest,
        "total_seconds": row.seconds.get("total"),
        "warnings": "; ".join(row.warnings),
    }


def render_json(comparisons: Sequence[Comparison]) -> str:
    """One document: for each comparison its data, rows (as `rank --json` has them), summary and warnings."""
    document = {
        "schema": 1,
        "comparisons": [
            {
                "data": comparison.data.model_dump(mode="json"),
                "rows": [row.to_json() for row in comparison.rows],
                **comparison.findings.to_json(),
                "summary": " ".join(comparison.summary),
                "warnings": list(comparison.warnings),
            }
            for comparison in comparisons
        ],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
