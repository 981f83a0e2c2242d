"""`backbench predict`: predictions of trained models for images, side by side."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import inference_options, json_option, quiet_option

if TYPE_CHECKING:
    from backbench.classifier.classifier import Prediction

LABEL_WIDTH = 24
DEFAULT_TOP = 5
CSV_COLUMNS = ("path", "bundle", "label", "confidence", "unsure", "error", "strange")
"""Tables of older versions lack the last column; see `check_csv_target`."""


@click.command(short_help="Classify images with one or several trained models.")
@click.argument("arguments", metavar="BUNDLE... IMAGE|FOLDER...", nargs=-1, required=True)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    help=f"Number of classes for each image.  [default: {DEFAULT_TOP}; 1 in the text output]",
)
@click.option(
    "--csv", "csv_file", metavar="FILE", help="Write a CSV table to this file, one line for each image and bundle."
)
@inference_options
@json_option
@quiet_option
def predict(
    arguments: tuple[str, ...],
    top: int | None,
    csv_file: str | None,
    device: str,
    precision: str,
    exact_resize: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Classify images, with one trained model or several side by side.

    Name the models first (bundles, or runs that have one), then image files and folders. Exit status 1 when an
    image could not be read.

    \b
    Example: backbench predict runs/photos-resnet18-full-0123456789.bundle new_photos/ --csv predictions.csv
    """
    from backbench.classifier.bundle import load_bundle
    from backbench.cli.output import print_json
    from backbench.errors import printable
    from backbench.progress import make_progress
    from backbench.runtime import decide_device, decide_precision

    if csv_file is not None:
        check_csv_target(Path(csv_file))
    bundles, images = split_arguments(arguments)
    decided = decide_device(device)
    exactly = decide_precision(precision, decided)
    answers: list[tuple[str, list[Prediction]]] = []
    thresholds: list[float] = []
    with make_progress(quiet=quiet) as progress:
        for bundle in bundles:
            classifier = load_bundle(Path(bundle))
            found = classifier.predict(
                images,
                top=top or DEFAULT_TOP,
                device=decided,
                precision=exactly,
                exact_resize=exact_resize,
                progress=progress,
            )
            answers.append((bundle, found))
            thresholds.append(classifier.threshold)
        if unknowing := name_unknowing(answers):
            progress.say(unknowing)
    if csv_file is not None:
        write_csv(Path(csv_file), answers)
    if as_json:
        print_json({"schema": 1, "predictions": to_entries(answers)})
    elif csv_file is None:
        print(
            "\n\n".join(filter(None, [render_answers(answers, top=top or 1), explain_marks(answers, thresholds)]))
        )
    elif not quiet:
        print(f"{_describe(answers[0][1])}: {printable(csv_file)}", file=sys.stderr)
    if any(prediction.error for _, found in answers for prediction in found):
        sys.exit(1)


def _describe(found: Sequence[Prediction]) -> str:
    """'5 images, of which 1 could not be read (broken.jpg)'."""
    from backbench.errors import printable
    from backbench.wording import join_names

    said = f"{len(found):,} {'image' if len(found) == 1 else 'images'}"
    bad = [printable(prediction.path) for prediction in found if prediction.error]
    return f"{said}, of which {len(bad):,} could not be read ({join_names(bad)})" if bad else said


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(bundles, images): the leading arguments that are bundles, and the rest, all of which must exist.

    Raises:
        ConfigError: no bundle first, nothing after it, or a missing path; the message gives the nearest.
    """
    from backbench.backbones.core.bundle_files import find_bundle, is_bundle
    from backbench.data.image_paths import is_address
    from backbench.errors import ConfigError

    num = next((row for row, given in enumerate(arguments) if not is_bundle(Path(given))), len(arguments))
    if num == 0:
        find_bundle(Path(arguments[0]))  # raises the error
    bundles, images = list(arguments[:num]), list(arguments[num:])
    if not images:
        raise ConfigError(f"no images after {' '.join(bundles)}. Give image files or folders.")
    for given in images:
        if is_address(given):
            raise ConfigError(
                f"'{given}' is a URL. Images are read from disk only: download it first, then give the file."
            )
        if not Path(given).exists():
            raise ConfigError(f"no image, folder or bundle '{given}'.{say_nearest(Path(given))}")
        if is_bundle(Path(given)):
            raise ConfigError(f"the bundle '{given}' comes after an image. Give bundles first, then images.")
    return bundles, images


def say_nearest(path: Path) -> str:
    """'Did you mean ...?' for a missing path; empty if no name beside it is similar."""
    from backbench.wording import did_you_mean

    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        return f" The folder '{path.parent}' is also missing or unreadable."
    return did_you_mean(path.name, names, folder=path.parent)


def to_entries(answers: Sequence[tuple[str, Sequence[Prediction]]]) -> list[dict[str, Any]]:
    """All predictions, image by image, with bundles in the given order."""
    rows = zip(*([(bundle, answer) for answer in found] for bundle, found in answers), strict=True)
    return [{"bundle": bundle, **answer.to_json()} for row in rows for bundle, answer in row]


def check_csv_target(path: Path) -> None:
    """Raise ConfigError, before any work, if the table can't be written or would replace another file."""
    import os

    from backbench.errors import ConfigError, shown

    # unlike the methods of Path, these never raise, whatever the name
    if os.path.isdir(path):  # noqa: PTH112
        raise ConfigError(
            f"--csv {shown(str(path))} is a folder. Give the name of a file in it, such as predictions.csv."
        )
    if not os.path.isdir(path.parent):  # noqa: PTH112
        raise ConfigError(
            f"--csv {shown(str(path))}: the folder {shown(str(path.parent))} is missing. Create it first."
        )
    if not os.path.lexists(path):
        return
    if not os.path.isfile(path):  # noqa: PTH113
        raise ConfigError(
            f"--csv {shown(str(path))} is not a regular file and is not replaced. Give another name."
        )
    heading = ",".join(CSV_COLUMNS[:-1]).encode()
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(heading))
    except OSError as error:
        raise ConfigError(f"--csv {shown(str(path))} can't be overwritten: {error.strerror}.") from error
    if start not in (heading, b""):
        raise ConfigError(
            f"--csv {shown(str(path))} exists and is not a table of predictions, so it is not overwritten. Give "
            "another name."
        )


def write_csv(path: Path, answers: Sequence[tuple[str, Sequence[Prediction]]]) -> None:
    """One line for each image and bundle; its cells are safe to open, see `report.text.in_csv`.

    Raises:
        StorageError: the file can't be written; an existing file stays.
    """
    from backbench.report.text import in_csv
    from backbench.storage import write_atomically

    places = range(2, max((len(answer.top) for _, found in answers for answer in found), default=1) + 1)
    more = [column for place in places for column in (f"label_{place}", f"confidence_{place}")]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *more])
    for entry in to_entries(answers):
        best = [cell for answer in entry["top"][1:] for cell in (answer["label"], f"{answer['confidence']:.6f}")]
        confidence = "" if entry["confidence"] is None else f"{entry['confidence']:.6f}"
        unsure = "yes" if entry["unsure"] else "no"
        strange = {None: "", True: "yes", False: "no"}[entry["is_strange"]]
        cells = [entry["path"], entry["bundle"], entry["label"], confidence, unsure, entry.get("error"), strange]
        lacking = [""] * (len(more) - len(best))  # an unreadable image, or a model with fewer classes
        writer.writerow(map(in_csv, [*cells, *best, *lacking]))
    write_atomically(path, text.getvalue().encode(), "give another file with --csv")


def render_answers(answers: Sequence[tuple[str, Sequence[Prediction]]], top: int = 1) -> str:
    """`top` lines for each image, a column for each bundle, with marks; see `explain_marks`."""
    from backbench.report.text import cell_width, pad, printable, shorten

    paths = [printable(prediction.path) for prediction in answers[0][1]]
    width = max(map(cell_width, paths))
    column = LABEL_WIDTH + len(" 100.0 % ? strange")
    lines = []
    if len(answers) > 1:
        names = [pad(shorten(printable(bundle), column), column) for bundle, _ in answers]
        lines.append("  ".join([" " * width, *names]).rstrip())
    for row, path in enumerate(paths):
        is_broken = answers[0][1][row].error is not None  # the same for all bundles: printed once
        columns = [_cells(found[row], top) for _, found in (answers[:1] if is_broken else answers)]
        for place, cells in enumerate(zip_longest(*columns, fillvalue="")):
            start = pad(path if place == 0 else "", width)
            lines.append("  ".join([start, *(pad(cell, column) for cell in cells)]).rstrip())
    return "\n".join(lines)


def _cells(answer: Prediction, top: int) -> list[str]:
    """The `top` most probable classes of one image, best first; or its error."""
    from backbench.report.text import pad, printable, shorten

    if answer.error is not None:
        return [f"error: {printable(answer.error)}"]
    cells = [
        f"{pad(shorten(printable(label), LABEL_WIDTH), LABEL_WIDTH)} {100 * confidence:5.1f} %"
        for label, confidence in answer.top[:top]
    ]
    marks = (" ?" if answer.is_unsure else "") + (" strange" if answer.is_strange else "")
    return [cells[0] + marks, *cells[1:]]


def explain_marks(answers: Sequence[tuple[str, Sequence[Prediction]]], thresholds: Sequence[float]) -> str:
    """Explain '?' and 'strange' if they occur, else ''.

    Args:
        thresholds: of each bundle, in 0..1.
    """
    said = [answer for _, found in answers for answer in found if answer.error is None]
    lines = []
    if any(answer.is_unsure for answer in said):
        shown = sorted({f"{100 * threshold:.1f} %" for threshold in thresholds if threshold > 0})
        lines += [
            f"?        the confidence is below the model's threshold ({', '.join(shown)}). Ask a person.",
            "         Above the threshold, 95 of 100 validation images were correct, or as many as possible.",
        ]
    if any(answer.is_strange for answer in said):
        lines += [
            "strange  unlike the training images, so label and confidence are unreliable.",
            "         About 2 of 100 validation images also get this mark.",
        ]
    return "\n".join(lines)


def name_unknowing(answers: Sequence[tuple[str, Sequence[Prediction]]]) -> str:
    """Name bundles that can't detect strange images, with the reason; '' if all can."""
    from backbench.wording import join_names

    unknowing = [
        bundle
        for bundle, found in answers
        if any(answer.error is None and answer.is_strange is None for answer in found)
    ]
    if not unknowing:
        return ""
    return (
        f"{join_names(unknowing)}: strange images can't be detected, because an older backbench wrote it or it "
        "had too few validation images."
    )
