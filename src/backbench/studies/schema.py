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

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from backbench.config import Frozen
from backbench.documents import parse_toml
from backbench.errors import ConfigError
from backbench.storage import read_file
from backbench.studies.analysis.cells import PERCENT
from backbench.wording import did_you_mean

Figure = Literal[
    "accuracy",
    "top5",
    "train_accuracy",
    "train_nll",
    "val_accuracy",
    "val_nll",
    "nll",
    "seconds",
    "num_train",
    "num_val",
    "num_test",
    "num_images",
    "epochs",
    "batch_size",
    "weight_decay",
    "recall",
]
Drawing = Literal["run", "comparison", "bars", "map", "grid", "explanations", "inside"]
Ask = Literal[
    "best-features",
    "both-resolutions",
    "own-network",
    "generalisation",
    "families",
    "fine-tuning-gain",
    "across-data",
    "between-groups",
    "training-gap",
]
Text = Annotated[str, Field(pattern=r"\S")]
"""Something that can be read."""
MAX_BYTES = 1_000_000
MAX_GRID_IMAGES = 200


class Group(Frozen):
    """One ranking for each data set and seed: models x methods.

    Args:
        after: name of an earlier group; each model starts as that group left it on `after_data`.
        best_of: name of an earlier group; of the models only the one that did best on validation there is taken,
            on each data set.
        front_of: name of an earlier group; of the models at most `front_size` are taken, on each data set: those
            that no other beats in validation accuracy and in cost there, one of each family first.
        optional: it is carried out where `--only` names it, and not otherwise.
        options: method -> its options that differ from the defaults.
        test_on: other sources, whose images every adapted model is evaluated on, by class name.
    """

    name: Text
    data: tuple[str, ...] = Field(min_length=1)
    models: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seeds: tuple[Annotated[int, Field(ge=0, strict=True)], ...] = Field(default=(0,), min_length=1)
    train_limit: int | None = Field(default=None, ge=4, strict=True)
    after: str | None = None
    after_data: str | None = None
    after_method: str | None = None
    best_of: str | None = None
    front_of: str | None = None
    front_size: int | None = Field(default=None, ge=1, strict=True)
    optional: bool = False
    test_on: tuple[str, ...] = ()
    note: str | None = None

    @property
    def chosen_from(self) -> str | None:
        """The earlier group whose validation figures choose among the models; None where all are taken."""
        return self.best_of or self.front_of

    @property
    def earlier(self) -> tuple[str, ...]:
        """The groups that it goes on from."""
        return tuple(name for name in (self.after, self.chosen_from) if name is not None)

    @field_validator("options", mode="before")
    @classmethod
    def _as_floats(cls, value: Any) -> Any:
        """The file is read with all digits, for what was published; options are numbers like any other."""
        return _without_decimals(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        strangers = sorted(self.options.keys() - set(self.methods))
        if strangers:
            raise ValueError(
                f"options for {', '.join(strangers)}, which is not among its methods ({', '.join(self.methods)})"
            )
        if self.after is not None and (self.after_data is None or self.after_method is None):
            raise ValueError("'after' needs 'after_data' and 'after_method': which run of that group goes on")
        if (self.front_of is None) != (self.front_size is None):
            raise ValueError("'front_of', a group, and 'front_size', how many models go on, belong together")
        if self.front_of is not None and self.best_of is not None:
            raise ValueError("'front_of' and 'best_of' both choose its models: leave one of them out")
        if self.after is None and (self.after_data is not None or self.after_method is not None):
            raise ValueError("'after_data' and 'after_method' need 'after': the group that they are of")
        for key in ("data", "models", "methods", "seeds", "test_on"):
            values = getattr(self, key)
            twice = [value for place, value in enumerate(values) if value in values[:place]]
            if twice:
                raise ValueError(f"{key} names {twice[0]!r} twice")
        return self


def _without_decimals(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_decimals(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_decimals(each) for each in value]
    return float(value) if isinstance(value, Decimal) else value


class Published(Frozen):
    """One figure of the study as its authors published it, and the run here that it is to be compared with.

    Args:
        table: heading of the table it stands in; `row`, `column`: where.
        value: as published, with all its digits; fractions in 0..1, losses and seconds as they are.
        group, model, method, data: which run of this study; for `num_images` the data may be of its `test_on`.
        label: for the figure `recall`, the class whose images are counted.
        over: another group; the figure is how much more it is than that of the same model and method there, less
            than 0 where it is less.
        why: the reason why ours must differ.
    """

    table: Text
    row: Text
    column: Text
    value: Decimal | None = None
    figure: Figure = "accuracy"
    group: str
    model: str
    method: str
    data: str
    label: str | None = None
    over: str | None = None
    why: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.figure == "recall") != (self.label is not None):
            raise ValueError("'label', a class, belongs to figure = 'recall' and to no other")
        if self.over is not None and self.figure not in PERCENT:
            raise ValueError(f"'over' is for shares such as accuracy, and not for {self.figure}")
        if self.over == self.group:
            raise ValueError(f"'over' names the run's own group '{self.over}'; a gain is over another one")
        if self.value is not None and self.value < 0 and self.over is None:
            raise ValueError(f"{self.figure} = {self.value} is below 0; only a gain 'over' a group may be")
        if self.figure in PERCENT and self.value is not None and abs(self.value) > 1:
            raise ValueError(f"{self.figure} = {self.value} is no share from 0 to 1; 93.1 % is written 0.931")
        return self


class Question(Frozen):
    """A question of the study; the answer is made from the numbers by the rule `by`.

    Args:
        model: the one in question, for 'own-network'; for 'generalisation' the one to name beside the best.
        models: the family in question, for 'families'.
    """

    ask: Text
    by: Ask
    groups: tuple[str, ...] = Field(min_length=1)
    model: str | None = None
    models: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.by != "generalisation" and (self.by == "own-network") != (self.model is not None):
            raise ValueError("'model', the network in question, belongs to by = 'own-network' and to no other")
        if (self.by == "families") != bool(self.models):
            raise ValueError("'models', the family in question, belong to by = 'families' and to no other")
        return self


class Columns(Frozen):
    """Of a table or a data set of the hub: its columns with the images, the classes and what is never split."""

    image: str | None = None
    label: str | None = None
    group: str | None = None


class StudyFile(Frozen):
    """A study: see the module's text for the form of the file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    title: Text
    source: Text
    about: Text
    groups: tuple[Group, ...] = Field(min_length=1)
    published: tuple[Published, ...] = ()
    questions: tuple[Question, ...] = ()
    columns: dict[str, Columns] = Field(
        default_factory=dict, description="data -> its columns, where they are not found by themselves"
    )
    drawings: tuple[Drawing, ...] = ("run", "comparison")
    trial: dict[str, str] = Field(
        default_factory=dict, description="large model -> small one of its family that stands in for it in a trial"
    )
    families: dict[str, Text] = Field(
        default_factory=dict, description="model -> its kind of architecture, for groups with 'front_of'"
    )
    grid_images: tuple[Annotated[int, Field(ge=1, le=MAX_GRID_IMAGES, strict=True)], ...] = Field(
        default=(30,), min_length=1
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError("two groups have the same name")
        by_name = {group.name: group for group in self.groups}
        for place, group in enumerate(self.groups):
            for word, earlier in (
                ("comes after", group.after),
                ("takes the best of", group.best_of),
                ("takes the front of", group.front_of),
            ):
                if earlier is not None and earlier not in names[:place]:
                    hint = _meant(earlier, names[:place])
                    raise ValueError(f"group '{group.name}' {word} '{earlier}', which is no earlier group{hint}")
            _check_earlier(group, by_name)
            for earlier in group.earlier:
                if by_name[earlier].optional and not group.optional:
                    raise ValueError(
                        f"group '{group.name}' starts from '{earlier}', which is optional, so it has to be "
                        "optional too"
                    )
        places = [(entry.table, entry.row, entry.column) for entry in self.published]
        for number, entry in enumerate(self.published):
            if places[number] in places[:number]:
                raise ValueError(f"published: table '{entry.table}' has '{entry.row}', '{entry.column}' twice")
            _check_published(entry, by_name)
        for question in self.questions:
            _check_question(question, by_name)
        used = {data for group in self.groups for data in (*group.data, *group.test_on)}
        for data in self.columns:
            if data not in used:
                raise ValueError(f"columns: '{data}' is no data of the study{_meant(data, sorted(used))}")
        named = {model for group in self.groups for model in group.models}
        for word, models in (("trial", self.trial), ("families", self.families)):
            for model in models:
                if model not in named:
                    raise ValueError(f"{word}: '{model}' is no model of the study{_meant(model, named)}")
        return self


def _check_earlier(group: Group, by_name: Mapping[str, Group]) -> None:
    """ValueError where a group goes on from runs that an earlier one does not make."""
    if group.after is not None:
        before = by_name[group.after]
        _check_there(f"group '{group.name}', after_data", group.after_data, before.data, group.after)
        _check_there(f"group '{group.name}', after_method", group.after_method, before.methods, group.after)
        for model in group.models:
            _check_there(f"group '{group.name}'", model, before.models, group.after)
        if len(before.seeds) > 1:  # else its only one is where all go on from
            _check_seeds(group, before)
    if group.chosen_from is not None:
        before = by_name[group.chosen_from]
        for model in group.models:
            _check_there(f"group '{group.name}'", model, before.models, before.name)
        for data in group.data:
            _check_there(f"group '{group.name}'", data, before.data, before.name)
        _check_seeds(group, before)


def _check_seeds(group: Group, before: Group) -> None:
    for seed in group.seeds:
        if seed not in before.seeds:
            there = ", ".join(map(str, before.seeds))
            raise ValueError(
                f"group '{group.name}', seeds: {seed} is not in group '{before.name}', which has {there}"
            )


def _check_published(entry: Published, by_name: Mapping[str, Group]) -> None:
    """ValueError where the run that a published figure is compared with is none of the study's."""
    cells = by_name.get(entry.group)
    if cells is None:
        hint = _meant(entry.group, by_name)
        raise ValueError(f"published '{entry.row}' names group '{entry.group}', which there is not{hint}")
    data = (*cells.data, *cells.test_on) if entry.figure == "num_images" else cells.data
    for value, there in ((entry.model, cells.models), (entry.method, cells.methods), (entry.data, data)):
        _check_there(f"published '{entry.row}'", value, there, entry.group)
    if entry.over is not None:
        _check_over(entry, entry.over, by_name)


def _check_over(entry: Published, name: str, by_name: Mapping[str, Group]) -> None:
    """ValueError where the group that a published gain is over lacks the run."""
    where, over = f"published '{entry.row}'", by_name.get(name)
    if over is None:
        raise ValueError(f"{where} is over group '{name}', which there is not{_meant(name, by_name)}")
    for value, there in ((entry.model, over.models), (entry.method, over.methods), (entry.data, over.data)):
        _check_there(f"{where}, over", value, there, name)


def _check_question(question: Question, by_name: Mapping[str, Group]) -> None:
    """ValueError where a question is about what the study lacks."""
    for name in question.groups:
        if name not in by_name:
            raise ValueError(
                f"question '{question.ask}' names group '{name}', which there is not{_meant(name, by_name)}"
            )
    there = [model for name in question.groups for model in by_name[name].models]
    for model in (*question.models, *([] if question.model is None else [question.model])):
        if model not in there:
            raise ValueError(
                f"question '{question.ask}': '{model}' is in none of its groups{_meant(model, there)}"
            )
    groups = [by_name[name] for name in question.groups]
    if question.by in ("families", "own-network") and not set(there) - {*question.models, question.model}:
        raise ValueError(f"question '{question.ask}': its groups have no other model to compare with")
    if question.by in ("both-resolutions", "across-data") and len({data for g in groups for data in g.data}) < 2:
        raise ValueError(f"question '{question.ask}': by = '{question.by}' takes groups with two data sets")
    if question.by == "between-groups" and len(groups) < 2:
        raise ValueError(f"question '{question.ask}': by = 'between-groups' takes two groups or more")
    if question.by == "generalisation" and not any(group.test_on for group in groups):
        raise ValueError(f"question '{question.ask}': by = 'generalisation' takes a group with 'test_on'")


def _check_there(where: str, value: str | None, there: Sequence[str], group: str) -> None:
    if value is not None and value not in there:
        raise ValueError(f"{where}: '{value}' is not in group '{group}'{_meant(value, there)}")


def _meant(given: str, allowed: Iterable[str]) -> str:
    """'. Did you mean 'x'?', or what is allowed where nothing is near."""
    names = list(dict.fromkeys(allowed))
    there = f"There is {', '.join(repr(name) for name in names[:6])}" if names else ""
    hint = did_you_mean(given, names, otherwise=there)
    return f".{hint}" if hint else ""


def read_study(path: Path) -> StudyFile:
    """The study in a TOML file.

    Raises:
        ConfigError: there is no such file, it is not TOML, or says what no study can; where, and what is allowed.
    """
    try:
        text = read_file(path, MAX_BYTES)
    except OSError as error:
        why = "is a folder; name a file" if path.is_dir() else f"can't be read: {error.strerror}"
        near = "" if path.is_file() else _near(path)
        raise ConfigError(f"study '{path}' {why}.{near}") from error
    try:
        document = parse_toml(text.decode("utf-8-sig"), parse_float=Decimal)
        return StudyFile.model_validate(document)
    except ValidationError as error:
        faults = error.errors()  # a key that was mistyped is missing too, and that is no help
        fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
        place = _describe_place(fault["loc"], document)
        said = fault["msg"].removeprefix("Value error, ").rstrip(".")
        if fault["type"] == "extra_forbidden":
            said = f"there is no such key{_meant(str(fault['loc'][-1]), _keys_at(fault['loc'][:-1]))}"
        elif fault["type"] == "string_pattern_mismatch" and not str(fault["input"]).strip():
            said = "must not be empty"
        end = "" if said.endswith("?") else "."
        raise ConfigError(f"study '{path}'{f', {place}' if place else ''}: {said}{end}") from error
    except ValueError as error:
        raise ConfigError(f"study '{path}' is not TOML in UTF-8 that can be read: {error}.") from error


def _describe_place(place: Sequence[int | str], document: Mapping[str, Any]) -> str:
    """'groups 2 ('probes'), seeds.0': entries counted from 1 as people do, with their name if they have one."""
    if len(place) < 2 or not isinstance(place[1], int):
        return ".".join(map(str, place))
    entry = document[str(place[0])][place[1]]
    names = [entry[key] for key in ("name", "row", "ask") if key in entry] if isinstance(entry, dict) else []
    name = f" ('{names[0]}')" if names and isinstance(names[0], str) else ""
    within = ".".join(map(str, place[2:]))
    return f"{place[0]} {place[1] + 1}{name}{f', {within}' if within else ''}"


def _keys_at(place: Sequence[int | str]) -> list[str]:
    """Names of the keys that are allowed in the table at that place of a study file."""
    tables: dict[str, type[Frozen]] = {
        "groups": Group,
        "published": Published,
        "questions": Question,
        "columns": Columns,
    }
    return list((tables[str(place[0])] if place else StudyFile).model_fields)


def _near(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f" There is no folder '{folder}'."
    names = sorted(entry.name for entry in folder.glob("*.toml"))
    there = f"There is {', '.join(str(folder / name) for name in names[:6])}." if names else ""
    return did_you_mean(path.name, names, otherwise=there, folder=folder)
