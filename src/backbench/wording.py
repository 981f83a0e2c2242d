"""Counts with their noun, lists in a sentence, and outside names in messages."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from backbench.errors import nearest, printable


def count(num: int, singular: str, plural: str = "") -> str:
    """'1 image', '1,240 images', '2 classes'."""
    return f"{num:,} {singular if num == 1 else plural or singular + 's'}"


def list_some(items: Iterable[str], limit: int = 5, separator: str = ", ") -> str:
    """The first few items and the number of further ones: "'a', 'b' and 12 more"."""
    known = list(items)
    text = separator.join(known[:limit])
    if len(known) <= limit:
        return text
    return f"{text}{' ' if separator == ', ' else separator}and {len(known) - limit:,} more"


def join_names(names: Iterable[str], limit: int = 3) -> str:
    """'a', 'a and b', 'a, b and c', 'a, b, c and 4 more'; names are made printable."""
    shown = [printable(name) for name in names]
    if 1 < len(shown) <= limit:
        return f"{', '.join(shown[:-1])} and {shown[-1]}"
    return list_some(shown, limit)


def did_you_mean(
    given: str, allowed: Iterable[str], *, otherwise: str = "", limit: int = 3, folder: Path | None = None
) -> str:
    """Suggest the names most like `given`, with a space before: ' Did you mean 'a' or 'b'?'; else `otherwise`.

    Args:
        folder: folder of the allowed names, which are shown with their path.
    """
    close = nearest(given, allowed, limit)
    if not close:
        return f" {otherwise}" if otherwise else ""
    return f" Did you mean {' or '.join(repr(str(folder / name) if folder else name) for name in close)}?"


def quote(name: str) -> str:
    """The name in quotes, with control characters, direction marks and broken bytes escaped."""
    return repr(name)


def escape(name: str) -> str:
    """The name without quotes; unprintable characters are escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


def quote_word(text: str) -> str:
    """The text as one word of a command line, to be copied into a shell."""
    return printable(shlex.quote(text))
