"""What may make rows of one ranking unequal beside model and method, and all warnings of it, most severe first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from backbench.records.schema import CORRECTED, FIRST_VERSION, RunRecord
from backbench.report.row_names import list_settings
from backbench.wording import list_some

_ASPECT_WORDS = {
    "precision": "precision",
    "seed": "seed",
    "exact_resize": "exact resizing",
    "fitted_on": "what the head was fitted on",
    "hardware": "the hardware",
}
_ASPECTS = (
    ("precision", "small gaps may come from it"),
    ("seed", "small gaps may come from it"),
    ("exact_resize", "small gaps may come from it"),
    ("fitted_on", "a head fitted on fewer images scores lower"),
    ("hardware", "compare accuracies, not seconds"),
)
_RECIPE = ("augmentation", "epochs", "optimizer", "batch size", "label smoothing", "budget")
"""What any method that trains has; other settings are compared among the rows of one method."""
_NOT_ASKED = (
    "model", "weights", "input", "resize", "interpolation", "crop fraction", "precision", "seed", "exact resize",
)  # fmt: skip
"""Said by the row's name, or by a warning of its own."""
_MAX_VALUES = 4
_SPLIT_GROUPS = "in several of the given parts"
_LEAKS = ("byte for byte also in", _SPLIT_GROUPS)
_BROKEN = ("interrupted: ", "the budget ended before", "have two labels or more", "has two labels or more")
NOT_STATED = "none"


def are_groups_whole(warnings: Sequence[str]) -> bool:
    """Whether no warning says that a group sits in several parts."""
    return not any(_SPLIT_GROUPS in text for text in warnings)


def gather_warnings(
    records: Sequence[RunRecord], control_warnings: Sequence[str], given: Sequence[str] = ()
) -> list[str]:
    """All warnings of a ranking, each once, most severe first: changed records, leaks between the parts, test
    images that models were trained on, what breaks the ranking, controls that come near, and the rest.

    Args:
        records: of its runs.
        control_warnings: see `summary.control_warnings`.
        given: of the data and of the work, in any order.
    """
    done = list(filter(_is_ordinary, records))
    changed, old = warn_of_changed(records), warn_of_old(records)
    levels = (
        changed,
        [text for text in given if any(words in text for words in _LEAKS)],
        _warn_of_seen(done),
        [text for text in given if any(words in text for words in _BROKEN)],
        _warn_of_unequal(done),
        control_warnings,
        _warn_of_untrained(done),
        old,
        given,
    )
    return list(dict.fromkeys(text for level in levels for text in level))


def warn_of_changed(records: Sequence[RunRecord]) -> list[str]:
    """Of each record that does not say what its predictions say."""
    return [
        f"{record.run_id}: {warning}"
        for record in records
        for warning in record.warnings
        if warning.startswith(CORRECTED)
    ]


def warn_of_old(records: Sequence[RunRecord]) -> list[str]:
    """One sentence, if there are records without a checksum."""
    num = sum(record.schema_version == FIRST_VERSION for record in records)
    if not num:
        return []
    which = (
        "the record was"
        if len(records) == 1
        else f"{num} of {len(records)} records {'was' if num == 1 else 'were'}"
    )
    return [f"{which} written before records had a checksum: only what their predictions give can be checked"]


def _is_ordinary(record: RunRecord) -> bool:
    return record.status == "done" and not is_control(record)


def _warn_of_seen(done: Sequence[RunRecord]) -> list[str]:
    seen = {record.model_name: record for record in done if record.num_test_seen}
    return [
        f"{model} is not ranked: {record.num_test_seen:,} of the {record.data.num_test:,} test images were among "
        f"the images that it was trained on, so its figures are too good"
        for model, record in sorted(seen.items())
    ]


def _warn_of_unequal(done: Sequence[RunRecord]) -> list[str]:
    found = []
    sizes = sorted({max(size) for record in done if (size := input_size(record)) is not None})
    if len(sizes) > 1:
        found.append(
            f"input sizes differ ({sizes[0]} to {sizes[-1]} px): a larger input usually scores higher and costs "
            f"more, so this compares models as they ship, not architectures"
        )
    if unequal := _find_unequal(done):
        listed = ", ".join(
            f"{words} ({list_some(values, _MAX_VALUES, '; ')})" for words, values in unequal.items()
        )  # semicolons: values may be lists themselves
        found.append(f"settings differ beside model and method: {listed}. A row may owe its place to them")
    for aspect, consequence in _ASPECTS:
        values = Counter(str(_aspect(record, aspect)) for record in done)
        if len(values) > 1:
            seen = ", ".join(f"{value} ({count} of {len(done)} rows)" for value, count in values.most_common())
            found.append(f"{_ASPECT_WORDS[aspect]} differs: {seen}; {consequence}")
    return found


def _find_unequal(done: Sequence[RunRecord]) -> dict[str, list[str]]:
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


def _warn_of_untrained(done: Sequence[RunRecord]) -> list[str]:
    names = sorted({record.model_name for record in done if is_untrained(record)})
    return [f"untrained weights: {', '.join(names)}"] if names else []


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


def row_warnings(records: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """For each record: its own warnings, and where it departs from what most rows have.

    Where no value is that of most rows, each row's is named beside the others'; input sizes have their column.
    """
    done = list(filter(_is_ordinary, records))
    values = {aspect: Counter(_aspect(record, aspect) for record in done) for aspect, _ in _ASPECTS}
    usual_size = _usual(Counter(size for record in done if (size := input_size(record)) is not None))
    found = []
    for record in records:
        notes = list(record.warnings)
        if _is_ordinary(record):
            if is_untrained(record):
                notes.append("untrained weights")
            size = input_size(record)
            if size is not None and usual_size is not None and size != usual_size:
                notes.append(f"input {_size_text(size)} px, most rows {_size_text(usual_size)}")
            for aspect, _ in _ASPECTS:
                own, usual = _aspect(record, aspect), _usual(values[aspect])
                if own != usual:
                    others = ", ".join(str(value) for value in values[aspect] if value != own)
                    which = f"other rows {others}" if usual is None else f"most rows {usual}"
                    notes.append(f"{_ASPECT_WORDS[aspect].removeprefix('the ')}: {own}, {which}")
        found.append(tuple(dict.fromkeys(notes)))
    return found


def _usual(values: Counter[Any]) -> Any:
    """The value of more than half of the rows; None where there is none."""
    return next((value for value, count in values.items() if 2 * count > values.total()), None)


def _size_text(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
