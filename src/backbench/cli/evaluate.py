"""`backbench evaluate`: how good a trained model is on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
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
    import numpy as np

    from backbench.config import OnBad
    from backbench.progress import Progress
    from backbench.runs.evaluate import Labelled


@click.command(short_help="Measure a trained model on labelled images.")
@click.argument("bundle", metavar="BUNDLE")
@data_argument
@split_option
@inference_options
@click.option(
    "--out",
    help="Folder of the run records; it counts test-set evaluations.  [default: the folder of the bundle's run]",
)
@bad_option
@table_options
@layout_options
@json_option
@quiet_option
def evaluate(
    bundle: str,
    data: str,
    split: str | None,
    device: str,
    precision: str,
    exact_resize: bool,
    out: str | None,
    on_bad: OnBad,
    image_column: str | None,
    label_column: str | None,
    group_column: str | None,
    as_json: bool,
    quiet: bool,
    choices: dict[str, Any],
) -> None:
    """Measure a trained model on labelled images: accuracy with its interval, and the recall of each class.

    BUNDLE is what `backbench keep` or `adapt` wrote; DATA is as for `backbench rank`. If DATA has a test split,
    that alone counts; if it is what the model was made from, the test split of its run; otherwise all images do.
    Images that the model was trained on are left out.
    """
    from backbench.backbones.core.bundle_files import find_bundle
    from backbench.classifier.bundle import load_bundle, read_bundle_seen, read_facts
    from backbench.cli.output import print_json
    from backbench.cli.parse import make_data_config
    from backbench.data.class_names import match_classes
    from backbench.progress import make_progress
    from backbench.runs.evaluate import choose_images
    from backbench.runtime import decide_device, decide_precision

    folder = find_bundle(Path(bundle))
    facts = read_facts(folder)
    config = make_data_config(
        data,
        split=split,
        seed=0,
        on_bad=on_bad,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        choices=choices,
    )
    decided = decide_device(device)
    exactly = decide_precision(precision, decided)
    with make_progress(quiet=quiet) as progress:
        images = choose_images(config, facts, read_bundle_seen(folder, facts), folder, progress)
        labels = match_classes(images.labels, facts.class_names)
        classifier = load_bundle(folder)
        if images.part == "test":
            note_opening(None if out is None else Path(out), folder, images.digest, facts.name, progress)
        logits = classifier.logits_for(
            images.read,
            len(labels),
            device=decided,
            precision=exactly,
            exact_resize=exact_resize,
            names=images.ids,
            progress=progress,
        )
    document = measure(
        images,
        logits,
        labels,
        facts.class_names,
        temperature=facts.temperature,
        threshold=facts.threshold,
    )
    document = {"schema": 1, "bundle": bundle, **document}
    if as_json:
        print_json(document)
    else:
        print(render_evaluation(document))


def note_opening(out: Path | None, bundle: Path, digest: str, name: str, progress: Progress) -> None:
    """Count this look at a test split in the folder of run records: `out`, else the bundle's, if it is in one.

    Raises:
        StorageError: it can't be written in `out`.
    """
    from backbench.errors import StorageError
    from backbench.records.folders import OPENINGS_FILE
    from backbench.records.openings import log_opening

    root = bundle.absolute().parent if out is None else out
    if out is None and not (root / OPENINGS_FILE).is_file():
        return
    try:
        log_opening(root, digest, name)
    except StorageError as error:
        if out is not None:
            raise
        progress.warn(f"this look at the test split is not counted: {error}")


def measure(
    images: Labelled,
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    temperature: float,
    threshold: float,
) -> dict[str, Any]:
    """What `evaluate --json` prints, but for schema and bundle; fractions in 0..1.

    The figures have the names they have in the record of a run that trains: `nll`, `ece` and `brier` are of the
    plain softmax, `calibrated_nll` and `calibrated_ece` of the answers as given, after the temperature.
    """
    from backbench.data.wording import list_some, quote
    from backbench.stats.calibrate import measure_answered, softmax
    from backbench.stats.metrics import per_class_recall, score

    groups = images.groups if any(group is not None for group in images.groups) else None
    probabilities, answers = softmax(logits), softmax(logits, temperature)
    metrics = score(probabilities, labels, groups)
    calibrated = score(answers, labels, groups)
    metrics |= {f"calibrated_{name}": calibrated[name] for name in ("nll", "ece")}
    if threshold > 0:
        metrics |= measure_answered(answers, labels, threshold, groups)
    per_class = per_class_recall(probabilities, labels, class_names)
    absent = [name for name in class_names if name not in per_class]
    warnings = list(images.warnings)
    if absent:
        some = list_some((quote(name) for name in absent), 5)
        warnings.append(f"{len(absent)} of the model's {len(class_names)} classes have no image here: {some}")
    return {
        "data": {
            "name": images.name,
            "part": images.part,
            "said": images.said,
            "num_images": len(labels),
            "num_seen": images.num_seen,
        },
        "metrics": {name: metric.model_dump() for name, metric in metrics.items()},
        "per_class": {name: metric.model_dump() for name, metric in per_class.items()},
        "temperature": temperature,
        "threshold": threshold,
        "warnings": warnings,
    }


def render_evaluation(document: dict[str, Any]) -> str:
    """The figures as `backbench show` prints them, then every class, the least recognised first."""
    from backbench.report.record_text import describe_figure, describe_figures
    from backbench.report.text import pad, percent, printable, shorten
    from backbench.stats.metric import Metric

    data, num, threshold = document["data"], document["data"]["num_images"], document["threshold"]
    lines = [f"{printable(document['bundle'])} on {printable(data['said'])}: {_num_images(data)}", ""]
    metrics = {name: Metric.model_validate(metric) for name, metric in document["metrics"].items()}
    figures = describe_figures(metrics, num, is_tempered=document["temperature"] != 1.0)
    lines += [f"{label:<18}{text}" for label, text in figures]
    if threshold > 0:
        lines.append(
            f"Answered: confidence of {percent(threshold, num)} or more, the model's threshold. Below it an "
            "answer is marked '?' (unsure)."
        )
    lines += ["", "recall of each class, the least first:"]
    ordered = sorted(document["per_class"].items(), key=lambda item: (item[1]["value"], item[0]))
    for name, given in ordered:
        metric = Metric.model_validate(given)
        lines.append(
            f"{pad(shorten(printable(name), 32), 32)} {describe_figure(metric, metric.n)}  of {metric.n:,}"
        )
    lines += [f"warning: {printable(warning)}" for warning in document["warnings"]]
    return "\n".join(lines)


def _num_images(data: dict[str, Any]) -> str:
    """'64 of the 359 test images (295 left out: the model was trained on them)', or just how many there are."""
    num, num_seen = data["num_images"], data["num_seen"]
    if not num_seen:
        return f"{num:,} {'image' if num == 1 else 'images'}"
    kind = "test images" if data["part"] == "test" else "images"
    return f"{num:,} of the {num + num_seen:,} {kind} ({num_seen:,} left out: the model was trained on them)"
