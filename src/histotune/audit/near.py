"""Near duplicates: perceptual hashes found by multi-index hashing, then confirmed on thumbnails.

A hash is the signs of the 63 lowest frequencies of a tile's thumbnail. Brightness, contrast, stain strength and JPEG
leave signs alone; mirroring changes the sign of odd frequencies and transposing swaps them, so that the hashes of all
eight orientations follow from one by moving bits. Two hashes that differ in at most 7 of 64 bits agree, up to one bit,
in one of four bands of 16 bits, so only tiles that share such a band are compared (Norouzi, Punjani, Fleet: Fast
search in Hamming space with multi-index hashing, CVPR 2012). That is exact, and far from quadratic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.audit.prints import THUMB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LOW = 8  # frequencies per axis in the hash
PART = 4  # a thumbnail has 4 x 4 parts of this side
BANDS, BAND_BITS = 4, 16
CANDIDATES = 1_000_000  # compared at once
FLAT_LEVELS = 1.0  # standard deviation of a part in grey levels; below it rounding drowns what is there
LEAST_PARTS = 8  # of 16 parts must not be flat: one tissue edge crosses about five, and look-alikes share edges
AGREEING = 0.75  # share of these parts that must agree
UPRIGHT = 0
N_ORIENTATIONS = 8  # bit 0 mirrors left-right, bit 1 top-bottom, bit 2 transposes first
# N tiles, M candidate pairs, T side of the thumbnail, L frequencies per axis, Q parts, S pixels of a part


@dataclass(frozen=True)
class Pairs:
    """Pairs of tiles, each once, the lower row first.

    Attributes:
        first_M: Row of one tile.
        second_M: Row of the other, larger than ``first_M``.
        orientation_M: How the first is turned to match the second, 0 to 7; 0 is upright.
    """

    first_M: NDArray[np.int64]
    second_M: NDArray[np.int64]
    orientation_M: NDArray[np.int8]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first_M)


def spectrum(thumb_NTT: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the two-dimensional cosine transform of thumbnails, orthonormal, float32 (N, 16, 16)."""
    place = np.arange(THUMB) + 0.5
    basis_TT = np.cos(np.pi / THUMB * np.outer(np.arange(THUMB), place)) * np.sqrt(2 / THUMB)
    basis_TT[0] /= np.sqrt(2)
    basis_TT = basis_TT.astype(np.float32)
    result_NTT: NDArray[np.float32] = basis_TT @ thumb_NTT.astype(np.float32) @ basis_TT.T
    return result_NTT


def turn(spectrum_NLL: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Return the spectrum of the mirrored or turned tile.

    Args:
        spectrum_NLL: Cosine spectra.
        orientation: 0 to 7: transposed first (4), then mirrored left-right (1) and top-bottom (2).

    Returns:
        Spectra of the same shape.
    """
    turned_NLL = spectrum_NLL.swapaxes(1, 2) if orientation & 4 else spectrum_NLL
    return turned_NLL * _turn_signs(spectrum_NLL.shape[1], orientation)


def turn_pixels(thumb_NTT: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return mirrored or turned thumbnails; see :func:`turn`."""
    turned_NTT = thumb_NTT.swapaxes(1, 2) if orientation & 4 else thumb_NTT
    turned_NTT = turned_NTT[:, :, ::-1] if orientation & 1 else turned_NTT
    return turned_NTT[:, ::-1] if orientation & 2 else turned_NTT


def comparable(thumb_NTT: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return whether each thumbnail has enough structure, in enough places, to be told from others, (N,)."""
    enough_N = np.empty(len(thumb_NTT), np.bool_)
    for start in range(0, len(thumb_NTT), 16_384):
        parts_NQS = _parts(thumb_NTT[start : start + 16_384])
        textured_NQ = (parts_NQS**2).mean(axis=2) >= FLAT_LEVELS**2
        enough_N[start : start + 16_384] = textured_NQ.sum(axis=1) >= LEAST_PARTS
    return enough_N


def perceptual_hashes(thumb_NTT: NDArray[np.uint8], orientation: int = UPRIGHT) -> NDArray[np.uint64]:
    """Return the 64-bit hash of each thumbnail as it looks in an orientation.

    Args:
        thumb_NTT: uint8 (N, 16, 16).
        orientation: See :func:`turn`.

    Returns:
        uint64 (N,); the lowest bit, which would be the mean, is always 0.
    """
    hashes_N = np.empty(len(thumb_NTT), np.uint64)
    for start in range(0, len(thumb_NTT), 16_384):
        low_NLL = turn(spectrum(thumb_NTT[start : start + 16_384])[:, :LOW, :LOW], orientation)
        bits_NB = (low_NLL > 0).reshape(len(low_NLL), LOW * LOW)
        bits_NB[:, 0] = False
        packed = np.packbits(bits_NB, axis=1, bitorder="little")
        hashes_N[start : start + 16_384] = packed.view("<u8")[:, 0]
    return hashes_N


def near_pairs(
    hashes_N: NDArray[np.uint64], turned_N: NDArray[np.uint64], max_bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield all (i, j), i < j, where the turned hash of i and the hash of j differ in at most ``max_bits`` bits.

    Args:
        hashes_N: Hash per tile.
        turned_N: Hash per tile in another orientation; the same array for upright pairs.
        max_bits: 0 to 7.

    Yields:
        Rows i and rows j, some thousand at a time; a pair may come up to four times.
    """
    masks = np.array([0, *(1 << bit for bit in range(BAND_BITS))] if max_bits >= BANDS else [0], np.int64)
    for band in range(BANDS):
        keys_N = _band(hashes_N, band)
        order_N = np.argsort(keys_N, kind="stable")
        first_of_key = np.searchsorted(keys_N[order_N], np.arange(2**BAND_BITS + 1))
        wanted_N = _band(turned_N, band)
        for mask in masks:
            yield from _compare(hashes_N, turned_N, max_bits, order_N, first_of_key, wanted_N ^ mask)


def confirmed(
    thumb_NTT: NDArray[np.uint8],
    first_M: NDArray[np.int64],
    second_M: NDArray[np.int64],
    orientation: int,
    correlation: float,
) -> NDArray[np.bool_]:
    """Say which pairs show the same picture: nearly every part of the thumbnails must agree by itself.

    Look-alike tissue agrees in its outline, which dominates a correlation over the whole; it does not agree in each
    of sixteen parts whose own means are taken off.

    Args:
        thumb_NTT: Thumbnails.
        first_M: Rows whose thumbnail is turned.
        second_M: Rows compared with.
        orientation: How the first are turned.
        correlation: Least correlation of three quarters of the parts.

    Returns:
        True where the pair is confirmed, (M,).
    """
    left_MQS, right_MQS = _parts(turn_pixels(thumb_NTT[first_M], orientation)), _parts(thumb_NTT[second_M])
    energy_left_MQ, energy_right_MQ = (left_MQS**2).mean(axis=2), (right_MQS**2).mean(axis=2)
    used_MQ = (energy_left_MQ >= FLAT_LEVELS**2) & (energy_right_MQ >= FLAT_LEVELS**2)
    scale_MQ = np.sqrt(np.where(used_MQ, energy_left_MQ * energy_right_MQ, 1))
    agree_MQ = used_MQ & ((left_MQS * right_MQS).mean(axis=2) >= correlation * scale_MQ)
    n_used_M = used_MQ.sum(axis=1)
    result_M: NDArray[np.bool_] = (n_used_M >= LEAST_PARTS) & (agree_MQ.sum(axis=1) >= AGREEING * n_used_M)
    return result_M


def find_near(thumb_NTT: NDArray[np.uint8], max_bits: int, correlation: float, orientations: bool) -> Iterator[Pairs]:
    """Yield confirmed pairs of near duplicates, each once, a batch at a time.

    Args:
        thumb_NTT: Thumbnails of tiles that are :func:`comparable` and no copies of each other.
        max_bits: Bits in which hashes may differ.
        correlation: Least correlation of the parts, see :func:`confirmed`.
        orientations: Also look for mirrored and turned copies.

    Yields:
        Pairs, by row of ``thumb_NTT``; a pair that matches in several orientations comes once for each.
    """
    hashes_N = perceptual_hashes(thumb_NTT)
    for orientation in range(N_ORIENTATIONS if orientations else 1):
        turned_N = hashes_N if orientation == UPRIGHT else perceptual_hashes(thumb_NTT, orientation)
        for first_M, second_M in near_pairs(hashes_N, turned_N, max_bits):
            kept = confirmed(thumb_NTT, first_M, second_M, orientation, correlation)
            n_kept = int(kept.sum())
            if n_kept:
                yield Pairs(first_M[kept], second_M[kept], np.full(n_kept, orientation, np.int8))


def _compare(
    hashes_N: NDArray[np.uint64],
    turned_N: NDArray[np.uint64],
    max_bits: int,
    order_N: NDArray[np.int64],
    first_of_key: NDArray[np.int64],
    wanted_N: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Compare every tile with those whose band has the wanted key, a bounded number of pairs at a time."""
    starts_N, counts_N = first_of_key[wanted_N], first_of_key[wanted_N + 1] - first_of_key[wanted_N]
    ends_N = np.cumsum(counts_N)
    row = 0
    while row < len(wanted_N):
        before = ends_N[row] - counts_N[row]
        stop = max(row + 1, int(np.searchsorted(ends_N, before + CANDIDATES, side="right")))
        first_M = np.repeat(np.arange(row, stop), counts_N[row:stop])
        offset_M = np.arange(len(first_M)) - np.repeat(
            ends_N[row:stop] - counts_N[row:stop] - before, counts_N[row:stop]
        )
        second_M = order_N[starts_N[first_M] + offset_M]
        near_M = first_M < second_M
        first_M, second_M = first_M[near_M], second_M[near_M]
        near_M = np.bitwise_count(turned_N[first_M] ^ hashes_N[second_M]) <= max_bits
        yield first_M[near_M], second_M[near_M]
        row = stop


def _band(hashes_N: NDArray[np.uint64], band: int) -> NDArray[np.int64]:
    return ((hashes_N >> np.uint64(band * BAND_BITS)) & np.uint64(2**BAND_BITS - 1)).astype(np.int64)


def _turn_signs(length: int, orientation: int) -> NDArray[np.float32]:
    odd = np.where(np.arange(length) % 2 == 1, -1, 1).astype(np.float32)
    even = np.ones(length, np.float32)
    return np.outer(odd if orientation & 2 else even, odd if orientation & 1 else even)


def _parts(thumb_NTT: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Cut thumbnails into 16 parts and take each part's mean off, (N, 16, 16)."""
    n_parts = THUMB // PART
    cut = thumb_NTT.astype(np.float32).reshape(len(thumb_NTT), n_parts, PART, n_parts, PART).swapaxes(2, 3)
    parts_NQS = cut.reshape(len(thumb_NTT), n_parts * n_parts, PART * PART)
    centred_NQS: NDArray[np.float32] = parts_NQS - parts_NQS.mean(axis=2, keepdims=True)
    return centred_NQS
