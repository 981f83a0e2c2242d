"""Describe the files that are left out: grouped by reason, lost pictures first, system files last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from backbench.data.listing import LOSSES, Ignored
from backbench.wording import count, list_some, quote

MAX_REASONS = 10
MAX_REASONS_IN_LINE = 5
NUM_NAMES = 3


def group_by_reason(entries: Iterable[Ignored]) -> list[tuple[str, list[Ignored]]]:
    """(reason, entries): lost pictures first, litter last, and of one kind the largest group first."""
    groups: defaultdict[tuple[int, str], list[Ignored]] = defaultdict(list)
    for entry in entries:
        groups[LOSSES.index(entry.loss), entry.reason].append(entry)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1])))
    return [(reason, found) for (_, reason), found in ordered]


def find_lost(entries: Iterable[Ignored]) -> list[Ignored]:
    """The entries that are pictures or look like pictures."""
    return [entry for entry in entries if entry.loss in ("unread", "picture")]


def list_left_out(entries: Sequence[Ignored]) -> list[str]:
    """One line for each reason, with the first names: "'a.nef', 'b.nef' and 7 more: an image format that ..."."""
    groups = group_by_reason(entries)
    litter = [_describe(reason, found) for reason, found in groups if found[0].loss == "litter"]
    others = [_describe(reason, found) for reason, found in groups if found[0].loss != "litter"]
    rest = sum(len(found) for _, found in groups[MAX_REASONS : len(others)])
    cut = [f"... and {rest:,} more (all of them with --json)"] if rest else []
    return [*others[:MAX_REASONS], *cut, *litter]


def summarise(entries: Sequence[Ignored]) -> str:
    """All that was left out, in one line."""
    reasons = (_describe(reason, found) for reason, found in group_by_reason(entries))
    return list_some(reasons, MAX_REASONS_IN_LINE, "; ")


def warn_of_lost(entries: Sequence[Ignored]) -> list[str]:
    """A warning on pictures that are left out; empty if there are none."""
    lost = find_lost(entries)
    if not lost:
        return []
    verb = "is" if len(lost) == 1 else "are"
    return [f"{count(len(lost), 'picture or folder', 'pictures or folders')} {verb} left out: {summarise(lost)}"]


def _describe(reason: str, found: Sequence[Ignored]) -> str:
    return f"{list_some((quote(entry.path) for entry in found), NUM_NAMES)}: {reason}"
