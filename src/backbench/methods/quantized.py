"""`quantized`: a head solved on the features of an int8 backbone, with optional quantisation-aware training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from backbench.config import Frozen, Recipe
from backbench.errors import ConfigError
from backbench.registry import MethodSpec, find_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from backbench.backbones.core.base import Backbone
    from backbench.backbones.core.build import Scheme
    from backbench.heads.heads import LinearHead
    from backbench.inference.quantize import Kind, Ranges
    from backbench.task import ImageTask, Part, Task
    from backbench.training.phases import Trained, Training
    from backbench.training.train import FitResult

MIN_COSINE = 0.9
"""Minimum mean cosine between float and int8 features; below it, quantisation failed."""
SLOWER = 1.1
"""Ratio of float to int8 images per second above which int8 counts as slower (above the noise)."""
_BATCH = 8
_SPEED_PASSES = 5
_RECIPE = Recipe(learning_rate=1e-5)


class QuantizedOptions(Frozen):
    """Without `qat_epochs` only the head is fitted, as in `logistic`."""

    scheme: Literal["auto", "static", "dynamic", "weight-only"] = Field(
        default="auto", description="int8 scheme; auto: the first that preserves the features"
    )
    calibration_images: int = Field(
        default=128, ge=1, le=100_000, description="static: number of training images to measure ranges"
    )
    qat_epochs: int = Field(
        default=0, ge=0, le=10_000, description="epochs of quantisation-aware training; 0: none"
    )
    recipe: Recipe = Field(default=_RECIPE, description="recipe of this training; qat_epochs sets its epochs")


@dataclass(frozen=True)
class _Form:
    """An int8 form of the backbone, and its (n, dim) features of the comparison images."""

    backbone: Backbone
    scheme: Scheme
    values: np.ndarray
    mean_cosine: float
    least_cosine: float


def adapt(task: ImageTask, options: QuantizedOptions, training: Training) -> Trained:
    """Make an int8 backbone, compare its features with the float ones on validation, solve a head on them.

    The head is solved on train alone, with the strength that validation chose, so that validation stays
    independent.


    Ranges are measured on training images.

    Raises:
        ConfigError: unsupported scheme or training for this network, a backbone without weights, torchao missing.
        BudgetExceeded: the time left is too short for the int8 features.
    Cost: the float features, the int8 ones, a pass of the calibration images; with `qat_epochs` those epochs.
    """
    from backbench.inference.quantize import decide_kind, decide_schemes, measure_ranges
    from backbench.training.phases import Trained, make_classifier, refuse_weightless

    refuse_weightless(task, "quantized")
    name = task.backbone.facts.name
    kind = decide_kind(task.backbone.body, name)
    schemes = decide_schemes(kind, options.scheme, name)
    _check_training(options, kind, name)
    is_static = "static" in schemes
    batches = _calibration(task, options.calibration_images if is_static else _BATCH)
    ranges = measure_ranges(task.backbone, batches) if is_static else {}
    features = task.features()
    phases: dict[str, FitResult] = {}
    warnings: list[str] = []
    if options.qat_epochs:
        learned, phases["qat"] = _learn(task, features, ranges, options, training)
        form = _judge(task, features, learned, "static", training)
        if phases["qat"].best_epoch == 0:
            warnings.append(
                "quantisation-aware training never improved validation, so its first weights were kept"
            )
    else:
        form = _choose(task, features, schemes, ranges, training)
    warnings += _doubts(form, schemes, options)
    head, figures = _solve(task, features, form, training)
    choices = {
        "scheme": form.scheme,
        "mean_cosine": form.mean_cosine,
        "least_cosine": form.least_cosine,
        "int8_bytes": form.backbone.facts.weights_bytes,
        "float_bytes": task.backbone.facts.weights_bytes,
        "int8_images_per_second": _speed(form.backbone, batches[0], task.device),
        "float_images_per_second": _speed(task.backbone, batches[0], task.device),
        **figures,
    }
    warnings += _describe_slowness(choices)
    from backbench.heads.head_modules import to_module

    classifier = make_classifier(replace(task, backbone=form.backbone), to_module(head))
    return Trained(classifier, phases, choices, tuple(warnings), has_solved_head=True)


def _check_training(options: QuantizedOptions, kind: Kind, name: str) -> None:
    if options.recipe.epochs != _RECIPE.epochs:
        raise ConfigError(
            f"options.recipe.epochs={options.recipe.epochs}: 'quantized' uses options.qat_epochs. Set "
            f"options.qat_epochs={options.recipe.epochs} instead."
        )
    if not options.qat_epochs and options.recipe != _RECIPE:
        raise ConfigError(
            "options.recipe is for quantisation-aware training, which needs options.qat_epochs. Set it, for "
            "example options.qat_epochs=3, or leave options.recipe out."
        )
    if options.qat_epochs and (kind != "convolutions" or options.scheme not in ("auto", "static")):
        given = f"{name} is a network of {kind}" if kind != "convolutions" else f"options.scheme={options.scheme}"
        raise ConfigError(
            f"options.qat_epochs={options.qat_epochs}, but {given}: quantisation-aware training works only for "
            "convolutional networks with the scheme 'static' (or auto). Leave qat_epochs out, or adapt with "
            "'full' first."
        )


def _calibration(task: ImageTask, num: int) -> list[Tensor]:
    """Normalised images, some at a time, spread evenly over the training split."""
    from backbench.inference.resize import prepare_batch

    if not len(task.train):
        raise ConfigError("there are no training images")
    chosen = np.unique(np.linspace(0, len(task.train) - 1, min(num, len(task.train))).astype(np.int64))
    images = [task.read(int(row)) for row in task.train.rows[chosen]]
    starts = range(0, len(images), _BATCH)
    return [
        prepare_batch(images[first : first + _BATCH], task.backbone.preprocess, exact=task.exact_resize)
        for first in starts
    ]


def _choose(
    task: ImageTask, features: Task, schemes: tuple[Scheme, ...], ranges: Ranges, training: Training
) -> _Form:
    """The first scheme that preserves the features, or else the best one."""
    from backbench.inference.quantize import quantize_backbone

    forms: list[_Form] = []
    for scheme in schemes:
        backbone = quantize_backbone(task.backbone, scheme, ranges)
        forms.append(_judge(task, features, backbone, scheme, training))
        if forms[-1].mean_cosine >= MIN_COSINE:
            return forms[-1]
        training.progress.say(
            f"quantized: '{scheme}' reaches only a mean cosine of {forms[-1].mean_cosine:.2f} to float features"
        )
    return max(forms, key=lambda form: form.mean_cosine)


def _learn(
    task: ImageTask, features: Task, ranges: Ranges, options: QuantizedOptions, training: Training
) -> tuple[Backbone, FitResult]:
    """Quantisation-aware training of convolutions and head, from the best head on float features."""
    import copy

    from backbench.backbones.core.base import Backbone
    from backbench.heads.head_modules import to_module
    from backbench.inference.quantize import describe_int8, finish_learning, make_learning
    from backbench.training.phases import make_classifier, make_phase, train_phase

    body = copy.deepcopy(task.backbone.body)
    names = make_learning(body, ranges)
    learner = replace(task, backbone=Backbone(body, task.backbone.facts))
    head, _ = _fit_head(features)
    classifier = make_classifier(learner, to_module(head, options.recipe.dropout))
    recipe = options.recipe.model_copy(update={"epochs": options.qat_epochs})
    phase = make_phase("qat", classifier, names, recipe, fresh_head=False)
    result = train_phase(classifier, learner, phase, training)
    return describe_int8(task.backbone, finish_learning(body), "static"), result


def _judge(task: ImageTask, features: Task, backbone: Backbone, scheme: Scheme, training: Training) -> _Form:
    """Compare with the float features on validation, or on train without a validation split."""
    part, expected = (task.val, features.val) if len(task.val) else (task.train, features.train)
    values = _extract(task, backbone, part, training)
    lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(expected.values, axis=1)
    cosines = (values * expected.values).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return _Form(backbone, scheme, values, float(cosines.mean()), float(cosines.min()))


def _extract(task: ImageTask, backbone: Backbone, part: Part, training: Training) -> np.ndarray:
    from backbench.inference.features import extract_features

    extraction = extract_features(
        backbone,
        lambda index: task.read(int(part.rows[index])),
        [f"{row:012d}" for row in range(len(part))],  # in this order, each separate
        names=part.ids,
        device=task.device,
        exact_resize=task.exact_resize,
        deadline=training.deadline,
        use_cache=False,
        progress=training.progress,
    )
    return extraction.values


def _solve(task: ImageTask, features: Task, form: _Form, training: Training) -> tuple[LinearHead, dict[str, Any]]:
    """The head on int8 features, and its validation accuracy on int8 and on float features."""
    from backbench.heads.choose import score_logits

    if not len(task.val):
        head, chosen = _fit_head(replace(features, train=replace(features.train, values=form.values)))
        return head, {"head": chosen}
    train = replace(features.train, values=_extract(task, form.backbone, task.train, training))
    head, chosen = _fit_head(replace(features, train=train, val=replace(features.val, values=form.values)))
    labels = features.val.labels
    accuracies = {
        "int8_val_accuracy": score_logits(head.logits(form.values), labels).accuracy,
        "float_val_accuracy": score_logits(head.logits(features.val.values), labels).accuracy,
    }
    return head, accuracies | {"head": chosen}


def _fit_head(features: Task) -> tuple[LinearHead, dict[str, Any]]:
    """The logistic head of the training split, with the strength that validation chose, and the choice."""
    probe = find_method("logistic")
    chosen: dict[str, Any] = probe.adapt(features, probe.options()).choices
    fixed = {"default_strength": chosen["C"]} if "C" in chosen else {}
    nothing = replace(features.val, values=features.val.values[:0], labels=features.val.labels[:0], ids=())
    head: LinearHead = probe.adapt(replace(features, val=nothing), probe.options(**fixed)).head
    return head, chosen


def _doubts(form: _Form, schemes: tuple[Scheme, ...], options: QuantizedOptions) -> list[str]:
    if form.mean_cosine < MIN_COSINE:
        return [
            f"int8 ('{form.scheme}') changes the features strongly: mean cosine {form.mean_cosine:.2f} with the "
            f"float ones, minimum {form.least_cosine:.2f}; compare int8_val_accuracy with a probe of the float "
            "model"
        ]
    if options.scheme == "auto" and form.scheme != schemes[0]:
        return [f"'{schemes[0]}' int8 does not preserve this network's features, so '{form.scheme}' was used"]
    return []


def _describe_slowness(choices: Mapping[str, Any]) -> list[str]:
    """A warning if int8 is slower on this machine, with the saving in size."""
    slower = choices["float_images_per_second"] / max(choices["int8_images_per_second"], 0.1)
    if slower < SLOWER:
        return []
    smaller = (choices["float_bytes"] or 0) / (choices["int8_bytes"] or 1)
    size = f", and {smaller:.1f} times smaller" if smaller > 1 else ""
    return [f"int8 is {slower:.1f} times slower here{size}"]


def _speed(backbone: Backbone, batch: Tensor, device: str) -> float:
    """Images per second of the network alone, the best of some passes of one small batch."""
    import time

    from backbench.inference.accelerate import accelerate
    from backbench.runtime import synchronise

    network, batch = accelerate(backbone, device=device), batch.to(device)
    network(batch)
    seconds = []
    for _ in range(_SPEED_PASSES):
        synchronise(device)
        started = time.perf_counter()
        network(batch)
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return round(len(batch) / min(seconds), 1)


SPECS = (
    MethodSpec("quantized", "a solved head on an int8 copy of the backbone", adapt, QuantizedOptions, "train"),
)
