"""PyTorch's tutorial network on CIFAR-10 in plain PyTorch, with as many training images as backbench leaves it.

    python benchmarks/plain_lenet.py CIFAR10/ --images 40000

CIFAR10/ holds train/ and test/, each with one folder for each class. Two epochs, batches of 4, SGD at 0.001 with
momentum 0.9, as in "Training a classifier" (pytorch.org/tutorials); some 2 minutes. What `lenet` of
studies/cifar10-transfer.toml reaches should be near: everything between the images and the figure is backbench's
there, and none of it here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

EPOCHS = 2


def read_part(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 3, 32, 32) uint8 and (n,) int64: images, and the places of their folders in order of name."""
    pixels, labels = [], []
    for label, of_class in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(of_class.iterdir()):
            pixels.append(np.asarray(Image.open(file).convert("RGB")))
            labels.append(label)
    return torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(labels)


def scale(batch: torch.Tensor) -> torch.Tensor:
    """As the tutorial: -1 to 1."""
    return (batch.float() / 255 - 0.5) / 0.5


def make_network() -> nn.Module:
    """As the tutorial, with torch's own start."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def main() -> None:
    """Train, and print the accuracy on the test split after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=50_000, help="of the training split, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    (train, labels), (test, truth) = read_part(given.data / "train"), read_part(given.data / "test")
    network = make_network()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    chosen = torch.randperm(len(train))[: given.images]
    for epoch in range(1, EPOCHS + 1):
        for rows in chosen[torch.randperm(len(chosen))].split(4):
            optimiser.zero_grad()
            F.cross_entropy(network(scale(train[rows])), labels[rows]).backward()
            optimiser.step()
        with torch.inference_mode():
            told = torch.cat([network(scale(part)).argmax(1) for part in test.split(1000)])
        accuracy = 100 * float((told == truth).float().mean())
        print(f"{len(chosen):,} images, epoch {epoch}: {accuracy:.1f} % of the test split")


if __name__ == "__main__":
    main()
