"""The form of a study file: groups of runs, questions, and published figures. docs/studies.md has an example."""

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
"""Text that is not blank."""
MAX_BYTES = 1_000_000
MAX_GRID_IMAGES = 200


class Group(Frozen):
    """One ranking for each data set and seed: models x methods.

    Args:
        after: name of an earlier group; each model starts from the weights that it trained on `after_data`.
        best_of: name of an earlier group; only the best model on validation there is taken, on each data set.
        front_of: name of an earlier group; at most `front_size` models are taken, on each data set: those that no
            other beats in validation accuracy and in cost there, one of each family first.
        optional: runs only if `--only` names it.
        options: method -> its options that differ from the defaults.
        test_on: other sources; every model is evaluated on their images, by class name.
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
    def sources(self) -> tuple[str, ...]:
        """Its data sets and those of `test_on`."""
        return (*self.data, *self.test_on)

    @property
    def earlier(self) -> tuple[str, ...]:
        """The earlier groups that it needs."""
        return tuple(name for name in (self.after, self.chosen_from) if name is not None)

    @field_validator("options", mode="before")
    @classmethod
    def _as_floats(cls, value: Any) -> Any:
        """Options as floats: the file is read as decimals, for the digits of published figures."""
        return _without_decimals(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        strangers = sorted(self.options.keys() - set(self.methods))
        if strangers:
            raise ValueError(
                f"options for {', '.join(strangers)}, which is not among its methods ({', '.join(self.methods)})"
            )
        if self.after is not None and (self.after_data is None or self.after_method is None):
            raise ValueError("'after' needs 'after_data' and 'after_method': the run of that group to start from")
        if (self.front_of is None) != (self.front_size is None):
            raise ValueError("'front_of', a group, and 'front_size', how many models to take, belong together")
        if self.front_of is not None and self.best_of is not None:
            raise ValueError("'front_of' and 'best_of' both choose its models: remove one of them")
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
    """One published figure, and the run here to compare it with.

    Args:
        table: heading of the table it stands in; `row`, `column`: where.
        value: as published, with all its digits; fractions in 0..1, losses and seconds as they are.
        group, model, method, data: which run of this study; for `num_images` the data may be of its `test_on`.
        label: for the figure `recall`, the class whose images are counted.
        over: another group; the figure is the gain over the same model and method there, below 0 for a loss.
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
    """A question of the study; the rule `by` makes the answer from the runs.

    Args:
        model: the network in question, for 'own-network'; for 'generalisation' one to name beside the best.
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
    """Columns of a table or a data set of the hub: images, classes, and groups that are never split."""

    image: str | None = None
    label: str | None = None
    group: str | None = None


class StudyFile(Frozen):
    """A study; paths and names are checked when it is planned."""

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
        by_name: dict[str, Group] = {}
        for group in self.groups:
            if group.name in by_name:
                raise ValueError("two groups have the same name")
            _check_earlier(group, by_name)
            by_name[group.name] = group
        places = set()
        for entry in self.published:
            place = entry.table, entry.row, entry.column
            if place in places:
                raise ValueError(f"published: table '{entry.table}' has '{entry.row}', '{entry.column}' twice")
            places.add(place)
            _check_published(entry, by_name)
        for question in self.questions:
            _check_question(question, by_name)
        data = {name for group in self.groups for name in group.sources}
        models = {model for group in self.groups for model in group.models}
        of_models = (("trial", self.trial, "model", models), ("families", self.families, "model", models))
        for key, names, kind, known in (("columns", self.columns, "data set", data), *of_models):
            for name in names:
                if name not in known:
                    raise ValueError(f"{key}: '{name}' is no {kind} of the study{_meant(name, sorted(known))}")
        return self


def _check_earlier(group: Group, earlier: Mapping[str, Group]) -> None:
    """ValueError if a group needs runs that no earlier group has."""
    where = f"group '{group.name}'"
    needed = {"comes after": group.after, "takes the best of": group.best_of, "takes the front of": group.front_of}
    for words, name in needed.items():
        is_start = words == "comes after"
        if name is None:
            continue
        if name not in earlier:
            raise ValueError(f"{where} {words} '{name}', which is no earlier group{_meant(name, earlier)}")
        before = earlier[name]
        if before.optional and not group.optional:
            raise ValueError(f"{where} starts from '{name}', which is optional, so it has to be optional too")
        if is_start:
            _check_there(f"{where}, after_data", group.after_data, before.data, name)
            _check_there(f"{where}, after_method", group.after_method, before.methods, name)
        for model in group.models:
            _check_there(where, model, before.models, name)
        for data in () if is_start else group.data:
            _check_there(where, data, before.data, name)
        if is_start and len(before.seeds) == 1:  # all seeds start from its only one
            continue
        for seed in group.seeds:
            if seed not in before.seeds:
                there = ", ".join(map(str, before.seeds))
                raise ValueError(f"{where}, seeds: {seed} is not in group '{name}', which has {there}")


def _check_published(entry: Published, by_name: Mapping[str, Group]) -> None:
    """ValueError if the study lacks the run to compare with, or the run that a gain is over."""
    where = f"published '{entry.row}'"
    for words, place, name in (("names", where, entry.group), ("is over", f"{where}, over", entry.over)):
        if name is not None:
            group = _find_group(f"{where} {words}", name, by_name)
            data = group.sources if entry.figure == "num_images" else group.data
            for value, there in ((entry.model, group.models), (entry.method, group.methods), (entry.data, data)):
                _check_there(place, value, there, name)


def _check_question(question: Question, by_name: Mapping[str, Group]) -> None:
    """ValueError if the study lacks what a question needs."""
    where = f"question '{question.ask}'"
    groups = [_find_group(f"{where} names", name, by_name) for name in question.groups]
    there = [model for group in groups for model in group.models]
    named = [model for model in (*question.models, question.model) if model is not None]
    for model in named:
        if model not in there:
            raise ValueError(f"{where}: '{model}' is in none of its groups{_meant(model, there)}")
    has_others, has_two = bool(set(there) - set(named)), len({data for group in groups for data in group.data}) > 1
    needed = {
        "families": (has_others, "another model to compare with"),
        "own-network": (has_others, "another model to compare with"),
        "both-resolutions": (has_two, "groups with two data sets"),
        "across-data": (has_two, "groups with two data sets"),
        "between-groups": (len(groups) > 1, "two groups or more"),
        "generalisation": (any(group.test_on for group in groups), "a group with 'test_on'"),
    }
    is_there, what = needed.get(question.by, (True, ""))
    if not is_there:
        raise ValueError(f"{where}: by = '{question.by}' needs {what}")


def _find_group(who: str, name: str, by_name: Mapping[str, Group]) -> Group:
    if name not in by_name:
        raise ValueError(f"{who} group '{name}', which does not exist{_meant(name, by_name)}")
    return by_name[name]


def _check_there(where: str, value: str | None, there: Sequence[str], group: str) -> None:
    if value is not None and value not in there:
        raise ValueError(f"{where}: '{value}' is not in group '{group}'{_meant(value, there)}")


def _meant(given: str, allowed: Iterable[str]) -> str:
    """'. Did you mean 'x'?', or the allowed names if none is near."""
    names = list(dict.fromkeys(allowed))
    there = f"There is {', '.join(repr(name) for name in names[:6])}" if names else ""
    hint = did_you_mean(given, names, otherwise=there)
    return f".{hint}" if hint else ""


def read_study(path: Path) -> StudyFile:
    """Read a study from a TOML file.

    Raises:
        ConfigError: there is no such file, it is not TOML, or no valid study; says where, and what is allowed.
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
        faults = error.errors()  # a mistyped key is also reported as missing, which does not help
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
        raise ConfigError(f"study '{path}' is not valid TOML in UTF-8: {error}.") from error


def _describe_place(place: Sequence[int | str], document: Mapping[str, Any]) -> str:
    """'groups 2 ('probes'), seeds.0': entries counted from 1, with their name if they have one."""
    if len(place) < 2 or not isinstance(place[1], int):
        return ".".join(map(str, place))
    entry = document[str(place[0])][place[1]]
    names = [entry[key] for key in ("name", "row", "ask") if key in entry] if isinstance(entry, dict) else []
    name = f" ('{names[0]}')" if names and isinstance(names[0], str) else ""
    within = ".".join(map(str, place[2:]))
    return f"{place[0]} {place[1] + 1}{name}{f', {within}' if within else ''}"


def _keys_at(place: Sequence[int | str]) -> list[str]:
    """The allowed keys of the table at that place of a study file."""
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
