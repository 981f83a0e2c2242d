"""What it costs to check runs whenever they are read: the same runs read with the checks and without, in turn.

    python benchmarks/reading.py      # writes benchmarks/results/reading.md; a minute on two cores

A run of 10,000 test images is read as `report` reads it (record, predictions, manifest) and as `rank` reads it
again (all files as they were written, predictions). "Before" is what both did before records carried a checksum:
nothing was compared in a report, and `rank` hashed each file and then read it. Seconds are of this process on the
CPU, the least of many readings; before and now take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.data.manifest import Manifest, read_manifest, write_manifest
from backbench.documents import parse_json
from backbench.explain.evidence import _read_manifest
from backbench.records import folders
from backbench.records.schema import DataFacts, Predictions, RunRecord
from backbench.stats.calibrate import softmax
from backbench.stats.metrics import per_class_recall, score
from backbench.storage import digest_file

NUM_TEST, TURNS, READINGS = 10_000, 4, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reading.md")
    given = parser.parse_args()
    lines = [
        "# Reading runs with and without the checks",
        "",
        f"`python benchmarks/reading.py` on {platform.processor() or platform.machine()}, Python "
        f"{platform.python_version()}: milliseconds of CPU for one run of {NUM_TEST:,} test images, before and "
        f"now in turn ({TURNS} times), the least of {READINGS} readings each; the ratio is of the least of all.",
        "",
        "| classes | read by | before | now | now / before |",
        "| ---: | --- | --- | --- | ---: |",
    ]
    for num_classes in (10, 100):
        with tempfile.TemporaryDirectory() as root:
            folder = write_run(Path(root), num_classes)
            for name, before, now in (("report", report_before, report_now), ("rank", rank_before, rank_now)):
                taken = [(measure(before, folder), measure(now, folder)) for _ in range(TURNS)]
                old, new = zip(*taken, strict=True)
                ratio = min(new) / min(old)
                lines.append(f"| {num_classes} | {name} | {listed(old)} | {listed(new)} | {ratio:.2f} |")
                print(lines[-1])
    given.out.write_text("\n".join(lines) + "\n")


def listed(seconds: tuple[float, ...]) -> str:
    return ", ".join(f"{1000 * value:.2f}" for value in seconds)


def measure(read: Callable[[Path], Any], folder: Path) -> float:
    taken = []
    for _ in range(READINGS):
        started = time.process_time()
        read(folder)
        taken.append(time.process_time() - started)
    return min(taken)


def report_before(folder: Path) -> Any:
    record, predictions = record_before(folder), folders.read_predictions(folder)
    return record, predictions, predictions.correct, read_manifest(folder / folders.MANIFEST_FILE)


def report_now(folder: Path) -> Any:
    record, predictions = folders.read_answers(folder)
    return record, predictions, predictions.correct, _read_manifest(folder / folders.MANIFEST_FILE, record)


def rank_before(folder: Path) -> Any:
    record = record_before(folder)
    assert all(digest_file(folder / name) == digest for name, digest in record.files.items())
    predictions = folders.read_predictions(folder)
    return record, predictions, predictions.correct


def rank_now(folder: Path) -> Any:
    found = folders.find_whole(folder.parent, folder.name)
    assert found is not None
    assert found[1] is not None
    return found, found[1].correct


def record_before(folder: Path) -> RunRecord:
    text = (folder / folders.RECORD_FILE).read_bytes()
    assert parse_json(text)["schema_version"]
    return RunRecord.model_validate_json(text)


def write_run(root: Path, num_classes: int) -> Path:
    """A finished run of 10,000 test images and half as many others."""
    rng = np.random.default_rng(0)
    num = NUM_TEST * 3 // 2
    classes = tuple(f"class {index:03d}" for index in range(num_classes))
    labels = rng.integers(0, num_classes, num)
    manifest = Manifest(
        name="photos",
        classes=classes,
        ids=tuple(f"{classes[label]}/image_{row:06d}.jpg" for row, label in enumerate(labels)),
        labels=labels,
        groups=(None,) * num,
        parts=("test",) * NUM_TEST + ("train",) * (num - NUM_TEST),
        hashes=tuple(rng.bytes(32).hex() for _ in range(num)),
        rows=np.arange(num),
    )
    labels = labels[:NUM_TEST]
    logits = rng.normal(size=(NUM_TEST, num_classes)) + 3 * np.eye(num_classes)[labels]
    predictions = Predictions(manifest.ids[:NUM_TEST], labels, softmax(logits), classes)
    record = RunRecord(
        run_id="run",
        status="done",
        started="2026-01-01T00:00:00Z",
        config=RunConfig(data=DataConfig(source="photos"), model="model", method=MethodConfig(name="ridge")),
        data=DataFacts(
            name="photos",
            classes=classes,
            num_train=num - NUM_TEST,
            num_val=0,
            num_test=NUM_TEST,
            manifest_digest=manifest.digest,
            image_digest=manifest.image_digest,
        ),
        metrics=score(predictions.probabilities, labels),
        per_class=per_class_recall(predictions.probabilities, labels, classes),
    )
    return folders.write_run(root, record, predictions, lambda path: write_manifest(manifest, path))[1]


if __name__ == "__main__":
    main()
