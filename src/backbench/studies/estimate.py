"""What a study will cost, from the catalog alone: nothing is listed, loaded or fetched."""

from __future__ import annotations

from dataclasses import dataclass

from backbench.catalog import ModelSpec, find_method, find_model, find_source
from backbench.config import MethodConfig
from backbench.plan import count_passes, estimate_training, guess_seconds
from backbench.run import resolve_options
from backbench.studies.schema import StudyFile
from backbench.studies.steps import Settings, Step, choose, plan_steps

UNKNOWN_IMAGES = 10_000
"""Of a data set whose size is not known before it is listed."""


@dataclass(frozen=True)
class CellEstimate:
    """One run, by the study's names. `seconds`: of its features and its training, as if it were alone."""

    model: str
    method: str
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """One ranking. `seconds`: of all its cells, which share features; `num_images`: a guess unless known.

    Where a step takes the best model of an earlier group, the cells are those of the dearest it may be.
    """

    title: str
    data: str
    seed: int
    num_images: int
    is_size_known: bool
    cells: tuple[CellEstimate, ...]
    seconds: float

    @property
    def num_runs(self) -> int:
        """One for each cell."""
        return len(self.cells)


def estimate_steps(study: StudyFile, settings: Settings) -> list[Estimate]:
    """Every ranking of the study with its cells and their rough cost; training is counted where a speed is known.

    Raises:
        ConfigError: see `plan_steps`.
    """
    estimates = []
    for step in plan_steps(study, settings):
        likely = [step] if step.group.best_of is None else [choose(step, model) for model in step.names]
        estimates.append(max(map(_estimate, likely), key=lambda estimate: estimate.seconds))
    return estimates


def _estimate(step: Step) -> Estimate:
    request = step.request
    num_images, is_known = _num_images(step)
    cells = []
    total = 0.0
    for name, here in step.names.items():
        model = find_model(here)
        guessed = guess_seconds([model], num_images, device=request.device, precision=request.precision)
        features = guessed[model.name]
        training = [_training_seconds(step, model, method, num_images) for method in request.methods]
        shown = name if step.group.best_of is None else f"the best of '{step.group.best_of}'"
        cells += [
            CellEstimate(shown, method.name, features + seconds)
            for method, seconds in zip(request.methods, training, strict=True)
        ]
        total += features + sum(training)
    return Estimate(step.title, step.data, step.seed, num_images, is_known, tuple(cells), total)


def _training_seconds(step: Step, model: ModelSpec, config: MethodConfig, num_images: int) -> float:
    """0 where no speed was seen here yet. Parts are taken to be as where the data fixes none."""
    request, method = step.request, find_method(config.name)
    data = request.data
    num_train = round(num_images * (1 - data.test_fraction) * (1 - data.val_fraction))
    seconds = estimate_training(
        [model],
        count_passes(method, resolve_options(method, config)),
        min(num_train, request.data.train_limit or num_train),
        top=None,
        device=request.device,
        precision=request.training_precision,
    )
    return seconds or 0.0


def _num_images(step: Step) -> tuple[int, bool]:
    """How many, and whether that is known; a copy of a named data set that lies here counts as that data set."""
    sources = (find_source(step.request.data.source), find_source(step.data))
    known = next((spec.num_images for spec in sources if spec is not None and spec.num_images), None)
    num = UNKNOWN_IMAGES if known is None else known
    limit = step.request.data.limit
    return min(num, limit or num), known is not None
