"""A digest of the pixels of every tile of a part, in order; never more than a few hundred tiles in memory."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.parquet import image_batches, open_parquet
from histotune.datasets.patch_camelyon.hdf5 import opened_hdf5
from histotune.datasets.pcam_files import SIDE_PX
from histotune.tools.errors import UserError
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.patch_camelyon.part import Part
# N tiles; a digest is two 64-bit words

DIGEST_BYTES = 16
ROWS_PER_READ = 256


def pixel_digests(part: Part, words: str) -> NDArray[np.uint64]:
    """Return a 128-bit digest of each tile's decoded pixels: equal pixels, equal digest, whatever the file format.

    Args:
        part: Any part of any copy.
        words: Label of the progress bar.

    Returns:
        uint64 (N, 2), in the order of the part.

    Raises:
        UserError: A tile can't be decoded or is not 96 x 96 RGB.
    """
    found = b"".join(track(_digests(part), words, total=len(part)))
    return np.frombuffer(found, dtype=np.uint64).reshape(-1, 2)


def _digests(part: Part) -> Iterator[bytes]:
    if part.rows is None:
        yield from _images(part.paths.to_list())
        return
    for path, group in groupby(zip(part.paths.to_list(), part.rows.tolist(), strict=True), key=lambda pair: pair[0]):
        n_tiles = sum(1 for _ in group)  # every tile of a file, in order, is how readers make parts
        yield from _parquet(path) if path.lower().endswith(".parquet") else _hdf5(path, n_tiles)


def _hdf5(path: str, n_tiles: int) -> Iterator[bytes]:
    with opened_hdf5(path) as file:
        for start in range(0, n_tiles, ROWS_PER_READ):
            for row_HWC in np.asarray(file["x"][start : start + ROWS_PER_READ]):
                yield _digest(row_HWC)


def _parquet(path: str) -> Iterator[bytes]:
    file = open_parquet(path)
    first = 0
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="digest") as pool:
        for group in range(file.metadata.num_row_groups):
            for cells in image_batches(file, path, group):
                places = [f"{path}, row {row}" for row in range(first, first + len(cells))]
                yield from pool.map(_encoded, cells, places)
                first += len(cells)


def _images(paths: Sequence[str]) -> Iterator[bytes]:
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="digest") as pool:
        for some in _chunks(paths):
            yield from pool.map(_image_file, some)


def _chunks(paths: Sequence[str]) -> Iterable[Sequence[str]]:
    return (paths[start : start + ROWS_PER_READ] for start in range(0, len(paths), ROWS_PER_READ))


def _image_file(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            return _encoded(stream.read(), path)
    except OSError as error:
        raise UserError(f"the image can't be read ({error.strerror})", value=path, fix="check the file") from error


def _encoded(data: bytes | None, place: str) -> bytes:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b""), formats=("PNG", "TIFF", "JPEG")) as image:
            size, mode = image.size, image.mode
            if size == (SIDE_PX, SIDE_PX) and mode == "RGB":
                return _digest(np.asarray(image))
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        raise UserError(f"the image is truncated or damaged ({error})", value=place,
                        fix="download it again") from error  # fmt: skip
    raise UserError(f"this is no patch of PatchCamelyon ({size[0]} x {size[1]} pixels, {mode})", value=place,
                    allowed=f"{SIDE_PX} x {SIDE_PX} pixels, RGB", fix="download it again")  # fmt: skip


def _digest(pixels_HWC: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels_HWC).tobytes(), digest_size=DIGEST_BYTES).digest()
