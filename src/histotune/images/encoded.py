"""From the bytes of an image file to uint8 RGB pixels, with every odd or damaged image refused by name."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image, ImageFile

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BYTES_PER_PIXEL = 8  # no 8-bit image needs more; a longer file is none, and is not loaded into memory
SMALL_FILE_BYTES = 16 * 2**20


def read_image_file(path: Path, max_pixels: int) -> bytes:
    """Return an image file's bytes.

    Args:
        path: The file.
        max_pixels: Files too long for an image of so many pixels are refused unread.

    Returns:
        All bytes.

    Raises:
        UserError: Missing, unreadable, empty, not a regular file, or far too long.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  (a quarter of the time of Path.stat, over many thousand tiles)
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "device or pipe"
            raise UserError(f"this is a {kind}, not an image file", value=path, fix="remove it, or read the right file")
        if status.st_size > BYTES_PER_PIXEL * max_pixels + SMALL_FILE_BYTES:
            raise too_large(path, f"{status.st_size:,} bytes", max_pixels)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError("the image is missing", value=path,
                        fix="read the data set again; files have moved since") from error  # fmt: skip
    except OSError as error:
        raise UserError(f"the image can't be read ({error.strerror})", value=path,
                        fix="check the permissions of the file and its disk") from error  # fmt: skip
    if not data:
        raise UserError("the image file is empty", value=path, fix="copy it again from its source, or remove it")
    return data


def decode_image(data: bytes, place: object, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image file's bytes.

    A PNG carries a checksum over every part of it, and Pillow does not look at those of the pixels; they are
    checked here, so that a flipped bit in a PNG is always found. TIFF, BMP and JPEG have no checksum: a flipped bit
    there is found only where it breaks the format.

    Args:
        data: The whole file.
        place: Named in messages: the file, or the row that holds it.
        max_pixels: Images with more pixels are refused before they are decoded.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        UserError: Damaged, too large, or not 8-bit RGB, grey or opaque RGBA.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        _check_png(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_odd(image, place, max_pixels)
            image.load()
            return _as_rgb(image, place)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError("this file is no image that can be read", value=place, allowed=", ".join(FORMATS),
                        fix="copy the file again from its source, or remove it") from error  # fmt: skip
    except Image.DecompressionBombError as error:
        raise too_large(place, str(error), max_pixels) from error
    except Exception as error:  # Pillow's plugins raise many types on damaged files: SyntaxError, struct.error, ...
        raise damaged(place, error) from error


def too_large(place: object, size: str, max_pixels: int) -> UserError:
    """Return the message for an image beyond the limit."""
    size = size if "bytes" in size else f"{size} pixels"
    return UserError(f"this image is too large ({size})", value=place, allowed=f"at most {max_pixels:,} pixels",
                     fix="cut it into tiles, or raise --set loader.max_pixels=...")  # fmt: skip


def damaged(place: object, error: BaseException) -> UserError:
    """Return the message for an image that breaks while it is read."""
    return UserError(f"the image is truncated or damaged ({error})", value=place,
                     fix="copy it again from its source, or remove it")  # fmt: skip


def _check_png(data: bytes) -> None:
    """Check every chunk of a PNG against its CRC (PNG specification, section 5.3) up to the closing chunk."""
    if not data.startswith(PNG_SIGNATURE):
        return
    view = memoryview(data)
    start, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise ValueError("the PNG ends before its closing chunk")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            raise ValueError("the PNG ends within a chunk")
        if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"a checksum of the PNG is wrong, in chunk {kind.decode('latin-1')}")
        start = end + 4


def _refuse_odd(image: ImageFile.ImageFile, place: object, max_pixels: int) -> None:
    """Refuse what would be decoded wrongly, judged by the header alone."""
    if image.width * image.height > max_pixels:
        raise too_large(place, f"{image.width} x {image.height}", max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise UserError("this image holds several frames or pages", value=place, allowed="one image per file",
                        fix="save the page to use as a file of its own")  # fmt: skip
    # Pillow opens 16-bit colour as mode RGB and drops the low byte; only the raw mode tells.
    if image.mode.startswith(("I", "F")) or any("16" in str(tile[3]) for tile in image.tile):
        raise UserError("this image has more than 8 bits per channel", value=place, allowed="8-bit RGB or grey",
                        fix="convert the data set to 8 bits with the scaling you want, then read it again")  # fmt: skip
    if image.mode not in ("RGB", "L", "RGBA", "LA", "P"):
        raise UserError(f"this image has colour mode {image.mode}", value=place, allowed="8-bit RGB, grey, opaque RGBA",
                        fix="convert it to RGB")  # fmt: skip


def _as_rgb(image: Image.Image, place: object) -> NDArray[np.uint8]:
    """Convert to RGB; transparency has no agreed background, so only opaque images pass."""
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise UserError("this image has transparent pixels", value=place, allowed="opaque images",
                            fix="flatten it onto the background you want (usually white)")  # fmt: skip
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
