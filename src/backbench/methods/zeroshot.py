"""`zeroshot`: the published classifier of a model, its classes mapped to those of the data; no training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from backbench.config import Frozen
from backbench.errors import ConfigError, ModelError
from backbench.registry import MethodSpec
from backbench.wording import list_some

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backbench.backbones.core.original_head import OriginalHead, TextHead
    from backbench.heads.class_mapping import Counterpart
    from backbench.heads.heads import Fitted, GroupedHead
    from backbench.task import Task

_SHOWN = 8


TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""Seven templates that are about as good as eighty (Radford et al. 2021, in their published code)."""


class ZeroShotOptions(Frozen):
    """`map` is a CSV file; its content becomes `mapping`, which is part of the record and the run id.

    For image-text models it gives words for a class, which replace its name.
    """

    table: Literal["auto", "none", "cifar10", "cifar100", "caltech101", "caltech256"] = Field(
        default="auto", description="curated table of WordNet ids; 'auto': the first table with all classes"
    )
    mapping: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="class -> WordNet ids, or names of the model's classes; has priority"
    )
    map: str | None = Field(default=None, description="CSV file with rows 'class,id'; becomes `mapping`")
    templates: tuple[str, ...] = Field(
        default=TEMPLATES,
        min_length=1,
        description="for image-text models: templates with one {} for the class",
    )

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
                raise ValueError(f"'{template}' needs one {{}} for the class, such as 'a photo of a {{}}.'")
        return templates

    @model_validator(mode="before")
    @classmethod
    def _read_map(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("map") is None:
            return values
        from pathlib import Path

        from backbench.heads.class_mapping import read_map

        rest = {name: value for name, value in values.items() if name != "map"}
        return rest | {"mapping": {**rest.get("mapping", {}), **read_map(Path(str(values["map"])).expanduser())}}


def adapt(task: Task, options: ZeroShotOptions) -> Fitted:
    """Map the rows of the original classifier to the classes; nothing is fitted; validation is only reported.

    A class without a row has probability 0 and counts in the accuracy like any other. If validation has such a
    class, there is no calibration, because no temperature can make a zero probability likely.

    Raises:
        ConfigError: see `map_classes`.
    Cost: loading the network once more.
    """
    from backbench.heads.choose import score_logits
    from backbench.heads.heads import Fitted

    original, found = map_classes(task.class_names, task.load_head, options)
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


def refuse_headless(
    load_head: Callable[[], OriginalHead | TextHead] | None,
) -> Callable[[], OriginalHead | TextHead]:
    """Return `load_head`; raise ConfigError if the model has no known classifier."""
    if load_head is None:
        raise ConfigError(
            "zeroshot needs the published classifier of a model, but this model has no known one. Use a timm "
            "name, torchvision/NAME, open_clip/MODEL:TAG or a card of one of these with head_classes and without "
            "feature_layer, or a method that fits a head, such as logistic."
        )
    return load_head


def map_classes(
    class_names: Sequence[str], load_head: Callable[[], OriginalHead | TextHead] | None, options: ZeroShotOptions
) -> tuple[OriginalHead, dict[str, Counterpart]]:
    """The published classifier, and its classes for each class of the data; needs no features.

    Raises:
        ConfigError: the model has no original classifier, or it is not a linear layer on its features; the map
            does not fit; no class has a match.
    Cost: loading the network.
    """
    from backbench.backbones.core.original_head import TextHead
    from backbench.heads.class_mapping import describe_classes, find_counterparts

    try:
        original = refuse_headless(load_head)()
    except ModelError as error:
        raise ConfigError(f"zeroshot can't use the model's own classifier: {error}") from error
    if isinstance(original, TextHead):
        original, found = describe_classes(class_names, original, options.mapping, options.templates)
    else:
        found = find_counterparts(class_names, original.classes, options.mapping, options.table)
    if not any(counterpart.ids for counterpart in found.values()):
        raise ConfigError(
            f"zeroshot: no class of the data matches any of the {len(original.classes):,} classes of the model. "
            "Give a CSV file with rows 'class,id': --map FILE."
        )
    return original, found


def _group(weights: Any, bias: Any, classes: tuple[str, ...], found: Mapping[str, Counterpart]) -> GroupedHead:
    """The rows of each class; a row for two classes occurs twice."""
    import numpy as np

    from backbench.heads.heads import GroupedHead

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
    from backbench.heads.class_mapping import describe_id

    num_mapped = sum(bool(counterpart.ids) for counterpart in found.values())
    return {
        "coverage": f"{num_mapped} of {len(found)} classes",
        "unmapped": [name for name, counterpart in found.items() if not counterpart.ids],
        "mapping": {name: [describe_id(each) for each in counterpart.ids] for name, counterpart in found.items()},
        "sources": {name: counterpart.source for name, counterpart in found.items()},
    }


def _warnings(found: Mapping[str, Counterpart]) -> tuple[str, ...]:
    from backbench.heads.class_mapping import GUESSED

    warnings = []
    unmapped = [name for name, counterpart in found.items() if not counterpart.ids]
    if unmapped:
        warnings.append(
            f"{len(found) - len(unmapped)} of {len(found)} classes match the model's own "
            f"classifier; it can never predict {list_some(unmapped, _SHOWN)}"
        )
    guessed = [name for name, counterpart in found.items() if counterpart.source in GUESSED]
    if guessed:
        warnings.append(
            f"the match of {list_some(guessed, _SHOWN)} was guessed from words: check 'mapping' in the "
            "record, and correct it with --map FILE (in a study: options.zeroshot.map)"
        )
    names_by_ids: dict[tuple[str, ...], list[str]] = {}
    for name, counterpart in found.items():
        names_by_ids.setdefault(counterpart.ids, []).append(name)
    for ids, names in names_by_ids.items():
        if ids and len(names) > 1:
            warnings.append(
                f"{list_some(names, _SHOWN)} match the same class: it always predicts {names[0]} of these"
            )
    return tuple(warnings)


SPECS = (
    MethodSpec(
        "zeroshot",
        "the model's own classifier, its classes mapped to the data's; nothing is trained",
        adapt,
        ZeroShotOptions,
        needs_head=True,
    ),
)
