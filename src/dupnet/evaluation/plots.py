"""Curves of one or several detectors on the same photos, drawn by matplotlib (`pip install 'dupnet[report]'`).

`save` writes one picture with all panels; `panels` gives each panel as SVG text for the report. Colours differ in
lightness as well as in hue (Okabe and Ito's palette), and every detector has its own line style and marker besides.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from dupnet.errors import DataError
from dupnet.evaluation.matching import FALSE_POSITIVES_PER_PHOTO, Flags, Floats
from dupnet.evaluation.outcome import Curve, Outcome, check_comparable
from dupnet.files import whole

SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0558f", "#8a6d00", "#3a9bd0", "#6b4fa0", "#4d4d4d")
INK, MUTED, GRID, PAPER = "#1c2127", "#5a6470", "#dde2e7", "#fefefe"
"""Colours on paper. No two are equal, so that the report can put its own in their place (`panels`)."""

_DASHES = ((0, ()), (0, (5, 2)), (0, (6, 2, 1.2, 2)), (0, (1.5, 1.5)), (0, (8, 2, 1.2, 2, 1.2, 2)), (0, (3, 1)), (0, (10, 3)), (0, (2, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
MAX_DETECTORS = len(SERIES)

SUFFIXES = (".png", ".svg")
"""What `save` can write."""

PANEL_INCHES = (5.6, 3.9)
"""Of a panel in the report: small, so that its text stays legible where a telephone shrinks it."""

POINTS = 400
"""Of a drawn curve, at most: more than there are pixels."""

Panel = tuple[str, str, Callable[[Axes], None]]
"""Key, what it shows in words, and what draws it."""


LOWEST_PX = 8
"""Lower faces share one class: few detectors find any."""


def height_edges(heights: Floats) -> Floats:
    """Borders of the classes of face heights in pixels, half octaves apart.

    All faces below `LOWEST_PX` are one class, whose lower border stands for 0.
    """
    low = np.log2(LOWEST_PX) - 0.5 if heights.min() < LOWEST_PX else np.floor(np.log2(heights.min()))
    edges: Floats = 2.0 ** np.arange(low, np.floor(np.log2(max(heights.max(), LOWEST_PX))) + 1.25, 0.5)
    return edges


def rate_by_height(outcome: Outcome, edges: Floats) -> tuple[Floats, Floats]:
    """How many valid faces there are between each two edges, and which part of them the operating point finds (NaN of none)."""
    heights, found = heights_found(outcome)
    heights = np.maximum(heights, edges[0])
    total, hits = (np.histogram(values, edges)[0].astype(np.float64) for values in (heights, heights[found]))
    return total, np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0)


def heights_found(outcome: Outcome) -> tuple[Floats, Flags]:
    """Heights in pixels of the photo of all valid faces, and whether the operating point finds them."""
    heights = [np.zeros(0), *(p.faces[p.valid, 3] - p.faces[p.valid, 1] for p in outcome.photos)]
    found = [np.zeros(0, bool), *(p.found_at[p.valid] >= outcome.limit for p in outcome.photos)]
    return np.concatenate(heights), np.concatenate(found)


def figures(outcomes: Sequence[Outcome]) -> list[Panel]:
    """The panels of a comparison.

    Raises:
        DataError: the detectors were not measured on the same faces, or they are too many to tell apart.
    """
    check_comparable(outcomes)
    check_count(len(outcomes))
    result: list[Panel] = []
    for number, curve in enumerate(outcomes[0].curves):
        curves = [outcome.curves[number] for outcome in outcomes]
        if curve.name == outcomes[0].leading or curve.is_sum:
            what = f"Overlaps, {curve.name}," if curve.is_sum else f"Detection rate of the {curve.name} faces"
            result.append((f"roc-{number}", f"{what} against false positives", partial(_roc, outcomes=outcomes, curves=curves)))
    result.append(("height", "Detection rate by face height", partial(_height, outcomes=outcomes)))
    for number, curve in enumerate(outcomes[0].curves):
        curves = [outcome.curves[number] for outcome in outcomes]
        if not curve.is_sum:
            title = f"Precision and recall, {curve.name} faces ({curve.faces:,})"
            result.append((f"pr-{number}", title, partial(_precision_recall, outcomes=outcomes, curves=curves)))
    return result


def panels(outcomes: Sequence[Outcome], colour: Callable[[str], str]) -> list[tuple[str, str, str]]:
    """Each panel's key, title and SVG element, to stand inside an HTML page: without size, ids of its own, nothing external.

    Args:
        colour: what to write for a colour of this module, such as a CSS variable.
    """
    result = []
    for key, title, draw in figures(outcomes):
        with house_style():
            figure = Figure(figsize=PANEL_INCHES, layout="constrained")
            draw(figure.add_subplot())
            result.append((key, title, _inline(_svg(figure), key, title, colour)))
    return result


def save(outcomes: Sequence[Outcome], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Write all panels as one picture, PNG or SVG by the suffix. The file appears whole or not at all.

    Raises:
        DataError: another suffix, detectors that do not compare, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    drawn = figures(outcomes)
    columns = 3
    rows = -(-len(drawn) // columns)
    with house_style():
        figure = Figure(figsize=(5.2 * columns, 3.9 * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (_, name, draw) in zip(grid, drawn):
            draw(axes)
            axes.set_title(name)
        for axes in grid[len(drawn) :]:
            axes.set_axis_off()
        figure.legend(handles=[_handle(n, o) for n, o in enumerate(outcomes)], loc="outside lower center", ncols=4, fontsize=11)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        write(figure, path)


def write(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG by the suffix. The file appears whole or not at all; equal figures give equal files.

    Raises:
        DataError: another suffix, or the file cannot be written.
    """
    check_suffix(path)
    kind = path.suffix.lower()[1:]
    try:
        with whole(path) as part:
            figure.savefig(part, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_count(detectors: int) -> None:
    """Refuse more detectors than can be told apart.

    Raises:
        DataError: says how many can.
    """
    if detectors > MAX_DETECTORS:
        raise DataError(f"{MAX_DETECTORS} detectors can be told apart in one plot, not {detectors}")


def check_suffix(path: Path) -> None:
    """Refuse a file that `save` cannot write."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: the name of a plot must end in one of {' '.join(SUFFIXES)}")


def key_symbol(number: int, colour: Callable[[str], str]) -> str:
    """A short sample of a detector's line and marker for keys outside the plots: an SVG `symbol` with the id `key-NUMBER`."""
    with house_style():
        figure = Figure(figsize=(0.5, 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], **_line(number), **_mark(number), markevery=[1], clip_on=False)
        axes.set_xlim(-0.1, 2.1)
        svg = _inline(_svg(figure), f"key-{number}", "", colour)
    return svg.replace('<svg aria-hidden="true"', f'<symbol id="key-{number}"', 1).replace("</svg>", "</symbol>")


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return text.getvalue()


def house_style() -> AbstractContextManager[None]:
    """matplotlib's own defaults, whatever the user's are, and ours; the fixed salt makes equal plots equal files."""
    ours: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dupnet",
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "axes.labelcolor": INK,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
        "figure.facecolor": PAPER,
    }
    context: AbstractContextManager[None] = style.context(ours, after_reset=True)
    return context


def _line(number: int) -> dict[str, Any]:
    return {"color": SERIES[number], "linestyle": _DASHES[number], "linewidth": 1.9}


def _mark(number: int) -> dict[str, Any]:
    return {
        "marker": _MARKERS[number],
        "markersize": 6.5,
        "markeredgecolor": PAPER,
        "markeredgewidth": 1.0,
        "markerfacecolor": SERIES[number],
    }


def _handle(number: int, outcome: Outcome) -> Line2D:
    return Line2D([], [], label=outcome.detector, **_line(number), **_mark(number))


def _roc(axes: Axes, outcomes: Sequence[Outcome], curves: Sequence[Curve]) -> None:
    photos = outcomes[0].counted
    low = 10 ** np.floor(np.log10(min(1 / photos, FALSE_POSITIVES_PER_PHOTO / 10)))
    most = max(float(curve.false_positives.max(initial=1)) / photos for curve in curves)
    high = 10 ** np.clip(np.ceil(np.log10(most)), 0, 2)
    for number, curve in enumerate(curves):
        x = np.maximum(curve.false_positives / photos, low)
        keep = _thin(np.log10(x))
        axes.plot(x[keep], np.maximum.accumulate(curve.recall)[keep], drawstyle="steps-post", **_line(number))
        recall, _ = curve.best(outcomes[0].allowed)
        axes.plot([FALSE_POSITIVES_PER_PHOTO], [recall], linestyle="none", **_mark(number), zorder=5)
    axes.axvline(FALSE_POSITIVES_PER_PHOTO, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    text = f"operating point: {FALSE_POSITIVES_PER_PHOTO:g} ({int(outcomes[0].allowed):,} in all)"
    axes.annotate(text, (FALSE_POSITIVES_PER_PHOTO, 0.0), (4, 4), textcoords="offset points", color=MUTED, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    _parts(axes, "false positives per photo", "sum of overlaps / faces" if curves[0].is_sum else "detection rate")


def _precision_recall(axes: Axes, outcomes: Sequence[Outcome], curves: Sequence[Curve]) -> None:
    for number, curve in enumerate(curves):
        if len(curve.limits):
            keep = _thin(curve.recall)
            axes.plot(curve.recall[keep], curve.precision[keep], **_line(number))
        limit = outcomes[number].limit
        if curve.name == outcomes[number].leading and limit < np.inf:
            recall, _ = curve.best(outcomes[0].allowed)
            at = int(np.flatnonzero(curve.limits == limit)[0])
            axes.plot([recall], [curve.precision[at]], linestyle="none", **_mark(number), zorder=5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator(list(np.linspace(0, 1, 6))))
    _parts(axes, "recall", "precision")


def _height(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    heights, _ = heights_found(outcomes[0])
    edges = height_edges(heights)
    middles = np.sqrt(edges[1:] * edges[:-1])
    total, _ = rate_by_height(outcomes[0], edges)
    floor, room = -0.36, 0.22  # below zero stand the bars: how many faces each point rests on
    axes.bar(
        edges[:-1], total / total.max() * room, np.diff(edges), floor, align="edge", color=MUTED, edgecolor=PAPER, alpha=0.45, zorder=2
    )
    for middle, count in zip(middles, total):
        if count:
            top = (middle, floor + count / total.max() * room)
            axes.annotate(f"{count:,.0f}", top, (0, 2), textcoords="offset points", ha="center", color=MUTED, fontsize=8)
    for number, outcome in enumerate(outcomes):
        _, rate = rate_by_height(outcome, edges)
        some = total > 0
        axes.plot(middles[some], rate[some], **_line(number), **_mark(number))
    axes.axhline(0, color=MUTED, linewidth=0.8)
    _parts(axes, "height of the face in the photo, pixels; bars: number of faces", "detection rate")
    axes.set_ylim(floor, 1.04)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    pooled = edges[0] < LOWEST_PX
    ticks = edges[3::2] if pooled else edges[::2]
    labels = [f"{edge:g}" for edge in ticks]
    axes.set_xticks([*middles[:1], *ticks] if pooled else ticks, [f"<{LOWEST_PX}", *labels] if pooled else labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(False, axis="x")


def _parts(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_locator(FixedLocator(list(np.linspace(0, 1, 6))))
    axes.tick_params(length=0, pad=5)


def _thin(x: Floats) -> NDArray[np.intp]:
    """Indices of at most `POINTS` points and the last, evenly over an ascending axis; of those that fall together the last."""
    if len(x) == 0:
        return np.zeros(0, np.intp)
    steps = np.linspace(x[0], x[-1], POINTS)
    return np.unique(np.concatenate([np.searchsorted(x, steps, side="right") - 1, [len(x) - 1]]))


_DOCUMENT = re.compile(
    r'<\?xml.*?\?>|<!DOCTYPE[^>]*>|<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>|<!--.*?-->| xmlns(:\w+)?="[^"]*"', re.DOTALL
)
"""What a document has and an element of a page must not."""
_COLOUR = re.compile("#[0-9a-f]{6}")


def _inline(svg: str, key: str, title: str, colour: Callable[[str], str]) -> str:
    """A document of matplotlib as an element of an HTML page that may hold several."""
    svg = _DOCUMENT.sub("", svg)
    used = set(re.findall(r'url\(#([\w-]+)\)|href="#([\w-]+)"', svg))
    names = {name for pair in used for name in pair if name}
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in names else "", svg)
    svg = re.sub(r'(url\(#|href="#)([\w-]+)', rf"\1{key}-\2", svg)
    label = f'role="img" aria-label="{html.escape(title)}"' if title else 'aria-hidden="true"'
    svg = re.sub(r"<svg[^>]*?viewBox", f"<svg {label} viewBox", svg, count=1, flags=re.DOTALL)
    return _COLOUR.sub(lambda m: colour(m[0]), svg).strip()
