"""What may make rows of one ranking unequal besides model and method, as facts; `warning_text` has the words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backbench.records.schema import RunRecord
from backbench.report.row_names import list_settings

Aspect = Literal["precision", "seed", "exact_resize", "fitted_on", "hardware"]
ASPECTS: tuple[Aspect, ...] = ("precision", "seed", "exact_resize", "fitted_on", "hardware")
"""What is counted over the rows; other settings are listed."""
_RECIPE = ("augmentation", "epochs", "optimizer", "batch size", "label smoothing", "budget")
"""What any method that trains has; other settings are compared among the rows of one method."""
_NOT_ASKED = (
    "model", "weights", "input", "resize", "interpolation", "crop fraction", "precision", "seed", "exact resize",
)  # fmt: skip
"""Said by the row's name, or by a warning of its own."""
NOT_STATED = "none"


@dataclass(frozen=True)
class Unequal:
    """What the rows of one ranking do not share.

    Args:
        sizes: the least and the largest input, in pixels; None where all are alike.
        settings: 'epochs' -> ['5', '20']: of methods, those that some rows have otherwise than rows they compare
            with.
        aspects: of each that differs, how many rows have each value.
        seen: of each model that was trained on test images, one record. untrained: models without training.
    """

    sizes: tuple[int, int] | None
    settings: Mapping[str, Sequence[str]]
    aspects: Mapping[Aspect, Counter[str]]
    seen: tuple[RunRecord, ...]
    untrained: tuple[str, ...]


@dataclass(frozen=True)
class Departure:
    """Where one row is unlike most: its own value and theirs; None: no value is that of most rows.

    `others`: all values that other rows have. Sizes are (height, width) in pixels.
    """

    aspect: Aspect | Literal["size"]
    own: Any
    usual: Any
    others: tuple[Any, ...] = ()


def find_unequal(records: Sequence[RunRecord]) -> Unequal:
    """What rows that are no controls do not share."""
    done = list(filter(_is_ordinary, records))
    sizes = {max(size) for record in done if (size := input_size(record)) is not None}
    counts = {aspect: Counter(str(_aspect(record, aspect)) for record in done) for aspect in ASPECTS}
    seen = {record.model_name: record for record in done if record.num_test_seen}
    return Unequal(
        sizes=(min(sizes), max(sizes)) if len(sizes) > 1 else None,
        settings=_compare_settings(done),
        aspects={aspect: values for aspect, values in counts.items() if len(values) > 1},
        seen=tuple(seen[model] for model in sorted(seen)),
        untrained=tuple(sorted({record.model_name for record in done if is_untrained(record)})),
    )


def find_departures(records: Sequence[RunRecord]) -> list[tuple[Departure, ...]]:
    """For each record, where it departs from what most rows have; input sizes where most rows share one."""
    done = list(filter(_is_ordinary, records))
    values = {aspect: Counter(_aspect(record, aspect) for record in done) for aspect in ASPECTS}
    usual_size = _usual(Counter(size for record in done if (size := input_size(record)) is not None))
    found = []
    for record in records:
        own: list[Departure] = []
        if _is_ordinary(record):
            size = input_size(record)
            if size is not None and usual_size is not None and size != usual_size:
                own.append(Departure("size", size, usual_size))
            for aspect in ASPECTS:
                value, usual = _aspect(record, aspect), _usual(values[aspect])
                if value != usual:
                    others = tuple(other for other in values[aspect] if other != value)
                    own.append(Departure(aspect, value, usual, others))
        found.append(tuple(own))
    return found


def _is_ordinary(record: RunRecord) -> bool:
    return record.status == "done" and not is_control(record)


def _compare_settings(done: Sequence[RunRecord]) -> dict[str, list[str]]:
    """'epochs' -> ['5', '20']: settings of methods that some rows have otherwise than others they compare with."""
    found: dict[str, dict[str, None]] = {}
    of_method: dict[str, list[dict[str, str]]] = {}
    for record in done:
        of_method.setdefault(record.config.method.name, []).append(list_settings(record))
    trained = [settings for own in of_method.values() for settings in own if "epochs" in settings]
    for rows, words in ((trained, _RECIPE), *((own, None) for own in of_method.values())):
        for key in words or dict.fromkeys(key for settings in rows for key in settings):
            values = dict.fromkeys(settings.get(key, NOT_STATED) for settings in rows)
            if len(values) > 1 and key not in _NOT_ASKED:
                found.setdefault(key, {}).update(values)
    return {key: list(values) for key, values in found.items()}


def is_untrained(record: RunRecord) -> bool:
    """A network whose weights never saw an image, and that is no control."""
    model = record.model
    is_network = model is not None and model.num_parameters > 0 and not model.is_control
    return record.status == "done" and is_network and model is not None and model.pretrained_on is None


def is_control(record: RunRecord) -> bool:
    """Whether it sees something simple and nothing else."""
    return record.model is not None and record.model.is_control


def input_size(record: RunRecord) -> tuple[int, int] | None:
    """(height, width) in pixels of the network's input; None of what has none."""
    if record.model is None or record.model.preprocess is None:
        return None
    return record.model.preprocess.size


def _aspect(record: RunRecord, aspect: str) -> object:
    if aspect == "fitted_on":
        return record.method.fitted_on if record.method is not None else None
    if aspect == "hardware":
        facts = record.environment
        return facts.get("device_name") or facts.get("processor") or facts.get("device") or "unknown"
    return getattr(record.config, aspect)


def _usual(values: Counter[Any]) -> Any:
    """The value of more than half of the rows; None where there is none."""
    return next((value for value, count in values.items() if 2 * count > values.total()), None)
