"""Class names of two sources: which of them mean the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from backbench.data.wording import count, list_some, quote
from backbench.errors import DataError, nearest

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING

from backbench.data.synsets import TABLES, plain_name, read_table

if TYPE_CHECKING:
    pass


def match_names(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Class of another source -> the model's class of the same name, spelt plainly, or else of the same meaning.

    Names are compared without case, numbers, spaces and plural; then by the ids that the curated tables give them,
    where exactly one class of the model has all of theirs: a goldfish is an aquarium fish, but a table need not be
    a billiard table. `_SYNONYMS` are names that no table tells apart rightly.
    """
    by_name = {_stem(name): name for name in ours}
    our_ids = {name: _ids_of(name) for name in ours}
    mapping = {}
    for name in theirs:
        if _stem(name) in by_name:
            mapping[name] = by_name[_stem(name)]
            continue
        ids = _ids_of(name)
        holding = [mine for mine, known in our_ids.items() if ids and ids <= known]
        if len(holding) == 1:
            mapping[name] = holding[0]
    return mapping


# One thing under two names, of Open Images and of the Caltech and CIFAR sets.
_SYNONYMS = {
    "motorcycle": "motorbike",
    "glasses": "eyeglass",
    "eyeglasses": "eyeglass",
    "microwaveoven": "microwave",
    "commonsunflower": "sunflower",
    "bellpepper": "sweetpepper",
    "maple": "mapletree",
    "willow": "willowtree",
}


def _stem(name: str) -> str:
    plain = plain_name(name).replace(" ", "")
    plain = _SYNONYMS.get(plain, plain)
    if plain.endswith(("ss", "us", "is")):
        return plain
    if plain.endswith("ies"):
        return plain[:-3] + "y"
    return plain.removesuffix("s")


def _ids_of(name: str) -> frozenset[str]:
    """What the first curated table that knows the name calls it; empty if none does."""
    plain = plain_name(name)
    for table in TABLES:
        ids = read_table(table).get(plain)
        if ids:
            return frozenset(ids)
    return frozenset()


def match_classes(labels: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """(n,) int64: the place of each label among the model's class names, by name alone, whatever the order.

    Raises:
        DataError: classes that the model does not know, with the nearest that it does.
    """
    known = {unicodedata.normalize("NFC", name): place for place, name in enumerate(class_names)}
    places = [known.get(unicodedata.normalize("NFC", label), -1) for label in labels]
    unknown = sorted({label for label, place in zip(labels, places, strict=True) if place < 0})
    if unknown:
        close = [near for name in unknown[:3] for near in nearest(name, class_names, limit=1)]
        hint = f" Did you mean {' or '.join(quote(name) for name in close)}?" if close else ""
        raise DataError(
            f"the model does not know {count(len(unknown), 'class', 'classes')} of these images: "
            f"{list_some((quote(name) for name in unknown), 5)}.{hint} It knows "
            f"{list_some((quote(name) for name in class_names), 8)}. Classes are matched by name: rename the "
            "folders, or take those images out."
        )
    return np.array(places, dtype=np.int64)
