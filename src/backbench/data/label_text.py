"""Class names in a table: find missing labels, merge spellings, and detect labels that are not classes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from backbench.errors import DataError
from backbench.wording import count, list_some, quote

MISSING = frozenset(("", "nan", "null", "na", "n/a", "#n/a", "<na>", "?"))
"""Compared without case. 'None' as Python writes it counts too; 'none' may be a class, such as 'no fault'."""
JOINERS = ("|", ";", ",", "/", "+", "&")
MANY_NUMBERS = 20
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
_LIST_OF_ONE = re.compile(r"""\[\s*(["']?)([^"',\[\]]*)\1\s*,?\s*\]""")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


def is_missing(label: str) -> bool:
    """Whether a cell means a missing label."""
    return label.casefold() in MISSING or label == "None"


def unwrap_lists(labels: Sequence[str]) -> list[str]:
    """Labels that are all written as lists of at most one ('["cat"]', "['dog']", '[3]', '[]'), without it."""
    found = [_LIST_OF_ONE.fullmatch(label) for label in labels if not is_missing(label)]
    if not found or None in found:
        return list(labels)
    return [label if is_missing(label) else str(_LIST_OF_ONE.sub(r"\2", label)) for label in labels]


def merge_spellings(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """The labels with one spelling for each class, and warnings on what was merged.

    '1.0' is '1' if both occur; spaces of other kinds, invisible characters and decomposed accents do not
    make another class: the most common spelling is kept. Upper and lower case do make one, see
        `checks.check_labels`.
    """
    counts = Counter(labels)
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for label in counts:
        spellings[_plain(label, counts)].append(label)
    merged = {key: sorted(same) for key, same in spellings.items() if len(same) > 1}
    kept = {
        label: key if key in same and _WHOLE.fullmatch(label) else min(same, key=lambda one: (-counts[one], one))
        for key, same in merged.items()
        for label in same
    }
    shown = list_some(
        (f"{' and '.join(map(ascii, same))} as {quote(kept[same[0]])}" for same in merged.values()), 5
    )
    warnings = [f"labels that differ only in spelling were merged into one class: {shown}"] if merged else []
    return [kept.get(label, label) for label in labels], warnings


def warn_of_labels(labels: Sequence[str], where: str) -> list[str]:
    """Warnings on labels that may not mean one class each; `where` names the column.

    Raises:
        DataError: nearly every image has a different number: a score, not classes.
    """
    counts = Counter(labels)
    joined = _find_joined(counts)
    warnings = []
    if joined:
        num = sum(counts[label] for label in joined)
        warnings.append(
            f"{where}: {count(len(joined), 'label')} of {count(num, 'image')} "
            f"{'looks' if len(joined) == 1 else 'look'} like several labels for one image "
            f"({list_some(map(quote, joined), 3)}): every image has exactly one class, so each combination counts "
            "as a class"
        )
    nones = [label for label in counts if label.casefold() == "none"]
    if nones:
        warnings.append(
            f"{where}: {quote(nones[0])} is a class here, with {count(counts[nones[0]], 'image')}. If it means a "
            "missing label, leave those cells empty"
        )
    if _are_scores(counts):
        told = (
            f"{where} holds {len(counts):,} different numbers for {count(len(labels), 'image')}, such as "
            f"{list_some(counts, 3)}: this looks like a score, not like classes"
        )
        if 2 * len(counts) > len(labels):
            raise DataError(
                f"{told}. Name a column of classes with --label-column, or put the scores into classes."
            )
        warnings.append(told)
    return warnings


def _plain(label: str, counts: Counter[str]) -> str:
    whole = _WHOLE.fullmatch(label)
    if whole is not None and whole[1] in counts:
        return whole[1]
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", label)).split())


def _find_joined(counts: Counter[str]) -> list[str]:
    """Labels that combine other labels with a separator or as a list."""
    lists = [label for label in counts if label[:1] in ("[", "{", "(") and label[-1:] in ("]", "}", ")")]
    found = [label for label in lists if "," in label or "'" in label or '"' in label]
    for mark in JOINERS:
        pieces = {label: [piece.strip() for piece in label.split(mark)] for label in counts if mark in label}
        whole = {label: parts for label, parts in pieces.items() if all(parts)}
        uses = Counter(piece for parts in whole.values() for piece in set(parts))
        found += [
            label for label, parts in whole.items() if any(uses[piece] > 1 or piece in counts for piece in parts)
        ]
    # words count only if each is a class itself: "healthy leaf" is one class, "rust scab" is two if both exist
    words = {label: label.split() for label in counts}
    found += [label for label, parts in words.items() if len(parts) > 1 and all(part in counts for part in parts)]
    return sorted(dict.fromkeys(found), key=lambda label: (-counts[label], label))


def _are_scores(counts: Counter[str]) -> bool:
    """Whether the labels are many numbers, some with decimals."""
    if len(counts) <= MANY_NUMBERS or not all(_NUMBER.fullmatch(label) for label in counts):
        return False
    return any("." in label or "," in label for label in counts if not _WHOLE.fullmatch(label))
