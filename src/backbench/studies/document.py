"""The JSON document of a study: printed by `--json` and written beside its pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbench.documents import parse_json
from backbench.storage import read_file
from backbench.studies.run import Outcome
from backbench.studies.steps import Settings

DOCUMENT_FILE = "study.json"


def is_less_than_there(outcome: Outcome, settings: Settings) -> bool:
    """True if the interrupted run has fewer results than the existing report."""
    if not outcome.interrupted:
        return False
    try:
        there = _list_figures(parse_json(read_file(settings.pages / DOCUMENT_FILE)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return not there <= _list_figures(make_document(outcome, []))


def _list_figures(document: dict[str, Any]) -> set[tuple[Any, ...]]:
    """Each run of the document with each source that it was evaluated on."""
    keys = ("group", "data", "model", "method", "seed", "run_id")
    return {
        (*(cell[key] for key in keys), source)
        for cell in document["cells"]
        for source in (None, *cell["elsewhere"])
    }


def make_document(outcome: Outcome, written: Sequence[Path]) -> dict[str, Any]:
    """Return what `study run --json` prints; accuracies are from 0 to 1."""
    return {
        "schema": 1,
        "study": outcome.study.name,
        "cells": [
            {
                "group": cell.group,
                "data": cell.data,
                "model": cell.model,
                "method": cell.method,
                "seed": cell.seed,
                "run_id": cell.record.run_id,
                "bundle": str(cell.bundle),
                "metrics": {name: metric.model_dump() for name, metric in cell.record.metrics.items()},
                "fit": {name: metric.model_dump() for name, metric in cell.record.fit.items()},
                "elsewhere": {
                    name: found.metrics["accuracy"].model_dump() for name, found in cell.elsewhere.items()
                },
            }
            for cell in outcome.cells
        ],
        "files": [str(path) for path in written],
        "choices": outcome.describe_choices(),
        "failures": [str(undone) for undone in outcome.undone],
    }
