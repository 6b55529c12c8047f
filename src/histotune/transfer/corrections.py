"""Ways to use the head on the target: as it is, with something undone, with something learned from other groups."""

# N tiles, n tuning tiles of a fold, D columns, R principal axes (the smaller of n and D), K classes, M = K - 1 classes
# after the first; x any axes in front

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.head import softmax
from histotune.statistics.predictions import PREDICTION_COLUMNS, Predictions
from histotune.transfer.case import RemedyArm

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from histotune.transfer.case import HeadMap, Side, TransferCase

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]
    Fit = Callable[[Float, Bool], Float]


FLOOR = 1e-9
"""Share of the largest variance below which none counts."""
EDGE = 1e-3
"""Prevalences stay this far from 0 and 1."""
PRIOR = 1.0
"""Weight, in tiles, of the pull towards no correction: keeps it finite where classes separate."""
MAX_STEPS = 100


@dataclass(frozen=True)
class Workbench:
    """A case with the target's folds.

    Attributes:
        case: The case.
        fold_N: Fold of every target tile; groups stay together.
    """

    case: TransferCase
    fold_N: Int

    @cached_property
    def source_moments(self) -> Moments:
        """Mean and covariance of the source."""
        return moments(self.case.source.x_ND)

    @cached_property
    def _covariance_margins(self) -> dict[int, tuple[Float, Float]]:
        """Margins by the version of the target they come from, which is kept too, so that its id stays its own.

        Every candidate scale asks again for the versions without a scale view, and each costs an eigenvalue problem per
        fold: minutes at 3,072 dimensions.
        """
        return {}

    @property
    def source_prevalence(self) -> Float:
        """Share of each class among the source's tiles, (K,)."""
        return class_shares(self.case.source.y_N, self.case.n_classes)

    def margins(self, x_ND: Float) -> Float:
        """Return log-odds of each class against class 0, (N, K)."""
        return self.case.head.margin(x_ND)

    def per_fold(self, margin_NK: Float, fit: Fit) -> Float:
        """Correct margins fold by fold."""
        out_NK = np.empty_like(margin_NK)
        for fold in np.unique(self.fold_N):
            inside_N = self.fold_N == fold
            out_NK[inside_N] = fit(margin_NK, ~inside_N)[inside_N]
        return out_NK

    def mean_aligned(self, x_ND: Float) -> Float:
        """Return margins after the mean was aligned, label-free, on tuning groups."""
        source_D = self.case.source.x_ND.mean(axis=0)
        return self._aligned(x_ND, lambda x_nD, tune_nD: x_nD - tune_nD.mean(axis=0) + source_D)

    def covariance_aligned(self, x_ND: Float) -> Float:
        """Return margins after mean and covariance were aligned, label-free, on tuning groups."""
        kept = self._covariance_margins.get(id(x_ND))
        if kept is None:
            kept = x_ND, self._aligned(x_ND, lambda x_nD, tune_nD: coral(x_nD, moments(tune_nD), self.source_moments))
            self._covariance_margins[id(x_ND)] = kept
        return kept[1]

    def _aligned(self, x_ND: Float, align: Callable[[Float, Float], Float]) -> Float:
        out_NK = np.empty((len(x_ND), self.case.n_classes))
        for fold in np.unique(self.fold_N):
            inside_N = self.fold_N == fold
            out_NK[inside_N] = self.margins(align(x_ND[inside_N], x_ND[~inside_N]))
        return out_NK

    def prior_corrected(self, margin_NK: Float, *, labels: bool) -> Float:
        """Return margins at the target's prevalence: estimated without labels, or counted on tuning groups."""
        source_K, y_N = self.source_prevalence, self.case.target.y_N

        def fit(z_NK: Float, tune_N: Bool) -> Float:
            """Return margins under the class shares of the tiles that may be looked at."""
            if labels:
                share_K = class_shares(y_N[tune_N], self.case.n_classes)
            else:
                share_K = estimate_prevalence(z_NK[tune_N], source_K)
            return np.asarray(z_NK + log_priors(share_K) - log_priors(source_K))

        return self.per_fold(margin_NK, fit)

    def recalibrated(self, margin_NK: Float, *, scale: bool) -> Float:
        """Return margins with the best shift per class, or shifts and one scale, on labels of tuning groups."""
        y_N = self.case.target.y_N
        return self.per_fold(margin_NK, lambda z_NK, tune_N: fit_affine(z_NK[tune_N], y_N[tune_N], scale=scale)(z_NK))

    def arm(self, margin_NK: Float, *, fitted: bool = False, threshold_N: Float | None = None) -> RemedyArm:
        """Return margins on the target as an arm."""
        threshold_N = np.full(len(margin_NK), self.case.head.threshold) if threshold_N is None else threshold_N
        return RemedyArm(
            side_predictions(self.case.target, self.case.head, margin_NK, self.fold_N, threshold_N), fitted
        )

    def deciding_arm(self, margin_NK: Float, predicted_N: Int) -> RemedyArm:
        """Return margins as an arm whose decisions are made otherwise."""
        predictions = self.arm(margin_NK).predictions
        decided = pl.Series("predicted", predicted_N, dtype=pl.Int32)
        return RemedyArm(replace(predictions, table=predictions.table.with_columns(decided)))


def make_workbench(case: TransferCase, folds: int, seed: int) -> Workbench:
    """Deal the target's groups into folds, classes even."""
    groups = case.target.groups
    wanted = min(folds, len(set(groups)))
    fold_by_group = assign_group_folds(groups, case.target.y_N, case.n_classes, wanted, seed)
    return Workbench(case, np.array([fold_by_group[group] for group in groups], np.int64))


def class_shares(y_N: Int, n_classes: int) -> Float:
    """Return the share of each class, (K,)."""
    return np.bincount(y_N, minlength=n_classes) / len(y_N)


def side_predictions(side: Side, head: HeadMap, margin_NK: Float, fold_N: Int, threshold_N: Float) -> Predictions:
    """Return margins as predictions."""
    # Log-odds against class 0 are logits of all classes: their softmax are the probabilities.
    per_class = pl.Array(pl.Float64, len(head.class_names))
    table = pl.DataFrame(
        {
            "tile_id": side.tile_ids,
            "group_id": side.groups if side.has_groups else [None] * len(side),
            "y_true": side.y_N.astype(np.int32),
            "input_mpp": np.full(len(side), side.input_mpp),
            "threshold": threshold_N,
        },
        schema_overrides={"group_id": pl.String},
    ).with_columns(
        pl.lit(None, pl.String).alias("source_patient_id"),
        pl.lit(None, pl.String).alias("slide_id"),
        pl.lit(side.domain).alias("domain"),
        pl.Series("fold", fold_N, dtype=pl.Int32),
        pl.lit(0, pl.Int32).alias("seed"),
        pl.Series("logit", margin_NK, dtype=per_class),
        pl.Series("probability", softmax(margin_NK), dtype=per_class),
        pl.lit(head.head_id).alias("head_id"),
        pl.lit("").alias("split_hash"),
        pl.lit("").alias("view"),
    )
    return Predictions(table.select(*PREDICTION_COLUMNS, "threshold"), head.class_names, head.threshold, "pairs")


# ------------------------------------------------------------------------------
# Map target embeddings so that their mean and covariance are the source's: no labels needed


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of embeddings, the covariance by its principal axes.

    Attributes:
        mean_D: Mean.
        axes_RD: Orthonormal principal axes.
        variance_R: Variance along each.
        rest: Variance in every direction across all of them.
    """

    mean_D: Float
    axes_RD: Float
    variance_R: Float
    rest: float

    @classmethod
    def of(cls, mean_D: Float, covariance_DD: Float) -> Moments:
        """Return the moments of a mean and a whole covariance matrix."""
        variance_D, vectors_DD = np.linalg.eigh(covariance_DD)
        return cls(mean_D, vectors_DD.T, variance_D, float(variance_D[0]))

    def power(self, x_nD: Float, exponent: float) -> Float:
        """Return ``x_nD`` times a power of the covariance, variances floored at a billionth of the largest."""
        # C^p x = rest^p x + sum over axes a of (variance^p - rest^p) (a . x) a.
        floor = FLOOR * max(float(self.variance_R.max()), self.rest)
        outside = max(self.rest, floor) ** exponent
        along_R = np.maximum(self.variance_R, floor) ** exponent - outside
        return np.asarray(outside * x_nD + ((x_nD @ self.axes_RD.T) * along_R) @ self.axes_RD)


def moments(x_nD: Float) -> Moments:
    """Return mean and shrunk covariance (Ledoit and Wolf, J. Multivariate Analysis 88, 2004).

    With fewer tiles than columns the covariance is the same in all directions that the tiles don't span, so that the
    axes of the span are enough: n by D numbers in place of D by D, and no eigenvalue problem of size D.
    """
    from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage

    # (1 - s) S + s tr(S) / D I with the shrinkage s of Ledoit and Wolf; outside the span of the tiles S is 0, so that
    # the variance there is the second term alone.
    (n_tiles, dim), mean_D = x_nD.shape, x_nD.mean(axis=0)
    if n_tiles >= dim:
        return Moments.of(mean_D, np.asarray(ledoit_wolf(x_nD)[0]))
    _, singular_R, axes_RD = np.linalg.svd(x_nD - mean_D, full_matrices=False)
    variance_R = singular_R**2 / n_tiles
    shrinkage = float(ledoit_wolf_shrinkage(x_nD))
    rest = shrinkage * float(variance_R.sum()) / dim
    return Moments(mean_D, axes_RD, (1.0 - shrinkage) * variance_R + rest, rest)


def coral(x_nD: Float, target: Moments, source: Moments) -> Float:
    """Align embeddings to a source's mean and covariance (Sun, Feng and Saenko, AAAI 2016)."""
    # Whitened with the target's covariance and coloured with the source's: C_source^1/2 C_target^-1/2 (x - mean_target)
    # + mean_source.
    white_nD = target.power(x_nD - target.mean_D, -0.5)
    return np.asarray(source.power(white_nD, 0.5) + source.mean_D)


# ------------------------------------------------------------------------------
# Correct log-odds for another prevalence, another cut, another spread


@dataclass(frozen=True)
class Affine:
    """A correction of margins: ``scale * margin + shift``, with a shift per class that is 0 for class 0."""

    scale: float
    shift_K: Float

    def __call__(self, margin_nK: Float) -> Float:
        """Return the corrected margins."""
        return np.asarray(self.scale * margin_nK + self.shift_K)


def two_class_margins(margin_xn: Float) -> Float:
    """Return log-odds of class 1 as margins of two classes, (..., n, 2): class 0 lies at 0."""
    return np.stack([np.zeros_like(margin_xn), margin_xn], axis=-1)


def log_priors(share_K: Float) -> Float:
    """Return the log-odds of each class against class 0, shares kept off 0 and 1."""
    log_K = np.log(_kept(share_K))
    return np.asarray(log_K - log_K[0])


def estimate_prevalence(margin_nK: Float, source_K: Float) -> Float:
    """Return the share of each class without labels, by expectation maximisation.

    Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002: only the prevalence differs, and the
    probabilities are calibrated at the source's. The source's prevalence counts as one more tile, since a head that
    says nearly the same of every tile would otherwise let the estimate run to 0 or 1.

    Example:
        >>> margins = two_class_margins(np.repeat([-9.0, 9.0], [80, 20]))
        >>> estimate_prevalence(margins, np.array([0.5, 0.5])).round(2)
        array([0.8, 0.2])
    """
    share_K = np.asarray(source_K, np.float64)
    for _ in range(1000):
        # E: probabilities at the present shares; M: their mean, the source's shares counting as one more tile.
        said_nK = softmax(margin_nK + log_priors(share_K) - log_priors(source_K))
        new_K = _kept((said_nK.sum(axis=0) + PRIOR * source_K) / (len(said_nK) + PRIOR))
        if np.abs(new_K - share_K).max() < 1e-7:
            break
        share_K = new_K
    return share_K


def fit_affine(margin_nK: Float, y_n: Int, *, scale: bool, weight_n: Float | None = None) -> Affine:
    """Fit a shift per class, and a common scale where asked for, by log-loss with Newton's method.

    Example:
        >>> margins, labels = np.zeros((1000, 2)), np.repeat([0, 1], [800, 200])
        >>> fit_affine(margins, labels, scale=False).shift_K.round(1)  # log-odds of 0.2
        array([ 0. , -1.4])
    """
    n_classes = margin_nK.shape[1]
    # Newton's step H^-1 g over what is free (the scale, where asked for, and K - 1 shifts), halved until the loss
    # falls.
    loss = _Loss(margin_nK, y_n, np.ones(len(y_n)) if weight_n is None else weight_n)
    free_K = np.r_[scale, np.ones(n_classes - 1, bool)]
    theta_K = loss.start_K
    value = loss(theta_K)
    for _ in range(MAX_STEPS):
        slope_K, bend_KK = loss.derivatives(theta_K)
        step_K = np.zeros(n_classes)
        step_K[free_K] = np.linalg.solve(bend_KK[np.ix_(free_K, free_K)], slope_K[free_K])
        size = 1.0
        while size > 1e-8 and loss(theta_K - size * step_K) > value:
            size *= 0.5
        theta_K = theta_K - size * step_K
        value = loss(theta_K)
        if np.abs(size * step_K).max() < 1e-10:
            break
    return Affine(max(float(theta_K[0]), 0.01), np.r_[0.0, theta_K[1:]])


class _Loss:
    """Log-loss of a correction, summed over tiles, and its pull towards none; theta is the scale, then the shifts.

    The pull on the shifts is their spread over classes, so that it is the same whichever class lies at 0; with two
    classes it is half the square of the one shift.

    Args:
        margin_nK: Margins; class 0 lies at 0.
        y_n: Labels.
        weight_n: Weights.
    """

    def __init__(self, margin_nK: Float, y_n: Int, weight_n: Float) -> None:
        # Pull: (a - 1)^2 / 2 on the scale, sum_k (b_k - mean b)^2 over all K classes on the shifts.
        n_classes = margin_nK.shape[1]
        self.start_K = np.r_[1.0, np.zeros(n_classes - 1)]
        self._margin_nK, self._y_n, self._weight_n = margin_nK, y_n, weight_n
        self._hit_nM = (y_n[:, None] == np.arange(1, n_classes)).astype(np.float64)
        self._pull_KK = np.zeros((n_classes, n_classes))
        self._pull_KK[0, 0] = PRIOR
        self._pull_KK[1:, 1:] = 2.0 * PRIOR * (np.eye(n_classes - 1) - 1.0 / n_classes)

    def __call__(self, theta_K: Float) -> float:
        """Return the value."""
        # sum w (log sum exp z - z_y) + (theta - theta_0)^t P (theta - theta_0) / 2.
        z_nK = self._corrected(theta_K)
        top_n1 = z_nK.max(axis=1, keepdims=True)
        total_n = np.log(np.exp(z_nK - top_n1).sum(axis=1)) + top_n1[:, 0]
        lost_n = total_n - z_nK[np.arange(len(z_nK)), self._y_n]
        away_K = theta_K - self.start_K
        return float(self._weight_n @ lost_n + 0.5 * away_K @ self._pull_KK @ away_K)

    def derivatives(self, theta_K: Float) -> tuple[Float, Float]:
        """Return gradient and Hessian."""
        # z = a m + b: dL/da = sum w (p - y) . m and dL/db_k = sum w (p_k - y_k). Hessian: Var_p(m) for a, Cov_p(m,
        # class k) between a and b_k, diag(p) - p p^t for the shifts, weighted and summed; each plus the pull's own.
        p_nM = softmax(self._corrected(theta_K))[:, 1:]
        margin_nM, weight_n1 = self._margin_nK[:, 1:], self._weight_n[:, None]
        said_nM = weight_n1 * p_nM
        miss_nM = said_nM - weight_n1 * self._hit_nM
        slope_K = np.r_[(miss_nM * margin_nM).sum(), miss_nM.sum(axis=0)] + self._pull_KK @ (theta_K - self.start_K)
        mean_n1 = (p_nM * margin_nM).sum(axis=1, keepdims=True)
        bend_KK = self._pull_KK.copy()
        bend_KK[0, 0] += (said_nM * margin_nM**2).sum() - (weight_n1 * mean_n1**2).sum()
        across_M = (said_nM * (margin_nM - mean_n1)).sum(axis=0)
        bend_KK[0, 1:] += across_M
        bend_KK[1:, 0] += across_M
        bend_KK[1:, 1:] += np.diag(said_nM.sum(axis=0)) - said_nM.T @ p_nM
        return slope_K, bend_KK

    def _corrected(self, theta_K: Float) -> Float:
        return np.asarray(theta_K[0] * self._margin_nK + np.r_[0.0, theta_K[1:]])


def _kept(share_K: Float) -> Float:
    kept_K = np.clip(share_K, EDGE, 1.0 - EDGE)
    return np.asarray(kept_K / kept_K.sum())
