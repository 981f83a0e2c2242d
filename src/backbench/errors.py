"""The errors a user can act on, and how their messages are built.

Every message has four facts: the value that was given, where it was given, the allowed values (nearest match
first), and the remedy. The command line prints the message alone; `--debug` adds the traceback.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

LONGEST_SHOWN = 120
JOINERS = "\u200c\u200d"  # needed to write Persian and some emoji; no width, no effect on the rest of a line


class BackbenchError(Exception):
    """Base of all errors meant for the user; `exit_status` is what the command line returns."""

    exit_status = 1


class ConfigError(BackbenchError):
    """A name, option or combination of options that can't be used."""

    exit_status = 2


class DataError(BackbenchError):
    """Images, labels or a split that can't be used."""

    exit_status = 2


class BadImage(DataError):
    """One file that is not a usable image."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.path, self.reason)


class ModelError(BackbenchError):
    """Weights that are missing, do not fit, or fail their self-test."""


class DownloadError(BackbenchError):
    """A download that failed or whose bytes do not match their checksum."""


class StorageError(BackbenchError):
    """A file that can't be written or read back: disk full, read-only, no permission."""


class BudgetExceeded(BackbenchError):
    """Work that would take longer than the time limit."""


class TrainingDiverged(BackbenchError):
    """A loss, gradient, weight or metric that is not finite; the step was not applied."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(
            f"training diverged at step {step}: {cause}. The last good checkpoint is kept. "
            f"Try a lower learning rate, or gradient clipping."
        )
        self.step = step
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.step, self.cause)


class Interrupted(BackbenchError):
    """The user or the system stopped the work; finished work is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted; finished work is saved. Run the same command again to resume")
        self.exit_status = 128 + signal_number


class PeerLost(BackbenchError):
    """Another process of the same run has ended; its own message gives the cause."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"another process of this run has ended; see its message ({detail})")
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.detail,)


class MissingExtra(ConfigError):
    """An optional part that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'backbench[{extra}]'"
        )


OUT_OF_MEMORY = "not enough memory: free some, or use a smaller model, smaller images or a smaller batch"


def is_out_of_memory(error: BaseException) -> bool:
    """True for an out-of-memory error of Python, NumPy or torch (torch has no type for it on the CPU)."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )


def nearest(given: str, allowed: Iterable[str], limit: int = 3) -> list[str]:
    """The names of `allowed` most like `given`, best first; case is ignored; may be empty."""
    by_folded = {name.casefold(): name for name in allowed}
    folded = given.casefold()
    close = difflib.get_close_matches(folded, by_folded, n=limit, cutoff=0.6)
    if not close:  # people often give a part of a long name
        close = sorted((name for name in by_folded if folded and folded in name), key=len)[:limit]
    return [by_folded[name] for name in close]


def unknown_name(
    kind: str, given: str, allowed: Iterable[str], where: str, hint: str, *, unlisted: Iterable[str] = ()
) -> ConfigError:
    """Make a ConfigError for an unknown name, with the nearest names first.

    Args:
        kind: the kind of thing that was named, for example "model".
        given: the name as the user typed it.
        allowed: every valid name.
        where: the option or place where it was given, for example "--models".
        hint: the command or page that shows all names, for example "backbench list models".
        unlisted: further valid names, used for suggestions only.
    """
    names = list(allowed)
    close = nearest(given[:LONGEST_SHOWN], [*names, *unlisted])
    if close:
        suggestion = "Did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    elif len(names) <= 12:
        is_quoted = any("," in name for name in names)
        suggestion = "Allowed: " + ", ".join(f"'{name}'" if is_quoted else name for name in names) + "."
    else:
        suggestion = f"{len(names)} names are known."
    return ConfigError(f"unknown {kind} {shown(given)} in {where}. {suggestion} See: {hint}")


def shown(text: str) -> str:
    """`text` in quotes for one line of a terminal: escaped and shortened."""
    if not text.isprintable():
        text = text.encode("unicode_escape", "backslashreplace").decode("ascii")
    return f"'{text}'" if len(text) <= LONGEST_SHOWN else f"'{text[:LONGEST_SHOWN]}...'"


def printable(text: str) -> str:
    """`text` on one line, with every character escaped that could move the cursor, colour or reorder text.

    Control characters, escape sequences, bidirectional controls, other invisible format characters, line
    separators, lone surrogates and unassigned code points become '\\x1b', '\\u202e', ...; all others are kept.
    """
    return "".join(char if _is_harmless(char) else _written_out(char) for char in text)


def _is_harmless(char: str) -> bool:
    return char in JOINERS or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _written_out(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def printable_lines(text: str) -> str:
    """`printable` text that keeps its line breaks."""
    return "\n".join(map(printable, text.split("\n")))
