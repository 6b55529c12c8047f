"""From shards to one matrix in the tile set's order."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.embeddings.mapped import MappedFile, create_mapped
from histotune.tools.errors import UserError
from histotune.tools.files import atomic_path, hash_bytes, lock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.backbones.spec import ColumnBlock
    from histotune.embeddings.manifest import Manifest
    from histotune.embeddings.store import Store

    Matrix = NDArray[np.float32] | NDArray[np.float16]

LOG = logging.getLogger(__name__)
WAIT_S = 24 * 3600.0  # another process may be writing a large matrix
IN_MEMORY_BYTES = 256 * 2**20  # a larger matrix is gathered into a file once and memory-mapped
# N tiles, D columns


@dataclass(frozen=True)
class Gathered:
    """The matrix of a tile set.

    Attributes:
        matrix_ND: A row per tile; float16 where all its shards are, float32 otherwise.
        blocks: Its named columns.
        n_equivalent: Rows out of shards whose batches were smaller than planned.
        n_fp32: Rows out of shards stored as float32.
    """

    matrix_ND: Matrix
    blocks: tuple[ColumnBlock, ...]
    n_equivalent: int = 0
    n_fp32: int = 0


@dataclass(frozen=True)
class _Part:
    """Which rows of one shard go where."""

    name: str
    manifest: Manifest
    from_rows: NDArray[np.int64]
    to_rows: NDArray[np.int64]


def missing_content(manifests: dict[str, Manifest], content: Sequence[str]) -> tuple[str, ...]:
    """Return the content hashes that no shard holds, each once, in order.

    Args:
        manifests: Shards by name.
        content: Content hash per tile.

    Returns:
        What must be computed.
    """
    held = {one for manifest in manifests.values() for one in manifest.content}
    return tuple(dict.fromkeys(one for one in content if one not in held))


def gather(
    store: Store, manifests: dict[str, Manifest], content: Sequence[str], in_memory_bytes: int = IN_MEMORY_BYTES
) -> Gathered | None:
    """Read the rows of a tile set out of the shards, every shard verified as it is read.

    Args:
        store: The store.
        manifests: Shards by name; together they hold all content.
        content: Content hash per tile.
        in_memory_bytes: Larger matrices are kept as a file beside the shards and memory-mapped, read-only; in memory
            too where the cache can't be written.

    Returns:
        float32 (N, D) in tile order, shards stored as float16 widened; float16 where all are, since the matrix of a
        large data set should not take twice the room for no digit more; None where a shard was damaged and has been
        set aside.
    """
    parts = _parts(manifests, content)
    blocks = parts[0].manifest.blocks
    shape = (len(content), blocks[-1].stop)
    n_equivalent = sum(len(part.to_rows) for part in parts if part.manifest.equivalent)
    n_fp32 = sum(len(part.to_rows) for part in parts if part.manifest.dtype == "float32")
    dtype: type[np.float32 | np.float16] = np.float32 if n_fp32 else np.float16
    if np.dtype(dtype).itemsize * shape[0] * shape[1] > in_memory_bytes:
        try:
            mapped_ND = _map(store, parts, content, shape, dtype)
        except UserError as error:  # a full disk, or a cache of somebody else's
            LOG.warning("the embeddings are read into memory instead of a file beside them: %s", error.what)
        else:
            return None if mapped_ND is None else Gathered(mapped_ND, blocks, n_equivalent, n_fp32)
    matrix_ND: Matrix = np.empty(shape, np.float32) if n_fp32 else np.empty(shape, np.float16)
    return Gathered(matrix_ND, blocks, n_equivalent, n_fp32) if _fill(matrix_ND, store, parts) else None


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
    place = {one: (name, row) for name, manifest in manifests.items() for row, one in enumerate(manifest.content)}
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
