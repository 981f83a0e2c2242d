"""Parse JSON and TOML from outside; every fault raises ValueError with the reason."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

MAX_LEVELS = 64
"""Documents of backbench have a few levels; deeper nesting could overflow the stack of the parser."""


class TooDeep(ValueError):
    """The document is nested too deeply."""

    def __init__(self) -> None:
        super().__init__(f"it is nested more than {MAX_LEVELS} levels deep")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; raises ValueError if it is invalid, is not Unicode or is nested too deeply."""
    try:
        return check_depth(json.loads(text))
    except RecursionError:
        raise TooDeep from None


def parse_toml(text: str, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """Parse TOML; raises ValueError as `parse_json` does."""
    try:
        document: dict[str, Any] = check_depth(tomllib.loads(text, parse_float=parse_float))
    except RecursionError:
        raise TooDeep from None
    return document


def check_depth(value: Any) -> Any:
    """Return the value; raise TooDeep if it is nested too deeply."""
    level = [value]
    for _ in range(MAX_LEVELS):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ())
            if isinstance(part, dict | list)
        ]
        if not level:
            return value
    raise TooDeep
