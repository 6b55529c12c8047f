"""Studies as figures: what remedies give back, what labels of the target buy, matrices, runs beside one another."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from histotune.report.charts import (
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    Axis,
    Curves,
    DrawnEstimate,
    Figure,
    Forest,
    ForestRow,
    Grid,
    GridCell,
    Line,
    Look,
    RankLine,
    difference_forest,
    score_row,
    signed_axis,
)
from histotune.report.study_tables import METRIC_WORDS
from histotune.report.words import metric_label, sample_words
from histotune.tools.marks import SYNTHETIC
from histotune.transfer.differences import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.evaluation.magnifications import MagnificationMatrix
    from histotune.evaluation.run_comparison import ComparisonFamily, Ranking
    from histotune.report.charts import Chart
    from histotune.statistics.predictions import Score
    from histotune.transfer.case import Diagnosis, FewShotPoint, RemedyRow


FREE_LOOK, LABEL_LOOK = Look(BLUE, "disc"), Look(GREY, "square")
CURVE_LOOK = Look(BLUE, "disc")
HEAD_LOOK, ORACLE_LOOK = Look(VERMILLION, "square", "dashed"), Look(GREEN, "diamond", "dotted")
FOREST_METRICS = ("auroc", "log_loss")
OWN_HEAD = "head trained on the target"


def recovery_figures(found: Diagnosis) -> tuple[Figure, ...]:
    """Draw what every remedy gives back alone and what is missing where it alone is left out, a figure per metric."""
    figures = (_recovery_figure(found, metric) for metric in FOREST_METRICS)
    return tuple(figure for figure in figures if figure is not None)


def few_shot_figure(found: Diagnosis) -> Figure | None:
    """Draw AUROC against labelled target groups, beside the head as it is and a head trained on all of the target."""
    points = found.few_shot
    if not points:
        return None
    lines = _reference_lines(found)
    method, level = next(
        ((point.auroc.interval.method, point.auroc.interval.level) for point in points if point.auroc.interval),
        ("", 0.0),
    )
    why = next((point.auroc.reason for point in points if point.auroc.reason), "")
    how = f"Bands: {level:.0%} intervals, {method}." if method else ""
    caption = (
        f"What labels of the target buy: mean of {points[0].n_draws} draws of groups, each scored on all groups it did "
        f"not draw, with the penalty of the carried head. {how}{f' Missing intervals: {why}.' if why else ''} The head "
        "trained on the target learned from all other folds of its groups."
    )
    return Figure("few-shot", (_few_shot_chart(found, lines),), " ".join(caption.split()))


def _recovery_figure(found: Diagnosis, metric: str) -> Figure | None:
    alone = [
        (row, recovery.alone)
        for row in found.remedies
        if (recovery := row.recovery(metric)) is not None and recovery.alone.reason != UNCHANGED
    ]
    left_out = [
        (row, recovery.left_out)
        for row in found.remedies
        if (recovery := row.recovery(metric)) is not None and recovery.left_out is not None
    ]
    name = METRIC_WORDS[metric][0].upper() + METRIC_WORDS[metric][1:]
    rows_by_title = {
        f"{name} back, alone": _forest_rows(alone),
        f"{name}, left out of all": _forest_rows(left_out),
    }
    rows_by_title = {title: rows for title, rows in rows_by_title.items() if rows}
    if not rows_by_title:
        return None
    axis = _axis([row for rows in rows_by_title.values() for row in rows])
    charts = tuple(
        difference_forest(title, title, rows, axis, synthetic=SYNTHETIC in found.marks)
        for title, rows in rows_by_title.items()
    )
    caption = (
        f"{name} that each remedy gives back; right of the dashed line is better, and bars are intervals paired by "
        "group. Alone: the remedy less the head as it is. Left out of all: all of them together less all but this one, "
        "which is small where another remedy does the same. Remedies that change nothing alone are left out there. "
        "Blue discs need no labels of the target, grey squares do."
    )
    return Figure(f"remedies-{metric}", charts, caption)


def _forest_rows(pairs: Sequence[tuple[RemedyRow, Score]]) -> list[ForestRow]:
    return [
        ForestRow(
            remedy.name,
            f"{score.n_groups} groups" if score.n_groups else "unknown groups",
            DrawnEstimate.of(score),
            LABEL_LOOK if remedy.uses_labels else FREE_LOOK,
            not remedy.uses_labels,
        )
        for remedy, score in pairs
        if not math.isnan(score.value)
    ]


def _axis(rows: Sequence[ForestRow]) -> tuple[float, float]:
    ends = [0.0, *(value for row in rows for value in row.estimate.known)]
    margin = 0.05 * max(max(ends) - min(ends), 0.02)
    return min(ends) - margin, max(ends) + margin


def _reference_lines(found: Diagnosis) -> list[tuple[str, Score, Look]]:
    """Return the head as it is and the head trained on the target, where they have a value."""
    own = next((oracle.scores[0] for oracle in found.oracles if oracle.name == OWN_HEAD), None)
    lines = [("head as it is", found.target_scores[0], HEAD_LOOK)]
    if own is not None:
        lines.append((OWN_HEAD, own, ORACLE_LOOK))
    return [(name, score, look) for name, score, look in lines if math.isfinite(score.value)]


def _few_shot_chart(found: Diagnosis, lines: Sequence[tuple[str, Score, Look]]) -> Curves:
    points = found.few_shot
    x_P = [float(point.groups_per_class) for point in points]
    limits = tuple(
        (x, point.auroc.interval.low, point.auroc.interval.high)
        for x, point in zip(x_P, points, strict=True)
        if point.auroc.interval is not None
    )
    places = tuple((x, point.auroc.value) for x, point in zip(x_P, points, strict=True))
    band = limits if len(limits) > 1 else ()
    own = Line(places, CURVE_LOOK, "heads trained on so many target groups", band, marked=True)
    beside = [
        Line(((x_P[0], score.value), (x_P[-1], score.value)), look, f"{name}: {DrawnEstimate.of(score)}")
        for name, score, look in lines
    ]
    x = Axis("Labelled target groups per class (logarithmic)", ticks=tuple(x_P), scale="log")
    title, synthetic = "AUROC with few labels", SYNTHETIC in found.marks
    y = Axis("AUROC on the other groups")
    return Curves(title, _few_shot_words(points, lines), synthetic, (*beside, own), x, y)


def _few_shot_words(points: Sequence[FewShotPoint], lines: Sequence[tuple[str, Score, Look]]) -> str:
    told = "; ".join(f"{point.groups_per_class} groups per class: {DrawnEstimate.of(point.auroc)}" for point in points)
    beside = "; ".join(f"{name}: {DrawnEstimate.of(score)}" for name, score, _ in lines)
    return f"AUROC against labelled target groups. {told}. {beside}."


# ------------------------------------------------------------------------------
# The matrix as a picture, and its differences to the diagonal as a forest.


def matrix_figure(matrix: MagnificationMatrix, synthetic: bool, place: int = 1) -> Figure:
    """Draw AUROC with its interval in every cell, darker where it is higher; and the differences to the diagonal."""
    charts: list[Chart] = [_matrix_grid(matrix, synthetic)]
    differences = _matrix_differences(matrix, synthetic)
    if differences is not None:
        charts.append(differences)
    caption = (
        "AUROC by training and scored magnification, with its interval; the diagonal is framed. Where there are "
        "differences, they are to heads trained at the scored magnification, paired by case."
    )
    return Figure(f"matrix-{place}", tuple(charts), caption)


def _matrix_grid(matrix: MagnificationMatrix, synthetic: bool) -> Grid:
    cells = tuple(
        tuple(
            GridCell(DrawnEstimate.of(cell.scores[0]), cell.on_diagonal)
            for cell in (matrix.cell(row, name) for name in matrix.columns)
        )
        for row in matrix.rows
    )
    told = "; ".join(f"{c.trained_on} on {c.magnification} {DrawnEstimate.of(c.scores[0])}" for c in matrix.cells)
    alt = f"AUROC by training and scored magnification, {matrix.experiment}: {told}."
    title = f"{matrix.experiment}, {matrix.training_size} size"
    rows, columns = tuple(matrix.rows), tuple(matrix.columns)
    return Grid(title, alt, synthetic, rows, columns, cells, across="scored at")


def _matrix_differences(matrix: MagnificationMatrix, synthetic: bool) -> Forest | None:
    """AUROC differences to heads trained at the scored magnification; None where there are none."""
    cells = [cell for cell in matrix.cells if cell.differences and not math.isnan(cell.differences[0].value)]
    if not cells:
        return None
    rows = [
        ForestRow(
            f"{cell.trained_on} → {cell.magnification}",
            sample_words(cell.scores[0].n_tiles, cell.scores[0].n_groups),
            DrawnEstimate.of(cell.differences[0]),
            Look(VERMILLION, "diamond"),
            strong=cell.trained_on in matrix.columns,
        )
        for cell in cells
    ]
    title, alt = "AUROC less heads trained there", f"Paired differences, {matrix.experiment}"
    return difference_forest(title, alt, rows, signed_axis(rows, -0.05, 0.05), synthetic=synthetic)


# ------------------------------------------------------------------------------
# Runs beside one another: forests of paired differences, and mean ranks with their critical difference.


RUNS_LOOK = Look(VERMILLION, "diamond")
FOREST_CAPTION = (
    "Paired differences on the same tiles; intervals leave whole groups out of both runs together. Right of the dashed "
    "line the run named first has the larger value; an interval across it leaves open which has."
)
RANK_CAPTION = (
    "Mean ranks over independent data sets, 1 is best. Runs joined by a bar lie within Nemenyi's critical difference: "
    "the data sets don't tell them apart. A mean rank depends on which other runs take part."
)


def domain_figures(families: Sequence[ComparisonFamily]) -> tuple[Figure, ...]:
    """Draw the differences of every domain, a chart per metric."""
    figures: list[Figure] = []
    for _, inside in groupby(families, key=lambda family: (family.finding, family.domain)):
        charts = tuple(chart for family in inside if (chart := _family_forest(family)) is not None)
        if charts:
            figures.append(Figure(f"differences-{len(figures) + 1}", charts, FOREST_CAPTION))
    return tuple(figures)


def _family_forest(family: ComparisonFamily) -> Forest | None:
    drawn = [pair for pair in family.comparisons if math.isfinite(pair.difference.value)]
    if not drawn:
        return None
    rows = [score_row(f"{pair.first} − {pair.second}", pair.difference, RUNS_LOOK) for pair in drawn]
    title = f"{metric_label(family.metric)}, {family.domain}"
    return difference_forest(title, title, rows, signed_axis(rows, -0.02, 0.02), synthetic=SYNTHETIC in family.marks)


def ranks_figure(ranking: Ranking) -> Figure | None:
    """Draw mean ranks with bars over what can't be told apart (Demsar, JMLR 2006); None without a ranking."""
    ranks = ranking.ranks
    if ranks is None:
        return None
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(ranks.names, ranks.mean_ranks, strict=True))
    critical = f"critical difference {ranks.critical_difference:.2f}"
    title = f"{metric_label(ranking.metric)}: mean rank over {len(ranks.data_sets)} data sets"
    alt = f"Mean ranks in {metric_label(ranking.metric)}: {told}; {critical}."
    cliques = tuple((first, last) for first, last in ranks.cliques)
    chart = RankLine(title, alt, False, tuple(ranks.names), tuple(ranks.mean_ranks), cliques, ranks.critical_difference)
    return Figure(f"ranks-{ranking.metric}", (chart,), RANK_CAPTION)
