"""Map target embeddings so that their mean and covariance are the source's: no labels needed."""

# n tiles, D columns, R principal axes: the smaller of n and D

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

FLOOR = 1e-9


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of embeddings, the covariance by its principal axes.

    Attributes:
        mean_D: Mean.
        axes_RD: Orthonormal principal axes.
        variance_R: Variance along each.
        rest: Variance in every direction across all of them.
    """

    mean_D: Float
    axes_RD: Float
    variance_R: Float
    rest: float

    @classmethod
    def of(cls, mean_D: Float, covariance_DD: Float) -> Moments:
        """Return the moments of a mean and a whole covariance matrix."""
        variance_D, vectors_DD = np.linalg.eigh(covariance_DD)
        return cls(mean_D, vectors_DD.T, variance_D, float(variance_D[0]))

    def power(self, x_nD: Float, exponent: float) -> Float:
        """Return ``x_nD`` times a power of the covariance, variances floored at a billionth of the largest."""
        floor = FLOOR * max(float(self.variance_R.max()), self.rest)
        outside = max(self.rest, floor) ** exponent
        along_R = np.maximum(self.variance_R, floor) ** exponent - outside
        return np.asarray(outside * x_nD + ((x_nD @ self.axes_RD.T) * along_R) @ self.axes_RD)


def moments(x_nD: Float) -> Moments:
    """Return mean and shrunk covariance (Ledoit and Wolf, J. Multivariate Analysis 88, 2004).

    With fewer tiles than columns the covariance is the same in all directions that the tiles don't span, so that the
    axes of the span are enough: n by D numbers in place of D by D, and no eigenvalue problem of size D.

    Args:
        x_nD: Embeddings.

    Returns:
        The moments; the shrinkage keeps the covariance invertible with fewer tiles than columns.
    """
    from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage

    (n_tiles, dim), mean_D = x_nD.shape, x_nD.mean(axis=0)
    if n_tiles >= dim:
        return Moments.of(mean_D, np.asarray(ledoit_wolf(x_nD)[0]))
    _, singular_R, axes_RD = np.linalg.svd(x_nD - mean_D, full_matrices=False)
    variance_R = singular_R**2 / n_tiles
    shrinkage = float(ledoit_wolf_shrinkage(x_nD))
    rest = shrinkage * float(variance_R.sum()) / dim
    return Moments(mean_D, axes_RD, (1.0 - shrinkage) * variance_R + rest, rest)


class Coral:
    """Correlation alignment (Sun, Feng and Saenko, AAAI 2016) of a target to one source.

    Args:
        source: Moments of the source.
    """

    def __init__(self, source: Moments) -> None:
        self._source = source

    def __call__(self, x_nD: Float, target: Moments) -> Float:
        """Return the embeddings whitened with the target's covariance and coloured with the source's.

        Args:
            x_nD: Target embeddings.
            target: Moments of the target's tuning tiles.

        Returns:
            float64 (n, D).
        """
        white_nD = target.power(x_nD - target.mean_D, -0.5)
        return np.asarray(self._source.power(white_nD, 0.5) + self._source.mean_D)
