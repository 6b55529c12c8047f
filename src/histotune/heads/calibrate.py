"""Turn logits into probabilities: one temperature, or vector scaling, from cross-fitted logits.

Every group weighs the same. Nothing is changed unless it lowers the log-loss of folds that took no part in the fit
(Guo et al., ICML 2017, fit both on one held-out set; here every training tile is held out once).
"""

# n tiles, K classes, G groups, B rows of weights, C cuts (cut c predicts class 1 from the c-th smallest distinct
# probability on)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import Calibration, Decision, calibrated_logits, softmax
from histotune.heads.select import group_means, tile_losses
from histotune.statistics.predictions import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from histotune.heads.config import CalibrationKind, ThresholdRule

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


MAX_TEMPERATURE = 20.0
MAX_STEPS = 60
STEP_TOLERANCE = 1e-9
VECTOR_GROUPS = 50
"""Vector scaling has 2 K - 1 numbers to fit, and needs this many groups."""
SCALE_BOUNDS = (0.05, 20.0)
"""A negative scale would turn the ranking of a class around."""
RULE_WORDS = {
    "balanced-accuracy": "highest balanced accuracy",
    "youden": "highest Youden index",
    "sensitivity": "highest specificity at a sensitivity of at least {sensitivity:g}",
}
MIN_SPREAD = 1e-12
EDGE = 1e-6
"""Thresholds stay this far from 0 and 1 on the logit scale of their interval."""
LEVEL = 0.95
MIN_GROUPS = 5
"""Fewer groups (in a class, for thresholds) give no interval."""
CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class CrossFitted:
    """Logits of a training set's tiles, each by a head that never saw its group.

    Attributes:
        logit_nK: The logits.
        y_n: Label per tile.
        group_n: Group number per tile.
        n_groups: Number of groups.
        fold_n: Fold per tile.
    """

    logit_nK: Float
    y_n: Int
    group_n: Int
    n_groups: int
    fold_n: Int

    def tile_weights(self) -> Float:
        """Return weights (n,) under which every group weighs the same; they sum to 1."""
        return np.asarray(1.0 / (np.bincount(self.group_n, minlength=self.n_groups)[self.group_n] * self.n_groups))

    def log_loss(self, logit_nK: Float) -> float:
        """Return the group-balanced log-loss of other logits for the same tiles, nats."""
        return float((tile_losses(logit_nK[None], self.y_n)[0] @ group_means(self.group_n, self.n_groups)).mean())


def calibrate(found: CrossFitted, kind: CalibrationKind) -> Calibration:
    """Fit a calibration and keep it only where it improves the cross-validated log-loss."""
    if kind == "none":
        return Calibration(reason="not calibrated: switched off")
    before = found.log_loss(found.logit_nK)
    after = found.log_loss(found.logit_nK / _fold_temperatures(found)[found.fold_n, None])
    plain = Calibration(1.0, None, (), (), before, after, _kept(before, after))
    if after < before:
        plain = _with_temperature(found, before, after)
    if kind == "temperature":
        return plain
    if found.n_groups < VECTOR_GROUPS:
        few = f"; vector scaling needs {VECTOR_GROUPS} groups and has {found.n_groups}"
        return replace(plain, reason=plain.reason + few)
    return _vector(found, plain, min(before, after))


def _kept(before: float, after: float) -> str:
    return f"T = 1: a temperature would move the cross-validated log-loss from {before:.4f} to {after:.4f}"


def _with_temperature(found: CrossFitted, before: float, after: float) -> Calibration:
    """Return the temperature over all folds with its jackknife interval."""
    temperature = float(fit_temperatures(found.logit_nK, found.y_n, found.tile_weights()[None])[0])
    reason = f"the temperature takes the cross-validated log-loss from {before:.4f} to {after:.4f}"
    return Calibration(temperature, _temperature_interval(found, temperature), (), (), before, after, reason)


def _temperature_interval(found: CrossFitted, temperature: float) -> Interval | None:
    """Return the group-jackknife t interval on the log scale; None with too few groups, or where nothing moves it."""
    if found.n_groups < MIN_GROUPS:
        return None
    weight_n, left_out_G = found.tile_weights(), np.empty(found.n_groups)
    for groups in group_chunks(found.n_groups, found.logit_nK.size):
        weight_Bn = weight_n * (found.group_n != groups[:, None])
        left_out_G[groups] = fit_temperatures(found.logit_nK, found.y_n, weight_Bn, temperature)
    if np.ptp(left_out_G) == 0:  # at a bound: its error is not to be told
        return None
    return group_interval(float(np.log(temperature)), np.log(left_out_G), np.exp)


def _fold_temperatures(found: CrossFitted) -> Float:
    """Return each fold's temperature, fitted on the other folds."""
    n_folds = int(found.fold_n.max()) + 1
    weight_Bn = found.tile_weights() * (found.fold_n != np.arange(n_folds)[:, None])
    return fit_temperatures(found.logit_nK, found.y_n, weight_Bn)


def fit_temperatures(logit_nK: Float, y_n: Int, weight_Bn: Float, start: float = 1.0) -> Float:
    """Return the temperature of least weighted log-loss for every row of weights.

    The loss is convex in 1 / T; Newton steps, kept inside a shrinking bracket.

    Example:
        >>> logits, labels = np.array([[0.0, 4.0]] * 4), np.array([1, 1, 1, 0])
        >>> fit_temperatures(logits, labels, np.ones((1, 4))).round(3)  # 4 / T is the log-odds of 3 in 4
        array([3.641])
    """
    # With beta = 1 / T: beta - L'(beta) / L''(beta), and the middle of the bracket where that leaves it; the bracket
    # shrinks to the side where the slope turns. Where the slope keeps its sign up to a bound, the bound is the answer.
    derivatives = _derivatives(logit_nK, y_n, weight_Bn)
    low_B = np.full(len(weight_Bn), 1.0 / MAX_TEMPERATURE)
    high_B = np.full(len(weight_Bn), MAX_TEMPERATURE)
    beyond_B, short_B = derivatives(high_B)[0] < 0, derivatives(low_B)[0] > 0  # the optimum lies outside the bounds
    beta_B = np.full(len(weight_Bn), 1.0 / start)
    for _ in range(MAX_STEPS):
        slope_B, bend_B = derivatives(beta_B)
        low_B, high_B = np.where(slope_B < 0, beta_B, low_B), np.where(slope_B > 0, beta_B, high_B)
        step_B = np.divide(slope_B, bend_B, out=np.full_like(slope_B, np.inf), where=bend_B > 0)
        newton_B = beta_B - step_B
        inside_B = (newton_B >= low_B) & (newton_B <= high_B)
        new_B = np.where(slope_B == 0, beta_B, np.where(inside_B, newton_B, (low_B + high_B) / 2.0))
        moved = np.abs(new_B - beta_B).max()
        beta_B = new_B
        if moved < STEP_TOLERANCE:
            break
    ends_B = np.where(beyond_B, MAX_TEMPERATURE, 1.0 / MAX_TEMPERATURE)
    return np.asarray(1.0 / np.where(beyond_B | short_B, ends_B, beta_B))


def _derivatives(logit_nK: Float, y_n: Int, weight_Bn: Float) -> Callable[[Float], tuple[Float, Float]]:
    """Return a function from 1 / T (B,) to the first and second derivative of the loss by it."""
    if logit_nK.shape[1] == 2:
        # Margin m towards the label, q = 1 / (1 + exp(beta m)) the probability of the other class: L' = -q m and L'' =
        # q (1 - q) m^2, weighted and summed.
        margin_n = (logit_nK[:, 1] - logit_nK[:, 0]) * np.where(y_n == 1, 1.0, -1.0)

        def binary(beta_B: Float) -> tuple[Float, Float]:
            """Return slope and curvature at some inverse temperatures, for two classes."""
            wrong_Bn = 1.0 / (1.0 + np.exp(np.clip(beta_B[:, None] * margin_n, -700.0, 700.0)))
            slope_B = -np.einsum("bn,bn,n->b", weight_Bn, wrong_Bn, margin_n)
            return slope_B, np.einsum("bn,bn,n->b", weight_Bn, wrong_Bn * (1.0 - wrong_Bn), margin_n**2)

        return binary
    # Logits c relative to the own class's: L = log sum_k exp(beta c_k), so L' is the mean and L'' the variance of c
    # under p.
    centred_nK = logit_nK - logit_nK[np.arange(len(y_n)), y_n, None]

    def several(beta_B: Float) -> tuple[Float, Float]:
        """Return slope and curvature at some inverse temperatures, for any number of classes."""
        p_BnK = softmax(beta_B[:, None, None] * centred_nK)
        mean_Bn = np.einsum("bnk,nk->bn", p_BnK, centred_nK)
        square_Bn = np.einsum("bnk,nk->bn", p_BnK, centred_nK**2)
        return (weight_Bn * mean_Bn).sum(axis=1), (weight_Bn * (square_Bn - mean_Bn**2)).sum(axis=1)

    return several


def _vector(found: CrossFitted, plain: Calibration, best: float) -> Calibration:
    """Return vector scaling where it beats the temperature on held-out folds, else the temperature."""
    weight_n, held_nK = found.tile_weights(), np.empty_like(found.logit_nK)
    for fold in np.unique(found.fold_n):
        outside = found.fold_n != fold
        scaled = fit_vector(found.logit_nK[outside], found.y_n[outside], weight_n[outside])
        held_nK[~outside] = calibrated_logits(scaled, found.logit_nK[~outside])
    after = found.log_loss(held_nK)
    if after >= best:
        return replace(plain, reason=f"{plain.reason}; vector scaling would give {after:.4f}")
    whole = fit_vector(found.logit_nK, found.y_n, weight_n)
    reason = f"vector scaling takes the cross-validated log-loss from {plain.nll_before:.4f} to {after:.4f}"
    return Calibration(1.0, None, whole.scale_K, whole.shift_K, plain.nll_before, after, reason)


def fit_vector(logit_nK: Float, y_n: Int, weight_n: Float) -> Calibration:
    """Fit a scale and a shift per class by weighted log-loss; class 0's shift is 0, in binary tasks its scale 1."""
    from scipy.optimize import minimize

    n_classes = logit_nK.shape[1]
    first = 1 if n_classes == 2 else 0
    n_scales = n_classes - first
    total = weight_n.sum()

    def unpack(values: Float) -> tuple[Float, Float]:
        """Return scale and shift per class from the free values."""
        return np.r_[np.ones(first), values[:n_scales]], np.r_[0.0, values[n_scales:]]

    def loss(values: Float) -> tuple[float, Float]:
        """Return the log-loss and its gradient by the free values."""
        # Weighted mean log-loss; by logit k it is p_k - hit_k, by shift the same, by scale that times the logit.
        scale_K, shift_K = unpack(values)
        p_nK = softmax(logit_nK * scale_K + shift_K)
        p_n = p_nK[np.arange(len(y_n)), y_n]
        p_nK[np.arange(len(y_n)), y_n] -= 1.0
        by_shift_K = (weight_n @ p_nK) / total
        by_scale_K = (weight_n @ (p_nK * logit_nK)) / total
        value = -float(weight_n @ np.log(np.maximum(p_n, 1e-300))) / total
        return value, np.r_[by_scale_K[first:], by_shift_K[1:]]

    start = np.r_[np.ones(n_scales), np.zeros(n_classes - 1)]
    bounds = [SCALE_BOUNDS] * n_scales + [(None, None)] * (n_classes - 1)
    options = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-10}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    scale_K, shift_K = unpack(found.x)
    return Calibration(scale_K=tuple(scale_K.tolist()), shift_K=tuple(shift_K.tolist()))


# ------------------------------------------------------------------------------
# Choose from which probability a binary head says class 1, on out-of-fold predictions. A rule gives every cut between
# two neighbouring probabilities an integer value, so that equal cuts are equal exactly. The threshold is the middle of
# a run of best cuts, of several runs the one whose middle lies nearest to 0.5: it depends on no order of tiles


@dataclass(frozen=True)
class BinaryTiles:
    """Out-of-fold predictions of a binary head.

    Attributes:
        probability_n: Calibrated probability of class 1.
        positive_n: Whether the tile is of class 1.
        group_n: Group number per tile.
        n_groups: Number of groups.
    """

    probability_n: Float
    positive_n: NDArray[np.bool_]
    group_n: Int
    n_groups: int


def choose_threshold(tiles: BinaryTiles, rule: ThresholdRule, sensitivity: float) -> Decision:
    """Return the threshold of a rule with its group-jackknife interval.

    The interval is a t interval on the logit scale; a threshold is no smooth function of the data, so the interval
    tells how far it moves when a group goes, and is no better than that.
    """
    if rule == "0.5":
        return Decision(0.5, rule, None, "not tuned: the most probable class")
    positive_G = np.bincount(tiles.group_n, weights=tiles.positive_n, minlength=tiles.n_groups)
    negative_G = np.bincount(tiles.group_n, weights=~tiles.positive_n, minlength=tiles.n_groups)
    fewest = int(min((positive_G > 0).sum(), (negative_G > 0).sum()))
    if fewest < MIN_GROUPS:
        return Decision(0.5, "0.5", None, f"not tuned: a class lies in {fewest} groups, and {MIN_GROUPS} are needed")
    whole, left_out_G = _thresholds(tiles, rule, sensitivity)
    words = f"{RULE_WORDS[rule].format(sensitivity=sensitivity)}, out of fold"
    if np.ptp(left_out_G) <= MIN_SPREAD:
        return Decision(whole, rule, None, f"{words}; no interval: it is the same whichever group is left out")
    scaled = float(_logit(np.array([whole]))[0])
    return Decision(whole, rule, group_interval(scaled, _logit(left_out_G), _expit), words)


def _thresholds(tiles: BinaryTiles, rule: ThresholdRule, sensitivity: float) -> tuple[float, Float]:
    """Return the threshold on all groups, and with each group left out (G,)."""
    # Counts of positive and negative tiles at each distinct probability; without a group they are less by its own.
    distinct, code_n = np.unique(tiles.probability_n, return_inverse=True)
    code_n = np.asarray(code_n).ravel()
    n_distinct = len(distinct)
    all_pos = np.bincount(code_n[tiles.positive_n], minlength=n_distinct)
    all_neg = np.bincount(code_n[~tiles.positive_n], minlength=n_distinct)
    whole = _best_cuts(distinct, all_pos[None], all_neg[None], rule, sensitivity)[0]
    left_out_G = np.empty(tiles.n_groups)
    for groups in group_chunks(tiles.n_groups, n_distinct):
        inside = np.flatnonzero((tiles.group_n >= groups[0]) & (tiles.group_n <= groups[-1]))
        flat = (tiles.group_n[inside] - groups[0]) * n_distinct + code_n[inside]
        positive = tiles.positive_n[inside]
        shape = (len(groups), n_distinct)
        own_pos = np.bincount(flat[positive], minlength=len(groups) * n_distinct).reshape(shape)
        own_neg = np.bincount(flat[~positive], minlength=len(groups) * n_distinct).reshape(shape)
        left_out_G[groups] = _best_cuts(distinct, all_pos - own_pos, all_neg - own_neg, rule, sensitivity)
    return float(whole), left_out_G


def _best_cuts(distinct: Float, pos_BC: Int, neg_BC: Int, rule: ThresholdRule, sensitivity: float) -> Float:
    """Return the threshold for every row of counts per distinct probability."""
    # Cut c: TP = positives from place c on, TN = negatives before it. Most TN among cuts with TP >= sensitivity x P;
    # else the largest TP N + TN P, which orders cuts as balanced accuracy and Youden's index do, in whole numbers.
    n_pos_B1, n_neg_B1 = pos_BC.sum(axis=1, keepdims=True), neg_BC.sum(axis=1, keepdims=True)
    zero_B1 = np.zeros_like(n_pos_B1)
    true_pos_BC = n_pos_B1 - np.concatenate([zero_B1, np.cumsum(pos_BC, axis=1)], axis=1)
    true_neg_BC = np.concatenate([zero_B1, np.cumsum(neg_BC, axis=1)], axis=1)
    if rule == "sensitivity":
        needed_B1 = np.ceil(sensitivity * n_pos_B1 - 1e-9)
        value_BC = np.where(true_pos_BC >= needed_B1, true_neg_BC, -1)
    else:
        value_BC = true_pos_BC * n_neg_B1 + true_neg_BC * n_pos_B1
    best_BC = value_BC == value_BC.max(axis=1, keepdims=True)
    edges = np.r_[0.0, distinct, 1.0]
    return np.array([_middle(edges, best_C) for best_C in best_BC])


def _middle(edges: Float, best_C: NDArray[np.bool_]) -> float:
    """Return the middle of the run of best cuts nearest to 0.5; cut c lies in (edges[c], edges[c + 1]].

    A run is open at its lower end, where the probability below it still says class 0. With a group left out, cuts that
    only its tiles separated have equal values, so runs span them.
    """
    change = np.diff(np.r_[False, best_C, False].astype(np.int8))
    starts, stops = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    middles = (edges[starts] + edges[stops]) / 2.0
    middles = np.where(middles > edges[starts], middles, edges[stops])
    return float(middles[np.argmin(np.abs(middles - 0.5))])


def _logit(p: Float) -> Float:
    p = np.clip(p, EDGE, 1.0 - EDGE)
    return np.asarray(np.log(p / (1.0 - p)))


def _expit(z: Float) -> Float:
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


# ------------------------------------------------------------------------------
# The delete-one-group jackknife: intervals for what a head stores (Efron & Tibshirani 1993, chapter 11)


def jackknife_se(left_out_G: Float) -> float:
    """Return the standard error of a statistic from its values with each group left out."""
    n = len(left_out_G)
    return float(np.sqrt((n - 1) / n * ((left_out_G - left_out_G.mean()) ** 2).sum()))


def jackknife_interval(value: float, left_out_G: Float, level: float = LEVEL) -> tuple[float, float]:
    """Return value -+ t(G - 1) * standard error."""
    return t_interval(value, jackknife_se(left_out_G), len(left_out_G), level)


def t_interval(value: float, standard_error: float, n_groups: int, level: float = LEVEL) -> tuple[float, float]:
    """Return value -+ t(G - 1) * standard error."""
    from scipy.special import stdtrit

    half = float(stdtrit(n_groups - 1, 0.5 + level / 2.0)) * standard_error
    return value - half, value + half


def group_interval(value: float, left_out_G: Float, back: Callable[[Float], Float] = np.asarray) -> Interval:
    """Return the record of a jackknife interval, its ends brought back from the scale it was made on."""
    low, high = back(np.array(jackknife_interval(value, left_out_G)))
    return Interval(float(low), float(high), LEVEL, f"jackknife over {len(left_out_G)} groups")


def group_chunks(n_groups: int, n_values: int) -> Iterator[NDArray[np.int64]]:
    """Yield runs of groups so small that a matrix (groups, values) stays within memory."""
    size = max(1, CHUNK_VALUES // max(n_values, 1))
    for start in range(0, n_groups, size):
        yield np.arange(start, min(start + size, n_groups))
