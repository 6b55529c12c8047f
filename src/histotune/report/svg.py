"""Inline SVG in a few functions: drawing primitives, axes and markers.

Charts are written as SVG directly: the text stays selectable and readable at phone width, equal numbers give equal
bytes on every machine, and nothing has to be imported. Everything that is not a number is escaped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    """Return a whole picture.

    Args:
        height_px: Its height; the width is :data:`WIDTH_PX`.
        alt: What it shows, for people who don't see it.
        parts: Its elements.

    Returns:
        An ``<svg>`` element.
    """
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
    return parts + text(WIDTH_PX - 8, 15, "SYNTHETIC", "flag", anchor="end") if synthetic else parts


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

    Args:
        low: Start of the range.
        high: End of the range, above ``low``.
        count: About how many ticks.

    Returns:
        Ticks in increasing order, all within the range.

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

    Args:
        value: Pixels.

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
