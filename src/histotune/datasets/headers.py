"""How large an image is, from the first bytes of its file; no pixel is decoded."""

from __future__ import annotations

import io
import os
import stat
import struct
from typing import BinaryIO

PNG_HEADER_BYTES = 24
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def png_size_px(path: str) -> tuple[int, int]:
    """Return (width, height) of a PNG from its first 24 bytes.

    Args:
        path: The file.

    Returns:
        The size in pixels.

    Raises:
        ValueError: The file does not start like a PNG image of at least one pixel.
        OSError: It can't be opened.
    """
    with open(path, "rb") as stream:  # noqa: PTH123  (thousands of files)
        header = stream.read(PNG_HEADER_BYTES)
    if not header:
        raise ValueError("empty file")
    if len(header) < PNG_HEADER_BYTES or not header.startswith(PNG_START):
        raise ValueError("not a PNG")
    return _png_size_px(header)


def image_size_px(path: str) -> tuple[int, int]:
    """Return (width, height) of an image file of any format that histotune reads.

    Args:
        path: The file.

    Returns:
        The size in pixels.

    Raises:
        ValueError: It is empty, no image, or no regular file.
        OSError: It can't be opened.
    """
    status = os.stat(path)  # noqa: PTH116  (a pipe would block when opened)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe")
    with open(path, "rb") as stream:  # noqa: PTH123
        header = stream.read(PNG_HEADER_BYTES)
        if not header:
            raise ValueError("empty file")
        if header.startswith(PNG_START) and len(header) == PNG_HEADER_BYTES:
            return _png_size_px(header)
        stream.seek(0)
        return _pillow_size_px(stream)


def encoded_size_px(data: bytes) -> tuple[int, int]:
    """Return (width, height) of an encoded image.

    Args:
        data: The bytes of an image file.

    Returns:
        The size in pixels.

    Raises:
        ValueError: It is no image.
    """
    return _pillow_size_px(io.BytesIO(data))


def size_or_reason(path: str) -> tuple[int, int] | str:
    """Return the size of an image file, or why it has none, for lists of all bad files."""
    try:
        return image_size_px(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)


def _png_size_px(header: bytes) -> tuple[int, int]:
    width_px, height_px = struct.unpack(">II", header[16:24])
    if not width_px or not height_px:
        raise ValueError("no pixels")
    return width_px, height_px


def _pillow_size_px(stream: BinaryIO) -> tuple[int, int]:
    """Let Pillow read the header; its limit on pixels is left to the decoder, which knows the user's."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(stream, formats=("PNG", "JPEG", "TIFF", "BMP", "WEBP")) as image:
            size = image.size
    except UnidentifiedImageError as error:
        raise ValueError("not an image") from error
    except Image.DecompressionBombError as error:
        raise ValueError("more pixels than a tile can have") from error
    except Exception as error:  # Pillow's plugins raise many types on damaged headers
        raise ValueError(f"damaged: {error}") from error
    if not all(size):
        raise ValueError("no pixels")
    return size
