"""Several processes that train one network: how they share the work and agree on decisions.

Start them with `torchrun --nproc-per-node 2 -m backbench adapt ...`, or initialise torch's process group in your
program. Without a group everything here is a no-op, and torch is not imported.

There is no wrapper around the network: each process takes a contiguous share of each batch, the gradients are
summed in one buffer, and every process makes the same step. All processes first agree on every input to a decision
(signals, deadlines, contents of a file), so that none waits for a process that has left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backbench.errors import ConfigError, PeerLost

if TYPE_CHECKING:
    import torch

LONGEST_WAIT = timedelta(days=1)
"""Maximum time that processes wait for one another, for example while the first one writes a bundle. A process
that dies is noticed at once."""


def num_launched() -> int:
    """Number of processes that torchrun started for this command; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def launched_number() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0")) if num_launched() > 1 else 0


def num_processes() -> int:
    """Number of processes of the group; 1 without a group."""
    group = _group()
    return 1 if group is None else int(group.get_world_size())


def process_number() -> int:
    """The number of this process in the group, from 0."""
    group = _group()
    return 0 if group is None else int(group.get_rank())


def is_first() -> bool:
    """True for the process that writes files and prints: the only one, or number 0."""
    return process_number() == 0


@contextmanager
def join_processes(device: str) -> Iterator[str]:
    """Join the group of all processes that torchrun started; the block gets the device to use.

    Args:
        device: as `runtime.decide_device` gives it; 'cuda' becomes the GPU of this process's number.

    Raises:
        ConfigError: more processes than GPUs, or one GPU for all of them.
        PeerLost: other processes can't be reached.
    """
    if num_launched() == 1:
        yield device
        return
    device = _own_device(device)
    import torch

    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    with _peers_needed():
        torch.distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def _own_device(device: str) -> str:
    if device == "cpu":
        return device
    if device != "cuda":
        raise ConfigError(
            f"--device {device} names one device, but torchrun started several processes. Use cpu or cuda."
        )
    import torch

    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(
            f"process {number + 1} has no GPU: this machine has {there}. Use --nproc-per-node {there} or less."
        )
    return f"cuda:{number}"


def share_of(num: int) -> slice:
    """The contiguous share of 0..num-1 of this process; later processes may have one less."""
    each, more = divmod(num, num_processes())
    number = process_number()
    start = number * each + min(number, more)
    return slice(start, start + each + (number < more))


def largest_share(num: int) -> int:
    """Length of the largest share that `share_of` gives to a process."""
    return -(-num // num_processes())


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    agree_most(0)


def agree_most(*numbers: int) -> tuple[int, ...]:
    """The largest of each number over all processes."""
    if num_processes() == 1:
        return numbers
    import torch

    tensor = torch.tensor(numbers, dtype=torch.int64)
    with _peers_needed():
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tuple(int(number) for number in tensor)


def sum_numbers(numbers: Sequence[float]) -> list[float]:
    """The sum of each number over all processes."""
    if num_processes() == 1:
        return list(numbers)
    import torch

    tensor = torch.tensor(numbers, dtype=torch.float64)
    sum_tensor(tensor)
    return tensor.tolist()


def sum_tensor(tensor: torch.Tensor) -> None:
    """Sum a tensor of the same shape over all processes, in place; all get the same bits."""
    if num_processes() == 1:
        return
    import torch

    with _peers_needed():
        torch.distributed.all_reduce(tensor)


def sum_gradients(parameters: Mapping[str, torch.nn.Parameter], figures: torch.Tensor) -> torch.Tensor:
    """Sum the gradients of all processes in place, together with (k,) float32 `figures`, in one exchange.

    Returns:
        (k,) the sums of the figures.
    """
    if num_processes() == 1:
        return figures
    import torch

    members = list(parameters.values())
    has_gradient = figures.new_tensor([member.grad is not None for member in members])
    gradients = [torch.zeros_like(member) if member.grad is None else member.grad for member in members]
    flat = torch.cat([*(gradient.reshape(-1).float() for gradient in gradients), has_gradient, figures])
    sum_tensor(flat)
    sums = flat.split([member.numel() for member in members] + [len(members), len(figures)])
    for member, total, count in zip(members, sums, sums[-2].tolist(), strict=False):
        if count:
            member.grad = torch.empty_like(member).copy_(total.view(member.shape))
    return sums[-1]


def copy_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Copy the values of the first process to all others, in place."""
    if num_processes() == 1:
        return
    import torch

    with _peers_needed(), torch.no_grad():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            torch.distributed.broadcast(values, 0)
            tensor.copy_(values)


def _group() -> Any:
    """Return torch.distributed if this process is in a group, else None."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


@contextmanager
def _peers_needed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no type of its own for a closed connection
        raise PeerLost(str(error).partition("\n")[0]) from error
