"""Answers and tables of studies, from runs made up here: what can't be told apart is said so, by paired tests."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from backbench.config import Augment, Recipe
from backbench.records.schema import Cost, ModelFacts, Predictions
from backbench.report.markdown import render_tables
from backbench.stats.metric import Metric
from backbench.studies.analysis.answers import Asked, answer_question
from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.facts import Kind
from backbench.studies.analysis.published import make_published_tables
from backbench.studies.analysis.recipes import LAYER_DECAY_NOTE, make_recipe_table
from backbench.studies.analysis.tables import make_data_table, make_group_tables
from backbench.studies.analysis.wording import REMARKS, describe_facts
from study_cells import IDS, TOLD, make_cell, publish, tried, tuned, tuned_by, with_fit

NOTHING = REMARKS[Kind.NOTHING]
FIT_NOTE, SMOOTHED_NOTE = REMARKS[Kind.TRAINING_FIGURES], REMARKS[Kind.SMOOTHED_LABELS]


def ask(by: str, cells: list[Cell], **more: Any) -> str:
    return " ".join(describe_facts(answer_question(by, Asked(cells, TOLD, **more))))


def test_a_small_gap_on_the_same_images_is_found_though_the_intervals_overlap() -> None:
    best, near, equal = (
        make_cell("a", range(20)),
        make_cell("b", range(30)),
        make_cell("c", range(11, 32)),
    )
    low, high = best.record.metrics["accuracy"].low, near.record.metrics["accuracy"].high
    assert low is not None
    assert high is not None
    assert low < high
    said = ask("best-features", [near, best])
    assert said.startswith("On small: a, 90.0 % (85.1 to 93.4); all others are significantly worse (exact paired")
    assert "; no significant difference from c" in ask("best-features", [best, equal])


def test_groups_of_images_that_hang_together_are_tested_as_groups() -> None:
    cells = [make_cell("a", range(20)), make_cell("b", range(30))]
    one_group = {"small-0": {name: "same animal" if 20 <= index < 30 else name for index, name in enumerate(IDS)}}
    assert "no significant difference" not in ask("best-features", cells)
    assert "no significant difference from b" in ask("best-features", cells, groups=one_group)


def test_a_model_that_saw_the_test_images_answers_no_question() -> None:
    seen = make_cell("cheat", range(0), num_test_seen=3)
    why = "Left out, because their weights were trained on test images: cheat + logistic on small (3 of 200)."
    said = ask("best-features", [seen, make_cell("a", range(20))])
    assert said.startswith("On small: a,")
    assert said.endswith(why)
    assert ask("best-features", [seen]) == f"{NOTHING} {why}"


def test_validation_images_that_taught_the_weights_choose_nothing_where_others_can() -> None:
    flattered, honest = make_cell("a", range(60), val=0.99, num_val_seen=5), make_cell("b", range(20), val=0.6)
    own = make_cell("cnn", range(40), method="scratch")
    said = ask("own-network", [own, flattered, honest], model="cnn")
    assert "of the other models the best on validation, b (logistic)" in said
    last = "After all others where validation chooses, because their weights were trained on images of it: "
    assert said.endswith(f"{last}a + logistic on small (5 of 50).")
    assert "the best on validation, a (logistic)" in ask("own-network", [own, flattered], model="cnn")
    assert "After all" not in ask("best-features", [own, flattered, honest])
    assert ask("training-gap", [flattered]).startswith(NOTHING)
    assert "Left out, because their weights were trained on validation images: a" in ask(
        "training-gap", [flattered]
    )
    large = [
        make_cell("a", range(50), data="large", method=how, val=val) for how, val in (("knn", 0.1), ("ridge", 0.9))
    ]
    small = [
        make_cell("a", range(9), method="knn", val=0.2),
        make_cell("a", range(9), method="ridge", num_val_seen=9),
    ]
    assert ask("across-data", [*small, *large]).startswith("a + knn:")


def test_of_equals_on_validation_the_test_images_choose_none() -> None:
    def with_loss(cell: Cell, loss: float) -> Cell:
        fit = cell.record.fit | {"val_nll": Metric(value=loss, n=50)}
        return replace(cell, record=cell.record.model_copy(update={"fit": fit}))

    own = make_cell("cnn", range(40), method="scratch")
    lucky = with_loss(make_cell("a", range(2), method="knn"), 2.0)
    other = with_loss(make_cell("a", range(9), method="ridge"), 1.0)
    for cells in ([own, lucky, other], [own, other, lucky]):
        assert "best on validation, a (ridge)" in ask("own-network", cells, model="cnn")
    first, second = make_cell("a", range(9), method="full"), make_cell("a", range(2), method="head")
    for cells in ([own, first, second], [own, second, first]):
        assert "best on validation, a (full)" in ask("own-network", cells, model="cnn")  # by name


def test_two_names_of_one_model_are_never_held_against_each_other() -> None:
    small, large = make_cell("net@32", range(20)), replace(make_cell("net@32", range(20)), model="net@64")
    other = make_cell("b", range(60))
    same = "net@32 and net@64 are one and the same model here."
    for by, more in (("families", {"models": ("net@64",)}), ("own-network", {"model": "net@64"})):
        assert ask(by, [small, large], **more) == f"{NOTHING} {same}"
        said = ask(by, [small, large, other], **more)
        assert "net@64" in said
        assert said.count("net@32") == 1
        assert said.endswith(same)
    said = ask("families", [small, large, other], models=("b",))
    assert "the others 90.0 %" in said
    assert "net@64 with" not in said
    two = [
        make_cell("net@32", range(30), data="large"),
        replace(make_cell("net@32", range(30), data="large"), model="net@64"),
    ]
    said = ask("both-resolutions", [small, large, *two, other, make_cell("b", range(3), data="large")])
    assert "of 2 models on all of them" in said
    assert said.endswith(same)
    there = tried(0.9)
    there_too = replace(small, group="tried", elsewhere={"wild": there})
    assert "net@32 + logistic" in ask("generalisation", [small, large, there_too], model="net@32")
    pairs = [replace(cell, group=group) for group in ("one", "two") for cell in (small, large)]
    assert ask("between-groups", pairs, order=("one", "two")).count("net@32 + logistic on small") == 1
    seen = [replace(cell, record=cell.record.model_copy(update={"num_test_seen": 3})) for cell in (small, large)]
    assert ask("best-features", [*seen, other]).count("+ logistic on small (3 of 200)") == 1


def test_names_of_one_model_are_joined_however_they_overlap() -> None:
    def named(name: str, method: str, wrong: int) -> Cell:
        cell = make_cell("net", range(wrong), method=method)
        weights = cell.record.model.model_copy(update={"weights_digest": "w"})  # type: ignore[union-attr]
        return replace(cell, model=name, record=cell.record.model_copy(update={"model": weights}))

    cells = [named("a", "ridge", 9), named("b", "knn", 20), named("c", "ridge", 9), named("c", "full", 5)]
    same = "a, b and c are one and the same model here."
    for wanted in "abc":
        assert ask("own-network", cells, model=wanted) == f"{NOTHING} {same}"
    said = ask("best-features", [*cells, make_cell("d", range(90))])
    assert said.startswith("On small: a + full")
    assert said.count(same) == 1
    foreign = make_cell("e", range(3))
    assert "one and the same" not in ask("best-features", [cells[0], foreign])
    card = cells[0].record.config.model_copy(update={"model_file": "other.toml"})
    other = replace(cells[0], model="e", record=cells[0].record.model_copy(update={"config": card, "run_id": "e"}))
    TOLD["e"] = TOLD[cells[0].record.run_id]
    assert "one and the same" not in ask("best-features", [cells[0], other])


UNLIKE = "Not alike in these runs: epochs of full (5; 20)."


def test_what_is_not_alike_in_runs_that_are_compared_is_said() -> None:
    alike = [tuned("a", 5), tuned("b", 5)]
    assert "Not alike" not in ask("families", alike, models=("a",))
    assert ask("families", [tuned("a", 5), tuned("b", 20)], models=("a",)).endswith(UNLIKE)
    probes = [make_cell(name, range(30)) for name in "ab"]
    assert ask("fine-tuning-gain", [*probes, tuned("a", 5), tuned("b", 20)]).endswith(UNLIKE)
    assert "Not alike" not in ask("fine-tuning-gain", [*probes, *alike])
    mixed = ask("best-features", [make_cell("a", range(20)), make_cell("b", range(20), method="knn")])
    assert mixed.endswith("Not alike in these runs: method (logistic; knn).")
    crossed = [make_cell(model, range(20), method=method) for model in "ab" for method in ("knn", "ridge")]
    assert "Not alike" not in ask("families", crossed, models=("a",))
    assert "method (ridge; knn)" in ask("families", crossed[1:], models=("a",))
    two = [probes[0], tuned("a", 5, group="one"), tuned("a", 20, group="two")]
    assert ask("fine-tuning-gain", two).endswith(UNLIKE)


def test_what_weights_runs_began_with_is_said_where_it_differs() -> None:
    left = tuned("b", 5, label="b after full on big")
    facts = left.record.model.model_copy(update={"pretrained_on": "in1k + big"})  # type: ignore[union-attr]
    left = replace(left, record=left.record.model_copy(update={"model": facts}))
    assert "pretraining (in1k; in1k + big)" in ask("families", [tuned("a", 5), left], models=("a",))
    head_alone = tuned("b", 5, label="b after head on big")  # which left the weights as they were
    assert "Not alike" not in ask("families", [tuned("a", 5), head_alone], models=("a",))
    rates = (("a", 0.1), ("b", 0.3))
    heads = {"method": "head", "options": {"recipe": {"epochs": 2}}}
    chose = [make_cell(name, range(20), choices={"learning_rate": rate}, **heads) for name, rate in rates]
    assert "Not alike" not in ask("families", chose, models=("a",))
    random = [
        make_cell("c", range(20), method="scratch"),
        make_cell("d", range(9), method="scratch", label="d after"),
    ]
    assert "Not alike" not in ask("families", random, models=("c",))
    plain = tuned("b", 5)
    facts = plain.record.model.model_copy(update={"pretrained_on": None})  # type: ignore[union-attr]
    untrained = replace(plain, record=plain.record.model_copy(update={"model": facts}))
    said = ask("families", [tuned("a", 5), untrained], models=("a",))
    assert said.endswith("pretraining (in1k; none).")


def test_what_all_models_share_or_what_does_nothing_is_not_unlike() -> None:
    shared = make_cell("a", range(30), method="knn", group="one")
    groups = [shared, replace(shared, group="two")]
    groups += [make_cell("a", range(20), method="ridge", group=group) for group in ("one", "two")]
    assert "method (" not in ask("best-features", groups)
    idle = [
        tuned_by(name, {"schedule": "cosine", "plateau_factor": factor})
        for name, factor in (("a", 0.1), ("b", 0.5))
    ]
    assert "Not alike" not in ask("families", idle, models=("a",))


def test_every_rule_that_compares_says_what_is_not_alike() -> None:
    gaps = [with_fit(tuned("a", 5), 0.9, 0.8), with_fit(tuned("b", 20), 0.9, 0.8)]
    assert UNLIKE in ask("training-gap", gaps)
    there = tried(0.9)
    both = [replace(cell, elsewhere={"wild": there}) for cell in (tuned("a", 5), tuned("b", 20))]
    assert ask("generalisation", both).endswith(UNLIKE)
    apart = [tuned("a", 5), tuned("b", 5), *(tuned(name, 20, data="large") for name in "ab")]
    assert "Not alike" not in ask("families", apart, models=("a",))  # on each data set they are
    large = [make_cell(name, range(20), data="large", method=how) for name, how in (("a", "knn"), ("b", "ridge"))]
    places = [*(make_cell(name, range(20), method=how) for name, how in (("a", "knn"), ("b", "ridge"))), *large]
    assert ask("both-resolutions", places).endswith("Not alike in these runs: method (knn; ridge).")
    own = ask("own-network", [make_cell("cnn", range(9), method="head"), make_cell("a", range(30))], model="cnn")
    assert own.endswith("Not alike in these runs: method (head; logistic).")


@pytest.mark.parametrize(
    ("vit", "verdict"),
    [
        (
            range(60),
            "vit reaches 70.0 % on average, the others 90.0 %: it is worse (-20.0 points, p < 0.001, exact paired",
        ),
        (range(5), "it is no worse, but better (+7.5 points"),
        (range(21, 40), "there is no significant difference"),
    ],
)
def test_families_are_tested_over_the_same_images(vit: range, verdict: str) -> None:
    cells = [make_cell("vit", vit), make_cell("cnn-1", range(20), val=0.7), make_cell("cnn-2", range(20), val=0.6)]
    said = ask("families", cells, models=("vit",))
    assert verdict in said
    assert "the best on validation: vit with" in said
    assert "cnn-1 with" in said


def test_several_models_of_a_family_are_spoken_of_as_several() -> None:
    cells = [make_cell(name, range(60)) for name in ("vit", "deit")] + [make_cell("cnn", range(20))]
    assert "vit and deit reach 70.0 % on average, the others 90.0 %: they are worse" in ask(
        "families", cells, models=("vit", "deit")
    )
    twice = [make_cell("vit", range(60)), make_cell("vit", range(60), method="knn"), cells[-1]]
    assert "vit reaches 70.0 % on average, the others 90.0 %: it is worse" in ask(
        "families", twice, models=("vit",)
    )


def test_the_gap_from_training_to_validation_images_is_told_with_what_training_figures_are() -> None:
    steady = with_fit(make_cell("a", range(20)), 0.87, 0.88)
    greedy = with_fit(make_cell("b", range(20)), 0.96, 0.83)
    said = ask("training-gap", [steady, greedy, make_cell("c", range(9))])
    assert said == (
        "On small, accuracy in training over that on validation: b + logistic +13.0 points (96.0 %, 83.0 %), "
        "a + logistic -1.0 points (87.0 %, 88.0 %)."
    )
    tuned = with_fit(make_cell("d", range(20), method="full", options={"recipe": {"epochs": 2}}), 0.9, 0.9)
    assert ask("training-gap", [tuned]).endswith(FIT_NOTE)
    assert ask("training-gap", [make_cell("c", range(9))]) == NOTHING
    start = make_cell("d", range(20), method="full", choices={"full_best_epoch": 0})
    assert "No figures of training, as the start was best: d + full on small." in ask(
        "training-gap", [steady, start]
    )


def test_what_training_adds_is_tested_against_the_probe_of_the_same_images() -> None:
    probe, tuned = make_cell("a", range(20)), make_cell("a", range(19), method="full", group="tuned")
    said = ask("fine-tuning-gain", [probe, tuned])
    doubt = "no significant difference: p = 1, exact paired test on 200 images"
    assert said == f"a on small: full +0.5 points over logistic ({doubt})."
    worse = make_cell("a", range(90), method="centroid", val=0.4)
    assert ask("fine-tuning-gain", [probe, worse, tuned]) == said
    assert ask("best-features", [worse, probe]).startswith("On small: a + logistic, 90.0 %")
    without = "No probe of the same weights and images stands beside"
    elsewhere = make_cell("a", range(20), data="other")
    assert ask("fine-tuning-gain", [elsewhere, tuned]) == f"{NOTHING} {without} a + full on small."
    alone = make_cell("b", range(9), method="full", group="tuned")
    assert ask("fine-tuning-gain", [probe, tuned, alone]).endswith(f"{without} b + full on small.")
    config = probe.record.config.model_copy(update={"precision": "bf16"})
    rounded = replace(probe, record=probe.record.model_copy(update={"config": config}))
    words = "Features of the probes were computed in bf16, training in fp32."
    assert ask("fine-tuning-gain", [rounded, tuned]).endswith(words)
    other = make_cell("b", range(9))
    assert ask("best-features", [rounded, other]).endswith("Not alike in these runs: precision (bf16; fp32).")
    again = replace(tuned, group="once more")
    assert ask("fine-tuning-gain", [probe, tuned, again]).count("full +0.5 points") == 1


def test_the_own_network_is_compared_on_its_own_data_only() -> None:
    own, rival = make_cell("cnn", range(40), method="scratch"), make_cell("a", range(2))
    elsewhere = make_cell("b", range(0), data="large")
    said = ask("own-network", [own, rival, elsewhere], model="cnn")
    assert "the best on validation, a (logistic), is 19.0 points above it" in said
    assert "others" not in said  # one alone needs no count
    assert ask("own-network", [own, elsewhere], model="cnn") == NOTHING


def test_how_many_models_are_above_the_own_network_is_counted_by_tests() -> None:
    own = make_cell("cnn", range(40), method="scratch")
    better, level = make_cell("a", range(2)), make_cell("b", range(1, 40))
    worse_run = make_cell("a", range(90), method="knn", val=0.2)
    said = ask("own-network", [own, better, worse_run, level], model="cnn")
    assert "1 of the 2 others, each by its best method on validation, is above it beyond chance" in said
    assert "(exact paired tests, Holm-adjusted); not b. Not alike" in said
    assert "All of the 2 others" in ask("own-network", [own, better, make_cell("c", range(3))], model="cnn")
    assert "None of the 2 others" in ask("own-network", [own, level, make_cell("c", range(60))], model="cnn")


def test_both_resolutions_and_the_loss_between_data_sets() -> None:
    cells = [
        make_cell("steady", range(20)),
        make_cell("steady", range(40), data="large"),
        make_cell("moody", range(10)),
        make_cell("moody", range(130), data="large"),
        make_cell("last", range(90)),
        make_cell("last", range(120), data="large"),
    ]
    assert ask("both-resolutions", cells).startswith("steady: place 2 on small, place 1 on large, of 3 models")
    said = ask("across-data", cells)
    assert said.startswith("steady + logistic: 90.0 % on small, 80.0 % on large (-10.0 points).")
    assert said.rstrip(".").endswith("(-60.0 points)")
    assert ask("across-data", cells[:1]) == NOTHING
    assert ask("both-resolutions", cells[:1]) == "Only small is finished: it takes two data sets."
    seeds = [make_cell("steady", range(20), seed=seed) for seed in (0, 1)]
    assert ask("both-resolutions", seeds) == "Only small is finished: it takes two data sets."


def test_a_model_is_followed_over_data_sets_by_one_method_and_what_else_changes_is_said() -> None:
    def tuned(data: str, wrong: int, epochs: int, **more: Any) -> Cell:
        return make_cell(
            "a", range(wrong), data=data, method="full", options={"recipe": {"epochs": epochs}}, **more
        )

    probes = [make_cell("a", range(2), val=0.4), make_cell("a", range(90), data="large", val=0.3)]
    full = [tuned("small", 10, 20, val=0.9), tuned("large", 50, 5, val=0.9, num_train=40)]
    said = ask("across-data", [*probes, *full])
    assert said == (
        "a + full: 95.0 % on small, 75.0 % on large (-20.0 points). Besides the data: on large training images "
        "100 to 40, epochs 20 to 5."
    )
    assert ask("across-data", [probes[0], full[1]]) == NOTHING  # by two methods the change is not of the data
    lost = make_cell("b", range(9))
    assert ask("across-data", [*full, lost]).endswith("By no method on all of these: b.")
    few = tuned("large", 80, 5, group="few", val=0.2, num_train=10)
    assert "75.0 % on large in 'probe' (-20.0 points)" in ask("across-data", [*full, few])
    seeds = [make_cell("a", range(10 * seed), seed=seed) for seed in (0, 1, 2)]
    seeds += [make_cell("a", range(20 * seed), data="large", seed=seed) for seed in (1, 2)]
    said = ask("across-data", seeds)
    assert said.startswith("a + logistic: 92.5 % on small, 85.0 % on large (-7.5 points), means over 2 seeds.")
    chosen = [
        make_cell("a", range(9), data=data, seed=seed, method="head", options={"recipe": {"epochs": epochs}})
        for data, seed, epochs in (("small", 0, 5), ("small", 1, 5), ("large", 0, 5), ("large", 1, 7))
    ]
    assert ask("across-data", chosen).endswith("Besides the data: on large epochs 5 to 7 (seed 1).")
    pairs = [make_cell(model, range(9), data=data, num_train=num) for model in "ab" for data, num in SIZES]
    said = ask("across-data", pairs)
    assert said.count("Besides the data") == 1
    assert said.endswith("Besides the data, of all of them: on large training images 100 to 40.")


SIZES = (("small", 100), ("large", 40))


def test_places_on_both_data_sets_count_models_and_not_their_methods() -> None:
    cells = [
        make_cell("a", range(40)),
        make_cell("a", range(41), method="knn", val=0.4),
        make_cell("b", range(20)),
        make_cell("b", range(21), method="knn", val=0.4),
        make_cell("only-here", range(1)),
        *(make_cell(name, wrong, data="large") for name, wrong in (("a", range(40)), ("b", range(20)))),
    ]
    said = ask("both-resolutions", cells)
    assert said.startswith("b: place 1 on small, place 1 on large, of 2 models on all of them")
    assert ask("both-resolutions", [cells[0], cells[-1]]) == "No model has finished on all data sets."


def test_runs_on_fewer_training_images_are_never_mixed_with_those_on_all() -> None:
    few = [make_cell(name, range(wrong), digest="few", num_train=10, group="few") for name, wrong in FEW]
    whole = [make_cell(name, range(wrong)) for name, wrong in FEW]
    said = ask("best-features", [*few, *whole])
    assert said.startswith("On small, 10 training images: a, ")
    assert "On small, 100 training images: a, " in said
    for by, more in (("own-network", {"model": "a"}), ("families", {"models": ("a",)})):
        assert ask(by, [few[0], whole[1]], **more).startswith("What is finished on small had different training")
        assert ask(by, [few[0], make_cell("b", range(2), data="large")], **more) == NOTHING


FEW = (("a", 20), ("b", 40))


def test_answers_tell_a_model_apart_from_what_an_earlier_group_left_of_it() -> None:
    plain = make_cell("a", range(40))
    tuned = make_cell("a", range(10), group="after tuning", label="a after full on big")
    assert ask("best-features", [plain, tuned]).startswith("On small: a ('after tuning'), 95.0 %")
    assert "a ('probe') " not in ask("best-features", [plain])
    twice = [make_cell("a", range(40), method="full", group=group) for group in ("one", "two")]
    said = ask("fine-tuning-gain", [plain, *twice])
    assert "a ('one') on small: full" in said
    assert "a ('two') on small: full" in said


def test_training_is_held_against_the_probe_of_the_weights_that_it_began_with() -> None:
    plain, full = make_cell("a", range(40), val=0.5), make_cell("a", range(30), method="full", group="tuned")
    tuned_probe = make_cell("a", range(4), val=0.9, group="after", label="a after full on big")
    said = ask("fine-tuning-gain", [plain, tuned_probe, full])
    assert "a ('tuned') on small: full +5.0 points over logistic (" in said
    on = make_cell("a", range(2), method="full", group="on", label="a after full on big")
    assert "full +1.0 points over logistic (" in ask("fine-tuning-gain", [plain, tuned_probe, on])
    said = ask("fine-tuning-gain", [plain, on])
    assert "full +19.0 points over logistic of the weights before the earlier training (" in said
    assert ask("fine-tuning-gain", [tuned_probe, full]).startswith(f"{NOTHING} No probe of the same weights")


def test_generalisation_counts_falls_and_rises() -> None:
    there = tried(0.95)
    cell = make_cell("a", range(20), elsewhere={"wild": there})
    assert "From small to wild accuracy rises by 5.0 points; the best on validation, a + logistic" in ask(
        "generalisation", [cell]
    )
    assert ask("generalisation", [make_cell("a", range(20))]) == NOTHING


def test_generalisation_counts_the_shared_classes_on_both_sides_and_names_the_network_in_question() -> None:
    there = tried(0.9)
    only_bees_wrong = range(1, 101, 2)
    cells = [
        make_cell("cnn", only_bees_wrong, elsewhere={"wild": there}, val=0.4),
        make_cell("a", range(0), elsewhere={"wild": there}, val=0.3),
        make_cell("b", only_bees_wrong, elsewhere={"wild": there}, val=0.9),
    ]
    said = ask("generalisation", cells, model="cnn")
    assert "From small to wild accuracy falls by 10.0 points on average (3 runs)" in said
    assert "cnn + logistic: -10.0 points; of the others the best on validation, b + logistic" in said


def test_a_run_that_stands_in_several_groups_counts_once() -> None:
    there = tried(0.9)
    run, other = make_cell("a", range(60), elsewhere={"wild": there}), make_cell("b", range(0))
    twin = replace(run, group="again")
    assert "(" not in ask("generalisation", [run, twin]).partition(";")[0]  # no mean over two runs
    third = make_cell("a", range(20), method="knn")
    said = ask("families", [run, twin, third, other], models=("b",))
    assert "the others 80.0 %" in said  # and not 76.7 %
    said = ask("training-gap", [with_fit(run, 0.9, 0.8), with_fit(twin, 0.9, 0.8)])
    assert said.count("a + logistic") == 1


def test_generalisation_is_told_for_each_data_set_apart() -> None:
    there = tried(0.9)
    far = tried(0.5)
    cells = [
        make_cell("a", range(0), elsewhere={"wild": there}, val=0.3),
        make_cell("b", range(0), data="large", elsewhere={"wild": far}, val=0.9),
    ]
    said = ask("generalisation", cells)
    assert "From small to wild accuracy falls by 10.0 points; the best on validation, a + logistic" in said
    assert "From large to wild accuracy falls by 50.0 points; the best on validation, b + logistic" in said


def test_a_rival_is_chosen_by_validation_and_equal_accuracies_are_level() -> None:
    own = make_cell("cnn", range(40), method="scratch")
    lucky, honest = make_cell("lucky", range(2), val=0.1), make_cell("honest", range(40, 80), val=0.9)
    said = ask("own-network", [own, lucky, honest], model="cnn")
    assert "honest (logistic), is level with it" in said


def test_published_tables_have_the_form_of_the_study() -> None:
    cells = [make_cell("a", range(20)), make_cell("a", range(40), data="large")]
    entries = [
        publish(why="Other images."),
        publish(column="large", data="large", value=None),
        publish(row="B", model="b"),
        publish(row="B", column="images", figure="num_train", value=120),
    ]
    (table,) = make_published_tables(entries, cells)
    assert table.columns == (
        "",
        *("small: published", "small: here"),
        *("large: published", "large: here"),
        *("images: published", "images: here"),
    )
    assert table.rows == (
        ("A", "80 %", "90.0 % (85.1 to 93.4), +10.0 points [1]", "not stated", "80.0 % (73.9 to 85.0)", "", ""),
        ("B", "80 %", "not run", "", "", "120", "100, -20"),
    )
    assert table.notes == ("[1] Other images.",)


@pytest.mark.parametrize(
    ("figure", "value", "shown"),
    [
        ("accuracy", "0.7726", "77.26 %"),
        ("accuracy", "0.4620", "46.20 %"),
        ("accuracy", "1", "100 %"),
        ("nll", "0.5613", "0.5613"),
        ("seconds", "1042.70", "1,042.70"),
        ("weight_decay", "1e-4", "0.0001"),
        ("num_train", "43750", "43,750"),
    ],
)
def test_a_published_figure_keeps_the_digits_it_was_published_with(figure: str, value: str, shown: str) -> None:
    (table,) = make_published_tables([publish(figure=figure, value=Decimal(value))], [make_cell("a", range(20))])
    assert table.rows[0][1] == shown


@pytest.mark.parametrize(
    ("published", "ours", "said"),
    [("12211", 24422, "24,422, 2 times as long"), ("600", 9, "9, 0.015 times as long"), ("5", 80, "80, 16 times")],
)
def test_seconds_are_compared_by_their_ratio(published: str, ours: float, said: str) -> None:
    cell = make_cell("a", range(20))
    cost = Cost(seconds={"forward": ours}, images_per_second=None)
    cell = replace(cell, record=cell.record.model_copy(update={"cost": cost}))
    (table,) = make_published_tables([publish(figure="seconds", value=published)], [cell])
    assert table.rows[0][2].startswith(said)


def test_a_figure_on_images_that_taught_the_weights_says_so_beside_the_published_one() -> None:
    cell = make_cell("a", range(20), num_test_seen=14)
    (table,) = make_published_tables([publish(value=0.8)], [cell])
    assert "(optimistic: 14 test images were in its training data)" in table.rows[0][2]
    assert "optimistic: 14 test images" in make_group_tables([cell])[0].rows[0][2]
    assert "too good" not in make_published_tables([publish(value=0.8)], [make_cell("a", range(20))])[0].rows[0][2]


def test_gains_and_validation_figures_of_seen_images_say_so_too() -> None:
    cell = make_cell("a", range(20), num_test_seen=14)
    few = make_cell("a", range(40), group="few")
    gain = publish(over="few", value=Decimal("0.1"))
    (table,) = make_published_tables([gain], [cell, few])
    assert table.rows[0][2] == "+10.0 points (optimistic: 14 test images were in its training data)"
    flattered = make_cell("a", range(40), group="few", num_test_seen=3)
    (table,) = make_published_tables([gain], [make_cell("a", range(20)), flattered])
    assert table.rows[0][2] == "+10.0 points (optimistic: 3 test images were in its training data in 'few')"
    alone = make_cell("a", range(2), seed=1, num_test_seen=9)  # of a seed that the other group lacks
    (table,) = make_published_tables([gain], [make_cell("a", range(20)), alone, few])
    assert table.rows[0][2] == "+10.0 points"
    val = make_cell("a", range(20), num_val_seen=5)
    (table,) = make_published_tables([publish(figure="val_accuracy")], [val])
    assert "(optimistic: 5 validation images were in its training data)" in table.rows[0][2]
    tables = make_group_tables([val])
    assert "50.0 % (optimistic: 5 validation images" in tables[1].rows[0][4]
    assert "too good" not in tables[0].rows[0][2]  # the test images did not
    there = tried(0.5)
    cell = make_cell("a", range(20), num_test_seen=14, elsewhere={"wild": there})
    (table,) = [found for found in make_group_tables([cell]) if found.title.endswith("another source")]
    assert "optimistic: 14 test images" in table.rows[0][3]
    assert "too good" not in table.rows[0][5]


def test_a_trial_shows_no_difference_to_what_ispublished() -> None:
    cell = make_cell("a", range(20))
    entries = [
        publish(value=0.845),
        publish(column="seconds", figure="seconds", value=100),
        publish(column="images", figure="num_train", value=50_000),
        publish(column="loss", figure="nll", value=0.1),
    ]
    ((row,),), ((quiet,),) = (
        [table.rows for table in make_published_tables(entries, [cell], is_trial=is_trial)]
        for is_trial in (False, True)
    )
    assert row[1::2] == quiet[1::2]  # what was published stays
    assert [ours.partition(", ")[0] for ours in row[2::2] if " points" in ours] == [quiet[2]]
    assert not any(word in " ".join(quiet) for word in ("points", "times as", ", +", ", -"))
    (table,) = make_published_tables(entries, [cell], is_trial=True)
    assert "a trial it would mean nothing" in table.notes[0]


def test_a_published_gain_and_the_recall_of_a_class_stand_beside_ours() -> None:
    few, all_images = make_cell("a", range(40), group="few"), make_cell("a", range(20))
    recall = {"bee": Metric(value=0.7, n=100)}
    all_images = replace(all_images, record=all_images.record.model_copy(update={"per_class": recall}))
    entries = [
        publish(value=Decimal("0.0312"), over="few"),
        publish(column="bee", figure="recall", label="bee", value=Decimal("0.75")),
    ]
    (table,) = make_published_tables(entries, [few, all_images])
    gain = "+10.0 points, 6.9 points more than published"
    assert table.rows == (("A", "+3.12 points", gain, "75 %", "70.0 %, -5.0 points"),)
    (table,) = make_published_tables(entries[:1], [all_images])
    assert table.rows == (("A", "+3.12 points", "not run"),)
    wasp = publish(over="few", figure="recall", label="wasp", value=Decimal("0.1"))
    (table,) = make_published_tables([wasp], [few, all_images])
    assert table.rows == (("A", "+10 points", "there is no class 'wasp' here"),)
    (table,) = make_published_tables([publish(over="few", figure="train_accuracy")], [few, all_images])
    assert table.rows[0][2] == "-"
    wasp = publish(column="wasp", figure="recall", label="wasp", value=Decimal("0.75"))
    (table,) = make_published_tables([wasp], [all_images])
    assert table.rows == (("A", "75 %", "there is no class 'wasp' here"),)


def test_a_gain_is_taken_between_runs_of_one_seed() -> None:
    few = [make_cell("a", range(40), group="few", seed=seed) for seed in (0, 1)]
    whole = [make_cell("a", range(10 * (seed + 1)), seed=seed) for seed in (1, 2)]
    loss = publish(value=Decimal("-0.05"), over="few")
    (table,) = make_published_tables([loss], [*few, *whole])
    assert table.rows == (("A", "-5 points", "+10.0 points, 15.0 points more than published"),)
    whole[1] = make_cell("a", range(50), seed=0)
    (table,) = make_published_tables([loss], [*few, *whole])
    assert table.rows[0][2] == "+2.5 points (-5.0 to +10.0 over 2 seeds), 7.5 points more than published"


def test_a_figure_is_no_less_than_nothing_and_a_gain_is_over_another_group() -> None:
    with pytest.raises(ValidationError, match=r"accuracy = -0\.1 is below 0; only a gain 'over' a group may be"):
        publish(value=Decimal("-0.1"))
    with pytest.raises(ValidationError, match="'over' names the run's own group 'probe'"):
        publish(over="probe")
    with pytest.raises(ValidationError, match=r"-1\.5 is no share from 0 to 1"):
        publish(value=Decimal("-1.5"), over="few")


def test_what_more_images_add_is_tested_on_the_same_test_images_and_what_else_differs_is_said() -> None:
    few = make_cell("a", range(40), group="few", method="full", options={"recipe": {"epochs": 3}}, digest="few")
    whole = make_cell("a", range(20), group="all", method="full", options={"recipe": {"epochs": 6}}, digest="all")
    alone = make_cell("b", range(20), group="all", method="full")
    said = ask("between-groups", [few, whole, alone], order=("few", "all"))
    assert said == (
        "a + full on small: 80.0 % (73.9 to 85.0) in 'few', 90.0 % (85.1 to 93.4) in 'all', +10.0 points "
        "(p < 0.001, exact paired test on 200 images). Between them: epochs 3 to 6."
    )
    assert ask("between-groups", [whole, alone], order=("few", "all")) == NOTHING
    facts = ModelFacts.model_validate(whole.record.model.model_dump() | {"label": "a after full on big"})  # type: ignore[union-attr]
    chained = replace(whole, record=whole.record.model_copy(update={"model": facts}))
    said = ask("between-groups", [few, chained], order=("few", "all"))
    assert said.endswith("Between them: epochs 3 to 6, start a to a after full on big.")
    rate = {
        "recipe": {"epochs": 3, "learning_rate": 0.01, "augment": {"flip": True}},
        "blocks": 3,
    }
    other = make_cell("a", range(20), group="all", method="full", options=rate, digest="all", num_train=50)
    assert ask("between-groups", [few, other], order=("few", "all")).endswith(
        "Between them: training images 100 to 50, augmentation none to flip, learning rate none to 0.01, "
        "blocks none to 3."
    )
    same = make_cell("a", range(20), group="all", method="full", options={"recipe": {"epochs": 3}}, digest="all")
    assert ask("between-groups", [few, same], order=("few", "all")).endswith("exact paired test on 200 images).")
    twice = ask("between-groups", [few, replace(few, group="all")], order=("few", "all"))
    assert twice.endswith("They are one and the same run.")
    weights = same.record.model.model_copy(update={"weights_digest": "others"})  # type: ignore[union-attr]
    others = replace(same, record=same.record.model_copy(update={"model": weights}))
    said = ask("between-groups", [few, others], order=("few", "all"))
    assert said.endswith("Between them: start a, of other weights.")
    TOLD[whole.record.run_id] = replace_ids(TOLD[whole.record.run_id])
    assert ask("between-groups", [few, whole], order=("few", "all")) == NOTHING


def replace_ids(told: Predictions) -> Predictions:
    return Predictions(
        tuple(f"other-{image}" for image in told.ids), told.labels, told.probabilities, told.classes
    )


def test_settings_and_images_of_other_sources_stand_beside_published_ones() -> None:
    recipe = {"epochs": 20, "weight_decay": 0.05, "batch_size": 64}
    there = SimpleNamespace(metrics={}, mapping={}, num_images=1234)
    cells = [
        make_cell("a", range(20), options={"recipe": recipe}, elsewhere={"wild": there}),
        make_cell("a", range(20), data="large", elsewhere={"wild": replace_images(there, 7)}),
    ]
    entries = [
        publish(column="epochs", figure="epochs", value=60),
        publish(column="decay", figure="weight_decay", value=1e-4),
        publish(column="batch", figure="batch_size", value=None),
        publish(column="wild", figure="num_images", data="wild", value=None),
    ]
    (table,) = make_published_tables(entries, cells)
    wild = "1,234 of classes that small has too, 7 of classes that large has too"
    assert table.rows == (
        ("A", "60", "20, -40", "0.0001", "0.05, +0.0499", "not stated", "64", "not stated", wild),
    )
    (table,) = make_published_tables(entries[-1:], [make_cell("a", range(20))])
    assert table.rows == (("A", "not stated", "not run"),)


def replace_images(there: SimpleNamespace, num: int) -> SimpleNamespace:
    return SimpleNamespace(**vars(there) | {"num_images": num})


def test_group_tables_say_which_seconds_they_give() -> None:
    probe, tuned = make_cell("a", range(20)), make_cell("a", range(20), method="full")
    cost = Cost(seconds={"forward": 1.0, "fit": 2.0}, images_per_second=None)
    tuned = replace(tuned, record=tuned.record.model_copy(update={"cost": cost}))
    cost = Cost(seconds={"forward": 1.0, "head": 2.0}, images_per_second=None)
    probe = replace(probe, record=probe.record.model_copy(update={"cost": cost}))
    said = {name: make_group_tables(cells)[0].notes for name, cells in
            {"both": [probe, tuned], "probe": [probe], "tuned": [tuned]}.items()}  # fmt: skip
    assert ["of probes" in said[name][0] for name in said] == [True, True, False]
    assert ["by the clock" in said[name][0] for name in said] == [True, False, True]


def test_only_where_something_was_trained_training_figures_need_a_word() -> None:
    probe = make_cell("a", range(20))
    tuned = make_cell("a", range(20), method="full", options={"recipe": {"epochs": 20}})
    for cells, notes in (([probe], ()), ([probe, tuned], (FIT_NOTE,))):
        (fit,) = [table for table in make_group_tables(cells) if table.title.endswith("training and validation")]
        assert fit.notes == notes
        entry = publish(figure="train_accuracy", group="probe", model="a", method=cells[-1].method)
        assert make_published_tables([entry], cells)[0].notes == notes
    for soft in ({"label_smoothing": 0.1}, {"augment": {"mixup": 0.2}}, {"augment": {"cutmix": 1.0}}):
        cell = make_cell("a", range(20), method="full", options={"recipe": soft})
        assert make_group_tables([cell])[1].notes == (FIT_NOTE, SMOOTHED_NOTE)


def test_tables_of_data_and_recipes_say_what_was_run() -> None:
    recipe = {"optimizer": "sgd", "learning_rate": None, "epochs": 20, "weight_decay": 5e-4, "batch_size": 128}
    tuned = make_cell("a", range(20), method="full", options={"recipe": recipe}, choices={"full_best_epoch": 7})
    chosen = {"learning_rate": 3e-3, "weight_decay": 0.01}
    head = make_cell("a", range(20), method="head", options={"recipe": recipe}, choices=chosen)
    text = render_tables([make_data_table([tuned]), *make_recipe_table([tuned, head, make_cell("b", range(9))])])
    assert "| small | 100 | 50 | 200 | 350 | 2 |" in text
    assert "| probe | a | full | small | 20 | 7 | sgd | - | - | 0.0005 | 128 |" in text
    assert "| probe | a | head | small | 20 | - | sgd | - | 0.003 | 0.01 | 128 |" in text
    assert "| b |" not in text
    solved = make_cell("a", range(9), method="quantized", options={"recipe": recipe, "qat_epochs": 0})
    assert make_recipe_table([solved]) == []
    assert len(make_recipe_table([make_cell("a", range(9), options={"recipe": recipe, "qat_epochs": 2})])) == 1
    assert make_recipe_table([make_cell("b", range(9))]) == []


def test_the_table_of_recipes_tells_how_images_were_augmented() -> None:
    augment = Augment(crop="random-resized", scale=(0.35, 1.0), flip=True, brightness=0.2).model_dump(mode="json")
    recipe = {
        "epochs": 20,
        "label_smoothing": 0.1,
        "warmup_epochs": 2.0,
        "augment": Augment().model_dump(mode="json"),
    }
    chosen = make_cell("a", range(20), options={"recipe": recipe}, choices={"augment": augment})  # by the method
    asked = make_cell("b", range(20), options={"recipe": recipe | {"augment": augment}})
    none = make_cell("c", range(20), options={"recipe": recipe})
    (table,) = make_recipe_table([chosen, asked, none])
    said = "crop random-resized, scale 0.35 to 1.0, flip, brightness 0.2"
    assert [row[-1] for row in table.rows] == [said, said, "-"]
    assert table.notes[-1] == (
        "The same for all: warmup epochs 2, label smoothing 0.1, attention dropout 0, mlp dropout 0."
    )
    padded = Augment(crop="pad", padding=2, scale=(0.35, 1.0)).model_dump(mode="json")
    cell = make_cell("e", range(20), options={"recipe": {"augment": padded}, "careful": True, "quick": False})
    assert make_recipe_table([cell])[0].notes[-1] == (
        "The same for all: method options careful, quick off, attention dropout 0, mlp dropout 0, augmentation "
        "crop pad, padding 2."
    )
    (table,) = make_recipe_table([asked, make_cell("d", range(20), options={"recipe": {"augment": augment}})])
    assert [row[-2:] for row in table.rows] == [("2", "0.1"), ("-", "-")]
    assert table.columns[-2:] == ("warmup epochs", "label smoothing")
    assert table.notes[-1] == f"The same for all: attention dropout 0, mlp dropout 0, augmentation {said}."


def test_every_setting_that_decides_the_outcome_has_a_column_where_runs_differ_and_a_word_where_not() -> None:
    tested = Recipe().model_dump(mode="json")
    other = Recipe(
        optimizer="sgd", momentum=0.8, schedule="plateau", plateau_patience=2, clip_norm=0, layer_decay=0.7
    ).model_dump(mode="json")
    first = make_cell("a", range(20), method="full", options={"recipe": tested})
    second = make_cell("b", range(20), method="last-blocks", options={"recipe": other, "blocks": 3})
    (table,) = make_recipe_table([first, second])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    told = ("optimizer", "momentum", "schedule", "plateau patience", "clip norm", "layer decay", "method options")
    assert [rows[0][name] for name in told] == ["adamw", "-", "cosine", "-", "1", "1", "-"]
    assert [rows[1][name] for name in told] == ["sgd", "0.8", "plateau", "2", "0", "0.7", "blocks 3"]
    assert LAYER_DECAY_NOTE in table.notes
    words = " ".join([*table.columns, *table.notes]).lower()
    silent = {"micro_batch_size", "gradient_checkpointing"}  # of memory alone
    for name in Recipe.model_fields.keys() - silent - {"augment"}:
        assert name.replace("_", " ") in words
    (table,) = make_recipe_table([first])
    assert LAYER_DECAY_NOTE not in table.notes
    assert "clip norm 1, layer decay 1" in table.notes[-1]


def test_seeds_are_told_apart_wherever_a_figure_is_of_one_of_them() -> None:
    there = tried(0.5)
    recipe = {"epochs": 20, "weight_decay": 0.05, "batch_size": 64}
    cells = [
        make_cell("a", range(20), method=method, options=options, seed=seed, elsewhere={"wild": there})
        for seed in (0, 1)
        for method, options in (("logistic", {}), ("full", {"recipe": recipe}))
    ]
    gains = ask("fine-tuning-gain", cells)
    assert "a on small, seed 0: full" in gains
    assert "a on small, seed 1: full" in gains
    assert "From small, seed 0 to wild" in ask("generalisation", cells)
    text = render_tables([*make_group_tables(cells), *make_recipe_table(cells)])
    for seed in (0, 1):
        assert f"| a | full | small, seed {seed} | - | 50.0 %" in text  # training and validation
        assert f"| a | full | small, seed {seed} | 90.0 %" in text  # on another source
        assert f"| probe | a | full | small, seed {seed} | 20 |" in text  # recipe
    one = render_tables([*make_group_tables(cells[:2]), *make_recipe_table(cells[:2])])
    assert "seed" not in one


def test_a_split_of_the_datas_own_has_no_seed_in_its_name() -> None:
    cells = [make_cell(name, range(20), seed=seed, digest="same") for seed, name in enumerate("ab")]
    assert ask("best-features", cells).startswith("On small: ")


def test_what_was_asked_for_is_the_same_over_seeds_and_stands_once() -> None:
    recipe = {"epochs": 20, "weight_decay": 0.05, "batch_size": 64}
    cells = [make_cell("a", range(20 + seed), options={"recipe": recipe}, seed=seed) for seed in (0, 1)]
    entries = [
        publish(column=figure, figure=figure, value=None)
        for figure in ("epochs", "weight_decay", "num_test", "accuracy")
    ]
    (table,) = make_published_tables(entries, cells)
    assert table.rows[0][2::2] == ("20", "0.05", "200", "89.8 % (89.5 % to 90.0 % over 2 seeds)")
