"""The probe less each floor, as a forest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.report.charts import Estimate, ForestRow, Look, Panel, forest_panel
from histotune.report.figures import Figure
from histotune.report.svg import VERMILLION
from histotune.report.words import SHORT_FLOORS, count, group_count, metric_label, metric_of, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from histotune.evaluation.findings import Finding, PairedDifference

LOOK = Look(VERMILLION, "diamond")


def paired_figure(finding: Finding, *, synthetic: bool) -> Figure | None:
    """Draw the paired differences of a finding, a panel per metric.

    Args:
        finding: Its ``paired`` are drawn.
        synthetic: Whether the tissue is rendered.

    Returns:
        Forests, or None where no difference has a value.
    """
    drawn = [pair for pair in finding.paired if math.isfinite(pair.difference.value)]
    metrics = dict.fromkeys(metric_of(pair.difference) for pair in drawn)
    panels = [_panel(name, [pair for pair in drawn if metric_of(pair.difference) == name], synthetic)
              for name in metrics]  # fmt: skip
    if not panels:
        return None
    caption = (
        "Paired differences: the probe less each floor, on the same tiles; intervals leave whole groups out of both "
        "arms together. Right of the dashed line the probe is better; an interval across it leaves open which is."
    )
    return Figure(tuple(panels), (), caption)


def paired_lines(finding: Finding) -> tuple[str, ...]:
    """Return every paired difference with its interval and p value, or why they are missing.

    Args:
        finding: Its ``paired`` are told.
    """
    several = len({pair.domain for pair in finding.paired}) > 1
    return tuple(f"{metric_label(metric_of(pair.difference))}, probe less {_label(pair, several=several)}: "
                 f"{_difference_told(pair)}." for pair in finding.paired)  # fmt: skip


def _panel(metric: str, pairs: Sequence[PairedDifference], synthetic: bool) -> Markup:
    several = len({pair.domain for pair in pairs}) > 1
    rows = [
        ForestRow(f"− {_label(pair, several=several)}", _n(pair), Estimate.of(pair.difference), LOOK, strong=True)
        for pair in pairs
    ]
    limits = [value for row in rows for value in vars(row.estimate).values() if math.isfinite(value)]
    low, high = min([0.0, *limits]), max([0.05, *limits])
    room = 0.08 * (high - low)
    told = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
    panel = Panel(f"{metric_label(metric)}: probe − floor", synthetic, f"{metric_label(metric)} of the probe: {told}.")
    return forest_panel(panel, rows, (low - room, high + room), 0.0, signed=True)


def _label(pair: PairedDifference, *, several: bool) -> str:
    name = SHORT_FLOORS.get(pair.against, pair.against)
    return f"{name}, {pair.domain}" if several else name


def _n(pair: PairedDifference) -> str:
    return f"{count(pair.difference.n_tiles)} tiles, {group_count(pair.difference.n_groups)} groups"


def _difference_told(pair: PairedDifference) -> str:
    score = pair.difference
    if math.isnan(score.value):
        return f"not estimable: {score.reason}"
    value = number(score.value, signed=True)
    if score.interval is None:
        return f"{value}, no interval: {score.reason}"
    return f"{value} [{number(score.interval.low)}, {number(score.interval.high)}]; {pair.p_words}"
