"""Map the classes of a data set to classes of a model's published classifier.

Sources in order of reliability: the user's map, a curated table, the same name, WordNet (if nltk and its data are
installed), and the words in ImageNet's lists of classes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from backbench.backbones.core.original_head import OriginalHead, TextHead, read_definitions, read_lemmas
from backbench.data.synsets import ID, find_table, plain_name, read_table
from backbench.errors import LONGEST_SHOWN, ConfigError, nearest, shown
from backbench.storage import read_file

MAX_MAP_BYTES = 10_000_000
GUESSED = ("word", "last word", "definition")
"""Sources that may misunderstand a class name."""
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
}
_OPENING = re.compile(
    r"^(any|one|either|a|an|the|all)?\s*(of)?\s*(the|several|various|numerous|many|two|three|certain)?\s*"
    r"((a |an )?(\w+ )?(breed|kind|type|variety|species|genus|form|family|member) of (the |a |an )?)?"
)
_END = re.compile(
    r"[;,(:]|\b(with|having|of|that|used|for|native|in|from|on|which|who|to|by|as|resembling|made|usually|"
    r"commonly|often|characterized|consisting|whose|where|worn|found|similar|designed|containing|and|or)\b"
)


@dataclass(frozen=True)
class Counterpart:
    """Ids of the model's classes that stand for one class of the data, in row order, with the source."""

    ids: tuple[str, ...]
    source: str


def find_counterparts(
    class_names: Sequence[str], head_classes: Sequence[str], given: Mapping[str, Sequence[str]], table: str
) -> dict[str, Counterpart]:
    """The matches of each class, in order; without ids if there is none.

    Args:
        class_names: of the data set.
        head_classes: of the original classifier: WordNet ids, or names.
        given: the user's map, by class name; has priority.
        table: one of `synsets.TABLES`, 'auto' for the first with all classes, or 'none'.

    Raises:
        ConfigError: `given` or the table does not fit the classes; the message names them and the nearest.
    """
    _check_given(given, class_names, head_classes)
    chosen = find_table(class_names) if table == "auto" else None if table == "none" else table
    known = {} if chosen is None else read_table(chosen)
    if chosen is not None and (missing := [name for name in class_names if plain_name(name) not in known]):
        close = nearest(plain_name(missing[0]), known)
        hint = f" Nearest: {', '.join(close)}." if close else ""
        raise ConfigError(f"options.table '{chosen}' has no class {shown(missing[0])}.{hint}")
    found = {}
    for name in class_names:
        if name in given:
            found[name] = _among(given[name], head_classes, "map")
        elif chosen is not None:
            found[name] = _among(known[plain_name(name)], head_classes, f"table {chosen}")
        else:
            found[name] = _search(name, head_classes)
    return found


def describe_classes(
    class_names: Sequence[str], head: TextHead, given: Mapping[str, Sequence[str]], templates: Sequence[str]
) -> tuple[OriginalHead, dict[str, Counterpart]]:
    """A classifier whose rows are mean embeddings of sentences about each class, and these sentences' words.

    Args:
        given: words for a class instead of its name; none: the class is never predicted.
        templates: sentences with one {} for the words.

    Raises:
        ConfigError: `given` names a class that the data does not have.
    """
    _check_names(given, class_names)
    phrases = {name: tuple(given.get(name, (plain_name(name),))) for name in class_names}
    texts = [template.format(words) for found in phrases.values() for words in found for template in templates]
    values = iter(head.embed(texts) if texts else ())
    rows = []
    for found in phrases.values():
        if found:
            mean = np.mean([next(values) for _ in range(len(found) * len(templates))], axis=0)
            rows.append(head.scale * mean / max(float(np.linalg.norm(mean)), 1e-12))
    named = tuple(name for name, found in phrases.items() if found)
    weights = np.stack(rows).astype(np.float32) if rows else np.zeros((0, 1), dtype=np.float32)
    original = OriginalHead(weights, np.zeros(len(rows), dtype=np.float32), named)
    return original, {name: Counterpart((name,) if found else (), "text") for name, found in phrases.items()}


def _check_given(
    given: Mapping[str, Sequence[str]], class_names: Sequence[str], head_classes: Sequence[str]
) -> None:
    known = frozenset(head_classes)
    _check_names(given, class_names)
    for name, ids in given.items():
        for each in ids:
            if each not in known:
                close = nearest(each[:LONGEST_SHOWN], head_classes) or list(head_classes[:3])
                raise ConfigError(
                    f"The map gives {shown(each)} for the class {shown(name)}, which is not one of the "
                    f"{len(head_classes):,} classes of the model. Nearest: "
                    f"{', '.join(describe_id(found) for found in close)}."
                )


def _check_names(given: Mapping[str, Sequence[str]], class_names: Sequence[str]) -> None:
    for name in given:
        if name not in class_names:
            close = nearest(name, class_names) or list(class_names[:3])
            raise ConfigError(
                f"The map names the class {shown(name)}, which the data does not have. "
                f"Nearest: {', '.join(close)}."
            )


def _among(wanted: Collection[str], head_classes: Sequence[str], source: str) -> Counterpart:
    asked = set(wanted)
    return Counterpart(tuple(dict.fromkeys(each for each in head_classes if each in asked)), source)


def _search(name: str, head_classes: Sequence[str]) -> Counterpart:
    """Search by the class's name only."""
    wanted = plain_name(name)
    same = [each for each in head_classes if plain_name(each) == wanted]
    if same:
        return _among(same, head_classes, "same name")
    below = _below_in_wordnet(wanted)
    if below and (found := _among(below, head_classes, "WordNet")).ids:
        return found
    num_words = len(wanted.split())
    for source in GUESSED:
        found = _among(_ids_by_words(source, num_words).get(_key(wanted), ()), head_classes, source)
        if found.ids:
            return found
    return Counterpart((), "none")


@cache
def _ids_by_words(source: str, num_words: int) -> Mapping[str, frozenset[str]]:
    """`_key` of words -> ids with these words ('word'), with words ending in them, or with such a definition."""
    ids: dict[str, set[str]] = {}
    if source == "definition":
        subjects = [(each, _genus(definition)) for each, definition in read_definitions().items()]
    else:
        subjects = [(each, lemma) for each, lemmas in read_lemmas().items() for lemma in lemmas]
    for each, text in subjects:
        words = plain_name(text).split()
        ids.setdefault(_key(" ".join(words if source == "word" else words[-num_words:])), set()).add(each)
    return MappingProxyType({key: frozenset(found) for key, found in ids.items()})


def _below_in_wordnet(name: str) -> tuple[str, ...]:
    """Ids of all hyponyms of the name's most usual sense; empty without nltk, its data, or such a word."""
    try:
        from nltk.corpus import wordnet

        senses = wordnet.synsets(name.replace(" ", "_"), pos="n")
    except (ImportError, LookupError):
        return ()
    if not senses:
        return ()
    below = senses[0].closure(lambda sense: sense.hyponyms())
    return tuple(f"n{sense.offset():08d}" for sense in (senses[0], *below))


def _key(words: str) -> str:
    """The common key of different spellings: 'Sea horses' and 'seahorse' -> 'seahorse'."""
    *first, last = plain_name(words).split() or [""]
    return "".join((*first, _singular(last)))


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, instead in (
        ("ies", "y"),
        ("lves", "lf"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
        ("xes", "x"),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + instead
    return word.removesuffix("s") if len(word) > 3 and not word.endswith(("ss", "us", "is")) else word


def _genus(definition: str) -> str:
    """The genus in a definition: 'any of various toothed whales with a ...' -> 'toothed whales'."""
    rest = _OPENING.sub("", definition, count=1)
    return _END.split(rest, maxsplit=1)[0].strip()


def read_map(path: Path) -> dict[str, tuple[str, ...]]:
    """Class name -> ids, from a CSV file with a row 'class,id' for each; a class with an empty id has no match.

    Raises:
        ConfigError: the file can't be read, or a row has another form.
    """
    try:
        rows = list(csv.reader(read_file(path, MAX_MAP_BYTES).decode("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"The map '{path}' can't be read as CSV in UTF-8: {reason}.") from error
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[:2] in (["class", "synset"], ["class", "id"])):
            continue
        if len(cells) != 2 or not cells[0]:
            raise ConfigError(
                f"The map '{path}': line {number} is not 'class,id' such as 'deer,n02430045': {row}."
            )
        found.setdefault(cells[0], []).extend([cells[1]] if cells[1] else [])
    if not found:
        raise ConfigError(f"The map '{path}' is empty. Give a row 'class,id' for each class.")
    return {name: tuple(ids) for name, ids in found.items()}


def describe_id(each: str) -> str:
    """'n02123045 tabby'; a name is unchanged."""
    words = read_lemmas().get(each) if ID.fullmatch(each) else None
    return f"{each} {words[0]}" if words else each
