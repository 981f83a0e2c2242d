"""The most common image size of each split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbench.data.census import Census


def common_size(census: Census, rows: Sequence[int]) -> tuple[int, int, int] | None:
    """(width, height, how many images have it), in pixels, of usable rows of a census; None without a row.

    Sizes are those of upright images. Of equally common sizes the largest is used.
    """
    if not len(rows):
        return None
    columns = [census.fact_names.index(name) for name in ("log_width", "log_height")]
    sides = np.exp(census.facts[np.asarray(rows)][:, columns].astype(np.float64)).round().astype(np.int64)
    sizes, counts = np.unique(sides, axis=0, return_counts=True)
    width, height, num = max(
        ((int(w), int(h), int(num)) for (w, h), num in zip(sizes, counts, strict=True)),
        key=lambda size: (size[2], size[0] * size[1], size[0]),
    )
    return width, height, num


def common_sizes(
    census: Census, rows: Sequence[int], parts: Sequence[str | None]
) -> dict[str, tuple[int, int, int]]:
    """Split -> `common_size` of its images, in the order train, val, test.

    Args:
        rows: of the census, one for each sample; `parts`: the split of each.
    """
    found = {
        part: common_size(census, [row for row, own in zip(rows, parts, strict=True) if own == part])
        for part in ("train", "val", "test")
    }
    return {part: size for part, size in found.items() if size is not None}
