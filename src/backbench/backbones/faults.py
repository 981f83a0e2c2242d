"""Find models that can't be used before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from backbench.backbones.core.defaults import is_on_disk
from backbench.errors import BackbenchError, ConfigError, ModelError
from backbench.registry import ModelSpec, base_name

MAX_AT_ONCE = 8


def find_faults(models: Iterable[ModelSpec]) -> dict[str, BackbenchError]:
    """Name of each unusable model -> its error; downloads only small files.

    Missing weights are checked on their server, several at once; local weights are opened and compared with their
    network without making it.

    Raises:
        ConfigError: a wrong name; one message lists all of them.

    Cost: a request for each model to download, at most some seconds; half a second for each local model.
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
    """Raise ModelError with all faults if no model can be used."""
    if faults and len(faults) == num_models:
        none = "" if num_models == 1 else f"None of the {num_models} models can be used; nothing was computed.\n"
        raise ModelError(none + describe_faults(faults))


def describe_faults(faults: Mapping[str, BackbenchError]) -> str:
    """All faults, each reason once with its models."""
    names: dict[str, list[str]] = {}
    for name, error in faults.items():
        names.setdefault(str(error), []).append(name)
    return "\n".join(f"{', '.join(stopped)}: {text}" for text, stopped in names.items())
