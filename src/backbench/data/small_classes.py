"""Leave out classes with few images, or merge them into one class, if the user asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from backbench.config import SmallClasses
from backbench.data.scanner import sort_key
from backbench.errors import DataError
from backbench.wording import count, list_some, quote

MERGED_NAMES = ("other", "other small classes", "all small classes together")


@dataclass(frozen=True)
class Settled:
    """The result: rows of the remaining samples, their labels, the removed classes, and warnings."""

    rows: list[int]
    labels: list[str]
    gone: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


def settle_small_classes(labels: Sequence[str], min_images: int | None, how: SmallClasses) -> Settled:
    """Leave out classes with fewer than `min_images` samples, or merge them; None: change nothing.

    Args:
        labels: class of each sample, over all splits.

    Raises:
        DataError: fewer than two classes are left.
    """
    counts = Counter(labels)
    small = [name for name in sorted(counts, key=sort_key) if min_images is not None and counts[name] < min_images]
    if not small:
        return Settled(list(range(len(labels))), list(labels))
    gone = frozenset(small)
    shown = list_some((f"{quote(name)} ({counts[name]:,})" for name in small), 8)
    classes = f"{count(len(small), 'class', 'classes')} with fewer than {min_images:,} images"
    is_merged = how == "merge" and len(small) > 1
    num_left = len(counts) - len(small) + is_merged
    if num_left < 2:
        raise DataError(
            f"--min-images {min_images} leaves {count(num_left, 'class', 'classes')} of {len(counts):,}: "
            f"{classes}: {shown}. At least two are needed: give a smaller number."
        )
    if is_merged:
        merged = next(name for name in MERGED_NAMES if name not in counts or name in gone)
        num = sum(counts[name] for name in small)
        warning = f"{classes} merged into one class, {quote(merged)} of {count(num, 'image')}: {shown}"
        return Settled(
            list(range(len(labels))),
            [merged if label in gone else label for label in labels],
            gone - {merged},
            (warning,),
        )
    rows = [row for row, label in enumerate(labels) if label not in gone]
    num = len(labels) - len(rows)
    alone = "; there is no second small class to merge it with" if how == "merge" else ""
    warning = f"{classes} left out, {count(num, 'image')} in all (--min-images{alone}): {shown}"
    return Settled(rows, [labels[row] for row in rows], gone, (warning,))
