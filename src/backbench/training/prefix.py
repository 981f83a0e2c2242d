"""Run the frozen first layers of a network once, store their activations, and train the rest on them.

    rest = cut_prefix(classifier, phase.trainable, batches, ...)     # None: nothing frozen first, or no room
    with rest.replaying():
        fit(classifier, rest.batches, phase, ...)                    # the same network, the same parameter names

During the replay, the last frozen module returns the stored activations and earlier ones return zeros, so that the
network's own code runs unchanged after it. The first images are used to check that this gives the same logits. If
not (for example, a skip connection leaves the frozen part earlier), an earlier module is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from backbench.backbones.core.stages import stages_of
from backbench.classifier.classifier import Classifier
from backbench.config import Precision
from backbench.runtime import autocast, total_memory_bytes
from backbench.training.batches import Activations, FeatureBatches, ImageBatches

MAX_KEPT_BYTES = 4 << 30
BATCH = 64
TRIED = 8
"""Number of images for which the shortened and the whole network must give the same logits."""
MAX_CHANGE = 1e-4  # of a logit, relative to the largest

Shapes = dict[str, tuple[int, ...]]


class _Reached(Exception):
    """Raised at the boundary: the rest of the network need not run."""


@dataclass(frozen=True, eq=False)
class Rest:
    """The rest of a network after its frozen first layers.

    Args:
        classifier: the whole network.
        boundary: path in the body of the module whose outputs are stored.
        shapes: output shapes, without the batch, of modules that no longer run.
        batches: the stored outputs as training examples.
    """

    classifier: Classifier
    boundary: str
    shapes: Shapes
    batches: FeatureBatches

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Within the block, the classifier takes stored activations instead of images."""
        with _replay(self.classifier, self.boundary, self.shapes):
            yield

    @property
    def num_bytes(self) -> int:
        """Memory of the activations."""
        parts = (self.batches.train.values, self.batches.val.values)
        return sum(part.nbytes for part in parts)


def cut_prefix(
    classifier: Classifier,
    trainable: frozenset[str],
    batches: ImageBatches,
    *,
    precision: Precision,
    tell: Callable[[int], None] = lambda _: None,
) -> Rest | None:
    """Run the frozen first layers over all training and validation images, and store their outputs.

    Args:
        classifier: on the device of `batches`; set to eval mode, otherwise unchanged.
        trainable: names in the classifier of the parameters to train.
        batches: images as read in every epoch, without augmentation.
        tell: called with the number of further finished images.

    Returns:
        None if nothing is frozen before the first trained stage, if no module is a valid boundary, or if its
        activations do not fit into memory.

    Cost: one forward pass of the frozen part; n activations in memory, at most an eighth of the machine's.
    """
    classifier.eval()
    images, _ = batches.load(0, 0, np.arange(min(TRIED, len(batches.train))))
    called = _trace(classifier, _frozen_modules(classifier, trainable), images, precision)
    num = len(batches.train) + batches.num_val
    for boundary in reversed(list(called)):
        shapes = _shapes_up_to(called, boundary)
        if num * _num_bytes(called[boundary]) <= _room_bytes() and _is_faithful(
            classifier, boundary, shapes, images, precision
        ):
            keep = partial(_keep, classifier, boundary, precision=precision, tell=tell)
            train = keep(batches.load(0, 0, rows)[0] for rows in _blocks(len(batches.train)))
            val = keep(inputs for inputs, _ in batches.validation()) if batches.num_val else train[:0]
            kept = FeatureBatches(
                Activations(train, batches.train.labels),
                Activations(val, batches.val.labels),
                batches.num_classes,
                batches.smoothing,
                batches.device,
            )
            return Rest(classifier, boundary, shapes, kept)
    return None


def _frozen_modules(classifier: Classifier, trainable: frozenset[str]) -> list[str]:
    """Paths in the body of modules in stages before the first trained one."""
    body = classifier.backbone.body
    modules = dict(body.named_modules())
    paths: list[str] = []
    for stage in stages_of(body):
        if any(f"backbone.body.{name}" in trainable for name in stage.parameters):
            break
        paths += [path for path in stage.prefixes if path in modules]
    return paths


@torch.no_grad()
def _trace(classifier: Classifier, paths: list[str], images: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Outputs of the modules of one forward pass, in order of execution; tensors only."""
    called: dict[str, Tensor] = {}

    def note(path: str, _module: nn.Module, _inputs: object, output: object) -> None:
        called.pop(path, None)  # a module that is called twice counts at its last call
        if isinstance(output, Tensor) and len(output) == len(images):
            called[path] = output

    with ExitStack() as hooks:
        for path in paths:
            module = classifier.backbone.body.get_submodule(path)
            hooks.enter_context(_removed(module.register_forward_hook(partial(note, path))))
        with autocast(str(images.device), precision):
            classifier(images)
    return called


@torch.no_grad()
def _is_faithful(
    classifier: Classifier, boundary: str, shapes: Shapes, images: Tensor, precision: Precision
) -> bool:
    """Whether the network gives its own logits from the activations of `boundary`."""
    kept = _keep(classifier, boundary, [images], precision=precision, tell=lambda _: None)
    with autocast(str(images.device), precision):
        whole = classifier(images).float()
        try:
            with _replay(classifier, boundary, shapes):
                rest = classifier(kept.to(images.device)).float()
        except (
            RuntimeError,
            ValueError,
            TypeError,
            AssertionError,
        ):  # the network uses outputs that are zeros now
            return False
    return bool((whole - rest).abs().max() <= MAX_CHANGE * whole.abs().max().clamp_min(1.0))


@torch.no_grad()
def _keep(
    classifier: Classifier,
    boundary: str,
    batches: Iterator[Tensor] | list[Tensor],
    *,
    precision: Precision,
    tell: Callable[[int], None],
) -> Tensor:
    """Outputs of `boundary` for all inputs, in memory, with their type and memory order."""
    module = classifier.backbone.body.get_submodule(boundary)
    outputs: list[Tensor] = []

    def stop(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append(output.cpu())
        raise _Reached

    with _removed(module.register_forward_hook(stop)):
        for inputs in batches:
            with suppress(_Reached), autocast(str(inputs.device), precision):
                classifier.backbone(inputs)
            tell(len(inputs))
    return torch.cat(outputs)


@contextmanager
def _replay(classifier: Classifier, boundary: str, shapes: Shapes) -> Iterator[None]:
    height, width = classifier.preprocess.size
    given: list[Tensor] = []

    def take(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        given[:] = inputs
        return (inputs[0].new_zeros(1, dtype=torch.float32).expand(len(inputs[0]), 3, height, width),)

    def answer(path: str, *_inputs: object, **_more: object) -> Tensor:
        return given[0] if path == boundary else given[0].new_zeros((len(given[0]), *shapes[path]))

    modules = {path: classifier.backbone.body.get_submodule(path) for path in shapes}
    hook = classifier.register_forward_pre_hook(take)
    try:
        for path, module in modules.items():
            module.forward = partial(answer, path)
        yield
    finally:
        hook.remove()
        for module in modules.values():
            del module.forward


@contextmanager
def _removed(hook: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()


def _shapes_up_to(called: dict[str, Tensor], boundary: str) -> Shapes:
    paths = list(called)
    return {path: tuple(called[path].shape[1:]) for path in paths[: paths.index(boundary) + 1]}


def _num_bytes(output: Tensor) -> int:
    return output[0].numel() * output.element_size()


def _room_bytes() -> int:
    memory = total_memory_bytes()
    return MAX_KEPT_BYTES if memory is None else min(MAX_KEPT_BYTES, memory // 8)


def _blocks(num: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + BATCH, num)) for first in range(0, num, BATCH))
