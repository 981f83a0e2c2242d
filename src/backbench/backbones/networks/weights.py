"""Reads weights files and puts them into networks, strictly; digests what is in a network."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import nn

from backbench.errors import ModelError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
NUM_NAMED = 3


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a weights file, floating-point ones as float32, on the CPU.

    `.safetensors` is read as such, everything else by torch's restricted loader, which builds tensors and plain
    containers only. A dictionary under 'state_dict' or 'model' is unwrapped, the 'module.' prefix of
    parallel training is taken off.

    Raises:
        ModelError: not a weights file, damaged, or one that would run code when unpickled.
    """
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    state = _unwrap(loaded, path)
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file: {_first_line(error)}. Fetch it again."
        ) from error


def _read_pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} was refused: it is damaged, or holds more than tensors ({_first_line(error)}), and such a "
            f"file can run code when it is opened. Ask its author for a safetensors file or a plain state_dict."
        ) from error
    except Exception as error:  # a crafted file makes the reader fail in many ways
        raise ModelError(f"{path} is not a readable PyTorch weights file: {_first_line(error)}.") from error


def _unwrap(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(f"{path} holds no named tensors (a state_dict); it holds a {type(loaded).__name__}.")
    other = [str(name) for name, tensor in loaded.items() if not isinstance(tensor, torch.Tensor)]
    if other:
        raise ModelError(
            f"{path} holds more than named tensors: {', '.join(other[:NUM_NAMED])}. Save the network's "
            f"state_dict() alone, or under the key 'state_dict' or 'model'."
        )
    return {str(name): tensor for name, tensor in loaded.items()}


def put_state(
    body: nn.Module, state: Mapping[str, torch.Tensor], *, where: str, unused: Collection[str] = ()
) -> None:
    """Copy `state` into `body`, in place. Every tensor of the body must be there, and fit, and be finite.

    Args:
        body: the network as it will run.
        state: named tensors of a file.
        where: what to call the file in messages.
        unused: names that the file may hold although the body lacks them: the head, layers after a cut.

    Raises:
        ModelError: shapes that differ, tensors that are missing or that nothing is known of, values that are not
            finite numbers, or integers where the network has fractions.
    """
    own = body.state_dict()
    complaints = _differing_shapes(own, state)
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # no evaluation reads them
    complaints += _named("missing", [name for name in own if name not in state and name not in counters])
    complaints += _named("unexpected", [name for name in state if name not in own and name not in unused])
    if complaints:
        raise ModelError(
            f"{where} does not fit the network: {'; '.join(complaints)}. Check the architecture and its options."
        )
    kept = {name: state.get(name, own[name]) for name in own}
    bad = [name for name, tensor in kept.items() if own[name].is_floating_point() and not _is_usable(tensor)]
    if bad:
        raise ModelError(
            f"{where} is damaged: {', '.join(bad[:NUM_NAMED])} hold values that are not finite fractions."
        )
    body.load_state_dict(kept, strict=True)


def _differing_shapes(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    differing = [name for name in own if name in state and own[name].shape != state[name].shape]
    told = [
        f"{name} is {_shape(state[name])} in the file and {_shape(own[name])} in the network"
        for name in differing[:NUM_NAMED]
    ]
    if len(differing) > NUM_NAMED:
        told.append(f"{len(differing) - NUM_NAMED} more shapes differ")
    return told


def _named(word: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return [f"{word}: {', '.join(names[:NUM_NAMED])}{more}"]


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a single value"


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite numbers.

    A sum is not finite if a value is not, and takes one pass; only where it is not, as large values can add up to
    infinity too, are the values looked at one by one.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _is_usable(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and is_finite(tensor)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def plain_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """`state_dict`, with a tensor that consists of others (int8 values and scales, as torchao keeps them) apart.

    Its parts are named `NAME.PART`. They are the ones in the module, not copies: what is written into them stays.
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

    The same on every device. Used as the identity of weights, and to assert that frozen ones did not move.
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
