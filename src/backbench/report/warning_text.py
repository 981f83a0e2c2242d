"""The warnings of a ranking in sentences, most severe first; `comparability` has the facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backbench.records.schema import CORRECTED, FIRST_VERSION, RunRecord
from backbench.report.comparability import Aspect, Departure, Unequal, find_departures, find_unequal, is_untrained
from backbench.wording import list_some

_ROUNDING = "small gaps may come from it"
_ASPECTS: dict[Aspect, tuple[str, str]] = {
    "precision": ("precision", _ROUNDING),
    "seed": ("seed", _ROUNDING),
    "exact_resize": ("exact resizing", _ROUNDING),
    "fitted_on": ("what the head was fitted on", "a head fitted on fewer images scores lower"),
    "hardware": ("the hardware", "compare accuracies, not seconds"),
}
_MAX_VALUES = 4
# stored warnings keep their older wording, so both are known
_SPLIT_GROUPS = ("in several of the given splits", "in several of the given parts")
_LEAKS = ("also in training or validation", *_SPLIT_GROUPS)
_TWO_LABELS = (
    "have different labels",
    "has different labels",
    "have two labels or more",
    "has two labels or more",
)
_BROKEN = ("interrupted: ", "the budget ended before", *_TWO_LABELS)


def are_groups_whole(warnings: Sequence[str]) -> bool:
    """Whether no warning reports a group in several splits."""
    return not any(words in text for text in warnings for words in _SPLIT_GROUPS)


def gather_warnings(
    records: Sequence[RunRecord], control_warnings: Sequence[str], given: Sequence[str] = ()
) -> list[str]:
    """All warnings of a ranking, each once, most severe first: changed records, leaks between splits,
    contamination, interrupted rankings and wrong labels, near baselines, and the rest.

    Args:
        records: of its runs.
        control_warnings: see `summary.control_warnings`.
        given: of the data and of the work, in any order.
    """
    unequal = find_unequal(records)
    levels = (
        warn_of_changed(records),
        [text for text in given if any(words in text for words in _LEAKS)],
        _say_seen(unequal),
        [text for text in given if any(words in text for words in _BROKEN)],
        _say_unequal(unequal),
        control_warnings,
        [f"untrained weights: {', '.join(unequal.untrained)}"] if unequal.untrained else [],
        warn_of_old(records),
        given,
    )
    return list(dict.fromkeys(text for level in levels for text in level))


def warn_of_changed(records: Sequence[RunRecord]) -> list[str]:
    """The warning of each record that disagrees with its predictions."""
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
    return [f"{which} written before records had a checksum: only their predictions can be checked"]


def _say_seen(unequal: Unequal) -> list[str]:
    return [
        f"{record.model_name} is not ranked: {record.num_test_seen:,} of the {record.data.num_test:,} test images "
        f"are among its training images, so its metrics are too good"
        for record in unequal.seen
    ]


def _say_unequal(unequal: Unequal) -> Iterator[str]:
    if unequal.sizes is not None:
        least, largest = unequal.sizes
        yield (
            f"input sizes differ ({least} to {largest} px): larger inputs often score higher and "
            f"cost more, so part of the difference may come from the input size"
        )
    if unequal.settings:
        listed = ", ".join(
            f"{words} ({list_some(values, _MAX_VALUES, '; ')})" for words, values in unequal.settings.items()
        )  # semicolons: values may be lists themselves
        yield f"settings other than model and method differ: {listed}. They may explain differences between rows"
    for aspect, values in unequal.aspects.items():
        words, consequence = _ASPECTS[aspect]
        shares = ", ".join(f"{value} ({num} of {values.total()} rows)" for value, num in values.most_common())
        yield f"{words} differs: {shares}; {consequence}"


def row_warnings(records: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """For each record: its own warnings, and its differences from most rows."""
    found = []
    for record, departures in zip(records, find_departures(records), strict=True):
        untrained = ["untrained weights"] * is_untrained(record)
        notes = [*record.warnings, *untrained, *map(_say_departure, departures)]
        found.append(tuple(dict.fromkeys(notes)))
    return found


def _say_departure(found: Departure) -> str:
    """'precision: bf16, most rows fp32'; without a majority, all other values are named."""
    if found.aspect == "size":
        return f"input {_size_text(found.own)} px, most rows {_size_text(found.usual)}"
    which = (
        f"other rows {', '.join(map(str, found.others))}" if found.usual is None else f"most rows {found.usual}"
    )
    return f"{_ASPECTS[found.aspect][0].removeprefix('the ')}: {found.own}, {which}"


def _size_text(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
