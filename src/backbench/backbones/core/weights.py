"""Load weights into networks strictly; compute digests of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import nn

from backbench.errors import ModelError
from backbench.wording import list_some

NUM_NAMED = 3


def put_state(
    body: nn.Module, state: Mapping[str, torch.Tensor], *, where: str, unused: Collection[str] = ()
) -> None:
    """Copy `state` into `body`, in place. Every tensor of the body must exist, fit and be finite.

    Args:
        body: the final network.
        state: named tensors of a file.
        where: name of the file for messages.
        unused: names in the file that the body lacks on purpose: the head, layers after a truncation.

    Raises:
        ModelError: different shapes, missing or unknown tensors, values that are not finite,
            or integers instead of floats.
    """
    own = body.state_dict()
    check_state(own, state, where=where, unused=unused)
    kept = {name: state.get(name, own[name]) for name in own}
    _refuse_kinds(own, kept, where)
    bad = [name for name, tensor in kept.items() if own[name].is_floating_point() and not _is_usable(tensor)]
    if bad:
        raise ModelError(f"{where} is damaged: {', '.join(bad[:NUM_NAMED])} hold values that are not finite.")
    body.load_state_dict(kept, strict=True)


def _refuse_kinds(own: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise ModelError for tensors without values, and for integers instead of floats."""
    hollow = [name for name, tensor in kept.items() if tensor.is_meta and not own[name].is_meta]
    if hollow:
        raise ModelError(
            f"{where} holds names and shapes but no values, for example {hollow[0]} (tensors on torch's meta "
            "device). Save it again from a network that was loaded in full."
        )
    whole = [name for name, tensor in kept.items() if own[name].is_floating_point() > tensor.is_floating_point()]
    if whole:
        raise ModelError(
            f"{where} is quantized: {', '.join(whole[:NUM_NAMED])} {'holds' if len(whole) == 1 else 'hold'} whole "
            "numbers. Give the original weights, or save the dequantized network."
        )


def check_state(
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    *,
    where: str,
    unused: Collection[str] = (),
    advice: str = "Check the architecture and its options.",
) -> None:
    """Raise ModelError unless names and shapes of `state` match `own`, which may be on any device.

    Args:
        where, unused: see `put_state`.
        advice: the cause, if known, or the remedy.
    """
    complaints = _differing_shapes(own, state)
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # not used in evaluation
    missing = [name for name in own if name not in state and name not in counters]
    unexpected = [name for name in state if name not in own and name not in unused]
    complaints += [f"missing: {list_some(missing, NUM_NAMED)}"] if missing else []
    complaints += [f"unexpected: {list_some(unexpected, NUM_NAMED)}"] if unexpected else []
    if complaints:
        raise ModelError(f"{where} does not fit the network: {'; '.join(complaints)}. {advice}")


def _differing_shapes(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    differing = [name for name in own if name in state and own[name].shape != state[name].shape]
    told = [
        f"{name} is {_shape(state[name])} in the file and {_shape(own[name])} in the network"
        for name in differing[:NUM_NAMED]
    ]
    if len(differing) > NUM_NAMED:
        told.append(f"{len(differing) - NUM_NAMED} more shapes differ")
    return told


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a single value"


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite numbers.

    A sum takes one pass and is not finite if a value is not. Only then are values checked one by one, because
    large values can add up to infinity too.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _is_usable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and (tensor.is_meta or is_finite(tensor))


def plain_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """`state_dict`, with composite tensors (int8 values and scales of torchao) split into their components.

    Components are named `NAME.PART`. They are not copies: writing to them changes the module.
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        state.update(_parts_of(name, tensor))
    return state


def _parts_of(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if not hasattr(tensor, "__tensor_flatten__"):
        return {name: tensor.detach()}
    parts: dict[str, torch.Tensor] = {}
    for part in tensor.__tensor_flatten__()[0]:
        parts.update(_parts_of(f"{name}.{part}", getattr(tensor, part)))
    return parts


def digest_weights(module: nn.Module, only: Collection[str] | None = None) -> str:
    """SHA-256, in hex, over names, dtypes, shapes and bytes of all parameters and buffers, in order of name.

    Args:
        only: names to count; None: all.

    The same on every device. Used as the identity of weights, and to assert that frozen weights did not change.
    Cost: one pass over the weights, about 1 s per GB.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if only is not None and name not in only:
            continue
        for part, values in sorted(_parts_of(name, tensor).items()):
            digest.update(f"{part} {values.dtype} {tuple(values.shape)}\n".encode())
            digest.update(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are in memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in plain_state(module).values())
