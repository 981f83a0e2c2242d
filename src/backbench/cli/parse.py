"""Parse values of options: names, durations, and the choice of images."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backbench.config import DataConfig, MethodConfig, OnBad


def split_names(text: str, option: str = "--models") -> tuple[str, ...]:
    """Names from a comma-separated option; extra spaces and commas are ignored. ConfigError if empty."""
    from backbench.errors import ConfigError

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names and (text or option == "--methods"):
        raise ConfigError(f"{option} is '{text}': expected at least one name. See: backbench list {option[2:]}")
    return names


def with_map(methods: Sequence[MethodConfig], class_map: str | None) -> tuple[MethodConfig, ...]:
    """Add this map to methods that use the model's own classifier. ConfigError if there is none."""
    from backbench.errors import ConfigError
    from backbench.registry import find_method

    takers = [method.name for method in methods if find_method(method.name, "--methods").needs_head]
    if class_map is None:
        return tuple(methods)
    if not takers:
        given = ", ".join(method.name for method in methods)
        raise ConfigError(
            f"--map {class_map} works only with the method zeroshot, not with {given}. Leave it out."
        )
    return tuple(
        method.model_copy(update={"options": {**method.options, "map": class_map}})
        if method.name in takers
        else method
        for method in methods
    )


def parse_duration(text: str) -> float:
    """Seconds in '90s', '10m', '1.5h' or '45' (seconds). ConfigError otherwise."""
    from backbench.errors import ConfigError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(
            f"--budget '{text}' is not a duration. Use a positive number with s, m or h: 90s, 10m, 2h."
        )
    return float(match[1]) * {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, None: 1}[match[2]]


def make_data_config(
    source: str,
    *,
    split: str | None,
    seed: int,
    on_bad: OnBad,
    choices: Mapping[str, Any],
) -> DataConfig:
    """A DataConfig from the options that the verbs share; `choices`: see `options.table_options` and its like.

    Raises:
        ConfigError: a fraction out of its range, or --split-folders without names of splits.
    """
    from backbench.config import DataConfig
    from backbench.errors import ConfigError

    given = dict(choices)
    for name in ("test_fraction", "val_fraction"):
        if not 0.0 < given.get(name, 0.5) < 1.0:
            raise ConfigError(
                f"--{name.replace('_', '-')} {given[name]:g}: expected a number between 0 and 1, such as 0.2."
            )
    if "small_classes" in given and "min_images" not in given:
        raise ConfigError(
            "--small-classes applies to classes with fewer than --min-images N images: add --min-images."
        )
    if "split_folders" in given:
        given["split_folders"] = parse_split_folders(given["split_folders"])
    return DataConfig(
        source=source,
        split=split,
        split_seed=seed,
        on_bad=on_bad,
        **given,
    )


def parse_split_folders(text: str) -> dict[str, str]:
    """'2019=train,2020=test' -> {'2019': 'train', '2020': 'test'}; 'none' -> {}. ConfigError otherwise."""
    from backbench.errors import ConfigError

    if text.strip().casefold() == "none":
        return {}
    found: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, part = (piece.strip() for piece in pair.rpartition("="))
        if not equals or not name or part not in ("train", "val", "test"):
            raise ConfigError(
                f"--split-folders '{text}': '{pair}' is not FOLDER=SPLIT with SPLIT train, val or test. Write, "
                "for example, --split-folders 2019=train,2020=test, or none."
            )
        found[name.strip("/")] = part
    if not found:
        raise ConfigError("--split-folders is empty. Write FOLDER=train,OTHER=test, or none.")
    return found
