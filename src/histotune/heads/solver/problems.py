"""What is asked of a batched fit, and what comes back: shared by all linear heads."""

# N tiles, D columns, F training masks, P problems, K logits (1 in binary problems)

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class FitProblems:
    """Which fits to solve together.

    Attributes:
        mask_FN: Which tiles train, per mask: bool, or real sample weights >= 0.
        mask_index_P: Mask of each problem.
        penalty_P: L2 penalty of each problem, > 0.
        n_classes: Number of classes; 2 gives one logit per tile.
        columns: Sets of columns (poolings), each ascending; empty where every problem uses all columns.
        columns_index_P: Set of each problem.
    """

    mask_FN: NDArray[np.bool_] | Float
    mask_index_P: Int
    penalty_P: Float
    n_classes: int
    columns: tuple[Int, ...] = ()
    columns_index_P: Int | None = None


@dataclass(frozen=True)
class FitSettings:
    """When a fit is finished.

    Attributes:
        tolerance: A problem has converged once its gradient's norm is at most this times max(1, |w|), tightened
            by the square root of penalties below 1, which bounds the relative error of the objective.
        max_iterations: Iterations after which a problem is given back unconverged.
        device: ``cpu`` (NumPy), or a torch device such as ``cuda``.
    """

    tolerance: float = 1e-6
    max_iterations: int = 2000
    device: str = "cpu"


@dataclass(frozen=True)
class FitSolution:
    """One row per problem.

    Attributes:
        weight_PKD: Weights on raw columns, standardisation folded in, zero outside a problem's set of columns; K = 1
            in binary problems.
        bias_PK: Biases.
        objective_P: Mean loss plus penalty.
        gradient_norm_P: Norm of the gradient at the solution.
        iterations_P: Iterations used.
        converged_P: Whether the tolerance was met.
        weight_norm_P: Norm |w| of the weights on standardised columns.
        passes: Passes over the shared matrix, each with one product forth and one back for all running problems.
        mean_FD: Weighted mean of each mask's raw columns.
        std_FD: Their standard deviation, before the floor; 0 where a column is constant.
    """

    weight_PKD: Float
    bias_PK: Float
    objective_P: Float
    gradient_norm_P: Float
    iterations_P: Int
    converged_P: NDArray[np.bool_]
    weight_norm_P: Float
    passes: int
    mean_FD: Float
    std_FD: Float

    @classmethod
    def empty(cls, n_problems: int, n_logits: int, n_columns: int, n_masks: int) -> FitSolution:
        """Return zeros, to be filled in."""
        return cls(
            weight_PKD=np.zeros((n_problems, n_logits, n_columns)),
            bias_PK=np.zeros((n_problems, n_logits)),
            objective_P=np.zeros(n_problems),
            gradient_norm_P=np.zeros(n_problems),
            iterations_P=np.zeros(n_problems, np.int64),
            converged_P=np.zeros(n_problems, bool),
            weight_norm_P=np.zeros(n_problems),
            passes=0,
            mean_FD=np.zeros((n_masks, n_columns)),
            std_FD=np.zeros((n_masks, n_columns)),
        )


def check_problems(y_N: Int, problems: FitProblems, weight_FN: Float) -> None:
    """Refuse what has no solution."""
    if not (np.asarray(problems.penalty_P) > 0).all():
        raise ValueError("every penalty must be positive: without one, separable classes have no solution")
    if (weight_FN < 0).any() or not (weight_FN.sum(axis=1) > 0).all():
        raise ValueError("every training mask needs tiles, and sample weights are never negative")
    used_N = (weight_FN > 0).any(axis=0)
    labels = np.asarray(y_N)[used_N]
    if labels.min() < 0 or labels.max() >= problems.n_classes:
        raise ValueError(f"training labels must lie in 0..{problems.n_classes - 1}")


SCALE_FLOOR = 0.3
"""Least share of the median standard deviation of all columns that a column is divided by."""


def scale_floor(std_xD: Float) -> Float:
    """Return the least standard deviation that columns are divided by, along the last axis.

    A column that hardly varies among the training tiles, such as a feature that only one of them shows, would be blown
    up by its own deviation: a held-out tile that shows it lies thousands of deviations away, and one such tile can cost
    more log-loss than all others together. The head stays linear: nothing is cut off when it is applied.

    Args:
        std_xD: Standard deviations; 0 where a column is constant.

    Returns:
        One number per row, shape (..., 1); 0 where no column varies.
    """
    varies_xD = std_xD > 0
    some = varies_xD.any(axis=-1, keepdims=True)
    median = np.nanmedian(np.where(varies_xD | ~some, std_xD, np.nan), axis=-1, keepdims=True)
    return np.asarray(SCALE_FLOOR * median)


def divisors(std_xD: Float) -> Float:
    """Return what columns are divided by: their standard deviation, or the floor; 1 where a column is constant."""
    return np.where(std_xD > 0, np.maximum(std_xD, scale_floor(std_xD)), 1.0)


def is_constant(variance: Float, terms: Float, n_rows: int) -> NDArray[np.bool_]:
    """Return which columns are constant up to rounding (as scikit-learn's scaler does)."""
    return np.asarray(variance <= n_rows * EPSILON * variance + (n_rows * terms * EPSILON) ** 2)


def log_odds(share_FK: Float) -> Float:
    """Return the biases at which each mask's mean probabilities are its classes' shares."""
    # log p_k, less that of class 0 with one logit, less their mean with several.
    odds_FK = np.log(np.maximum(share_FK, 1e-12))
    if odds_FK.shape[1] == 2:
        return np.asarray(odds_FK[:, 1:] - odds_FK[:, :1])
    return np.asarray(odds_FK - odds_FK.mean(axis=1, keepdims=True))


def keep_problems(batch: Any, stay_A: NDArray[np.generic]) -> None:  # noqa: ANN401
    """Drop the other problems of a batch: every array whose first axis is A, the running problems, and its history."""
    for part in fields(batch):
        value = getattr(batch, part.name)
        if "_A" in part.name and value is not None:
            setattr(batch, part.name, value[stay_A])
    batch.history = [tuple(one[stay_A] for one in remembered) for remembered in batch.history]
