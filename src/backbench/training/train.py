"""fit(network, batches, phase): the one training loop.

With a head and features it trains a probe; with a whole classifier and image batches it fine-tunes. Every
random choice and the learning rate are functions of (seed, phase, epoch, step), so the state of a run is small:
weights, optimiser, moving average, best weights so far, and a few numbers. A run that
is interrupted anywhere and resumed gives the same bits as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbench.backbones.core.weights import digest_weights
from backbench.config import Precision
from backbench.distributed import agree_most, copy_from_first, largest_share, num_processes, share_of, sum_numbers
from backbench.errors import ConfigError, Interrupted, ModelError, TrainingDiverged
from backbench.progress import SILENT, STEPS, Progress
from backbench.runtime import free_memory, stream_seed
from backbench.training.batches import VALIDATION_BATCH, Batches
from backbench.training.checkpoint import Workspace
from backbench.training.judge import EpochFigures, close_epoch, keep_best, leader, tell
from backbench.training.loop import (
    Loop,
    LoopState,
    Standing,
    load_stored,
    own_tensors,
    put_tensors,
    restore_loop,
    save_loop,
)
from backbench.training.losses import weigh_classes
from backbench.training.optimise import Phase, freeze_for, make_optimizer, rate_factor, set_training_mode
from backbench.training.order import epoch_order
from backbench.training.step import (
    compute_gradients,
    does_not_fit,
    load_share,
    note_good_step,
    skip_overflow,
    validation_logits,
)
from backbench.training.sync_batch_norm import refuse_checkpoints

SAVE_SECONDS = 60.0
PREFETCH = 2
NOTHING = torch.empty(0), np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class FitResult:
    """history: one entry for each epoch; best_epoch: epoch of the network's weights, 0 = before training;
    ended: 'epochs', 'patience' or 'budget', for one of several heads also 'diverged'; micro_batch_size: the size
        that
    fitted into memory; num_skipped: steps that overflowed in fp16 and were not applied; members: with several
    heads, the result of each (this is then that of the best)."""

    history: tuple[EpochFigures, ...]
    best_epoch: int
    best_accuracy: float
    best_loss: float
    ended: str
    micro_batch_size: int
    num_steps: int
    epoch_seconds: tuple[float, ...]
    num_skipped: int = 0
    members: tuple[FitResult, ...] = ()


def never_stop() -> int:
    """A `stop_signal` that never stops."""
    return 0


def fit(
    network: nn.Module,
    batches: Batches,
    phase: Phase,
    *,
    class_names: tuple[str, ...],
    workspace: Workspace,
    seed: int = 0,
    device: str = "cpu",
    precision: Precision = "fp32",
    deadline: float | None = None,
    stop_signal: Callable[[], int] = never_stop,
    progress: Progress = SILENT,
) -> FitResult:
    """Train `network` in place; afterwards it has the weights of its best epoch on validation, in eval mode.

    The best epoch has the highest validation accuracy, then the lowest validation loss. Resumes
    from the phase's checkpoint in `workspace`, if any. With several heads (`phase.members`), clipping and early
    stopping work for each separately.

    Args:
        network: inputs -> (b, classes) logits, or (b, members, classes); moved to `device`.
        batches: training and validation data.
        phase: parameters to train and the recipe.
        deadline: `time.monotonic()` at which training ends with the best weights so far.
        stop_signal: checked at every step, in training and validation; a signal number means save and stop.

    Raises:
        Interrupted: requested by `stop_signal`. TrainingDiverged: see there; the last good checkpoint stays.
        ModelError: a frozen weight changed. StorageError: a checkpoint can't be written or none can be read.
        ConfigError: nothing to train, no training images, or a class weight for an unknown class.

    Cost: epochs x (forward and backward of the training split + forward of validation); on disk up to three
    times (weights x 3 + moving average and best weights).
    """
    loop = _begin(network, batches, phase, class_names, workspace, seed, device, precision, deadline, stop_signal)
    frozen = network.state_dict().keys() - own_tensors(loop).keys()
    loop.frozen_digest = digest_weights(network, only=frozen)
    stored = load_stored(loop)
    if stored is not None:
        restore_loop(loop, stored)
        progress.say(f"{phase.name}: resuming at epoch {loop.state.epoch + 1}, step {loop.state.batch}")
    if not loop.best:
        _validate_start(loop)
        save_loop(loop)
    num = len(batches.train_labels)
    if num < phase.recipe.batch_size:
        progress.say(
            f"{phase.name}: {num} training images, fewer than recipe.batch_size={phase.recipe.batch_size}: each "
            "epoch is one step with all images"
        )
    total = loop.steps_per_epoch * phase.recipe.epochs
    with progress.bar(phase.name, total, STEPS) as bar:
        bar.advance(loop.step)
        while not loop.state.has_ended:
            _run_epoch(loop, bar.advance)
            if loop.state.epoch and not loop.is_cut:
                progress.say(tell(loop))
    if loop.state.num_skipped:
        progress.say(f"{phase.name}: steps skipped because of fp16 overflow: {loop.state.num_skipped}")
    put_tensors(network, loop.best)
    network.eval()
    if digest_weights(network, only=frozen) != loop.frozen_digest:
        raise ModelError(f"phase '{phase.name}' changed frozen weights; its result is invalid")
    return _result(loop)


def _begin(
    network: nn.Module,
    batches: Batches,
    phase: Phase,
    class_names: tuple[str, ...],
    workspace: Workspace,
    seed: int,
    device: str,
    precision: Precision,
    deadline: float | None,
    stop_signal: Callable[[], int],
) -> Loop:
    if not len(batches.train_labels):
        raise ConfigError("there are no training images")
    # Convolutions train 1.3 times (fp32) to 4 times (bf16) faster in this memory order, with the same results.
    network.to(device).to(memory_format=torch.channels_last)
    copy_from_first(network.state_dict().values())
    parameters = freeze_for(network, phase)
    recipe = phase.recipe
    refuse_checkpoints(network, recipe)
    loop = Loop(
        network=network,
        batches=batches,
        phase=phase,
        seed=stream_seed(seed, f"fit/{phase.name}"),
        device=device,
        precision=precision,
        workspace=workspace,
        deadline=deadline,
        stop_signal=stop_signal,
        parameters=parameters,
        optimizer=make_optimizer(parameters, phase),
        class_weights=weigh_classes(recipe, batches.train_labels, class_names, device),
        state=LoopState(micro_batch_size=min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)),
    )
    loop.members = phase.members or (frozenset(own_tensors(loop)),)
    loop.state.standings = [Standing() for _ in loop.members]
    if recipe.ema_decay:
        loop.average = {name: tensor.clone() for name, tensor in own_tensors(loop).items()}
    return loop


def _run_epoch(loop: Loop, advance: Callable[[int], None]) -> None:
    """Train the rest of the epoch, validate, judge. Out of memory: halve the micro-batch and restart."""
    started = time.perf_counter()
    try:
        _train_epoch(loop, advance)
    except torch.OutOfMemoryError as error:
        _shrink(loop, error)
        return
    if loop.is_cut:
        _end_cut(loop)
        return
    close_epoch(loop, _validate(loop))
    loop.epoch_seconds.append(time.perf_counter() - started)
    save_loop(loop)


def _end_cut(loop: Loop) -> None:
    """Let the weights within the epoch compete too. Nothing of this is stored, so a resumed run is unaffected."""
    state = loop.state
    found = _validate(loop) if state.num_seen else []
    for member, (loss, accuracy) in enumerate(found):
        standing = state.standings[member]
        if not standing.ended and (accuracy, -loss) > (standing.best_accuracy, -standing.best_loss):
            keep_best(loop, member, state.epoch + 1, loss, accuracy)
    for standing in state.standings:
        standing.ended = standing.ended or "budget"


def _train_epoch(loop: Loop, advance: Callable[[int], None]) -> None:
    order = epoch_order(loop.seed, loop.state.epoch, len(loop.batches.train_labels))
    set_training_mode(loop.network, keeps_statistics=loop.phase.keeps_statistics)
    for inputs, targets in _prefetch(loop, order):
        is_late = loop.deadline is not None and time.monotonic() > loop.deadline
        signal, any_late = agree_most(loop.stop_signal(), int(is_late))
        if signal:
            save_loop(loop)
            raise Interrupted(signal)
        if any_late:
            save_loop(loop)  # a resumed run continues here; the result is the best so far
            loop.is_cut = True
            return
        _take_step(loop, inputs, targets)
        loop.state.batch += 1
        advance(1)
        if time.monotonic() - loop.saved > SAVE_SECONDS:
            save_loop(loop)


def _prefetch(loop: Loop, order: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """The remaining batches of the epoch, prepared two ahead by another thread."""
    epoch = loop.state.epoch
    steps = range(loop.state.batch, loop.steps_per_epoch)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1, "batches", initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def ask(step: int) -> Future[tuple[Tensor, Tensor]]:
            return pool.submit(load_share, loop, epoch, step, order[loop.batch_at(step)])

        waiting = [ask(step) for step in steps[:PREFETCH]]
        try:
            for step in steps:
                batch = waiting.pop(0).result()
                if step + PREFETCH < loop.steps_per_epoch:
                    waiting.append(ask(step + PREFETCH))
                yield batch
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(threads)  # later threads start with the value of the last thread


def _take_step(loop: Loop, inputs: Tensor, targets: Tensor) -> None:
    """One optimiser step; not applied unless loss and gradient are finite."""
    state, n = loop.state, loop.num_in_batch
    loop.optimizer.zero_grad(set_to_none=True)
    figures = compute_gradients(loop, inputs, targets)
    loss_sums, hits, lengths = torch.stack([*figures, _clip_gradients(loop)]).tolist()
    causes = {
        member: f"loss {loss_sum / n:g}, gradient norm {length:g}"
        for member, (loss_sum, length) in enumerate(zip(loss_sums, lengths, strict=True))
        if not state.standings[member].ended and not (math.isfinite(loss_sum) and math.isfinite(length))
    }
    if causes and skip_overflow(loop):
        return
    _end_diverged(loop, causes, loop.step + 1)
    note_good_step(loop)
    factor = rate_factor(loop.step, loop.steps_per_epoch, loop.recipe)
    for group in loop.optimizer.param_groups:
        group["lr"] = group["full_lr"] * (factor * state.standings[group["member"]].plateau_rate)
    loop.optimizer.step()
    _update_average(loop)
    for standing, loss_sum, num_hits in zip(state.standings, loss_sums, hits, strict=True):
        if not standing.ended:
            standing.loss_sum += loss_sum
            standing.num_correct += int(num_hits)
    state.num_seen += n


def _clip_gradients(loop: Loop) -> Tensor:
    """Clip gradients; returns their (members,) norms before clipping, 0 for a head that has ended."""
    _drop_gradients(loop)
    limit = loop.recipe.clip_norm or math.inf
    lengths = [torch.nn.utils.clip_grad_norm_(_parameters_of(loop, names), limit) for names in loop.members]
    return torch.stack([length.to(loop.device) for length in lengths])


def _drop_gradients(loop: Loop) -> None:
    """Remove the gradients of heads that have ended, so that they do not change."""
    for names, standing in zip(loop.members, loop.state.standings, strict=True):
        if standing.ended:
            for parameter in _parameters_of(loop, names):
                parameter.grad = None


def _parameters_of(loop: Loop, names: frozenset[str]) -> list[nn.Parameter]:
    return [parameter for name, parameter in loop.parameters.items() if name in names]


def _end_diverged(loop: Loop, causes: dict[int, str], step: int) -> None:
    """End heads with non-finite values at their best state so far; the others continue.

    Args:
        causes: member -> description of its non-finite value.

    Raises:
        TrainingDiverged: all heads have ended.
    """
    if not causes:
        return
    standings = loop.state.standings
    if all(standing.ended or member in causes for member, standing in enumerate(standings)):
        raise TrainingDiverged(step, next(iter(causes.values())))
    for member in causes:
        standings[member].ended = "diverged"
    _drop_gradients(loop)


@torch.no_grad()
def _update_average(loop: Loop) -> None:
    """Update the moving average, with a shorter window at first so that it forgets the start."""
    if not loop.recipe.ema_decay:
        return
    decay = min(loop.recipe.ema_decay, (1 + loop.step) / (10 + loop.step))
    for name, tensor in own_tensors(loop).items():
        if tensor.is_floating_point():
            loop.average[name].lerp_(tensor, 1 - decay)
        else:
            loop.average[name].copy_(tensor)


def _validate(loop: Loop) -> list[tuple[float, float]]:
    """(mean loss, accuracy) of each member on validation; of the averaged weights if they are on.

    (0, 0) without validation.
    """
    loop.network.eval()
    live = {name: tensor.clone() for name, tensor in own_tensors(loop).items()} if loop.average else {}
    put_tensors(loop.network, loop.average)
    loss_sums, num_correct = np.zeros(len(loop.members)), np.zeros(len(loop.members))
    try:
        batches = loop.batches.validation(share_of(loop.batches.num_val))
        for _ in range(math.ceil(largest_share(loop.batches.num_val) / VALIDATION_BATCH)):
            inputs, labels = next(batches, NOTHING)
            (signal,) = agree_most(loop.stop_signal())
            if signal:
                put_tensors(loop.network, live)
                save_loop(loop)
                raise Interrupted(signal)
            if not len(labels):  # other processes have one more
                continue
            truth = torch.from_numpy(labels).to(loop.device).unsqueeze(1)
            logits = validation_logits(loop, inputs)
            losses = F.cross_entropy(logits.mT, truth.expand(logits.shape[:2]), reduction="none").sum(0)
            loss_sums += losses.cpu().numpy()
            num_correct += (logits.argmax(-1) == truth).sum(0).cpu().numpy()
    finally:
        put_tensors(loop.network, live)
    loss_sums, num_correct = np.split(np.array(sum_numbers([*loss_sums, *num_correct])), 2)
    num = max(1, loop.batches.num_val)
    causes = {
        member: "the validation loss is not finite"
        for member, standing in enumerate(loop.state.standings)
        if not standing.ended and not math.isfinite(loss_sums[member])
    }
    _end_diverged(loop, causes, loop.step)
    return list(zip((loss_sums / num).tolist(), (num_correct / num).tolist(), strict=True))


def _validate_start(loop: Loop) -> None:
    """Evaluate the weights before training: a solved head may already be the best."""
    for standing, (loss, accuracy) in zip(loop.state.standings, _validate(loop), strict=True):
        standing.best_loss, standing.best_accuracy = loss, accuracy
        if loop.batches.num_val:
            standing.lowest_loss = standing.plateau_best = loss
    loop.best = {name: tensor.detach().clone() for name, tensor in own_tensors(loop).items()}


def _shrink(loop: Loop, error: BaseException) -> None:
    """Go back to the start of the epoch with half the micro-batch; batch size and learning rate do not change."""
    if num_processes() > 1:
        raise ModelError(
            "out of memory with several processes, which can't restart the epoch together. Set "
            f"recipe.micro_batch_size to less than {loop.state.micro_batch_size}, or use one process."
        ) from error
    smaller = loop.state.micro_batch_size // 2
    if smaller < 1:
        raise does_not_fit() from error
    loop.optimizer.zero_grad(set_to_none=True)
    stored = loop.workspace.load_latest(loop.phase.name, at_step=loop.step - loop.state.batch)
    if stored is None:
        raise ModelError("out of memory, but the start of the epoch was not saved") from error
    restore_loop(loop, stored)
    loop.state.micro_batch_size = smaller
    free_memory(loop.device)


def _result(loop: Loop) -> FitResult:
    results = [
        FitResult(
            history=tuple(EpochFigures(**figures) for figures in standing.history),
            best_epoch=standing.best_epoch,
            best_accuracy=standing.best_accuracy,
            best_loss=standing.best_loss,
            ended=standing.ended,
            micro_batch_size=loop.state.micro_batch_size,
            num_steps=loop.step,
            epoch_seconds=tuple(loop.epoch_seconds),
            num_skipped=loop.state.num_skipped,
        )
        for standing in loop.state.standings
    ]
    best = results[leader(loop)]
    return replace(best, members=tuple(results)) if loop.phase.members else best
