"""Grad-CAM: positions of the last feature maps that increase the score of a class.

Source: Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based localization".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from backbench.backbones.core.cut import is_channels_last
from backbench.backbones.core.stages import stages_of
from backbench.classifier.classifier import Classifier
from backbench.errors import ModelError
from backbench.explain.attention import stretch
from backbench.explain.tokens import in_eval_mode, token_grid


@dataclass(frozen=True)
class Cam:
    """Grad-CAM of a batch: `values` (b, rows, columns) float32 in 0..1, made at the layer of that name."""

    values: Tensor
    layer: str


def explain_by_cam(classifier: Classifier, batch: Tensor, targets: Tensor, *, layer: str | None = None) -> Cam:
    """Evidence for a class, from 0 (none) to 1 (maximum in this image), and the layer used.

    Without `layer`, uses the last stage (see `stages_of`) whose maps have several positions that all affect the
    class's score: the last maps of a convolutional network, or the last block but one of a transformer with a
    class token (after its last block, the patches no longer matter).

    Args:
        batch: (b, 3, height, width) float, normalised.
        targets: (b,) int64, a class for each image.
        layer: path of a module of the body.

    Raises:
        ModelError: no layer of the network has positions, or that one has none.
    Cost: one forward and one backward pass; memory as in training.
    """
    body = classifier.backbone.body
    names = _stage_modules(body) if layer is None else [layer]
    cam = _try_layers(classifier, batch, targets, names)
    if cam is None and layer is None:
        cam = _try_layers(classifier, batch, targets, _innermost_modules(body))
    if cam is None:
        where = "no layer" if layer is None else f"the layer '{layer}' is not one that"
        raise ModelError(
            f"{classifier.backbone.facts.name}: {where} has separate positions, so Grad-CAM has nothing to show."
        )
    return cam


def _stage_modules(body: nn.Module) -> list[str]:
    modules = dict(body.named_modules())
    if any(isinstance(module, GraphModule) for module in modules.values()):
        return _innermost_modules(body)  # a traced network runs the modules of its stages separately
    return [name for stage in stages_of(body) for name in stage.prefixes if name in modules]


def _innermost_modules(body: nn.Module) -> list[str]:
    return [name for name, module in body.named_modules() if name and not list(module.children())]


def _try_layers(classifier: Classifier, batch: Tensor, targets: Tensor, names: list[str]) -> Cam | None:
    """Grad-CAM at the last executed layer whose maps affect the score; None if no layer has maps."""
    body = classifier.backbone.body
    images = batch.detach().clone().requires_grad_()  # gradients pass through frozen weights too
    seen: list[tuple[str, Tensor]] = []
    hooks = [body.get_submodule(name).register_forward_hook(_keep(name, seen)) for name in names]
    try:
        with in_eval_mode(classifier), torch.enable_grad():
            logits = classifier(images)
    finally:
        for hook in hooks:
            hook.remove()
    size = (batch.shape[2], batch.shape[3])
    whole = [(name, values) for name, values in seen if len(values) == len(batch)]  # others: windows of images
    found = [(name, values) for name, values in whole if to_maps(body, values, size) is not None]
    if not found:
        return None
    score = logits.gather(1, targets.to(logits.device)[:, None]).sum()  # images are independent in eval mode
    try:
        gradients = torch.autograd.grad(score, [values for _, values in found], allow_unused=True)
    except RuntimeError as error:  # integer weights, as in a quantised network
        name = classifier.backbone.facts.name
        raise ModelError(f"{name} can't be differentiated, which Grad-CAM needs: {str(error)[:200]}") from error
    pairs = [(name, values, gradient) for (name, values), gradient in zip(found, gradients, strict=True)]
    for name, values, gradient in reversed(pairs):
        maps = to_maps(body, values, size)
        slopes = None if gradient is None else to_maps(body, gradient, size)
        if maps is not None and slopes is not None and bool(slopes.any()):
            return Cam(_weigh_maps(maps.detach(), slopes), name)
    name, values, _ = pairs[-1]  # nothing changes the score, for example if all neighbours agree
    maps = to_maps(body, values, size)
    assert maps is not None
    return Cam(torch.zeros_like(maps[:, 0].detach(), dtype=torch.float32), name)


def _keep(name: str, seen: list[tuple[str, Tensor]]) -> Callable[[nn.Module, object, object], None]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        for values in output if isinstance(output, tuple | list) else [output]:
            if isinstance(values, Tensor) and values.requires_grad:
                seen.append((name, values))

    return hook


def _weigh_maps(maps: Tensor, slopes: Tensor) -> Tensor:
    """Maps and gradients, (b, channels, rows, columns) each -> (b, rows, columns) in 0..1."""
    weights = slopes.mean((2, 3), keepdim=True)
    return stretch((weights * maps).sum(1).relu().float())


def to_maps(body: nn.Module, values: Tensor, size: tuple[int, int]) -> Tensor | None:
    """A layer's output as (b, channels, rows, columns); None if it has no separate positions.

    Args:
        values: (b, channels, rows, columns), (b, rows, columns, channels), or (b, tokens, channels), of which
            tokens that are not patches are dropped.
        size: of the image, (height, width).
    """
    if values.ndim == 3:
        grid = token_grid(body, values.shape[1], size)
        if grid is None or grid.height * grid.width < 2:
            return None
        return values[:, grid.num_prefix :].unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
    if values.ndim != 4:
        return None
    maps = values.permute(0, 3, 1, 2) if _has_channels_last(body, values, size) else values
    return maps if maps.shape[2] * maps.shape[3] > 1 else None


def _has_channels_last(body: nn.Module, values: Tensor, size: tuple[int, int]) -> bool:
    def is_like_image(rows: int, columns: int) -> bool:
        return abs(rows * size[1] - columns * size[0]) < max(size)

    if is_channels_last(body):
        return True
    return not is_like_image(*values.shape[2:4]) and is_like_image(*values.shape[1:3])
