"""Ridge classification in closed form: every penalty from one decomposition per training mask.

Targets are -1 and 1, one against the rest where there are more than two classes, as scikit-learn's
``RidgeClassifier`` has them; here behind a ``StandardScaler`` fitted on the mask's own rows, with
alpha = penalty * sum_i s_i. Masks share the Gram matrices of the rows they treat alike, so that all folds of a
cross-validation together cost one Gram matrix and not one each.
"""

# N tiles, n rows of a block, D columns, C columns of a set, R eigenvectors, F masks, G kinds of rows, P problems,
# A problems of one mask and set, K targets

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.solver.problems import FitSolution, check_problems
from histotune.heads.solver.stream import ArrayKit, RowStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.solver.problems import FitProblems

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


SHARED_GRAM_BYTES = 2**31
"""Up to this size the Gram matrices of rows that all masks treat alike are kept, and summed per mask afterwards."""


@dataclass(frozen=True)
class _Moments:
    """Sums over the rows of each mask, in the stream's centred columns, weights normalised.

    Attributes:
        gram_GDD: Second moments of each kind of row.
        share_FG: Weight that each mask gives a row of each kind.
        target_FKD: Moments of targets and columns.
        target_FK: Mean target.
    """

    gram_GDD: list[Float]
    share_FG: Float
    target_FKD: Float
    target_FK: Float

    def gram(self, mask: int, columns: Int) -> Float:
        """Return a mask's second moments of some columns."""
        grid = np.ix_(columns, columns)
        out_CC = np.zeros((len(columns), len(columns)))
        for share, gram_DD in zip(self.share_FG[mask], self.gram_GDD, strict=True):
            if share > 0:
                out_CC += share * (gram_DD if len(columns) == len(gram_DD) else gram_DD[grid])
        return out_CC


def fit_ridge(x_ND: NDArray[np.floating], y_N: Int, problems: FitProblems) -> FitSolution:
    """Solve ridge classification for all problems.

    The objective is sum_i s_i (t_i - z_i)^2 / (2 sum_i s_i) + penalty / 2 |w_z|^2 per target.

    Example:
        >>> from histotune.heads.solver.problems import FitProblems
        >>> x_ND, y_N = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> problems = FitProblems(np.ones((1, 4), bool), np.array([0, 0]), np.array([0.1, 1.0]), n_classes=2)
        >>> fit_ridge(x_ND, y_N, problems).weight_PKD.shape
        (2, 1, 1)
    """
    weight_FN = np.asarray(problems.mask_FN, np.float64)
    check_problems(y_N, problems, weight_FN)
    stream = RowStream(x_ND, np.asarray(y_N, np.int64), weight_FN, ArrayKit())
    n_problems, n_columns = len(problems.penalty_P), x_ND.shape[1]
    n_targets = 1 if problems.n_classes == 2 else problems.n_classes
    out = replace(FitSolution.empty(n_problems, n_targets, n_columns, len(weight_FN)), passes=1)
    out.iterations_P[:], out.converged_P[:] = 1, True
    out.mean_FD[:], out.std_FD[:] = stream.moments()
    moments = _moments(stream, n_targets)
    sets = problems.columns or (np.arange(n_columns),)
    set_P = np.zeros(n_problems, np.int64) if problems.columns_index_P is None else problems.columns_index_P
    for mask in range(len(weight_FN)):
        for number, columns in enumerate(sets):
            which = np.flatnonzero((set_P == number) & (problems.mask_index_P == mask))
            if len(which):
                _solve_mask(stream, moments, problems, columns, which, out)
    return out


def _moments(stream: RowStream, n_targets: int) -> _Moments:
    """Sum over the rows in one pass.

    Rows to which every mask gives the same weight are of one kind: with five folds there are five kinds, with balanced
    classes five per class. Each row adds to one Gram matrix, and a mask's is a weighted sum of those.
    """
    # Gram matrix of a mask = sum over kinds of rows of (weight the mask gives the kind) x (Gram matrix of the kind).
    n_masks, n_columns = len(stream.weight_FN), stream.n_columns
    share_FG, kind_N = np.unique(stream.weight_FN, axis=1, return_inverse=True)
    kind_N = kind_N.ravel()
    own = share_FG.shape[1] * n_columns**2 * 8 > SHARED_GRAM_BYTES and share_FG.shape[1] > n_masks
    if own:  # every row has a weight of its own: a Gram matrix per mask
        share_FG = np.eye(n_masks)
    target_KN = _targets(stream.y_N, n_targets)
    target_FKD = np.zeros((n_masks, n_targets, n_columns))
    gram_GDD = [np.zeros((n_columns, n_columns)) for _ in range(share_FG.shape[1])]
    for block, x_nD in stream.blocks("float64"):
        for mask, weight_n in enumerate(stream.weight_FN[:, block.part]):
            target_FKD[mask] += (target_KN[:, block.part] * weight_n) @ x_nD
            if own:
                _add_square(gram_GDD[mask], x_nD * np.sqrt(weight_n)[:, None])
        if not own:
            kind_n = kind_N[block.part]
            for kind in np.unique(kind_n):
                _add_square(gram_GDD[kind], x_nD[kind_n == kind])
    return _Moments(gram_GDD, share_FG, target_FKD, stream.weight_FN @ target_KN.T)


def _targets(y_N: Int, n_targets: int) -> Float:
    """Return -1 and 1 per target; the only target of a binary problem is class 1."""
    first = 1 if n_targets == 1 else 0
    return np.asarray(2.0 * (y_N == np.arange(first, first + n_targets)[:, None]) - 1.0)


def _add_square(gram_DD: Float, x_nD: Float) -> None:
    gram_DD += x_nD.T @ x_nD


def _solve_mask(
    stream: RowStream, moments: _Moments, problems: FitProblems, columns: Int, which: Int, out: FitSolution
) -> None:
    """Write the solutions of the problems ``which``: they share one mask and one set of columns."""
    mask, penalty_A = int(problems.mask_index_P[which[0]]), problems.penalty_P[which]
    # Covariance C and moments m of the mask's standardised columns, from the sums over raw ones; targets are centred by
    # the bias.
    mean_C, inverse_C = stream.mean_FD[mask, columns], stream.inverse(columns)[mask]
    covariance_CC = moments.gram(mask, columns)
    covariance_CC -= mean_C[:, None] * mean_C
    covariance_CC *= inverse_C
    covariance_CC *= inverse_C[:, None]
    target_K = moments.target_FK[mask]
    moment_KC = (moments.target_FKD[mask][:, columns] - target_K[:, None] * mean_C) * inverse_C
    # With C = V L V^t every penalty has the solution w = V (L + penalty)^-1 V^t m.
    eigen_R, vectors_CR = np.linalg.eigh(covariance_CC)
    turned_KR = moment_KC @ vectors_CR
    w_AKC = (turned_KR / (np.maximum(eigen_R, 0.0) + penalty_A[:, None, None])) @ vectors_CR.T
    # Mean squared error: w . C w - 2 w . m + Var(t), the variance of targets of -1 and 1 being 1 - mean^2. Gradient: C
    # w + penalty w - m.
    pull_AKC = w_AKC @ covariance_CC
    squares_A = np.einsum("akc,akc->a", w_AKC, w_AKC)
    fit_A = np.einsum("akc,akc->a", w_AKC, pull_AKC - 2.0 * moment_KC) + (1.0 - target_K**2).sum()
    gradient_AKC = pull_AKC + penalty_A[:, None, None] * w_AKC - moment_KC
    # On raw columns: the stream shows (x - centre) scale, so w scale / divisor and the bias less w . (centre + mean /
    # scale).
    weight_AKC = w_AKC * inverse_C * stream.scale_D[columns]
    shift_C = mean_C / stream.scale_D[columns] + stream.centre_D[columns]
    out.weight_PKD[which[:, None, None], np.arange(len(target_K))[:, None], columns] = weight_AKC
    out.bias_PK[which] = target_K - weight_AKC @ shift_C
    out.objective_P[which] = 0.5 * (fit_A + penalty_A * squares_A)
    out.weight_norm_P[which] = np.sqrt(squares_A)
    out.gradient_norm_P[which] = np.sqrt(np.einsum("akc,akc->a", gradient_AKC, gradient_AKC))
