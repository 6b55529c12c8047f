"""Panels whose axes run from 0 to 1: ROC, precision-recall, calibration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.report.charts import band_area
from histotune.report.svg import (
    BLUE,
    PALE_BLUE,
    WIDTH_PX,
    Frame,
    box,
    curve,
    drawing,
    heading,
    line,
    marker,
    text,
    x_axis,
    y_axis,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from histotune.report.charts import Line, Panel
    from histotune.statistics.curves import ReliabilityBin

FEW_TILES = 10


def roc_panel(panel: Panel, lines: Sequence[Line]) -> Markup:
    """Draw ROC curves; the diagonal is a random ranking.

    Args:
        panel: Heading and words.
        lines: Curves in rates, with bands, the most important last.

    Returns:
        The picture.
    """
    frame = Frame(46, 28, WIDTH_PX - 58, WIDTH_PX - 58)
    parts = _unit_axes(frame, panel, "1 − specificity (false positive rate)", "Sensitivity (true positive rate)")
    parts.append(_diagonal(frame))
    parts += _curves(frame, lines)
    return drawing(frame.bottom_px + 44, panel.words, parts)


def precision_panel(panel: Panel, lines: Sequence[Line], prevalence: float) -> Markup:
    """Draw precision-recall curves; the dashed line is a random ranking.

    Args:
        panel: Heading and words.
        lines: Curves in shares, with bands, the most important last.
        prevalence: Share of the positive class; NaN draws no line.

    Returns:
        The picture.
    """
    frame = Frame(46, 28, WIDTH_PX - 58, WIDTH_PX - 58)
    parts = _unit_axes(frame, panel, "Recall (sensitivity)", "Precision (positive predictive value)")
    if math.isfinite(prevalence):
        at = frame.y(prevalence)
        parts.append(line((frame.left_px, at), (frame.right_px, at), "chance"))
    parts += _curves(frame, lines)
    return drawing(frame.bottom_px + 44, panel.words, parts)


def reliability_panel(panel: Panel, bins: Sequence[ReliabilityBin], event: str) -> Markup:
    """Draw observed share against predicted probability, and under it how many tiles each bin holds.

    Args:
        panel: Heading and words.
        bins: Reliability bins.
        event: What the probability is of, as the axis says it.

    Returns:
        The picture.
    """
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
