"""Trials to figures: log-loss against the penalty, or against the learning rate for trained heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from histotune.report.charts import Line, Look, Panel, swatch, sweep_panel
from histotune.report.curve_figures import LINE_LOOKS, class_names_of
from histotune.report.figures import Figure
from histotune.report.trials import line_names

if TYPE_CHECKING:
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
    """Draw each sweep's log-loss against the penalty, or the learning rate.

    Args:
        findings: Which backbone is the run's own, and what was chosen.
        artifacts: The trials.

    Returns:
        A panel per training set, or None without trials that have either.
    """
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
    """Draw log-loss against what the family varies, a panel per training set.

    Args:
        trials: Columns of ``SweepResult.trials`` plus ``trained_on``.
        known: What each panel must say, by ``trained_on``.

    Returns:
        Lines over penalties, a line per pooling and class weighting; points over learning rates for trained heads, in
        the optimizer's look. None where no trial has either or all diverged.
    """
    axis = _axis(trials)
    if axis is None:
        return None
    n_tried = len(trials)
    trials = trials.filter(pl.col("log_loss").is_finite() & (pl.col(axis.column) > 0))
    names = line_names(trials)
    if not axis.joined:
        names = [f"{name}, {optimizer}" for name, optimizer in zip(names, trials["optimizer"], strict=True)]
    trials = trials.with_columns(line=pl.Series(names, dtype=pl.String))
    looks = {str(name): LINE_LOOKS[index % len(LINE_LOOKS)]
             for index, name in enumerate(trials["line"].unique(maintain_order=True))}  # fmt: skip
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
