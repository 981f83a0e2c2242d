"""Expand names of several models: a folder of cards, or a pattern such as 'cards/*.toml'."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from backbench.backbones.card import SUFFIX, WEIGHTS_SUFFIXES, WRITE_A_CARD
from backbench.backbones.core.bundle_files import RECORD_FILE, is_bundle
from backbench.backbones.hf_models import CONFIG_FILE
from backbench.errors import ConfigError, shown
from backbench.registry import find_model

ADAPTER_FILE = "adapter_config.json"
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
            raise ConfigError(
                f"no card matches {shown(name)} in {where}. Cards are files with the suffix {SUFFIX}."
            )
        return cards
    folder = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if not os.path.isdir(folder) or _is_model(name, folder):  # noqa: PTH112 - as above
        return [name]
    cards = sorted(str(path) for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
    if not cards:
        raise ConfigError(
            f"the folder {shown(name)} in {where} holds no card (*{SUFFIX}), and is not a bundle, a run or a "
            f"model of transformers.{_say_what_is_there(folder)}"
        )
    return cards


def _say_what_is_there(folder: Path) -> str:
    """Other models in the folder, and how to use them."""
    if (folder / ADAPTER_FILE).is_file():
        return (
            " It holds peft adapters, which need the weights of their base model: merge them with "
            "model.merge_and_unload(), and save that model with save_pretrained()."
        )
    inner = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    if inner:
        return f" Did you mean the model {shown(str(inner[-1]))}?"
    weights = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(WEIGHTS_SUFFIXES))
    return f" It holds {shown(weights[0])}: {WRITE_A_CARD}" if weights else ""


def _is_model(name: str, folder: Path) -> bool:
    """Whether a folder is itself a model, or has the bare name of a model."""
    if is_bundle(folder) or (folder / CONFIG_FILE).is_file() or (folder / RECORD_FILE).is_file():
        return True
    if Path(name).name != name:
        return False
    try:
        find_model(name)
    except ConfigError:
        return False
    return True
