"""One record as text for a screen: settings, results and cost."""

from __future__ import annotations

from collections.abc import Mapping

from backbench.progress import format_bytes, format_seconds
from backbench.records.schema import RunRecord
from backbench.report.text import describe_augment, flatten, percent, printable, quantity, shorten, wrap
from backbench.report.warning_text import warn_of_old
from backbench.stats.metric import Metric
from backbench.stats.metrics import weakest_first
from backbench.wording import count, list_some

_INDENT = 18
_FIGURES = (
    ("accuracy", "Accuracy"),
    ("top5", "Top-5"),
    ("per_class_mean", "Class mean"),
    ("macro_f1", "Macro F1"),
    ("nll", "Log loss"),
    ("ece", "Calibration error"),
    ("brier", "Brier score"),
    ("coverage", "Answered"),
    ("answered_accuracy", "Accuracy of those"),
)
_NOT_PERCENT = ("nll", "brier")
_OF_CONFIDENCE = ("nll", "ece", "brier")
_MEASURED = ("_bytes", "_images_per_second")
_DIGEST_CELLS = 12
_HASH_CELLS = 64
_WEAKEST_SHOWN = 3
_MAPPED_SHOWN = 20
_WORDS_SHOWN = 3


def render_record(record: RunRecord, *, width: int = 100, colour: bool = False) -> str:
    """Render a record as about 25 lines, without a final line break.

    Args:
        record: finished or failed.
        width: columns of the terminal.
        colour: add ANSI colours.
    """
    width = max(width, 40)
    model = record.model_name
    title = shorten(printable(f"{model} + {record.config.method.name} on {record.data.name}"), width)
    lines = [f"\x1b[1m{title}\x1b[0m" if colour else title]
    for label, text in describe_record(record):
        lines += _labelled(label, printable(text), width, colour)
    return "\n".join(lines)


def describe_record(record: RunRecord) -> list[tuple[str, str]]:
    """The content of a record: (label, text), most interesting first; names unescaped."""
    parts = [
        ("Run", f"{record.run_id}, {record.status}, {record.started}"),
        *_failure(record),
        *describe_figures(record.metrics, record.data.num_test, is_tempered=record.is_tempered),
        ("Weakest classes", _weakest(record)),
        ("Data", _data(record)),
        ("Model", _model(record)),
        ("Weights", _weights(record)),
        ("Method", _method(record)),
        ("Mapping", _mapping(record)),
        ("Cost", _cost(record)),
        ("Settings", _settings(record)),
        ("Environment", _pairs(record.environment)),
        *(("Warning", warning) for warning in (*record.warnings, *warn_of_old([record]))),
    ]
    return [(label, text) for label, text in parts if text]


def _labelled(label: str, text: str, width: int, colour: bool) -> list[str]:
    wrapped = wrap(text, max(20, width - _INDENT))
    shown = f"\x1b[2m{label:<{_INDENT}}\x1b[0m" if colour else f"{label:<{_INDENT}}"
    return [shown + wrapped[0], *(" " * _INDENT + line for line in wrapped[1:])]


def _failure(record: RunRecord) -> list[tuple[str, str]]:
    if record.failure is None:
        return []
    return [("Failed", record.failure.message)]


def describe_figures(metrics: Mapping[str, Metric], n: int, *, is_tempered: bool) -> list[tuple[str, str]]:
    """(label, text) of each metric on n test images; those of confidences are calibrated if possible.

    Args:
        metrics: by name, as in a record. is_tempered: the model has a temperature.
    """
    found = []
    for key, label in _FIGURES:
        metric = metrics.get(f"calibrated_{key}", metrics.get(key))
        if metric is not None:
            note = _temperature_note(metrics, key, n) if is_tempered else ""
            found.append((label, describe_figure(metric, n, as_percent=key not in _NOT_PERCENT) + note))
    return found


def _temperature_note(metrics: Mapping[str, Metric], key: str, n: int) -> str:
    """Whether a metric is calibrated, in words."""
    if key not in _OF_CONFIDENCE:
        return ""
    if f"calibrated_{key}" not in metrics:
        return " (uncalibrated)"
    plain = metrics.get(key)
    if plain is None:
        return " (calibrated)"
    shown = f"{plain.value:.3f}" if key in _NOT_PERCENT else percent(plain.value, n)
    return f" (calibrated; {shown} uncalibrated)"


def describe_figure(metric: Metric, n: int, *, as_percent: bool = True) -> str:
    """'93.1 %   90.5 to 95.0': the value and its interval, if any."""

    def shown(value: float) -> str:
        return percent(value, n, unit=False) if as_percent else f"{value:.3f}"

    text = shown(metric.value) + (" %" if as_percent else "")
    if metric.low is not None and metric.high is not None:
        text = f"{text:<9}{shown(metric.low)} to {shown(metric.high)}"
    return text


def _weakest(record: RunRecord) -> str:
    weakest = weakest_first(record.per_class)[:_WEAKEST_SHOWN]
    return ", ".join(f"{name} {metric.value:.0%} of {metric.n}" for name, metric in weakest)


def _data(record: RunRecord) -> str:
    data = record.data
    text = (
        f"{data.name}: {len(data.classes):,} classes; {data.num_train:,} train, {data.num_val:,} val, "
        f"{count(data.num_test, 'test image')}"
    )
    if data.num_groups is not None:
        text += f"; {data.num_groups:,} groups"
    if data.num_skipped:
        text += f"; {data.num_skipped:,} unreadable skipped"
    return f"{text}; manifest {data.manifest_digest[:12]}"


def _model(record: RunRecord) -> str:
    model = record.model
    if model is None:
        return ""
    text = f"{model.architecture}, {model.dim:,} features"
    if model.num_parameters:
        text += f", {quantity(model.num_parameters)} parameters"
    if model.flops:
        text += f", {model.flops / 1e9:.2g} GFLOP an image"
    if model.preprocess is not None:
        height, width = model.preprocess.size
        text += f"; input {height}x{width} px, {model.preprocess.resize}, {model.preprocess.interpolation}"
        text += f", crop {model.preprocess.crop_fraction:g}"
    return text + ("; control" if model.is_control else "")


def _weights(record: RunRecord) -> str:
    model = record.model
    if model is None or not model.num_parameters:
        return ""
    parts = [
        f"trained on {model.pretrained_on}" if model.pretrained_on else "untrained",
        f"licence {model.licence or 'not known'}",
        format_bytes(model.weights_bytes) if model.weights_bytes else "",
        model.source or "",
        f"from its file: {model.checkpoint}" if model.checkpoint else "",
        f"digest {model.weights_digest[:12]}" if model.weights_digest else "",
    ]
    return ", ".join(part for part in parts if part)


def _method(record: RunRecord) -> str:
    method = record.method
    if method is None:
        return record.config.method.name
    text = f"{method.name}, fitted on {method.fitted_on}"
    if _mapping(record):
        found = {key: value for key, value in method.choices.items() if key not in ("mapping", "sources")}
        text += f"; found: {_pairs(found)}"
    elif method.choices:
        chosen = {
            key: value
            for key, value in method.choices.items()
            if not key.endswith(_MEASURED)
            and key != "augment"  # decided by the kind of network, not on validation
        }
        augment = describe_augment(method.choices.get("augment", {}))
        text += f"; training images: {augment}" if augment else ""
        measured = {key: value for key, value in method.choices.items() if key.endswith(_MEASURED)}
        text += f"; chosen on validation: {_pairs(chosen)}" if chosen else ""
        text += f"; measured: {_pairs(measured)}" if measured else ""
    given = record.config.method.options  # all options, including defaults, are in record.json
    return text + (f"; options: {_pairs(given)}" if given else "")


def _mapping(record: RunRecord) -> str:
    """The model's own classes for each class, for `zeroshot`; '' for other methods."""
    mapping = record.method.choices.get("mapping") if record.method is not None else None
    if not isinstance(mapping, dict):
        return ""
    parts = []
    for name, ids in list(mapping.items())[:_MAPPED_SHOWN]:
        words = [each.partition(" ")[2] or each for each in ids]
        parts.append(f"{name}: {list_some(words, _WORDS_SHOWN) or 'nothing'}")
    left = f"; {len(mapping) - _MAPPED_SHOWN} more in record.json" if len(mapping) > _MAPPED_SHOWN else ""
    return "; ".join(parts) + left


def _cost(record: RunRecord) -> str:
    cost = record.cost
    if cost is None:
        return ""
    parts = [f"{stage} {format_seconds(seconds)}" for stage, seconds in cost.seconds.items()]
    if cost.images_per_second is not None:
        parts.append(f"{cost.images_per_second:,.0f} images/s")
    if cost.peak_memory_bytes is not None:
        parts.append(f"peak memory {format_bytes(cost.peak_memory_bytes)}")
    if cost.rounding is not None:
        parts.append(
            f"{record.config.precision} changes the features by {100 * cost.rounding:.1f} % of their spread"
        )
    if cost.features_from_cache:
        parts.append("features from the cache (seconds are those of the original extraction)")
    return ", ".join(parts)


def _settings(record: RunRecord) -> str:
    config = record.config
    resize = "exact resize" if config.exact_resize else "fast resize"
    return f"seed {config.seed}, {config.precision}, {resize}, source {config.data.source}"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {shorten(_shown(key, value), 60)}" for key, value in flatten(values))


def _shown(key: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        return str(len(value))  # for example one entry for each head; record.json has them
    text = str(value)
    is_digest = key.rpartition(".")[2].endswith("digest") or (len(text) == _HASH_CELLS and _is_hex(text))
    return text[:_DIGEST_CELLS] if is_digest else text


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdef" for char in text)
