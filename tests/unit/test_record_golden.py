"""The record of a run: its keys, its words and its run id are those of the golden file on every machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import backbench

MEASURED = {"metrics", "per_class", "fit", "choices", "cost"}
OF_MACHINE = {"environment", "files", "checksum", "started"}


def normalise(value: Any, key: str = "") -> Any:
    """`value` without what differs between machines: figures become 'figure', words of a machine their key."""
    if isinstance(value, dict) and key != "environment":
        return {
            name: normalise(each, key if key in MEASURED | OF_MACHINE else name) for name, each in value.items()
        }
    if key in OF_MACHINE or (key == "source" and Path(value).is_absolute()):
        return key
    is_figure = isinstance(value, float) or (key == "cost" and isinstance(value, int))
    return "figure" if key in MEASURED and is_figure and not isinstance(value, bool) else value


def test_a_record_has_the_keys_of_the_golden_file(
    photos: Path, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    run = backbench.adapt(
        photos, "pixels", "ridge", out=tmp_path / "runs", precision="fp32", device="cpu", quiet=True
    )
    record = json.loads((run.path / "record.json").read_text())
    golden("record.json", json.dumps(normalise(record), indent=1) + "\n")
