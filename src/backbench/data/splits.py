"""Assign samples to splits: a pure function of ids, labels, units and a seed; list order has no effect.

Samples of one *unit* stay together: a group (one camera, one patient), or images with identical content.
Units are ordered by SHA-256 of seed and unit, so adding images to one class moves no image of another.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Sequence


def merge_units(ids: Sequence[str], groups: Sequence[str | None], hashes: Sequence[str]) -> list[str]:
    """The unit of each sample: samples of one group, or with one content hash, share it (also through a chain).

    A unit is named after its smallest group ("group/..."), else after its smallest id ("id/...").

    Args:
        ids: unique sample ids.
        groups: group of each sample, None where it has none.
        hashes: content hash of each sample; "" if unknown: such a sample equals no other.
    """
    parent = list(range(len(ids)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[Hashable, int] = {}
    for row, (group, content) in enumerate(zip(groups, hashes, strict=True)):
        keys: list[Hashable] = [] if group is None else [("group", group)]
        keys += [("content", content)] if content else []
        for key in keys:
            parent[root(row)] = root(first.setdefault(key, row))
    names: dict[int, tuple[bool, str]] = {}
    for row, (sample_id, group) in enumerate(zip(ids, groups, strict=True)):
        name = (group is None, f"id/{sample_id}" if group is None else f"group/{group}")
        names[root(row)] = min(names.get(root(row), name), name)
    return [names[root(row)][1] for row in range(len(ids))]


def assign_parts(
    ids: Sequence[str],
    labels: Sequence[Hashable],
    units: Sequence[str],
    fixed: Sequence[str | None],
    *,
    test_fraction: float,
    val_fraction: float,
    seed: int,
) -> list[str]:
    """The split of each sample: 'train', 'val' or 'test'.

    Fixed splits stay. Without a fixed test split, it is drawn from all samples; without a fixed validation split,
    it is drawn from the training samples. Samples without a fixed split follow their unit, else they train. Draws
    are stratified by class and take whole units. A class keeps at least one unit for training. A class with two
    units has one in test; with two units left after that, one in validation, as far as units of several classes
    allow.

    Args:
        ids: unique sample ids; used in error messages only.
        labels: class of each sample.
        units: from `merge_units`.
        fixed: split given by the source, or None.
        test_fraction: share of all samples of a class, in 0..1.
        val_fraction: share of the samples of a class left after the test split, in 0..1.
        seed: another seed gives another split.

    Raises:
        ValueError: columns of different lengths, or an unknown split.
    """
    for sample_id, part in zip(ids, fixed, strict=True):
        if part not in (None, "train", "val", "test"):
            raise ValueError(f"sample {sample_id!r} has the unknown split {part!r}")
    parts = _resolve_fixed(units, fixed)
    order = {unit: _order(unit, seed) for unit in set(units)}
    if "test" not in parts:
        rows = range(len(parts))
        for row in _cut(rows, parts, labels, units, order, test_fraction):
            parts[row] = "test"
    if "val" not in fixed:
        rows_left = [row for row, part in enumerate(parts) if part == "train"]
        for row in _cut(rows_left, parts, labels, units, order, val_fraction):
            parts[row] = "val"
    return parts


def _order(unit: str, seed: int) -> bytes:
    # surrogatepass: a file name that is not valid text has lone surrogates in its id
    return hashlib.sha256(f"{seed}/{unit}".encode("utf-8", "surrogatepass")).digest()


def _resolve_fixed(units: Sequence[str], fixed: Sequence[str | None]) -> list[str]:
    """Give samples without a split that of their unit, else 'train'."""
    of_unit: dict[str, str] = {}
    for unit, part in zip(units, fixed, strict=True):
        if part is not None:
            rank = ("train", "val", "test")
            of_unit[unit] = min(of_unit.get(unit, part), part, key=rank.index)
    return [part or of_unit.get(unit, "train") for unit, part in zip(units, fixed, strict=True)]


def _cut(
    rows: Sequence[int],
    parts: Sequence[str],
    labels: Sequence[Hashable],
    units: Sequence[str],
    order: dict[str, bytes],
    fraction: float,
) -> list[int]:
    """Draw rows from `rows`: whole units, about `fraction` of each class, at least one unit of each class
    that has two, never the last training unit of a class."""
    members: dict[str, list[int]] = {}
    counts: dict[str, dict[Hashable, int]] = {}  # plain dictionaries: Counter costs seconds for many images
    trains: dict[str, set[Hashable]] = {}
    for row in rows:
        unit, label = units[row], labels[row]
        members.setdefault(unit, []).append(row)
        of_unit = counts.setdefault(unit, {})
        of_unit[label] = of_unit.get(label, 0) + 1
        if parts[row] == "train":
            trains.setdefault(unit, set()).add(label)
    totals = Counter(labels[row] for row in rows)
    targets = {label: _target(total, fraction) for label, total in totals.items()}
    num_units = Counter(label for of_unit in counts.values() for label in of_unit)
    num_training = Counter(label for found in trains.values() for label in found)
    got: dict[Hashable, int] = dict.fromkeys(totals, 0)
    taken: dict[str, None] = {}

    def may_take(unit: str) -> bool:
        return all(num_training[label] > 1 for label in trains.get(unit, ()))

    def miss(unit: str) -> int:
        """Change of the distance between counts and targets if this unit is added; negative is better."""
        return sum(
            abs(got[label] + num - targets[label]) - abs(got[label] - targets[label])
            for label, num in counts[unit].items()
        )

    def take(unit: str) -> None:
        taken[unit] = None
        for label, num in counts[unit].items():
            got[label] += num
        for label in trains.get(unit, ()):
            num_training[label] -= 1

    in_order = sorted(members, key=order.__getitem__)
    for unit in in_order:
        if miss(unit) < 0 and may_take(unit):
            take(unit)
    lacking = [label for label in totals if not got[label] and num_units[label] > 1]
    for label in sorted(lacking, key=repr):
        candidates = [unit for unit in in_order if unit not in taken and label in counts[unit] and may_take(unit)]
        if candidates and not got[label]:  # an earlier unit may include this class
            take(min(candidates, key=miss))
    return [row for unit in taken for row in members[unit]]


def _target(total: int, fraction: float) -> int:
    """Rounded half up; at least 1 and at most all but one, if there are two."""
    return max(1, min(total - 1, math.floor(fraction * total + 0.5))) if total > 1 else 0
