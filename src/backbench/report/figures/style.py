"""How all pictures look: colours by role, type, margins; and how they become files that are the same every time.

Pictures are laid out in pixels from the upper left corner, on a canvas that covers the figure (`canvas`); what has
axes of numbers gets a panel on it (`add_panel`). Type is 13 and 16 pixels.
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
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FuncFormatter, MaxNLocator

from backbench.errors import ConfigError
from backbench.report.figures.svg import clean_svg
from backbench.report.text import printable, shorten
from backbench.storage import write_atomically

Theme = Literal["light", "dark"]
Look = Mapping[str, str]

SMALL, LARGE = 13, 16
MARGIN = 24.0
LINE = 20.0  # from one line of small text to the next
FORMATS = ("svg", "png")
NUM_STEPS = 7
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

# Families that are taken, where installed, for letters the bundled one lacks.
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
    """A figure of width x height pixels (whole ones) in the page's colour, with an empty canvas."""
    width, height = math.ceil(width), math.ceil(height)
    figure = Figure(figsize=(width / _UNITS, height / _UNITS), dpi=_UNITS, facecolor=find_look(theme)["page"])
    add_layer(figure)
    return figure


def add_layer(figure: Figure) -> Axes:
    """Axes in pixels from the upper left corner, above all there is so far."""
    width, height = figure_size(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes


def canvas(figure: Figure) -> Axes:
    """The axes that cover the figure, in pixels from its upper left corner."""
    return figure.axes[0]


def figure_size(figure: Figure) -> tuple[float, float]:
    """Width and height in pixels."""
    width, height = figure.get_size_inches()
    return float(width) * _UNITS, float(height) * _UNITS


def add_panel(
    figure: Figure, box: tuple[float, float, float, float], look: Look, *, grid: Literal["x", "y", "both"] = "y"
) -> Axes:
    """Axes for numbers at (left, top, width, height) in pixels: thin lines, muted figures, no frame."""
    left, top, width, height = box
    full_width, full_height = figure_size(figure)
    place = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    with matplotlib.rc_context(_SETTINGS):  # the ticks are made here
        axes = figure.add_axes(place, facecolor="none")
    axes.grid(True, axis=grid, color=look["rule"], linewidth=1)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=look["other"], linewidth=1)
    axes.tick_params(length=0, pad=6, labelsize=SMALL, labelcolor=look["muted"], labelfontfamily=font_families())
    return axes


def scale_percent(axes: Axes, which: Literal["x", "y"], low: float, high: float, num_ticks: int = 5) -> None:
    """An axis of fractions from low to high that shows whole or half percents."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(MaxNLocator(num_ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.4g}"))


def write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    size: int = SMALL,
    bold: bool = False,
    align: Literal["left", "center", "right"] = "left",
    valign: Literal["baseline", "center", "top", "bottom"] = "baseline",
    rotation: float = 0,
) -> Text:
    """Text at a point of the axes, taken literally: no markup, dollar signs are dollar signs."""
    return axes.text(
        x,
        y,
        text,
        color=colour,
        fontsize=size,
        fontweight="bold" if bold else "normal",
        fontfamily=list(font_families()),
        ha=align,
        va="center_baseline" if valign == "center" else valign,
        rotation=rotation,
        rotation_mode="anchor",
        parse_math=False,
        usetex=False,
        zorder=5,
    )


def header_height(title: str, subtitle: str) -> float:
    """Pixels that `write_header` takes, the margin above included."""
    return MARGIN + (24 if title else 0) + (LINE if subtitle else 0) + (12 if title or subtitle else 0)


def write_header(figure: Figure, look: Look, title: str, subtitle: str) -> None:
    """Title and subtitle in the upper left corner, each on one line."""
    room, y = figure_size(figure)[0] - 2 * MARGIN, MARGIN
    if title:
        y += LARGE
        write(
            canvas(figure), MARGIN, y, fit_text(title, room, LARGE, bold=True), look["text"], size=LARGE, bold=True
        )
        y += 8
    if subtitle:
        write(canvas(figure), MARGIN, y + SMALL, fit_text(subtitle, room), look["muted"])


@cache
def font_families() -> tuple[str, ...]:
    """The bundled family, then those of this machine that have more letters."""
    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(family for family in _MORE_FAMILIES if family in installed))


@lru_cache(maxsize=8192)
def text_width(text: str, size: int = SMALL, bold: bool = False) -> float:
    """Pixels that `text` takes in one line; in a browser's own font usually a little less."""
    font = FontProperties(family=list(font_families()), size=size, weight="bold" if bold else "normal")
    with _missing_letters_allowed():
        return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0])


def fit_text(text: str, width: float, size: int = SMALL, *, bold: bool = False) -> str:
    """`text` on one line of at most `width` pixels, the middle left out where it is longer."""
    text = shorten(printable(text.strip()), 400)
    for columns in range(max(1, int(2 * width / size)), 0, -1):
        shown = shorten(text, columns)
        if text_width(shown, size, bold) <= width:
            return shown
    return ""


def widest(texts: Sequence[str], limit: float) -> float:
    """Pixels of the widest of the texts in small type, at most `limit`; 0 without any."""
    return min(limit, max((text_width(shorten(printable(text.strip()), 200)) for text in texts), default=0.0))


def add_boxes(axes: Axes, boxes: np.ndarray, colour: str, *, edge: str = "none", width: float = 0) -> None:
    """(n, 4) boxes (left, top, width, height), all as one shape, so that thousands stay one element."""
    if not len(boxes):
        return
    left, top, wide, high = np.asarray(boxes, dtype=np.float64).T
    corners = np.stack(
        [[left, top], [left + wide, top], [left + wide, top + high], [left, top + high], [left, top]], axis=-1
    ).transpose(1, 2, 0)
    codes = np.tile([Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY], len(boxes))
    outline = Outline(corners.reshape(-1, 2), codes.astype(Outline.code_type))
    axes.add_patch(PathPatch(outline, facecolor=colour, edgecolor=edge, linewidth=width))


def add_marks(
    axes: Axes,
    points: Sequence[tuple[float, float]] | np.ndarray,
    shape: str,
    fill: str,
    edge: str = "",
    *,
    size: float = 8,
    edge_width: float = 1,
    alpha: float = 1.0,
    zorder: float = 3,
) -> None:
    """A mark at each of (n, 2) points, whole also at the edge of the axes; `edge`: its outline, or as `fill`."""
    x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
    axes.plot(
        x,
        y,
        linestyle="none",
        marker=shape,
        markersize=size,
        markerfacecolor=fill,
        markeredgecolor=edge or fill,
        markeredgewidth=edge_width,
        alpha=alpha,
        zorder=zorder,
        clip_on=False,
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write it as SVG or PNG (twice the pixels), by suffix; the same figure gives the same bytes.

    Raises:
        ConfigError: another suffix. StorageError: it can't be written.
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
    """Settings of its own, whatever a matplotlibrc says; letters that no font has are drawn as boxes, silently."""
    with matplotlib.rc_context(_SETTINGS), _missing_letters_allowed():
        yield


@contextmanager
def _missing_letters_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph.*missing from")
        warnings.filterwarnings("ignore", message=r".*Matplotlib currently does not support.*")
        yield
