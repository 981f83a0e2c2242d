"""Extract features with a frozen backbone: decode ahead, resize in batches, cache on disk by content.

On the CPU each worker thread processes whole batches from file to features with one torch thread. On busy cores
this is 2 to 5 times faster than torch's threads inside each operator, and equal on idle cores. With an accelerator
the workers read and decode ahead, and this thread feeds the device.

Images are processed in the order of their hashes, so batches and features do not depend on the order of the list.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from backbench.backbones.core.base import Backbone
from backbench.config import GreyScale, Precision
from backbench.data.in_flight import GATE
from backbench.distributed import agree_most, is_first, share_of, sum_numbers, sum_tensor
from backbench.errors import BudgetExceeded, ModelError
from backbench.inference.accelerate import Inference, accelerate
from backbench.inference.cache import feature_key, read_features, write_features
from backbench.inference.resize import Reduced, prepare_reduced, reduce_image
from backbench.progress import SILENT, Bar, Progress, format_seconds
from backbench.records.schema import Cost
from backbench.runtime import num_workers, peak_memory_bytes, synchronise

_CPU_BATCH_PIXELS = 8 * 224 * 224  # activations of a few images stay in the cache of a core
_DEVICE_BATCH_PIXELS = 256 * 224 * 224
_MAX_BATCH = 1024
_PIECE = 32  # images that a worker decodes at once for an accelerator
_NUM_COMPARED = 8  # images whose features are also computed in fp32

Result = TypeVar("Result")
Results = Generator[tuple[Sequence[int], Result]]


@dataclass(frozen=True)
class Extraction:
    """Features in the requested order, and their original cost.

    values: (n, dim) float32. cost: seconds of read, decode, resize and forward, each summed over threads;
    images per second from first to last image by wall clock; number of distinct images; change of a few features
    from fp32 to the lower precision.
    """

    values: np.ndarray
    cost: Cost
    from_cache: bool


def extract_features(
    backbone: Backbone,
    read: Callable[[int], np.ndarray],
    hashes: Sequence[str],
    *,
    names: Sequence[str],
    device: str = "cpu",
    precision: Precision = "fp32",
    exact_resize: bool = False,
    use_cache: bool = True,
    deadline: float | None = None,
    batch_size: int | None = None,
    is_shared: bool = False,
    progress: Progress = SILENT,
    stage_seconds: Callable[[], tuple[float, float]] | None = None,
    grey: GreyScale | None = None,
) -> Extraction:
    """Features of images through a frozen backbone, from the cache if possible.

    Args:
        backbone: not changed; a copy in eval mode runs.
        read: row -> (height, width, 3) uint8; called from several threads, once for each distinct image.
        hashes: SHA-256 in hex of each image's content; equal ones are read and computed once.
        names: name of each image for messages.
        exact_resize: resize with Pillow, as for published figures; False: faster, differs by single grey levels.
        use_cache: False for a backbone that was trained: its features are neither looked up nor kept.
        deadline: `time.monotonic()` by which it must finish.
        batch_size: None: chosen by input size and device.
        is_shared: with several processes, each computes a share of the batches and all get all features,
            bit-identical to one process on the CPU; all processes must call this.
        stage_seconds: returns the (read, decode) seconds spent so far by `read`; None: all of `read` counts as
            decoding.
        grey: the scale of `read` for images with more than 8 bits, for the cache key.

    Raises:
        BadImage: from `read`. ModelError: features that are not finite, or of the wrong size.
        BudgetExceeded: as soon as the speed so far shows that `deadline` will be missed.

    Cost: memory for the features, two batches for each worker and the images being decoded.
    """
    if len(hashes) != len(names):
        raise ValueError(f"{len(hashes)} hashes for {len(names)} names")
    facts = backbone.facts
    key = ""
    if use_cache:
        key = feature_key(
            facts,
            _structure(backbone),
            hashes,
            precision=precision,
            exact_resize=exact_resize,
            device=device,
            grey=grey,
        )
        found = read_features(key, hashes, facts.dim, progress=progress)
        is_missing = found is None
        if is_shared:
            is_missing = bool(agree_most(int(is_missing))[0])
        if found is not None and not is_missing:
            values, cost = found
            return Extraction(values, cost.model_copy(update={"features_from_cache": True}), True)
    work = _Work(
        network=accelerate(backbone, device=device, precision=precision),
        backbone=backbone,
        read=read,
        names=names,
        device=device,
        exact=exact_resize,
        batch_size=batch_size or decide_batch_size(backbone.preprocess.size, device),
        is_shared=is_shared,
    )
    values, cost = _compute(work, hashes, deadline, progress, stage_seconds)
    if precision != "fp32":
        cost = cost.model_copy(update={"rounding": _measure_rounding(work, hashes, values)})
    if use_cache and (is_first() or not is_shared):
        write_features(key, values, hashes, cost, progress=progress)
    return Extraction(values, cost, False)


def decide_batch_size(size: tuple[int, int], device: str) -> int:
    """Images at a time for inputs of (height, width) pixels: 8 on the CPU and 256 elsewhere, at 224 x 224."""
    most_pixels = _CPU_BATCH_PIXELS if device == "cpu" else _DEVICE_BATCH_PIXELS
    return max(1, min(_MAX_BATCH, most_pixels // math.prod(size)))


def _structure(backbone: Backbone) -> str:
    """Digest of the network's structure as torch prints it: layers, strides, padding, pooling."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(backbone.body)).encode()).hexdigest()


@dataclass(frozen=True)
class _Work:
    """The work: network, images, and counters of seconds."""

    network: Inference
    backbone: Backbone
    read: Callable[[int], np.ndarray]
    names: Sequence[str]
    device: str
    exact: bool
    batch_size: int
    is_shared: bool
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("decode", "resize", "forward"), 0.0))
    lock: Any = field(default_factory=threading.Lock)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the block's seconds: of this thread's work on the CPU, of the clock on a device."""
        clock = time.thread_time if self.device == "cpu" else time.perf_counter
        started = clock()
        yield
        synchronise(self.device)
        with self.lock:
            self.seconds[stage] += clock() - started

    def load(self, rows: Sequence[int]) -> list[Reduced]:
        """Read, decode and reduce large images one by one, so that few full-size images are in memory."""
        images = []
        for row in rows:
            started = time.perf_counter()
            with GATE.kept():
                image = self.read(row)
                decoded, resizing = time.perf_counter(), time.thread_time()
                images.append(reduce_image(image, self.backbone.preprocess, exact=self.exact))
                del image  # before others start
            with self.lock:
                self.seconds["decode"] += decoded - started
                self.seconds["resize"] += time.thread_time() - resizing
        return images

    def forward(self, images: Sequence[Reduced], rows: Sequence[int]) -> np.ndarray:
        """(batch, dim) float32 features; a batch too large for the device is halved."""
        try:
            return self._forward(images, rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                facts = self.backbone.facts
                raise ModelError(
                    f"{facts.name}: the memory of device {self.device} is too small for one image of "
                    f"{self.backbone.preprocess.size} pixels. Use --device cpu, or a smaller model."
                ) from None
        half = len(rows) // 2
        parts = [self.forward(images[:half], rows[:half]), self.forward(images[half:], rows[half:])]
        return np.concatenate(parts)

    def _forward(self, images: Sequence[Reduced], rows: Sequence[int]) -> np.ndarray:
        with self.timed("resize"):
            batch = prepare_reduced(images, self.backbone.preprocess, device=self.device, exact=self.exact)
        with self.timed("forward"):
            values = self.network(batch).cpu().numpy()
        self._check(values, rows)
        return values

    def _check(self, values: np.ndarray, rows: Sequence[int]) -> None:
        facts = self.backbone.facts
        if values.shape != (len(rows), facts.dim):
            raise ModelError(f"{facts.name}: features of shape {values.shape}, not ({len(rows)}, {facts.dim})")
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise ModelError(
                f"{facts.name}: features of {self.names[rows[bad[0]]]}{others} are not finite (NaN or infinite). "
                "Check the image. With --precision bf16 or fp16, try fp32; otherwise the weights are damaged."
            )


def _compute(
    work: _Work,
    hashes: Sequence[str],
    deadline: float | None,
    progress: Progress,
    stage_seconds: Callable[[], tuple[float, float]] | None,
) -> tuple[np.ndarray, Cost]:
    first: dict[str, int] = {}
    for row, name in enumerate(hashes):
        first.setdefault(name, row)
    order = [first[name] for name in sorted(first)]
    own = _own_share(work, order)
    values = np.zeros((len(hashes), work.backbone.facts.dim), np.float32)
    before = stage_seconds() if stage_seconds is not None else (0.0, 0.0)
    started = time.monotonic()
    with progress.bar(work.backbone.facts.name, len(own)) as bar:
        pace = _Pace(work.backbone.facts.name, len(own), deadline, bar)
        with closing(_features_on_cpu(work, own) if work.device == "cpu" else _features(work, own)) as results:
            for rows, features in results:
                values[rows] = features
                pace.advance(len(rows))
    if work.is_shared:
        sum_tensor(torch.from_numpy(values))
    elapsed = time.monotonic() - started
    for row, name in enumerate(hashes):
        if first[name] != row:
            values[row] = values[first[name]]
    seconds = {"read": 0.0, **work.seconds}
    if stage_seconds is not None:
        after = stage_seconds()
        seconds |= {"read": after[0] - before[0], "decode": after[1] - before[1]}
    if work.is_shared:
        seconds = dict(zip(seconds, sum_numbers(list(seconds.values())), strict=True))
    cost = Cost(
        seconds=seconds,
        images_per_second=len(order) / elapsed if order and elapsed > 0 else None,
        num_images=len(order),
        peak_memory_bytes=peak_memory_bytes(work.device),
    )
    return values, cost


def _measure_rounding(work: _Work, hashes: Sequence[str], values: np.ndarray) -> float | None:
    """Mean distance of a few rows of `values` from their features in fp32, as a share of the spread of these.

    None for a single image, or if the device has too little memory.
    """
    rows = [hashes.index(name) for name in sorted(set(hashes))[:_NUM_COMPARED]]
    if not rows:
        return None
    images = [reduce_image(work.read(row), work.backbone.preprocess, exact=work.exact) for row in rows]
    batch = prepare_reduced(images, work.backbone.preprocess, device=work.device, exact=work.exact)
    try:
        exact = accelerate(work.backbone, device=work.device, precision="fp32")(batch).cpu().numpy()
    except torch.OutOfMemoryError:
        return None
    spread = float(np.linalg.norm(exact - exact.mean(axis=0), axis=1).mean())
    return float(np.linalg.norm(values[rows] - exact, axis=1).mean()) / spread if spread > 0 else None


def _own_share(work: _Work, order: Sequence[int]) -> Sequence[int]:
    """The share of batches of this process."""
    if not work.is_shared:
        return order
    share = share_of(math.ceil(len(order) / work.batch_size))
    return order[share.start * work.batch_size : share.stop * work.batch_size]


def _features_on_cpu(work: _Work, order: Sequence[int]) -> Results[np.ndarray]:
    def run(rows: Sequence[int]) -> np.ndarray:
        return work.forward(work.load(rows), rows)

    yield from _in_threads(run, order, work.batch_size)


def _features(work: _Work, order: Sequence[int]) -> Results[np.ndarray]:
    images: list[Reduced] = []
    waiting: list[int] = []
    with closing(_in_threads(work.load, order, min(_PIECE, work.batch_size))) as pieces:
        for rows, loaded in pieces:
            images += loaded
            waiting += rows
            if len(waiting) >= work.batch_size:
                yield waiting, work.forward(images, waiting)
                images, waiting = [], []
    if waiting:
        yield waiting, work.forward(images, waiting)


def _in_threads(run: Callable[[Sequence[int]], Result], order: Sequence[int], step: int) -> Results[Result]:
    """`run` on consecutive slices of `order`, in threads, a bounded number ahead; results come in order.

    Torch's own threads are divided among ours. No thread is left when the loop ends, for any reason.
    """
    workers = num_workers()
    own_threads = torch.get_num_threads()
    share = max(1, own_threads // workers)
    slices = (order[start : start + step] for start in range(0, len(order), step))
    pool = ThreadPoolExecutor(workers, "extract", initializer=torch.set_num_threads, initargs=(share,))
    pending: deque[tuple[Sequence[int], Future[Result]]] = deque()
    try:
        for rows in slices:
            pending.append((rows, pool.submit(run, rows)))
            if len(pending) > 2 * workers:
                rows, future = pending.popleft()
                yield rows, future.result()
        while pending:
            rows, future = pending.popleft()
            yield rows, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(own_threads)  # a thread's number is also the default of threads made later


class _Pace:
    """Advances the bar, and stops the work when its speed shows that the deadline will be missed."""

    def __init__(self, label: str, total: int, deadline: float | None, bar: Bar) -> None:
        self.label, self.total, self.deadline, self.bar = label, total, deadline, bar
        self.done = 0
        self.num_results = 0
        self.started = time.monotonic()

    def advance(self, num: int) -> None:
        self.bar.advance(num)
        self.done += num
        self.num_results += 1
        if self.deadline is None or self.done == self.total:
            return
        now = time.monotonic()
        left = self.deadline - now
        needed = (now - self.started) / self.done * (self.total - self.done)
        is_measured = self.num_results > num_workers()  # the first results include warming up
        if left <= 0 or (is_measured and needed > left):
            raise BudgetExceeded(
                f"{self.label}: {self.done:,} of {self.total:,} images took {format_seconds(now - self.started)}; "
                f"the rest would take {format_seconds(needed)}, but {format_seconds(max(left, 0.0))} of the time "
                "budget are left. Give more time, fewer images or a smaller model."
            )
