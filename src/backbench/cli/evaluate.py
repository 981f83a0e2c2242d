"""`backbench evaluate`: evaluate trained models on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import (
    bad_option,
    data_argument,
    inference_options,
    json_option,
    layout_options,
    quiet_option,
    split_option,
    table_options,
)

if TYPE_CHECKING:
    from backbench.config import OnBad
    from backbench.runs.evaluate import Evaluation
    from backbench.stats.compare import Rank


@click.command(short_help="Measure a trained model on labelled images.")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@data_argument
@split_option
@inference_options
@click.option(
    "--out",
    help="Folder of the run records, where this evaluation is logged.  [default: the folder of the bundle's run]",
)
@click.option(
    "--map",
    "class_map",
    metavar="FILE",
    help="CSV with a row 'class of DATA,class of the model' for each class whose names differ.",
)
@bad_option
@table_options
@layout_options
@json_option
@quiet_option
def evaluate(
    bundles: tuple[str, ...],
    data: str,
    split: str | None,
    device: str,
    precision: str,
    exact_resize: bool,
    out: str | None,
    class_map: str | None,
    on_bad: OnBad,
    as_json: bool,
    quiet: bool,
    choices: dict[str, Any],
) -> None:
    """Measure a trained model on labelled images: accuracy with its interval, and the recall of each class.

    BUNDLE is what `backbench keep` or `adapt` wrote; DATA is as for `backbench rank`. The command uses the test
    split of DATA, or of the model's own run if DATA has its images, or else all images. Images that a model was
    trained on are left out. Several bundles are compared on the same images, by paired tests.

    \b
    Example: backbench evaluate runs/a.bundle runs/b.bundle new_photos/
    """
    from backbench.cli.output import print_json
    from backbench.cli.parse import make_data_config
    from backbench.heads.class_mapping import read_map
    from backbench.progress import make_progress
    from backbench.runs.evaluate import evaluate as evaluate_bundles
    from backbench.runtime import decide_device, decide_precision

    config = make_data_config(
        data,
        split=split,
        seed=0,
        on_bad=on_bad,
        choices=choices,
    )
    decided = decide_device(device)
    with make_progress(quiet=quiet) as progress:
        found = evaluate_bundles(
            bundles,
            config,
            device=decided,
            precision=decide_precision(precision, decided),
            exact_resize=exact_resize,
            class_map=None if class_map is None else read_map(Path(class_map).expanduser()),
            out=None if out is None else Path(out),
            progress=progress,
        )
    if as_json:
        print_json({"schema": 1, **(found[0].to_document() if len(found) == 1 else compare_document(found))})
    else:
        print(render_evaluation(found[0].to_document()) if len(found) == 1 else render_comparison(found))


def compare_document(found: Sequence[Evaluation]) -> dict[str, Any]:
    """The JSON of several bundles without the schema; best first."""
    return {
        "evaluations": [
            one.to_document() | {"comparison": None if one.rank is None else asdict(one.rank)} for one in found
        ]
    }


def render_comparison(found: Sequence[Evaluation]) -> str:
    """One line for each bundle, best first, with the test against the best."""
    from backbench.report.record_text import describe_figure
    from backbench.report.text import cell_width, pad, printable, shorten

    data = found[0].to_document()["data"]
    lines = [f"{len(found)} models on {printable(data['said'])}: {_num_images(data)}, the same for each", ""]
    names = [shorten(printable(one.bundle), 60) for one in found]
    width = max(map(cell_width, (*names, "Bundle")))
    lines.append(f"{pad('Bundle', width)}  {pad('Accuracy', 8)} {pad('95 % interval', 14)}  Against the best")
    for name, one in zip(names, found, strict=True):
        figure = describe_figure(one.metrics["accuracy"], len(one.ids))
        verdict = "best" if one is found[0] or one.rank is None else _verdict(one.rank)
        lines.append(f"{pad(name, width)}  {pad(figure, 23)}  {verdict}")
    lines.append("Paired tests on the same images, all pairs together, significance level 5 %.")
    warnings = dict.fromkeys(warning for one in found for warning in one.warnings)
    return "\n".join([*lines, *(f"warning: {printable(warning)}" for warning in warnings)])


def _verdict(rank: Rank) -> str:
    from backbench.report.text import show_p
    from backbench.stats.compare import ALPHA

    said = "significantly worse" if rank.p_value < ALPHA else "no significant difference"
    return f"{said} ({show_p(rank.p_value)})"


def render_evaluation(document: dict[str, Any]) -> str:
    """The metrics as in `backbench show`, then every class, lowest recall first."""
    from backbench.report.record_text import describe_figure, describe_figures
    from backbench.report.text import pad, percent, printable, shorten
    from backbench.stats.metric import Metric
    from backbench.wording import quote

    data, num, threshold = document["data"], document["data"]["num_images"], document["threshold"]
    lines = [f"{printable(document['bundle'])} on {printable(data['said'])}: {_num_images(data)}", ""]
    metrics = {name: Metric.model_validate(metric) for name, metric in document["metrics"].items()}
    figures = describe_figures(metrics, num, is_tempered=document["temperature"] != 1.0)
    lines += [f"{label:<18}{text}" for label, text in figures]
    if threshold > 0:
        lines.append(
            f"Coverage: share of predictions with a confidence of at least {percent(threshold, num)}, the model's "
            "threshold. Other predictions are marked '?' (unsure)."
        )
    if document["mapping"]:
        pairs = [f"{quote(name)} is {quote(mine)}" for name, mine in document["mapping"].items()]
        lines.append(f"Matched classes with other names: {'; '.join(map(printable, pairs))}.")
    lines += ["", "recall of each class, lowest first:"]
    ordered = sorted(document["per_class"].items(), key=lambda item: (item[1]["value"], item[0]))
    for name, given in ordered:
        metric = Metric.model_validate(given)
        lines.append(
            f"{pad(shorten(printable(name), 32), 32)} {describe_figure(metric, metric.n)}  of {metric.n:,}"
        )
    lines += [f"warning: {printable(warning)}" for warning in document["warnings"]]
    return "\n".join(lines)


def _num_images(data: dict[str, Any]) -> str:
    """'64 of the 359 test images (295 left out: the model was trained on them)', or just their number."""
    num, num_seen = data["num_images"], data["num_seen"]
    if not num_seen:
        return f"{num:,} {'image' if num == 1 else 'images'}"
    kind = "test images" if data["part"] == "test" else "images"
    return f"{num:,} of the {num + num_seen:,} {kind} ({num_seen:,} left out: the model was trained on them)"
