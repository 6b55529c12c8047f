"""L2 logistic regression, exact, for many penalties and training sets at once over one matrix.

Objective of a problem: sum_i s_i logloss_i / sum_i s_i + penalty / 2 |w_z|^2, with w_z on columns standardised by the
weighted mean and standard deviation of the problem's own training rows; the intercept is not penalised. This is
scikit-learn's ``LogisticRegression`` behind a ``StandardScaler`` with C = 1 / (penalty * sum_i s_i).
"""

# N tiles, D columns, F training masks, P problems, K logits (1 in binary problems), V coordinates with the bias last

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.features import is_small, make_features
from histotune.heads.lbfgs import REFRESH_EVERY, Batch, advance, loss_terms, refresh, set_gradient
from histotune.heads.solver.problems import FitProblems, FitSettings, FitSolution, check_problems
from histotune.tools.devices import SMALL_ROWS, one_blas_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.features import Features

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


DROP_SHARE = 0.1
"""Finished problems are dropped from the arrays once they make up this share of them."""
NARROW, LATE = 256, 3
"""Exact curvature costs width^3: above this many coordinates it waits three times longer, and is rarely needed."""


def fit_batch(
    x_ND: NDArray[np.floating], y_N: Int, problems: FitProblems, settings: FitSettings | None = None
) -> FitSolution:
    """Solve all problems over one shared matrix.

    Args:
        x_ND: Raw embedding columns; float16, float32 or float64.
        y_N: Label per tile; ignored where a mask is 0.
        problems: Masks and penalties.
        settings: When to stop.

    Returns:
        Raw-column weights and the record of each fit, in the order of the problems.

    Raises:
        ValueError: A penalty is not positive, a mask is empty, negative or trains on a label out of range, or the
            matrix holds a value that is not finite.

    Example:
        >>> x_ND, y_N = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> problems = FitProblems(np.ones((1, 4), bool), np.array([0, 0]), np.array([0.1, 1.0]), n_classes=2)
        >>> fit_batch(x_ND, y_N, problems).weight_PKD.shape
        (2, 1, 1)
    """
    settings = settings or FitSettings()
    weight_FN = np.asarray(problems.mask_FN, dtype=np.float64)
    check_problems(y_N, problems, weight_FN)
    n_used, n_columns = int((weight_FN > 0).sum(axis=1).max()), x_ND.shape[1]
    if settings.device != "cpu" or not is_small(n_used, n_columns, len(weight_FN)):
        return _fit_shared(x_ND, y_N, weight_FN, problems, settings)
    used_N = (weight_FN > 0).any(axis=0)
    if not np.isfinite(x_ND.sum(axis=0, dtype=np.float64)).all() and not np.isfinite(x_ND[used_N]).all():
        raise ValueError("the embedding matrix holds values that are not finite")
    if problems.columns:
        return _fit_sets(x_ND, y_N, problems, settings)
    order_P = np.argsort(problems.mask_index_P, kind="stable")  # problems of one mask lie together
    with one_blas_thread(n_used <= SMALL_ROWS):
        features = make_features(x_ND, np.asarray(y_N, np.int64), weight_FN)
        theta_PKV, record = _solve(features, _start(features, problems, order_P), settings)
        weight, bias = features.raw_weights(theta_PKV[order_P], problems.mask_index_P[order_P])
    back_P = np.argsort(order_P)
    return FitSolution(
        weight[back_P], bias[back_P], record.objective_P, record.norm_P, record.iterations_P, record.converged_P,
        record.size_P, int(record.iterations_P.max()) + 1,
    )  # fmt: skip


def _fit_shared(
    x_ND: NDArray[np.floating], y_N: Int, weight_FN: Float, problems: FitProblems, settings: FitSettings
) -> FitSolution:
    """Solve large problems, all in the same passes."""
    from histotune.heads.solver.shared import SharedFit

    fit = SharedFit(x_ND, y_N, weight_FN, problems, settings)
    return FitSolution(
        fit.weight_PKD, fit.bias_PK, fit.objective_P, fit.norm_P, fit.evaluations_P, fit.converged_P,
        fit.size_P, fit.passes,
    )  # fmt: skip


def _fit_sets(x_ND: NDArray[np.floating], y_N: Int, problems: FitProblems, settings: FitSettings) -> FitSolution:
    """Solve small problems one set of columns after the other."""
    assert problems.columns_index_P is not None
    set_P, n_problems = np.asarray(problems.columns_index_P), len(problems.penalty_P)
    n_logits = 1 if problems.n_classes == 2 else problems.n_classes
    out = FitSolution(
        np.zeros((n_problems, n_logits, x_ND.shape[1])), np.zeros((n_problems, n_logits)), np.zeros(n_problems),
        np.zeros(n_problems), np.zeros(n_problems, np.int64), np.zeros(n_problems, bool), np.zeros(n_problems), 0,
    )  # fmt: skip
    passes = 0
    for number, columns in enumerate(problems.columns):
        which = np.flatnonzero(set_P == number)
        if not len(which):
            continue
        part = FitProblems(
            problems.mask_FN, problems.mask_index_P[which], problems.penalty_P[which], problems.n_classes
        )
        found = fit_batch(x_ND[:, columns], y_N, part, settings)
        out.weight_PKD[which[:, None, None], np.arange(n_logits)[:, None], columns] = found.weight_PKD
        for name in ("bias_PK", "objective_P", "gradient_norm_P", "iterations_P", "converged_P",
                     "weight_norm_P"):  # fmt: skip
            getattr(out, name)[which] = getattr(found, name)
        passes += found.passes
    return replace(out, passes=passes)


def _solve(features: Features, batch: Batch, settings: FitSettings) -> tuple[Float, _Record]:
    """Iterate until every problem has converged or the iterations are used up; return coordinates and records."""
    theta_PKV = np.empty_like(batch.theta_AKV)
    record = _Record(len(theta_PKV))
    for iteration in range(settings.max_iterations + 1):
        last = iteration == settings.max_iterations
        norm_A, converged_A = _finished(batch, settings)
        new_A = (converged_A | last) & ~batch.done_A
        theta_PKV[batch.index_A[new_A]] = batch.theta_AKV[new_A]
        record.write(batch, new_A, norm_A, converged_A, iteration)
        batch.done_A |= new_A
        if batch.done_A.all():
            break
        if batch.done_A.mean() >= DROP_SHARE:
            batch.keep(~batch.done_A)
        patience = REFRESH_EVERY if features.curvature_FR.shape[1] <= NARROW else LATE * REFRESH_EVERY
        if iteration and iteration % patience == 0:
            refresh(batch, features)
        advance(batch, features)
    return theta_PKV, record


class _Record:
    """How each fit ended."""

    def __init__(self, n_problems: int) -> None:
        self.objective_P = np.empty(n_problems)
        self.norm_P = np.empty(n_problems)
        self.size_P = np.empty(n_problems)
        self.iterations_P = np.zeros(n_problems, np.int64)
        self.converged_P = np.zeros(n_problems, bool)

    def write(
        self, batch: Batch, which_A: NDArray[np.bool_], norm_A: Float, done_A: NDArray[np.bool_], iteration: int
    ) -> None:
        """Note the problems ``which_A`` of a batch."""
        if not which_A.any():
            return
        index = batch.index_A[which_A]
        loss = loss_terms(batch.z_AKN[which_A], batch.y_AN[which_A])
        theta = batch.theta_AKV[which_A]
        penalty = 0.5 * np.einsum("av,akv,akv->a", batch.penalty_AV[which_A], theta, theta)
        self.objective_P[index] = np.einsum("an,an->a", batch.weight_AN[which_A], loss) + penalty
        self.norm_P[index], self.converged_P[index] = norm_A[which_A], done_A[which_A]
        self.iterations_P[index] = iteration
        self.size_P[index] = np.sqrt(np.einsum("akv,akv->a", theta[:, :, :-1], theta[:, :, :-1]))


def _finished(batch: Batch, settings: FitSettings) -> tuple[Float, NDArray[np.bool_]]:
    """Return gradient norms and which problems have converged."""
    norm_A = np.sqrt(np.einsum("akv,akv->a", batch.gradient_AKV, batch.gradient_AKV))
    size_A = np.sqrt(np.einsum("akv,akv->a", batch.theta_AKV, batch.theta_AKV))
    strictness_A = np.sqrt(np.minimum(batch.penalty_AV[:, 0], 1.0))
    return norm_A, norm_A <= settings.tolerance * strictness_A * np.maximum(1.0, size_A)


def _start(features: Features, problems: FitProblems, order_P: Int) -> Batch:
    """Start every problem at zero weights and the log-odds of its classes."""
    mask_A = np.asarray(problems.mask_index_P, np.int64)[order_P]
    penalty_A = np.asarray(problems.penalty_P, np.float64)[order_P]
    n_coordinates = features.curvature_FR.shape[1]
    frequency_FK = np.stack(
        [(features.weight_FN * (features.y_FN == label)).sum(axis=1) for label in range(problems.n_classes)], axis=1
    )
    odds_FK = np.log(np.maximum(frequency_FK, 1e-12))
    binary = problems.n_classes == 2
    bias_FK = odds_FK[:, 1:] - odds_FK[:, :1] if binary else odds_FK - odds_FK.mean(axis=1, keepdims=True)
    curvature_F = np.prod(frequency_FK, axis=1) if binary else np.full(len(frequency_FK), 1.0 / problems.n_classes)
    penalty_AV = np.repeat(penalty_A[:, None], n_coordinates + 1, axis=1)
    penalty_AV[:, -1] = 0.0
    variance_FV = np.concatenate([features.curvature_FR, np.ones((len(frequency_FK), 1))], axis=1)
    hessian_AV = np.maximum(curvature_F, 1e-3)[mask_A, None] * variance_FV[mask_A] + penalty_AV
    theta_AKV = np.zeros((len(mask_A), bias_FK.shape[1], n_coordinates + 1))
    theta_AKV[:, :, -1] = bias_FK[mask_A]
    batch = Batch(
        order_P, mask_A, penalty_AV, 1.0 / hessian_AV, theta_AKV, features.logits(theta_AKV, mask_A),
        np.empty(0), features.y_FN[mask_A], features.weight_FN[mask_A], np.zeros(len(mask_A), bool),
    )  # fmt: skip
    set_gradient(batch, features)
    return batch
