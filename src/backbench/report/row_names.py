"""Settings of a run, and the shortest words that distinguish rows of one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbench.config import AUGMENT_PRESETS, ONLY_WITH
from backbench.records.schema import CUT_BY_BUDGET, RunRecord
from backbench.report.text import describe_augment, printable, shorten

_NAMED_FIRST = (
    "augmentation", "epochs", "optimizer", "learning rate", "head learning rate", "batch size",
    "label smoothing", "budget", "precision", "input",
)  # fmt: skip
"""Settings in order of importance for names; others follow."""
_NAMED_LAST = ("seed", "split seed", "model", "weights")
_LONGEST_WORDS = 28
_ENDED = "ended training"


def list_settings(record: RunRecord, *, is_resolved: bool = True) -> dict[str, str]:
    """'epochs' -> '20': all settings and parts of a run, as words and values.

    Args:
        is_resolved: include defaults of the method; else only given options, which is all that a failed run has.
    """
    config, method, model = record.config, record.method, record.model
    is_known = is_resolved and method is not None
    options: Mapping[str, Any] = method.options if is_known and method is not None else config.method.options
    recipe = options.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    idle = {name for name, (other, needed) in ONLY_WITH.items() if is_known and recipe.get(other) != needed}
    values = {key: value for key, value in recipe.items() if key != "augment" and key not in idle}
    values |= {key: value for key, value in options.items() if not isinstance(value, Mapping)}
    found = {key.replace("_", " "): _show(value) for key, value in values.items()}
    if "augment" in recipe:
        chosen = method.choices.get("augment") if method is not None else None
        found["augmentation"] = _name_augment(chosen if chosen is not None else recipe["augment"])
    if recipe:
        was_cut = any(warning.startswith(CUT_BY_BUDGET) for warning in record.warnings)
        found["budget"] = _ENDED if was_cut else "not reached"
    found |= {"precision": config.precision, "seed": str(config.seed), "split seed": str(config.data.split_seed)}
    found["exact resize"] = _show(config.exact_resize)
    if model is not None and model.preprocess is not None:
        height, width = model.preprocess.size
        found["input"] = f"{height} px" if height == width else f"{height}x{width} px"
        found["resize"], found["interpolation"] = model.preprocess.resize, model.preprocess.interpolation
        found["crop fraction"] = _show(model.preprocess.crop_fraction)
    found["model"] = config.model
    if model is not None:
        found["weights"] = model.weights_digest[:8]
    return found


def find_differences(records: Sequence[RunRecord]) -> list[str]:
    """For each run the words that distinguish it from runs of the same model and method; '' if not needed."""
    alike: dict[tuple[str, str], list[int]] = {}
    for place, record in enumerate(records):
        alike.setdefault((record.model_name, record.config.method.name), []).append(place)
    words = [""] * len(records)
    for places in alike.values():
        if len(places) > 1:
            for place, text in zip(places, _set_apart([records[place] for place in places]), strict=True):
                words[place] = text
    return words


def _set_apart(records: Sequence[RunRecord]) -> list[str]:
    """Words of the fewest settings that distinguish these runs; the run's id as a last resort."""
    is_resolved = all(record.method is not None for record in records)
    settings = [list_settings(record, is_resolved=is_resolved) for record in records]
    said = {
        key: [_phrase(key, each.get(key)) for each in settings]
        for key in sorted(dict.fromkeys(key for each in settings for key in each), key=_place)
    }
    said = {key: phrases for key, phrases in said.items() if len(set(phrases)) > 1}
    chosen: list[str] = []
    names = [""] * len(records)
    while said and len(set(names)) < len(names):
        joined = {key: _join(said, [*chosen, key]) for key in said}
        best = max(joined, key=lambda key: (len(set(joined[key])), -_place(key)[0], -len("".join(joined[key]))))
        if len(set(joined[best])) == len(set(names)):
            break
        chosen.append(best)
        names = joined[best]
    if len(set(names)) < len(names):
        names = [
            ", ".join(filter(None, [name, f"run {record.run_id.rpartition('-')[2]}"]))
            for name, record in zip(names, records, strict=True)
        ]
    return names


def _join(said: Mapping[str, Sequence[str]], keys: Sequence[str]) -> list[str]:
    ordered = sorted(keys, key=_place)
    return [", ".join(parts) for parts in zip(*(said[key] for key in ordered), strict=True)]


def _place(key: str) -> tuple[int, int, str]:
    if key in _NAMED_FIRST:
        return 0, _NAMED_FIRST.index(key), key
    return (2, _NAMED_LAST.index(key), key) if key in _NAMED_LAST else (1, 0, key)


def _phrase(key: str, value: str | None) -> str:
    """'20 epochs', 'bf16', 'no flip', 'default blocks'."""
    if key == "budget":
        text = "ended by the budget" if value == _ENDED else "not ended by the budget"
    elif value in (None, "default"):
        text = f"default {key}"
    elif key in ("precision", "input", "optimizer", "model"):
        text = value
    elif key == "epochs":
        text = f"{value} epoch{'s' * (value != '1')}"
    elif key == "augmentation":
        text = "no augmentation" if value == "none" else f"augmentation {value}"
    elif value in ("yes", "no"):
        text = key if value == "yes" else f"no {key}"
    else:
        text = f"{key} {value}"
    return shorten(printable(text), _LONGEST_WORDS)


def _name_augment(stated: object) -> str:
    """The preset's name, else its settings."""
    if not isinstance(stated, Mapping):
        return str(stated)
    for name, preset in AUGMENT_PRESETS.items():
        if preset.model_dump(mode="json") == stated:
            return name
    return describe_augment(stated) or "none"


def _show(value: object) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
