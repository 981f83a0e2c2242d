"""How it was made: differing and common settings, commands that repeat the runs, and a methods paragraph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.records.commands import bundle_of, data_options, keep_command, predict_command, write_command
from backbench.records.schema import RunRecord
from backbench.report.page.inputs import Evidence
from backbench.report.ranked import Entry, RankedRuns
from backbench.report.text import flatten, printable
from backbench.report.warning_text import are_groups_whole
from backbench.wording import count

DEFAULT_ROOT = "runs"
_IN_ROWS = ("model", "method.name")  # part of every row already


@dataclass(frozen=True)
class SettingsTable:
    """Settings that differ: a heading, names of the lines, and one value per line for each setting."""

    heading: str
    lines: tuple[str, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Settings:
    """Differing settings in at most three tables (by model, by method, by run), and common settings."""

    tables: tuple[SettingsTable, ...]
    shared: tuple[tuple[str, str], ...]


def compare_settings(ranked: RankedRuns) -> Settings:
    """Settings of the runs, flattened to 'method.options.C' and the like, differing and common."""
    entries = [entry for entry in ranked.entries if not entry.row.control and entry.row.status == "done"]
    settings = [flatten(_settings(entry.record)) for entry in entries]
    return _split_settings(entries, [{key: _shown(value) for key, value in each} for each in settings])


def compare_environments(ranked: RankedRuns) -> Settings:
    """The same for the machines and versions that the runs were made with."""
    entries = [entry for entry in ranked.entries if entry.row.status == "done"]
    return _split_settings(entries, [dict(entry.record.environment) for entry in entries])


def keep_commands(ranked: RankedRuns, evidence: Evidence) -> list[str]:
    """The command that saves the recommended model, if it is not saved; and the command that predicts with it."""
    entry, root = ranked.recommended, evidence.root
    if entry is None or root is None:
        return []
    run = Path(root) / entry.record.run_id
    is_kept = entry.record.run_id in evidence.bundles
    return [*([] if is_kept else [keep_command(run)]), predict_command(bundle_of(run))]


def repeat_commands(ranked: RankedRuns, root: str | None = None) -> list[str]:
    """Commands that repeat these runs in the folder `root`: one for each data set, seed and precision."""
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for entry in ranked.entries:
        config = entry.record.config
        if not entry.row.control:
            key = (
                config.data.digest(),
                config.seed,
                config.precision,
                config.exact_resize,
                bool(config.method.options),
            )
            groups.setdefault(key, []).append(entry.record)
    commands = []
    for records in groups.values():
        if records[0].config.method.options:
            commands += [_adapt_words(record) for record in records]
        else:
            commands.append(_rank_words(records))
    where = [] if root in (None, DEFAULT_ROOT) else ["--out", root]
    return [write_command([*words, *where]) for words in commands]


def _rank_words(records: Sequence[RunRecord]) -> list[str]:
    config = records[0].config
    models = dict.fromkeys(record.config.model_file or record.config.model for record in records)
    methods = dict.fromkeys(record.config.method.name for record in records)
    chosen = ["--models", ",".join(models), "--methods", ",".join(methods)]
    return ["rank", config.data.source, *chosen, *_options(records[0])]


def _adapt_words(record: RunRecord) -> list[str]:
    config = record.config
    words = ["--model", config.model_file or config.model, "--method", config.method.name]
    for key, value in flatten(config.method.options):
        words += ["--set", f"options.{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return ["adapt", config.data.source, *words, *_options(record)]


def _options(record: RunRecord) -> list[str]:
    config = record.config
    words = ["--seed", str(config.seed), "--precision", config.precision]
    return [*words, *data_options(config.data), *["--exact-resize"] * config.exact_resize]


def _describe_groups(ranked: RankedRuns) -> str:
    if are_groups_whole(ranked.warnings):
        return "each group in one split"
    return "whose given splits share groups"


def describe_methods(ranked: RankedRuns) -> str:
    """A paragraph for the methods section of a paper: models, data and tests."""
    data = ranked.data
    done = [entry for entry in ranked.entries if entry.row.status == "done"]
    models = {entry.row.model for entry in done if not entry.row.control}
    methods = sorted({entry.row.method for entry in done if not entry.row.control})
    versions = sorted({entry.record.environment.get("backbench", "") for entry in done} - {""})
    grouped = ranked.details.groups is not None
    unit = "group" if grouped else "image"
    parts = [
        f"{count(len(models), 'backbone')} with {count(len(methods), 'method')} "
        f"({', '.join(printable(method) for method in methods)}) were compared on "
        f"{printable(data.name)} ({count(len(data.classes), 'class', 'classes')}; {data.num_train:,} training, "
        f"{data.num_val:,} validation and {data.num_test:,} test images"
        + (f", {_describe_groups(ranked)}" if grouped or data.num_groups else "")
        + ").",
        "Hyper-parameters were chosen on the validation images; the test images were used once for each run.",
        f"Accuracies are given with Wilson score intervals (95 %{', of effective numbers of images' * grouped}). "
        f"Rows were compared on the same test images, by random swaps of the predictions of each {unit}, all "
        "pairs together by their largest difference (Romano and Wolf 2005), level 0.05; the tied rows are those "
        "that multiple comparisons with the best leave (Hsu 1981).",
        "Baselines (majority class, colour statistics, file facts, an untrained network) were also run."
        if any(entry.row.control for entry in done)
        else "No baselines were run.",
        f"Made with backbench {', '.join(versions)}." if versions else "Made with backbench.",
    ]
    return " ".join(parts)


def _settings(record: RunRecord) -> dict[str, Any]:
    settings: dict[str, Any] = record.config.model_dump(mode="json", exclude={"model", "model_file", "method"})
    if record.model is not None:
        preprocess = record.model.preprocess
        settings["preprocess"] = preprocess.model_dump(mode="json") if preprocess is not None else None
        settings["model"] = record.model.model_dump(
            mode="json", include={"architecture", "dim", "pretrained_on", "licence", "source"}
        )
        settings["model"]["weights"] = record.model.weights_digest[:12]
    method = record.method
    settings["method"] = {"name": record.config.method.name, "options": record.config.method.options}
    if method is not None:
        settings["method"] = {"name": method.name, "options": method.options, "fitted on": method.fitted_on}
        settings["chosen on validation"] = {key: each for key, each in method.choices.items() if key != "augment"}
        if "augment" in method.choices:  # by the kind of network
            settings["augment"] = method.choices["augment"]
    return settings


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        is_size = len(value) == 2 and all(isinstance(item, int) for item in value)
        return (" x " if is_size else ", ").join(_shown(item) for item in value)
    return str(value)


def _split_settings(entries: Sequence[Entry], flat: Sequence[Mapping[str, str]]) -> Settings:
    """Assign each differing setting to the table that explains it: by model, by method, or by run."""
    axes = (
        ("Model", [entry.row.model for entry in entries]),
        ("Method", [entry.row.method for entry in entries]),
        ("Run", [entry.row.name for entry in entries]),
    )
    placed: dict[str, list[tuple[str, tuple[str, ...]]]] = {heading: [] for heading, _ in axes}
    shared = []
    for key in dict.fromkeys(key for settings in flat for key in settings):
        values = [settings.get(key, "") for settings in flat]
        if len(set(values)) == 1:
            shared.append((key, values[0]))
        elif key not in _IN_ROWS:
            heading, names = next((axis for axis in axes if _follows(values, axis[1])), axes[-1])
            by_name = dict(zip(names, values, strict=True))
            placed[heading].append((key, tuple(by_name[name] for name in dict.fromkeys(names))))
    tables = [
        SettingsTable(heading, tuple(dict.fromkeys(names)), tuple(placed[heading]))
        for heading, names in axes
        if placed[heading]
    ]
    return Settings(tuple(tables), tuple(shared))


def _follows(values: Sequence[str], names: Sequence[str]) -> bool:
    """Whether all runs of one name have one value."""
    return len(set(zip(names, values, strict=True))) == len(set(names))
