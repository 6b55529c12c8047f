"""Charts drawn by matplotlib: one style, sizes in pixels at 72 to the inch, the same bytes for the same data.

A chart has two widths: ``NARROW_PX`` fits a phone, ``WIDE_PX`` a page. Only forests differ between the two: a wide one
has its labels and numbers beside the picture, a narrow one above.
"""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histotune.report.charts import (
    AMBER,
    BLUE,
    GREY,
    INK,
    PALE_BLUE,
    PAPER,
    RULE,
    CalibrationChart,
    Curves,
    Forest,
    Grid,
    PointMap,
    RankLine,
)
from histotune.report.words import number
from histotune.tools.marks import SYNTHETIC
from histotune.tools.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from histotune.report.charts import Axis, Chart, DrawnEstimate, ForestRow, Line, Look, MapKind

NARROW_PX, WIDE_PX = 352.0, 760.0
PX_PER_INCH = 72.0
MARKERS = {"disc": "o", "circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
DASHES = {"solid": "-", "dashed": (0, (5, 3)), "dotted": (0, (1.2, 2)), "longdash": (0, (8, 3, 2, 3))}
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.9,
    "axes.labelsize": 11.0,
    "axes.labelcolor": INK,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
    "legend.handlelength": 1.9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "histotune",
    "path.simplify": True,
}
FEW_TILES = 10
MOST_MARKERS = 300
FLAG_ID = "synthetic-flag"
"""The element of a picture that says SYNTHETIC; a page whose banner says so leaves it out."""
MOST_LABEL_CHARS = 40


@contextmanager
def chart_style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's own settings of matplotlib are."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        # A browser has its own fonts: a sign that this one lacks is text in the picture and is shown all the same.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        mpl.rcdefaults()
        settings: dict[Any, Any] = STYLE  # matplotlib knows its settings by name; the checker wants each of them
        mpl.rcParams.update(settings)
        yield


def draw_chart(chart: Chart, width_px: float = NARROW_PX) -> Drawing:
    """Draw a chart.

    Args:
        chart: What it shows.
        width_px: Its width, at 72 pixels to the inch.

    Returns:
        A matplotlib figure that belongs to no window.
    """
    with chart_style():
        match chart:
            case Forest():
                return _forest(chart, width_px)
            case Curves():
                return _curves(chart, width_px)
            case CalibrationChart():
                return _calibration(chart, width_px)
            case PointMap():
                return _point_map(chart, width_px)
            case Grid():
                return _grid(chart, width_px)
            case RankLine():
                return _rank_line(chart, width_px)
            case _:
                raise TypeError(f"no drawing for a {type(chart).__name__}")


def _canvas(chart: Chart, width_px: float, height_px: float) -> Drawing:
    """An empty figure with its heading, and SYNTHETIC at its right so that a cut-out picture still says it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_px / PX_PER_INCH, height_px / PX_PER_INCH), dpi=PX_PER_INCH)
    top = 1.0 - 4.0 / height_px
    figure.text(4.0 / width_px, top, plain_text(chart.title), va="top", ha="left", fontsize=12.5, fontweight="bold")
    if chart.synthetic:
        flag: dict[str, Any] = {"va": "top", "ha": "right", "fontsize": 9.0, "fontweight": "bold", "color": AMBER}
        figure.text(1.0 - 4.0 / width_px, top, SYNTHETIC, gid=FLAG_ID, **flag)
    return figure


def plain_text(text: str) -> str:
    """Return text that matplotlib doesn't read as mathematics, on one line, without signs that no picture can hold."""
    return one_line(text).replace("$", r"\$")


def shortened(label: str, most: int) -> str:
    """A label that leaves room for the numbers; the whole of it stands in the table and in the alternative text."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _plot(figure: Drawing, left_px: float, top_px: float, width_px: float, height_px: float) -> Axes:
    """Axes at a place in pixels from the upper left corner."""
    full_width, full_height = figure.get_size_inches() * PX_PER_INCH
    place = (left_px / full_width, 1.0 - (top_px + height_px) / full_height, width_px / full_width)
    return figure.add_axes((*place, height_px / full_height))


# ------------------------------------------------------------------------------
# Forests: estimates with intervals under one another.


@dataclass(frozen=True)
class Place:
    """Where a row of a forest stands, in pixels from the top, and whether it says what it was measured on."""

    top_px: float
    height_px: float
    says_n: bool


def _places(rows: Sequence[ForestRow], *, wide: bool) -> list[Place]:
    """A row says what it was measured on only where that differs from the row above."""
    places, at_px, before = [], 0.0, ""
    for row in rows:
        says_n = bool(row.n) and row.n != before
        before = row.n
        at_px += 27.0 if row.section else 0.0
        height_px = (31.0 if says_n else 23.0) if wide else (54.0 if says_n else 42.0)
        places.append(Place(at_px, height_px, says_n))
        at_px += height_px
    return places


def _forest(chart: Forest, width_px: float) -> Drawing:
    """Rows lie in pixels from the top, so that labels and estimates share their heights."""
    wide = width_px >= WIDE_PX
    places = _places(chart.rows, wide=wide)
    rows_px = places[-1].top_px + places[-1].height_px
    figure = _canvas(chart, width_px, 28.0 + rows_px + 32.0)
    left_px, right_px = (width_px * 0.36, width_px * 0.24) if wide else (8.0, 8.0)
    plot_px = width_px - left_px - right_px
    axes = _plot(figure, left_px, 28.0, plot_px, rows_px)
    axes.set_xlim(*chart.axis)
    axes.set_ylim(rows_px, 0.0)
    _forest_frame(chart, axes)
    sides = ((4.0 - left_px) / plot_px, 1.0 + (right_px - 4.0) / plot_px)
    for row, place in zip(chart.rows, places, strict=True):
        _forest_row(chart, row, axes, place, sides, wide=wide)
    return figure


def _forest_frame(chart: Forest, axes: Axes) -> None:
    """The lower axis, quiet lines at its ticks, the dashed line of the reference."""
    axes.spines["left"].set_visible(False)
    axes.yaxis.set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="x", length=3.0)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(lambda tick, _: _signed_tick(tick) if chart.signed else f"{tick:.3g}")
    if math.isfinite(chart.reference):
        axes.axvline(chart.reference, color=GREY, linewidth=1.1, linestyle=DASHES["dashed"], zorder=1)


def _signed_tick(tick: float) -> str:
    text = f"{tick:+.3g}" if abs(tick) > 1e-12 else "0"
    return text.replace("-", "−")


def _forest_row(
    chart: Forest, row: ForestRow, axes: Axes, place: Place, sides: tuple[float, float], *, wide: bool
) -> None:
    """Label, numbers and the estimate itself; ``sides`` are where labels begin and numbers end, in the plot's width."""
    across = axes.get_yaxis_transform()
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}  # the dashed line doesn't cross out a name
    kept: dict[str, Any] = {"transform": across, "va": "center", "bbox": behind}
    if row.section:
        said = shortened(row.section, 90 if wide else 50)
        look: dict[str, Any] = {"fontsize": 10.5, "fontweight": "bold", "color": GREY}
        axes.text(sides[0], place.top_px - 12.0, plain_text(said), ha="left", **look, **kept)
    middle_px = place.top_px + place.height_px / 2
    label_px = middle_px - (6.0 if place.says_n else 0.0) if wide else place.top_px + 13.0
    label = shortened(row.label, MOST_LABEL_CHARS if wide else 29)
    weight = "bold" if row.strong else "normal"
    axes.text(sides[0], label_px, plain_text(label), ha="left", fontsize=11.5, fontweight=weight, **kept)
    number_px = middle_px if wide else place.top_px + 13.0
    axes.text(sides[1], number_px, row.estimate.words(signed=chart.signed), ha="right", fontsize=11.5, **kept)
    if place.says_n:
        n_px = label_px + (13.0 if wide else 31.0)
        axes.text(sides[0], n_px, f"n = {row.n}", ha="left", fontsize=9.5, color=GREY, **kept)
    _mark_estimate(axes, row.estimate, middle_px if wide else place.top_px + 29.0, row.look, strong=row.strong)


def _mark_estimate(axes: Axes, estimate: DrawnEstimate, y: float, look: Look, *, strong: bool) -> None:
    """A marker and its interval; nothing where the value is missing."""
    if math.isnan(estimate.value):
        return
    if math.isfinite(estimate.low):
        width = 2.6 if strong else 1.4
        axes.plot([estimate.low, estimate.high], [y, y], color=look.colour, linewidth=width, solid_capstyle="butt")
    axes.plot([estimate.value], [y], **_marker(look, 7.0 if strong else 6.0))


def _marker(look: Look, size: float) -> dict[str, Any]:
    """How a marker is drawn; ``disc`` and ``diamond`` are filled, the others hollow."""
    fill = look.colour if look.shape in ("disc", "diamond") else PAPER
    return {
        "marker": MARKERS[look.shape],
        "markersize": size,
        "markerfacecolor": fill,
        "markeredgecolor": look.colour,
        "markeredgewidth": 1.4,
        "linestyle": "none",
    }


# ------------------------------------------------------------------------------
# Curves, and calibration.


def _curves(chart: Curves, width_px: float) -> Drawing:
    square = chart.diagonal or chart.y.limits == chart.x.limits
    plot_px = width_px - 62.0
    keys = [line for line in chart.lines if line.label]
    key_px = 16.0 * len(keys) + (8.0 if keys else 0.0)
    height_px = plot_px if square else 0.62 * plot_px
    figure = _canvas(chart, width_px, 30.0 + height_px + 46.0 + key_px)
    axes = _plot(figure, 52.0, 30.0, plot_px, height_px)
    axes.grid(visible=True, axis="y")
    if chart.diagonal:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.1, linestyle=DASHES["dashed"])
    if math.isfinite(chart.reference):
        axes.axhline(chart.reference, color=GREY, linewidth=1.1, linestyle=DASHES["dashed"])
        if chart.reference_label:
            across, label = axes.get_yaxis_transform(), plain_text(chart.reference_label)
            axes.text(1.0, chart.reference, label, transform=across, ha="right", va="bottom", fontsize=9.5, color=GREY)
    for line in chart.lines:
        _draw_line(axes, line)
    _set_axes(axes, chart.x, chart.y)
    if chart.note:
        axes.text(1.0, 0.98, chart.note, transform=axes.transAxes, ha="right", va="top", fontsize=9.5, color=GREY)
    if keys:
        _key(figure, axes, 52.0)
    return figure


def _draw_line(axes: Axes, line: Line) -> None:
    """Band first, so that it hides nothing."""
    if line.band and line.joined:
        x_P, low_P, high_P = zip(*line.band, strict=True)
        axes.fill_between(x_P, low_P, high_P, color=line.look.colour, alpha=0.15, linewidth=0)
    elif line.band:
        for x, low, high in line.band:
            axes.plot([x, x], [low, high], color=line.look.colour, alpha=0.3, linewidth=1.6)
    drawn: dict[str, Any] = {"label": plain_text(shortened(line.label, MOST_LABEL_CHARS))} if line.label else {}
    if line.joined:
        drawn |= {"color": line.look.colour, "linewidth": 1.2 if line.look.thin else 2.1}
        drawn |= {"linestyle": DASHES[line.look.dash]}
        if line.marked:
            drawn |= {key: value for key, value in _marker(line.look, 6.0).items() if key != "linestyle"}
    else:
        drawn |= _marker(line.look, 4.5)
    axes.plot([x for x, _ in line.points], [y for _, y in line.points], **drawn)
    for x, y in line.flagged:
        axes.plot([x], [y], marker="x", color=INK, markersize=5.0)
    for x, y in line.chosen:
        axes.plot([x], [y], marker="o", markersize=12.0, markerfacecolor="none", markeredgecolor=INK)


def _set_axes(axes: Axes, x: Axis, y: Axis) -> None:
    for side, wanted in (("x", x), ("y", y)):
        if wanted.scale == "log":
            getattr(axes, f"set_{side}scale")("log")
        if wanted.limits is not None:
            getattr(axes, f"set_{side}lim")(*wanted.limits)
        if wanted.ticks:
            labels = wanted.tick_labels or [f"{tick:g}" for tick in wanted.ticks]
            getattr(axes, f"set_{side}ticks")(wanted.ticks, labels=labels)
            getattr(axes, f"{side}axis").minorticks_off()
        getattr(axes, f"set_{side}label")(plain_text(wanted.label))


def _key(figure: Drawing, axes: Axes, left_px: float) -> None:
    """The key below the picture, a line each, so that it hides nothing and no name is cut."""
    width_px = figure.get_size_inches()[0] * PX_PER_INCH
    handles, labels = axes.get_legend_handles_labels()
    where = (left_px / width_px - 0.02, 0.0)
    look: dict[str, Any] = {"labelspacing": 0.35, "borderaxespad": 0.1, "bbox_to_anchor": where}
    figure.legend(handles[::-1], labels[::-1], loc="lower left", **look)


def _calibration(chart: CalibrationChart, width_px: float) -> Drawing:
    """Observed share against predicted probability, and under it how many tiles each bin holds."""
    plot_px = width_px - 62.0
    figure = _canvas(chart, width_px, 30.0 + 0.72 * plot_px + 26.0 + 52.0 + 46.0)
    axes = _plot(figure, 52.0, 30.0, plot_px, 0.72 * plot_px)
    axes.grid(visible=True, axis="y")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.1, linestyle=DASHES["dashed"])
    axes.plot(
        [one.mean_probability for one in chart.bins], [one.observed for one in chart.bins], color=BLUE, linewidth=1.2
    )
    for one in chart.bins:
        fill = BLUE if one.n_tiles >= FEW_TILES else PAPER
        axes.plot(
            [one.mean_probability], [one.observed], "o", markersize=6.5, markerfacecolor=fill, markeredgecolor=BLUE
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_ylabel(plain_text(f"Observed share ({shortened(chart.event, 18)})"))
    counts = _plot(figure, 52.0, 30.0 + 0.72 * plot_px + 30.0, plot_px, 44.0)
    counts.set(xlim=(0, 1), ylim=(0, 1.45 * max(one.n_tiles for one in chart.bins)))
    counts.yaxis.set_visible(False)
    counts.spines["left"].set_visible(False)
    for one in chart.bins:
        middle, width = (one.low + one.high) / 2, 0.9 * (one.high - one.low)
        counts.bar([middle], [one.n_tiles], width=width, color=PALE_BLUE)
        counts.text(middle, one.n_tiles, f"{one.n_tiles:,}", ha="center", va="bottom", fontsize=9.0, color=GREY)
    counts.set_xlabel(plain_text(f"Predicted probability of {shortened(chart.event, 18)}; tiles per bin"))
    return figure


# ------------------------------------------------------------------------------
# Maps, grids and ranks.


def _point_map(chart: PointMap, width_px: float) -> Drawing:
    plot_px = width_px - 40.0
    key_px = 16.0 * len(chart.kinds) + 8.0
    figure = _canvas(chart, width_px, 30.0 + 0.85 * plot_px + 26.0 + key_px)
    axes = _plot(figure, 30.0, 30.0, plot_px, 0.85 * plot_px)
    few = sum(len(kind.points) for kind in chart.kinds) <= MOST_MARKERS
    for kind in chart.kinds:
        drawn = kind.points if few else kind.points[:1]
        at = {"label": plain_text(kind.label), **_marker(kind.look, 5.0 if few else 3.2)}
        axes.plot([x for x, _ in drawn], [y for _, y in drawn], **at)
        if not few:
            _add_dots(axes, kind)
    axes.autoscale_view()
    axes.set(xticks=[], yticks=[], xlabel=chart.across, ylabel=chart.up)
    _key(figure, axes, 30.0)
    return figure


def _add_dots(axes: Axes, kind: MapKind) -> None:
    """Draw many points as one path, some twenty bytes a point: strokes without length show their round caps alone."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [point for point in kind.points for _ in range(2)]
    path = Path(corners, [Path.MOVETO, Path.LINETO] * len(kind.points))
    hollow = kind.look.shape not in ("disc", "diamond")
    for colour, width in ((kind.look.colour, 4.0), (PAPER, 1.8))[: 2 if hollow else 1]:
        axes.add_patch(PathPatch(path, facecolor="none", edgecolor=colour, linewidth=width, capstyle="round"))


CELL_INK = "#1a1a1a"
"""Ink on a coloured cell, which is as pale on a dark page: no variable of the style sheet."""


def _grid(chart: Grid, width_px: float) -> Drawing:
    """A cell is pale blue at the lower limit and deeper at the upper one; black text stays readable on both."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex
    from matplotlib.patches import Rectangle

    shades = LinearSegmentedColormap.from_list("cells", ["#f4f9fc", "#7fb8da"])
    row_px, left_px = 48.0, 84.0
    figure = _canvas(chart, width_px, 62.0 + row_px * len(chart.rows) + 8.0)
    axes = _plot(figure, left_px, 62.0, width_px - left_px - 4.0, row_px * len(chart.rows))
    axes.set(xlim=(0, len(chart.columns)), ylim=(len(chart.rows), 0))
    axes.set_xticks([c + 0.5 for c in range(len(chart.columns))], labels=[plain_text(name) for name in chart.columns])
    axes.set_yticks(
        [r + 0.5 for r in range(len(chart.rows))], labels=[plain_text(shortened(name, 12)) for name in chart.rows]
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel(chart.across)
    axes.xaxis.set_label_position("top")
    for spine in axes.spines.values():
        spine.set_visible(False)
    low, high = chart.limits
    for r, row in enumerate(chart.cells):
        for c, cell in enumerate(row):
            value = cell.estimate.value
            share = min(max((value - low) / (high - low), 0.0), 1.0) if math.isfinite(value) else 0.0
            fill = to_hex(shades(share)) if math.isfinite(value) else "#ececec"
            edge = CELL_INK if cell.framed else "none"
            axes.add_patch(Rectangle((c + 0.02, r + 0.04), 0.96, 0.92, facecolor=fill, edgecolor=edge, linewidth=1.6))
            _cell_text(axes, cell.estimate, c + 0.5, r + 0.5)
    return figure


def _cell_text(axes: Axes, estimate: DrawnEstimate, x: float, y: float) -> None:
    if math.isnan(estimate.value):
        axes.text(x, y, "n. e.", ha="center", va="center", fontsize=10.0, color="#4a4a4a")
        return
    known = math.isfinite(estimate.low)
    up = y - (0.14 if known else 0.0)
    axes.text(x, up, number(estimate.value), ha="center", va="center", fontsize=11.0, color=CELL_INK)
    if known:
        ends = f"{estimate.low:.2f}–{estimate.high:.2f}"
        axes.text(x, y + 0.22, ends, ha="center", va="center", fontsize=9.0, color="#3a3a3a")


def _rank_line(chart: RankLine, width_px: float) -> Drawing:
    n_arms, n_bars = len(chart.names), len(chart.cliques)
    bars_px = 32.0 + 9.0 * n_bars
    figure = _canvas(chart, width_px, 34.0 + bars_px + 27.0 * n_arms + 34.0)
    axes = _plot(figure, 12.0, 34.0, width_px - 24.0, bars_px + 27.0 * n_arms)
    axes.set(xlim=(1.0, float(n_arms)), ylim=(bars_px + 27.0 * n_arms, 0.0))
    axes.set_xticks(range(1, n_arms + 1))
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    reach = 1.0 + min(chart.critical_difference, n_arms - 1.0)
    axes.plot([1.0, reach], [12.0, 12.0], color=GREY, linewidth=1.2, clip_on=False)
    said = f" critical difference {chart.critical_difference:.2f}"
    axes.text(1.0, 8.0, said, fontsize=9.5, color=GREY, va="bottom", ha="left")
    for place, (first, last) in enumerate(chart.cliques):
        ends = chart.ranks[first] - 0.04, chart.ranks[last] + 0.04
        axes.plot(ends, [26.0 + 9.0 * place] * 2, color=BLUE, linewidth=3.0, clip_on=False)
    for place, (name, rank) in enumerate(zip(chart.names, chart.ranks, strict=True)):
        y = bars_px + 27.0 * (place + 0.6)
        axes.plot([rank, rank], [bars_px, y], color=RULE, linewidth=1.0, zorder=1)
        axes.plot([rank], [y], "o", color=INK, markersize=6.0, clip_on=False)
        left = rank > (1 + n_arms) / 2
        gap, side = (-7, "right") if left else (7, "left")
        label = plain_text(f"{shortened(name, 30)}  {rank:.2f}")
        axes.annotate(
            label, (rank, y), xytext=(gap, 0), textcoords="offset points", ha=side, va="center", fontsize=11.0
        )
    return figure
