"""The gradients of one step: in micro-batches, over all processes, and in fp16 with a scale on the loss.

fp16 has nothing between 0 and 6e-8, the range of many gradients, so the loss is multiplied by a power of two and
the gradients are divided by it again. Where that overflows, the step is skipped and the scale halved; after many
good steps it is doubled. Scale and counts are part of the state, so that a resumed run is the same.
Source: Micikevicius et al. 2018, "Mixed precision training"; the numbers are those of torch.amp.GradScaler.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from backbench.distributed import largest_share, process_number, share_of, sum_gradients
from backbench.errors import ConfigError, ModelError
from backbench.runtime import autocast, free_memory, seeded, stream_seed
from backbench.training.loop import Loop
from backbench.training.losses import soft_cross_entropy
from backbench.training.order import num_pieces, piece_at
from backbench.training.sync_batch_norm import whole_batch_norm

STEPS_TO_GROW = 2000
MAX_SKIPPED = 20
"""After this many skipped steps in a row the cause is not the scale."""


def load_share(loop: Loop, epoch: int, step: int, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """This process's images of the batch of training examples `indices`; the first image if it has none.

    Mixing needs partners from the whole batch, so the whole batch is then loaded.
    """
    own = share_of(len(indices))
    if own.start == own.stop:
        own = slice(0, 1)
    if not (loop.recipe.augment.mixup or loop.recipe.augment.cutmix):
        return loop.batches.load(epoch, step, indices[own])
    inputs, targets = loop.batches.load(epoch, step, indices)
    return inputs[own], targets[own]


def compute_gradients(loop: Loop, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradient of the mean loss of the whole batch, the same on every process.

    Args:
        inputs, targets: of this process's share; see `load_share`.

    Returns:
        The sums over the whole batch of loss and of correct predictions: each (members,) float32 on the device.
    """
    state, num = loop.state, loop.num_in_batch
    scale = state.loss_scale if loop.precision == "fp16" else 1.0
    own = share_of(num).stop - share_of(num).start
    most, size = largest_share(num), state.micro_batch_size
    losses, hits = [], []
    for part in range(num_pieces(most, size)):
        places = piece_at(part, most, size)
        is_counted = places.start < own  # otherwise others still have images and wait in each exchange
        chosen = slice(places.start, min(places.stop, own)) if is_counted else slice(0, 1)
        with whole_batch_norm(is_counted=is_counted):
            with seeded(stream_seed(loop.seed, _dropout_stream(loop, part)), loop.device), _norm_explained():
                logits = member_logits(loop, inputs[chosen])
            shares = targets[chosen].unsqueeze(1)
            loss = soft_cross_entropy(logits, shares, loop.class_weights).sum(0) * float(is_counted)
            with _statistics_left(loop):
                (loss.sum() / num * scale).backward()
        losses.append(loss.detach())
        hits.append((logits.argmax(-1) == shares.argmax(-1)).sum(0) * int(is_counted))
    figures = torch.cat([torch.stack(losses).sum(0), torch.stack(hits).sum(0).float()])
    figures = sum_gradients(loop.parameters, figures)
    if scale != 1.0:
        for parameter in loop.parameters.values():
            if parameter.grad is not None:
                parameter.grad.div_(scale)
    return figures[: len(loop.members)], figures[len(loop.members) :]


def member_logits(loop: Loop, inputs: Tensor) -> Tensor:
    """(b, members, classes) float32: one member for each head."""
    with autocast(loop.device, loop.precision):
        logits: Tensor = loop.network(inputs).float()
    return logits if logits.ndim == 3 else logits.unsqueeze(1)


@torch.no_grad()
def validation_logits(loop: Loop, inputs: Tensor) -> Tensor:
    """`member_logits` of validation inputs, with smaller batches after an accelerator ran out of memory.

    Raises:
        ModelError: a single image does not fit.
    """
    while True:
        try:
            return torch.cat([member_logits(loop, piece) for piece in inputs.split(loop.validated_at_once)])
        except torch.OutOfMemoryError as error:
            loop.validated_at_once = min(loop.validated_at_once, len(inputs)) // 2
            if not loop.validated_at_once:
                raise does_not_fit() from error
        free_memory(loop.device)


def does_not_fit() -> ModelError:
    """The error if a single image does not fit into memory."""
    return ModelError(
        "a single image does not fit into the memory of the device for training. Use a smaller model or input "
        "size, gradient_checkpointing, or --device cpu."
    )


@contextmanager
def _statistics_left(loop: Loop) -> Iterator[None]:
    """Update batch norms once: gradient checkpointing runs the network again in the backward pass."""
    if not loop.recipe.gradient_checkpointing:
        yield
        return
    before = [
        (norm, norm.momentum, norm.num_batches_tracked, norm.num_batches_tracked.clone())
        for norm in loop.network.modules()
        if isinstance(norm, _BatchNorm) and norm.num_batches_tracked is not None
    ]
    for norm, *_ in before:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, counter, num_batches in before:
            norm.momentum = momentum
            counter.copy_(num_batches)


@contextmanager
def _norm_explained() -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # torch has no type of its own for it
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "batch norm can't be trained on a single image: set recipe.batch_size (and recipe.micro_batch_size "
            "if used) to 2 or more."
        ) from error


def _dropout_stream(loop: Loop, part: int) -> str:
    """The name of the dropout stream: different for each process."""
    number = process_number()
    return f"{loop.state.epoch}/{loop.state.batch}/{part}" + (f"/{number}" if number else "")


def skip_overflow(loop: Loop) -> bool:
    """Count a non-finite step; False if the fp16 scale is not the cause and the run must end."""
    state = loop.state
    if loop.precision != "fp16" or state.num_skipped_in_a_row + 1 >= MAX_SKIPPED:
        return False
    state.num_skipped += 1
    state.num_skipped_in_a_row += 1
    state.num_good_steps = 0
    state.loss_scale /= 2
    return True


def note_good_step(loop: Loop) -> None:
    """Double the scale after many steps without overflow."""
    state = loop.state
    if loop.precision != "fp16":
        return
    state.num_skipped_in_a_row = 0
    state.num_good_steps += 1
    if state.num_good_steps == STEPS_TO_GROW:
        state.loss_scale, state.num_good_steps = state.loss_scale * 2, 0
