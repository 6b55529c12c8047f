"""Trials to figures: log-loss against the penalty, or against the learning rate for trained heads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.report.charts import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    PALE_GREY,
    PURPLE,
    VERMILLION,
    Axis,
    Curves,
    Figure,
    Line,
    Look,
    MapKind,
    PointMap,
)
from histotune.report.drawing import shortened
from histotune.report.figures import LINE_LOOKS, class_names_of
from histotune.report.tables import line_names
from histotune.report.words import count, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.evaluation.findings import Artifacts, Findings
    from histotune.report.charts import Chart


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
    axis = _varied(trials)
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
    charts: tuple[Chart, ...] = tuple(
        _trials_chart(part, axis, looks, known[str(trained_on)])
        for (trained_on,), part in trials.group_by("trained_on", maintain_order=True)
    )
    if not charts:
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
    return Figure(plot_name(trials), charts, caption)


def plot_name(trials: pl.DataFrame) -> str:
    """Return the name of a saved plot of these trials: ``penalty``, or ``learning-rate`` for trained heads."""
    return "learning-rate" if "lr" in trials.columns else "penalty"


@dataclass(frozen=True)
class Varied:
    """What lies along the horizontal axis."""

    column: str
    label: str
    words: str
    joined: bool


def _varied(trials: pl.DataFrame) -> Varied | None:
    if "lr" in trials.columns:
        return Varied("lr", "Learning rate", "learning rate", joined=False)
    return Varied("penalty", "L2 penalty", "L2 penalty", joined=True) if "penalty" in trials.columns else None


def _trials_chart(part: pl.DataFrame, axis: Varied, looks: dict[str, Look], known: TrainedOn) -> Curves:
    lines = [
        _line(rows.sort(axis.column), axis, looks[str(name)], str(name))
        for (name,), rows in part.group_by("line", maintain_order=True)
    ]
    trained_on = str(part["trained_on"][0])
    told = "; ".join(
        f"{row['line']} at {axis.label.removeprefix('L2 ').lower()} {row[axis.column]:.3g}, "
        f"log-loss {row['log_loss']:.3f} ± {row['log_loss_se']:.3f}"
        for row in part.filter(pl.col("chosen")).iter_rows(named=True)
    )
    alt = f"Log-loss against {axis.words} for {trained_on}, {len(part)} trials; chosen: {told or 'none'}."
    guessing = math.log(known.n_classes)
    limits = _loss_limits(lines, guessing)
    shown = guessing if limits[0] < guessing < limits[1] else math.nan
    x, y = Axis(axis.label, scale="log"), Axis("Group-balanced log-loss", limits)
    chart = Curves(trained_on, alt, known.synthetic, tuple(lines), x, y)
    return replace(chart, reference=shown, reference_label="guessing")


def _loss_limits(lines: Sequence[Line], guessing: float) -> tuple[float, float]:
    """Range that shows every curve's valley; losses far above guessing are cut off at the upper edge."""
    lows = [low for item in lines for _, low, _ in item.band] + [y for item in lines for _, y in item.points]
    highs = [high for item in lines for _, _, high in item.band] + [y for item in lines for _, y in item.points]
    low, high = min(lows), min(max(highs), max(2.5 * guessing, *(min(y for _, y in item.points) for item in lines)))
    margin = 0.06 * (high - low) or 0.05
    return max(0.0, low - margin), high + margin


def _line(rows: pl.DataFrame, axis: Varied, look: Look, label: str) -> Line:
    points = [(float(x), float(loss)) for x, loss in rows.select(axis.column, "log_loss").iter_rows()]
    errors = rows["log_loss_se"].fill_nan(0.0).fill_null(0.0).to_list()
    pairs = list(zip(points, errors, strict=True))
    return Line(
        points=tuple(points),
        look=look,
        label=label,
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
EFFICIENCY_LOOK = Look(BLUE, "disc")


def label_efficiency_figure(table: pl.DataFrame | None, *, synthetic: bool) -> Figure | None:
    """Draw each metric against the number of training groups."""
    if table is None or table.is_empty():
        return None
    charts: list[Chart] = []
    for metric, (title, direction) in TITLES.items():
        rows = table.filter((pl.col("metric") == metric) & pl.col("value").is_finite()).sort("n_groups")
        if len(rows) > 1:
            charts.append(_label_efficiency_chart(rows, title, direction, synthetic=synthetic))
    return Figure("training-groups", tuple(charts), _caption(table)) if charts else None


def _label_efficiency_chart(rows: pl.DataFrame, title: str, direction: str, *, synthetic: bool) -> Curves:
    points = tuple((float(n), float(value)) for n, value in rows.select("n_groups", "value").iter_rows())
    limits = tuple(
        (x, float(low), float(high))
        for (x, _), low, high in zip(points, rows["low"], rows["high"], strict=True)
        if low is not None and high is not None
    )
    told = "; ".join(
        f"{row['n_groups']} groups: {number(row['value'])}"
        + ("" if row["low"] is None else f" [{number(row['low'])}, {number(row['high'])}]")
        for row in rows.iter_rows(named=True)
    )
    alt = f"{title} ({direction}) against the number of training groups. {told}."
    line = Line(points, EFFICIENCY_LOOK, band=limits if len(limits) > 1 else (), marked=True)
    ticks = _spread_ticks([x for x, _ in points])
    x = Axis("Training groups (logarithmic)", ticks=ticks, scale="log")
    note = "no interval where no band is drawn" if len(limits) < len(points) else ""
    return Curves(title, alt, synthetic, (line,), x, Axis(f"{title}: {direction}"), note=note)


def _spread_ticks(sizes: Sequence[float]) -> tuple[float, ...]:
    """Label every size that has room, a fifth more than the one before; the largest always."""
    kept = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if kept[-1] / size >= 1.2:
            kept.append(size)
    return tuple(kept[::-1])


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


MAP_LOOKS = (
    Look(BLUE, "disc"), Look(VERMILLION, "circle"), Look(GREEN, "square"), Look(PURPLE, "triangle"),
    Look(AMBER, "diamond"), Look(INK, "circle"),
)  # fmt: skip
OTHERS = Look(PALE_GREY, "disc")
MOST_CHARS = 34
CANT_SHOW = (
    "What it can't show: classes that overlap here may be apart in all columns together, and the reverse; tiles of a "
    "case lie together because they are alike, so a clump need not be a class. The score on held-out cases is the "
    "evidence."
)
TSNE = (
    "t-SNE keeps who is near whom and little else: distances between clusters, their sizes and their densities mean "
    "nothing, and another seed draws another picture."
)


def map_figures(table: pl.DataFrame | None, *, synthetic: bool) -> tuple[Figure, ...]:
    """Draw each map of the table, once by class and once by site, scanner or stain, or by group where none is known."""
    if table is None:
        return ()
    methods = [name for name in ("pca", "tsne") if name in set(table["method"])]
    return tuple(_figure(table.filter(pl.col("method") == name).sort("tile_id"), synthetic) for name in methods)


def _figure(table: pl.DataFrame, synthetic: bool) -> Figure:
    column, heading_text = _second(table)
    charts = (
        _map_chart(table, _kinds(table, "class", "other classes"), "By class", synthetic),
        _map_chart(table, _kinds(table, column, f"other {heading_text}s"), f"By {heading_text}", synthetic),
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
        if table[column].n_unique() > len(MAP_LOOKS)
        else ""
    )
    return Figure(f"map-{table['method'][0]}", charts, f"Map of embeddings, {how} {CANT_SHOW}{largest}")


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
    named = names if len(names) <= len(MAP_LOOKS) else names[: len(MAP_LOOKS) - 1]
    kinds = []
    for label, rows in (
        (others, known.filter(~pl.col(column).is_in(named))),
        (f"unknown {others.removeprefix('other ').removesuffix('s')}", table.filter(pl.col(column).is_null())),
    ):
        if len(rows):
            kinds.append(MapKind(f"{label} ({count(len(rows))})", _points(rows), OTHERS))
    for name, look in zip(named, MAP_LOOKS, strict=False):
        rows = known.filter(pl.col(column) == name)
        kinds.append(MapKind(f"{shortened(name, MOST_CHARS)} ({count(len(rows))})", _points(rows), look))
    return kinds


def _map_chart(table: pl.DataFrame, kinds: Sequence[MapKind], title: str, synthetic: bool) -> PointMap:
    across, up = _axis_names(table)
    told = "; ".join(kind.label for kind in kinds)
    alt = f"Map of {count(len(table))} tiles, {title.lower()}: {told}. Only positions are shown."
    return PointMap(title, alt, synthetic, tuple(kinds), across, up)


def _axis_names(table: pl.DataFrame) -> tuple[str, str]:
    if table["x_share"].null_count():
        return "t-SNE, axes without meaning", ""
    x, y = (float(table[name][0]) for name in ("x_share", "y_share"))
    return f"first component, {_percent(x)} of the variance", f"second component, {_percent(y)} of the variance"


def _points(rows: pl.DataFrame) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in rows.select("x", "y").iter_rows())


def _percent(share: float) -> str:
    return f"{share * 100:.0f}\u00a0%"
