"""A CSV or Parquet table of images, labels and optional groups and splits; images are not copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backbench.config import DataConfig
from backbench.data.image_paths import find_files, refuse_addresses
from backbench.data.label_text import is_missing, merge_spellings, unwrap_lists, warn_of_labels
from backbench.data.listing import PARTS, Ignored, Listing
from backbench.data.one_hot import COLUMN, add_labels, find_class_columns
from backbench.data.part_columns import NO_COLUMN, read_parts
from backbench.data.part_names import parse_part
from backbench.data.scanner import sort_key
from backbench.data.splitfile import PART_COLUMNS, normalise_path
from backbench.data.tables import IMAGE_NAME, TABLE_SUFFIXES, Table, find_column, read_table
from backbench.errors import ConfigError, DataError
from backbench.progress import Progress
from backbench.wording import count, list_some, quote

IMAGE_COLUMNS = (
    *(
        "image",
        "file",
        "path",
        "filename",
        "file_name",
        "filepath",
        "img",
        "image_path",
        "image_file",
        "image_name",
    ),
    *("img_path", "img_name", "img_file", "fname", "image_id", "img_id"),
)
LABEL_COLUMNS = (
    *("label", "class", "species", "category", "target", "labels", "class_name", "label_name", "category_name"),
    *("class_label", "class_id", "label_id"),
)
GROUP_COLUMNS = ("group",)


@dataclass(frozen=True)
class _Sample:
    image: str
    label: str
    group: str | None
    part: str | None
    row_number: int

    def is_like(self, other: _Sample) -> bool:
        return (self.label, self.group, self.part) == (other.label, other.group, other.part)


def accepts(path: Path) -> bool:
    """Whether this module can load the path."""
    return path.suffix.lower() in TABLE_SUFFIXES and path.is_file()


def load_path(config: DataConfig, path: Path, progress: Progress) -> Listing:
    """The images the table names; relative paths start at the table's folder.

    Columns not named in `config` are found by their usual names, such as image, file or path; label, class
    or species; group; split or part, see `part_columns`. Only image and label are required. Rows without a label
    are left out and reported.

    Raises:
        ConfigError: a column is missing.
        DataError: the table can't be read; no labels; unknown splits; missing images (all of them,
            or any with the policy 'fail'); an image with two labels.
    """
    if config.ignore or config.follow_links or config.split_folders is not None:
        raise ConfigError(
            f"--ignore, --follow-links and --split-folders are for folders, but {path} is a table. Leave them "
            "out; to leave out rows, remove them; for splits, use --split-column."
        )
    listing = load_table(config, read_table(path), name=path.stem, folder=path.absolute().parent)
    beside = _warn_of_sibling(path, config)
    facts = {"warnings": (*listing.facts.get("warnings", ()), *beside)} if beside else {}
    return replace(listing, facts=listing.facts | facts)


def load_table(config: DataConfig, table: Table, *, name: str, folder: Path) -> Listing:
    """The images of a table whose relative paths start at `folder`. Raises: see `load_path`."""
    path = table.path
    read, told, warnings = _read_samples(table, config)
    labelled, ignored = _leave_out_missing(path, read)
    labels, merged = merge_spellings([sample.label for sample in labelled])
    written = [
        sample if sample.label == label else replace(sample, label=label)
        for sample, label in zip(labelled, labels, strict=True)
    ]
    samples, repeats = _drop_repeats(path, written)
    images = list(samples)
    found, moved = find_files(
        path, images, folder=folder, root=config.image_root, must_be_whole=config.on_bad == "fail"
    )
    files = dict(zip(images, found, strict=True))
    ordered = [samples[image] for image in sorted(samples, key=sort_key)]
    label_warnings = warn_of_labels(
        [sample.label for sample in ordered], f"{path.name}: column {quote(told['labels'])}"
    )
    warnings = [*table.warnings, *warnings, *_warn_of_missing(read), *merged, *label_warnings, *moved]
    return Listing(
        name=name,
        ids=tuple(sample.image for sample in ordered),
        labels=tuple(sample.label for sample in ordered),
        groups=tuple(sample.group for sample in ordered),
        parts=tuple(sample.part for sample in ordered),
        files=tuple(files[sample.image] for sample in ordered),
        ignored=(*ignored, *repeats),
        facts={"notes": (_describe_columns(told) + _describe_test(ordered),)}
        | ({"warnings": tuple(warnings)} if warnings else {}),
    )


def _read_samples(table: Table, config: DataConfig) -> tuple[list[_Sample], dict[str, str], list[str]]:
    """One sample for each row, the names of the columns by what they hold, and warnings."""
    image_name = _find_images(table, config.image_column)
    group_name = find_column(table, config.group_column, GROUP_COLUMNS, "groups", "--group-column", needed=False)
    table, label_name = _find_labels(table, config, (image_name, group_name))
    asked = config.split_column if config.split is None else NO_COLUMN
    part_name, parts, warnings = read_parts(table, asked, (image_name, label_name, group_name))
    images, labels = table.columns[image_name], unwrap_lists(table.columns[label_name])
    groups = [""] * len(table) if group_name is None else table.columns[group_name]
    empty = [str(number) for value, number in zip(images, table.row_numbers, strict=True) if not value]
    if empty:
        raise DataError(
            f"{table.path}: {count(len(empty), 'row has', 'rows have')} no image: row {list_some(empty)}. "
            "Fill in or remove them."
        )
    refuse_addresses(table.path, images, table.row_numbers)
    columns = zip(images, labels, groups, parts, table.row_numbers, strict=True)
    samples = [
        _Sample(normalise_path(image), label, None if is_missing(group) else group, part or None, number)
        for image, label, group, part, number in columns
    ]
    told = {"images": image_name, "labels": label_name, "groups": group_name, "splits": part_name}
    return samples, {what: name for what, name in told.items() if name is not None}, warnings


def _find_labels(table: Table, config: DataConfig, taken: Sequence[str | None]) -> tuple[Table, str]:
    """The column of labels; a table with one column for each class gets one."""
    if config.label_column is None and find_column(table, None, LABEL_COLUMNS, "", "", needed=False) is None:
        asked = None if config.split_column == NO_COLUMN else config.split_column
        parts = find_column(table, asked, PART_COLUMNS, "", "--split-column", needed=False)
        classes = find_class_columns(table, (*taken, parts))
        if classes:
            return add_labels(table, classes), COLUMN
    return table, str(find_column(table, config.label_column, LABEL_COLUMNS, "labels", "--label-column"))


def _find_images(table: Table, asked: str | None) -> str:
    """The column of images: the requested one, one with a usual name, or the only one with image files."""
    name = find_column(table, asked, IMAGE_COLUMNS, "images", "--image-column", needed=False)
    if name is not None:
        return name
    named = [name for name, values in table.columns.items() if values and all(map(IMAGE_NAME.fullmatch, values))]
    if len(named) == 1:
        return named[0]
    return str(find_column(table, None, IMAGE_COLUMNS, "images", "--image-column"))


def _describe_columns(told: dict[str, str]) -> str:
    text = ", ".join(f"{what} from column {quote(name)}" for what, name in told.items())
    return text[0].upper() + text[1:]


def _describe_test(samples: Sequence[_Sample]) -> str:
    """A note that a test split is made, if the table has splits but no test split."""
    parts = {sample.part for sample in samples}
    is_made = parts != {None} and "test" not in parts
    return "; no test split is given, so backbench makes one from these images" if is_made else ""


def _leave_out_missing(path: Path, samples: Sequence[_Sample]) -> tuple[list[_Sample], list[Ignored]]:
    """The samples with a label, and the others; DataError if a whole split has no labels."""
    kept = [sample for sample in samples if not is_missing(sample.label)]
    for part in (None, *PARTS):
        rows = [sample for sample in samples if part in (None, sample.part)]
        if rows and all(is_missing(row.label) for row in rows):
            whose = "" if part is None else f" of the split '{part}'"
            raise DataError(
                f"{path}: none of {count(len(rows), 'row')}{whose} has a label ({quote(rows[0].label)} in row "
                f"{rows[0].row_number}). Models can't be evaluated on them, and no other {part or 'test'} split "
                "is made beside them. Fill in the labels, remove the rows, or name another --label-column."
            )
    missing = [sample for sample in samples if is_missing(sample.label)]
    return kept, [Ignored(sample.image, f"no label ({quote(sample.label)})", "picture") for sample in missing]


def _warn_of_missing(samples: Sequence[_Sample]) -> list[str]:
    missing = [sample for sample in samples if is_missing(sample.label)]
    if not missing:
        return []
    written = list_some(map(quote, sorted({sample.label for sample in missing})))
    rows = list_some((str(sample.row_number) for sample in missing), 3)
    return [
        f"{count(len(missing), 'row')} without a label left out ({written}; row {rows}). If that is the name of a "
        "class, rename the class"
    ]


def _warn_of_sibling(path: Path, config: DataConfig) -> list[str]:
    """A warning if there is a table of test images beside the table of training images."""
    if parse_part(path.stem) != "train" or config.split is not None:
        return []
    beside = sorted(other.name for other in path.absolute().parent.iterdir() if accepts(other))
    tests = [name for name in beside if parse_part(Path(name).stem) == "test"]
    return [
        f"{quote(name)} beside {quote(path.name)} looks like its test split but is not used. To use it, put both "
        "into one table with a column 'split'"
        for name in tests[:1]
    ]


def _drop_repeats(path: Path, samples: Sequence[_Sample]) -> tuple[dict[str, _Sample], list[Ignored]]:
    """Each image once. Repeated rows are left out and reported; contradicting rows are an error."""
    first: dict[str, _Sample] = {}
    ignored: list[Ignored] = []
    clashes: list[str] = []
    for sample in samples:
        known = first.setdefault(sample.image, sample)
        if known is sample:
            continue
        where = f"rows {known.row_number} and {sample.row_number}"
        if known.is_like(sample):
            ignored.append(Ignored(sample.image, f"listed twice ({where})"))
        else:
            what = (
                f"{quote(known.label)} and {quote(sample.label)}"
                if known.label != sample.label
                else "two groups or splits"
            )
            clashes.append(f"{quote(sample.image)} ({where}: {what})")
    if clashes:
        raise DataError(
            f"{path}: {count(len(clashes), 'row names', 'rows name')} an image again with another label, group or "
            f"split: {list_some(clashes)}. Keep one row for each image."
        )
    if not first:
        raise DataError(f"{path}: the table has a header and no rows")
    return first, ignored
