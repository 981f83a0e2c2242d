"""`two-phase`: solve the head on frozen features first, then fine-tune from there at a low rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from backbench.config import Augment, Frozen, Recipe
from backbench.registry import MethodSpec, find_method

if TYPE_CHECKING:
    from backbench.task import ImageTask
    from backbench.training.phases import Trained, Training


class TwoPhaseOptions(Frozen):
    """The solved head is kept unless the second phase beats it on validation."""

    probe: str = Field(
        default="logistic", description="the method that solves the head; it must give a linear one"
    )
    blocks: int | None = Field(default=None, ge=1, description="fine-tune only this many last blocks; None: all")
    keep_statistics: bool = Field(
        default=True, description="batch norms keep the statistics with which the head was solved"
    )
    recipe: Recipe = Recipe(
        augment=Augment(crop="random-resized", scale=(0.35, 1.0), flip=True), layer_decay=0.8, warmup_epochs=1.0
    )


def adapt(task: ImageTask, options: TwoPhaseOptions, training: Training) -> Trained:
    """Probe, then fine-tune from the solved head.

    The head is solved on train alone, with the strength that validation chose, so that validation stays
    independent for the second phase. If no epoch beats the probe on validation, the result is the probe, with a
    warning. Batch norms keep their statistics, because batch statistics would change the features that the head
    was solved on.

    Raises:
        ConfigError: the probe does not give a linear head, or the backbone has nothing to train.
    """
    from dataclasses import replace

    from backbench.errors import ConfigError
    from backbench.heads.head_modules import to_module
    from backbench.heads.heads import LinearHead
    from backbench.task import Features
    from backbench.training import phases

    phases.refuse_weightless(task, "two-phase")
    probe = find_method(options.probe, "options.probe")
    if probe.trains:
        raise ConfigError(f"options.probe '{options.probe}' trains a network itself. Use logistic or ridge.")
    features = task.features()
    chosen = probe.adapt(features, probe.options()).choices
    fixed = (
        {"default_strength": chosen["C"]}
        if "C" in chosen
        else {"default_l2": chosen["l2"]}
        if "l2" in chosen
        else {}
    )
    nothing = Features(features.val.values[:0], features.val.labels[:0], ())
    head = probe.adapt(replace(features, val=nothing), probe.options(**fixed)).head
    if not isinstance(head, LinearHead):
        raise ConfigError(
            f"options.probe '{options.probe}' does not give a linear head to start from. Use logistic or ridge."
        )
    body = task.backbone.body
    names = (
        [name for name, _ in body.named_parameters()]
        if options.blocks is None
        else phases.last_stages(body, options.blocks)
    )
    classifier = phases.make_classifier(task, to_module(head, options.recipe.dropout))
    phase = phases.make_phase("two-phase", classifier, names, options.recipe, fresh_head=False)
    phase = replace(phase, keeps_statistics=options.keep_statistics or phase.keeps_statistics)
    result = phases.train_phase(classifier, task, phase, training)
    # warn only if statistics were kept although keep_statistics is off
    warnings = () if options.keep_statistics else phases.describe_norms(classifier, phase)
    if result.best_epoch == 0:
        warnings += ("fine-tuning never beat the probe on validation, so the probe was kept",)
    return phases.Trained(
        classifier,
        {"two-phase": result},
        {"probe": options.probe, "probe_choices": chosen},
        warnings,
        has_solved_head=True,
    )


SPECS = (MethodSpec("two-phase", "probe, then fine-tune from the solved head", adapt, TwoPhaseOptions, "train"),)
