"""The split depends on ids, labels, groups, content and seed: never on the order of the list."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.data.splits import assign_parts, merge_units
from counts import cases

FRACTIONS = {"test_fraction": 0.2, "val_fraction": 0.2}

sample = st.tuples(
    st.sampled_from(["ant", "bee", "cat", "dog"]),
    st.one_of(st.none(), st.sampled_from([f"camera {number}" for number in range(8)])),
    st.one_of(st.just(""), st.sampled_from([f"{number:x}" * 8 for number in range(10)])),
)
fixed_part = st.sampled_from([None, None, "train", "val", "test"])


def split(samples: list, fixed: list | None = None, seed: int = 0) -> tuple[list[str], list[str]]:
    ids = [f"image {row}" for row in range(len(samples))]
    units = merge_units(ids, [s[1] for s in samples], [s[2] for s in samples])
    parts = assign_parts(
        ids, [s[0] for s in samples], units, fixed or [None] * len(samples), seed=seed, **FRACTIONS
    )
    return units, parts


@given(st.lists(st.tuples(sample, fixed_part), max_size=60), st.integers(0, 5), st.randoms())
@cases(150)
def test_any_order_of_the_list_gives_the_same_parts(rows: list, seed: int, random: object) -> None:
    ids = [f"image {number}" for number in range(len(rows))]

    def parts_by_id(order: list[int]) -> tuple[dict[str, str], dict[str, str]]:
        names = [ids[row] for row in order]
        units = merge_units(names, [rows[row][0][1] for row in order], [rows[row][0][2] for row in order])
        labels, fixed = [rows[row][0][0] for row in order], [rows[row][1] for row in order]
        parts = assign_parts(names, labels, units, fixed, seed=seed, **FRACTIONS)
        return dict(zip(names, parts, strict=True)), dict(zip(names, units, strict=True))

    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert parts_by_id(list(range(len(rows)))) == parts_by_id(shuffled)


@given(st.lists(sample, max_size=60), st.integers(0, 5))
@cases(150)
def test_groups_and_identical_images_stay_together(samples: list, seed: int) -> None:
    units, parts = split(samples, seed=seed)
    of_unit = defaultdict(set)
    for row, unit in enumerate(units):
        of_unit[unit].add(parts[row])
    assert all(len(found) == 1 for found in of_unit.values())
    for column in (1, 2):
        of_value = defaultdict(set)
        for row, values in enumerate(samples):
            if values[column]:
                of_value[values[column]].add(units[row])
        assert all(len(found) == 1 for found in of_value.values())


@given(st.lists(sample, max_size=60), st.integers(0, 5))
@cases(150)
def test_no_cut_takes_the_last_of_a_class_from_training(samples: list, seed: int) -> None:
    _, parts = split(samples, seed=seed)
    trained = {values[0] for values, part in zip(samples, parts, strict=True) if part == "train"}
    assert trained == {values[0] for values in samples}


@given(st.lists(st.tuples(sample, fixed_part), max_size=60))
@cases(100)
def test_fixed_parts_stay(rows: list) -> None:
    fixed = [row[1] for row in rows]
    _, parts = split([row[0] for row in rows], fixed)
    has_test, has_val = "test" in fixed, "val" in fixed
    for given_part, part in zip(fixed, parts, strict=True):
        if given_part == "test":
            assert part == "test"
        if given_part == "val":
            assert part == "val" if has_test else part in ("val", "test")
        if given_part == "train":
            assert part in {"train"} | ({"val"} if not has_val else set()) | ({"test"} if not has_test else set())


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 90), min_size=1),
    st.integers(0, 9),
    st.floats(0.05, 0.6),
    st.floats(0.05, 0.6),
)
@cases(100)
def test_without_groups_each_class_is_cut_within_one_image(
    sizes: dict, seed: int, test_fraction: float, val_fraction: float
) -> None:
    labels = [name for name, num in sizes.items() for _ in range(num)]
    ids = [f"{name}/{row}" for row, name in enumerate(labels)]
    units = merge_units(ids, [None] * len(ids), [""] * len(ids))
    parts = assign_parts(
        ids,
        labels,
        units,
        [None] * len(ids),
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
    )
    found = Counter(zip(labels, parts, strict=True))
    for name, num in sizes.items():
        num_test = found[name, "test"]
        assert abs(num_test - test_fraction * num) <= 1
        assert abs(found[name, "val"] - val_fraction * (num - num_test)) <= 1
        assert found[name, "train"] >= 1
        assert num_test >= (num >= 2)
        assert found[name, "val"] >= (num - num_test >= 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), min_size=1, max_size=30), st.integers(0, 9))
@cases(100)
def test_a_class_of_two_groups_is_trained_and_tested(groups: list, seed: int) -> None:
    samples = [(label, f"group {row}", "") for row, (label, num) in enumerate(groups) for _ in range(num)]
    units, parts = split(samples, seed=seed)
    for label in "abc":
        num_units = len({units[row] for row, s in enumerate(samples) if s[0] == label})
        found = {parts[row] for row, s in enumerate(samples) if s[0] == label}
        assert found >= ({"train", "test"} if num_units > 1 else {"train"} if num_units else set())
        left = {units[row] for row, s in enumerate(samples) if s[0] == label and parts[row] != "test"}
        assert ("val" in found) == (len(left) > 1)


def test_adding_images_moves_none_of_another_class_and_few_of_the_same() -> None:
    old = [(name, None, "") for name in ("a", "b") for _ in range(100)]
    ids = [f"{values[0]}/{row}" for row, values in enumerate(old)]
    more = [f"a/new {row}" for row in range(10)]

    def parts(names: list[str]) -> dict[str, str]:
        units = merge_units(names, [None] * len(names), [""] * len(names))
        given_parts = [None] * len(names)
        found = assign_parts(names, [name[0] for name in names], units, given_parts, seed=0, **FRACTIONS)
        return dict(zip(names, found, strict=True))

    before, after = parts(ids), parts(ids + more)
    moved = [name for name in ids if before[name] != after[name]]
    assert not [name for name in moved if name.startswith("b")]
    assert len(moved) <= 10


def test_another_seed_gives_another_split() -> None:
    samples = [("a", None, "") for _ in range(50)]
    found = {tuple(split(samples, seed=seed)[1]) for seed in range(20)}
    assert len(found) == 20


def test_the_split_of_these_ids_never_changes() -> None:
    """Stored results rest on it: a change of the hash or of what is hashed must be seen."""
    _, parts = split([("a" if row % 2 else "b", None, "") for row in range(20)])
    assert "".join(part[1] for part in parts) == "arrrrreerrearrarrera"


def test_names_that_are_no_valid_text_are_split_too() -> None:
    ids = [f"caf\udce9 {row}" for row in range(10)]
    units = merge_units(ids, [None] * 10, [""] * 10)
    assert set(assign_parts(ids, ["a"] * 10, units, [None] * 10, seed=0, **FRACTIONS)) == {"train", "val", "test"}


def test_a_group_named_like_an_id_is_another_unit() -> None:
    assert len(set(merge_units(["x", "y"], [None, "x"], ["", ""]))) == 2


def test_a_chain_of_groups_and_copies_is_one_unit() -> None:
    units = merge_units(["1", "2", "3", "4"], ["g", "g", None, None], ["", "c", "c", "d"])
    assert units == ["group/g", "group/g", "group/g", "id/4"]


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown split"):
        assign_parts(["a"], ["x"], ["a"], ["holdout"], seed=0, **FRACTIONS)


def test_sixty_thousand_images_are_split_evenly() -> None:
    labels = np.repeat(np.arange(100), 600)
    ids = [str(row) for row in range(len(labels))]
    parts = assign_parts(
        ids,
        labels.tolist(),
        merge_units(ids, [None] * len(ids), [""] * len(ids)),
        [None] * len(ids),
        seed=1,
        **FRACTIONS,
    )
    found = Counter(zip(labels.tolist(), parts, strict=True))
    assert {found[label, "test"] for label in range(100)} == {120}
    assert {found[label, "val"] for label in range(100)} == {96}
