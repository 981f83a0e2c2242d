"""Which parts of a data set of the `datasets` library are used, and as what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from backbench.config import DataConfig
from backbench.data.part_names import PLAIN_PARTS, parse_part
from backbench.errors import ConfigError, DataError
from backbench.wording import count, list_some, quote, quote_word


def choose_parts(splits: Mapping[str, Any], config: DataConfig) -> tuple[dict[str, Any], list[str]]:
    """The parts that are train, validation or test and hold rows, and the names of the others; all parts if it has
    just one, whatever its name. Of several for one, the one with the plain name is used.

    Raises:
        ConfigError: `config.ignore` names no part. DataError: there is none, or several may be meant.
    """
    source = config.source
    unknown = [name for name in config.ignore if name not in splits]
    held = list_some(quote(str(name)) for name in splits) or "none"
    if unknown:
        raise ConfigError(f"--ignore {unknown[0]}: {source} has no part of that name. Parts: {held}.")
    full = {str(name): split for name, split in splits.items() if len(split) and name not in config.ignore}
    named: defaultdict[str, list[str]] = defaultdict(list)
    for name in full:
        named[parse_part(name) or ""].append(name)
    others = named.pop("", [])
    if not named and len(full) == 1:
        return full, []
    if not named:
        raise DataError(f"{source} has no part called train, validation or test with anything in it: {held}.")
    used: list[str] = []
    for same in named.values():
        plain = [name for name in same if name.casefold() in PLAIN_PARTS]
        if len(same) > 1 and len(plain) != 1:
            raise DataError(
                f"{source} has two parts for one: {list_some(map(quote, same))}. "
                f"Leave one out: --ignore {quote_word(same[-1])}."
            )
        used += plain if len(same) > 1 else same
        others += [name for name in same if name not in used]  # such as 'eval' beside 'test'
    return {name: full[name] for name in full if name in used}, [name for name in full if name in others]


def empty_part(source: str, name: str, num_rows: int) -> DataError:
    """The error for a part of which no row can be used."""
    return DataError(
        f"{source}: none of the {count(num_rows, 'row')} of {quote(name)} has both an image and a label, so "
        f"nothing can be measured on them, and no other {parse_part(name)} split is made beside them. To leave "
        f"them out and let a split be made: --ignore {quote_word(name)}."
    )
