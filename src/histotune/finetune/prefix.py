"""Tokens of the frozen blocks: computed once per tile and view, and kept like embeddings.

The blocks before the first trained parameter give the same output in every epoch and every trial of a search, so it is
computed once. Tokens lie in the embedding store as rows of a space of their own: in shards that appear whole or not at
all, found by the hash of a tile's bytes and the number of its view.
"""

# B batch, S side of the input, W values of a tile's tokens

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from histotune.backbones.spec import ColumnBlock
from histotune.embeddings.space import with_key
from histotune.embeddings.store import Manifest, RunFacts, ShardPlan, Store
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json, hash_bytes, hash_file, lock, readable_bytes
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.embeddings.space import EmbeddingSpace
    from histotune.finetune.batches import PixelInputs

    Int = NDArray[np.int64]


LOG = logging.getLogger(__name__)
SHARD_BYTES = 64 * 2**20
WORTH_SAYING = 2**30
BATCH = 32
WAIT_S = 7 * 24 * 3600.0  # another process may be computing the same
FREE_SHARE = 0.95  # of the disk's free room that may be taken


@dataclass(frozen=True)
class PrefixPlace:
    """Where tokens are kept and what they mean.

    Attributes:
        cache: Root folder of the cache.
        space: Space of the backbone's embeddings, under the view that is trained on.
        block: Name of the block that takes the tokens.
        storage: How they are stored.
        max_gib: Room that may be taken.
    """

    cache: Path
    space: EmbeddingSpace
    block: str
    storage: Literal["fp32", "fp16"]
    max_gib: float = 50.0

    @property
    def store(self) -> Store:
        """The shards."""
        view = canonical_json({"prefix of": self.space.view, "tokens before": self.block, "stored in": self.storage})
        return Store(self.cache, with_key(replace(self.space, view=view)))


class HalfOverflowError(UserError):
    """Tokens that half precision can't hold."""


class PrefixTokens:
    """The input of a network's first trained block, for tiles in one of their views.

    Args:
        prefix: Maps normalised pixels to tokens.
        inputs: The tiles' pixels, augmented by view number.
        place: Where the tokens are kept.
        keys: Key per tile and view; see :func:`token_keys`.
    """

    def __init__(
        self,
        prefix: Callable[[torch.Tensor], torch.Tensor],
        inputs: PixelInputs,
        place: PrefixPlace,
        keys: Callable[[Int, int], list[str]],
    ) -> None:
        self._prefix, self._inputs, self._place, self._keys = prefix, inputs, place, keys
        self._store = place.store
        self._dtype = np.float16 if place.storage == "fp16" else np.float32
        shape = tuple(prefix(inputs.blank()).shape[1:])
        self.shape = shape
        self._shards: dict[str, NDArray[np.float32] | NDArray[np.float16]] = {}
        self._found: dict[str, tuple[str, int]] = {}

    @property
    def bytes_per_tile(self) -> int:
        """Room of one tile in one view."""
        return math.prod(self.shape) * np.dtype(self._dtype).itemsize

    def prepare(self, rows: Int, views: Iterable[int], plain: Int | None = None) -> int:
        """Compute what is missing of some tiles and views, and return how many rows that were.

        Args:
            rows: The tiles.
            views: Numbers of their views.
            plain: Tiles that are wanted as they are besides.

        Returns:
            Rows that needed a forward pass; 0 where all were kept.

        Raises:
            UserError: They would take more room than is allowed or free; nothing is computed then.
        """
        parts = [(rows, view) for view in views] + ([] if plain is None else [(plain, 0)])
        wanted = {
            key: (row, view) for some, view in parts for row, key in zip(some, self._keys(some, view), strict=True)
        }
        self._look(self._store.manifests())
        missing = [key for key in wanted if key not in self._found]
        if not missing:
            return 0
        self._require_room(len(missing))
        with lock(self._store.lock_path, WAIT_S):
            self._store.sweep_up()
            self._store.describe(self._blocks)
            self._look(self._store.manifests())
            missing = [key for key in wanted if key not in self._found]
            per_shard = max(SHARD_BYTES // self.bytes_per_tile // BATCH, 1) * BATCH
            starts = range(0, len(missing), per_shard)
            plans = [ShardPlan(tuple(missing[start : start + per_shard]), BATCH) for start in starts]
            for plan in track(plans, "frozen blocks", len(plans)):
                self._compute(plan, [wanted[key] for key in plan.content])
            self._look(self._store.manifests())
        return len(missing)

    def tensor(self, rows: Int, view: int) -> torch.Tensor:
        """Return the tokens of a batch, in float32."""
        keys = self._keys(rows, view)
        if any(key not in self._found for key in keys):
            self.prepare(rows, (view,))
        values_BW = np.stack([self._row(key) for key in keys]).astype(np.float32)
        like = self._inputs.like
        return torch.from_numpy(values_BW).view(len(rows), *self.shape).to(like.device, like.dtype)

    @property
    def _blocks(self) -> tuple[ColumnBlock, ...]:
        return (ColumnBlock("tokens", 0, math.prod(self.shape)),)

    def _compute(self, plan: ShardPlan, places: Sequence[tuple[np.int64, int]]) -> None:
        """Run the frozen blocks on the tiles of one shard and write it."""
        values_NW = np.empty((len(places), math.prod(self.shape)), self._dtype)
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            for view in dict.fromkeys(view for _, view in part):
                members = [number for number, (_, own) in enumerate(part) if own == view]
                x_BCSS = self._inputs.tensor(np.array([part[number][0] for number in members]), view)
                tokens = self._prefix(x_BCSS).float().flatten(1).cpu().numpy()
                with np.errstate(over="ignore"):  # beyond half precision: found below
                    values_NW[[start + number for number in members]] = tokens
        if self._dtype is np.float16 and not np.isfinite(values_NW).all():
            raise HalfOverflowError(
                "the frozen blocks give values that are not finite when stored in half precision",
                value=self._place.block,
                fix="--set finetune.prefix.storage=fp32",
            )
        self._store.write_shard(plan, values_NW, RunFacts(self._blocks, plan.batch_sizes, 0, torch.get_num_threads()))

    def _look(self, manifests: dict[str, Manifest]) -> None:
        """Learn which rows the sound shards hold."""
        self._found = {
            key: (name, number) for name, manifest in manifests.items() for number, key in enumerate(manifest.content)
        }

    def _row(self, key: str) -> NDArray[np.float32] | NDArray[np.float16]:
        name, number = self._found[key]
        if name not in self._shards:
            self._shards[name] = self._opened(name)
        row_W: NDArray[np.float32] | NDArray[np.float16] = self._shards[name][number]
        return row_W

    def _opened(self, name: str) -> NDArray[np.float32] | NDArray[np.float16]:
        """Map a shard into memory after a look at every byte of it."""
        path, manifest = self._store.folder / "shards" / f"{name}.npy", self._store.manifests().get(name)
        if manifest is None or hash_file(path) != manifest.sha256:
            self._store.quarantine(name, "its bytes do not have the recorded hash")
            raise UserError(
                "kept output of frozen blocks is damaged and was set aside",
                value=path,
                fix="run the same command again: it is computed anew",
            )
        mapped: NDArray[np.float32] | NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped

    def _require_room(self, n_rows: int) -> None:
        """Announce the room that is needed, and refuse what is more than allowed or free."""
        needed = n_rows * self.bytes_per_tile
        self._store.folder.mkdir(parents=True, exist_ok=True)
        free = int(shutil.disk_usage(self._store.folder).free * FREE_SHARE)
        level = logging.INFO if needed >= WORTH_SAYING else logging.DEBUG
        LOG.log(level, "the output of the frozen blocks takes %s (%s rows)", readable_bytes(needed), f"{n_rows:,}")
        allowed = min(int(self._place.max_gib * 2**30), free)
        if needed > allowed:
            raise UserError(
                "the output of the frozen blocks would take more room than is allowed or free",
                value=readable_bytes(needed),
                allowed=readable_bytes(allowed),
                fix="fewer views (--set finetune.views=1), fewer tiles, a method that trains fewer blocks, or compute "
                "them again in every step (--set finetune.prefix.storage=off)",
            )


def token_keys(tile_keys: Sequence[str], variation: str) -> Callable[[Int, int], list[str]]:
    """Return what names the tokens of some tiles in a view: the tile's key, and the variation where there is one.

    Args:
        tile_keys: Key per tile, from the hash of its bytes.
        variation: Everything that decides the pixels of views 1 and up: augmentation and seed.

    Returns:
        A function from rows and the number of a view to keys.
    """

    def keys(rows: Int, view: int) -> list[str]:
        """Return the keys of some tiles in a view."""
        own = [tile_keys[row] for row in rows]
        return own if view == 0 else [hash_bytes("view", key, str(view), variation) for key in own]

    return keys
