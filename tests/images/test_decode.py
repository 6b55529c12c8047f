"""Decoding: every format read exactly, every odd image refused by name."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from histotune.images.config import LoaderConfig
from histotune.images.decode import PixelReader, PixelSource, content_hash, read_pixels, row_bytes
from histotune.tools.errors import UserError

RNG = np.random.default_rng(0)
NOISE_HWC = RNG.integers(0, 256, (23, 31, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_files_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(NOISE_HWC))
    assert np.array_equal(read_pixels(path), NOISE_HWC)


def test_jpeg_equals_pillow(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(NOISE_HWC), quality=80)
    assert np.array_equal(read_pixels(path), np.asarray(Image.open(path)))


def test_grey_palette_and_opaque_alpha_become_rgb(tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey.png", Image.fromarray(NOISE_HWC[..., 0]))
    assert np.array_equal(read_pixels(grey), np.repeat(NOISE_HWC[..., :1], 3, axis=2))
    opaque = Image.fromarray(np.dstack([NOISE_HWC, np.full(NOISE_HWC.shape[:2], 255, np.uint8)]))
    assert np.array_equal(read_pixels(saved(tmp_path / "rgba.png", opaque)), NOISE_HWC)
    palette = Image.fromarray(NOISE_HWC).quantize(16)
    assert np.array_equal(read_pixels(saved(tmp_path / "p.png", palette)), np.asarray(palette.convert("RGB")))


def test_odd_images_are_refused_by_name(tmp_path: Path) -> None:
    holed = np.dstack([NOISE_HWC, np.full(NOISE_HWC.shape[:2], 255, np.uint8)])
    holed[3, 3, 3] = 0
    pages = [Image.fromarray(NOISE_HWC), Image.fromarray(NOISE_HWC[::-1].copy())]
    cases = {
        "transparent pixels": saved(tmp_path / "holed.png", Image.fromarray(holed)),
        "more than 8 bits": saved(tmp_path / "deep.png", Image.fromarray(NOISE_HWC[..., 0].astype(np.uint16) * 257)),
        "colour mode CMYK": saved(tmp_path / "cmyk.jpg", Image.fromarray(NOISE_HWC).convert("CMYK")),
        "several frames": saved(tmp_path / "pages.tif", pages[0], save_all=True, append_images=pages[1:]),
    }
    for words, path in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            read_pixels(path)
        assert path.name in str(caught.value)


def test_sixteen_bit_colour_is_refused_though_pillow_would_drop_the_low_byte(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png_rgb16())
    assert Image.open(path).mode == "RGB"
    with pytest.raises(UserError, match="more than 8 bits"):
        read_pixels(path)


def test_truncated_and_foreign_files_are_named(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", Image.fromarray(NOISE_HWC)).read_bytes()
    short, text = tmp_path / "short.png", tmp_path / "text.png"
    short.write_bytes(whole[: len(whole) // 2])
    text.write_text("not an image", encoding="utf-8")
    with pytest.raises(UserError, match="truncated or damaged") as caught:
        read_pixels(short)
    assert "short.png" in str(caught.value)
    with pytest.raises(UserError, match=r"no image"):
        read_pixels(text)
    with pytest.raises(UserError, match="missing"):
        read_pixels(tmp_path / "absent.png")


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(NOISE_HWC))
    assert read_pixels(path, config=LoaderConfig(max_pixels=31 * 23)).shape == (23, 31, 3)
    with pytest.raises(UserError, match="too large"):
        read_pixels(path, config=LoaderConfig(max_pixels=31 * 23 - 1))


def test_hdf5_rows_and_their_hashes(tmp_path: Path) -> None:
    x_NHWC = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    path = write_hdf5(tmp_path / "x.h5", x_NHWC)
    with PixelReader() as reader, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda row: reader.pixels_and_hash(PixelSource(path, row)), range(40)))
        raw = [reader.raw(PixelSource(path, row)) for row in range(40)]
    for row, (pixels_HWC, digest) in enumerate(answers):
        assert np.array_equal(pixels_HWC, x_NHWC[row])
        assert digest == hashlib.sha256(b"|u1(8, 8, 3)" + x_NHWC[row].tobytes()).hexdigest()
        assert digest == content_hash(raw[row])


def test_equal_bytes_in_another_shape_hash_differently() -> None:
    flat = np.arange(48, dtype=np.uint8)
    assert row_bytes(flat.reshape(4, 4, 3)) != row_bytes(flat.reshape(2, 8, 3))


def test_hdf5_mistakes_are_named(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "x.h5", np.zeros((3, 4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="no such row"):
        read_pixels(path, 3)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["y"] = np.zeros(3)
    with pytest.raises(UserError, match='no data set "x"'):
        read_pixels(tmp_path / "y.h5", 0)
    (tmp_path / "bad.h5").write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged or incomplete"):
        read_pixels(tmp_path / "bad.h5", 0)
    with pytest.raises(UserError, match="float64"):
        read_pixels(write_hdf5(tmp_path / "f.h5", np.zeros((3, 4, 4, 3))), 0)


def write_hdf5(path: Path, x: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["x"] = x
    return path


def png_rgb16() -> bytes:
    """A 2 x 2 RGB PNG with 16 bits per channel, which Pillow reads but can't write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    out = io.BytesIO(b"")
    out.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return out.getvalue()
