"""The dyes' colour space equals scikit-image's, number by number."""

from __future__ import annotations

import numpy as np
import pytest

from histotune.images.stain import hed_of_rgb, optical_density, rgb_of_hed

# colour, scikit-image 0.26.0's rgb2hed of it, hed2rgb of that: white, black, grey, pure colours, H&E, DAB, green
REFERENCE = [
    ((255, 255, 255), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0, 0, 0), (1.210167311, 0.0, 0.881950455), (7.11e-07, 8e-09, 5.84e-07)),
    ((128, 128, 128), (0.060373273, 0.0, 0.043999069), (0.493475669, 0.394416829, 0.488691586)),
    ((255, 0, 0), (0.0, 0.654316184, 1.438066273), (0.002486107, 2e-09, 6.9e-08)),
    ((0, 255, 0), (1.276075373, 0.0, 1.017472254), (2.37e-07, 1e-09, 1.04e-07)),
    ((0, 0, 255), (1.812074675, 0.127051686, 0.0), (7.6e-08, 4e-09, 0.00057961)),
    ((1, 254, 3), (0.559666164, 0.0, 0.28292738), (0.002285386, 0.000480607, 0.005035942)),
    ((200, 120, 180), (0.014253597, 0.032078771, 0.022498809), (0.784313725, 0.470588235, 0.705882353)),
    ((150, 90, 160), (0.046855138, 0.030628651, 0.021512254), (0.588235294, 0.352941176, 0.62745098)),
    ((90, 50, 120), (0.100955481, 0.031643795, 0.027951174), (0.352941176, 0.196078431, 0.470588235)),
    ((60, 30, 90), (0.141101011, 0.034022589, 0.039386112), (0.235294118, 0.117647059, 0.352941176)),
    ((230, 180, 210), (0.003905615, 0.014330439, 0.014544236), (0.901960784, 0.705882353, 0.823529412)),
    ((240, 220, 235), (0.003978064, 0.004863926, 0.005414593), (0.941176471, 0.862745098, 0.921568627)),
    ((210, 150, 190), (0.011041507, 0.019189758, 0.020493401), (0.823529412, 0.588235294, 0.745098039)),
    ((120, 60, 140), (0.069435757, 0.043012282, 0.023761928), (0.470588235, 0.235294118, 0.549019608)),
    ((180, 100, 150), (0.019762484, 0.033028891, 0.037235712), (0.705882353, 0.392156863, 0.588235294)),
    ((245, 240, 245), (0.003405894, 0.00067033, 0.002351586), (0.960784314, 0.941176471, 0.960784314)),
    ((160, 130, 60), (0.0, 0.0, 0.139433834), (0.594452543, 0.333531064, 0.222561304)),
    ((110, 80, 50), (0.037777928, 0.0, 0.140355203), (0.42197882, 0.229783008, 0.189410503)),
    ((37, 201, 88), (0.214909687, 0.0, 0.041144921), (0.124508055, 0.090503148, 0.271330687)),
]  # fmt: skip
COLOURS_N1C = np.array([colour for colour, _, _ in REFERENCE], np.uint8)[:, None]


def test_amounts_of_dyes_equal_scikit_images_numbers() -> None:
    expected_N1C = np.array([amounts for _, amounts, _ in REFERENCE])[:, None]
    assert hed_of_rgb(COLOURS_N1C) == pytest.approx(expected_N1C, abs=2e-9)


def test_colours_of_dyes_equal_scikit_images_numbers() -> None:
    expected_N1C = np.array([colour for _, _, colour in REFERENCE])[:, None]
    assert rgb_of_hed(hed_of_rgb(COLOURS_N1C)) == pytest.approx(expected_N1C, abs=2e-9)


def test_the_colour_space_is_scikit_images_where_it_is_installed() -> None:
    color = pytest.importorskip("skimage.color")
    image_HWC = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image_HWC[0, :20] = COLOURS_N1C[:, 0]
    assert hed_of_rgb(image_HWC) == pytest.approx(color.rgb2hed(image_HWC), abs=1e-12)
    hed_HWC = np.random.default_rng(1).uniform(-0.1, 0.4, (40, 50, 3))
    assert rgb_of_hed(hed_HWC) == pytest.approx(color.hed2rgb(hed_HWC), abs=1e-12)


def test_colours_that_dyes_can_mix_come_back() -> None:
    amounts_N1C = np.random.default_rng(2).uniform(0, 0.1, (500, 1, 3))
    image_N1C = np.rint(255 * rgb_of_hed(amounts_N1C)).astype(np.uint8)
    mixed_N = (hed_of_rgb(image_N1C) > 0).all(axis=(1, 2))
    assert mixed_N.mean() > 0.9
    again_N1C = np.rint(255 * rgb_of_hed(hed_of_rgb(image_N1C))).astype(np.uint8)
    assert np.array_equal(again_N1C[mixed_N], image_N1C[mixed_N])


def test_optical_density_is_the_logarithm_of_each_grey_level() -> None:
    image_HWC = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert optical_density(image_HWC).dtype == np.float32
    assert optical_density(image_HWC) == pytest.approx(np.log(256 / (image_HWC + 1.0)), abs=1e-6)
