"""Shared by all methods that train a network: families and their rates, phases, and results.

A method chooses the parameters to train and the head; the rest is here and in `train.fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from backbench.backbones.core.stages import stages_of
from backbench.classifier.classifier import Classifier
from backbench.config import Augment, Frozen, Recipe
from backbench.errors import BudgetExceeded, ConfigError
from backbench.heads.head_modules import HeadModule, LinearModule, MlpModule, make_linear
from backbench.heads.standardise import Scale, measure_scale
from backbench.progress import SILENT, Progress
from backbench.records.schema import CUT_BY_BUDGET, MethodFacts
from backbench.runtime import free_memory, make_torch_rng, stream_seed
from backbench.stats.metric import Metric
from backbench.task import ImageTask
from backbench.training.batches import Batches, FeatureBatches, ImageBatches
from backbench.training.checkpoint import Workspace
from backbench.training.dropout import dropping
from backbench.training.optimise import Phase
from backbench.training.prefix import Rest, cut_prefix
from backbench.training.train import FitResult, fit, never_stop

Family = Literal["transformer", "convnet"]
BODY_RATE: dict[Family, float] = {"transformer": 5e-5, "convnet": 3e-4}
"""Rates for AdamW and a few hundred to some ten thousand images: networks with layer norm diverge above 1e-4,
those with batch norm learn slowly below it."""
HEAD_RATE = 1e-3
_NEVER_DECAYED = (
    *("cls_token", "class_token", "class_embedding", "dist_token", "distillation_token"),
    *("reg_token", "register_tokens", "mask_token"),
    *("pos_emb", "position_embeddings", "positional_embedding"),
)
"""Prefixes of these parameters in timm, torchvision, transformers and open_clip."""


@dataclass(frozen=True)
class Training:
    """Device, time limit and folder of a training. See `train.fit`."""

    workspace: Workspace
    deadline: float | None = None
    stop_signal: Callable[[], int] = never_stop
    progress: Progress = SILENT


@dataclass(frozen=True)
class Trained:
    """A trained classifier in eval mode, with the result of each phase, by name.

    `has_solved_head`: its head was solved in closed form, so it is useful before the first step.
    """

    classifier: Classifier
    phases: dict[str, FitResult]
    choices: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    has_solved_head: bool = False


def training_figures(trained: Trained, num_train: int) -> dict[str, Metric]:
    """Accuracy and loss on training images in the best epoch of the last phase: augmented, while the weights
    changed.

    Empty if the best weights are those of the start, or of an epoch that the budget interrupted.
    """
    last = next(reversed(trained.phases.values()), None)
    if last is None or not 1 <= last.best_epoch <= len(last.history):
        return {}
    figures = last.history[last.best_epoch - 1]
    return {
        "train_accuracy": Metric(value=figures.train_accuracy, n=num_train),
        "train_nll": Metric(value=figures.train_loss, n=num_train),
    }


def describe_cut(trained: Trained) -> str | None:
    """A warning for training that the budget ended; None if it ended by itself.

    Such a run has its own id and its state is kept: the same command with more time resumes it.
    """
    for name, result in trained.phases.items():
        if result.ended == "budget":
            epochs = "1 whole epoch" if len(result.history) == 1 else f"{len(result.history)} whole epochs"
            return (
                f"{CUT_BY_BUDGET} in phase '{name}' after {epochs}: the result is the best state so far. To "
                "resume, run the same command with a larger budget"
            )
    return None


def refuse_unlearnt(trained: Trained) -> None:
    """Raise BudgetExceeded if the budget ended before any improvement on a random head."""
    phases = trained.phases
    was_cut = any(result.ended == "budget" for result in phases.values())
    if was_cut and not trained.has_solved_head and all(result.best_epoch == 0 for result in phases.values()):
        raise BudgetExceeded(
            "the budget ended before anything was learnt, so there is no model, and the test set was not used. "
            "Finished work is saved: run the same command with more time to resume."
        )


def describe_method(name: str, options: Frozen, trained: Trained) -> MethodFacts:
    """The method's entry in the record: all options, choices and calibration."""
    calibration = {"temperature": trained.classifier.temperature, "threshold": trained.classifier.threshold}
    best = {f"{phase}_best_epoch": result.best_epoch for phase, result in trained.phases.items()}
    return MethodFacts(
        name=name,
        options=options.model_dump(mode="json"),
        choices=trained.choices | calibration | best,
        fitted_on="train",
    )


def family_of(body: nn.Module) -> Family:
    """'convnet' for networks with batch norm, 'transformer' for those with layer norm."""
    for module in body.modules():
        if isinstance(module, nn.LayerNorm) or "LayerNorm" in type(module).__name__:
            return "transformer"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return "convnet"
    return "convnet"


def body_names(names: Iterable[str]) -> frozenset[str]:
    """Convert names in the backbone's body to names in the classifier."""
    return frozenset(f"backbone.body.{name}" for name in names)


def head_names(classifier: Classifier) -> frozenset[str]:
    """All parameters of the head, by their names in the classifier."""
    return frozenset(f"head.{name}" for name, _ in classifier.head.named_parameters())


def make_phase(
    name: str, classifier: Classifier, body_parameters: Iterable[str], recipe: Recipe, *, fresh_head: bool
) -> Phase:
    """Make a phase that trains the head and `body_parameters` (names in the body); rates by family and stage.

    Folded batch norms keep their statistics: see `are_norms_folded`.

    Args:
        fresh_head: the head is random: its rate is ten times that of the body.

    Raises:
        ConfigError: the body has none of these parameters.
    """
    body = classifier.backbone.body
    chosen = list(body_parameters)
    rate = recipe.learning_rate
    if rate is None:
        rate = BODY_RATE[family_of(body)] if chosen else HEAD_RATE
    head_rate = recipe.head_learning_rate or (rate * 10 if fresh_head and chosen else rate)
    rates = dict.fromkeys(head_names(classifier), head_rate / rate)
    stages = stages_of(body)
    for distance, stage in enumerate(reversed(stages)):
        for parameter in stage.parameters:
            rates[f"backbone.body.{parameter}"] = recipe.layer_decay**distance
    trainable = head_names(classifier) | body_names(chosen)
    decays = dict.fromkeys(body_names(_undecayed(body)) & trainable, 0.0)
    keeps_statistics = classifier.backbone.facts.pretrained_on is not None and are_norms_folded(body)
    recipe = recipe.model_copy(update={"learning_rate": rate})
    return Phase(name, trainable, recipe, rates, decays, keeps_statistics=keeps_statistics)


def are_norms_folded(body: nn.Module) -> bool:
    """Whether all batch norms have mean 0 and variance 1: in pretrained weights, they are folded into the
    convolutions.

    Such weights come from exports for inference. In training, such a norm would divide by batch statistics that
    the weights do not compensate, which destroys the pretrained network at the first step.
    """
    norms = [module for module in body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [(norm.running_mean, norm.running_var) for norm in norms]
    return bool(tracked) and all(
        mean is not None and var is not None and not mean.any() and bool((var == 1).all()) for mean, var in tracked
    )


def describe_norms(classifier: Classifier, phase: Phase) -> tuple[str, ...]:
    """A warning for a phase that kept the statistics of folded batch norms instead of updating them."""
    norms = {
        f"{prefix}.{name}"
        for prefix, module in classifier.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, _ in module.named_parameters()
    }
    if not phase.keeps_statistics or not norms & phase.trainable:
        return ()
    return (
        "the batch norms of these weights are folded into the convolutions (all have mean 0 and variance 1), so "
        "they keep these values and do not use batch statistics: see docs/protocol.md",
    )


def _undecayed(body: nn.Module) -> list[str]:
    """Parameters without weight decay: tokens, position embeddings, and those in timm's `no_weight_decay`."""
    stated: set[str] = getattr(body, "no_weight_decay", set)()
    return [
        name
        for name, _ in body.named_parameters()
        if name in stated or name.rpartition(".")[2].startswith(_NEVER_DECAYED)
    ]


def train_phase(classifier: Classifier, task: ImageTask, phase: Phase, training: Training) -> FitResult:
    """Train one phase; uses cached features if only the head is trained, without augmentation."""
    body = classifier.backbone.body
    only_head = not any(name.startswith("backbone.") for name in phase.trainable)
    arguments: dict[str, Any] = {
        "class_names": task.class_names,
        "workspace": training.workspace,
        "seed": task.seed,
        "device": task.device,
        "precision": task.precision,
        "deadline": training.deadline,
        "stop_signal": training.stop_signal,
        "progress": training.progress,
    }
    training.progress.say(describe_phase(classifier, phase))
    smoothing = phase.recipe.label_smoothing
    if only_head and phase.recipe.augment == Augment():
        features = task.features()
        batches: Batches = FeatureBatches(features.train, features.val, task.num_classes, smoothing, task.device)
        return fit(classifier.head, batches, _phase_of_head(phase), **arguments)
    if phase.recipe.gradient_checkpointing:
        _checkpoint_gradients(body)
    images = ImageBatches(
        task.read,
        task.train,
        task.val,
        task.num_classes,
        classifier.backbone.preprocess,
        phase.recipe.augment,
        smoothing,
        stream_seed(task.seed, f"augment/{phase.name}"),  # each phase counts its epochs from 0
        task.device,
        task.exact_resize,
    )
    rest = _cut_prefix(classifier, phase, images, task, training.progress)
    with dropping(body, phase.recipe):
        if rest is None:
            return fit(classifier, images, phase, **arguments)
        with rest.replaying():
            return fit(classifier, rest.batches, phase, **arguments)


def _phase_of_head(phase: Phase) -> Phase:
    """The same phase with parameter names of the head, for training on features."""

    def shorten(names: Iterable[str]) -> frozenset[str]:
        return frozenset(name.removeprefix("head.") for name in names if name.startswith("head."))

    return Phase(
        phase.name,
        shorten(phase.trainable),
        phase.recipe,
        rates={name.removeprefix("head."): rate for name, rate in phase.rates.items() if name.startswith("head.")},
        decays={name.removeprefix("head."): decay for name, decay in phase.decays.items()},
        members=tuple(shorten(names) for names in phase.members),
    )


def _cut_prefix(
    classifier: Classifier, phase: Phase, images: ImageBatches, task: ImageTask, progress: Progress
) -> Rest | None:
    """The network after its frozen first layers; None if every epoch has to run all of it."""
    recipe = phase.recipe
    frozen = _frozen_prefix(classifier, phase)
    if not frozen or recipe.augment != Augment() or recipe.gradient_checkpointing:
        return None
    rest = None
    with (
        suppress(torch.OutOfMemoryError),  # then every epoch runs the whole network, in micro-batches
        progress.bar(f"{phase.name}: {frozen}", len(images.train) + images.num_val, "images") as bar,
    ):
        rest = cut_prefix(classifier, phase.trainable, images, precision=task.precision, tell=bar.advance)
    free_memory(task.device)
    if rest is not None:
        progress.say(
            f"{phase.name}: the frozen layers up to {rest.boundary} ran once; epochs train on their activations "
            f"({rest.num_bytes / 1e6:,.0f} MB)"
        )
    return rest


def _checkpoint_gradients(body: nn.Module) -> None:
    """Turn on gradient checkpointing (less memory, a third more time); ConfigError if unsupported."""
    switch = getattr(body, "set_grad_checkpointing", None)
    if switch is None:
        raise ConfigError("this model has no gradient checkpointing: leave recipe.gradient_checkpointing out.")
    switch(True)


def describe_phase(classifier: Classifier, phase: Phase) -> str:
    """Describe in one line the trained and frozen parameters and the saved work."""
    sizes = {name: parameter.numel() for name, parameter in classifier.named_parameters()}
    trained = sum(size for name, size in sizes.items() if name in phase.trainable)
    whole = sum(sizes.values())
    saved = ""
    if not any(name.startswith("backbone.") for name in phase.trainable):
        saved = "; the backbone runs forward only"
        if phase.recipe.augment == Augment():
            saved = "; the backbone runs once, every epoch trains on its features"
    elif frozen_stages := _frozen_prefix(classifier, phase):
        saved = f"; no backward pass through {frozen_stages}"
    return f"{phase.name}: {trained:,} of {whole:,} parameters are trained, {whole - trained:,} are frozen{saved}"


def _frozen_prefix(classifier: Classifier, phase: Phase) -> str:
    """The frozen stages from the input on, as text."""
    names = []
    for stage in stages_of(classifier.backbone.body):
        if body_names(stage.parameters) & phase.trainable:
            break
        names.append(stage.name)
    return f"{names[0]} to {names[-1]}" if len(names) > 1 else "".join(names)


def last_stages(body: nn.Module, num: int) -> list[str]:
    """Parameter names of the last `num` stages of a body.

    Raises:
        ConfigError: the body has fewer stages, or nothing to train.
    """
    stages = stages_of(body)
    if not stages:
        raise ConfigError("this model has no weights to train. Use a network, or the methods knn and logistic.")
    if num > len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise ConfigError(
            f"blocks={num}: this model has {len(stages)} stages: {names}. Choose 1 to {len(stages)}."
        )
    return [name for stage in stages[-num:] for name in stage.parameters]


class Standardised(nn.Module):
    """A head on features standardised to mean 0 and standard deviation 1, so that one rate fits all backbones.

    Otherwise a backbone with small features learns a hundred times too slowly, and a comparison of
    backbones becomes a comparison of feature scales.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, inner: HeadModule, scale: Scale) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.from_numpy(scale.mean.astype(np.float32)))
        self.register_buffer("inverse_std", torch.from_numpy(scale.inverse_std.astype(np.float32)))

    def forward(self, values: Tensor) -> Tensor:
        logits: Tensor = self.inner((values - self.mean) * self.inverse_std)
        return logits

    @torch.no_grad()
    def fold(self) -> HeadModule:
        """The same head for raw features: the first linear layer takes over the standardisation."""
        inner = self.inner
        first = inner.hidden if isinstance(inner, MlpModule) else inner
        assert isinstance(first, nn.Linear | LinearModule)  # the only kinds trained by gradient steps
        first.weight.mul_(self.inverse_std)
        first.bias.sub_(first.weight @ self.mean)
        return inner


def begin_head(task: ImageTask, method: str, recipe: Recipe) -> Standardised:
    """A random linear head on standardised features, for a method that trains the network below it too.

    Raises:
        ConfigError: see `refuse_weightless`.
    """
    refuse_weightless(task, method)
    rng = make_torch_rng(task.seed, "head")
    head = make_linear(task.backbone.facts.dim, task.num_classes, rng, recipe.dropout)
    return standardise(task, head, body_learns=True)


def standardise(task: ImageTask, head: HeadModule, *, body_learns: bool) -> Standardised:
    """Put `head` after the standardisation of the training split's frozen features.

    A network with random weights keeps raw features: its features before training say nothing about those
    after it.
    """
    if body_learns and task.backbone.facts.pretrained_on is None:
        dim = task.backbone.facts.dim
        return Standardised(head, Scale(np.zeros(dim), np.ones(dim)))
    return Standardised(head, measure_scale([task.features().train.values]))


def make_classifier(task: ImageTask, head: nn.Module) -> Classifier:
    """The task's backbone under a head, on the task's device."""
    return Classifier(task.backbone, head, task.class_names).to(task.device)


def refuse_weightless(task: ImageTask, method: str) -> None:
    """Raise ConfigError for a backbone without weights, such as `pixels`."""
    if not any(True for _ in task.backbone.body.parameters()):
        raise ConfigError(
            f"'{method}' trains a network's weights, and {task.backbone.facts.name} has none. "
            f"Use a network, or a probe: knn, centroid, ridge, logistic."
        )
