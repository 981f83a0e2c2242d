"""fit(network, batches, phase): the one training loop.

Given a head and features it trains a probe, given a whole classifier and image batches it fine-tunes. Every
random choice and the learning rate are functions of (seed, phase, epoch, step), so the state of a run is small:
weights, optimiser, moving average, best weights so far, and a few numbers. A run that is cut anywhere and
resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbench.backbones.networks.weights import digest_weights
from backbench.config import Precision
from backbench.engine.batches import Batches
from backbench.engine.checkpoint import Workspace
from backbench.engine.loop import Loop, LoopState, own_tensors, put_tensors, restore_loop, save_loop
from backbench.engine.losses import soft_cross_entropy, weigh_classes
from backbench.engine.optimise import Phase, freeze_for, make_optimizer, rate_factor, set_training_mode
from backbench.engine.order import epoch_order
from backbench.errors import ConfigError, Interrupted, ModelError, TrainingDiverged
from backbench.progress import SILENT, Progress
from backbench.runtime import autocast, free_memory, seeded, stream_seed

SAVE_SECONDS = 60.0
PREFETCH = 2


@dataclass(frozen=True)
class EpochFigures:
    """One line of the training log. Training figures are of augmented images, as the weights changed."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class FitResult:
    """history: one entry for each epoch; best_epoch: whose weights the network has now, 0 = before training;
    ended: 'epochs', 'patience' or 'budget'; micro_batch_size: what fitted into memory."""

    history: tuple[EpochFigures, ...]
    best_epoch: int
    best_accuracy: float
    best_loss: float
    ended: str
    micro_batch_size: int
    num_steps: int
    epoch_seconds: tuple[float, ...]


def never_stop() -> int:
    """The `stop_signal` of a run that nobody interrupts."""
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
    """Train `network` in place; it ends with the weights of its best epoch on validation, all in eval mode.

    The best epoch has the highest validation accuracy, then the lowest validation loss. What `workspace` holds of
    this phase is gone on with.

    Args:
        network: inputs -> (b, classes) logits; moved to `device`.
        batches: what it reads.
        phase: what is trained and how.
        deadline: `time.monotonic()` at which training ends with what is best so far.
        stop_signal: asked at every step, in training and in validation; a signal number means: save and stop.

    Raises:
        Interrupted: as `stop_signal` wished. TrainingDiverged: see there; the last good checkpoint stays.
        ModelError: something frozen moved. StorageError: a checkpoint can't be written or none can be read.
        ConfigError: nothing to train, no training images, or a class weight for an unknown class.

    Cost: epochs x (forward and backward of the training part + forward of validation); on disk up to three
    times (weights x 3 + moving average and best weights).
    """
    loop = _begin(network, batches, phase, class_names, workspace, seed, device, precision, deadline, stop_signal)
    frozen = network.state_dict().keys() - own_tensors(loop).keys()
    loop.frozen_digest = digest_weights(network, only=frozen)
    stored = workspace.load_latest(phase.name)
    if stored is not None:
        restore_loop(loop, stored)
        progress.say(f"{phase.name}: going on at epoch {loop.state.epoch + 1}, step {loop.state.batch}")
    if not loop.best:
        _validate_start(loop)
        save_loop(loop)
    total = loop.steps_per_epoch * phase.recipe.epochs
    with progress.bar(phase.name, total, "steps") as bar:
        bar.advance(loop.step)
        while not loop.state.ended:
            _run_epoch(loop, bar.advance)
            if loop.state.history and not loop.is_cut:
                progress.say(_tell(loop))
    put_tensors(network, loop.best)
    network.eval()
    if digest_weights(network, only=frozen) != loop.frozen_digest:
        raise ModelError(f"phase '{phase.name}' changed weights that were frozen; its result can't be trusted")
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
    network.to(device)
    parameters = freeze_for(network, phase)
    recipe = phase.recipe
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
    if recipe.ema_decay:
        loop.average = {name: tensor.clone() for name, tensor in own_tensors(loop).items()}
    return loop


def _run_epoch(loop: Loop, advance: Callable[[int], None]) -> None:
    """Train what is left of the epoch, validate, judge. Out of memory: halve the micro-batch and begin it anew."""
    started = time.perf_counter()
    try:
        _train_epoch(loop, advance)
    except torch.OutOfMemoryError as error:
        _shrink(loop, error)
        return
    if loop.is_cut:
        _end_cut(loop)
        return
    loss, accuracy = _validate(loop)
    state = loop.state
    factor = rate_factor(max(0, loop.step - 1), loop.steps_per_epoch, loop.recipe) * state.plateau_rate
    figures = EpochFigures(
        epoch=state.epoch + 1,
        learning_rate=(loop.recipe.learning_rate or 0.0) * factor,
        train_loss=state.loss_sum / max(1, state.num_seen),
        train_accuracy=state.num_correct / max(1, state.num_seen),
        val_loss=loss,
        val_accuracy=accuracy,
    )
    state.history.append(asdict(figures))
    state.epoch, state.batch = state.epoch + 1, 0
    state.loss_sum, state.num_correct, state.num_seen = 0.0, 0, 0
    _judge(loop, loss, accuracy)
    loop.epoch_seconds.append(time.perf_counter() - started)
    save_loop(loop)


def _end_cut(loop: Loop) -> None:
    """The weights within the epoch compete too; nothing of this is stored: a resumed run never knows of it."""
    state = loop.state
    if state.num_seen:
        loss, accuracy = _validate(loop)
        if (accuracy, -loss) > (state.best_accuracy, -state.best_loss):
            state.best_epoch, state.best_accuracy, state.best_loss = state.epoch + 1, accuracy, loss
            source = loop.average or own_tensors(loop)
            loop.best = {name: tensor.detach().clone() for name, tensor in source.items()}
    state.ended = "budget"


def _train_epoch(loop: Loop, advance: Callable[[int], None]) -> None:
    order = epoch_order(loop.seed, loop.state.epoch, len(loop.batches.train_labels))
    set_training_mode(loop.network)
    for inputs, targets in _prefetch(loop, order):
        if (signal := loop.stop_signal()) != 0:
            save_loop(loop)
            raise Interrupted(signal)
        if loop.deadline is not None and time.monotonic() > loop.deadline:
            save_loop(loop)  # what is stored goes on from here; what is returned is the best so far
            loop.is_cut = True
            return
        _take_step(loop, inputs, targets)
        loop.state.batch += 1
        advance(1)
        if time.monotonic() - loop.saved > SAVE_SECONDS:
            save_loop(loop)


def _prefetch(loop: Loop, order: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the epoch that are still to come, two ahead, made by another thread."""
    size, epoch = loop.recipe.batch_size, loop.state.epoch
    steps = range(loop.state.batch, loop.steps_per_epoch)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:

        def ask(step: int) -> Future[tuple[Tensor, Tensor]]:
            chosen = order[step * size : (step + 1) * size]
            return pool.submit(loop.batches.load, epoch, step, chosen)

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


def _take_step(loop: Loop, inputs: Tensor, targets: Tensor) -> None:
    """One optimiser step, computed in micro-batches; not applied unless loss and gradient are finite."""
    state, n = loop.state, len(inputs)
    loop.optimizer.zero_grad(set_to_none=True)
    losses, hits = [], []
    for part, first in enumerate(range(0, n, state.micro_batch_size)):
        chosen = slice(first, first + state.micro_batch_size)
        with (
            seeded(stream_seed(loop.seed, f"{state.epoch}/{state.batch}/{part}"), loop.device),
            autocast(loop.device, loop.precision),
        ):
            logits = loop.network(inputs[chosen]).float()
        loss = soft_cross_entropy(logits, targets[chosen], loop.class_weights).sum()
        (loss / n).backward()
        losses.append(loss.detach())
        hits.append((logits.argmax(1) == targets[chosen].argmax(1)).sum())
    limit = loop.recipe.clip_norm or math.inf
    norm = torch.nn.utils.clip_grad_norm_(list(loop.parameters.values()), limit)
    loss_sum, length = torch.stack([torch.stack(losses).sum(), norm]).tolist()
    if not math.isfinite(loss_sum) or not math.isfinite(length):
        raise TrainingDiverged(loop.step + 1, f"loss {loss_sum / n:g}, gradient length {length:g}")
    factor = rate_factor(loop.step, loop.steps_per_epoch, loop.recipe) * state.plateau_rate
    for group in loop.optimizer.param_groups:
        group["lr"] = group["full_lr"] * factor
    loop.optimizer.step()
    _update_average(loop)
    state.loss_sum += loss_sum
    state.num_correct += int(torch.stack(hits).sum())
    state.num_seen += n


@torch.no_grad()
def _update_average(loop: Loop) -> None:
    """The usual moving average, shorter at first so that the start is forgotten."""
    if not loop.recipe.ema_decay:
        return
    decay = min(loop.recipe.ema_decay, (1 + loop.step) / (10 + loop.step))
    for name, tensor in own_tensors(loop).items():
        if tensor.is_floating_point():
            loop.average[name].lerp_(tensor, 1 - decay)
        else:
            loop.average[name].copy_(tensor)


def _validate(loop: Loop) -> tuple[float, float]:
    """(mean loss, accuracy) on validation; of the averaged weights where there are. (0, 0) without validation."""
    loop.network.eval()
    live = {name: tensor.clone() for name, tensor in own_tensors(loop).items()} if loop.average else {}
    put_tensors(loop.network, loop.average)
    loss_sum, num_correct, num = 0.0, 0, 0
    try:
        for inputs, labels in loop.batches.validation():
            if (signal := loop.stop_signal()) != 0:
                put_tensors(loop.network, live)
                save_loop(loop)
                raise Interrupted(signal)
            truth = torch.from_numpy(labels).to(loop.device)
            with torch.no_grad(), autocast(loop.device, loop.precision):
                logits = loop.network(inputs).float()
            loss_sum += float(F.cross_entropy(logits, truth, reduction="sum"))
            num_correct += int((logits.argmax(1) == truth).sum())
            num += len(labels)
    finally:
        put_tensors(loop.network, live)
    if not math.isfinite(loss_sum):
        raise TrainingDiverged(loop.step, "the validation loss is not a finite number")
    return (loss_sum / num, num_correct / num) if num else (0.0, 0.0)


def _validate_start(loop: Loop) -> None:
    """The weights before training are the first to beat: a solved head may already be the best."""
    loss, accuracy = _validate(loop)
    loop.state.best_loss, loop.state.best_accuracy = loss, accuracy
    loop.state.plateau_best = loss
    loop.best = {name: tensor.detach().clone() for name, tensor in own_tensors(loop).items()}


def _judge(loop: Loop, loss: float, accuracy: float) -> None:
    """Keep the best weights; lower the rate on a plateau; end when there is nothing more to gain or no time."""
    state, recipe = loop.state, loop.recipe
    has_validation = loop.batches.num_val > 0
    better = (accuracy, -loss) > (state.best_accuracy, -state.best_loss)
    improved = accuracy > state.best_accuracy + recipe.min_improvement or loss < state.best_loss
    if better or not has_validation:
        state.best_epoch, state.best_accuracy, state.best_loss = state.epoch, accuracy, loss
        source = loop.average or own_tensors(loop)
        loop.best = {name: tensor.detach().clone() for name, tensor in source.items()}
    state.epochs_without = 0 if improved else state.epochs_without + 1
    if recipe.schedule == "plateau":
        state.plateau_bad = 0 if loss < state.plateau_best * (1 - 1e-4) else state.plateau_bad + 1
        state.plateau_best = min(state.plateau_best, loss)
        if state.plateau_bad > recipe.plateau_patience:
            state.plateau_rate, state.plateau_bad = state.plateau_rate * recipe.plateau_factor, 0
    if state.epoch >= recipe.epochs:
        state.ended = "epochs"
    elif recipe.patience and has_validation and state.epochs_without >= recipe.patience:
        state.ended = "patience"


def _shrink(loop: Loop, error: BaseException) -> None:
    """Go back to the start of the epoch with half the micro-batch; batch size and learning rate stay as asked."""
    smaller = loop.state.micro_batch_size // 2
    if smaller < 1:
        raise ModelError(
            "a single image does not fit into the memory of the device for training. Use a smaller model or input "
            "size, gradient_checkpointing, or --device cpu."
        ) from error
    loop.optimizer.zero_grad(set_to_none=True)
    stored = loop.workspace.load_latest(loop.phase.name, at_step=loop.step - loop.state.batch)
    if stored is None:
        raise ModelError("out of memory, and the start of the epoch was not saved") from error
    restore_loop(loop, stored)
    loop.state.micro_batch_size = smaller
    free_memory(loop.device)


def _tell(loop: Loop) -> str:
    """One line on the last epoch."""
    last = loop.state.history[-1]
    losses = f"train loss {last['train_loss']:.3f}, validation loss {last['val_loss']:.3f}"
    best = " (best so far)" if loop.state.best_epoch == last["epoch"] else ""
    accuracy = f"accuracy {100 * last['val_accuracy']:.1f} %{best}"
    return f"{loop.phase.name}: epoch {last['epoch']}/{loop.recipe.epochs}, {losses}, {accuracy}"


def _result(loop: Loop) -> FitResult:
    state = loop.state
    return FitResult(
        history=tuple(EpochFigures(**figures) for figures in state.history),
        best_epoch=state.best_epoch,
        best_accuracy=state.best_accuracy,
        best_loss=state.best_loss,
        ended=state.ended,
        micro_batch_size=state.micro_batch_size,
        num_steps=loop.step,
        epoch_seconds=tuple(loop.epoch_seconds),
    )
