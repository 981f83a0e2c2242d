"""Tables of studies, from runs made up here: data, groups, recipes, and ours beside what was published."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from backbench.config import Augment, Recipe
from backbench.records.schema import Cost
from backbench.report.markdown import render_tables
from backbench.stats.metric import Metric
from backbench.studies.analysis.facts import Kind
from backbench.studies.analysis.published import make_published_tables
from backbench.studies.analysis.recipes import LAYER_DECAY_NOTE, make_recipe_table
from backbench.studies.analysis.tables import make_data_table, make_group_tables
from backbench.studies.analysis.wording import NOT_COMPARED, PROBE_SECONDS, REMARKS, TRAINING_SECONDS
from study_cells import make_cell, publish, tried

FIT_NOTE, SMOOTHED_NOTE = REMARKS[Kind.TRAINING_FIGURES], REMARKS[Kind.SMOOTHED_LABELS]


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
    assert (
        "optimistic" not in make_published_tables([publish(value=0.8)], [make_cell("a", range(20))])[0].rows[0][2]
    )


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
    assert "optimistic" not in tables[0].rows[0][2]  # the test images did not
    there = tried(0.5)
    cell = make_cell("a", range(20), num_test_seen=14, elsewhere={"wild": there})
    (table,) = [found for found in make_group_tables([cell]) if found.title.endswith("cross-dataset evaluation")]
    assert "optimistic: 14 test images" in table.rows[0][3]
    assert "optimistic" not in table.rows[0][5]


def test_a_trial_shows_no_difference_to_what_is_published() -> None:
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
    assert table.notes[0] == NOT_COMPARED


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


def test_group_tables_say_which_seconds_they_give() -> None:
    probe, tuned = make_cell("a", range(20)), make_cell("a", range(20), method="full")
    cost = Cost(seconds={"forward": 1.0, "fit": 2.0}, images_per_second=None)
    tuned = replace(tuned, record=tuned.record.model_copy(update={"cost": cost}))
    cost = Cost(seconds={"forward": 1.0, "head": 2.0}, images_per_second=None)
    probe = replace(probe, record=probe.record.model_copy(update={"cost": cost}))
    said = {name: make_group_tables(cells)[0].notes for name, cells in
            {"both": [probe, tuned], "probe": [probe], "tuned": [tuned]}.items()}  # fmt: skip
    probes, trained = (PROBE_SECONDS,), (TRAINING_SECONDS,)
    assert said == {"both": probes + trained, "probe": probes, "tuned": trained}


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


def test_what_was_asked_for_is_the_same_over_seeds_and_stands_once() -> None:
    recipe = {"epochs": 20, "weight_decay": 0.05, "batch_size": 64}
    cells = [make_cell("a", range(20 + seed), options={"recipe": recipe}, seed=seed) for seed in (0, 1)]
    entries = [
        publish(column=figure, figure=figure, value=None)
        for figure in ("epochs", "weight_decay", "num_test", "accuracy")
    ]
    (table,) = make_published_tables(entries, cells)
    assert table.rows[0][2::2] == ("20", "0.05", "200", "89.8 % (89.5 % to 90.0 % over 2 seeds)")


def replace_images(there: SimpleNamespace, num: int) -> SimpleNamespace:
    return SimpleNamespace(**vars(there) | {"num_images": num})
