"""Early stopping: keep the best weights by validation, lower the learning rate, end the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from backbench.training.loop import Loop, own_tensors
from backbench.training.optimise import rate_factor


@dataclass(frozen=True)
class EpochFigures:
    """One line of the training log. Training metrics are on augmented images while the weights changed;
    validation metrics are None without a validation split."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None


def close_epoch(loop: Loop, found: Sequence[tuple[float, float]]) -> None:
    """Log the epoch for each member that has not ended, apply early stopping, and start the next epoch.

    Args:
        found: (mean loss, accuracy) of each member on validation.
    """
    state = loop.state
    has_validation = loop.batches.num_val > 0
    factor = rate_factor(max(0, loop.step - 1), loop.steps_per_epoch, loop.recipe)
    num_seen = max(1, state.num_seen)
    state.epoch, state.batch, state.num_seen = state.epoch + 1, 0, 0
    for member, (loss, accuracy) in enumerate(found):
        standing = state.standings[member]
        if standing.ended:
            continue
        figures = EpochFigures(
            epoch=state.epoch,
            learning_rate=loop.phase.full_rate(member) * (factor * standing.plateau_rate),
            train_loss=standing.loss_sum / num_seen,
            train_accuracy=standing.num_correct / num_seen,
            val_loss=loss if has_validation else None,
            val_accuracy=accuracy if has_validation else None,
        )
        standing.history.append(asdict(figures))
        standing.loss_sum, standing.num_correct = 0.0, 0
        _judge(loop, member, loss, accuracy, figures.train_loss)


def _judge(loop: Loop, member: int, loss: float, accuracy: float, train_loss: float) -> None:
    """Keep the best weights; lower the rate on a plateau; end after the patience, the epochs or the time limit.

    Without validation the last weights are kept, and the training loss decides the plateau.
    """
    standing, recipe = loop.state.standings[member], loop.recipe
    has_validation = loop.batches.num_val > 0
    better = (accuracy, -loss) > (standing.best_accuracy, -standing.best_loss)
    is_more_accurate = accuracy > standing.best_accuracy + recipe.min_improvement
    is_likelier = loss < standing.lowest_loss * (1 - recipe.min_improvement)
    standing.lowest_loss = min(standing.lowest_loss, loss)
    if better or not has_validation:
        keep_best(loop, member, loop.state.epoch, loss, accuracy)
    standing.epochs_without = 0 if is_more_accurate or is_likelier else standing.epochs_without + 1
    if recipe.schedule == "plateau":
        watched = loss if has_validation else train_loss
        standing.plateau_bad = 0 if watched < standing.plateau_best * (1 - 1e-4) else standing.plateau_bad + 1
        standing.plateau_best = min(standing.plateau_best, watched)
        if standing.plateau_bad > recipe.plateau_patience:
            standing.plateau_rate, standing.plateau_bad = standing.plateau_rate * recipe.plateau_factor, 0
    if loop.state.epoch >= recipe.epochs:
        standing.ended = "epochs"
    elif recipe.patience and has_validation and standing.epochs_without >= recipe.patience:
        standing.ended = "patience"


def keep_best(loop: Loop, member: int, epoch: int, loss: float, accuracy: float) -> None:
    """Store the current weights of a member (or their moving average) as its best."""
    standing = loop.state.standings[member]
    standing.best_epoch, standing.best_accuracy, standing.best_loss = epoch, accuracy, loss
    source = loop.average or own_tensors(loop)
    loop.best |= {name: source[name].detach().clone() for name in loop.members[member]}


def leader(loop: Loop) -> int:
    """The member with the best validation result so far; the first of equals."""
    standings = loop.state.standings
    return max(range(len(standings)), key=lambda i: (standings[i].best_accuracy, -standings[i].best_loss, -i))


def tell(loop: Loop) -> str:
    """One line on the last epoch of the best head that finished an epoch."""
    standings = loop.state.standings
    standing = standings[leader(loop)]
    if not standing.history:  # it diverged in its first epoch, and no head improved on the start
        standing = next(other for other in standings if other.history)
    last = standing.history[-1]
    best = " (best so far)" if standing.best_epoch == last["epoch"] else ""
    several = f"best of {len(loop.members)} heads: " if len(loop.members) > 1 else ""
    told = f"{loop.phase.name}: epoch {loop.state.epoch}/{loop.recipe.epochs}, {several}train loss "
    if last["val_loss"] is None:
        return f"{told}{last['train_loss']:.3f}, training accuracy {100 * last['train_accuracy']:.1f} %"
    losses = f"{last['train_loss']:.3f}, validation loss {last['val_loss']:.3f}"
    return f"{told}{losses}, accuracy {100 * last['val_accuracy']:.1f} %{best}"
