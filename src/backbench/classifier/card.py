"""The model card of a bundle: a Markdown page from the record of its run."""

from __future__ import annotations

from collections.abc import Sequence

from backbench.config import Preprocess
from backbench.records.schema import ModelFacts, RunRecord
from backbench.stats.metric import Metric
from backbench.wording import count, list_some

MAX_CLASSES = 30
FIGURES = {
    "accuracy": "accuracy",
    "top5": "top-5 accuracy",
    "per_class_mean": "mean recall of the classes",
    "macro_f1": "macro F1",
    "calibrated_nll": "mean negative log likelihood",
    "calibrated_ece": "calibration error",
    "nll": "mean negative log likelihood",
    "ece": "calibration error",
    "coverage": "share of predictions above the threshold (coverage)",
    "answered_accuracy": "accuracy of predictions above the threshold",
}


def render_bundle_card(
    name: str,
    facts: ModelFacts,
    class_names: Sequence[str],
    *,
    preprocess: Preprocess,
    temperature: float,
    threshold: float,
    record: RunRecord | None,
    folder_name: str = "bundle",
) -> str:
    """The card as Markdown: description, data, metrics with intervals, limits, licence, use."""
    parts = [
        f"# {_plain(name)}",
        _describe(facts, class_names, preprocess),
        "## Use\n\n```python\nimport backbench\n\n"
        f'model = backbench.load("{_plain(folder_name)}")\n'
        'for prediction in model.predict(["photo.jpg", "folder/"]):\n'
        "    print(prediction.path, prediction.label, prediction.confidence)\n```",
        "## Classes\n\n" + _classes(class_names),
        "## Data and figures\n\n" + _figures(record),
        "## Limits\n\n" + _limits(threshold, temperature, record),
        "## Licence\n\n" + _describe_licence(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _describe_licence(facts: ModelFacts) -> str:
    if facts.pretrained_on is None and facts.licence is None:
        return "It contains no pretrained weights. The terms of its training images apply."
    return (
        f"Pretrained weights: {_plain(facts.licence or 'not stated')}"
        + (f" (from {_plain(facts.source)})." if facts.source else ".")
        + " This licence and the terms of the training images apply to the trained model too."
    )


def _describe(facts: ModelFacts, class_names: Sequence[str], preprocess: Preprocess) -> str:
    height, width = preprocess.size
    return (
        f"An image classifier of {len(class_names)} classes: {_plain(facts.title)} ({_plain(facts.architecture)}, "
        f"{facts.num_parameters / 1e6:.1f} M parameters, "
        f"pretrained on {_plain(facts.pretrained_on or 'nothing')}), "
        f"images of {height} x {width} pixels. Made by backbench."
    )


def _classes(class_names: Sequence[str]) -> str:
    rest = " (all in model.json)" if len(class_names) > MAX_CLASSES else ""
    return list_some(map(_plain, class_names), MAX_CLASSES) + rest


def _figures(record: RunRecord | None) -> str:
    if record is None:
        return "This bundle was written without a run record, so its accuracy is unknown. To measure it:\n\n" + (
            "    backbench evaluate BUNDLE DATA"
        )
    data, method = record.data, record.method
    lines = [
        f"Trained on {_plain(data.name)}: {count(data.num_train, 'image')}, validated on {data.num_val:,}, "
        f"evaluated on {count(data.num_test, 'test image')} of the same source (run `{_plain(record.run_id)}`"
        + (f", method `{_plain(method.name)}`" if method else "")
        + ").",
        "",
        "| figure | value | 95 % interval | n |",
        "| --- | --- | --- | --- |",
        *(
            _row(label + describe_temperature(record, key), record.metrics[key])
            for key, label in FIGURES.items()
            if key in record.metrics
        ),
    ]
    return "\n".join(lines)


def describe_temperature(record: RunRecord, key: str) -> str:
    """For a model with temperature scaling: whether a metric is calibrated, as ', calibrated'."""
    if not record.is_tempered or key.removeprefix("calibrated_") not in ("nll", "ece", "brier"):
        return ""
    return ", calibrated" if key.startswith("calibrated_") else ", uncalibrated"


def _row(label: str, metric: Metric) -> str:
    interval = "" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"
    return f"| {label} | {metric.value:.3f} | {interval} | {metric.n:,} |"


def _limits(threshold: float, temperature: float, record: RunRecord | None) -> str:
    lines = [
        "- It predicts one of its classes for any image, even if the image shows something else.",
        "- The metrics are valid for images like those of the test split; on others it may be worse.",
        f"- Confidences are softmax of logits / {temperature:.3g}, fitted on validation images.",
    ]
    if threshold > 0:
        lines.append(f"- Predictions with a confidence below {threshold:.3f} are marked as unsure.")
    lines += [f"- {_plain(warning)}" for warning in (record.warnings if record else ())]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Outside text in one line, escaped for Markdown and HTML."""
    kept = "".join(char if char.isprintable() else " " for char in text)
    return kept.replace("`", "'").replace("<", "(").replace(">", ")").replace("|", "/")
