"""JSON and TOML as they come from outside: whatever is wrong with them is a ValueError that says it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

MAX_LEVELS = 64
"""Nothing that backbench reads is nested deeper than a few levels; what is would end in a stack that is full."""


class TooDeep(ValueError):
    """It is nested deeper than anything that is read here."""

    def __init__(self) -> None:
        super().__init__(f"it is nested more than {MAX_LEVELS} levels deep")


def parse_json(text: str | bytes) -> Any:
    """What the JSON says; ValueError for what is none, is no Unicode, or is nested too deeply."""
    try:
        return check_depth(json.loads(text))
    except RecursionError:
        raise TooDeep from None


def parse_toml(text: str, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """What the TOML says; ValueError as for `parse_json`."""
    try:
        document: dict[str, Any] = check_depth(tomllib.loads(text, parse_float=parse_float))
    except RecursionError:
        raise TooDeep from None
    return document


def check_depth(value: Any) -> Any:
    """The value; TooDeep for one that no later step may meet."""
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
