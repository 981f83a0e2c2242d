"""The feature cache: keyed by content, whole or absent, and damage is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from backbench.config import Preprocess
from backbench.inference import cache
from backbench.inference.cache import feature_key, feature_path, find_features, read_features, write_features
from backbench.progress import Progress
from backbench.records.schema import Cost, ModelFacts

COST = Cost(seconds={"read": 0.5, "decode": 1.0, "forward": 2.5}, images_per_second=12.5, num_images=7)


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_facts(**changes: Any) -> ModelFacts:
    facts: dict[str, Any] = {
        "name": "test",
        "architecture": "test",
        "dim": 5,
        "preprocess": Preprocess(size=(32, 32)),
        "num_parameters": 0,
        "flops": None,
        "weights_digest": "a" * 64,
        "pretrained_on": None,
    }
    return ModelFacts(**(facts | changes))


def make_hashes(num: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(num)]


def make_values(num: int, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, dim)).astype(np.float32)


KEY = "k" * 64
SETTINGS: dict[str, Any] = {"precision": "fp32", "exact_resize": False, "device": "cpu"}


def test_what_was_written_is_read_back() -> None:
    values, hashes = make_values(7), make_hashes(7)
    assert write_features(KEY, values, hashes, COST)
    found = read_features(KEY, hashes, 5)
    assert found is not None
    assert np.array_equal(found[0], values)
    assert found[0].dtype == np.float32
    assert found[1] == COST


def test_rows_are_found_by_content_in_any_order_and_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 64)  # several blocks
    values, hashes = make_values(40), make_hashes(40)
    assert write_features(KEY, values, hashes, COST)
    rows = np.random.default_rng(1).integers(0, 40, 100)
    found = read_features(KEY, [hashes[row] for row in rows], 5)
    assert found is not None
    assert np.array_equal(found[0], values[rows])


def test_each_distinct_image_is_stored_once() -> None:
    hashes = make_hashes(3)
    rows = [0, 1, 0, 2, 1]
    assert write_features(KEY, make_values(3)[rows], [hashes[row] for row in rows], COST)
    stored = load_file(feature_path(KEY))
    assert stored["values"].shape == (3, 5)
    assert np.array_equal(stored["values"], make_values(3))
    assert stored["hashes"].tobytes() == b"".join(bytes.fromhex(name) for name in hashes)


def test_features_are_found_by_what_they_cost_and_by_nothing_less() -> None:
    hashes, values = make_hashes(4), make_values(4)
    write_features(KEY, values, hashes, COST)
    of_run = COST.model_copy(update={"seconds": {**COST.seconds, "head": 0.1}})
    found = find_features(of_run, hashes[::-1], 5)
    assert found is not None
    assert np.array_equal(found, values[::-1])
    slower = {**COST.seconds, "forward": 2.6}
    assert find_features(COST.model_copy(update={"seconds": slower}), hashes, 5) is None
    assert find_features(of_run, hashes, 6) is None
    assert read_features(KEY, hashes, 5) is not None  # another size is no damage


def test_no_images_are_no_problem() -> None:
    assert write_features(KEY, make_values(0), [], COST)
    found = read_features(KEY, [], 5)
    assert found is not None
    assert found[0].shape == (0, 5)


def test_nothing_known_is_none_without_a_warning() -> None:
    heard = Heard()
    assert read_features(KEY, make_hashes(2), 5, progress=heard) is None
    assert not heard.warnings


BASE_KEY = feature_key(make_facts(), "s", make_hashes(3), **SETTINGS)


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": make_facts(weights_digest="b" * 64)},
        {"facts": make_facts(dim=6)},
        {"facts": make_facts(preprocess=Preprocess(size=(32, 33)))},
        {"facts": make_facts(preprocess=Preprocess(size=(32, 32), interpolation="bilinear"))},
        {"facts": make_facts(preprocess=Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5)))},
        {"facts": make_facts(preprocess=Preprocess(size=(32, 32), crop_fraction=0.9))},
        {"structure": "t"},
        {"hashes": make_hashes(4)},
        {"hashes": make_hashes(2)},
        {"precision": "bf16"},
        {"exact_resize": True},
        {"device": "cuda"},
    ],
)
def test_whatever_changes_features_changes_the_key(changes: dict[str, Any]) -> None:
    arguments = {"facts": make_facts(), "structure": "s", "hashes": make_hashes(3), **SETTINGS}
    assert feature_key(**arguments) == BASE_KEY
    assert feature_key(**(arguments | changes)) != BASE_KEY


def test_a_new_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FEATURES_VERSION", cache.FEATURES_VERSION + 1)
    assert feature_key(make_facts(), "s", make_hashes(3), **SETTINGS) != BASE_KEY


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": make_facts(name="other", licence="MIT", source="elsewhere")},
        {"hashes": make_hashes(3)[::-1]},
        {"hashes": make_hashes(3) + make_hashes(2)},
    ],
)
def test_names_order_and_repetition_do_not_change_the_key(changes: dict[str, Any]) -> None:
    arguments = {"facts": make_facts(), "structure": "s", "hashes": make_hashes(3), **SETTINGS}
    assert feature_key(**(arguments | changes)) == BASE_KEY


def test_one_device_of_a_kind_is_as_good_as_another() -> None:
    keys = {feature_key(make_facts(), "s", [], **(SETTINGS | {"device": name})) for name in ("cuda", "cuda:1")}
    assert len(keys) == 1


def test_any_flipped_byte_is_noticed_and_the_file_removed() -> None:
    values, hashes = make_values(7), make_hashes(7)
    assert write_features(KEY, values, hashes, COST)
    whole = feature_path(KEY).read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in (0, 3, 9, *range(start, len(whole), 11), len(whole) - 1):
        feature_path(KEY).write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        heard = Heard()
        assert read_features(KEY, hashes, 5, progress=heard) is None, at
        assert "computed again" in heard.warnings[0]
        assert not feature_path(KEY).exists()


def test_any_cut_file_is_noticed_and_removed(test_scale: float) -> None:
    values, hashes = make_values(7), make_hashes(7)
    assert write_features(KEY, values, hashes, COST)
    whole = feature_path(KEY).read_bytes()
    for length in range(0, len(whole), max(1, int(20 / test_scale))):
        feature_path(KEY).write_bytes(whole[:length])
        heard = Heard()
        assert read_features(KEY, hashes, 5, progress=heard) is None
        assert heard.warnings
        assert not feature_path(KEY).exists()
    feature_path(KEY).write_bytes(whole + b"\0")
    assert read_features(KEY, hashes, 5) is None


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b"nonsense",
        b'{"values": 1}',
        b"\xff\xfe",
        json.dumps({"values": {"shape": [-1, 5]}}).encode(),
    ],
)
def test_a_strange_header_is_damage(header: bytes) -> None:
    feature_path(KEY).parent.mkdir(parents=True)
    feature_path(KEY).write_bytes(len(header).to_bytes(8, "little") + header)
    heard = Heard()
    assert read_features(KEY, [], 5, progress=heard) is None
    assert heard.warnings


def test_an_image_that_is_not_there_is_damage() -> None:
    assert write_features(KEY, make_values(2), make_hashes(2), COST)
    assert read_features(KEY, make_hashes(3), 5) is None


class FailingFile:
    """A file that fails at its n-th write, or at the sync after all of them."""

    def __init__(self, stream: Any, error: int, fails_at: int) -> None:
        self.stream, self.error, self.left = stream, error, fails_at

    def __enter__(self) -> FailingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def write(self, data: Any) -> int:
        if self.left == 0:
            raise OSError(self.error, os.strerror(self.error))
        self.left -= 1
        return self.stream.write(data)

    def flush(self) -> None:
        raise OSError(self.error, os.strerror(self.error))

    def fileno(self) -> int:
        return self.stream.fileno()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("fails_at", range(8))
def test_a_full_disk_costs_the_cache_only(error: int, fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    old, hashes = make_values(7), make_hashes(7)
    assert write_features(KEY, old, hashes, COST)
    plain = open
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 40)

    def failing(path: Path, mode: str) -> Any:
        return FailingFile(plain(path, mode), error, fails_at) if "w" in mode else plain(path, mode)

    monkeypatch.setattr(cache, "open", failing, raising=False)
    heard = Heard()
    assert not write_features(KEY, old + 1, hashes, COST, progress=heard)
    assert os.strerror(error) in heard.warnings[0]
    assert "BACKBENCH_CACHE" in heard.warnings[0]
    assert ("Make room" in heard.warnings[0]) == (error in (errno.ENOSPC, errno.EDQUOT))
    assert [path.name for path in feature_path(KEY).parent.iterdir()] == [feature_path(KEY).name]
    found = read_features(KEY, hashes, 5)
    assert found is not None
    assert np.array_equal(found[0], old)


def test_a_cache_folder_that_can_not_be_made_costs_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path / "file"))
    heard = Heard()
    assert not write_features(KEY, make_values(2), make_hashes(2), COST, progress=heard)
    assert heard.warnings
    assert read_features(KEY, make_hashes(2), 5, progress=heard) is None


def test_leftovers_of_killed_runs_go_after_a_day() -> None:
    folder = feature_path(KEY).parent
    folder.mkdir(parents=True)
    old, fresh = folder / ".old.1-1.tmp", folder / ".fresh.1-1.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert write_features(KEY, make_values(2), make_hashes(2), COST)
    assert not old.exists()
    assert fresh.exists()
