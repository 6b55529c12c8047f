"""From shards to one matrix in the tile set's order."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.embeddings.space import Embeddings
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, json_or_none, lock, write_json
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.embeddings.store import Manifest, Store

    Matrix = NDArray[np.float32] | NDArray[np.float16]

# N tiles, D columns


LOG = logging.getLogger(__name__)
WAIT_S = 24 * 3600.0  # another process may be writing a large matrix
IN_MEMORY_BYTES = 256 * 2**20  # a larger matrix is gathered into a file once and memory-mapped


@dataclass(frozen=True)
class _Part:
    """Which rows of one shard go where."""

    name: str
    manifest: Manifest
    from_rows: NDArray[np.int64]
    to_rows: NDArray[np.int64]


def missing_content(manifests: dict[str, Manifest], content: Sequence[str]) -> tuple[str, ...]:
    """Return the content hashes that no shard holds, each once, in order."""
    missing = dict.fromkeys(content)  # as large as what is asked for, however much the shards hold
    for manifest in manifests.values():
        for one in manifest.content:
            missing.pop(one, None)
    return tuple(missing)


def held_content(manifests: dict[str, Manifest]) -> set[str]:
    """Return the content hashes that shards hold."""
    return {one for manifest in manifests.values() for one in manifest.content}


def gather(
    store: Store, manifests: dict[str, Manifest], content: Sequence[str], in_memory_bytes: int = IN_MEMORY_BYTES
) -> Embeddings | None:
    """Read rows out of the shards, every shard verified as it is read; float16 where all of these are.

    The rows bear their keys, for a shard knows no tile; None says that a shard is damaged.
    """
    parts = _parts(manifests, content)
    n_fp32 = sum(len(part.to_rows) for part in parts if part.manifest.dtype == "float32")
    matrix_ND = _matrix(store, parts, content, np.float32 if n_fp32 else np.float16, in_memory_bytes)
    if matrix_ND is None:
        return None
    return Embeddings(
        matrix_ND,
        parts[0].manifest.blocks,
        tuple(content),
        store.space,
        n_equivalent=sum(len(part.to_rows) for part in parts if part.manifest.equivalent),
        n_kept_fp32=n_fp32 if store.space.stores_fp16 else 0,
    )


def _matrix(
    store: Store,
    parts: Sequence[_Part],
    content: Sequence[str],
    dtype: type[np.float32 | np.float16],
    in_memory_bytes: int,
) -> Matrix | None:
    """Map the rows out of one file where they are many, and read them into memory where they are few."""
    shape = (len(content), parts[0].manifest.blocks[-1].stop)
    if np.dtype(dtype).itemsize * shape[0] * shape[1] > in_memory_bytes:
        try:
            return _map(store, parts, content, shape, dtype)
        except UserError as error:  # a full disk, or a cache of somebody else's
            LOG.warning("the embeddings are read into memory instead of a file beside them: %s", error.what)
    matrix_ND: Matrix = np.empty(shape, np.float16) if dtype is np.float16 else np.empty(shape, np.float32)
    return matrix_ND if _fill(matrix_ND, store, parts) else None


def _map(
    store: Store,
    parts: Sequence[_Part],
    content: Sequence[str],
    shape: tuple[int, int],
    dtype: type[np.float32 | np.float16],
) -> Matrix | None:
    """Map the gathered file, writing it first where it is missing or damaged; None where a shard is damaged."""
    hashes = {part.name: part.manifest.sha256 for part in parts}
    name = hash_bytes(*content, *hashes.values())[:24]
    file = MappedFile(store.folder / "gathered" / f"{name}.npy", hashes)
    found_ND = file.open()
    if found_ND is not None:
        return found_ND
    with lock(store.folder / "gathered.lock", timeout_s=WAIT_S):  # of several processes one writes, the others map
        found_ND = file.open()
        return _write(file, store, parts, shape, dtype) if found_ND is None else found_ND


def _write(
    file: MappedFile,
    store: Store,
    parts: Sequence[_Part],
    shape: tuple[int, int],
    dtype: type[np.float32 | np.float16],
) -> Matrix | None:
    """Write the gathered file and map it; None where a shard is damaged."""
    try:
        with atomic_path(file.path) as temporary:
            mapped_ND = create_mapped(temporary, shape, dtype)
            complete = _fill(mapped_ND, store, parts)
            mapped_ND.flush()
            del mapped_ND  # Windows renames no file that is still mapped
            if not complete:
                raise _DamagedShardError
    except _DamagedShardError:
        return None
    file.seal()
    return file.open()


def _fill(matrix_ND: Matrix, store: Store, parts: Sequence[_Part]) -> bool:
    """Copy rows shard by shard; False where one is damaged. All are read, so that all damage is found at once."""
    complete = True
    for part in parts:
        shard_ND = store.read_shard(part.name, part.manifest)
        if shard_ND is None:
            complete = False
        else:
            matrix_ND[part.to_rows] = shard_ND[part.from_rows]
    return complete


def _parts(manifests: dict[str, Manifest], content: Sequence[str]) -> list[_Part]:
    wanted = set(content)  # of what the shards hold, only that takes memory
    place = {
        one: (name, row)
        for name, manifest in manifests.items()
        for row, one in enumerate(manifest.content)
        if one in wanted
    }
    rows: dict[str, list[tuple[int, int]]] = {}
    for to_row, one in enumerate(content):
        name, from_row = place[one]
        rows.setdefault(name, []).append((from_row, to_row))
    parts = []
    for name in sorted(rows):
        pairs = np.asarray(rows[name], dtype=np.int64)
        parts.append(_Part(name, manifests[name], pairs[:, 0], pairs[:, 1]))
    return parts


class _DamagedShardError(Exception):
    """Leaves the block that writes the gathered file without renaming it into place."""


# ---- A large matrix in a file of its own ----


BLOCK_BYTES = 32 * 2**20


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
    data = json_or_none(path)
    return data if isinstance(data, dict) else {}


def create_mapped(
    path: Path, shape: tuple[int, int], dtype: type[np.float32 | np.float16] = np.float32
) -> np.memmap[Any, np.dtype[Any]]:
    """Make a ``.npy`` file and map it for writing.

    Its room on the disk is taken first: writing through a map to a full disk kills the process without a message.
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
