"""Augmentation of training batches beside torchvision's v2, on one core.

Run: python benchmarks/augment.py [--out FILE] [--rounds N]

The same policies three ways: backbench's `augment_batch`; torchvision v2 image by image, as a data set's transform
does (uint8 tensors, then stacked); torchvision v2 on a whole batch of images of one size, which draws one set of
parameters for all of them: faster, but not the same augmentation. The ways take turns within a round, times are
CPU seconds of this process, figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.transforms import InterpolationMode, v2

from backbench.config import AUGMENT_PRESETS, Augment, Preprocess
from backbench.training.augment import augment_batch

NUM_CLASSES = 10
ALPHAS = {"mixup": 0.2, "cutmix": 1.0}
JITTER = Augment(
    crop="random-resized", flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter_probability=0.8
)
POLICIES: dict[str, Augment] = {
    "basic": AUGMENT_PRESETS["basic"],
    "strong": AUGMENT_PRESETS["strong"],
    "jitter": JITTER,
    "randaugment": AUGMENT_PRESETS["randaugment"],
}
CASES: dict[str, tuple[tuple[int, int], int, int]] = {  # what: (height, width) of the images, input side, batch
    "32 px to 32 px": ((32, 32), 32, 128),
    "32 px to 224 px": ((32, 32), 224, 32),
    "375 x 500 photographs to 224 px": ((375, 500), 224, 16),
}


def per_image_transform(policy: str, side: int) -> v2.Transform:
    """torchvision's own classes, in the order of its reference recipe."""
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(side, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    if policy == "jitter":
        steps.append(v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8))
    if policy == "randaugment":
        steps.append(v2.RandAugment(2, 9))
    preprocess = Preprocess(size=(side, side))
    return v2.Compose(
        [*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocess.mean, preprocess.std)]
    )


def make_ways(policy: str, shape: tuple[int, int], side: int, num: int) -> dict[str, Callable[[], object]]:
    """The three ways on the same `num` images in memory; each call does one batch."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (num, 3, 12, 12), dtype=np.uint8))
    smooth = v2.functional.resize(small, list(shape), InterpolationMode.BICUBIC)
    images = [np.ascontiguousarray(image) for image in smooth.permute(0, 2, 3, 1).numpy()]
    targets = torch.eye(NUM_CLASSES)[torch.arange(num) % NUM_CLASSES]
    augment, preprocess, transform = (
        POLICIES[policy],
        Preprocess(size=(side, side)),
        per_image_transform(policy, side),
    )
    mixing = v2.RandomChoice([v2.MixUp(alpha=ALPHAS["mixup"]), v2.CutMix(alpha=ALPHAS["cutmix"])])
    steps = iter(range(10**9))

    def ours() -> object:
        step = next(steps)
        return augment_batch(
            images,
            targets,
            augment,
            preprocess,
            seed=0,
            epoch=0,
            step=step,
            indices=np.arange(num) + step * num,
            num_classes=NUM_CLASSES,
        )

    def image_by_image() -> object:
        batch = torch.stack([transform(torch.from_numpy(image).permute(2, 0, 1)) for image in images])
        return mixing(batch, targets) if policy == "strong" else batch

    def whole_batch() -> object:
        stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        batch = transform(stack)
        return mixing(batch, targets) if policy == "strong" else batch

    return {"backbench": ours, "v2 per image": image_by_image, "v2 per batch": whole_batch}


def measure(ways: dict[str, Callable[[], object]], num: int, rounds: int, seconds: float) -> dict[str, float]:
    """Images for each CPU second: the median over rounds in which the ways take turns."""
    repeats = {}
    for name, way in ways.items():
        way()
        started = time.process_time()
        way()
        repeats[name] = max(1, round(seconds / max(time.process_time() - started, 1e-6)))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            for _ in range(repeats[name]):
                way()
            rates[name].append(repeats[name] * num / (time.process_time() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def render(rows: list[tuple[str, str, dict[str, float]]], rounds: int) -> str:
    """The table as Markdown."""
    lines = [
        "# Augmentation: images for each CPU second of one core",
        "",
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}.",
        f"Medians of {rounds} rounds, the ways in turn, on a machine that others use too.",
        "From decoded uint8 images in memory to a normalised float batch.",
        "`v2 per batch` draws one crop, one flip and one colour for all images of a batch: it is shown for its",
        "speed, it is not the same augmentation.",
        "",
        "| images | policy | backbench | v2 per image | v2 per batch | backbench / v2 per image |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case, policy, rates in rows:
        ours, single, whole = rates["backbench"], rates["v2 per image"], rates["v2 per batch"]
        lines.append(f"| {case} | {policy} | {ours:,.0f} | {single:,.0f} | {whole:,.0f} | {ours / single:.2f}x |")
    lines += ["", "Command: `python benchmarks/augment.py --out benchmarks/results/augment.md`", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="augmentation beside torchvision's v2")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="CPU seconds for each way and round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for case, (shape, side, num) in CASES.items():
        for policy in POLICIES:
            rows.append(
                (case, policy, measure(make_ways(policy, shape, side, num), num, options.rounds, options.seconds))
            )
    text = render(rows, options.rounds)
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
