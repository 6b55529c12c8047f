"""A map of embeddings as a figure: the same points by class, and by site or group, and what it can't show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from histotune.report.charts import Panel
from histotune.report.figures import Figure
from histotune.report.svg import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    PALE_GREY,
    PURPLE,
    VERMILLION,
    WIDTH_PX,
    Frame,
    dots,
    drawing,
    heading,
    line,
    text,
)
from histotune.report.words import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markupsafe import Markup

LOOKS: tuple[tuple[str, Literal["round", "ring", "square"]], ...] = (
    (BLUE, "round"), (VERMILLION, "ring"), (GREEN, "square"), (PURPLE, "ring"), (AMBER, "round"), (INK, "square"),
)  # fmt: skip
MAX_LABEL = 20
ROW_PX, KEY_GAP_PX = 16.0, 36.0
FEW_POINTS = 300
CANT_SHOW = (
    "What it can't show: classes that overlap here may be apart in all columns together, and the reverse; tiles of a "
    "case lie together because they are alike, so a clump need not be a class. The score on held-out cases is the "
    "evidence."
)
TSNE = (
    "t-SNE keeps who is near whom and little else: distances between clusters, their sizes and their densities mean "
    "nothing, and another seed draws another picture."
)


@dataclass(frozen=True)
class Kind:
    """Points of one look: their name, how many there are, their places."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: str
    shape: Literal["round", "ring", "square"]


def map_figures(table: pl.DataFrame | None, *, synthetic: bool) -> tuple[Figure, ...]:
    """Draw each map of the table, once by class and once by site, scanner or stain, or by group where none is known.

    Args:
        table: From :func:`~histotune.evaluation.robustness.map_embeddings`; None draws nothing.
        synthetic: Whether the tissue is rendered.

    Returns:
        A figure per method.
    """
    if table is None:
        return ()
    methods = [name for name in ("pca", "tsne") if name in set(table["method"])]
    return tuple(_figure(table.filter(pl.col("method") == name).sort("tile_id"), synthetic) for name in methods)


def _figure(table: pl.DataFrame, synthetic: bool) -> Figure:
    column, heading_text = _second(table)
    panels = (
        _map_panel(table, _kinds(table, "class", "other classes"), "By class", synthetic),
        _map_panel(table, _kinds(table, column, f"other {heading_text}s"), f"By {heading_text}", synthetic),
    )
    n, n_tiles = len(table), int(table["n_tiles"][0])
    shown = f"{count(n)} tiles" if n == n_tiles else f"{count(n)} of {count(n_tiles)} tiles, spread over groups"
    if table["x_share"].null_count():
        how = f"{shown}: what the head reads, by t-SNE from its principal components. {TSNE}"
    else:
        share = float(table["x_share"][0] + table["y_share"][0])
        how = (
            f"{shown}: what the head reads, along its first two principal components. They hold {_percent(share)} of "
            "the variance; what differs along the others is not seen."
        )
    largest = (
        f" Named are the {heading_text}s with most tiles, of equal ones the first."
        if table[column].n_unique() > len(LOOKS)
        else ""
    )
    return Figure(panels, (), f"Map of embeddings, {how} {CANT_SHOW}{largest}")


def _second(table: pl.DataFrame) -> tuple[str, str]:
    """Return the column that colours the second panel, and its name: what differs technically, or the group."""
    for column in ("site", "scanner", "stain"):
        if table[column].drop_nulls().n_unique() > 1:
            return column, column
    return "group_id", "group"


def _kinds(table: pl.DataFrame, column: str, others: str) -> list[Kind]:
    """Return the points by value: the most frequent values by look, the others in grey; rare ones are drawn last."""
    known = table.filter(pl.col(column).is_not_null())
    counted = known.group_by(column).len().sort(["len", column], descending=[True, False])
    names = counted[column].to_list()
    named = names if len(names) <= len(LOOKS) else names[: len(LOOKS) - 1]
    kinds = []
    for label, rows in (
        (others, known.filter(~pl.col(column).is_in(named))),
        (f"unknown {others.removeprefix('other ').removesuffix('s')}", table.filter(pl.col(column).is_null())),
    ):
        if len(rows):
            kinds.append(Kind(f"{label} ({count(len(rows))})", _points(rows), PALE_GREY, "round"))
    for name, (colour, shape) in zip(named, LOOKS, strict=False):
        rows = known.filter(pl.col(column) == name)
        kinds.append(Kind(f"{_short(name)} ({count(len(rows))})", _points(rows), colour, shape))
    return kinds


def _map_panel(table: pl.DataFrame, kinds: Sequence[Kind], title: str, synthetic: bool) -> Markup:
    frame = Frame(26, 26, WIDTH_PX - 34, 250, _map_range(table["x"]), _map_range(table["y"]))
    size_px = 6.0 if len(table) <= FEW_POINTS else 4.0
    across, up = _axis_names(table)
    parts = [
        heading(title, synthetic),
        *(line(start, end, "grid") for start, end in _edges(frame)),
        *(dots([(frame.x(x), frame.y(y)) for x, y in kind.points], kind.colour, kind.shape, size_px) for kind in kinds),
        text(frame.left_px + frame.width_px / 2, frame.bottom_px + 16, across, "small"),
        text(14, frame.top_px + frame.height_px / 2, up, "small", turned=True),
        *_key(kinds, frame),
    ]
    told = "; ".join(kind.label for kind in kinds)
    alt = f"Map of {count(len(table))} tiles, {title.lower()}: {told}. Only positions are shown."
    height_px = frame.bottom_px + KEY_GAP_PX + math.ceil(len(kinds) / 2) * ROW_PX
    return drawing(height_px, Panel(title, synthetic, alt).words, parts)


def _key(kinds: Sequence[Kind], frame: Frame) -> Iterator[Markup]:
    """Yield the looks with their names in two columns below the map, so that a panel stands alone; grey ones last."""
    for number, kind in enumerate(sorted(kinds, key=lambda kind: kind.colour == PALE_GREY)):
        x_px = frame.left_px + 6 + (number % 2) * frame.width_px / 2
        y_px = frame.bottom_px + KEY_GAP_PX + (number // 2) * ROW_PX
        yield dots([(x_px, y_px)], kind.colour, kind.shape, 7.0)
        yield text(x_px + 10, y_px + 4, kind.label, anchor="start")


def _axis_names(table: pl.DataFrame) -> tuple[str, str]:
    if table["x_share"].null_count():
        return "t-SNE, axes without meaning", ""
    x, y = (float(table[name][0]) for name in ("x_share", "y_share"))
    return f"first component, {_percent(x)} of the variance", f"second component, {_percent(y)} of the variance"


def _edges(frame: Frame) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    left, right, top, bottom = frame.left_px, frame.right_px, frame.top_px, frame.bottom_px
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return list(zip(corners, [*corners[1:], corners[0]], strict=True))


def _map_range(values: pl.Series) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def _points(rows: pl.DataFrame) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in rows.select("x", "y").iter_rows())


def _short(name: str) -> str:
    return name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"


def _percent(share: float) -> str:
    return f"{share * 100:.0f}\u00a0%"
