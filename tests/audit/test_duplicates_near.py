from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histotune.audit import duplicates
from histotune.audit.duplicates import find_near, near_pairs, perceptual_hashes, spectrum, turn
from histotune.audit.pixels import fingerprints_of
from tests.audit.made import brighter, jpeg, stained, tissue

Pixels = NDArray[np.uint8]
TURNS = {
    0: lambda a: a, 1: lambda a: a[:, ::-1], 2: lambda a: a[::-1], 3: lambda a: a[::-1, ::-1],
    4: lambda a: a.swapaxes(0, 1), 5: lambda a: a.swapaxes(0, 1)[:, ::-1], 6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
}  # fmt: skip


def thumbs(*tiles: Pixels) -> Pixels:
    return np.concatenate([fingerprints_of(np.ascontiguousarray(tile)[None]).thumb_NTT for tile in tiles])


def found(left: Pixels, right: Pixels) -> list[int]:
    """Orientations in which two tiles are called near duplicates."""
    batches = find_near(thumbs(left, right), max_bits=7, correlation=0.9, orientations=True)
    return sorted({int(one) for pairs in batches for one in pairs.orientation_M})


@settings(max_examples=50)
@given(
    base=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    copies=st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=9)), max_size=25),
    max_bits=st.integers(0, 7),
)
def test_the_index_finds_what_comparing_all_with_all_finds(
    base: list[int], copies: list[tuple[int, set[int]]], max_bits: int
) -> None:
    flipped = [base[which % len(base)] ^ sum(1 << bit for bit in bits) for which, bits in copies]
    hashes = np.array([*base, *flipped], np.uint64)
    turned = np.roll(hashes, 1)
    for other in (hashes, turned):
        expected = {
            (i, j)
            for i in range(len(hashes))
            for j in range(i + 1, len(hashes))
            if (int(other[i]) ^ int(hashes[j])).bit_count() <= max_bits
        }
        answer = {
            (int(i), int(j))
            for first, second in near_pairs(hashes, other, max_bits)
            for i, j in zip(first, second, strict=True)
        }
        assert answer == expected


def test_pairs_are_compared_in_bounded_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.random.default_rng(0).integers(0, 4, 60).astype(np.uint64)
    whole = {
        pair for portion in near_pairs(hashes, hashes, 2) for pair in zip(*map(np.ndarray.tolist, portion), strict=True)
    }
    monkeypatch.setattr(duplicates, "CANDIDATES", 70)
    portions = list(near_pairs(hashes, hashes, 2))
    assert max(len(first) for first, _ in portions) <= 70
    assert {pair for portion in portions for pair in zip(*map(np.ndarray.tolist, portion), strict=True)} == whole


@pytest.mark.parametrize("orientation", range(8))
def test_hashes_of_turned_tiles_follow_from_the_upright_thumbnail(orientation: int) -> None:
    tiles = [tissue(seed) for seed in range(5)]
    turned = [TURNS[orientation](tile) for tile in tiles]
    np.testing.assert_array_equal(perceptual_hashes(thumbs(*turned)), perceptual_hashes(thumbs(*tiles), orientation))
    np.testing.assert_allclose(spectrum(thumbs(*turned)), turn(spectrum(thumbs(*tiles)), orientation), atol=1e-2)


@pytest.mark.parametrize("orientation", range(8))
def test_mirrored_and_turned_copies_are_found(orientation: int) -> None:
    pixels = tissue(10)
    assert len(found(pixels, TURNS[orientation](pixels))) == 1
    assert (found(pixels, pixels) == [0]) is True


VARIANTS: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG 90": lambda a: jpeg(a, 90),
    "JPEG 50": lambda a: jpeg(a, 50),
    "JPEG 20": lambda a: jpeg(a, 20),
    "brighter": lambda a: brighter(a, 20),
    "darker": lambda a: brighter(a, -40),
    "stained more": lambda a: stained(a, 1.5),
    "half the size": lambda a: a.reshape(48, 2, 48, 2, 3).mean(axis=(1, 3)).astype(np.uint8),
    "turned JPEG": lambda a: jpeg(np.ascontiguousarray(np.rot90(a)), 75),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_altered_copies_are_found(name: str) -> None:
    for seed in range(20, 28):
        pixels = tissue(seed)
        assert found(pixels, VARIANTS[name](pixels)), f"{name}, seed {seed}"


@pytest.mark.parametrize(("shift_px", "is_found"), [(2, True), (40, False)])
def test_crops_are_found_at_small_shifts_only(shift_px: int, is_found: bool) -> None:
    for seed in range(30, 34):
        pixels = tissue(seed, 440)
        assert bool(found(pixels[:400, :400], pixels[:400, shift_px : shift_px + 400])) is is_found


def test_tissue_of_one_stain_and_texture_is_never_called_a_copy() -> None:
    tiles = thumbs(*(tissue(seed) for seed in range(300)))
    assert list(find_near(tiles, max_bits=7, correlation=0.9, orientations=True)) == []


@pytest.mark.parametrize("slope", [0.0, 0.4, 1.0])
def test_faint_tissue_along_the_same_edge_is_no_copy(slope: float) -> None:
    """The edge makes all of them alike as a whole; what lies within tells them apart."""
    y, x = np.mgrid[:96, :96]
    inside = (y < 60 - slope * x * 0.6)[:, :, None]
    tiles = [np.where(inside, 150 + (tissue(seed) - 150.0) * 0.25, 235).astype(np.uint8) for seed in range(150)]
    spectra = spectrum(thumbs(*tiles))
    spectra[:, 0, 0] = 0
    flat = spectra.reshape(len(tiles), -1) / np.linalg.norm(spectra, axis=(1, 2))[:, None]
    assert np.median(flat @ flat.T) > 0.95
    assert list(find_near(thumbs(*tiles), max_bits=7, correlation=0.9, orientations=True)) == []


def test_glass_and_a_lone_edge_are_not_comparable() -> None:
    rng = np.random.default_rng(0)
    glass = (235 + rng.normal(0, 3, (96, 96, 3))).clip(0, 255).astype(np.uint8)
    edge = glass.copy()
    edge[:40] -= 90
    assert duplicates.comparable(thumbs(glass, edge, tissue(0))).tolist() == [False, False, True]
