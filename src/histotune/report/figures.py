"""Findings to figures: which charts, which words under them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from histotune.evaluation.answer import strongest_floor
from histotune.report.charts import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    PURPLE,
    VERMILLION,
    Axis,
    CalibrationBin,
    CalibrationChart,
    Curves,
    DrawnEstimate,
    Figure,
    Forest,
    ForestRow,
    Line,
    Look,
    difference_forest,
    score_row,
    signed_axis,
)
from histotune.report.words import (
    format_score,
    is_difference,
    is_trained_domain,
    metric_label,
    metric_of,
    metric_score,
    number,
    sample_size,
    sample_words,
)
from histotune.statistics.curves import class_matrix, curve_bands, precision_points, reliability_bins, roc_points
from histotune.statistics.predictions import Predictions
from histotune.tools.marks import (
    COLOUR_HISTOGRAM,
    FLOORS,
    LEAKY,
    MAJORITY,
    PROBE,
    RANDOM_SPLIT,
    RANDOM_WEIGHTS,
    TUNED,
    UNTUNED,
    VARIED,
    arm_words,
    short_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histotune.evaluation.findings import Artifacts, Finding, Findings, PairedDifference, ScoredArm
    from histotune.report.charts import Chart
    from histotune.statistics.curves import Band, ClassBands, CurveBands
    from histotune.statistics.predictions import IntervalConfig

    PointsOf = Callable[[NDArray[np.bool_], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]


MAIN_METRICS = ("auroc", "balanced_accuracy")
LOOKS = {
    PROBE: Look(BLUE, "disc"),
    TUNED: Look(PURPLE, "disc"),
    VARIED: Look(PURPLE, "circle", "dashed"),
    RANDOM_SPLIT: Look(VERMILLION, "square", "dashed"),
    RANDOM_WEIGHTS: Look(GREY, "circle", thin=True),
    COLOUR_HISTOGRAM: Look(GREY, "square", "dashed", thin=True),
    UNTUNED: Look(GREY, "triangle", "dotted", thin=True),
    MAJORITY: Look(GREY, "diamond", "dotted", thin=True),
}
DIRECT = Look(GREEN, "diamond")


def magnification_figure(finding: Finding, findings: Findings) -> Figure | None:
    """Draw the probe on every magnification, its strongest floor below it."""
    ordered: list[ScoredArm] = []
    for row in (row for row in finding.rows if row.arm == PROBE):
        tuned, floor = finding.row(TUNED, row.domain), strongest_floor(finding, row.domain)
        ordered += [one for one in (row, tuned, floor) if one is not None]
    charts: list[Chart] = []
    for name in MAIN_METRICS:
        drawn = [_magnification_row(row, name) for row in ordered if metric_score(row, name)]
        if drawn:
            what = f"{metric_label(name)} of the probe by magnification"
            charts.append(_score_forest(name, what, drawn, _chance(finding, name), findings.synthetic))
    caption = (
        "Probe on each magnification and its strongest floor below it; bold is where it was trained. The dashed "
        "line is the majority class. A row without a line has no interval; the table says why."
    )
    return Figure("magnifications", tuple(charts), caption) if charts else None


def leak_figure(finding: Finding, findings: Findings) -> Figure | None:
    """Draw what a random image split would have claimed beside the grouped result, and the paired difference."""
    arms = [row for row in finding.rows if row.arm in (PROBE, RANDOM_SPLIT)]
    differences = [row for row in finding.rows if is_difference(row)]
    if not arms:
        return None
    names = {PROBE: "grouped split", RANDOM_SPLIT: f"random image split ({LEAKY})"}
    charts: list[Chart] = []
    for metric in MAIN_METRICS:
        rows = [
            _forest_row(row, metric, names[row.arm], LOOKS[row.arm], strong=True)
            for row in arms
            if metric_score(row, metric)
        ]
        if rows:
            charts.append(_score_forest(metric, metric_label(metric), rows, math.nan, findings.synthetic))
    if differences:
        charts.append(_differences(differences, findings.synthetic))
    caption = (
        "What a random image split would have claimed: the same tiles, the same training size and the same selection "
        "rule, once with whole groups held out and once with single images held out. Of the paired difference, only "
        "an interval that lies above zero as a whole shows leakage."
    )
    return Figure("leak", tuple(charts), caption)


def external_figure(finding: Finding, findings: Findings) -> Figure | None:
    """Draw the probe on another data set beside direct training there and the floors."""
    direct = findings.finding("direct") if finding.id == "external" else None
    entries = _external_entries(finding, direct)
    charts: list[Chart] = []
    for name in MAIN_METRICS:
        rows = [
            _forest_row(row, name, label, look, strong=row.arm == PROBE)
            for row, label, look in entries
            if metric_score(row, name)
        ]
        if rows:
            charts.append(_score_forest(name, metric_label(name), rows, _chance(finding, name), findings.synthetic))
    caption = (
        "The probe carried over to another data set, beside a probe trained there directly and the floors. Dashed: "
        "majority class."
        if finding.id == "external"
        else "The probe trained on this data set's own training part, beside the floors. Dashed: majority class."
    )
    return Figure(finding.id, tuple(charts), caption) if charts else None


def _magnification_row(row: ScoredArm, metric: str) -> ForestRow:
    """The probe's row opens its magnification with its scale."""
    if row.arm != PROBE:
        return _forest_row(row, metric, short_words(row.arm), LOOKS[row.arm], strong=False)
    scale = f"{row.input_mpp:.2f} µm/px" if math.isfinite(row.input_mpp) else "scale unknown"
    trained = ", trained here" if is_trained_domain(row) else ""
    n_tiles, n_groups = sample_size(row)
    section = f"{row.domain.rpartition(' ')[2]} ({scale}{trained})"
    n = sample_words(n_tiles, n_groups)
    return ForestRow(arm_words(PROBE), n, _estimate(row, metric), LOOKS[PROBE], is_trained_domain(row), section)


def _differences(differences: Sequence[ScoredArm], synthetic: bool) -> Forest:
    rows = [
        _forest_row(row, name, metric_label(name), Look(VERMILLION, "diamond"), strong=True)
        for row in differences
        for name in MAIN_METRICS
        if metric_score(row, name)
    ]
    alt = "Leak's price, random minus grouped"
    title = "Difference (random − grouped)"
    return difference_forest(title, alt, rows, signed_axis(rows, 0.0, 0.05), synthetic=synthetic)


def _external_entries(finding: Finding, direct: Finding | None) -> list[tuple[ScoredArm, str, Look]]:
    """Rows of the forest: the probe, direct training on the same domain, the floors."""
    entries: list[tuple[ScoredArm, str, Look]] = []
    for domain in dict.fromkeys(row.domain for row in finding.rows):
        here = [row for row in finding.rows if row.domain == domain]
        probes = [row for row in here if row.arm == PROBE]
        look = DIRECT if finding.id == "direct" else LOOKS[PROBE]
        entries += [(row, _origin(row), look) for row in probes]
        entries += [(row, short_words(row.arm), LOOKS[row.arm]) for row in here if row.arm in (TUNED, VARIED)]
        beside = direct.row(PROBE, domain) if direct is not None else None
        entries += [(beside, _origin(beside), DIRECT)] if beside is not None else []
        entries += [
            (row, short_words(row.arm), LOOKS[row.arm]) for row in here if row.arm in FLOORS and row.arm != MAJORITY
        ]
    return entries


def _origin(row: ScoredArm) -> str:
    return f"from {row.trained_on.partition(',')[0]}"


def _forest_row(row: ScoredArm, metric: str, label: str, look: Look, *, strong: bool) -> ForestRow:
    n_tiles, n_groups = sample_size(row)
    return ForestRow(label, sample_words(n_tiles, n_groups), _estimate(row, metric), look, strong)


def _score_forest(metric: str, what: str, rows: Sequence[ForestRow], reference: float, synthetic: bool) -> Forest:
    told = "; ".join(f"{row.section + ', ' if row.section else ''}{row.label} {row.estimate} ({row.n})" for row in rows)
    low = min([0.4, *(value for row in rows for value in row.estimate.known)])
    axis = (math.floor(low * 10) / 10 - 0.02, 1.02)
    return Forest(
        metric_label(metric), f"{what}: {told}.", synthetic, tuple(rows), axis, reference, arm_words(MAJORITY)
    )


def _estimate(row: ScoredArm, metric: str) -> DrawnEstimate:
    score = metric_score(row, metric)
    return DrawnEstimate(math.nan) if score is None else DrawnEstimate.of(score)


def _chance(finding: Finding, metric: str) -> float:
    """What the majority class scores, where the finding has it; one half for a ranking."""
    row = finding.row(MAJORITY)
    score = metric_score(row, metric) if row is not None else None
    if score is not None and math.isfinite(score.value):
        return score.value
    return 0.5 if metric == "auroc" else math.nan


# ------------------------------------------------------------------------------
# The probe less each floor, as a forest.


PAIR_LOOK = Look(VERMILLION, "diamond")


def paired_figure(finding: Finding, *, synthetic: bool) -> Figure | None:
    """Draw the paired differences of a finding, a chart per metric."""
    drawn = [pair for pair in finding.paired if math.isfinite(pair.difference.value)]
    metrics = dict.fromkeys(metric_of(pair.difference) for pair in drawn)
    charts = [
        _pair_forest(name, [pair for pair in drawn if metric_of(pair.difference) == name], synthetic)
        for name in metrics
    ]
    if not charts:
        return None
    caption = (
        "Paired differences: the probe less each other arm, on the same tiles; intervals leave whole groups out of "
        "both arms together. Right of the dashed line the probe is better; an interval across it leaves open which is."
    )
    return Figure(f"{finding.id}-paired", tuple(charts), caption)


def paired_lines(finding: Finding) -> tuple[str, ...]:
    """Return every paired difference with its interval and p value, or why they are missing."""
    several = len({pair.domain for pair in finding.paired}) > 1
    return tuple(
        f"{metric_label(metric_of(pair.difference))}, probe less {_label(pair, several=several)}: "
        f"{_difference_told(pair)}."
        for pair in finding.paired
    )


def _pair_forest(metric: str, pairs: Sequence[PairedDifference], synthetic: bool) -> Forest:
    several = len({pair.domain for pair in pairs}) > 1
    rows = [score_row(f"− {_label(pair, several=several)}", pair.difference, PAIR_LOOK) for pair in pairs]
    title, alt = f"{metric_label(metric)}: probe − other", f"{metric_label(metric)} of the probe"
    return difference_forest(title, alt, rows, signed_axis(rows, 0.0, 0.05), synthetic=synthetic)


def _label(pair: PairedDifference, *, several: bool) -> str:
    name = short_words(pair.against)
    return f"{name}, {pair.domain}" if several else name


def _difference_told(pair: PairedDifference) -> str:
    score = pair.difference
    if math.isnan(score.value):
        return f"not estimable: {score.reason}"
    value = number(score.value, signed=True)
    if score.interval is None:
        return f"{value}, no interval: {score.reason}"
    return f"{value} [{number(score.interval.low)}, {number(score.interval.high)}]; {pair.p_words}"


# ------------------------------------------------------------------------------
# Predictions to figures: ROC, precision-recall and calibration.


# N tiles, K classes
LINE_LOOKS = (
    Look(BLUE, "disc"),
    Look(VERMILLION, "square", "dashed"),
    Look(GREEN, "diamond", "dotted"),
    Look(PURPLE, "triangle", "longdash"),
    Look(AMBER, "circle"),
    Look(GREY, "circle", "dashed"),
    Look(INK, "circle", "dotted"),
)
SOURCE_FINDINGS = ("in-domain", "cross-magnification", "leak-price")
DRAWN_ARMS = (*(arm for arm in FLOORS if arm != MAJORITY), RANDOM_SPLIT, PROBE)


@dataclass(frozen=True)
class RankedArms:
    """Tiles ranked for one event, as one curve shows them; ``bands`` where the curve has any."""

    event_N: NDArray[np.bool_]
    score_N: NDArray[np.float64]
    look: Look
    label: str
    bands: ClassBands | None = None


def ranking_figure(
    finding: Finding, findings: Findings, artifacts: Artifacts, interval: IntervalConfig
) -> Figure | None:
    """Draw ROC, precision-recall and calibration of the in-domain predictions, bands around the probe's curves."""
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
    scores = {label: probe_row.score(label.lower()) for label in ("AUROC", "AUPRC")}
    told = {
        label: f"{label} of the probe {format_score(score) if score else 'not computed'}"
        for label, score in scores.items()
    }
    n_groups = by_arm[PROBE]["group_id"].drop_nulls().n_unique()
    n = sample_words(len(by_arm[PROBE]), n_groups)
    where = ", ".join(domains)
    unit = (0.0, 1.0)
    roc = Curves(
        "ROC", f"ROC curves on {where}. {told['AUROC']}; {n}.", findings.synthetic, _lines(rankings, roc_points, "roc"),
        Axis("1 − specificity (false positive rate)", unit), Axis("Sensitivity (true positive rate)", unit),
        diagonal=True,
    )  # fmt: skip
    precision = Curves(
        "Precision-recall", f"Precision-recall curves on {where}. {told['AUPRC']}; {n}.", findings.synthetic,
        _lines(rankings, precision_points, "precision_recall"),
        Axis("Recall (sensitivity)", unit), Axis("Precision (positive predictive value)", unit),
        reference=float(rankings[-1].event_N.mean()) if len(names) == 2 else math.nan,
    )  # fmt: skip
    calibration = _calibration(by_arm[PROBE], names, findings.synthetic)
    return Figure(
        "ranking", (roc, precision, calibration), _ranking_caption(by_arm[PROBE], where, n, len(names), bands)
    )


def _first_finding(part: pl.DataFrame) -> pl.DataFrame:
    """One finding's predictions of an arm, since the probe stands in several findings."""
    if part.is_empty():
        return part
    present = set(part["finding"])
    return part.filter(pl.col("finding") == next(name for name in SOURCE_FINDINGS if name in present))


def _arm_rankings(by_arm: dict[str, pl.DataFrame], bands: CurveBands) -> list[RankedArms]:
    """One curve per arm, the probe on top and the only one with bands."""
    rankings = []
    for arm, part in by_arm.items():
        logit_NK = class_matrix(part, "logit")
        label = f"{arm_words(arm)} ({LEAKY})" if arm == RANDOM_SPLIT else arm_words(arm)
        own = bands.of_class(1) if arm == PROBE else None
        margin_N = logit_NK[:, 1] - logit_NK[:, 0]
        rankings.append(RankedArms(part["y_true"].to_numpy() == 1, margin_N, LOOKS[arm], label, own))
    return rankings


def _class_rankings(part: pl.DataFrame, names: Sequence[str], bands: CurveBands) -> list[RankedArms]:
    """One curve of the probe per class, against all other classes."""
    y_N, probability_NK = part["y_true"].to_numpy(), class_matrix(part, "probability")
    return [
        RankedArms(
            y_N == index,
            probability_NK[:, index],
            LINE_LOOKS[index % len(LINE_LOOKS)],
            f"{name} against the rest",
            bands.of_class(index),
        )
        for index, name in enumerate(names)
        if 0 < (y_N == index).sum() < len(y_N)
    ]


def _lines(
    rankings: Sequence[RankedArms], points_of: PointsOf, kind: Literal["roc", "precision_recall"]
) -> tuple[Line, ...]:
    bands: list[Band | None] = [getattr(one.bands, kind) if one.bands else None for one in rankings]
    drawn = zip(rankings, bands, strict=True)
    return tuple(_line(points_of(one.event_N, one.score_N), one.look, one.label, band) for one, band in drawn)


def _line(points: tuple[NDArray[np.float64], NDArray[np.float64]], look: Look, label: str, band: Band | None) -> Line:
    x_P, y_P = points
    limits = () if band is None else zip(band.x_M.tolist(), band.low_M.tolist(), band.high_M.tolist(), strict=True)
    return Line(tuple(zip(x_P.tolist(), y_P.tolist(), strict=True)), look, label, tuple(limits))


def _calibration(part: pl.DataFrame, names: Sequence[str], synthetic: bool) -> CalibrationChart:
    """The reliability diagram: of class 1 in binary tasks, of the predicted class otherwise."""
    y_N, probability_NK = part["y_true"].to_numpy(), class_matrix(part, "probability")
    if len(names) == 2:
        event, bins = names[1], reliability_bins(y_N == 1, probability_NK[:, 1])
    else:
        hit_N = probability_NK.argmax(axis=1) == y_N
        event, bins = "being right", reliability_bins(hit_N, probability_NK.max(axis=1))
    told = "; ".join(f"{item.mean_probability:.2f}: {item.observed:.2f} ({item.n_tiles} tiles)" for item in bins)
    drawn = (CalibrationBin(b.low, b.high, b.mean_probability, b.observed, b.n_tiles) for b in bins)
    alt = f"Observed share of {event} by predicted probability: {told}."
    return CalibrationChart("Calibration", alt, synthetic, tuple(drawn), event)


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
    """Return the class names of the data set a domain belongs to; numbers where no data set fits."""
    dataset = findings.dataset_of(domain)
    if dataset is None or len(dataset.class_names) < n_classes:
        return tuple(f"class {index}" for index in range(n_classes))
    return dataset.class_names
