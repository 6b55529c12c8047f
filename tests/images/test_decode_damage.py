"""Damaged tiles at decode time: one clear message that names the tile, never a hang, a crash or a wrong tile."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from histotune.images.config import LoaderConfig
from histotune.images.decode import PixelReader, PixelSource, read_pixels
from histotune.tools.errors import UserError
from tests.damage import flip, folder_for_everyone, without_rights
from tests.datasets.fakes import encoded, write_image_parquet

RNG = np.random.default_rng(0)
TILE_HWC = RNG.integers(0, 256, (12, 14, 3), dtype=np.uint8)
FORMATS = {
    "png": ("PNG", {}), "tif": ("TIFF", {}), "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}), "jpg": ("JPEG", {}), "bmp": ("BMP", {}),
    "webp": ("WEBP", {"lossless": True}),
}  # fmt: skip


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of some damage to TIFF, and goes on


@pytest.fixture
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind, options = FORMATS[request.param]
    path = tmp_path / f"a tile.{request.param}"
    path.write_bytes(encoded(TILE_HWC, kind, **options))
    return path


def refused(path: Path, row: int | None = None, **config: object) -> str:
    """Return the message, which must name the file."""
    with pytest.raises(UserError) as caught:
        read_pixels(path, row, LoaderConfig.model_validate(config))
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("whole", FORMATS, indirect=True)
def test_a_file_cut_anywhere_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    end = len(data) - (2 if whole.suffix == ".bmp" else 0)  # a BMP of this width ends in two bytes that mean nothing
    for length in range(end - 1, -1, -3):
        whole.write_bytes(data[:length])
        refused(whole)


@pytest.mark.parametrize("whole", ["png"], indirect=True)
def test_every_flipped_bit_of_a_png_is_found(whole: Path) -> None:
    """Pillow alone decodes some of these, for it leaves out the checksums of the pixels."""
    data = whole.read_bytes()
    for place in range(len(data)):
        whole.write_bytes(flip(data, place, place % 8))
        refused(whole)


@pytest.mark.parametrize("whole", [name for name in FORMATS if name != "png"], indirect=True)
def test_a_flipped_bit_elsewhere_is_refused_or_gives_pixels(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """These formats have no checksum, so a wrong tile can't be excluded; anything but a message or pixels can."""
    data = whole.read_bytes()
    for place in range(0, len(data), 2):
        whole.write_bytes(flip(data, place, place % 8))
        try:
            pixels_HWC = read_pixels(whole)
        except UserError as error:
            assert whole.name in str(error)
        else:
            assert (pixels_HWC.dtype, pixels_HWC.ndim, pixels_HWC.shape[2]) == (np.uint8, 3, 3)
    capfd.readouterr()  # libtiff writes its own messages


@pytest.mark.parametrize("whole", ["tif"], indirect=True)
def test_a_flipped_pixel_of_a_tiff_cannot_be_found(whole: Path) -> None:
    """What the documentation says, pinned: TIFF has no checksum."""
    data = whole.read_bytes()
    whole.write_bytes(flip(data, data.index(TILE_HWC.tobytes()), 7))
    assert int((read_pixels(whole) != TILE_HWC).sum()) == 1


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_damaged_hdf5_file(tmp_path: Path, compression: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), chunks=(2, 8, 8, 3),
                            compression=compression)  # fmt: skip
    data = path.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert "damaged or incomplete" in refused(path, 0)
    for place in RNG.integers(0, len(data), 150):
        path.write_bytes(flip(data, int(place), int(place) % 8))
        try:
            shapes = [read_pixels(path, row).shape for row in range(6)]
        except UserError as error:
            assert "x.h5" in str(error)
        else:
            assert shapes == [(8, 8, 3)] * 6
    capfd.readouterr()


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    images = [encoded(TILE_HWC), encoded(TILE_HWC[::-1])] * 4
    path = write_image_parquet(tmp_path / "tiles.parquet", images, row_group_size=3)
    data = path.read_bytes()
    for length in (0, 3, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path, 0)
    for place in RNG.integers(0, len(data), 200):
        path.write_bytes(flip(data, int(place), int(place) % 8))
        try:
            with PixelReader() as reader:
                raw = [reader.raw(PixelSource(path, row)) for row in range(8)]
                _ = [reader.pixels(PixelSource(path, row)) for row in range(8)]
        except UserError as error:
            assert "tiles.parquet" in str(error)
        else:
            assert raw == images, "the PNG in each cell has its checksums"


def png(width_px: int, height_px: int, *more: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(b"zTXt", text) for text in more) + rows + chunk(b"IEND", b"")


def test_decompression_bombs(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    for size in ((9000, 9000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)):
        path.write_bytes(png(*size))
        assert "too large" in refused(path)
    path.write_bytes(png(4, 4, b"a\0\0" + zlib.compress(bytes(50_000_000))))
    assert read_pixels(path).shape == (4, 4, 3)  # the text is passed over, so it is never unpacked
    tiff = encoded(TILE_HWC, "TIFF")
    path.write_bytes(tiff.replace(struct.pack("<HHII", 256, 4, 1, 14), struct.pack("<HHII", 256, 4, 1, 2**31 - 1)))
    assert path.read_bytes() != tiff
    refused(path)


def test_a_file_too_long_for_an_image_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as stream:
        stream.truncate(50 * 2**30)
    assert "too large (53,687,091,200 bytes)" in refused(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    folder, loop, gone, empty = (tmp_path / name for name in ("folder.png", "loop.png", "gone.png", "empty.png"))
    folder.mkdir()
    empty.touch()
    assert "this is a folder" in refused(folder)
    assert "empty" in refused(empty)
    assert "missing" in refused(gone)
    assert "a folder or a device" in refused(folder.rename(tmp_path / "folder.parquet"), 0)
    if sys.platform != "win32":
        loop.symlink_to(loop)
        assert "can't be read (" in refused(loop)
        os.mkfifo(tmp_path / "pipe.png")
        assert "this is a device or pipe" in refused(tmp_path / "pipe.png")


def test_no_permission() -> None:
    Image.new("RGB", (2, 2))  # plugins are loaded while everything may be read
    with folder_for_everyone() as folder:
        image = folder / "shut.png"
        image.write_bytes(encoded(TILE_HWC))
        table = write_image_parquet(folder / "shut.parquet", [encoded(TILE_HWC)])
        with h5py.File(folder / "shut.h5", "w") as file:
            file["x"] = TILE_HWC[None]
        for path in (image, table, folder / "shut.h5"):
            path.chmod(0)
        with without_rights():
            assert "Permission denied" in refused(image)
            assert "permission denied" in refused(table, 0)
            assert "ermission denied" in refused(folder / "shut.h5", 0)


def test_names_with_spaces_and_other_letters(tmp_path: Path) -> None:
    path = tmp_path / "Größe µ 良性 .png"
    path.write_bytes(encoded(TILE_HWC))
    assert np.array_equal(read_pixels(path), TILE_HWC)
    path.write_bytes(encoded(TILE_HWC)[:-30])
    refused(path)
