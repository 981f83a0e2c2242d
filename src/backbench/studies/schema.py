"""What a study file says: which models, adapted how, on which data, and what others published of it.

title = "MiniVision"
source = "https://..."
[[groups]]
name = "fine-tuned"
data = ["cifar10"]
models = ["resnet18.a1_in1k"]
methods = ["full"]
options.full.recipe.epochs = 20
[[groups]]
name = "from CIFAR-10 on to CIFAR-100"
after = "fine-tuned"                # each model as that group left it, with a new head
data = ["cifar100"]
...
[[published]]
table = "Results overview"
...
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from backbench.config import Frozen
from backbench.errors import ConfigError, nearest

Figure = Literal[
    "accuracy",
    "top5",
    "train_accuracy",
    "train_nll",
    "val_accuracy",
    "val_nll",
    "nll",
    "seconds",
    "unseen_accuracy",
]
Drawing = Literal["run", "comparison", "map", "grid", "explanations", "inside"]
Ask = Literal["best-features", "both-resolutions", "own-network", "generalisation", "families", "fine-tuning-gain"]
MAX_BYTES = 1_000_000


class Group(Frozen):
    """One ranking for each data set and seed: models x methods.

    Args:
        after: name of an earlier group; each model starts as that group left it on `after_data`.
        options: method -> its options that differ from the defaults.
        test_on: other sources, whose images every adapted model is evaluated on, by class name.
    """

    name: str
    data: tuple[str, ...] = Field(min_length=1)
    models: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    train_limit: int | None = Field(default=None, ge=4)
    after: str | None = None
    after_data: str | None = None
    after_method: str | None = None
    test_on: tuple[str, ...] = ()
    note: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        strangers = sorted(self.options.keys() - set(self.methods))
        if strangers:
            raise ValueError(f"options for {', '.join(strangers)}, which is not among its methods")
        if self.after is not None and (self.after_data is None or self.after_method is None):
            raise ValueError("'after' needs 'after_data' and 'after_method': which run of that group goes on")
        return self


class Published(Frozen):
    """One figure of the study as its authors published it, and the run here that it is to be compared with.

    Args:
        table: heading of the table it stands in; `row`, `column`: where.
        value: as published; fractions in 0..1, losses and seconds as they are.
        group, model, method, data: which run of this study; `model` None: there is no counterpart.
        why: the reason why ours must differ.
    """

    table: str
    row: str
    column: str
    value: float | None = None
    figure: Figure = "accuracy"
    group: str
    model: str
    method: str
    data: str
    why: str | None = None


class Question(Frozen):
    """A question of the study; the answer is made from the numbers by the rule `by`."""

    ask: str
    by: Ask
    groups: tuple[str, ...] = Field(min_length=1)
    model: str | None = None


class StudyFile(Frozen):
    """A study: see the module's text for the form of the file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    title: str
    source: str
    about: str
    groups: tuple[Group, ...] = Field(min_length=1)
    published: tuple[Published, ...] = ()
    questions: tuple[Question, ...] = ()
    drawings: tuple[Drawing, ...] = ("run", "comparison")
    trial: dict[str, str] = Field(
        default_factory=dict, description="large model -> small one of its family that stands in for it in a trial"
    )
    grid_images: tuple[int, ...] = (30,)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError("two groups have the same name")
        by_name = {group.name: group for group in self.groups}
        for place, group in enumerate(self.groups):
            if group.after is not None and group.after not in names[:place]:
                raise ValueError(f"group '{group.name}' comes after '{group.after}', which is no earlier group")
        for entry in self.published:
            cells = by_name.get(entry.group)
            if cells is None:
                raise ValueError(f"published '{entry.row}' names group '{entry.group}', which there is not")
            for value, there in (
                (entry.model, cells.models),
                (entry.method, cells.methods),
                (entry.data, cells.data),
            ):
                if value not in there:
                    raise ValueError(f"published '{entry.row}': '{value}' is not in group '{entry.group}'")
        for question in self.questions:
            for name in question.groups:
                if name not in by_name:
                    raise ValueError(f"question '{question.ask}' names group '{name}', which there is not")
        return self


def read_study(path: Path) -> StudyFile:
    """The study in a TOML file.

    Raises:
        ConfigError: there is no such file, it is not TOML, or says what no study can; where, and what is allowed.
    """
    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"study '{path}' can't be read: {error.strerror}.{_near(path)}") from error
    if len(text) > MAX_BYTES:
        raise ConfigError(f"study '{path}' is larger than {MAX_BYTES:,} bytes; is it a study?")
    try:
        return StudyFile.model_validate(tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"study '{path}' is not TOML in UTF-8: {error}.") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        raise ConfigError(f"study '{path}'{f', {place}' if place else ''}: {said}.") from error


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" There is no folder '{folder}'."
    names = sorted(entry.name for entry in folder.glob("*.toml"))
    close = nearest(path.name, names) or names[:6]
    return " Did you mean " + " or ".join(f"'{folder / name}'" for name in close) + "?" if close else ""
