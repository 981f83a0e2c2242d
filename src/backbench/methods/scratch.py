"""`scratch`: train the architecture from random weights, to measure the value of pretraining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from backbench.config import Augment, Frozen, Recipe
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from backbench.task import ImageTask
    from backbench.training.phases import Trained, Training

RATES = {"transformer": 1e-3, "convnet": 3e-3}
SMALL_INPUT = 64
"""Input size in pixels up to which images are shifted by a few pixels (the convention); above, cropped at random.
"""


class ScratchOptions(Frozen):
    """Uses AdamW; default rate and crop depend on the kind of network and its input size."""

    auto_augment: bool = Field(
        default=True,
        description="if the recipe has no augmentation, use crops and flips suitable for the input size",
    )
    recipe: Recipe = Recipe(epochs=30, batch_size=128, warmup_epochs=2.0, patience=0, label_smoothing=0.1)


def adapt(task: ImageTask, options: ScratchOptions, training: Training) -> Trained:
    """Reset all weights to random values and train everything.

    Raises:
        ConfigError: a backbone without weights.
    """
    from dataclasses import replace

    from backbench.backbones.core.rebuild import make_random
    from backbench.errors import ConfigError
    from backbench.heads.head_modules import make_linear
    from backbench.runtime import make_torch_rng, stream_seed
    from backbench.training import phases

    phases.refuse_weightless(task, "scratch")
    backbone = task.backbone
    if backbone.build is None:
        raise ConfigError(
            f"the architecture of {backbone.facts.name} is unknown, so it can't be trained from scratch."
        )
    backbone.body.load_state_dict(make_random(backbone.build, stream_seed(task.seed, "scratch")).state_dict())
    rng = make_torch_rng(task.seed, "head")
    head = make_linear(backbone.facts.dim, task.num_classes, rng, options.recipe.dropout)
    classifier = phases.make_classifier(task, head)
    recipe = options.recipe
    if recipe.learning_rate is None:
        rate = RATES[phases.family_of(backbone.body)]
        recipe = recipe.model_copy(update={"learning_rate": rate})
    if options.auto_augment and recipe.augment == Augment():
        small = max(backbone.preprocess.size) <= SMALL_INPUT
        crop = Augment(crop="pad", flip=True) if small else Augment(crop="random-resized", flip=True)
        recipe = recipe.model_copy(update={"augment": crop})
    names = [name for name, _ in backbone.body.named_parameters()]
    phase = phases.make_phase("scratch", classifier, names, recipe, fresh_head=False)  # all weights are random
    phase = replace(phase, keeps_statistics=False)  # batch norms start with mean 0 and variance 1
    result = phases.train_phase(classifier, task, phase, training)
    return phases.Trained(classifier, {"scratch": result}, {"augment": recipe.augment.model_dump(mode="json")})


SPECS = (
    MethodSpec(
        "scratch", "train the architecture from random weights", adapt, ScratchOptions, "train", forgets=True
    ),
)
