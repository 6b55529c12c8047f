"""Do two tiles show a piece of the same tissue? Answered by laying one over the other at every shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 96  # both tiles are reduced so that the longer side is at most this
SMOOTH = 9  # fine structure is what differs from the mean over this many pixels
LEAST_SHARE = 0.2  # of the smaller tile; smaller overlaps are not told from chance
LEAST_CORRELATION = 0.6
FLAT = 1e-3
# H height, W width


@dataclass(frozen=True)
class Overlap:
    """The best way to lay two tiles over each other.

    Attributes:
        correlation: Of their fine structure where they overlap.
        share: Share of the smaller tile that overlaps.
    """

    correlation: float
    share: float

    @property
    def is_shared(self) -> bool:
        """Whether the two show the same tissue."""
        return self.correlation >= LEAST_CORRELATION and self.share >= LEAST_SHARE


def overlap(left_HWC: NDArray[np.uint8], right_HWC: NDArray[np.uint8]) -> Overlap:
    """Find the shift at which two upright tiles of one scale agree best.

    Normalised cross-correlation over the overlap only (Padfield: Masked object registration in the Fourier domain,
    IEEE TIP 2012).

    Args:
        left_HWC: uint8 RGB.
        right_HWC: uint8 RGB, possibly of another size.

    Returns:
        The best overlap; correlation 0 where a tile has no structure.
    """
    factor = max(1, -(-max(*left_HWC.shape[:2], *right_HWC.shape[:2]) // SIDE))
    left_HW, right_HW = _fine(left_HWC, factor), _fine(right_HWC, factor)
    shape = tuple(a + b - 1 for a, b in zip(left_HW.shape, right_HW.shape, strict=True))
    ones_left, ones_right = np.ones_like(left_HW), np.ones_like(right_HW)
    n_HW = np.maximum(_correlate(ones_left, ones_right, shape), 1.0)
    sum_left, sum_right = _correlate(left_HW, ones_right, shape), _correlate(ones_left, right_HW, shape)
    product = _correlate(left_HW, right_HW, shape) - sum_left * sum_right / n_HW
    energy_left = _correlate(left_HW**2, ones_right, shape) - sum_left**2 / n_HW
    energy_right = _correlate(ones_left, right_HW**2, shape) - sum_right**2 / n_HW
    share_HW = n_HW / min(left_HW.size, right_HW.size)
    usable = (share_HW >= LEAST_SHARE) & (energy_left > FLAT * n_HW) & (energy_right > FLAT * n_HW)
    if not usable.any():
        return Overlap(0.0, 0.0)
    correlation_HW = np.where(usable, product / np.sqrt(np.where(usable, energy_left * energy_right, 1.0)), -1.0)
    best = int(correlation_HW.argmax())
    return Overlap(float(correlation_HW.flat[best]), min(1.0, float(share_HW.flat[best])))


def _fine(pixels_HWC: NDArray[np.uint8], factor: int) -> NDArray[np.float64]:
    """Grey levels of the reduced tile less their local mean."""
    from PIL import Image
    from scipy.ndimage import uniform_filter

    grey_HW = np.asarray(Image.fromarray(pixels_HWC).convert("L").reduce(factor), np.float64)
    fine_HW: NDArray[np.float64] = grey_HW - uniform_filter(grey_HW, SMOOTH, mode="nearest")
    return fine_HW


def _correlate(
    left_HW: NDArray[np.float64], right_HW: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    from scipy.fft import irfft2, next_fast_len, rfft2

    padded = [next_fast_len(length, real=True) for length in shape]
    result_HW: NDArray[np.float64] = irfft2(rfft2(left_HW, padded) * rfft2(right_HW[::-1, ::-1], padded), padded)
    return result_HW[: shape[0], : shape[1]]
