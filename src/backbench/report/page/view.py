"""A comparison as the template wants it: sentences, lines, drawings and tables, nothing left to decide there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from backbench.report.page import charts, doubt, faults, inside, origin, ranking
from backbench.report.page.classes import show_classes, show_matrix
from backbench.report.page.inputs import Comparison, Entry, Evidence
from backbench.report.page.marks import Axis, make_axis, name, points, sentence
from backbench.report.summary import lead_sentences
from backbench.report.text import percent
from backbench.wording import count

MAX_THUMBNAILS = 150
MAX_TRUSTED = 4


@dataclass(frozen=True)
class Picture:
    """One test image on the page: its place in the comparison, its id, what is true and what was answered.

    `pair` is the cell of the confusion matrix it belongs to, by the places of both classes.
    """

    index: int
    id: str
    has_thumbnail: bool
    truth: str
    answer: str
    confidence: str
    pair: str
    note: str = ""

    @property
    def words(self) -> str:
        """The text alternative."""
        return f"true {self.truth}, answered {self.answer}, {self.confidence}"


def wanted_images(comparison: Comparison) -> list[str]:
    """Ids of the test images that the page shows, the most telling first; at most 150."""
    found = faults.find_faults(comparison)
    return [] if found is None else [comparison.ids[image] for image in found.images()[:MAX_THUMBNAILS]]


def make_view(comparison: Comparison, evidence: Evidence, *, key: str) -> dict[str, Any]:
    """Everything the template shows of one comparison; `key` begins every id in the page."""
    found = faults.find_faults(comparison)
    lines, curves = ranking.make_lines(comparison), inside.draw_training(comparison)
    shown = _choose_pictures(comparison, found, evidence)
    return {
        "key": key,
        "data": comparison.data,
        **_sentences(comparison),
        "boxes": [ranking.describe_winner(comparison, evidence), ranking.describe_certainty(comparison)],
        "urgent": ranking.choose_warnings(comparison),
        "checked": ranking.describe_checks(comparison),
        "warnings": [sentence(name(warning, 600)) for warning in comparison.warnings],
        "lines": lines,
        "plotted": ranking.choose_plotted(lines),
        "is_cut_on_phones": ranking.is_cut_on_phones(lines),
        "num_left_out": sum(line.kind == "other" for line in lines)
        - sum(line.kind == "other" for line in ranking.choose_plotted(lines)),
        "scale": charts.draw_scale(ranking.decide_axis(comparison.rows)),
        "columns": ranking.COLUMNS,
        "failures": [line for line in lines if line.kind == "failed"],
        "controls": [line for line in lines if line.kind == "control"],
        "best": comparison.best.row if comparison.best is not None else None,
        "cost": _cost(comparison),
        "faults": None if found is None else _faults(comparison, found, shown),
        "sure": _sure(comparison),
        "curves": curves,
        "num_curves_drawn": sum(len(curve["epochs"]) > 1 for curve in curves),
        "has_tempered": any(entry.record.is_tempered for entry in comparison.entries),
        "inside": inside.show_inside(comparison, evidence),
        "origin": {
            "settings": origin.compare_settings(comparison),
            "environment": origin.compare_environments(comparison),
            "commands": origin.repeat_commands(comparison, evidence.root),
            "keep": origin.keep_commands(comparison, evidence),
            "methods": origin.describe_methods(comparison),
            "counts": [(name(label), *sizes) for label, sizes in comparison.details.counts.items()],
            "openings": comparison.details.num_openings,
            "skipped": [(name(path, 200), name(reason, 200)) for path, reason in comparison.details.skipped[:50]],
            "num_skipped": max(comparison.data.num_skipped, len(comparison.details.skipped)),
        },
        "notes": [name(note, 400) for note in evidence.notes],
        "thumbnails": [(f"{key}-t{index}", evidence.thumbnails[comparison.ids[index]]) for index in shown],
        "script_data": inside.make_script_data(comparison, evidence, shown, key),
    }


def _sentences(comparison: Comparison) -> dict[str, Any]:
    """The summary in three parts: the verdict, what the first screen adds to it, what the doubts say later."""
    first, *rest = comparison.summary
    of_lead = lead_sentences(comparison.findings)
    lead, caveats = [text for text in rest if text in of_lead], [text for text in rest if text not in of_lead]
    return {"verdict": _shown(first), "lead": list(map(_shown, lead)), "caveats": list(map(_shown, caveats))}


def _shown(sentence: str) -> str:
    return name(sentence, 700).replace(" %", "\u00a0%")


def _choose_pictures(comparison: Comparison, found: faults.Faults | None, evidence: Evidence) -> list[int]:
    """The images to show that have a thumbnail, the most telling first."""
    if found is None:
        return []
    chosen = [image for image in found.images() if comparison.ids[image] in evidence.thumbnails]
    return chosen[:MAX_THUMBNAILS]


def _cost(comparison: Comparison) -> dict[str, Any]:
    points_ = ranking.cost_points(comparison)
    return {
        "conclusion": ranking.conclude_cost(comparison),
        "points": points_,
        "front": [point.label for point in charts.pareto_front(points_)],
        "chart": charts.draw_costs(points_) if len(points_) > 1 else Markup(""),
        "stages": ranking.split_time(comparison),
    }


def _picture(comparison: Comparison, entry: Entry, image: int, *, has_thumbnail: bool, note: str) -> Picture:
    told = entry.told[image]
    answer = int(told.argmax())
    return Picture(
        index=image,
        id=name(comparison.ids[image], 120),
        has_thumbnail=has_thumbnail,
        truth=name(comparison.classes[int(comparison.labels[image])], 40),
        answer=name(comparison.classes[answer], 40),
        confidence=f"{float(told[answer]):.2f}",
        pair=f"{int(comparison.labels[image])}|{answer}",
        note=note,
    )


def _faults(comparison: Comparison, found: faults.Faults, shown: Sequence[int]) -> dict[str, Any]:
    best = comparison.ranked[[entry.row.is_best for entry in comparison.ranked].index(True)]
    labels = [name(label, 40) for label in comparison.classes]
    num_rows = len(comparison.ranked)

    def picture(image: int, note: str = "") -> Picture:
        return _picture(comparison, best, image, has_thumbnail=image in shown, note=note)

    return {
        "conclusion": _conclude_faults(comparison, found, labels),
        "num_wrong": found.num_wrong,
        "num_pairs": found.num_pairs,
        "wrong": [picture(image) for image in found.wrong],
        "unsure": [picture(image) for image in found.unsure],
        "pairs": [
            (labels[pair.truth], labels[pair.answer], pair, [picture(image) for image in pair.images])
            for pair in found.pairs
        ],
        "num_shared": found.num_shared,
        "shared": [
            picture(image, f"{votes} of {num_rows} rows say {labels[answer]}")
            for image, answer, votes in found.shared
        ],
        "alone": [
            (name(comparison.ranked[alone.row].row.name, 70), alone.count, [picture(i) for i in alone.images])
            for alone in found.alone
        ],
        "num_rows": num_rows,
        "ensemble": _describe_ensemble(comparison, found),
        **show_classes(comparison, found, labels),
        "matrix": show_matrix(found, labels),
    }


def _conclude_faults(comparison: Comparison, found: faults.Faults, labels: Sequence[str]) -> str:
    n = len(comparison.labels)
    if not found.num_wrong:
        return f"The best row gets none of the {count(n, 'test image')} wrong."
    text = f"The best row gets {found.num_wrong:,} of {count(n, 'test image')} wrong"
    if found.pairs:
        pair = found.pairs[0]
        text += f"; most often it takes {labels[pair.truth]} for {labels[pair.answer]} ({pair.count} of {pair.n})"
    return text + "."


def _describe_ensemble(comparison: Comparison, found: faults.Faults) -> str:
    if found.ensemble is None:
        return ""
    accuracy, gained, lost = found.ensemble
    n = len(comparison.labels)
    return (
        f"Averaging the probabilities of the best rows of up to three models is right on {percent(accuracy, n)}: "
        f"{gained} more and {lost} fewer than the best row alone. "
        "It was picked on these images, so expect a little less."
    )


def _sure(comparison: Comparison) -> dict[str, Any]:
    pairs = doubt.compare_pairs(comparison)
    entries = comparison.ranked[: doubt.MAX_PAIRED_ROWS]
    names = [name(entry.row.name, 60) for entry in entries]
    separated = sum(cell.p_value < 0.05 for (a, b), cell in pairs.items() if a < b)
    total = len(pairs) // 2
    trusted = [entry for entry in comparison.ranked if entry.row.tied_with_best][:MAX_TRUSTED]
    trust = [(name(entry.row.name, 60), doubt.measure_trust(entry, comparison.labels)) for entry in trusted]
    axis = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    return {
        "conclusion": f"{separated} of {count(total, 'pair')} of rows differ significantly on these test images."
        if total
        else "There is one row only, so nothing is compared: add a second model.",
        "names": names,
        "pairs": [[_pair_cell(pairs.get((a, b))) for b in range(len(entries))] for a in range(len(entries))],
        "trust": [
            (label, found, charts.draw_reliability(found.bins), _describe_trust(found)) for label, found in trust
        ],
        "coverage": _coverage(trust, axis),
        "target": f"{100 * doubt.TARGET:.0f} %",
    }


def _pair_cell(cell: doubt.PairCell | None) -> dict[str, str] | None:
    if cell is None:
        return None
    apart = cell.p_value < 0.05
    return {
        "gap": points(cell.gap),
        "range": f"{points(cell.low)} to {points(cell.high)}",
        "p": f"{cell.p_value:.3f}" if cell.p_value >= 0.001 else "< 0.001",
        "kind": "" if not apart else "better" if cell.gap > 0 else "worse",
        "word": "tied" if not apart else "better" if cell.gap > 0 else "worse",
        "only": f"{cell.only_a} / {cell.only_b}",
    }


def _describe_trust(found: doubt.Trust) -> str:
    off = abs(100 * found.gap)
    way = "too sure" if found.gap > 0 else "too modest"
    text = f"On average {off:.1f} points {way}" if off >= 0.5 else "On average honest"
    text += f"; calibration error {100 * found.calibration_error:.1f} %"
    text += ", after the temperature." if found.is_tempered else "."
    if found.target_coverage is not None:
        share = f"{100 * found.target_coverage:.0f} %"
        text += f" It can answer {share} of the images and be right on {100 * doubt.TARGET:.0f} % of those."
    return text


def _coverage(trust: Sequence[tuple[str, doubt.Trust]], axis: Axis) -> Markup:
    if not trust:
        return Markup("")
    values = [accuracy for _, found in trust for share, accuracy in found.curve if share > 0.05]
    kinds = ("best", "pinned", "other", "other dashed")
    return charts.draw_curves(
        [(found.curve, kinds[place]) for place, (_, found) in enumerate(trust)],
        axis,
        make_axis([*values, 1.0]),
        x_text=lambda tick: f"{100 * tick:.0f}",
        y_text=lambda tick: f"{100 * tick:.0f}",
        mark=trust[0][1].at_threshold,
    )
