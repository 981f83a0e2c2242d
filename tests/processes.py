"""The same training in this process alone, or in one of several; what comes out is kept to be compared.

Usage: processes.py NUMBER FOLDER. Process NUMBER of 0, 1, 2 takes part in a group of three, then in one of two,
then goes on alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from backbench.classifier.classifier import Classifier
from backbench.config import Augment, DataConfig, MethodConfig, Recipe, RunConfig
from backbench.distributed import wait_for_all
from backbench.errors import BackbenchError, Interrupted
from backbench.heads.head_modules import make_linear
from backbench.inference.features import extract_features
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from backbench.runtime import make_torch_rng
from backbench.task import Features, Part
from backbench.training.batches import FeatureBatches, ImageBatches
from backbench.training.checkpoint import Workspace
from backbench.training.optimise import Phase
from backbench.training.train import fit

WORLDS = (3, 2)
NAMES = ("a", "b", "c")
NUM_TRAIN, NUM = 16, 21
# 7, 7 and 2 images: then one of three processes has none. AdamW would make whole steps of gradients that are zero
# but for rounding.
RECIPE = Recipe(epochs=1, batch_size=7, learning_rate=0.02, warmup_epochs=0, optimizer="sgd")
CROPPED = Augment(crop="random-resized", flip=True)
CASES = {
    "tiny_vit": RECIPE.model_copy(update={"augment": CROPPED, "ema_decay": 0.9}),
    "tiny_cnn": RECIPE.model_copy(update={"augment": CROPPED.model_copy(update={"mixup": 1.0, "cutmix": 1.0})}),
}
FEATURE_RECIPE = Recipe(
    epochs=3, batch_size=7, micro_batch_size=2, learning_rate=0.05, class_weights="auto", optimizer="sgd"
)


def pictures(num: int = NUM) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (num, 40, 36, 3), dtype=np.uint8))


def train_on_images(name: str, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    backbone = find_model(name).load(0)
    head = make_linear(backbone.facts.dim, 3, make_torch_rng(0, "head"))
    network = Classifier(backbone, head, NAMES)
    labels, images = np.arange(NUM) % 3, pictures()
    parts = [
        Part(np.arange(NUM)[s], labels[s], tuple(map(str, range(NUM)))[s])
        for s in (slice(NUM_TRAIN), slice(NUM_TRAIN, None))
    ]
    recipe = CASES[name]
    batches = ImageBatches(
        images.__getitem__, *parts, 3, backbone.preprocess, recipe.augment, 0.1, seed=0, device="cpu"
    )
    phase = Phase("images", frozenset(name for name, _ in network.named_parameters()), recipe)
    result = fit(network, batches, phase, class_names=NAMES, workspace=Workspace(folder / name))
    # the last weights too: the best ones may be those before training
    return end_of(network, folder / name, "images"), asdict(result)


def end_of(network: nn.Module, folder: Path, phase: str) -> dict[str, torch.Tensor]:
    wait_for_all()  # until the first one has written it
    stored = Workspace(folder).load_latest(phase)
    assert stored is not None
    last = {name: tensor for name, tensor in stored.tensors.items() if name.startswith(("weights/", "average/"))}
    return {**network.state_dict(), **last}


def train_on_features(
    folder: Path, *, stop_at: int = 0, deadline: float | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    values = (rng.normal(size=(40, 6)) + np.eye(3, 6)[labels]).astype(np.float32)
    ids = tuple(map(str, range(40)))
    parts = [Features(values[s], labels[s], ids[s]) for s in (slice(23), slice(23, None))]
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    asked = 0

    def signal() -> int:
        nonlocal asked
        asked += 1
        return 15 if asked == stop_at else 0

    result = fit(
        network,
        FeatureBatches(*parts, num_classes=3, smoothing=0.0, device="cpu"),
        Phase("features", frozenset(name for name, _ in network.named_parameters()), FEATURE_RECIPE),
        class_names=NAMES,
        workspace=Workspace(folder),
        stop_signal=signal,
        deadline=deadline,
    )
    return network, asdict(result)


def extract(num: int, *, is_shared: bool) -> np.ndarray:
    images = pictures(num)
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    hashes[-1] = hashes[0]  # an image that is there twice
    return extract_features(
        find_model("tiny_cnn").load(0),
        lambda row: images[row],
        hashes,
        names=hashes,
        batch_size=2,
        is_shared=is_shared,
    ).values


def adapt_photos(photos: Path, out: Path) -> dict[str, Any]:
    options = {"recipe": {"epochs": 1, "batch_size": 7, "learning_rate": 1e-3, "augment": "strong"}}
    config = RunConfig(
        data=DataConfig(source=str(photos)), model="tiny_cnn", method=MethodConfig(name="full", options=options)
    )
    adapted = adapt(config, RunContext(out))
    return {name: metric.value for name, metric in adapted.record.metrics.items()} | {"id": adapted.record.run_id}


def take_part(number: int, world: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store-{world}",
        rank=number,
        world_size=world,
        timeout=timedelta(seconds=120),
    )
    own = folder / f"{world}"
    tensors, results = {}, {}
    for name in CASES:
        found, results[name] = train_on_images(name, own)
        tensors |= {f"{name}/{key}": tensor for key, tensor in found.items()}
    for num in range(1, 8):
        tensors[f"extracted/{num}"] = torch.from_numpy(extract(num, is_shared=True))
    cut = own / "cut"
    try:
        train_on_features(cut, stop_at=6 if number == 1 else 0)
    except Interrupted as error:
        results["interrupted"] = {"exit_status": error.exit_status}
    _, results["late"] = train_on_features(own / "late", deadline=0.0 if number == 1 else None)
    if world == 2:  # what three began
        network, results["resumed"] = train_on_features(folder / "3" / "cut")
        tensors |= {f"resumed/{name}": tensor for name, tensor in network.state_dict().items()}
        results["adapted"] = adapt_photos(folder / "photos", own / "runs")
        try:  # a peer that leaves is an error, not a wait
            train_on_features(own / "left" if number == 0 else refuse())
        except BackbenchError as error:
            results["left"] = {"error": type(error).__name__}
    torch.distributed.destroy_process_group()
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, f"{own}-{number}.safetensors"
    )
    (folder / f"{world}-{number}.json").write_text(json.dumps(results))


def refuse() -> Path:
    torch.distributed.destroy_process_group()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{sys.argv[2]}/store-alone", rank=0, world_size=1
    )
    raise BackbenchError("left")


def main() -> None:
    number, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    for world in WORLDS:
        if number < world:
            take_part(number, world, folder)


if __name__ == "__main__":
    main()
