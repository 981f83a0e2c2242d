"""Names that stand for several models: a folder of cards, or a pattern such as 'cards/*.toml'."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from backbench.backbones.bundle_files import RECORD_FILE, is_bundle
from backbench.backbones.card import SUFFIX
from backbench.backbones.hf_models import CONFIG_FILE
from backbench.catalog import find_model
from backbench.errors import ConfigError, shown

_WILD = frozenset("*?[")


def expand_cards(names: Iterable[str], where: str = "--models") -> tuple[str, ...]:
    """The names, each folder of cards and each pattern replaced by its cards, in order of name.

    Raises:
        ConfigError: a folder without a card, or a pattern that no card matches.
    """
    return tuple(each for name in names for each in _expand(name, where))


def _expand(name: str, where: str) -> list[str]:
    if "\0" in name or os.path.isfile(name):  # noqa: PTH113 - unlike Path.is_file, it never raises
        return [name]
    if _WILD & set(name):
        found = sorted(glob.glob(os.path.expanduser(name)))  # noqa: PTH111, PTH207 - names as they were given
        cards = [path for path in found if path.lower().endswith(SUFFIX)]
        if not cards:
            raise ConfigError(f"no card matches {shown(name)} in {where}. Cards are files that end in {SUFFIX}.")
        return cards
    folder = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if not os.path.isdir(folder) or _is_model(name, folder):  # noqa: PTH112 - as above
        return [name]
    cards = sorted(str(path) for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
    if not cards:
        raise ConfigError(
            f"the folder {shown(name)} in {where} holds no card (*{SUFFIX}), and is no bundle, no run and no "
            "model of transformers."
        )
    return cards


def _is_model(name: str, folder: Path) -> bool:
    """Whether a folder is one model itself, or has the bare name of a model."""
    if is_bundle(folder) or (folder / CONFIG_FILE).is_file() or (folder / RECORD_FILE).is_file():
        return True
    if Path(name).name != name:
        return False
    try:
        find_model(name)
    except ConfigError:
        return False
    return True
