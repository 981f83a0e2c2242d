"""Limits the pixels that all threads together hold while decoding: large images wait for one another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backbench.runtime import total_memory_bytes

MAX_PIXELS = 200_000_000
MIN_PIXELS = 20_000_000
BYTES_PER_PIXEL = 64
"""Bytes of memory per pixel of the limit; decoding needs about 7 to 20 bytes per pixel."""


class PixelGate:
    """Makes threads wait until there is room for the image that they decode.

    Args:
        most: pixels at once; a larger image is decoded while no other is.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._changed = threading.Condition()
        self._thread = threading.local()

    @contextmanager
    def hold(self, num_pixels: int) -> Iterator[None]:
        """Wait for room for an image, and hold it in this block, or as long as `kept` says."""
        is_kept = getattr(self._thread, "kept", None) is not None
        if is_kept:  # one image at a time, so that no two threads wait for each other
            self._release(self._thread.kept)
            self._thread.kept = 0
        share = min(num_pixels, self.most)
        with self._changed:
            self._changed.wait_for(lambda: self._held + share <= self.most)
            self._held += share
        try:
            yield
        except BaseException:
            self._release(share)
            raise
        if is_kept:
            self._thread.kept = share
        else:
            self._release(share)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The last image that this thread decodes in this block counts until the block ends. Do not nest."""
        self._thread.kept = 0
        try:
            yield
        finally:
            self._release(self._thread.kept)
            self._thread.kept = None

    def _release(self, share: int) -> None:
        with self._changed:
            self._held -= share
            self._changed.notify_all()


def _decide_most() -> int:
    memory = total_memory_bytes()
    return MAX_PIXELS if memory is None else max(MIN_PIXELS, min(MAX_PIXELS, memory // BYTES_PER_PIXEL))


GATE = PixelGate(_decide_most())
"""Of this process."""
