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

from histotune.images.stain import find_dyes, haematoxylin_light, optical_density

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

# H height, W width, C channels (RGB), B blobs, K bins, L scales of an octave and their neighbours,
# O new pixels of an axis, I old ones


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
        enlarged: Whether the tile looks as if it had been enlarged, so that its pixels show no detail of their own.
    """

    diameter_px: float
    n_nuclei: int
    reason: str = ""
    enlarged: bool = False

    @property
    def estimable(self) -> bool:
        """Whether there is a diameter."""
        return not self.reason


def nuclear_diameter(image_HWC: NDArray[np.uint8]) -> TileNuclei:
    """Measure the typical diameter of the nuclei in a tile.

    The typical diameter is the one that a random line through the tissue meets: the median over nuclei weighted by
    their diameter. Counting them equally would let specks decide.

    Example:
        >>> nuclear_diameter(np.full((96, 96, 3), 255, np.uint8)).reason
        'no tissue'
    """
    return replace(_diameter(image_HWC), enlarged=missing_detail(image_HWC))


def _diameter(image_HWC: NDArray[np.uint8]) -> TileNuclei:
    """Look at full resolution, then at the one at which nuclei measure about six pixels."""
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
    """Return how much of each pixel is nucleus, by darkness in haematoxylin alone."""
    density_HWC = optical_density(image_HWC)
    tissue_HW = np.maximum(np.maximum(density_HWC[..., 0], density_HWC[..., 1]), density_HWC[..., 2]) > GLASS_DENSITY
    if tissue_HW.mean() < MIN_COVER:
        return "no tissue"
    dyes = find_dyes(density_HWC.reshape(-1, 3))  # which looks at stained pixels alone, and all of these are tissue
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
    blobs = find_blobs(darkness_HW, SMALLEST_PX, largest_px, MIN_RESPONSE)
    blobs = without_overlaps(blobs.take(blobs.roundness >= MIN_ROUNDNESS))
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
    # Otsu: the split whose variance between both sides, (mu w - m)^2 / (w (1 - w)), is largest; w is the share and m
    # the first moment below it, mu the mean of all.
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
    light_OWC = (down_OH @ image_HWC.reshape(len(image_HWC), -1).astype(np.float64)).reshape(height, -1, 3)
    turned_WOC = np.ascontiguousarray(light_OWC.transpose(1, 0, 2))
    light_OOC = (along_OW @ turned_WOC.reshape(len(turned_WOC), -1)).reshape(width, height, 3)
    return np.asarray(np.rint(light_OOC.transpose(1, 0, 2)), np.uint8, order="C")


def _areas(in_px: int, out_px: int) -> csr_array:
    """Return the share of each new pixel (rows) that each old one covers; Pillow's box filter counts whole pixels."""
    from scipy.sparse import csr_array

    edges_O, starts_I = np.linspace(0, in_px, out_px + 1), np.arange(in_px)
    upper_OI = np.minimum(edges_O[1:, None], starts_I[None] + 1)
    covered_OI = upper_OI - np.maximum(edges_O[:-1, None], starts_I[None])
    return csr_array(np.maximum(covered_OI, 0) * (out_px / in_px))


# ---- Detail: what the finest pixels still show ----
#
# An image that was enlarged has pixels without detail of their own: its spectrum falls off before the finest waves.


DETAIL_PX = 256  # side of the middle that is looked at
FINEST = (0.4, 0.5)  # waves per pixel
# Decades by which the finest waves must lie below longer ones. Medians of five real sets are -0.4 to -1.0 for the first
# band and -1.1 to -2.1 for the second; enlarged twice by interpolation -1.7 to -2.3, and thrice below -3.
FALLS = (((0.2, 0.3), -1.6), ((0.1, 0.2), -2.8))
REPEATS, ONLY_THERE = (2, 3, 4), 0.95  # share of all changes between neighbours that lie at every k-th place


def missing_detail(image_HWC: NDArray[np.uint8]) -> bool:
    """Whether an image looks as if it had been enlarged: the finest waves are missing, or every pixel is repeated.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        >>> missing_detail(noise), missing_detail(noise.repeat(2, axis=0).repeat(2, axis=1))
        (False, True)
    """
    top, left = (max(0, (side - DETAIL_PX) // 2) for side in image_HWC.shape[:2])
    middle_HWC = image_HWC[top : top + DETAIL_PX, left : left + DETAIL_PX]
    if min(middle_HWC.shape[:2]) < 16 or not np.ptp(middle_HWC):
        return False
    changed = ((np.diff(middle_HWC, axis=axis) != 0).any(axis=2).sum(axis=1 - axis) for axis in (0, 1))
    if all(_is_repeated(changes_L) for changes_L in changed):
        return True
    # the mean power of the finest waves over that of longer ones, in decades
    grey_HW = middle_HWC.astype(np.float32).mean(axis=2)
    window_HW = np.hanning(grey_HW.shape[0])[:, None] * np.hanning(grey_HW.shape[1])[None, :]
    power_HW = np.abs(np.fft.rfft2((grey_HW - grey_HW.mean()) * window_HW)) ** 2
    down_H1, along_1W = np.fft.fftfreq(grey_HW.shape[0])[:, None], np.fft.rfftfreq(grey_HW.shape[1])[None, :]
    wave_HW = np.hypot(down_H1, along_1W)
    bands = (FINEST, *(band for band, _ in FALLS))
    fine, *longer = (float(power_HW[(wave_HW >= low) & (wave_HW < high)].mean()) for low, high in bands)
    return any(power > 0 and fine < 10**fall * power for power, (_, fall) in zip(longer, FALLS, strict=True))


def _is_repeated(changes_L: NDArray[np.integer]) -> bool:
    """Whether neighbours change at every second, third or fourth place alone, as where each pixel was repeated."""
    total = changes_L.sum()
    shares = (changes_L[start::step].sum() / total for step in REPEATS for start in range(step) if total)
    return any(share > ONLY_THERE for share in shares)


# ---- Blobs: maxima of the scale-normalised Laplacian of Gaussian ----
#
# Lindeberg, Feature detection with automatic scale selection, Int. J. Comput. Vision 30(2), 1998. All Gaussians are
# applied to one cosine transform of the plane: exact at every scale, mirrored at the borders, equal for a flipped or
# turned plane, and coarse scales cost a quarter of the pixels per octave because only their low frequencies are kept.


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
        """Return some of the blobs."""
        return Blobs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def find_blobs(plane_HW: Floats, smallest_px: float, largest_px: float, faintest: float = FAINTEST) -> Blobs:
    """Return the maxima of the scale-normalised Laplacian over place and scale that answer at least so much."""
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
        found.append(_maxima(answers_LHW, first_sigma * 2**octave, plane_HW.shape, faintest))
    empty = tuple(np.zeros(0) for _ in Blobs.__dataclass_fields__)
    blobs = Blobs(*(np.concatenate(columns) for columns in zip(empty, *found, strict=True)))
    return blobs.take((blobs.diameter_px >= smallest_px) & (blobs.diameter_px <= largest_px))


def without_overlaps(blobs: Blobs) -> Blobs:
    """Keep the stronger of two blobs where the centre of one lies within the other."""
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

    # The low frequencies alone are the plane at half the size per octave; the factor keeps its values, since
    # orthonormal coefficients grow with the square root of the number of pixels.
    full_height, full_width = coefficients_HW.shape
    height, width = (math.ceil(side / 2**octave) for side in coefficients_HW.shape)
    kept_HW = coefficients_HW[:height, :width] * np.float32(math.sqrt(height * width / (full_height * full_width)))
    down_H = np.pi * np.arange(height, dtype=np.float32) / full_height
    along_W = np.pi * np.arange(width, dtype=np.float32) / full_width
    bent_HW = kept_HW * (down_H[:, None] ** 2 + along_W[None, :] ** 2)
    answers_LHW = np.empty((PER_OCTAVE + 2, height, width), np.float32)
    for step in range(PER_OCTAVE + 2):
        sigma = first_sigma * 2 ** (octave + step / PER_OCTAVE)
        # minus sigma^2 times the Laplacian of the Gaussian (Lindeberg 1998, section 4), in frequencies: the Gaussian
        # exp(-sigma^2 (u^2 + v^2) / 2) is a product of its two axes
        blur_H, blur_W = (np.exp(-(sigma**2) * axis**2 / 2).astype(np.float32) for axis in (down_H, along_W))
        product_HW = bent_HW * (np.float32(sigma**2) * blur_H)[:, None] * blur_W[None, :]
        answers_LHW[step] = fft.idctn(product_HW, type=2, norm="ortho", overwrite_x=True)
    return answers_LHW


def _maxima(answers_LHW: Floats, first_sigma: float, shape: tuple[int, ...], faintest: float) -> tuple[Doubles, ...]:
    """Return the columns of :class:`Blobs` for the maxima of one octave."""
    _, height, width = answers_LHW.shape
    step, y, x = np.unravel_index(_peaks(answers_LHW, faintest), answers_LHW.shape)
    here = answers_LHW[step, y, x].astype(np.float64)
    below, above = (answers_LHW[step + shift, y, x].astype(np.float64) for shift in (-1, 1))
    # A parabola through the three scales puts the maximum at (below - above) / (2 (below - 2 here + above)) steps.
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


def _peaks(answers_LHW: Floats, faintest: float) -> NDArray[np.int64]:
    """Return the places of the highest of 3 x 3 x 3 answers, off every border, where some of them are missing."""
    # Only what answers enough is compared with its 26 neighbours, one neighbour at a time: each leaves fewer.
    steps_L, down, along = answers_LHW.shape[0], answers_LHW.shape[1] * answers_LHW.shape[2], answers_LHW.shape[2]
    enough_LHW = answers_LHW >= np.float32(faintest)
    enough_LHW[[0, steps_L - 1]] = enough_LHW[:, [0, -1]] = enough_LHW[:, :, [0, -1]] = False
    flat, places = answers_LHW.reshape(-1), np.flatnonzero(enough_LHW)
    near = [(layer, row, column) for row in (0, -1, 1) for column in (-1, 1, 0) for layer in (0, -1, 1)]
    for layer, row, column in near:
        if (layer, row, column) != (0, 0, 0):
            places = places[flat[places] >= flat[places + layer * down + row * along + column]]
    return places


def _roundness(answers_LHW: Floats, step: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> Doubles:
    """Return the ratio of the two curvatures at each maximum, from its eight neighbours (Lowe 2004, section 4.1)."""

    def at(down: int, along: int) -> Doubles:
        """Return the answers one pixel further in a direction."""
        return answers_LHW[step, y + down, x + along].astype(np.float64)

    across = at(0, -1) - 2 * at(0, 0) + at(0, 1)
    down = at(-1, 0) - 2 * at(0, 0) + at(1, 0)
    mixed = (at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)) / 4
    half, spread = (across + down) / 2, np.hypot((across - down) / 2, mixed)
    return np.asarray(np.clip((half + spread) / np.minimum(half - spread, -1e-12), 0, 1))
