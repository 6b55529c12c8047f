"""Loss and gradient of many penalised linear models in one pass over shared rows."""

# A problems of a batch (a those that a block's rows train, j = a K), K logits (1 in binary problems), N rows, n rows of
# a block, D columns of the stream, C columns of a batch, V = C + 1 coordinates with the bias last, F masks

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.solver.stream import Array, ArrayKit, Block, Precision, RowStream

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """Where problems over one set of columns are evaluated.

    Attributes:
        theta_AKV: Weights on standardised columns and biases; float64, on the device.
        mask_A: Mask of each problem.
        penalty_A: L2 penalty of each problem.
        runs: The set of columns, as consecutive runs.
    """

    theta_AKV: Array
    mask_A: Int
    penalty_A: Float
    runs: tuple[slice, ...]


@dataclass(frozen=True)
class Values:
    """What a pass found.

    Attributes:
        objective_A: Mean loss plus penalty.
        gradient_AKV: Gradient of the objective; float64, on the device.
        curvature_A: Mean over rows and logits of p (1 - p).
        residual_A: Mean over rows and logits of |p - y|.
    """

    objective_A: Float
    gradient_AKV: Array
    curvature_A: Float
    residual_A: Float

    def take(self, stay_A: Int) -> Values:
        """Return what is known of some of the problems."""
        return Values(
            self.objective_A[stay_A], self.gradient_AKV[stay_A], self.curvature_A[stay_A], self.residual_A[stay_A]
        )


def evaluate(stream: RowStream, batches: Sequence[Points], n_logits: int, precision: Precision) -> list[Values]:
    """Evaluate all points in one pass; sums over blocks are kept in float64 whatever the products' precision."""
    targets = _Targets(stream, n_logits, precision)
    sums = [_Sums(stream, points, precision) for points in batches]
    for block, x_nD in stream.blocks(precision):
        for one in sums:
            one.add(block, x_nD, targets)
    return [one.values() for one in sums]


class _Targets:
    """Labels and weights of all rows, in the precision of a pass."""

    def __init__(self, stream: RowStream, n_logits: int, precision: Precision) -> None:
        self.kit = stream.kit
        self.weight_FN = self.kit.array(stream.weight_FN, precision)
        signs = 2.0 * (stream.y_N[None] == np.arange(n_logits)[:, None] + (n_logits == 1)) - 1.0
        self.sign_KN = self.kit.array(signs, precision)

    def derivatives(self, z_AKn: Array, weight_An: Array, part: slice) -> tuple[Array, Array, Array, Array]:
        """Return loss (A,), weighted residual (A, K, n), curvature (A,) and mean absolute residual (A,)."""
        sign_Kn = self.sign_KN[:, part]
        return (_binary if len(sign_Kn) == 1 else _softmax)(self.kit, z_AKn, weight_An, sign_Kn)


def _binary(kit: ArrayKit, z_A1n: Array, weight_An: Array, sign_1n: Array) -> tuple[Array, Array, Array, Array]:
    # With margin m = z or -z towards the label and e = exp(-|m|): loss = log(1 + e) + (|m| - m) / 2, probability of the
    # other class q = (e if m > 0 else 1) / (1 + e); the residual is -sign q, the curvature q (1 - q) = q - q^2.
    xp = kit.xp
    margin_An = z_A1n[:, 0] * sign_1n
    size_An = xp.abs(margin_An)
    e_An = xp.exp(-size_An)
    total_An = 1.0 + e_An
    wrong_An = xp.where(margin_An > 0, e_An, 1.0) / total_An  # probability of the other class
    loss_An = xp.log(total_An)
    size_An -= margin_An
    size_An *= 0.5
    loss_An += size_An
    weighted_An = weight_An * wrong_An
    residual_A = weighted_An.sum(axis=1)
    curvature_A = residual_A - kit.dot(weighted_An, wrong_An)
    weighted_An *= -sign_1n
    return kit.dot(weight_An, loss_An), weighted_An[:, None], curvature_A, residual_A


def _softmax(kit: ArrayKit, z_AKn: Array, weight_An: Array, sign_Kn: Array) -> tuple[Array, Array, Array, Array]:
    # With z shifted so that its largest is 0: loss = log sum exp z - z_y, residual = p - hit; curvature p - p^2 and
    # |residual| are means over the logits.
    xp = kit.xp
    hit_Kn = 0.5 * (sign_Kn + 1.0)
    z_AKn = z_AKn - xp.amax(z_AKn, axis=1)[:, None]
    p_AKn = xp.exp(z_AKn)
    total_An = p_AKn.sum(axis=1)
    p_AKn /= total_An[:, None]
    loss_An = xp.log(total_An) - (z_AKn * hit_Kn).sum(axis=1)
    weighted_AKn = weight_An[:, None] * p_AKn
    curvature_A = (weighted_AKn - weighted_AKn * p_AKn).sum(axis=(1, 2)) / len(hit_Kn)
    weighted_AKn -= weight_An[:, None] * hit_Kn
    residual_A = xp.abs(weighted_AKn).sum(axis=(1, 2)) / len(hit_Kn)
    return kit.dot(weight_An, loss_An), weighted_AKn, curvature_A, residual_A


class _Sums:
    """What one batch adds up during a pass."""

    def __init__(self, stream: RowStream, points: Points, precision: Precision) -> None:
        self.kit, self.points = stream.kit, points
        # z = sum_c w_c (x_c - mean_c) / s_c + b is the product of x with v = w / s, plus the offset b - v . mean:
        # each mask's own standardisation costs no pass of its own.
        columns = np.concatenate([np.arange(run.start, run.stop) for run in points.runs])
        self.mean_FC = stream.kit.array(stream.mean_FD[:, columns], "float64")
        self.inverse_FC = stream.kit.array(stream.inverse(columns), "float64")
        theta_AKV, mask_A = points.theta_AKV, points.mask_A
        self.shape = tuple(theta_AKV.shape)
        v_AKC = theta_AKV[:, :, :-1] * self.inverse_FC[mask_A][:, None]
        offset_AK = theta_AKV[:, :, -1] - _along(self.kit, v_AKC, self.mean_FC[mask_A])
        self.v_AKC = self.kit.cast(v_AKC, precision)
        self.offset_AK1 = self.kit.cast(offset_AK, precision)[:, :, None]
        n_problems, n_logits, width = self.shape
        self.gradient_AKC = self.kit.zeros((n_problems, n_logits, width - 1), "float64")
        self.total_AK = self.kit.zeros((n_problems, n_logits), "float64")
        self.scalars_3A = self.kit.zeros((3, n_problems), "float64")

    def add(self, block: Block, x_nD: Array, targets: _Targets) -> None:
        """Add a block's rows; problems whose mask uses none of them are passed over."""
        kit, mask_A = self.kit, self.points.mask_A
        which = slice(None) if block.masks.all() else np.flatnonzero(block.masks[mask_A])
        v_aKC = self.v_AKC[which]
        if not len(v_aKC):
            return
        # All problems and logits are rows of one product forth per run of columns, and of one product back.
        n_problems, n_logits, width = v_aKC.shape
        v_jC = v_aKC.reshape(n_problems * n_logits, width)
        pieces, first, z_jn = [], 0, None
        for run in self.points.runs:
            columns = slice(first, first + run.stop - run.start)
            part = v_jC[:, columns] @ x_nD[:, run].T
            z_jn = part if z_jn is None else z_jn + part
            pieces.append((run, columns))
            first = columns.stop
        assert z_jn is not None
        z_aKn = z_jn.reshape(n_problems, n_logits, len(x_nD))
        z_aKn += self.offset_AK1[which]
        weight_an = targets.weight_FN[:, block.part][mask_A[which]]
        loss_a, residual_aKn, curvature_a, size_a = targets.derivatives(z_aKn, weight_an, block.part)
        for row, values in zip(self.scalars_3A, (loss_a, curvature_a, size_a), strict=True):
            row[which] += values
        self.total_AK[which] += kit.cast(residual_aKn.sum(axis=2), "float64")
        residual_jn = residual_aKn.reshape(n_problems * n_logits, len(x_nD))
        for run, columns in pieces:
            product = (residual_jn @ x_nD[:, run]).reshape(n_problems, n_logits, -1)
            self.gradient_AKC[which, :, columns] += product

    def values(self) -> Values:
        """Return the finished sums in coordinates of standardised columns."""
        # By w_c: (sum r x_c - mean_c sum r) / s_c + penalty w_c; by b: sum r. Objective: mean loss + penalty / 2
        # |w|^2.
        kit, points = self.kit, self.points
        gradient_AKV = kit.zeros(self.shape, "float64")
        self.gradient_AKC -= self.total_AK[:, :, None] * self.mean_FC[points.mask_A][:, None]
        self.gradient_AKC *= self.inverse_FC[points.mask_A][:, None]
        penalty_A = kit.array(points.penalty_A, "float64")
        weight_AKC = points.theta_AKV[:, :, :-1]
        self.gradient_AKC += penalty_A[:, None, None] * weight_AKC
        gradient_AKV[:, :, :-1] = self.gradient_AKC
        gradient_AKV[:, :, -1] = self.total_AK
        loss_A, curvature_A, residual_A = (kit.host(row).copy() for row in self.scalars_3A)
        squares_A = kit.host(kit.dot(weight_AKC, weight_AKC))
        return Values(loss_A + 0.5 * points.penalty_A * squares_A, gradient_AKV, curvature_A, residual_A)


def _along(kit: ArrayKit, v_AKC: Array, mean_AC: Array) -> Array:
    """Return the inner product of each problem's weights and its columns' means."""
    return (v_AKC @ mean_AC[:, :, None])[:, :, 0]
