"""Many fits over one large matrix: all penalties, folds, class weightings and sets of columns share every pass.

First float32 products carry every problem as far as they can; then float64 products verify each gradient, and carry
on where that is not far enough.
"""

# N tiles, D columns, F masks, P problems, K logits, C columns of a set, V = C + 1 coordinates with the bias last

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.arrays import ArrayKit
from histotune.heads.minimise import ROUNDING, STALLED_AFTER, Basis, Batch, minimise
from histotune.heads.solver.stream import RowStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.arrays import Array, Precision
    from histotune.heads.solver.problems import FitProblems, FitSettings

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


class SharedFit:
    """One batched fit.

    Args:
        x_ND: Raw columns, memory-mapped or not.
        y_N: Labels; ignored where no mask is positive.
        weight_FN: Sample weight per mask and row.
        problems: What to solve.
        settings: When to stop, and on which device.

    Attributes:
        weight_PKD: Weights on raw columns, zero outside a problem's set.
        bias_PK: Biases.
        objective_P: Mean loss plus penalty; float64.
        norm_P: Norm of the gradient, by float64 products.
        evaluations_P: Evaluations of each problem.
        converged_P: Whether the tolerance was met.
        size_P: Norm of the weights on standardised columns.
        passes: Evaluations of the batch: passes with a product forth and one back.
    """

    def __init__(
        self, x_ND: NDArray[np.floating], y_N: Int, weight_FN: Float, problems: FitProblems, settings: FitSettings
    ) -> None:
        self._kit = ArrayKit(settings.device)
        self._problems, self._settings = problems, settings
        self._stream = RowStream(x_ND, y_N, weight_FN, self._kit)
        self._parked: list[Batch] = []
        n_problems, binary = len(problems.penalty_P), problems.n_classes == 2
        n_logits = 1 if binary else problems.n_classes
        self.weight_PKD = np.zeros((n_problems, n_logits, x_ND.shape[1]))
        self.bias_PK = np.zeros((n_problems, n_logits))
        self.objective_P, self.norm_P, self.size_P = (np.zeros(n_problems) for _ in range(3))
        self.evaluations_P, self.converged_P = np.zeros(n_problems, np.int64), np.zeros(n_problems, bool)
        before = self._stream.passes
        batches = self._batches()
        before = self._stream.passes
        minimise(self._stream, batches, "float32", self._park, settings.max_iterations)
        self._parked += [batch for batch in batches if len(batch.index_A)]  # those that ran out of passes
        left = max(settings.max_iterations - (self._stream.passes - before), 0) + 1
        batches = _joined(self._kit, self._parked)
        minimise(self._stream, batches, "float64", self._finish, left)
        for batch in batches:
            self._note(batch, np.arange(len(batch.index_A)))
        self.passes = self._stream.passes - before

    def _batches(self) -> list[Batch]:
        """Start every problem at zero weights and the log-odds of its classes."""
        problems, stream = self._problems, self._stream
        sets = problems.columns or (np.arange(stream.n_columns),)
        set_P = problems.columns_index_P if problems.columns else np.zeros(len(problems.penalty_P), np.int64)
        assert set_P is not None
        bias_FK = self._log_odds()
        correlation_DD = stream.covariance()
        out = []
        for number, columns in enumerate(sets):
            index_A = np.flatnonzero(set_P == number)
            index_A = index_A[np.argsort(problems.mask_index_P[index_A], kind="stable")]
            if not len(index_A):
                continue
            mask_A = np.asarray(problems.mask_index_P)[index_A]
            theta_AKV = np.zeros((len(index_A), bias_FK.shape[1], len(columns) + 1))
            theta_AKV[:, :, -1] = bias_FK[mask_A]
            out.append(Batch(index_A, mask_A, np.asarray(problems.penalty_P, np.float64)[index_A], _runs(columns),
                             _basis(self._kit, correlation_DD, columns), self._kit.array(theta_AKV),
                             evaluations_A=np.zeros(len(index_A), np.int64)))  # fmt: skip
        return out

    def _log_odds(self) -> Float:
        """Return the biases at which each mask's mean probabilities are its classes' frequencies."""
        weight_FN, y_N, n_classes = self._stream.weight_FN, self._stream.y_N, self._problems.n_classes
        share_FK = np.stack([weight_FN @ (y_N == label) for label in range(n_classes)], axis=1)
        odds_FK = np.log(np.maximum(share_FK, 1e-12))
        return np.asarray(
            odds_FK[:, 1:] - odds_FK[:, :1] if n_classes == 2 else odds_FK - odds_FK.mean(axis=1, keepdims=True)
        )

    def _norms(self, batch: Batch) -> tuple[Float, Float]:
        """Return the norms of each problem's gradient and weights."""
        assert batch.values is not None
        arrays = (batch.values.gradient_AKV, batch.theta_AKV[:, :, :-1])
        norm_A, size_A = (np.sqrt(self._kit.host((array * array).sum(axis=(1, 2)))) for array in arrays)
        return norm_A, size_A

    def _bound(self, batch: Batch, size_A: Float) -> Float:
        """Return the largest gradient norm that counts as converged."""
        strictness_A = np.sqrt(np.minimum(batch.penalty_A, 1.0))
        return np.asarray(self._settings.tolerance * strictness_A * np.maximum(1.0, size_A))

    def _stopped(self, batch: Batch, precision: Precision) -> Int:
        """Return which problems are as good as the products' precision lets them become, or as was asked for."""
        norm_A, size_A = self._norms(batch)
        assert batch.values is not None
        n_coordinates = batch.theta_AKV[0].numel() if not self._kit.is_numpy else batch.theta_AKV[0].size
        noise_A = ROUNDING[precision] * np.sqrt(n_coordinates) * batch.values.residual_A
        stopped_A = (norm_A <= np.maximum(self._bound(batch, size_A), noise_A)) | (
            batch.refused_A >= STALLED_AFTER[precision]
        )
        return np.flatnonzero(stopped_A | (batch.evaluations_A > self._settings.max_iterations))

    def _park(self, batch: Batch) -> Int:
        """Set aside what float32 products have finished."""
        leaving_A = self._stopped(batch, "float32")
        if len(leaving_A):
            self._parked.append(batch.take(leaving_A))
        return leaving_A

    def _finish(self, batch: Batch) -> Int:
        """Note what float64 products have finished."""
        leaving_A = self._stopped(batch, "float64")
        self._note(batch, leaving_A)
        return leaving_A

    def _note(self, batch: Batch, which_A: Int) -> None:
        if not len(which_A) or batch.values is None:
            return
        norm_A, size_A = self._norms(batch)
        index, stream = batch.index_A[which_A], self._stream
        self.objective_P[index], self.norm_P[index] = batch.values.objective_A[which_A], norm_A[which_A]
        self.converged_P[index] = (norm_A <= self._bound(batch, size_A))[which_A]
        self.size_P[index] = size_A[which_A]
        self.evaluations_P[index] = batch.evaluations_A[which_A]
        columns = np.concatenate([np.arange(run.start, run.stop) for run in batch.runs])
        theta_aKV = self._kit.host(batch.theta_AKV[which_A])
        v_aKC = theta_aKV[:, :, :-1] * stream.inverse_FD[batch.mask_A[which_A]][:, None, columns]
        weight_aKC = v_aKC * stream.scale_D[columns]
        shift_aC = (
            stream.mean_FD[batch.mask_A[which_A]][:, columns] / stream.scale_D[columns] + stream.centre_D[columns]
        )
        self.weight_PKD[index[:, None, None], np.arange(weight_aKC.shape[1])[:, None], columns] = weight_aKC
        self.bias_PK[index] = theta_aKV[:, :, -1] - np.einsum("akc,ac->ak", weight_aKC, shift_aC)


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


def _joined(kit: ArrayKit, batches: Sequence[Batch]) -> list[Batch]:
    """Return one batch per set of columns, without what was known at the points."""
    sets: dict[tuple[tuple[int, int], ...], list[Batch]] = {}
    for batch in batches:
        sets.setdefault(tuple((run.start, run.stop) for run in batch.runs), []).append(batch)
    out = []
    for parts in sets.values():
        index_A = np.concatenate([part.index_A for part in parts])
        mask_A = np.concatenate([part.mask_A for part in parts])
        order = np.argsort(mask_A, kind="stable")
        theta_AKV = kit.xp.concatenate([part.theta_AKV for part in parts])[order]
        out.append(Batch(index_A[order], mask_A[order], np.concatenate([part.penalty_A for part in parts])[order],
                         parts[0].runs, parts[0].basis, theta_AKV,
                         evaluations_A=np.concatenate([part.evaluations_A for part in parts])[order]))  # fmt: skip
    return out
