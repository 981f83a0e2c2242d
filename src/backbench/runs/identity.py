"""The id of a run, and the description of its images in the record."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from backbench.config import Frozen, RunConfig, digest_json
from backbench.data.load import Data
from backbench.data.sizes import common_sizes
from backbench.records.schema import DataFacts
from backbench.registry import MethodSpec, ModelSpec, find_method, find_model, find_source, resolve_options

PROTOCOL_VERSION = 4
"""Part of every run id: increased when the same config gives other metrics than before."""


@dataclass(frozen=True)
class Resolved:
    """A run with its resolved config: model, method, and all options."""

    config: RunConfig
    model: ModelSpec
    method: MethodSpec
    options: Frozen

    def run_id(self, data: Data) -> str:
        """The name of the run: readable, and different whenever a metric could differ.

        The id depends on content: the manifest (ids, labels, splits, bytes of every image), the weights, the
        method with all options, seed, precision and resize path; not on the place of the data, the device or the
        output folder.
        """
        identity = {
            "protocol": PROTOCOL_VERSION,
            "manifest": data.manifest.digest,
            "model": [self.model.name, self.model.identity],
            "method": [self.method.name, self.options.model_dump(mode="json")],
            "seed": self.config.seed,
            "precision": self.config.precision,
            "exact_resize": self.config.exact_resize,
        }
        words = "-".join(slug(word) for word in (data.manifest.name, self.model.name, self.method.name))
        return f"{words}-{digest_json(identity)[:10]}"


def resolve(config: RunConfig, model: ModelSpec | None = None) -> Resolved:
    """Resolve the names in a config.

    Args:
        model: the model of the config, if it is known.

    Raises:
        ConfigError: unknown method, option or model.
    """
    method = find_method(config.method.name, "--method")
    options = resolve_options(method, config.method)
    model = find_model(config.model_file or config.model, "--model") if model is None else model
    if method.forgets:  # training from scratch removes earlier training images too
        model = replace(model, seen_file=None)
    return Resolved(config, model, method, options)


def describe_data(data: Data) -> DataFacts:
    """The description of the images for a record."""
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
    """The group of each test image, in manifest order; None without groups."""
    groups = tuple(data.manifest.groups[row] for row in data.manifest.part_rows("test"))
    return groups if any(group is not None for group in groups) else None


def slug(text: str, limit: int = 32) -> str:
    """A word of run ids: `text` with only characters that are safe in file systems and shells."""
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
