"""The labels of Open Images: names, hierarchy, the wanted classes, and the class of each label."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backbench.documents import parse_json
from backbench.errors import DataError, unknown_name
from backbench.storage import read_file, unreadable_as
from backbench.wording import list_some, quote

HEADER = "LabelName"


@dataclass(frozen=True)
class LabelMap:
    """Maps labels to classes.

    Args:
        names: label id (as '/m/0k4j') -> its published name.
        parents: label id -> its direct parent labels.
        wanted: label id -> name of its class.
    """

    names: Mapping[str, str]
    parents: Mapping[str, frozenset[str]]
    wanted: Mapping[str, str]
    _lifted: dict[str, frozenset[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def lift(self, label: str) -> frozenset[str]:
        """The nearest wanted labels on each path from this label upwards, itself included; may be empty."""
        if label not in self._lifted:
            found: set[str] = set()
            seen: set[str] = set()
            waiting = [label]
            while waiting:
                here = waiting.pop()
                if here in seen:
                    continue
                seen.add(here)
                if here in self.wanted:
                    found.add(here)
                else:
                    waiting += self.parents.get(here, ())
            self._lifted[label] = frozenset(found)
        return self._lifted[label]

    def decide_classes(self, labels: Iterable[str]) -> list[str]:
        """The classes of an image with these labels; of a class and its sub-class only the sub-class."""
        found = frozenset[str]().union(*(self.lift(label) for label in labels))
        above = {other for label in found for other in self._ancestors(label)}
        return sorted({self.wanted[label] for label in found - above})

    def _ancestors(self, label: str) -> set[str]:
        found: set[str] = set()
        waiting = list(self.parents.get(label, ()))
        while waiting:
            here = waiting.pop()
            if here not in found:
                found.add(here)
                waiting += self.parents.get(here, ())
        return found - {label}


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number from 1, fields) of each non-empty row of a CSV in UTF-8, read lazily.

    Raises:
        DataError: the file can't be read or is not such a table.
    """
    try:
        with unreadable_as(DataError, path), open(path, newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if row:
                    yield number, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a valid CSV in UTF-8: {error}") from error


def read_names(paths: Iterable[Path]) -> dict[str, str]:
    """Label id -> name, from the published class descriptions, with or without a header.

    Raises:
        DataError: a row is not a label id and a name.
    """
    names: dict[str, str] = {}
    for path in paths:
        for number, row in read_rows(path):
            if number == 1 and row[0].strip() == HEADER:
                continue
            if len(row) != 2 or not row[0].startswith("/"):
                raise DataError(
                    f"{path}, row {number}: {quote(','.join(row)[:80])} is not a label id and name such as "
                    "'/m/0k4j,Car'"
                )
            names.setdefault(row[0].strip(), row[1].strip())
    return names


def read_parents(path: Path) -> dict[str, frozenset[str]]:
    """Label id -> its parent labels, from the published hierarchy.

    A 'Part' (a wheel of a car) is not a sub-class, so it adds no parent.

    Raises:
        DataError: the file can't be read or is not such a hierarchy.
    """
    try:
        with unreadable_as(DataError, path):
            root = parse_json(read_file(path))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    parents: dict[str, set[str]] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        kinds, pieces = _read_below(node, "Subcategory", path), _read_below(node, "Part", path)
        for kind in kinds:
            label = kind.get("LabelName") if isinstance(kind, dict) else None
            if isinstance(label, str):
                parents.setdefault(label, set()).add(str(node["LabelName"]))
        waiting += kinds + pieces
    return {label: frozenset(found) for label, found in parents.items()}


def _read_below(node: object, key: str, path: Path) -> list[object]:
    below = node.get(key, []) if isinstance(node, dict) and isinstance(node.get("LabelName"), str) else None
    if not isinstance(below, list):
        raise DataError(f"{path}: not a hierarchy of labels ('LabelName' and lists 'Subcategory' and 'Part')")
    return below


def read_wanted(path: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Label id -> class name, from a list of classes: one name or label id on each line, optionally followed by a
    comma and another name to use (`Aeroplane,airplane`). Lines that begin with '#' are comments.

    Raises:
        ConfigError: an unknown name; the message gives the nearest ones. DataError: the list can't be used.
    """
    by_name: dict[str, list[str]] = {}
    for label, name in names.items():
        by_name.setdefault(name.casefold(), []).append(label)
    wanted: dict[str, str] = {}
    for number, row in read_rows(path):
        given = row[0].strip()
        if given.startswith("#") or not any(cell.strip() for cell in row):
            continue
        if len(row) > 2 or not given:
            raise DataError(f"{path}, row {number}: expected a name, or a name, a comma and another name to use")
        labels = [given] if given in names else by_name.get(given.casefold(), [])
        if not labels:
            hint = "the class descriptions beside it"
            raise unknown_name("class of Open Images", given, names.values(), f"{path}, row {number}", hint)
        called = row[1].strip() if len(row) == 2 and row[1].strip() else names[labels[0]]
        for label in labels:
            if wanted.setdefault(label, called) != called:
                both = list_some([quote(wanted[label]), quote(called)], separator=" and ")
                raise DataError(f"{path}, row {number}: {quote(given)} has two names, {both}")
    if not wanted:
        raise DataError(f"{path}: the list has no class")
    return wanted
