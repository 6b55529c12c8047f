"""What can be seen of a cause before any score: another share of a class, embeddings that spread unevenly."""

# N tiles, n tiles of a half, G groups, R principal components

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.bounds import t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.transfer.case import Side

    Float = NDArray[np.float64]

N_DIRECT_HALVES = 19
"""Halvings of the source: a target beyond all of them is so by chance in about one case of twenty."""
TILES_PER_COMPONENT = 10
"""Fewer tiles than this per component leave the smallest variances to chance."""


def prevalence_differs(source: Side, target: Side, n_classes: int, level: float) -> bool:
    """Return whether the share of any class differs for sure between two sets of groups.

    Args:
        source: Training tiles.
        target: Target tiles.
        n_classes: Number of classes; the error is shared by their tests (Bonferroni; two classes are one test).
        level: Nominal coverage of the Welch t intervals on the two jackknife variances. Groups are not held to their
            classes here, as they are in other intervals: how many hold a class is the question.

    Returns:
        Whether an interval of a difference leaves out 0. False where groups are unknown.
    """
    if not (source.has_groups and target.has_groups):
        return False
    labels = (1,) if n_classes == 2 else range(n_classes)
    return any(_share_differs(source, target, label, 1.0 - (1.0 - level) / len(labels)) for label in labels)


def _share_differs(source: Side, target: Side, label: int, level: float) -> bool:
    (a, variance_a, n_a), (b, variance_b, n_b) = (_share(side, label) for side in (source, target))
    variance = variance_a + variance_b
    if variance <= 0.0:
        return False
    df = variance**2 / (variance_a**2 / (n_a - 1) + variance_b**2 / (n_b - 1))  # Welch, Biometrika 1947
    return abs(a - b) > float(t_quantile(np.asarray(df), (1.0 + level) / 2.0)) * math.sqrt(variance)


def _share(side: Side, label: int) -> tuple[float, float, int]:
    """Return a class's share of tiles, its delete-one-group variance, and the number of groups."""
    codes = np.unique(np.array(side.groups), return_inverse=True)[1]
    tiles_G = np.bincount(codes).astype(np.float64)
    held_G = np.bincount(codes, weights=side.y_N == label)
    n_groups = len(tiles_G)
    without_G = (held_G.sum() - held_G) / (tiles_G.sum() - tiles_G)
    variance = (n_groups - 1) / n_groups * float(((without_G - without_G.mean()) ** 2).sum())
    return float(held_G.sum() / tiles_G.sum()), variance, n_groups


def changed_shape(source: Side, target: Side, components: int, rng: np.random.Generator) -> bool:
    """Return whether the covariances differ by more than a common factor.

    Args:
        source: Training tiles.
        target: Target tiles.
        components: Principal components of the source in which they are compared.
        rng: Deals the source's groups into halves.

    Returns:
        Whether the target differs from half of the source, in the median over halvings, by more than the other half
        does in any of them. False with too few tiles to say.
    """
    codes = np.unique(np.array(source.groups), return_inverse=True)[1]
    n_groups = int(codes.max()) + 1
    n_least = min(len(source) // 2, len(target))
    components = min(components, source.x_ND.shape[1], n_least // TILES_PER_COMPONENT)
    if components < 2:
        return False
    source_NR, target_NR = principal_parts(source, target, components)
    between, within = [], []
    for _ in range(N_DIRECT_HALVES):
        half_N = np.isin(codes, rng.permutation(n_groups)[: n_groups // 2])
        between.append(uneven_spread(source_NR[half_N], target_NR))
        within.append(uneven_spread(source_NR[half_N], source_NR[~half_N]))
    return float(np.median(between)) > max(within)


def principal_parts(source: Side, target: Side, components: int) -> tuple[Float, Float]:
    """Return both sides in the first principal components of the source.

    Args:
        source: Training tiles.
        target: Target tiles.
        components: How many.

    Returns:
        Source and target, (N, R) each, centred on the source's mean.
    """
    centre_D = source.x_ND.mean(axis=0)
    axes_RD = np.linalg.svd(source.x_ND - centre_D, full_matrices=False)[2][:components]
    return (source.x_ND - centre_D) @ axes_RD.T, (target.x_ND - centre_D) @ axes_RD.T


def uneven_spread(a_nR: Float, b_nR: Float) -> float:
    """Return how unevenly b spreads where a spreads evenly.

    Args:
        a_nR: Embeddings.
        b_nR: Other embeddings.

    Returns:
        Standard deviation of the logarithms of the generalised eigenvalues of the two covariances: 0 where one is a
        multiple of the other, and the same for a against b and in any basis.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 3))
        >>> round(uneven_spread(x, 3.0 * x), 6)
        0.0
        >>> round(uneven_spread(x, x * [1.0, 1.0, np.e]), 2)  # variances 1, 1, e squared
        0.94
    """
    from scipy.linalg import eigh

    cov_a, cov_b = (np.cov(x_nR, rowvar=False) for x_nR in (a_nR, b_nR))
    ridge = np.eye(len(cov_a)) * 1e-9
    eigen_R = eigh(cov_b + ridge * np.trace(cov_b), cov_a + ridge * np.trace(cov_a), eigvals_only=True)
    return float(np.log(np.maximum(eigen_R, np.finfo(np.float64).tiny)).std())
