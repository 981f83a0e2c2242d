"""Plans and downloads a subset of Open Images for the classes of other data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbench.config import DataConfig
from backbench.data import openimages_download
from backbench.data.class_names import match_names
from backbench.data.openimages_download import TYPICAL_BYTES, Missing, fetch_images
from backbench.data.openimages_files import OfficialFile, fetch_missing, list_files
from backbench.data.openimages_labels import LabelMap, read_names, read_parents, read_wanted
from backbench.data.sources.openimages import CLASS_LIST, choose_missing, look, read_annotations
from backbench.data.synsets import TABLES, read_table
from backbench.errors import ConfigError, DataError, StorageError
from backbench.progress import SILENT, Progress, format_bytes
from backbench.storage import write_atomically
from backbench.wording import count, list_some, quote

MAX_LIST_BYTES = 1_000_000
MAX_PIXELS: int = DataConfig.model_fields["max_pixels"].default


@dataclass(frozen=True)
class SubsetRequest:
    """A requested subset.

    Args:
        folder: of the subset.
        classes: data sets with known classes (`caltech256`, `cifar100`), or files with a name on each line; empty:
            the names in `classes.txt` in the folder.
        per_class: images of each class and split.
        parts: splits of Open Images: train, validation, test.
    """

    folder: Path
    classes: tuple[str, ...]
    per_class: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class SubsetClass:
    """One class of Open Images: the requested classes that it matches, by data set, and its images."""

    name: str
    stands_for: Mapping[str, str]
    num_there: int
    num_missing: int


@dataclass(frozen=True)
class Subset:
    """The plan. `unmatched`: requested classes that Open Images lacks, by data set; `images`: missing images."""

    request: SubsetRequest
    files: list[OfficialFile]
    classes: list[SubsetClass] = field(default_factory=list)
    unmatched: Mapping[str, list[str]] = field(default_factory=dict)
    images: list[Missing] = field(default_factory=list)

    @property
    def is_readable(self) -> bool:
        """Whether all official files are complete; else classes and images are not known."""
        return all(file.state == "there" for file in self.files)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.is_readable and not self.images

    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        return {
            "schema": 1,
            "folder": str(self.request.folder),
            "per_class": self.request.per_class,
            "parts": list(self.request.parts),
            "files": [
                {
                    "name": file.name,
                    "url": file.url,
                    "state": file.state,
                    "bytes": file.num_bytes,
                    "published_bytes": file.published_bytes,
                    "found": file.found,
                }
                for file in self.files
            ],
            "classes": [
                {
                    "name": each.name,
                    "stands_for": dict(each.stands_for),
                    "on_disk": each.num_there,
                    "missing": each.num_missing,
                }
                for each in self.classes
            ],
            "unmatched": {name: list(names) for name, names in self.unmatched.items()},
            "missing_images": len(self.images),
            "missing_image_bytes": len(self.images) * TYPICAL_BYTES,
        }


def plan_subset(request: SubsetRequest) -> Subset:
    """List present and missing files of the subset; nothing is written.

    Raises:
        ConfigError: an unknown data set or list of classes, or one that `classes.txt` contradicts.
        DataError: a list or an annotation can't be used.

    Cost: reads the official files twice; asks the server for the size of each.
    """
    wanted = _read_classes(request)
    return _plan(request, wanted, list_files(request.folder, request.parts))


def _plan(request: SubsetRequest, wanted: Mapping[str, list[str]], files: list[OfficialFile]) -> Subset:
    """The plan from checked official files."""
    plan = Subset(request, files)
    if not plan.is_readable:
        return plan
    names = read_names([files[0].path])
    stands_for, unmatched = _match(names, wanted)
    labels = _make_labels(request, names, stands_for, files[1].path)
    found = look(request.folder)
    found.annotations = [each for each in found.annotations if each[1] in request.parts]
    annotated = read_annotations(found, labels)
    classes = {image_id: labels.decide_classes(image.labels) for image_id, image in annotated.items()}
    images = choose_missing(annotated, classes, found, request.per_class)
    there = Counter(
        shown[0] for image_id, shown in classes.items() if len(shown) == 1 and image_id in found.images
    )
    missing = Counter(classes[image.image_id][0] for image in images)
    rows = [
        SubsetClass(name, stands_for.get(name, {}), there[name], missing[name])
        for name in sorted(set(labels.wanted.values()), key=str.casefold)
    ]
    return Subset(request, files, rows, unmatched, images)


def get_subset(request: SubsetRequest, progress: Progress = SILENT) -> Subset:
    """Download the missing official files, then the missing images, and return the new plan.

    Raises:
        DataError: an official file on disk is damaged. ConfigError: see `plan_subset`.
        DownloadError, StorageError: a file can't be downloaded or written.
    """
    wanted = _read_classes(request)
    files = list_files(request.folder, request.parts)
    for file in files:
        if file.state == "damaged":
            raise DataError(f"{file.found}. Delete {file.path}; the same command downloads it again.")
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder '{request.folder}' can't be made: {error.strerror}") from error
    if any(file.state == "missing" for file in files):
        fetch_missing(files, progress)
        files = list_files(request.folder, request.parts)
    plan = _plan(request, wanted, files)
    for file in plan.files:
        if file.state != "there":
            raise DataError(f"{file.url} was downloaded but is damaged: {file.found or file.state}.")
    listed = request.folder / CLASS_LIST
    if not listed.is_file():
        text = "".join(f"{_as_field(each.name)}\n" for each in plan.classes)
        write_atomically(listed, text.encode(), f"the subset in {request.folder}")
    if not plan.images:
        return plan
    fetch_images(
        request.folder, plan.images, progress, max_pixels=MAX_PIXELS, base_url=openimages_download.BASE_URL
    )
    return _plan(request, wanted, files)


def describe_subset(plan: Subset, command: str) -> list[str]:
    """Return the plan as lines: files, classes, images, and the command to download."""
    lines = [f"Open Images in {plan.request.folder}: {plan.request.per_class:,} images a class and split"]
    for file in plan.files:
        size = file.num_bytes if file.state != "missing" else file.published_bytes
        shown = "unknown size: the server does not answer" if size is None else format_bytes(size)
        found = f": {file.found}" if file.found else ""
        source = "" if file.state == "there" else f" from {file.url}"
        lines.append(f"  {file.state:<8} {file.name} ({shown}){source}{found}")
    if not plan.is_readable:
        lines.append("Classes and images are known after these files are downloaded.")
    for each in plan.classes:
        both = ", ".join(f"{set_name} {quote(name)}" for set_name, name in each.stands_for.items())
        lines.append(
            f"  {each.name}: {each.num_there:,} present, {each.num_missing:,} missing{both and f' ({both})'}"
        )
    for set_name, names in plan.unmatched.items():
        if names:
            lines.append(
                f"{set_name}: {count(len(names), 'class', 'classes')} that Open Images has no class for: "
                f"{list_some(map(quote, names), 5)}"
            )
    if plan.is_readable:
        num_there = sum(each.num_there for each in plan.classes)
        about = format_bytes(len(plan.images) * TYPICAL_BYTES)
        missing = (
            f"{count(len(plan.images), 'image')} missing, about {about}" if plan.images else "nothing is missing"
        )
        classes = count(len(plan.classes), "class", "classes")
        lines.append(f"{classes}, {count(num_there, 'image')} present, {missing}.")
    if not plan.is_whole:
        lines.append(f"To download what is missing: {command}")
    return lines


def _as_field(name: str) -> str:
    return f'"{name}"' if "," in name else name


def _read_classes(request: SubsetRequest) -> dict[str, list[str]]:
    """Data set or list -> its class names; empty if `classes.txt` decides."""
    if not request.classes:
        if not (request.folder / CLASS_LIST).is_file():
            raise ConfigError(
                f"which classes? Give --classes, a data set with known classes ({', '.join(TABLES)}) or a file "
                f"with a name on each line, or write {request.folder / CLASS_LIST}."
            )
        return {}
    return {given: _read_class_list(given) for given in request.classes}


def _read_class_list(given: str) -> list[str]:
    if given in TABLES:
        return list(read_table(given))
    path = Path(given)
    if not path.is_file():
        raise ConfigError(f"--classes {given}: there is no such file or data set. Data sets: {', '.join(TABLES)}.")
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise ConfigError(f"--classes {given}: larger than {MAX_LIST_BYTES:,} bytes; is it a list of names?")
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--classes {given}: it can't be read as text in UTF-8: {error}") from error
    found = [name for name in names if name and not name.startswith("#")]
    if not found:
        raise ConfigError(f"--classes {given}: the file names no class.")
    return found


def _match(
    names: Mapping[str, str], wanted: Mapping[str, Sequence[str]]
) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """(class of Open Images -> data set -> its class, data set -> classes without one)."""
    stands_for: dict[str, dict[str, str]] = {}
    unmatched: dict[str, list[str]] = {}
    for set_name, own in wanted.items():
        mapping = match_names(list(dict.fromkeys(names.values())), own)
        for name, mine in mapping.items():
            stands_for.setdefault(name, {})[set_name] = mine
        unmatched[set_name] = sorted(set(own) - set(mapping.values()))
    return stands_for, unmatched


def _make_labels(
    request: SubsetRequest, names: Mapping[str, str], stands_for: Mapping[str, Any], hierarchy: Path
) -> LabelMap:
    """The labels of the requested classes; ConfigError if `classes.txt` has others."""
    listed = request.folder / CLASS_LIST
    parents = read_parents(hierarchy)
    if not request.classes:
        return LabelMap(names, parents, read_wanted(listed, names))
    wanted = {label: name for label, name in names.items() if name in stands_for}
    if not wanted:
        raise ConfigError(f"none of the classes of {', '.join(request.classes)} is a class of Open Images.")
    if listed.is_file() and read_wanted(listed, names) != wanted:
        raise ConfigError(
            f"{listed} has other classes than --classes {' --classes '.join(request.classes)}. Delete it, "
            "choose another folder, or leave out --classes to use those in the file."
        )
    return LabelMap(names, parents, wanted)
