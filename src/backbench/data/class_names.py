"""Match the class names of two sources."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from backbench.data.synsets import TABLES, plain_name, read_table
from backbench.errors import ConfigError, DataError, nearest
from backbench.wording import count, did_you_mean, list_some, quote


def match_names(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Map classes of another source to the model's classes of the same name, or else of the same meaning.

    Names are compared without case, numbers, spaces and plural; then by WordNet ids from the curated tables, if
    exactly one class of the model has all ids of the other class: a goldfish is an aquarium fish, but a table need
    not be a billiard table. `_SYNONYMS` holds pairs that the tables do not match correctly.
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


# Different names for one thing in Open Images and in the Caltech and CIFAR sets.
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
    """The WordNet ids of a name in the first curated table that has it; empty if none has."""
    plain = plain_name(name)
    for table in TABLES:
        ids = read_table(table).get(plain)
        if ids:
            return frozenset(ids)
    return frozenset()


def map_classes(
    labels: Sequence[str],
    class_names: Sequence[str],
    given: Mapping[str, Sequence[str]] | None = None,
    *,
    is_other: bool = False,
) -> dict[str, str]:
    """Map classes of these images to classes of the model; classes that the model lacks are left out.

    Args:
        labels: of the images. class_names: of the model.
        given: the user's mapping for some classes: one class of the model for each, or none. The others are
            matched by exact name if that matches all of them, else by `match_names`.
        is_other: the images are of another data set, so that a class with almost the name of one of the model's is
            not treated as a typing mistake. Nor is any, if the model lacks most of these classes.

    Raises:
        ConfigError: `given` names an unknown class, or several for one class.
        DataError: no common class, or a class that looks like a misspelt class of the model.
    """
    there = sorted(set(labels))
    given = given or {}
    _check_given(given, there, class_names)
    known = {unicodedata.normalize("NFC", name): name for name in class_names}
    by_name = {name: known[plain] for name in there if (plain := unicodedata.normalize("NFC", name)) in known}
    rest = [name for name in there if name not in by_name and name not in given]
    mapping = by_name | match_names(rest, class_names)
    mapping = {name: mine for name, mine in mapping.items() if name not in given}
    mapping |= {name: mine[0] for name, mine in given.items() if mine}
    unknown = [name for name in rest if name not in mapping]
    unused = [name for name in class_names if name not in mapping.values()]
    may_be_misspelt = not is_other and len(unknown) <= len(mapping)
    if unknown and (not mapping or (may_be_misspelt and any(nearest(name, unused, limit=1) for name in unknown))):
        raise _unknown_classes(unknown, class_names)
    return {name: mapping[name] for name in there if name in mapping}


def _check_given(given: Mapping[str, Sequence[str]], there: Sequence[str], class_names: Sequence[str]) -> None:
    for name, mine in given.items():
        if name not in there:
            raise ConfigError(f"--map: {_not_there(name, there)} Classes of the images are on the left.")
        if len(mine) > 1:
            raise ConfigError(
                f"--map: {quote(name)} is mapped to {len(mine)} classes of the model: give one, or none."
            )
        if mine and mine[0] not in class_names:
            raise ConfigError(f"--map: {_not_there(mine[0], class_names)} Classes of the model are on the right.")


def _not_there(name: str, allowed: Sequence[str]) -> str:
    there = f"There are {list_some(map(quote, allowed))}."
    return f"there is no class {quote(name)}.{did_you_mean(name, allowed, otherwise=there, limit=1)}"


def match_classes(labels: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """(n,) int64: the index of each label in the model's class names, matched by exact name.

    Raises:
        DataError: unknown classes; the message names the nearest known ones.
    """
    known = {unicodedata.normalize("NFC", name): place for place, name in enumerate(class_names)}
    places = [known.get(unicodedata.normalize("NFC", label), -1) for label in labels]
    unknown = sorted({label for label, place in zip(labels, places, strict=True) if place < 0})
    if unknown:
        raise _unknown_classes(unknown, class_names)
    return np.array(places, dtype=np.int64)


def _unknown_classes(unknown: Sequence[str], class_names: Sequence[str]) -> DataError:
    close = [near for name in unknown[:3] for near in nearest(name, class_names, limit=1)]
    hint = f" Did you mean {' or '.join(quote(name) for name in close)}?" if close else ""
    return DataError(
        f"the model does not know {count(len(unknown), 'class', 'classes')} of these images: "
        f"{list_some((quote(name) for name in unknown), 5)}.{hint} It knows "
        f"{list_some((quote(name) for name in class_names), 8)}. Rename the folders, or give --map FILE, a CSV "
        "with a row 'class of the images,class of the model' for each."
    )
