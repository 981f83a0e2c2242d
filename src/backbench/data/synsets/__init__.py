"""Curated tables of WordNet ids for the classes of well-known data sets.

Each TOML file beside this one gives, for each class of a set, the ids of its sub-classes in ImageNet. timm's
lists of ImageNet classes contain all of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType

TABLES = ("cifar10", "cifar100", "caltech101", "caltech256")
ID = re.compile(r"n\d{8}")
"""The format of a noun's id in WordNet 3.0."""


@cache
def read_table(name: str) -> Mapping[str, tuple[str, ...]]:
    """Class name, as `plain_name` gives it -> ids, of one of `TABLES`; an empty tuple: no id fits."""
    text = files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return MappingProxyType({key: tuple(ids) for key, ids in tomllib.loads(text).items()})


def plain_name(name: str) -> str:
    """A class name without additions of folder names: 'Water_Lilly' -> 'water lilly'.

    The number before a name and the '-101' after it are Caltech-256's: '113.hummingbird' -> 'hummingbird'.
    """
    if ID.fullmatch(name):
        return name
    name = re.sub(r"^\d{3}\.", "", name).removesuffix("-101")
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def find_table(class_names: Sequence[str]) -> str | None:
    """The smallest table that knows all these classes; None if there is none."""
    wanted = {plain_name(name) for name in class_names}
    return next((table for table in TABLES if wanted <= read_table(table).keys()), None)
