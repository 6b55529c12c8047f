"""How an image lies: TIFF is turned as Pillow turns it, the other formats stay as they are stored."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from histotune.datasets.disk import encoded_size_px
from histotune.images.decode import decode_image

PIXELS_HWC = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
TURNS = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("orientation", TURNS)
def test_tiff_is_turned_upright(orientation: int, compression: str | None) -> None:
    held = io.BytesIO()
    Image.fromarray(PIXELS_HWC).save(held, "TIFF", compression=compression, tiffinfo={274: orientation})
    read = decode_image(held.getvalue(), "x.tif", 10**6)
    assert np.array_equal(read, TURNS[orientation](PIXELS_HWC))
    assert encoded_size_px(held.getvalue()) == (read.shape[1], read.shape[0])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_changes_nothing(orientation: int) -> None:
    held = io.BytesIO()
    Image.fromarray(PIXELS_HWC).save(held, "TIFF", tiffinfo={274: orientation})
    assert np.array_equal(decode_image(held.getvalue(), "x.tif", 10**6), PIXELS_HWC)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})])
@pytest.mark.parametrize("orientation", [3, 6])
def test_other_formats_stay_as_they_are_stored(kind: str, options: dict[str, object], orientation: int) -> None:
    turned, plain = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PIXELS_HWC).save(turned, kind, exif=exif, **options)
    Image.fromarray(PIXELS_HWC).save(plain, kind, **options)
    read = decode_image(turned.getvalue(), "x", 10**6)
    assert np.array_equal(read, decode_image(plain.getvalue(), "x", 10**6))
