"""The state of a training phase, and how it is saved and restored for resumed runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from backbench.config import Precision, Recipe
from backbench.distributed import agree_most, is_first, wait_for_all
from backbench.errors import StorageError
from backbench.training.batches import VALIDATION_BATCH, Batches
from backbench.training.checkpoint import Checkpoint, Workspace
from backbench.training.optimise import Phase, capture_optimizer, ordered_as, restore_optimizer
from backbench.training.order import num_pieces, piece_at


@dataclass
class Standing:
    """The state of a head: its training log, its best epoch, and whether it has ended.

    best_loss: loss of the most accurate epoch; lowest_loss: lowest loss of any epoch.
    """

    loss_sum: float = 0.0
    num_correct: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    lowest_loss: float = math.inf
    epochs_without: int = 0
    plateau_rate: float = 1.0
    plateau_best: float = math.inf
    plateau_bad: int = 0
    ended: str = ""


@dataclass
class LoopState:
    """Everything besides tensors that a resumed run needs. Plain numbers, stored as JSON.

    standings: one for each head that is trained. The later fields are only for fp16; see
    `training.step`.
    """

    epoch: int = 0
    batch: int = 0
    micro_batch_size: int = 0
    num_seen: int = 0
    standings: list[Standing] = field(default_factory=lambda: [Standing()])
    loss_scale: float = 65536.0
    num_good_steps: int = 0
    num_skipped: int = 0
    num_skipped_in_a_row: int = 0

    @property
    def has_ended(self) -> bool:
        return all(standing.ended for standing in self.standings)

    def to_json(self) -> dict[str, Any]:
        """A JSON document; infinity becomes None."""
        plain = asdict(self)
        plain["standings"] = [
            {key: None if value == math.inf else value for key, value in standing.items()}
            for standing in plain["standings"]
        ]
        return plain

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LoopState:
        plain: list[dict[str, Any]] = [
            {key: math.inf if value is None else value for key, value in standing.items()}
            for standing in stored["standings"]
        ]
        return cls(**{**stored, "standings": [Standing(**standing) for standing in plain]})


@dataclass
class Loop:
    """A running phase. members: parameter names of each head, with a state each; see `Phase.members`."""

    network: nn.Module
    batches: Batches
    phase: Phase
    seed: int
    device: str
    precision: Precision
    workspace: Workspace
    deadline: float | None
    stop_signal: Callable[[], int]
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    class_weights: Tensor | None
    state: LoopState
    frozen_digest: str = ""
    members: tuple[frozenset[str], ...] = ()
    average: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    epoch_seconds: list[float] = field(default_factory=list)
    is_cut: bool = False
    validated_at_once: int = VALIDATION_BATCH
    saved: float = field(default_factory=time.monotonic)

    @property
    def recipe(self) -> Recipe:
        return self.phase.recipe

    @property
    def steps_per_epoch(self) -> int:
        return num_pieces(len(self.batches.train_labels), self.recipe.batch_size)

    def batch_at(self, step: int) -> slice:
        """The batch of this step of an epoch, over all processes, as a slice of the epoch's order."""
        return piece_at(step, len(self.batches.train_labels), self.recipe.batch_size)

    @property
    def num_in_batch(self) -> int:
        """Number of images of the next batch, over all processes."""
        batch = self.batch_at(self.state.batch)
        return batch.stop - batch.start

    @property
    def step(self) -> int:
        """Steps taken since the phase began."""
        return self.state.epoch * self.steps_per_epoch + self.state.batch


def own_tensors(loop: Loop) -> dict[str, Tensor]:
    """Tensors that training may change: trained parameters, and buffers of modules with one."""
    owners = {name.rpartition(".")[0] for name in loop.parameters}
    everything = loop.network.state_dict(keep_vars=True)
    buffers = {name for name, _ in loop.network.named_buffers() if name.rpartition(".")[0] in owners}
    return {
        name: tensor.detach() for name, tensor in everything.items() if name in loop.parameters or name in buffers
    }


@torch.no_grad()
def put_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named tensors into the network's parameters and buffers, in place."""
    own = network.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def save_loop(loop: Loop) -> None:
    """Save the state; the state at the start of the epoch stays until the next epoch begins.

    All processes have the same state, so only the first writes.
    """
    if not is_first():
        return
    tensors = {f"weights/{name}": tensor for name, tensor in own_tensors(loop).items()}
    optimizer = capture_optimizer(loop.optimizer, loop.parameters)
    tensors |= {f"optimizer/{name}": value for name, value in optimizer.items()}
    tensors |= {f"average/{name}": tensor for name, tensor in loop.average.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in loop.best.items()}
    state = {"loop": loop.state.to_json(), "seed": loop.seed, "frozen": loop.frozen_digest}
    epoch_start = loop.step - loop.state.batch
    loop.workspace.save(loop.phase.name, loop.step, Checkpoint(tensors, state), keep=frozenset({epoch_start}))
    loop.saved = time.monotonic()


def load_stored(loop: Loop) -> Checkpoint | None:
    """The newest state of the phase, the same on every process; None if there is none.

    Raises:
        StorageError: no valid file, or the processes see different files.
    """
    wait_for_all()  # the first may still be writing
    stored = loop.workspace.load_latest(loop.phase.name)
    place = -1
    if stored is not None:
        place = stored.state["loop"]["epoch"] * loop.steps_per_epoch + stored.state["loop"]["batch"]
    most, opposite = agree_most(place, -place)
    if most != -opposite:
        raise StorageError(
            f"the processes of this run see different checkpoints in {loop.workspace.folder}: --out must be a "
            f"folder that all of them share."
        )
    return stored


def restore_loop(loop: Loop, stored: Checkpoint) -> None:
    """Put a stored state back.

    Raises:
        StorageError: the state belongs to a run with another seed, other frozen weights or other tensors.
    """
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "average": {}, "best": {}}
    for path, tensor in stored.tensors.items():
        kind, _, name = path.partition("/")
        if kind in parts:
            parts[kind][name] = tensor
    own = own_tensors(loop)
    fits = parts["weights"].keys() == own.keys() and all(
        tensor.shape == own[name].shape for name, tensor in parts["weights"].items()
    )
    if not fits or stored.state["seed"] != loop.seed or stored.state["frozen"] != loop.frozen_digest:
        raise StorageError(
            f"the checkpoint in {loop.workspace.folder} belongs to another run of '{loop.phase.name}' (other "
            "weights, data or seed). Delete the folder to start again."
        )
    put_tensors(loop.network, parts["weights"])
    restore_optimizer(loop.optimizer, loop.parameters, parts["optimizer"])
    loop.average = {name: ordered_as(own[name], tensor) for name, tensor in parts["average"].items()}
    loop.best = {name: tensor.to(loop.device) for name, tensor in parts["best"].items()}
    loop.state = LoopState.from_json(stored.state["loop"])
