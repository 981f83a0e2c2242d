"""Read the text of a table: encodings with and without a byte order mark, old line ends, Excel's first line."""

from __future__ import annotations

import re
from pathlib import Path

from backbench.errors import DataError
from backbench.storage import read_file
from backbench.wording import quote

MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
"""UTF-32 comes before UTF-16, because its mark starts with that of UTF-16."""
NO_TEXT = (
    (b"PK\x03\x04", "a spreadsheet (.xlsx, .ods) or zip file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls)"),
    (b"PAR1", "a Parquet file (rename it to end in .parquet)"),
    (b"\x1f\x8b", "a gzip file (unpack it first)"),
)
SAMPLE_BYTES = 4096
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[ \t]*(?:\n|$)', re.IGNORECASE)


def read_table_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a file, its lines ended by newlines, and warnings on how it was read.

    Without a byte order mark the encoding is UTF-8, or UTF-16 if every second byte is 0, else Windows-1252.

    Raises:
        DataError: the file can't be read or is not text.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"{path}: the table can't be read: {error.strerror}") from error
    kind = next((kind for start, kind in NO_TEXT if data.startswith(start)), None)
    if kind is not None:
        raise DataError(f"{path}: this is {kind}, not a text table. Save it as CSV in UTF-8 and try again.")
    text, warnings = _decode(path, data)
    text = text.removeprefix("\ufeff").rstrip("\x1a")
    if "\0" in text:
        raise DataError(f"{path}: not a text table: it holds zero bytes. Save it as CSV in UTF-8.")
    return re.sub(r"\r\n?", "\n", text), warnings


def cut_separator_line(text: str) -> tuple[str | None, str]:
    """The separator that Excel's first line 'sep=;' names, or None, and the text with that line emptied."""
    found = _SEPARATOR_LINE.match(text)
    return (None, text) if found is None else (found[1], "\n" + text[found.end() :])


def _decode(path: Path, data: bytes) -> tuple[str, tuple[str, ...]]:
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), None) or _guess_wide(data)
    try:
        return data.decode(encoding or "utf-8"), ()
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise DataError(
                f"{path}: byte {error.start:,} is not {encoding.upper()} text, although the file's first bytes "
                "indicate it. Save the table as CSV in UTF-8 and try again."
            ) from error
        wrong = error
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {wrong.start:,} is not UTF-8 text, and byte {error.start:,} is not Windows-1252 either."
            " Save the table as CSV in UTF-8 and try again."
        ) from error
    line = next(line for line in text.splitlines() if not line.isascii())
    return text, (
        f"{path.name} is not UTF-8: it was read as Windows-1252, for example {quote(line[:80])}. If that looks "
        "wrong, save the table as CSV in UTF-8",
    )


def _guess_wide(data: bytes) -> str | None:
    """UTF-16 without a mark: one of two bytes is 0 for Latin letters, and for separators in any script."""
    sample = data[:SAMPLE_BYTES]
    first, second = sample[0::2].count(0), sample[1::2].count(0)
    if max(first, second) * 10 < len(sample) or min(first, second) * 4 > max(first, second):
        return None
    return "utf-16-be" if first > second else "utf-16-le"
