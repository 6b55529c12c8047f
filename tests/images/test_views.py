"""Views equal torchvision's on PIL images to the last bit; the scale is what the pixels say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.config import ViewConfig
from histotune.images.decode import read_pixels
from histotune.images.views import input_mpp, view_inputs

SIZES = [(96, 96), (700, 460), (700, 456), (460, 700), (224, 224), (225, 224), (301, 299), (224, 500), (17, 33), (1, 1),
         (1, 40), (40, 1), (2, 3), (223, 225)]  # fmt: skip


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width_px", "height_px"), SIZES)
def test_view_equals_torchvision(width_px: int, height_px: int, interpolation: str) -> None:
    from torchvision.transforms import v2

    rng = np.random.default_rng(width_px)
    image_HWC = rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    mode = v2.InterpolationMode(interpolation)
    official = v2.Compose([v2.Resize(224, interpolation=mode, antialias=True), v2.CenterCrop(224)])
    expected_HWC = np.asarray(official(Image.fromarray(image_HWC)))
    assert np.array_equal(view_inputs(image_HWC, ViewConfig(interpolation=interpolation))[0], expected_HWC)


@pytest.mark.parametrize("resized_px", [(56, 56), (140, 92), (57, 55), (30, 20), (31, 77), (1, 100)])
def test_crop_and_padding_at_a_target_scale_are_torchvisions(resized_px: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    image_HWC = np.random.default_rng(1).integers(0, 256, (46, 70, 3), dtype=np.uint8)
    official = v2.Compose([v2.Resize(resized_px[::-1], v2.InterpolationMode.BICUBIC), v2.CenterCrop(56)])
    expected_HWC = np.asarray(official(Image.fromarray(image_HWC)))  # torchvision pads with black
    view = ViewConfig(size_px=56, target_mpp=1.0, pad_rgb=(0, 0, 0))
    assert np.array_equal(view_inputs(image_HWC, view, resized_px)[0], expected_HWC)


def test_square_and_letterbox_equal_pillow() -> None:
    image_HWC = np.random.default_rng(2).integers(0, 256, (46, 70, 3), dtype=np.uint8)
    image = Image.fromarray(image_HWC)
    square_HWC = np.asarray(image.resize((56, 56), Image.Resampling.BICUBIC))
    assert np.array_equal(view_inputs(image_HWC, ViewConfig(name="square", size_px=56))[0], square_HWC)
    canvas = Image.new("RGB", (56, 56), (1, 2, 3))
    canvas.paste(image.resize((56, 37), Image.Resampling.BICUBIC), (0, 9))
    view = ViewConfig(name="letterbox", size_px=56, pad_rgb=(1, 2, 3))
    assert np.array_equal(view_inputs(image_HWC, view)[0], np.asarray(canvas))


def test_crops_are_pieces_of_the_resized_image() -> None:
    image_HWC = np.random.default_rng(3).integers(0, 256, (46, 70, 3), dtype=np.uint8)
    resized_HWC = np.asarray(Image.fromarray(image_HWC).resize((85, 56), Image.Resampling.BICUBIC))
    inputs_KSSC = view_inputs(image_HWC, ViewConfig(name="tiles", size_px=56))
    assert np.array_equal(inputs_KSSC, [resized_HWC[:, :56], resized_HWC[:, 29:]])


def test_input_mpp_is_native_mpp_times_source_over_network_pixels() -> None:
    table = tile_table({
        "tile_id": ["a", "b", "c", "d"], "path": ["p"] * 4, "mpp": [0.972, 2.0, None, 1.0],
        "width_px": [96, 700, 700, None], "height_px": [96, 460, 460, 460],
    })  # fmt: skip
    mpp_N2 = input_mpp(TileSet("t", table, ("a", "b"), "", ""), ViewConfig())
    assert mpp_N2[0] == pytest.approx([0.972 * 96 / 224] * 2)
    assert mpp_N2[1] == pytest.approx([2.0 * 700 / 340, 2.0 * 460 / 224])
    assert np.isnan(mpp_N2[2:]).all()


@pytest.mark.real_data
def test_real_images_reach_the_network_as_torchvision_would_send_them(real_data: Path) -> None:
    from torchvision.transforms import v2

    official = v2.Compose([v2.Resize(224), v2.CenterCrop(224)])
    paths = sorted(real_data.rglob("*.png"))[::20] + sorted(real_data.rglob("*.tif"))
    assert len(paths) > 20
    for path in paths:
        expected_HWC = np.asarray(official(Image.open(path).convert("RGB")))
        (found_HWC,) = view_inputs(read_pixels(path), ViewConfig(interpolation="bilinear"))
        assert np.array_equal(found_HWC, expected_HWC), path
