"""Helpers of drawings and template: names, numbers and markup for a page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from backbench.report.text import printable, shorten

__all__ = ["breakable", "join_marks", "name", "points", "sentence", "tag"]

LONGEST_NAME = 60


def name(text: str, limit: int = LONGEST_NAME) -> str:
    """An outside name, printable and shortened. The template escapes it."""
    return shorten(printable(text[: 4 * limit + 400]), limit)


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def breakable(text: str) -> Markup:
    """A name that may break after `_`, `.`, `-` and `/`."""
    return Markup("<wbr>").join(re.findall(r"[^_./-]*[_./-]+|[^_./-]+", text))


def tag(markup: str, *values: object) -> Markup:
    """`markup` with its `{}` filled in; every value is escaped."""
    return Markup(markup).format(*values)


def join_marks(parts: Sequence[Markup]) -> Markup:
    """Pieces of markup one after the other."""
    return Markup("").join(parts)


def points(gap: float) -> str:
    """A difference of shares in points, with its sign: '+1.2', '−0.4', '0.0'."""
    shown = f"{abs(100 * gap):.1f}"
    return shown if shown == "0.0" else ("+" if gap > 0 else "−") + shown
