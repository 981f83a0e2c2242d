"""`lora`: low-rank corrections of frozen weights, merged into them at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from backbench.config import Augment, Frozen, Recipe
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from backbench.task import ImageTask
    from backbench.training.phases import Trained, Training


class LoraOptions(Frozen):
    """Options of `lora`. The merged network has the shape and cost of the original."""

    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0.0, le=10_000.0, description="corrections are scaled by alpha / rank")
    targets: str = Field(default="auto", description="weights to adapt: auto, attention, linear, conv, ...")
    recipe: Recipe = Recipe(
        learning_rate=3e-4, augment=Augment(crop="random-resized", scale=(0.35, 1.0), flip=True)
    )


def adapt(task: ImageTask, options: LoraOptions, training: Training) -> Trained:
    """Train a head and low-rank corrections, merge them.

    Raises:
        ConfigError: the network has none of the targets; the message lists those it has.
    Source: Hu et al. 2021.
    """
    from backbench.runtime import make_torch_rng
    from backbench.training import phases
    from backbench.training.lora import add_lora, merge_lora

    trained = phases.begin_head(task, "lora", options.recipe)
    body, rng = task.backbone.body, make_torch_rng(task.seed, "lora")
    adapters = add_lora(body, rank=options.rank, alpha=options.alpha, targets=options.targets, rng=rng)
    classifier = phases.make_classifier(task, trained)
    phase = phases.make_phase("lora", classifier, adapters, options.recipe, fresh_head=True)
    result = phases.train_phase(classifier, task, phase, training)
    classifier.head = trained.fold()
    num = merge_lora(body)
    return phases.Trained(classifier, {"lora": result}, {"num_adapted": num})


SPECS = (
    MethodSpec("lora", "low-rank corrections of frozen weights, merged at the end", adapt, LoraOptions, "train"),
)
