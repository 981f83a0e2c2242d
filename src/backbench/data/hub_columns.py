"""Find the columns with images, labels and groups in a table of the `datasets` library, and read labels.

Callers pass the library as `library`; this module does not import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backbench.errors import ConfigError
from backbench.wording import did_you_mean, list_some, quote

IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "species", "target", "category", "cls")
GROUP_COLUMNS = ("group",)


def find_image_column(library: Any, features: Mapping[str, Any], asked: str | None, source: str) -> str:
    """The requested column, or the one that holds images by its type; of several, the one with a usual name.

    Raises:
        ConfigError: no column, or several possible columns.
    """

    def holds_images(kind: Any) -> bool:
        if isinstance(kind, library.Image):
            return True
        if isinstance(kind, dict):
            return "bytes" in kind
        return getattr(kind, "dtype", None) in ("binary", "large_binary")

    found = [name for name, kind in features.items() if holds_images(kind)]
    return _choose_column(features, found, IMAGE_COLUMNS, asked, ("images", "--image-column"), source)


def find_label_column(
    library: Any, features: Mapping[str, Any], asked: str | None, image: str, source: str
) -> str:
    """The requested column, or the one with class labels, else with names or numbers under a usual name.

    Raises:
        ConfigError: no column, or several possible columns.
    """
    found = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    usual = [name for name in features if name != image and name.casefold() in LABEL_COLUMNS]
    possible = [name for name, kind in features.items() if name != image and _may_be_label(library, kind)]
    if asked is None and not found:
        found = [name for name in usual if name in possible]
    allowed = found if asked is None else possible
    return _choose_column(features, allowed, LABEL_COLUMNS, asked, ("labels", "--label-column"), source)


def _may_be_label(library: Any, kind: Any) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    return isinstance(kind, library.ClassLabel) or dtype.startswith(
        ("int", "uint", "string", "large_string", "bool")
    )


def find_group_column(features: Mapping[str, Any], asked: str | None, source: str) -> str | None:
    """The requested column, or one called group, or None. ConfigError: the requested one is missing."""
    if asked is None:
        return next((name for name in features if name.casefold() in GROUP_COLUMNS), None)
    return _choose_column(features, list(features), (), asked, ("groups", "--group-column"), source)


def _choose_column(
    features: Mapping[str, Any],
    found: Sequence[str],
    usual: Sequence[str],
    asked: str | None,
    wording: tuple[str, str],
    source: str,
) -> str:
    """The requested column; else the only one found, or of several the first with a usual name.

    Raises:
        ConfigError: the column is missing or of the wrong type; the message names all columns.
    """
    purpose, option = wording
    columns = f"Columns: {list_some((f'{name!r} ({_describe(kind)})' for name, kind in features.items()), 20)}."
    if asked is not None:
        if asked in found:
            return asked
        if asked in features:
            raise ConfigError(f"{source}: column {quote(asked)} ({option}) holds no {purpose}. {columns}")
        hint = did_you_mean(asked, features)
        raise ConfigError(f"{source} has no column {quote(asked)} ({option}).{hint} {columns}")
    if len(found) == 1:
        return found[0]
    by_name = {name.casefold(): name for name in found}
    named = [by_name[name] for name in usual if name in by_name]
    if named:
        return named[0]
    what = f"several columns may hold the {purpose}" if found else f"no column for the {purpose} was found"
    raise ConfigError(f"{source}: {what}. {columns} Name it with {option}.")


def _describe(kind: Any) -> str:
    """The type of a column in a word: 'Image', 'ClassLabel', 'int64'."""
    name = type(kind).__name__
    return str(kind.dtype) if name == "Value" else name


def make_label_reader(kind: Any, library: Any) -> Callable[[Any], str | None]:
    """Cell -> class name; None if there is no label (-1 in this library, or an empty cell)."""
    if not isinstance(kind, library.ClassLabel):
        return lambda value: None if value is None else str(value).strip() or None
    names = [str(name) for name in kind.names]
    return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
