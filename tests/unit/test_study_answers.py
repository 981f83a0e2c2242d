"""Answers of studies as facts, from runs made up here: what is compared, tested, left out, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backbench.records.schema import ModelFacts, Predictions
from backbench.report.markdown import render_tables
from backbench.stats.metric import Metric
from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.facts import (
    BestFeatures,
    BestPlaces,
    Change,
    CommonChanges,
    Facts,
    FamilyAverage,
    Followed,
    GroupGain,
    Kind,
    OwnNetwork,
    Precisions,
    Remark,
    Seen,
    SourceGain,
    TrainingGain,
    TrainingGaps,
)
from backbench.studies.analysis.recipes import make_recipe_table
from backbench.studies.analysis.tables import make_group_tables
from study_cells import (
    IDS,
    TOLD,
    ask,
    find,
    find_only,
    make_cell,
    names_of,
    tried,
    tuned,
    tuned_by,
    unlike,
    with_fit,
)

NOTHING = (Remark(Kind.NOTHING),)
FEW = (("a", 20), ("b", 40))
SIZES = (("small", 100), ("large", 40))
UNLIKE = {"epochs of full": ("5", "20")}


def best(*cells: Cell, **more: Any) -> BestFeatures:
    return find_only(ask("best-features", [*cells], **more), BestFeatures)


def own(*cells: Cell, model: str = "cnn") -> OwnNetwork:
    return find_only(ask("own-network", [*cells], model=model), OwnNetwork)


def family(*cells: Cell, models: tuple[str, ...]) -> FamilyAverage:
    return find_only(ask("families", [*cells], models=models), FamilyAverage)


def gain(*cells: Cell) -> tuple[str, str, float]:
    """The probe and the trained run of the one gain, and its points."""
    found = find_only(ask("fine-tuning-gain", [*cells]), TrainingGain)
    return found.first.method, found.later.title, round(100 * found.gain, 1)


def test_a_small_gap_on_the_same_images_is_found_though_the_intervals_overlap() -> None:
    first, near, equal = (
        make_cell("a", range(20)),
        make_cell("b", range(30)),
        make_cell("c", range(11, 32)),
    )
    low, high = first.record.metrics["accuracy"].low, near.record.metrics["accuracy"].high
    assert low is not None
    assert high is not None
    assert low < high
    found = best(near, first)
    assert (found.data, found.best.title, found.best.accuracy.value) == ("small", "a", 0.9)
    assert found.tied == ()
    assert [run.title for run in found.worse] == ["b"]
    found = best(first, equal)
    assert [run.title for run in found.tied] == ["c"]
    assert found.worse == ()


def test_groups_of_images_that_hang_together_are_tested_as_groups() -> None:
    cells = [make_cell("a", range(20)), make_cell("b", range(30))]
    one_group = {"small-0": {name: "same animal" if 20 <= index < 30 else name for index, name in enumerate(IDS)}}
    assert best(*cells).tied == ()
    assert [run.title for run in best(*cells, groups=one_group).tied] == ["b"]


def test_a_model_that_saw_the_test_images_answers_no_question() -> None:
    cheat = make_cell("cheat", range(0), num_test_seen=3)
    facts = ask("best-features", [cheat, make_cell("a", range(20))])
    assert find_only(facts, BestFeatures).best.title == "a"
    seen = find_only(facts, Seen)
    assert (seen.split, seen.is_left_out) == ("test", True)
    ((run, num, among),) = seen.runs
    assert (run.title, run.method, run.data, num, among) == ("cheat", "logistic", "small", 3, 200)
    assert ask("best-features", [cheat]) == (*NOTHING, seen)


def test_validation_images_that_taught_the_weights_choose_nothing_where_others_can() -> None:
    flattered, honest = make_cell("a", range(60), val=0.99, num_val_seen=5), make_cell("b", range(20), val=0.6)
    cnn = make_cell("cnn", range(40), method="scratch")
    facts = ask("own-network", [cnn, flattered, honest], model="cnn")
    assert find_only(facts, OwnNetwork).later.title == "b"
    seen = find_only(facts, Seen)
    assert (seen.split, seen.is_left_out) == ("validation", False)
    ((run, num, among),) = seen.runs
    assert (run.title, run.data, num, among) == ("a", "small", 5, 50)
    assert own(cnn, flattered).later.title == "a"
    assert find(ask("best-features", [cnn, flattered, honest]), Seen) == []
    facts = ask("training-gap", [with_fit(flattered, 0.9, 0.8)])
    assert facts[:1] == NOTHING
    assert find_only(facts, Seen).is_left_out
    large = [
        make_cell("a", range(50), data="large", method=how, val=val) for how, val in (("knn", 0.1), ("ridge", 0.9))
    ]
    small = [
        make_cell("a", range(9), method="knn", val=0.2),
        make_cell("a", range(9), method="ridge", num_val_seen=9),
    ]
    assert find_only(ask("across-data", [*small, *large]), Followed).method == "knn"


def test_of_equals_on_validation_the_test_images_choose_none() -> None:
    def with_loss(cell: Cell, loss: float) -> Cell:
        fit = cell.record.fit | {"val_nll": Metric(value=loss, n=50)}
        return replace(cell, record=cell.record.model_copy(update={"fit": fit}))

    cnn = make_cell("cnn", range(40), method="scratch")
    lucky = with_loss(make_cell("a", range(2), method="knn"), 2.0)
    other = with_loss(make_cell("a", range(9), method="ridge"), 1.0)
    for cells in ([cnn, lucky, other], [cnn, other, lucky]):
        assert own(*cells).later.method == "ridge"
    first, second = make_cell("a", range(9), method="full"), make_cell("a", range(2), method="head")
    for cells in ([cnn, first, second], [cnn, second, first]):
        assert own(*cells).later.method == "full"  # by name


def test_two_names_of_one_model_are_never_held_against_each_other() -> None:
    small, large = make_cell("net@32", range(20)), replace(make_cell("net@32", range(20)), model="net@64")
    other = make_cell("b", range(60))
    same = Remark(Kind.SAME_MODEL, ("net@32", "net@64"))
    for by, more in (("families", {"models": ("net@64",)}), ("own-network", {"model": "net@64"})):
        assert ask(by, [small, large], **more) == (*NOTHING, same)
        facts = ask(by, [small, large, other], **more)
        assert facts[-1] == same
        assert find(facts, Remark) == [same]
    assert own(small, large, other, model="net@64").first.title == "net@64"
    found = family(small, large, other, models=("b",))
    assert (found.accuracy_of_others, found.best_other.title) == (0.9, "net@32")
    two = [
        make_cell("net@32", range(30), data="large"),
        replace(make_cell("net@32", range(30), data="large"), model="net@64"),
    ]
    facts = ask("both-resolutions", [small, large, *two, other, make_cell("b", range(3), data="large")])
    assert find_only(facts, BestPlaces).num_models == 2
    assert facts[-1] == same
    there_too = replace(small, group="tried", elsewhere={"wild": tried(0.9)})
    change = find_only(ask("generalisation", [small, large, there_too], model="net@32"), SourceGain).own
    assert change is not None
    assert change[0].title == "net@32"
    pairs = [replace(cell, group=group) for group in ("one", "two") for cell in (small, large)]
    assert find_only(ask("between-groups", pairs, order=("one", "two")), GroupGain).first.title == "net@32"
    seen = [replace(cell, record=cell.record.model_copy(update={"num_test_seen": 3})) for cell in (small, large)]
    assert len(find_only(ask("best-features", [*seen, other]), Seen).runs) == 1


def test_names_of_one_model_are_joined_however_they_overlap() -> None:
    def named(name: str, method: str, wrong: int) -> Cell:
        cell = make_cell("net", range(wrong), method=method)
        weights = cell.record.model.model_copy(update={"weights_digest": "w"})  # type: ignore[union-attr]
        return replace(cell, model=name, record=cell.record.model_copy(update={"model": weights}))

    cells = [named("a", "ridge", 9), named("b", "knn", 20), named("c", "ridge", 9), named("c", "full", 5)]
    same = Remark(Kind.SAME_MODEL, ("a", "b", "c"))
    for wanted in "abc":
        assert ask("own-network", cells, model=wanted) == (*NOTHING, same)
    facts = ask("best-features", [*cells, make_cell("d", range(90))])
    found = find_only(facts, BestFeatures).best
    assert (found.title, found.method) == ("a", "full")
    assert find(facts, Remark) == [same]
    foreign = make_cell("e", range(3))
    assert find(ask("best-features", [cells[0], foreign]), Remark) == []
    card = cells[0].record.config.model_copy(update={"model_file": "other.toml"})
    other = replace(cells[0], model="e", record=cells[0].record.model_copy(update={"config": card, "run_id": "e"}))
    TOLD["e"] = TOLD[cells[0].record.run_id]
    assert find(ask("best-features", [cells[0], other]), Remark) == []


def test_what_is_not_alike_in_runs_that_are_compared_is_said() -> None:
    alike = [tuned("a", 5), tuned("b", 5)]
    assert unlike(ask("families", alike, models=("a",))) == {}
    assert unlike(ask("families", [tuned("a", 5), tuned("b", 20)], models=("a",))) == UNLIKE
    probes = [make_cell(name, range(30)) for name in "ab"]
    assert unlike(ask("fine-tuning-gain", [*probes, tuned("a", 5), tuned("b", 20)])) == UNLIKE
    assert unlike(ask("fine-tuning-gain", [*probes, *alike])) == {}
    head = make_cell("b", range(9), method="head")
    assert unlike(ask("fine-tuning-gain", [*probes, alike[0], head])) == {}  # each gain names its method
    mixed = ask("best-features", [make_cell("a", range(20)), make_cell("b", range(20), method="knn")])
    assert unlike(mixed) == {"method": ("logistic", "knn")}
    crossed = [make_cell(model, range(20), method=method) for model in "ab" for method in ("knn", "ridge")]
    assert unlike(ask("families", crossed, models=("a",))) == {}
    assert unlike(ask("families", crossed[1:], models=("a",))) == {"method": ("ridge", "knn")}
    two = [probes[0], tuned("a", 5, group="one"), tuned("a", 20, group="two")]
    assert unlike(ask("fine-tuning-gain", two)) == UNLIKE


def test_what_weights_runs_began_with_is_said_where_it_differs() -> None:
    left = tuned("b", 5, label="b after full on big")
    facts = left.record.model.model_copy(update={"pretrained_on": "in1k + big"})  # type: ignore[union-attr]
    left = replace(left, record=left.record.model_copy(update={"model": facts}))
    assert unlike(ask("families", [tuned("a", 5), left], models=("a",))) == {"pretraining": ("in1k", "in1k + big")}
    head_alone = tuned("b", 5, label="b after head on big")  # which left the weights as they were
    assert unlike(ask("families", [tuned("a", 5), head_alone], models=("a",))) == {}
    rates = (("a", 0.1), ("b", 0.3))
    heads = {"method": "head", "options": {"recipe": {"epochs": 2}}}
    chose = [make_cell(name, range(20), choices={"learning_rate": rate}, **heads) for name, rate in rates]
    assert unlike(ask("families", chose, models=("a",))) == {}
    random = [
        make_cell("c", range(20), method="scratch"),
        make_cell("d", range(9), method="scratch", label="d after"),
    ]
    assert unlike(ask("families", random, models=("c",))) == {}
    plain = tuned("b", 5)
    facts = plain.record.model.model_copy(update={"pretrained_on": None})  # type: ignore[union-attr]
    untrained = replace(plain, record=plain.record.model_copy(update={"model": facts}))
    assert unlike(ask("families", [tuned("a", 5), untrained], models=("a",))) == {"pretraining": ("in1k", "none")}


def test_what_all_models_share_or_what_does_nothing_is_not_unlike() -> None:
    shared = make_cell("a", range(30), method="knn", group="one")
    groups = [shared, replace(shared, group="two")]
    groups += [make_cell("a", range(20), method="ridge", group=group) for group in ("one", "two")]
    assert "method" not in unlike(ask("best-features", groups))
    idle = [
        tuned_by(name, {"schedule": "cosine", "plateau_factor": factor})
        for name, factor in (("a", 0.1), ("b", 0.5))
    ]
    assert unlike(ask("families", idle, models=("a",))) == {}


def test_every_rule_that_compares_says_what_is_not_alike() -> None:
    gaps = [with_fit(tuned("a", 5), 0.9, 0.8), with_fit(tuned("b", 20), 0.9, 0.8)]
    assert unlike(ask("training-gap", gaps)) == UNLIKE
    both = [replace(cell, elsewhere={"wild": tried(0.9)}) for cell in (tuned("a", 5), tuned("b", 20))]
    assert unlike(ask("generalisation", both)) == UNLIKE
    apart = [tuned("a", 5), tuned("b", 5), *(tuned(name, 20, data="large") for name in "ab")]
    assert unlike(ask("families", apart, models=("a",))) == {}  # on each data set they are alike
    large = [make_cell(name, range(20), data="large", method=how) for name, how in (("a", "knn"), ("b", "ridge"))]
    places = [*(make_cell(name, range(20), method=how) for name, how in (("a", "knn"), ("b", "ridge"))), *large]
    assert unlike(ask("both-resolutions", places)) == {"method": ("knn", "ridge")}
    heads = ask("own-network", [make_cell("cnn", range(9), method="head"), make_cell("a", range(30))], model="cnn")
    assert unlike(heads) == {"method": ("head", "logistic")}


@pytest.mark.parametrize(
    ("vit", "gap", "is_significant"),
    [(range(60), -0.2, True), (range(5), 0.075, True), (range(21, 40), 0.005, False)],
)
def test_families_are_tested_over_the_same_images(vit: range, gap: float, is_significant: bool) -> None:
    cells = [make_cell("vit", vit), make_cell("cnn-1", range(20), val=0.7), make_cell("cnn-2", range(20), val=0.6)]
    found = family(*cells, models=("vit",))
    assert found.accuracy - found.accuracy_of_others == pytest.approx(gap)
    assert found.accuracy_of_others == 0.9
    assert (found.test.is_significant, found.test.num_images) == (is_significant, 200)
    assert (found.best.title, found.best_other.title) == ("vit", "cnn-1")
    assert found.test_of_best.p_value == pytest.approx(found.test.p_value)  # the others answer alike


def test_a_family_names_each_model_once() -> None:
    cells = [make_cell(name, range(60)) for name in ("vit", "deit")] + [make_cell("cnn", range(20))]
    found = family(*cells, models=("vit", "deit"))
    assert (found.family, found.accuracy) == (("vit", "deit"), 0.7)
    twice = [make_cell("vit", range(60)), make_cell("vit", range(60), method="knn"), cells[-1]]
    assert family(*twice, models=("vit",)).family == ("vit",)


def test_the_gap_from_training_to_validation_images_is_told_with_what_training_figures_are() -> None:
    steady = with_fit(make_cell("a", range(20)), 0.87, 0.88)
    greedy = with_fit(make_cell("b", range(20)), 0.96, 0.83)
    (gaps,) = ask("training-gap", [steady, greedy, make_cell("c", range(9))])
    assert isinstance(gaps, TrainingGaps)
    assert [(gap.run.title, gap.train, gap.val) for gap in gaps.gaps] == [("b", 0.96, 0.83), ("a", 0.87, 0.88)]
    full = with_fit(make_cell("d", range(20), method="full", options={"recipe": {"epochs": 2}}), 0.9, 0.9)
    assert ask("training-gap", [full])[-1] == Remark(Kind.TRAINING_FIGURES)
    assert ask("training-gap", [make_cell("c", range(9))]) == NOTHING
    start = make_cell("d", range(20), method="full", choices={"full_best_epoch": 0})
    assert names_of(ask("training-gap", [steady, start]), Kind.KEPT_START) == ["d + full on small"]


def test_what_training_adds_is_tested_against_the_probe_of_the_same_images() -> None:
    probe, full = make_cell("a", range(20)), make_cell("a", range(19), method="full", group="tuned")
    facts = ask("fine-tuning-gain", [probe, full])
    (found,) = facts
    assert isinstance(found, TrainingGain)
    assert gain(probe, full) == ("logistic", "a", 0.5)
    assert (found.test.p_value, found.test.num_images, found.is_of_start) == (1, 200, True)
    worse = make_cell("a", range(90), method="centroid", val=0.4)
    assert ask("fine-tuning-gain", [probe, worse, full]) == facts
    assert (best(worse, probe).best.method, best(worse, probe).best.accuracy.value) == ("logistic", 0.9)
    elsewhere = make_cell("a", range(20), data="other")
    facts = ask("fine-tuning-gain", [elsewhere, full])
    assert facts[:1] == NOTHING
    assert names_of(facts, Kind.WITHOUT_PROBE) == ["a + full on small"]
    alone = make_cell("b", range(9), method="full", group="tuned")
    assert names_of(ask("fine-tuning-gain", [probe, full, alone]), Kind.WITHOUT_PROBE) == ["b + full on small"]
    config = probe.record.config.model_copy(update={"precision": "bf16"})
    rounded = replace(probe, record=probe.record.model_copy(update={"config": config}))
    assert ask("fine-tuning-gain", [rounded, full])[-1] == Precisions(("bf16",), ("fp32",))
    assert unlike(ask("best-features", [rounded, make_cell("b", range(9))])) == {"precision": ("bf16", "fp32")}
    again = replace(full, group="once more")
    assert len(find(ask("fine-tuning-gain", [probe, full, again]), TrainingGain)) == 1


def test_the_own_network_is_compared_on_its_own_data_only() -> None:
    cnn, rival = make_cell("cnn", range(40), method="scratch"), make_cell("a", range(2))
    elsewhere = make_cell("b", range(0), data="large")
    found = own(cnn, rival, elsewhere)
    assert (found.data, found.later.title, round(found.gain, 3)) == ("small", "a", 0.19)
    assert (found.above, found.not_above) == (("a",), ())
    assert ask("own-network", [cnn, elsewhere], model="cnn") == NOTHING


def test_how_many_models_are_above_the_own_network_is_counted_by_tests() -> None:
    cnn = make_cell("cnn", range(40), method="scratch")
    better, level = make_cell("a", range(2)), make_cell("b", range(1, 40))
    worse_run = make_cell("a", range(90), method="knn", val=0.2)
    found = own(cnn, better, worse_run, level)
    assert (found.above, found.not_above) == (("a",), ("b",))
    assert own(cnn, better, make_cell("c", range(3))).not_above == ()
    assert own(cnn, level, make_cell("c", range(60))).above == ()


def test_both_resolutions_and_the_loss_between_data_sets() -> None:
    cells = [
        make_cell("steady", range(20)),
        make_cell("steady", range(40), data="large"),
        make_cell("moody", range(10)),
        make_cell("moody", range(130), data="large"),
        make_cell("last", range(90)),
        make_cell("last", range(120), data="large"),
    ]
    found = find_only(ask("both-resolutions", cells), BestPlaces)
    assert (found.model, found.num_models) == ("steady", 3)
    assert [(place.data, place.place) for place in found.places] == [("small", 2), ("large", 1)]
    followed = find(ask("across-data", cells), Followed)
    assert [each.model for each in followed] == ["steady", "last", "moody"]
    assert [(mean.data, mean.accuracy) for mean in followed[0].means] == [("small", 0.9), ("large", 0.8)]
    assert ask("across-data", cells[:1]) == NOTHING
    seeds = [make_cell("steady", range(20), seed=seed) for seed in (0, 1)]
    for alone in (cells[:1], seeds):
        assert ask("both-resolutions", alone) == (Remark(Kind.ONE_DATA_SET, ("small",)),)


def follow(*cells: Cell) -> tuple[Facts, Followed]:
    facts = ask("across-data", [*cells])
    return facts, find(facts, Followed)[0]


def test_a_model_is_followed_over_data_sets_by_one_method_and_what_else_changes_is_said() -> None:
    def full(data: str, wrong: int, epochs: int, **more: Any) -> Cell:
        return make_cell(
            "a", range(wrong), data=data, method="full", options={"recipe": {"epochs": epochs}}, **more
        )

    probes = [make_cell("a", range(2), val=0.4), make_cell("a", range(90), data="large", val=0.3)]
    small, large = full("small", 10, 20, val=0.9), full("large", 50, 5, val=0.9, num_train=40)
    facts, found = follow(*probes, small, large)
    assert len(facts) == 1
    assert (found.model, found.method, found.num_seeds) == ("a", "full", (1,))
    assert [(mean.data, mean.accuracy, mean.group) for mean in found.means] == [
        ("small", 0.95, None),
        ("large", 0.75, None),
    ]
    fewer = Change("training images", "100", "40")
    assert found.changes == (("large", (fewer, Change("epochs", "20", "5"))),)
    assert ask("across-data", [probes[0], large]) == NOTHING  # by two methods the change is not of the data
    assert follow(small, large, make_cell("b", range(9)))[0][-1] == Remark(Kind.NOT_FOLLOWED, ("b",))
    few = full("large", 80, 5, group="few", val=0.2, num_train=10)
    mean = follow(small, large, few)[1].means[1]
    assert (mean.accuracy, mean.group) == (0.75, "probe")
    seeds = [make_cell("a", range(10 * seed), seed=seed) for seed in (0, 1, 2)]
    seeds += [make_cell("a", range(20 * seed), data="large", seed=seed) for seed in (1, 2)]
    found = follow(*seeds)[1]
    assert [mean.accuracy for mean in found.means] == pytest.approx([0.925, 0.85])
    assert found.num_seeds == (2,)
    chosen = [
        make_cell("a", range(9), data=data, seed=seed, method="head", options={"recipe": {"epochs": epochs}})
        for data, seed, epochs in (("small", 0, 5), ("small", 1, 5), ("large", 0, 5), ("large", 1, 7))
    ]
    assert follow(*chosen)[1].changes == (("large", (Change("epochs", "5", "7", seed=1),)),)
    pairs = [make_cell(model, range(9), data=data, num_train=num) for model in "ab" for data, num in SIZES]
    facts, found = follow(*pairs)
    assert facts[-1] == CommonChanges((("large", (fewer,)),))
    assert found.changes == ()


def test_places_on_both_data_sets_count_models_and_not_their_methods() -> None:
    cells = [
        make_cell("a", range(40)),
        make_cell("a", range(41), method="knn", val=0.4),
        make_cell("b", range(20)),
        make_cell("b", range(21), method="knn", val=0.4),
        make_cell("only-here", range(1)),
        *(make_cell(name, wrong, data="large") for name, wrong in (("a", range(40)), ("b", range(20)))),
    ]
    found = find_only(ask("both-resolutions", cells), BestPlaces)
    assert (found.model, [place.place for place in found.places], found.num_models) == ("b", [1, 1], 2)
    assert ask("both-resolutions", [cells[0], cells[-1]]) == (Remark(Kind.NO_COMMON_MODEL),)


def test_runs_on_fewer_training_images_are_never_mixed_with_those_on_all() -> None:
    few = [make_cell(name, range(wrong), digest="few", num_train=10, group="few") for name, wrong in FEW]
    whole = [make_cell(name, range(wrong)) for name, wrong in FEW]
    found = find(ask("best-features", [*few, *whole]), BestFeatures)
    assert [each.best.title for each in found] == ["a", "a"]
    assert [each.data for each in found] == ["small, 10 training images", "small, 100 training images"]
    for by, more in (("own-network", {"model": "a"}), ("families", {"models": ("a",)})):
        assert ask(by, [few[0], whole[1]], **more) == (Remark(Kind.OTHER_TRAINING_IMAGES, ("small",)),)
        assert ask(by, [few[0], make_cell("b", range(2), data="large")], **more) == NOTHING


def test_answers_tell_a_model_apart_from_what_an_earlier_group_left_of_it() -> None:
    plain = make_cell("a", range(40))
    after = make_cell("a", range(10), group="after tuning", label="a after full on big")
    assert best(plain, after).best.title == "a ('after tuning')"
    assert best(plain).best.title == "a"
    twice = [make_cell("a", range(40), method="full", group=group) for group in ("one", "two")]
    gains = find(ask("fine-tuning-gain", [plain, *twice]), TrainingGain)
    assert [each.later.title for each in gains] == ["a ('one')", "a ('two')"]


def test_training_is_held_against_the_probe_of_the_weights_that_it_began_with() -> None:
    plain, full = make_cell("a", range(40), val=0.5), make_cell("a", range(30), method="full", group="tuned")
    tuned_probe = make_cell("a", range(4), val=0.9, group="after", label="a after full on big")
    assert gain(plain, tuned_probe, full) == ("logistic", "a ('tuned')", 5.0)
    on = make_cell("a", range(2), method="full", group="on", label="a after full on big")
    assert gain(plain, tuned_probe, on) == ("logistic", "a ('on')", 1.0)
    assert gain(plain, on) == ("logistic", "a ('on')", 19.0)
    starts = [find_only(ask("fine-tuning-gain", [*cells, on]), TrainingGain).is_of_start
              for cells in ([plain, tuned_probe], [plain])]  # fmt: skip
    assert starts == [True, False]
    facts = ask("fine-tuning-gain", [tuned_probe, full])
    assert facts[:1] == NOTHING
    assert len(names_of(facts, Kind.WITHOUT_PROBE)) == 1


def test_generalisation_counts_falls_and_rises() -> None:
    facts = ask("generalisation", [make_cell("a", range(20), elsewhere={"wild": tried(0.95)})])
    found = find_only(facts, SourceGain)
    assert (found.data, found.source, round(found.mean, 3), found.num_runs) == ("small", "wild", 0.05, 1)
    assert found.own is None
    assert found.best is not None
    assert (found.best[0].title, found.best[0].method) == ("a", "logistic")
    assert ask("generalisation", [make_cell("a", range(20))]) == NOTHING


def test_generalisation_counts_the_shared_classes_on_both_sides_and_names_the_network_in_question() -> None:
    only_bees_wrong = range(1, 101, 2)
    cells = [
        make_cell("cnn", only_bees_wrong, elsewhere={"wild": tried(0.9)}, val=0.4),
        make_cell("a", range(0), elsewhere={"wild": tried(0.9)}, val=0.3),
        make_cell("b", only_bees_wrong, elsewhere={"wild": tried(0.9)}, val=0.9),
    ]
    facts = ask("generalisation", cells, model="cnn")
    found = find_only(facts, SourceGain)
    assert (found.mean, found.num_runs) == (pytest.approx(-0.1), 3)
    assert found.own is not None
    assert (found.own[0].title, found.own[1]) == ("cnn", pytest.approx(-0.1))
    assert found.best is not None
    assert found.best[0].title == "b"
    assert find(facts, Remark) == [Remark(Kind.SHARED_CLASSES)]


def test_a_run_that_stands_in_several_groups_counts_once() -> None:
    run, other = make_cell("a", range(60), elsewhere={"wild": tried(0.9)}), make_cell("b", range(0))
    twin = replace(run, group="again")
    assert find_only(ask("generalisation", [run, twin]), SourceGain).num_runs == 1
    third = make_cell("a", range(20), method="knn")
    assert family(run, twin, third, other, models=("b",)).accuracy_of_others == 0.8  # and not 0.767
    facts = ask("training-gap", [with_fit(run, 0.9, 0.8), with_fit(twin, 0.9, 0.8)])
    assert len(find_only(facts, TrainingGaps).gaps) == 1


def test_generalisation_is_told_for_each_data_set_apart() -> None:
    cells = [
        make_cell("a", range(0), elsewhere={"wild": tried(0.9)}, val=0.3),
        make_cell("b", range(0), data="large", elsewhere={"wild": tried(0.5)}, val=0.9),
    ]
    found = find(ask("generalisation", cells), SourceGain)
    assert [(each.data, round(each.mean, 3)) for each in found] == [("small", -0.1), ("large", -0.5)]
    assert [each.best[0].title for each in found if each.best is not None] == ["a", "b"]


def test_a_rival_is_chosen_by_validation_and_equal_accuracies_are_level() -> None:
    cnn = make_cell("cnn", range(40), method="scratch")
    lucky, honest = make_cell("lucky", range(2), val=0.1), make_cell("honest", range(40, 80), val=0.9)
    found = own(cnn, lucky, honest)
    assert (found.later.title, found.gain) == ("honest", 0)


def between(first: Cell, later: Cell) -> GroupGain:
    return find_only(ask("between-groups", [first, later], order=("few", "all")), GroupGain)


def test_what_more_images_add_is_tested_on_the_same_test_images_and_what_else_differs_is_said() -> None:
    few = make_cell("a", range(40), group="few", method="full", options={"recipe": {"epochs": 3}}, digest="few")
    whole = make_cell("a", range(20), group="all", method="full", options={"recipe": {"epochs": 6}}, digest="all")
    alone = make_cell("b", range(20), group="all", method="full")
    (found,) = ask("between-groups", [few, whole, alone], order=("few", "all"))
    assert isinstance(found, GroupGain)
    assert (found.first.title, found.first.method, found.first.data) == ("a", "full", "small")
    assert (found.first.accuracy.value, found.later.accuracy.value) == (0.8, 0.9)
    assert found.groups == ("few", "all")
    assert found.gain == pytest.approx(0.1)
    assert (found.test.is_significant, found.test.num_images) == (True, 200)
    longer = Change("epochs", "3", "6")
    assert (found.changes, found.is_same_run) == ((longer,), False)
    assert ask("between-groups", [whole, alone], order=("few", "all")) == NOTHING
    facts = ModelFacts.model_validate(whole.record.model.model_dump() | {"label": "a after full on big"})  # type: ignore[union-attr]
    chained = replace(whole, record=whole.record.model_copy(update={"model": facts}))
    assert between(few, chained).changes == (longer, Change("start", "a", "a after full on big"))
    rate = {
        "recipe": {"epochs": 3, "learning_rate": 0.01, "augment": {"flip": True}},
        "blocks": 3,
    }
    other = make_cell("a", range(20), group="all", method="full", options=rate, digest="all", num_train=50)
    assert between(few, other).changes == (
        Change("training images", "100", "50"),
        Change("augmentation", "none", "flip"),
        Change("learning rate", "none", "0.01"),
        Change("blocks", "none", "3"),
    )
    assert between(few, other).first.data == "small"  # the changes have the number of training images
    same = make_cell("a", range(20), group="all", method="full", options={"recipe": {"epochs": 3}}, digest="all")
    assert between(few, same).changes == ()
    assert between(few, replace(few, group="all")).is_same_run
    weights = same.record.model.model_copy(update={"weights_digest": "others"})  # type: ignore[union-attr]
    others = replace(same, record=same.record.model_copy(update={"model": weights}))
    assert between(few, others).changes == (Change("start", "a", "a"),)
    TOLD[whole.record.run_id] = replace_ids(TOLD[whole.record.run_id])
    assert ask("between-groups", [few, whole], order=("few", "all")) == NOTHING


def replace_ids(told: Predictions) -> Predictions:
    return Predictions(
        tuple(f"other-{image}" for image in told.ids), told.labels, told.probabilities, told.classes
    )


def test_seeds_are_told_apart_wherever_a_figure_is_of_one_of_them() -> None:
    recipe = {"epochs": 20, "weight_decay": 0.05, "batch_size": 64}
    cells = [
        make_cell("a", range(20), method=method, options=options, seed=seed, elsewhere={"wild": tried(0.5)})
        for seed in (0, 1)
        for method, options in (("logistic", {}), ("full", {"recipe": recipe}))
    ]
    seeds = ["small, seed 0", "small, seed 1"]
    assert [each.later.data for each in find(ask("fine-tuning-gain", cells), TrainingGain)] == seeds
    assert [each.data for each in find(ask("generalisation", cells), SourceGain)] == seeds
    text = render_tables([*make_group_tables(cells), *make_recipe_table(cells)])
    for seed in seeds:
        assert f"| a | full | {seed} | - | 50.0 %" in text  # training and validation
        assert f"| a | full | {seed} | 90.0 %" in text  # on another source
        assert f"| probe | a | full | {seed} | 20 |" in text  # recipe
    one = render_tables([*make_group_tables(cells[:2]), *make_recipe_table(cells[:2])])
    assert "seed" not in one


def test_a_split_of_the_datas_own_has_no_seed_in_its_name() -> None:
    cells = [make_cell(name, range(20), seed=seed, digest="same") for seed, name in enumerate("ab")]
    assert best(*cells).data == "small"
