"""Optical density, the two dyes of an image, and the light that haematoxylin takes away.

Dyes are estimated per image, since laboratories differ, and then compared with reference dyes, because an estimate
always finds two dyes, also where only one is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
# H height, W width, P pixels, C channels (RGB)

# Absorbance of red, green and blue light: Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23(4), 2001, table 1.
HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
STAINED_DENSITY = 0.3  # paler pixels have no certain hue
EXTREMES = (1.0, 99.0)  # percentiles of the hue taken as pure dyes (Macenko et al., ISBI 2009)
MIN_PIXELS = 100


@dataclass(frozen=True)
class Dyes:
    """The two dyes of an image: unit vectors of absorbance per channel, shape (3,)."""

    haematoxylin_C: Doubles
    eosin_C: Doubles


def optical_density(image_HWC: NDArray[np.uint8]) -> Floats:
    """Return the optical density per channel, natural logarithm, against full white.

    Args:
        image_HWC: uint8 (H, W, 3).

    Returns:
        float32 (H, W, 3), 0 (white) to 5.5 (black).
    """
    # One grey level is added so that black stays finite.
    table = -np.log((np.arange(256) + 1) / 256)
    return np.asarray(table.astype(np.float32)[image_HWC])


def find_dyes(density_PC: Floats) -> Dyes | None:
    """Estimate the dyes of an image from the extreme hues of its pixels (Macenko et al., ISBI 2009).

    Args:
        density_PC: Optical density of its tissue, float32 (P, 3).

    Returns:
        The dyes, the reference eosin standing in where both extremes are haematoxylin; None where neither is. A hue is
        haematoxylin where it absorbs more red light, which eosin hardly does, than an even mixture of the reference
        dyes.
    """
    stained_PC = density_PC[np.linalg.norm(density_PC, axis=1) > STAINED_DENSITY].astype(np.float64)
    if len(stained_PC) < MIN_PIXELS:
        return None
    _, vectors = np.linalg.eigh(stained_PC.T @ stained_PC)
    plane_C2 = np.stack([vectors[:, 2] * np.where(vectors[:, 2].sum() < 0, -1, 1), vectors[:, 1]], axis=1)
    along_P, across_P = (stained_PC @ plane_C2).T
    low, high = np.percentile(np.arctan2(across_P, along_P), EXTREMES)
    first_C, second_C = (_unit(np.maximum(plane_C2 @ [np.cos(angle), np.sin(angle)], 0)) for angle in (low, high))
    haematoxylin_C, eosin_C = (first_C, second_C) if first_C[0] > second_C[0] else (second_C, first_C)
    even_red = _unit(_unit(HAEMATOXYLIN) + _unit(EOSIN))[0]
    if haematoxylin_C[0] < even_red:
        return None
    return Dyes(haematoxylin_C, eosin_C if eosin_C[0] < even_red else _unit(EOSIN))


def haematoxylin_light(density_HWC: Floats, dyes: Dyes) -> Floats:
    """Return the share of light that haematoxylin alone takes away.

    Amounts come from least squares with two dyes (Ruifrok and Johnston 2001). Absorbed light, unlike the amount
    itself, saturates in the dark, so that chromatin texture weighs little beside the edge of a nucleus.

    Args:
        density_HWC: From :func:`optical_density`.
        dyes: From :func:`find_dyes`.

    Returns:
        float32 (H, W), 0 to 1.
    """
    weights = np.linalg.pinv(np.stack([dyes.haematoxylin_C, dyes.eosin_C], axis=1))[0].astype(np.float32)
    return np.asarray(1 - np.exp(-np.maximum(density_HWC @ weights, 0)), np.float32)


def _unit(values: tuple[float, ...] | Doubles) -> Doubles:
    vector = np.asarray(values, np.float64)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
