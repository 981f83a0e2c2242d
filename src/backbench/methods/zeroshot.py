"""`zeroshot`: the classifier a model was published with, its classes mapped to those of the data; no training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from backbench.catalog import MethodSpec
from backbench.config import Frozen
from backbench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backbench.engine.heads import Fitted, GroupedHead
    from backbench.engine.task import Task
    from backbench.engine.zeroshot import Counterpart

_SHOWN = 8


class ZeroShotOptions(Frozen):
    """`map` names a CSV file; what it says is kept in `mapping`, which the record holds and its id depends on."""

    table: Literal["auto", "none", "cifar10", "cifar100", "caltech101", "caltech256"] = Field(
        default="auto", description="curated ids of a data set's classes; 'auto': of the first that knows them all"
    )
    mapping: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="class -> WordNet ids, or names of the model's classes; beats all else"
    )
    map: str | None = Field(default=None, description="CSV file with rows 'class,id'; becomes `mapping`")

    @model_validator(mode="before")
    @classmethod
    def _read_map(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("map") is None:
            return values
        from pathlib import Path

        from backbench.engine.zeroshot import read_map

        rest = {name: value for name, value in values.items() if name != "map"}
        return rest | {"mapping": {**rest.get("mapping", {}), **read_map(Path(str(values["map"])).expanduser())}}


def adapt(task: Task, options: ZeroShotOptions) -> Fitted:
    """Map the rows of the original classifier to the classes; nothing is fitted, and validation only describes it.

    A class that no row stands for has probability 0 and counts against the accuracy like any other. Where a class
    of validation is so, there is no calibration: no temperature makes an impossible answer likely.

    Raises:
        ConfigError: the model has no original classifier, the map does not fit, or no class has a counterpart.
        ModelError: the classifier can't be had, or is no linear layer on the features.
    Cost: loading the network once more.
    """
    from backbench.engine.choose import score_logits
    from backbench.engine.heads import Fitted
    from backbench.engine.zeroshot import find_counterparts

    if task.load_head is None:
        raise ConfigError(
            "zeroshot needs the classifier that a model was published with, and this one has none that is known. "
            "Take a timm name, torchvision/NAME or a card with head_classes, or a method that is fitted, such as "
            "logistic."
        )
    original = task.load_head()
    found = find_counterparts(task.class_names, original.classes, options.mapping, options.table)
    if not any(counterpart.ids for counterpart in found.values()):
        raise ConfigError(
            f"zeroshot: no class of the data has a counterpart among the {len(original.classes):,} classes of the "
            f"model. Say which stand for them with --set options.map=FILE, a CSV file with rows 'class,id'."
        )
    head = _group(original.weights, original.bias, original.classes, found)
    choices = _describe(found)
    val_logits = None
    if len(task.val):
        val_logits = head.logits(task.val.values)
        score = score_logits(val_logits, task.val.labels)
        choices |= {"val_accuracy": score.accuracy, "val_nll": score.nll}
        if any(not found[task.class_names[label]].ids for label in set(task.val.labels.tolist())):
            val_logits = None
    return Fitted(head, choices, val_logits, "nothing", _warnings(found))


def _group(weights: Any, bias: Any, classes: tuple[str, ...], found: Mapping[str, Counterpart]) -> GroupedHead:
    """The rows that stand for a class; one that stands for two is there twice."""
    import numpy as np

    from backbench.engine.heads import GroupedHead

    rows_of: dict[str, list[int]] = {}
    for row, each in enumerate(classes):
        rows_of.setdefault(each, []).append(row)
    pairs = [
        (row, label)
        for label, counterpart in enumerate(found.values())
        for each in counterpart.ids
        for row in rows_of[each]
    ]
    rows, groups = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return GroupedHead(weights[rows], bias[rows], groups, len(found))


def _describe(found: Mapping[str, Counterpart]) -> dict[str, Any]:
    from backbench.engine.zeroshot import describe_id

    num_mapped = sum(bool(counterpart.ids) for counterpart in found.values())
    return {
        "coverage": f"{num_mapped} of {len(found)} classes",
        "unmapped": [name for name, counterpart in found.items() if not counterpart.ids],
        "mapping": {name: [describe_id(each) for each in counterpart.ids] for name, counterpart in found.items()},
        "sources": {name: counterpart.source for name, counterpart in found.items()},
    }


def _warnings(found: Mapping[str, Counterpart]) -> tuple[str, ...]:
    from backbench.engine.zeroshot import GUESSED

    warnings = []
    unmapped = [name for name, counterpart in found.items() if not counterpart.ids]
    if unmapped:
        warnings.append(
            f"{len(found) - len(unmapped)} of {len(found)} classes have a counterpart in the model's own "
            f"classifier; it can never answer {_list(unmapped)}"
        )
    guessed = [name for name, counterpart in found.items() if counterpart.source in GUESSED]
    if guessed:
        warnings.append(
            f"what stands for {_list(guessed)} was guessed from words: look at 'mapping' in the record, and "
            f"correct it with options.map"
        )
    names_by_ids: dict[tuple[str, ...], list[str]] = {}
    for name, counterpart in found.items():
        names_by_ids.setdefault(counterpart.ids, []).append(name)
    for ids, names in names_by_ids.items():
        if ids and len(names) > 1:
            warnings.append(f"{_list(names)} have the same counterpart: of these, {names[0]} is always answered")
    return tuple(warnings)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


SPECS = (
    MethodSpec(
        "zeroshot",
        "the model's own classifier, its classes mapped to the data's; nothing is trained",
        adapt,
        ZeroShotOptions,
        needs_head=True,
    ),
)
