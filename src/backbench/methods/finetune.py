"""`last-blocks`, `parts` and `full`: fine-tune all or a part of the pretrained backbone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from backbench.config import Augment, Frozen, Recipe
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from backbench.task import ImageTask
    from backbench.training.phases import Trained, Training

CROP_AND_FLIP = Augment(crop="random-resized", scale=(0.35, 1.0), flip=True)
"""Milder than ImageNet's: with few images, crops that lose most of an object do harm."""


class LastBlocksOptions(Frozen):
    """Options of `last-blocks`. A block is a transformer block or a stage of a convolutional network."""

    blocks: int = Field(default=3, ge=1, le=1000, description="number of blocks to train, counted from the output")
    recipe: Recipe = Recipe(augment=CROP_AND_FLIP)


class PartsOptions(Frozen):
    """Parts by kind, in all blocks: mlp, attention, norm, bias, embedding, conv, mlp-norm, attention-norm."""

    parts: tuple[str, ...] = Field(default=("mlp", "mlp-norm"), min_length=1)
    recipe: Recipe = Recipe(augment=CROP_AND_FLIP)


class FullOptions(Frozen):
    """All stages are trained; those near the input more slowly."""

    recipe: Recipe = Recipe(augment=CROP_AND_FLIP, layer_decay=0.8)


def adapt_last_blocks(task: ImageTask, options: LastBlocksOptions, training: Training) -> Trained:
    """Train the head and the last blocks."""
    from backbench.training.phases import last_stages

    return _adapt("last-blocks", task, last_stages(task.backbone.body, options.blocks), options.recipe, training)


def adapt_parts(task: ImageTask, options: PartsOptions, training: Training) -> Trained:
    """Train the head and the parts of the named kinds.

    Raises:
        ConfigError: an unknown kind, or one that this backbone lacks.
    """
    from backbench.backbones.core.stages import parts_of
    from backbench.errors import ConfigError, unknown_name

    known = parts_of(task.backbone.body)
    for kind in options.parts:
        if kind not in known:
            raise unknown_name("part", kind, known, "options.parts", "docs/protocol.md")
    names = [name for kind in options.parts for name in known[kind]]
    if not names:
        there = ", ".join(kind for kind, members in known.items() if members)
        raise ConfigError(
            f"{task.backbone.facts.name} has no {' or '.join(options.parts)}. It has: {there or 'no weights'}."
        )
    return _adapt("parts", task, names, options.recipe, training)


def adapt_full(task: ImageTask, options: FullOptions, training: Training) -> Trained:
    """Train everything."""
    names = [name for name, _ in task.backbone.body.named_parameters()]
    return _adapt("full", task, names, options.recipe, training)


def _adapt(name: str, task: ImageTask, names: Iterable[str], recipe: Recipe, training: Training) -> Trained:
    from backbench.training import phases

    trained = phases.begin_head(task, name, recipe)
    classifier = phases.make_classifier(task, trained)
    phase = phases.make_phase(name, classifier, names, recipe, fresh_head=True)
    result = phases.train_phase(classifier, task, phase, training)
    classifier.head = trained.fold()
    return phases.Trained(classifier, {name: result}, warnings=phases.describe_norms(classifier, phase))


SPECS = (
    MethodSpec(
        "last-blocks", "fine-tune the head and the last blocks", adapt_last_blocks, LastBlocksOptions, "train"
    ),
    MethodSpec("parts", "fine-tune the head and parts of one kind", adapt_parts, PartsOptions, "train"),
    MethodSpec("full", "fine-tune everything", adapt_full, FullOptions, "train"),
)
