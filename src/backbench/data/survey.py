"""The data preview: a summary from names and file headers, within two seconds."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median_low

from backbench.config import DataConfig
from backbench.data import decode
from backbench.data.left_out import group_by_reason
from backbench.data.listing import PARTS, Ignored, Listing
from backbench.data.load import load_listing, source_notes
from backbench.data.manifest import read_split
from backbench.data.small_classes import Settled, settle_small_classes
from backbench.data.splits import assign_parts, merge_units
from backbench.errors import BadImage
from backbench.progress import SILENT, Progress
from backbench.registry import SourceSpec, find_source
from backbench.runtime import cache_folder, make_rng, num_workers
from backbench.wording import count, escape, list_some, quote

BLOCK = 32
NUM_EXAMPLES = 5
MIN_HEADER_SECONDS = 0.25
"""Minimum time for headers, even if listing a very large folder took all the time."""


@dataclass(frozen=True)
class Range:
    """Minimum, median and maximum of whole numbers."""

    low: int
    middle: int
    high: int

    def __str__(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}-{self.high:,}"


@dataclass(frozen=True)
class Survey:
    """The content of a source, from names and headers.

    Args:
        class_counts: images in a class: minimum, median, maximum.
        widths, heights: in pixels, from the headers that were read; None without any.
        num_headers_read: number of headers read; a random sample if time was short.
        unreadable: examples, with the reason; `num_unreadable` of the headers read are.
        parts: expected number of images in train, val and test.
        total_bytes: of all files whose header was read, scaled up to all images; None for images in memory.
        download_bytes: necessary download.
        notes: how the source was read, such as the use of each column.
        listing: input for `load_data`; None if only the published counts are known.
    """

    name: str
    num_images: int
    num_classes: int
    class_counts: Range
    parts: dict[str, int]
    widths: Range | None = None
    heights: Range | None = None
    num_headers_read: int = 0
    ignored: tuple[Ignored, ...] = ()
    num_unreadable: int = 0
    unreadable: tuple[Ignored, ...] = ()
    total_bytes: int | None = None
    download_bytes: int = 0
    listing: Listing | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_test(self) -> int:
        """Images expected in the test split."""
        return self.parts["test"]

    def sentences(self) -> list[str]:
        """A few lines for the terminal."""
        facts = [
            count(self.num_images, "image"),
            count(self.num_classes, "class", "classes"),
            f"{self.class_counts} each",
        ]
        if self.num_unreadable:
            facts.append(f"{self.num_unreadable:,} unreadable")
        if self.ignored:
            first = (quote(entry.path) for _, found in group_by_reason(self.ignored) for entry in found)
            facts.append(f"{len(self.ignored):,} ignored ({list_some(first, 3)})")
        lines = [f"{escape(self.name)}: {', '.join(facts)}."]
        if self.widths is not None and self.heights is not None:
            size = f"Sizes {self.widths} x {self.heights} pixels"
            if self.num_headers_read < self.num_images:
                size += f" ({self.num_headers_read:,} images checked)"
            lines.append(f"{size}.")
        lines.append("Split: " + ", ".join(f"{self.parts[part]:,} {part}" for part in PARTS) + ".")
        lines += [f"{escape(note)}." for note in self.notes]
        lines += [f"Unreadable: {quote(bad.path)}: {bad.reason}" for bad in self.unreadable]
        return lines


def survey(config: DataConfig, progress: Progress = SILENT, seconds: float = 2.0) -> Survey:
    """Summarise a source without hashing, decoding or downloading anything.

    Args:
        seconds: time limit for reading headers; listing a very large folder may take longer.

    Raises:
        ConfigError, DataError: as `load_listing`.
    """
    spec = find_source(config.source)
    if spec is not None and spec.download_bytes and spec.num_images and spec.num_classes and config.split is None:
        return _from_published(spec, config)
    deadline = time.monotonic() + seconds
    listing = load_listing(config, progress)
    headers, bad = _read_headers(listing, config, max(deadline, time.monotonic() + MIN_HEADER_SECONDS))
    num_read = len(headers) + len(bad)
    settled = settle_small_classes(listing.labels, config.min_images, config.small_classes)
    sizes = Counter(settled.labels)
    total = sum(header.num_bytes for header in headers)
    return Survey(
        name=listing.name,
        num_images=len(settled.rows),
        num_classes=len(sizes),
        class_counts=_range(sizes.values()) or Range(0, 0, 0),
        parts=_expect_parts(listing, settled, config),
        widths=_range(header.width for header in headers),
        heights=_range(header.height for header in headers),
        num_headers_read=num_read,
        ignored=listing.ignored,
        num_unreadable=len(bad),
        unreadable=tuple(bad[:NUM_EXAMPLES]),
        total_bytes=None if listing.files is None else round(total * len(listing) / max(num_read, 1)),
        listing=listing,
        notes=source_notes(listing),
    )


def _from_published(spec: SourceSpec, config: DataConfig) -> Survey:
    assert spec.num_images is not None  # checked by the caller
    assert spec.num_classes is not None
    each = spec.num_images // spec.num_classes
    test = round(spec.num_images * config.test_fraction)
    parts = {"val": 0, **spec.facts.get("parts", {"train": spec.num_images - test, "test": test})}
    if not parts["val"]:
        parts["val"] = round(parts["train"] * config.val_fraction)
        parts["train"] -= parts["val"]
    width, height = spec.facts.get("width"), spec.facts.get("height")
    present = (cache_folder() / "downloads" / spec.facts.get("file_name", "")).is_file() or (
        "folder" in spec.facts and (cache_folder() / spec.facts["folder"]).is_dir()
    )
    return Survey(
        name=spec.name,
        num_images=spec.num_images,
        num_classes=spec.num_classes,
        class_counts=Range(*spec.facts.get("class_counts", (each, each, each))),
        parts=parts,
        widths=None if width is None else Range(width, width, width),
        heights=None if height is None else Range(height, height, height),
        num_headers_read=spec.num_images,
        download_bytes=0 if present else spec.download_bytes,
    )


def _read_headers(
    listing: Listing, config: DataConfig, deadline: float
) -> tuple[list[decode.Header], list[Ignored]]:
    """Headers, and files without a usable one, of as many images as time allows; in random order, so that the
    sample is representative."""
    if listing.files is None:
        assert listing.pixels is not None
        shapes = (image.shape for image in listing.pixels)
        return [decode.Header(s[1], s[0], "RGB", "memory", s[0] * s[1] * 3, False) for s in shapes], []
    files = listing.files
    order = make_rng(0, "survey").permutation(len(listing)).tolist()

    def read_block(rows: Sequence[int]) -> list[tuple[int, decode.Header | BadImage]]:
        found: list[tuple[int, decode.Header | BadImage]] = []
        for row in rows:
            if time.monotonic() > deadline and found:
                break
            try:
                found.append((row, decode.read_header(files[row], max_pixels=config.max_pixels)))
            except BadImage as error:
                found.append((row, error))
        return found

    blocks = (order[start : start + BLOCK] for start in range(0, len(order), BLOCK))
    headers: list[decode.Header] = []
    bad: list[tuple[int, str]] = []
    with ThreadPoolExecutor(num_workers(), thread_name_prefix="survey") as pool:
        # a few blocks at a time: no block starts after the time limit
        while waiting := list(itertools.islice(blocks, 2 * num_workers())):
            for row, header in itertools.chain.from_iterable(pool.map(read_block, waiting)):
                if isinstance(header, BadImage):
                    bad.append((row, header.reason))
                else:
                    headers.append(header)
            if time.monotonic() > deadline:
                break
    return headers, [Ignored(listing.ids[row], reason) for row, reason in sorted(bad)]


def _expect_parts(listing: Listing, settled: Settled, config: DataConfig) -> dict[str, int]:
    """Expected sizes of the splits if no image is broken or a duplicate."""
    ids = [listing.ids[row] for row in settled.rows]
    groups = [listing.groups[row] for row in settled.rows]
    if config.split is not None:
        stored, _ = read_split(config.split)
        given = [stored.get(sample_id) for sample_id in ids]  # a sample without a split is refused later
        return {part: given.count(part) for part in PARTS}
    parts = assign_parts(
        ids,
        settled.labels,
        merge_units(ids, groups, [""] * len(ids)),
        [listing.parts[row] for row in settled.rows],
        test_fraction=config.test_fraction,
        val_fraction=config.val_fraction,
        seed=config.split_seed,
    )
    return {part: parts.count(part) for part in PARTS}


def _range(values: Iterable[int]) -> Range | None:
    known = sorted(values)
    return Range(known[0], median_low(known), known[-1]) if known else None
