"""A study's tables: what came out for each cell, and ours beside the published figures. Pure, from records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from backbench.records import Metric, RunRecord
from backbench.report.text import describe_augment, printable

FIT_NOTE = (
    "Of methods that train, training figures are of images as the recipe augments them, with its dropout, while "
    "the weights still changed."
)
SMOOTHED_NOTE = (
    "Where the recipe smooths or mixes labels, the training loss is that of such labels, and is not to be held "
    "against the validation loss, which is of the true ones."
)
RECIPE_NOTE = (
    "A rate of '-' is decided by the family of the network; that of a head is ten times it, or the same where the "
    "head was solved before or all weights began at random. Epoch 0 is the state before training."
)
LAYER_DECAY_NOTE = (
    "Layer decay: each stage learns at that share of the rate of the next; 1 is the same rate for all."
)
PERCENT = ("accuracy", "top5", "train_accuracy", "val_accuracy", "per_class_mean", "recall")
COUNTS = ("num_train", "num_val", "num_test", "num_images", "epochs", "batch_size")
SETTINGS = ("epochs", "batch_size", "weight_decay")
"""Of the recipe, what studies state beside their figures."""
OF_TEST = ("accuracy", "top5", "nll", "recall", "per_class_mean")
OF_VAL = ("val_accuracy", "val_nll")
NAMES = {
    "accuracy": "test accuracy",
    "top5": "test top-5",
    "nll": "test loss",
    "train_accuracy": "training accuracy",
    "train_nll": "training loss",
    "val_accuracy": "validation accuracy",
    "val_nll": "validation loss",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Cell:
    """One run of a study, by the study's own names; `elsewhere`: name of another source -> figures on it."""

    group: str
    data: str
    model: str
    method: str
    seed: int
    record: RunRecord
    folder: Path
    bundle: Path
    elsewhere: Mapping[str, Any] = field(default_factory=dict)

    def figure(self, name: str, label: str | None = None) -> Metric | None:
        """A figure by name; 'seconds' is everything that the run cost, without reading files; 'num_train' and the
        like count images, 'epochs' and the like are of the recipe, 'recall' is of the class `label`."""
        if label is not None:
            return self.record.per_class.get(label)
        if name == "seconds":
            cost = self.record.cost
            busy = 0.0 if cost is None else sum(cost.seconds.values()) - cost.seconds.get("read", 0.0)
            return None if cost is None else Metric(value=busy, n=cost.num_images)
        if name in SETTINGS:
            value = self.recipe.get(name)
            return None if value is None else Metric(value=value, n=self.record.data.num_train)
        if name in COUNTS:
            parts = {part: getattr(self.record.data, part) for part in COUNTS[:3]}
            return Metric(value=parts.get(name, sum(parts.values())), n=sum(parts.values()))
        return self.record.metrics.get(name) or self.record.fit.get(name)

    @property
    def recipe(self) -> dict[str, Any]:
        """How it was trained, with what `head` chose on validation; empty where nothing was but a solved head."""
        method = self.record.method
        stated = None if method is None else method.options.get("recipe")
        if method is None or not isinstance(stated, Mapping) or method.options.get("qat_epochs") == 0:
            return {}
        return {**stated, **{name: method.choices[key] for name, key in CHOSEN.items() if key in method.choices}}

    @property
    def augment(self) -> Mapping[str, Any]:
        """How training images were changed, as the method chose or the recipe has it; empty where nothing was."""
        method, recipe = self.record.method, self.recipe
        stated: Mapping[str, Any] = recipe.get("augment") or {}
        return method.choices.get("augment", stated) if method is not None and recipe else {}


@dataclass(frozen=True)
class Table:
    """A table to print: heading, column names, rows of cells, and notes below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def name_data(cell: Cell, among: Sequence[Cell]) -> str:
    """The cell's data set, with the seed of its split and its training images where others of it have another."""
    alike = [other for other in among if other.data == cell.data]
    has_seeds = len({cell.seed, *(other.seed for other in alike)}) > 1
    sizes = {other.record.data.num_train for other in alike if other.seed == cell.seed}
    seed = f", seed {cell.seed}" if has_seeds else ""
    images = f", {cell.record.data.num_train:,} training images" if len(sizes) > 1 else ""
    return f"{cell.data}{seed}{images}"


def make_group_tables(cells: Sequence[Cell]) -> list[Table]:
    """For each group: model and method by data set, test accuracy with its interval, and seconds."""
    tables = []
    for group in dict.fromkeys(cell.group for cell in cells):
        own = [cell for cell in cells if cell.group == group]
        data = list(dict.fromkeys(cell.data for cell in own))
        columns = (
            "model",
            "method",
            *(f"{name}, {what}" for name in data for what in ("test accuracy", "seconds")),
        )
        rows = []
        for model, method in dict.fromkeys((cell.model, cell.method) for cell in own):
            row = [model, method]
            for name in data:
                found = [cell for cell in own if (cell.model, cell.method, cell.data) == (model, method, name)]
                row += [_over_seeds(found, "accuracy"), _over_seeds(found, "seconds")]
            rows.append(tuple(row))
        tables.append(Table(group, columns, tuple(rows), _describe_seconds(own)))
        tables += _make_fit_table(group, own) + _make_elsewhere_table(group, own)
    return tables


def _describe_seconds(cells: Sequence[Cell]) -> tuple[str, ...]:
    """What the seconds are: of both kinds of methods in one column, or of the one that there is."""
    costs = [cell.record.cost for cell in cells if cell.record.cost is not None]
    trained = ["fit" in cost.seconds for cost in costs]
    notes = []
    if not all(trained):
        notes.append(
            "of probes: how long decoding, resizing, network and head were busy, measured when features were made"
        )
    if any(trained):
        notes.append(
            "of methods that train: training and testing by the clock, features that lay in the cache as when "
            "they were made"
        )
    return (f"Seconds {'; '.join(notes)}.",) if costs else ()


def _make_fit_table(group: str, cells: Sequence[Cell]) -> list[Table]:
    """Training and validation figures, where runs have them."""
    wanted = ("train_accuracy", "val_accuracy", "train_nll", "val_nll")
    with_fit = [cell for cell in cells if cell.record.fit]
    if not with_fit:
        return []
    rows = [
        (cell.model, cell.method, name_data(cell, cells), *(_show_fit(cell, name) for name in wanted))
        for cell in with_fit
    ]
    columns = ("model", "method", "data", *(NAMES[name] for name in wanted))
    notes = describe_fit([cell for cell in with_fit if cell.recipe])
    return [Table(f"{group}: training and validation", columns, tuple(rows), notes)]


def describe_fit(trained: Sequence[Cell]) -> tuple[str, ...]:
    """What training figures are of, for runs with a recipe; nothing where there is none."""
    is_soft = any(
        cell.recipe.get("label_smoothing") or cell.augment.get("mixup") or cell.augment.get("cutmix")
        for cell in trained
    )
    return ((FIT_NOTE,) if trained else ()) + ((SMOOTHED_NOTE,) if is_soft else ())


def _show_fit(cell: Cell, name: str) -> str:
    method = cell.record.method
    kept_start = method is not None and any(
        value == 0 for key, value in method.choices.items() if key.endswith("_best_epoch")
    )
    if cell.figure(name) is None and kept_start:
        return "- (the start was best)"
    return show_figure(name, cell.figure(name)) + mark_seen(name, [cell])


def _make_elsewhere_table(group: str, cells: Sequence[Cell]) -> list[Table]:
    rows, notes = [], {}
    for cell in cells:
        own = cell.figure("accuracy")
        for source, found in cell.elsewhere.items():
            there = found.metrics["accuracy"]
            rows.append(
                (
                    cell.model,
                    cell.method,
                    name_data(cell, cells),
                    show_figure("accuracy", own) + mark_seen("accuracy", [cell]),
                    source,
                    show_figure("accuracy", there),
                    f"{found.num_images:,}",
                )
            )
            pairs = ", ".join(f"{theirs} = {ours}" for theirs, ours in sorted(found.mapping.items()))
            notes[f"{source} for a model of {cell.data}: in common are {len(found.mapping)}: {pairs}"] = True
    if not rows:
        return []
    columns = ("model", "method", "trained on", "own test part", "other source", "accuracy there", "images")
    return [Table(f"{group}: on another source", columns, tuple(rows), tuple(notes))]


def make_published_tables(published: Sequence[Any], cells: Sequence[Cell]) -> list[Table]:
    """The study's own tables in its own form, ours beside each figure, and the reason where ours must differ.

    Args:
        published: `studies.schema.Published` entries.
    """
    tables = []
    for title in dict.fromkeys(entry.table for entry in published):
        entries = [entry for entry in published if entry.table == title]
        reasons = list(dict.fromkeys(entry.why for entry in entries if entry.why is not None))
        places = {(entry.row, entry.column): entry for entry in entries}
        columns = list(dict.fromkeys(entry.column for entry in entries))
        rows = []
        for row in dict.fromkeys(entry.row for entry in entries):
            line = [row]
            for column in columns:
                entry = places.get((row, column))
                line += ["", ""] if entry is None else _compare_figure(entry, cells, reasons)
            rows.append(tuple(line))
        notes = [f"[{number}] {text}" for number, text in enumerate(reasons, 1)]
        wanted = {
            (entry.group, entry.model, entry.method) for entry in entries if entry.figure.startswith("train_")
        }
        trained = [cell for cell in cells if cell.recipe and (cell.group, cell.model, cell.method) in wanted]
        notes += describe_fit(trained)
        heads = (f"{column}{which}" for column in columns for which in (": published", ": here"))
        tables.append(Table(title, ("", *heads), tuple(rows), tuple(notes)))
    return tables


def _compare_figure(entry: Any, cells: Sequence[Cell], reasons: Sequence[str]) -> list[str]:
    """The figure as published; ours with the difference, and the number of the reason for it."""
    wanted = (entry.group, entry.model, entry.method, entry.data)
    found = _find_cells(cells, *wanted)
    theirs = "not stated" if entry.value is None else _show_published(entry)
    mark = "" if entry.why is None else f" [{reasons.index(entry.why) + 1}]"
    if not found:  # an image count may be of a source that models were only tried on
        there = [
            f"{source.num_images:,} of classes that {cell.data} has too"
            for cell in cells
            if (cell.group, cell.model, cell.method) == wanted[:3] and (source := cell.elsewhere.get(entry.data))
        ]
        return [theirs, f"{', '.join(dict.fromkeys(there))}{mark}" if there else "not run"]
    if entry.over is not None:
        return [theirs, f"{_show_gain(found, _find_cells(cells, entry.over, *wanted[1:]), entry)}{mark}"]
    if entry.label is not None and all(entry.label not in cell.record.data.classes for cell in found):
        return [theirs, f"there is no class '{entry.label}' here"]
    ours = _over_seeds(found, entry.figure, entry.label)
    gap = _gap(entry.figure, None if entry.value is None else float(entry.value), _values(found, entry).values())
    return [theirs, f"{ours}{gap and f', {gap}'}{mark}"]


def make_data_table(cells: Sequence[Cell]) -> Table:
    """Images of each part of every data set, and of the other sources that models were tried on."""
    rows: dict[str, tuple[str, ...]] = {}
    for cell in cells:
        facts = cell.record.data
        parts = (facts.num_train, facts.num_val, facts.num_test)
        shown = (cell.data, *(f"{num:,}" for num in (*parts, sum(parts), len(facts.classes))))
        rows.setdefault(f"{cell.data} {parts}", shown)
    for cell in cells:
        for source, found in cell.elsewhere.items():
            classes = f"{len(found.mapping):,} in common with {cell.data}"
            shown = (source, "-", "-", f"{found.num_images:,}", f"{found.num_images:,}", classes)
            rows.setdefault(f"{source} {cell.data}", shown)
    return Table("Data", ("images", "train", "validation", "test", "total", "classes"), tuple(rows.values()))


RECIPE = ("optimizer", "learning_rate", "head_learning_rate", "weight_decay", "batch_size")
"""Of the recipe, what always has a column."""
MORE_OF_RECIPE = (
    "momentum",
    "schedule",
    "warmup_epochs",
    "plateau_factor",
    "plateau_patience",
    "patience",
    "min_improvement",
    "label_smoothing",
    "class_weights",
    "ema_decay",
    "clip_norm",
    "layer_decay",
    "dropout",
)
"""What has one where runs differ in it, and else a word below."""
ONLY_WITH = {
    "momentum": ("optimizer", "sgd"),
    "plateau_factor": ("schedule", "plateau"),
    "plateau_patience": ("schedule", "plateau"),
}
"""Settings that do nothing but with that value of another."""
CHOSEN = {"head_learning_rate": "learning_rate", "weight_decay": "weight_decay"}
"""What `head` chooses on validation, by its name in the recipe."""


def make_recipe_table(cells: Sequence[Cell]) -> list[Table]:
    """How each run that trained did it: every setting that decides the outcome, those that all share below."""
    trained = [cell for cell in cells if cell.recipe]
    if not trained:
        return []
    more = {
        "method options": [_describe_options(cell) for cell in trained],
        **{name.replace("_", " "): [_show_setting(cell, name) for cell in trained] for name in MORE_OF_RECIPE},
        "augmentation": [describe_augment(cell.augment) or "-" for cell in trained],
    }
    unlike = [name for name, values in more.items() if len(set(values)) > 1]
    rows = []
    for number, cell in enumerate(trained):
        choices = {} if cell.record.method is None else cell.record.method.choices
        kept = [_plain(value) for key, value in choices.items() if key.endswith("best_epoch")]
        epochs = (_plain(cell.recipe.get("epochs")), " + ".join(kept) or "-")
        own = [other for other in cells if other.group == cell.group]
        always = [_show_setting(cell, name) for name in RECIPE]
        where = (cell.group, cell.model, cell.method, name_data(cell, own))
        rows.append((*where, *epochs, *always, *(more[name][number] for name in unlike)))
    columns = ("group", "model", "method", "data", "epochs at most", "epoch kept")
    names = (*(name.replace("_", " ") for name in RECIPE), *unlike)
    common = [f"{name} {values[0]}" for name, values in more.items() if name not in unlike and values[0] != "-"]
    notes = [RECIPE_NOTE]
    if any(cell.recipe.get("layer_decay", 1.0) != 1.0 for cell in trained):
        notes.append(LAYER_DECAY_NOTE)
    if common:
        notes.append(f"The same for all: {', '.join(common)}.")
    return [Table("How it was trained", columns + names, tuple(rows), tuple(notes))]


def _describe_options(cell: Cell) -> str:
    """'blocks 3': of the method, beside its recipe; not the values that it tries, of which it chooses one."""
    options = {} if cell.record.method is None else cell.record.method.options
    shown = []
    for name, value in options.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if name == "recipe" or value is None or (len(values) > 1 and not all(isinstance(v, str) for v in values)):
            continue
        shown.append(f"{name.replace('_', ' ')} {' + '.join(map(_plain, values))}")
    return ", ".join(shown) or "-"


def _show_setting(cell: Cell, name: str) -> str:
    """A setting of the recipe; '-' where it does nothing, or is left to the family."""
    other, needed = ONLY_WITH.get(name, (name, None))
    return "-" if needed is not None and cell.recipe.get(other) != needed else _plain(cell.recipe.get(name))


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _gap(figure: str, published: float | None, ours: Collection[float]) -> str:
    if published is None or not ours:
        return ""
    gap = sum(ours) / len(ours) - published
    if figure == "seconds":
        ratio = sum(ours) / len(ours) / published if published else 0.0
        return f"{ratio:,.0f} times as long" if ratio >= 10 else f"{ratio:.2g} times as long" if ratio else ""
    if figure in COUNTS:
        return f"{gap:+,.0f}" if gap else ""
    if figure in PERCENT:
        return f"{100 * gap:+.1f} points"
    return f"{gap:+,.0f}" if abs(gap) >= 10 else f"{gap:+.3g}"


def _find_cells(cells: Sequence[Cell], group: str, model: str, method: str, data: str) -> list[Cell]:
    wanted = (group, model, method, data)
    return [cell for cell in cells if (cell.group, cell.model, cell.method, cell.data) == wanted]


def _values(cells: Sequence[Cell], entry: Any) -> dict[int, float]:
    """The figure of a published entry, by the seeds that have it."""
    found = {cell.seed: cell.figure(entry.figure, entry.label) for cell in cells}
    return {seed: metric.value for seed, metric in found.items() if metric is not None}


def _show_gain(cells: Sequence[Cell], over: Sequence[Cell], entry: Any) -> str:
    """How much more it is than over there, over the seeds that both have, and beside the published gain."""
    mine, theirs = _values(cells, entry), _values(over, entry)
    gains = [100 * (mine[seed] - theirs[seed]) for seed in mine if seed in theirs]
    if not gains:
        return "not run"
    mean = sum(gains) / len(gains)
    shown = f"{mean:+.1f} points"
    if len(gains) > 1:
        shown += f" ({min(gains):+.1f} to {max(gains):+.1f} over {len(gains)} seeds)"
    gap = 0.0 if entry.value is None else mean - 100 * float(entry.value)
    if abs(gap) >= 0.05:
        shown += f", {abs(gap):.1f} points {'more' if gap > 0 else 'less'} than published"
    for words, group in (("", cells), (f" in '{entry.over}'", over)):
        if mark := mark_seen(entry.figure, group):
            shown += f"{mark[:-1]}{words})"
    return shown


def _show_published(entry: Any) -> str:
    """As it was published, digit by digit: rounded it would no longer be what was published."""
    value: Decimal = entry.value
    if entry.over is not None:
        return f"{value.scaleb(2):+f} points"
    return f"{value.scaleb(2):f} %" if entry.figure in PERCENT else f"{value:,f}"


def _over_seeds(cells: Sequence[Cell], figure: str, label: str | None = None) -> str:
    """One run's figure with its interval, or mean and range over seeds."""
    metrics = [metric for cell in cells if (metric := cell.figure(figure, label)) is not None]
    if not metrics:
        return "-"
    mark = mark_seen(figure, cells)
    if len(metrics) == 1:
        return show_figure(figure, metrics[0]) + mark
    values = [metric.value for metric in metrics]
    if figure in COUNTS + SETTINGS and len(set(values)) == 1:  # asked for, not measured
        return show_value(figure, values[0])
    low, high = show_value(figure, min(values)), show_value(figure, max(values))
    return f"{show_value(figure, sum(values) / len(values))} ({low} to {high} over {len(values)} seeds){mark}"


def mark_seen(figure: str, cells: Sequence[Cell]) -> str:
    """' (too good: 3 test images had taught its weights)', where that is so of a run; else ''."""
    counts = [
        cell.record.num_test_seen if figure in OF_TEST else cell.record.num_val_seen if figure in OF_VAL else 0
        for cell in cells
    ]
    part = "test" if figure in OF_TEST else "validation"
    return f" (too good: {max(counts):,} {part} images had taught its weights)" if any(counts) else ""


def show_figure(name: str, metric: Metric | None) -> str:
    """A figure with its interval, '-' if there is none."""
    if metric is None:
        return "-"
    text = show_value(name, metric.value)
    if metric.low is None or metric.high is None or name not in PERCENT:
        return text
    return f"{text} ({100 * metric.low:.1f} to {100 * metric.high:.1f})"


def show_value(name: str, value: float) -> str:
    """'93.1 %', '0.2345', '12 s'."""
    if name in PERCENT:
        return f"{100 * value:.1f} %"
    if name in COUNTS:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if name == "seconds" and value >= 10 else f"{value:.3g}"


def render_tables(tables: Sequence[Table], heading: Callable[[str], str] = "## {}".format) -> str:
    """Tables as Markdown."""
    blocks = []
    for table in tables:
        lines = [heading(_cell(table.title)), "", _line(table.columns), _line(["---"] * len(table.columns))]
        lines += [_line(row) for row in table.rows]
        lines += [""] + [f"{_cell(note)}  " for note in table.notes] if table.notes else []
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
