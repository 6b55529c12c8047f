"""How large nuclei are in a tile, in pixels; or why that can't be told.

Haematoxylin, dark against pale tissue, is a plane of values between 0 and 1 on which nuclei are blobs. Its strong and
round maxima over place and scale are the nuclei. A tile is looked at once at full resolution and then at the
resolution at which its nuclei measure about six pixels, as a lower magnification would show them: the texture within
nuclei, which only fine pixels resolve, then weighs alike at every magnification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.images.blobs import Blobs, find_blobs, without_overlaps
from histotune.images.stain import find_dyes, haematoxylin_light, optical_density

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
# H height, W width, C channels (RGB), B blobs, K bins, O new pixels of an axis, I old ones

SMALLEST_PX = 3.0  # two pixels of a disc's slope on either side, one between
RESOLVED_PX = 5.0  # below, small nuclei drown and clumps pass for nuclei: rendered nuclei of 3.5 px measure 4.4
LARGEST_SHARE = 1 / 3  # of the short side
LOOK_PX, MAX_LOOKS = 6.0, 4
MIN_RESPONSE = 0.37  # half of what an isolated disc as dark as the tile's dark class gives
MIN_ROUNDNESS = 0.4  # about 2.5 : 1; fibres and fibroblasts are longer
MIN_CONTRAST = 0.15  # share of light by which nuclei must be darker
MIN_NUCLEI, MIN_COVER = 8, 0.02
TOO_SMALL = "nuclei too small for the pixels"
GLASS_DENSITY = 0.15  # below in all channels is no tissue (Macenko et al., ISBI 2009, beta)
BINS = 256


@dataclass(frozen=True)
class TileNuclei:
    """What a tile says about its nuclei.

    Attributes:
        diameter_px: Typical diameter, NaN where not estimable.
        n_nuclei: Blobs that passed for nuclei.
        reason: Why it is not estimable; empty where it is.
    """

    diameter_px: float
    n_nuclei: int
    reason: str = ""

    @property
    def too_small(self) -> bool:
        """Whether all that is known is that the nuclei are smaller than the pixels resolve."""
        return self.reason == TOO_SMALL

    @property
    def estimable(self) -> bool:
        """Whether there is a diameter."""
        return not self.reason


def nuclear_diameter(image_HWC: NDArray[np.uint8]) -> TileNuclei:
    """Measure the typical diameter of the nuclei in a tile.

    The typical diameter is the one that a random line through the tissue meets: the median over nuclei weighted by
    their diameter. Counting them equally would let specks decide.

    Args:
        image_HWC: uint8 (H, W, 3), H&E.

    Returns:
        The diameter in px of the tile as stored, or why there is none.

    Example:
        >>> nuclear_diameter(np.full((96, 96, 3), 255, np.uint8)).reason
        'no tissue'
    """
    look = _look(image_HWC)
    shrunk = 1.0
    for _ in range(MAX_LOOKS - 1):
        if not look.estimable:
            break
        wanted = min(1.0, LOOK_PX / look.diameter_px)
        if abs(math.log(wanted / shrunk)) < 0.2:
            break
        small_HWC = _shrink(image_HWC, wanted)
        shrunk = math.sqrt(small_HWC.shape[0] * small_HWC.shape[1] / (image_HWC.shape[0] * image_HWC.shape[1]))
        again = _look(small_HWC)
        look = replace(again, diameter_px=again.diameter_px / shrunk)
    if look.estimable and look.diameter_px < RESOLVED_PX:
        return TileNuclei(math.nan, look.n_nuclei, TOO_SMALL)
    return look


def nuclear_darkness(image_HWC: NDArray[np.uint8]) -> Floats | str:
    """Return how much of each pixel is nucleus, by darkness in haematoxylin alone.

    Args:
        image_HWC: uint8 (H, W, 3).

    Returns:
        float32 (H, W), 0 where as pale as the tile's pale tissue, 1 where as dark as its dark tissue; or the reason
        why the tile has no such two classes.
    """
    density_HWC = optical_density(image_HWC)
    tissue_HW = (density_HWC > GLASS_DENSITY).any(axis=2)
    if tissue_HW.mean() < MIN_COVER:
        return "no tissue"
    dyes = find_dyes(density_HWC[tissue_HW])
    if dyes is None:
        return "nothing is stained like haematoxylin"
    light_HW = haematoxylin_light(density_HWC, dyes)
    threshold = _otsu(light_HW[tissue_HW])
    dark_HW, pale_HW = tissue_HW & (light_HW > threshold), tissue_HW & (light_HW <= threshold)
    if not dark_HW.any() or not pale_HW.any():
        return "no contrast"
    pale, dark = float(light_HW[pale_HW].mean()), float(light_HW[dark_HW].mean())
    if dark - pale < MIN_CONTRAST:
        return "no contrast"
    return np.asarray(np.clip((light_HW - pale) / (dark - pale), 0, 1), np.float32)


def _look(image_HWC: NDArray[np.uint8]) -> TileNuclei:
    darkness_HW = nuclear_darkness(image_HWC)
    if isinstance(darkness_HW, str):
        return TileNuclei(math.nan, 0, darkness_HW)
    largest_px = LARGEST_SHARE * min(darkness_HW.shape)
    if largest_px <= SMALLEST_PX:
        return TileNuclei(math.nan, 0, "the tile is too small")
    blobs = find_blobs(darkness_HW, SMALLEST_PX, largest_px)
    blobs = without_overlaps(blobs.take((blobs.response >= MIN_RESPONSE) & (blobs.roundness >= MIN_ROUNDNESS)))
    cover = float((np.pi / 4 * blobs.diameter_px**2).sum()) / darkness_HW.size
    if len(blobs) < MIN_NUCLEI or cover < MIN_COVER:
        return TileNuclei(math.nan, len(blobs), "too few nuclei")
    return TileNuclei(_line_median(blobs), len(blobs))


def _line_median(blobs: Blobs) -> float:
    ordered_B = np.sort(blobs.diameter_px)
    reached_B = np.cumsum(ordered_B)
    return float(ordered_B[np.searchsorted(reached_B, reached_B[-1] / 2)])


def _otsu(values: Floats) -> float:
    """Return the threshold between two classes of least variance (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return high
    count_K, edge_K = np.histogram(values, BINS, range=(low, high))
    centre_K = (edge_K[1:] + edge_K[:-1]) / 2
    share_K = np.cumsum(count_K)[:-1] / count_K.sum()
    moment_K = np.cumsum(count_K * centre_K) / count_K.sum()
    between_K = (moment_K[-1] * share_K - moment_K[:-1]) ** 2 / np.maximum(share_K * (1 - share_K), 1e-12)
    return float(edge_K[1:-1][np.argmax(between_K)])


def _shrink(image_HWC: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Average light over areas, as a lower magnification does; equal for a flipped or turned tile."""
    height, width = (max(1, round(side * share)) for side in image_HWC.shape[:2])
    down_OH, along_OW = _areas(image_HWC.shape[0], height), _areas(image_HWC.shape[1], width)
    light_HWC = np.einsum("oh,hwc->owc", down_OH, image_HWC.astype(np.float64), optimize=True)
    light_HWC = np.einsum("ow,hwc->hoc", along_OW, light_HWC, optimize=True)
    return np.asarray(np.rint(light_HWC), np.uint8)


def _areas(in_px: int, out_px: int) -> NDArray[np.float64]:
    """Return the share of each new pixel (rows) that each old one covers; Pillow's box filter counts whole pixels."""
    edges_O, starts_I = np.linspace(0, in_px, out_px + 1), np.arange(in_px)
    upper_OI = np.minimum(edges_O[1:, None], starts_I[None] + 1)
    covered_OI = upper_OI - np.maximum(edges_O[:-1, None], starts_I[None])
    return np.asarray(np.maximum(covered_OI, 0) * (out_px / in_px))
