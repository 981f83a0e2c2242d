"""Decide which folders of a tree are splits and which are classes, from names and direct content.

This module reads nothing; `scanner` reads the tree. A folder that looks like a split is used as one or raises an
error. It is never counted as a class or replaced by a new split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backbench.data.file_kinds import find_suffix
from backbench.data.listing import PARTS
from backbench.data.part_names import hints_at_part, is_filler, parse_part
from backbench.errors import ConfigError, DataError
from backbench.wording import count, did_you_mean, list_some, quote, quote_word

# fmt: off
SPLIT_SUFFIXES = frozenset((
    ".csv", ".tsv", ".txt", ".lst", ".list", ".json", ".jsonl", ".parquet", ".xls", ".xlsx", ".npy", ".npz", ".h5",
    ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".tfrecord", "",
))
# fmt: on
"""Suffixes of files that may hold a split: lists of images and archives."""
OTHER_LAYOUTS = (
    "Expected one folder for each class (FOLDER/class/image.jpg), or FOLDER/train/class/image.jpg with val/ and "
    "test/ beside train/. For labels in a table, give a CSV file with the columns 'file' and 'label'."
)
MIN_SHARED = 2
MIN_CLASSES_BESIDE = 2


@dataclass(frozen=True)
class Held:
    """The direct content of a folder: names of its folders, and its number of images."""

    folders: tuple[str, ...] = ()
    num_images: int = 0


def find_roles(
    root: str,
    top: Mapping[str, Held],
    unusable: Mapping[str, str],
    given: Mapping[str, str] | None,
    *,
    has_split: bool = False,
) -> dict[str, str]:
    """Folder name -> 'train', 'val' or 'test' if folders are splits; {} if they are classes.

    Args:
        root: their folder, for messages.
        top: the folders with their content.
        unusable: other names that can't be entered, such as links, with the reason.
        given: the user's choice: split of each folder that is one; {}: none is a split; None: no choice.
        has_split: the split of each image is given elsewhere.

    A class may be called "train": if no folder with a split's name holds folders and other folders hold images,
    all are classes.

    Raises:
        DataError: the layout is ambiguous, or a split can't be used. ConfigError: `given` names unknown
            folders.
    """
    if given is not None:
        return _check_given(root, top, given)
    named = {name: part for name in top if (part := parse_part(name))}
    others = [name for name in top if name not in named]
    _refuse_unusable(root, top, unusable)
    if not any(top[name].folders for name in named):
        if named and not any(top[name].num_images for name in others):
            return named  # flat splits: a later check reports that they hold no classes
        _refuse_flat_test(root, top)
        return {}
    _refuse_mixture(root, top, named, others)
    for part in PARTS:
        same = [name for name in named if named[name] == part]
        if len(same) > 1:
            first, second = map(quote_word, same[:2])
            raise DataError(
                f"'{root}' has two folders for {part}: '{same[0]}/' and '{same[1]}/'. Keep one, leave one out "
                f"with --ignore {second}, or name the split of each: --split-folders {first}={part},{second}=..."
            )
    if "train" not in named.values():
        first = next(iter(named))
        raise DataError(
            f"'{root}' has '{first}/' but no 'train/' beside it. Add train/ with class folders, or give only the "
            f"class folders and let backbench split them: '{root}/{first}'. If the folders here are classes, use "
            "--split-folders none."
        )
    if "test" not in named.values() and not has_split:
        _refuse_suspects(root, top, named, others)
    return named


def empty_part(root: str, folder: str, part: str, reasons: Iterable[str]) -> DataError:
    """The error for a split's folder without one usable image; `reasons`: of all that was found in it."""
    found = Counter(reasons)
    told = list_some((f"{num:,} x {reason}" for reason, num in found.most_common()), 3) or "it is empty"
    labels = (
        "Its images have no labels, so models can't be evaluated on them: put them into class folders. "
        if any("outside any class folder" in reason for reason in found)
        else ""
    )
    is_link = any("leads out" in reason for reason in found)
    return DataError(
        f"'{folder}/' in '{root}' looks like the {part} split, but gives no image with a label: {told}. {labels}"
        f"No other {part} split is made beside it. {_way_out(folder, is_link=is_link)}"
    )


def refuse_test_files(root: str, files: Iterable[str]) -> None:
    """Raise DataError for a list or archive that looks like a test split, if the folders give none."""
    found = [path for path in files if _is_test_file(path)]
    if found:
        raise DataError(
            f"'{found[0]}' in '{root}' looks like a list or archive of test images, but no folder is a test "
            "split. No new test split is made beside it. Put a list into a table with the columns id and split "
            "and give that with --split; unpack an archive into test/; or leave it out and let backbench split: "
            f"--ignore {quote_word(found[0])}."
        )


def refuse_same_folders(root: str, top: Mapping[str, Held]) -> None:
    """Raise DataError if folders hold the same sub-folders and no images: probably splits, not classes."""
    deep = {name: _real_folders(held) for name, held in top.items() if held.folders and not held.num_images}
    for name, below in deep.items():
        twins = [other for other, beside in deep.items() if _is_alike(below, beside)]
        if len(twins) > 1:
            shared = sorted(below & deep[next(other for other in twins if other != name)])
            first, second = map(quote_word, twins[:2])
            raise DataError(
                f"{list_some((quote(f'{twin}/') for twin in twins), 4)} in '{root}' hold the same sub-folders "
                f"({list_some(map(quote, shared), 3)}), so they look like splits, not like classes. Name them: "
                f"--split-folders {first}=train,{second}=test; or, if they are the classes: --split-folders none."
            )


def find_inner_parts(root: str, top: Mapping[str, Held], given: Mapping[str, str] | None) -> bool:
    """Whether each class folder holds train/ and test/ of its own (FOLDER/class/train/image.jpg).

    Raises:
        DataError: some class folders hold a test folder, but not all do.
    """
    if given is not None:
        return False
    filled = {name: held for name, held in top.items() if held.folders or held.num_images}
    parts = {name: {parse_part(folder) for folder in held.folders} for name, held in filled.items()}
    if filled and all({"train", "test"} <= parts[name] and not filled[name].num_images for name in filled):
        return True
    suspect = next((name for name in filled if "test" in parts[name]), None)
    if suspect is None:
        return False
    inner = next(folder for folder in filled[suspect].folders if parse_part(folder) == "test")
    raise DataError(
        f"class folder '{suspect}/' in '{root}' holds '{inner}/', which looks like a test split. Either each "
        "class folder holds train/ and test/, or the folders above the classes do. Move it, leave it out with "
        f"--ignore {quote_word(f'{suspect}/{inner}')}, or count its images for the class: --split-folders none."
    )


def _check_given(root: str, top: Mapping[str, Held], given: Mapping[str, str]) -> dict[str, str]:
    for name in given:
        if name not in top:
            raise ConfigError(
                f"--split-folders: '{root}' has no folder '{name}'.{did_you_mean(name, top, limit=1)} "
                f"Folders: {list_some(map(quote, top), 10)}."
            )
    if given and "train" not in given.values():
        raise ConfigError(f"--split-folders names no folder for train. Folders: {list_some(map(quote, top), 10)}.")
    return dict(given)


def _refuse_unusable(root: str, top: Mapping[str, Held], unusable: Mapping[str, str]) -> None:
    """Raise DataError if the name of a split is a link that leads out of the folder or nowhere."""
    has_test = any(parse_part(name) == "test" for name in top)
    for name, reason in unusable.items():
        if top and (parse_part(name) or (hints_at_part(name) == "test" and not has_test)):
            raise DataError(
                f"'{name}' in '{root}' looks like a split but can't be used: it is {reason}. Without it a new "
                f"split would replace it. {_way_out(name, is_link='leads out' in reason)}"
            )


def _refuse_flat_test(root: str, top: Mapping[str, Held]) -> None:
    """Stop at test/, hidden_test/ or val/ with images beside class folders with images: more likely unlabelled
    images than a class. A class may well be called "train", and then one beside it "val"."""
    filled = [name for name in top if top[name].num_images]
    parts = {name: parse_part(name) for name in filled}
    no_classes = {"test"} if "train" in parts.values() else {"val", "test"}
    tests = [name for name in filled if parts[name] in no_classes or hints_at_part(name) == "test"]
    beside = [name for name in filled if name not in tests]
    if tests and len(beside) >= MIN_CLASSES_BESIDE:
        raise DataError(
            f"'{tests[0]}/' in '{root}' holds {count(top[tests[0]].num_images, 'image')} beside the class folders "
            f"{list_some(map(quote, beside), 3)}. Are these {parts[tests[0]] or 'test'} images without labels, "
            f"or a class? Leave it out with --ignore {quote_word(tests[0])}, or make it a class with "
            "--split-folders none."
        )


def _refuse_mixture(root: str, top: Mapping[str, Held], named: Mapping[str, str], others: Sequence[str]) -> None:
    flat = [name for name in others if top[name].num_images]
    if len(named) == 1 and flat:
        first = next(iter(named))
        raise DataError(
            f"'{root}' is ambiguous: '{first}/' holds folders, like a split, and '{flat[0]}/' beside it holds "
            f"images, like a class. Move one of them elsewhere, or leave it out: --ignore {quote_word(flat[0])}. "
            "If both are classes: --split-folders none."
        )


def _refuse_suspects(root: str, top: Mapping[str, Held], named: Mapping[str, str], others: Sequence[str]) -> None:
    """Stop at a folder beside train/ that has its class folders, or mentions a split in its name."""
    train = next(name for name, part in named.items() if part == "train")
    classes = _real_folders(top[train])
    for name in others:
        below = _real_folders(top[name])
        inner = next((folder for folder in top[name].folders if parse_part(folder) == "test"), None)
        if inner is not None:
            raise DataError(
                f"'{name}/{inner}/' beside '{train}/' in '{root}' looks like a test split. No new one is made "
                f"beside it. Move it beside '{train}/', or leave it out: --ignore {quote_word(name)}."
            )
        is_alike = _is_alike(classes, below)
        if is_alike or (hints_at_part(name) == "test" and (below or top[name].num_images)):
            why = f"has class folders of '{train}/'" if is_alike else "has the name of one"
            word = quote_word(name)
            raise DataError(
                f"'{name}/' beside '{train}/' in '{root}' looks like a split: it {why}. No new test split is made "
                f"beside it. Name its split: --split-folders {quote_word(train)}=train,{word}=test; or leave it "
                f"out: --ignore {word}."
            )


def _real_folders(held: Held) -> set[str]:
    return {name for name in held.folders if not is_filler(name)}


def _is_alike(first: set[str], second: set[str]) -> bool:
    """Whether two sets of folder names are mostly the same."""
    shared = len(first & second)
    return shared >= MIN_SHARED and 2 * shared >= min(len(first), len(second))


def _is_test_file(path: str) -> bool:
    name = path.rpartition("/")[2]
    suffix = find_suffix(name)
    stem = name[: len(name) - len(suffix)].removesuffix(".tar")
    is_test = parse_part(stem) == "test" or (bool(suffix) and hints_at_part(stem) == "test")
    return is_test and suffix in SPLIT_SUFFIXES


def _way_out(name: str, *, is_link: bool) -> str:
    link = (
        "Follow links that lead out with --follow-links, or put a copy or hard links in its place. "
        if is_link
        else ""
    )
    return f"{link}To leave it out and let backbench split the images: --ignore {quote_word(name)}."
