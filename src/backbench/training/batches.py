"""What training reads: batches as a function of (epoch, step), from images or from features already extracted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbench.config import Augment, Preprocess
from backbench.inference.resize import prepare_batch
from backbench.runtime import num_workers
from backbench.task import Features, Part
from backbench.training.augment.batch import augment_batch

VALIDATION_BATCH = 128
ALL = slice(None)


class Batches(Protocol):
    """Training and validation examples; `load` has no state, so a run that is resumed reads the same."""

    @property
    def train_labels(self) -> np.ndarray:
        """(n,) int64: the class of each training example."""
        ...

    @property
    def num_val(self) -> int:
        """Validation examples; 0: there are none."""
        ...

    def load(self, epoch: int, step: int, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and (b, classes) float32 targets of training examples `indices`, on the device."""
        ...

    def validation(self, chosen: slice = ALL) -> Iterator[tuple[Tensor, np.ndarray]]:
        """The `chosen` validation examples once, in their order: inputs and (b,) labels, b <= VALIDATION_BATCH;
        never augmented."""
        ...


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Images, decoded by `read`, augmented only in training. See `Batches`."""

    read: Callable[[int], np.ndarray]
    train: Part
    val: Part
    num_classes: int
    preprocess: Preprocess
    augment: Augment
    smoothing: float
    seed: int
    device: str
    exact_resize: bool = False

    @property
    def train_labels(self) -> np.ndarray:
        return self.train.labels

    @property
    def num_val(self) -> int:
        return len(self.val)

    def load(self, epoch: int, step: int, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return augment_batch(
            self._read_all(self.train.rows[indices]),
            make_targets(self.train.labels[indices], self.num_classes, self.smoothing),
            self.augment,
            self.preprocess,
            seed=self.seed,
            epoch=epoch,
            step=step,
            indices=indices,
            num_classes=self.num_classes,
            device=self.device,
            exact=self.exact_resize,
        )

    def validation(self, chosen: slice = ALL) -> Iterator[tuple[Tensor, np.ndarray]]:
        rows, labels = self.val.rows[chosen], self.val.labels[chosen]
        for first in range(0, len(rows), VALIDATION_BATCH):
            part = slice(first, first + VALIDATION_BATCH)
            images = self._read_all(rows[part])
            batch = prepare_batch(images, self.preprocess, device=self.device, exact=self.exact_resize)
            yield batch, labels[part]

    def _read_all(self, rows: np.ndarray) -> Sequence[np.ndarray]:
        # One job for each worker, not for each image: most images are already decoded in memory.
        shares = [share.tolist() for share in np.array_split(rows, num_workers())]
        with ThreadPoolExecutor(len(shares)) as pool:
            return [image for images in pool.map(self._read_some, shares) for image in images]

    def _read_some(self, rows: list[int]) -> list[np.ndarray]:
        return [self.read(row) for row in rows]


@dataclass(frozen=True, eq=False)
class Activations:
    """Outputs of a frozen part of a network: (n, ...) in memory, and (n,) int64 labels."""

    values: Tensor
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class FeatureBatches:
    """Features or activations of the frozen part: a step costs only a step of the rest. See `Batches`."""

    train: Features | Activations
    val: Features | Activations
    num_classes: int
    smoothing: float
    device: str

    @property
    def train_labels(self) -> np.ndarray:
        return self.train.labels

    @property
    def num_val(self) -> int:
        return len(self.val)

    def load(self, epoch: int, step: int, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        values = torch.as_tensor(self.train.values)[torch.from_numpy(indices)].to(self.device)
        targets = make_targets(self.train.labels[indices], self.num_classes, self.smoothing)
        return values, targets.to(self.device)

    def validation(self, chosen: slice = ALL) -> Iterator[tuple[Tensor, np.ndarray]]:
        values, labels = torch.as_tensor(self.val.values)[chosen], self.val.labels[chosen]
        for first in range(0, len(labels), VALIDATION_BATCH):
            part = slice(first, first + VALIDATION_BATCH)
            yield values[part].to(self.device), labels[part]


def make_targets(labels: np.ndarray, num_classes: int, smoothing: float) -> Tensor:
    """(b,) labels -> (b, classes) float32: 1 - smoothing at the label, plus smoothing / classes everywhere."""
    one_hot = F.one_hot(torch.from_numpy(np.asarray(labels, dtype=np.int64)), num_classes).float()
    return one_hot * (1.0 - smoothing) + smoothing / num_classes
