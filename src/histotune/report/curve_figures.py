"""Predictions to figures: ROC and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from histotune.report.charts import Line, Look, Panel, reliability_panel, roc_panel, swatch
from histotune.report.curves import class_matrix, reliability_bins, roc_points
from histotune.report.figures import LOOKS, MAJORITY, Figure
from histotune.report.svg import AMBER, BLUE, GREEN, GREY, INK, PURPLE, VERMILLION
from histotune.report.wording import FLOORS, PROBE, RANDOM_SPLIT, count, format_score, group_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from markupsafe import Markup
    from numpy.typing import NDArray

    from histotune.evaluation.records import Artifacts, Finding, Findings
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


def ranking_figure(finding: Finding, findings: Findings, artifacts: Artifacts) -> Figure | None:
    """Draw ROC and calibration of the in-domain predictions.

    Args:
        finding: The in-domain finding.
        findings: Class names, and whether it is synthetic.
        artifacts: The predictions.

    Returns:
        Two panels, or None where there are no predictions of the probe.
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
    draw = _binary_curves if len(names) == 2 else _class_curves
    lines, legend = draw(by_arm, names)
    auroc = probe_row.score("auroc")
    told = f"AUROC of the probe {format_score(auroc)}" if auroc else "ROC of the probe"
    n_groups = by_arm[PROBE]["group_id"].drop_nulls().n_unique()
    n = f"{count(len(by_arm[PROBE]))} tiles, {group_count(n_groups)} groups"
    where = ", ".join(domains)
    roc = roc_panel(Panel("ROC", findings.synthetic, f"ROC curves on {where}. {told}; {n}."), lines)
    calibration = _calibration(by_arm[PROBE], names, findings.synthetic)
    return Figure((roc, calibration), legend, _ranking_caption(by_arm[PROBE], where, n, len(names)))


def _first_finding(part: pl.DataFrame) -> pl.DataFrame:
    """One finding's predictions of an arm, since the probe stands in several findings."""
    if part.is_empty():
        return part
    present = set(part["finding"])
    return part.filter(pl.col("finding") == next(name for name in SOURCE_FINDINGS if name in present))


def _binary_curves(
    by_arm: dict[str, pl.DataFrame], names: Sequence[str]
) -> tuple[list[Line], tuple[tuple[Markup, str], ...]]:
    """One ROC curve per arm, the probe on top."""
    lines, legend = [], []
    for arm, part in by_arm.items():
        logit_NK = class_matrix(part, "logit")
        margin_N = logit_NK[:, 1] - logit_NK[:, 0]
        lines.append(_roc_line(part["y_true"].to_numpy() == 1, margin_N, LOOKS[arm]))
        legend.append((swatch(LOOKS[arm], as_line=True), f"{arm} (LEAKY)" if arm == RANDOM_SPLIT else arm))
    return lines, tuple(reversed(legend))


def _class_curves(
    by_arm: dict[str, pl.DataFrame], names: Sequence[str]
) -> tuple[list[Line], tuple[tuple[Markup, str], ...]]:
    """One ROC curve of the probe per class, against all other classes."""
    y_N, probability_NK = by_arm[PROBE]["y_true"].to_numpy(), class_matrix(by_arm[PROBE], "probability")
    lines, legend = [], []
    for index, name in enumerate(names):
        event_N = y_N == index
        if not event_N.any() or event_N.all():
            continue
        look = LINE_LOOKS[index % len(LINE_LOOKS)]
        lines.append(_roc_line(event_N, probability_NK[:, index], look))
        legend.append((swatch(look, as_line=True), f"{name} against the rest"))
    return lines, tuple(legend)


def _roc_line(event_N: NDArray[np.bool_], score_N: NDArray[np.float64], look: Look) -> Line:
    false_P, true_P = roc_points(event_N, score_N)
    return Line(tuple(zip(false_P.tolist(), true_P.tolist(), strict=True)), look)


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


def _ranking_caption(part: pl.DataFrame, where: str, n: str, n_classes: int) -> str:
    caption = f"ROC and calibration on {where} ({n})."
    if part["fold"].n_unique() > 1:
        caption += (
            " The curve pools the folds, whose scores come from different heads, so its area can differ from the "
            "AUROC in the table."
        )
    caption += " Calibration: hollow points hold fewer than 10 tiles; tiles of one group are not independent."
    if n_classes > 2:
        caption += " With several classes, calibration is of the predicted class."
    return caption


def class_names_of(findings: Findings, domain: str, n_classes: int) -> tuple[str, ...]:
    """Return the class names of the data set a domain belongs to; numbers where no data set fits.

    Args:
        findings: The data sets.
        domain: Such as "breakhis 100X".
        n_classes: How many classes there are at least.
    """
    for dataset in findings.datasets:
        if domain == dataset.name or domain.startswith(f"{dataset.name} "):
            return dataset.class_names if len(dataset.class_names) >= n_classes else _numbered(n_classes)
    return _numbered(n_classes)


def _numbered(n_classes: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(n_classes))
