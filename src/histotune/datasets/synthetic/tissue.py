"""One case's tissue: where epithelium, lumen, stroma and tumour lie on an endless plane in micrometres.

Compartments are level sets of smooth noise, which gives islands with lumens, or cords; they can be asked for on the
pixels of any window or at points, with the same answer. Shapes: H x W pixels, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Ints = NDArray[np.int64]


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


def compartments_HW(tissue: Tissue, field: FieldWindow) -> Compartments:
    """Return what every pixel of a window holds."""
    level = noise_HW(field, tissue.island_um, sub_seed(tissue.seed, ISLAND))
    level += FOLD_SHARE * noise_HW(field, tissue.island_um / 2.7, sub_seed(tissue.seed, ISLAND_FOLDS))
    level += EDGE_SHARE * noise_HW(field, tissue.island_um / 9.0, sub_seed(tissue.seed, ISLAND_EDGE))
    softness = np.float32(tissue.island_um / max(1.2, field.mpp))
    depth = _depth(tissue, level)
    inside = np.clip(depth * softness + 0.5, 0, 1)
    lumen = np.clip((depth - tissue.lumen) * softness + 0.5, 0, 1)
    return Compartments(level, inside - lumen, lumen, 1 - inside)


def depth_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return how deep points lie in epithelium: below 0 outside, above ``tissue.lumen`` in a lumen."""
    return _depth(tissue, level_P(tissue, x_P, y_P))


def level_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return the island noise at points."""
    level = noise_P(x_P, y_P, tissue.island_um, sub_seed(tissue.seed, ISLAND))
    level += FOLD_SHARE * noise_P(x_P, y_P, tissue.island_um / 2.7, sub_seed(tissue.seed, ISLAND_FOLDS))
    level += EDGE_SHARE * noise_P(x_P, y_P, tissue.island_um / 9.0, sub_seed(tissue.seed, ISLAND_EDGE))
    return level


def atypia_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return the atypia of epithelial nuclei at points."""
    if tissue.tumour_atypia is None:
        return np.full(x_P.shape, tissue.atypia, np.float32)
    region_P = noise_P(x_P, y_P, TUMOUR_REGION_UM, sub_seed(tissue.seed, TUMOUR)) > 0
    return np.where(region_P, tissue.tumour_atypia, tissue.atypia).astype(np.float32)


def tumour_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> NDArray[np.bool_]:
    """Return whether points lie in tumour: in epithelium, within a tumour region."""
    depth = depth_P(tissue, x_P, y_P)
    region_P = noise_P(x_P, y_P, TUMOUR_REGION_UM, sub_seed(tissue.seed, TUMOUR)) > 0
    return region_P & (depth > 0) & (depth < tissue.lumen)


def fibre_phase_HW(tissue: Tissue, field: FieldWindow, level_HW: Floats) -> Floats:
    """Return the phase of the collagen bundles: they run along the epithelium's edge and wave elsewhere."""
    cos, sin = np.cos(tissue.fibre_angle), np.sin(tissue.fibre_angle)
    # The phase counts fibres across their direction; noise of a wide and of a fine scale bends them, and they bend
    # around islands of epithelium.
    straight = (field.x_W * (cos / tissue.fibre_um))[None, :] + (field.y_H * (sin / tissue.fibre_um))[:, None]
    phase: Floats = straight.astype(np.float32)
    wide, fine = 9 * tissue.fibre_um, 2.5 * tissue.fibre_um
    phase += np.float32(2.2 * tissue.waviness) * noise_HW(field, wide, sub_seed(tissue.seed, WARP_WIDE))
    phase += np.float32(0.3 * tissue.waviness) * noise_HW(field, fine, sub_seed(tissue.seed, WARP_FINE))
    phase += np.float32(0.5 * tissue.island_um / tissue.fibre_um) * level_HW
    return phase


def fibre_angle_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    """Return the direction along the bundles at points, from the gradient of their phase."""
    here = _fibre_phase_P(tissue, x_P, y_P)
    right, below = _fibre_phase_P(tissue, x_P + 1.0, y_P), _fibre_phase_P(tissue, x_P, y_P + 1.0)
    return np.asarray(np.arctan2(below - here, right - here) + np.pi / 2, np.float32)


def _fibre_phase_P(tissue: Tissue, x_P: Doubles, y_P: Doubles) -> Floats:
    cos, sin = np.cos(tissue.fibre_angle), np.sin(tissue.fibre_angle)
    # As in fibre_phase_HW, but for the finest noise, which turns the direction of no bundle.
    phase: Floats = ((x_P * cos + y_P * sin) / tissue.fibre_um).astype(np.float32)
    wide = noise_P(x_P, y_P, 9 * tissue.fibre_um, sub_seed(tissue.seed, WARP_WIDE))
    phase += np.float32(2.2 * tissue.waviness) * wide
    phase += np.float32(0.5 * tissue.island_um / tissue.fibre_um) * level_P(tissue, x_P, y_P)
    return phase


def fibre_contrast(tissue: Tissue, field: FieldWindow) -> float:
    """Return how much of the bundles' contrast the pixels show (half a wavelength is the structure)."""
    return resolved(tissue.fibre_um / 2, field.mpp)


def _depth(tissue: Tissue, level: Floats) -> Floats:
    return np.float32(tissue.epithelium) - np.abs(level) if tissue.cords else level - np.float32(tissue.epithelium)


TUMOUR_REGION_UM = 420.0


# ---- Random functions of a plane in micrometres ----
#
# Values sit on a lattice, where a hash of the lattice point gives them, and a cubic B-spline runs between. Nothing is
# stored, so a window of any size, anywhere, at any scale, costs only its own pixels. Shapes: H x W pixels, P points.


SPLINE_GAIN = 3.615  # sqrt(3) for a uniform value times 1 / 0.479, the mean squared spline weight: unit variance


@dataclass(frozen=True)
class FieldWindow:
    """A window on the plane, cut into pixels.

    Attributes:
        left_um: Left edge.
        top_um: Top edge.
        mpp: Micrometres per pixel.
        width_px: Width.
        height_px: Height.
    """

    left_um: float
    top_um: float
    mpp: float
    width_px: int
    height_px: int

    @property
    def x_W(self) -> NDArray[np.float64]:
        """Pixel centres along x, um."""
        return np.asarray(self.left_um + (np.arange(self.width_px) + 0.5) * self.mpp, np.float64)

    @property
    def y_H(self) -> NDArray[np.float64]:
        """Pixel centres along y, um."""
        return np.asarray(self.top_um + (np.arange(self.height_px) + 0.5) * self.mpp, np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height_px, self.width_px


def centred_field(x_um: float, y_um: float, mpp: float, size_px: tuple[int, int]) -> FieldWindow:
    """Return the window around a point."""
    width, height = size_px
    return FieldWindow(x_um - width * mpp / 2, y_um - height * mpp / 2, mpp, width, height)


def hash_uniform(x: Ints, y: Ints, seed: int) -> Floats:
    """Return a number in [0, 1) per integer pair: equal pairs and seeds give equal numbers everywhere."""
    mixed = _mix(_mix(x.astype(np.uint32) + np.uint32(seed & 0xFFFFFFFF)) + y.astype(np.uint32))
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def sub_seed(seed: int, channel: int) -> int:
    """Return the seed of one of many independent random functions of a case."""
    return int(_mix(np.array([seed & 0xFFFFFFFF], np.uint32) ^ _mix(np.array([channel], np.uint32)))[0])


def resolved(size_um: float, mpp: float) -> float:
    """Return how much of a structure survives the pixels: 0 below one pixel, 1 from two and a half."""
    return float(np.clip((size_um / mpp - 1.0) / 1.5, 0.0, 1.0))


def noise_HW(field: FieldWindow, spacing_um: float, seed: int) -> Floats:
    """Return smooth noise of unit variance on the pixels of a window."""
    gain = resolved(spacing_um, field.mpp)
    if gain == 0.0:
        return np.zeros(field.shape, np.float32)
    first_x, tap_W, weight_W4 = _taps(field.x_W / spacing_um)
    first_y, tap_H, weight_H4 = _taps(field.y_H / spacing_um)
    lattice = _lattice(first_x, first_y, int(tap_W[-1]) + 4, int(tap_H[-1]) + 4, seed) * np.float32(gain)
    wide = lattice[:, tap_W] * weight_W4[0]
    for k in range(1, 4):
        wide += lattice[:, tap_W + k] * weight_W4[k]
    out: Floats = wide[tap_H] * weight_H4[0][:, None]
    for k in range(1, 4):
        out += wide[tap_H + k] * weight_H4[k][:, None]
    return out


def noise_P(x_P: NDArray[np.float64], y_P: NDArray[np.float64], spacing_um: float, seed: int) -> Floats:
    """Return the same noise at scattered points."""
    if x_P.size == 0:
        return np.zeros(0, np.float32)
    first_x, tap_x_P, weight_x_P4 = _taps(x_P / spacing_um)
    first_y, tap_y_P, weight_y_P4 = _taps(y_P / spacing_um)
    n_x, n_y = int(tap_x_P.max()) + 4, int(tap_y_P.max()) + 4
    flat = _lattice(first_x, first_y, n_x, n_y, seed).ravel()
    out = np.zeros(x_P.shape, np.float32)
    for k in range(4):
        base_P = (tap_y_P + k) * n_x + tap_x_P
        row_P = flat[base_P] * weight_x_P4[0]
        for j in range(1, 4):
            row_P += flat[base_P + j] * weight_x_P4[j]
        out += row_P * weight_y_P4[k]
    return out


def _lattice(first_x: int, first_y: int, n_x: int, n_y: int, seed: int) -> Floats:
    x, y = np.arange(first_x, first_x + n_x), np.arange(first_y, first_y + n_y)
    return (hash_uniform(x[None, :], y[:, None], seed) * 2 - 1) * np.float32(SPLINE_GAIN)


def _taps(position: NDArray[np.float64]) -> tuple[int, Ints, Floats]:
    """First lattice index, per position its first tap relative to that, and its four B-spline weights."""
    # Uniform cubic B-spline: the weights of four neighbours at the fraction f, (1 - f)^3 to f^3 over 6, which sum to 1.
    whole = np.floor(position)
    f = (position - whole).astype(np.float32)
    first = int(whole.min()) - 1
    g = 1 - f
    weights = np.stack([g * g * g, 3 * f**3 - 6 * f * f + 4, 3 * g**3 - 6 * g * g + 4, f**3]) / np.float32(6)
    return first, whole.astype(np.int64) - 1 - first, weights.astype(np.float32)


def _mix(h: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Spread every input bit over all output bits (lowbias32 by C. Wellons)."""
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(0x7FEB352D)
    h = h ^ (h >> np.uint32(15))
    h = h * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))
