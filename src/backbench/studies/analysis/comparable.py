"""The runs of a question: which may be compared, how they differ, and the tests between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from backbench.records.schema import Predictions
from backbench.report.rows import Row, make_rows
from backbench.report.text import describe_augment
from backbench.stats.compare import permutation_by_group
from backbench.stats.intervals import group_numbers
from backbench.stats.metric import Metric
from backbench.studies.analysis.cells import Cell, name_data, show_setting
from backbench.studies.analysis.facts import Change, Kind, PairedTest, Remark, Run, Unlike

NOT_STATED = "none"
RANDOM = "random"


@dataclass(frozen=True)
class Asked:
    """A question's finished runs.

    Args:
        cells: of its groups, each with a test accuracy.
        told: run id -> predictions on the test images.
        groups: manifest digest -> test image -> its group, for data with groups of related images.
        order: the question's groups of runs.
        model: the network in question; `models`: the family in question; for rules that need them.
    """

    cells: Sequence[Cell]
    told: Mapping[str, Predictions] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Hashable | None]] = field(default_factory=dict)
    model: str | None = None
    models: Sequence[str] = ()
    order: Sequence[str] = ()

    def title(self, cell: Cell) -> str:
        """The run's model, with its group where the name would be ambiguous: one method in two groups, or weights
        that an earlier group trained."""
        alike = [other for other in self.cells if split_of(other) == split_of(cell)]
        is_twin = len({other.record.run_id for other in alike if other.method == cell.method}) > 1
        has_starts = len({other.record.model_name for other in alike}) > 1
        return f"{cell.model} ('{cell.group}')" if is_twin or has_starts else cell.model

    def run(self, cell: Cell) -> Run:
        """The run as answers name it."""
        return Run(self.title(cell), cell.method, name_data(cell, self.cells), accuracy_of(cell))

    def unique_cells(self) -> list[Cell]:
        """Each run of a model once, also if several groups have it, with the other sources of all of them."""
        found: dict[tuple[str, str, str], Cell] = {}
        for cell in self.cells:
            key = cell.data, cell.model, cell.record.run_id
            first = found.setdefault(key, cell)
            if cell.elsewhere.keys() - first.elsewhere.keys():
                found[key] = replace(first, elsewhere={**cell.elsewhere, **first.elsewhere})
        return list(found.values())

    def by_data(self) -> Iterator[tuple[str, list[Cell]]]:
        """Yield runs with the same images in every split, with the name of their data set. With other training
        images a better result may come from them. A run in two groups counts once."""
        splits: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.unique_cells():
            splits.setdefault((cell.data, cell.record.data.manifest_digest), []).append(cell)
        for (data, _), own in splits.items():
            is_of_one_seed = len({cell.seed for cell in own}) == 1  # else the data has fixed splits
            yield name_data(own[0], self.cells) if is_of_one_seed else data, own

    def correct(self, cell: Cell) -> np.ndarray:
        """(n,) bool: test images with a correct prediction, in the order of their names."""
        answers = self.told[cell.record.run_id]
        right: np.ndarray = answers.correct[np.argsort(answers.ids, kind="stable")]
        return right

    def gains(self, cell: Cell, over: Cell) -> np.ndarray:
        """(n,) int: for each test image 1 where only `cell` is correct, -1 where only `over` is, else 0."""
        difference: np.ndarray = self.correct(cell).astype(np.int64) - self.correct(over)
        return difference

    def groups_of(self, cell: Cell, ids: Sequence[str]) -> list[Hashable | None] | None:
        """The group of each of these test images; None for data without groups."""
        known = self.groups.get(cell.record.data.manifest_digest)
        return None if known is None else [known[each] for each in ids]

    def p_value(self, cell: Cell, differences: np.ndarray) -> float:
        """Of the exact paired test: two-sided, over images or over groups of related images.

        Args:
            cell: on the same images.
            differences: (n,) int, for each image in the order of their names.
        """
        groups = self.groups_of(cell, sorted(self.told[cell.record.run_id].ids))
        if groups is not None:
            differences = np.rint(np.bincount(group_numbers(groups), weights=differences)).astype(np.int64)
        return permutation_by_group(differences)

    def test(self, first: Cell, second: Cell) -> PairedTest:
        """Whether two runs on the same images differ."""
        differences = self.gains(first, second)
        return PairedTest(self.p_value(first, differences), len(differences))


def name_alike(asked: Asked) -> tuple[Asked, list[Remark]]:
    """Runs with one name for each model, each once in its group, and the names that were joined.

    Two names of a study can be one model here, as with one --image-size, and a model must not be compared with
    itself. The name in question is kept, or one of the family in question, or else the first.
    """
    together: dict[str, list[str]] = {}  # name -> all names of its model
    of_model: dict[tuple[str, str | None], str] = {}
    for cell in asked.cells:
        own = together.setdefault(cell.model, [cell.model])
        same = together[of_model.setdefault(_identity(cell), cell.model)]
        if own is not same:
            same.extend(own)
            together |= dict.fromkeys(own, same)
    one_name = {}
    for name, names in together.items():
        wanted = [each for each in names if each == asked.model or each in asked.models]
        one_name[name] = (wanted or names)[0]
    cells: dict[tuple[str, ...], Cell] = {}
    for cell in asked.cells:
        renamed = replace(cell, model=one_name[cell.model])
        cells.setdefault((cell.group, cell.data, renamed.model, cell.method, cell.record.run_id), renamed)
    twins = dict.fromkeys(tuple(names) for names in together.values() if len(names) > 1)
    return replace(asked, cells=list(cells.values())), [Remark(Kind.SAME_MODEL, names) for names in twins]


def _identity(cell: Cell) -> tuple[str, str | None]:
    """Of the requested model: its name or run, with its size, and its card, if it has one."""
    return cell.record.config.model, cell.record.config.model_file


def place_of(cell: Cell) -> tuple[str, str, str, int]:
    return cell.model, cell.method, cell.data, cell.seed


def split_of(cell: Cell) -> tuple[str, str]:
    return cell.model, cell.record.data.manifest_digest


def best_on_validation(cells: Iterable[Cell]) -> Cell:
    """The run with the highest validation accuracy; of equal ones the lowest loss, then the first by name. Test
    images decide nothing. Runs whose weights were trained on validation images come last."""
    return min(
        cells, key=lambda cell: (*place_on_validation([[cell]]), cell.model, cell.method, cell.group, cell.seed)
    )


def place_on_validation(runs: Collection[Sequence[Cell]]) -> tuple[bool, float, float]:
    """A key to sort by, best first: sums over `runs`, one entry for each data set, of means over seeds."""
    seen = any(cell.record.num_val_seen for own in runs for cell in own)
    accuracy = sum(_mean_figure(own, "val_accuracy", 0.0) for own in runs)
    return seen, -accuracy, sum(_mean_figure(own, "val_nll", math.inf) for own in runs)


def _mean_figure(cells: Sequence[Cell], name: str, absent: float) -> float:
    found = [cell.figure(name) for cell in cells]
    return sum(absent if metric is None else metric.value for metric in found) / len(cells)


def best_of_models(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Model -> its best run on validation."""
    models = dict.fromkeys(cell.model for cell in cells)
    return {model: best_on_validation(cell for cell in cells if cell.model == model) for model in models}


def list_changes(first: Cell, later: Cell) -> tuple[Change, ...]:
    """Every setting that a later run has otherwise."""
    one, two = list_settings(first), list_settings(later)
    changes = [
        Change(words, one.get(words, NOT_STATED), two.get(words, NOT_STATED))
        for words in dict.fromkeys([*one, *two])
        if one.get(words, NOT_STATED) != two.get(words, NOT_STATED)
    ]
    starts = [cell.record.model.weights_digest for cell in (first, later) if cell.record.model is not None]
    if len(set(starts)) > 1 and one["start"] == two["start"] != RANDOM:
        changes.append(Change("start", one["start"], two["start"]))
    return tuple(changes)


def find_unlike(asked: Asked, splits: Iterable[Sequence[Cell]], *, told: Collection[str] = ()) -> list[Unlike]:
    """The settings in which compared runs differ, as one fact; none where they are alike.

    Runs differ where some models have other values than others: that every model has the same two methods favours
    none. Settings of one method are compared among its runs.

    Args:
        splits: for each data set the compared runs.
        told: settings to leave out.
    """
    unlike: dict[str, dict[str, None]] = {}
    for cells in splits:
        found: dict[str, dict[str, dict[str, None]]] = {}  # setting -> who has it -> its values
        for cell in cells:
            common, own = _list_comparable(cell)
            for name, settings in ((cell.model, common), (asked.title(cell), own)):
                for words, value in settings.items():
                    found.setdefault(words, {}).setdefault(name, {})[value] = None
        for words, by_name in found.items():
            if len(set(map(frozenset, by_name.values()))) > 1 and words not in told:
                unlike.setdefault(words, {}).update({value: None for own in by_name.values() for value in own})
    return [Unlike(tuple((words, tuple(values)) for words, values in unlike.items()))] if unlike else []


def _list_comparable(cell: Cell) -> tuple[dict[str, str], dict[str, str]]:
    """A run's settings: those of any method, and those of its own method ('epochs of full')."""
    facts, settings = cell.record.model, list_settings(cell)
    before = None if facts is None or cell.forgets else facts.pretrained_on
    del settings["start"]  # by the name of the model
    common = {
        "method": cell.method,
        "input": settings.pop("input", NOT_STATED),
        "training images": settings.pop("training images"),
        "pretraining": before or NOT_STATED,
        "precision": settings.pop("precision"),
    }
    return common, {f"{words} of {cell.method}": value for words, value in settings.items()}


def list_settings(cell: Cell) -> dict[str, str]:
    """The requested settings of a run -> their values; not those that it chose on validation."""
    facts, method = cell.record.model, cell.record.method
    recipe = {key: value for key, value in cell.recipe.items() if key not in ("augment", *cell.chosen)}
    options = {} if method is None else {key: value for key, value in method.options.items() if key != "recipe"}
    found = {"training images": f"{cell.record.data.num_train:,}"}
    if facts is not None and facts.preprocess is not None:
        found["input"] = " x ".join(map(str, facts.preprocess.size)) + " px"
    for key, value in (recipe | options).items():
        rate = "the family's" if key.endswith("learning_rate") else "none"
        found[key.replace("_", " ")] = rate if value is None else show_setting(value)
    found["precision"] = cell.record.config.precision
    if recipe:
        found["augmentation"] = describe_augment(cell.augment) or "none"
    found["start"] = RANDOM if cell.forgets else cell.record.model_name
    return found


def rank_cells(asked: Asked, cells: Sequence[Cell]) -> list[tuple[Cell, Row]]:
    """Runs on the same test images, best first, each once with its row of a ranking."""
    by_id = {cell.record.run_id: cell for cell in cells}
    told = [asked.told[run_id] for run_id in by_id]
    rows = make_rows([cell.record for cell in by_id.values()], told, asked.groups_of(cells[0], told[0].ids))
    return [(by_id[row.run_id], row) for row in rows]


def accuracy_of(cell: Cell) -> Metric:
    """On the test images; runs that are asked have one."""
    metric = cell.figure("accuracy")
    assert metric is not None
    return metric


def accuracy(cell: Cell) -> float:
    return accuracy_of(cell).value
