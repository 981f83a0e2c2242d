"""Makes the tables of a study's data sets and results. Pure, from records."""

from __future__ import annotations

from collections.abc import Sequence

from backbench.report.markdown import Table
from backbench.studies.analysis.cells import Cell, find_fit_remarks, mark_seen, name_data, over_seeds, show_figure
from backbench.studies.analysis.wording import PROBE_SECONDS, SIZE_NOTE, TRAINING_SECONDS, describe_facts

FIT = {
    "train_accuracy": "training accuracy",
    "val_accuracy": "validation accuracy",
    "train_nll": "training loss",
    "val_nll": "validation loss",
}
PARTS = ("train", "val", "test")


def make_data_table(cells: Sequence[Cell]) -> Table:
    """Images of each split of every data set and their most common size; other sources of evaluation."""
    rows: dict[str, tuple[str, ...]] = {}
    for cell in cells:
        facts = cell.record.data
        parts = (facts.num_train, facts.num_val, facts.num_test)
        shown = (cell.data, *(f"{num:,}" for num in (*parts, sum(parts), len(facts.classes))))
        sizes = [_show_size(facts.common_sizes.get(part), num) for part, num in zip(PARTS, parts, strict=True)]
        rows.setdefault(f"{cell.data} {parts}", (*shown, *sizes))
    for cell in cells:
        for source, found in cell.elsewhere.items():
            classes = f"{len(found.mapping):,} in common with {cell.data}"
            shown = (source, "-", "-", f"{found.num_images:,}", f"{found.num_images:,}", classes)
            size = _show_size(found.common_size, found.num_images)
            rows.setdefault(f"{source} {cell.data}", (*shown, "-", "-", size))
    columns = ("images", "train", "validation", "test", "total", "classes")
    more = ("most common size in train", "in validation", "in test")
    return Table("Data", columns + more, tuple(rows.values()), (SIZE_NOTE,))


def _show_size(size: tuple[int, int, int] | None, num_images: int) -> str:
    """'640 x 480 (12 %)'; '-' if the record has no size."""
    if size is None or not num_images:
        return "-"
    width, height, num = size
    share = f"{100 * num / num_images:.0f} %" if num < num_images else "all"
    return f"{width:,} x {height:,} ({share})"


def make_group_tables(cells: Sequence[Cell]) -> list[Table]:
    """For each group: test accuracy with its interval, and seconds, by model, method and data set."""
    tables = []
    for group in dict.fromkeys(cell.group for cell in cells):
        own = [cell for cell in cells if cell.group == group]
        data = list(dict.fromkeys(cell.data for cell in own))
        columns = (
            "model",
            "method",
            *(f"{name}, {what}" for name in data for what in ("test accuracy", "seconds")),
        )
        rows = []
        for model, method in dict.fromkeys((cell.model, cell.method) for cell in own):
            row = [model, method]
            for name in data:
                found = [cell for cell in own if (cell.model, cell.method, cell.data) == (model, method, name)]
                row += [over_seeds(found, "accuracy"), over_seeds(found, "seconds")]
            rows.append(tuple(row))
        tables.append(Table(group, columns, tuple(rows), _describe_seconds(own)))
        tables += _make_fit_table(group, own) + _make_elsewhere_table(group, own)
    return tables


def _describe_seconds(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Notes on the seconds of probes and of methods that train, for the kinds that there are."""
    costs = [cell.record.cost for cell in cells if cell.record.cost is not None]
    trained = ["fit" in cost.seconds for cost in costs]
    return (PROBE_SECONDS,) * (not all(trained)) + (TRAINING_SECONDS,) * any(trained)


def _make_fit_table(group: str, cells: Sequence[Cell]) -> list[Table]:
    """Training and validation figures of runs that have them."""
    with_fit = [cell for cell in cells if cell.record.fit]
    if not with_fit:
        return []
    rows = [
        (cell.model, cell.method, name_data(cell, cells), *(_show_fit(cell, name) for name in FIT))
        for cell in with_fit
    ]
    columns = ("model", "method", "data", *FIT.values())
    notes = describe_facts(find_fit_remarks([cell for cell in with_fit if cell.recipe]))
    return [Table(f"{group}: training and validation", columns, tuple(rows), notes)]


def _show_fit(cell: Cell, name: str) -> str:
    if cell.figure(name) is None and cell.kept_start:
        return "- (no epoch was better)"
    return show_figure(name, cell.figure(name)) + mark_seen(name, [cell])


def _make_elsewhere_table(group: str, cells: Sequence[Cell]) -> list[Table]:
    rows, notes = [], {}
    for cell in cells:
        own = over_seeds([cell], "accuracy")
        for source, found in cell.elsewhere.items():
            there = show_figure("accuracy", found.metrics["accuracy"])
            run = (cell.model, cell.method, name_data(cell, cells))
            rows.append((*run, own, source, there, f"{found.num_images:,}"))
            pairs = ", ".join(f"{theirs} = {ours}" for theirs, ours in sorted(found.mapping.items()))
            notes[f"Classes of {source} that {cell.data} has too ({len(found.mapping):,}): {pairs}"] = True
    if not rows:
        return []
    columns = ("model", "method", "trained on", "own test split", "other source", "accuracy there", "images")
    return [Table(f"{group}: cross-dataset evaluation", columns, tuple(rows), tuple(notes))]
