"""What a run is called, and what its record says of the images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backbench.config import RunConfig, digest_json
from backbench.data.load import Data
from backbench.data.sizes import common_sizes
from backbench.records.schema import DataFacts
from backbench.registry import ModelSpec, find_method, find_source, resolve_options

if TYPE_CHECKING:
    pass

PROTOCOL_VERSION = 4
"""Part of every run id: raised when the same config would give other figures than before."""


def decide_run_id(config: RunConfig, data: Data, model: ModelSpec) -> str:
    """The name of a run: readable, and different whenever a figure could differ.

    What counts is content: the manifest (ids, labels, parts, bytes of every image), the weights, the method
    with all its options, seed, precision and resize path. Where the data lies, the device and the output
    folder do not count.
    """
    method = find_method(config.method.name)
    identity = {
        "protocol": PROTOCOL_VERSION,
        "manifest": data.manifest.digest,
        "model": [model.name, model.identity],
        "method": [method.name, resolve_options(method, config.method).model_dump(mode="json")],
        "seed": config.seed,
        "precision": config.precision,
        "exact_resize": config.exact_resize,
    }
    words = "-".join(slug(word) for word in (data.manifest.name, model.name, method.name))
    return f"{words}-{digest_json(identity)[:10]}"


def describe_data(data: Data) -> DataFacts:
    """What a record says of the images."""
    manifest = data.manifest
    counts = manifest.counts
    groups = {group for group in manifest.groups if group is not None}
    return DataFacts(
        name=manifest.name,
        classes=manifest.classes,
        num_train=counts["train"],
        num_val=counts["val"],
        num_test=counts["test"],
        manifest_digest=manifest.digest,
        image_digest=manifest.image_digest,
        num_skipped=len(data.census.bad),
        num_groups=len(groups) or None,
        common_sizes=common_sizes(data.census, manifest.rows.tolist(), manifest.parts),
    )


def test_groups(data: Data) -> tuple[str | None, ...] | None:
    """The group of each test image, in manifest order; None where no group is known."""
    groups = tuple(data.manifest.groups[row] for row in data.manifest.part_rows("test"))
    return groups if any(group is not None for group in groups) else None


def slug(text: str, limit: int = 32) -> str:
    """A word of run ids: `text` with nothing that a file system or a shell could object to."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_.") else "-" for char in text)
    return kept.strip("-.")[:limit].rstrip("-.") or "x"


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same run, so that it can be resumed from any folder."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).resolve()) if path is not None and os.path.exists(path) else path  # noqa: PTH110

    named = find_source(config.data.source)
    source = absolute(config.data.source) if named is None else named.name
    data = config.data.model_copy(update={"source": source, "split": absolute(config.data.split)})
    return config.model_copy(update={"data": data, "model_file": absolute(config.model_file)})
