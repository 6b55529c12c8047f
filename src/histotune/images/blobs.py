"""Bright blobs of any size in a plane: maxima of the scale-normalised Laplacian of Gaussian over place and scale.

Lindeberg, Feature detection with automatic scale selection, Int. J. Comput. Vision 30(2), 1998. All Gaussians are
applied to one cosine transform of the plane: exact at every scale, mirrored at the borders, equal for a flipped or
turned plane, and coarse scales cost a quarter of the pixels per octave because only their low frequencies are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
# H height, W width, L scales of an octave and their neighbours, B blobs

DIAMETER_OVER_SIGMA = 2 * math.sqrt(2)  # a disc of diameter d answers most at sigma = d / (2 sqrt 2)
PER_OCTAVE = 4
FAINTEST = 0.05  # weaker maxima are rounding and noise


@dataclass(frozen=True)
class Blobs:
    """Blobs, arrays of shape (B,).

    Attributes:
        x_px: Centre, 0 at the left edge.
        y_px: Centre, 0 at the upper edge.
        diameter_px: Of the disc that would answer most at this scale.
        response: Scale-normalised Laplacian; 0.74 for an isolated disc of height 1.
        roundness: Smaller over larger curvature of the response at its maximum: 1 for a disc, 0 for a ridge.
    """

    x_px: Doubles
    y_px: Doubles
    diameter_px: Doubles
    response: Doubles
    roundness: Doubles

    def __len__(self) -> int:
        """Return the number of blobs."""
        return len(self.x_px)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Blobs:
        """Return some of the blobs.

        Args:
            rows: Row numbers or a mask.

        Returns:
            Those blobs, in that order.
        """
        return Blobs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def find_blobs(plane_HW: Floats, smallest_px: float, largest_px: float) -> Blobs:
    """Return the maxima of the scale-normalised Laplacian over place and scale.

    Args:
        plane_HW: Values, float32 (H, W); blobs are bright.
        smallest_px: Smallest diameter to find.
        largest_px: Largest diameter to find.

    Returns:
        The blobs, overlapping ones included.
    """
    from scipy import fft

    coefficients_HW = fft.dctn(np.asarray(plane_HW, np.float32), type=2, norm="ortho")
    # A maximum needs a neighbour below it, and interpolation may move it by half a step.
    first_sigma = smallest_px / DIAMETER_OVER_SIGMA * 2 ** (-1.5 / PER_OCTAVE)
    n_octaves = max(1, math.ceil(math.log2(max(largest_px / smallest_px, 1.0)) + 1.5 / PER_OCTAVE))
    found = []
    for octave in range(n_octaves):
        answers_LHW = _octave(coefficients_HW, first_sigma, octave)
        if min(answers_LHW.shape[1:]) < 3:
            break
        found.append(_maxima(answers_LHW, first_sigma * 2**octave, plane_HW.shape))
    blobs = Blobs(*(np.concatenate(columns) for columns in zip(*found, strict=True))) if found else _none()
    return blobs.take((blobs.diameter_px >= smallest_px) & (blobs.diameter_px <= largest_px))


def without_overlaps(blobs: Blobs) -> Blobs:
    """Keep the stronger of two blobs where the centre of one lies within the other.

    Args:
        blobs: From :func:`find_blobs`.

    Returns:
        Those that remain, strongest first.
    """
    from scipy.spatial import KDTree

    if not len(blobs):
        return blobs
    ordered = blobs.take(np.lexsort((blobs.x_px, blobs.y_px, blobs.diameter_px, -blobs.response)))
    centres_B2 = np.stack([ordered.x_px, ordered.y_px], axis=1)
    within = KDTree(centres_B2).query_ball_point(centres_B2, ordered.diameter_px / 2)
    dropped_B = np.zeros(len(ordered), bool)
    for row, others in enumerate(within):
        if dropped_B[row]:
            continue
        if any(other < row and not dropped_B[other] for other in others):
            dropped_B[row] = True
            continue
        dropped_B[[other for other in others if other > row]] = True
    return ordered.take(~dropped_B)


def _octave(coefficients_HW: Floats, first_sigma: float, octave: int) -> Floats:
    """Return the answers at the scales of one octave and one step beyond, on a grid 2**octave coarser."""
    from scipy import fft

    full_height, full_width = coefficients_HW.shape
    height, width = (math.ceil(side / 2**octave) for side in coefficients_HW.shape)
    kept_HW = coefficients_HW[:height, :width] * np.float32(math.sqrt(height * width / (full_height * full_width)))
    down_H = np.pi * np.arange(height, dtype=np.float32) / full_height
    along_W = np.pi * np.arange(width, dtype=np.float32) / full_width
    squared_HW = down_H[:, None] ** 2 + along_W[None, :] ** 2
    answers = []
    for step in range(PER_OCTAVE + 2):
        sigma = first_sigma * 2 ** (octave + step / PER_OCTAVE)
        scaled_HW = np.float32(sigma**2) * squared_HW
        # minus sigma^2 times the Laplacian of the Gaussian (Lindeberg 1998, section 4), in frequencies
        answers.append(fft.idctn(kept_HW * (scaled_HW * np.exp(-scaled_HW / 2)), type=2, norm="ortho"))
    return np.stack(answers)


def _maxima(answers_LHW: Floats, first_sigma: float, shape: tuple[int, ...]) -> tuple[Doubles, ...]:
    """Return the columns of :class:`Blobs` for the maxima of one octave."""
    from scipy import ndimage

    _, height, width = answers_LHW.shape
    highest_LHW = ndimage.maximum_filter(answers_LHW, 3, mode="nearest")
    peak_LHW = (answers_LHW == highest_LHW) & (answers_LHW > FAINTEST)
    peak_LHW[[0, -1]] = peak_LHW[:, [0, -1]] = peak_LHW[:, :, [0, -1]] = False
    step, y, x = np.nonzero(peak_LHW)
    here = answers_LHW[step, y, x].astype(np.float64)
    below, above = (answers_LHW[step + shift, y, x].astype(np.float64) for shift in (-1, 1))
    curvature = np.minimum(below - 2 * here + above, -1e-12)
    offset = np.clip((below - above) / (2 * curvature), -0.5, 0.5)
    sigma = first_sigma * 2 ** ((step + offset) / PER_OCTAVE)
    return (
        (x + 0.5) * shape[1] / width,
        (y + 0.5) * shape[0] / height,
        DIAMETER_OVER_SIGMA * sigma,
        here,
        _roundness(answers_LHW, step, y, x),
    )


def _roundness(answers_LHW: Floats, step: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> Doubles:
    """Return the ratio of the two curvatures at each maximum, from its eight neighbours (Lowe 2004, section 4.1)."""

    def at(down: int, along: int) -> Doubles:
        return answers_LHW[step, y + down, x + along].astype(np.float64)

    across = at(0, -1) - 2 * at(0, 0) + at(0, 1)
    down = at(-1, 0) - 2 * at(0, 0) + at(1, 0)
    mixed = (at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)) / 4
    half, spread = (across + down) / 2, np.hypot((across - down) / 2, mixed)
    return np.asarray(np.clip((half + spread) / np.minimum(half - spread, -1e-12), 0, 1))


def _none() -> Blobs:
    return Blobs(*(np.zeros(0) for _ in Blobs.__dataclass_fields__))
