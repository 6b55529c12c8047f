"""Nuclear diameter: right on drawn tissue, blind to orientation, and silent where there are no nuclei."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from histotune.images.nuclei import MIN_NUCLEI, TOO_SMALL, nuclear_darkness, nuclear_diameter
from histotune.images.stain import EOSIN, HAEMATOXYLIN, find_dyes, haematoxylin_light, optical_density
from tests.images.drawn import Drawing

Pixels = NDArray[np.uint8]


@pytest.mark.parametrize("diameter_px", [6, 9, 15, 24, 36])
@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_drawn_nuclei_measure_what_they_are(diameter_px: int, noise: float) -> None:
    image = Drawing(diameter_px, 300, 400, spread=0.15, noise=noise).image_HWC()
    measured = nuclear_diameter(image)
    assert measured.estimable
    assert measured.diameter_px == pytest.approx(diameter_px, rel=0.12)
    assert measured.n_nuclei >= MIN_NUCLEI


def test_texture_within_nuclei_does_not_shrink_them() -> None:
    rng = np.random.default_rng(3)
    drawing = Drawing(36, 300, 400, noise=0)
    grain = rng.normal(1, 0.35, (300, 400, 1)).repeat(2, 0).repeat(2, 1)[:300, :400]
    density = optical_density(drawing.image_HWC()) * np.clip(grain, 0.3, 1.7)
    image = (256 * np.exp(-density)).clip(0, 255).astype(np.uint8)
    assert nuclear_diameter(image).diameter_px == pytest.approx(36, rel=0.15)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([7, 11, 18]))
def test_turning_a_tile_changes_nothing(seed: int, diameter_px: int) -> None:
    image = Drawing(diameter_px, 121, 150, spread=0.2, seed=seed).image_HWC()
    expected = nuclear_diameter(image)
    for turned in (image[::-1], image[:, ::-1], np.rot90(image), image[::-1, ::-1]):
        other = nuclear_diameter(np.ascontiguousarray(turned))
        assert other.reason == expected.reason
        assert other.diameter_px == pytest.approx(expected.diameter_px, rel=0.002, nan_ok=True)


@pytest.mark.parametrize("diameter_px", [14, 24, 40])
def test_half_the_size_is_half_the_diameter(diameter_px: int) -> None:
    image = Drawing(diameter_px, 300, 400, spread=0.2).image_HWC()
    half = np.asarray(Image.fromarray(image).resize((200, 150), Image.Resampling.BOX))
    ratio = nuclear_diameter(half).diameter_px / nuclear_diameter(image).diameter_px
    assert ratio == pytest.approx(0.5, rel=0.08)


def eosin_fibres() -> Pixels:
    y, x = np.mgrid[:200, :300]
    density = (0.5 + 0.4 * np.sin(x / 5 + 3 * np.sin(y / 40)))[:, :, None] * np.array(EOSIN)
    noise = np.random.default_rng(0).normal(0, 2, (200, 300, 3))
    return (240 * np.exp(-density) + noise).clip(0, 255).astype(np.uint8)


def eosin_grains() -> Pixels:
    plane = Drawing(12, 200, 300).plane_HW()[:, :, None]
    return (240 * np.exp(-(0.1 + 0.9 * plane) * np.array(EOSIN))).astype(np.uint8)


def haematoxylin_fibres() -> Pixels:
    y, x = np.mgrid[:200, :300]
    density = (np.sin(x / 5 + 3 * np.sin(y / 40)) > 0.3)[:, :, None] * np.array(HAEMATOXYLIN)
    return (240 * np.exp(-density)).astype(np.uint8)


NOISE = np.random.default_rng(1)
WITHOUT_NUCLEI = {
    "white": np.full((96, 96, 3), 255, np.uint8),
    "black": np.zeros((96, 96, 3), np.uint8),
    "grey": np.full((96, 96, 3), 120, np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "one row": np.full((1, 300, 3), 90, np.uint8),
    "coloured noise": NOISE.normal(150, 20, (200, 300, 3)).clip(0, 255).astype(np.uint8),
    "grey noise": np.repeat(NOISE.normal(150, 40, (200, 300, 1)), 3, 2).clip(0, 255).astype(np.uint8),
    "glass with noise": NOISE.normal(243, 3, (200, 300, 3)).clip(0, 255).astype(np.uint8),
    "stroma": eosin_fibres(),
    "eosin grains": eosin_grains(),
    "haematoxylin fibres": haematoxylin_fibres(),
    "three nuclei": Drawing(12, 96, 96, fill=0.03).image_HWC(),
}


@pytest.mark.parametrize("image", WITHOUT_NUCLEI.values(), ids=WITHOUT_NUCLEI.keys())
def test_a_tile_without_nuclei_gives_a_reason_and_no_number(image: Pixels) -> None:
    measured = nuclear_diameter(image)
    assert not measured.estimable
    assert measured.reason
    assert np.isnan(measured.diameter_px)


def test_unresolved_nuclei_are_told_apart_from_none() -> None:
    measured = nuclear_diameter(Drawing(3.8, 96, 128, blur_px=0.5, fill=0.2, noise=0.5).image_HWC())
    assert measured.reason == TOO_SMALL
    assert nuclear_diameter(WITHOUT_NUCLEI["white"]).reason not in ("", TOO_SMALL)


def test_darkness_is_that_of_nuclei_and_not_of_eosin() -> None:
    drawing = Drawing(14, noise=0)
    darkness = nuclear_darkness(drawing.image_HWC())
    assert not isinstance(darkness, str)
    assert np.corrcoef(darkness.ravel(), drawing.plane_HW().ravel())[0, 1] > 0.97


@pytest.mark.parametrize("hue", [(1.05, 1.15, 0.55), (0.8, 1.0, 0.5), (1.1, 0.9, 0.45)])
def test_dyes_are_found_in_mixtures_of_them(hue: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    amounts = rng.gamma(1.0, 0.7, (5000, 2))
    dyes = find_dyes((amounts @ np.array([hue, (0.12, 0.75, 0.42)])).astype(np.float32))
    assert dyes is not None
    assert float(dyes.haematoxylin_C @ np.array(hue)) / np.linalg.norm(hue) > 0.99
    light = haematoxylin_light(np.array([[[0.12, 0.75, 0.42]]], np.float32), dyes)
    assert light[0, 0] < 0.1


def test_black_and_white_have_finite_density() -> None:
    assert optical_density(np.array([[[0, 255, 128]]], np.uint8)).ravel() == pytest.approx([5.545, 0, 0.685], abs=1e-3)
