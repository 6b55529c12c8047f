"""L2 logistic regression, exact, for many penalties and training sets at once over one matrix.

Objective of a problem: sum_i s_i logloss_i / sum_i s_i + penalty / 2 |w_z|^2, with w_z on columns standardised by the
weighted mean and standard deviation of the problem's own training rows; the intercept is not penalised. This is
scikit-learn's ``LogisticRegression`` behind a ``StandardScaler`` with C = 1 / (penalty * sum_i s_i).
"""

# N tiles, D columns, F training masks, P problems, A problems still running, K logits (1 in binary problems),
# V coordinates with the bias last

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.solver.coordinates import is_small, make_coordinates
from histotune.heads.solver.problems import (
    FitProblems,
    FitSettings,
    FitSolution,
    check_problems,
    keep_problems,
    log_odds,
)
from histotune.heads.solver.stream import ArrayKit, two_loop
from histotune.tools.devices import SMALL_ROWS, one_blas_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.solver.coordinates import GramCoordinates, SharedCoordinates

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]
    Coordinates = GramCoordinates | SharedCoordinates


MEMORY = 10
HOST = ArrayKit()
SLOPE_RATIO = 0.25
"""The line search ends when the slope has fallen to this fraction of its start."""
MAX_LINE_STEPS = 20
REFRESH_EVERY = 30
"""Iterations after which problems that still run get their exact curvature as preconditioner."""
REFRESH_BYTES = 2**28
CURVATURE_FLOOR = 1e-12
DIRECT_INVERSE_WIDTH = 64
DROP_SHARE = 0.1
"""Finished problems are dropped from the arrays once they make up this share of them."""
NARROW, LATE = 256, 3
"""Exact curvature costs width^3: above this many coordinates it waits three times longer, and is rarely needed."""


def fit_batch(
    x_ND: NDArray[np.floating], y_N: Int, problems: FitProblems, settings: FitSettings | None = None
) -> FitSolution:
    """Solve all problems over one shared matrix.

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
        from histotune.heads.solver.shared import SharedFit

        return SharedFit(x_ND, y_N, weight_FN, problems, settings).solution()
    used_N = (weight_FN > 0).any(axis=0)
    if not np.isfinite(x_ND.sum(axis=0, dtype=np.float64)).all() and not np.isfinite(x_ND[used_N]).all():
        raise ValueError("the embedding matrix holds values that are not finite")
    if problems.columns:
        return _fit_sets(x_ND, y_N, problems, settings)
    # The problems of one mask lie together while they are solved: each mask's rows then enter one product.
    order_P = np.argsort(problems.mask_index_P, kind="stable")
    with one_blas_thread(n_used <= SMALL_ROWS):
        coordinates = make_coordinates(x_ND, np.asarray(y_N, np.int64), weight_FN)
        batch = _start(coordinates, problems, order_P)
        out = FitSolution.empty(len(order_P), batch.theta_AKV.shape[1], n_columns, len(weight_FN))
        theta_PKV = _solve(coordinates, batch, settings, out)
        found = coordinates.raw_weights(theta_PKV[order_P], problems.mask_index_P[order_P])
    out.weight_PKD[order_P], out.bias_PK[order_P] = found
    out.mean_FD[:], out.std_FD[:] = coordinates.moments()
    return replace(out, passes=int(out.iterations_P.max()) + 1)


def _fit_sets(x_ND: NDArray[np.floating], y_N: Int, problems: FitProblems, settings: FitSettings) -> FitSolution:
    """Solve small problems one set of columns after the other."""
    assert problems.columns_index_P is not None
    set_P, n_problems = np.asarray(problems.columns_index_P), len(problems.penalty_P)
    n_logits = 1 if problems.n_classes == 2 else problems.n_classes
    out = FitSolution.empty(n_problems, n_logits, x_ND.shape[1], len(problems.mask_FN))
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
        for name in ("bias_PK", "objective_P", "gradient_norm_P", "iterations_P", "converged_P", "weight_norm_P"):
            getattr(out, name)[which] = getattr(found, name)
        out.mean_FD[:, columns], out.std_FD[:, columns] = found.mean_FD, found.std_FD
        passes += found.passes
    return replace(out, passes=passes)


def _solve(coordinates: Coordinates, batch: LogisticBatch, settings: FitSettings, out: FitSolution) -> Float:
    """Iterate until every problem has converged or the iterations are used up; note how each fit ended."""
    theta_PKV = np.empty_like(batch.theta_AKV)
    for iteration in range(settings.max_iterations + 1):
        last = iteration == settings.max_iterations
        norm_A, converged_A = _finished(batch, settings)
        new_A = (converged_A | last) & ~batch.done_A
        theta_PKV[batch.index_A[new_A]] = batch.theta_AKV[new_A]
        if new_A.any():
            _note(out, batch, new_A, norm_A, iteration)
            out.converged_P[batch.index_A[new_A]] = converged_A[new_A]
        batch.done_A |= new_A
        if batch.done_A.all():
            break
        if batch.done_A.mean() >= DROP_SHARE:
            batch.keep(~batch.done_A)
        patience = REFRESH_EVERY if coordinates.curvature_FR.shape[1] <= NARROW else LATE * REFRESH_EVERY
        if iteration and iteration % patience == 0:
            refresh(batch, coordinates)
        advance(batch, coordinates)
    return theta_PKV


def _note(out: FitSolution, batch: LogisticBatch, which_A: Bool, norm_A: Float, iteration: int) -> None:
    """Note how the fits ``which_A`` of a batch ended."""
    # Objective: sum_i s_i logloss_i + sum_v penalty_v theta_v^2 / 2, the bias's penalty being 0; |w| leaves the bias
    # out.
    index, theta = batch.index_A[which_A], batch.theta_AKV[which_A]
    loss = loss_terms(batch.z_AKN[which_A], batch.y_AN[which_A])
    penalty = 0.5 * np.einsum("av,akv,akv->a", batch.penalty_AV[which_A], theta, theta)
    out.objective_P[index] = np.einsum("an,an->a", batch.weight_AN[which_A], loss) + penalty
    out.gradient_norm_P[index], out.iterations_P[index] = norm_A[which_A], iteration
    out.weight_norm_P[index] = np.sqrt(np.einsum("akv,akv->a", theta[:, :, :-1], theta[:, :, :-1]))


def _finished(batch: LogisticBatch, settings: FitSettings) -> tuple[Float, NDArray[np.bool_]]:
    """Return gradient norms and which problems have converged."""
    norm_A = np.sqrt(np.einsum("akv,akv->a", batch.gradient_AKV, batch.gradient_AKV))
    size_A = np.sqrt(np.einsum("akv,akv->a", batch.theta_AKV, batch.theta_AKV))
    strictness_A = np.sqrt(np.minimum(batch.penalty_AV[:, 0], 1.0))
    return norm_A, norm_A <= settings.tolerance * strictness_A * np.maximum(1.0, size_A)


def _start(coordinates: Coordinates, problems: FitProblems, order_P: Int) -> LogisticBatch:
    """Start every problem at zero weights and the log-odds of its classes."""
    mask_A = np.asarray(problems.mask_index_P, np.int64)[order_P]
    penalty_A = np.asarray(problems.penalty_P, np.float64)[order_P]
    n_coordinates = coordinates.curvature_FR.shape[1]
    # At zero weights and the classes' log-odds the Hessian is c Var(u_v) + penalty_v in its diagonal, with c = p (1 -
    # p) for one logit and about 1 / K for several; the bias has variance 1. Its inverse is the first preconditioner.
    frequency_FK = np.stack(
        [(coordinates.weight_FN * (coordinates.y_FN == label)).sum(axis=1) for label in range(problems.n_classes)],
        axis=1,
    )
    bias_FK = log_odds(frequency_FK)
    n_classes = problems.n_classes
    flat_F = np.full(len(frequency_FK), 1.0 / n_classes)
    curvature_F = np.prod(frequency_FK, axis=1) if n_classes == 2 else flat_F
    penalty_AV = np.repeat(penalty_A[:, None], n_coordinates + 1, axis=1)
    penalty_AV[:, -1] = 0.0
    variance_FV = np.concatenate([coordinates.curvature_FR, np.ones((len(frequency_FK), 1))], axis=1)
    hessian_AV = np.maximum(curvature_F, 1e-3)[mask_A, None] * variance_FV[mask_A] + penalty_AV
    theta_AKV = np.zeros((len(mask_A), bias_FK.shape[1], n_coordinates + 1))
    theta_AKV[:, :, -1] = bias_FK[mask_A]
    batch = LogisticBatch(
        index_A=order_P,
        mask_A=mask_A,
        penalty_AV=penalty_AV,
        precondition_AV=1.0 / hessian_AV,
        theta_AKV=theta_AKV,
        z_AKN=coordinates.logits(theta_AKV, mask_A),
        gradient_AKV=np.empty(0),
        y_AN=coordinates.y_FN[mask_A],
        weight_AN=coordinates.weight_FN[mask_A],
        done_A=np.zeros(len(mask_A), bool),
    )
    set_gradient(batch, coordinates)
    return batch


# ------------------------------------------------------------------------------
# Batched L-BFGS: logits are linear in the coordinates, so each iteration costs one product forth and one back, and the
# line search none: along a direction the loss is a function of z + t dz, whose slope and curvature are sums over tiles


@dataclass
class LogisticBatch:
    """The problems still running; rows of every array belong together.

    Attributes:
        index_A: Problem number.
        mask_A: Training mask.
        penalty_AV: Penalty per coordinate (0 for the bias).
        precondition_AV: Inverse of the Hessian's diagonal at the start.
        whiten_AKVV: Inverse Cholesky factor of each logit's block of the Hessian at the last refresh; None before one.
        theta_AKV: Coordinates.
        z_AKN: Logits.
        gradient_AKV: Gradient of the objective.
        y_AN: Labels.
        weight_AN: Normalised sample weights.
        done_A: Problems that have converged and wait to be dropped.
        history: Pairs of (step, gradient change) with 1 / (step . change), oldest first.
    """

    index_A: Int
    mask_A: Int
    penalty_AV: Float
    precondition_AV: Float
    theta_AKV: Float
    z_AKN: Float
    gradient_AKV: Float
    y_AN: Int
    weight_AN: Float
    done_A: Bool
    history: list[tuple[Float, Float, Float]] = field(default_factory=list)
    whiten_AKVV: Float | None = None

    def keep(self, stay_A: Bool) -> None:
        """Drop the other problems."""
        keep_problems(self, stay_A)

    def precondition(self, q_AKV: Float) -> Float:
        """Apply the approximate inverse Hessian."""
        if self.whiten_AKVV is None:
            return q_AKV * self.precondition_AV[:, None]
        white_AKV1 = self.whiten_AKVV @ q_AKV[..., None]  # H^-1 = W^T W with H = L L^T, W = L^-1
        out = np.matmul(white_AKV1.swapaxes(2, 3), self.whiten_AKVV)[:, :, 0]
        return np.asarray(out - out.mean(axis=1, keepdims=True) if out.shape[1] > 1 else out)


def loss_terms(z_AKN: Float, y_AN: Int) -> Float:
    """Return the log-loss per problem and row."""
    if z_AKN.shape[1] == 1:
        margin_AN = np.where(y_AN == 1, z_AKN[:, 0], -z_AKN[:, 0])
        return np.asarray(np.log1p(np.exp(-np.abs(margin_AN))) + np.maximum(-margin_AN, 0.0))
    top_AN = z_AKN.max(axis=1)
    total_AN = np.log(np.exp(z_AKN - top_AN[:, None]).sum(axis=1)) + top_AN
    return np.asarray(total_AN - np.take_along_axis(z_AKN, y_AN[:, None], axis=1)[:, 0])


def probabilities(z_AKN: Float) -> Float:
    """Return sigmoid (one logit) or softmax probabilities, without overflow."""
    if z_AKN.shape[1] == 1:
        e = np.exp(-np.abs(z_AKN))
        return np.asarray(np.where(z_AKN >= 0, 1.0, e) / (1.0 + e))
    e = np.exp(z_AKN - z_AKN.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def residuals(p_AKN: Float, y_AN: Int, weight_AN: Float) -> Float:
    """Return the derivative of the weighted loss by logit (A, K, N)."""
    if p_AKN.shape[1] == 1:
        return np.asarray((p_AKN - (y_AN == 1)[:, None]) * weight_AN[:, None])
    out = p_AKN.copy()
    for label in range(p_AKN.shape[1]):
        out[:, label] -= y_AN == label
    out *= weight_AN[:, None]
    return out


def set_gradient(batch: LogisticBatch, coordinates: Coordinates) -> None:
    """Recompute the gradient from the logits."""
    residual_AKN = residuals(probabilities(batch.z_AKN), batch.y_AN, batch.weight_AN)
    batch.gradient_AKV = coordinates.pull_back(residual_AKN, batch.mask_A)
    batch.gradient_AKV += batch.penalty_AV[:, None] * batch.theta_AKV


def step_lengths(batch: LogisticBatch, d_AKV: Float, dz_AKN: Float) -> Float:
    """Return near-exact step lengths by a safeguarded Newton iteration on the slope."""
    # Newton's t - phi'(t) / phi''(t) on the slope phi' along the step, the penalty's part being start + t bend. Slopes
    # below 0 raise the lower end of the bracket, the others lower its upper end; where Newton leaves the bracket, four
    # times t while it is open, its middle afterwards. Ends at |phi'(t)| <= ratio |phi'(0)|.
    penalty_AV = batch.penalty_AV[:, None]
    start_A = _dot(penalty_AV * batch.theta_AKV, d_AKV)
    bend_A = _dot(penalty_AV * d_AKV, d_AKV)
    slope0_A = _dot(batch.gradient_AKV, d_AKV)
    n = len(slope0_A)
    t_A, low_A, high_A = np.ones(n), np.zeros(n), np.full(n, np.inf)
    todo = np.arange(n)
    for _ in range(MAX_LINE_STEPS):
        slope, curvature = _slope_and_curvature(batch, dz_AKN, t_A, todo)
        slope += start_A[todo] + t_A[todo] * bend_A[todo]
        curvature += bend_A[todo]
        low_A[todo] = np.where(slope < 0, t_A[todo], low_A[todo])
        high_A[todo] = np.where(slope < 0, high_A[todo], t_A[todo])
        open_ = np.abs(slope) > SLOPE_RATIO * np.abs(slope0_A[todo])
        slope, curvature, todo = slope[open_], curvature[open_], todo[open_]
        if not len(todo):
            break
        newton = t_A[todo] - slope / np.maximum(curvature, np.finfo(float).tiny)
        low, high = low_A[todo], high_A[todo]
        fallback = np.where(np.isinf(high), 4.0 * t_A[todo], 0.5 * (low + high))
        inside = (newton > low) & (newton < np.minimum(high, 16.0 * np.maximum(low, 0.1)))
        t_A[todo] = np.where(inside, newton, fallback)
    return t_A


def _slope_and_curvature(batch: LogisticBatch, dz_AKN: Float, t_A: Float, todo: Int) -> tuple[Float, Float]:
    """Return first and second derivative by step length of the weighted loss, for the problems ``todo``."""
    # phi'(t) = sum_i s_i (p_i - y_i) . dz_i and phi''(t) = sum_i s_i Var_p(dz_i): p (1 - p) dz^2 with one logit, the
    # variance of dz over the classes with several.
    everything = len(todo) == len(t_A)
    z, dz = (batch.z_AKN, dz_AKN) if everything else (batch.z_AKN[todo], dz_AKN[todo])
    y, weight = (batch.y_AN, batch.weight_AN) if everything else (batch.y_AN[todo], batch.weight_AN[todo])
    p = probabilities(z + t_A[todo][:, None, None] * dz)
    slope = _dot(residuals(p, y, weight), dz)
    if z.shape[1] == 1:
        return slope, np.einsum("an,an,an->a", weight, p[:, 0] * (1.0 - p[:, 0]), dz[:, 0] ** 2)
    mean_AN = (p * dz).sum(axis=1)
    return slope, np.einsum("an,an->a", weight, (p * dz**2).sum(axis=1) - mean_AN**2)


def advance(batch: LogisticBatch, coordinates: Coordinates) -> None:
    """Take one L-BFGS step in every running problem."""
    # Where rounding turns the direction uphill, the preconditioned gradient takes its place; logits follow the step
    # without another product, and a pair without positive curvature counts nothing (rho = 0).
    d_AKV = two_loop(HOST, batch.gradient_AKV, batch.history, batch.precondition)
    uphill_A = _dot(d_AKV, batch.gradient_AKV) >= 0
    if uphill_A.any():
        d_AKV[uphill_A] = -batch.precondition(batch.gradient_AKV)[uphill_A]
    d_AKV[batch.done_A] = 0.0
    dz_AKN = coordinates.logits(d_AKV, batch.mask_A)
    t_A = step_lengths(batch, d_AKV, dz_AKN)[:, None, None]
    before = batch.gradient_AKV
    d_AKV *= t_A
    batch.theta_AKV = batch.theta_AKV + d_AKV
    dz_AKN *= t_A
    batch.z_AKN += dz_AKN
    set_gradient(batch, coordinates)
    change = batch.gradient_AKV - before
    curvature_A = _dot(d_AKV, change)
    rho_A = np.where(curvature_A > 0, 1.0 / np.where(curvature_A > 0, curvature_A, 1.0), 0.0)
    batch.history.append((d_AKV, change, rho_A))
    del batch.history[:-MEMORY]


def refresh(batch: LogisticBatch, coordinates: Coordinates) -> None:
    """Replace the preconditioner by the inverse of the Hessian's blocks at the present point, where they fit memory.

    Weak penalties on separable classes move far from the start, where the first preconditioner no longer fits.
    """
    n_problems, n_logits, width = batch.theta_AKV.shape
    if not coordinates.small or n_problems * n_logits * width**2 * 8 > REFRESH_BYTES:
        return
    p_AKN = probabilities(batch.z_AKN)
    hessian_AKVV = coordinates.curvature(p_AKN * (1.0 - p_AKN) * batch.weight_AN[:, None], batch.mask_A)
    diagonal = np.arange(width)
    hessian_AKVV[:, :, diagonal, diagonal] += batch.penalty_AV[:, None] + CURVATURE_FLOOR
    try:
        batch.whiten_AKVV = _inverse_of_lower(np.asarray(np.linalg.cholesky(hessian_AKVV), np.float64))
    except np.linalg.LinAlgError:  # singular up to rounding: any preconditioner serves, the one at hand too
        return
    batch.history.clear()


def _inverse_of_lower(l_AKVV: Float) -> Float:
    """Return the inverses of lower triangular matrices: halves joined by products, a quarter of a general inverse."""
    # [[A, 0], [B, C]]^-1 = [[A^-1, 0], [-C^-1 B A^-1, C^-1]].
    width = l_AKVV.shape[-1]
    if width <= DIRECT_INVERSE_WIDTH:
        return np.asarray(np.linalg.inv(l_AKVV), np.float64)
    half = width // 2
    out = np.zeros_like(l_AKVV)
    out[..., :half, :half] = _inverse_of_lower(l_AKVV[..., :half, :half])
    out[..., half:, half:] = _inverse_of_lower(l_AKVV[..., half:, half:])
    out[..., half:, :half] = -out[..., half:, half:] @ (l_AKVV[..., half:, :half] @ out[..., :half, :half])
    return out


def _dot(a_AKV: Float, b_AKV: Float) -> Float:
    """Return the inner product per problem."""
    return np.asarray(np.einsum("akv,akv->a", a_AKV, b_AKV))
