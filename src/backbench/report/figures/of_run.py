"""Write the figures of run folders as files: of one run, and of several compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from backbench.errors import ConfigError
from backbench.records.folders import read_run, read_whole
from backbench.records.schema import Predictions, RunRecord
from backbench.report.figures.calibration import draw_coverage, draw_reliability
from backbench.report.figures.classes import draw_class_heat_map, draw_per_class
from backbench.report.figures.confusion import draw_confusion
from backbench.report.figures.curves import draw_learning_curves
from backbench.report.figures.scatter import draw_cost
from backbench.report.figures.style import FORMATS, save_figure
from backbench.report.rows import Row, make_rows
from backbench.stats.confusion import count_confusion
from backbench.stats.reliability import at_temperature
from backbench.storage import storage_error


def draw_run(
    record: RunRecord,
    predictions: Predictions | None,
    history: Mapping[str, Any] | None = None,
    *,
    theme: str = "light",
) -> dict[str, Figure]:
    """Every picture of one finished run, by name: confusion, classes, reliability, coverage, curves.

    If the run has a temperature, its confidences are calibrated, as in its bundle. Figures without data are left
    out.
    """
    name = f"{record.model_name} + {record.config.method.name}"
    figures: dict[str, Figure] = {}
    if predictions is not None and len(predictions.ids):
        labels, classes = predictions.labels, predictions.classes
        counts = count_confusion(labels, predictions.probabilities.argmax(axis=1), len(classes))
        choices = record.method.choices if record.method else {}
        probabilities = at_temperature(predictions.probabilities, record.temperature)
        threshold = choices.get("threshold")
        figures["confusion"] = draw_confusion(counts, classes, title=f"Confusion matrix of {name}", theme=theme)
        figures["reliability"] = draw_reliability(probabilities, labels, title=f"Is {name} honest?", theme=theme)
        figures["coverage"] = draw_coverage(
            probabilities,
            labels,
            float(threshold) if threshold else None,
            title=f"Accuracy of {name} if unsure predictions are left out",
            theme=theme,
        )
    if record.per_class:
        figures["classes"] = draw_per_class(record.per_class, title=f"Recall of each class: {name}", theme=theme)
    if history:
        figures["curves"] = draw_learning_curves(history, title=f"Learning curves of {name}", theme=theme)
    return figures


def draw_comparison(
    rows: Sequence[Row], records: Sequence[RunRecord], *, theme: str = "light"
) -> dict[str, Figure]:
    """Every picture of several runs on the same images: cost, and recall by class and model.

    Args:
        rows: of these records, see `rows.make_rows`.
    """
    figures = {"cost": draw_cost(rows, theme=theme)}
    by_id = {record.run_id: record for record in records if record.status == "done" and record.per_class}
    shown = [row for row in rows if row.run_id in by_id and not row.control]
    if shown:
        classes = by_id[shown[0].run_id].data.classes
        found = [by_id[row.run_id].per_class for row in shown]
        recalls = np.array([[each[name].value if name in each else np.nan for each in found] for name in classes])
        figures["class-heat-map"] = draw_class_heat_map(recalls, classes, [row.name for row in shown], theme=theme)
    return figures


def write_run_pictures(
    folder: Path, out: Path, formats: Sequence[str] = FORMATS, theme: str = "light"
) -> list[Path]:
    """Write every figure of one run folder into `out`; returns their paths.

    Args:
        folder: of a finished run. out: created if missing. formats: of 'svg', 'png'. theme: 'light' or 'dark'.

    Raises:
        ConfigError: not a run folder, a failed run, an unknown format or theme.
        StorageError: a file can't be read or written.
    """
    _check_formats(formats)
    run = read_run(folder)
    record = run.record
    if run.predictions is None:
        reason = f": {record.failure.message}" if record.failure else "."
        raise ConfigError(f"run '{record.run_id}' failed, so it has no figures{reason}")
    return _write(draw_run(record, run.predictions, run.history, theme=theme), out, formats)


def write_comparison_pictures(
    folders: Sequence[Path], out: Path, formats: Sequence[str] = FORMATS, theme: str = "light"
) -> list[Path]:
    """Write the figures that compare several runs on one manifest into `out`; returns their paths.

    Raises:
        ConfigError: no folders, no run folder among them, runs on different manifests, an unknown format or theme.
        DataError, StorageError: see `rows.make_rows` and `records.folders`.
    """
    _check_formats(formats)
    if not folders:
        raise ConfigError("no runs to compare: give at least one run folder.")
    runs = [read_whole(folder) for folder in folders]
    records = [record for record, _ in runs]
    rows = make_rows(records, [predictions for _, predictions in runs])
    return _write(draw_comparison(rows, records, theme=theme), out, formats)


def _check_formats(formats: Sequence[str]) -> None:
    for kind in formats:
        if kind not in FORMATS:
            raise ConfigError(f"unknown picture format '{kind}'. Allowed: {', '.join(FORMATS)}.")


def _write(figures: Mapping[str, Figure], out: Path, formats: Sequence[str]) -> list[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(out, error) from error
    paths = []
    for name, figure in figures.items():
        for kind in formats:
            paths.append(out / f"{name}.{kind}")
            save_figure(figure, paths[-1])
    return paths
