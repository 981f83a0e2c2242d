"""Image data sets through the `datasets` library: `hub:NAME`, `hub:NAME:CONFIG`, or `hub:PATH` for data that it
saved.

Images are copied once from the library's tables to files, so that other modules only see files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbench.config import DataConfig
from backbench.data.hub_columns import find_group_column, find_image_column, find_label_column, make_label_reader
from backbench.data.hub_parts import choose_parts, empty_part
from backbench.data.listing import Ignored, Listing
from backbench.data.splitfile import parse_part
from backbench.errors import ConfigError, DataError, DownloadError, MissingExtra
from backbench.locks import make_folder_once
from backbench.progress import Progress
from backbench.registry import SourceSpec
from backbench.runtime import cache_folder, has_network
from backbench.storage import IN_CACHE
from backbench.wording import count, escape, list_some, quote

PREFIX = "hub:"
KINDS = ("parquet", "arrow", "imagefolder", "csv", "json", "webdataset", "cache")
"""Supported kinds of data; some other kinds of the library run code from the data."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SUFFIX = ".img"
BLOCK = 100
KNOWN_SIZES = {
    "cifar10": 60_000,
    "cifar100": 60_000,
    "uoft-cs/cifar10": 60_000,
    "uoft-cs/cifar100": 60_000,
    "mnist": 70_000,
    "ylecun/mnist": 70_000,
    "zalando-datasets/fashion_mnist": 70_000,
    "food101": 101_000,
    "ethz/food101": 101_000,
}
"""Number of images of popular data sets, for estimates before a download."""
LICENCE_UNKNOWN = "see the data set's page"


@dataclass
class _Rows:
    """Columns gathered from the splits, one entry for each image."""

    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    parts: list[str | None] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)


def resolve(name: str) -> SourceSpec | None:
    """The source of that name, if it begins with `hub:`."""
    if not name.startswith(PREFIX):
        return None
    path = _find_path(name)
    if path is not None:
        return replace(SPECS[0], name=f"{PREFIX}{path.absolute()}")
    size = KNOWN_SIZES.get(name.removeprefix(PREFIX).partition(":")[0])
    return replace(SPECS[0], name=name, facts={} if size is None else {"num_images": size})


def load(config: DataConfig, progress: Progress) -> Listing:
    """The images of a data set of the hub, or of one on disk: a folder that `save_to_disk` wrote, a .parquet or
    .arrow file, or a folder of such files.

    Columns not named in `config` are found by type, and if there are several, by usual names. Splits called
    train, validation and test are kept, others left out and reported. Without a train split no split is fixed.

    Raises:
        MissingExtra: `datasets` is not installed. ConfigError: no such data set, configuration or column.
        DownloadError: not downloadable and not in the library's cache. DataError: can't be read.
        StorageError: the cache can't be written.

    Cost: the library's download; then, once, a copy of all images on disk.
    """
    library = _import_library()
    path = _find_path(config.source)
    with _quietly(library), _as_our_errors(library, config.source):
        splits = _open_path(library, path) if path is not None else _open_name(library, config.source, progress)
    used, left_out = choose_parts(splits, config)
    first = next(iter(used.values()))
    image = find_image_column(library, first.features, config.image_column, config.source)
    label = find_label_column(library, first.features, config.label_column, image, config.source)
    group = find_group_column(first.features, config.group_column, config.source)
    rows = _Rows()
    is_fixed = any(parse_part(name) == "train" for name in used)
    roots = _trusted_folders(library, path)
    for name, split in used.items():
        with _quietly(library), _as_our_errors(library, config.source):
            split = split.select_columns(list(dict.fromkeys(filter(None, (image, label, group)))))
            if isinstance(split.features[image], library.Image):
                split = split.cast_column(image, library.Image(decode=False))
            folder = _copy_images(split, image, name, roots, progress)
            num_before = len(rows.ids)
            _add_rows(rows, split, folder, (name, label, group), parse_part(name) if is_fixed else None, library)
        if is_fixed and len(rows.ids) == num_before and len(used) > 1:
            raise empty_part(config.source, name, len(split))
    return _make_listing(config.source, path, first, rows, label, left_out)


def _import_library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hf", "Data from the hub (hub:NAME)") from error
    return datasets


def _find_path(source: str) -> Path | None:
    """The path on disk after `hub:`; None if it is the name of a data set of the hub."""
    given = source.removeprefix(PREFIX)
    return Path(given) if given and os.path.exists(given) else None  # noqa: PTH110 - never raises


@contextmanager
def _quietly(library: Any) -> Iterator[None]:
    """Hide the library's own progress bars, which ignore --quiet."""
    was_on = library.is_progress_bar_enabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if was_on:
            library.enable_progress_bars()


@contextmanager
def _offline(library: Any) -> Iterator[None]:
    """Let the library look in its cache at once: without a network it would first try for half a minute."""
    before = library.config.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE = before


@contextmanager
def _as_our_errors(library: Any, source: str) -> Iterator[None]:
    """Convert errors of the library into errors that a user can act on."""
    import pyarrow

    known = library.exceptions
    try:
        yield
    except known.DatasetNotFoundError as error:
        raise ConfigError(
            f"no readable data set {quote(source)}: {_first_line(error)} Check the name (example: "
            "hub:uoft-cs/cifar10). A private one needs the hub's login; give a folder or file as hub:PATH."
        ) from error
    except ConnectionError as error:
        raise DownloadError(
            f"{source} can't be downloaded and is not in the cache of `datasets`: {_first_line(error)} Download "
            "it on a machine with a network, save it with save_to_disk, and give the folder as hub:PATH."
        ) from error
    except (known.DatasetsError, pyarrow.ArrowException, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{source} can't be read: {_first_line(error)}") from error
    except OSError as error:
        raise DataError(f"{source} can't be read: {error.strerror or _first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    lines = str(cause).strip().splitlines()
    text = escape(lines[0][:300]) if lines else type(cause).__name__
    return text if text.endswith(".") else f"{text}."


def _open_path(library: Any, path: Path) -> Mapping[str, Any]:
    """Split -> table, of data on disk."""
    if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        saved = library.load_from_disk(str(path))
        return saved if isinstance(saved, library.DatasetDict) else {"train": saved}
    cache = str(cache_folder() / "hub")
    if path.is_dir():
        builder = library.load_dataset_builder(str(path), cache_dir=cache)
    elif path.suffix.lower() in (".parquet", ".arrow"):
        kind = path.suffix[1:].lower()
        builder = library.load_dataset_builder(kind, data_files=str(path), cache_dir=cache)
    else:
        raise ConfigError(
            f"{PREFIX}{path} is not a data set saved by `datasets`. Allowed: a folder from save_to_disk, a "
            ".parquet or .arrow file, or a folder of them."
        )
    return _build(builder, f"{PREFIX}{path}")


def _open_name(library: Any, source: str, progress: Progress) -> Mapping[str, Any]:
    """Split -> table, of a data set of the hub: from the library's cache where that has it."""
    name, _, configuration = source.removeprefix(PREFIX).partition(":")
    if not NAME.fullmatch(name) or name in KINDS:
        raise ConfigError(
            f"{quote(source)} is neither a data set of the hub (such as hub:uoft-cs/cifar10 or hub:NAME:CONFIG) "
            "nor an existing file or folder."
        )
    reachable = has_network()
    progress.say(f"looking for {name} " + ("on the hub" if reachable else "on disk: the hub can't be reached"))
    with contextlib.nullcontext() if reachable else _offline(library):
        if not configuration:
            _check_configuration(library, name, source)
        return _build(library.load_dataset_builder(name, configuration or None), source)


def _check_configuration(library: Any, name: str, source: str) -> None:
    """Where there are several configurations, one must be named."""
    try:
        names = list(library.get_dataset_config_names(name))
        default = library.get_dataset_default_config_name(name)
    except (ValueError, OSError):  # offline: the library uses its cache or raises an error
        return
    if len(names) > 1 and default is None:
        raise ConfigError(
            f"{source} has several configurations: choose one, for example {source}:{names[0]}. {list_some(names)}"
        )


def _build(builder: Any, source: str) -> Mapping[str, Any]:
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in KINDS:
        raise ConfigError(
            f"{source} is a data set of the unsupported kind {quote(kind)}. Allowed: {', '.join(KINDS[:-1])}."
        )
    builder.download_and_prepare()
    splits: Mapping[str, Any] = builder.as_dataset()
    return splits


def _copy_images(split: Any, column: str, part: str, roots: Sequence[Path], progress: Progress) -> Path:
    """The folder with the images of one split as files, ROW.img; made once, completely or not at all."""
    identity = hashlib.sha256(json.dumps([split._fingerprint, column, part, len(split)]).encode()).hexdigest()[:24]
    folder = cache_folder() / "datasets" / f"hub-{identity}"
    if folder.is_dir():
        return folder

    def copy(work: Path) -> None:
        work.mkdir()
        with progress.bar(f"copying {escape(part)}", len(split)) as bar:
            for start in range(0, len(split), BLOCK):
                cells = split[start : start + BLOCK][column]
                for row, cell in enumerate(cells, start=start):
                    data = _read_cell(cell, roots)
                    if data is not None:
                        (work / f"{row:07d}{SUFFIX}").write_bytes(data)
                bar.advance(len(cells))

    make_folder_once(folder, copy, IN_CACHE)
    return folder


def _read_cell(cell: Any, roots: Sequence[Path]) -> bytes | None:
    """The original bytes of an image; None if the cell is empty.

    A cell may name a file instead: it is read only from folders of the library or the user, so that an
    untrusted table can't read other files.
    """
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, dict):
        return None
    if isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    if not isinstance(cell.get("path"), str):
        return None
    path = Path(cell["path"]).resolve()
    is_ours = any(path.is_relative_to(root) for root in roots)
    return path.read_bytes() if is_ours and path.is_file() else None


def _trusted_folders(library: Any, path: Path | None) -> list[Path]:
    """Allowed folders for images that a table names: the given folder, our cache and the library's."""
    from huggingface_hub import constants

    caches = (cache_folder(), library.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
    return [Path(folder).resolve() for folder in (*caches, *([path] if path is not None else []))]


def _add_rows(
    rows: _Rows, split: Any, folder: Path, names: tuple[str, str, str | None], part: str | None, library: Any
) -> None:
    """Add one split: `names` are those of the split, the label column and the group column."""
    part_name, label, group = names
    to_text = make_label_reader(split.features[label], library)
    groups = split[group] if group is not None else [None] * len(split)
    present = {entry.name for entry in os.scandir(folder)}
    for row, (value, group_value) in enumerate(zip(split[label], groups, strict=True)):
        sample_id = f"{part_name}/{row:07d}"
        text = to_text(value)
        if f"{row:07d}{SUFFIX}" not in present:
            rows.ignored.append(Ignored(sample_id, "no image in this row"))
        elif text is None:
            rows.ignored.append(Ignored(sample_id, "no label in this row"))
        else:
            rows.ids.append(sample_id)
            rows.labels.append(text)
            rows.groups.append(None if group_value is None else str(group_value))
            rows.parts.append(part)
            rows.files.append(folder / f"{row:07d}{SUFFIX}")


def _make_listing(
    source: str, path: Path | None, first: Any, rows: _Rows, label: str, left_out: Sequence[str]
) -> Listing:
    if not rows.ids:
        raise DataError(
            f"{source}: none of its {count(len(rows.ignored), 'row')} has both an image and a label in column "
            f"{quote(label)}. Is this the right --label-column?"
        )
    warnings = []
    if left_out:
        warnings.append(
            f"left out splits that are neither train, validation nor test: {list_some(map(quote, left_out))}"
        )
    if rows.ignored:
        warnings.append(f"{count(len(rows.ignored), 'row')} without an image or a label left out")
    names = getattr(first.features[label], "names", None)
    plain = path.absolute().stem if path is not None else source.removeprefix(PREFIX).rpartition("/")[2]
    return Listing(
        name=plain or "hub",
        ids=tuple(rows.ids),
        labels=tuple(rows.labels),
        groups=tuple(rows.groups),
        parts=tuple(rows.parts),
        files=tuple(rows.files),
        ignored=tuple(rows.ignored),
        class_names=None if names is None else tuple(str(name) for name in names),
        facts={
            "licence": str(first.info.license or LICENCE_UNKNOWN),
            "citation": str(first.info.citation or "").strip(),
            "source": str(first.info.homepage or "") or source,
            **({"warnings": warnings} if warnings else {}),
        },
    )


SPECS = (
    SourceSpec(
        name="hub:NAME",
        summary="an image data set of the hub, hub:NAME:CONFIG, or on disk, hub:PATH (needs backbench[hf])",
        load=load,
        licence=LICENCE_UNKNOWN,
        has_columns=True,
    ),
)
