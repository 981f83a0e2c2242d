"""What pixels on the wrong scale do to frozen features: 0..255 where the weights expect 0..1, family by family.

    python benchmarks/pixel_scale.py DATA CARD... --size 96 --out benchmarks/results/pixel-scale.md

A published comparison normalised pixels of 0..255 with statistics meant for 0..1, so that everything its networks
saw was some 255 times too large, and concluded that transformers make poor feature extractors. Here each card is
ranked as it is, and with mean and deviation divided by 255, which is the same mistake. The study also left its
"frozen" networks in training mode, so the running statistics of batch norm moved to the new data: networks that
have any are ranked a third time, with the mistake and statistics that have seen the training images once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

SCALE = 255.0
WRONG, ADAPTED = "-times-255", "-times-255-adapted"
BATCH = 256


def write_wrong(card: Path, folder: Path) -> Path:
    """A copy of the card that is right in all but the scale of the pixels."""
    text = card.read_text()
    fields = tomllib.loads(text)
    for name in ("mean", "std"):
        line = next(line for line in text.splitlines() if line.partition("=")[0].strip() == name)
        text = text.replace(line, f"{name} = {[value / SCALE for value in fields['preprocess'][name]]}")
    for key in ("weights", "head_classes"):
        beside = card.parent / str(fields.get(key, ""))
        if beside.is_file():
            (folder / beside.name).symlink_to(beside.resolve())
    target = folder / card.name
    target.write_text(text.replace(f'name = "{fields["name"]}"', f'name = "{fields["name"]}{WRONG}"'))
    return target


def write_adapted(wrong: Path, data: str) -> Path | None:
    """The wrong card with running statistics moved to the data by one pass; None for networks without any.

    Weights into which batch norm was folded have none left: every running mean is 0.
    """
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from torch import nn

    from backbench.config import DataConfig
    from backbench.data.load import load_data
    from backbench.inference.resize import prepare_batch
    from backbench.registry import find_model
    from backbench.training.phases import are_norms_folded

    load = find_model(str(wrong)).load
    assert load is not None  # a card runs a network
    backbone = load(0)
    has_norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.body.modules())
    if not has_norms or are_norms_folded(backbone.body):
        return None
    images = load_data(DataConfig(source=data))
    rows = np.random.default_rng(0).permutation(images.manifest.part_rows("train"))
    backbone.body.train()
    with torch.no_grad():
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            pixels = [images.read(int(row)) for row in rows[start : start + BATCH]]
            backbone.body(prepare_batch(pixels, backbone.preprocess))
    weights = wrong.with_name(f"{wrong.stem}{ADAPTED}.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in backbone.body.state_dict().items()}, weights)
    text = wrong.read_text()
    fields = tomllib.loads(text)
    text = text.replace(f'"{fields["weights"]}"', f'"{weights.name}"')
    target = weights.with_suffix(".toml")
    target.write_text(text.replace(f'{WRONG}"', f'{ADAPTED}"'))
    return target


def rank(data: str, cards: list[Path], size: int | None, out: Path) -> dict[str, Any]:
    """One ranking of all cards, as `backbench rank --json` prints it."""
    suffix = "" if size is None else f"@{size}"
    models = ",".join(f"{card}{suffix}" for card in cards)
    command = [sys.executable, "-m", "backbench", "rank", data, "--models", models, "--methods", "logistic"]
    done = subprocess.run([*command, "--out", str(out), "--json"], capture_output=True, text=True, check=False)
    if not done.stdout:
        sys.exit(done.stderr)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def render(document: dict[str, Any], names: list[str]) -> list[str]:
    """A table row for each card: its accuracy with pixels on the right and on the wrong scale."""
    rows = {row["model"].partition("@")[0]: row for row in document["rows"] if not row["control"]}
    lines = [
        "| backbone | pixels as expected | 255 times too large | and batch norm adapted to that |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        adapted = rows.get(f"{name}{ADAPTED}")
        last = "no batch norm, or folded away" if adapted is None else show(adapted)
        lines.append(f"| {name} | {show(rows[name])} | {show(rows[name + WRONG])} | {last} |")
    return lines


def show(row: dict[str, Any]) -> str:
    """Accuracy with its 95 % interval, or why there is none."""
    if row["error"]:
        return f"refused: {row['error']}"
    return f"{100 * row['accuracy']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("cards", nargs="+", type=Path)
    parser.add_argument("--size", type=int, help="input of all, in pixels; default: each card's own")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: one that is thrown away")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        wrong = [write_wrong(card, Path(name)) for card in arguments.cards]
        adapted = [card for card in (write_adapted(card, arguments.data) for card in wrong) if card is not None]
        runs = arguments.runs or Path(name) / "runs"
        document = rank(arguments.data, [*arguments.cards, *wrong, *adapted], arguments.size, runs)
    data = document["data"]
    size = "its own size each" if arguments.size is None else f"{arguments.size} px"
    names = [str(tomllib.loads(card.read_text())["name"]) for card in arguments.cards]
    controls = [row for row in document["rows"] if row["control"] and not row["error"]]
    best = max(controls, key=lambda row: row["accuracy"])
    command = f"python benchmarks/pixel_scale.py {Path(arguments.data).name}/ " + " ".join(
        card.name for card in arguments.cards
    )
    text = "\n".join(
        [
            "# Pixels on the wrong scale",
            "",
            f"{time.strftime('%Y-%m-%d')}: `{data['name']}`, {data['test']} test images, {size}, logistic "
            "regression on standardised frozen features, 95 % intervals.",
            "",
            *render(document, names),
            "",
            f"Best of the controls: {best['model']}, {show(best)}.",
            "",
            f"Command: `{command}{'' if arguments.size is None else f' --size {arguments.size}'}`",
            "",
        ]
    )
    if arguments.out:
        arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
