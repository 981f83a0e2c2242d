"""Choose the splits of a data set of the `datasets` library."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from backbench.config import DataConfig
from backbench.data.part_names import PLAIN_PARTS, parse_part
from backbench.errors import ConfigError, DataError
from backbench.wording import count, list_some, quote, quote_word


def choose_parts(splits: Mapping[str, Any], config: DataConfig) -> tuple[dict[str, Any], list[str]]:
    """The non-empty train, validation and test splits, and the names of the others. A single split is used
    whatever its name. Of several splits with one meaning, the one with the plain name is used.

    Raises:
        ConfigError: `config.ignore` names an unknown split. DataError: no usable split, or an ambiguous one.
    """
    source = config.source
    unknown = [name for name in config.ignore if name not in splits]
    held = list_some(quote(str(name)) for name in splits) or "none"
    if unknown:
        raise ConfigError(f"--ignore {unknown[0]}: {source} has no split of that name. Splits: {held}.")
    full = {str(name): split for name, split in splits.items() if len(split) and name not in config.ignore}
    named: defaultdict[str, list[str]] = defaultdict(list)
    for name in full:
        named[parse_part(name) or ""].append(name)
    others = named.pop("", [])
    if not named and len(full) == 1:
        return full, []
    if not named:
        raise DataError(f"{source} has no non-empty split called train, validation or test: {held}.")
    used: list[str] = []
    for same in named.values():
        plain = [name for name in same if name.casefold() in PLAIN_PARTS]
        if len(same) > 1 and len(plain) != 1:
            raise DataError(
                f"{source} has several splits with the same meaning: {list_some(map(quote, same))}. Leave one "
                f"out: --ignore {quote_word(same[-1])}."
            )
        used += plain if len(same) > 1 else same
        others += [name for name in same if name not in used]  # such as 'eval' beside 'test'
    return {name: full[name] for name in full if name in used}, [name for name in full if name in others]


def empty_part(source: str, name: str, num_rows: int) -> DataError:
    """The error for a split without a usable row."""
    return DataError(
        f"{source}: none of the {count(num_rows, 'row')} of {quote(name)} has both an image and a label. Models "
        f"can't be evaluated on them, and no other {parse_part(name)} split is made beside them. To leave them "
        f"out and make a new split: --ignore {quote_word(name)}."
    )
