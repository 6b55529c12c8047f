"""What a shard is planned to hold and what it holds: the small files beside the matrices."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from histotune.backbones.spec import ColumnBlock
from histotune.tools.files import hash_bytes, write_json

if TYPE_CHECKING:
    from pathlib import Path

StorageType = Literal["float32", "float16"]
CHECKSUM = "checksum"


@dataclass(frozen=True)
class ShardPlan:
    """What one shard will hold, fixed before it is computed.

    Attributes:
        content: Content hash per row.
        batch_size: Tiles per forward pass.
    """

    content: tuple[str, ...]
    batch_size: int

    @property
    def name(self) -> str:
        """File name without suffix; equal plans have equal names."""
        return hash_bytes(str(self.batch_size), *self.content)[:24]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Tiles per batch."""
        full, rest = divmod(len(self.content), self.batch_size)
        return (self.batch_size,) * full + ((rest,) if rest else ())


@dataclass(frozen=True)
class Manifest:
    """What one shard holds; the shard counts as written once this exists.

    Attributes:
        content: Content hash per row.
        batch_sizes: Tiles per forward pass as it was run, after any halving.
        blocks: Named column ranges.
        n_bytes: Size of the matrix file.
        sha256: Hash of the matrix file.
        fp32_batches: Batches that overflowed and were run again in fp32.
        threads: Compute threads.
        dtype: How the matrix is stored.
        equivalent: Whether batches were smaller than planned, since memory ran out: the rows then equal those of the
            plan within 1e-5 relative in fp32, not to the last bit.
        space: Key of the space it was written for; empty in shards of early versions.
    """

    content: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    blocks: tuple[ColumnBlock, ...]
    n_bytes: int
    sha256: str
    fp32_batches: int
    threads: int
    dtype: StorageType = "float32"
    equivalent: bool = False
    space: str = ""

    @property
    def total_dim(self) -> int:
        """Columns of the matrix."""
        return self.blocks[-1].stop


@dataclass(frozen=True)
class RunFacts:
    """How a shard was computed: named columns, batches as run, batches repeated in fp32, compute threads."""

    blocks: tuple[ColumnBlock, ...]
    batch_sizes: tuple[int, ...]
    fp32_batches: int
    threads: int


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically, with a checksum over itself: a flipped byte in it would misplace rows.

    Args:
        path: Beside the matrix, suffix ``.json``.
        manifest: What the matrix holds.
    """
    data = asdict(manifest)
    write_json(path, {**data, CHECKSUM: _checksum(data)})


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None where it is no manifest, or a damaged one.

    Args:
        path: Written by :func:`write_manifest`; early versions wrote no checksum.

    Returns:
        What the matrix beside it must hold.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        checksum = data.pop(CHECKSUM, None)
        if checksum is not None and checksum != _checksum(data):
            return None
        data["content"], data["batch_sizes"] = tuple(data["content"]), tuple(data["batch_sizes"])
        data["blocks"] = tuple(ColumnBlock(**block) for block in data["blocks"])
        manifest = Manifest(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    complete = manifest.blocks and sum(manifest.batch_sizes) == len(manifest.content)
    return manifest if complete and manifest.dtype in get_args(StorageType) else None


def read_plans(path: Path) -> tuple[ShardPlan, ...]:
    """Read the shards that an interrupted run had planned.

    Args:
        path: Written by the store before the first of them is computed.

    Returns:
        The plans.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
        return tuple(ShardPlan(tuple(plan["content"]), int(plan["batch_size"])) for plan in plans)
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def _checksum(data: dict[str, Any]) -> str:
    return hash_bytes(json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
