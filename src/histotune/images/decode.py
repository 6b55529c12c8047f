"""From a file, an HDF5 row or a parquet row to uint8 RGB pixels, with every odd image refused by name."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.disk import explained_parquet_errors, image_batches, image_leaf, open_parquet, own_dataset
from histotune.images.config import LoaderConfig
from histotune.tools.errors import UserError
from histotune.tools.files import require_regular
from histotune.tools.stand_ins import START_BYTES, refuse_stand_in, stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import h5py
    from numpy.typing import NDArray
    from PIL import Image, ImageFile

    from histotune.datasets.tileset import TileSet

# H height, W width, C channels (RGB)


PIXELS = "x"  # name of the HDF5 data set that holds pixels


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
    """Return where the pixels of each tile are, in tile order."""
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

    def __exit__(self, *error: object) -> None:
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
            The pixels as stored: colour profiles are not applied, nor is the EXIF orientation of PNG, JPEG and WebP, as
            in the pipelines that published figures come from. A TIFF lies as its tag Orientation says: Pillow turns it
            whenever it reads one, in those pipelines, too.

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


def read_pixels(path: Path, row: int | None = None, config: LoaderConfig | None = None) -> NDArray[np.uint8]:
    """Return one tile's pixels, uint8 (H, W, 3) RGB; for many tiles keep a :class:`PixelReader`."""
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
        raise UserError(
            f'the HDF5 data set "{PIXELS}" holds {row_HWC.dtype} {row_HWC.shape} per row',
            value=source,
            allowed="uint8 (height, width, 3)",
            fix="write the pixels as 8-bit RGB",
        )
    if row_HWC.shape[0] * row_HWC.shape[1] > max_pixels:
        raise too_large(source, f"{row_HWC.shape[1]} x {row_HWC.shape[0]}", max_pixels)
    return row_HWC.astype(np.uint8, copy=False)


def _open_hdf5(path: Path) -> h5py.File:
    import h5py

    try:
        require_regular(path)
        file = h5py.File(path, "r")
        data = own_dataset(file, PIXELS)
        names = ", ".join(file) or "none"
    except UserError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, ValueError and KeyError on damaged files
        refuse_stand_in(path, "this HDF5 file")
        what = "the HDF5 file is damaged or incomplete" if path.is_file() else "the HDF5 file is missing"
        raise UserError(f"{what} ({str(error).rstrip('.')})", value=path, fix="download or unpack it again") from error
    if data is None or data.ndim < 1:
        file.close()
        raise UserError(
            f'the HDF5 file has no data set "{PIXELS}" of rows',
            value=path,
            allowed=f"found: {names}",
            fix="point to the file whose name ends in _x.h5",
        )
    return file


# ---- Image files ----


FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_ASIDE = (b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf")
BYTES_PER_PIXEL = 8  # no 8-bit image needs more; a longer file is none, and is not loaded into memory
SMALL_FILE_BYTES = 16 * 2**20


def read_image_file(path: Path, max_pixels: int) -> bytes:
    """Return an image file's bytes."""
    try:
        status = os.stat(path)  # noqa: PTH116  (a quarter of the time of Path.stat, over many thousand tiles)
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "device or pipe"
            raise UserError(f"this is a {kind}, not an image file", value=path, fix="remove it, or read the right file")
        if status.st_size > BYTES_PER_PIXEL * max_pixels + SMALL_FILE_BYTES:
            raise too_large(path, f"{status.st_size:,} bytes", max_pixels)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            "the image is missing", value=path, fix="read the data set again; files have moved since"
        ) from error
    except OSError as error:
        raise UserError(
            f"the image can't be read ({error.strerror})",
            value=path,
            fix="check the permissions of the file and its disk",
        ) from error
    if not data:
        raise UserError("the image file is empty", value=path, fix="copy it again from its source, or remove it")
    return data


def decode_image(data: bytes, place: object, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image file's bytes.

    A PNG carries a checksum over every part of it, and Pillow does not look at those of the pixels; they are
    checked here, so that a flipped bit in a PNG is always found. TIFF, BMP and JPEG have no checksum: a flipped bit
    there is found only where it breaks the format.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(_checked(data)), formats=FORMATS) as image:
            _refuse_odd(image, place, max_pixels)
            image.load()
            return _as_rgb(image, place)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        found = stand_in(data[:START_BYTES])
        if found is not None:
            raise UserError(f"this image is {found.words}", value=place, fix=found.fix) from error
        raise UserError(
            "this file is no image that can be read",
            value=place,
            allowed=", ".join(FORMATS),
            fix="copy the file again from its source, or remove it",
        ) from error
    except Image.DecompressionBombError as error:
        raise too_large(place, str(error), max_pixels) from error
    except Exception as error:  # Pillow's plugins raise many types on damaged files: SyntaxError, struct.error, ...
        raise damaged(place, error) from error


def too_large(place: object, size: str, max_pixels: int) -> UserError:
    """Return the message for an image beyond the limit."""
    size = size if "bytes" in size else f"{size} pixels"
    return UserError(
        f"this image is too large ({size})",
        value=place,
        allowed=f"at most {max_pixels:,} pixels",
        fix="cut it into tiles, or raise --set loader.max_pixels=...",
    )


def damaged(place: object, error: BaseException) -> UserError:
    """Return the message for an image that breaks while it is read."""
    return UserError(
        f"the image is truncated or damaged ({error})", value=place, fix="copy it again from its source, or remove it"
    )


def _checked(data: bytes) -> bytes:
    """Check every chunk of a PNG against its CRC (PNG specification, section 5.3) up to the closing chunk.

    Colour profiles and texts are left out of what is returned: no pixel depends on them, and Pillow refuses large ones.
    """
    if not data.startswith(PNG_SIGNATURE):
        return data
    view = memoryview(data)
    start, kind = len(PNG_SIGNATURE), b""
    kept = [view[:start]]
    while kind != b"IEND":
        if start + 12 > len(data):
            raise ValueError("the PNG ends before its closing chunk")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            raise ValueError("the PNG ends within a chunk")
        if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"a checksum of the PNG is wrong, in chunk {kind.decode('latin-1')}")
        if kind not in PNG_ASIDE:
            kept.append(view[start : end + 4])
        start = end + 4
    return data if sum(map(len, kept)) == start else b"".join(kept)


def _refuse_odd(image: ImageFile.ImageFile, place: object, max_pixels: int) -> None:
    """Refuse what would be decoded wrongly, judged by the header alone."""
    if image.width * image.height > max_pixels:
        raise too_large(place, f"{image.width} x {image.height}", max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(
            "this image holds several frames or pages",
            value=place,
            allowed="one image per file",
            fix="save the page to use as a file of its own",
        )
    # Pillow opens 16-bit colour as mode RGB and drops the low byte; only the raw mode tells, "RGB;16B".
    if image.mode.startswith(("I", "F")) or any("16" in _raw_mode(tile[3]) for tile in image.tile):
        raise UserError(
            "this image has more than 8 bits per channel",
            value=place,
            allowed="8-bit RGB or grey",
            fix="convert the data set to 8 bits with the scaling you want, then read it again",
        )
    if image.mode not in ("RGB", "L", "RGBA", "LA", "P"):
        raise UserError(
            f"this image has colour mode {image.mode}",
            value=place,
            allowed="8-bit RGB, grey, opaque RGBA",
            fix="convert it to RGB",
        )


def _raw_mode(arguments: object) -> str:
    """Return the raw mode among the arguments of a decoder: they are the mode, or begin with it."""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments or "")


def _as_rgb(image: Image.Image, place: object) -> NDArray[np.uint8]:
    """Convert to RGB; transparency has no agreed background, so only opaque images pass."""
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise UserError(
                "this image has transparent pixels",
                value=place,
                allowed="opaque images",
                fix="flatten it onto the background you want (usually white)",
            )
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


# ---- Images in the cells of a parquet file ----


KEPT_BYTES = 64 * 2**20  # threads that read ahead ask a little out of order; no more than this is kept for them
SUFFIX = ".parquet"


def is_parquet(path: Path) -> bool:
    """Return whether rows of this file are cells of a parquet column."""
    return path.suffix.lower() == SUFFIX


@dataclass
class _Stream:
    """A row group being read from its start.

    Attributes:
        group: Number of the row group.
        next_row: Row, within the file, of the next batch's first cell.
        batches: What is left of it.
    """

    group: int
    next_row: int
    batches: Iterator[Sequence[bytes | None]]


class ParquetImages:
    """The image column of one parquet file.

    Rows asked for in about ascending order are read once; a jump backwards reads its row group again from the start.

    Args:
        path: The file.

    Raises:
        UserError: The file is missing, damaged, or has no column of images.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_parquet(str(path))
        image_leaf(self._file, str(path))
        facts = self._file.metadata
        sizes = (facts.row_group(group).num_rows for group in range(facts.num_row_groups))
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._guard = threading.Lock()
        self._stream: _Stream | None = None
        self._kept: OrderedDict[int, bytes | None] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._starts[-1]

    def cell(self, row: int) -> bytes:
        """Return the encoded image in one row."""
        if not 0 <= row < len(self):
            raise UserError(
                "the parquet file has no such row",
                value=f"{self._path}, row {row}",
                allowed=f"0 to {len(self) - 1}",
                fix="read the data set again; the file has changed",
            )
        with self._guard:
            data = self._kept[row] if row in self._kept else self._read_up_to(row)
        if not data:
            raise UserError(
                "this row holds no image",
                value=f"{self._path}, row {row}",
                fix="download the file again; an image kept beside the table can't be used",
            )
        return data

    def close(self) -> None:
        """Close the file and forget what was read."""
        with self._guard:
            self._stream = None
            self._kept.clear()
            self._kept_bytes = 0
            self._file.close()

    def _read_up_to(self, row: int) -> bytes | None:
        """Read on, or anew from the start of the row group, until the row has been seen."""
        group = bisect_right(self._starts, row) - 1
        stream = self._stream
        if stream is None or stream.group != group or stream.next_row > row:
            stream = _Stream(group, self._starts[group], image_batches(self._file, str(self._path), group))
        self._stream = None  # a stream that fails is not used again
        with explained_parquet_errors(str(self._path)):
            for cells in stream.batches:
                first, stream.next_row = stream.next_row, stream.next_row + len(cells)
                self._keep(first, cells)
                if row < stream.next_row:
                    self._stream = stream
                    return cells[row - first]
            raise ValueError(f"row {row} is missing, though the footer counts it")

    def _keep(self, first: int, cells: Sequence[bytes | None]) -> None:
        for row, data in enumerate(cells, start=first):
            self._drop(row)
            self._kept[row] = data
            self._kept_bytes += len(data or b"")
        while self._kept_bytes > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, row: int) -> None:
        self._kept_bytes -= len(self._kept.pop(row, None) or b"")


# ---- Unreadable tiles ----


MAX_LISTED = 20  # one message names at most this many
SKIP_FIX = "mend these and run again, or leave them out with --on-bad-image skip"


@dataclass(frozen=True)
class UnreadableTile:
    """A tile and why it can't be read."""

    source: PixelSource
    error: UserError


class UnreadableTilesError(UserError):
    """Tiles that can't be read.

    Args:
        tiles: All that are known, at least one.
        complete: Whether every tile was tried; otherwise the message says that there may be more.
    """

    def __init__(self, tiles: Sequence[UnreadableTile], *, complete: bool = True) -> None:
        self.tiles = tuple(tiles)
        self.complete = complete
        super().__init__("\n".join(str(error) for error in self._errors()))

    def _errors(self) -> list[UserError]:
        errors = [tile.error for tile in self.tiles[:MAX_LISTED]]
        more = len(self.tiles) - MAX_LISTED
        if not self.complete:
            errors.append(UserError("there may be more; the check stopped here", fix=SKIP_FIX))
        elif more > 0:
            errors.append(UserError(f"and {more:,} more tiles that can't be read", fix=SKIP_FIX))
        return errors
