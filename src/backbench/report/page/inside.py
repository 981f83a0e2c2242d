"""Training curves, maps, explanations, and data for the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backbench.report.charts.feature_map import choose_named, middles
from backbench.report.charts.training import epoch_axis, read_phases, training_chart, value_axis
from backbench.report.page.inputs import Evidence, FeatureMap
from backbench.report.page.marks import name
from backbench.report.page.svg import draw_chart, draw_cloud
from backbench.report.ranked import RankedRuns

MAX_ANSWERS = 8
MAX_POINTS = 2000
_COLOURS = 5
_GROUPS = 2 * _COLOURS  # each colour as round and as square marks


def draw_training(ranked: RankedRuns) -> list[dict[str, Any]]:
    """Two small charts for each phase of training, on common scales: training and validation accuracy and loss,
    with the kept epoch marked."""
    found = [
        (f"{name(entry.row.name, 60)}, phase {name(phase.name, 24)}", replace(phase, start=0), result["history"])
        for entry in ranked.entries
        for phase, result in zip(read_phases(entry.history or {}), (entry.history or {}).values(), strict=True)
        if phase.num_epochs
    ]
    phases = [phase for _, phase, _ in found]
    last = max((phase.num_epochs for phase in phases), default=1)
    x = epoch_axis(last, has_beginning=any(not phase.best for phase in phases))
    shares, losses = value_axis(phases, "accuracy"), value_axis(phases, "loss")
    return [
        {
            "label": label,
            "accuracy": draw_chart(training_chart([phase], "accuracy", x, shares)),
            "loss": draw_chart(training_chart([phase], "loss", x, losses)),
            "best": phase.best,
            "epochs": epochs,
            "ended": name(phase.ended, 20),
        }
        for label, phase, epochs in found
    ]


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
    """The cloud of one model: coloured by true class if colours suffice; wrong predictions are crosses.

    With more classes than colours, names are at the middles; of many classes only the most compact.
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
    named = choose_named(labels, [positions]) if num > _COLOURS else []
    names = [(name(ranked.classes[label], 16), x, y) for label, x, y in middles(labels, positions, named)]
    keys = zip(kinds, ranked.classes, strict=True) if num <= _GROUPS else ()
    return {
        "number": number,
        "model": name(found.model, 60),
        "method": found.method,
        "drawing": draw_cloud(groups, positions[wrong].tolist(), names),
        "keys": [(kind, "■" if "square" in kind else "●", name(label, 40)) for kind, label in keys],
        "num": len(rows),
        "num_wrong": int(wrong.sum()),
        "head": "" if entry is None else name(entry.row.how, 40),
    }


def make_script_data(ranked: RankedRuns, evidence: Evidence, shown: Sequence[int], key: str) -> dict[str, Any]:
    """Data for the script: predictions of the first rows for shown images, and points of maps."""
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
