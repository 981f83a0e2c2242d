"""A faster inference copy of a backbone with the same features; the original is never changed.

Steps and measured speed-ups (images per CPU-second of one thread at 224 pixels in batches of 8,
against the plain network in fp32; Intel Xeon with AMX, torch 2.15, with other work on the machine's
cores, which slows memory-bound steps most; ratios on idle cores in brackets; `benchmarks/results/features.md`):

- Batch norm folded into the convolution before it, and channels last for convolutional networks, in fp32:
  resnet18 1.3x (1.4x), resnet50 1.2x (1.2x), efficientnet_b0 1.5x (1.9x); transformers gain nothing.
- Weights in bf16 throughout, features back in fp32: resnet18 4.0x (5.3x), resnet50 3.0x (4.3x),
  efficientnet_b0 2.7x (2.7x), vit_tiny 2.0x (3.1x); autocast would convert the weights at each call.
- Unfused attention on the CPU in bf16: 1.45x on AMD, no loss on Intel. On GPUs the fused form stays.
- Linear layers in fp32 through oneDNN on AMD, where MKL uses a path of half the speed: 1.3x (ViT-tiny) to
  2.0x (ViT-B). On Intel it would gain only 4 %, so it is not used there.

Not used: `torch.compile`, which needs a compiler and 10 to 100 s; packed convolutions with fused activations
through private operators, another 1.05x to 1.15x; int8, which changes the features.

Each step is tried on two random images and left out if the features change.
"""

from __future__ import annotations

import copy
from collections import Counter
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbench.backbones.core.base import Backbone
from backbench.config import Precision
from backbench.inference.int8 import is_int8
from backbench.runtime import describe_environment

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MAX_CHANGE = 1e-3  # maximum change of a feature, as a fraction of the largest, by mathematically exact steps
_MIN_COSINE = 0.95  # minimum cosine of fp32 and bf16 or fp16 features of a random image
_FEW_CONVOLUTIONS = 4  # transformers have one or two, and gain nothing from channels last


class Inference(nn.Module):
    """(batch, 3, height, width) float32 on its device -> (batch, dim) float32; no gradient, eval mode."""

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        *,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.autocast = autocast
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        batch = batch.to(self.dtype).contiguous(memory_format=self.memory_format)
        with torch.autocast(batch.device.type, self.autocast, enabled=self.autocast is not None):
            return self.network(batch).float()


def accelerate(backbone: Backbone, *, device: str = "cpu", precision: Precision = "fp32") -> Inference:
    """The copy of `backbone` for inference on `device`; the last copy is kept while the weights do not change.

    Args:
        backbone: not changed; any device and mode.
        device: as `runtime.decide_device` gives it.
        precision: "fp32": features within 1e-4 of the plain ones; "bf16", "fp16": weights and activations in it.
            A network that does not work completely in it runs under autocast.

    Cost: a copy of the weights for as long as the backbone lives, and one to three forward passes of two images.
    """
    tensors = (*backbone.parameters(), *backbone.buffers())
    state = (device, precision, tuple((tensor.data_ptr(), tensor._version) for tensor in tensors))
    kept = _KEPT.get(backbone)
    if kept is None or kept[0] != state:
        _KEPT.pop(backbone, None)  # keep only one copy
        kept = _KEPT[backbone] = state, _make_copy(backbone, device, precision)
    return kept[1]


_KEPT: WeakKeyDictionary[Backbone, tuple[object, Inference]] = WeakKeyDictionary()


def _make_copy(backbone: Backbone, device: str, precision: Precision) -> Inference:
    plain = copy.deepcopy(backbone).to("cpu", torch.float32).requires_grad_(False).eval()
    batch = torch.randn(2, 3, *backbone.preprocess.size, generator=torch.Generator().manual_seed(0))
    if is_int8(plain):  # no step below applies: int8 layers need float32 between them
        return Inference(plain.to(device), torch.float32).eval()
    expected, pairs = _run_watched(plain, batch)
    network = _try_folded(plain, pairs, batch, expected)
    is_convolutional = _num_convolutions(network) >= _FEW_CONVOLUTIONS
    if is_convolutional:
        network = network.to(memory_format=torch.channels_last)
    half = HALF.get(precision)
    if half is not None:
        pure = _try_half(network, half, batch, expected, device=device, channels_last=is_convolutional)
        if pure is not None:
            return pure
    elif device == "cpu" and "AMD" in describe_environment("cpu")["processor"]:
        network = _try_onednn_linears(network, batch, expected)
    return Inference(network.to(device), torch.float32, autocast=half, channels_last=is_convolutional).eval()


def _num_convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


def _gives(network: nn.Module, batch: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the network gives the expected features; False if it fails."""
    try:
        with torch.inference_mode():
            values = network(batch)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return False
    if values.shape != expected.shape:
        return False
    change = (values - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return bool(change < _MAX_CHANGE)  # False for NaN too


def _try_folded(
    network: nn.Module, pairs: list[tuple[str, str]], batch: torch.Tensor, expected: torch.Tensor
) -> nn.Module:
    """The network with those batch norms folded, in place; unchanged if that changes the features."""
    replaced = _fold_batch_norms(network, pairs)
    if replaced and not _gives(network, batch, expected):
        for name, module in replaced:
            network.set_submodule(name, module)
    return network


def _fold_batch_norms(network: nn.Module, pairs: list[tuple[str, str]]) -> list[tuple[str, nn.Module]]:
    """Fold each (convolution, batch norm); returns the replaced modules by name."""
    replaced: list[tuple[str, nn.Module]] = []
    for conv_name, norm_name in pairs:
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        replaced += [(conv_name, conv), (norm_name, norm)]
        network.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
        network.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    return replaced


def _run_watched(network: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """The features, and (convolution, batch norm) by name if the norm received that output.

    Watching one forward pass finds the pairs in any network. The caller must check by the features that the
    convolution's output has no other use.
    """
    calls: Counter[str] = Counter()
    made: dict[int, tuple[str, torch.Tensor]] = {}  # keep the tensor, so that its id is not reused
    taken: list[tuple[str, str]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            calls[name] += 1
            if _is_norm(module):
                if id(inputs[0]) in made:
                    taken.append((made[id(inputs[0])][0], name))
            else:
                made[id(output)] = (name, output)

        return module.register_forward_hook(note)

    watched = [
        watch(name, part) for name, part in network.named_modules() if _is_norm(part) or _is_convolution(part)
    ]
    try:
        with torch.inference_mode():
            features = network(batch)
    finally:
        for handle in watched:
            handle.remove()
    readers = Counter(conv for conv, _ in taken)
    # Shared weights can't be folded.
    return features, [(conv, norm) for conv, norm in taken if calls[conv] == calls[norm] == readers[conv] == 1]


def _is_convolution(module: nn.Module) -> bool:
    # By exact name: other subclasses (standardised weights, ...) also change the weights.
    return isinstance(module, nn.Conv2d) and type(module).__name__ in ("Conv2d", "Conv2dSame")


def _is_norm(module: nn.Module) -> bool:
    """A batch norm that applies stored statistics, then at most the activation `act` (timm's BatchNormAct2d)."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and type(module).__name__ in ("BatchNorm2d", "BatchNormAct2d")
        and module.running_mean is not None
        and not module.training
    )


def _try_half(
    network: nn.Module,
    dtype: torch.dtype,
    batch: torch.Tensor,
    expected: torch.Tensor,
    *,
    device: str,
    channels_last: bool,
) -> Inference | None:
    """The network in bf16 or fp16 throughout, or None if it fails or gives wrong features."""
    pure = copy.deepcopy(network).to(device, dtype)
    if device == "cpu":
        for module in pure.modules():
            if isinstance(getattr(module, "fused_attn", None), bool):  # timm's name
                module.fused_attn = False  # type: ignore[assignment]
    inference = Inference(pure, dtype, channels_last=channels_last).eval()
    try:
        values = inference(batch.to(device)).cpu()
    except (RuntimeError, TypeError, ValueError, NotImplementedError):  # the network makes tensors of another type
        return None
    cosine = F.cosine_similarity(values, expected, dim=1).min()
    return inference if cosine >= _MIN_COSINE else None  # None for NaN too


class _OneDNNLinear(nn.Module):
    """A linear layer through the operator torch's own compiler uses; private API, so always checked first."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def _try_onednn_linears(network: nn.Module, batch: torch.Tensor, expected: torch.Tensor) -> nn.Module:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return network
    changed = copy.deepcopy(network)
    for name, module in list(changed.named_modules()):
        if type(module) is nn.Linear:
            changed.set_submodule(name, _OneDNNLinear(module))
    return changed if _gives(changed, batch, expected) else network
