"""Trials to figures: log-loss against penalty, a line per pooling and class weighting."""

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

    from histotune.evaluation.records import Artifacts, Findings


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
    """Draw each sweep's log-loss against the penalty.

    Args:
        findings: Which backbone is the run's own, and what was chosen.
        artifacts: The trials.

    Returns:
        A panel per training set, or None without trials that have a penalty.
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
    return penalty_figure(trials, known)


def penalty_figure(trials: pl.DataFrame, known: dict[str, TrainedOn]) -> Figure | None:
    """Draw log-loss against the penalty, a panel per training set, a line per pooling and class weighting.

    Args:
        trials: Columns of ``SweepResult.trials`` plus ``trained_on``.
        known: What each panel must say, by ``trained_on``.

    Returns:
        The figure, or None where no trial has a penalty or all diverged.
    """
    if "penalty" not in trials.columns:
        return None
    trials = trials.filter(pl.col("log_loss").is_finite() & (pl.col("penalty") > 0))
    trials = trials.with_columns(line=pl.Series(line_names(trials), dtype=pl.String))
    names = trials["line"].unique(maintain_order=True).to_list()
    looks = {name: LINE_LOOKS[index % len(LINE_LOOKS)] for index, name in enumerate(names)}
    panels = [
        _panel(part, str(trained_on), looks, known[str(trained_on)])
        for (trained_on,), part in trials.group_by("trained_on", maintain_order=True)
    ]
    if not panels:
        return None
    caption = (
        "Group-balanced out-of-fold log-loss against the L2 penalty, with a band of one standard error over groups on "
        "either side. The ringed point was chosen; lower is better, and the lowest of many is optimistic."
    )
    unconverged = trials.filter(~pl.col("converged"))
    caption += f" × marks {len(unconverged)} fits that did not converge." if len(unconverged) else ""
    return Figure(tuple(panels), tuple((swatch(look, as_line=True), name) for name, look in looks.items()), caption)


def _panel(part: pl.DataFrame, trained_on: str, looks: dict[str, Look], known: TrainedOn) -> Markup:
    lines = [
        _line(rows.sort("penalty"), looks[str(name)]) for (name,), rows in part.group_by("line", maintain_order=True)
    ]
    told = "; ".join(
        f"{row['line']} at penalty {row['penalty']:.3g}, log-loss {row['log_loss']:.3f} ± {row['log_loss_se']:.3f}"
        for row in part.filter(pl.col("chosen")).iter_rows(named=True)
    )
    alt = f"Log-loss against penalty for {trained_on}, {len(part)} trials; chosen: {told or 'none'}."
    return sweep_panel(Panel(trained_on, known.synthetic, alt), lines, math.log(known.n_classes))


def _line(rows: pl.DataFrame, look: Look) -> Line:
    points = [(math.log10(penalty), loss) for penalty, loss in rows.select("penalty", "log_loss").iter_rows()]
    errors = rows["log_loss_se"].fill_nan(0.0).fill_null(0.0).to_list()
    pairs = list(zip(points, errors, strict=True))
    return Line(
        points=tuple(points),
        look=look,
        band=tuple((x, y - error, y + error) for (x, y), error in pairs),
        chosen=tuple(point for point, is_chosen in zip(points, rows["chosen"], strict=True) if is_chosen),
        flagged=tuple(point for point, converged in zip(points, rows["converged"], strict=True) if not converged),
    )
