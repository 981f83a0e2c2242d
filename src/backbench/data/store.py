"""Images of a listing, decoded once and kept while there is room."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from backbench.config import GreyScale
from backbench.data import decode
from backbench.data.grey import Depth
from backbench.data.listing import Listing
from backbench.errors import BadImage
from backbench.runtime import total_memory_bytes

MAX_KEPT_BYTES = 1 << 30


class PixelStore:
    """Reads images by their row in the listing; thread-safe.

    Decoded images are kept up to `cap_bytes`; the others are decoded again at each request. A file must have the
    same bytes at each read: a changed file is refused.

    Args:
        listing: the images.
        max_pixels: larger images are refused before they are decoded.
        cap_bytes: None: the smaller of 1 GiB and an eighth of the machine's memory.
    """

    def __init__(self, listing: Listing, max_pixels: int, cap_bytes: int | None = None) -> None:
        self.listing = listing
        self.max_pixels = max_pixels
        self.cap_bytes = _default_cap_bytes() if cap_bytes is None else cap_bytes
        self.kept_bytes = 0
        self.read_seconds = 0.0
        self.decode_seconds = 0.0
        self._grey: GreyScale | None = None
        self._kept: dict[int, np.ndarray] = {}
        self._hashes: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def grey(self) -> GreyScale | None:
        """The grey scale for images with more than 8 bits; the data scan sets that of the source."""
        return self._grey

    @grey.setter
    def grey(self, scale: GreyScale | None) -> None:
        with self._lock:
            if scale != self._grey:  # decoded with another scale
                self._kept.clear()
                self.kept_bytes = 0
            self._grey = scale

    def read(self, index: int) -> np.ndarray:
        """The image as (height, width, 3) uint8 RGB; shared with other callers: do not modify it.

        Raises:
            BadImage: the file can't be read or decoded, or changed since it was first read.
        """
        if self.listing.pixels is not None:
            return self.listing.pixels[index]
        kept = self._kept.get(index)
        return kept if kept is not None else self.decode(index, self.read_bytes(index))

    def hash_of(self, index: int) -> str:
        """SHA-256, in hex: of the file's bytes, or for an image in memory of its shape and pixels.

        Raises:
            BadImage: the file can't be read.
        """
        if self.listing.pixels is None:
            self.read_bytes(index)
            return self._hashes[index]
        pixels = self.listing.pixels[index]
        shape = "x".join(str(side) for side in pixels.shape)
        return hashlib.sha256(f"{shape}/".encode() + pixels.tobytes()).hexdigest()

    def read_bytes(self, index: int) -> bytes:
        """The bytes of the file; its hash is computed at the first read and compared at later reads.

        Raises:
            BadImage: the file can't be read, or changed since it was first read.
        """
        assert self.listing.files is not None  # only files have bytes
        started = time.perf_counter()
        data = decode.read_file(self.listing.files[index])
        found = hashlib.sha256(data).hexdigest()
        with self._lock:
            self.read_seconds += time.perf_counter() - started
            expected = self._hashes.setdefault(index, found)
        if found != expected:
            raise BadImage(str(self.listing.files[index]), "the file changed while it was in use; start again")
        return data

    def decode(self, index: int, data: bytes) -> np.ndarray:
        """Decode the bytes of image `index`, and keep the result if there is room.

        Raises:
            BadImage: the bytes are not a usable image.
        """
        assert self.listing.files is not None
        name, grey = str(self.listing.files[index]), self._grey
        with self._timed():
            pixels = decode.decode_image(data, name, max_pixels=self.max_pixels, grey=grey)
        with self._lock:
            if (
                grey == self._grey
                and index not in self._kept
                and self.kept_bytes + pixels.nbytes <= self.cap_bytes
            ):
                self._kept[index] = pixels
                self.kept_bytes += pixels.nbytes
        return pixels

    def measure_values(self, index: int, data: bytes) -> Depth:
        """The value range of image `index`, which has more than 8 bits; BadImage as in `decode`."""
        assert self.listing.files is not None
        with self._timed():
            return decode.measure_values(data, str(self.listing.files[index]), max_pixels=self.max_pixels)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the seconds of this thread's work as decoding."""
        started = time.thread_time()
        try:
            yield
        finally:
            with self._lock:
                self.decode_seconds += time.thread_time() - started


def _default_cap_bytes() -> int:
    memory = total_memory_bytes()
    return MAX_KEPT_BYTES if memory is None else min(MAX_KEPT_BYTES, memory // 8)
