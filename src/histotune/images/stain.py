"""Optical density and the haematoxylin in it: two fixed dyes, so that a tile without nuclei can be told as such.

A stain matrix estimated per image (Macenko et al. 2009) always finds two dyes, also where only one is there; the fixed
vectors of Ruifrok and Johnston do not. A wrong hue scales the channel, and what is measured here is where its contrast
lies, not how strong it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
# H height, W width, C channels (RGB)

# Absorbance of red, green and blue light: Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23(4), 2001, table 1.
HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)


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


def haematoxylin_light(density_HWC: Floats) -> Floats:
    """Return the share of light that haematoxylin alone takes away.

    Amounts come from least squares with two dyes (Ruifrok and Johnston 2001). Absorbed light, unlike the amount
    itself, saturates in the dark, so that chromatin texture weighs little beside the edge of a nucleus.

    Args:
        density_HWC: From :func:`optical_density`.

    Returns:
        float32 (H, W), 0 to 1.
    """
    dyes = np.stack([_unit(HAEMATOXYLIN), _unit(EOSIN)], axis=1)
    weights = np.linalg.pinv(dyes)[0].astype(np.float32)
    return np.asarray(1 - np.exp(-np.maximum(density_HWC @ weights, 0)), np.float32)


def haematoxylin_likeness(change_C: NDArray[np.floating]) -> float:
    """Return whether a change of optical density looks like haematoxylin rather than eosin.

    Args:
        change_C: Difference of mean optical density between dark and pale tissue, red, green, blue.

    Returns:
        The red share of the change over that of an even mixture of both dyes: above 1 is haematoxylin. Red light is
        what eosin hardly absorbs.
    """
    length = float(np.linalg.norm(change_C))
    even = _unit(_unit(HAEMATOXYLIN) + _unit(EOSIN))
    return 0.0 if length == 0 else float(change_C[0]) / length / float(even[0])


def _unit(values: tuple[float, ...] | NDArray[np.float64]) -> NDArray[np.float64]:
    vector = np.asarray(values, np.float64)
    return np.asarray(vector / np.linalg.norm(vector))
