"""The findings of `backbench scan`: faults, duplicates and leaks, with examples; changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backbench.config import DataConfig
from backbench.data.census import Census, take_census
from backbench.data.checks import FEW_IMAGES, count_leaks, find_twins, group_by_content
from backbench.data.left_out import list_left_out
from backbench.data.listing import Ignored, Listing
from backbench.data.load import load_listing, refuse_fractions, source_notes, source_warnings
from backbench.data.manifest import Manifest, make_manifest, order_classes
from backbench.data.sizes import common_size, common_sizes
from backbench.data.store import PixelStore
from backbench.errors import DataError
from backbench.progress import SILENT, Progress
from backbench.wording import count, escape, list_some, quote

NUM_EXAMPLES = 5
ONLY_EQUAL_BYTES = (
    "Duplicates are compared byte for byte. Near-duplicates (re-encoded, resized or cropped images) are not "
    "detected."
)


@dataclass(frozen=True)
class Copy:
    """One of several samples with identical content."""

    id: str
    label: str
    part: str | None


@dataclass(frozen=True)
class Audit:
    """The content of a source and its faults.

    Args:
        class_counts: usable images of each class, classes in the manifest's order; 0 for an empty class.
        parts: images of each split; empty if no split could be made.
        common_sizes: split, or 'all' without splits -> (width, height, images) of its most common size.
        widths, heights: minimum, median and maximum, in pixels; None without a usable image.
        broken: files that are not usable images, with the reason.
        repeats: sets of identical images within one split and one class: harmless, kept together by the split.
        conflicts: sets of identical images with different labels.
        leaks: sets of identical images in several splits; `num_leaked` test images are affected.
        twins: class names that differ only in case, spaces or Unicode spelling.
        empty_classes, small_classes: without a usable image; with fewer than `checks.FEW_IMAGES`.
        problem: the reason why these images can't be split; None if they can.
        notes: remarks of the source, such as a class that is left out.
        read_as: how the source was read, such as the use of each column.
        warnings: warnings about the split; the fields above hold the findings on images.
    """

    name: str
    class_counts: dict[str, int]
    parts: dict[str, int]
    widths: tuple[int, int, int] | None
    heights: tuple[int, int, int] | None
    broken: tuple[Ignored, ...]
    ignored: tuple[Ignored, ...]
    repeats: tuple[tuple[Copy, ...], ...]
    conflicts: tuple[tuple[Copy, ...], ...]
    leaks: tuple[tuple[Copy, ...], ...]
    num_leaked: int
    twins: tuple[tuple[str, ...], ...]
    empty_classes: tuple[str, ...]
    small_classes: tuple[str, ...]
    problem: str | None = None
    common_sizes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    read_as: tuple[str, ...] = ()

    @property
    def has_trouble(self) -> bool:
        """Whether the images need attention before use."""
        found = (self.broken, self.conflicts, self.leaks, self.twins, self.empty_classes, self.problem)
        return any(found)

    @property
    def num_images(self) -> int:
        """Usable images."""
        return sum(self.class_counts.values())

    def to_json(self) -> dict[str, Any]:
        """A document of plain JSON values; every finding in full."""

        def copies(sets: Sequence[Sequence[Copy]]) -> list[list[dict[str, str | None]]]:
            return [[{"id": c.id, "label": c.label, "part": c.part} for c in same] for same in sets]

        def entries(found: Sequence[Ignored]) -> list[dict[str, str]]:
            return [{"path": entry.path, "reason": entry.reason} for entry in found]

        return {
            "schema": 1,
            "name": self.name,
            "images": self.num_images,
            "classes": self.class_counts,
            "parts": self.parts,
            "widths": self.widths,
            "heights": self.heights,
            "common_sizes": self.common_sizes,
            "broken": entries(self.broken),
            "ignored": entries(self.ignored),
            "repeats": copies(self.repeats),
            "conflicts": copies(self.conflicts),
            "leaks": copies(self.leaks),
            "leaked_test_images": self.num_leaked,
            "twins": [list(same) for same in self.twins],
            "empty_classes": list(self.empty_classes),
            "small_classes": list(self.small_classes),
            "near_copies": "not looked for",
            "problem": self.problem,
            "read_as": list(self.read_as),
            "warnings": [*self.notes, *self.warnings],
            "trouble": self.has_trouble,
        }

    def sentences(self) -> list[str]:
        """Lines for the terminal: an overview, then each kind of finding with its first examples."""
        sizes = [num for num in self.class_counts.values() if num]
        each = f", {_span(min(sizes), max(sizes))} each" if sizes else ""
        images, classes = count(self.num_images, "usable image"), count(len(sizes), "class", "classes")
        lines = [f"{escape(self.name)}: {images}, {classes}{each}."]
        if self.widths and self.heights:
            (low_w, middle_w, high_w), (low_h, middle_h, high_h) = self.widths, self.heights
            lines.append(
                f"Width {_span(low_w, high_w)}, height {_span(low_h, high_h)} pixels, "
                f"median {middle_w:,} x {middle_h:,}."
            )
        if self.common_sizes:
            sizes_by_part = [
                f"{width:,} x {height:,} ({num:,} of {self.parts.get(part, self.num_images):,} {part})"
                for part, (width, height, num) in self.common_sizes.items()
            ]
            lines.append(f"Most common size: {', '.join(sizes_by_part)}.")
        if self.parts:
            lines.append("Splits: " + ", ".join(f"{num:,} {part}" for part, num in self.parts.items()) + ".")
        lines += [f"{escape(note)}." for note in self.read_as]
        lines += [
            f"warning: {escape(warning)}{'' if warning.endswith('?') else '.'}"
            for warning in (*self.notes, *self.warnings)
        ]
        lines += _list_entries("broken file", self.broken)
        lines += _list_sets("in several splits (a leak)", self.leaks)
        lines += _list_sets("with several labels", self.conflicts)
        lines += _list_sets("within one class and split (kept together)", self.repeats)
        lines.append(ONLY_EQUAL_BYTES)
        lines += [f"Class names that look alike: {' and '.join(map(quote, same))}" for same in self.twins]
        for what, names in (
            ("Empty", self.empty_classes),
            (f"Fewer than {FEW_IMAGES} images", self.small_classes),
        ):
            if names:
                lines.append(f"{what}: {count(len(names), 'class', 'classes')}: {list_some(map(quote, names))}")
        lines += _list_entries("ignored", self.ignored, plural="ignored")
        if self.problem:
            lines.append(f"No ranking is possible: {self.problem}")
        lines.append(self._verdict())
        return lines

    def _verdict(self) -> str:
        if self.has_trouble:
            return "Problems were found; see above."
        num = len(self.notes) + len(self.warnings)
        return f"No broken files; see the {count(num, 'warning')} above." if num else "No problems found."


def audit_source(config: DataConfig, progress: Progress = SILENT) -> Audit:
    """Check every image of a source. Broken files are findings, not errors; `config.on_bad` has no effect.

    Raises:
        ConfigError, DataError: the source itself can't be listed; see `load.load_listing`.
    """
    listing = load_listing(config.model_copy(update={"on_bad": "skip"}), progress)
    refuse_fractions(config, listing)
    store = PixelStore(listing, config.max_pixels, cap_bytes=0)  # nothing is read a second time
    census = take_census(listing, store, max_pixels=config.max_pixels, progress=progress)
    try:
        manifest = make_manifest(listing, census, config.model_copy(update={"on_bad": "skip"}))
    except DataError as error:
        return audit(listing, census, None, problem=str(error))
    return audit(listing, census, manifest)


def audit(listing: Listing, census: Census, manifest: Manifest | None, *, problem: str | None = None) -> Audit:
    """Findings from a data scan that is done already; reads nothing.

    Args:
        manifest: made with the policy 'skip'; None if it can't be made; `problem` holds the reason.
    """
    usable = [row for row in range(len(listing)) if row not in census.bad]
    parts: list[str | None] = list(listing.parts)
    if manifest is not None:
        for row, part in zip(manifest.rows.tolist(), manifest.parts, strict=True):
            parts[row] = part
    same = group_by_content(census.hashes, usable)
    across_parts = [rows for rows in same if _is_leak(rows, parts)]
    two_labels = [rows for rows in same if len({listing.labels[row] for row in rows}) > 1]
    rest = [rows for rows in same if rows not in across_parts and rows not in two_labels]

    def copies(sets: Sequence[Sequence[int]]) -> tuple[tuple[Copy, ...], ...]:
        return tuple(tuple(Copy(listing.ids[r], listing.labels[r], parts[r]) for r in rows) for rows in sets)

    counts = Counter(listing.labels[row] for row in usable)
    names = order_classes((*listing.labels, *(listing.class_names or ())))
    return Audit(
        name=listing.name,
        class_counts={name: counts[name] for name in names},
        parts=manifest.counts if manifest is not None else {},
        widths=_spread(census, usable, "log_width"),
        heights=_spread(census, usable, "log_height"),
        broken=tuple(Ignored(listing.ids[row], reason) for row, reason in census.bad.items()),
        ignored=listing.ignored,
        repeats=copies(rest),
        conflicts=copies(two_labels),
        leaks=copies(across_parts),
        num_leaked=count_leaks(across_parts, [part or "train" for part in parts]),
        twins=tuple(find_twins(names)),
        empty_classes=tuple(name for name in names if not counts[name]),
        small_classes=tuple(name for name in names if 0 < counts[name] < FEW_IMAGES),
        problem=problem,
        common_sizes=_common_sizes(census, usable, manifest),
        notes=tuple(source_warnings(listing)),
        warnings=manifest.warnings if manifest is not None else (),
        read_as=source_notes(listing),
    )


def _is_leak(rows: Sequence[int], parts: Sequence[str | None]) -> bool:
    """Identical images in several splits. backbench's own split never does that, so the source's split did."""
    return len({parts[row] for row in rows}) > 1


def _spread(census: Census, usable: Sequence[int], name: str) -> tuple[int, int, int] | None:
    if not usable:
        return None
    sides = np.exp(census.facts[usable, census.fact_names.index(name)].astype(np.float64))
    low, middle, high = np.quantile(sides, (0, 0.5, 1), method="lower").round().astype(int).tolist()
    return low, middle, high


def _common_sizes(
    census: Census, usable: Sequence[int], manifest: Manifest | None
) -> dict[str, tuple[int, int, int]]:
    if manifest is not None:
        return common_sizes(census, manifest.rows.tolist(), manifest.parts)
    size = common_size(census, usable)
    return {} if size is None else {"all": size}


def _list_entries(what: str, entries: Sequence[Ignored], plural: str = "") -> list[str]:
    if not entries:
        return []
    return [f"{count(len(entries), what, plural)}:", *(f"  {line}" for line in list_left_out(entries))]


def _list_sets(where: str, sets: Sequence[Sequence[Copy]]) -> list[str]:
    if not sets:
        return []
    lines = [f"{count(len(sets), 'set')} of identical images {where}:"]
    for same in sets[:NUM_EXAMPLES]:
        lines.append("  " + " = ".join(f"{quote(copy.id)} ({escape(copy.label)}, {copy.part})" for copy in same))
    return lines + _tell_rest(len(sets))


def _tell_rest(num: int) -> list[str]:
    return [f"  ... and {num - NUM_EXAMPLES:,} more (all of them with --json)"] if num > NUM_EXAMPLES else []


def _span(low: int, high: int) -> str:
    """'12', or '225 to 300'."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
