"""Which folders of a tree are splits and which are classes, decided from names and from what is right in them.

Nothing is read here: `scanner` looks, and follows. A folder that looks like a split is used as one, or stops the
work: it is never counted as a class, nor left out while another split is cut in its place.
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
"""Of files that may hold a split: lists of images, and images packed together."""
OTHER_LAYOUTS = (
    "One folder for each class is expected (FOLDER/class/image.jpg), or FOLDER/train/class/image.jpg with val/ "
    "and test/ beside train/. Labels in a table instead? Give a CSV file with the columns 'file' and 'label'."
)
MIN_SHARED = 2
MIN_CLASSES_BESIDE = 2


@dataclass(frozen=True)
class Held:
    """What is right in a folder: names of its folders, and its number of images."""

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
    """Folder name -> 'train', 'val' or 'test' where folders are splits, else {}: then they are classes.

    Args:
        root: where they are; for messages.
        top: the folders, with what is in them.
        unusable: other names there that can't be entered, such as links, with the reason.
        given: what the user said: part of each folder that is a split; {}: none is; None: nothing was said.
        has_split: which image is in which split is said elsewhere.

    A class may be called "train": where no folder with a split's name holds folders, and others hold images, they
    are classes.

    Raises:
        DataError: what is there can be read in two ways, or a split can't be used. ConfigError: `given` names
            folders that are not there.
    """
    if given is not None:
        return _check_given(root, top, given)
    named = {name: part for name in top if (part := parse_part(name))}
    others = [name for name in top if name not in named]
    _refuse_unusable(root, top, unusable)
    if not any(top[name].folders for name in named):
        if named and not any(top[name].num_images for name in others):
            return named  # flat splits: that they hold no classes is said later
        _refuse_flat_test(root, top)
        return {}
    _refuse_mixture(root, top, named, others)
    for part in PARTS:
        same = [name for name in named if named[name] == part]
        if len(same) > 1:
            first, second = map(quote_word, same[:2])
            raise DataError(
                f"'{root}' has two folders for {part}: '{same[0]}/' and '{same[1]}/'. Keep one, leave one out "
                f"with --ignore {second}, or say what each is: --split-folders {first}={part},{second}=..."
            )
    if "train" not in named.values():
        first = next(iter(named))
        raise DataError(
            f"'{root}' has '{first}/' but no 'train/' beside it. Add train/ with class folders, or give the "
            f"class folders alone and let the split be made: '{root}/{first}'. If the folders here are classes, "
            "say so: --split-folders none."
        )
    if "test" not in named.values() and not has_split:
        _refuse_suspects(root, top, named, others)
    return named


def empty_part(root: str, folder: str, part: str, reasons: Iterable[str]) -> DataError:
    """The error for a split's folder without one usable image; `reasons`: of all that was found in it."""
    found = Counter(reasons)
    told = list_some((f"{num:,} x {reason}" for reason, num in found.most_common()), 3) or "it is empty"
    labels = (
        "Its images have no labels, so nothing can be measured on them: put them into class folders. "
        if any("outside any class folder" in reason for reason in found)
        else ""
    )
    is_link = any("leads out" in reason for reason in found)
    return DataError(
        f"'{folder}/' in '{root}' looks like the {part} split, but gives no image with a label: {told}. {labels}"
        f"No other {part} split is made beside it. {_way_out(folder, is_link=is_link)}"
    )


def refuse_test_files(root: str, files: Iterable[str]) -> None:
    """DataError for a file that looks like a test split, as a list or packed, where the folders give none."""
    found = [path for path in files if _is_test_file(path)]
    if found:
        raise DataError(
            f"'{found[0]}' in '{root}' looks like a list or archive of test images, and folders give no test "
            "split. No new one is made beside it. Put a list into a table with the columns id and part and give "
            "that with --split; unpack an archive into test/; or leave it out and let a test split be made: "
            f"--ignore {quote_word(found[0])}."
        )


def refuse_same_folders(root: str, top: Mapping[str, Held]) -> None:
    """DataError where folders hold the same sub-folders and no images: almost surely splits, not classes."""
    deep = {name: _real_folders(held) for name, held in top.items() if held.folders and not held.num_images}
    for name, below in deep.items():
        twins = [other for other, beside in deep.items() if _is_alike(below, beside)]
        if len(twins) > 1:
            shared = sorted(below & deep[next(other for other in twins if other != name)])
            first, second = map(quote_word, twins[:2])
            raise DataError(
                f"{list_some((quote(f'{twin}/') for twin in twins), 4)} in '{root}' hold the same sub-folders "
                f"({list_some(map(quote, shared), 3)}), so they look like splits, not like classes. Say which is "
                f"which: --split-folders {first}=train,{second}=test; or, if they are the classes: "
                "--split-folders none."
            )


def find_inner_parts(root: str, top: Mapping[str, Held], given: Mapping[str, str] | None) -> bool:
    """Whether each class folder holds train/ and test/ of its own (FOLDER/class/train/image.jpg).

    Raises:
        DataError: some class folders hold a test folder, and not all can be read that way.
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
    """DataError for a name of a split that is a link which leads out or nowhere."""
    has_test = any(parse_part(name) == "test" for name in top)
    for name, reason in unusable.items():
        if top and (parse_part(name) or (hints_at_part(name) == "test" and not has_test)):
            raise DataError(
                f"'{name}' in '{root}' looks like a split of your own, and can't be used: it is {reason}. Without "
                f"it another split would be made in its place. {_way_out(name, is_link='leads out' in reason)}"
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
            f"'{root}' can be read in two ways: '{first}/' holds folders, as a part does, and '{flat[0]}/' beside "
            f"it holds images, as a class does. Move one of them elsewhere, or leave it out: --ignore "
            f"{quote_word(flat[0])}. If both are classes: --split-folders none."
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
                f"beside it. Say what it is: --split-folders {quote_word(train)}=train,{word}=test; or leave it "
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
    return f"{link}To leave it out and let a split be made: --ignore {quote_word(name)}."
