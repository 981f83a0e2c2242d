"""A run of a study, its figures, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbench.config import CAME_LATER, ONLY_WITH
from backbench.records.schema import RunRecord
from backbench.stats.metric import Metric
from backbench.studies.analysis.facts import Kind, Remark

PERCENT = ("accuracy", "top5", "train_accuracy", "val_accuracy", "per_class_mean", "recall")
COUNTS = ("num_train", "num_val", "num_test", "num_images", "epochs", "batch_size")
SETTINGS = ("epochs", "batch_size", "weight_decay")
"""Settings of the recipe that studies state beside their figures."""
OF_TEST = ("accuracy", "top5", "nll", "recall", "per_class_mean")
OF_VAL = ("val_accuracy", "val_nll")
CHOSEN = {"head_learning_rate": "learning_rate", "weight_decay": "weight_decay"}
"""Settings that `head` chooses on validation: name in the recipe -> name of the choice."""


@dataclass(frozen=True)
class Cell:
    """One run of a study, with the study's names.

    Args:
        elsewhere: name of another source -> its figures there.
        forgets: whether its method trains from scratch, whatever the model's weights are.
    """

    group: str
    data: str
    model: str
    method: str
    seed: int
    record: RunRecord
    folder: Path
    bundle: Path
    elsewhere: Mapping[str, Any] = field(default_factory=dict)
    forgets: bool = False

    def figure(self, name: str, label: str | None = None) -> Metric | None:
        """Return a figure by name, None if there is none.

        'seconds' is the whole cost without reading files; 'num_train' and the like count images; 'epochs' and the
        like are from the recipe; with `label` the recall of that class.
        """
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
        """The recipe with the choices of `head` and without settings that did nothing; empty if only a head was
        solved."""
        method = self.record.method
        stated = None if method is None else method.options.get("recipe")
        if method is None or not isinstance(stated, Mapping) or method.options.get("qat_epochs") == 0:
            return {}
        chosen = self.chosen
        idle = {name for name, (other, needed) in ONLY_WITH.items() if stated.get(other) != needed}
        off = dict.fromkeys(CAME_LATER, 0.0)  # records without them
        return {name: value for name, value in {**off, **stated, **chosen}.items() if name not in idle}

    @property
    def kept_start(self) -> bool:
        """Whether the state before training was best, so that there are no training figures."""
        choices = {} if self.record.method is None else self.record.method.choices
        return any(value == 0 for key, value in choices.items() if key.endswith("_best_epoch"))

    @property
    def chosen(self) -> dict[str, Any]:
        """Settings of the recipe that the method chose on validation."""
        choices = {} if self.record.method is None else self.record.method.choices
        return {name: choices[key] for name, key in CHOSEN.items() if key in choices}

    @property
    def augment(self) -> Mapping[str, Any]:
        """The augmentation, as the method chose it or as the recipe has it; empty if there was none."""
        method, recipe = self.record.method, self.recipe
        stated: Mapping[str, Any] = recipe.get("augment") or {}
        return method.choices.get("augment", stated) if method is not None and recipe else {}


def name_data(cell: Cell, among: Sequence[Cell]) -> str:
    """The cell's data set, with its seed or number of training images where other cells of it have another."""
    alike = [other for other in among if other.data == cell.data]
    has_seeds = len({cell.seed, *(other.seed for other in alike)}) > 1
    sizes = {other.record.data.num_train for other in alike if other.seed == cell.seed}
    seed = f", seed {cell.seed}" if has_seeds else ""
    images = f", {cell.record.data.num_train:,} training images" if len(sizes) > 1 else ""
    return f"{cell.data}{seed}{images}"


def find_fit_remarks(trained: Sequence[Cell]) -> tuple[Remark, ...]:
    """Remarks on the training figures of runs with a recipe."""
    is_soft = any(
        cell.recipe.get("label_smoothing") or cell.augment.get("mixup") or cell.augment.get("cutmix")
        for cell in trained
    )
    kinds = [Kind.TRAINING_FIGURES] * bool(trained) + [Kind.SMOOTHED_LABELS] * is_soft
    return tuple(map(Remark, kinds))


def over_seeds(cells: Sequence[Cell], figure: str, label: str | None = None) -> str:
    """One run's figure with its interval, or mean and range over seeds."""
    metrics = [metric for cell in cells if (metric := cell.figure(figure, label)) is not None]
    if not metrics:
        return "-"
    mark = mark_seen(figure, cells)
    if len(metrics) == 1:
        return show_figure(figure, metrics[0]) + mark
    values = [metric.value for metric in metrics]
    if figure in COUNTS + SETTINGS and len(set(values)) == 1:  # requested, not measured
        return show_value(figure, values[0])
    low, high = show_value(figure, min(values)), show_value(figure, max(values))
    return f"{show_value(figure, sum(values) / len(values))} ({low} to {high} over {len(values)} seeds){mark}"


def mark_seen(figure: str, cells: Sequence[Cell]) -> str:
    """' (optimistic: 3 test images were in its training data)' if a run has such images, else ''."""
    counts = [
        cell.record.num_test_seen if figure in OF_TEST else cell.record.num_val_seen if figure in OF_VAL else 0
        for cell in cells
    ]
    part = "test" if figure in OF_TEST else "validation"
    return f" (optimistic: {max(counts):,} {part} images were in its training data)" if any(counts) else ""


def show_figure(name: str, metric: Metric | None) -> str:
    """A figure with its interval, '-' if there is none."""
    if metric is None:
        return "-"
    text = show_value(name, metric.value)
    if metric.low is None or metric.high is None or name not in PERCENT:
        return text
    return f"{text} ({100 * metric.low:.1f} to {100 * metric.high:.1f})"


def show_setting(value: object) -> str:
    """A setting of a recipe or method; '-' for the default of the model's family."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_value(name: str, value: float) -> str:
    """'93.1 %', '0.2345', '12 s'."""
    if name in PERCENT:
        return f"{100 * value:.1f} %"
    if name in COUNTS:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if name == "seconds" and value >= 10 else f"{value:.3g}"
