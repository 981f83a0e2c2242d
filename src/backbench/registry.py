"""Find models, methods and data sources by name, with the nearest match for an unknown name.

The folder is the registry. A module in `backbones/`, `methods/` or `data/sources/` declares `SPECS`; no
other file changes. A module of backbones may also offer `resolve(name)` for names that follow a
pattern (any timm name, `torchvision/NAME`, a card file) and `list_specs()` for those it can list. A module of
data sources may offer `resolve(name)` for names that contain another name (`hub:NAME`).
Look-ups never import torch: plug-in modules import it inside the functions that need it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from backbench.config import Frozen, MethodConfig
from backbench.errors import ConfigError, nearest, unknown_name

VARIANT = re.compile(r"(@(random|\d{1,4}))+$")


def base_name(name: str) -> str:
    """The name of the model that `NAME@SIZE`, `NAME@random` or `NAME@random@SIZE` is a variant of; else `name`."""
    return VARIANT.sub("", name)


@dataclass(frozen=True)
class ModelSpec:
    """A backbone that can be loaded, with the facts known before loading.

    `load(seed)` gives a `backbones.base.Backbone`. A shortcut baseline, which uses file facts or
    colours instead of a network, has `describe(census)` -> (n, dim) float32 instead.
    """

    name: str
    summary: str
    load: Callable[[int], Any] | None = None
    describe: Callable[[Any], Any] | None = None
    pretrained_on: str | None = None
    num_parameters: int | None = None
    input_size: int | None = None
    flops: float | None = None
    licence: str | None = None
    download_bytes: int = 0
    is_control: bool = False
    file: str | None = None
    """The card file of the model."""
    identity: str = ""
    """Distinguishes two weights of one name: the digest of a local weights file, '' for a hub tag."""
    blueprint: Callable[[], Any] | None = None
    """(build, preprocess) without weights: builds the untrained architecture without a download."""
    load_head: Callable[[], Any] | None = None
    """Loads the published classifier of the model (`backbones/core/original_head.py`); None: there is none."""
    find_weights: Callable[[], Path | None] | None = None
    """Returns the path of the weights on this machine, or None while they are not downloaded. Field None: the
    model needs no download, or its files are not known in advance. Variants of a model share its weights."""
    ask: Callable[[], None] | None = None
    """If `find_weights` returns None: raises ModelError if the weights can't be downloaded. Downloads nothing."""
    check: Callable[[], None] | None = None
    """Raises an error if the model can't be loaded, for example because its weights are damaged or do not fit.
    Downloads nothing and builds a network only if that is necessary."""
    seen_file: str | None = None
    """The file with the hashes of the images that trained the weights (`data/trained_on.py`); None: unknown."""


@dataclass(frozen=True)
class MethodSpec:
    """An adaptation method. `options` is a frozen pydantic model whose defaults are the method's defaults.

    A 'probe' works on frozen features: `adapt(task, options)` -> `heads.heads.Fitted`. A 'train' method trains on
    images: `adapt(image_task, options, training)` -> `training.phases.Trained`.
    """

    name: str
    summary: str
    adapt: Callable[..., Any]
    options: type
    kind: Literal["probe", "train"] = "probe"
    needs_head: bool = False
    """A probe that uses the published classifier of its model (`task.load_head`) and learns nothing."""
    trains_body: bool = True
    """For methods that train: True if more than the head is trained, which needs backward passes of the backbone.
    """
    forgets: bool = False
    """True if the method trains from scratch (random weights), so that pretraining has no influence."""

    @property
    def trains(self) -> bool:
        """Whether it trains on images, and is no probe."""
        return self.kind != "probe"


@dataclass(frozen=True)
class SourceSpec:
    """A named data set: `load(config, progress)` -> `data.listing.Listing`."""

    name: str
    summary: str
    load: Callable[[Any, Any], Any]
    num_images: int | None = None
    num_classes: int | None = None
    download_bytes: int = 0
    licence: str | None = None
    citation: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    has_columns: bool = False
    """True if --image-column and the like apply."""
    folder: str | None = None
    """The folder that must hold its images."""

    @property
    def is_embedded(self) -> bool:
        """True if its images come with installed packages: no download, no files of the user."""
        return self.download_bytes == 0 and self.num_images is not None


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@cache
def _modules(package: str) -> tuple[ModuleType, ...]:
    root = importlib.import_module(package)
    found = sorted(info.name for info in pkgutil.iter_modules(root.__path__) if not info.ispkg)
    return tuple(importlib.import_module(f"{package}.{name}") for name in found)


def _specs(package: str) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for module in _modules(package):
        for spec in getattr(module, "SPECS", ()):
            if spec.name in by_name:
                raise RuntimeError(f"two plug-ins in {package} are named '{spec.name}'")
            by_name[spec.name] = spec
    return by_name


def list_methods() -> list[MethodSpec]:
    """All methods, by name."""
    return sorted(_specs("backbench.methods").values(), key=_name)


def list_sources() -> list[SourceSpec]:
    """All named data sets, by name."""
    return sorted(_specs("backbench.data.sources").values(), key=_name)


def list_models() -> list[ModelSpec]:
    """All models that can be listed: curated ones first, then those of patterns, each by name."""
    curated = _specs("backbench.backbones")
    rest: list[ModelSpec] = []
    for module in _modules("backbench.backbones"):
        if hasattr(module, "list_specs"):
            rest += [spec for spec in module.list_specs() if spec.name not in curated]
    return sorted(curated.values(), key=_name) + sorted(rest, key=_name)


def find_method(name: str, where: str = "--methods") -> MethodSpec:
    """The method of that name, or a ConfigError with the nearest ones; `where` is the option that was used."""
    specs = _specs("backbench.methods")
    if name not in specs:
        raise unknown_name("method", name, specs, where, "backbench list methods")
    return specs[name]


def find_source(name: str) -> SourceSpec | None:
    """The data set of this name, or None if `name` may be a path. Paths in its name are made absolute."""
    spec = _specs("backbench.data.sources").get(name)
    if spec is not None:
        return spec
    for module in _modules("backbench.data.sources"):
        if hasattr(module, "resolve"):
            found: SourceSpec | None = module.resolve(name)
            if found is not None:
                return found
    return None


def find_path_loader(path: Path) -> Callable[[Any, Path, Any], Any] | None:
    """`load_path(config, path, progress)` -> `data.listing.Listing` of the source that reads this path, or None.

    A module of `data/sources/` reads paths if it offers `accepts(path)` and `load_path`; a module with
    `LAST_RESORT` is tried after the others.
    """
    takers = [module for module in _modules("backbench.data.sources") if hasattr(module, "accepts")]
    for module in sorted(takers, key=lambda module: hasattr(module, "LAST_RESORT")):
        if module.accepts(path):
            loader: Callable[[Any, Path, Any], Any] = module.load_path
            return loader
    return None


def find_model(name: str, where: str = "--models") -> ModelSpec:
    """The model of that name: curated, a timm name, `torchvision/NAME`, a card or your own run.

    Raises ConfigError that names `where` if there is none."""
    specs = _specs("backbench.backbones")
    if name in specs:
        return specs[name]
    modules = _modules("backbench.backbones")
    for module in sorted(modules, key=lambda module: not hasattr(module, "FIRST")):
        if hasattr(module, "resolve"):
            spec = module.resolve(name)
            if spec is not None:
                return spec
    raise unknown_name(
        "model", name, (spec.name for spec in list_models()), where, "backbench list models --filter TEXT"
    )


def _name(spec: _Named) -> str:
    return spec.name


def resolve_options(method: MethodSpec, config: MethodConfig, *, from_file: bool = False) -> Frozen:
    """Check and complete the options of a method; ConfigError names the option, its value and the allowed values.

    `from_file`: the options came from a file, so hints show the syntax of that file, not of the command line.
    """
    try:
        defaults: Frozen = method.options()
        merged = _merge(defaults.model_dump(), config.options)
        options: Frozen = method.options.model_validate(merged)  # type: ignore[attr-defined]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # or a kind of a union
        allowed = _list_options(method.options)
        if first["type"] == "extra_forbidden":
            group = name[: name.rfind(".") + 1]
            within = [other for other in allowed if other.startswith(group)]
            close = nearest(name.removeprefix(group), [other.removeprefix(group) for other in within])
            hint = f"Did you mean '{group}{close[0]}'?" if close else f"Allowed: {', '.join(within)}."
            raise ConfigError(f"method '{method.name}' has no option '{name}'. {hint}") from error
        raise ConfigError(
            f"option '{name}' of method '{method.name}' can't be {first['input']!r}: "
            f"{first['msg'].removeprefix('Value error, ')}."
            f"{_say_how_to_write(name, first['type'], allowed, from_file=from_file)}"
        ) from error
    return options


def _say_how_to_write(name: str, mistake: str, allowed: Sequence[str], *, from_file: bool) -> str:
    """A hint on how to write a list or a group of options, if that was the mistake."""
    within = [other for other in allowed if other.startswith(f"{name}.")]
    if mistake == "tuple_type":
        return (
            f" Write a list as in: {name} = [...]" if from_file else f" Write a list as in: --set '{name}=[...]'"
        )
    if mistake == "model_type" and within:
        return (
            f" Set the options inside it, as in: {f'{within[0]} = ...' if from_file else f'--set {within[0]}=...'}"
        )
    return ""


def _merge(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merge `given` into `defaults` group by group: one option of a recipe changes only that option."""
    merged = dict(defaults)
    for name, value in given.items():
        before = merged.get(name)
        merged[name] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _list_options(options: type, prefix: str = "") -> list[str]:
    """The names of all options; nested ones as 'recipe.epochs'."""
    names = []
    for name, option in options.model_fields.items():  # type: ignore[attr-defined]
        names.append(f"{prefix}{name}")
        if isinstance(option.annotation, type) and issubclass(option.annotation, Frozen):
            names += _list_options(option.annotation, f"{prefix}{name}.")
    return names
