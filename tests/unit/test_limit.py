"""Drawn parts of a data set, and stand-ins for those that are not here."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backbench.config import DataConfig
from backbench.data.limit import draw_share, limit_listing
from backbench.data.load import load_data, load_listing
from backbench.data.manifest import keep_of_training
from backbench.errors import ConfigError


@example(["a", "a", "a", "a", "b", "c"], 3, 0)
@given(st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 3))
def test_each_stratum_keeps_its_share(labels: list[str], num: int, seed: int) -> None:
    rows = draw_share(labels, num, seed)
    assert rows == sorted(set(rows))
    counts, taken = Counter(labels), Counter(labels[row] for row in rows)
    assert taken.keys() == counts.keys()
    assert len(rows) == max(min(num, len(labels)), len(counts))
    for label, count in counts.items():
        assert taken[label] <= max(1, num * count / len(labels) + 1)
    assert rows == draw_share(labels, num, seed)


def test_what_is_drawn_follows_the_seed() -> None:
    labels = ["a"] * 50
    assert draw_share(labels, 10, 0) != draw_share(labels, 10, 1)


def test_a_limited_listing_is_a_listing_of_the_same_images() -> None:
    whole = load_listing(DataConfig(source="digits"))
    listing = load_listing(DataConfig(source="digits", limit=100))
    assert len(listing) == 100
    assert Counter(listing.labels).keys() == Counter(whole.labels).keys()
    row = whole.ids.index(listing.ids[7])
    assert whole.pixels is not None
    assert listing.pixels is not None
    np.testing.assert_array_equal(listing.pixels[7], whole.pixels[row])
    data = load_data(DataConfig(source="digits", limit=100))
    assert any("limited to 100 of 1,797 images" in warning for warning in data.warnings)
    assert load_listing(DataConfig(source="digits", limit=5000)) is not None
    assert limit_listing(whole, 1797, 0) is whole


def test_too_few_images_for_all_classes_keep_fewer_classes() -> None:
    listing = load_listing(DataConfig(source="digits", limit=16))
    assert Counter(listing.labels) == {"0": 4, "1": 4, "2": 4, "3": 4}
    assert "4 of 10 classes" in listing.facts["warnings"][-1]
    load_data(DataConfig(source="digits", limit=16))  # can be split and used


def test_less_to_train_on_leaves_the_test_part_alone() -> None:
    whole = load_data(DataConfig(source="digits")).manifest
    few = load_data(DataConfig(source="digits", train_limit=200)).manifest
    assert few.counts["test"] == whole.counts["test"]
    assert few.counts["train"] + few.counts["val"] == 200
    ids = {name: [m.ids[row] for row in m.part_rows("test")] for name, m in (("whole", whole), ("few", few))}
    assert ids["whole"] == ids["few"]
    assert any("only 200 images" in warning for warning in few.warnings)
    enough = load_data(DataConfig(source="digits", train_limit=5000)).manifest
    assert enough.ids == whole.ids
    assert not any("alone" in warning for warning in enough.warnings)  # nothing was left out
    assert keep_of_training(["a", "b"], ["train", "test"], 5, 0) == [0, 1]


def test_a_stand_in_has_classes_and_size_of_what_it_stands_for() -> None:
    listing = load_listing(DataConfig(source="generated:cifar10"))
    assert set(listing.labels) >= {"airplane", "truck"}
    assert len(set(listing.labels)) == 10
    assert listing.pixels is not None
    assert listing.pixels[0].shape == (32, 32, 3)
    assert Counter(listing.parts) == {"train": 40, "val": 20, "test": 20}
    assert "say nothing about that data set" in listing.facts["warnings"][0]
    assert len(set(load_listing(DataConfig(source="generated:caltech256")).labels)) == 256
    with pytest.raises(ConfigError, match="Did you mean 'generated:cifar10"):
        load_listing(DataConfig(source="generated:cifar1"))
