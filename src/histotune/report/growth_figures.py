"""Score against the number of training groups, as a figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import polars as pl

from histotune.report.charts import Look, Panel
from histotune.report.figures import Figure
from histotune.report.svg import (
    BLUE,
    INK,
    WIDTH_PX,
    Frame,
    area,
    curve,
    drawing,
    heading,
    line,
    marker,
    nice_ticks,
    text,
    x_axis,
    y_axis,
)
from histotune.report.words import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

TITLES = {
    "auroc": ("AUROC", "higher is better"),
    "balanced_accuracy": ("Balanced accuracy", "higher is better"),
    "log_loss": ("Group-balanced log-loss", "lower is better"),
}
LOOK = Look(BLUE, "disc")
MIN_GAP_PX = 24.0


def growth_figure(table: pl.DataFrame, *, synthetic: bool) -> Figure | None:
    """Draw each metric against the number of training groups.

    Args:
        table: From :func:`~histotune.heads.label_efficiency.label_efficiency`.
        synthetic: Whether the tiles are rendered.

    Returns:
        A panel per metric, or None where nothing was measured.
    """
    if table.is_empty():
        return None
    panels = []
    for metric, (title, direction) in TITLES.items():
        rows = table.filter((pl.col("metric") == metric) & pl.col("value").is_finite()).sort("n_groups")
        if len(rows) > 1:
            panels.append(_growth_panel(rows, title, direction, synthetic=synthetic))
    return Figure(tuple(panels), (), _caption(table)) if panels else None


def _growth_panel(rows: pl.DataFrame, title: str, direction: str, *, synthetic: bool) -> Markup:
    points = [(math.log2(n), value) for n, value in rows.select("n_groups", "value").iter_rows()]
    limits = [(x, low, high) for (x, _), low, high in zip(points, rows["low"], rows["high"], strict=True)
              if low is not None and high is not None]  # fmt: skip
    frame = Frame(52, 28, WIDTH_PX - 66, 210, (points[0][0] - 0.2, points[-1][0] + 0.2), _growth_range(points, limits))
    ticks = nice_ticks(*frame.y_range)
    told = "; ".join(
        f"{row['n_groups']} groups: {number(row['value'])}"
        + ("" if row["low"] is None else f" [{number(row['low'])}, {number(row['high'])}]")
        for row in rows.iter_rows(named=True)
    )
    parts = [heading(title, synthetic), y_axis(frame, ticks, [f"{tick:.2f}" for tick in ticks], direction)]
    if limits:
        upper = [(frame.x(x), frame.y(high)) for x, _, high in limits]
        lower = [(frame.x(x), frame.y(low)) for x, low, _ in limits]
        parts.append(area([*upper, *reversed(lower)], LOOK.colour))
    parts.append(curve([(frame.x(x), frame.y(y)) for x, y in points], LOOK.line_css, LOOK.colour))
    for x, low, high in limits:
        parts.append(line((frame.x(x), frame.y(low)), (frame.x(x), frame.y(high)), "whisker", INK))
    parts += [marker(frame.x(x), frame.y(y), LOOK.shape, LOOK.colour) for x, y in points]
    parts.append(line((frame.left_px, frame.bottom_px), (frame.right_px, frame.bottom_px)))
    at, labels = _ticks(frame, [x for x, _ in points], rows["n_groups"].to_list())
    parts.append(x_axis(frame, at, labels, "Training groups (logarithmic)"))
    missing = rows.filter(pl.col("low").is_null())
    if len(missing):
        parts.append(text(frame.right_px, frame.top_px + 12, "no interval where none is drawn", "small", anchor="end"))
    alt = f"{title} ({direction}) against the number of training groups. {told}."
    return drawing(frame.bottom_px + 44, Panel(title, synthetic, alt).words, parts)


def _growth_range(
    points: Sequence[tuple[float, float]], limits: Sequence[tuple[float, float, float]]
) -> tuple[float, float]:
    values = [y for _, y in points] + [value for _, low, high in limits for value in (low, high)]
    margin = 0.06 * (max(values) - min(values)) or 0.05
    return max(0.0, min(values) - margin), max(values) + margin


def _ticks(frame: Frame, places: Sequence[float], sizes: Sequence[int]) -> tuple[list[float], list[str]]:
    """Label every size that has room; the largest always."""
    at, labels = [places[-1]], [str(sizes[-1])]
    for x, size in zip(reversed(places[:-1]), reversed(sizes[:-1]), strict=True):
        if frame.x(at[-1]) - frame.x(x) >= MIN_GAP_PX:
            at.append(x)
            labels.append(str(size))
    return at[::-1], labels[::-1]


def _caption(table: pl.DataFrame) -> str:
    n_draws = int(table["n_draws"][0])
    method = next((row["method"] for row in table.iter_rows(named=True) if row["low"] is not None), "")
    how = f"Bands: 95 % intervals, {method}." if method else f"No intervals: {table['method'][0]}."
    return (
        "What more training groups would bring: heads trained on nested random subsets of the training groups, mean of "
        f"{n_draws} draws, scored on the groups of the fold that was left out. The penalty of every size is chosen on "
        "the other folds; the pooling is the one the whole sweep chose, which favours the largest size slightly. "
        f"{how}"
    )
