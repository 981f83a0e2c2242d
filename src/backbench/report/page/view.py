"""The view of a ranking for the template: sentences, lines, drawings and tables, without further decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from backbench.report.charts.confidence import coverage_chart, reliability_chart
from backbench.report.charts.cost import SECONDS, cost_chart, pareto_front
from backbench.report.page import doubt, faults, inside, origin, ranking
from backbench.report.page.classes import show_classes, show_matrix
from backbench.report.page.inputs import Evidence
from backbench.report.page.marks import name, points, sentence
from backbench.report.page.svg import draw_chart, draw_scale
from backbench.report.ranked import Entry, RankedRuns
from backbench.report.text import percent
from backbench.wording import count

MAX_THUMBNAILS = 150
MAX_TRUSTED = 4


@dataclass(frozen=True)
class Picture:
    """One test image on the page: its place in the ranking, its id, true class and prediction.

    `pair` is its cell of the confusion matrix, by the places of both classes.
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
        return f"true {self.truth}, predicted {self.answer}, {self.confidence}"


def wanted_images(ranked: RankedRuns) -> list[str]:
    """Ids of the test images that the page shows, most informative first; at most 150."""
    found = faults.find_faults(ranked)
    return [] if found is None else [ranked.ids[image] for image in found.images()[:MAX_THUMBNAILS]]


def make_view(ranked: RankedRuns, evidence: Evidence, *, key: str) -> dict[str, Any]:
    """All content of one ranking for the template; `key` is the prefix of its ids in the page."""
    found = faults.find_faults(ranked)
    lines, curves = ranking.make_lines(ranked), inside.draw_training(ranked)
    shown = _choose_pictures(ranked, found, evidence)
    return {
        "key": key,
        "data": ranked.data,
        **_sentences(ranked),
        "boxes": [ranking.describe_winner(ranked, evidence), ranking.describe_certainty(ranked)],
        "urgent": ranking.choose_warnings(ranked),
        "checked": ranking.describe_checks(ranked),
        "warnings": [sentence(name(warning, 600)) for warning in ranked.warnings],
        "lines": lines,
        "plotted": ranking.choose_plotted(lines),
        "is_cut_on_phones": ranking.is_cut_on_phones(lines),
        "num_left_out": sum(line.kind == "other" for line in lines)
        - sum(line.kind == "other" for line in ranking.choose_plotted(lines)),
        "scale": draw_scale(ranking.decide_axis(ranked.rows)),
        "columns": ranking.COLUMNS,
        "failures": [line for line in lines if line.kind == "failed"],
        "controls": [line for line in lines if line.kind == "control"],
        "best": ranked.best.row if ranked.best is not None else None,
        "cost": _cost(ranked),
        "faults": None if found is None else _faults(ranked, found, shown),
        "sure": _sure(ranked),
        "curves": curves,
        "num_curves_drawn": sum(len(curve["epochs"]) > 1 for curve in curves),
        "has_tempered": any(entry.record.is_tempered for entry in ranked.entries),
        "inside": inside.show_inside(ranked, evidence),
        "origin": {
            "settings": origin.compare_settings(ranked),
            "environment": origin.compare_environments(ranked),
            "commands": origin.repeat_commands(ranked, evidence.root),
            "keep": origin.keep_commands(ranked, evidence),
            "methods": origin.describe_methods(ranked),
            "counts": [(name(label), *sizes) for label, sizes in ranked.details.counts.items()],
            "openings": ranked.details.num_openings,
            "skipped": [(name(path, 200), name(reason, 200)) for path, reason in ranked.details.skipped[:50]],
            "num_skipped": max(ranked.data.num_skipped, len(ranked.details.skipped)),
        },
        "notes": [name(note, 400) for note in evidence.notes],
        "thumbnails": [(f"{key}-t{index}", evidence.thumbnails[ranked.ids[index]]) for index in shown],
        "script_data": inside.make_script_data(ranked, evidence, shown, key),
    }


def _sentences(ranked: RankedRuns) -> dict[str, Any]:
    """The summary in three parts: the verdict, additions on the first screen, and doubts for later."""
    verdict, *rest = ranked.sentences
    return {
        "verdict": _shown(verdict.text),
        "lead": [_shown(sentence.text) for sentence in rest if sentence.place == "lead"],
        "caveats": [_shown(sentence.text) for sentence in rest if sentence.place == "caveat"],
    }


def _shown(sentence: str) -> str:
    return name(sentence, 700).replace(" %", "\u00a0%")


def _choose_pictures(ranked: RankedRuns, found: faults.Faults | None, evidence: Evidence) -> list[int]:
    """The images with a thumbnail, most informative first."""
    if found is None:
        return []
    chosen = [image for image in found.images() if ranked.ids[image] in evidence.thumbnails]
    return chosen[:MAX_THUMBNAILS]


def _cost(ranked: RankedRuns) -> dict[str, Any]:
    costs = ranking.list_costs(ranked)
    return {
        "conclusion": ranking.conclude_cost(ranked),
        "points": costs,
        "front": [point.label for point in pareto_front(costs)],
        "chart": draw_chart(cost_chart(costs, SECONDS), "tall") if len(costs) > 1 else Markup(""),
        "stages": ranking.split_time(ranked),
    }


def _picture(ranked: RankedRuns, entry: Entry, image: int, *, has_thumbnail: bool, note: str) -> Picture:
    told = entry.told[image]
    answer = int(told.argmax())
    return Picture(
        index=image,
        id=name(ranked.ids[image], 120),
        has_thumbnail=has_thumbnail,
        truth=name(ranked.classes[int(ranked.labels[image])], 40),
        answer=name(ranked.classes[answer], 40),
        confidence=f"{float(told[answer]):.2f}",
        pair=f"{int(ranked.labels[image])}|{answer}",
        note=note,
    )


def _faults(ranked: RankedRuns, found: faults.Faults, shown: Sequence[int]) -> dict[str, Any]:
    best = ranked.candidates[[entry.row.is_best for entry in ranked.candidates].index(True)]
    labels = [name(label, 40) for label in ranked.classes]
    num_rows = len(ranked.candidates)

    def picture(image: int, note: str = "") -> Picture:
        return _picture(ranked, best, image, has_thumbnail=image in shown, note=note)

    return {
        "conclusion": _conclude_faults(ranked, found, labels),
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
            picture(image, f"{votes} of {num_rows} rows predict {labels[answer]}")
            for image, answer, votes in found.shared
        ],
        "alone": [
            (name(ranked.candidates[alone.row].row.name, 70), alone.count, [picture(i) for i in alone.images])
            for alone in found.alone
        ],
        "num_rows": num_rows,
        "ensemble": _describe_ensemble(ranked, found),
        **show_classes(ranked, found, labels),
        "matrix": show_matrix(found, labels),
    }


def _conclude_faults(ranked: RankedRuns, found: faults.Faults, labels: Sequence[str]) -> str:
    n = len(ranked.labels)
    if not found.num_wrong:
        return f"The best row predicts all {count(n, 'test image')} correctly."
    text = f"The best row is wrong on {found.num_wrong:,} of {count(n, 'test image')}"
    if found.pairs:
        pair = found.pairs[0]
        text += (
            f"; most often it predicts {labels[pair.answer]} for {labels[pair.truth]} ({pair.count} of {pair.n})"
        )
    return text + "."


def _describe_ensemble(ranked: RankedRuns, found: faults.Faults) -> str:
    if found.ensemble is None:
        return ""
    accuracy, gained, lost = found.ensemble
    n = len(ranked.labels)
    return (
        f"Averaging the probabilities of the best rows of up to three models gives {percent(accuracy, n)} "
        f"accuracy: {gained} images more and {lost} fewer correct than the best row alone. It was chosen on these "
        "images, so expect slightly less."
    )


def _sure(ranked: RankedRuns) -> dict[str, Any]:
    pairs = doubt.compare_pairs(ranked)
    entries = ranked.candidates[: doubt.MAX_PAIRED_ROWS]
    names = [name(entry.row.name, 60) for entry in entries]
    separated = sum(cell.p_value < 0.05 for (a, b), cell in pairs.items() if a < b)
    total = len(pairs) // 2
    of_best = f" (the {len(entries)} best)" if len(ranked.candidates) > len(entries) else ""
    trusted = [entry for entry in ranked.candidates if entry.row.tied_with_best][:MAX_TRUSTED]
    trust = [(name(entry.row.name, 60), doubt.measure_trust(entry, ranked.labels)) for entry in trusted]
    return {
        "conclusion": f"{separated} of {count(total, 'pair')} of rows{of_best} differ significantly here."
        if total
        else "There is only one row, so there is no comparison: add a second model.",
        "names": names,
        "pairs": [[_pair_cell(pairs.get((a, b))) for b in range(len(entries))] for a in range(len(entries))],
        "trust": [
            (label, found, draw_chart(reliability_chart(found.bins), "square"), _describe_trust(found))
            for label, found in trust
        ],
        "coverage": draw_chart(coverage_chart([found.curve for _, found in trust])) if trust else Markup(""),
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
        "word": "not significant" if not apart else "better" if cell.gap > 0 else "worse",
        "only": f"{cell.only_a} / {cell.only_b}",
    }


def _describe_trust(found: doubt.Trust) -> str:
    off = abs(100 * found.gap)
    way = "overconfident" if found.gap > 0 else "underconfident"
    text = f"On average {off:.1f} points {way}" if off >= 0.5 else "On average well calibrated"
    text += f"; calibration error {100 * found.calibration_error:.1f} %"
    text += ", calibrated." if found.is_tempered else "."
    if found.target_coverage is not None:
        share = f"{100 * found.target_coverage:.0f} %"
        text += f" On the {share} most confident images it is correct in {100 * doubt.TARGET:.0f} %."
    return text
