"""Blobs: discs measure what they are, the answers equal scipy's, and turning the plane changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histotune.images.nuclei import Blobs, find_blobs, without_overlaps
from tests.images.drawn import Drawing


def strong(blobs: Blobs) -> Blobs:
    return without_overlaps(blobs.take((blobs.response > 0.37) & (blobs.roundness > 0.4)))


@pytest.mark.parametrize("diameter_px", [5, 7, 10, 16, 25, 40])
def test_discs_measure_what_they_are(diameter_px: int) -> None:
    found = strong(find_blobs(Drawing(diameter_px).plane_HW(), 3, 80))
    assert np.median(found.diameter_px) == pytest.approx(diameter_px, rel=0.06)


def test_one_disc_answers_as_theory_says() -> None:
    y, x = np.mgrid[:120, :120] + 0.5
    plane = (np.hypot(y - 61.3, x - 52.1) < 15).astype(np.float32)
    found = strong(find_blobs(plane, 3, 60))
    assert len(found) == 1
    assert (found.x_px[0], found.y_px[0]) == pytest.approx((52.1, 61.3), abs=4)  # half a pixel of its octave
    assert found.diameter_px[0] == pytest.approx(30, rel=0.03)
    assert found.response[0] == pytest.approx(2 / np.e, rel=0.03)
    assert found.roundness[0] > 0.9


def test_answers_equal_scipys_laplacian_of_gaussian() -> None:
    plane = Drawing(5, spread=0.2).plane_HW()
    found = find_blobs(plane, 4, 40)
    checked = 0
    first_sigma = 4 / (2 * np.sqrt(2)) * 2 ** (-1.5 / 4)
    for row in range(0, len(found), 7):
        steps = round(4 * np.log2(found.diameter_px[row] / (2 * np.sqrt(2)) / first_sigma))
        sigma = first_sigma * 2 ** (steps / 4)  # responses are those of whole steps; only diameters are interpolated
        if found.diameter_px[row] > 6:  # the first octave has every pixel; coarser ones may miss a peak by some percent
            continue
        reference = -(sigma**2) * ndimage.gaussian_laplace(plane.astype(np.float64), sigma, mode="reflect", truncate=6)
        y, x = int(found.y_px[row]), int(found.x_px[row])
        near = reference[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max()
        assert found.response[row] == pytest.approx(near, rel=0.02, abs=0.005)
        checked += 1
    assert checked > 10


def test_a_ridge_is_not_round() -> None:
    y, _ = np.mgrid[:100, :200]
    found = find_blobs((abs(y - 50) < 6).astype(np.float32), 3, 30)
    assert not (found.roundness > 0.4).any() or found.response[found.roundness > 0.4].max() < 0.37


def test_of_two_overlapping_blobs_the_stronger_stays() -> None:
    blobs = Blobs(*(np.array(v, float) for v in ([10, 12, 40], [10, 10, 40], [8, 20, 8], [0.5, 0.6, 0.4], [1, 1, 1])))
    kept = without_overlaps(blobs)
    assert sorted(zip(kept.x_px, kept.response, strict=True)) == [(12, 0.6), (40, 0.4)]
    order = np.array([2, 0, 1])
    assert np.array_equal(without_overlaps(blobs.take(order)).x_px, kept.x_px)


@pytest.mark.parametrize("shape", [(1, 1), (2, 50), (5, 5), (97, 131)])
def test_flat_and_tiny_planes_hold_no_blob(shape: tuple[int, int]) -> None:
    assert len(find_blobs(np.full(shape, 0.7, np.float32), 3, 30)) == 0
    assert len(without_overlaps(find_blobs(np.zeros(shape, np.float32), 3, 30))) == 0


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([(64, 96), (61, 83), (70, 70)]))
def test_flipping_and_turning_moves_blobs_and_nothing_else(seed: int, shape: tuple[int, int]) -> None:
    plane = Drawing(7, *shape, spread=0.3, seed=seed).plane_HW()
    found = strong(find_blobs(plane, 3, 25))
    for turned in (plane[::-1], plane[:, ::-1], np.rot90(plane)):
        other = strong(find_blobs(np.ascontiguousarray(turned), 3, 25))
        assert np.sort(other.diameter_px) == pytest.approx(np.sort(found.diameter_px), rel=1e-3)
