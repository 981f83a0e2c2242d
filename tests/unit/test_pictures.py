"""Pictures from records: they hold whatever names and counts come, and are the same every time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.errors import ConfigError, StorageError
from backbench.records import folders
from backbench.records.schema import Cost, DataFacts, Failure, MethodFacts, ModelFacts, Predictions, RunRecord
from backbench.report.charts.cost import COSTS
from backbench.report.charts.labels import place_labels, spread_labels
from backbench.report.charts.matrix import NUM_STEPS
from backbench.report.figures import style
from backbench.report.figures.calibration import draw_coverage, draw_reliability
from backbench.report.figures.classes import draw_class_heat_map, draw_per_class
from backbench.report.figures.confusion import draw_confusion
from backbench.report.figures.curves import draw_learning_curves
from backbench.report.figures.embedding import draw_embedding
from backbench.report.figures.of_run import write_comparison_pictures, write_run_pictures
from backbench.report.figures.scatter import draw_cost
from backbench.report.figures.sheets import draw_grid
from backbench.report.rows import Row
from backbench.stats.confusion import count_confusion
from backbench.stats.metric import Metric
from backbench.stats.metrics import per_class_recall, score

HOSTILE = (
    "$x^2$",
    "$\\undefined$",
    "<b>bold</b>",
    "name " * 24,
    "שלום עולם",
    "\U0001f600\U0001f9ff emoji",
    "new\nline",
    'a" style="fill:red" id="q',
    "</text><script>alert(1)</script>",
    "\u202eevil\x1b[31m",
    "中文类别",
    'x id="q" style="c"',
    "",
)
WHITE = np.full((40, 60, 3), 255, dtype=np.uint8)
HISTORY = {
    "two-phase": {
        "history": [
            {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.3, "val_loss": 1.8, "val_accuracy": 0.4},
            {"epoch": 2, "train_loss": 1.0, "train_accuracy": 0.7, "val_loss": 1.2, "val_accuracy": 0.6},
        ],
        "best_epoch": 2,
        "best_accuracy": 0.6,
        "best_loss": 1.2,
        "ended": "epochs",
    }
}


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def _predictions(num: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    logits = rng.normal(size=(num, num_classes)) + 3 * np.eye(num_classes)[labels]
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True), labels


def _bytes(figure: Figure, tmp_path: Path, kind: str = "svg") -> bytes:
    style.save_figure(figure, tmp_path / f"figure.{kind}")
    return (tmp_path / f"figure.{kind}").read_bytes()


def _is_inside(figure: Figure) -> bool:
    """Whether all text, with the figures at the axes, lies within the figure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph")  # letters that no font has
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts if text.get_text()]
        boxes += [axis.get_tightbbox() for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)]
    width, height = style.figure_size(figure)
    outside = [b for b in boxes if b and not (b.x0 > -1 and b.x1 < width + 1 and b.y0 > -1 and b.y1 < height + 1)]
    return not outside


def _row(model: str, accuracy: float | None, rate: float | None, **more: object) -> Row:
    low, high = (None, None) if accuracy is None else (accuracy - 0.03, accuracy + 0.02)
    row = Row(model=model, method="knn", run_id=model, accuracy=accuracy, low=low, high=high, n=300)
    return Row(**(vars(row) | {"images_per_second": rate, "parameters": 5_000_000} | more))


# Style


def test_roles_are_the_same_in_both_themes_and_no_colour_has_two() -> None:
    light, dark = style.ROLES["light"], style.ROLES["dark"]
    assert light.keys() == dark.keys()
    assert len({*light.values(), *dark.values()}) == 2 * len(light)


def _contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_stand_out_from_what_is_behind_them(theme: str) -> None:
    from backbench.report.figures.matrix import on_step

    look = style.ROLES[theme]
    assert _contrast(look["text"], look["page"]) > 7
    assert _contrast(look["muted"], look["page"]) > 4.5
    assert _contrast(look["text"], look["neutral"]) > 4.5
    for role in ("best", "attention", "other", *style.GROUPS):
        assert _contrast(look[role], look["page"]) >= 2.95, role
    for ramp in ("error", "share"):
        for step in range(1, NUM_STEPS + 1):
            assert _contrast(look[on_step(step)], look[f"{ramp}-{step}"]) >= 4.5, (ramp, step)


def test_errors_have_the_same_colours_on_the_page_as_in_figures() -> None:
    sheet = files("backbench.report.page").joinpath("style.css").read_text()
    found = [re.findall(r"--s\d:(#\w+);", line) for line in sheet.splitlines() if "--s1:" in line]
    themes = ("light", "dark", "dark", "light")  # the system's, dark by choice, print
    steps = range(1, NUM_STEPS + 1)
    wanted = [[style.ROLES[theme][f"error-{step}"] for step in steps] for theme in themes]
    assert [[colour.lower() for colour in colours] for colours in found] == wanted


@pytest.mark.parametrize("name", HOSTILE)
def test_names_fit_on_one_line_of_the_room_there_is(name: str) -> None:
    fitted = style.fit_text(name, 90)
    assert "\n" not in fitted
    assert "\x1b" not in fitted
    assert style.text_width(fitted) <= 90


def test_a_name_without_room_is_left_out() -> None:
    assert style.fit_text("elephant", 1) == ""


def test_long_names_keep_beginning_and_end() -> None:
    fitted = style.fit_text("genus_species_subspecies_0001", 120)
    assert fitted.startswith("genus")
    assert fitted.endswith("01")
    assert "…" in fitted


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_records_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    counts = np.array([[3, 1], [0, 4]])
    first = _bytes(draw_confusion(counts, ["a", "b"]), tmp_path, kind)
    assert _bytes(draw_confusion(counts, ["a", "b"]), tmp_path, kind) == first
    assert not re.search(rb"20\d\d-\d\d|Matplotlib", first)


def test_files_have_the_size_that_was_laid_out(tmp_path: Path) -> None:
    figure = style.new_figure(300, 120.4)
    style.save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (600, 242)
    root = ET.fromstring(_bytes(figure, tmp_path))
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("300", "121", "0 0 300 121")


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.html"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        style.save_figure(style.new_figure(10, 10), tmp_path / name)


def test_a_picture_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        style.save_figure(style.new_figure(10, 10), tmp_path / "file" / "a.svg")


def test_other_themes_are_refused() -> None:
    with pytest.raises(ConfigError, match="light, dark"):
        draw_confusion(np.eye(2), ["a", "b"], theme="sepia")


def test_settings_of_the_user_neither_matter_nor_change(tmp_path: Path) -> None:
    counts = np.array([[3, 1], [0, 4]])
    plain = _bytes(draw_confusion(counts, ["$a$", "b"]), tmp_path)
    with matplotlib.rc_context({"svg.fonttype": "path", "text.usetex": True, "svg.hashsalt": "other"}):
        assert _bytes(draw_confusion(counts, ["$a$", "b"]), tmp_path) == plain
        assert matplotlib.rcParams["svg.fonttype"] == "path"


# Words

PRICED = [
    _row("best", 0.9, 100.0, is_best=True, tied_with_best=True),
    _row("cheap", 0.7, 1000.0),
    _row("unmeasured", 0.8, None),
    _row("broken", None, 10.0),
    _row("colour", 0.75, None, control=True),
]


def figures() -> dict[str, Figure]:
    """One of each picture, and those that say more or less."""
    probabilities, labels = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]]), np.array([0, 0, 1, 1])
    one = HISTORY["two-phase"]
    points, places = np.random.default_rng(0).normal(size=(5000, 2)), np.arange(5000) % 40
    recalls = {f"{index}": Metric(value=index / 9, low=0.0, high=1.0, n=20) for index in range(9)}
    names = [f"name-{label}" for label in range(40)]
    return {
        "confusion": draw_confusion(np.array([[6, 2], [0, 4]]), ["ant", "bee"]),
        "confusion, class without images": draw_confusion(np.array([[5, 1], [0, 0]]), ["ant", "bee"]),
        "classes": draw_per_class(recalls),
        "reliability": draw_reliability(probabilities, labels),
        "coverage": draw_coverage(probabilities, labels, 0.75),
        "coverage, threshold too high": draw_coverage(probabilities, labels, 0.99),
        "curves": draw_learning_curves({"a": one, "b": one | {"best_epoch": 1}, "c": one | {"best_epoch": 0}}),
        "curves, none": draw_learning_curves({}),
        **{f"cost, {cost}": draw_cost(PRICED, cost=cost) for cost in COSTS},
        "cost, none": draw_cost([_row("a", None, None)]),
        "map": draw_embedding({"a": points[:60]}, places[:60] % 3, {"a": places[:60] == 0}, names, note="PCA"),
        "map, many classes": draw_embedding({"a": points}, places, {"a": places == 0}, names),
        "grid": draw_grid([WHITE] * 4, ["a", "b", "c", "d"], ["a", "x", "y", "d"], [0.9, 0.5, 0.8, 0.7], num=3),
    }


def test_pictures_read_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    lines = []
    for name, figure in figures().items():
        lines += [f"# {name}", *(text for text in _texts(figure) if re.search(" [a-z]", text)), ""]
    golden("figures.txt", "\n".join(lines))


# SVG


def _svg(figure: Figure, folder: Path) -> str:
    style.save_figure(figure, folder / "picture.svg")
    return (folder / "picture.svg").read_text()


def test_hostile_names_stay_text_in_an_svg(tmp_path: Path) -> None:
    num = len(HOSTILE)
    svg = _svg(draw_confusion(np.ones((num, num), dtype=int), HOSTILE), tmp_path)
    root = ET.fromstring(svg)
    tags = {node.tag.rsplit("}", 1)[-1] for node in root.iter()}
    assert tags <= {"svg", "g", "path", "defs", "use", "clipPath", "rect", "text"}
    assert {"$x^2$", 'x id="q" style="c"'} <= {node.text for node in root.iter() if node.tag.endswith("text")}
    assert not any(node.get("style") for node in root.iter())


def test_photographs_in_an_svg_are_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = np.clip(128 + rng.normal(size=(200, 200, 3)).cumsum(axis=0) * 4, 0, 255).astype(np.uint8)
    assert "data:image/jpeg;base64," in _svg(draw_grid([photo], ["a"], ["a"], [0.9]), tmp_path)
    drawn = np.tile(np.uint8([[[0]], [[255]]]), (8, 8, 3))
    assert "data:image/png;base64," in _svg(draw_grid([drawn], ["a"], ["a"], [0.9]), tmp_path)


# Confusion


@pytest.mark.parametrize("num", [1, 2, 15, 16, 61])
def test_confusion_of_any_number_of_classes_lies_within_its_picture(num: int) -> None:
    rng = np.random.default_rng(num)
    counts = rng.poisson(0.3, (num, num)) + 5 * np.eye(num, dtype=int)
    assert _is_inside(draw_confusion(counts, [f"class {index}" for index in range(num)]))


def test_confusion_of_500_classes_stays_a_small_file(tmp_path: Path) -> None:
    labels = np.arange(3000) % 500
    answers = np.where(np.arange(3000) % 7, labels, (labels + 1) % 500)
    figure = draw_confusion(count_confusion(labels, answers, 500), [f"class {index}" for index in range(500)])
    assert len(_bytes(figure, tmp_path)) < 200_000
    assert "Most often confused" in _texts(figure)


def test_confusion_shows_counts_and_shares_of_the_row_and_leaves_zero_blank() -> None:
    texts = _texts(draw_confusion(np.array([[6, 2], [0, 4]]), ["ant", "bee"]))
    assert {"6", "75 %", "2", "25 %", "4", "100 %", "answered →", "true ↓"} <= set(texts)
    assert "0" not in texts


def test_a_share_that_is_not_whole_is_not_rounded_to_all_or_none() -> None:
    texts = _texts(draw_confusion(np.array([[999, 1], [0, 5]]), ["ant", "bee"]))
    assert ">99 %" in texts
    assert "<1 %" in texts


def test_hostile_names_keep_confusion_within_its_picture() -> None:
    num = len(HOSTILE)
    assert _is_inside(draw_confusion(np.ones((num, num), dtype=int), HOSTILE))


# Classes


def test_classes_come_weakest_first_and_few_images_are_faint() -> None:
    recalls = {
        "good": Metric(value=0.9, low=0.8, high=0.95, n=50),
        "bad": Metric(value=0.2, low=0.1, high=0.5, n=5),
    }
    figure = draw_per_class(recalls)
    texts = _texts(figure)
    assert texts.index("bad") < texts.index("good")
    edges = {line.get_markeredgecolor() for line in figure.axes[0].lines if line.get_marker() == "o"}
    assert edges == {style.ROLES["light"]["best"], style.ROLES["light"]["other"]}


@pytest.mark.parametrize("num", [0, 1, 500])
def test_any_number_of_classes_lies_within_its_picture(num: int) -> None:
    recalls = {f"{index} {HOSTILE[3]}": Metric(value=index / 500, low=0.0, high=1.0, n=20) for index in range(num)}
    figure = draw_per_class(recalls)
    assert _is_inside(figure)
    assert (num > 40) == any("40 weakest shown" in text for text in _texts(figure))


def test_heat_map_leaves_classes_without_images_blank() -> None:
    figure = draw_class_heat_map(
        np.array([[0.0, 1.0], [np.nan, np.nan], [0.999, 0.5]]), list("abc"), ["m", HOSTILE[3]]
    )
    texts = _texts(figure)
    assert {"0", "100", "99", "50"} <= set(texts)
    assert "nan" not in "".join(texts)
    assert _is_inside(figure)


# Calibration


@pytest.mark.parametrize(("num", "num_classes"), [(5, 2), (200, 3), (3, 1)])
def test_confidence_pictures_hold_for_few_and_many(num: int, num_classes: int, tmp_path: Path) -> None:
    probabilities, labels = _predictions(num, num_classes)
    for figure in (draw_reliability(probabilities, labels), draw_coverage(probabilities, labels, 0.5)):
        assert _is_inside(figure)
        assert b"nan" not in _bytes(figure, tmp_path)


# Curves


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"history": [], "best_epoch": 0},
        {"best_epoch": 0, "best_loss": 0.001},
        {"history": HISTORY["two-phase"]["history"][:1], "best_epoch": 1},
        {"history": [{"epoch": 1, "train_loss": float("nan"), "val_loss": None}], "best_accuracy": None},
    ],
)
def test_curves_hold_for_whatever_training_left(change: dict[str, object], tmp_path: Path) -> None:
    figure = draw_learning_curves({"phase": HISTORY["two-phase"] | change})
    assert _is_inside(figure)
    assert b"nan" not in _bytes(figure, tmp_path)


def test_curves_name_each_phase() -> None:
    one = HISTORY["two-phase"]
    worse = one | {"best_epoch": 0}
    texts = _texts(draw_learning_curves({"a": one, "b": one | {"best_epoch": 1}, "c": worse}))
    assert {"a", "b", "c"} <= set(texts)


# Cost


def test_cost_names_rows_and_leaves_out_what_has_no_price() -> None:
    figure = draw_cost(PRICED, pinned=["cheap"])
    texts = _texts(figure)
    assert {"best + knn", "cheap + knn", "pinned", "baseline: colour"} <= set(texts)
    assert not any(text.startswith(("unmeasured", "broken")) for text in texts)
    assert _is_inside(figure)


@pytest.mark.parametrize("cost", list(COSTS))
def test_cost_without_priced_rows_says_so(cost: str) -> None:
    assert not draw_cost([_row("a", None, None)], cost=cost).axes[0].has_data()


def test_cost_of_forty_rows_at_one_price_lies_within_its_picture() -> None:
    rows = [_row(f"{HOSTILE[3]} {index}", 0.5 + index / 100, 50.0) for index in range(40)]
    assert _is_inside(draw_cost(rows))


def test_labels_cover_neither_points_nor_one_another() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(60, 340, (25, 2))
    placed = [box for box in place_labels(points, [(70.0, 14.0)] * 25, (0, 0, 400, 400)) if box is not None]
    assert len(placed) > 10
    for number, box in enumerate(placed):
        inside = (points > [box[0], box[1]]).all(axis=1) & (points < [box[2], box[3]]).all(axis=1)
        assert not inside.any()
        for other in placed[:number]:
            assert box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] or other[1] >= box[3]


def test_labels_at_line_ends_are_spread_within_the_panel() -> None:
    assert spread_labels([10.0, 12.0], 16.0, 100.0) == [10.0, 26.0]
    assert spread_labels([99.0, 98.0], 16.0, 100.0) == [100.0, 84.0]
    assert spread_labels([], 16.0, 100.0) == []


# Maps and sheets


@pytest.mark.parametrize("num_classes", [1, 5, 12])
def test_maps_stand_side_by_side_and_mark_wrong_answers(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % num_classes
    points = rng.normal(size=(60, 2))
    figure = draw_embedding({"a": points, "b": points * 2}, labels, {"a": labels == 0}, HOSTILE, note="PCA")
    texts = _texts(figure)
    assert any(text.endswith("% wrong") for text in texts)
    assert "predicted wrongly" in texts
    assert _is_inside(figure)


def test_maps_of_points_that_coincide_or_are_no_numbers_are_drawn(tmp_path: Path) -> None:
    labels = np.zeros(4, dtype=np.int64)
    figure = draw_embedding({"a": np.zeros((4, 2)), "b": np.full((4, 2), np.nan)}, labels, None, ["x"])
    assert b"nan" not in _bytes(figure, tmp_path)


def test_maps_of_many_images_show_some_and_say_so() -> None:
    labels = np.zeros(5000, dtype=np.int64)
    wrong = np.arange(5000) < 10
    figure = draw_embedding({"a": np.random.default_rng(0).normal(size=(5000, 2))}, labels, {"a": wrong}, ["x"])
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "x" and len(line.get_xdata()) > 1]
    assert {len(line.get_xdata()) for line in drawn} == {10}


def test_of_many_classes_those_are_named_whose_images_lie_closest_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 10)
    centres = rng.normal(size=(40, 2)) * 5
    close = np.arange(40) >= 30  # the last ten; the others lie everywhere
    points = np.where(close[labels, None], centres[labels], 0) + rng.normal(size=(400, 2)) * np.where(
        close[labels, None], 0.1, 9
    )
    lone = np.concatenate([labels, [40]]), np.concatenate([points, [[0, 0]]])  # close to itself, by chance
    names = [f"name-{label}" for label in range(41)]
    figure = draw_embedding({"a": lone[1]}, lone[0], {"a": lone[0] == 0}, names)
    texts = _texts(figure)
    named = {int(text.removeprefix("name-")) for text in texts if text.startswith("name-")}
    assert set(range(30, 40)) <= named
    assert len(named) <= 16
    assert 40 not in named
    words = ["predicted wrongly", "correct, of any class", "named: the most compact classes"]
    assert [text for text in texts if text in words] == words
    assert _is_inside(figure)
    few = draw_embedding({"a": points[:60]}, labels[:60], None, names)
    assert not any("most compact" in text or "of any class" in text for text in _texts(few))


def test_a_long_name_of_a_map_takes_two_lines() -> None:
    name = "tiny_cnn.cifar100 after full on cifar10-mini + logistic"
    points, labels = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
    figure = draw_embedding({name: points, "b": points}, labels, {name: labels == 0}, ["x", "y"])
    texts = _texts(figure)
    assert "tiny_cnn.cifar100 after full on" in texts
    assert "cifar10-mini + logistic" in texts
    assert _is_inside(figure)


def test_the_grid_has_wrong_answers_first_and_the_surest_foremost() -> None:
    figure = draw_grid([WHITE] * 4, ["a", "b", "c", "d"], ["a", "x", "y", "d"], [0.99, 0.5, 0.8, 0.7], num=3)
    texts = [text for text in _texts(figure) if text in ("a", "x", "y", "d")]
    assert texts == ["y", "x", "a"]
    assert _texts(figure)[2:5] == ["is c", "y", "80 %"]


# Runs


def _write_run(
    root: Path, run_id: str, *, status: str = "done", history: str | None = None, digest: str = "aa"
) -> Path:
    probabilities, labels = _predictions(60, 3)
    probabilities = np.roll(probabilities, len(run_id), axis=0)
    classes = ("ant", "bee", "$fly$")
    data = DataFacts(
        name="insects",
        classes=classes,
        num_train=9,
        num_val=9,
        num_test=60,
        manifest_digest=digest,
        image_digest="b",
    )
    is_done = status == "done"
    model = ModelFacts(
        name=run_id, architecture="net", dim=4, preprocess=None, num_parameters=10, flops=2e9, weights_digest="w",
        pretrained_on="in1k",
    )  # fmt: skip
    record = RunRecord(
        run_id=run_id,
        status="done" if is_done else "failed",
        started="2026-01-01T00:00:00Z",
        config=RunConfig(data=DataConfig(source="insects"), model=run_id, method=MethodConfig(name="knn")),
        data=data,
        model=model,
        method=MethodFacts(name="knn", choices={"temperature": 1.4, "threshold": 0.6}),
        metrics=score(probabilities, labels) if is_done else {},
        per_class=per_class_recall(probabilities, labels, classes) if is_done else {},
        cost=Cost(seconds={"forward": 1.0}, images_per_second=50.0 + len(run_id), num_images=60),
        failure=None if is_done else Failure(kind="ModelError", message="no such weights"),
    )
    ids = tuple(f"{index}.png" for index in range(60))
    told = Predictions(ids, labels, probabilities.astype(np.float32), classes) if is_done else None
    more = {"history.json": history.encode()} if history is not None else None
    return folders.write_run(root, record, told, lambda path: path.write_text("{}"), more)[1]


def test_a_run_leaves_every_picture_that_its_folder_supports(tmp_path: Path) -> None:
    plain = _write_run(tmp_path / "runs", "probe")
    trained = _write_run(tmp_path / "runs", "trained", history=json.dumps(HISTORY))
    names = {path.name for path in write_run_pictures(plain, tmp_path / "a", ("svg",))}
    assert names == {"confusion.svg", "classes.svg", "reliability.svg", "coverage.svg"}
    paths = write_run_pictures(trained, tmp_path / "b", ("svg", "png"), theme="dark")
    assert {path.name for path in paths} == {
        f"{Path(n).stem}.{k}" for n in [*names, "curves"] for k in ("svg", "png")
    }
    assert all(path.stat().st_size > 1000 for path in paths)
    assert "from confidence 0.60 on" in (tmp_path / "a" / "coverage.svg").read_text()


def test_runs_compared_leave_cost_and_classes(tmp_path: Path) -> None:
    folders = [
        _write_run(tmp_path / "runs", "first"),
        _write_run(tmp_path / "runs", "second"),
        _write_run(tmp_path / "runs", "third", status="failed"),
    ]
    paths = write_comparison_pictures(folders, tmp_path / "out", ("svg",))
    assert [path.name for path in paths] == ["cost.svg", "class-heat-map.svg"]
    text = paths[0].read_text()
    assert "first + knn" in text
    assert "third" not in text


def test_what_can_not_be_drawn_says_why(tmp_path: Path) -> None:
    failed = _write_run(tmp_path / "runs", "broken", status="failed")
    with pytest.raises(ConfigError, match=r"failed.*no such weights"):
        write_run_pictures(failed, tmp_path / "out")
    with pytest.raises(ConfigError, match="format 'pdf'"):
        write_run_pictures(failed, tmp_path / "out", ("pdf",))
    with pytest.raises(ConfigError, match="no runs"):
        write_comparison_pictures([], tmp_path / "out")
    others = [_write_run(tmp_path / "runs", "one"), _write_run(tmp_path / "runs", "two", digest="zz")]
    with pytest.raises(ConfigError, match="different manifests"):
        write_comparison_pictures(others, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"phase": 3}'])
def test_a_damaged_history_is_named(content: str, tmp_path: Path) -> None:
    folder = _write_run(tmp_path / "runs", "trained", history=content)
    with pytest.raises(StorageError, match=r"history\.json"):
        write_run_pictures(folder, tmp_path / "out", ("svg",))


def test_neither_help_nor_the_ranking_loads_matplotlib_nor_pictures_torch_or_pyplot() -> None:
    code = (
        "import sys, backbench.cli, backbench.runs.rank, backbench.report.table\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import backbench.report.figures.of_run, backbench.report.figures.sheets\n"
        "assert 'matplotlib' in sys.modules\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
