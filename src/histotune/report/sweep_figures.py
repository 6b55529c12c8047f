"""Trials to figures: log-loss against the penalty, or against the learning rate for trained heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from histotune.report.charts import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    PALE_GREY,
    PURPLE,
    VERMILLION,
    WIDTH_PX,
    Frame,
    Line,
    Look,
    Panel,
    area,
    curve,
    dots,
    drawing,
    heading,
    line,
    marker,
    nice_ticks,
    shortened,
    swatch,
    sweep_panel,
    text,
    x_axis,
    y_axis,
)
from histotune.report.figures import LINE_LOOKS, Figure, class_names_of
from histotune.report.tables import line_names
from histotune.report.words import count, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markupsafe import Markup

    from histotune.evaluation.findings import Artifacts, Findings


@dataclass(frozen=True)
class TrainedOn:
    """What the panel of one training set must say.

    Attributes:
        synthetic: Whether its tiles are rendered.
        n_classes: Number of classes, for the loss of guessing.
    """

    synthetic: bool
    n_classes: int


def sweep_figure(findings: Findings, artifacts: Artifacts) -> Figure | None:
    """Draw each sweep's log-loss against the penalty, or the learning rate."""
    trials = artifacts.trials
    if trials.is_empty():
        return None
    own = trials.filter(pl.col("backbone") == findings.backbone)
    trials = own if len(own) else trials
    known = {
        str(name): TrainedOn(findings.synthetic, len(class_names_of(findings, str(name), 2)))
        for name in trials["trained_on"].unique()
    }
    return trials_figure(trials, known)


def trials_figure(trials: pl.DataFrame, known: dict[str, TrainedOn]) -> Figure | None:
    """Draw log-loss against what the family varies, a panel per training set."""
    axis = _axis(trials)
    if axis is None:
        return None
    n_tried = len(trials)
    trials = trials.filter(pl.col("log_loss").is_finite() & (pl.col(axis.column) > 0))
    names = line_names(trials)
    if not axis.joined:
        names = [f"{name}, {optimizer}" for name, optimizer in zip(names, trials["optimizer"], strict=True)]
    trials = trials.with_columns(line=pl.Series(names, dtype=pl.String))
    looks = {
        str(name): LINE_LOOKS[index % len(LINE_LOOKS)]
        for index, name in enumerate(trials["line"].unique(maintain_order=True))
    }
    panels = [
        _trials_panel(part, axis, looks, known[str(trained_on)])
        for (trained_on,), part in trials.group_by("trained_on", maintain_order=True)
    ]
    if not panels:
        return None
    error = "band" if axis.joined else "stroke"
    caption = (
        f"Group-balanced out-of-fold log-loss against the {axis.words}, with a {error} of one standard error over "
        "groups on either side. The ringed point was chosen; lower is better, and the lowest of many is optimistic."
    )
    unconverged = trials.filter(~pl.col("converged"))
    if axis.joined:
        caption += f" × marks {len(unconverged)} fits that did not converge." if len(unconverged) else ""
    elif n_tried > len(trials):
        caption += f" Not drawn: {n_tried - len(trials)} that diverged, which have no score."
    keys = tuple((swatch(look, as_line=axis.joined), name) for name, look in looks.items())
    return Figure(tuple(panels), keys, caption)


def plot_name(trials: pl.DataFrame) -> str:
    """Return the name of a saved plot of these trials: ``penalty``, or ``learning-rate`` for trained heads."""
    return "learning-rate" if "lr" in trials.columns else "penalty"


@dataclass(frozen=True)
class _Axis:
    """What lies along the horizontal axis."""

    column: str
    label: str
    words: str
    joined: bool


def _axis(trials: pl.DataFrame) -> _Axis | None:
    if "lr" in trials.columns:
        return _Axis("lr", "Learning rate", "learning rate", joined=False)
    return _Axis("penalty", "L2 penalty", "L2 penalty", joined=True) if "penalty" in trials.columns else None


def _trials_panel(part: pl.DataFrame, axis: _Axis, looks: dict[str, Look], known: TrainedOn) -> Markup:
    lines = [
        _line(rows.sort(axis.column), axis, looks[str(name)])
        for (name,), rows in part.group_by("line", maintain_order=True)
    ]
    trained_on = str(part["trained_on"][0])
    told = "; ".join(
        f"{row['line']} at {axis.label.removeprefix('L2 ').lower()} {row[axis.column]:.3g}, "
        f"log-loss {row['log_loss']:.3f} ± {row['log_loss_se']:.3f}"
        for row in part.filter(pl.col("chosen")).iter_rows(named=True)
    )
    alt = f"Log-loss against {axis.words} for {trained_on}, {len(part)} trials; chosen: {told or 'none'}."
    return sweep_panel(Panel(trained_on, known.synthetic, alt), lines, math.log(known.n_classes), axis.label)


def _line(rows: pl.DataFrame, axis: _Axis, look: Look) -> Line:
    points = [(math.log10(x), loss) for x, loss in rows.select(axis.column, "log_loss").iter_rows()]
    errors = rows["log_loss_se"].fill_nan(0.0).fill_null(0.0).to_list()
    pairs = list(zip(points, errors, strict=True))
    return Line(
        points=tuple(points),
        look=look,
        band=tuple((x, y - error, y + error) for (x, y), error in pairs),
        chosen=tuple(point for point, is_chosen in zip(points, rows["chosen"], strict=True) if is_chosen),
        flagged=tuple(point for point, converged in zip(points, rows["converged"], strict=True) if not converged),
        joined=axis.joined,
    )


# ------------------------------------------------------------------------------
# Score against the number of training groups, as a figure.


TITLES = {
    "auroc": ("AUROC", "higher is better"),
    "balanced_accuracy": ("Balanced accuracy", "higher is better"),
    "log_loss": ("Group-balanced log-loss", "lower is better"),
}
LOOK = Look(BLUE, "disc")
MIN_GAP_PX = 24.0


def label_efficiency_figure(table: pl.DataFrame | None, *, synthetic: bool) -> Figure | None:
    """Draw each metric against the number of training groups."""
    if table is None or table.is_empty():
        return None
    panels = []
    for metric, (title, direction) in TITLES.items():
        rows = table.filter((pl.col("metric") == metric) & pl.col("value").is_finite()).sort("n_groups")
        if len(rows) > 1:
            panels.append(_label_efficiency_panel(rows, title, direction, synthetic=synthetic))
    return Figure(tuple(panels), (), _caption(table)) if panels else None


def _label_efficiency_panel(rows: pl.DataFrame, title: str, direction: str, *, synthetic: bool) -> Markup:
    points = [(math.log2(n), value) for n, value in rows.select("n_groups", "value").iter_rows()]
    limits = [
        (x, low, high)
        for (x, _), low, high in zip(points, rows["low"], rows["high"], strict=True)
        if low is not None and high is not None
    ]
    frame = Frame(
        52, 28, WIDTH_PX - 66, 210, (points[0][0] - 0.2, points[-1][0] + 0.2), _label_efficiency_range(points, limits)
    )
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


def _label_efficiency_range(
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


# ------------------------------------------------------------------------------
# A map of embeddings as a figure: the same points by class, and by site or group, and what it can't show.


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
class MapKind:
    """Points of one look: their name, how many there are, their places."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: str
    shape: Literal["round", "ring", "square"]


def map_figures(table: pl.DataFrame | None, *, synthetic: bool) -> tuple[Figure, ...]:
    """Draw each map of the table, once by class and once by site, scanner or stain, or by group where none is known."""
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


def _kinds(table: pl.DataFrame, column: str, others: str) -> list[MapKind]:
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
            kinds.append(MapKind(f"{label} ({count(len(rows))})", _points(rows), PALE_GREY, "round"))
    for name, (colour, shape) in zip(named, LOOKS, strict=False):
        rows = known.filter(pl.col(column) == name)
        kinds.append(MapKind(f"{shortened(name, MAX_LABEL)} ({count(len(rows))})", _points(rows), colour, shape))
    return kinds


def _map_panel(table: pl.DataFrame, kinds: Sequence[MapKind], title: str, synthetic: bool) -> Markup:
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


def _key(kinds: Sequence[MapKind], frame: Frame) -> Iterator[Markup]:
    """Yield the looks with their names in two columns below the map, so that a panel stands alone; grey ones last."""
    for nth, kind in enumerate(sorted(kinds, key=lambda kind: kind.colour == PALE_GREY)):
        x_px = frame.left_px + 6 + (nth % 2) * frame.width_px / 2
        y_px = frame.bottom_px + KEY_GAP_PX + (nth // 2) * ROW_PX
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


def _percent(share: float) -> str:
    return f"{share * 100:.0f}\u00a0%"
