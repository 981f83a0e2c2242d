"""Feature extraction beside what it replaces: a probe end to end, engines, input, cache, growth.

    python benchmarks/features.py --data FOLDER --out benchmarks/results/features.md

FOLDER holds `cifar10-mini` and `cifar100-mini` (32x32 PNG, `train|test/<class>/*.png`). Weights are random: these
are timings. Each job runs in a process of its own, in turn with what it is compared with, on one core with one
thread, so that other work on the machine disturbs both alike; ratios are of CPU-seconds, formed round by
round, and their median is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS = 5
SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUM_SMALL, DIM = 4_000, 2_048


def list_images(folder: Path) -> tuple[list[Path], list[str], int]:
    """2,000 files, their classes, and how many come first as the training split: 1,500; 35 classes."""
    parts = []
    for part, num_c10 in (("train", 100), ("test", 38)):
        files = []
        for name in sorted((folder / "cifar10-mini" / part).iterdir()):
            files += sorted(name.glob("*.png"))[:num_c10]
        files = files[: 1_000 if part == "train" else 375]
        for name in sorted((folder / "cifar100-mini" / part).iterdir())[:25]:
            files += sorted(name.glob("*.png"))
        parts.append(files)
    train, test = parts
    assert (len(train), len(test)) == (1_500, 500), (len(train), len(test))
    return train + test, [file.parent.name for file in train + test], len(train)


def make_network(name: str) -> Any:
    import timm
    import torch

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0).eval()


def wrap(body: Any, name: str, size: int = SIZE) -> Any:
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.config import Preprocess

    preprocess = Preprocess(size=(size, size), mean=MEAN, std=STD)
    return make_backbone(body, name=name, architecture=name, preprocess=preprocess, origin=Origin(None))


class Clock:
    """CPU-seconds of the process and wall clock since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        return {"cpu": time.process_time() - self.cpu, "wall": time.perf_counter() - self.wall}


def seeds_way(options: dict[str, Any]) -> dict[str, Any]:
    """Frozen forward over train and test in each epoch, Adam on the head: what the seed repositories do."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    files, names, num_train = list_images(Path(options["data"]))
    labels = np.unique(names, return_inverse=True)[1]
    transform = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    class Images(Dataset):  # type: ignore[type-arg]
        def __init__(self, rows: range) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            row = self.rows[index]
            return transform(Image.open(files[row]).convert("RGB")), int(labels[row])

    network = make_network(options["model"])
    clock = Clock()
    head = torch.nn.Linear(network.num_features, int(labels.max()) + 1)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3)
    train = DataLoader(Images(range(num_train)), batch_size=32, shuffle=True)
    test = DataLoader(Images(range(num_train, len(files))), batch_size=32)
    for _ in range(options["epochs"]):
        for batch, target in train:
            with torch.no_grad():
                features = network(batch)
            loss = torch.nn.functional.cross_entropy(head(features), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            right = sum(int((head(network(batch)).argmax(1) == target).sum()) for batch, target in test)
    return clock.read() | {"accuracy": right / (len(files) - num_train)}


def our_way(options: dict[str, Any]) -> dict[str, Any]:
    """Hash, extract once, logistic head with a sweep of its strength; then the same again from the cache."""
    from backbench.data.listing import Listing
    from backbench.data.store import PixelStore
    from backbench.inference.features import extract_features
    from backbench.methods.logistic import LogisticOptions, adapt
    from backbench.task import Features, Task

    files, names, num_train = list_images(Path(options["data"]))
    classes, labels = np.unique(names, return_inverse=True)
    backbone = wrap(make_network(options["model"]), options["model"])
    empty: tuple[str | None, ...] = (None,) * len(files)
    ids = tuple(str(file) for file in files)
    report: dict[str, Any] = {}
    for turn in ("first", "second"):
        clock = Clock()
        store = PixelStore(Listing("cifar", ids, tuple(names), empty, empty, files=tuple(files)), 10**8)
        hashes = [store.hash_of(row) for row in range(len(files))]
        hashing = clock.read()
        extracting = Clock()
        extraction = extract_features(
            backbone,
            store.read,
            hashes,
            names=ids,
            precision=options["precision"],
            stage_seconds=lambda store=store: (store.read_seconds, store.decode_seconds),
        )
        report[f"{turn}_extract"] = extracting.read()
        report[f"{turn}_hash"] = hashing
        rows = np.random.default_rng(0).permutation(num_train)
        parts = [
            Features(extraction.values[part], labels[part], tuple(ids[row] for row in part))
            for part in (np.sort(rows[300:]), np.sort(rows[:300]))
        ]
        fitting = Clock()
        fitted = adapt(Task(*parts, class_names=tuple(classes)), LogisticOptions())
        report[f"{turn}_head"] = fitting.read()
        logits = fitted.head.logits(extraction.values[num_train:])
        report["accuracy"] = float((logits.argmax(1) == labels[num_train:]).mean())
        report[turn] = clock.read()
        report.setdefault("stages", dict(extraction.cost.seconds))
    return report


def engines(options: dict[str, Any]) -> dict[str, Any]:
    """Images per CPU-second of timm's eager fp32 and of the accelerated copy, in turn."""
    import torch

    from backbench.inference.accelerate import accelerate

    body = make_network(options["model"])
    backbone = wrap(body, options["model"])
    batch = torch.randn(8, 3, SIZE, SIZE)
    runs: dict[str, Callable[[torch.Tensor], Any]] = {
        "eager": body,
        "fp32": accelerate(backbone, precision="fp32"),
        "bf16": accelerate(backbone, precision="bf16"),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(options["rounds"] + 1):
            for name, run in runs.items():
                given = batch if name == "eager" else batch.to(memory_format=torch.channels_last)
                clock = Clock()
                run(given)
                run(given)
                if turn:  # the first warms up
                    rates[name].append(2 * len(batch) / clock.read()["cpu"])
    return rates


def inputs(options: dict[str, Any]) -> dict[str, Any]:
    """CPU-milliseconds from a decoded image to a normalised tensor: PIL and torchvision against ours."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from backbench.config import Preprocess
    from backbench.inference.resize import prepare_batch

    high, wide = options["shape"]
    fraction = options["crop_fraction"]
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (32, high, wide, 3), dtype=np.uint8))
    transform = transforms.Compose(
        [
            transforms.Resize(int(SIZE / fraction), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    preprocess = Preprocess(size=(SIZE, SIZE), crop_fraction=fraction, mean=MEAN, std=STD)
    runs: dict[str, Callable[[], Any]] = {
        "peer": lambda: torch.stack([transform(Image.fromarray(image)) for image in images]),
        "exact": lambda: prepare_batch(images, preprocess, exact=True),
        "fast": lambda: [prepare_batch(images[start : start + 8], preprocess) for start in range(0, 32, 8)],
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options["rounds"] + 1):
        for name, run in runs.items():
            clock = Clock()
            run()
            if turn:
                times[name].append(clock.read()["cpu"] / len(images) * 1e3)
    return times


def growth(options: dict[str, Any]) -> dict[str, Any]:
    """Extraction of n generated images by a network of 2,048 features that costs little."""
    import hashlib

    import torch

    from backbench.inference.features import extract_features

    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, DIM, 8, stride=8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    backbone = wrap(body, "wide", size=32)

    def read(row: int) -> np.ndarray:
        return np.random.default_rng(row).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def run(num: int) -> dict[str, float]:
        hashes = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(num)]
        clock = Clock()
        extract_features(backbone, read, hashes, names=hashes)
        return clock.read()

    run(500)  # what is used once, is used
    seconds = run(options["num"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    clock = Clock()
    run(options["num"])
    return seconds | {"peak_bytes": peak, "cached": clock.read()}


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "seeds_way": seeds_way,
    "our_way": our_way,
    "engines": engines,
    "inputs": inputs,
    "growth": growth,
}


def run_job(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run a job in a fresh process, on one core with one thread unless `threads` says otherwise."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"BACKBENCH_CACHE": cache, "OMP_NUM_THREADS": str(options.get("threads", 1))}
        command = [sys.executable, __file__, "--job", name, "--options", json.dumps(options)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(name, options, result, file=sys.stderr, flush=True)
    return result


def child(name: str, options: dict[str, Any]) -> None:
    threads = options.get("threads", 1)
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[options.get("core", 0)]})
    import torch

    torch.set_num_threads(threads)
    print(json.dumps(JOBS[name](options)))


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def report_probe(arguments: argparse.Namespace) -> list[str]:
    rows, cache_rows = [], []
    epochs = arguments.peer_epochs
    for model in ("resnet18", "vit_tiny_patch16_224"):
        options = {"data": str(arguments.data), "model": model}
        peers: list[dict[str, Any]] = []
        runs: dict[str, list[dict[str, Any]]] = {"fp32": [], "bf16": []}
        for _ in range(arguments.probe_rounds):
            peers.append(run_job("seeds_way", options | {"epochs": epochs}))
            for precision, ours in runs.items():
                ours.append(run_job("our_way", options | {"precision": precision}))
        for precision, ours in runs.items():
            scale = EPOCHS / epochs
            ratio = median_ratio([p["cpu"] * scale for p in peers], [o["first"]["cpu"] for o in ours])
            wall = median_ratio([p["wall"] * scale for p in peers], [o["first"]["wall"] for o in ours])
            one, peer = ours[-1], peers[-1]
            stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in one["stages"].items())
            rows.append(
                [
                    model,
                    precision,
                    f"{peer['cpu'] * scale:.0f}",
                    f"{one['first']['cpu']:.1f} ({stages}, head {one['first_head']['cpu']:.1f})",
                    f"**{ratio:.1f}x**",
                    f"{wall:.1f}x",
                ]
            )
            again = median_ratio(
                [o["first_extract"]["cpu"] for o in ours], [o["second_extract"]["cpu"] for o in ours]
            )
            again_wall = median_ratio(
                [o["first_extract"]["wall"] for o in ours], [o["second_extract"]["wall"] for o in ours]
            )
            cache_rows.append(
                [
                    model,
                    precision,
                    f"{one['first_extract']['cpu']:.1f}",
                    f"{one['second_extract']['cpu'] * 1e3:.0f} ms",
                    f"**{again:.0f}x**",
                    f"{again_wall:.0f}x",
                ]
            )
    ran = "run in full" if epochs == EPOCHS else f"{epochs} of its {EPOCHS} epochs run, and scaled"
    return [
        table(
            f"Probe from files to score, 1,500 + 500 images (peer: {ran}); target 8x",
            ["model", "precision", "seeds' way, CPU-s", "ours, CPU-s", "ratio, CPU", "ratio, wall"],
            rows,
        ),
        table(
            "Extraction again, from the cache; target 50x",
            ["model", "precision", "first, CPU-s", "second", "ratio, CPU", "ratio, wall"],
            cache_rows,
        ),
    ]


def report_engines(arguments: argparse.Namespace) -> str:
    rows = []
    for model in arguments.models:
        rates = run_job("engines", {"model": model, "rounds": arguments.rounds})
        eager = rates["eager"]
        row = [model, f"{statistics.median(eager):.1f}"]
        for name in ("fp32", "bf16"):
            row.append(f"{statistics.median(rates[name]):.1f}, **{median_ratio(rates[name], eager):.2f}x**")
        rows.append(row)
    head = ["model", "timm eager fp32", "ours fp32", "ours bf16"]
    return table("Engines: images per CPU-second of one thread, batches of 8 at 224 pixels", head, rows)


def report_inputs(arguments: argparse.Namespace) -> str:
    rows = []
    for shape, fraction in (((32, 32), 1.0), ((64, 64), 1.0), ((400, 500), 0.875), ((1200, 1600), 0.875)):
        times = run_job("inputs", {"shape": shape, "crop_fraction": fraction, "rounds": arguments.rounds})
        row = [f"{shape[0]}x{shape[1]}", f"{fraction}", f"{statistics.median(times['peer']):.2f}"]
        for name in ("exact", "fast"):
            row.append(
                f"{statistics.median(times[name]):.3f}, **{median_ratio(times['peer'], times[name]):.1f}x**"
            )
        rows.append(row)
    head = ["image", "crop fraction", "PIL + torchvision v1", "ours, exact", "ours, fast"]
    return table("Decoded image to normalised 224x224 tensor, CPU-milliseconds each; target 2.5x", head, rows)


def report_growth(arguments: argparse.Namespace) -> str:
    small = [run_job("growth", {"num": NUM_SMALL}) for _ in range(arguments.growth_rounds)]
    large = [run_job("growth", {"num": 10 * NUM_SMALL}) for _ in range(arguments.growth_rounds)]
    times = median_ratio([job["cpu"] for job in large], [job["cpu"] for job in small])
    added = 9 * NUM_SMALL * DIM * 4
    memory = (
        statistics.median(b["peak_bytes"] - a["peak_bytes"] for a, b in zip(small, large, strict=True)) / added
    )
    rate = 10 * NUM_SMALL * DIM * 4 / large[-1]["cached"]["cpu"] / 1e9
    rows = [
        [f"{NUM_SMALL:,} to {10 * NUM_SMALL:,}", f"**{times:.2f}x**", f"**{memory:.2f}x**", f"{rate:.2f} GB/s"]
    ]
    head = [
        "images",
        "time(10 N) / time(N), CPU",
        "growth of peak memory / growth of features",
        "read from the cache",
    ]
    return table(f"Growth, {DIM:,} features; targets 10.5x and 1.3x", head, rows)


def describe_machine(command: str) -> str:
    from importlib.metadata import version

    from backbench.runtime import describe_environment

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "numpy", "pillow"))
    processor = describe_environment("cpu")["processor"]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"# Feature extraction\n\n`{command}`\n\n{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, "
        f"{versions}; {processor}, {os.cpu_count()} cores, load at the start {load}. "
        "One core, one thread for each job; random weights; see `benchmarks/features.py` for the method.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10-mini and cifar100-mini")
    parser.add_argument("--out", type=Path, help="write the Markdown here as well")
    parser.add_argument("--rounds", type=int, default=5, help="of engines and inputs")
    parser.add_argument("--probe-rounds", type=int, default=1)
    parser.add_argument("--growth-rounds", type=int, default=3)
    parser.add_argument("--peer-epochs", type=int, default=EPOCHS, help=f"run this many of {EPOCHS} and scale")
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "resnet50", "efficientnet_b0", "vit_tiny_patch16_224"]
    )
    parser.add_argument("--only", nargs="+", choices=["probe", "engines", "inputs", "growth"])
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        child(arguments.job, arguments.options)
        return
    wanted = arguments.only or ["inputs", "engines", "growth", "probe"]
    if "probe" in wanted and arguments.data is None:
        parser.error("--data is needed for the probe; leave it out with --only inputs engines growth")
    given = [Path(sys.argv[0]).name, *sys.argv[1:]]
    if arguments.data is not None:
        given = ["FOLDER" if word == str(arguments.data) else word for word in given]
    parts = [describe_machine("python benchmarks/" + " ".join(given))]
    parts += [report_inputs(arguments)] if "inputs" in wanted else []
    parts += [report_engines(arguments)] if "engines" in wanted else []
    parts += [report_growth(arguments)] if "growth" in wanted else []
    parts += report_probe(arguments) if "probe" in wanted else []
    text = "\n".join(parts)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
