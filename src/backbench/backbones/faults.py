"""What keeps models from being used, found before any work begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from backbench.backbones.core.defaults import is_on_disk
from backbench.errors import BackbenchError, ConfigError, ModelError
from backbench.registry import ModelSpec, base_name

MAX_AT_ONCE = 8


def find_faults(models: Iterable[ModelSpec]) -> dict[str, BackbenchError]:
    """Name of each model that can't be used -> why; nothing is fetched but small files.

    Weights that are not here are asked for at their server, several at once; those that are here are opened, and
    compared with their network without making it.

    Raises:
        ConfigError: a name that is wrong; all such faults in one text.

    Cost: a request for each model to fetch, at most some seconds; half a second for each whose weights are here.
    """
    asked = list({model.name: model for model in models}.values())
    absent = [model for model in asked if model.ask is not None and not is_on_disk(model)]
    sources = {base_name(model.name): model for model in absent}
    with ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="ask") as pool:
        refused = dict(zip(sources, pool.map(_fault_of, (model.ask for model in sources.values())), strict=True))
    found = {model.name: refused[base_name(model.name)] for model in absent}
    found |= {model.name: _fault_of(model.check) for model in asked if found.get(model.name) is None}
    faults = {name: error for name, error in found.items() if error is not None}
    wrong = {name: error for name, error in faults.items() if isinstance(error, ConfigError)}
    if wrong:
        raise ConfigError(describe_faults(wrong))
    return faults


def _fault_of(step: Callable[[], None] | None) -> BackbenchError | None:
    try:
        if step is not None:
            step()
    except BackbenchError as error:
        return error
    return None


def refuse_faulty(faults: Mapping[str, BackbenchError], num_models: int) -> None:
    """Raises ModelError that tells all faults if they are those of all models."""
    if faults and len(faults) == num_models:
        none = "" if num_models == 1 else f"None of the {num_models} models can be used; nothing was computed.\n"
        raise ModelError(none + describe_faults(faults))


def describe_faults(faults: Mapping[str, BackbenchError]) -> str:
    """All of them, each reason once with the models that it stops."""
    names: dict[str, list[str]] = {}
    for name, error in faults.items():
        names.setdefault(str(error), []).append(name)
    return "\n".join(f"{', '.join(stopped)}: {text}" for text, stopped in names.items())
