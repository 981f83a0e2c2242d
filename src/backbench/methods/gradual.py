"""`gradual`: unfreeze from the head towards the input, a few stages at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from backbench.config import Augment, Frozen, Recipe
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from backbench.task import ImageTask
    from backbench.training.phases import Trained, Training


class GradualOptions(Frozen):
    """The recipe's epochs are those of each step."""

    steps: int = Field(
        default=4, ge=1, le=100, description="number of steps in which the stages are unfrozen, after the head"
    )
    recipe: Recipe = Recipe(
        epochs=3,
        warmup_epochs=0.5,
        patience=0,
        layer_decay=0.8,
        augment=Augment(crop="random-resized", scale=(0.35, 1.0), flip=True),
    )


def adapt(task: ImageTask, options: GradualOptions, training: Training) -> Trained:
    """Train the head, then head and last stages, and so on to the input; each step starts from the best so far.

    Source: Howard and Ruder 2018 (ULMFiT).
    """
    from backbench.backbones.core.stages import stages_of
    from backbench.training import phases

    body = task.backbone.body
    trained = phases.begin_head(task, "gradual", options.recipe)
    classifier = phases.make_classifier(task, trained)
    num_stages = len(stages_of(body))
    steps = min(options.steps, num_stages)
    results = {}
    for step in range(steps + 1):
        num = round(num_stages * step / steps)
        names = phases.last_stages(body, num) if num else []
        phase = phases.make_phase(f"gradual-{step}", classifier, names, options.recipe, fresh_head=step == 0)
        results[phase.name] = phases.train_phase(classifier, task, phase, training)
        if results[phase.name].ended == "budget":
            break
    classifier.head = trained.fold()
    warnings = phases.describe_norms(classifier, phase)  # the last step trains everything that earlier ones did
    return phases.Trained(classifier, results, {"stages": num_stages, "steps": steps}, warnings)


SPECS = (MethodSpec("gradual", "unfreeze from the head towards the input", adapt, GradualOptions, "train"),)
