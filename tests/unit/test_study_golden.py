"""The prose of a study's pages, whole, in one golden file: every rule, every remark, every kind of table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from backbench.config import Recipe
from backbench.records.schema import Cost
from backbench.studies.analysis.answers import RULES, Asked, answer_question
from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.facts import Candidate, Choice, Facts, Selection
from backbench.studies.run import Outcome
from backbench.studies.schema import StudyFile
from backbench.studies.steps import Settings
from backbench.studies.write import make_foreword, render_study
from study_cells import TOLD, make_cell, publish, tried, tuned, with_fit

Answered = list[tuple[str, Facts]]
STUDY = {
    "name": "handmade",
    "title": "Runs made by hand",
    "source": "nowhere",
    "about": "Every sentence that a study's page can hold.",
    "groups": [
        {"name": "probe", "data": ["small", "large"], "models": ["a", "b"], "methods": ["logistic", "full"]},
        {"name": "few", "data": ["small"], "models": ["a"], "methods": ["logistic"], "train_limit": 40},
        {"name": "later", "data": ["small"], "models": ["a"], "methods": ["head"], "optional": True},
    ],
}


def trained(model: str, wrong: int, **more: Any) -> Cell:
    recipe = Recipe(label_smoothing=0.1, layer_decay=0.7).model_dump(mode="json")
    return make_cell(model, range(wrong), method="full", options={"recipe": recipe}, **more)


def answer_models() -> Answered:
    """The rules that compare models on one data set."""
    answered: Answered = []

    def ask(what: str, by: str, *cells: Cell, **more: Any) -> None:
        answered.append((f"{by}: {what}", answer_question(by, Asked(cells, TOLD, **more))))

    by = "best-features"
    ask("one run", by, make_cell("a", range(20)))
    ask("all others worse", by, make_cell("a", range(20)), make_cell("b", range(60)))
    ask("one tied, another method", by, make_cell("a", range(20)), make_cell("b", range(11, 32), method="knn"))
    twice = (make_cell("a", range(20)), make_cell("a", range(21), method="knn"))
    ask("only its own other method tied", by, *twice, make_cell("b", range(90)))
    ask("one model by two methods", by, *twice)
    seen = make_cell("c", range(0), num_test_seen=3)
    ask("one saw test images", by, make_cell("a", range(20)), seen, make_cell("d", range(9), num_test_seen=1))
    ask("no run that may answer", by, make_cell("c", range(0), num_test_seen=3))
    few = {"digest": "few", "num_train": 10, "group": "few"}
    ask("other training images", by, make_cell("a", range(20)), make_cell("a", range(30), **few))
    ask("two seeds", by, *(make_cell("a", range(20), seed=seed) for seed in (0, 1)))
    after = make_cell("a", range(9), group="after", label="a after full on big")
    ask("weights of an earlier group", by, make_cell("a", range(20)), after)
    same = make_cell("net@32", range(20))
    ask("two names of one model", by, same, replace(same, model="net@64"), make_cell("b", range(60)))
    many = [make_cell(f"m{number}", range(60), method=f"way-{number}") for number in range(6)]
    ask("six methods", by, *many)

    by = "own-network"
    own, better = make_cell("cnn", range(40), method="scratch"), make_cell("a", range(2))
    ask("one other, above", by, own, better, model="cnn")
    ask("below", by, own, make_cell("a", range(60)), model="cnn")
    ask("level", by, own, make_cell("a", range(40, 80)), model="cnn")
    level = make_cell("b", range(1, 40))
    ask("1 of 2 above", by, own, better, level, model="cnn")
    ask("2 of 3 above", by, own, better, make_cell("c", range(3)), level, model="cnn")
    ask("all above", by, own, better, make_cell("c", range(3)), model="cnn")
    ask("none above", by, own, level, make_cell("d", range(60)), model="cnn")
    ask("one saw validation images", by, own, level, make_cell("e", range(2), num_val_seen=5), model="cnn")
    ask("other training images", by, own, make_cell("a", range(20), **few), model="cnn")
    ask("nothing beside it", by, own, model="cnn")

    by = "families"
    one, two, three = make_cell("vit", range(60)), make_cell("deit", range(60)), make_cell("cnn", range(20))
    ask("one worse", by, one, three, models=("vit",))
    ask("two worse", by, one, two, three, models=("vit", "deit"))
    ask("two better", by, one, two, three, make_cell("b", range(90)), models=("cnn", "vit"))
    ask("one better", by, one, three, models=("cnn",))
    ask("no difference, unlike recipes", by, tuned("a", 5), tuned("b", 20), models=("a",))
    ask("other training images", by, one, make_cell("a", range(20), **few), models=("vit",))
    return answered


def answer_changes() -> Answered:
    """The rules that follow a model over groups, data sets and sources."""
    answered: Answered = []

    def ask(what: str, by: str, *cells: Cell, **more: Any) -> None:
        answered.append((f"{by}: {what}", answer_question(by, Asked(cells, TOLD, **more))))

    by = "both-resolutions"
    places = {"steady": (20, 40), "moody": (10, 130), "close": (21, 41)}
    cells = [make_cell(name, range(wrong[0])) for name, wrong in places.items()]
    cells += [make_cell(name, range(wrong[1]), data="large") for name, wrong in places.items()]
    ask("three models", by, *cells)
    ask("one data set", by, cells[0])
    ask("no common model", by, cells[0], cells[-1])

    by = "generalisation"
    falling = [make_cell(name, range(9), elsewhere={"wild": tried(0.8)}) for name in ("a", "b", "cnn")]
    ask("one run rises", by, make_cell("a", range(20), elsewhere={"wild": tried(0.95)}))
    ask("three runs fall", by, *falling)
    ask("one in question", by, *falling, model="cnn")
    ask("only the one in question", by, falling[-1], model="cnn")
    ask("tried on nothing", by, make_cell("a", range(20)))

    by = "fine-tuning-gain"
    probe, full = make_cell("a", range(40)), make_cell("a", range(9), method="full", group="tuned")
    ask("a gain", by, probe, full)
    ask("no difference, and one without a probe", by, probe, tuned("a", 5), tuned("b", 5))
    ask("no probe", by, tuned("a", 5))
    earlier = make_cell("a", range(2), method="full", group="on", label="a after full on big")
    ask("of earlier weights", by, probe, earlier)
    config = probe.record.config.model_copy(update={"precision": "bf16"})
    ask("other precision", by, replace(probe, record=probe.record.model_copy(update={"config": config})), full)
    ask("two seeds", by, *(make_cell("a", range(40 - 9 * (how == "full")), method=how, seed=seed)
                           for seed in (0, 1) for how in ("knn", "full")))  # fmt: skip

    by = "across-data"
    small, large = tuned("a", 20, val=0.9), tuned("a", 5, data="large", val=0.9, num_train=40)
    ask("one model, other recipe", by, small, large)
    ask("one model is on one alone", by, small, large, make_cell("b", range(9)))
    both = [make_cell(name, range(9 * num), data=data, num_train=40 * num)
            for name in "ab" for num, data in enumerate(("small", "large"), start=1)]  # fmt: skip
    ask("two models, one thing besides", by, *both)
    seeds = [make_cell("a", range(10 * seed), seed=seed) for seed in (0, 1, 2)]
    ask("seeds", by, *seeds, *(make_cell("a", range(30), data="large", seed=seed) for seed in (1, 2)))
    runs = ((5, "small", 0), (5, "small", 1), (5, "large", 0), (7, "large", 1))
    differs = [tuned("a", epochs, data=data, seed=seed) for epochs, data, seed in runs]
    ask("of one seed alone", by, *differs)
    ask("two groups", by, small, large, tuned("a", 5, data="large", group="few", val=0.2, num_train=10))
    unlike = [tuned("b", 9, data=data) for data in ("small", "large")]
    ask("unlike recipes", by, small, tuned("a", 20, data="large", val=0.9), *unlike)
    ask("no method on both", by, small)

    by = "between-groups"
    first = make_cell("a", range(40), group="few", method="full", options={"recipe": {"epochs": 3}}, digest="few")
    later = make_cell("a", range(20), group="all", method="full", options={"recipe": {"epochs": 6}}, digest="all")
    order = ("few", "all")
    ask("other epochs", by, first, later, order=order)
    ask("the same run", by, first, replace(first, group="all"), order=order)
    facts = later.record.model.model_copy(update={"weights_digest": "others"})  # type: ignore[union-attr]
    ask("other weights", by, first, replace(later, record=later.record.model_copy(update={"model": facts})),
        order=order)  # fmt: skip
    ask("no pair", by, first, order=order)

    by = "training-gap"
    gaps = [with_fit(make_cell("a", range(20)), 0.87, 0.88), with_fit(make_cell("b", range(20)), 0.96, 0.83)]
    ask("two runs", by, *gaps)
    start = make_cell("d", range(20), method="full", choices={"full_best_epoch": 0})
    ask("a start that was best", by, gaps[0], start)
    ask("trained, with smoothed labels", by, with_fit(trained("a", 20), 0.9, 0.8))
    ask("one saw validation images", by, gaps[0], with_fit(make_cell("b", range(20), num_val_seen=5), 0.9, 0.8))
    return answered


def make_runs() -> list[Cell]:
    """Runs for the tables: trained and not, several seeds, tried on another source, optimistic."""
    cells = [
        with_fit(make_cell("a", range(20), elsewhere={"wild": tried(0.8)}), 0.95, 0.9),
        make_cell("b", range(40), num_test_seen=3, num_val_seen=2),
        with_fit(trained("a", 9, choices={"full_best_epoch": 7}), 0.99, 0.9),
        make_cell("b", range(30), method="full", options={"recipe": {"epochs": 20}, "blocks": 3},
                  choices={"full_best_epoch": 0}),
        *(make_cell("a", range(60 + seed), data="large", seed=seed) for seed in (0, 1)),
        make_cell("a", range(50), group="few", num_train=20),
    ]  # fmt: skip
    for place, last in ((0, "head"), (2, "fit")):
        cost = Cost(seconds={"forward": 10.0, last: 2.5}, images_per_second=None)
        cells[place] = replace(cells[place], record=cells[place].record.model_copy(update={"cost": cost}))
    return cells


PUBLISHED = [
    publish(why="Other images."),
    publish(column="large", data="large", value=None),
    publish(column="gain", over="few", value=Decimal("0.0312")),
    publish(column="decay", figure="weight_decay", value=1e-4, method="full"),
    publish(column="fit", figure="train_accuracy", value=0.97, method="full"),
    publish(column="wild", figure="num_images", data="wild", value=50),
    publish(column="bee", figure="recall", label="wasp", value=0.75),
    publish(row="B", model="b", value=0.845),
    publish(row="B", column="images", figure="num_train", value=120, model="b"),
    publish(row="C", model="c"),
]


def test_the_page_of_a_study_reads_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    cells = make_runs()
    study = StudyFile.model_validate(STUDY).model_copy(update={"published": tuple(PUBLISHED)})
    front = Selection(
        taken=(Candidate("a", "nets", 0.9, 4.1e9, None), Candidate("b", "nets", 0.8, None, "a")),
        left=(Candidate("c", "nets", 0.7, 8e9, "a"), Candidate("d", "others", 0.6, 8e9, "a")),
    )
    choices = [
        Choice("later: small", ("a",), "probe", num_runs=3, num_asked=4),
        Choice("later: large", ("a", "b"), "probe", num_runs=4, num_asked=4, selection=front),
    ]
    outcome = Outcome(study, cells=cells, choices=choices)
    outcome.note("probe: large, b + full", "the budget ended")
    outcome.note("probe: large, b + logistic", "the budget ended")
    outcome.note("few: small", "no weights")
    answers = [*answer_models(), *answer_changes()]
    assert {ask.partition(":")[0] for ask, _ in answers} == RULES.keys()
    settings = Settings(out=Path("out"))
    foreword = make_foreword(outcome, settings, answers)
    page = render_study(foreword, outcome, settings, [Path("out/figures/a.svg")], ["no map"])
    golden("study-tables.md", page)


def test_the_page_of_a_trial_reads_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    study = StudyFile.model_validate(STUDY).model_copy(update={"published": tuple(PUBLISHED[:2])})
    settings = Settings(out=Path("out"), random_weights=True, limit=60, image_size=32, only=("probe",))
    outcome = Outcome(study, cells=make_runs()[:1])
    golden("study-trial.md", render_study(make_foreword(outcome, settings), outcome, settings))
