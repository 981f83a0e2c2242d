"""Estimates what a study costs, from the catalogue and the file names on disk; no model is loaded or fetched."""

from __future__ import annotations

from dataclasses import dataclass

from backbench.config import MethodConfig
from backbench.data.load import load_listing
from backbench.errors import BackbenchError
from backbench.registry import ModelSpec, SourceSpec, find_method, find_model, find_source, resolve_options
from backbench.runs.estimate import estimate_training, guess_seconds
from backbench.runs.speeds import list_guessed
from backbench.studies.schema import StudyFile
from backbench.studies.steps import Settings, Step, choose, plan_steps

UNKNOWN_IMAGES = 10_000
"""Assumed for a data set whose size is not known before it is listed."""


@dataclass(frozen=True)
class CellEstimate:
    """One run, by the study's names. `seconds`: for its features and its training, as if it ran alone."""

    model: str
    method: str
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """One ranking. `seconds`: for all its cells, which share features; `num_images`: a guess unless known.

    Where an earlier group chooses the models, the cells are those of the most expensive models.

    Args:
        fault: why local images can't be listed; '' where nothing is wrong.
        guessed: models of unknown cost, by the study's names; see `runs.speeds.list_guessed`.
    """

    title: str
    data: str
    seed: int
    num_images: int
    is_size_known: bool
    cells: tuple[CellEstimate, ...]
    seconds: float
    fault: str = ""
    guessed: tuple[str, ...] = ()

    @property
    def num_runs(self) -> int:
        """The number of cells."""
        return len(self.cells)


def estimate_steps(study: StudyFile, settings: Settings) -> list[Estimate]:
    """Return every ranking of the study with its cells and their rough cost.

    Raises:
        ConfigError: see `plan_steps`.
    """
    steps = plan_steps(study, settings)
    sizes = {step.data: _find_size(step) for step in {step.data: step for step in steps}.values()}
    estimates = []
    for step in steps:
        num = 1 if step.group.best_of is not None else step.group.front_size
        if num is not None:
            alone = {model: _estimate(choose(step, [model]), sizes[step.data]).seconds for model in step.names}
            step = choose(step, sorted(alone, key=alone.__getitem__, reverse=True)[:num])
        estimates.append(_estimate(step, sizes[step.data]))
    return estimates


@dataclass(frozen=True)
class _Size:
    num_images: int
    is_known: bool = True
    fault: str = ""


def _find_size(step: Step) -> _Size:
    """The number of images: counted for a folder or table, published for a named data set."""
    config = step.request.data
    spec = find_source(config.source)
    if spec is not None:
        named = find_source(step.data)
        num = _published_size(spec) or (None if named is None else _published_size(named))
        return _Size(UNKNOWN_IMAGES, is_known=False) if num is None else _Size(num)
    try:
        return _Size(len(load_listing(config.model_copy(update={"limit": None}))))
    except BackbenchError as error:
        return _Size(UNKNOWN_IMAGES, is_known=False, fault=f"{step.data}: {error}")


def _published_size(spec: SourceSpec) -> int | None:
    known: int | None = spec.num_images or spec.facts.get("num_images")
    return known


def _estimate(step: Step, size: _Size) -> Estimate:
    request = step.request
    num_images = min(size.num_images, request.data.limit or size.num_images)
    cells, guessed = [], []
    total = 0.0
    for asked, here in step.names.items():
        name = _name_chosen(step, asked)
        model = find_model(here)
        guess = guess_seconds([model], num_images, device=request.device, precision=request.precision)
        features = guess[model.name]
        training = [_training_seconds(step, model, method, num_images) for method in request.methods]
        cells += [
            CellEstimate(name, method.name, features + seconds)
            for method, seconds in zip(request.methods, training, strict=True)
        ]
        total += features + sum(training)
        guessed += [name] if list_guessed([model], device=request.device) else []
    return Estimate(
        title=step.title,
        data=step.data,
        seed=step.seed,
        num_images=num_images,
        is_size_known=size.is_known,
        cells=tuple(cells),
        seconds=total,
        fault=size.fault,
        guessed=tuple(guessed),
    )


def _name_chosen(step: Step, model: str) -> str:
    """The model's name, or, where an earlier group chooses the models, a description."""
    if step.group.best_of is not None:
        return f"the best of '{step.group.best_of}'"
    if step.group.front_of is not None:
        return f"model {list(step.names).index(model) + 1} of the front of '{step.group.front_of}'"
    return model


def _training_seconds(step: Step, model: ModelSpec, config: MethodConfig, num_images: int) -> float:
    """Seconds to train; splits are assumed to have the default sizes."""
    request, method = step.request, find_method(config.name)
    data = request.data
    num_train = round(num_images * (1 - data.test_fraction) * (1 - data.val_fraction))
    return estimate_training(
        [model],
        [(method, resolve_options(method, config))],
        min(num_train, request.data.train_limit or num_train),
        top=None,
        device=request.device,
        precision=request.training_precision,
    )
