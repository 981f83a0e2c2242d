"""Reads the pickles of old Python data sets without running them.

A pickle is a program that can call any function. Here it may name only five, which are replaced by harmless
stand-ins; anything else is refused before it is imported. This module builds arrays from their bytes after
checking their shape, so even NumPy's loading code never sees the file.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from backbench.errors import DataError
from backbench.wording import quote

MEMO_OPCODES = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


class _Array:
    """Stands in for numpy.ndarray while a pickle is read."""

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, is_fortran, data = state  # a version comes before the shape, except in the oldest
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not plain uint8")
        if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) != len(data):
            raise pickle.UnpicklingError("an array whose shape does not fit its bytes")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """Stands in for numpy.dtype; only unsigned bytes exist."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in (b"u1", "u1", b"|u1", "|u1"):
            raise pickle.UnpicklingError("an array that is not uint8")

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and the like: one byte has none."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands in for _codecs.encode, by which newer Pythons write bytes for older ones."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("text in an unknown encoding")
    return text.encode("latin1")


class _Callable:
    """A stand-in that a pickle can call but not change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *values: Any) -> Any:
        return self.function(*values)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _reconstruct,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = STAND_INS.get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it names {quote(f'{module}.{name}')}")
        return _Callable(stand_in)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it points to an object outside the file")


def read_plain_pickle(data: bytes, name: str) -> dict[bytes, Any]:
    """Read the dictionary in a pickle of containers, numbers, byte strings and uint8 arrays; keys are bytes.

    Cost: one pass over the instructions before they run, about 0.3 s for 200,000 of them.

    Raises:
        DataError: the pickle is damaged, holds other types, or names a function or a class.
    """
    try:
        _check_memo(data)
        # bytes: these pickles come from Python 2, whose strings are bytes
        value = _Restricted(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(value, dict):
            raise pickle.UnpicklingError("it holds no dictionary")
        return {_as_bytes(key): _unwrap(item) for key, item in value.items()}
    except Exception as error:  # a hostile program can make an unpickler raise anything
        raise DataError(
            f"{name}: this pickle is damaged or not the expected data set: {error}. None of its code was run."
        ) from error


def _check_memo(data: bytes) -> None:
    """Refuse a huge index before it is followed: the memo is an array, and would take all memory."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in MEMO_OPCODES and int(argument or 0) > len(data):
            raise pickle.UnpicklingError(f"memo index {argument} at byte {position}")


def _as_bytes(key: Any) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _unwrap(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value
