"""From a file or an HDF5 row to uint8 RGB pixels, with every odd image refused by name."""

from __future__ import annotations

import hashlib
import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histotune.errors import UserError
from histotune.images.config import LoaderConfig

if TYPE_CHECKING:
    from types import TracebackType

    import h5py
    from numpy.typing import NDArray
    from PIL import Image, ImageFile

    from histotune.datasets.records import TileSet

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
PIXELS = "x"  # name of the HDF5 data set that holds pixels
# H height, W width, C channels (RGB)


@dataclass(frozen=True)
class PixelSource:
    """Where the pixels of one tile are.

    Attributes:
        path: The image file, or the HDF5 file.
        row: Row of the HDF5 data set "x"; None for image files.
    """

    path: Path
    row: int | None = None

    def __str__(self) -> str:
        """Return the place as messages name it."""
        return str(self.path) if self.row is None else f"{self.path}, row {self.row}"


def tile_sources(tiles: TileSet) -> tuple[PixelSource, ...]:
    """Return where the pixels of each tile are, in tile order.

    Args:
        tiles: The tile set.

    Returns:
        One source per tile.
    """
    columns = zip(tiles.table["path"].to_list(), tiles.table["row"].to_list(), strict=True)
    return tuple(PixelSource(Path(path), row) for path, row in columns)


class PixelReader:
    """Reads tiles from any thread and keeps HDF5 files open in between.

    Args:
        config: Limits on what is read.

    Example:
        >>> with PixelReader() as reader:  # doctest: +SKIP
        ...     pixels_HWC = reader.pixels(PixelSource(Path("tile.png")))
    """

    def __init__(self, config: LoaderConfig | None = None) -> None:
        self._max_pixels = (config or LoaderConfig()).max_pixels
        self._open: dict[Path, h5py.File] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> PixelReader:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every HDF5 file."""
        self.close()

    def close(self) -> None:
        """Close every HDF5 file; the reader can still be used and opens them again."""
        with self._guard:
            for file in self._open.values():
                file.close()
            self._open.clear()

    def raw(self, source: PixelSource) -> bytes:
        """Return the bytes that a tile's content hash is taken over.

        Args:
            source: Where the tile is.

        Returns:
            The image file's bytes; for an HDF5 row, dtype and shape as text, then the row's bytes.

        Raises:
            UserError: Missing file, unreadable file, or no such row.
        """
        if source.row is None:
            return _file_bytes(source.path)
        return row_bytes(self.rows(source.path, source.row, source.row + 1)[0])

    def pixels(self, source: PixelSource) -> NDArray[np.uint8]:
        """Return a tile's pixels, uint8 (H, W, 3) RGB.

        Args:
            source: Where the tile is.

        Returns:
            The pixels as stored: EXIF orientation and colour profiles are not applied, as in the pipelines that
            published figures come from.

        Raises:
            UserError: Missing, damaged or too large, or not 8-bit RGB, grey or opaque RGBA.
        """
        return self.pixels_and_hash(source)[0]

    def pixels_and_hash(self, source: PixelSource) -> tuple[NDArray[np.uint8], str]:
        """Return a tile's pixels and the content hash of the very bytes they were decoded from.

        Args:
            source: Where the tile is.

        Returns:
            uint8 (H, W, 3), and 64 hexadecimal digits.

        Raises:
            UserError: As for :meth:`pixels`.
        """
        if source.row is None:
            data = _file_bytes(source.path)
            return decode_image(data, source.path, self._max_pixels), content_hash(data)
        row_HWC = self.rows(source.path, source.row, source.row + 1)[0]
        return _checked_row(row_HWC, source, self._max_pixels), content_hash(row_bytes(row_HWC))

    def n_rows(self, path: Path) -> int:
        """Return the number of tiles in an HDF5 file."""
        return int(self._pixels(path).shape[0])

    def rows(self, path: Path, start: int, stop: int) -> NDArray[np.generic]:
        """Return consecutive rows of the HDF5 data set "x", as stored.

        Args:
            path: HDF5 file.
            start: First row.
            stop: One past the last row.

        Returns:
            Array (stop - start, H, W, C).

        Raises:
            UserError: No such rows, or the file is damaged.
        """
        data = self._pixels(path)
        if not 0 <= start < stop <= data.shape[0]:
            raise UserError(
                "the HDF5 file has no such row",
                value=f"{path}, rows {start} to {stop - 1}",
                allowed=f"0 to {data.shape[0] - 1}",
                fix="read the data set again; the file has changed",
            )
        try:
            return np.asarray(data[start:stop])
        except OSError as error:
            raise _damaged(f"{path}, rows {start} to {stop - 1}", error) from error

    def _pixels(self, path: Path) -> h5py.Dataset:
        with self._guard:
            if path not in self._open:
                self._open[path] = _open_hdf5(path)
            return self._open[path][PIXELS]


def read_tile_bytes(path: Path, row: int | None = None) -> bytes:
    """Return the bytes that a tile's content hash is taken over; see :meth:`PixelReader.raw`."""
    with PixelReader() as reader:
        return reader.raw(PixelSource(Path(path), row))


def read_pixels(path: Path, row: int | None = None, config: LoaderConfig | None = None) -> NDArray[np.uint8]:
    """Return one tile's pixels, uint8 (H, W, 3) RGB; for many tiles keep a :class:`PixelReader`.

    Args:
        path: Image file (PNG, JPEG, TIFF, BMP, WebP), or an HDF5 file.
        row: Row of the HDF5 data set "x"; None for image files.
        config: Limits on what is read.

    Returns:
        The pixels.

    Raises:
        UserError: Missing, damaged or too large, or not 8-bit RGB, grey or opaque RGBA.
    """
    with PixelReader(config) as reader:
        return reader.pixels(PixelSource(Path(path), row))


def content_hash(raw: bytes) -> str:
    """Return the SHA-256 of a tile's raw bytes; for image files, that of the file."""
    return hashlib.sha256(raw).hexdigest()


def row_bytes(row_HWC: NDArray[np.generic]) -> bytes:
    """Return dtype and shape as text, then the bytes of an HDF5 row.

    The prefix keeps two rows apart that hold the same bytes in different shapes.
    """
    return f"{row_HWC.dtype.str}{row_HWC.shape}".encode() + np.ascontiguousarray(row_HWC).tobytes()


def decode_image(data: bytes, path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image file's bytes.

    Args:
        data: The whole file.
        path: Named in messages.
        max_pixels: Images with more pixels are refused before they are decoded.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        UserError: Damaged, too large, or not 8-bit RGB, grey or opaque RGBA.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_odd(image, path, max_pixels)
            image.load()
            return _as_rgb(image, path)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError("this file is no image that can be read", value=path, allowed=", ".join(FORMATS),
                        fix="copy the file again from its source, or remove it") from error  # fmt: skip
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error), max_pixels) from error
    except Exception as error:  # Pillow's plugins raise many types on damaged files: SyntaxError, struct.error, ...
        raise _damaged(path, error) from error


def _refuse_odd(image: ImageFile.ImageFile, path: Path, max_pixels: int) -> None:
    """Refuse what would be decoded wrongly, judged by the header alone."""
    if image.width * image.height > max_pixels:
        raise _too_large(path, f"{image.width} x {image.height}", max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise UserError("this image holds several frames or pages", value=path, allowed="one image per file",
                        fix="save the page to use as a file of its own")  # fmt: skip
    # Pillow opens 16-bit colour as mode RGB and drops the low byte; only the raw mode tells.
    if image.mode.startswith(("I", "F")) or any("16" in str(tile[3]) for tile in image.tile):
        raise UserError("this image has more than 8 bits per channel", value=path, allowed="8-bit RGB or grey",
                        fix="convert the data set to 8 bits with the scaling you want, then read it again")  # fmt: skip
    if image.mode not in ("RGB", "L", "RGBA", "LA", "P"):
        raise UserError(f"this image has colour mode {image.mode}", value=path, allowed="8-bit RGB, grey, opaque RGBA",
                        fix="convert it to RGB")  # fmt: skip


def _as_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Convert to RGB; transparency has no agreed background, so only opaque images pass."""
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise UserError("this image has transparent pixels", value=path, allowed="opaque images",
                            fix="flatten it onto the background you want (usually white)")  # fmt: skip
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _checked_row(row_HWC: NDArray[np.generic], source: PixelSource, max_pixels: int) -> NDArray[np.uint8]:
    if row_HWC.dtype != np.uint8 or row_HWC.ndim != 3 or row_HWC.shape[2] != 3:
        raise UserError(f'the HDF5 data set "{PIXELS}" holds {row_HWC.dtype} {row_HWC.shape} per row', value=source,
                        allowed="uint8 (height, width, 3)", fix="write the pixels as 8-bit RGB")  # fmt: skip
    if row_HWC.shape[0] * row_HWC.shape[1] > max_pixels:
        raise _too_large(source.path, f"{row_HWC.shape[1]} x {row_HWC.shape[0]}", max_pixels)
    return row_HWC.astype(np.uint8, copy=False)


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError("the image is missing", value=path,
                        fix="read the data set again; files have moved since") from error  # fmt: skip
    except OSError as error:
        raise UserError(f"the image can't be read ({error.strerror})", value=path,
                        fix="check the permissions of the file and its disk") from error  # fmt: skip


def _open_hdf5(path: Path) -> h5py.File:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        what = "the HDF5 file is damaged or incomplete" if path.is_file() else "the HDF5 file is missing"
        raise UserError(what, value=path, fix="download or unpack it again") from error
    if not isinstance(file.get(PIXELS), h5py.Dataset):
        names = ", ".join(file) or "none"
        file.close()
        raise UserError(f'the HDF5 file has no data set "{PIXELS}"', value=path, allowed=f"found: {names}",
                        fix="point to the file whose name ends in _x.h5")  # fmt: skip
    return file


def _too_large(path: Path, size: str, max_pixels: int) -> UserError:
    return UserError(f"this image is too large ({size} pixels)", value=path, allowed=f"at most {max_pixels:,} pixels",
                     fix="cut it into tiles, or raise --set loader.max_pixels=...")  # fmt: skip


def _damaged(value: object, error: BaseException) -> UserError:
    return UserError(f"the image is truncated or damaged ({error})", value=value,
                     fix="copy it again from its source, or remove it")  # fmt: skip
