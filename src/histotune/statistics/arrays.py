"""Small array helpers of this room."""

# N tiles, K codes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


def one_hot(code_N: Int, n_codes: int) -> Float:
    """Return a 1 in the column of each row's code."""
    out_NK = np.zeros((len(code_N), n_codes))
    out_NK[np.arange(len(code_N)), code_N] = 1.0
    return out_NK


def ratio(numerator: Float, denominator: Float) -> Float:
    """Divide; NaN where the denominator is not positive."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    out = np.full(shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=out, where=denominator > 0))
