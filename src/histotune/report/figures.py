"""Findings to figures: which panels, which words under them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.report.charts import (
    Bar,
    Estimate,
    ForestRow,
    Look,
    Panel,
    bar_panel,
    chance_swatch,
    forest_panel,
    swatch,
)
from histotune.report.svg import BLUE, GREEN, GREY, VERMILLION
from histotune.report.words import (
    FLOORS,
    PROBE,
    RANDOM_SPLIT,
    SHORT_FLOORS,
    count,
    group_count,
    is_difference,
    is_trained_domain,
    metric_label,
    metric_score,
    sample_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from histotune.evaluation.findings import Finding, Findings, ScoredArm

MAIN_METRICS = ("auroc", "balanced_accuracy")
MAJORITY = "majority class"
MAX_BARS = 5  # more labels than that overlap at phone width
LOOKS = {
    PROBE: Look(BLUE, "disc", "curve"),
    RANDOM_SPLIT: Look(VERMILLION, "square", "curve dashed"),
    "random-weight backbone + probe": Look(GREY, "circle", "curve thin"),
    "colour histogram + probe": Look(GREY, "square", "curve thin dashed"),
    "untuned head": Look(GREY, "triangle", "curve thin dotted"),
    MAJORITY: Look(GREY, "diamond", "curve thin dotted"),
}
DIRECT = Look(GREEN, "diamond", "curve")


@dataclass(frozen=True)
class Figure:
    """One numbered figure of the page.

    Attributes:
        panels: Pictures side by side, under one another on a phone.
        legend: Key and label of everything that needs one.
        caption: What is shown and how to read it.
    """

    panels: tuple[Markup, ...]
    legend: tuple[tuple[Markup, str], ...]
    caption: str


def magnification_figure(finding: Finding, findings: Findings) -> Figure | None:
    """Draw the probe on every magnification, floors beside each bar.

    Args:
        finding: The cross-magnification finding.
        findings: Whether it is synthetic.

    Returns:
        A panel per metric, or None where there is no probe row.
    """
    probes = [row for row in finding.rows if row.arm == PROBE]
    metrics = [name for name in MAIN_METRICS if any(metric_score(row, name) for row in probes)]
    if not metrics:
        return None
    floors = [arm for arm in FLOORS if arm != MAJORITY and any(row.arm == arm for row in finding.rows)]
    if len(probes) > MAX_BARS:
        panels = [_magnification_forest(probes, finding, name, findings.synthetic) for name in metrics]
        caption = "Probe on each domain; bold is the one it was trained on. Dashed: majority class."
        return Figure(tuple(panels), (), caption)
    panels = [_bar_metric(finding, probes, floors, name, findings.synthetic) for name in metrics]
    legend = [(swatch(LOOKS[arm]), arm) for arm in floors]
    caption = (
        "Probe on each magnification, with its interval, tiles and groups under each bar. The dark bar is the "
        "magnification it was trained on; the markers beside a bar are its floors, the dashed line is the majority "
        "class. A bar without whisker has no interval; the table says why."
    )
    return Figure(tuple(panels), (*legend, (chance_swatch(), MAJORITY)), caption)


def leak_figure(finding: Finding, findings: Findings) -> Figure | None:
    """Draw what a random image split would have claimed beside the grouped result, and the paired difference.

    Args:
        finding: The leak-price finding.
        findings: Whether it is synthetic.

    Returns:
        Two panels, or None where an arm is missing.
    """
    arms = [row for row in finding.rows if row.arm in (PROBE, RANDOM_SPLIT)]
    differences = [row for row in finding.rows if is_difference(row)]
    if not arms:
        return None
    names = {PROBE: "grouped split", RANDOM_SPLIT: "random image split (LEAKY)"}
    panels = []
    for metric in MAIN_METRICS:
        rows = [
            _forest_row(row, metric, names[row.arm], LOOKS[row.arm], strong=True)
            for row in arms
            if metric_score(row, metric)
        ]
        if rows:
            panel = Panel(metric_label(metric), findings.synthetic, _forest_alt(metric_label(metric), rows))
            panels.append(forest_panel(panel, rows, _axis(rows), math.nan))
    if differences:
        panels.append(_difference_panel(differences, findings.synthetic))
    caption = (
        "What a random image split would have claimed: the same tiles, the same training size and the same selection "
        "rule, once with whole groups held out and once with single images held out. Last panel: the paired "
        "difference; what lies above zero is leakage."
    )
    return Figure(tuple(panels), (), caption)


def external_figure(finding: Finding, findings: Findings) -> Figure | None:
    """Draw the probe on another data set beside direct training there and the floors.

    Args:
        finding: The external or the direct finding.
        findings: Where direct training on the same domain is looked up.

    Returns:
        A forest per metric, or None where there is nothing to draw.
    """
    direct = findings.finding("direct") if finding.id == "external" else None
    entries = _external_entries(finding, direct)
    metrics = [name for name in MAIN_METRICS if any(metric_score(row, name) for row, _, _ in entries)]
    if not metrics:
        return None
    panels = []
    for name in metrics:
        rows = [
            _forest_row(row, name, label, look, strong=row.arm == PROBE)
            for row, label, look in entries
            if metric_score(row, name)
        ]
        alt = _forest_alt(metric_label(name), rows)
        panel = Panel(metric_label(name), findings.synthetic, alt)
        panels.append(forest_panel(panel, rows, _axis(rows), _chance(finding, name)))
    caption = (
        "The probe carried over to another data set, beside a probe trained there directly and the floors. Dashed: "
        "majority class."
        if finding.id == "external"
        else "The probe trained on this data set's own training part, beside the floors. Dashed: majority class."
    )
    return Figure(tuple(panels), (), caption)


def _magnification_forest(probes: Sequence[ScoredArm], finding: Finding, name: str, synthetic: bool) -> Markup:
    rows = [_forest_row(row, name, row.domain, LOOKS[PROBE], strong=is_trained_domain(row)) for row in probes]
    panel = Panel(metric_label(name), synthetic, _forest_alt(f"{metric_label(name)} of the probe", rows))
    return forest_panel(panel, rows, _axis(rows), _chance(finding, name))


def _bar_metric(
    finding: Finding, probes: Sequence[ScoredArm], floors: Sequence[str], name: str, synthetic: bool
) -> Markup:
    bars = []
    for row in probes:
        trained = is_trained_domain(row)
        n_tiles, n_groups = sample_size(row)
        scale = f"{row.input_mpp:.2f} µm/px" if math.isfinite(row.input_mpp) else "scale unknown"
        labels = (row.domain.rpartition(" ")[2], f"{count(n_tiles)} tiles", f"{group_count(n_groups)} groups", scale)
        beside = [(arm, finding.row(arm, row.domain)) for arm in floors]
        estimates = tuple((LOOKS[arm], _estimate(floor, name)) for arm, floor in beside if floor is not None)
        bars.append(Bar((*labels, "trained here" if trained else ""), _estimate(row, name), trained, estimates))
    told = "; ".join(f"{bar.labels[0]} {bar.estimate} ({bar.labels[1]}, {bar.labels[2]})" for bar in bars)
    panel = Panel(metric_label(name), synthetic, f"{metric_label(name)} of the probe by magnification: {told}.")
    return bar_panel(panel, bars, _chance(finding, name))


def _difference_panel(differences: Sequence[ScoredArm], synthetic: bool) -> Markup:
    rows = [
        _forest_row(row, name, metric_label(name), Look(VERMILLION, "diamond"), strong=True)
        for row in differences
        for name in MAIN_METRICS
        if metric_score(row, name)
    ]
    limits = [value for row in rows for value in _finite(row.estimate)]
    low, high = min([0.0, *limits]), max([0.05, *limits])
    axis = (low - 0.08 * (high - low), high + 0.08 * (high - low))
    told = "; ".join(f"{row.label} {row.estimate.words(signed=True)}" for row in rows)
    panel = Panel("Difference (random − grouped)", synthetic, f"Leak's price, random minus grouped: {told}.")
    return forest_panel(panel, rows, axis, 0.0, signed=True)


def _external_entries(finding: Finding, direct: Finding | None) -> list[tuple[ScoredArm, str, Look]]:
    """Rows of the forest: the probe, direct training on the same domain, the floors."""
    entries: list[tuple[ScoredArm, str, Look]] = []
    for domain in dict.fromkeys(row.domain for row in finding.rows):
        here = [row for row in finding.rows if row.domain == domain]
        probes = [row for row in here if row.arm == PROBE]
        look = DIRECT if finding.id == "direct" else LOOKS[PROBE]
        entries += [(row, _origin(row), look) for row in probes]
        beside = direct.row(PROBE, domain) if direct is not None else None
        entries += [(beside, _origin(beside), DIRECT)] if beside is not None else []
        entries += [
            (row, SHORT_FLOORS[row.arm], LOOKS[row.arm]) for row in here if row.arm in FLOORS and row.arm != MAJORITY
        ]
    return entries


def _origin(row: ScoredArm) -> str:
    return f"from {row.trained_on.partition(',')[0]}"


def _forest_row(row: ScoredArm, metric: str, label: str, look: Look, *, strong: bool) -> ForestRow:
    n_tiles, n_groups = sample_size(row)
    n = f"{count(n_tiles)} tiles, {group_count(n_groups)} groups"
    return ForestRow(label, n, _estimate(row, metric), look, strong)


def _forest_alt(what: str, rows: Sequence[ForestRow]) -> str:
    return f"{what}: " + "; ".join(f"{row.label} {row.estimate} ({row.n})" for row in rows) + "."


def _estimate(row: ScoredArm, metric: str) -> Estimate:
    score = metric_score(row, metric)
    return Estimate(math.nan) if score is None else Estimate.of(score)


def _finite(estimate: Estimate) -> list[float]:
    return [value for value in (estimate.value, estimate.low, estimate.high) if math.isfinite(value)]


def _axis(rows: Sequence[ForestRow]) -> tuple[float, float]:
    """Range from a round number at or below every limit and 0.4, up to 1."""
    low = min([0.4, *(value for row in rows for value in _finite(row.estimate))])
    return math.floor(low * 10) / 10 - 0.02, 1.02


def _chance(finding: Finding, metric: str) -> float:
    """What the majority class scores, where the finding has it; one half for a ranking."""
    row = finding.row(MAJORITY)
    score = metric_score(row, metric) if row is not None else None
    if score is not None and math.isfinite(score.value):
        return score.value
    return 0.5 if metric == "auroc" else math.nan
