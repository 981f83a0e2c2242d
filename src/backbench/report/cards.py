"""Markdown cards from records: of the best model of each ranking, and of its data."""

from __future__ import annotations

from collections.abc import Sequence

from backbench.report.export import in_markdown
from backbench.report.page.origin import describe_methods, repeat_commands
from backbench.report.ranked import Entry, RankedRuns
from backbench.report.text import percent
from backbench.report.warning_text import are_groups_whole
from backbench.stats.metrics import weakest_first
from backbench.wording import count

_FIGURES = (
    ("accuracy", "Accuracy"),
    ("top5", "Top-5 accuracy"),
    ("per_class_mean", "Mean recall of the classes"),
    ("macro_f1", "Macro F1"),
    ("ece", "Calibration error"),
)
_WEAKEST = 5


def render_model_card(rankings: Sequence[RankedRuns]) -> str:
    """Markdown: the best model, its metrics with intervals, limits, licence, and commands to repeat it."""
    return "\n".join(_model_card(ranked) for ranked in rankings)


def _model_card(ranked: RankedRuns) -> str:
    best = ranked.recommended
    if best is None:
        heading = f"# No model for {in_markdown(ranked.data.name)}"
        return f"{heading}\n\n" + " ".join(in_markdown(sentence) for sentence in ranked.summary) + "\n"
    model, row = best.record.model, best.row
    lines = [f"# {in_markdown(row.name)} on {in_markdown(ranked.data.name)}", ""]
    lines += [in_markdown(sentence) for sentence in ranked.summary]
    if model is not None:
        lines += [
            "",
            f"- Architecture: {in_markdown(model.architecture)}, {model.num_parameters / 1e6:.1f} M parameters",
            f"- Pretrained on: {in_markdown(model.pretrained_on or 'nothing')}",
            f"- Licence of the weights: {in_markdown(model.licence or 'not stated')}",
            f"- Weights: {in_markdown(model.source or 'local')}, digest {model.weights_digest[:16]}",
        ]
    lines += ["", "## Figures", "", _figures(best), "", "## Weakest classes", "", *_weakest(best)]
    lines += [
        "",
        "## Limits",
        "",
        *_limits(ranked, best),
        "",
        "## Made with",
        "",
        in_markdown(describe_methods(ranked)),
    ]
    lines += ["", *(f"    {command}" for command in repeat_commands(ranked))]
    return "\n".join(lines) + "\n"


def _figures(best: Entry) -> str:
    lines = ["| figure | % | 95 % interval | n |", "| --- | ---: | ---: | ---: |"]
    for key, label in _FIGURES:
        metric = best.record.served_metric(key)
        if metric is not None:
            if key == "ece" and best.record.is_tempered:
                label += ", calibrated" if "calibrated_ece" in best.record.metrics else ", uncalibrated"
            ends = [percent(end, metric.n, unit=False) for end in (metric.low, metric.high) if end is not None]
            lines.append(
                f"| {label} | {percent(metric.value, metric.n, unit=False)} | {' to '.join(ends)} | {metric.n:,} |"
            )
    return "\n".join(lines)


def _weakest(best: Entry) -> list[str]:
    weakest = weakest_first(best.record.per_class)[:_WEAKEST]
    return [f"- {in_markdown(name)}: {100 * metric.value:.0f} % of {metric.n}" for name, metric in weakest]


def _limits(ranked: RankedRuns, best: Entry) -> list[str]:
    found = [
        "- It predicts one of its classes for any image, even if the image shows something else.",
        "- The metrics are valid for images like those of the test split.",
    ]
    return found + [f"- {in_markdown(text)}" for text in (*ranked.warnings, *best.row.warnings)]


def render_data_card(rankings: Sequence[RankedRuns]) -> str:
    """Markdown: the images, their splits, images left out, and shortcut baselines."""
    return "\n".join(_data_card(ranked) for ranked in rankings)


def _data_card(ranked: RankedRuns) -> str:
    data, details = ranked.data, ranked.details
    is_whole = are_groups_whole(ranked.warnings)
    where = "Groups, each in one split" if is_whole else "Groups, some of them in several splits"
    opened = "not known" if details.num_openings is None else count(details.num_openings, "time")
    lines = [
        f"# {in_markdown(data.name)}",
        "",
        f"{count(data.num_train + data.num_val + data.num_test, 'image')} of {len(data.classes)} classes: "
        f"{data.num_train:,} for training, {data.num_val:,} for validation, {data.num_test:,} for testing.",
        "",
        f"- {where}: {data.num_groups if data.num_groups else 'none known'}",
        f"- Left out as broken: {data.num_skipped}",
        f"- Test-set evaluations: {opened}",
        f"- Manifest: {data.manifest_digest}",
        f"- Images: {data.image_digest}",
        "",
        "## Classes",
        "",
        "| class | train | validation | test |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in data.classes:
        sizes = details.counts.get(name)
        shown = " | ".join(str(size) for size in sizes) if sizes is not None else " | | "
        lines.append(f"| {in_markdown(name)} | {shown} |")
    controls = [row for row in ranked.rows if row.control and row.accuracy is not None]
    if controls:
        lines += ["", "## Controls", ""]
        lines += [f"- {in_markdown(row.model)}: {percent(row.accuracy, row.n)}" for row in controls]
    lines += ["", "## Warnings", "", *(f"- {in_markdown(warning)}" for warning in ranked.warnings or ("none",))]
    return "\n".join(lines) + "\n"
