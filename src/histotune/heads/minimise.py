"""Batched L-BFGS that needs one fused pass over the rows per evaluation, for any number of problems.

Every pass evaluates one trial point of every running problem. A problem whose trial is accepted moves on, another one
shortens its step for the next pass, and a finished one leaves. Convexity makes the slope at the trial enough to judge
it: short of the minimum along the line the objective has fallen for certain.

The quasi-Newton model starts from the eigenbasis of the shared correlation matrix, in which c C + lambda I, with each
problem's own present mean curvature c, is diagonal. Steps and gradients stay in plain standardised columns in float64,
so the basis, computed once in float32 over all rows, changes the path and never the solution.
"""

# A problems of a batch, K logits, C columns, V = C + 1 coordinates with the bias last, M remembered steps

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.evaluation import Points, Values, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from histotune.heads.arrays import Array, ArrayKit, Precision
    from histotune.heads.solver.stream import RowStream

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

MEMORY = 20
OVERSHOOT = 0.9
"""A trial beyond the minimum is accepted if its slope is at most this fraction of the slope at the start."""
SHORTEST, LONGEST = 0.1, 0.7
SLACK = {"float32": 1e-6, "float64": 1e-12}
"""Relative rise of the objective that passes for rounding."""
STALLED_AFTER = {"float32": 4, "float64": 12}
"""Trials in a row that were refused, after which rounding is what stands in the way."""
LEAST_CURVATURE = 1e-6
ROUNDING = {"float32": 2.0**-24, "float64": 2.0**-53}


@dataclass(frozen=True)
class Basis:
    """Eigenbasis of the correlations of one set of columns.

    Attributes:
        eigen_C: Eigenvalues; float32, on the device.
        vectors_CC: Eigenvectors, one per column.
    """

    eigen_C: Array
    vectors_CC: Array


@dataclass
class Batch:
    """The running problems over one set of columns; entry i of every array belongs to one problem.

    Attributes:
        index_A: Problem numbers.
        mask_A: Masks.
        penalty_A: L2 penalties.
        runs: The set of columns.
        basis: Its eigenbasis.
        theta_AKV: Present points; float64, on the device.
        values: What is known there; None before the first pass.
        turned_AKV: Gradients there in the eigenbasis; float32.
        turned_step_AKV: Steps under trial, of length 1, in the eigenbasis; float32.
        step_AKV: The same steps in columns; float64.
        length_A: Their lengths.
        slope_A: Slopes along them at the present points.
        refused_A: Trials refused since the last move.
        evaluations_A: Evaluations so far.
        history: Steps, changes of the gradient (both float32 in the eigenbasis) and 1 / (step . change), oldest first.
    """

    index_A: Int
    mask_A: Int
    penalty_A: Float
    runs: tuple[slice, ...]
    basis: Basis
    theta_AKV: Array
    values: Values | None = None
    turned_AKV: Array = None
    turned_step_AKV: Array = None
    step_AKV: Array = None
    length_A: Float = field(default_factory=lambda: np.empty(0))
    slope_A: Float = field(default_factory=lambda: np.empty(0))
    refused_A: Int = field(default_factory=lambda: np.empty(0, np.int64))
    evaluations_A: Int = field(default_factory=lambda: np.empty(0, np.int64))
    history: list[tuple[Array, Array, Float]] = field(default_factory=list)

    def trial(self) -> Points:
        """Return the points to evaluate next."""
        theta_AKV = self.theta_AKV
        if self.values is not None:
            theta_AKV = theta_AKV + _column(self.length_A, theta_AKV) * self.step_AKV
        return Points(theta_AKV, self.mask_A, self.penalty_A, self.runs)

    def take(self, stay_A: Int) -> Batch:
        """Return a batch of some of the problems, without what it remembers of past steps."""
        return Batch(self.index_A[stay_A], self.mask_A[stay_A], self.penalty_A[stay_A], self.runs, self.basis,
                     self.theta_AKV[stay_A], evaluations_A=self.evaluations_A[stay_A])  # fmt: skip

    def keep(self, stay_A: Int) -> None:
        """Drop the other problems."""
        for name in ("index_A", "mask_A", "penalty_A", "theta_AKV", "turned_AKV", "turned_step_AKV",
                     "step_AKV", "length_A", "slope_A", "refused_A", "evaluations_A"):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[stay_A])
        assert self.values is not None
        old = self.values
        self.values = Values(old.objective_A[stay_A], old.gradient_AKV[stay_A], old.curvature_A[stay_A],
                             old.residual_A[stay_A])  # fmt: skip
        self.history = [(s[stay_A], y[stay_A], rho[stay_A]) for s, y, rho in self.history]


def minimise(
    stream: RowStream, batches: list[Batch], precision: Precision, finished: Callable[[Batch], Int], budget: int
) -> None:
    """Advance batches until every problem has left.

    Args:
        stream: The rows.
        batches: Problems, one batch per set of columns; emptied on the way.
        precision: Of the products.
        finished: Called after every pass; notes and returns which problems of a batch leave.
        budget: Passes after which the loop ends, whatever still runs.
    """
    running = [batch for batch in batches if len(batch.index_A)]
    while running and budget:
        budget -= 1
        n_logits = running[0].theta_AKV.shape[1]
        found = evaluate(stream, [batch.trial() for batch in running], n_logits, precision)
        for batch, values in zip(running, found, strict=True):
            _settle(stream.kit, batch, values, precision)
            leaving_A = finished(batch)
            if len(leaving_A):
                batch.keep(np.setdiff1d(np.arange(len(batch.index_A)), leaving_A))
            if len(batch.index_A):
                _turn(stream.kit, batch)
        running = [batch for batch in running if len(batch.index_A)]


def _settle(kit: ArrayKit, batch: Batch, found: Values, precision: Precision) -> None:
    """Accept or refuse the trials."""
    batch.evaluations_A = batch.evaluations_A + 1
    old = batch.values
    turned_AKV = _product(kit.cast(found.gradient_AKV, "float32"), batch.basis.vectors_CC)
    if old is None:
        n = len(batch.index_A)
        batch.values, batch.turned_AKV = found, turned_AKV
        batch.refused_A, batch.length_A, batch.slope_A = np.zeros(n, np.int64), np.ones(n), np.zeros(n)
        return
    slope_A = kit.host(kit.dot(found.gradient_AKV, batch.step_AKV))
    fell_A = found.objective_A <= old.objective_A + SLACK[precision] * np.abs(old.objective_A)
    taken_A = fell_A & (slope_A <= OVERSHOOT * np.abs(batch.slope_A))
    length_A = np.where(taken_A, batch.length_A, 0.0)
    bend_A = length_A * (slope_A - batch.slope_A)
    rho_A = np.where(bend_A > 0, 1.0 / np.where(bend_A > 0, bend_A, 1.0), 0.0)
    turned_step_AKV = _column(length_A, turned_AKV) * batch.turned_step_AKV
    batch.history.append((turned_step_AKV, turned_AKV - batch.turned_AKV, rho_A))
    del batch.history[:-MEMORY]
    batch.theta_AKV = batch.theta_AKV + _column(length_A, batch.step_AKV) * batch.step_AKV
    batch.values = _merge(kit, taken_A, found, old)
    batch.turned_AKV = _where(kit, taken_A, turned_AKV, batch.turned_AKV)
    shorter_A = np.clip(-batch.slope_A / np.maximum(slope_A - batch.slope_A, 1e-300), SHORTEST, LONGEST)
    batch.length_A = np.where(taken_A, 1.0, batch.length_A * shorter_A)
    batch.refused_A = np.where(taken_A, 0, batch.refused_A + 1)


def _merge(kit: ArrayKit, taken_A: Bool, new: Values, old: Values) -> Values:
    return Values(
        np.where(taken_A, new.objective_A, old.objective_A),
        _where(kit, taken_A, new.gradient_AKV, old.gradient_AKV),
        np.where(taken_A, new.curvature_A, old.curvature_A), np.where(taken_A, new.residual_A, old.residual_A),
    )  # fmt: skip


def _turn(kit: ArrayKit, batch: Batch) -> None:
    """Give the problems that moved a new step."""
    values = batch.values
    assert values is not None
    moved_A = batch.refused_A == 0
    if not moved_A.any():
        return
    turned_AKV = _direction(kit, batch)
    uphill_A = _dot(kit, turned_AKV, batch.turned_AKV) >= 0
    if uphill_A.any():
        turned_AKV = _where(kit, uphill_A, -_precondition(kit, batch, batch.turned_AKV), turned_AKV)
    if not moved_A.all():
        turned_AKV = _where(kit, moved_A, turned_AKV, batch.turned_step_AKV)
    batch.turned_step_AKV = turned_AKV
    batch.step_AKV = kit.cast(_product(turned_AKV, batch.basis.vectors_CC.T), "float64")
    batch.slope_A = kit.host(kit.dot(values.gradient_AKV, batch.step_AKV))


def _direction(kit: ArrayKit, batch: Batch) -> Array:
    """Return the quasi-Newton direction by the two-loop recursion (Nocedal & Wright, algorithm 7.4)."""
    q_AKV = batch.turned_AKV * 1.0
    alphas = []
    for step, change, rho_A in reversed(batch.history):
        alpha_A = rho_A * _dot(kit, step, q_AKV)
        q_AKV -= _column(alpha_A, q_AKV) * change
        alphas.append(alpha_A)
    q_AKV = _precondition(kit, batch, q_AKV)
    if batch.history:
        _, change, rho_A = batch.history[-1]
        scaled_A = rho_A * _dot(kit, change, _precondition(kit, batch, change))
        q_AKV *= _column(np.where(scaled_A > 0, 1.0 / np.where(scaled_A > 0, scaled_A, 1.0), 1.0), q_AKV)
    for (step, change, rho_A), alpha_A in zip(batch.history, reversed(alphas), strict=True):
        q_AKV += _column(alpha_A - rho_A * _dot(kit, change, q_AKV), q_AKV) * step
    return -q_AKV


def _precondition(kit: ArrayKit, batch: Batch, q_AKV: Array) -> Array:
    """Divide by the model's diagonal, c e + lambda, and the bias by c."""
    assert batch.values is not None
    curvature_A = np.maximum(batch.values.curvature_A, LEAST_CURVATURE)
    c_A11 = kit.array(curvature_A, "float32")[:, None, None]
    out = q_AKV / c_A11
    out[:, :, :-1] = q_AKV[:, :, :-1] / (c_A11 * batch.basis.eigen_C + _column(batch.penalty_A, q_AKV))
    return out


def _product(values_AKV: Array, matrix_CC: Array) -> Array:
    """Apply a matrix to the weights and leave the biases."""
    n_problems, n_logits, width = values_AKV.shape
    out = values_AKV * 1.0
    flat = values_AKV[:, :, :-1].reshape(n_problems * n_logits, width - 1)
    out[:, :, :-1] = (flat @ matrix_CC).reshape(n_problems, n_logits, width - 1)
    return out


def _where(kit: ArrayKit, which_A: Bool, yes_AKV: Array, no_AKV: Array) -> Array:
    """Choose per problem."""
    return yes_AKV if which_A.all() else kit.xp.where(kit.array(which_A)[:, None, None], yes_AKV, no_AKV)


def _column(values_A: Float, like_AKV: Array) -> Array:
    """Return one value per problem, to multiply an array with."""
    shaped = values_A[:, None, None]
    if isinstance(like_AKV, np.ndarray):
        return shaped.astype(like_AKV.dtype)
    return like_AKV.new_tensor(shaped)


def _dot(kit: ArrayKit, a_AKV: Array, b_AKV: Array) -> Float:
    """Return the inner product per problem."""
    return kit.host(kit.dot(a_AKV, b_AKV)).astype(np.float64)
