"""Records become rows: sorted, ranked, and refused where they can't be compared."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from backbench.config import DataConfig, MethodConfig, Preprocess, Recipe, RunConfig
from backbench.data import checks
from backbench.errors import ConfigError, DataError
from backbench.records.schema import (
    CUT_BY_BUDGET,
    Cost,
    DataFacts,
    Failure,
    MethodFacts,
    ModelFacts,
    Predictions,
    RunRecord,
)
from backbench.report.comparability import Departure, find_departures, find_unequal
from backbench.report.rows import best_row, make_rows
from backbench.report.warning_text import gather_warnings, row_warnings
from backbench.stats.compare import needed_images
from backbench.stats.metrics import measure_share, per_class_recall, score

N = 200
CLASSES = ("ant", "bee", "fly")
LABELS = np.arange(N) % 3
IDS = tuple(f"{index:03}.png" for index in range(N))


def _predictions(num_wrong: int, shift: int = 0) -> Predictions:
    answers = LABELS.copy()
    wrong = (np.arange(num_wrong) + shift) % N
    answers[wrong] = (answers[wrong] + 1) % 3
    probabilities = np.full((N, 3), 0.1, dtype=np.float32)
    probabilities[np.arange(N), answers] = 0.8
    return Predictions(IDS, LABELS, probabilities, CLASSES)


def _record(
    model: str,
    predictions: Predictions | None,
    *,
    method: str = "logistic",
    control: bool = False,
    size: int | None = 224,
    seed: int = 0,
    precision: str = "fp32",
    digest: str = "aa",
    pretrained_on: str | None = "in1k",
    processor: str = "a",
    fitted_on: str = "train+val",
    warnings: tuple[str, ...] = (),
) -> RunRecord:
    data = DataFacts(
        name="insects",
        classes=CLASSES,
        num_train=100,
        num_val=50,
        num_test=N,
        manifest_digest=digest,
        image_digest="bb",
    )
    config = RunConfig(
        data=DataConfig(source="insects"),
        model=model,
        method=MethodConfig(name=method),
        seed=seed,
        precision=precision,  # type: ignore[arg-type]
    )
    common = {"run_id": f"{model}-{method}", "started": "2025-05-03T12:00:00Z", "config": config, "data": data}
    if predictions is None:
        failure = Failure(kind="ModelError", message="weights are missing")
        return RunRecord(status="failed", failure=failure, **common)  # type: ignore[arg-type]
    return RunRecord(
        status="done",
        model=ModelFacts(
            name=model,
            architecture=model,
            dim=64,
            preprocess=None if control or size is None else Preprocess(size=(size, size)),
            num_parameters=0 if control else 1000,
            flops=None,
            weights_digest="",
            pretrained_on=None if control else pretrained_on,
            is_control=control,
        ),
        method=MethodFacts(name=method, fitted_on=fitted_on),
        metrics=score(predictions.probabilities, predictions.labels),
        per_class=per_class_recall(predictions.probabilities, predictions.labels, CLASSES),
        cost=Cost(seconds={"decode": 1.5, "forward": 3.0, "head": 0.5}, images_per_second=80.0, num_images=N),
        environment={"processor": processor},
        warnings=warnings,
        **common,  # type: ignore[arg-type]
    )


def test_order_and_ranks() -> None:
    told = [_predictions(60), None, _predictions(10), _predictions(12), _predictions(150)]
    records = [
        _record("weak", told[0]),
        _record("broken", told[1]),
        _record("strong", told[2]),
        _record("close", told[3]),
        _record("colour", told[4], control=True),
    ]
    better_control = make_rows(
        [*records, _record("file-facts", _predictions(1), control=True)], [*told, _predictions(1)]
    )
    assert [row.model for row in better_control] == ["strong", "close", "weak", "file-facts", "colour", "broken"]
    rows = make_rows(records, told)
    assert [row.model for row in rows] == ["strong", "close", "weak", "colour", "broken"]
    assert [(row.rank_low, row.rank_high) for row in rows] == [(1, 2), (1, 2), (3, 3), (4, 4), (None, None)]
    assert [row.is_best for row in rows] == [True, False, False, False, False]
    assert [row.tied_with_best for row in rows] == [True, True, False, False, False]
    assert rows[0].accuracy == pytest.approx(0.95)
    assert rows[1].needed_images is not None
    assert rows[1].needed_images > N
    assert rows[2].needed_images is None
    assert (rows[-1].status, rows[-1].accuracy, rows[-1].error) == ("failed", None, "weights are missing")
    assert rows[0].seconds == {
        "read": 0.0,
        "decode": 1.5,
        "resize": 0.0,
        "forward": 3.0,
        "head": 0.5,
        "total": 5.0,
    }


def test_needed_images_allow_for_the_number_of_tied_rows() -> None:
    told = [_predictions(10), _predictions(12), _predictions(13)]
    rows = make_rows([_record(name, one) for name, one in zip("abc", told, strict=True)], told)
    assert [row.needed_images for row in rows] == [
        None,
        needed_images(2, 0, N, alpha=0.025),
        needed_images(3, 0, N, alpha=0.025),
    ]


def test_order_of_records_does_not_matter() -> None:
    told = [_predictions(20), _predictions(20, shift=50), _predictions(22), None]
    records = [_record(name, one) for name, one in zip("bacd", told, strict=True)]
    rows = make_rows(records, told)
    assert make_rows(records[::-1], told[::-1]) == rows
    assert rows[0].model == "a"  # equal accuracy and nll: by name


def _adapted(name: str, number: int, options: dict[str, object], **changes: object) -> RunRecord:
    record = _record("tiny", _predictions(20 + number), method=name, **changes)  # type: ignore[arg-type]
    assert record.method is not None
    facts = record.method.model_copy(update={"options": options})
    return record.model_copy(update={"run_id": f"tiny-{name}-{number:08x}", "method": facts})


def _recipe(**changes: object) -> dict[str, object]:
    return {"recipe": Recipe(**changes).model_dump(mode="json")}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (_recipe(epochs=1), _recipe(epochs=20), ("1 epoch", "20 epochs")),
        (_recipe(), _recipe(optimizer="sgd"), ("adamw", "sgd")),
        (_recipe(), _recipe(augment="basic"), ("no augmentation", "augmentation basic")),
        (_recipe(), _recipe(augment="basic", epochs=3), ("10 epochs", "3 epochs")),
        (_recipe(), _recipe(batch_size=8), ("batch size 64", "batch size 8")),
        (_recipe(), _recipe(label_smoothing=0.1), ("label smoothing 0", "label smoothing 0.1")),
        (_recipe(), _recipe(learning_rate=0.01), ("default learning rate", "learning rate 0.01")),
        ({"blocks": 2}, {"blocks": 3}, ("blocks 2", "blocks 3")),
        ({"pooled": True}, {"pooled": False}, ("pooled", "no pooled")),
        ({"map": None}, {"map": "birds.csv"}, ("default map", "map birds.csv")),
    ],
)
def test_rows_of_one_name_are_called_by_what_differs(
    first: dict[str, object], second: dict[str, object], words: tuple[str, str]
) -> None:
    records = [_adapted("full", 0, first), _adapted("full", 1, second), _record("other", _predictions(50))]
    rows = make_rows(records, [_predictions(20), _predictions(21), _predictions(50)])
    assert [row.name for row in rows] == [
        f"tiny + full ({words[0]})",
        f"tiny + full ({words[1]})",
        "other + logistic",
    ]
    assert rows[0].to_json()["name"] == rows[0].name


def test_precision_seed_and_budget_set_rows_apart() -> None:
    cut = f"{CUT_BY_BUDGET} in phase 'full' after 1 whole epoch: ..."
    for second, words in (
        (_adapted("full", 1, _recipe(), precision="bf16"), ("fp32", "bf16")),
        (_adapted("full", 1, _recipe(), seed=3), ("seed 0", "seed 3")),
        (_adapted("full", 1, _recipe(), warnings=(cut,)), ("not ended by the budget", "ended by the budget")),
        (_adapted("full", 1, _recipe(), size=160), ("224 px", "160 px")),
    ):
        rows = make_rows([_adapted("full", 0, _recipe()), second], [_predictions(20), _predictions(21)])
        assert tuple(row.difference for row in rows) == words


def test_many_rows_of_one_name_take_as_few_words_as_make_them_unique() -> None:
    recipes = [_recipe(epochs=epochs, optimizer=kind) for epochs in (1, 2) for kind in ("adamw", "sgd")]
    records = [_adapted("full", number, recipe) for number, recipe in enumerate(recipes)]
    told = [_predictions(20 + number) for number in range(4)]
    assert [row.difference for row in make_rows(records, told)] == [
        "1 epoch, adamw",
        "1 epoch, sgd",
        "2 epochs, adamw",
        "2 epochs, sgd",
    ]
    alike = [_adapted("full", number, _recipe()) for number in range(3)]
    words = {row.difference for row in make_rows(alike, told[:3])}
    assert words == {"run 00000000", "run 00000001", "run 00000002"}


def test_settings_that_differ_are_listed_and_those_of_another_method_are_not() -> None:
    changes = {"augment": "basic", "epochs": 2, "optimizer": "sgd", "batch_size": 8, "label_smoothing": 0.1}
    records = [
        _adapted("full", 0, _recipe()),
        _adapted("full", 1, _recipe(**changes)),
        _record("other", _predictions(9)),
    ]
    assert find_unequal(records).settings == {
        "augmentation": ["none", "basic"],
        "epochs": ["10", "2"],
        "optimizer": ["adamw", "sgd"],
        "batch size": ["64", "8"],
        "label smoothing": ["0", "0.1"],
        "momentum": ["none", "0.9"],
    }
    apart = [_adapted("full", 0, _recipe(dropout=0.5)), _adapted("lora", 1, _recipe(epochs=3))]
    assert find_unequal(apart).settings == {"epochs": ["10", "3"]}
    assert gather_warnings(records[:1], []) == []


def test_warnings_come_by_severity_and_leaks_first() -> None:
    labels, parts = ["a", "b", "a", "b"], ["train", "train", "test", "test"]
    (leak,) = checks.warn_of_content(labels, parts, ["x", "y", "x", "z"], [None] * 4)
    (spread,) = checks.warn_of_content(labels, parts, ["1", "2", "3", "4"], ["g", "h", "g", "i"])
    (both,) = checks.warn_of_content(labels, parts, ["x", "x", "y", "z"], [None] * 4)
    records = [
        _record("a", _predictions(5), pretrained_on=None),
        _record("b", _predictions(6), size=64).model_copy(update={"num_test_seen": 3}),
    ]
    given = ["8 images left out", both, spread, "interrupted: these runs were finished", leak]
    found = gather_warnings(records, ["Colour alone reaches 90 %."], given)
    places = [
        next(place for place, text in enumerate(found) if words in text)
        for words in (
            "several of the given splits",
            "byte for byte",
            "b is not ranked",
            "different labels",
            "interrupted",
            "input sizes differ",
            "Colour alone",
            "untrained weights",
            "left out",
        )
    ]
    assert places == list(range(9))
    assert len(found) == 9


def test_chance_is_known_with_and_without_the_control_that_always_answers_one_class() -> None:
    shown = _record("a", _predictions(int(N * 0.6)))
    (alone,) = make_rows([shown], [_predictions(int(N * 0.6))])
    assert alone.at_chance
    assert not make_rows([_record("a", _predictions(20))], [_predictions(20)])[0].at_chance
    guesses = _predictions(130, shift=70)
    control = _record("majority", guesses, control=True)
    rows = make_rows([shown, control], [_predictions(int(N * 0.6)), guesses])
    assert rows[0].at_chance
    assert rows[0].unbeaten == ("majority",)
    better = make_rows([_record("a", _predictions(20)), control], [_predictions(20), guesses])
    assert not better[0].at_chance
    assert better[0].unbeaten == ()


def test_json_has_the_agreed_keys() -> None:
    told = _predictions(3)
    (row,) = make_rows([_record("m", told)], [told])
    document = row.to_json()
    agreed = (
        "model method run_id accuracy low high n rank_low rank_high tied_with_best p_value control seconds "
        "images_per_second parameters input_size warnings"
    )
    assert set(agreed.split()) <= set(document)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["p_value"] == 1.0
    assert isinstance(document["warnings"], list)


def test_other_data_is_refused() -> None:
    told = [_predictions(3), _predictions(4)]
    records = [_record("a", told[0]), _record("b", told[1], digest="cc")]
    with pytest.raises(ConfigError, match="2 different manifests can't be ranked together"):
        make_rows(records, told)


def test_predictions_are_matched_by_id() -> None:
    """Another order of the same images changes nothing; other images or truths are refused."""
    told = [_predictions(10), _predictions(30, shift=90)]
    records = [_record("a", told[0]), _record("b", told[1])]
    rows = make_rows(records, told)
    order = np.random.default_rng(0).permutation(N)
    moved = Predictions(tuple(IDS[index] for index in order), LABELS[order], told[1].probabilities[order], CLASSES)
    assert make_rows(records, [told[0], moved]) == rows
    renamed = Predictions(tuple(f"x{name}" for name in IDS), LABELS, told[1].probabilities, CLASSES)
    with pytest.raises(DataError, match="other test images"):
        make_rows(records, [told[0], renamed])
    relabelled = Predictions(IDS, (LABELS + 1) % 3, told[1].probabilities, CLASSES)
    with pytest.raises(DataError, match="true class"):
        make_rows(records, [told[0], relabelled])


def test_class_order_does_not_matter() -> None:
    told = [_predictions(10), _predictions(30)]
    records = [_record("a", told[0]), _record("b", told[1])]
    flipped = Predictions(IDS, 2 - LABELS, told[1].probabilities[:, ::-1], CLASSES[::-1])
    assert make_rows(records, [told[0], flipped]) == make_rows(records, told)


def test_a_run_without_predictions_is_not_ranked() -> None:
    told = _predictions(10)
    rows = make_rows([_record("a", told), _record("b", _predictions(4))], [told, None])
    assert [(row.model, row.rank_low, row.is_best) for row in rows] == [("b", None, False), ("a", 1, True)]


def test_groups_widen_intervals_and_ties() -> None:
    told = [_predictions(10), _predictions(20)]
    records = [_record("a", told[0]), _record("b", told[1])]
    groups = [index // 20 for index in range(N)]
    alone, grouped = make_rows(records, told), make_rows(records, told, groups)
    assert not alone[1].tied_with_best
    assert grouped[1].tied_with_best
    expected = measure_share(told[0].correct, groups)
    assert (grouped[0].low, grouped[0].high) == (expected.low, expected.high)
    assert (grouped[1].needed_images or 0) > N
    assert make_rows(records, told, list(range(N))) == alone
    assert make_rows(records, told, [None] * N) == alone


def test_untrained_weights_are_marked() -> None:
    told = [_predictions(10), _predictions(20), _predictions(150)]
    records = [
        _record("a", told[0]),
        _record("tiny_cnn", told[1], pretrained_on=None),
        _record("colour", told[2], control=True),
    ]
    rows = make_rows(records, told)
    assert [row.is_untrained for row in rows] == [False, True, False]
    assert [bool(row.warnings) for row in rows] == [False, True, False]
    assert find_unequal(records).untrained == ("tiny_cnn",)


def _unlike() -> list[RunRecord]:
    """Two rows alike, one unlike them in all that is compared, and a control."""
    told = [*(_predictions(10 + index) for index in range(3)), _predictions(120)]
    return [
        _record("a", told[0], warnings=("a note of its own",)),
        _record("b", told[1]),
        _record("c", told[2], size=518, precision="bf16", seed=3, processor="b", fitted_on="train"),
        _record("colour", told[3], control=True, seed=9),
    ]


def test_what_makes_rows_incomparable_is_found() -> None:
    records = _unlike()
    alike = find_unequal(records[:2])
    assert (alike.sizes, alike.settings, alike.aspects, alike.seen) == (None, {}, {}, ())
    found = find_unequal(records)
    assert (found.sizes, found.settings) == ((224, 518), {})
    assert found.aspects["precision"] == {"fp32": 2, "bf16": 1}
    assert found.aspects["seed"] == {"0": 2, "3": 1}, "controls are no rows to compare"
    assert found.aspects.keys() == {"precision", "seed", "fitted_on", "hardware"}
    ofa, ofb, ofc, ofcolour = find_departures(records)
    assert ofa == ofb == ofcolour == ()
    assert ofc[0] == Departure("size", (518, 518), (224, 224))
    assert ofc[1] == Departure("precision", "bf16", "fp32", ("fp32",))
    assert [each.aspect for each in ofc[2:]] == ["seed", "fitted_on", "hardware"]


def test_without_a_majority_no_row_departs_from_most_rows() -> None:
    records = [_record("a", _predictions(10)), _record("b", _predictions(11), size=518, precision="bf16")]
    one, other = Departure("precision", "fp32", None, ("bf16",)), Departure("precision", "bf16", None, ("fp32",))
    assert find_departures(records) == [(one,), (other,)]
    assert find_departures(records[::-1]) == [(other,), (one,)]
    records.append(_record("c", _predictions(12), precision="fp16"))
    assert find_departures(records)[1] == (
        Departure("size", (518, 518), (224, 224)),
        Departure("precision", "bf16", None, ("fp32", "fp16")),
    )


def test_warnings_of_rankings_and_rows_read_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    settings = [_adapted("full", 0, _recipe()), _adapted("full", 1, _recipe(epochs=2, optimizer="sgd"))]
    split = [_record("a", _predictions(10)), _record("b", _predictions(11), size=518, precision="bf16")]
    trained, _ = _seen_world("own")
    untrained = [_record("a", _predictions(5)), _record("tiny_cnn", _predictions(6), pretrained_on=None)]
    old = [_record("a", _predictions(5)).model_copy(update={"schema_version": version}) for version in (1, 2)]
    lines = []
    for records in (_unlike(), settings, split, trained, untrained, old):
        notes = zip(records, row_warnings(records), strict=True)
        of_rows = [f"{record.model_name}: {' | '.join(words)}" for record, words in notes if words]
        lines += [*gather_warnings(records, []), *of_rows, ""]
    golden("warnings.txt", "\n".join(lines))


def test_a_row_that_is_not_proved_better_than_a_control_is_marked_with_the_strongest_such() -> None:
    told = [*map(_predictions, (10, 60, 62)), _predictions(64, shift=30), _predictions(120)]
    names = ("best", "level", "worse", "colour", "majority")
    records = [_record(name, one, control=name in names[3:]) for name, one in zip(names, told, strict=True)]
    rows = {row.model: row.warnings for row in make_rows(records, told)}
    assert rows["best"] == rows["colour"] == rows["majority"] == ()
    assert rows["level"] == rows["worse"] == ("not significantly better than the baseline colour",)


def test_weakest_class() -> None:
    told = _predictions(30)  # ten of each class
    (row,) = make_rows([_record("a", told)], [told])
    assert row.weakest_class == "fly"  # the smallest by one image, so the lowest share
    assert row.weakest_recall == pytest.approx(56 / 66)
    assert row.weakest_n == 66


def test_best_row_and_nothing() -> None:
    correct = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)
    assert best_row(correct, [False, False, True]) == 1
    assert best_row(correct, [True, True, True]) == 2
    assert make_rows([], []) == []
    assert gather_warnings([], []) == []
    assert [row.status for row in make_rows([_record("a", None)], [None])] == ["failed"]


def _seen_world(*names: str) -> tuple[list[RunRecord], list[Predictions]]:
    told = [_predictions(2), _predictions(20), _predictions(60), _predictions(150)]
    records = [
        _record(name, answers, control=name == "colour").model_copy(
            update={"num_test_seen": 40 if name in names else 0}
        )
        for name, answers in zip(("own", "strong", "weak", "colour"), told, strict=True)
    ]
    return records, told


def test_a_row_trained_on_test_images_is_not_crowned() -> None:
    records, told = _seen_world("own")
    rows = make_rows(records, told)
    assert [row.model for row in rows] == ["strong", "weak", "own", "colour"]
    assert [row.is_best for row in rows] == [True, False, False, False]
    own = rows[2]
    assert (own.rank_low, own.rank_high, own.p_value, own.tied_with_best) == (None, None, None, False)
    assert own.accuracy == pytest.approx(0.99)
    others = make_rows(records[1:], told[1:])
    assert [row for row in rows if row.model != "own"] == others, "it takes no place and no share of the tests"
    assert [record.model_name for record in find_unequal(records).seen] == ["own"]


def test_where_all_were_trained_on_test_images_none_is_best() -> None:
    rows = make_rows(*_seen_world("own", "strong", "weak"))
    assert not any(row.is_best or row.tied_with_best for row in rows)
    assert [row.model for row in rows] == ["own", "strong", "weak", "colour"]


def test_seen_rows_of_groups_have_intervals_by_group() -> None:
    records, told = _seen_world("own")
    groups = [index // 10 for index in range(N)]
    own = make_rows(records, told, groups)[2]
    expected = measure_share(told[0].correct, groups)
    assert (own.low, own.high) == (expected.low, expected.high)
