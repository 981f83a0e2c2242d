"""Arguments of the Python API, checked and turned into configs; a wrong one raises ConfigError."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from backbench.config import DataConfig, Frozen, MethodConfig

    Source = str | os.PathLike[str]
    Methods = str | Sequence[str] | Mapping[str, Mapping[str, Any]]
    Checked = TypeVar("Checked", bound=Frozen)


def make_data_config(arguments: Mapping[str, Any]) -> DataConfig:
    """Make the DataConfig from the arguments of `rank` or `adapt`, by name; other arguments are ignored."""
    from backbench.config import DataConfig

    values = {name: value for name, value in arguments.items() if name in DataConfig.model_fields}
    values["source"] = to_text(
        arguments["data"], "data", "a folder, a CSV or Parquet file, or a name such as 'digits'"
    )
    values["split_seed"] = arguments["seed"]
    for name, allowed in (("split", "a manifest.json or a CSV file"), ("image_root", "a folder")):
        if values[name] is not None:
            values[name] = to_text(values[name], name, allowed)
    if isinstance(values["ignore"], str):
        values["ignore"] = [values["ignore"]]
    return check(DataConfig, values)


def list_models(models: Source | Sequence[Source] | None) -> tuple[str, ...]:
    """Names of models from one or several."""
    several = () if models is None else (models,) if isinstance(models, (str, os.PathLike)) else models
    return tuple(to_text(model, "models", "names, card files or your own runs") for model in several)


def list_methods(methods: Methods) -> tuple[MethodConfig, ...]:
    """Methods with their options, from names or a mapping of names to options."""
    from backbench.config import MethodConfig
    from backbench.errors import ConfigError

    named = (
        methods
        if isinstance(methods, Mapping)
        else dict.fromkeys([methods] if isinstance(methods, str) else methods)
    )
    if not named:
        raise ConfigError("methods is empty. Give at least one name, such as 'logistic'.")
    return tuple(
        check(MethodConfig, {"name": name, "options": {} if options is None else options})
        for name, options in named.items()
    )


def to_text(value: object, where: str, allowed: str) -> str:
    """The text or path as text; ConfigError with `where` it was given and what is `allowed`."""
    from backbench.errors import ConfigError

    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{where} is a {type(value).__name__}; expected {allowed}.")
    return str(os.fspath(value))


def check(kind: type[Checked], values: Mapping[str, Any]) -> Checked:
    """Build a `kind` from the values; ConfigError names the wrong argument and the reason."""
    from pydantic import ValidationError

    from backbench.errors import ConfigError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"]).replace("split_seed", "seed")
        raise ConfigError(f"{name} can't be {fault['input']!r:.80}: {fault['msg']}.") from error


def check_budget(budget_seconds: object) -> None:
    """Raise ConfigError unless the value is a time limit."""
    from backbench.errors import ConfigError

    if budget_seconds is None:
        return
    is_number = isinstance(budget_seconds, (int, float)) and not isinstance(budget_seconds, bool)
    if not is_number or not budget_seconds > 0:  # type: ignore[operator]
        raise ConfigError(
            f"budget_seconds is {budget_seconds!r:.80}; expected a number above 0, or None for no limit."
        )


def check_top(top: object, methods: Sequence[MethodConfig]) -> None:
    """Raise ConfigError unless `top` is a number of models and `methods` has a probe to choose them by."""
    from backbench.errors import ConfigError
    from backbench.registry import find_method

    kinds = {find_method(method.name, "methods").trains for method in methods}
    if top is None:
        return
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise ConfigError(f"top is {top!r:.80}; expected a whole number of models, at least 1, or None for all.")
    if len(kinds) < 2:
        raise ConfigError(
            "top chooses the models to train by their probes. Give methods at least one probe and one method "
            "that trains, such as ['logistic', 'two-phase']."
        )
