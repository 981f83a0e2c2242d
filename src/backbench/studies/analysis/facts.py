"""What the runs of a study show, as typed facts: every answer is a tuple of these before it is a sentence.

Shares are from 0 to 1, and a gain or gap is a difference of two shares. `wording` makes sentences of facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from backbench.stats.compare import ALPHA
from backbench.stats.metric import Metric


class Fact:
    """Something that the runs of a study show."""


class Kind(Enum):
    """What a remark says."""

    NOTHING = auto()
    TRIAL = auto()
    ONE_DATA_SET = auto()
    NO_COMMON_MODEL = auto()
    NOT_FOLLOWED = auto()
    SHARED_CLASSES = auto()
    OTHER_TRAINING_IMAGES = auto()
    SAME_MODEL = auto()
    WITHOUT_PROBE = auto()
    KEPT_START = auto()
    TRAINING_FIGURES = auto()
    SMOOTHED_LABELS = auto()


@dataclass(frozen=True)
class Run:
    """A run by the name it has in an answer.

    Args:
        title: its model; with the group where runs of several groups have the same name.
        data: its data set, with the seed or the number of training images where others differ in it.
        accuracy: on the test images.
    """

    title: str
    method: str
    data: str
    accuracy: Metric


@dataclass(frozen=True)
class Remark(Fact):
    """A fact without figures, about runs, or names of models or data sets, if any."""

    kind: Kind
    about: tuple[Run | str, ...] = ()


@dataclass(frozen=True)
class PairedTest:
    """An exact paired test on the same test images."""

    p_value: float
    num_images: int

    @property
    def is_significant(self) -> bool:
        """Whether the two sides differ significantly."""
        return self.p_value < ALPHA


@dataclass(frozen=True)
class Change:
    """A setting that a later run has otherwise; equal values of `start` are one name for two sets of weights.

    Args:
        seed: the only seed whose runs differ in it; None: all.
    """

    setting: str
    before: str
    after: str
    seed: int | None = None


@dataclass(frozen=True)
class BestFeatures(Fact):
    """The best run on a data set; `tied`: runs that may also be the best; `worse`: those excluded with 95 %."""

    data: str
    best: Run
    tied: tuple[Run, ...]
    worse: tuple[Run, ...]


@dataclass(frozen=True)
class Gain(Fact):
    """Two runs on the same test images, and the test between them."""

    first: Run
    later: Run
    test: PairedTest

    @property
    def gain(self) -> float:
        """How much more accurate the later run is."""
        return self.later.accuracy.value - self.first.accuracy.value


@dataclass(frozen=True)
class OwnNetwork(Gain):
    """The network in question, and the best of the other models, both chosen on validation.

    Args:
        data: name of their data set.
        above: models with a significantly higher accuracy; `not_above`: all other models.
    """

    data: str
    above: tuple[str, ...]
    not_above: tuple[str, ...]


@dataclass(frozen=True)
class FamilyAverage(Fact):
    """The mean accuracy of a family of models and of all others; of each the best run on validation."""

    data: str
    family: tuple[str, ...]
    accuracy: float
    accuracy_of_others: float
    test: PairedTest
    best: Run
    best_other: Run
    test_of_best: PairedTest


@dataclass(frozen=True)
class GroupGain(Gain):
    """One model and method in two groups; `changes`: every setting that differs."""

    groups: tuple[str, str]
    changes: tuple[Change, ...]
    is_same_run: bool


@dataclass(frozen=True)
class TrainingGain(Gain):
    """A probe and the trained model; `is_of_start`: the probe has the weights that the training started from."""

    is_of_start: bool


@dataclass(frozen=True)
class TrainingGap:
    """Accuracy of a run on its training images and on its validation images."""

    run: Run
    train: float
    val: float


@dataclass(frozen=True)
class TrainingGaps(Fact):
    """The gaps of all runs on a data set, the largest first."""

    data: str
    gaps: tuple[TrainingGap, ...]


@dataclass(frozen=True)
class Place:
    """A model's place on a data set; `low` to `high`: the places that paired tests leave open."""

    data: str
    place: int
    low: int
    high: int


@dataclass(frozen=True)
class BestPlaces(Fact):
    """The model whose worst place over the data sets is the best, of `num_models` that are on all of them."""

    model: str
    places: tuple[Place, ...]
    num_models: int


@dataclass(frozen=True)
class SourceGain(Fact):
    """How accuracy changes from a run's own test images to another source, on the classes that both have.

    Args:
        mean: over `num_runs` runs; below 0 where accuracy falls.
        own: the best run on validation of the network in question, with its change; None: no network is asked for.
        best: of the other models.
    """

    data: str
    source: str
    mean: float
    num_runs: int
    own: tuple[Run, float] | None
    best: tuple[Run, float] | None


@dataclass(frozen=True)
class MeanAccuracy:
    """The mean over seeds on a data set; `group` where the method is in several."""

    data: str
    accuracy: float
    group: str | None


@dataclass(frozen=True)
class Followed(Fact):
    """A model by one method over all data sets, in their order.

    Args:
        num_seeds: of the data sets, each number once, from low to high.
        changes: data set -> what differs from the first one; empty where a `CommonChanges` has it.
    """

    model: str
    method: str
    means: tuple[MeanAccuracy, ...]
    num_seeds: tuple[int, ...]
    changes: tuple[tuple[str, tuple[Change, ...]], ...]


@dataclass(frozen=True)
class CommonChanges(Fact):
    """Data set -> what differs there from the first data set, for every model that is followed."""

    changes: tuple[tuple[str, tuple[Change, ...]], ...]


@dataclass(frozen=True)
class Unlike(Fact):
    """A setting in which compared runs differ, with its values: (setting, values)."""

    settings: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Seen(Fact):
    """Runs whose weights were trained on images of a split: (run, how many, of how many).

    Args:
        split: 'test' or 'validation'.
        is_left_out: the runs are left out; else they come after all others where validation chooses.
    """

    split: str
    runs: tuple[tuple[Run, int, int], ...]
    is_left_out: bool


@dataclass(frozen=True)
class Precisions(Fact):
    """Precisions of the probes' features and of training, where they differ."""

    probes: tuple[str, ...]
    training: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A model that may go on to a later group, by its best run on validation.

    Args:
        accuracy: on validation.
        flops: for an image; None: not known.
        beaten_by: of a model behind the front one that is at least as accurate and costs no more.
    """

    model: str
    family: str
    accuracy: float
    flops: float | None
    beaten_by: str | None


@dataclass(frozen=True)
class Selection:
    """The models that go on, in the order in which they were taken, and the others."""

    taken: tuple[Candidate, ...]
    left: tuple[Candidate, ...]

    def first_of(self, family: str) -> Candidate | None:
        """The first model of a family that was taken."""
        return next((each for each in self.taken if each.family == family), None)


@dataclass(frozen=True)
class Choice:
    """Which models go on to a ranking from an earlier group, chosen on validation.

    Args:
        ranking: in words, as in `Step.title`.
        group: the earlier one.
        num_runs: finished runs of the models there, of `num_asked`.
        selection: from the front of accuracy and cost; None: the best model was taken.
    """

    ranking: str
    models: tuple[str, ...]
    group: str
    num_runs: int
    num_asked: int
    selection: Selection | None = None


Facts = tuple[Fact, ...]
