"""From a file, an HDF5 row or a parquet row to uint8 RGB pixels, with every odd image refused by name."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histotune.images.config import LoaderConfig
from histotune.images.encoded import damaged, decode_image, read_image_file, too_large
from histotune.images.parquet import ParquetImages, is_parquet
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import h5py
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet

PIXELS = "x"  # name of the HDF5 data set that holds pixels
# H height, W width, C channels (RGB)


@dataclass(frozen=True)
class PixelSource:
    """Where the pixels of one tile are.

    Attributes:
        path: The image file, the HDF5 file, or the parquet file (named ``.parquet``).
        row: Row of the HDF5 data set "x" or of the parquet column "image"; None for image files.
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
    """Reads tiles from any thread and keeps HDF5 and parquet files open in between.

    Args:
        config: Limits on what is read, and threads that the loader takes.

    Example:
        >>> with PixelReader() as reader:  # doctest: +SKIP
        ...     pixels_HWC = reader.pixels(PixelSource(Path("tile.png")))
    """

    def __init__(self, config: LoaderConfig | None = None) -> None:
        self.config = config or LoaderConfig()
        self._open: dict[Path, h5py.File] = {}
        self._tables: dict[Path, ParquetImages] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> PixelReader:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every file."""
        self.close()

    def close(self) -> None:
        """Close every file; the reader can still be used and opens them again."""
        with self._guard:
            for file in (*self._open.values(), *self._tables.values()):
                file.close()
            self._open.clear()
            self._tables.clear()

    def raw(self, source: PixelSource) -> bytes:
        """Return the bytes that a tile's content hash is taken over.

        Args:
            source: Where the tile is.

        Returns:
            The image file's bytes, in a file of its own or in a parquet cell; for an HDF5 row, dtype and shape as
            text, then the row's bytes.

        Raises:
            UserError: Missing file, unreadable file, or no such row.
        """
        if source.row is None:
            return read_image_file(source.path, self.config.max_pixels)
        return next(self.raw_rows(source.path, source.row, source.row + 1))

    def raw_rows(self, path: Path, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes that content hashes are taken over, for consecutive rows of an HDF5 or parquet file.

        Args:
            path: The file.
            start: First row.
            stop: One past the last row.

        Yields:
            As from :meth:`raw`, row by row.

        Raises:
            UserError: No such rows, or the file is damaged.
        """
        if is_parquet(path):
            table = self._table(path)
            yield from (table.cell(row) for row in range(start, stop))
        else:
            yield from (row_bytes(row_HWC) for row_HWC in self.rows(path, start, stop))

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
        if source.row is None or is_parquet(source.path):
            data = self.raw(source)
            return decode_image(data, source, self.config.max_pixels), content_hash(data)
        row_HWC = self.rows(source.path, source.row, source.row + 1)[0]
        return _checked_row(row_HWC, source, self.config.max_pixels), content_hash(row_bytes(row_HWC))

    def n_rows(self, path: Path) -> int:
        """Return the number of tiles in an HDF5 or parquet file."""
        return len(self._table(path)) if is_parquet(path) else int(self._pixels(path).shape[0])

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
        except Exception as error:  # h5py raises OSError, RuntimeError, ValueError and KeyError on damaged files
            raise damaged(f"{path}, rows {start} to {stop - 1}", error) from error

    def _table(self, path: Path) -> ParquetImages:
        with self._guard:
            if path not in self._tables:
                self._tables[path] = ParquetImages(path)
            return self._tables[path]

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
        path: Image file (PNG, JPEG, TIFF, BMP, WebP), HDF5 file or parquet file.
        row: Row of the HDF5 data set "x" or of the parquet column "image"; None for image files.
        config: Limits on what is read, and threads that the loader takes.

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


def _checked_row(row_HWC: NDArray[np.generic], source: PixelSource, max_pixels: int) -> NDArray[np.uint8]:
    if row_HWC.dtype != np.uint8 or row_HWC.ndim != 3 or row_HWC.shape[2] != 3:
        raise UserError(f'the HDF5 data set "{PIXELS}" holds {row_HWC.dtype} {row_HWC.shape} per row', value=source,
                        allowed="uint8 (height, width, 3)", fix="write the pixels as 8-bit RGB")  # fmt: skip
    if row_HWC.shape[0] * row_HWC.shape[1] > max_pixels:
        raise too_large(source, f"{row_HWC.shape[1]} x {row_HWC.shape[0]}", max_pixels)
    return row_HWC.astype(np.uint8, copy=False)


def _open_hdf5(path: Path) -> h5py.File:
    import h5py

    try:
        file = h5py.File(path, "r")
        data = file.get(PIXELS)
        names = ", ".join(file) or "none"
    except Exception as error:  # h5py raises OSError, RuntimeError, ValueError and KeyError on damaged files
        what = "the HDF5 file is damaged or incomplete" if path.is_file() else "the HDF5 file is missing"
        raise UserError(f"{what} ({str(error).rstrip('.')})", value=path,
                        fix="download or unpack it again") from error  # fmt: skip
    if not isinstance(data, h5py.Dataset) or data.ndim < 1:
        file.close()
        raise UserError(f'the HDF5 file has no data set "{PIXELS}" of rows', value=path, allowed=f"found: {names}",
                        fix="point to the file whose name ends in _x.h5")  # fmt: skip
    return file
