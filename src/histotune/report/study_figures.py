"""A transfer diagnosis as figures: what remedies give back, and what labelled groups of the target buy."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from histotune.report.charts import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILLION,
    WIDTH_PX,
    DrawnEstimate,
    ForestRow,
    Frame,
    Look,
    Panel,
    area,
    box,
    curve,
    drawing,
    heading,
    line,
    marker,
    nice_ticks,
    score_row,
    signed_axis,
    signed_panel,
    swatch,
    text,
    x_axis,
    y_axis,
)
from histotune.report.figures import Figure
from histotune.report.study_tables import METRIC_WORDS
from histotune.report.words import metric_label, number, sample_words
from histotune.tools.marks import SYNTHETIC
from histotune.transfer.differences import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from histotune.evaluation.magnifications import MagnificationMatrix, MatrixCell
    from histotune.evaluation.run_comparison import ComparisonFamily, Ranking
    from histotune.statistics.mean_ranks import MeanRanks
    from histotune.statistics.predictions import Score
    from histotune.transfer.case import Diagnosis, FewShotPoint, RemedyRow


FREE_LOOK, LABEL_LOOK = Look(BLUE, "disc"), Look(GREY, "square")
CURVE_LOOK = Look(BLUE, "disc")
HEAD_LOOK, ORACLE_LOOK = Look(VERMILLION, "square", "curve dashed"), Look(GREEN, "diamond", "curve dotted")
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
    legend = [(swatch(CURVE_LOOK), "heads trained on so many target groups of each class")]
    legend += [(swatch(look, as_line=True), f"{name}: AUROC {DrawnEstimate.of(score)}") for name, score, look in lines]
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
    return Figure((_few_shot_panel(found, lines),), tuple(legend), " ".join(caption.split()))


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
    panels = tuple(
        signed_panel(Panel(title, SYNTHETIC in found.marks, title), rows, axis) for title, rows in rows_by_title.items()
    )
    legend = ((swatch(FREE_LOOK), "without labels of the target"), (swatch(LABEL_LOOK), "needs labels of the target"))
    caption = (
        f"{name} that each remedy gives back; right of the dashed line is better, and bars are intervals paired by "
        "group. Alone: the remedy less the head as it is. Left out of all: all of them together less all but this one, "
        "which is small where another remedy does the same. Remedies that change nothing alone are left out there."
    )
    return Figure(panels, legend, caption)


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


def _few_shot_panel(found: Diagnosis, lines: Sequence[tuple[str, Score, Look]]) -> Markup:
    points = found.few_shot
    x_P = [math.log2(point.groups_per_class) for point in points]
    values = [point.auroc for point in points]
    frame = Frame(
        52, 28, WIDTH_PX - 66, 210, (x_P[0] - 0.3, x_P[-1] + 0.3), _auroc_range([*values, *(s for _, s, _ in lines)])
    )
    ticks = nice_ticks(*frame.y_range)
    parts = [
        heading("AUROC with few labels", SYNTHETIC in found.marks),
        y_axis(frame, ticks, [f"{tick:.2f}" for tick in ticks], "AUROC on the other groups"),
    ]
    known = [(frame.x(x), score.interval) for x, score in zip(x_P, values, strict=True) if score.interval is not None]
    if len(known) > 1:
        upper = [(at, frame.y(limits.high)) for at, limits in known]
        lower = [(at, frame.y(limits.low)) for at, limits in known]
        parts.append(area([*upper, *reversed(lower)], BLUE))
    for _, score, look in lines:
        at = frame.y(score.value)
        parts.append(curve([(frame.left_px, at), (frame.right_px, at)], look.line_css, look.colour))
    places = [(frame.x(x), frame.y(score.value)) for x, score in zip(x_P, values, strict=True)]
    parts.append(curve(places, CURVE_LOOK.line_css, CURVE_LOOK.colour))
    parts += [line((at, frame.y(limits.low)), (at, frame.y(limits.high)), "whisker", INK) for at, limits in known]
    parts += [marker(*place, CURVE_LOOK.shape, CURVE_LOOK.colour) for place in places]
    parts.append(
        x_axis(
            frame,
            x_P,
            [str(point.groups_per_class) for point in points],
            "Labelled target groups per class (logarithmic)",
        )
    )
    panel = Panel("", SYNTHETIC in found.marks, _few_shot_words(points, lines))
    return drawing(frame.bottom_px + 44, panel.words, parts)


def _auroc_range(scores: Sequence[Score]) -> tuple[float, float]:
    ends = [score.value for score in scores]
    ends += [end for score in scores if score.interval is not None for end in (score.interval.low, score.interval.high)]
    margin = 0.06 * (max(ends) - min(ends)) or 0.02
    return max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)


def _few_shot_words(points: Sequence[FewShotPoint], lines: Sequence[tuple[str, Score, Look]]) -> str:
    told = "; ".join(f"{point.groups_per_class} groups per class: {DrawnEstimate.of(point.auroc)}" for point in points)
    beside = "; ".join(f"{name}: {DrawnEstimate.of(score)}" for name, score, _ in lines)
    return f"AUROC against labelled target groups. {told}. {beside}."


# ------------------------------------------------------------------------------
# The matrix as a picture, and its differences to the diagonal as a forest.


LEFT_PX, TOP_PX, ROW_PX = 84.0, 62.0, 46.0
PALE, DEEP = (255, 255, 255), (0x7F, 0xB8, 0xDA)  # black text stays readable on both


def matrix_panels(matrix: MagnificationMatrix, synthetic: bool) -> tuple[Markup, ...]:
    """Draw a matrix and, where there are any, its differences."""
    panels = (matrix_panel(matrix, synthetic), difference_panel(matrix, synthetic))
    return tuple(panel for panel in panels if panel is not None)


def matrix_panel(matrix: MagnificationMatrix, synthetic: bool) -> Markup:
    """Draw AUROC with its interval in every cell, darker where it is higher; the diagonal is framed."""
    column_px = (WIDTH_PX - LEFT_PX - 4) / len(matrix.columns)
    parts = [
        heading(f"{matrix.experiment}, {matrix.training_size} size", synthetic),
        text(LEFT_PX + (WIDTH_PX - LEFT_PX) / 2, 36, "scored at", "small"),
    ]
    parts += [text(LEFT_PX + (c + 0.5) * column_px, TOP_PX - 8, name, "tick") for c, name in enumerate(matrix.columns)]
    for r, row in enumerate(matrix.rows):
        top = TOP_PX + r * ROW_PX
        parts.append(text(LEFT_PX - 6, top + ROW_PX / 2 + 4, row, "tick", anchor="end"))
        for c, name in enumerate(matrix.columns):
            parts += _draw_cell(matrix.cell(row, name), (LEFT_PX + c * column_px, top), column_px)
    return drawing(TOP_PX + ROW_PX * len(matrix.rows) + 6, _alt(matrix, synthetic), parts)


def difference_panel(matrix: MagnificationMatrix, synthetic: bool) -> Markup | None:
    """Draw AUROC differences to heads trained at the scored magnification."""
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
    panel = Panel("AUROC less heads trained there", synthetic, f"Paired differences, {matrix.experiment}")
    return signed_panel(panel, rows, signed_axis(rows, -0.05, 0.05))


def _draw_cell(cell: MatrixCell, corner: tuple[float, float], width_px: float) -> list[Markup]:
    score = cell.scores[0]
    middle = corner[0] + width_px / 2
    frame = "#1B1B1B" if cell.on_diagonal else "none"
    parts = [box((corner[0] + 1, corner[1] + 1), (width_px - 2, ROW_PX - 2), _shade(score.value), frame)]
    if math.isnan(score.value):
        return [*parts, text(middle, corner[1] + ROW_PX / 2 + 4, "n. e.", "small")]
    parts.append(text(middle, corner[1] + 20, number(score.value), "tick"))
    if score.interval is not None:
        limits = f"{score.interval.low:.2f}–{score.interval.high:.2f}"
        parts.append(text(middle, corner[1] + 35, limits, "small"))
    return parts


def _shade(value: float) -> str:
    """Return a pale to deeper blue over AUROC 0.5 to 1; grey where undefined."""
    if math.isnan(value):
        return "#EEEEEE"
    share = min(max((value - 0.5) / 0.5, 0.0), 1.0)
    return "#" + "".join(f"{round(low + share * (high - low)):02X}" for low, high in zip(PALE, DEEP, strict=True))


def _alt(matrix: MagnificationMatrix, synthetic: bool) -> str:
    told = "; ".join(f"{c.trained_on} on {c.magnification} {DrawnEstimate.of(c.scores[0])}" for c in matrix.cells)
    return Panel("", synthetic, f"AUROC by training and scored magnification, {matrix.experiment}: {told}.").words


# ------------------------------------------------------------------------------
# Runs beside one another: forests of paired differences, and mean ranks with their critical difference.


LOOK = Look(VERMILLION, "diamond")
FOREST_CAPTION = (
    "Paired differences on the same tiles; intervals leave whole groups out of both runs together. Right of the dashed "
    "line the run named first has the larger value; an interval across it leaves open which has."
)
RANK_CAPTION = (
    "Mean ranks over independent data sets, 1 is best. Runs joined by a bar lie within Nemenyi's critical difference: "
    "the data sets don't tell them apart. A mean rank depends on which other runs take part."
)
CONTENDER_ROW_PX = 26.0


def domain_figures(families: Sequence[ComparisonFamily]) -> tuple[Figure, ...]:
    """Draw the differences of every domain, a panel per metric."""
    figures = []
    for _, inside in groupby(families, key=lambda family: (family.finding, family.domain)):
        panels = tuple(panel for family in inside if (panel := _family_panel(family)) is not None)
        if panels:
            figures.append(Figure(panels, (), FOREST_CAPTION))
    return tuple(figures)


def _family_panel(family: ComparisonFamily) -> Markup | None:
    drawn = [pair for pair in family.comparisons if math.isfinite(pair.difference.value)]
    if not drawn:
        return None
    rows = [score_row(f"{pair.first} − {pair.second}", pair.difference, LOOK) for pair in drawn]
    title = f"{metric_label(family.metric)}, {family.domain}"
    return signed_panel(Panel(title, SYNTHETIC in family.marks, title), rows, signed_axis(rows, -0.02, 0.02))


def ranking_figure(ranking: Ranking) -> Figure | None:
    """Draw mean ranks with bars over what can't be told apart (Demsar, JMLR 2006); None without a ranking."""
    if ranking.ranks is None:
        return None
    return Figure((_rank_panel(ranking.ranks, metric_label(ranking.metric)),), (), RANK_CAPTION)


def _rank_panel(ranks: MeanRanks, metric: str) -> Markup:
    n_arms = len(ranks.names)
    top = 58.0 + 8.0 * len(ranks.cliques)
    frame = Frame(12, top, WIDTH_PX - 24, CONTENDER_ROW_PX * n_arms, x_range=(1.0, float(n_arms)))
    parts = [heading(f"{metric}: mean rank over {len(ranks.data_sets)} data sets", synthetic=False)]
    reach = frame.x(1.0 + min(ranks.critical_difference, n_arms - 1.0))
    parts += [
        line((frame.x(1.0), 38), (reach, 38), "axis"),
        text(reach + 6, 42, _critical(ranks), "small", anchor="start"),
    ]
    for place, (first, last) in enumerate(ranks.cliques):
        at = 52.0 + 8.0 * place
        ends = frame.x(ranks.mean_ranks[first]) - 4, frame.x(ranks.mean_ranks[last]) + 4
        parts.append(line((ends[0], at), (ends[1], at), "interval", BLUE))
    for place, (name, rank) in enumerate(zip(ranks.names, ranks.mean_ranks, strict=True)):
        at = frame.top_px + CONTENDER_ROW_PX * (place + 0.6)
        parts.append(line((frame.x(rank), frame.top_px), (frame.x(rank), at), "grid"))
        parts.append(marker(frame.x(rank), at, "disc", INK))
        left = rank > (1 + n_arms) / 2
        parts.append(
            text(
                frame.x(rank) + (-9 if left else 9),
                at + 4,
                f"{name}  {rank:.2f}",
                "value",
                anchor="end" if left else "start",
            )
        )
    ticks = [float(rank) for rank in range(1, n_arms + 1)]
    parts.append(x_axis(frame, ticks, [f"{tick:.0f}" for tick in ticks], ""))
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(ranks.names, ranks.mean_ranks, strict=True))
    return drawing(frame.bottom_px + 26, f"Mean ranks in {metric}: {told}; {_critical(ranks)}.", parts)


def _critical(ranks: MeanRanks) -> str:
    return f"critical difference {ranks.critical_difference:.2f}"
