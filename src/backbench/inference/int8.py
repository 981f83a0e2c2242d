"""Convolutions in int8: storage, computation and quantisation-aware training.

Weights are int8 for each output channel, symmetric. Inputs also have 8 bits if their range was measured
(`input_scale`): one scale and zero point for the whole tensor; values outside the range saturate. Outputs are
float32, so that later batch norms and activations do not matter: an int8 output would need the range before the
activation. Torch's FX does this for MobileNetV2, whose ReLU6 it does not fuse: its mean cosine with float features
is 0.57 (7 bits, default) or 0.74 (8 bits); here it is 0.987.

`Int8Conv2d` computes with whole numbers stored as float32. This runs anywhere and equals int8 kernels, but is
slower than float32: it saves memory, not time. `inference.quantize` puts it into networks.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference"; Krishnamoorthi 2018.
"""

from __future__ import annotations

import math
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_WEIGHT = 127
MAX_INPUT = 255
_MIN_SCALE = 1e-12  # of a channel of zeros, whose weights are 0 whatever the scale


class _Convolution(nn.Module):
    """A two-dimensional convolution without its weights."""

    bias: Tensor | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __init__(self, like: nn.Conv2d | _Convolution) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation = like.kernel_size, like.stride, like.dilation
        self.groups = like.groups
        self.pads_by_size: bool = (
            like.pads_by_size if isinstance(like, _Convolution) else type(like).__name__ == "Conv2dSame"
        )  # timm's: as TensorFlow pads
        self.padding: tuple[int, ...] | str = (0, 0) if self.pads_by_size else like.padding

    def convolve(self, batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(batch, channels, height, width) and float weights -> maps, float32."""
        return F.conv2d(self.pad(batch), weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def pad(self, batch: Tensor) -> Tensor:
        """Add the padding that depends on the size of the maps, if any."""
        if not self.pads_by_size:
            return batch
        pads: list[int] = []
        for axis in (1, 0):  # F.pad counts from the last
            side, stride = batch.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((math.ceil(side / stride) - 1) * stride + reach - side, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(batch, pads)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, groups={self.groups}"


class Int8Conv2d(_Convolution):
    """A convolution that keeps int8 weights.

    Args:
        conv: the float convolution, or a `LearningConv2d`; its weights are rounded.
        input_range: (smallest, largest) of inputs, for 8-bit inputs; None: float32 inputs.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(self, conv: nn.Conv2d | LearningConv2d, input_range: tuple[float, float] | None) -> None:
        super().__init__(conv)
        values = conv.weight.detach().float()
        scale = weight_scale(values)
        whole = (values / scale[:, None, None, None]).round().clamp(-MAX_WEIGHT, MAX_WEIGHT)
        self.register_buffer("weight", whole.to(torch.int8))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().float().clone())
        step, zero = (None, None) if input_range is None else input_steps(*input_range)
        self.register_buffer("input_scale", step)
        self.register_buffer("input_zero_point", zero)

    def forward(self, batch: Tensor) -> Tensor:
        if self.input_scale is None or self.input_zero_point is None:
            return self.convolve(batch, self.weight.float() * self.weight_scale[:, None, None, None], self.bias)
        whole = round_inputs(batch, self.input_scale, self.input_zero_point) - self.input_zero_point
        # Sums of whole numbers are exact in any order: results do not depend on the batch or the processor.
        sums = self.convolve(whole, self.weight.float(), None)
        maps = sums * (self.weight_scale * self.input_scale)[:, None, None]
        return maps if self.bias is None else maps + self.bias[:, None, None]


class LearningConv2d(_Convolution):
    """A convolution with float weights that computes with their int8 values.

    Gradients ignore the rounding, and are 0 where a value saturates.
    Source: Bengio et al. 2013 (straight-through estimator).
    """

    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, conv: nn.Conv2d, input_range: tuple[float, float]) -> None:
        super().__init__(conv)
        self.weight = nn.Parameter(conv.weight.detach().float().clone())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().float().clone())
        self.range = input_range
        step, zero = input_steps(*input_range)
        self.register_buffer("input_scale", step)
        self.register_buffer("input_zero_point", zero)

    def forward(self, batch: Tensor) -> Tensor:
        batch = torch.fake_quantize_per_tensor_affine(
            batch.float(), self.input_scale, self.input_zero_point, 0, MAX_INPUT
        )
        scale = weight_scale(self.weight.detach())
        zeros = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
        weight = torch.fake_quantize_per_channel_affine(self.weight, scale, zeros, 0, -MAX_WEIGHT, MAX_WEIGHT)
        return self.convolve(batch, weight, self.bias)


def weight_scale(weight: Tensor) -> Tensor:
    """(out,) float32: the size of an int8 step in each output channel, so that its largest weight is 127."""
    return (weight.abs().amax(dim=tuple(range(1, weight.dim()))) / MAX_WEIGHT).clamp_min(_MIN_SCALE)


def input_steps(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Scale () float32 and zero point () int32 of 8 bits for low..high; 0, the padding value, stays exactly 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / MAX_INPUT, _MIN_SCALE)
    return torch.tensor(scale), torch.tensor(round(-low / scale), dtype=torch.int32)


def round_inputs(batch: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """float32 values -> whole numbers in 0..255, as float32; other values saturate."""
    return (batch.float() * (1.0 / scale)).round_().add_(zero_point).clamp_(0, MAX_INPUT)


def is_plain_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a plain convolution, not a subclass that, for example, standardises its weights."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).__name__ in ("Conv2d", "Conv2dSame")
        and module.padding_mode == "zeros"
    )


def is_int8(network: nn.Module) -> bool:
    """Whether some of the weights are int8, as `Int8Conv2d` or as torchao stores them."""
    return any(isinstance(module, Int8Conv2d) for module in network.modules()) or any(
        hasattr(parameter, "__tensor_flatten__") for parameter in network.parameters()
    )
