"""Coordinates in which many penalised linear models are cheap: every fold's exact standardisation, one shared matrix.

Each problem is solved in coordinates u with w_z = B u for an orthonormal B, so |w_z| = |u| and the penalty is exact.
B holds the eigenvectors of the standardised training covariance, where the Hessian at u = 0 is diagonal. With fewer
tiles than columns B comes from the n x n Gram matrix of each training set, otherwise one decomposition of the pooled
covariance serves all: it is the preconditioner, so it changes the path and never the solution.
"""

# N tiles (rows), D columns, F training masks, A active problems, K logits per problem, R coordinates,
# V = R + 1 coordinates with the bias last

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.solver.problems import divisors, is_constant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


SMALL_CURVATURE = 50_000_000
"""Up to this many products (rows x columns^2) a problem's exact curvature costs less than the iterations it saves."""
COVARIANCE_ROWS_PER_COLUMN = 4
NULL_EIGENVALUE = 1e-13


@dataclass(frozen=True)
class Standardisation:
    """Weighted mean per column, its standard deviation (0 where it is constant), and what it is divided by."""

    mean_D: Float
    std_D: Float
    scale_D: Float


def is_small(n_rows: int, n_columns: int, n_masks: int) -> bool:
    """Return whether problems are solved in float64 with exact curvature where it helps."""
    return _gram_is_cheap(n_rows, n_columns, n_masks) or n_rows * n_columns**2 <= SMALL_CURVATURE


def _gram_is_cheap(n_rows: int, n_columns: int, n_masks: int) -> bool:
    return n_rows <= n_columns and n_masks * n_rows**3 <= 3 * n_columns**3


def make_coordinates(x_ND: NDArray[np.floating], y_N: Int, weight_FN: Float) -> GramCoordinates | SharedCoordinates:
    """Choose the cheaper coordinates."""
    weight_FN = weight_FN / weight_FN.sum(axis=1, keepdims=True)
    n_masks, n_columns = len(weight_FN), x_ND.shape[1]
    n_rows = int((weight_FN > 0).sum(axis=1).max())
    if _gram_is_cheap(n_rows, n_columns, n_masks):
        return GramCoordinates(x_ND, y_N, weight_FN)
    return SharedCoordinates(x_ND, y_N, weight_FN)


class GramCoordinates:
    """Per-mask coordinates in the span of the training rows (n < D): exact, and the Hessian at 0 is diagonal."""

    small = True

    def __init__(self, x_ND: NDArray[np.floating], y_N: Int, weight_FN: Float) -> None:
        # Masks have different numbers of rows: all arrays are padded with zeros to the largest, rows behind,
        # coordinates in front, and padded rows have weight 0.
        self.x_ND = x_ND
        self.rows_F = [np.flatnonzero(weight_N > 0) for weight_N in weight_FN]
        n_masks, n_max = len(weight_FN), max(len(rows) for rows in self.rows_F)
        self.y_FN = np.zeros((n_masks, n_max), np.int64)
        self.weight_FN = np.zeros((n_masks, n_max))
        self.curvature_FR = np.zeros((n_masks, n_max))
        self.phi_FNV = np.zeros((n_masks, n_max, n_max + 1))
        self.basis_FNR = np.zeros((n_masks, n_max, n_max))
        self.standard_F: list[Standardisation] = []
        for mask, rows in enumerate(self.rows_F):
            self._fill(mask, rows, y_N[rows], weight_FN[mask, rows])
        n_coordinates = int(np.count_nonzero(self.curvature_FR, axis=1).max()) or 1
        keep = np.r_[np.arange(n_max - n_coordinates, n_max)]  # eigenvalues ascend, so the null ones lead
        self.curvature_FR = np.ascontiguousarray(self.curvature_FR[:, keep])
        self.basis_FNR = np.ascontiguousarray(self.basis_FNR[:, :, keep])
        self.phi_FNV = np.ascontiguousarray(self.phi_FNV[:, :, np.r_[keep, n_max]])

    def _fill(self, mask: int, rows: Int, y_n: Int, weight_n: Float) -> None:
        """Decompose one mask: sqrt(S) Z Zt sqrt(S) = Q L Qt gives coordinates S^-1/2 Q L^1/2 of covariance L."""
        # phi holds the coordinates of every row, phi phi^t = Z Z^t; basis gives back the dual weights a = S^1/2 Q
        # L^-1/2 u with w_z = Z^t a. Eigenvalues of rounding size count as 0, and their coordinates are 0 as well.
        z_nD, standard = _standardise(self.x_ND[rows].astype(np.float64), weight_n)
        self.standard_F.append(standard)
        root_n = np.sqrt(weight_n)
        z_nD *= root_n[:, None]
        eigen_r, q_nr = np.linalg.eigh(z_nD @ z_nD.T)
        eigen_r = np.where(eigen_r > NULL_EIGENVALUE * max(eigen_r[-1], 0.0), eigen_r, 0.0)
        scale_r = np.sqrt(eigen_r)
        inverse_r = np.divide(1.0, scale_r, out=np.zeros_like(scale_r), where=scale_r > 0)
        n, n_max = len(rows), self.phi_FNV.shape[1]
        self.y_FN[mask, :n], self.weight_FN[mask, :n] = y_n, weight_n
        self.curvature_FR[mask, n_max - n :] = eigen_r
        self.phi_FNV[mask, :n, n_max - n : n_max] = q_nr * scale_r / root_n[:, None]
        self.phi_FNV[mask, :n, n_max] = 1.0
        self.basis_FNR[mask, :n, n_max - n :] = q_nr * inverse_r * root_n[:, None]

    def moments(self) -> tuple[Float, Float]:
        """Return each mask's mean and SD of raw columns."""
        return np.stack([one.mean_D for one in self.standard_F]), np.stack([one.std_D for one in self.standard_F])

    def logits(self, theta_AKV: Float, mask_A: Int) -> Float:
        """Return logits (A, K, N) of each problem on its mask's rows."""
        n_problems, n_logits, _ = theta_AKV.shape
        out = np.empty((n_problems, n_logits, self.y_FN.shape[1]))
        for mask, part in _runs(mask_A):
            out[part] = _flat_product(theta_AKV[part], self.phi_FNV[mask].T)
        return out

    def pull_back(self, residual_AKN: Float, mask_A: Int) -> Float:
        """Return the gradient (A, K, V) of a loss whose derivative by logit is given."""
        n_problems, n_logits, _ = residual_AKN.shape
        out = np.empty((n_problems, n_logits, self.phi_FNV.shape[2]))
        for mask, part in _runs(mask_A):
            out[part] = _flat_product(residual_AKN[part], self.phi_FNV[mask])
        return out

    def raw_weights(self, theta_AKV: Float, mask_A: Int) -> tuple[Float, Float]:
        """Return weights on raw columns (A, K, D) and biases (A, K)."""
        # w_z = Z^t a; on raw columns w = w_z / scale, and the bias takes w . mean away.
        n_problems, n_logits, _ = theta_AKV.shape
        weight = np.empty((n_problems, n_logits, self.x_ND.shape[1]))
        bias = theta_AKV[:, :, -1].copy()
        for mask, part in _runs(mask_A):
            rows, standard = self.rows_F[mask], self.standard_F[mask]
            dual = _flat_product(theta_AKV[part, :, :-1], self.basis_FNR[mask, : len(rows)].T)
            z_nD = (self.x_ND[rows].astype(np.float64) - standard.mean_D) / standard.scale_D
            weight[part] = _flat_product(dual, z_nD) / standard.scale_D
            bias[part] -= weight[part] @ standard.mean_D
        return weight, bias

    def curvature(self, weight_AKN: Float, mask_A: Int) -> Float:
        """Return sum over rows of weight times the outer product of coordinates (A, K, V, V)."""
        n_problems, n_logits, _ = weight_AKN.shape
        width = self.phi_FNV.shape[2]
        out = np.empty((n_problems, n_logits, width, width))
        for problem, mask in enumerate(mask_A):
            for logit in range(n_logits):
                scaled_NV = np.sqrt(weight_AKN[problem, logit])[:, None] * self.phi_FNV[mask]
                out[problem, logit] = scaled_NV.T @ scaled_NV
        return out


class SharedCoordinates:
    """One pooled-standardised matrix for all masks, in float64; each mask's own mean and SD enter as an affine map."""

    def __init__(self, x_ND: NDArray[np.floating], y_N: Int, weight_FN: Float) -> None:
        used = np.flatnonzero((weight_FN > 0).any(axis=0))
        self.x_ND = x_ND if len(used) == len(x_ND) else x_ND[used]
        n_masks, self.n_rows = len(weight_FN), len(used)
        self.weight_FN = np.ascontiguousarray(weight_FN[:, used])
        self.y_FN = np.broadcast_to(y_N[used], (n_masks, self.n_rows))
        self.pooled = self._pooled()
        self._hat_ND = (self.x_ND.astype(np.float64) - self.pooled.mean_D) / self.pooled.scale_D
        # With several logits the blocks on the Hessian's diagonal fit worse than the memory of past steps.
        few_products = self.n_rows * self.x_ND.shape[1] ** 2 <= SMALL_CURVATURE
        self.small = few_products and int(self.y_FN.max()) <= 1
        self.mean_FD, self.std_FD, self.scale_FD = self._mask_moments()
        eigen_R, self.q_DR = self._eigenbasis()
        self.curvature_FR = np.broadcast_to(eigen_R, (n_masks, len(eigen_R)))

    def _pooled(self) -> Standardisation:
        mean_D = self.x_ND.mean(axis=0, dtype=np.float64)
        variance_D = ((self.x_ND.astype(np.float64) - mean_D) ** 2).mean(axis=0)
        std_D = _std(variance_D, mean_D, self.n_rows)
        return Standardisation(mean_D, std_D, divisors(std_D))

    def _mask_moments(self) -> tuple[Float, Float, Float]:
        """Return each mask's mean, SD and divisor in pooled-standardised columns, by two passes."""
        mean_FD = self.weight_FN @ self._hat_ND
        var_FD = np.zeros_like(mean_FD)
        for mask, weight_N in enumerate(self.weight_FN):
            rows = np.flatnonzero(weight_N > 0)
            var_FD[mask] = weight_N[rows] @ (self._hat_ND[rows] - mean_FD[mask]) ** 2
        # Rounding scales with the terms of the mean, not with the mean: a column may be zero in one fold only.
        terms_FD = np.abs(self.pooled.mean_D) + np.abs(mean_FD) * self.pooled.scale_D
        std_FD = _std(var_FD * self.pooled.scale_D**2, terms_FD, self.n_rows)
        return mean_FD, std_FD / self.pooled.scale_D, divisors(std_FD) / self.pooled.scale_D

    def moments(self) -> tuple[Float, Float]:
        """Return each mask's mean and SD of raw columns."""
        return self.mean_FD * self.pooled.scale_D + self.pooled.mean_D, self.std_FD * self.pooled.scale_D

    def _eigenbasis(self) -> tuple[Float, Float]:
        """Return eigenvalues and eigenvectors of the pooled covariance over at most four rows per column."""
        n_columns = self.x_ND.shape[1]
        sample_nD = self._hat_ND[:: max(1, self.n_rows // (COVARIANCE_ROWS_PER_COLUMN * n_columns))]
        eigen_R, q_DR = np.linalg.eigh(sample_nD.T @ sample_nD / len(sample_nD))
        return np.maximum(eigen_R, 0.0), q_DR

    def _columns_weight(self, theta_AKV: Float, mask_A: Int) -> tuple[Float, Float]:
        """Return weights on pooled-standardised columns (A, K, D) and offsets (A, K)."""
        v_AKD = _flat_product(theta_AKV[:, :, :-1], self.q_DR.T) / self.scale_FD[mask_A][:, None, :]
        offset_AK = theta_AKV[:, :, -1] - np.einsum("akd,ad->ak", v_AKD, self.mean_FD[mask_A])
        return v_AKD, offset_AK

    def logits(self, theta_AKV: Float, mask_A: Int) -> Float:
        """Return logits (A, K, N) of each problem on all rows."""
        v_AKD, offset_AK = self._columns_weight(theta_AKV, mask_A)
        return np.asarray(_flat_product(v_AKD, self._hat_ND.T) + offset_AK[:, :, None])

    def pull_back(self, residual_AKN: Float, mask_A: Int) -> Float:
        """Return the gradient (A, K, V) of a loss whose derivative by logit is given."""
        # Chain rule of z = u_bias + sum_d (Q u)_d (x_d - mean_d) / s_d: by (Q u)_d it is (sum r x_d - mean_d sum r) /
        # s_d, turned by Q; by the bias sum r.
        gradient_AKD = _flat_product(residual_AKN, self._hat_ND)
        total_AK = residual_AKN.sum(axis=2)
        gradient_AKD -= total_AK[:, :, None] * self.mean_FD[mask_A][:, None, :]
        gradient_AKD /= self.scale_FD[mask_A][:, None, :]
        return np.concatenate([_flat_product(gradient_AKD, self.q_DR), total_AK[:, :, None]], axis=2)

    def raw_weights(self, theta_AKV: Float, mask_A: Int) -> tuple[Float, Float]:
        """Return weights on raw columns (A, K, D) and biases (A, K)."""
        v_AKD, offset_AK = self._columns_weight(theta_AKV, mask_A)
        weight = v_AKD / self.pooled.scale_D
        return weight, offset_AK - weight @ self.pooled.mean_D

    def curvature(self, weight_AKN: Float, mask_A: Int) -> Float:
        """Return sum over rows of weight times the outer product of coordinates (A, K, V, V)."""
        # The coordinates of all rows under one mask's mean and SD, made once for its problems: sum_i w_i phi_i phi_i^t.
        n_problems, n_logits, _ = weight_AKN.shape
        width = self.q_DR.shape[1] + 1
        out = np.empty((n_problems, n_logits, width, width))
        for mask, part in _runs(mask_A):
            phi_NV = np.ones((self.n_rows, width))
            phi_NV[:, :-1] = ((self._hat_ND - self.mean_FD[mask]) / self.scale_FD[mask]) @ self.q_DR
            for problem in range(part.start, part.stop):
                for logit in range(n_logits):
                    out[problem, logit] = (weight_AKN[problem, logit][:, None] * phi_NV).T @ phi_NV
        return out


def _standardise(x_nD: Float, weight_n: Float) -> tuple[Float, Standardisation]:
    """Standardise in place with the weighted mean and SD, or the floor where that is larger."""
    # z = (x - mean) / scale with weighted moments, the mean taken in two passes.
    mean_D = weight_n @ x_nD
    x_nD -= mean_D
    correction_D = weight_n @ x_nD  # a second pass removes the rounding of a large mean
    x_nD -= correction_D
    std_D = _std(np.einsum("n,nd,nd->d", weight_n, x_nD, x_nD), mean_D, len(x_nD))
    scale_D = divisors(std_D)
    x_nD /= scale_D
    return x_nD, Standardisation(mean_D + correction_D, std_D, scale_D)


def _std(variance: Float, terms: Float, n_rows: int) -> Float:
    """Return standard deviations, 0 for constant columns."""
    return np.where(is_constant(variance, terms, n_rows), 0.0, np.sqrt(np.maximum(variance, 0.0)))


def _flat_product(left_AKX: Float, right_XY: Float) -> Float:
    """Return left @ right as one product over all problems and logits."""
    n_problems, n_logits, width = left_AKX.shape
    flat = np.ascontiguousarray(left_AKX).reshape(n_problems * n_logits, width)
    return (flat @ right_XY).reshape(n_problems, n_logits, right_XY.shape[1])


def _runs(mask_A: Int) -> Iterator[tuple[int, slice]]:
    """Yield each run of equal mask numbers as (mask, slice); problems are sorted by mask."""
    starts = np.flatnonzero(np.r_[True, mask_A[1:] != mask_A[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(mask_A)], strict=True):
        yield int(mask_A[start]), slice(int(start), int(stop))
