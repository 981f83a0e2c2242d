"""Draw a smaller sample of a source, stratified by class and split.

For trials, and for studies of how much data a method needs. The sample depends only on labels, splits and seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backbench.data.listing import Listing
from backbench.data.scanner import sort_key
from backbench.runtime import make_rng

MIN_OF_A_CLASS = 4
"""Two to train on, one to validate on, one to test on."""


def limit_listing(listing: Listing, limit: int, seed: int) -> Listing:
    """At most `limit` samples of a listing, with a warning in its facts; the listing itself if it is small enough.

    If `limit` leaves fewer than four images of a class, only the first classes by name are kept, with four each: a
    model can't be trained on one image of each class.
    """
    if len(listing) <= limit:
        return listing
    classes = sorted(set(listing.labels), key=sort_key)
    kept = classes[: max(2, min(len(classes), limit // MIN_OF_A_CLASS))]
    strata = [
        (label, part) if label in kept else None for label, part in zip(listing.labels, listing.parts, strict=True)
    ]
    chosen = draw_share(strata, limit, seed)
    warning = f"limited to {len(chosen):,} of {len(listing):,} images"
    if len(kept) < len(classes):
        warning += f" and {len(kept)} of {len(classes)} classes"
    facts = listing.facts | {"warnings": (*listing.facts.get("warnings", ()), f"{warning}: for trials")}
    pixels = listing.pixels
    return replace(
        listing,
        ids=tuple(listing.ids[row] for row in chosen),
        labels=tuple(listing.labels[row] for row in chosen),
        groups=tuple(listing.groups[row] for row in chosen),
        parts=tuple(listing.parts[row] for row in chosen),
        files=None if listing.files is None else tuple(listing.files[row] for row in chosen),
        pixels=None if pixels is None else [pixels[row] for row in chosen],
        class_names=None if listing.class_names is None else tuple(kept),
        facts=facts,
    )


def draw_share(strata: Sequence[object | None], num: int, seed: int) -> list[int]:
    """Rows of `num` samples, in order, from each stratum in its share and at least one of each.

    Args:
        strata: (n,) stratum of each sample; None: never drawn.
        num: sample size; a few more are drawn if there are more strata.
    """
    members: dict[object, list[int]] = defaultdict(list)
    for row, stratum in enumerate(strata):
        if stratum is not None:
            members[stratum].append(row)
    total = sum(map(len, members.values()))
    ideal = {stratum: num * len(rows) / total for stratum, rows in members.items()}
    taken = {stratum: min(len(members[stratum]), max(1, int(share))) for stratum, share in ideal.items()}
    by_remainder = sorted(ideal, key=lambda stratum: (taken[stratum] - ideal[stratum], str(stratum)))
    for stratum in by_remainder:  # those that lost most by rounding down
        if sum(taken.values()) >= min(num, total):
            break
        if taken[stratum] < len(members[stratum]):
            taken[stratum] += 1
    wanted = max(min(num, total), len(members))
    while sum(taken.values()) > wanted:  # at least one of each stratum: take the excess from the others
        richest = max((s for s in taken if taken[s] > 1), key=lambda s: (taken[s] - ideal[s], str(s)))
        taken[richest] -= 1
    rng = make_rng(seed, "limit")
    drawn: list[int] = []
    for stratum in sorted(members, key=str):
        rows = np.array(members[stratum])
        drawn += rng.choice(rows, size=taken[stratum], replace=False).tolist()
    return sorted(drawn)
