"""Shards on disk: found by content hash, written atomically, verified when read (laws 3 and 4)."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.records import ColumnBlock
from histotune.files import atomic_path, explained_os_errors, hash_bytes, hash_file, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.embeddings.records import EmbeddingSpace

LOG = logging.getLogger(__name__)
# N tiles, D columns


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
    """

    content: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    blocks: tuple[ColumnBlock, ...]
    n_bytes: int
    sha256: str
    fp32_batches: int
    threads: int

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


@dataclass(frozen=True)
class Damage:
    """A shard that can't be trusted, and why."""

    name: str
    reason: str


class Store:
    """The shards of one embedding space.

    Args:
        cache: The cache's root folder.
        space: The space.
    """

    def __init__(self, cache: Path, space: EmbeddingSpace) -> None:
        self.folder = cache / "embeddings" / space.key[:32]
        self.lock_path = self.folder / "lock"
        self._space = space

    def manifests(self) -> dict[str, Manifest]:
        """Return the manifest of every shard whose matrix file has the right size; others step aside."""
        found = {}
        for path in sorted((self.folder / "shards").glob("*.json")):
            manifest = _read_manifest(path)
            matrix = path.with_suffix(".npy")
            if manifest is None:
                self.quarantine(path.stem, "its manifest can't be read")
            elif not matrix.is_file() or matrix.stat().st_size != manifest.n_bytes:
                self.quarantine(path.stem, "its matrix is missing or has the wrong length")
            else:
                found[path.stem] = manifest
        return found

    def describe(self, blocks: Iterable[ColumnBlock]) -> None:
        """Write what the space is, for people who look into the folder."""
        facts = {**asdict(self._space), "blocks": [asdict(block) for block in blocks]}
        write_json(self.folder / "space.json", facts)

    def write_shard(self, plan: ShardPlan, matrix_ND: NDArray[np.float32], facts: RunFacts) -> None:
        """Write a shard: the matrix first, then the manifest that makes it count.

        Args:
            plan: What it was planned to hold.
            matrix_ND: float32, a row per planned content hash.
            facts: How it was computed.

        Raises:
            UserError: The disk is full or the cache can't be written.
        """
        path = self.folder / "shards" / f"{plan.name}.npy"
        with atomic_path(path) as temporary:
            with temporary.open("wb") as stream:
                np.save(stream, np.ascontiguousarray(matrix_ND, dtype=np.float32), allow_pickle=False)
            n_bytes, sha256 = temporary.stat().st_size, hash_file(temporary)
        manifest = Manifest(
            plan.content, facts.batch_sizes, facts.blocks, n_bytes, sha256, facts.fp32_batches, facts.threads
        )
        write_json(path.with_suffix(".json"), asdict(manifest))

    def read_shard(self, name: str, manifest: Manifest) -> NDArray[np.float32] | None:
        """Read a shard's matrix and check its hash; None where it is damaged, after setting it aside.

        Args:
            name: The shard.
            manifest: What it must hold.

        Returns:
            float32 (N, D).
        """
        path = self.folder / "shards" / f"{name}.npy"
        if hash_file(path) != manifest.sha256:
            self.quarantine(name, "its bytes do not have the recorded hash")
            return None
        matrix_ND: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return matrix_ND

    def quarantine(self, name: str, reason: str) -> None:
        """Move a damaged shard out of the way, so that its rows are computed again."""
        aside = self.folder / "damaged"
        LOG.warning("an embedding shard is damaged (%s); set aside and computed again: %s", reason, aside / name)
        with explained_os_errors(aside):
            aside.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".npy"):  # the manifest first: without it the shard counts no more
                with suppress(FileNotFoundError):  # another process may have been faster
                    (self.folder / "shards" / f"{name}{suffix}").replace(aside / f"{name}{suffix}")

    def verify(self) -> tuple[Damage, ...]:
        """Read every byte of every shard and return what is damaged, changing nothing."""
        damaged = []
        for path in sorted((self.folder / "shards").glob("*.json")):
            manifest, matrix = _read_manifest(path), path.with_suffix(".npy")
            if manifest is None:
                damaged.append(Damage(path.stem, "its manifest can't be read"))
            elif not matrix.is_file():
                damaged.append(Damage(path.stem, "its matrix is missing"))
            elif hash_file(matrix) != manifest.sha256:
                damaged.append(Damage(path.stem, "its bytes do not have the recorded hash"))
        return tuple(damaged)

    def read_plan(self) -> tuple[ShardPlan, ...]:
        """Return the shards that an interrupted run had planned; empty where there was none."""
        path = self.folder / "pending.json"
        if not path.is_file():
            return ()
        try:
            plans = json.loads(path.read_text(encoding="utf-8"))
            return tuple(ShardPlan(tuple(plan["content"]), int(plan["batch_size"])) for plan in plans)
        except (ValueError, KeyError, TypeError) as error:
            LOG.warning("the plan of an interrupted run is damaged (%s) and made anew: %s", error, path)
            return ()

    def write_plan(self, plans: Sequence[ShardPlan]) -> None:
        """Write the planned shards before the first of them is computed, so that a resumed run keeps its batches."""
        write_json(self.folder / "pending.json", [asdict(plan) for plan in plans])

    def sweep_up(self) -> None:
        """Remove what a killed run left half-written; only for the process that holds the lock."""
        for place in ("shards", "gathered"):
            for path in (self.folder / place).glob(".*.partial"):
                path.unlink(missing_ok=True)

    def drop_plan(self) -> None:
        """Forget the plan, because all of it is done."""
        (self.folder / "pending.json").unlink(missing_ok=True)


def _read_manifest(path: Path) -> Manifest | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data["content"], data["batch_sizes"] = tuple(data["content"]), tuple(data["batch_sizes"])
        data["blocks"] = tuple(ColumnBlock(**block) for block in data["blocks"])
        manifest = Manifest(**data)
    except (ValueError, KeyError, TypeError):
        return None
    complete = manifest.blocks and sum(manifest.batch_sizes) == len(manifest.content)
    return manifest if complete else None
