"""Draws the pictures of a study: runs, rankings, feature maps, prediction grids and explanations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from matplotlib.figure import Figure

from backbench.classifier.bundle import load_bundle
from backbench.classifier.classifier import Classifier
from backbench.errors import BackbenchError, MissingExtra
from backbench.explain.heat import explain_images
from backbench.explain.inside import draw_inside
from backbench.explain.of_runs import draw_map, draw_rows
from backbench.explain.samples import choose_test_samples, order_by_chance
from backbench.explain.sheet import Explanation, draw_explanations
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.report.figures.bars import draw_grouped_bars
from backbench.report.figures.of_run import write_comparison_pictures, write_run_pictures
from backbench.report.figures.style import save_figure
from backbench.stats.metric import Metric
from backbench.studies.analysis.cells import Cell
from backbench.studies.schema import Drawing, StudyFile

NUM_EXPLAINED = 6
MAX_LOADED = 4
"""Models kept between two pictures of one ranking."""


@dataclass(frozen=True)
class _Pen:
    """What drawing needs besides the runs; `load` keeps the last models, `notes` has replaced drawing methods."""

    study: StudyFile
    device: str
    is_trial: bool
    load: Callable[[Path], Classifier]
    notes: list[str] = field(default_factory=list)


def draw_study(
    study: StudyFile,
    cells: Sequence[Cell],
    out: Path,
    *,
    device: str,
    is_trial: bool = False,
    progress: Progress = SILENT,
) -> tuple[list[Path], list[str]]:
    """Write every picture that the study asks for below `out`.

    Args:
        is_trial: draw less: maps by principal components, two explained images, and only the first run of each
            ranking and method.

    Returns:
        Paths of the pictures, and sentences on those that can't be drawn.

    Cost: maps, explanations and filters load every model; maps run it on up to 1,000 test images.
    """
    written: list[Path] = []
    faults: list[str] = []
    pen = _Pen(study, device, is_trial, lru_cache(MAX_LOADED)(load_bundle))
    for what, folder, own in _list_jobs(pen, cells, out):
        progress.say(f"pictures: {folder.relative_to(out)}, {what}")
        try:
            written += _draw(what, pen, own, folder)
        except BackbenchError as error:
            faults.append(f"no {what} of {folder.relative_to(out)}: {error}")
    return written, faults + list(dict.fromkeys(pen.notes))


def _list_jobs(pen: _Pen, cells: Sequence[Cell], out: Path) -> Iterator[tuple[Drawing, Path, list[Cell]]]:
    """Yield (drawing, folder, runs): pictures of each ranking and of each of its runs, then bars of groups."""
    drawings = pen.study.drawings
    taken: set[Path] = set()
    for group, data, seed in dict.fromkeys((cell.group, cell.data, cell.seed) for cell in cells):
        own = [cell for cell in cells if (cell.group, cell.data, cell.seed) == (group, data, seed)]
        folder = _new_folder(out / _slug(group, data, seed=seed), taken)
        alone = list({cell.method: cell for cell in reversed(own)}.values()) if pen.is_trial else own
        for what in drawings:
            if what in ("comparison", "map", "explanations"):
                yield what, folder, own
            elif what != "bars":
                for cell in alone:
                    yield what, folder / _slug(cell.model, cell.method), [cell]
    for group, seed in dict.fromkeys((cell.group, cell.seed) for cell in cells) if "bars" in drawings else ():
        own = [cell for cell in cells if (cell.group, cell.seed) == (group, seed)]
        if len({cell.data for cell in own}) > 1:
            yield "bars", _new_folder(out / _slug(group, seed=seed), taken), own


def _draw(what: Drawing, pen: _Pen, cells: list[Cell], folder: Path) -> list[Path]:
    if what == "comparison":
        return write_comparison_pictures([cell.folder for cell in cells], folder, ("svg",))
    if what == "run":
        return write_run_pictures(cells[0].folder, folder, ("svg",))
    if what == "bars":
        return _save({"bars": _draw_bars(cells)}, folder, "svg")
    if what == "map":
        return _save({"map": _draw_map(cells, pen)}, folder)
    if what == "explanations":
        return _save({"explanations": _draw_explanations(cells, pen)}, folder)
    if what == "inside":
        cell = cells[0]
        return _save(draw_inside(pen.load(cell.bundle).backbone.body, cell.model), folder)
    return _save(_draw_grids(pen.study, cells[0]), folder)


def _draw_bars(cells: Sequence[Cell]) -> Figure:
    """Test accuracy of every model of one group on every data set."""
    several = len({cell.method for cell in cells}) > 1
    figures: dict[str, dict[str, Metric]] = {}
    for cell in cells:
        name = f"{cell.model} + {cell.method}" if several else cell.model
        figures.setdefault(name, {})[cell.data] = cell.record.metrics["accuracy"]
    data = list(dict.fromkeys(cell.data for cell in cells))
    return draw_grouped_bars(figures, data, title=f"{cells[0].group}: {' and '.join(data)}")


def _draw_map(cells: Sequence[Cell], pen: _Pen) -> Figure:
    """Maps of the test images by every trained model; by UMAP if it is installed."""
    runs = [cell.folder for cell in cells]

    def draw(method: str) -> Figure:
        return draw_map(runs, method, device=pen.device, load=pen.load)[0]

    if pen.is_trial:
        return draw("pca")
    try:
        return draw("umap")
    except MissingExtra as missing:
        pen.notes.append(f"maps are by t-SNE: {missing}")
        return draw("tsne")


def _draw_explanations(cells: Sequence[Cell], pen: _Pen) -> Figure:
    """The same test images explained by every model; images that the first model got wrong come first."""
    samples = choose_test_samples(cells[0].folder, 2 if pen.is_trial else NUM_EXPLAINED)
    images = [sample.image for sample in samples]
    names, columns = [], []
    for cell in cells:
        classifier = pen.load(cell.bundle)
        answers = classifier.predict(images, top=1)
        heats = explain_images(classifier, images, labels=[answer.label for answer in answers])
        columns.append(
            [
                Explanation(answer.label or "", answer.confidence or 0.0, answer.is_unsure, heat)
                for answer, heat in zip(answers, heats, strict=True)
            ]
        )
        names.append((cell.model, cell.method))
    rows = [list(row) for row in zip(*columns, strict=True)]
    return draw_explanations(samples, names, rows, title=f"Explanations: {cells[0].group}, {cells[0].data}")


def _draw_grids(study: StudyFile, cell: Cell) -> dict[str, Figure]:
    """Prediction grids of the requested sizes; images are drawn at random, so correct ones can be counted."""
    rows = order_by_chance(folders.read_answers(cell.folder)[1])
    title = f"{cell.model} + {cell.method} on {cell.data}"
    return {f"grid-{num}": draw_rows(cell.folder, rows[:num], title=title) for num in study.grid_images}


def _save(figures: Mapping[str, Figure], folder: Path, kind: str = "png") -> list[Path]:
    paths = []
    for name, figure in figures.items():
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{name}.{kind}")
        save_figure(figure, paths[-1])
    return paths


def _new_folder(folder: Path, taken: set[Path]) -> Path:
    """The folder, with a number if it is taken: names that differ only in punctuation become equal."""
    found, number = folder, 2
    while found in taken:
        found, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    taken.add(found)
    return found


def _slug(*words: str, seed: int = 0) -> str:
    """A folder name for any file system, with the seed if it is not 0."""
    plain = [re.sub(r"[^A-Za-z0-9_.-]+", "-", word).strip("-.") for word in words]
    return ("-".join(filter(None, plain))[:80] or "x") + (f"-seed-{seed}" if seed else "")
