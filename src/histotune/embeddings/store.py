"""Shards on disk: found by content hash, written atomically, verified when read (laws 3 and 4)."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from histotune.backbones.spec import ColumnBlock
from histotune.embeddings.owned import SHARD_NAME, SPACE_NAME, is_real_folder, owned_in
from histotune.embeddings.space import EmbeddingSpace, with_key
from histotune.tools.atomic import NO_WRITE, atomic_path, unfinished_name
from histotune.tools.errors import UserError, name_setting
from histotune.tools.files import (
    CHECKSUM,
    hash_bytes,
    hash_file,
    is_locked,
    read_json,
    unsealed,
    write_json,
    write_sealed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# N tiles, D columns


LOG = logging.getLogger(__name__)
SPACE_FACTS = (*(field.name for field in fields(EmbeddingSpace)), "blocks")
FOLDER_DIGITS = 32  # of the space's key, in its folder's name


@dataclass(frozen=True)
class Damage:
    """A shard that can't be trusted, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Inspection:
    """The shards of a space, judged by their manifests and the length of their matrices.

    Attributes:
        sound: Manifest by shard name.
        damaged: What can't be trusted.
    """

    sound: dict[str, Manifest]
    damaged: tuple[Damage, ...]


class Store:
    """The shards of one embedding space.

    Args:
        cache: The cache's root folder.
        space: The space.
    """

    def __init__(self, cache: Path, space: EmbeddingSpace) -> None:
        name_setting(cache, "--cache FOLDER")
        self.folder = cache / "embeddings" / space.key[:FOLDER_DIGITS]
        self.lock_path = self.folder / "lock"
        self.space = space

    @classmethod
    def at(cls, folder: Path) -> Store:
        """Open the store of a folder that was found, whether or not its description can be read.

        Args:
            folder: A folder below ``embeddings`` in the cache.

        Returns:
            The store; its space is named "unknown" where the description is missing or speaks of another space.
        """
        path = folder / "space.json"
        space = read_space(path)
        if space is None and path.exists():
            LOG.warning("the description of an embedding space can't be read; its next use writes it anew: %s", path)
        if space is None or space.key[:FOLDER_DIGITS] != folder.name:
            space = EmbeddingSpace(folder.name, "unknown", "", "", "{}", "", "{}", "{}")
        return cls(folder.parent.parent, space)

    @property
    def short_name(self) -> str:
        """What commands call the space: the first digits of its key."""
        return self.space.key[:12]

    @property
    def is_own(self) -> bool:
        """Whether histotune wrote this folder: no link, and its description or one of its manifests names its key."""
        if SPACE_NAME.fullmatch(self.folder.name) is None or not is_real_folder(self.folder):
            return False
        described = read_space(self.folder / "space.json")
        if described is not None and described.key[:FOLDER_DIGITS] == self.folder.name:
            return True
        manifests = (read_manifest(path) for path in self._manifest_paths())
        return any(manifest.space[:FOLDER_DIGITS] == self.folder.name for manifest in manifests if manifest is not None)

    def inspect(self) -> Inspection:
        """Look at every shard without reading its matrix, changing nothing; files of other names are no shards."""
        sound: dict[str, Manifest] = {}
        damaged = []
        for path in self._manifest_paths():
            manifest = read_manifest(path)
            fault = self._fault(path, manifest)
            if manifest is None or fault:
                damaged.append(Damage(path.stem, fault))
            else:
                sound[path.stem] = manifest
        return Inspection(sound, tuple(damaged))

    def manifests(self) -> dict[str, Manifest]:
        """Return the manifest of every shard whose matrix file has the right size; others step aside."""
        found = self.inspect()
        for damage in found.damaged:
            self.quarantine(damage.name, damage.reason)
        return found.sound

    def describe(self, blocks: Iterable[ColumnBlock]) -> None:
        """Write what the space is, for people who look into the folder."""
        facts = {**asdict(self.space), "blocks": [asdict(block) for block in blocks]}
        write_sealed(self.folder / "space.json", facts)

    def mark_used(self, blocks: Iterable[ColumnBlock]) -> None:
        """Remember that the space was read now, where the cache can be written; `cache ls` shows it.

        Args:
            blocks: Its column blocks: a description that is damaged or gone is written anew.
        """
        path = self.folder / "space.json"
        with suppress(OSError, UserError):
            if read_space(path) is None:
                self.describe(blocks)
                LOG.warning("the description of an embedding space was damaged and is written anew: %s", path)
            os.utime(path)

    def write_shard(
        self, plan: ShardPlan, matrix_ND: NDArray[np.float32] | NDArray[np.float16], facts: RunFacts
    ) -> None:
        """Write a shard: the matrix first, then the manifest that makes it count.

        Args:
            plan: What it was planned to hold.
            matrix_ND: float32 or float16, a row per planned content hash.
            facts: How it was computed.

        Raises:
            UserError: The disk is full or the cache can't be written.
        """
        path = self.folder / "shards" / f"{plan.name}.npy"
        dtype: StorageType = "float16" if matrix_ND.dtype == np.float16 else "float32"
        with atomic_path(path) as temporary:
            written = io.BytesIO()  # np.save to a file on disk loses the system's error where there is no room
            np.save(written, np.ascontiguousarray(matrix_ND, dtype=dtype), allow_pickle=False)
            temporary.write_bytes(written.getbuffer())
            n_bytes, sha256 = temporary.stat().st_size, hash_file(temporary)
        manifest = Manifest(
            plan.content,
            facts.batch_sizes,
            facts.blocks,
            n_bytes,
            sha256,
            facts.fp32_batches,
            facts.threads,
            dtype,
            equivalent=facts.batch_sizes != plan.batch_sizes,
            space=self.space.key,
        )
        write_manifest(path.with_suffix(".json"), manifest)

    def read_shard(self, name: str, manifest: Manifest) -> NDArray[np.float32] | NDArray[np.float16] | None:
        """Read a shard's matrix and check its hash; None where it is damaged, after setting it aside.

        Args:
            name: The shard.
            manifest: What it must hold.

        Returns:
            float32 or float16 (N, D), as stored; None also where another process has just removed it.
        """
        path = self.folder / "shards" / f"{name}.npy"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != manifest.sha256:
            if read_manifest(path.with_suffix(".json")) == manifest:  # otherwise it has just been written anew
                self.quarantine(name, "its bytes do not have the recorded hash")
            return None
        matrix_ND: NDArray[np.float32] | NDArray[np.float16] = np.load(io.BytesIO(data), allow_pickle=False)
        if matrix_ND.shape != (len(manifest.content), manifest.total_dim) or matrix_ND.dtype != manifest.dtype:
            self.quarantine(name, f"it holds {matrix_ND.dtype} {matrix_ND.shape}, its manifest says otherwise")
            return None
        return matrix_ND

    def quarantine(self, name: str, reason: str) -> None:
        """Move a damaged shard out of the way, so that its rows are computed again.

        Args:
            name: The shard.
            reason: Why it can't be trusted.

        Raises:
            UserError: The cache can't be written; the message names the command that repairs it.
        """
        aside = self.folder / "damaged"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".npy"):  # the manifest first: without it the shard counts no more
                with suppress(FileNotFoundError):  # another process may have been faster
                    (self.folder / "shards" / f"{name}{suffix}").replace(aside / f"{name}{suffix}")
        except OSError as error:
            if error.errno not in NO_WRITE:
                raise
            raise UserError(
                f"an embedding shard is damaged ({reason}) and can't be set aside: the cache can't be written",
                value=self.folder / "shards" / name,
                fix=f"run `histotune cache repair {self.short_name}` as its owner, or choose another --cache",
            ) from error
        again = "import its file again" if self.space.external else "computed again"
        LOG.warning("an embedding shard is damaged (%s); set aside and %s: %s", reason, again, aside / name)
        LOG.warning("`histotune cache verify %s` reads every byte of this space", self.short_name)

    def verify(self) -> tuple[Damage, ...]:
        """Read every byte of every shard and return what is damaged, changing nothing."""
        found = self.inspect()
        wrong = [
            Damage(name, "its bytes do not have the recorded hash")
            for name, manifest in found.sound.items()
            if hash_file(self.folder / "shards" / f"{name}.npy") != manifest.sha256
        ]
        return tuple(sorted([*found.damaged, *wrong], key=lambda damage: damage.name))

    def read_plan(self) -> tuple[ShardPlan, ...]:
        """Return the shards that an interrupted run had planned; empty where there was none."""
        path = self.folder / "pending.json"
        if not path.is_file():
            return ()
        try:
            return read_plans(path)
        except ValueError as error:
            LOG.warning("the plan of an interrupted run is damaged (%s) and made anew: %s", error, path)
            return ()

    def write_plan(self, plans: Sequence[ShardPlan]) -> None:
        """Write the planned shards before the first of them is computed, so that a resumed run keeps its batches."""
        write_sealed(self.folder / "pending.json", {PLANS: [asdict(plan) for plan in plans]})

    @property
    def ranks_at_work(self) -> bool:
        """Whether a rank still writes shards of a plan, whatever became of its leader."""
        return any(is_locked(path) for path in (self.folder / "ranks").glob("*.lock"))

    def sweep_up(self) -> tuple[Path, ...]:
        """Remove what a killed run left half-written; only for the process that holds the lock.

        Returns:
            What was removed; nothing while a rank of an earlier run, whose leader is gone, still writes.
        """
        if self.ranks_at_work:
            return ()
        places = ("", "shards", "gathered")
        partial = tuple(path for place in places for path in owned_in(self.folder, place) if unfinished_name(path))
        for path in partial:
            path.unlink(missing_ok=True)
        return partial

    def drop_plan(self) -> None:
        """Forget the plan, because all of it is done."""
        (self.folder / "pending.json").unlink(missing_ok=True)

    def _manifest_paths(self) -> list[Path]:
        """Return where manifests of shards are, damaged ones among them."""
        found = (self.folder / "shards").glob("*.json")
        return sorted(path for path in found if SHARD_NAME.fullmatch(path.stem))

    def _fault(self, path: Path, manifest: Manifest | None) -> str:
        """Return what is wrong with a shard as far as its manifest and its length tell; empty where nothing is."""
        matrix = path.with_suffix(".npy")
        if manifest is None:
            return "its manifest can't be read"
        if manifest.space and manifest.space[:FOLDER_DIGITS] != self.folder.name:
            return "it was written for another space"
        if not matrix.is_file():
            return "its matrix is missing"
        if matrix.stat().st_size != manifest.n_bytes:
            return "its matrix has the wrong length"
        return ""


def read_space(path: Path) -> EmbeddingSpace | None:
    """Return what a space's description says; None where it is missing, damaged, or not what its key says."""
    try:
        data = unsealed(read_json(path), SPACE_FACTS)
        data.pop("blocks")
        space = EmbeddingSpace(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return space if with_key(space).key == space.key else None


# ---- Plans and manifests ----


StorageType = Literal["float32", "float16"]
PLANS = "plans"


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
    """Write a manifest atomically, with a checksum over itself: a flipped byte in it would misplace rows."""
    data = asdict(manifest)
    write_json(path, {**data, CHECKSUM: _checksum(data)})


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None where it is no manifest, or a damaged one."""
    try:
        data = read_json(path)
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
    """Read the shards that an interrupted run had planned."""
    try:
        data = read_json(path)
        plans = data if isinstance(data, list) else unsealed(data, (PLANS,))[PLANS]  # earlier versions: the list alone
        return tuple(ShardPlan(tuple(plan["content"]), int(plan["batch_size"])) for plan in plans)
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def _checksum(data: dict[str, Any]) -> str:
    return hash_bytes(json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
