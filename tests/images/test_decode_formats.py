"""Encodings of 8-bit images in many sizes, read as Pillow and tifffile read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from histotune.images.decode import read_pixels
from histotune.tools.errors import UserError

SIZES = ((16, 16), (160, 16), (16, 160), (161, 116), (216, 33), (1600, 3), (700, 460))
TIFF = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "raw")


def picture(width: int, height: int, bands: int = 3) -> np.ndarray:
    rng = np.random.default_rng(width * 1000 + height)
    smooth = np.add.outer(np.arange(height), np.arange(width))[..., None] + np.arange(bands) * 40
    return (smooth + rng.integers(0, 30, (height, width, bands))).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compression", TIFF)
def test_eight_bit_tiff_of_every_compression(tmp_path: Path, size: tuple[int, int], compression: str | None) -> None:
    path, image_HWC = tmp_path / "a.tif", picture(*size)
    Image.fromarray(image_HWC).save(path, compression=compression)
    read = read_pixels(path)
    assert np.array_equal(read, np.asarray(Image.open(path).convert("RGB")))
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    assert np.abs(read.astype(int) - tifffile.imread(path).astype(int)).max() <= (3 if compression == "jpeg" else 0)
    if compression != "jpeg":
        assert np.array_equal(read, image_HWC)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "jpeg", None])
@pytest.mark.parametrize("tile", [None, (16, 16), (160, 160)])
def test_eight_bit_tiff_as_tifffile_writes_it(
    tmp_path: Path, size: tuple[int, int], compression: str | None, tile: tuple[int, int] | None
) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    path, image_HWC = tmp_path / "a.tif", picture(*size)
    tifffile.imwrite(path, image_HWC, compression=compression, tile=tile, photometric="rgb")
    read = read_pixels(path)
    assert np.abs(read.astype(int) - tifffile.imread(path).astype(int)).max() <= (3 if compression == "jpeg" else 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("suffix", ["bmp", "png", "webp", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_eight_bit_files_of_every_width(tmp_path: Path, size: tuple[int, int], suffix: str, mode: str) -> None:
    image = Image.fromarray(picture(*size)).convert(mode)
    if mode == "P" and suffix in ("webp", "jpg"):
        pytest.skip("no palettes in this format")
    path = tmp_path / f"a.{suffix}"
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read_pixels(path), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_sixteen_bit_files_are_refused_in_every_size(tmp_path: Path, suffix: str) -> None:
    deep = np.full((40, 33), 40000, np.uint16)
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    with pytest.raises(UserError, match="more than 8 bits"):
        read_pixels(tmp_path / f"deep.{suffix}")
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "colour.tif", np.dstack([deep] * 3), photometric="rgb")
    with pytest.raises(UserError, match="more than 8 bits"):
        read_pixels(tmp_path / "colour.tif")


def test_large_profiles_and_texts_of_a_png_are_passed_over(tmp_path: Path) -> None:
    image_HWC = picture(64, 48)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Description", "x" * 3_000_000, zip=True)
    texts.add_itxt("Comment", "é" * 2_000_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(3_000_000)
    Image.fromarray(image_HWC).save(tmp_path / "a.png", icc_profile=profile, pnginfo=texts)
    assert np.array_equal(read_pixels(tmp_path / "a.png"), image_HWC)
    damaged = bytearray((tmp_path / "a.png").read_bytes())
    damaged[damaged.index(b"iCCP") + 40] ^= 1
    (tmp_path / "b.png").write_bytes(damaged)
    with pytest.raises(UserError, match="chunk iCCP"):
        read_pixels(tmp_path / "b.png")
