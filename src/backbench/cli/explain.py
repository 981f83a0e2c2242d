"""`backbench explain`: pictures that explain the predictions of trained models."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import device_option, json_option, projection_option, quiet_option

if TYPE_CHECKING:
    from backbench.classifier.classifier import Classifier
    from backbench.explain.samples import Sample
    from backbench.explain.sheet import Explanation
    from backbench.progress import Progress

LONGEST_NAME = 80


@dataclass(frozen=True)
class Subject:
    """One leading argument: its name in pictures and files, its bundle and run folder if they exist."""

    name: str
    given: str
    bundle: Path | None
    run: Path | None
    is_run: bool


@dataclass(frozen=True)
class Look:
    """Settings of pictures: folder, format and theme."""

    out: Path
    suffix: str
    theme: str


@click.command(short_help="Show which image regions decide a prediction.")
@click.argument("arguments", metavar="BUNDLE|RUN... [IMAGE|FOLDER...]", nargs=-1, required=True)
@click.option("--out", default="pictures", show_default=True, help="Folder of the pictures.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "rollout", "attention", "grad-cam"]),
    default="auto",
    show_default=True,
    help="auto: attention rollout for transformers, Grad-CAM for other networks.",
)
@click.option(
    "--num", type=click.IntRange(min=1, max=1000), default=12, show_default=True, help="Maximum number of images."
)
@click.option("--format", "suffix", type=click.Choice(["png", "svg"]), default="png", show_default=True)
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
@projection_option
@device_option
@json_option
@quiet_option
def explain(
    arguments: tuple[str, ...],
    out: str,
    kind: str,
    num: int,
    suffix: str,
    theme: str,
    map_method: str,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show which image regions decide the predictions of each model, side by side.

    Name the models first (bundles or run folders), then image files and folders. Without images, the command uses
    test images of the first model's run, wrong predictions first. It also draws the first filters and the position
    embeddings, of networks that have them.

    Each RUN adds its confusion matrix, classes, confidences, learning curves, predictions and worst mistakes. All
    runs together give maps of features; two or more are also compared by cost and by class.

    \b
    Example: backbench explain runs/before.bundle runs/after.bundle new_photos/ --out pictures/
    """
    from backbench.cli.output import print_json
    from backbench.errors import printable
    from backbench.progress import make_progress
    from backbench.runtime import decide_device

    subjects, images = split_subjects(arguments)
    look = Look(Path(out), suffix, theme)
    with make_progress(quiet=quiet) as progress:
        models = [subject for subject in subjects if subject.bundle is not None]
        if images and not models:
            _refuse_images(subjects)
        samples, faults = _find_samples(models, images, num, progress) if models else ([], [])
        pictures = _draw_runs(subjects, look, map_method, decide_device(device), progress)
        answers: list[dict[str, Any]] = []
        if models:
            drawn, answers = _explain_models(models, samples, look, kind, decide_device(device), progress)
            pictures = drawn + pictures
            for subject in subjects:
                if subject.bundle is None:
                    progress.warn(
                        f"{subject.given} has no explanations because it has no bundle. Save one with backbench "
                        "keep."
                    )
        for fault in faults:
            progress.warn(fault)
    if as_json:
        print_json({"schema": 1, "pictures": pictures, "explanations": answers, "errors": faults})
    else:
        print("\n".join(printable(picture["path"]) for picture in pictures))
    if faults or not pictures:
        sys.exit(1)


def split_subjects(arguments: Sequence[str]) -> tuple[list[Subject], list[str]]:
    """(models, images): the leading arguments that are bundles or runs, and the rest, which must exist.

    A run and its own bundle count as one model. The log of evaluations is ignored, so that `runs/*` works.

    Raises:
        ConfigError: no model comes first, or a missing path; the message gives the nearest.
    """
    from backbench.backbones.core.bundle_files import find_bundle
    from backbench.cli.predict import say_nearest
    from backbench.errors import ConfigError
    from backbench.records.folders import OPENINGS_FILE

    arguments = [given for given in arguments if Path(given).name != OPENINGS_FILE] or list(arguments)
    num = next((row for row, given in enumerate(arguments) if not _is_subject(Path(given))), len(arguments))
    if num == 0:
        find_bundle(Path(arguments[0]))  # raises the error
    subjects: list[Subject] = []
    for given in arguments[:num]:
        _add_subject(subjects, _make_subject(given, {subject.name for subject in subjects}))
    for given in arguments[num:]:
        if not Path(given).exists():
            raise ConfigError(f"no image, folder, bundle or run '{given}'.{say_nearest(Path(given))}")
        if _is_subject(Path(given)):
            raise ConfigError(f"'{given}' comes after an image. Give bundles and runs first, then images.")
    return subjects, list(arguments[num:])


def _is_subject(path: Path) -> bool:
    from backbench.backbones.core.bundle_files import is_bundle

    return is_bundle(path) or _run_folder(path) is not None


def _run_folder(path: Path) -> Path | None:
    """The folder of a run, by its path or by a bare name in the runs folder."""
    from backbench.backbones.core.bundle_files import meanings_of
    from backbench.records.folders import RECORD_FILE

    return next((meant for meant in meanings_of(path) if (meant / RECORD_FILE).is_file()), None)


def _add_subject(subjects: list[Subject], found: Subject) -> None:
    """Add a model; if it exists already, only add its run."""
    for place, known in enumerate(subjects):
        if found.bundle is not None and known.bundle is not None and found.bundle.samefile(known.bundle):
            subjects[place] = known if known.is_run else replace(found, name=known.name)
            return
    subjects.append(found)


def _make_subject(given: str, taken: set[str]) -> Subject:
    """Give it a unique name that is valid on any file system."""
    from backbench.backbones.core.bundle_files import find_bundle, is_bundle
    from backbench.explain.samples import run_of_bundle
    from backbench.records.schema import BUNDLE_SUFFIX

    path = Path(given)
    own = _run_folder(path)
    bundle = find_bundle(path) if is_bundle(path) else None
    plain = re.sub(r"[^\w.+-]+", "_", path.resolve().name.removesuffix(BUNDLE_SUFFIX)).strip("._")[:LONGEST_NAME]
    name, number = plain or "model", 2
    while name in taken:
        name, number = f"{plain or 'model'}-{number}", number + 1
    return Subject(name, given, bundle, own or run_of_bundle(path), own is not None)


def _refuse_images(subjects: Sequence[Subject]) -> None:
    from backbench.errors import ConfigError
    from backbench.records.commands import keep_command

    raise ConfigError(
        f"no model to explain images with: run {subjects[0].given} has no saved model. Save it first: "
        f"{keep_command(Path(subjects[0].given))}"
    )


def _draw_runs(
    subjects: Sequence[Subject], look: Look, map_method: str, device: str, progress: Progress
) -> list[dict[str, Any]]:
    """Draw the pictures of the given runs, singly and side by side; warn about missing ones."""
    runs = [subject for subject in subjects if subject.is_run and subject.run is not None]
    if not runs:
        return []
    from backbench.errors import BackbenchError
    from backbench.report.figures.of_run import write_comparison_pictures, write_run_pictures

    pictures, drawn = [], []
    for subject in runs:
        assert subject.run is not None
        folder = look.out / subject.name
        try:
            paths = write_run_pictures(subject.run, folder, (look.suffix,), theme=look.theme)
        except BackbenchError as error:
            progress.warn(f"no pictures of {subject.given}: {error}")
            continue
        drawn.append(subject.run)
        try:
            paths += _draw_photographs(subject.run, folder, look, progress)
        except BackbenchError as error:
            progress.warn(f"no photographs of {subject.given}: {error}")
        pictures += [{"path": str(path), "kind": "run", "model": subject.given} for path in paths]
    paths = []
    try:
        if len(drawn) > 1:
            paths += write_comparison_pictures(drawn, look.out, (look.suffix,), theme=look.theme)
        if drawn and map_method != "none":
            paths += _draw_map(drawn, look, map_method, device, progress)
    except BackbenchError as error:
        progress.warn(str(error))
    return pictures + [{"path": str(path), "kind": "comparison", "model": None} for path in paths]


def _draw_photographs(run: Path, folder: Path, look: Look, progress: Progress) -> list[Path]:
    from backbench.explain.of_runs import draw_answers
    from backbench.report.figures.style import save_figure

    paths = []
    for name, figure in draw_answers(run, theme=look.theme, progress=progress).items():
        paths.append(folder / f"{name}.{look.suffix}")
        save_figure(figure, paths[-1])
    return paths


def _draw_map(folders: Sequence[Path], look: Look, method: str, device: str, progress: Progress) -> list[Path]:
    from backbench.explain.of_runs import draw_map
    from backbench.report.figures.style import save_figure

    figure, faults = draw_map(folders, method, device=device, theme=look.theme, progress=progress)
    for fault in faults:
        progress.warn(fault)
    path = look.out / f"map.{look.suffix}"
    save_figure(figure, path)
    return [path]


def _explain_models(
    models: Sequence[Subject], samples: Sequence[Sample], look: Look, kind: str, device: str, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Explain the same images by each model, one model in memory at a time: (pictures, explanations)."""
    from backbench.classifier.bundle import load_bundle

    columns: list[list[Explanation]] = []
    of_models: list[dict[str, Any]] = []
    for model in models:
        assert model.bundle is not None
        classifier = load_bundle(model.bundle).to(device)
        columns.append(_explain_samples(classifier, samples, kind, progress))
        of_models += _draw_network(classifier, model, look)
    rows = [list(row) for row in zip(*columns, strict=True)]
    answers = [
        _to_entry(sample, model, answer)
        for sample, row in zip(samples, rows, strict=True)
        for model, answer in zip(models, row, strict=True)
    ]
    return _draw_sheets(samples, models, rows, look) + of_models, answers


def _find_samples(
    models: Sequence[Subject], images: Sequence[str], num: int, progress: Progress
) -> tuple[list[Sample], list[str]]:
    """The images to explain, and faults of unreadable ones, before any long work."""
    from backbench.classifier.bundle import read_facts
    from backbench.errors import ConfigError
    from backbench.explain.samples import choose_test_samples, read_samples

    if images:
        facts = [read_facts(model.bundle) for model in models if model.bundle]
        scales = {each.grey for each in facts}
        if len(scales) > 1:
            progress.warn(
                f"the models were trained with {len(scales)} different grey scales of images with more than 8 "
                f"bits; all pictures use that of {facts[0].name}"
            )
        classes, grey = (facts[0].class_names, facts[0].grey) if models[0].bundle else ((), None)
        return read_samples(images, num, classes, progress, grey)
    run = next((model.run for model in models if model.run is not None), None)
    if run is None:
        raise ConfigError(
            f"no images to explain, and the run of {models[0].given} is not beside it. Give image files or "
            "folders."
        )
    return choose_test_samples(run, num, progress), []


def _explain_samples(
    classifier: Classifier, samples: Sequence[Sample], kind: str, progress: Progress
) -> list[Explanation]:
    """The prediction of one model for each image, as in `predict`, and its explanation."""
    from backbench.explain.heat import explain_images
    from backbench.explain.sheet import Explanation

    images = [sample.image for sample in samples]
    answers = classifier.predict(images, top=1)
    labels = [answer.label for answer in answers]
    heats = explain_images(classifier, images, labels=labels, kind=kind, progress=progress)
    return [
        Explanation(answer.label or "", answer.confidence or 0.0, answer.is_unsure, heat)
        for answer, heat in zip(answers, heats, strict=True)
    ]


def _draw_sheets(
    samples: Sequence[Sample], models: Sequence[Subject], rows: Sequence[Sequence[Explanation]], look: Look
) -> list[dict[str, Any]]:
    from backbench.explain.sheet import ROWS_PER_SHEET, draw_explanations
    from backbench.report.figures.style import save_figure

    pictures = []
    num_sheets = -(-len(samples) // ROWS_PER_SHEET)
    for number in range(num_sheets):
        part = slice(number * ROWS_PER_SHEET, (number + 1) * ROWS_PER_SHEET)
        more = f" ({number + 1} of {num_sheets})" if num_sheets > 1 else ""
        figure = draw_explanations(
            samples[part],
            _say_models(models),
            rows[part],
            title=f"Explanations of predictions{more}",
            theme=look.theme,
        )
        path = look.out / f"explained{f'-{number + 1}' if num_sheets > 1 else ''}.{look.suffix}"
        save_figure(figure, path)
        pictures.append({"path": str(path), "kind": "explanations", "model": None})
    return pictures


def _say_models(models: Sequence[Subject]) -> list[tuple[str, str]]:
    """Network and method of each model; the bundle's name instead of the method if these are equal."""
    from backbench.classifier.bundle import read_facts

    said = []
    for model in models:
        assert model.bundle is not None
        facts = read_facts(model.bundle)
        said.append((facts.backbone.title, (facts.training.method if facts.training else None) or facts.name))
    return [
        (pair[0], model.name) if said.count(pair) > 1 else pair for pair, model in zip(said, models, strict=True)
    ]


def _draw_network(classifier: Classifier, model: Subject, look: Look) -> list[dict[str, Any]]:
    from backbench.explain.inside import draw_inside
    from backbench.report.figures.style import save_figure

    backbone = classifier.backbone
    pictures = []
    for kind, figure in draw_inside(backbone.body, backbone.facts.title, theme=look.theme).items():
        path = look.out / f"{model.name}-{kind}.{look.suffix}"
        save_figure(figure, path)
        pictures.append({"path": str(path), "kind": kind, "model": model.given})
    return pictures


def _to_entry(sample: Sample, model: Subject, answer: Explanation) -> dict[str, Any]:
    heat = answer.heat
    return {
        "image": sample.name,
        "truth": sample.truth,
        "model": model.given,
        "label": answer.label,
        "confidence": answer.confidence,
        "unsure": answer.is_unsure,
        "kind": heat.kind,
        "layer": heat.layer,
        "box": list(heat.box),
        "values": [[round(float(value), 4) for value in row] for row in heat.values],
    }
