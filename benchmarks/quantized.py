"""What int8 keeps: accuracy, features, size and speed of `backbench adapt --method quantized`, model by model.

    python benchmarks/quantized.py DATA CARD...      # writes benchmarks/results/quantized.md

Each card is adapted once, in the scheme that `auto` takes; all figures are those of the records.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.records.schema import RunRecord
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import adapt

RESULTS = Path(__file__).parent / "results" / "quantized.md"
HEADER = """| model | scheme | test | validation | same head, float | mean, least cosine | size | images/s |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def adapt_once(data: str, card: str, out: Path) -> RunRecord:
    model = find_model(card)
    config = RunConfig(
        data=DataConfig(source=data),
        model=model.name,
        model_file=model.file,
        method=MethodConfig(name="quantized"),
    )
    return adapt(config, RunContext(out, with_gallery=False)).record


def table_row(record: RunRecord) -> str:
    assert record.method is not None
    assert record.model is not None
    found = record.method.choices
    sizes = found["float_bytes"], found["int8_bytes"]
    return (
        f"| {record.model.name} | {found['scheme']} | {record.metrics['accuracy'].value:.1%} "
        f"| {found['int8_val_accuracy']:.1%} | {found['float_val_accuracy']:.1%} "
        f"| {found['mean_cosine']:.4f}, {found['least_cosine']:.4f} "
        f"| {sizes[0] / 1e6:.2f} to {sizes[1] / 1e6:.2f} MB ({sizes[1] / sizes[0]:.2f}x) "
        f"| {found['float_images_per_second']:.0f} to {found['int8_images_per_second']:.0f} |"
    )


def main() -> None:
    data, *cards = sys.argv[1:]
    text = (
        f"# Int8\n\n`python benchmarks/quantized.py {' '.join(sys.argv[1:])}`, {date.today()}, "
        f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads.\n\n"
        "Accuracy on the data's own test split and on validation. Images/s: the network alone, one batch of 8,\n"
        "float32 to int8: with other work beside it they say no more than that int8 is not faster.\n\n" + HEADER
    )
    with tempfile.TemporaryDirectory() as folder:
        for card in cards:
            text += table_row(adapt_once(data, card, Path(folder))) + "\n"
            RESULTS.write_text(text)


if __name__ == "__main__":
    main()
