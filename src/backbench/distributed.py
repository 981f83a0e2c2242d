"""Several processes that train one network: what each takes of the work, and how they agree.

`torchrun --nproc-per-node 2 -m backbench adapt ...` starts them; a program may initialise torch's process group
itself. Without a group everything here is a no-op, and torch is not imported.

There is no wrapper around the network: each process takes a contiguous share of each batch, the gradients are
summed in one buffer, and every process makes the same step. Whatever decides where the work goes next (signals,
deadlines, what a file holds) is agreed on first, so that nobody waits for one who left.
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
"""For one another, as while the first process writes a bundle. One that dies is noticed at once."""


def num_launched() -> int:
    """Processes that torchrun started for this command; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def launched_number() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0")) if num_launched() > 1 else 0


def num_processes() -> int:
    """Processes of the group; 1 if there is none."""
    group = _group()
    return 1 if group is None else int(group.get_world_size())


def process_number() -> int:
    """The number of this process in the group, from 0."""
    group = _group()
    return 0 if group is None else int(group.get_rank())


def is_first() -> bool:
    """Whether this is the process that writes files and prints: the only one, or number 0."""
    return process_number() == 0


@contextmanager
def join_processes(device: str) -> Iterator[str]:
    """Within the block this process is in one group with all that torchrun started; gives the device to use.

    Args:
        device: as `runtime.decide_device` gives it; 'cuda' becomes the GPU of this process's number.

    Raises:
        ConfigError: more processes than GPUs, or one GPU for all of them.
        PeerLost: the others can't be reached.
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
            f"--device {device} is one device, and torchrun started several processes. Use cpu or cuda."
        )
    import torch

    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(
            f"process {number + 1} has no GPU: there are {there}. Use --nproc-per-node {there} at most."
        )
    return f"cuda:{number}"


def share_of(num: int) -> slice:
    """The contiguous part of 0..num-1 that is this process's; the later ones may be smaller by one."""
    each, more = divmod(num, num_processes())
    number = process_number()
    start = number * each + min(number, more)
    return slice(start, start + each + (number < more))


def largest_share(num: int) -> int:
    """Length of the largest part that `share_of` gives any process."""
    return -(-num // num_processes())


def wait_for_all() -> None:
    """Go on when every process has come here."""
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
    """Sum the gradients of all processes, in place, and (k,) float32 `figures` with them, in one exchange.

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
    """Give all processes the values of the first one, in place."""
    if num_processes() == 1:
        return
    import torch

    with _peers_needed(), torch.no_grad():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            torch.distributed.broadcast(values, 0)
            tensor.copy_(values)


def _group() -> Any:
    """torch.distributed if this process is in a group."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


@contextmanager
def _peers_needed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no type of its own for a closed connection
        raise PeerLost(str(error).partition("\n")[0]) from error
