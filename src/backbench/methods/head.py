"""`head` and `mlp-head`: a frozen backbone, and a head trained by gradient steps, with augmentation if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from backbench.catalog import MethodSpec
from backbench.config import Frozen, Recipe

if TYPE_CHECKING:
    from backbench.engine.head_modules import HeadModule
    from backbench.engine.task import ImageTask
    from backbench.engine.tune import Training, Tuned


class HeadOptions(Frozen):
    """Without augmentation the backbone runs once and every epoch trains on its features."""

    recipe: Recipe = Recipe(epochs=30)


class MlpHeadOptions(Frozen):
    """One hidden layer with ReLU and dropout."""

    hidden: int = Field(default=512, ge=1, le=65_536)
    dropout: float = Field(default=0.25, ge=0.0, lt=1.0)
    recipe: Recipe = Recipe(epochs=30)


def adapt_head(task: ImageTask, options: HeadOptions, training: Training) -> Tuned:
    """Train a linear head; the backbone is frozen."""
    from backbench.engine.head_modules import make_linear
    from backbench.runtime import make_torch_rng

    head = make_linear(task.backbone.facts.dim, task.num_classes, make_torch_rng(task.seed, "head"))
    return _adapt(task, head, options.recipe, training)


def adapt_mlp_head(task: ImageTask, options: MlpHeadOptions, training: Training) -> Tuned:
    """Train a head with one hidden layer; the backbone is frozen."""
    from backbench.engine.head_modules import make_mlp
    from backbench.runtime import make_torch_rng

    rng = make_torch_rng(task.seed, "head")
    head = make_mlp(task.backbone.facts.dim, options.hidden, task.num_classes, options.dropout, rng)
    return _adapt(task, head, options.recipe, training)


def _adapt(task: ImageTask, head: HeadModule, recipe: Recipe, training: Training) -> Tuned:
    from backbench.engine.tune import Tuned, make_classifier, make_phase, standardise, train_phase

    trained = standardise(task, head, body_learns=False)
    classifier = make_classifier(task, trained)
    phase = make_phase("head", classifier, (), recipe, fresh_head=True)
    result = train_phase(classifier, task, phase, training)
    classifier.head = trained.fold()
    return Tuned(classifier, {"head": result})


SPECS = (
    MethodSpec("head", "frozen backbone, linear head by gradient steps", adapt_head, HeadOptions, "tune"),
    MethodSpec("mlp-head", "frozen backbone, head with a hidden layer", adapt_mlp_head, MlpHeadOptions, "tune"),
)
