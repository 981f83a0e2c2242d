"""Feature cache on disk, keyed by content: features of the same images and weights are computed once.

A file is a valid safetensors file with two tensors, `values` (m, dim) float32 and `hashes` (m, 32) uint8, one
row for each distinct image, and a header with a checksum over both and their cost. It is written aside and moved
into place. A file with a wrong checksum is removed and its features are computed again. Memory is the features
plus one block: writing and reading make no second copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import ValidationError

from backbench.config import GreyScale, Precision, digest_json
from backbench.documents import parse_json
from backbench.progress import SILENT, Progress
from backbench.records.schema import Cost, ModelFacts
from backbench.runtime import cache_folder
from backbench.storage import IN_CACHE, advise, open_file, sync_file, sync_folder

FEATURES_VERSION = 2
"""Increase this number whenever the same images, weights and settings give other features."""

_BLOCK_BYTES = 1 << 22
_MAX_HEADER_BYTES = 1 << 20
_HASH_BYTES = 32
_STALE_SECONDS = 24 * 3600.0


def feature_key(
    facts: ModelFacts,
    structure: str,
    hashes: Sequence[str],
    *,
    precision: Precision,
    exact_resize: bool,
    device: str,
    grey: GreyScale | None = None,
) -> str:
    """The key of cached features, 64 hex digits, from content and settings, never from a name.

    Args:
        facts: digest of the weights, preprocessing and feature size are used.
        structure: digest of the network's build: the same weights can be truncated or padded in several ways.
        hashes: SHA-256 of each image; order and repetitions do not matter.
        grey: the scale of images with more than 8 bits; None: no such images.
    """
    content = hashlib.sha256()
    for name in sorted(set(hashes)):
        content.update(bytes.fromhex(name))
    return digest_json(
        {
            "version": FEATURES_VERSION,
            "weights": facts.weights_digest,
            "structure": structure,
            "dim": facts.dim,
            "preprocess": facts.preprocess.digest() if facts.preprocess is not None else None,
            "images": content.hexdigest(),
            "precision": precision,
            "exact_resize": exact_resize,
            "device": device.partition(":")[0],
            **({} if grey is None else {"grey": grey.model_dump()}),
        }
    )


def feature_path(key: str) -> Path:
    """The file of features with that key."""
    return cache_folder() / "features" / f"{key}.safetensors"


def write_features(
    key: str, values: np.ndarray, hashes: Sequence[str], cost: Cost, *, progress: Progress = SILENT
) -> bool:
    """Store features; False with a warning if the disk is full, read-only or fails.

    Args:
        values: (n, dim) float32, C order.
        hashes: SHA-256 in hex of the image of each row; of equal ones the first row is stored.
        cost: their original cost.
    """
    path = feature_path(key)
    aside = path.with_name(f".{key}.{os.getpid()}-{time.time_ns()}.tmp")
    first: dict[str, int] = {}
    for row, name in enumerate(hashes):
        first.setdefault(name, row)
    rows = np.fromiter(first.values(), np.int64, len(first))
    names = b"".join(map(bytes.fromhex, first))
    checksum = hashlib.sha256()
    for block in _blocks(values, rows):
        checksum.update(block)
    checksum.update(names)
    header = _make_header(len(rows), values.shape[1], checksum.hexdigest(), cost)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with open(aside, "wb") as stream:
            stream.write(header)
            for block in _blocks(values, rows):
                stream.write(block)
            stream.write(names)
            sync_file(stream)
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        progress.warn(
            f"features are not cached: can't write {path}: {error.strerror or error}. "
            f"{advise(path, error, IN_CACHE)}"
        )
        return False
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return True


def read_features(
    key: str, hashes: Sequence[str], dim: int, *, progress: Progress = SILENT
) -> tuple[np.ndarray, Cost] | None:
    """Features of images in the order of `hashes`, (n, dim) float32, and their original cost.

    None if there are none. A damaged file is removed with a warning.
    """
    path = feature_path(key)
    try:
        with open_file(path) as stream:
            return _read(stream, hashes, dim)
    except FileNotFoundError:
        return None
    except OSError as error:
        progress.warn(f"cached features can't be read and are computed again: {path}: {error.strerror or error}")
        return None
    except _Damaged as damage:
        progress.warn(f"cached features are damaged ({damage}) and are computed again: {path}")
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def find_features(cost: Cost, hashes: Sequence[str], dim: int) -> np.ndarray | None:
    """Find the features of a run, (n, dim) float32, without building its network.

    The right file holds these images and the exact `cost` of the run. None if it no longer exists.
    """
    for path in sorted(feature_path("").parent.glob("*.safetensors")):
        try:
            with open_file(path) as stream:
                spent = _read_header(stream, dim)[2].seconds
        except (OSError, _Damaged):
            continue
        if spent and all(cost.seconds.get(stage) == seconds for stage, seconds in spent.items()):
            found = read_features(path.stem, hashes, dim)
            if found is not None:
                return found[0]
    return None


class _Damaged(Exception):
    """The file was changed."""


def _blocks(values: np.ndarray, rows: np.ndarray) -> Iterator[memoryview]:
    """The chosen rows, in pieces of a few MB."""
    step = max(1, _BLOCK_BYTES // max(1, 4 * values.shape[1]))
    for start in range(0, len(rows), step):
        yield np.ascontiguousarray(values[rows[start : start + step]], dtype="<f4").data


def _make_header(num: int, dim: int, checksum: str, cost: Cost) -> bytes:
    split = num * dim * 4
    content: dict[str, Any] = {
        "__metadata__": {"checksum": checksum, "cost": cost.model_dump_json(), "version": str(FEATURES_VERSION)},
        "values": {"dtype": "F32", "shape": [num, dim], "data_offsets": [0, split]},
        "hashes": {"dtype": "U8", "shape": [num, _HASH_BYTES], "data_offsets": [split, split + num * _HASH_BYTES]},
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)  # safetensors needs aligned tensors
    return len(text).to_bytes(8, "little") + text


def _read_header(stream: BinaryIO, dim: int) -> tuple[int, str, Cost]:
    """(number of rows, checksum, cost), checked against the length of the file."""
    length = int.from_bytes(stream.read(8), "little")
    if not 0 < length <= _MAX_HEADER_BYTES:
        raise _Damaged("no header")
    try:
        header = parse_json(stream.read(length))
        metadata = header["__metadata__"]
        num, columns = header["values"]["shape"]
        checksum, cost = str(metadata["checksum"]), Cost.model_validate_json(metadata["cost"])
    except (ValueError, KeyError, TypeError, ValidationError):
        raise _Damaged("the header can't be read") from None
    if not isinstance(num, int) or num < 0 or columns != dim:
        raise _Damaged("wrong shape")
    expected = 8 + length + num * (4 * dim + _HASH_BYTES)
    if os.fstat(stream.fileno()).st_size != expected:
        raise _Damaged("wrong length")
    return num, checksum, cost


def _read(stream: BinaryIO, hashes: Sequence[str], dim: int) -> tuple[np.ndarray, Cost]:
    num, expected, cost = _read_header(stream, dim)
    start = stream.tell()
    stream.seek(start + num * dim * 4)
    names = stream.read(num * _HASH_BYTES)
    stored = {names[at : at + _HASH_BYTES]: at // _HASH_BYTES for at in range(0, len(names), _HASH_BYTES)}
    try:
        source = np.fromiter((stored[bytes.fromhex(name)] for name in hashes), np.int64, len(hashes))
    except KeyError:
        raise _Damaged("images are missing") from None
    stream.seek(start)
    checksum = hashlib.sha256()
    values = np.empty((len(hashes), dim), "<f4")
    is_in_order = np.array_equal(source, np.arange(num))
    wanted = np.argsort(source, kind="stable")  # rows of `values`, in the order of the file
    step = max(1, _BLOCK_BYTES // max(1, 4 * dim))
    buffer = np.empty((min(step, num), dim), "<f4")
    for first in range(0, num, step):
        end = min(first + step, num)
        block = values[first:end] if is_in_order else buffer[: end - first]
        stream.readinto(block.data)  # type: ignore[attr-defined]  # the checksum detects missing bytes
        checksum.update(block.data)
        if not is_in_order:
            low, high = np.searchsorted(source, (first, end), sorter=wanted)
            values[wanted[low:high]] = block[source[wanted[low:high]] - first]
    checksum.update(names)
    if checksum.hexdigest() != expected:
        raise _Damaged("wrong checksum")
    return values, cost


def _remove_stale(folder: Path) -> None:
    """Remove half-written files of killed runs that are at least a day old."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
