"""What is kept of a tile's pixels: a content hash, a 16x16 grey thumbnail, and a few numbers about its stain."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

THUMB = 16
STAIN = ("density", "red_share", "blue_share")
TISSUE_DENSITY = 0.15  # optical density from which a pixel is stained: Macenko et al., ISBI 2009 (their beta)
DARK = 12  # a pixel darker than this in every channel is no tissue but padding or a pen
STAIN_PIXELS = 65_536  # of larger tiles every k-th row and column is looked at
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# N tiles, H height, W width, C channels (RGB), T side of the thumbnail, F stain features


@dataclass(frozen=True)
class Prints:
    """Small arrays about many tiles, rows in tile order.

    Attributes:
        digest_N2: uint64 (N, 2): 128-bit hash of size and decoded pixels.
        thumb_NTT: uint8 (N, 16, 16): grey means of a 16x16 grid.
        stain_NF: float32 (N, 3): mean optical density of the stained pixels, and the share of red and blue in it;
            NaN where nothing is stained.
        tissue_N: float32: share of stained pixels.
        constant_N: Whether all pixels are equal.
        read_N: Whether the tile could be read; other rows hold nothing.
    """

    digest_N2: NDArray[np.uint64]
    thumb_NTT: NDArray[np.uint8]
    stain_NF: NDArray[np.float32]
    tissue_N: NDArray[np.float32]
    constant_N: NDArray[np.bool_]
    read_N: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.read_N)

    @property
    def bytes_per_tile(self) -> int:
        """Memory that one tile takes, in bytes."""
        return sum(int(array[:1].nbytes) for array in vars(empty_prints(1)).values())

    def put(self, rows: NDArray[np.int64], block: Prints) -> None:
        """Store a block's rows at the given places."""
        for name, array in vars(self).items():
            array[rows] = getattr(block, name)

    def take(self, rows: NDArray[np.int64]) -> Prints:
        """Return the given rows, in that order."""
        return Prints(**{name: array[rows] for name, array in vars(self).items()})


def empty_prints(n: int) -> Prints:
    """Return room for ``n`` tiles, none of them read."""
    return Prints(
        digest_N2=np.zeros((n, 2), np.uint64),
        thumb_NTT=np.zeros((n, THUMB, THUMB), np.uint8),
        stain_NF=np.full((n, len(STAIN)), np.nan, np.float32),
        tissue_N=np.zeros(n, np.float32),
        constant_N=np.zeros(n, np.bool_),
        read_N=np.zeros(n, np.bool_),
    )


def prints_of(pixels_NHWC: NDArray[np.uint8]) -> Prints:
    """Return the prints of some tiles of one size.

    Args:
        pixels_NHWC: uint8 (N, H, W, 3) RGB.

    Returns:
        A row per tile.

    Example:
        >>> prints_of(np.zeros((2, 96, 96, 3), np.uint8)).constant_N.tolist()
        [True, True]
    """
    n = len(pixels_NHWC)
    stain_NF, tissue_N = _stain(pixels_NHWC)
    thumb_NTT = _thumbs(pixels_NHWC)
    return Prints(
        digest_N2=np.stack([_digest(pixels_HWC) for pixels_HWC in pixels_NHWC]),
        thumb_NTT=thumb_NTT,
        stain_NF=stain_NF,
        tissue_N=tissue_N,
        constant_N=np.array([_constant(*pair) for pair in zip(pixels_NHWC, thumb_NTT, strict=True)], np.bool_),
        read_N=np.ones(n, np.bool_),
    )


def _constant(pixels_HWC: NDArray[np.uint8], thumb_TT: NDArray[np.uint8]) -> bool:
    return bool((thumb_TT == thumb_TT[0, 0]).all() and (pixels_HWC == pixels_HWC[0, 0]).all())


def _digest(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint64]:
    digest = hashlib.blake2b(f"{pixels_HWC.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels_HWC).data)
    return np.frombuffer(digest.digest(), "<u8").astype(np.uint64)


def _thumbs(pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey means over a 16x16 grid whose lines lie symmetrically, so that a mirrored tile has a mirrored thumbnail."""
    starts_y, heights = _grid(pixels_NHWC.shape[1])
    starts_x, widths = _grid(pixels_NHWC.shape[2])
    columns_NHTC = np.add.reduceat(pixels_NHWC, starts_x, axis=2, dtype=np.uint32)
    sums_NTTC = np.add.reduceat(columns_NHTC, starts_y, axis=1, dtype=np.uint64)
    grey_NTT = sums_NTTC.astype(np.float32) @ GREY / (heights[:, None] * widths).astype(np.float32)
    return np.rint(grey_NTT).astype(np.uint8)


def _grid(length_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel and length of each of 16 parts, mirrored about the middle; tiles under 16 px repeat pixels."""
    lower = [math.floor(part * length_px / THUMB + 0.5) for part in range(THUMB // 2)]
    upper = [length_px - edge for edge in reversed(lower)]
    edges = np.array([*lower, length_px // 2, *upper], np.int64)
    starts = np.minimum(edges[:-1], length_px - 1)
    return starts, np.maximum(np.diff(edges), 1)


def _stain(pixels_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stain features and share of stained pixels.

    Optical density is -log10 of transmitted light (Beer-Lambert); its direction is the hue, its length the amount.
    """
    step = max(1, math.ceil(math.sqrt(pixels_NHWC.shape[1] * pixels_NHWC.shape[2] / STAIN_PIXELS)))
    seen_NPC = pixels_NHWC[:, ::step, ::step].reshape(len(pixels_NHWC), -1, 3)
    density_by_level = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    density_CNP = [density_by_level[seen_NPC[:, :, channel]] for channel in range(3)]
    dark = density_by_level[DARK]
    stained_NP = density_CNP[0] + density_CNP[1] + density_CNP[2] > 3 * TISSUE_DENSITY
    stained_NP &= (density_CNP[0] < dark) | (density_CNP[1] < dark) | (density_CNP[2] < dark)
    n_stained_N = stained_NP.sum(axis=1)
    sums_CN = [np.where(stained_NP, density_NP, 0).sum(axis=1, dtype=np.float64) for density_NP in density_CNP]
    total_N = sums_CN[0] + sums_CN[1] + sums_CN[2]
    with np.errstate(invalid="ignore", divide="ignore"):
        stain_NF = np.stack([total_N / (3 * n_stained_N), sums_CN[0] / total_N, sums_CN[2] / total_N], axis=1)
    return stain_NF.astype(np.float32), (n_stained_N / stained_NP.shape[1]).astype(np.float32)
