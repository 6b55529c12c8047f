"""Map target embeddings so that their mean and covariance are the source's: no labels needed."""

# n tiles, D columns

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
    """Mean and covariance of embeddings.

    Attributes:
        mean_D: Mean.
        covariance_DD: Covariance, shrunk towards a multiple of the identity.
    """

    mean_D: Float
    covariance_DD: Float


def moments(x_nD: Float) -> Moments:
    """Return mean and shrunk covariance (Ledoit and Wolf, J. Multivariate Analysis 88, 2004).

    Args:
        x_nD: Embeddings.

    Returns:
        The moments; the shrinkage keeps the covariance invertible with fewer tiles than columns.
    """
    from sklearn.covariance import ledoit_wolf

    covariance_DD, _ = ledoit_wolf(x_nD)
    return Moments(x_nD.mean(axis=0), np.asarray(covariance_DD))


class Coral:
    """Correlation alignment (Sun, Feng and Saenko, AAAI 2016) of a target to one source.

    Args:
        source: Moments of the source; its root is taken once.
    """

    def __init__(self, source: Moments) -> None:
        self._source = source
        self._root_DD = _power(source.covariance_DD, 0.5)

    def __call__(self, x_nD: Float, target: Moments) -> Float:
        """Return the embeddings whitened with the target's covariance and coloured with the source's.

        Args:
            x_nD: Target embeddings.
            target: Moments of the target's tuning tiles.

        Returns:
            float64 (n, D).
        """
        map_DD = _power(target.covariance_DD, -0.5) @ self._root_DD
        return np.asarray((x_nD - target.mean_D) @ map_DD + self._source.mean_D)


def _power(symmetric_DD: Float, exponent: float) -> Float:
    eigen_D, vectors_DD = np.linalg.eigh(symmetric_DD)
    floored_D = np.maximum(eigen_D, FLOOR * eigen_D[-1])
    return np.asarray((vectors_DD * floored_D**exponent) @ vectors_DD.T)
