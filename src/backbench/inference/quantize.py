"""Make a frozen int8 copy of a backbone with float32 features: small, for use with a float head.

One interface for two kinds of networks, by the place of most weights:

- linear layers (transformers, MLPs, ConvNeXt): torchao's `quantize_`, weights int8 for each output
  ('weight-only'); with 'dynamic' activations too, int8 for each token. Convolutions stay float32.
- convolutions: `inference.int8`, weights int8 for each output channel; with 'static' also inputs, by the
  range of training images. Other layers stay float32. Torch's own static int8 (FX) is not used: it will be
  removed, can't trace every network, and fails for MobileNetV2 (see `inference.int8`).

The gain is size: about 0.28 of float32. See `benchmarks/results/quantized.md`.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.build import Build, Scheme
from backbench.backbones.core.rebuild import rebuild
from backbench.backbones.core.weights import digest_weights, plain_state, weights_bytes
from backbench.errors import ConfigError, MissingExtra, ModelError
from backbench.inference.int8 import Int8Conv2d, LearningConv2d, is_plain_convolution

Kind = Literal["linear layers", "convolutions"]
Ranges = Mapping[str, tuple[float, float]]
SCHEMES: dict[Kind, tuple[Scheme, ...]] = {
    "linear layers": ("weight-only", "dynamic"),
    "convolutions": ("static", "weight-only"),
}
"""Int8 schemes of each kind of network, in order of preference."""
_UNMEASURED = (0.0, 1.0)


def decide_kind(body: nn.Module, name: str) -> Kind:
    """The kind of layer with most of the weights that int8 supports; ModelError if there are none.

    Raises:
        MissingExtra: they are in linear layers, but torchao is not installed.
    """
    sizes: dict[Kind, int] = {"linear layers": 0, "convolutions": 0}
    for module in body.modules():
        if isinstance(module, nn.Linear):
            sizes["linear layers"] += module.weight.numel()
        elif is_plain_convolution(module):
            sizes["convolutions"] += module.weight.numel()
    if not any(sizes.values()):
        raise ModelError(f"{name} has no linear layer and no plain convolution to convert to int8.")
    if sizes["convolutions"] >= sizes["linear layers"]:
        return "convolutions"
    if find_spec("torchao") is None:
        raise MissingExtra("torchao", "quant", f"int8 for {name}, a network of linear layers,")
    return "linear layers"


def decide_schemes(kind: Kind, asked: str, name: str) -> tuple[Scheme, ...]:
    """The schemes to try, in this order; ConfigError for one that this kind of network lacks."""
    if asked == "auto":
        return SCHEMES[kind]
    chosen = tuple(scheme for scheme in SCHEMES[kind] if scheme == asked)
    if not chosen:
        raise ConfigError(
            f"options.scheme '{asked}' does not fit {name}, a network of {kind}. Choose "
            f"{', '.join(SCHEMES[kind])} or auto."
        )
    return chosen


def quantize_backbone(backbone: Backbone, scheme: Scheme, ranges: Ranges) -> Backbone:
    """An int8 copy of a backbone in eval mode, on the CPU, without gradients; the original is unchanged.

    Args:
        scheme: one of `SCHEMES` for its kind.
        ranges: from `measure_ranges`; used only by 'static'.

    Its facts hold the digest and size of the int8 weights; its build describes how to rebuild it.
    Raises:
        MissingExtra, ModelError: see `decide_kind`. Cost: a copy of the weights.
    """
    body = copy.deepcopy(backbone.body).to("cpu", torch.float32).requires_grad_(False).eval()
    return describe_int8(backbone, _quantize_body(body, scheme, ranges, backbone.facts.name), scheme)


def describe_int8(backbone: Backbone, body: nn.Module, scheme: Scheme) -> Backbone:
    """The int8 form `body` of a backbone, with facts and build of its own."""
    facts = backbone.facts.model_copy(
        update={"weights_digest": digest_weights(body), "weights_bytes": weights_bytes(body)}
    )
    build = None if backbone.build is None else backbone.build.model_copy(update={"scheme": scheme})
    return Backbone(body.requires_grad_(False), facts, build)


def measure_ranges(backbone: Backbone, batches: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
    """(smallest, largest) input value of each convolution, by its name.

    Args:
        batches: normalised images, (b, 3, height, width) float32 on the CPU; some of the training split.

    Raises:
        ModelError: values that are not finite. Cost: one forward pass of the images.
    """
    body = backbone.body
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            least, most = torch.aminmax(inputs[0])
            ranges[name] = (min(low, float(least)), max(high, float(most)))
            if not math.isfinite(float(least) + float(most)):
                raise ModelError(
                    f"{backbone.facts.name}: values inside the network are not finite (NaN or infinite, before "
                    f"'{name}'), so int8 has no range for them. Check the weights and the preprocessing."
                )

        return body.get_submodule(name).register_forward_pre_hook(note)

    handles = [watch(name) for name, module in body.named_modules() if is_plain_convolution(module)]
    device = next((tensor.device for tensor in body.parameters()), torch.device("cpu"))
    try:
        with torch.inference_mode():
            for batch in batches:
                body(batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return ranges


def make_learning(body: nn.Module, ranges: Ranges) -> list[str]:
    """Replace each convolution with a range by a `LearningConv2d`, in place; returns their parameter names."""
    learning: list[str] = []
    for name, module in list(body.named_modules()):
        if is_plain_convolution(module) and name in ranges:
            made = LearningConv2d(module, ranges[name])
            body.set_submodule(name, made)
            learning += [f"{name}.{parameter}" for parameter, _ in made.named_parameters()]
    return learning


def finish_learning(body: nn.Module) -> nn.Module:
    """Convert a body with `LearningConv2d` to its 'static' int8 form, in place and on the CPU."""
    body.to("cpu").eval().requires_grad_(False)
    for name, module in list(body.named_modules()):
        if isinstance(module, LearningConv2d):
            body.set_submodule(name, Int8Conv2d(module, module.range))
        elif is_plain_convolution(module):  # no image reached this module
            body.set_submodule(name, Int8Conv2d(module, _UNMEASURED))
    return body


def rebuild_int8(build: Build, state: Mapping[str, Tensor], *, where: str) -> nn.Module:
    """An int8 body from its description and its tensors, as `backbones.core.rebuild` does for floats.

    Args:
        state: named as `plain_state` names them.

    Raises:
        MissingExtra: torchao is needed and missing. ModelError: tensors that do not fit, or see `rebuild`.
    """
    assert build.scheme is not None  # checked by the caller
    plain = build.model_copy(update={"scheme": None})
    body = rebuild(plain, _as_float(state), where=where)
    body = _quantize_body(body, build.scheme, {}, build.architecture)
    own = plain_state(body)
    for name, tensor in own.items():
        given = state.get(name)
        if given is None and not name.endswith("num_batches_tracked"):
            raise ModelError(f"{where} does not fit the network: missing: {name}.")
        if given is not None and (given.dtype, given.shape) != (tensor.dtype, tensor.shape):
            raise ModelError(
                f"{where} does not fit the network: {name} is {given.dtype} {tuple(given.shape)} in the file and "
                f"{tensor.dtype} {tuple(tensor.shape)} in the network."
            )
        if given is not None and given.is_floating_point() and not torch.isfinite(given).all():
            raise ModelError(f"{where} is damaged: {name} holds values that are not finite.")
    strange = [name for name in state if name not in own]
    if strange:
        raise ModelError(f"{where} does not fit the network: unexpected: {', '.join(strange[:3])}.")
    with torch.no_grad():
        for name in own.keys() & state.keys():
            own[name].copy_(state[name])
    return body


_EXTRA = (".weight_scale", ".input_scale", ".input_zero_point")
_VALUES = ".weight.qdata"


def _as_float(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an int8 body -> those of the float body, with right names and shapes but wrong values."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(_VALUES):
            plain[name.removesuffix(".qdata")] = tensor.float()
        elif name.endswith(".weight") and tensor.dtype == torch.int8:
            plain[name] = tensor.float()
        elif not name.endswith(_EXTRA) and ".weight." not in name:
            plain[name] = tensor
    return plain


def _quantize_body(body: nn.Module, scheme: Scheme, ranges: Ranges, name: str) -> nn.Module:
    """In place."""
    if decide_kind(body, name) == "linear layers":
        return _quantize_linears(body, scheme)
    for path, module in list(body.named_modules()):
        if is_plain_convolution(module):
            input_range = ranges.get(path, _UNMEASURED) if scheme == "static" else None
            body.set_submodule(path, Int8Conv2d(module, input_range))
    return body


def _quantize_linears(body: nn.Module, scheme: Scheme) -> nn.Module:
    with _quiet():
        try:
            from torchao import quantization
        except (ImportError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"torchao is installed, but does not work with torch {torch.__version__}: {error}. "
                "Upgrade torchao."
            ) from error
        # torchao would change settings of torch's compiler for the whole process.
        config = (
            quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
            if scheme == "dynamic"
            else quantization.Int8WeightOnlyConfig(set_inductor_config=False)
        )
        quantization.quantize_(body, config)
    return body.requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence notices about torchao's use of deprecated torch functions."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torchao")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
