"""The style of all plots: themes, figures, axes, and labels beside points.

Figures are light unless they are drawn inside `theme("dark")`. `to_svg` turns a light one into
an SVG that follows the reader's colour scheme, which is what a notebook shows. The series have the
hues of Okabe and Ito (https://jfly.uni-koeln.de/color), at lightnesses that remain distinct under
every kind of colour blindness and contrast with the background; markers differ as well. Tests
measure both.
"""

import contextlib
import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from keras_efficientnet.errors import InputError

MARKERS = ("o", "s", "^", "D")
PHOTOGRAPHS_DPI = 72  # in notebooks
# Used where Matplotlib's own font lacks the script of a class name.
_FONTS = ("Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS")


@dataclass(frozen=True)
class Theme:
    """Colours by role, all different, as hexadecimal codes.

    Attributes:
        surface: background.
        ink: text.
        muted: axes and secondary text.
        grid: lines in the background.
        peers: data for comparison.
        on_series: text on top of a series' colour.
        series: up to four kinds of data, in the order of `MARKERS`.
    """

    surface: str
    ink: str
    muted: str
    grid: str
    peers: str
    on_series: str
    series: tuple[str, str, str, str]

    def codes(self) -> dict[str, str]:
        """Returns all colours by name; the series as `series0` and so on."""
        names = ("surface", "ink", "muted", "grid", "peers", "on_series")
        named = {name: getattr(self, name) for name in names}
        return named | {f"series{index}": colour for index, colour in enumerate(self.series)}


THEMES = {
    "light": Theme(
        surface="#ffffff",
        ink="#1b1f24",
        muted="#5b636d",
        grid="#e4e7eb",
        peers="#868e98",
        on_series="#fefefe",
        series=("#0068d6", "#f15a0a", "#0b5138", "#9a5c7c"),
    ),
    "dark": Theme(
        surface="#15191e",
        ink="#e9ecef",
        muted="#a6aeb8",
        grid="#2d343c",
        peers="#7c8590",
        on_series="#0b0d10",
        series=("#2a9be0", "#fa8646", "#25795a", "#eabad2"),
    ),
}

_theme: ContextVar[str] = ContextVar("theme", default="light")


@contextlib.contextmanager
def theme(name: str) -> Iterator[None]:
    """A context in which plots have the colours of `THEMES[name]`.

    Examples:
        >>> with theme("dark"):
        ...     figure = learning_curves(rows)

    Raises:
        InputError: if there is no such theme.
    """
    if name not in THEMES:
        raise InputError(f"Unknown theme {name!r}; choose {', '.join(THEMES)}.")
    token = _theme.set(name)
    try:
        yield
    finally:
        _theme.reset(token)


class Picture(Figure):
    """A Matplotlib figure that a notebook shows in the reader's light or dark."""

    theme_name = "light"

    def _repr_svg_(self) -> str | None:
        return to_svg(self)


class Photographs(Picture):
    """A figure of photographs, stored in notebooks as JPEG: an SVG would be many times larger."""

    def _repr_svg_(self) -> None:
        return None

    def _repr_jpeg_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="jpeg", dpi=PHOTOGRAPHS_DPI)
        return content.getvalue()


def to_svg(figure: Figure) -> str:
    """Returns a figure as an SVG image that follows the reader's light or dark colour scheme.

    Used as an image (`<img src=...>`), it takes its colours from the page's colour scheme.
    A figure that was drawn inside `theme("dark")` stays dark.
    """
    content = io.StringIO()
    # Text stays text: it can be searched and read aloud, and the browser has the glyphs.
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": "keras_efficientnet"}
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(options), warnings.catch_warnings():
        # The reader's browser draws the glyphs: a missing one only has its width guessed here.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(content, format="svg", metadata=nothing)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    if getattr(figure, "theme_name", "light") != "light":
        return svg
    light, dark = (THEMES[name].codes() for name in ("light", "dark"))
    names = {code: name for name, code in light.items()}

    def variable(match: re.Match) -> str:
        code = match[0]
        return f"var(--{names[code]}, {code})" if code in names else code

    svg = re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", variable, svg)
    start = svg.index(">") + 1
    changed = "".join(f"--{name}:{code};" for name, code in dark.items())
    style = f"<style>@media (prefers-color-scheme:dark){{svg{{{changed}}}}}</style>"
    return svg[:start] + style + svg[start:]


def drawn(function: Callable[..., Picture]) -> Callable[..., Picture]:
    """Makes a function draw in the theme, whatever Matplotlib style the caller has set."""

    @functools.wraps(function)
    def draw(*args, **options) -> Picture:
        with matplotlib.style.context(["default", _style(colours())]):
            figure = function(*args, **options)
            figure.theme_name = _theme.get()
            for axes in figure.axes:  # Matplotlib makes some ticks only when it draws
                axes.tick_params(
                    colors=colours().muted,
                    length=0,
                    labelfontfamily=matplotlib.rcParams["font.family"],
                )
        return figure

    return draw


def colours() -> Theme:
    """Returns the colours to draw in."""
    return THEMES[_theme.get()]


def _style(used: Theme) -> dict[str, Any]:
    return {
        "font.family": ["DejaVu Sans", *_installed_fonts()],
        "font.size": 9.5,
        "figure.facecolor": used.surface,
        "figure.constrained_layout.use": True,
        "text.color": used.ink,
        "axes.facecolor": used.surface,
        "axes.edgecolor": used.muted,
        "axes.labelcolor": used.ink,
        "axes.titlelocation": "left",
        "axes.titlesize": "medium",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": used.grid,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 6,
        "errorbar.capsize": 3,
    }


@functools.cache
def _installed_fonts() -> tuple[str, ...]:
    installed = set(font_manager.get_font_names())
    return tuple(name for name in _FONTS if name in installed)


def axes_of(width: float, height: float, columns: int = 1) -> tuple[Picture, Any]:
    """Makes a figure of a size in inches, without pyplot, which would keep it in memory."""
    figure = Picture(figsize=(width, height))
    return figure, figure.subplots(1, columns)


def image_grid(rows: int, columns: int, image: np.ndarray) -> tuple[Picture, Any]:
    """Makes a figure for images shaped like this one, and its axes, `[rows][columns]`."""
    height, width = np.shape(image)[:2]
    side = min(1.6 * max(1, width / height), 10 / columns)
    figure = Photographs(figsize=(side * columns, side * height / width * rows + 0.25))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def percent_axis(axes: Axes, which: str) -> None:
    """Puts few and short numbers on the axis `"x"` or `"y"`."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(6, min_n_ticks=3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def log_axis(axes: Axes, which: str) -> None:
    """Makes the axis `"x"` or `"y"` logarithmic, with plain numbers."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def name_points(
    figure: Picture,
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    names: Sequence[str],
    strong: set[int] | None = None,
) -> None:
    """Labels points, so that no label covers another label, point or line.

    Args:
        figure: that the axes belong to.
        axes: with their final limits.
        x: coordinates of the points.
        y: likewise.
        names: of the points; one for which there is no room is left out.
        strong: indices of names in full ink, which are placed first; all if None.
    """
    strong = set(range(len(names))) if strong is None else strong
    if not len(names):
        return
    figure.draw_without_rendering()  # so that places in pixels are known
    taken = _occupied(axes, x, y)
    for index in sorted(range(len(names)), key=lambda index: index not in strong):
        for right, up in _directions():
            text = axes.annotate(
                names[index],
                (x[index], y[index]),
                xytext=(7 * right, 7 * up),
                textcoords="offset points",
                horizontalalignment=("right", "center", "left")[round(right) + 1],
                verticalalignment=("top", "center", "bottom")[round(up) + 1],
                color=colours().ink if index in strong else colours().muted,
                fontsize="medium" if index in strong else "small",
                zorder=5,
                parse_math=False,
            )
            box = text.get_window_extent()
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            others = (other for place, other in enumerate(taken) if place != index)
            if inside and not any(box.overlaps(other) for other in others):
                taken.append(box)
                break
            text.remove()


def _occupied(axes: Axes, x: np.ndarray, y: np.ndarray) -> list[Bbox]:
    """Returns the boxes in pixels that the points, in order, and then the lines cover."""
    places = axes.transData.transform(np.column_stack([x, y]))
    boxes = [Bbox.from_bounds(a - 4, b - 4, 8, 8) for a, b in places]
    for line in axes.lines:
        if line.get_linestyle() != "None":
            path = line.get_path().interpolated(20)  # in steps shorter than a name
            corners = axes.transData.transform(path.vertices)
            boxes += [Bbox.from_bounds(a - 1, b - 1, 2, 2) for a, b in corners]
    return boxes


def _directions() -> Iterator[tuple[float, float]]:
    """Yields the directions in which a label may stand from its point, the best first."""
    for angle in (135, -45, 180, 0, 90, -90, 45, -135):
        yield math.cos(math.radians(angle)), math.sin(math.radians(angle))
