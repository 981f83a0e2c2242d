"""Arrays of a `.npz` archive whose bytes are known by their SHA-256: hashed and read in one go."""

from __future__ import annotations

import hashlib
import math
import zipfile
from io import BufferedReader

import numpy as np

_HEADER_BYTES = 30  # of a member of a zip archive, before its name; the lengths of name and extra field end it


def read_npz(stream: BufferedReader, sha256: str | None) -> dict[str, np.ndarray] | None:
    """The arrays by name; None where the bytes are others.

    The checksums inside are not looked at, so it takes half the time that `np.load` does.

    Args:
        stream: at its beginning.
        sha256: of all bytes, in hex.

    Raises:
        Many kinds of errors, as zipfile and NumPy raise them, for what is no archive of arrays.
    """
    if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
        return None
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return dict(arrays)
        return {
            member.filename.removesuffix(".npy"): _read_array(stream, member.header_offset) for member in members
        }


def _read_array(stream: BufferedReader, offset: int) -> np.ndarray:
    stream.seek(offset + _HEADER_BYTES - 4)
    lengths = stream.read(4)
    stream.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject or is_fortran:
        raise ValueError(f"an array of {dtype}, in another order than ours")
    return np.fromfile(stream, dtype, math.prod(shape)).reshape(shape)
