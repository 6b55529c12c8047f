"""Large matrices in one file beside the shards: room for all of it first, hashes of its bytes, then mapped."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.tools.files import write_json
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

LOG = logging.getLogger(__name__)
BLOCK_BYTES = 32 * 2**20
# N tiles, D columns


@dataclass(frozen=True)
class MappedFile:
    """A gathered matrix and the note beside it that says what its bytes must be.

    Attributes:
        path: The ``.npy`` file.
        shards: Hash of every shard it was gathered from, by name.
    """

    path: Path
    shards: Mapping[str, str]

    @property
    def seal_path(self) -> Path:
        """Where the hashes of its bytes are."""
        return self.path.with_suffix(".json")

    def open(self) -> NDArray[np.float32] | NDArray[np.float16] | None:
        """Map the file read-only after checking every byte; None where it is missing, unsealed or damaged."""
        if not self.path.is_file() or not self.seal_path.is_file():
            return None
        if read_seal(self.seal_path).get("blocks") != _block_hashes(self.path):
            LOG.warning("a gathered matrix is damaged and is gathered again from its shards: %s", self.path)
            return None
        mapped_ND: NDArray[np.float32] | NDArray[np.float16] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped_ND

    def seal(self) -> None:
        """Write down the hashes of its bytes; without them it is never read."""
        write_json(self.seal_path, {"blocks": _block_hashes(self.path), "shards": dict(self.shards)})


def read_seal(path: Path) -> dict[str, object]:
    """Return what is written beside a gathered matrix; empty where it can't be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def create_mapped(
    path: Path, shape: tuple[int, int], dtype: type[np.float32 | np.float16] = np.float32
) -> np.memmap[Any, np.dtype[Any]]:
    """Make a ``.npy`` file and map it for writing.

    Its room on the disk is taken first: writing through a map to a full disk kills the process without a message.

    Args:
        path: The file; overwritten.
        shape: Rows and columns.
        dtype: float32 or float16.

    Returns:
        The writable map (N, D).

    Raises:
        OSError: The disk has no room.
    """
    with path.open("wb") as stream:
        kept = np.dtype(dtype).newbyteorder("<")
        header = {"descr": kept.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        n_bytes = stream.tell() + kept.itemsize * shape[0] * shape[1]
        if hasattr(os, "posix_fallocate"):
            stream.flush()
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
        else:
            if shutil.disk_usage(path.parent).free < n_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            stream.truncate(n_bytes)
    return np.lib.format.open_memmap(path, mode="r+")


def _block_hashes(path: Path) -> list[str]:
    """Hash a file in blocks, side by side."""
    starts = range(0, max(1, path.stat().st_size), BLOCK_BYTES)
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="hash") as pool:
        return list(pool.map(lambda start: _hash_block(path, start), starts))


def _hash_block(path: Path, start: int) -> str:
    with path.open("rb") as stream:
        stream.seek(start)
        return hashlib.sha256(stream.read(BLOCK_BYTES)).hexdigest()
