"""One case's tissue: where epithelium, lumen, stroma and tumour lie on an endless plane in micrometres.

Compartments are level sets of smooth noise, which gives islands with lumens, or cords; they can be asked for on the
pixels of any window or at points, with the same answer. Shapes: H x W pixels, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.datasets.synthetic.noise import Field, noise_HW, noise_P, resolved, sub_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

ISLAND, ISLAND_FOLDS, ISLAND_EDGE, TUMOUR, WARP_WIDE, WARP_FINE, STROMA_DENSITY, INFILTRATE = range(8)
FOLD_SHARE, EDGE_SHARE = 0.45, 0.12


@dataclass(frozen=True)
class Stain:
    """How a case's dyes and its microscope turn density into colour.

    Attributes:
        haematoxylin: Absorbance of red, green and blue light at density 1.
        eosin: The same for eosin.
        white: Grey level per channel where nothing absorbs.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: tuple[float, float, float]


@dataclass(frozen=True)
class Tissue:
    """All parameters of one case.

    Attributes:
        seed: Names the case's random functions.
        kind: ``breast`` (epithelium in stroma) or ``node`` (epithelium in lymphocytes).
        stain: Colour.
        island_um: Size of epithelial islands, or distance of cords.
        cords: Cords instead of islands.
        epithelium: Level from which epithelium begins; lower gives more.
        lumen: Depth of epithelium before a lumen opens.
        fibre_um: Wavelength of collagen bundles.
        waviness: How strongly they wave.
        fibre_angle: Their main direction, radians.
        nucleus_um: Mean diameter of regular epithelial nuclei.
        chromatin: Contrast of chromatin.
        cytoplasm: Contrast of cytoplasm texture.
        infiltrate: Level from which lymphocytes lie in the stroma; lower gives more.
        atypia: Atypia of the epithelium, 0 regular to 1 strongly atypical.
        tumour_atypia: Atypia where the tumour mask holds; None where the case has no mask.
    """

    seed: int
    kind: Literal["breast", "node"]
    stain: Stain
    island_um: float
    cords: bool
    epithelium: float
    lumen: float
    fibre_um: float
    waviness: float
    fibre_angle: float
    nucleus_um: float
    chromatin: float
    cytoplasm: float
    infiltrate: float
    atypia: float
    tumour_atypia: float | None = None


@dataclass(frozen=True)
class Compartments:
    """Shares of a window's pixels, float32, shape (H, W): they sum to 1.

    Attributes:
        level_HW: The island noise itself.
        epithelium_HW: Share of epithelium.
        lumen_HW: Share of lumen.
        stroma_HW: Share of everything else.
    """

    level_HW: Floats
    epithelium_HW: Floats
    lumen_HW: Floats
    stroma_HW: Floats


def compartments_HW(tissue: Tissue, field: Field) -> Compartments:
    """Return what every pixel of a window holds.

    Args:
        tissue: The case.
        field: The window.

    Returns:
        The shares, with edges as sharp as a micrometre or a pixel allows.
    """
    level = noise_HW(field, tissue.island_um, sub_seed(tissue.seed, ISLAND))
    level += FOLD_SHARE * noise_HW(field, tissue.island_um / 2.7, sub_seed(tissue.seed, ISLAND_FOLDS))
    level += EDGE_SHARE * noise_HW(field, tissue.island_um / 9.0, sub_seed(tissue.seed, ISLAND_EDGE))
    softness = np.float32(tissue.island_um / max(1.2, field.mpp))
    depth = _depth(tissue, level)
    inside = np.clip(depth * softness + 0.5, 0, 1)
    lumen = np.clip((depth - tissue.lumen) * softness + 0.5, 0, 1)
    return Compartments(level, inside - lumen, lumen, 1 - inside)


def depth_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return how deep points lie in epithelium: below 0 outside, above ``tissue.lumen`` in a lumen.

    Args:
        tissue: The case.
        x_P: Points, um.
        y_P: Points, um.

    Returns:
        float32, shape (P,).
    """
    return _depth(tissue, level_P(tissue, x_P, y_P))


def level_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return the island noise at points.

    Args:
        tissue: The case.
        x_P: Points, um.
        y_P: Points, um.

    Returns:
        float32, shape (P,).
    """
    level = noise_P(x_P, y_P, tissue.island_um, sub_seed(tissue.seed, ISLAND))
    level += FOLD_SHARE * noise_P(x_P, y_P, tissue.island_um / 2.7, sub_seed(tissue.seed, ISLAND_FOLDS))
    level += EDGE_SHARE * noise_P(x_P, y_P, tissue.island_um / 9.0, sub_seed(tissue.seed, ISLAND_EDGE))
    return level


def atypia_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return the atypia of epithelial nuclei at points.

    Args:
        tissue: The case.
        x_P: Points, um.
        y_P: Points, um.

    Returns:
        float32, shape (P,), 0 to 1.
    """
    if tissue.tumour_atypia is None:
        return np.full(x_P.shape, tissue.atypia, np.float32)
    region_P = noise_P(x_P, y_P, TUMOUR_REGION_UM, sub_seed(tissue.seed, TUMOUR)) > 0
    return np.where(region_P, tissue.tumour_atypia, tissue.atypia).astype(np.float32)


def tumour_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> NDArray[np.bool_]:
    """Return whether points lie in tumour: in epithelium, within a tumour region.

    Args:
        tissue: A case with a tumour mask.
        x_P: Points, um.
        y_P: Points, um.

    Returns:
        bool, shape (P,).
    """
    depth = depth_P(tissue, x_P, y_P)
    region_P = noise_P(x_P, y_P, TUMOUR_REGION_UM, sub_seed(tissue.seed, TUMOUR)) > 0
    return region_P & (depth > 0) & (depth < tissue.lumen)


def fibre_phase_HW(tissue: Tissue, field: Field, level_HW: Floats) -> Floats:
    """Return the phase of the collagen bundles: they run along the epithelium's edge and wave elsewhere.

    Args:
        tissue: The case.
        field: The window.
        level_HW: The island noise there.

    Returns:
        Radians over 2 pi, float32, shape (H, W).
    """
    cos, sin = np.cos(tissue.fibre_angle), np.sin(tissue.fibre_angle)
    straight = (field.x_W * (cos / tissue.fibre_um))[None, :] + (field.y_H * (sin / tissue.fibre_um))[:, None]
    phase: Floats = straight.astype(np.float32)
    wide, fine = 9 * tissue.fibre_um, 2.5 * tissue.fibre_um
    phase += np.float32(2.2 * tissue.waviness) * noise_HW(field, wide, sub_seed(tissue.seed, WARP_WIDE))
    phase += np.float32(0.3 * tissue.waviness) * noise_HW(field, fine, sub_seed(tissue.seed, WARP_FINE))
    phase += np.float32(0.5 * tissue.island_um / tissue.fibre_um) * level_HW
    return phase


def fibre_angle_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return the direction along the bundles at points, from the gradient of their phase.

    Args:
        tissue: The case.
        x_P: Points, um.
        y_P: Points, um.

    Returns:
        Radians, float32, shape (P,).
    """
    here = _fibre_phase_P(tissue, x_P, y_P)
    right, below = _fibre_phase_P(tissue, x_P + 1.0, y_P), _fibre_phase_P(tissue, x_P, y_P + 1.0)
    return np.asarray(np.arctan2(below - here, right - here) + np.pi / 2, np.float32)


def _fibre_phase_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    cos, sin = np.cos(tissue.fibre_angle), np.sin(tissue.fibre_angle)
    phase: Floats = ((x_P * cos + y_P * sin) / tissue.fibre_um).astype(np.float32)
    wide = noise_P(x_P, y_P, 9 * tissue.fibre_um, sub_seed(tissue.seed, WARP_WIDE))
    phase += np.float32(2.2 * tissue.waviness) * wide
    phase += np.float32(0.5 * tissue.island_um / tissue.fibre_um) * level_P(tissue, x_P, y_P)
    return phase


def fibre_contrast(tissue: Tissue, field: Field) -> float:
    """Return how much of the bundles' contrast the pixels show (half a wavelength is the structure)."""
    return resolved(tissue.fibre_um / 2, field.mpp)


def _depth(tissue: Tissue, level: Floats) -> Floats:
    return np.float32(tissue.epithelium) - np.abs(level) if tissue.cords else level - np.float32(tissue.epithelium)


TUMOUR_REGION_UM = 420.0
