"""Plans the rankings of a study: one for each group, data set and seed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbench.backbones.variants import RANDOM
from backbench.config import DataConfig, MethodConfig, Precision
from backbench.errors import ConfigError, unknown_name
from backbench.progress import Progress
from backbench.registry import find_method, find_model, find_source, list_sources, resolve_options
from backbench.runs.context import RunContext
from backbench.runs.rank import RankRequest
from backbench.studies.schema import Columns, Group, StudyFile
from backbench.wording import did_you_mean

SIZE_SUFFIX = re.compile(r"@\d+$")


@dataclass(frozen=True)
class Settings:
    """How a study is run on this machine.

    Args:
        out: folder of all results; runs are in `out/runs`.
        data: name in the study -> its place here.
        random_weights: a trial: architectures without weights, and generated images for data sets not in `data`.
        image_size: of all models, in pixels; None: each model has its own.
        limit: at most so many images of each data set.
    """

    out: Path
    device: str = "cpu"
    precision: Precision = "fp32"
    training_precision: Precision = "fp32"
    data: Mapping[str, str] = field(default_factory=dict)
    random_weights: bool = False
    image_size: int | None = None
    limit: int | None = None
    epochs: int | None = None
    only: tuple[str, ...] = ()

    @property
    def is_trial(self) -> bool:
        """Whether weights or images differ from the study's, so that its figures can't be compared."""
        return self.random_weights or self.limit is not None

    @property
    def runs(self) -> Path:
        """Folder of the run records."""
        return self.out / "runs"

    def context(self, progress: Progress, deadline: float | None = None) -> RunContext:
        """Where and how its runs happen."""
        return RunContext(out=self.runs, device=self.device, deadline=deadline, progress=progress)

    @property
    def pages(self) -> Path:
        """Folder of tables, report and pictures; with `only` another one, so that those of all groups are kept."""
        return self.out / "only" if self.only else self.out


@dataclass(frozen=True)
class Step:
    """One ranking of a study. `names`: the study's name of each model -> the one it has here."""

    group: Group
    data: str
    seed: int
    names: dict[str, str]
    request: RankRequest

    @property
    def title(self) -> str:
        """Which ranking this is, in words."""
        seed = f", seed {self.seed}" if len(self.group.seeds) > 1 else ""
        return f"{self.group.name}: {self.data}{seed}"


def plan_steps(study: StudyFile, settings: Settings) -> list[Step]:
    """Return all rankings of a study in its order, with every name and option checked.

    Raises:
        ConfigError: an unknown model, method or option, or `only` or `data` names what the study lacks.
    """
    _check_settings(study, settings)
    steps = []
    for group in chosen_groups(study, settings):
        for data in group.data:
            for seed in group.seeds:
                steps.append(_make_step(study, group, data, seed, settings))
    return steps


def chain(step: Step, bundles: Mapping[str, Path]) -> Step:
    """The step with its models as an earlier group trained them.

    Args:
        bundles: the study's name of a model -> its bundle; models without one are left out.
    """
    return with_models(step, {name: str(bundles[name]) for name in step.group.models if name in bundles})


def choose(step: Step, models: Iterable[str]) -> Step:
    """The step with some of its models alone.

    Args:
        models: by the study's names.
    """
    return with_models(step, {model: step.names[model] for model in models})


def with_models(step: Step, names: dict[str, str]) -> Step:
    """The step with these models instead of its own: the study's name -> the name here."""
    return replace(step, names=names, request=replace(step.request, models=tuple(names.values())))


def _make_step(study: StudyFile, group: Group, data: str, seed: int, settings: Settings) -> Step:
    names = {model: _variant(model, study, settings) for model in group.models}
    methods = tuple(MethodConfig(name=name, options=_options_of(group, name, settings)) for name in group.methods)
    for method in methods:
        spec = find_method(method.name, f"group '{group.name}'")
        try:
            resolve_options(spec, method, from_file=True)
        except ConfigError as error:
            raise ConfigError(f"group '{group.name}': {error}") from error
    request = RankRequest(
        data=data_config(study, data, settings, split_seed=seed, train_limit=group.train_limit),
        models=tuple(names.values()),
        methods=methods,
        seed=seed,
        precision=settings.precision,
        training_precision=settings.training_precision,
        device=settings.device,
        out=settings.runs,
        keeps_probes=True,
    )
    return Step(group, data, seed, names, request)


def data_config(study: StudyFile, data: str, settings: Settings, **choices: Any) -> DataConfig:
    """The data config for that name in the study; tables and hub data sets get the study's columns."""
    place = source_of(data, settings)
    if _has_columns(place):
        choices |= {f"{kind}_column": name for kind, name in study.columns.get(data, Columns())}
    return DataConfig(source=place, limit=settings.limit, **choices)


def _variant(model: str, study: StudyFile, settings: Settings) -> str:
    """The model's name here: for a trial its small stand-in with random weights, and the requested size."""
    name = study.trial.get(model, model) if settings.random_weights else model
    base, size = SIZE_SUFFIX.sub("", name), SIZE_SUFFIX.search(name)
    if settings.random_weights and find_model(base, "the study").pretrained_on is not None:
        base = f"{base}@{RANDOM}"
    wanted = f"@{settings.image_size}" if settings.image_size is not None else size[0] if size else ""
    find_model(f"{base}{wanted}", "the study")
    return f"{base}{wanted}"


def _options_of(group: Group, method: str, settings: Settings) -> dict[str, object]:
    options = dict(group.options.get(method, {}))
    fields = find_method(method, f"group '{group.name}'").options.model_fields  # type: ignore[attr-defined]
    if settings.epochs is not None and "recipe" in fields and "qat_epochs" not in fields:
        options["recipe"] = {**options.get("recipe", {}), "epochs": settings.epochs}
    if settings.random_weights:
        options = {name: value for name, value in TRIAL_OPTIONS.items() if name in fields} | options
    return options


def source_of(data: str, settings: Settings) -> str:
    """Return the place of a data set here, or its stand-in for a trial."""
    if data in settings.data:
        return settings.data[data]
    is_own = find_source(data) is None and os.path.exists(data)  # noqa: PTH110 - unlike Path's, never raises
    if settings.random_weights and not is_own:
        known = data.partition(":")[0]
        stand_in = STAND_INS.get(known, known)
        return data if find_source(stand_in) is None else f"generated:{stand_in}"
    return data


TRIAL_OPTIONS = {"num_values": 4, "tolerance": 1e-2, "steps": 2}
"""Options that make methods cheap in a trial, whose figures mean nothing."""

STAND_INS = {"openimages": "caltech256", "hub": "cifar10", "digits": "cifar10"}
"""Stand-ins in a trial for data sets without a fixed list of classes."""


def _check_settings(study: StudyFile, settings: Settings) -> None:
    groups = [group.name for group in study.groups]
    for name in settings.only:
        if name not in groups:
            raise unknown_name("group", name, groups, "--only", "its groups with --dry-run")
    for group in study.groups:
        for before in group.earlier:
            if group.name in settings.only and before not in settings.only:
                raise ConfigError(
                    f"--only '{group.name}': it starts from '{before}'. Give --only '{before}' too: its finished "
                    "runs are not computed again."
                )
    for stand_in in study.trial.values():
        find_model(stand_in, "[trial]")
    known = {data for group in study.groups for data in group.sources}
    for name in settings.data:
        if name not in known:
            raise ConfigError(
                f"--data {name}=...: the study uses {', '.join(sorted(known))}.{did_you_mean(name, known)}"
            )
    for name, place in settings.data.items():
        if not _is_there(place):
            raise ConfigError(f"--data {name}={place}: there is no such folder, file or data set.")
    for name in study.columns.keys() - settings.data.keys():  # for data given here its place decides
        if not _has_columns(name):
            raise ConfigError(f"columns: '{name}' has none. Only tables and data sets of the hub have columns.")
    for group in chosen_groups(study, settings):
        for name in group.sources:
            if not _is_there(source_of(name, settings)):
                hint = did_you_mean(name, [spec.name for spec in list_sources()])
                raise ConfigError(
                    f"group '{group.name}': there is no data set, folder or file '{name}'.{hint} If it is a name "
                    f"for your own images, give their place: --data {name}=PATH."
                )


def chosen_groups(study: StudyFile, settings: Settings) -> list[Group]:
    """Return the requested groups in the study's order; without `--only` all but the optional ones."""
    if settings.only:
        return [group for group in study.groups if group.name in settings.only]
    return [group for group in study.groups if not group.optional]


def _has_columns(place: str) -> bool:
    spec = find_source(place)
    return spec.has_columns if spec is not None else not os.path.isdir(place)  # noqa: PTH112


def _is_there(place: str) -> bool:
    return find_source(place) is not None or os.path.exists(place)  # noqa: PTH110 - unlike Path's, never raises


def find_missing(study: StudyFile, settings: Settings) -> list[str]:
    """Return a sentence for each data set whose folder is missing."""
    used = {name for group in chosen_groups(study, settings) for name in group.sources}
    places = {name: source_of(name, settings) for name in sorted(used)}
    missing = []
    for name, place in places.items():
        spec = find_source(place)
        if spec is not None and spec.folder is not None and not os.path.isdir(spec.folder):  # noqa: PTH112
            missing.append(
                f"{place}: there is no folder '{spec.folder}', so runs that need it are left out. Give its "
                f"place: --data {name}={name.partition(':')[0]}:PATH."
            )
    return missing
