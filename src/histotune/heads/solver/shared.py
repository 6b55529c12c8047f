"""Many fits over one large matrix: all penalties, folds, class weightings and sets of columns share every pass.

First float32 products carry every problem as far as they can; then float64 products verify each gradient, and carry
on where that is not far enough.
"""

# N tiles, D columns, F masks, P problems, A problems of a batch (a some of them), K logits, C columns of a set,
# V = C + 1 coordinates with the bias last

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.solver.problems import FitSolution, keep_problems, log_odds
from histotune.heads.solver.shared_pass import Points, Values, evaluate
from histotune.heads.solver.stream import ArrayKit, RowStream, column, dot_host, two_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.heads.solver.problems import FitProblems, FitSettings
    from histotune.heads.solver.stream import Array, Precision

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


class SharedFit:
    """One batched fit.

    Args:
        x_ND: Raw columns, memory-mapped or not.
        y_N: Labels; ignored where no mask is positive.
        weight_FN: Sample weight per mask and row.
        problems: What to solve.
        settings: When to stop, and on which device.

    """

    def __init__(
        self, x_ND: NDArray[np.floating], y_N: Int, weight_FN: Float, problems: FitProblems, settings: FitSettings
    ) -> None:
        self._kit = ArrayKit(settings.device)
        self._problems, self._settings = problems, settings
        self._stream = RowStream(x_ND, y_N, weight_FN, self._kit)
        self._parked: list[SharedBatch] = []
        n_logits = 1 if problems.n_classes == 2 else problems.n_classes
        self._out = FitSolution.empty(len(problems.penalty_P), n_logits, x_ND.shape[1], len(weight_FN))
        self._out.mean_FD[:], self._out.std_FD[:] = self._stream.moments()

    def solution(self) -> FitSolution:
        """Solve all problems; the iterations of one are its evaluations."""
        settings, batches = self._settings, self._batches()
        before = self._stream.passes
        minimise(self._stream, batches, "float32", self._park, settings.max_iterations)
        self._parked += [batch for batch in batches if len(batch.index_A)]  # those that ran out of passes
        left = max(settings.max_iterations - (self._stream.passes - before), 0) + 1
        batches = _joined(self._kit, self._parked)
        minimise(self._stream, batches, "float64", self._finish, left)
        for batch in batches:
            self._note(batch, np.arange(len(batch.index_A)))
        return replace(self._out, passes=self._stream.passes - before)

    def _batches(self) -> list[SharedBatch]:
        """Start every problem at zero weights and the log-odds of its classes."""
        problems, stream = self._problems, self._stream
        sets = problems.columns or (np.arange(stream.n_columns),)
        set_P = problems.columns_index_P if problems.columns else np.zeros(len(problems.penalty_P), np.int64)
        assert set_P is not None
        share_FK = [stream.weight_FN @ (stream.y_N == label) for label in range(problems.n_classes)]
        bias_FK = log_odds(np.stack(share_FK, axis=1))
        correlation_DD = stream.covariance()
        out = []
        for number, columns in enumerate(sets):
            # The problems of a set, those of one mask side by side, from zero weights and their mask's log-odds.
            index_A = np.flatnonzero(set_P == number)
            index_A = index_A[np.argsort(problems.mask_index_P[index_A], kind="stable")]
            if not len(index_A):
                continue
            mask_A = np.asarray(problems.mask_index_P)[index_A]
            theta_AKV = np.zeros((len(index_A), bias_FK.shape[1], len(columns) + 1))
            theta_AKV[:, :, -1] = bias_FK[mask_A]
            out.append(
                SharedBatch(
                    index_A,
                    mask_A,
                    np.asarray(problems.penalty_P, np.float64)[index_A],
                    _runs(columns),
                    _basis(self._kit, correlation_DD, columns),
                    self._kit.array(theta_AKV),
                    evaluations_A=np.zeros(len(index_A), np.int64),
                )
            )
        return out

    def _norms(self, batch: SharedBatch) -> tuple[Float, Float]:
        """Return the norms of each problem's gradient and weights."""
        assert batch.values is not None
        arrays = (batch.values.gradient_AKV, batch.theta_AKV[:, :, :-1])
        norm_A, size_A = (np.sqrt(self._kit.host((array * array).sum(axis=(1, 2)))) for array in arrays)
        return norm_A, size_A

    def _bound(self, batch: SharedBatch, size_A: Float) -> Float:
        """Return the largest gradient norm that counts as converged."""
        strictness_A = np.sqrt(np.minimum(batch.penalty_A, 1.0))
        return np.asarray(self._settings.tolerance * strictness_A * np.maximum(1.0, size_A))

    def _stopped(self, batch: SharedBatch, precision: Precision) -> Int:
        """Return which problems are as good as the products' precision lets them become, or as was asked for."""
        # Rounding of the products leaves a gradient of about u sqrt(coordinates) x mean |p - y|, with u the unit
        # roundoff; below that, or after too many refusals, more passes are of no use.
        norm_A, size_A = self._norms(batch)
        assert batch.values is not None
        n_coordinates = batch.theta_AKV[0].numel() if not self._kit.is_numpy else batch.theta_AKV[0].size
        noise_A = ROUNDING[precision] * np.sqrt(n_coordinates) * batch.values.residual_A
        stopped_A = (norm_A <= np.maximum(self._bound(batch, size_A), noise_A)) | (
            batch.refused_A >= STALLED_AFTER[precision]
        )
        return np.flatnonzero(stopped_A | (batch.evaluations_A > self._settings.max_iterations))

    def _park(self, batch: SharedBatch) -> Int:
        """Set aside what float32 products have finished."""
        leaving_A = self._stopped(batch, "float32")
        if len(leaving_A):
            self._parked.append(batch.take(leaving_A))
        return leaving_A

    def _finish(self, batch: SharedBatch) -> Int:
        """Note what float64 products have finished."""
        leaving_A = self._stopped(batch, "float64")
        self._note(batch, leaving_A)
        return leaving_A

    def _note(self, batch: SharedBatch, which_A: Int) -> None:
        if not len(which_A) or batch.values is None:
            return
        # Back to raw columns: the stream shows (x - centre) scale, so a weight is v scale with v = w / divisor, and the
        # bias loses w . (mean / scale + centre).
        norm_A, size_A = self._norms(batch)
        index, stream, out = batch.index_A[which_A], self._stream, self._out
        out.objective_P[index], out.gradient_norm_P[index] = batch.values.objective_A[which_A], norm_A[which_A]
        out.converged_P[index] = (norm_A <= self._bound(batch, size_A))[which_A]
        out.weight_norm_P[index], out.iterations_P[index] = size_A[which_A], batch.evaluations_A[which_A]
        columns = np.concatenate([np.arange(run.start, run.stop) for run in batch.runs])
        theta_aKV = self._kit.host(batch.theta_AKV[which_A])
        v_aKC = theta_aKV[:, :, :-1] * stream.inverse(columns)[batch.mask_A[which_A]][:, None]
        weight_aKC = v_aKC * stream.scale_D[columns]
        shift_aC = (
            stream.mean_FD[batch.mask_A[which_A]][:, columns] / stream.scale_D[columns] + stream.centre_D[columns]
        )
        out.weight_PKD[index[:, None, None], np.arange(weight_aKC.shape[1])[:, None], columns] = weight_aKC
        out.bias_PK[index] = theta_aKV[:, :, -1] - np.einsum("akc,ac->ak", weight_aKC, shift_aC)


def _runs(columns: Int) -> tuple[slice, ...]:
    """Return ascending columns as consecutive runs."""
    edges = np.r_[0, 1 + np.flatnonzero(np.diff(columns) != 1), len(columns)]
    return tuple(slice(int(columns[low]), int(columns[high - 1]) + 1) for low, high in itertools.pairwise(edges))


def _basis(kit: ArrayKit, correlation_DD: Array, columns: Int) -> Basis:
    """Return the eigenbasis of a set's part of the correlations."""
    runs = _runs(columns)
    own_CC = correlation_DD[runs[0], runs[0]] if len(runs) == 1 else correlation_DD[columns][:, columns]
    eigen_C, vectors_CC = kit.eigh(own_CC)
    return Basis(eigen_C * (eigen_C > 0), vectors_CC)


def _joined(kit: ArrayKit, batches: Sequence[SharedBatch]) -> list[SharedBatch]:
    """Return one batch per set of columns, without what was known at the points."""
    sets: dict[tuple[tuple[int, int], ...], list[SharedBatch]] = {}
    for batch in batches:
        sets.setdefault(tuple((run.start, run.stop) for run in batch.runs), []).append(batch)
    out = []
    for parts in sets.values():
        # One after another, then sorted by mask, so that each mask's problems lie together again.
        index_A = np.concatenate([part.index_A for part in parts])
        mask_A = np.concatenate([part.mask_A for part in parts])
        order = np.argsort(mask_A, kind="stable")
        theta_AKV = kit.xp.concatenate([part.theta_AKV for part in parts])[order]
        out.append(
            SharedBatch(
                index_A[order],
                mask_A[order],
                np.concatenate([part.penalty_A for part in parts])[order],
                parts[0].runs,
                parts[0].basis,
                theta_AKV,
                evaluations_A=np.concatenate([part.evaluations_A for part in parts])[order],
            )
        )
    return out


# ------------------------------------------------------------------------------
# Batched L-BFGS, one fused pass over the rows per evaluation. Every pass evaluates one trial point of every running
# problem: a problem whose trial is accepted moves on, another one shortens its step, and a finished one leaves.
# Convexity makes the slope at the trial enough to judge it: short of the minimum along the line the objective has
# fallen for certain. The model starts from the eigenbasis of the shared correlation matrix C, in which c C + lambda I,
# with each problem's own present mean curvature c, is diagonal. Steps and gradients stay in plain standardised columns
# in float64, so the basis, computed once in float32, changes the path and never the solution


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
class SharedBatch:
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
            theta_AKV = theta_AKV + column(self.length_A, theta_AKV) * self.step_AKV
        return Points(theta_AKV, self.mask_A, self.penalty_A, self.runs)

    def take(self, stay_A: Int) -> SharedBatch:
        """Return a batch of some of the problems, without what it remembers of past steps."""
        return SharedBatch(
            self.index_A[stay_A],
            self.mask_A[stay_A],
            self.penalty_A[stay_A],
            self.runs,
            self.basis,
            self.theta_AKV[stay_A],
            evaluations_A=self.evaluations_A[stay_A],
        )

    def keep(self, stay_A: Int) -> None:
        """Drop the other problems."""
        assert self.values is not None
        self.values = self.values.take(stay_A)
        keep_problems(self, stay_A)


def minimise(
    stream: RowStream,
    batches: list[SharedBatch],
    precision: Precision,
    finished: Callable[[SharedBatch], Int],
    budget: int,
) -> None:
    """Advance batches until every problem has left."""
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


def _settle(kit: ArrayKit, batch: SharedBatch, found: Values, precision: Precision) -> None:
    """Accept or refuse the trials."""
    batch.evaluations_A = batch.evaluations_A + 1
    old = batch.values
    turned_AKV = _product(kit.cast(found.gradient_AKV, "float32"), batch.basis.vectors_CC)
    if old is None:
        n = len(batch.index_A)
        batch.values, batch.turned_AKV = found, turned_AKV
        batch.refused_A, batch.length_A, batch.slope_A = np.zeros(n, np.int64), np.ones(n), np.zeros(n)
        return
    # A trial is taken if the objective has not risen beyond rounding and the slope is not steeper upwards than before
    # downwards; a pair (s, y) enters the memory with rho = 1 / (s . y), and with 0 where it was refused.
    slope_A = kit.host(kit.dot(found.gradient_AKV, batch.step_AKV))
    fell_A = found.objective_A <= old.objective_A + SLACK[precision] * np.abs(old.objective_A)
    taken_A = fell_A & (slope_A <= OVERSHOOT * np.abs(batch.slope_A))
    length_A = np.where(taken_A, batch.length_A, 0.0)
    bend_A = length_A * (slope_A - batch.slope_A)
    rho_A = np.where(bend_A > 0, 1.0 / np.where(bend_A > 0, bend_A, 1.0), 0.0)
    turned_step_AKV = column(length_A, turned_AKV) * batch.turned_step_AKV
    batch.history.append((turned_step_AKV, turned_AKV - batch.turned_AKV, rho_A))
    del batch.history[:-MEMORY]
    batch.theta_AKV = batch.theta_AKV + column(length_A, batch.step_AKV) * batch.step_AKV
    batch.values = _merge(kit, taken_A, found, old)
    batch.turned_AKV = _where(kit, taken_A, turned_AKV, batch.turned_AKV)
    # Refused: the length at which the secant of the two slopes crosses zero, within fixed shares of the last one.
    shorter_A = np.clip(-batch.slope_A / np.maximum(slope_A - batch.slope_A, 1e-300), SHORTEST, LONGEST)
    batch.length_A = np.where(taken_A, 1.0, batch.length_A * shorter_A)
    batch.refused_A = np.where(taken_A, 0, batch.refused_A + 1)


def _merge(kit: ArrayKit, taken_A: Bool, new: Values, old: Values) -> Values:
    return Values(
        np.where(taken_A, new.objective_A, old.objective_A),
        _where(kit, taken_A, new.gradient_AKV, old.gradient_AKV),
        np.where(taken_A, new.curvature_A, old.curvature_A),
        np.where(taken_A, new.residual_A, old.residual_A),
    )


def _turn(kit: ArrayKit, batch: SharedBatch) -> None:
    """Give the problems that moved a new step."""
    values = batch.values
    assert values is not None
    moved_A = batch.refused_A == 0
    if not moved_A.any():
        return
    # Where rounding turns the direction uphill the preconditioned gradient takes its place; problems whose trial was
    # refused keep the direction and only shorten it.
    turned_AKV = two_loop(kit, batch.turned_AKV, batch.history, lambda q_AKV: _precondition(kit, batch, q_AKV))
    uphill_A = dot_host(kit, turned_AKV, batch.turned_AKV) >= 0
    if uphill_A.any():
        turned_AKV = _where(kit, uphill_A, -_precondition(kit, batch, batch.turned_AKV), turned_AKV)
    if not moved_A.all():
        turned_AKV = _where(kit, moved_A, turned_AKV, batch.turned_step_AKV)
    batch.turned_step_AKV = turned_AKV
    batch.step_AKV = kit.cast(_product(turned_AKV, batch.basis.vectors_CC.T), "float64")
    batch.slope_A = kit.host(kit.dot(values.gradient_AKV, batch.step_AKV))


def _precondition(kit: ArrayKit, batch: SharedBatch, q_AKV: Array) -> Array:
    """Divide by the model's diagonal, c e + lambda, and the bias by c."""
    assert batch.values is not None
    curvature_A = np.maximum(batch.values.curvature_A, LEAST_CURVATURE)
    c_A11 = kit.array(curvature_A, "float32")[:, None, None]
    out = q_AKV / c_A11
    out[:, :, :-1] = q_AKV[:, :, :-1] / (c_A11 * batch.basis.eigen_C + column(batch.penalty_A, q_AKV))
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
