"""Where the answers are wrong: classes, confused pairs, single images, and what several models share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backbench.report.ranked import Entry, RankedRuns
from backbench.stats.confusion import count_confusion
from backbench.stats.intervals import wilson_interval

MAX_PAIRS = 12
IMAGES_OF_PAIR = 3
MAX_WRONG = 48
MAX_KINDS = 48
MAX_SHARED = 12
MAX_UNSURE = 8
IMAGES_OF_ROW = 4
MAX_ROWS_ALONE = 6
MAX_MATRIX_CLASSES = 300


@dataclass(frozen=True)
class Pair:
    """One kind of error of the best row: `count` of the `n` images of `truth` were answered `answer`."""

    truth: int
    answer: int
    count: int
    n: int
    images: tuple[int, ...]


@dataclass(frozen=True)
class Alone:
    """A row that is the only one to be right on `count` images; some of them."""

    row: int
    count: int
    images: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Faults:
    """Everything the section shows; images are indices into `RankedRuns.ids`.

    wrong: the best row's errors, most confident first, at least one of each kind where that fits.
    unsure: its right answers, least confident first.
    shared: errors of every row, most agreed first, with how many of the rows give the same wrong answer.
    recall: (rows, classes), NaN for classes without images.
    """

    wrong: tuple[int, ...]
    unsure: tuple[int, ...]
    num_wrong: int
    pairs: tuple[Pair, ...]
    num_pairs: int
    shared: tuple[tuple[int, int, int], ...]
    num_shared: int
    alone: tuple[Alone, ...]
    counts: np.ndarray
    sizes: np.ndarray
    recall: np.ndarray
    ensemble: tuple[float, int, int] | None

    def images(self) -> list[int]:
        """The images worth showing, each once, the most telling first."""
        wanted = [image for pair in self.pairs for image in pair.images]
        wanted += [image for image, _, _ in self.shared]
        wanted += [image for alone in self.alone for image in alone.images]
        return list(dict.fromkeys([*wanted, *self.wrong, *self.unsure]))


def find_faults(ranked: RankedRuns) -> Faults | None:
    """What the best row, all rows and single rows get wrong; None where there are no answers."""
    best = ranked.best
    if best is None or not len(ranked.labels):
        return None
    labels, num_classes = ranked.labels, len(ranked.classes)
    answers = np.stack([_answers(entry) for entry in ranked.candidates])
    right = answers == labels
    place = ranked.candidates.index(best)
    counts = count_confusion(labels, answers[place], num_classes)
    sizes = counts.sum(axis=1)
    confidence = best.told.max(axis=1)
    wrong = np.flatnonzero(~right[place])
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    held = np.flatnonzero(right[place])
    held = held[np.argsort(confidence[held], kind="stable")]
    shared = _find_shared(answers, right)
    pairs = _find_pairs(counts, sizes, answers[place], labels, wrong)
    return Faults(
        wrong=_choose_wrong(wrong, labels, answers[place]),
        unsure=tuple(held[:MAX_UNSURE].tolist()),
        num_wrong=len(wrong),
        pairs=pairs[:MAX_PAIRS],
        num_pairs=len(pairs),
        shared=shared[:MAX_SHARED],
        num_shared=len(shared),
        alone=_find_alone(right),
        counts=counts,
        sizes=sizes,
        recall=_recall(right, labels, num_classes),
        ensemble=_join_best(ranked),
    )


def _choose_wrong(wrong: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> tuple[int, ...]:
    """The surest mistakes, and the surest of each kind not among them, so that cells of the matrix have images."""
    chosen = wrong[:MAX_WRONG].tolist()
    kinds = {(int(labels[image]), int(answers[image])) for image in chosen}
    for image in wrong[MAX_WRONG:].tolist():
        kind = (int(labels[image]), int(answers[image]))
        if kind not in kinds and len(chosen) < MAX_WRONG + MAX_KINDS:
            kinds.add(kind)
            chosen.append(image)
    return tuple(chosen)


def _answers(entry: Entry) -> np.ndarray:
    return entry.told.argmax(axis=1)


def _find_pairs(
    counts: np.ndarray, sizes: np.ndarray, answers: np.ndarray, labels: np.ndarray, wrong: np.ndarray
) -> tuple[Pair, ...]:
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    truths, given = np.nonzero(errors)
    shares = errors[truths, given] / sizes[truths]
    order = np.lexsort((given, truths, -shares, -errors[truths, given]))
    found: list[Pair] = []
    for truth, answer in zip(truths[order].tolist(), given[order].tolist(), strict=True):
        images: tuple[int, ...] = ()
        if len(found) < MAX_PAIRS:
            of_pair = wrong[(labels[wrong] == truth) & (answers[wrong] == answer)]
            images = tuple(of_pair[:IMAGES_OF_PAIR].tolist())
        found.append(Pair(truth, answer, int(errors[truth, answer]), int(sizes[truth]), images))
    return tuple(found)


def _find_shared(answers: np.ndarray, right: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    """(image, commonest wrong answer, rows that give it) of images that no row gets right; needs two rows."""
    if len(answers) < 2:
        return ()
    found = []
    for image in np.flatnonzero(~right.any(axis=0)).tolist():
        given, votes = np.unique(answers[:, image], return_counts=True)
        found.append((image, int(given[votes.argmax()]), int(votes.max())))
    return tuple(sorted(found, key=lambda item: (-item[2], item[0])))


def _find_alone(right: np.ndarray) -> tuple[Alone, ...]:
    if len(right) < 2:
        return ()
    only = right & (right.sum(axis=0) == 1)
    found = [
        Alone(row, int(only[row].sum()), tuple(np.flatnonzero(only[row])[:IMAGES_OF_ROW].tolist()))
        for row in range(len(right))
        if only[row].any()
    ]
    return tuple(sorted(found, key=lambda alone: (-alone.count, alone.row))[:MAX_ROWS_ALONE])


def _recall(right: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    sizes = np.bincount(labels, minlength=num_classes).astype(np.float64)
    sizes[sizes == 0] = np.nan
    hits = np.stack([np.bincount(labels, weights=row, minlength=num_classes) for row in right])
    return hits / sizes


def _join_best(ranked: RankedRuns) -> tuple[float, int, int] | None:
    """(accuracy, images gained, images lost) of the best three models' mean probabilities, against the best."""
    members: dict[str, Entry] = {}
    for entry in ranked.candidates:
        members.setdefault(entry.row.model, entry)
    chosen: Sequence[Entry] = list(members.values())[:3]
    best = ranked.best
    if len(chosen) < 2 or best is None:
        return None
    mean = np.mean([entry.told for entry in chosen], axis=0)
    joined, alone = mean.argmax(axis=1) == ranked.labels, _answers(best) == ranked.labels
    return float(joined.mean()), int((joined & ~alone).sum()), int((alone & ~joined).sum())


def class_interval(recall: float, n: int) -> tuple[float, float]:
    """Wilson's interval of the recall of a class of n images."""
    return wilson_interval(min(n, round(recall * n)), n)
