"""Answers to a study's questions, in sentences made from its figures by fixed rules.

Where two runs answered the same test images, an exact paired test says whether they can be told apart; that their
intervals overlap, or do not, decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from backbench.evaluate.compare import ALPHA, holm, permutation_by_group
from backbench.evaluate.intervals import group_numbers
from backbench.records import Predictions
from backbench.report.rows import Row, make_rows
from backbench.report.study_tables import Cell, name_data, show_figure

NOTHING = "No finished run can answer it."


@dataclass(frozen=True)
class Asked:
    """A question's finished runs.

    Args:
        cells: of its groups, each with a test accuracy.
        told: run id -> answers to the test images.
        groups: manifest digest -> test image -> its group, of data whose images hang together.
        order: the question's groups of runs, in its order.
        model: the one in question, and `models`: the family in question; for rules that need them.
    """

    cells: Sequence[Cell]
    told: Mapping[str, Predictions] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Hashable | None]] = field(default_factory=dict)
    model: str | None = None
    models: Sequence[str] = ()
    order: Sequence[str] = ()

    def by_data(self) -> Iterator[tuple[str, list[Cell]]]:
        """Runs that answered the same test images, under the name of their data set."""
        for data, digest in dict.fromkeys((cell.data, cell.record.data.manifest_digest) for cell in self.cells):
            own = [cell for cell in self.cells if (cell.data, cell.record.data.manifest_digest) == (data, digest)]
            is_of_one_seed = len({cell.seed for cell in own}) == 1  # else the parts are the data's own
            yield name_data(own[0], self.cells) if is_of_one_seed else data, own

    def correct(self, cell: Cell) -> np.ndarray:
        """(n,) bool: which test images it got right, in the order of their names."""
        answers = self.told[cell.record.run_id]
        right: np.ndarray = answers.correct[np.argsort(answers.ids, kind="stable")]
        return right

    def gains(self, cell: Cell, over: Cell) -> np.ndarray:
        """(n,) int: for each test image 1 where only `cell` got it right, -1 where only `over` did, else 0."""
        difference: np.ndarray = self.correct(cell).astype(np.int64) - self.correct(over)
        return difference

    def groups_of(self, cell: Cell, ids: Sequence[str]) -> list[Hashable | None] | None:
        """The group of each of these test images; None where every image stands alone."""
        known = self.groups.get(cell.record.data.manifest_digest)
        return None if known is None else [known[each] for each in ids]

    def p_value(self, cell: Cell, differences: np.ndarray) -> float:
        """Of the exact paired test: two-sided, over images or, where they hang together, over groups.

        Args:
            cell: on the same images.
            differences: (n,) int, for each image in the order of their names.
        """
        groups = self.groups_of(cell, sorted(self.told[cell.record.run_id].ids))
        if groups is not None:
            differences = np.rint(np.bincount(group_numbers(groups), weights=differences)).astype(np.int64)
        return permutation_by_group(differences)


Answer = Callable[[Asked], str]


def answer_question(by: str, asked: Asked) -> str:
    """A few sentences; `by` is one of `RULES`."""
    usable = [
        cell
        for cell in asked.cells
        if cell.figure("accuracy") is not None
        and cell.record.run_id in asked.told
        and not cell.record.num_test_seen
    ]
    return RULES[by](replace(asked, cells=usable)) if usable else NOTHING


def best_features(asked: Asked) -> str:
    """The best frozen features on each data set, and what can't be told apart from them."""
    sentences = []
    for data, own in asked.by_data():
        ranked = _rank(asked, own)
        best, rest = ranked[0][0], ranked[1:]
        tied = [cell.model for cell, row in rest if row.tied_with_best and cell.model != best.model]
        if len(ranked) == 1:
            also = ""
        elif tied:
            also = f"; {_join(tied)} can't be told apart from it (exact paired tests, Holm-adjusted)"
        else:
            has_tied = any(row.tied_with_best for _, row in rest)  # by another method of the best model
            which = "all other models" if has_tied else "all others"
            also = f"; {which} are worse beyond doubt (exact paired tests, Holm-adjusted)"
            also = also if not has_tied or len({cell.model for cell in own}) > 1 else ""
        how = f" + {best.method}" if len({cell.method for cell in own}) > 1 else ""
        sentences.append(f"On {data}: {best.model}{how}, {_show(best)}{also}.")
    return " ".join(sentences)


def both_resolutions(asked: Asked) -> str:
    """The model whose worst place over the data sets is the best, with the places that the tests leave open."""
    by_data = list(asked.by_data())
    if len(by_data) < 2:
        return f"Only {by_data[0][0]} is finished: it takes two data sets."
    places: dict[str, list[int]] = {}
    intervals: dict[str, list[str]] = {}
    for data, own in by_data:
        firsts: dict[str, Row] = {}
        for cell, row in _rank(asked, own):
            firsts.setdefault(cell.model, row)
        for place, (model, row) in enumerate(firsts.items(), start=1):
            open_to = f" ({row.rank_low} to {row.rank_high})" if row.rank_low != row.rank_high else ""
            places.setdefault(model, []).append(place)
            intervals.setdefault(model, []).append(f"place {place}{open_to} on {data}")
    whole = {model: found for model, found in places.items() if len(found) == len(by_data)}
    if not whole:
        return "No model has finished on all data sets."
    best = min(whole, key=lambda model: (max(whole[model]), sum(whole[model])))
    return (
        f"{best}: {', '.join(intervals[best])}, of {len(whole)} models on all of them (in brackets the places "
        "that paired tests leave open)."
    )


def own_network(asked: Asked) -> str:
    """The study's own network against the best of the others on the same images, each by validation, and how many
    of them are above it beyond chance."""
    sentences = []
    for data, own in asked.by_data():
        mine = [cell for cell in own if cell.model == asked.model]
        others = [cell for cell in own if cell.model != asked.model]
        if not mine or not others:
            continue
        first, best = max(mine, key=_val_accuracy), max(others, key=_val_accuracy)
        gap = 100 * (_accuracy(best) - _accuracy(first))
        verb = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if gap else "level with"
        sentences.append(
            f"{first.model} ({first.method}) reaches {_show(first)} on {data}; of the other models the best on "
            f"validation, {best.model} ({best.method}), is {verb} it with {_show(best)} "
            f"({_test(asked, best, first)}).{_count_above(asked, first, others)}"
        )
    return " ".join(sentences) or NOTHING


def _count_above(asked: Asked, first: Cell, others: Sequence[Cell]) -> str:
    """' 3 of the 4 others ... are above it': each by its method that is best on validation; '' for one alone."""
    best = [
        max((cell for cell in others if cell.model == model), key=_val_accuracy)
        for model in dict.fromkeys(cell.model for cell in others)
    ]
    if len(best) == 1:
        return ""
    p_values = holm([asked.p_value(first, asked.gains(cell, first)) for cell in best])
    above = [
        cell.model
        for cell, p_value in zip(best, p_values, strict=True)
        if p_value < ALPHA and _accuracy(cell) > _accuracy(first)
    ]
    which = [cell.model for cell in best if cell.model not in above]
    rest = f"; not {_join(which)}" if above and which else ""
    num = "All" if not which else "None" if not above else f"{len(above)}"
    verb = "is" if len(above) == 1 else "are"
    return (
        f" {num} of the {len(best)} others, each by its best method on validation, {verb} above it beyond chance "
        f"(exact paired tests, Holm-adjusted){rest}."
    )


def between_groups(asked: Asked) -> str:
    """What each model and method gained from the first of the question's groups to a later one, on the same
    test images, and what else differs between the two."""
    sentences = []
    for first in (cell for cell in asked.cells if cell.group == asked.order[0]):
        for later in asked.cells:
            same = (later.model, later.method, later.data, later.seed)
            if later.group == first.group or same != (first.model, first.method, first.data, first.seed):
                continue
            if sorted(asked.told[later.record.run_id].ids) != sorted(asked.told[first.record.run_id].ids):
                continue
            gain = 100 * (_accuracy(later) - _accuracy(first))
            sentences.append(
                f"{first.model} + {first.method} on {name_data(first, asked.cells)}: {_show(first)} in "
                f"'{first.group}', {_show(later)} in '{later.group}', {gain:+.1f} points "
                f"({_test(asked, later, first)}).{_tell_apart(first, later)}"
            )
    return " ".join(sentences) or NOTHING


def _tell_apart(first: Cell, later: Cell) -> str:
    """' Between them: training images 4,000 to 40,000, epochs 3 to 6.'; '' where nothing of that differs."""
    changes = [
        f"{words} {show_figure(name, one)} to {show_figure(name, two)}"
        for name, words in DIFFERENCES.items()
        if (one := first.figure(name)) is not None
        and (two := later.figure(name)) is not None
        and one.value != two.value
    ]
    start, other = first.record.model_name, later.record.model_name
    changes += [f"start {start} to {other}"] if start != other else []
    return f" Between them: {', '.join(changes)}." if changes else ""


def generalisation(asked: Asked) -> str:
    """What is left of the accuracy on images of another source, on the classes that both have.

    Named apart: the network in question, where the study asks for one, and of the others the best on validation.
    """
    changes = [
        (cell, source, found.metrics["accuracy"].value - own)
        for cell in asked.cells
        for source, found in cell.elsewhere.items()
        if (own := _own_accuracy(asked, cell, set(found.mapping.values()))) is not None
    ]
    if not changes:
        return NOTHING
    mean = sum(change for _, _, change in changes) / len(changes)
    way = "falls" if mean <= 0 else "rises"
    mine = [change for change in changes if change[0].model == asked.model]
    others = [change for change in changes if change[0].model != asked.model]
    of_others = "of the others " if mine else ""
    named = [
        f"{words}{cell.model} + {cell.method} of {name_data(cell, asked.cells)}: {100 * change:+.1f} points on "
        f"{source}"
        for words, rivals in (("", mine), (f"{of_others}the best on validation, ", others))
        if rivals
        for cell, source, change in [max(rivals, key=lambda one: _val_accuracy(one[0]))]
    ]
    return (
        f"On images of another source accuracy {way} by {abs(100 * mean):.1f} points on average ({len(changes)} "
        f"comparisons); {'; '.join(named)}. On both sides only images of classes that both have are counted, and "
        "a source differs in more than its images' look."
    )


def _own_accuracy(asked: Asked, cell: Cell, classes: set[str]) -> float | None:
    """On the run's own test images of these classes, chosen among all its classes; None where there are none."""
    told = asked.told[cell.record.run_id]
    wanted = np.isin(told.labels, [place for place, name in enumerate(told.classes) if name in classes])
    return float(told.correct[wanted].mean()) if wanted.any() else None


def families(asked: Asked) -> str:
    """One family of models against all others: their mean over the same test images, and the best of each.

    The best of a family is the one that was best on validation, so that the test images choose nothing.
    """
    sentences = []
    for data, own in asked.by_data():
        ours = [cell for cell in own if cell.model in asked.models]
        others = [cell for cell in own if cell not in ours]
        if not ours or not others:
            continue
        mine = np.stack([asked.correct(cell) for cell in ours])
        theirs = np.stack([asked.correct(cell) for cell in others])
        gap = float(mine.mean() - theirs.mean())
        p_value = asked.p_value(ours[0], len(others) * mine.sum(axis=0) - len(ours) * theirs.sum(axis=0))
        is_alone = len({cell.model for cell in ours}) == 1
        reach, they_are = ("reaches", "it is") if is_alone else ("reach", "they are")
        if p_value >= ALPHA:
            verdict = "these can't be told apart"
        else:
            verdict = f"{they_are} worse" if gap < 0 else f"{they_are} no worse, but better"
        first, second = max(ours, key=_val_accuracy), max(others, key=_val_accuracy)
        sentences.append(
            f"On {data} {_join([cell.model for cell in ours])} {reach} {_percent(mine.mean())} on average, the "
            f"others {_percent(theirs.mean())}: {verdict} ({100 * gap:+.1f} points, {_show_p(p_value)}, exact "
            f"paired test on {mine.shape[1]:,} images). Of each, the best on validation: {first.model} with "
            f"{_show(first)}, {second.model} with {_show(second)} ({_test(asked, first, second)})."
        )
    return " ".join(sentences) or NOTHING


def fine_tuning_gain(asked: Asked) -> str:
    """How much each model gained over its probe by being trained, on the same test images. Of several probes the
    one that was best on validation counts."""
    probes: dict[tuple[str, str], Cell] = {}
    for cell in asked.cells:
        key = (cell.model, cell.record.data.manifest_digest)
        if cell.method in PROBES and (key not in probes or _val_accuracy(cell) > _val_accuracy(probes[key])):
            probes[key] = cell
    sentences = []
    for cell in asked.cells:
        probe = probes.get((cell.model, cell.record.data.manifest_digest))
        if probe is not None and cell.method not in PROBES:
            gain = 100 * (_accuracy(cell) - _accuracy(probe))
            sentences.append(
                f"{cell.model} on {name_data(cell, asked.cells)}: {cell.method} {gain:+.1f} points over "
                f"{probe.method} ({_test(asked, cell, probe)})."
            )
    return " ".join(sentences) or NOTHING


def across_data(asked: Asked) -> str:
    """How each model's accuracy changes from the first data set to the others, largest fall last.

    Of several methods the one that was best on validation counts, of several seeds their mean.
    """
    names = list(dict.fromkeys(cell.data for cell in asked.cells))
    found = []
    for model in dict.fromkeys(cell.model for cell in asked.cells):
        means = {
            data: mean
            for data in names
            if (mean := _mean_accuracy([c for c in asked.cells if (c.model, c.data) == (model, data)])) is not None
        }
        if len(means) == len(names) > 1:
            changes = {data: means[data] - means[names[0]] for data in names[1:]}
            found.append((min(changes.values()), model, means, changes))
    sentences = []
    for _, model, means, changes in sorted(found, key=lambda one: -one[0]):
        figures = ", ".join(
            f"{_percent(means[data])} on {data} ({100 * changes[data]:+.1f} points)" for data in names[1:]
        )
        sentences.append(f"{model}: {_percent(means[names[0]])} on {names[0]}, {figures}.")
    return " ".join(sentences) or NOTHING


def _mean_accuracy(cells: Sequence[Cell]) -> float | None:
    """Mean over the seeds of the method that does best on validation; None without a run."""
    if not cells:
        return None
    by_method: dict[str, list[Cell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, []).append(cell)
    best = max(by_method.values(), key=lambda own: sum(map(_val_accuracy, own)) / len(own))
    return sum(map(_accuracy, best)) / len(best)


DIFFERENCES = {
    "num_train": "training images",
    "epochs": "epochs",
    "batch_size": "batch size",
    "weight_decay": "weight decay",
}
PROBES = ("logistic", "knn", "ridge", "centroid")
RULES: dict[str, Answer] = {
    "best-features": best_features,
    "both-resolutions": both_resolutions,
    "own-network": own_network,
    "generalisation": generalisation,
    "families": families,
    "fine-tuning-gain": fine_tuning_gain,
    "across-data": across_data,
    "between-groups": between_groups,
}


def _rank(asked: Asked, cells: Sequence[Cell]) -> list[tuple[Cell, Row]]:
    """Runs on the same test images, best first, each with its line of a ranking. A run that stands in two groups
    stands there once."""
    by_id = {cell.record.run_id: cell for cell in cells}
    told = [asked.told[run_id] for run_id in by_id]
    rows = make_rows([cell.record for cell in by_id.values()], told, asked.groups_of(cells[0], told[0].ids))
    return [(by_id[row.run_id], row) for row in rows]


def _test(asked: Asked, first: Cell, second: Cell) -> str:
    """'p = 0.03, exact paired test on 1,000 images': whether two runs on the same images can be told apart."""
    differences = asked.gains(first, second)
    p_value = asked.p_value(first, differences)
    apart = "" if p_value < ALPHA else "not to be told apart: "
    return f"{apart}{_show_p(p_value)}, exact paired test on {len(differences):,} images"


def _show_p(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}".rstrip("0").rstrip(".")


def _accuracy(cell: Cell) -> float:
    metric = cell.figure("accuracy")
    return 0.0 if metric is None else metric.value


def _val_accuracy(cell: Cell) -> float:
    metric = cell.figure("val_accuracy")
    return 0.0 if metric is None else metric.value


def _show(cell: Cell) -> str:
    return show_figure("accuracy", cell.figure("accuracy"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _join(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return " and ".join([", ".join(unique[:-1]), unique[-1]]) if len(unique) > 1 else unique[0]
