"""Runs beside one another: forests of paired differences, and mean ranks with their critical difference."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from histotune.report.charts import Estimate, ForestRow, Look, Panel, forest_panel
from histotune.report.figures import Figure
from histotune.report.svg import BLUE, INK, VERMILLION, WIDTH_PX, Frame, drawing, heading, line, marker, text, x_axis
from histotune.report.words import count, group_count, metric_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from histotune.evaluation.comparison import Family, Ranking
    from histotune.statistics.comparison import MeanRanks

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


def domain_figures(families: Sequence[Family]) -> tuple[Figure, ...]:
    """Draw the differences of every domain, a panel per metric.

    Args:
        families: Comparisons; those of one domain follow one another.

    Returns:
        A figure per domain; none where no difference has a value.
    """
    figures = []
    for _, inside in groupby(families, key=lambda family: (family.finding, family.domain)):
        panels = tuple(panel for family in inside if (panel := _family_panel(family)) is not None)
        if panels:
            figures.append(Figure(panels, (), FOREST_CAPTION))
    return tuple(figures)


def _family_panel(family: Family) -> Markup | None:
    drawn = [pair for pair in family.comparisons if math.isfinite(pair.difference.value)]
    if not drawn:
        return None
    rows = [
        ForestRow(f"{pair.first} − {pair.second}", _sample_words(pair.difference.n_tiles, pair.difference.n_groups),
                  Estimate.of(pair.difference), LOOK, strong=True)
        for pair in drawn
    ]  # fmt: skip
    limits = [value for row in rows for value in vars(row.estimate).values() if math.isfinite(value)]
    low, high = min([-0.02, *limits]), max([0.02, *limits])
    room = 0.08 * (high - low)
    told = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
    title = f"{metric_label(family.metric)}, {family.domain}"
    panel = Panel(title, "SYNTHETIC" in family.marks, f"{title}: {told}.")
    return forest_panel(panel, rows, (low - room, high + room), 0.0, signed=True)


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
        parts.append(text(frame.x(rank) + (-9 if left else 9), at + 4, f"{name}  {rank:.2f}", "value",
                          anchor="end" if left else "start"))  # fmt: skip
    ticks = [float(rank) for rank in range(1, n_arms + 1)]
    parts.append(x_axis(frame, ticks, [f"{tick:.0f}" for tick in ticks], ""))
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(ranks.names, ranks.mean_ranks, strict=True))
    return drawing(frame.bottom_px + 26, f"Mean ranks in {metric}: {told}; {_critical(ranks)}.", parts)


def _critical(ranks: MeanRanks) -> str:
    return f"critical difference {ranks.critical_difference:.2f}"


def _sample_words(n_tiles: int, n_groups: int) -> str:
    return f"{count(n_tiles)} tiles, {group_count(n_groups)} groups"
