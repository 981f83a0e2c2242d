"""Check whether a model's mean and standard deviation are those of its training, from its first batch norm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbench.backbones.core.base import Backbone
from backbench.runtime import make_torch_rng

NUM_IMAGES = 8
MAX_DISTANCE = 0.5
"""A median channel that spreads 1.65 times as much, or as little, as in training is a reason to doubt."""
MIN_GAIN = 0.6
"""Another scale must reduce the distance below this share; otherwise the images may just differ from photographs.
"""
PHOTOGRAPHS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's photographs, of red, green and blue in 0..1."""
USUAL: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mean 0.5 and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's (mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225)": PHOTOGRAPHS,
    "mean 0 and std 1 (pixels in 0..1)": ((0.0,) * 3, (1.0,) * 3),
    "mean 0 and std 1/255 (pixels in 0..255)": ((0.0,) * 3, (1 / 255,) * 3),
}
_SHARED = 0.93
"""Correlation of the colour planes with their common brightness, roughly that of photographs."""


class _Reached(Exception):
    """Thrown once the first batch norm has its input: the rest of the network need not run."""


def doubt_input(backbone: Backbone) -> str | None:
    """Why the model's mean and standard deviation look wrong; None if its weights do not contradict them.

    The first batch norm holds the spread of each channel in training. Random images with the spectrum, mean and
    standard deviation of photographs go through the layers before it, with the model's scaling and with other
    common scalings. Networks whose first norm is not a batch norm, or is folded, give None.

    Cost: the layers before the first batch norm, on eight images, at most five times.
    """
    pixels = _draw_photographs(backbone.preprocess.size)
    stated = _distance(backbone, pixels, backbone.preprocess.mean, backbone.preprocess.std)
    if stated is None or stated <= MAX_DISTANCE:
        return None
    found = {name: _distance(backbone, pixels, mean, std) for name, (mean, std) in USUAL.items()}
    best, distance = min(
        ((name, value) for name, value in found.items() if value is not None), key=lambda entry: entry[1]
    )
    if distance > MIN_GAIN * stated:
        return None
    return (
        f"the weights of {backbone.facts.name} seem to be trained on a different pixel scale than its "
        f"[preprocess]: {best} fits their first batch norm better. Check mean and std"
    )


def _distance(backbone: Backbone, pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> float | None:
    """The median over channels of |log(spread now / spread in training)|; None if there is no such norm."""
    caught: list[tuple[_BatchNorm, Tensor]] = []

    def stop(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        caught.append((norm, inputs[0]))
        raise _Reached

    hooks = [
        module.register_forward_pre_hook(stop)
        for module in backbone.body.modules()
        if isinstance(module, _BatchNorm)
    ]
    scaled = (pixels - _planes(mean)) / _planes(std)
    try:
        with torch.inference_mode():
            backbone.body(scaled.to(next(backbone.body.parameters(), pixels).device))
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    if not caught:
        return None
    norm, values = caught[0]
    if norm.running_mean is None or norm.running_var is None or _is_untouched(norm) or values.ndim != 4:
        return None
    now = values.float().var((0, 2, 3))
    before = norm.running_var.float()
    used = (now > 0) & (before > 0)
    return float((0.5 * (now[used] / before[used]).log()).abs().median()) if bool(used.any()) else None


def _is_untouched(norm: _BatchNorm) -> bool:
    """Whether the norm was never trained or is folded into the layer before it."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is None or variance is None or (not mean.any() and bool((variance == 1).all()))


def _planes(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)


def _draw_photographs(size: tuple[int, int]) -> Tensor:
    """(NUM_IMAGES, 3, height, width) in 0..1: noise whose amplitude falls with frequency, as in photographs.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical
    cells".
    """
    height, width = size
    noise = torch.randn(NUM_IMAGES, 4, height, width, generator=make_torch_rng(0, "input-check"))
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (rows**2 + columns**2).sqrt()
    amplitude = torch.where(frequency > 0, 1 / frequency.clamp_min(1 / max(size)), 0.0)
    planes = torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=size)
    planes = planes / planes.std((2, 3), keepdim=True).clamp_min(1e-6)
    colours = _SHARED * planes[:, :1] + (1 - _SHARED**2) ** 0.5 * planes[:, 1:]
    mean, std = PHOTOGRAPHS
    return (colours * _planes(std) + _planes(mean)).clamp(0, 1)
