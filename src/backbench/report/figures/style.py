"""The style of all figures: colours by role, fonts, margins; and deterministic files.

Pictures are laid out in pixels from the upper left corner (see `canvas.Canvas`). Font sizes are 13 and 16 pixels.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import TextToPath

from backbench.errors import ConfigError
from backbench.report.figures.svg import clean_svg
from backbench.report.text import printable, shorten
from backbench.storage import write_atomically

Look = Mapping[str, str]

SMALL, LARGE = 13, 16
MARGIN = 24.0
LINE = 20.0  # from one line of small text to the next
FORMATS = ("svg", "png")
_UNITS = 72  # one unit of a figure is one pixel of the SVG
_PNG_SCALE = 2

_LIGHT = {
    "page": "#fafaf7",
    "text": "#1b1f24",
    "muted": "#59616b",
    "rule": "#dcdfdb",
    "neutral": "#e6e8e4",
    "best": "#0072b2",
    "attention": "#d55e00",
    "other": "#6b7480",
    "group-3": "#590223",
    "group-4": "#b78074",
    "group-5": "#8e34ff",
    "error-1": "#fdeee2",
    "error-2": "#fbdabf",
    "error-3": "#f6be92",
    "error-4": "#ee9a5c",
    "error-5": "#b95408",
    "error-6": "#923f03",
    "error-7": "#672a00",
    "share-1": "#e7f2f9",
    "share-2": "#cbe3f2",
    "share-3": "#a3cdea",
    "share-4": "#74b1dc",
    "share-5": "#1f74ac",
    "share-6": "#0b5785",
    "share-7": "#073a59",
}
_DARK = {
    "page": "#15181c",
    "text": "#e7eaee",
    "muted": "#a3adb8",
    "rule": "#30363d",
    "neutral": "#2a3037",
    "best": "#56b4e9",
    "attention": "#e69f00",
    "other": "#8e98a3",
    "group-3": "#a838fd",
    "group-4": "#566c27",
    "group-5": "#faf89e",
    "error-1": "#2c2115",
    "error-2": "#443016",
    "error-3": "#634216",
    "error-4": "#855710",
    "error-5": "#cb8d2c",
    "error-6": "#eab76a",
    "error-7": "#ffdfae",
    "share-1": "#15232d",
    "share-2": "#183548",
    "share-3": "#1b4b68",
    "share-4": "#1f648e",
    "share-5": "#529ccb",
    "share-6": "#8cc4e8",
    "share-7": "#cfe8fa",
}
ROLES: Mapping[str, Look] = MappingProxyType({"light": MappingProxyType(_LIGHT), "dark": MappingProxyType(_DARK)})
GROUPS = ("best", "attention", "group-3", "group-4", "group-5")
SHAPES = ("o", "D", "s", "^", "v")

# Installed families to use for letters that the bundled one lacks.
_MORE_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
)
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "backbench",
    "svg.image_inline": True,
    "path.simplify": False,
    "text.parse_math": False,
    "text.usetex": False,
}


def find_look(theme: str) -> Look:
    """The colours of a theme by role. ConfigError for another name."""
    if theme not in ROLES:
        raise ConfigError(f"unknown theme '{theme}'. Allowed: {', '.join(ROLES)}.")
    return ROLES[theme]


def new_figure(width: float, height: float, theme: str = "light") -> Figure:
    """A figure of width x height pixels (whole ones) in the page's colour; its axes cover it, in pixels from the
    upper left corner."""
    width, height = math.ceil(width), math.ceil(height)
    figure = Figure(figsize=(width / _UNITS, height / _UNITS), dpi=_UNITS, facecolor=find_look(theme)["page"])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return figure


def figure_size(figure: Figure) -> tuple[float, float]:
    """Width and height in pixels."""
    width, height = figure.get_size_inches()
    return float(width) * _UNITS, float(height) * _UNITS


@cache
def font_families() -> tuple[str, ...]:
    """The bundled family, then installed ones with more letters."""
    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(family for family in _MORE_FAMILIES if family in installed))


@lru_cache(maxsize=8192)
def text_width(text: str, size: int = SMALL, bold: bool = False) -> float:
    """Width of `text` in one line, in pixels; usually slightly less in a browser's font."""
    font = FontProperties(family=list(font_families()), size=size, weight="bold" if bold else "normal")
    with _missing_letters_allowed():
        return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0])


def fit_text(text: str, width: float, size: int = SMALL, *, bold: bool = False) -> str:
    """`text` on one line of at most `width` pixels, with the middle left out if it is longer."""
    text = shorten(printable(text.strip()), 400)
    for columns in range(max(1, int(2 * width / size)), 0, -1):
        shown = shorten(text, columns)
        if text_width(shown, size, bold) <= width:
            return shown
    return ""


def widest(texts: Sequence[str], limit: float) -> float:
    """Pixels of the widest of the texts in small type, at most `limit`; 0 without any."""
    return min(limit, max((text_width(shorten(printable(text.strip()), 200)) for text in texts), default=0.0))


def save_figure(figure: Figure, path: Path) -> None:
    """Write it as SVG or PNG (twice the pixels), by suffix; the same figure gives the same bytes.

    Raises:
        ConfigError: another suffix. StorageError: the file can't be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ConfigError(f"{path}: pictures are written as .svg or .png, not '.{kind}'.")
    if kind == "svg":
        write_atomically(path, (clean_svg(_render_svg(figure)) + "\n").encode())
        return
    stream = io.BytesIO()
    with _rendering():
        figure.savefig(stream, format="png", dpi=_UNITS * _PNG_SCALE, metadata={"Software": None})
    write_atomically(path, stream.getvalue())


def _render_svg(figure: Figure) -> str:
    stream = io.StringIO()
    with _rendering():
        figure.savefig(stream, format="svg", dpi=_UNITS)
    return stream.getvalue()


@contextmanager
def _rendering() -> Iterator[None]:
    """Use our own settings, independent of matplotlibrc; missing letters are drawn as boxes without a warning."""
    with matplotlib.rc_context(_SETTINGS), _missing_letters_allowed():
        yield


@contextmanager
def _missing_letters_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph.*missing from")
        warnings.filterwarnings("ignore", message=r".*Matplotlib currently does not support.*")
        yield
