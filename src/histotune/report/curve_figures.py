"""Predictions to figures: ROC, precision-recall and calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from histotune.report.charts import Line, Look, Panel, swatch
from histotune.report.curve_panels import precision_panel, reliability_panel, roc_panel
from histotune.report.figures import LOOKS, MAJORITY, Figure
from histotune.report.svg import AMBER, BLUE, GREEN, GREY, INK, PURPLE, VERMILLION
from histotune.report.words import FLOORS, PROBE, RANDOM_SPLIT, count, format_score, group_count
from histotune.statistics.curves import class_matrix, curve_bands, precision_points, reliability_bins, roc_points
from histotune.statistics.predictions import Predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from markupsafe import Markup
    from numpy.typing import NDArray

    from histotune.evaluation.findings import Artifacts, Finding, Findings
    from histotune.statistics.curves import Band, ClassBands, CurveBands
    from histotune.statistics.predictions import IntervalConfig, Score
# N tiles, K classes

LINE_LOOKS = (
    Look(BLUE, "disc", "curve"),
    Look(VERMILLION, "square", "curve dashed"),
    Look(GREEN, "diamond", "curve dotted"),
    Look(PURPLE, "triangle", "curve longdash"),
    Look(AMBER, "circle", "curve"),
    Look(GREY, "circle", "curve dashed"),
    Look(INK, "circle", "curve dotted"),
)
SOURCE_FINDINGS = ("in-domain", "cross-magnification", "leak-price")
DRAWN_ARMS = (*(arm for arm in FLOORS if arm != MAJORITY), RANDOM_SPLIT, PROBE)


@dataclass(frozen=True)
class Ranking:
    """Tiles ranked for one event, as one curve shows them; ``bands`` where the curve has any."""

    event_N: NDArray[np.bool_]
    score_N: NDArray[np.float64]
    look: Look
    label: str
    bands: ClassBands | None = None


def ranking_figure(
    finding: Finding, findings: Findings, artifacts: Artifacts, interval: IntervalConfig
) -> Figure | None:
    """Draw ROC, precision-recall and calibration of the in-domain predictions, bands around the probe's curves.

    Args:
        finding: The in-domain finding.
        findings: Class names, and whether it is synthetic.
        artifacts: The predictions.
        interval: How the run's intervals were made; bands follow it.

    Returns:
        Three panels, or None where there are no predictions of the probe.
    """
    probe_row = finding.row(PROBE)
    if probe_row is None or artifacts.predictions.is_empty():
        return None
    domains = [row.domain for row in finding.rows if row.arm == PROBE]
    table = artifacts.predictions.filter(
        pl.col("domain").is_in(domains) & pl.col("finding").is_in(SOURCE_FINDINGS) & pl.col("y_true").is_not_null()
    )
    by_arm = {arm: _first_finding(table.filter(pl.col("arm") == arm)) for arm in DRAWN_ARMS}
    by_arm = {arm: part for arm, part in by_arm.items() if part["y_true"].n_unique() > 1}
    if PROBE not in by_arm:
        return None
    names = class_names_of(findings, probe_row.domain, class_matrix(by_arm[PROBE], "probability").shape[1])
    bands = curve_bands(Predictions(by_arm[PROBE], names), interval)
    rankings = _arm_rankings(by_arm, bands) if len(names) == 2 else _class_rankings(by_arm[PROBE], names, bands)
    told = {name: _score_told(probe_row.score(name), label) for name, label in (("auroc", "AUROC"), ("auprc", "AUPRC"))}
    n_groups = by_arm[PROBE]["group_id"].drop_nulls().n_unique()
    n = f"{count(len(by_arm[PROBE]))} tiles, {group_count(n_groups)} groups"
    where = ", ".join(domains)
    roc = roc_panel(
        Panel("ROC", findings.synthetic, f"ROC curves on {where}. {told['auroc']}; {n}."), _roc_lines(rankings)
    )
    precision = precision_panel(
        Panel("Precision-recall", findings.synthetic, f"Precision-recall curves on {where}. {told['auprc']}; {n}."),
        _precision_lines(rankings), float(rankings[-1].event_N.mean()) if len(names) == 2 else math.nan,
    )  # fmt: skip
    calibration = _calibration(by_arm[PROBE], names, findings.synthetic)
    legend = tuple((swatch(one.look, as_line=True), one.label) for one in reversed(rankings))
    caption = _ranking_caption(by_arm[PROBE], where, n, len(names), bands)
    return Figure((roc, precision, calibration), legend if len(names) == 2 else tuple(reversed(legend)), caption)


def _score_told(score: Score | None, label: str) -> str:
    return f"{label} of the probe {format_score(score)}" if score else f"{label} of the probe not computed"


def _first_finding(part: pl.DataFrame) -> pl.DataFrame:
    """One finding's predictions of an arm, since the probe stands in several findings."""
    if part.is_empty():
        return part
    present = set(part["finding"])
    return part.filter(pl.col("finding") == next(name for name in SOURCE_FINDINGS if name in present))


def _arm_rankings(by_arm: dict[str, pl.DataFrame], bands: CurveBands) -> list[Ranking]:
    """One curve per arm, the probe on top and the only one with bands."""
    rankings = []
    for arm, part in by_arm.items():
        logit_NK = class_matrix(part, "logit")
        label = f"{arm} (LEAKY)" if arm == RANDOM_SPLIT else arm
        own = bands.of_class(1) if arm == PROBE else None
        margin_N = logit_NK[:, 1] - logit_NK[:, 0]
        rankings.append(Ranking(part["y_true"].to_numpy() == 1, margin_N, LOOKS[arm], label, own))
    return rankings


def _class_rankings(part: pl.DataFrame, names: Sequence[str], bands: CurveBands) -> list[Ranking]:
    """One curve of the probe per class, against all other classes."""
    y_N, probability_NK = part["y_true"].to_numpy(), class_matrix(part, "probability")
    return [
        Ranking(y_N == index, probability_NK[:, index], LINE_LOOKS[index % len(LINE_LOOKS)], f"{name} against the rest",
                bands.of_class(index))
        for index, name in enumerate(names)
        if 0 < (y_N == index).sum() < len(y_N)
    ]  # fmt: skip


def _roc_lines(rankings: Sequence[Ranking]) -> list[Line]:
    return [
        _line(roc_points(one.event_N, one.score_N), one.look, one.bands.roc if one.bands else None) for one in rankings
    ]


def _precision_lines(rankings: Sequence[Ranking]) -> list[Line]:
    return [
        _line(precision_points(one.event_N, one.score_N), one.look, one.bands.precision_recall if one.bands else None)
        for one in rankings
    ]


def _line(points: tuple[NDArray[np.float64], NDArray[np.float64]], look: Look, band: Band | None) -> Line:
    x_P, y_P = points
    limits = () if band is None else zip(band.x_M.tolist(), band.low_M.tolist(), band.high_M.tolist(), strict=True)
    return Line(tuple(zip(x_P.tolist(), y_P.tolist(), strict=True)), look, tuple(limits))


def _calibration(part: pl.DataFrame, names: Sequence[str], synthetic: bool) -> Markup:
    """The reliability diagram: of class 1 in binary tasks, of the predicted class otherwise."""
    y_N, probability_NK = part["y_true"].to_numpy(), class_matrix(part, "probability")
    if len(names) == 2:
        event, bins = names[1], reliability_bins(y_N == 1, probability_NK[:, 1])
    else:
        hit_N = probability_NK.argmax(axis=1) == y_N
        event, bins = "being right", reliability_bins(hit_N, probability_NK.max(axis=1))
    told = "; ".join(f"{item.mean_probability:.2f}: {item.observed:.2f} ({item.n_tiles} tiles)" for item in bins)
    panel = Panel("Calibration", synthetic, f"Observed share of {event} by predicted probability: {told}.")
    return reliability_panel(panel, bins, event)


def _ranking_caption(part: pl.DataFrame, where: str, n: str, n_classes: int, bands: CurveBands) -> str:
    caption = f"ROC, precision-recall and calibration on {where} ({n})."
    if part["fold"].n_unique() > 1:
        caption += (
            " The curves pool the folds, whose scores come from different heads, so the area under ROC can differ from "
            "the AUROC in the table."
        )
    if bands.reason:
        caption += f" No bands: {bands.reason}."
    else:
        caption += f" Shaded: {bands.method}. They hold for one place at a time, not for the whole curve."
        caption += _simulated(bands)
    if n_classes == 2:
        caption += " Dashed: a random ranking; in precision-recall, the prevalence."
    caption += " Calibration: hollow points hold fewer than 10 tiles; tiles of one group are not independent."
    if n_classes > 2:
        caption += " With several classes, calibration is of the predicted class."
    return caption


def _simulated(bands: CurveBands) -> str:
    found = bands.coverage
    if found is None:
        return " Their coverage was not simulated for this case."
    return (
        f" In simulations with {found.n_groups} such groups they held the true curve in {100 * found.least:.0f} to "
        f"{100 * found.most:.0f} % of cohorts, by place and setting."
    )


def class_names_of(findings: Findings, domain: str, n_classes: int) -> tuple[str, ...]:
    """Return the class names of the data set a domain belongs to; numbers where no data set fits.

    Args:
        findings: The data sets.
        domain: Such as "breakhis 100X".
        n_classes: How many classes there are at least.
    """
    dataset = findings.dataset_of(domain)
    if dataset is None or len(dataset.class_names) < n_classes:
        return _numbered(n_classes)
    return dataset.class_names


def _numbered(n_classes: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(n_classes))
