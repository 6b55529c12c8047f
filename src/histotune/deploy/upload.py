"""What a client sends, read into memory within limits: never a file, never a name that is used as a path."""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.images.decode import BYTES_PER_PIXEL, SMALL_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.datastructures import FormData
    from starlette.requests import Request

    from histotune.tools.errors import UserError

MAX_FILES = 64
MAX_FIELDS = 8
MAX_FIELD_BYTES = 4096
MAX_NAME_CHARACTERS = 200
BODY_S = 60.0
"""Longest time that a body may take to arrive, seconds."""
DRAIN_BYTES, DRAIN_S = 128 * 2**20, 3.0
ENVELOPE_BYTES = 65_536  # boundaries, headers of parts and fields, beyond the files themselves
ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")
HOW = "curl -F image=@tile.png http://127.0.0.1:8000/predict"


class RefusedError(Exception):
    """A request that is not answered, and the sentence that says why.

    Args:
        status: HTTP status, 4xx or 503.
        sentence: For the client.
    """

    def __init__(self, status: int, sentence: str) -> None:
        self.status, self.sentence = status, sentence
        super().__init__(sentence)


@dataclass(frozen=True)
class SentImage:
    """An image as it was sent.

    Attributes:
        name: As the client calls it, shortened and printable; for answers alone.
        data: The file's bytes.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class Sent:
    """What a request holds.

    Attributes:
        images: One or several.
        mpp: Scale of all of them, um/px; None where it is not said.
        class_name: Whose logit is asked for; empty where it is not said.
    """

    images: tuple[SentImage, ...]
    mpp: float | None = None
    class_name: str = ""


def upload_limit(max_pixels: int, max_upload_mib: float) -> int:
    """Return how many bytes a request may have: what is allowed, and never more than such images can need."""
    return min(int(max_upload_mib * 2**20), BYTES_PER_PIXEL * max_pixels + SMALL_FILE_BYTES) + ENVELOPE_BYTES


async def read_request(request: Request, limit_bytes: int) -> Sent:
    """Read the form of a request into memory.

    Args:
        request: Its body has not been read yet.
        limit_bytes: Most bytes of the whole body.

    Returns:
        Images in the fields ``image``, and the fields ``mpp`` and ``class``.

    Raises:
        RefusedError: Too large, too slow, no form, no image in it, or fields that mean nothing.
    """
    try:
        return await _read(request, limit_bytes)
    except RefusedError:
        await _drain(request)
        raise


async def _drain(request: Request) -> None:
    """Let a client that is still sending finish within bounds, or it would see a broken connection, not the reason."""
    from starlette.requests import ClientDisconnect

    n_bytes = 0
    with suppress(ClientDisconnect, TimeoutError, RuntimeError):  # Starlette's word for a body that was read
        async with asyncio.timeout(DRAIN_S):
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes > DRAIN_BYTES:
                    return


async def _read(request: Request, limit_bytes: int) -> Sent:
    from starlette.datastructures import UploadFile
    from starlette.requests import ClientDisconnect

    _check_header(request, limit_bytes)
    try:
        async with asyncio.timeout(BODY_S):
            form = await _form(request, limit_bytes)
    except TimeoutError:
        raise RefusedError(408, f"The images did not arrive within {BODY_S:g} seconds.") from None
    except ClientDisconnect:
        raise RefusedError(400, "The connection ended before the images had arrived.") from None
    images, fields = [], {}
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            if key not in ("image", "images"):
                raise RefusedError(422, f"There is no field {shown(key)} for files: send images in the field 'image'.")
            images.append(SentImage(printable(value.filename or "image"), await value.read()))
            await value.close()
        elif key in ("mpp", "class"):
            fields[key] = value
        else:
            raise RefusedError(422, f"There is no field {shown(key)}: there are image (a file), mpp and class.")
    if not images:
        raise RefusedError(422, f"No image was sent: send one or several as files in the field 'image' ({HOW}).")
    return Sent(tuple(images), _mpp(fields.get("mpp", "")), fields.get("class", ""))


def _check_header(request: Request, limit_bytes: int) -> None:
    kind = request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() != "multipart/form-data":
        raise RefusedError(415, f"Images are sent as multipart/form-data ({HOW}), not as {shown(kind or 'nothing')}.")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)


async def _form(request: Request, limit_bytes: int) -> FormData:
    """Parse a multipart body as it arrives."""
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def limited() -> AsyncGenerator[bytes, None]:
        """Pass the body on until it is too large."""
        n_bytes = 0
        async for chunk in request.stream():
            n_bytes += len(chunk)
            if n_bytes > limit_bytes:
                raise _too_large(limit_bytes)
            yield chunk

    parser = MultiPartParser(
        request.headers, limited(), max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    parser.spool_max_size = limit_bytes + 1  # Starlette would write what is larger than 1 MB to a disk
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise RefusedError(400, f"The form can't be read: {_sentence(error.message)}") from error
    except RefusedError:
        raise
    except (ValueError, KeyError, IndexError, LookupError) as error:  # of header values that no parser expects
        raise RefusedError(400, "The form can't be read: its headers are damaged.") from error


def _too_large(limit_bytes: int) -> RefusedError:
    return RefusedError(
        413,
        f"This request is too large: at most {limit_bytes / 2**20:,.0f} MiB are read. Send fewer or smaller images.",
    )


def _mpp(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise RefusedError(422, f"mpp is a positive number of um/px, such as 0.5, and not {shown(text)}.")
    return mpp


# ---- Words that go back to a client ----


def refusal(error: UserError, status: int = 422) -> RefusedError:
    """Return a mistake as one sentence for a client."""
    words = [_sentence(error.what if error.value is None else f"{error.what}: {shown(str(error.value))}")]
    if error.closest:
        words.append(f"Did you mean {error.closest}?")
    if error.allowed:
        words.append(f"Allowed: {error.allowed}.")
    return RefusedError(status, printable(ADDRESS.sub("it", " ".join(words)), 1000))


def printable(text: str, n_most: int = MAX_NAME_CHARACTERS) -> str:
    r"""Return text on one line, without what a terminal or a page could take for more than text.

    Example:
        >>> printable("../../a\x1b[1m\nb.png")
        '../../a [1m b.png'
    """
    safe = "".join(char if char.isprintable() else " " for char in text)
    return safe if len(safe) <= n_most else f"{safe[: n_most - 3]}..."


def shown(text: str) -> str:
    """Return a client's own word in quotes."""
    return repr(printable(text, 60))


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
