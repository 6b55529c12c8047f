"""The report's charts: bars, forests and curves, each a panel that fits a phone's width."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from histotune.report.words import number, sample_words
from histotune.tools.marks import SYNTHETIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from histotune.statistics.curves import ReliabilityBin
    from histotune.statistics.predictions import Score


MAX_LABEL = 26


@dataclass(frozen=True)
class DrawnEstimate:
    """A value with its limits; NaN where they are refused or undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, score: Score) -> DrawnEstimate:
        """Return a score's value with its limits."""
        if score.interval is None:
            return cls(score.value)
        return cls(score.value, score.interval.low, score.interval.high)

    @property
    def known(self) -> list[float]:
        """The value and the ends of its interval, as far as there are any."""
        return [value for value in (self.value, self.low, self.high) if math.isfinite(value)]

    def __str__(self) -> str:
        """Return ``0.842 [0.751, 0.912]``, or what is missing."""
        return self.words(signed=False)

    def words(self, *, signed: bool) -> str:
        """Return the estimate as text, with a plus sign where ``signed``."""
        if math.isnan(self.value):
            return "not estimable"
        value = number(self.value, signed=signed)
        if math.isnan(self.low):
            return f"{value}, no interval"
        return f"{value} [{number(self.low)}, {number(self.high)}]"


@dataclass(frozen=True)
class Look:
    """How an arm is drawn: colour, marker and the class of its line."""

    colour: str
    shape: Marker
    line_css: str = "curve"


@dataclass(frozen=True)
class Panel:
    """What every panel says: heading, whether it shows rendered tissue, and words for people who don't see it."""

    title: str
    synthetic: bool
    alt: str

    @property
    def words(self) -> str:
        """The alternative text."""
        return f"{SYNTHETIC} data. {self.alt}" if self.synthetic else self.alt


@dataclass(frozen=True)
class Bar:
    """One bar: lines of text under it, its estimate, and the floors beside it."""

    labels: tuple[str, ...]
    estimate: DrawnEstimate
    strong: bool
    floors: tuple[tuple[Look, DrawnEstimate], ...] = ()


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest: an estimate with its label above and its numbers at the right."""

    label: str
    n: str
    estimate: DrawnEstimate
    look: Look
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """One curve in data units, with an optional band and marked points; ``joined=False`` leaves points apart."""

    points: tuple[tuple[float, float], ...]
    look: Look
    band: tuple[tuple[float, float, float], ...] = ()  # x, low, high
    chosen: tuple[tuple[float, float], ...] = ()
    flagged: tuple[tuple[float, float], ...] = ()
    joined: bool = True


def bar_panel(panel: Panel, bars: Sequence[Bar], chance: float) -> Markup:
    """Draw bars from zero with whiskers, floors as small markers beside each bar, a dashed line at chance."""
    n_labels = max(len(bar.labels) for bar in bars)
    frame = Frame(38, 44, WIDTH_PX - 46, 190)
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    parts = [heading(panel.title, panel.synthetic), y_axis(frame, ticks, [f"{tick:.1f}" for tick in ticks], "")]
    slot_px = frame.width_px / len(bars)
    for index, bar in enumerate(bars):
        parts += _draw_bar(frame, bar, frame.left_px + index * slot_px, slot_px)
    if math.isfinite(chance):
        at = frame.y(chance)
        parts.append(line((frame.left_px, at), (frame.right_px, at), "chance"))
    parts.append(line((frame.left_px, frame.bottom_px), (frame.right_px, frame.bottom_px)))
    return drawing(frame.bottom_px + 10 + 15 * n_labels, panel.words, parts)


def forest_panel(
    panel: Panel, rows: Sequence[ForestRow], axis: tuple[float, float], reference: float, *, signed: bool = False
) -> Markup:
    """Draw estimates with intervals under one another."""
    shared_n = len({row.n for row in rows}) == 1
    row_px = 40.0 if shared_n else 52.0
    frame = Frame(12, 44 if shared_n else 28, WIDTH_PX - 24, row_px * len(rows) + 5, x_range=axis)
    ticks = nice_ticks(*axis)
    decimals = 1 if all(abs(tick * 10 - round(tick * 10)) < 1e-6 for tick in ticks) else 2
    labels = [f"{tick:+.{decimals}f}" if signed and tick else f"{tick:.{decimals}f}" for tick in ticks]
    parts = [heading(panel.title, panel.synthetic)]
    parts += [line((frame.x(tick), frame.top_px), (frame.x(tick), frame.bottom_px), "grid") for tick in ticks]
    if math.isfinite(reference):
        parts.append(line((frame.x(reference), frame.top_px), (frame.x(reference), frame.bottom_px), "chance"))
    if shared_n:
        parts.append(text(8, 31, f"n = {rows[0].n}", "small", anchor="start"))
    for index, row in enumerate(rows):
        top_px = frame.top_px + index * row_px
        parts += [] if shared_n else [text(frame.left_px, top_px + 47, f"n = {row.n}", "small", anchor="start")]
        parts += _draw_forest_row(frame, row, top_px, signed=signed)
    parts.append(x_axis(frame, ticks, [label.replace("-", "−") for label in labels], ""))
    return drawing(frame.bottom_px + 26, panel.words, parts)


def score_row(label: str, score: Score, look: Look, *, strong: bool = True) -> ForestRow:
    """Return a row that shows one score."""
    return ForestRow(label, sample_words(score.n_tiles, score.n_groups), DrawnEstimate.of(score), look, strong)


def signed_axis(rows: Sequence[ForestRow], low: float, high: float) -> tuple[float, float]:
    """Return an axis of differences that holds all rows, reaches at least so far, and leaves room at both ends."""
    known = [value for row in rows for value in row.estimate.known]
    low, high = min([low, *known]), max([high, *known])
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def signed_panel(panel: Panel, rows: Sequence[ForestRow], axis: tuple[float, float]) -> Markup:
    """Draw differences around zero; the panel's words are completed by the rows' own."""
    told = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
    return forest_panel(replace(panel, alt=f"{panel.alt}: {told}."), rows, axis, 0.0, signed=True)


def sweep_panel(panel: Panel, lines: Sequence[Line], guessing: float, x_label: str = "L2 penalty") -> Markup:
    """Draw log-loss against penalty on a logarithmic axis, with bands, chosen point and unconverged fits."""
    exponents = [x for item in lines for x, _ in item.points]
    frame = Frame(
        52, 28, WIDTH_PX - 62, 230, (min(exponents) - 0.15, max(exponents) + 0.15), _loss_range(lines, guessing)
    )
    y_ticks = nice_ticks(*frame.y_range)
    whole = [tick for tick in nice_ticks(*frame.x_range, count=6) if float(tick).is_integer()]
    parts = [heading(panel.title, panel.synthetic)]
    parts.append(y_axis(frame, y_ticks, [f"{tick:.2f}" for tick in y_ticks], "Group-balanced log-loss"))
    if frame.y_range[0] < guessing < frame.y_range[1]:
        parts.append(line((frame.left_px, frame.y(guessing)), (frame.right_px, frame.y(guessing)), "chance"))
        parts.append(text(frame.right_px, frame.y(guessing) - 4, "guessing", "small", anchor="end"))
    for item in lines:
        parts += _draw_sweep_line(frame, item)
    parts.append(line((frame.left_px, frame.bottom_px), (frame.right_px, frame.bottom_px)))
    parts.append(x_axis(frame, whole, [_power(tick) for tick in whole], x_label))
    return drawing(frame.bottom_px + 44, panel.words, parts)


def band_area(frame: Frame, item: Line) -> list[Markup]:
    """Return a curve's band as a pale area; nothing where it has none."""
    if not item.band:
        return []
    upper = [(frame.x(x), frame.y(high)) for x, _, high in item.band]
    lower = [(frame.x(x), frame.y(low)) for x, low, _ in item.band]
    return [area([*upper, *reversed(lower)], item.look.colour)]


def swatch(look: Look, *, as_line: bool = False) -> Markup:
    """Return a small key for a legend: the marker, or a piece of the line."""
    part = curve([(0, 7), (26, 7)], look.line_css, look.colour) if as_line else marker(13, 7, look.shape, look.colour)
    return Markup('<svg class="key" viewBox="0 0 26 14" width="26" height="14" aria-hidden="true">{}</svg>').format(
        part
    )


def chance_swatch() -> Markup:
    """Return the key of the dashed line."""
    return Markup('<svg class="key" viewBox="0 0 26 14" width="26" height="14" aria-hidden="true">{}</svg>').format(
        line((0, 7), (26, 7), "chance")
    )


def _draw_bar(frame: Frame, bar: Bar, left_px: float, slot_px: float) -> list[Markup]:
    """Bar at the left of its slot, floors' markers at its right, labels below."""
    step_px = 12.0
    room_px = step_px * len(bar.floors)
    bar_px = max(12.0, min(44.0, slot_px - room_px - 12))
    start = left_px + (slot_px - bar_px - room_px) / 2
    middle = start + bar_px / 2
    parts = [
        text(left_px + slot_px / 2, frame.bottom_px + 17 + 15 * index, label, "tick" if index else "label strong")
        for index, label in enumerate(bar.labels)
    ]
    value = bar.estimate.value
    if math.isnan(value):
        return [*parts, text(middle, frame.bottom_px - 8, "not estimable", "small")]
    top = frame.y(value)
    parts.append(box((start, top), (bar_px, frame.bottom_px - top), BLUE if bar.strong else PALE_BLUE, BLUE))
    whisker_top = top
    if math.isfinite(bar.estimate.low):
        whisker_top = frame.y(bar.estimate.high)
        parts += _whisker((middle, frame.y(bar.estimate.low)), (middle, whisker_top))
    parts.append(text(middle, whisker_top - 6, f"{value:.2f}", "value"))
    for index, (look, floor) in enumerate(bar.floors):
        x_px = start + bar_px + step_px * (index + 0.5) + 4
        parts += _floor_marker(frame, x_px, look, floor)
    return parts


def _whisker(low: tuple[float, float], high: tuple[float, float]) -> list[Markup]:
    """A vertical interval with caps, on a white halo so that it shows on a dark bar."""
    caps = [((x - 5, y), (x + 5, y)) for x, y in (low, high)]
    lines = [(low, high), *caps]
    return [*(line(*ends, "halo") for ends in lines), *(line(*ends, "whisker", INK) for ends in lines)]


def _floor_marker(frame: Frame, x_px: float, look: Look, floor: DrawnEstimate) -> list[Markup]:
    if math.isnan(floor.value):
        return []
    parts = []
    if math.isfinite(floor.low):
        parts.append(line((x_px, frame.y(floor.low)), (x_px, frame.y(floor.high)), "spread", look.colour))
    return [*parts, marker(x_px, frame.y(floor.value), look.shape, look.colour, 3.6)]


def _draw_forest_row(frame: Frame, row: ForestRow, top_px: float, *, signed: bool) -> list[Markup]:
    """Label and numbers on one line, the estimate drawn under it."""
    y_px = top_px + 33
    css = "label strong" if row.strong else "label"
    parts = [text(frame.left_px, top_px + 17, shortened(row.label, MAX_LABEL), css, anchor="start")]
    parts.append(text(frame.right_px, top_px + 17, row.estimate.words(signed=signed), "value", anchor="end"))
    if math.isnan(row.estimate.value):
        return parts
    if math.isfinite(row.estimate.low):
        css = "interval" if row.strong else "spread"
        parts.append(line((frame.x(row.estimate.low), y_px), (frame.x(row.estimate.high), y_px), css, row.look.colour))
    return [*parts, marker(frame.x(row.estimate.value), y_px, row.look.shape, row.look.colour)]


def shortened(label: str, most: int) -> str:
    """A label that leaves room for the numbers; the whole of it stands in the table and in the alternative text."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _draw_sweep_line(frame: Frame, item: Line) -> list[Markup]:
    if not item.joined:
        return [clipped(frame, _apart(frame, item)), *_chosen_points(frame, item)]
    parts = band_area(frame, item)
    parts.append(curve([(frame.x(x), frame.y(y)) for x, y in item.points], item.look.line_css, item.look.colour))
    parts += [text(frame.x(x), frame.y(y) + 4, "×", "flag-mark") for x, y in item.flagged]
    return [clipped(frame, parts), *_chosen_points(frame, item)]


def _apart(frame: Frame, item: Line) -> list[Markup]:
    """Points of their own, each with a pale stroke for its error."""
    parts = []
    for x, low, high in item.band:
        left, right, top, bottom = frame.x(x) - 1, frame.x(x) + 1, frame.y(high), frame.y(low)
        parts.append(area([(left, top), (right, top), (right, bottom), (left, bottom)], item.look.colour))
    return [*parts, *(marker(frame.x(x), frame.y(y), item.look.shape, item.look.colour, 3.0) for x, y in item.points)]


def _chosen_points(frame: Frame, item: Line) -> list[Markup]:
    parts = []
    for x, y in item.chosen:
        parts.append(marker(frame.x(x), frame.y(y), "circle", INK, 7.0))
        parts.append(marker(frame.x(x), frame.y(y), "disc", item.look.colour, 3.6))
    return parts


def _loss_range(lines: Sequence[Line], guessing: float) -> tuple[float, float]:
    """Range that shows every curve's valley; losses far above guessing are cut off at the upper edge."""
    lows = [low for item in lines for _, low, _ in item.band] + [y for item in lines for _, y in item.points]
    highs = [high for item in lines for _, _, high in item.band] + [y for item in lines for _, y in item.points]
    low, high = min(lows), min(max(highs), max(2.5 * guessing, *(min(y for _, y in item.points) for item in lines)))
    margin = 0.06 * (high - low) or 0.05
    return max(0.0, low - margin), high + margin


def _power(exponent: float) -> str:
    """Return 10 to a whole power in typeset digits."""
    return "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


# ------------------------------------------------------------------------------
# Inline SVG in a few functions: drawing primitives, axes and markers.
#
# Charts are written as SVG directly: the text stays selectable and readable at phone width, equal numbers give equal
# bytes on every machine, and nothing has to be imported. Everything that is not a number is escaped.


# Okabe & Ito's colours, told apart with every common colour blindness and by lightness when printed in grey.
BLUE = "#0072B2"
PALE_BLUE = "#A9CFE6"
VERMILLION = "#C94F00"
GREEN = "#00805E"
PURPLE = "#A3508A"
AMBER = "#B37700"
GREY = "#595959"
PALE_GREY = "#BDBDBD"
INK = "#1B1B1B"

WIDTH_PX = 344.0

Anchor = Literal["start", "middle", "end"]
Marker = Literal["disc", "circle", "square", "triangle", "diamond"]


@dataclass(frozen=True)
class Frame:
    """A plotting area in pixels and the data ranges it shows.

    Attributes:
        left_px: Left edge.
        top_px: Top edge.
        width_px: Width.
        height_px: Height.
        x_range: Data at the left and at the right edge.
        y_range: Data at the bottom and at the top edge.
    """

    left_px: float
    top_px: float
    width_px: float
    height_px: float
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)

    @property
    def right_px(self) -> float:
        """Right edge."""
        return self.left_px + self.width_px

    @property
    def bottom_px(self) -> float:
        """Bottom edge."""
        return self.top_px + self.height_px

    def x(self, value: float) -> float:
        """Return the pixel column of a value."""
        return self.left_px + _fraction(value, self.x_range) * self.width_px

    def y(self, value: float) -> float:
        """Return the pixel row of a value."""
        return self.bottom_px - _fraction(value, self.y_range) * self.height_px


def drawing(height_px: float, alt: str, parts: Iterable[Markup]) -> Markup:
    """Return a whole picture."""
    return Markup('<svg role="img" viewBox="0 0 {} {}" width="{}" aria-label="{}">{}</svg>').format(
        px(WIDTH_PX), px(height_px), px(WIDTH_PX), alt, Markup("").join(parts)
    )


def text(
    x_px: float, y_px: float, label: str, css: str = "tick", *, anchor: Anchor = "middle", turned: bool = False
) -> Markup:
    """Return one line of text; ``css`` names a class of the page's style sheet."""
    turn = Markup(' transform="rotate(-90 {} {})"').format(px(x_px), px(y_px)) if turned else Markup("")
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}"{}>{}</text>').format(
        px(x_px), px(y_px), css, anchor, turn, label
    )


def line(start: tuple[float, float], end: tuple[float, float], css: str = "axis", colour: str = "") -> Markup:
    """Return a straight line between two pixel positions."""
    stroke = Markup(' stroke="{}"').format(colour) if colour else Markup("")
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"{}/>').format(
        px(start[0]), px(start[1]), px(end[0]), px(end[1]), css, stroke
    )


def curve(points: Sequence[tuple[float, float]], css: str, colour: str) -> Markup:
    """Return an open line through pixel positions."""
    return Markup('<polyline points="{}" class="{}" stroke="{}"/>').format(_points(points), css, colour)


def area(points: Sequence[tuple[float, float]], colour: str) -> Markup:
    """Return a pale filled outline through pixel positions."""
    return Markup('<polygon points="{}" class="band" fill="{}"/>').format(_points(points), colour)


def box(corner: tuple[float, float], size: tuple[float, float], fill: str, stroke: str = "none") -> Markup:
    """Return a rectangle from its upper left corner and its size, in pixels."""
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}" stroke="{}"/>').format(
        px(corner[0]), px(corner[1]), px(size[0]), px(size[1]), fill, stroke
    )


def marker(x_px: float, y_px: float, shape: Marker, colour: str, radius_px: float = 4.5) -> Markup:
    """Return a marker; ``disc`` and ``diamond`` are filled, the others hollow."""
    fill = colour if shape in ("disc", "diamond") else "#FFFFFF"
    if shape in ("disc", "circle"):
        return Markup('<circle cx="{}" cy="{}" r="{}" class="mark" fill="{}" stroke="{}"/>').format(
            px(x_px), px(y_px), px(radius_px), fill, colour
        )
    r = radius_px
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "triangle": [(-1.1 * r, 0.9 * r), (1.1 * r, 0.9 * r), (0.0, -1.1 * r)],
        "diamond": [(0.0, -1.3 * r), (1.3 * r, 0.0), (0.0, 1.3 * r), (-1.3 * r, 0.0)],
    }[shape]
    return Markup('<polygon points="{}" class="mark" fill="{}" stroke="{}"/>').format(
        _points([(x_px + dx, y_px + dy) for dx, dy in corners]), fill, colour
    )


def dots(
    points: Sequence[tuple[float, float]], colour: str, shape: Literal["round", "ring", "square"], size_px: float
) -> Markup:
    """Return many points as one path, some twelve bytes a point: a stroke without length shows its caps alone."""
    places = "".join(f"M{px(x)} {px(y)}h0" for x, y in points)
    css = "dots square" if shape == "square" else "dots"
    drawn = Markup('<path d="{}" class="{}" stroke="{}" stroke-width="{}"/>').format(places, css, colour, px(size_px))
    if shape != "ring":
        return drawn
    hole = Markup('<path d="{}" class="dots" stroke="#FFFFFF" stroke-width="{}"/>')
    return drawn + hole.format(places, px(0.45 * size_px))


def clipped(frame: Frame, parts: Iterable[Markup]) -> Markup:
    """Return elements cut off at the frame's edges."""
    corner = (px(frame.left_px), px(frame.top_px), px(frame.width_px), px(frame.height_px))
    return Markup('<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">{4}</svg>').format(
        *corner, Markup("").join(parts)
    )


def heading(label: str, synthetic: bool) -> Markup:
    """Return a panel's heading, with the word SYNTHETIC at its right so that a cut-out panel still says it."""
    parts = text(8, 15, label, "panel", anchor="start")
    return parts + text(WIDTH_PX - 8, 15, SYNTHETIC, "flag", anchor="end") if synthetic else parts


def x_axis(frame: Frame, ticks: Sequence[float], labels: Sequence[str], title: str) -> Markup:
    """Return the lower axis with ticks, labels and a title."""
    parts = [line((frame.left_px, frame.bottom_px), (frame.right_px, frame.bottom_px))]
    for tick, label in zip(ticks, labels, strict=True):
        at = frame.x(tick)
        parts += [line((at, frame.bottom_px), (at, frame.bottom_px + 4)), text(at, frame.bottom_px + 17, label)]
    parts.append(text((frame.left_px + frame.right_px) / 2, frame.bottom_px + 35, title, "label"))
    return Markup("").join(parts)


def y_axis(frame: Frame, ticks: Sequence[float], labels: Sequence[str], title: str) -> Markup:
    """Return the left axis: quiet grid lines, labels and a turned title."""
    parts = []
    for tick, label in zip(ticks, labels, strict=True):
        at = frame.y(tick)
        parts += [line((frame.left_px, at), (frame.right_px, at), "grid")]
        parts += [text(frame.left_px - 6, at + 4, label, anchor="end")]
    if title:
        parts.append(text(13, (frame.top_px + frame.bottom_px) / 2, title, "label", turned=True))
    return Markup("").join(parts)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round tick positions within a range, steps of 1, 2 or 5 times a power of ten.

    Example:
        >>> nice_ticks(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def px(value: float) -> str:
    """Return a coordinate with at most one decimal, never minus zero.

    Example:
        >>> px(12.0), px(-0.04), px(3.14)
        ('12', '0', '3.1')
    """
    rounded = round(float(value), 1) + 0.0
    return f"{rounded:g}" if abs(rounded) < 1e5 else f"{rounded:.0f}"


def _fraction(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return (value - low) / (high - low)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{px(x)},{px(y)}" for x, y in points)


# ------------------------------------------------------------------------------
# Panels whose axes run from 0 to 1: ROC, precision-recall, calibration.


FEW_TILES = 10


def roc_panel(panel: Panel, lines: Sequence[Line]) -> Markup:
    """Draw ROC curves; the diagonal is a random ranking."""
    frame = Frame(46, 28, WIDTH_PX - 58, WIDTH_PX - 58)
    parts = _unit_axes(frame, panel, "1 − specificity (false positive rate)", "Sensitivity (true positive rate)")
    parts.append(_diagonal(frame))
    parts += _curves(frame, lines)
    return drawing(frame.bottom_px + 44, panel.words, parts)


def precision_panel(panel: Panel, lines: Sequence[Line], prevalence: float) -> Markup:
    """Draw precision-recall curves; the dashed line is a random ranking."""
    frame = Frame(46, 28, WIDTH_PX - 58, WIDTH_PX - 58)
    parts = _unit_axes(frame, panel, "Recall (sensitivity)", "Precision (positive predictive value)")
    if math.isfinite(prevalence):
        at = frame.y(prevalence)
        parts.append(line((frame.left_px, at), (frame.right_px, at), "chance"))
    parts += _curves(frame, lines)
    return drawing(frame.bottom_px + 44, panel.words, parts)


def reliability_panel(panel: Panel, bins: Sequence[ReliabilityBin], event: str) -> Markup:
    """Draw observed share against predicted probability, and under it how many tiles each bin holds."""
    frame = Frame(46, 28, WIDTH_PX - 58, 210)
    parts = [*_unit_axes(frame, panel, "", f"Observed share ({event})"), _diagonal(frame)]
    points = [(frame.x(item.mean_probability), frame.y(item.observed)) for item in bins]
    parts.append(curve(points, "curve thin", BLUE))
    for item, (x_px, y_px) in zip(bins, points, strict=True):
        parts.append(marker(x_px, y_px, "disc" if item.n_tiles >= FEW_TILES else "circle", BLUE))
    counts = Frame(46, frame.bottom_px + 36, frame.width_px, 38)
    most = max(item.n_tiles for item in bins)
    for item in bins:
        left, right = counts.x(item.low) + 1, counts.x(item.high) - 1
        height = max(1.0, counts.height_px * item.n_tiles / most)
        parts.append(box((left, counts.bottom_px - height), (right - left, height), PALE_BLUE))
        parts.append(text((left + right) / 2, counts.bottom_px - height - 3, str(item.n_tiles), "small"))
    parts.append(line((counts.left_px, counts.bottom_px), (counts.right_px, counts.bottom_px)))
    parts.append(
        text(WIDTH_PX / 2 + 17, counts.bottom_px + 15, f"Predicted probability of {event}; tiles per bin", "label")
    )
    return drawing(counts.bottom_px + 24, panel.words, parts)


def _unit_axes(frame: Frame, panel: Panel, x_title: str, y_title: str) -> list[Markup]:
    """Both axes from 0 to 1 and the heading."""
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    labels = [f"{tick:.1f}" for tick in ticks]
    return [
        heading(panel.title, panel.synthetic),
        y_axis(frame, ticks, labels, y_title),
        x_axis(frame, ticks, labels, x_title),
    ]


def _diagonal(frame: Frame) -> Markup:
    return line((frame.left_px, frame.bottom_px), (frame.right_px, frame.top_px), "chance")


def _curves(frame: Frame, lines: Sequence[Line]) -> list[Markup]:
    """All bands first, so that none hides a curve."""
    parts = [part for item in lines for part in band_area(frame, item)]
    for item in lines:
        parts.append(curve([(frame.x(x), frame.y(y)) for x, y in item.points], item.look.line_css, item.look.colour))
    return parts
