"""Remedies, alone and left out of the full stack."""

# N tiles, n tuning tiles of a fold, D columns, K classes

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, get_args

import numpy as np

from histotune.heads.calibrate import BinaryTiles, choose_threshold
from histotune.heads.head import softmax
from histotune.statistics.metrics import LOWER_IS_BETTER
from histotune.transfer.case import (
    ALIGNMENT,
    PHYSICAL,
    DecisionCause,
    DecisionPart,
    Physical,
    Recovery,
    RemedyArm,
    RemedyRow,
)
from histotune.transfer.corrections import fit_affine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import Score
    from histotune.transfer.case import TransferCase
    from histotune.transfer.corrections import Workbench
    from histotune.transfer.differences import Contrasts

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]


METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy", "log_loss")
CAUSES: tuple[DecisionCause, ...] = get_args(DecisionCause)
ASSUMPTIONS = {
    "scale": "the stated um/px of both data sets are right, and tissue looks the same at the same um/px",
    "stain": "colour differs by the laboratory, not by the disease",
    "mean": "both data sets hold the same mix of classes and tissues; only the mean of the embeddings moved",
    ALIGNMENT: "both data sets hold the same mix of classes and tissues; both moments moved, the classes did not",
    "prior correction (EM)": "only the prevalence differs, and the head is calibrated on the source",
    "prevalence from labels": "only the prevalence differs; needs labels of other target groups",
    "threshold from labels": "needs labels of other target groups",
    "recalibration": "needs labels of other target groups; one shift (per class) and one scale set them right",
}


@dataclass(frozen=True)
class RankingArms:
    """The head on every version of the target's embeddings.

    Attributes:
        plain: As it is.
        alone: One remedy each.
        full: All of them.
        without: All but one each.
        margins: Margins behind plain and alone, by remedy; "" is plain.
        refined: Plain and alone once more, each with the shift and scale that suit it best, learned on labels of other
            target groups: no decision loss is left in them, so that their log-loss speaks of the ranking.
    """

    plain: RemedyArm
    alone: dict[str, RemedyArm]
    full: RemedyArm
    without: dict[str, RemedyArm]
    margins: dict[str, Float]
    refined: dict[str, RemedyArm]


def views_of(case: TransferCase, candidate: str) -> dict[frozenset[Physical], Float]:
    """Return the target's embeddings by what was undone, under one candidate scale; nothing undone is always there."""
    views: dict[frozenset[Physical], Float] = {frozenset(): case.target.x_ND}
    for view in case.views:
        if "scale" not in view.undone or view.candidate == candidate:
            views[view.undone] = view.x_ND
    return views


def usable(views: dict[frozenset[Physical], Float]) -> tuple[Physical, ...]:
    """Return the physical remedies whose every combination was embedded."""
    single = [cause for cause in PHYSICAL if frozenset({cause}) in views]
    both = all(frozenset(pair) in views for pair in combinations(single, 2))
    return tuple(single) if both else tuple(single[:1])


def ranking_arms(bench: Workbench, candidate: str) -> RankingArms:
    """Score every version of the target that speaks about the ranking."""
    views = views_of(bench.case, candidate)
    causes = usable(views)
    margins: dict[str, Float] = {"": bench.margins(views[frozenset()])}
    margins |= {cause: bench.margins(views[frozenset({cause})]) for cause in causes}
    margins[ALIGNMENT] = bench.covariance_aligned(views[frozenset()])
    full = frozenset(causes)
    alone: dict[str, RemedyArm] = {
        name: bench.arm(margins[name], fitted=name == ALIGNMENT) for name in (*causes, ALIGNMENT)
    }
    without: dict[str, RemedyArm] = {
        cause: bench.arm(bench.covariance_aligned(views[full - {cause}]), fitted=True) for cause in causes
    }
    without[ALIGNMENT] = bench.arm(bench.margins(views[full]))
    stacked = bench.arm(bench.covariance_aligned(views[full]), fitted=True)
    refined = {name: bench.arm(bench.recalibrated(margins[name], scale=True), fitted=True) for name in margins}
    return RankingArms(bench.arm(margins[""]), alone, stacked, without, margins, refined)


def remedy_rows(bench: Workbench, arms: RankingArms, contrasts: Contrasts) -> tuple[RemedyRow, ...]:
    """Return every remedy with its recoveries, those without labels first."""
    rows = []
    for name, arm in arms.alone.items():
        recoveries = tuple(
            Recovery(
                metric,
                gain(contrasts, metric, arm, arms.plain),
                gain(contrasts, metric, arms.full, arms.without[name]),
            )
            for metric in METRICS
        )
        rows.append(RemedyRow(name, ASSUMPTIONS[name], False, recoveries, refinement(contrasts, arms, name, "")))
    # Remedies outside the stack: they are judged alone.
    plain_NK = arms.margins[""]
    further = {
        "mean": (bench.arm(bench.mean_aligned(bench.case.target.x_ND), fitted=True), False),
        "prior correction (EM)": (bench.arm(bench.prior_corrected(plain_NK, labels=False), fitted=True), False),
        "prevalence from labels": (bench.arm(bench.prior_corrected(plain_NK, labels=True), fitted=True), True),
        "threshold from labels": (threshold_arm(bench, plain_NK), True),
        "recalibration": (bench.arm(bench.recalibrated(plain_NK, scale=True), fitted=True), True),
    }
    for name, (arm, uses_labels) in further.items():
        alone = tuple(Recovery(metric, gain(contrasts, metric, arm, arms.plain)) for metric in METRICS)
        rows.append(RemedyRow(name, ASSUMPTIONS[name], uses_labels, alone))
    return tuple(rows)


def gain(
    contrasts: Contrasts, metric: MetricName, after: RemedyArm, before: RemedyArm, level: float | None = None
) -> Score:
    """Return what one arm has over another, larger is better."""
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    return contrasts.score(metric, ((sign, after), (-sign, before)), level)


def refinement(contrasts: Contrasts, arms: RankingArms, after: str, before: str, level: float | None = None) -> Score:
    """Return what one remedy gives back over another in log-loss, each with its own best shift and scale.

    A proper score with its calibration taken out is its refinement (DeGroot and Fienberg, The Statistician 1983): like
    the AUROC it speaks of how well the classes are told apart, not of where the scores lie.
    """
    return gain(contrasts, "log_loss", arms.refined[after], arms.refined[before], level)


# ------------------------------------------------------------------------------
# The decision loss split: prevalence, then threshold, then calibration; each one more number learned elsewhere


Steps = dict[str, RemedyArm]
"""The head's scores as they are (``plain``), then with one more correction each, learned on other target groups."""


def decision_steps(bench: Workbench, margin_NK: Float, *, fitted: bool = False) -> Steps:
    """Correct margins step by step.

    At the target's prevalence; with any shift per class: what the prevalence does not explain is a moved cut; with any
    shift and scale.
    """
    return {
        "plain": bench.arm(margin_NK, fitted=fitted),
        "prevalence": bench.arm(bench.prior_corrected(margin_NK, labels=True), fitted=True),
        "threshold": bench.arm(bench.recalibrated(margin_NK, scale=False), fitted=True),
        "calibration": bench.arm(bench.recalibrated(margin_NK, scale=True), fitted=True),
    }


def decision_parts(steps: Steps, contrasts: Contrasts, level: float | None = None) -> tuple[DecisionPart, ...]:
    """Return the log-loss that each step takes away; the three add up to the whole decision loss."""
    return tuple(DecisionPart(cause, contrasts.score("log_loss", part_terms(steps, cause), level)) for cause in CAUSES)


def part_terms(steps: Steps, cause: str) -> tuple[tuple[float, RemedyArm], ...]:
    """Return a part of the decision loss, what one step takes away, as weights and arms."""
    names = list(steps)
    return ((1.0, steps[names[names.index(cause) - 1]]), (-1.0, steps[cause]))


def threshold_arm(bench: Workbench, margin_NK: Float) -> RemedyArm:
    """Return the head with the cut of best balanced accuracy on labels of tuning groups: an oracle.

    Two classes have one threshold, the best by count. Several have a shift each: those of least log-loss, beside a
    common scale, where every class weighs the same.
    """
    if bench.case.n_classes == 2:
        return bench.arm(margin_NK, threshold_N=_thresholds(bench, margin_NK))
    shifted_NK = bench.per_fold(margin_NK, lambda z_NK, tune_N: _evenly_shifted(bench, z_NK, tune_N))
    return bench.deciding_arm(margin_NK, shifted_NK.argmax(axis=1))


def _thresholds(bench: Workbench, margin_NK: Float) -> Float:
    """Return the threshold of every tile's fold."""
    # Each fold's threshold is the best on the tiles of the other folds.
    target, p_N = bench.case.target, softmax(margin_NK)[:, 1]
    threshold_N = np.empty(len(p_N))
    codes = np.unique(np.array(target.groups), return_inverse=True)[1]
    for fold in np.unique(bench.fold_N):
        tune_N = bench.fold_N != fold
        group_n = np.unique(codes[tune_N], return_inverse=True)[1]
        tiles = BinaryTiles(p_N[tune_N], target.y_N[tune_N] == 1, group_n, int(group_n.max()) + 1)
        threshold_N[~tune_N] = choose_threshold(tiles, "balanced-accuracy", 0.95).threshold
    return threshold_N


def _evenly_shifted(bench: Workbench, margin_NK: Float, tune_N: Bool) -> Float:
    """Return margins as they are decided on; unchanged where no tuning group holds one of the classes."""
    y_n, n_classes = bench.case.target.y_N[tune_N], bench.case.n_classes
    tiles_K = np.bincount(y_n, minlength=n_classes)
    if not tiles_K.all():
        return margin_NK
    # Weight n / (K n_k) of a tile of class k: all classes weigh the same.
    weight_n = len(y_n) / (n_classes * tiles_K[y_n])
    return fit_affine(margin_NK[tune_N], y_n, scale=True, weight_n=weight_n)(margin_NK)
