from __future__ import annotations

import numpy as np
import pytest

from histotune.audit.pixels import THUMB, empty_fingerprints, fingerprints_of
from tests.audit.made import tissue


def test_a_tile_costs_about_three_hundred_bytes() -> None:
    assert empty_fingerprints(7).bytes_per_tile == 16 + 256 + 12 + 4 + 1 + 1
    assert (
        sum(array.nbytes for array in vars(empty_fingerprints(1000)).values())
        == 1000 * empty_fingerprints(1).bytes_per_tile
    )


@pytest.mark.parametrize("side_px", [96, 100, 17, 5, 1])
def test_a_block_equals_its_tiles_one_by_one(side_px: int) -> None:
    block = np.stack([tissue(seed, 100)[:side_px, :side_px] for seed in range(3)])
    together = fingerprints_of(block)
    for row in range(3):
        alone = fingerprints_of(block[row : row + 1])
        for name, array in vars(together).items():
            np.testing.assert_array_equal(array[row], getattr(alone, name)[0], err_msg=name)


def test_thumbnails_are_grey_means_of_cells() -> None:
    pixels = tissue(0)
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    expected = grey.reshape(THUMB, 6, THUMB, 6).mean(axis=(1, 3))
    assert np.abs(fingerprints_of(pixels[None]).thumb_NTT[0] - expected).max() <= 0.51


@pytest.mark.parametrize("shape", [(96, 96), (46, 70), (460, 700), (102, 58)])
def test_mirrored_and_turned_tiles_have_mirrored_and_turned_thumbnails(shape: tuple[int, int]) -> None:
    pixels = tissue(1, max(shape))[: shape[0], : shape[1]]
    thumb = fingerprints_of(pixels[None]).thumb_NTT[0]
    for turned, expected in ((pixels[:, ::-1], thumb[:, ::-1]), (pixels[::-1], thumb[::-1]),
                             (pixels.swapaxes(0, 1), thumb.T)):  # fmt: skip
        np.testing.assert_array_equal(fingerprints_of(turned[None]).thumb_NTT[0], expected)


def test_the_hash_is_of_pixels_and_size() -> None:
    pixels = tissue(2)
    same, other = fingerprints_of(np.stack([pixels, pixels.copy()])), pixels.copy()
    other[50, 50, 1] ^= 1
    assert (same.digest_N2[0] == same.digest_N2[1]).all()
    assert (fingerprints_of(other[None]).digest_N2[0] != same.digest_N2[0]).any()
    flat = fingerprints_of(np.zeros((1, 4, 8, 3), np.uint8)), fingerprints_of(np.zeros((1, 8, 4, 3), np.uint8))
    assert (flat[0].digest_N2 != flat[1].digest_N2).any()


def test_only_a_tile_of_one_colour_is_constant() -> None:
    white = np.full((2, 96, 96, 3), 240, np.uint8)
    white[1, 95, 95, 2] = 241
    assert fingerprints_of(white).constant_N.tolist() == [True, False]


def test_stain_features_of_known_colours() -> None:
    pixels = np.full((1, 40, 40, 3), 255, np.uint8)
    pixels[0, :10] = (63, 31, 127)  # transmits 1/4, 1/8, 1/2
    found = fingerprints_of(pixels)
    assert found.tissue_N[0] == pytest.approx(0.25)
    density, red, blue = found.stain_NF[0]
    assert density == pytest.approx(np.log10(2) * (2 + 3 + 1) / 3, rel=1e-5)
    assert (red, blue) == (pytest.approx(2 / 6, rel=1e-5), pytest.approx(1 / 6, rel=1e-5))


@pytest.mark.parametrize("level", [0, 10, 235, 255])
def test_background_and_black_padding_are_no_tissue(level: int) -> None:
    found = fingerprints_of(np.full((1, 32, 32, 3), level, np.uint8))
    assert found.tissue_N[0] == 0
    assert np.isnan(found.stain_NF).all()


def test_large_tiles_are_seen_in_part_with_the_same_answer() -> None:
    small = tissue(3)
    large = small.repeat(8, axis=0).repeat(8, axis=1)
    np.testing.assert_allclose(fingerprints_of(large[None]).stain_NF, fingerprints_of(small[None]).stain_NF, atol=0.01)
