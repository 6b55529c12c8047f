"""What labels of the target would give: limits beside the remedies, never remedies."""

# N tiles, D columns, G groups, F masks or draws, K classes

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitProblems
from histotune.statistics.bounds import FLAT, Scale, flat_bounds, jackknife_variance, t_bounds
from histotune.statistics.evaluators import MeanEvaluator, make_evaluator
from histotune.statistics.intervals import exact_words, narrow_words, resampling_units
from histotune.statistics.predictions import Interval, Score
from histotune.statistics.sample import read_sample
from histotune.statistics.scores import score_predictions
from histotune.transfer.case import FewShotPoint, OracleRow
from histotune.transfer.corrections import two_class_margins
from histotune.transfer.remedies import METRICS, threshold_arm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.intervals import Units
    from histotune.statistics.predictions import IntervalConfig
    from histotune.transfer.case import RemedyArm, TransferCase, TransferConfig
    from histotune.transfer.corrections import Workbench

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]
    Int = NDArray[np.int64]


LEAST_PENALTY = 0.01
METHOD = "t interval on the logit scale from leaving out one {} at a time, and the spread of the draws"


def oracle_rows(bench: Workbench, interval: IntervalConfig) -> tuple[OracleRow, ...]:
    """Return the best threshold, the best recalibration, and a head trained on the target itself."""
    plain_NK = bench.margins(bench.case.target.x_ND)
    half_N = np.full(len(plain_NK), 0.5)
    arms: list[tuple[str, RemedyArm]] = [
        ("best threshold" if bench.case.n_classes == 2 else "shift per class", threshold_arm(bench, plain_NK)),
        ("best shift and scale", bench.arm(bench.recalibrated(plain_NK, scale=True), fitted=True)),
        ("head trained on the target", bench.arm(_own_margins(bench), fitted=True, threshold_N=half_N)),
    ]
    return tuple(
        OracleRow(name, score_predictions(arm.predictions, METRICS, interval, within_folds=arm.fitted))
        for name, arm in arms
    )


def _own_margins(bench: Workbench) -> Float:
    """Return margins of heads trained on the other folds of the target."""
    folds = np.unique(bench.fold_N)
    margin_FNK = fit_masks(bench.case, bench.fold_N != folds[:, None])
    return np.asarray(margin_FNK[np.searchsorted(folds, bench.fold_N), np.arange(len(bench.fold_N))])


def fit_masks(case: TransferCase, mask_FN: Bool) -> Float:
    """Train a head on the target's tiles of every mask, at the penalty of the carried head."""
    target, n = case.target, len(mask_FN)
    if not n:
        return np.empty((0, len(target), case.n_classes))
    # Log-odds against class 0: with two classes the fit's only logit, with several the logits less that of class 0.
    penalty_P = np.full(n, max(case.head.penalty, LEAST_PENALTY))
    found = fit_batch(target.x_ND, target.y_N, FitProblems(mask_FN, np.arange(n), penalty_P, case.n_classes))
    logit_FNK = np.swapaxes(found.weight_PKD @ target.x_ND.T, 1, 2) + found.bias_PK[:, None]
    if case.n_classes == 2:
        return two_class_margins(logit_FNK[..., 0])
    return np.asarray(logit_FNK - logit_FNK[..., :1])


# ------------------------------------------------------------------------------
# What a few labelled groups of the target buy: heads trained on them, scored on all other groups


def few_shot_curve(bench: Workbench, config: TransferConfig, interval: IntervalConfig) -> tuple[FewShotPoint, ...]:
    """Return the AUROC of heads trained on few labelled target groups, on all other groups."""
    target = bench.case.target
    units = resampling_units(read_sample(bench.arm(bench.margins(target.x_ND)).predictions), interval)
    codes = np.unique(np.array(target.groups), return_inverse=True)[1]
    n_classes = bench.case.n_classes
    drawn = _draw_groups(codes, target.y_N, n_classes, config)
    points = []
    for size, mask_FN in drawn.items():
        every_F = [len(np.unique(target.y_N[mask_N])) == n_classes for mask_N in mask_FN]
        if sum(every_F) > 1:
            points.append(_point(bench, size, mask_FN[every_F], units))
    return tuple(points)


def _draw_groups(codes: Int, y_N: Int, n_classes: int, config: TransferConfig) -> dict[int, Bool]:
    """Return which tiles train, (draws, N), by the number of labelled groups per class.

    A group counts for the class of most of its tiles, the last of several.
    """
    # At least two groups of each class are left to be scored, and as many as were drawn where that is up to five.
    count_KG = np.array([np.bincount(codes, weights=y_N == label) for label in range(n_classes)])
    majority_G = n_classes - 1 - count_KG[::-1].argmax(axis=0)
    by_class = [np.flatnonzero(majority_G == label) for label in range(n_classes)]
    fewest = min(len(groups) for groups in by_class)
    sizes = [size for size in config.few_shot if fewest - size >= max(2, min(size, 5))]
    rng = np.random.default_rng(config.seed)

    def draw(size: int) -> Bool:
        """Draw so many groups of each class and return their tiles."""
        chosen = [rng.choice(groups, size, replace=False) for groups in by_class]
        return np.isin(codes, np.concatenate(chosen))

    return {size: np.stack([draw(size) for _ in range(config.draws)]) for size in sizes}


def _point(bench: Workbench, size: int, mask_FN: Bool, units: Units) -> FewShotPoint:
    """Average the draws; the interval counts the groups scored and the draws, each draw's heads as they are."""
    # Each draw is scored on the tiles that trained none of its heads, as a function of the weights of all groups, so
    # that the mean over draws can be taken without any one group.
    sample, target, parts = units.sample, bench.case.target, []
    for margin_NK, mask_N in zip(fit_masks(bench.case, mask_FN), mask_FN, strict=True):
        rest_N = ~mask_N[sample.order]
        held = replace(sample, y_N=sample.y_N[rest_N], score_NK=margin_NK[sample.order][rest_N])
        parts.append(make_evaluator("auroc", held, units.unit_N[rest_N], units.n_units, within_folds=False))
    value_F = np.array([part(np.ones((1, units.n_units)))[0] for part in parts])
    n_rest = round(float((~mask_FN).sum(axis=1).mean()))
    n_groups = len(set(target.groups)) - sample.n_classes * size if target.has_groups else 0
    plain = Score("auroc", float(value_F.mean()), None, n_rest, n_groups, chance=0.5)
    sd = float(value_F.std(ddof=1))
    if units.refusal:
        found, reason = None, units.refusal
    elif sd <= FLAT and plain.value in (0.0, 1.0):
        found, reason = _agreed(plain.value, size, units), ""
    else:
        draw_variance = sd**2 / len(parts)
        found, reason = _interval(MeanEvaluator.of(parts), plain.value, draw_variance, units)
    return FewShotPoint(size, replace(plain, interval=found, reason=reason), sd, len(parts))


def _interval(evaluator: Evaluator, value: float, draw_variance: float, units: Units) -> tuple[Interval | None, str]:
    """Return a t interval of a mean over draws, or why there is none."""
    without_G = evaluator.without_each()
    if not np.isfinite(without_G).all():
        return None, "undefined without one of the groups"
    # Variance over groups, of the mean over draws, plus that of the mean over draws.
    variance, df = jackknife_variance(without_G, units.strata)
    total = np.asarray(float(variance) + draw_variance)
    if total <= FLAT**2:
        return None, "degenerate: neither groups nor draws change the value"
    low, high = t_bounds(np.asarray(value), np.sqrt(total), np.maximum(df, 1.0), Scale(), units.config.level)
    words = METHOD.format(units.config.cluster) + narrow_words(units.config)
    return Interval(float(low), float(high), units.config.level, words), ""


def _agreed(value: float, size: int, units: Units) -> Interval:
    """Return the exact bound where every draw ranks perfectly: never zero width."""
    n = int(units.strata.per_class_K.min()) - size
    low, high = flat_bounds(np.asarray(value), n, Scale(), units.config.level)
    return Interval(float(low), float(high), units.config.level, exact_words(n, units.config))
