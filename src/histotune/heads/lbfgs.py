"""Batched L-BFGS for penalised linear models: one product forth and one back per iteration, for all problems at once.

Logits are linear in the coordinates, so a line search needs no product: along a direction the loss is a function of
z + t dz, whose slope and curvature are sums over tiles. Problems that have converged leave the batch.
"""

# A active problems, P all problems, K logits, N rows, V coordinates with the bias last

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.features import Features

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

MEMORY = 10
SLOPE_RATIO = 0.25
"""The line search ends when the slope has fallen to this fraction of its start."""
MAX_LINE_STEPS = 20
REFRESH_EVERY = 30
"""Iterations after which problems that still run get their exact curvature as preconditioner."""
REFRESH_BYTES = 2**28
CURVATURE_FLOOR = 1e-12
DIRECT_INVERSE_WIDTH = 64


@dataclass
class Batch:
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
        for name in ("index_A", "mask_A", "penalty_AV", "precondition_AV", "theta_AKV", "z_AKN", "gradient_AKV",
                     "y_AN", "weight_AN", "done_A"):  # fmt: skip
            setattr(self, name, getattr(self, name)[stay_A])
        self.history = [(s[stay_A], y[stay_A], rho[stay_A]) for s, y, rho in self.history]
        if self.whiten_AKVV is not None:
            self.whiten_AKVV = self.whiten_AKVV[stay_A]

    def precondition(self, q_AKV: Float) -> Float:
        """Apply the approximate inverse Hessian."""
        if self.whiten_AKVV is None:
            return q_AKV * self.precondition_AV[:, None]
        white_AKV1 = self.whiten_AKVV @ q_AKV[..., None]  # H^-1 = W^T W with H = L L^T, W = L^-1
        out = np.matmul(white_AKV1.swapaxes(2, 3), self.whiten_AKVV)[:, :, 0]
        return np.asarray(out - out.mean(axis=1, keepdims=True) if out.shape[1] > 1 else out)


def loss_terms(z_AKN: Float, y_AN: Int) -> Float:
    """Return the log-loss per problem and row.

    Args:
        z_AKN: Logits; one per row in binary problems, K symmetric ones otherwise.
        y_AN: Labels.

    Returns:
        Loss (A, N), in nats.
    """
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


def set_gradient(batch: Batch, features: Features) -> None:
    """Recompute the gradient from the logits."""
    residual_AKN = residuals(probabilities(batch.z_AKN), batch.y_AN, batch.weight_AN)
    batch.gradient_AKV = features.pull_back(residual_AKN, batch.mask_A)
    batch.gradient_AKV += batch.penalty_AV[:, None] * batch.theta_AKV


def direction(batch: Batch) -> Float:
    """Return the quasi-Newton direction (A, K, V) by the two-loop recursion (Nocedal & Wright, algorithm 7.4)."""
    q = batch.gradient_AKV.copy()
    alphas = []
    for step, change, rho_A in reversed(batch.history):
        alpha_A = rho_A * _dot(step, q)
        q -= alpha_A[:, None, None] * change
        alphas.append(alpha_A)
    q = batch.precondition(q)
    if batch.history:
        step, change, rho_A = batch.history[-1]
        scaled = _dot(change, batch.precondition(change))
        usable = (rho_A > 0) & (scaled > 0)
        gamma_A = np.where(usable, 1.0 / np.where(usable, rho_A * scaled, 1.0), 1.0)
        q *= gamma_A[:, None, None]
    for (step, change, rho_A), alpha_A in zip(batch.history, reversed(alphas), strict=True):
        q += (alpha_A - rho_A * _dot(change, q))[:, None, None] * step
    return -q


def step_lengths(batch: Batch, d_AKV: Float, dz_AKN: Float) -> Float:
    """Return near-exact step lengths by a safeguarded Newton iteration on the slope.

    Args:
        batch: The running problems.
        d_AKV: Directions.
        dz_AKN: Their logits.

    Returns:
        Step per problem; the objective is convex along the direction, so the slope brackets its minimum.
    """
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


def _slope_and_curvature(batch: Batch, dz_AKN: Float, t_A: Float, todo: Int) -> tuple[Float, Float]:
    """Return first and second derivative by step length of the weighted loss, for the problems ``todo``."""
    everything = len(todo) == len(t_A)
    z, dz = (batch.z_AKN, dz_AKN) if everything else (batch.z_AKN[todo], dz_AKN[todo])
    y, weight = (batch.y_AN, batch.weight_AN) if everything else (batch.y_AN[todo], batch.weight_AN[todo])
    p = probabilities(z + t_A[todo][:, None, None] * dz)
    slope = _dot(residuals(p, y, weight), dz)
    if z.shape[1] == 1:
        return slope, np.einsum("an,an,an->a", weight, p[:, 0] * (1.0 - p[:, 0]), dz[:, 0] ** 2)
    mean_AN = (p * dz).sum(axis=1)
    return slope, np.einsum("an,an->a", weight, (p * dz**2).sum(axis=1) - mean_AN**2)


def advance(batch: Batch, features: Features) -> None:
    """Take one L-BFGS step in every running problem."""
    d_AKV = direction(batch)
    uphill_A = _dot(d_AKV, batch.gradient_AKV) >= 0
    if uphill_A.any():
        d_AKV[uphill_A] = -batch.precondition(batch.gradient_AKV)[uphill_A]
    d_AKV[batch.done_A] = 0.0
    dz_AKN = features.logits(d_AKV, batch.mask_A)
    t_A = step_lengths(batch, d_AKV, dz_AKN)[:, None, None]
    before = batch.gradient_AKV
    d_AKV *= t_A
    batch.theta_AKV = batch.theta_AKV + d_AKV
    dz_AKN *= t_A
    batch.z_AKN += dz_AKN
    set_gradient(batch, features)
    change = batch.gradient_AKV - before
    curvature_A = _dot(d_AKV, change)
    rho_A = np.where(curvature_A > 0, 1.0 / np.where(curvature_A > 0, curvature_A, 1.0), 0.0)
    batch.history.append((d_AKV, change, rho_A))
    del batch.history[:-MEMORY]


def refresh(batch: Batch, features: Features) -> None:
    """Replace the preconditioner by the inverse of the Hessian's blocks at the present point, where they fit memory.

    Weak penalties on separable classes move far from the start, where the first preconditioner no longer fits.
    """
    n_problems, n_logits, width = batch.theta_AKV.shape
    if not features.small or n_problems * n_logits * width**2 * 8 > REFRESH_BYTES:
        return
    p_AKN = probabilities(batch.z_AKN)
    hessian_AKVV = features.curvature(p_AKN * (1.0 - p_AKN) * batch.weight_AN[:, None], batch.mask_A)
    diagonal = np.arange(width)
    hessian_AKVV[:, :, diagonal, diagonal] += batch.penalty_AV[:, None] + CURVATURE_FLOOR
    try:
        batch.whiten_AKVV = _inverse_of_lower(np.asarray(np.linalg.cholesky(hessian_AKVV), np.float64))
    except np.linalg.LinAlgError:  # singular up to rounding: any preconditioner serves, the one at hand too
        return
    batch.history.clear()


def _inverse_of_lower(l_AKVV: Float) -> Float:
    """Return the inverses of lower triangular matrices: halves joined by products, a quarter of a general inverse."""
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
