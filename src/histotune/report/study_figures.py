"""A transfer diagnosis as figures: what remedies give back, and what labelled groups of the target buy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.report.charts import Estimate, ForestRow, Look, Panel, forest_panel, swatch
from histotune.report.figures import Figure
from histotune.report.study_tables import METRIC_WORDS
from histotune.report.svg import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILLION,
    WIDTH_PX,
    Frame,
    area,
    curve,
    drawing,
    heading,
    line,
    marker,
    nice_ticks,
    x_axis,
    y_axis,
)
from histotune.report.words import SYNTHETIC
from histotune.transfer.differences import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from histotune.statistics.predictions import Score
    from histotune.transfer.case import Diagnosis, FewShotPoint, RemedyRow

FREE_LOOK, LABEL_LOOK = Look(BLUE, "disc"), Look(GREY, "square")
CURVE_LOOK = Look(BLUE, "disc")
HEAD_LOOK, ORACLE_LOOK = Look(VERMILLION, "square", "curve dashed"), Look(GREEN, "diamond", "curve dotted")
FOREST_METRICS = ("auroc", "log_loss")
OWN_HEAD = "head trained on the target"


def recovery_figures(found: Diagnosis) -> tuple[Figure, ...]:
    """Draw what every remedy gives back alone and what is missing where it alone is left out, a figure per metric.

    Args:
        found: The diagnosis.

    Returns:
        Figures; metrics in which nothing is estimable are left out.
    """
    figures = (_recovery_figure(found, metric) for metric in FOREST_METRICS)
    return tuple(figure for figure in figures if figure is not None)


def few_shot_figure(found: Diagnosis) -> Figure | None:
    """Draw AUROC against labelled target groups, beside the head as it is and a head trained on all of the target.

    Args:
        found: The diagnosis.

    Returns:
        One panel, or None where the target's groups allow no point.
    """
    points = found.few_shot
    if not points:
        return None
    lines = _reference_lines(found)
    legend = [(swatch(CURVE_LOOK), "heads trained on so many target groups of each class")]
    legend += [(swatch(look, as_line=True), f"{name}: AUROC {Estimate.of(score)}") for name, score, look in lines]
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
    panels = tuple(_forest(title, rows, axis, SYNTHETIC in found.marks) for title, rows in rows_by_title.items())
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
            Estimate.of(score),
            LABEL_LOOK if remedy.uses_labels else FREE_LOOK,
            not remedy.uses_labels,
        )
        for remedy, score in pairs
        if not math.isnan(score.value)
    ]


def _axis(rows: Sequence[ForestRow]) -> tuple[float, float]:
    ends = [
        value
        for row in rows
        for value in (row.estimate.value, row.estimate.low, row.estimate.high, 0.0)
        if math.isfinite(value)
    ]
    margin = 0.05 * max(max(ends) - min(ends), 0.02)
    return min(ends) - margin, max(ends) + margin


def _forest(title: str, rows: Sequence[ForestRow], axis: tuple[float, float], synthetic: bool) -> Markup:
    told = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
    return forest_panel(Panel(title, synthetic, f"{title}: {told}."), rows, axis, 0.0, signed=True)


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
    parts = [heading("AUROC with few labels", SYNTHETIC in found.marks),
             y_axis(frame, ticks, [f"{tick:.2f}" for tick in ticks], "AUROC on the other groups")]  # fmt: skip
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
    parts.append(x_axis(frame, x_P, [str(point.groups_per_class) for point in points],
                        "Labelled target groups per class (logarithmic)"))  # fmt: skip
    panel = Panel("", SYNTHETIC in found.marks, _few_shot_words(points, lines))
    return drawing(frame.bottom_px + 44, panel.words, parts)


def _auroc_range(scores: Sequence[Score]) -> tuple[float, float]:
    ends = [score.value for score in scores]
    ends += [end for score in scores if score.interval is not None for end in (score.interval.low, score.interval.high)]
    margin = 0.06 * (max(ends) - min(ends)) or 0.02
    return max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)


def _few_shot_words(points: Sequence[FewShotPoint], lines: Sequence[tuple[str, Score, Look]]) -> str:
    told = "; ".join(f"{point.groups_per_class} groups per class: {Estimate.of(point.auroc)}" for point in points)
    beside = "; ".join(f"{name}: {Estimate.of(score)}" for name, score, _ in lines)
    return f"AUROC against labelled target groups. {told}. {beside}."
