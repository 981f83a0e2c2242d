"""Rankings, runs and classifiers as HTML for notebooks: no script, no request, every name escaped.

A notebook's colour scheme may differ from the system's, so text and lines use the surrounding colour, and the two
hues of marks are readable on light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from backbench.progress import format_bytes
from backbench.records.schema import ModelFacts, StoredRun
from backbench.report.charts.chart import make_axis
from backbench.report.page.inside import draw_training
from backbench.report.page.marks import join_marks, name, tag
from backbench.report.page.ranking import COLUMNS, Line, decide_axis, make_lines
from backbench.report.page.svg import draw_scale, draw_whisker
from backbench.report.ranked import RankedRuns, rank_runs
from backbench.report.record_text import describe_record
from backbench.report.row_text import show_interval
from backbench.report.text import percent, quantity
from backbench.stats.calibrate import is_calibrated
from backbench.stats.metric import Metric
from backbench.stats.metrics import weakest_first
from backbench.wording import count, join_names

MAX_LINES = 30
MAX_CLASSES = 12
NUM_WEAKEST = 5
_LONGEST_TEXT = 600
_COLUMNS = ("rank", "model", "method", "accuracy", "interval", "size", "rate", "seconds", "mark")
_SHARES = {"accuracy": "Accuracy", "top5": "Top-5", "per_class_mean": "Class mean", "macro_f1": "Macro F1"}
_DRAWN = ("Accuracy", "Top-5", "Class mean", "Macro F1", "Weakest classes", "Warning")

_KEEP = "<p>Keep this model: .recommended.keep()</p>"

_STYLE = """
.backbench{font-size:13px;line-height:1.45;max-width:1100px;overflow-x:auto}
.backbench p{margin:4px 0;max-width:90ch;overflow-wrap:anywhere}.backbench .lead{font-size:15px;font-weight:600}
.backbench .soft,.backbench thead th,.backbench dt{opacity:.75}
.backbench table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums;color:inherit}
.backbench tr{background:none!important}
.backbench th,.backbench td{text-align:left;font-weight:400;padding:2px 14px 2px 0;border:0;vertical-align:middle}
.backbench tbody th{overflow-wrap:break-word;min-width:7em;max-width:24em}.backbench td{white-space:nowrap}
.backbench thead th,.backbench tr.apart>*{border-bottom:1px solid rgba(128,128,128,.5)}
.backbench .number{text-align:right}.backbench tr.best>*{font-weight:600}
.backbench .note{white-space:normal;min-width:14em;max-width:26em}
.backbench ul{margin:4px 0;padding-left:18px}.backbench li{overflow-wrap:anywhere}
.backbench .warning{border-left:3px solid #C46A00;padding-left:10px;margin:8px 0}
.backbench dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:2px 14px;margin:8px 0}
.backbench dt,.backbench dd{margin:0;font-weight:400;overflow-wrap:anywhere}
.backbench svg{overflow:visible}.backbench .drawn{min-width:180px;padding-right:22px}
.backbench .whisker{width:100%;height:24px;display:block}.backbench .scale{width:100%;height:18px;display:block}
.backbench .grid{stroke:currentColor;stroke-opacity:.15}
.backbench .tick,.backbench .off{fill:currentColor;font-size:11px}
.backbench .range{stroke:currentColor;stroke-opacity:.6;stroke-width:2}
.backbench .range.best,.backbench .range.tied{stroke:#0080C8;stroke-opacity:1}
.backbench .dot{fill:none;stroke:currentColor;stroke-opacity:.7;stroke-width:2;r:4px}
.backbench .dot.best,.backbench .dot.tied{fill:#0080C8;stroke:#0080C8;stroke-opacity:1;r:5px}
.backbench .spot path{fill:none;stroke:currentColor;stroke-opacity:.6;stroke-width:2}
.backbench .spot .pinned{fill:#C46A00;stroke:none}
.backbench .charts{display:flex;flex-wrap:wrap;gap:12px 48px;margin:12px 0}
.backbench figure{margin:0;width:300px}.backbench .frame{padding:8px 12px 26px 34px}
.backbench .plot{width:100%;height:130px;display:block}
.backbench .curve{fill:none;stroke:currentColor;stroke-opacity:.6;stroke-width:2;vector-effect:non-scaling-stroke}
.backbench .curve.best{stroke:#0080C8;stroke-opacity:1}.backbench .curve.dashed{stroke-dasharray:4 3}
"""


def render_ranking(ranked: RankedRuns) -> str:
    """A ranking: summary, warnings, and a table with drawn intervals.

    Cost: no new tests; 40 rows are about 60 kB.
    """
    first, *rest = ranked.summary or ("No run has finished yet.",)
    data = ranked.data
    parts = [
        tag('<p class="lead">{}</p>', name(first, _LONGEST_TEXT)),
        *(tag("<p>{}</p>", name(sentence, _LONGEST_TEXT)) for sentence in rest),
        *([] if ranked.recommended is None else [Markup(_KEEP)]),
        _list_warnings(ranked.warnings),
        _draw_table(ranked),
        tag(
            '<p class="soft">{}: {}; {} training images, {} test images. '
            "Tied: may be the truly best row (95 % confidence).</p>",
            name(data.name),
            count(len(data.classes), "class", "classes"),
            count(data.num_train + data.num_val, "image"),
            f"{data.num_test:,}",
        ),
    ]
    return _wrap(parts)


def render_run(stored: StoredRun, bundle: Path | None = None) -> str:
    """One run: its metrics and weakest classes with intervals, curves if it trained, data, cost and settings."""
    record = stored.record
    model = record.model_name
    facts = [(label, text) for label, text in describe_record(record) if label not in _DRAWN]
    if bundle is not None:
        facts.insert(1, ("Your model", str(bundle)))
    parts = [
        tag(
            '<p class="lead">{} + {} on {}</p>',
            name(model),
            name(record.config.method.name),
            name(record.data.name),
        ),
        _list_warnings(record.warnings),
        _draw_metrics("Figure", [(_SHARES[key], record.metrics[key]) for key in _SHARES if key in record.metrics]),
        _draw_metrics("Weakest class", weakest_first(record.per_class)[:NUM_WEAKEST]),
        _draw_curves(stored),
        _list_facts(facts),
    ]
    return _wrap(parts)


def render_classifier(
    facts: ModelFacts,
    class_names: Sequence[str],
    *,
    num_bytes: int,
    temperature: float,
    threshold: float,
    device: str,
) -> str:
    """A classifier: its classes, its parts and its calibration.

    Args:
        facts: of its backbone, with the preprocessing of the classifier.
        num_bytes: of all its weights.
        temperature, threshold: see `classifier.classifier.Classifier`.
    """
    size = f"{quantity(facts.num_parameters)} parameters in the backbone; {format_bytes(num_bytes)}, on {device}"
    told = "calibrated on validation images" if is_calibrated(temperature) else "not calibrated"
    unsure = (
        f"; below {threshold:.2f} a prediction counts as unsure"
        if threshold > 0
        else "; no prediction counts as unsure"
    )
    shown = ""
    if facts.preprocess is not None:
        height, width = facts.preprocess.size
        shown = f"{height} x {width} px, {facts.preprocess.resize}, {facts.preprocess.interpolation}"
    described = [
        ("Classes", f"{len(class_names):,}: {join_names(tuple(class_names), MAX_CLASSES)}"),
        ("Architecture", f"{facts.architecture}, {facts.dim:,} features"),
        ("Pretrained on", facts.pretrained_on or "nothing"),
        ("Input", shown),
        ("Size", size),
        ("Confidence", f"{told} (temperature {temperature:.3g}){unsure}"),
        ("Licence", facts.licence or "not stated: ask before you publish or sell"),
    ]
    return _wrap([tag('<p class="lead">{}</p>', name(facts.name)), _list_facts(described)])


def _wrap(parts: Sequence[Markup]) -> str:
    # the style is our own text, without outside content
    return str(tag('<div class="backbench"><style>{}</style>{}</div>', Markup(_STYLE), join_marks(parts)))


def _list_warnings(warnings: Sequence[str]) -> Markup:
    if not warnings:
        return Markup("")
    items = join_marks([tag("<li>{}</li>", name(warning, _LONGEST_TEXT)) for warning in warnings])
    return tag('<div class="warning"><strong>{}</strong><ul>{}</ul></div>', count(len(warnings), "warning"), items)


def _list_facts(facts: Sequence[tuple[str, str]]) -> Markup:
    pairs = [tag("<dt>{}</dt><dd>{}</dd>", label, name(text, _LONGEST_TEXT)) for label, text in facts if text]
    return tag("<dl>{}</dl>", join_marks(pairs))


def _draw_table(ranked: RankedRuns) -> Markup:
    lines = make_lines(ranked)
    ordinary = [line for line in lines if line.kind in ("best", "tied", "other")]
    shown = [*ordinary[:MAX_LINES], *(line for line in lines if line.kind in ("control", "failed"))]
    columns = [column for column in COLUMNS if column.key in _COLUMNS]
    heads = []
    for column in columns:
        unit = f", {column.unit}" if column.unit else ""
        heads.append(tag('<th scope="col"{}>{}{}</th>', _aligned(column.is_number), column.heading, unit))
        if column.key == "accuracy":
            scale = draw_scale(decide_axis(ranked.rows))
            heads.append(tag('<th class="drawn" aria-hidden="true">{}</th>', scale))
    last = ordinary[:MAX_LINES][-1:]  # the rows below it are separate
    rows = [_draw_line(line, is_last=line in last) for line in shown]
    left_out = len(lines) - len(shown)
    more = tag('<p class="soft">{} more in .table and .report()</p>', count(left_out, "row")) if left_out else ""
    head, body = join_marks(heads), join_marks(rows)
    return tag("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}", head, body, more)


def _draw_line(line: Line, *, is_last: bool) -> Markup:
    cells = []
    for column, cell in zip(COLUMNS, line.cells, strict=True):
        if column.key not in _COLUMNS:
            continue
        if column.key == "model":
            cells.append(tag('<th scope="row">{}</th>', cell.text))
        elif column.key == "mark":
            notes = "; ".join(filter(None, [cell.text, cell.note, line.error]))
            cells.append(tag('<td class="note">{}</td>', notes))
        else:
            cells.append(tag("<td{}>{}</td>", _aligned(column.is_number), cell.text))
        if column.key == "accuracy":
            cells.append(tag('<td class="drawn">{}</td>', line.whisker))
    return tag('<tr class="{}{}">{}</tr>', line.kind, " apart" if is_last else "", join_marks(cells))


def _aligned(is_number: bool) -> Markup:
    return Markup(' class="number"') if is_number else Markup("")


def _draw_metrics(heading: str, metrics: Sequence[tuple[str, Metric]]) -> Markup:
    """Metrics with their intervals, drawn on one scale; empty without metrics."""
    if not metrics:
        return Markup("")
    ends = [end for _, metric in metrics for end in (metric.low, metric.value, metric.high) if end is not None]
    axis = make_axis(ends)
    rows = []
    for label, metric in metrics:
        interval = show_interval(metric.low, metric.high, metric.n)
        whisker = draw_whisker(metric.value, metric.low, metric.high, axis, "best")
        row = (
            '<tr><th scope="row">{}</th><td class="number">{}</td><td class="drawn">{}</td>'
            '<td class="number">{}</td><td class="number">{:,}</td></tr>'
        )
        shown = percent(metric.value, metric.n, unit=False)
        rows.append(tag(row, name(label), shown, whisker, interval, metric.n))
    head = (
        '<thead><tr><th scope="col">{}</th><th scope="col" class="number">%</th>'
        '<th class="drawn" aria-hidden="true">{}</th><th scope="col" class="number">95 % interval</th>'
        '<th scope="col" class="number">n</th></tr></thead>'
    )
    return tag("<table>{}<tbody>{}</tbody></table>", tag(head, heading, draw_scale(axis)), join_marks(rows))


def _draw_curves(stored: StoredRun) -> Markup:
    if not stored.history:
        return Markup("")
    figure = (
        '<figure><div class="frame">{}</div><figcaption class="soft">{}: validation accuracy (full) and '
        "training (dashed), %, by epoch; epoch {} of {} was kept</figcaption></figure>"
    )
    drawn = [
        tag(figure, curve["accuracy"], curve["label"], curve["best"], len(curve["epochs"]))
        for curve in draw_training(rank_runs([stored]))
    ]
    return tag('<div class="charts">{}</div>', join_marks(drawn))
