"""Faults of samples, labels and splits: errors that stop the work, warnings that are stored with results."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from backbench.config import OnBad
from backbench.data.bands import DEEP_COLOURS
from backbench.data.census import Census
from backbench.data.grey import warn_of_depths
from backbench.data.listing import Listing
from backbench.errors import DataError
from backbench.wording import count, list_some, quote

DARK_SHARE = 0.999
"""An image is almost black if a larger share of each colour's values is in the lowest tenth of their range."""
LOWEST_SHARES = ("red_share_0", "green_share_0", "blue_share_0")
FEW_IMAGES = 5
"""A class with fewer images is small: its metrics rest on one or two test images."""


def group_by_content(hashes: Sequence[str], rows: Iterable[int]) -> list[list[int]]:
    """Rows with identical content, two or more each, in order of their first row."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        if hashes[row]:
            found[hashes[row]].append(row)
    return [members for members in found.values() if len(members) > 1]


def find_twins(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Class names that differ only in upper and lower case, spaces at the ends, or their Unicode spelling."""
    folded: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        folded[unicodedata.normalize("NFKC", name).strip().casefold()].add(name)
    return sorted(tuple(sorted(same)) for same in folded.values() if len(same) > 1)


def refuse_bad(listing: Listing, census: Census, on_bad: OnBad) -> None:
    """Raise DataError if files are broken and the policy is to stop, or if all are broken."""
    if len(listing) == 0:
        ignored = list_some(f"{quote(entry.path)} ({entry.reason})" for entry in listing.ignored)
        raise DataError(
            f"no images in {quote(listing.name)}. Give a folder with one folder of images for each class, "
            "or a table with a column of paths and one of labels." + (f" Ignored: {ignored}." if ignored else "")
        )
    if not census.bad:
        return
    bad = list_some((f"{quote(listing.ids[row])}: {why}" for row, why in census.bad.items()), separator="\n  ")
    found = f"{len(census.bad):,} of {count(len(listing), 'image')} can't be used:\n  {bad}"
    if len(census.bad) == len(listing):
        raise DataError(f"{found}\nNo image is left.")
    if on_bad == "fail":
        raise DataError(
            f"{found}\nRepair or remove them, or leave them out with --on-bad skip (done before the split "
            "and recorded)."
        )


def check_labels(labels: Sequence[str], where: str) -> None:
    """Raise DataError for class names that look alike and for fewer than two classes."""
    names = sorted(set(labels))
    twins = find_twins(names)
    if twins:
        pairs = list_some((" and ".join(map(quote, same)) for same in twins), separator="; ")
        raise DataError(
            f"classes of {where} differ only in upper and lower case, spaces or Unicode spelling: {pairs}. If "
            "they are one class, give them one name; otherwise give them clearly different names."
        )
    if len(names) < 2:
        raise DataError(
            f"all {count(len(labels), 'image')} of {where} have one class, {quote(names[0])}. Give images of at "
            "least two classes: one folder for each class, or another --label-column."
        )


def check_single_images(labels: Sequence[str]) -> None:
    """Raise DataError for classes with one image if a test split has to be made."""
    single = sorted(name for name, num in Counter(labels).items() if num == 1)
    if single:
        raise DataError(
            f"{count(len(single), 'class has', 'classes have')} one image: {list_some(map(quote, single))}. A "
            "class needs at least two, one to train on and one to test on. Add images, or leave such "
            "classes out with --min-images 2."
        )


def check_parts(labels: Sequence[str], parts: Sequence[str]) -> None:
    """Raise DataError if a class has no training image, or if there is no test or training split."""
    classes: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for label, part in zip(labels, parts, strict=True):
        classes[part].add(label)
    for part in ("train", "test"):
        if not classes[part]:
            raise DataError(
                f"the '{part}' split has no images. If the splits are given, add images to it; if groups keep "
                "images together, each class needs images of at least two groups."
            )
    if len(classes["train"]) < 2:
        raise DataError(f"the training split has one class, {quote(min(classes['train']))}: it needs at least two")
    for part in ("test", "val"):
        unseen = sorted(classes[part] - classes["train"])
        if unseen:
            raise DataError(
                f"{count(len(unseen), 'class', 'classes')} in the '{part}' split without any training image: "
                f"{list_some(map(quote, unseen))}. Classes are matched by name: check that they are spelt alike "
                "in all splits. Else remove them from that split, or add training images."
            )


def warn_of_parts(labels: Sequence[str], parts: Sequence[str], declared: Sequence[str] | None) -> list[str]:
    """Warnings on classes and sizes of the splits."""
    warnings: list[str] = []
    empty = sorted(set(declared or ()) - set(labels))
    if empty:
        warnings.append(
            f"{count(len(empty), 'class has', 'classes have')} no usable image and "
            f"{'is' if len(empty) == 1 else 'are'} left out: {list_some(map(quote, empty))}"
        )
    tested = Counter(label for label, part in zip(labels, parts, strict=True) if part == "test")
    missing = sorted(set(labels) - set(tested))
    if missing:
        warnings.append(
            f"{count(len(missing), 'class has', 'classes have')} no test image, so "
            f"{'it is' if len(missing) == 1 else 'they are'} not evaluated: {list_some(map(quote, missing))}"
        )
    num_classes, num_test = len(set(labels)), sum(tested.values())
    if num_classes > num_test:
        warnings.append(
            f"there are more classes ({num_classes:,}) than test images ({num_test:,}): most metrics per class do "
            "not exist, and the ranking is uncertain"
        )
    if "val" not in parts:
        warnings.append("no class has enough images for a validation split: methods use their default settings")
    return warnings


def warn_of_content(
    labels: Sequence[str], parts: Sequence[str], hashes: Sequence[str], groups: Sequence[str | None]
) -> list[str]:
    """Warnings on identical images and on groups that are in several splits."""
    warnings: list[str] = []
    same = group_by_content(hashes, range(len(hashes)))
    leaked = count_leaks(same, parts)
    if leaked:
        warnings.append(
            f"{count(leaked, 'test image is', 'test images are')} also in training or validation, byte for byte: "
            "for these, accuracy measures memory. `backbench scan` lists them; remove them from one of the splits"
        )
    twofold = [rows for rows in same if len({labels[row] for row in rows}) > 1]
    if twofold:
        num = sum(len(rows) for rows in twofold)
        warnings.append(
            f"{count(num, 'image')} with identical content {'has' if num == 1 else 'have'} different labels "
            f"({count(len(twofold), 'content')}): at most one label can be right. `backbench scan` lists them"
        )
    spread = _count_spread_groups(groups, parts)
    if spread:
        warnings.append(
            f"{count(spread, 'group is', 'groups are')} in several of the given splits: the models were trained "
            "on images of test groups. Give splits that keep groups whole, or let backbench split"
        )
    return warnings


def warn_of_pixels(listing: Listing, census: Census) -> list[str]:
    """Warnings on images with more bands, bits or frames than are used."""
    num_usable = len(listing) - len(census.bad)
    of_remark: defaultdict[str, list[int]] = defaultdict(list)
    for row, remarks in census.remarks.items():
        for remark in remarks:
            of_remark[remark].append(row)
    warnings = [
        f"{count(len(rows), 'image')} {remark}: {list_some((quote(listing.ids[row]) for row in rows), 3)}"
        for remark, rows in sorted(of_remark.items())
    ]
    warnings += warn_of_depths(census.depths, census.grey, listing.ids, num_usable)
    lowest = [index for index, name in enumerate(census.colour_names) if name in LOWEST_SHARES]
    deep = of_remark.get(DEEP_COLOURS, [])
    dark = [row for row in deep if (census.colours[row, lowest] > DARK_SHARE).all()]
    if 2 * len(dark) > len(deep):
        warnings.append(
            f"{len(dark):,} of {count(len(deep), 'image')} with 16 bits for each colour are almost black, as they "
            "use few of these bits. Bring them to 8 bits with the range they use"
        )
    return warnings


def count_leaks(same: Iterable[Sequence[int]], parts: Sequence[str]) -> int:
    """The number of test images whose content is also in another split; `same`: rows of identical content."""
    leaked = 0
    for rows in same:
        num_test = sum(parts[row] == "test" for row in rows)
        leaked += num_test if num_test < len(rows) else 0
    return leaked


def check_same_content(ids: Sequence[str], hashes: Sequence[str], expected: Mapping[str, str], where: str) -> None:
    """Raise DataError if images changed since a stored split was made."""
    changed = [name for name, found in zip(ids, hashes, strict=True) if expected.get(name, found) != found]
    if changed:
        raise DataError(
            f"{count(len(changed), 'image')} changed since {where} was written: {list_some(map(quote, changed))}. "
            "A stored split is valid only for unchanged images: restore them, or make a new split (without "
            "--split)."
        )


def _count_spread_groups(groups: Sequence[str | None], parts: Sequence[str]) -> int:
    of_group: defaultdict[str, set[str]] = defaultdict(set)
    for group, part in zip(groups, parts, strict=True):
        if group is not None:
            of_group[group].add(part)
    return sum(len(found) > 1 for found in of_group.values())
