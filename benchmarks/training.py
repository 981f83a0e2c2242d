"""Fine-tuning beside its peers, and the training loop beside a bare one.

    python benchmarks/training.py --photos FOLDER --timm-train train.py --out benchmarks/results/training.md

FOLDER holds photographs in class folders; `train.py` is that of pytorch-image-models, which its package lacks.
transformers and accelerate are needed for the Trainer. Weights are random: these are timings.

First: resnet18 at 224 px, batch 32, AdamW, random resized crop and flip, from files on disk; every way in its own
process, in turn. A figure is CPU-seconds an image, from the difference of a long and a short run, so that
start-up falls out. Second: the same steps on the same tensors by `fit` and by twelve lines of plain torch.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from backbench.runtime import has_fast_bf16

NUM_CLASSES, BATCH, SIZE = 12, 32, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CARD = f"""name = "resnet18_random"
architecture = "timm/resnet18"
weights = "weights.safetensors"
licence = "none"
pretrained_on = "nothing"
[preprocess]
size = {SIZE}
crop_fraction = 1.0
interpolation = "bilinear"
mean = {list(MEAN)}
std = {list(STD)}
"""


def prepare(photos: Path, folder: Path) -> int:
    """Images in `folder/images/{train,val}`, a split, a card with random weights; gives the training images."""
    import timm
    import torch
    from safetensors.torch import save_file

    rows = []
    num_train = 0
    for name in sorted(path for path in photos.iterdir() if path.is_dir())[:NUM_CLASSES]:
        for number, file in enumerate(sorted(name.glob("*.jpg"))):
            part = "val" if number < 2 else "train"
            target = folder / "images" / part / name.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            rows.append((str(target.relative_to(folder / "images")), "test" if number == 0 else part))
            num_train += part == "train"
    with open(folder / "split.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("id", "part"), *rows])
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), folder / "weights.safetensors")
    (folder / "card.toml").write_text(CARD)
    return num_train


def ours_command(folder: Path, epochs: int, precision: str) -> list[str]:
    recipe = {
        "epochs": epochs,
        "batch_size": BATCH,
        "learning_rate": 1e-4,
        "layer_decay": 1.0,
        "clip_norm": 0,
        "patience": 0,
        "augment.crop": "random-resized",
        "augment.scale": "[0.08, 1.0]",
        "augment.flip": "true",
    }
    settings = [part for key, value in recipe.items() for part in ("--set", f"recipe.{key}={value}")]
    out = tempfile.mkdtemp(dir=folder)
    where = [str(folder / "images"), "--split", str(folder / "split.csv"), "--model", str(folder / "card.toml")]
    method = ["--method", "full", "--precision", precision, "--device", "cpu", "--quiet", "--out", out]
    return [sys.executable, "-m", "backbench", "adapt", *where, *method, *settings]


def timm_command(folder: Path, epochs: int, script: Path) -> list[str]:
    data = ["--data-dir", str(folder / "images"), "--train-split", "train", "--val-split", "val"]
    model = ["--model", "resnet18", "--num-classes", str(NUM_CLASSES), "--device", "cpu", "--output", str(folder)]
    recipe = ["-b", str(BATCH), "--opt", "adamw", "--lr", "1e-4", "--warmup-epochs", "0"]
    plain = ["--color-jitter", "0", "--no-prefetcher", "--workers", "0", "--epochs", str(epochs)]
    return [sys.executable, str(script), *data, *model, *recipe, *plain, "--smoothing", "0"]


def trainer_command(folder: Path, epochs: int) -> list[str]:
    return [sys.executable, __file__, "--job", "trainer", str(folder), str(epochs)]


def train_with_trainer(folder: Path, epochs: int) -> None:
    """transformers' Trainer around the same network, data set and transforms."""
    import timm
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from transformers import Trainer, TrainingArguments

    normalise = transforms.Normalize(MEAN, STD)
    crop = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    plain = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]
    parts = {
        part: ImageFolder(
            str(folder / "images" / part), transforms.Compose([*steps, transforms.ToTensor(), normalise])
        )
        for part, steps in (("train", crop), ("val", plain))
    }

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = timm.create_model("resnet18", num_classes=NUM_CLASSES)

        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.body(pixel_values)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    def collate(rows: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.stack([row[0] for row in rows]),
            "labels": torch.tensor([row[1] for row in rows]),
        }

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        num_train_epochs=epochs,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    Trainer(
        model=Network(),
        args=arguments,
        train_dataset=parts["train"],
        eval_dataset=parts["val"],
        data_collator=collate,
    ).train()


def cpu_seconds(command: list[str]) -> float:
    """CPU-seconds of a process on one core with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_peers(arguments: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_images = prepare(arguments.photos, folder)
        ways = {
            "transformers Trainer": lambda epochs: trainer_command(folder, epochs),
            "timm train.py": lambda epochs: timm_command(folder, epochs, arguments.timm_train),
            "backbench, fp32": lambda epochs: ours_command(folder, epochs, "fp32"),
        }
        if has_fast_bf16("cpu"):
            ways["backbench, bf16"] = lambda epochs: ours_command(folder, epochs, "bf16")
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, command in ways.items():
                short, long = (cpu_seconds(command(epochs)) for epochs in (1, 1 + arguments.epochs))
                rates[way].append(num_images * arguments.epochs / (long - short))
    lines = ["| way | images per CPU-second | against the Trainer | against timm |", "| --- | --- | --- | --- |"]
    for way, found in rates.items():
        against = [
            statistics.median(one / other for one, other in zip(found, rates[peer], strict=True))
            for peer in ("transformers Trainer", "timm train.py")
        ]
        lines.append(f"| {way} | {statistics.median(found):.1f} | {against[0]:.2f}x | {against[1]:.2f}x |")
    return lines


LOOP = """
import sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from backbench.config import Recipe
from backbench.training.batches import Activations, FeatureBatches
from backbench.training.checkpoint import Workspace
from backbench.training.optimise import Phase
from backbench.training.train import fit
from backbench.backbones.architectures.cnn import CNN
torch.set_num_threads(1)
torch.manual_seed(0)
STEPS, BATCH = 24, 128
images = torch.randn(STEPS * BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
labels = np.arange(STEPS * BATCH) % 10
network = nn.Sequential(CNN(), nn.Linear(256, 10))
def ours():
    few = Activations(images[:1], labels[:1])
    batches = FeatureBatches(Activations(images, labels), few, 10, 0.0, "cpu")
    names = frozenset(name for name, _ in network.named_parameters())
    phase = Phase("x", names, Recipe(epochs=1, batch_size=BATCH, learning_rate=1e-4, patience=0))
    with tempfile.TemporaryDirectory() as folder:
        fit(network, batches, phase, class_names=tuple("0123456789"), workspace=Workspace(Path(folder)))
def bare():
    network.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    order = torch.randperm(len(images))
    for step in range(STEPS):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        loss = F.cross_entropy(network(images[chosen]), torch.from_numpy(labels)[chosen])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        loss.item()
ways = (bare, ours)
for way in ways: way()
rounds = []
for _ in range(int(sys.argv[1])):
    times = []
    for way in ways:
        started = time.process_time()
        way()
        times.append(time.process_time() - started)
    rounds.append(times[1] / times[0])
print(sorted(rounds)[len(rounds) // 2])
"""


def measure_loop(rounds: int) -> float:
    """`fit` over a bare loop, CPU-seconds: 1 = no overhead. Its two checkpoints and digests are in it."""
    done = subprocess.run([sys.executable, "-c", LOOP, str(rounds)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        train_with_trainer(Path(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--timm-train", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1, help="that a long run has more than a short one")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = ("torch", "torchvision", "timm", "transformers", "accelerate")
    versions = {name: version(name) for name in names}
    overhead = measure_loop(max(3, arguments.rounds))
    text = "\n".join(
        [
            "# Training, compared with other libraries",
            "",
            f"`python benchmarks/training.py --photos FOLDER --timm-train train.py --rounds {arguments.rounds}`",
            "",
            f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {platform.machine()}; "
            f"{json.dumps(versions)[1:-1]}. One core, one thread, others use the machine too; medians of rounds.",
            "",
            "## ResNet-18 at 224 px, photographs from disk, batch 32, AdamW, crop and flip; target 1.7x",
            "",
            *measure_peers(arguments),
            "",
            f"This processor {'multiplies' if has_fast_bf16('cpu') else 'does not multiply'} bf16 natively.",
            "",
            "## `fit` beside a bare loop; target 3 %",
            "",
            f"`cnn` at 32 px, fp32, batch 128, 24 steps: {100 * (overhead - 1):+.1f} % CPU-seconds, with its "
            "digests of what is frozen, its checkpoints and its validation of one image.",
            "",
        ]
    )
    if arguments.out:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
