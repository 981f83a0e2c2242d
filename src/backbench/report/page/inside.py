"""What lies inside the models and their training: curves, maps, explanations, and data for the script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from backbench.report.page import charts
from backbench.report.page.inputs import Evidence, FeatureMap
from backbench.report.page.marks import Axis, make_axis, name
from backbench.report.ranked import RankedRuns

MAX_ANSWERS = 8
MAX_POINTS = 2000
_COLOURS = 5
_GROUPS = 2 * _COLOURS  # each colour as round and as square marks
_MAX_NAMED = 16


def draw_training(ranked: RankedRuns) -> list[dict[str, Any]]:
    """Two small charts for each phase of training, on common scales: accuracy and loss of both parts, the kept
    epoch marked."""
    phases = [
        (f"{name(entry.row.name, 60)}, phase {name(str(phase), 24)}", result)
        for entry in ranked.entries
        for phase, result in (entry.history or {}).items()
        if result["history"]
    ]
    epochs = [epoch for _, result in phases for epoch in result["history"]]
    last = max((float(epoch["epoch"]) for epoch in epochs), default=2.0)
    x_axis = make_axis([1.0, max(2.0, last)], least=1.0, most=max(2.0, last))
    shares = make_axis(
        [epoch[key] for epoch in epochs for key in ("train_accuracy", "val_accuracy") if math.isfinite(epoch[key])]
    )
    losses = [epoch[key] for epoch in epochs for key in ("train_loss", "val_loss") if math.isfinite(epoch[key])]
    loss_axis = make_axis(losses, most=max([1e-3, *losses]) * 2)
    return [
        {
            "label": label,
            "accuracy": _curve(result, "accuracy", x_axis, shares, lambda tick: f"{100 * tick:g}"),
            "loss": _curve(result, "loss", x_axis, loss_axis, lambda tick: f"{tick:g}"),
            "best": result["best_epoch"],
            "epochs": result["history"],
            "ended": name(result["ended"], 20),
        }
        for label, result in phases
    ]


def _curve(
    result: Mapping[str, Any], what: str, x_axis: Axis, y_axis: Axis, y_text: Callable[[float], str]
) -> Markup:
    train, val = (
        [
            (float(epoch["epoch"]), epoch[f"{part}_{what}"])
            for epoch in result["history"]
            if math.isfinite(epoch[f"{part}_{what}"])
        ]
        for part in ("train", "val")
    )
    return charts.draw_curves(
        [(train, "other dashed"), (val, "best")],
        x_axis,
        y_axis,
        x_text=lambda tick: f"{tick:g}",
        y_text=y_text,
        mark=next((point for point in val if point[0] == result["best_epoch"]), None),
    )


def show_inside(ranked: RankedRuns, evidence: Evidence) -> dict[str, Any]:
    """Maps of features, and the explanations of each image by every model."""
    by_image: dict[str, list[Any]] = {}
    for explanation in evidence.explanations:
        by_image.setdefault(explanation.image, []).append(explanation)
    place = {image: index for index, image in enumerate(ranked.ids)}
    truths = {image: ranked.classes[int(ranked.labels[place[image]])] for image in by_image if image in place}
    return {
        "maps": [_map(ranked, found, number) for number, found in enumerate(evidence.maps)],
        "explanations": [(name(image, 120), name(truths.get(image, "?"), 40), e) for image, e in by_image.items()],
    }


def _map(ranked: RankedRuns, found: FeatureMap, number: int) -> dict[str, Any]:
    """The cloud of one model: by true class while colours and shapes do, else all alike; wrong answers crossed.

    More classes than colours are named at their middles too.
    """
    entry = next((e for e in ranked.candidates if e.row.model == found.model), None)
    rows, positions = found.rows[:MAX_POINTS], found.positions[:MAX_POINTS]
    labels = ranked.labels[rows]
    wrong = np.zeros(len(rows), bool) if entry is None else entry.told[rows].argmax(axis=1) != labels
    num = len(ranked.classes)
    kinds = [f"g{index % _COLOURS}{' square' if index >= _COLOURS else ''}" for index in range(min(num, _GROUPS))]
    if num > _GROUPS:
        groups = [(positions.tolist(), "plain")]
    else:
        groups = [(positions[labels == index].tolist(), kind) for index, kind in enumerate(kinds)]
    names = _name_middles(ranked.classes, labels, positions) if num > _COLOURS else []
    keys = zip(kinds, ranked.classes, strict=True) if num <= _GROUPS else ()
    return {
        "number": number,
        "model": name(found.model, 60),
        "method": found.method,
        "drawing": charts.draw_cloud(groups, positions[wrong].tolist(), names),
        "keys": [(kind, "■" if "square" in kind else "●", name(label, 40)) for kind, label in keys],
        "num": len(rows),
        "num_wrong": int(wrong.sum()),
        "head": "" if entry is None else name(entry.row.how, 40),
    }


def _name_middles(
    classes: Sequence[str], labels: np.ndarray, positions: np.ndarray
) -> list[tuple[str, float, float]]:
    """(name, x, y): the largest classes at the medians of their points."""
    sizes = np.bincount(labels, minlength=len(classes))
    largest = [label for label in np.argsort(-sizes, kind="stable").tolist() if sizes[label]][:_MAX_NAMED]
    middles = [np.median(positions[labels == label], axis=0).tolist() for label in largest]
    return [(name(classes[label], 16), x, y) for label, (x, y) in zip(largest, middles, strict=True)]


def make_script_data(ranked: RankedRuns, evidence: Evidence, shown: Sequence[int], key: str) -> dict[str, Any]:
    """What the script needs beside the page itself: answers of the first rows for shown images, points of maps."""
    entries = ranked.candidates[:MAX_ANSWERS]
    images = {}
    for image in shown:
        told = [(int(entry.told[image].argmax()), entry.told[image]) for entry in entries]
        images[str(image)] = [
            [answer, round(float(p[answer]), 3), round(float(p[ranked.labels[image]]), 3)] for answer, p in told
        ]
    maps = []
    for found in evidence.maps:
        rows, positions = found.rows[:MAX_POINTS], found.positions[:MAX_POINTS]
        maps.append(
            {
                "x": np.rint(positions[:, 0] * 1000).astype(int).tolist(),
                "y": np.rint(positions[:, 1] * 1000).astype(int).tolist(),
                "class": ranked.labels[rows].tolist(),
                "row": rows.tolist(),
            }
        )
    return {
        "key": key,
        "rows": [name(entry.row.name, 60) for entry in entries],
        "classes": [name(label, 40) for label in ranked.classes],
        "images": images,
        "maps": maps,
    }
