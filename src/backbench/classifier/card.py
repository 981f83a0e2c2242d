"""The model card of a bundle: a page for people, from the record of the run that made it."""

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
    "coverage": "share answered, not unsure",
    "answered_accuracy": "accuracy of the answered",
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
    """The card as Markdown: what it is, data, figures with intervals, limits, licence, use."""
    parts = [
        f"# {_plain(name)}",
        _describe(facts, class_names, preprocess),
        "## Use\n\n```python\nimport backbench\n\n"
        f'model = backbench.load("{_plain(folder_name)}")\n'
        'for answer in model.predict(["photo.jpg", "folder/"]):\n'
        "    print(answer.path, answer.label, answer.confidence)\n```",
        "## Classes\n\n" + _classes(class_names),
        "## Data and figures\n\n" + _figures(record),
        "## Limits\n\n" + _limits(threshold, temperature, record),
        "## Licence\n\n" + _describe_licence(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _describe_licence(facts: ModelFacts) -> str:
    if facts.pretrained_on is None and facts.licence is None:
        return "There are no pretrained weights in it: it is bound by the terms of the images it was trained on."
    return (
        f"Pretrained weights: {_plain(facts.licence or 'not stated')}"
        + (f" (from {_plain(facts.source)})." if facts.source else ".")
        + " What was trained on top of them is bound by it too, and by the terms of the images it was trained on."
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
        return (
            "This bundle was written without a run record: nothing is known of its accuracy. Measure it:\n\n"
            + ("    backbench evaluate BUNDLE DATA")
        )
    data, method = record.data, record.method
    lines = [
        f"Trained on {_plain(data.name)}: {count(data.num_train, 'image')}, chosen on {data.num_val:,}, "
        f"measured on {count(data.num_test, 'test image')} of the same source (run `{_plain(record.run_id)}`"
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
    """Which confidences a figure is of, where a temperature travels with the model: ', after the temperature'."""
    if not record.is_tempered or key.removeprefix("calibrated_") not in ("nll", "ece", "brier"):
        return ""
    return ", after the temperature" if key.startswith("calibrated_") else ", before the temperature"


def _row(label: str, metric: Metric) -> str:
    interval = "" if metric.low is None or metric.high is None else f"{metric.low:.3f} to {metric.high:.3f}"
    return f"| {label} | {metric.value:.3f} | {interval} | {metric.n:,} |"


def _limits(threshold: float, temperature: float, record: RunRecord | None) -> str:
    lines = [
        "- It answers with one of its classes for any picture, also for one of something else.",
        "- The figures hold for images like those of the test split; on others it may do worse.",
        f"- Confidences are softmax of logits / {temperature:.3g}, fitted on validation images.",
    ]
    if threshold > 0:
        lines.append(f"- Answers of less confidence than {threshold:.3f} are marked as unsure.")
    lines += [f"- {_plain(warning)}" for warning in (record.warnings if record else ())]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text from outside in one line, without what Markdown or HTML would take for markup."""
    kept = "".join(char if char.isprintable() else " " for char in text)
    return kept.replace("`", "'").replace("<", "(").replace(">", ")").replace("|", "/")
