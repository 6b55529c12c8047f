"""What a row of a space stands for: a tile's bytes, and the size they are resized to where a scale is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.embeddings.store import ShardPlan
from histotune.images.decode import UnreadableTile, UnreadableTilesError
from histotune.images.loader import Wanted
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import EmbeddingConfig
    from histotune.images.config import ViewConfig
    from histotune.images.decode import PixelReader, PixelSource
    from histotune.images.views import ViewGeometry

# B inputs of a batch, N tiles, D columns


def row_key(content: str, resized_px: tuple[int, int] | None) -> str:
    """Return the key of a row inside its space.

    A view without ``target_mpp`` makes the same pixels of the same bytes, so the content hash is the key. With it they
    depend on the tile's mpp as well, through nothing but the whole pixels it is resized to: tiles whose corrected mpp
    rounds to the same size keep their rows.

    Example:
        >>> row_key("ab", None), row_key("ab", (96, 96)) == row_key("ab", (96, 97))
        ('ab', False)
    """
    return content if resized_px is None else hash_bytes("resized", content, f"{resized_px[0]}x{resized_px[1]}")


class Rows:
    """The rows of a tile set; what is to be read for one is put together when asked for: a warm run asks for none.

    Args:
        sources: Where the pixels are.
        content: Content hash per tile.
        geometry: What the view makes of each tile; all sizes known where the view has a ``target_mpp``.
        view: The view.

    Attributes:
        keys: Key per tile, in tile order; tiles of equal bytes and scale have equal keys.
    """

    def __init__(
        self, sources: Sequence[PixelSource], content: Sequence[str], geometry: ViewGeometry, view: ViewConfig
    ) -> None:
        self._sources, self._content, self._geometry = sources, content, geometry
        self._scaled = view.target_mpp is not None
        self.keys: tuple[str, ...] = tuple(content)
        if self._scaled:
            sizes = geometry.resized_px_N2.tolist()
            self.keys = tuple(row_key(one, (size[0], size[1])) for one, size in zip(content, sizes, strict=True))
        self._place = {key: number for number, key in enumerate(self.keys)}

    def __getitem__(self, key: str) -> Wanted:
        """Return what is to be read for the row of a key."""
        number = self._place[key]
        source_px = resized_px = None
        if self._scaled:
            source_px, resized_px = (
                (int(size_N2[number, 0]), int(size_N2[number, 1]))
                for size_N2 in (self._geometry.source_px_N2, self._geometry.resized_px_N2)
            )
        n_inputs = max(int(self._geometry.inputs_N2[number].prod()), 1)
        return Wanted(self._sources[number], source_px, resized_px, self._content[number], key, n_inputs)


def with_sizes(tiles: TileSet, sources: Sequence[PixelSource], reader: PixelReader) -> TileSet:
    """Return the tiles with the size of every image; where the table lacks it, the image is decoded."""
    sizes = tiles.table.select(pl.col("width_px", "height_px").fill_null(0)).rows()
    bad = []
    for row, size in enumerate(sizes):
        if min(size) > 0:
            continue
        try:
            height_px, width_px = reader.pixels(sources[row]).shape[:2]
            sizes[row] = (width_px, height_px)
        except UserError as error:
            bad.append(UnreadableTile(sources[row], error))
    if bad:
        raise UnreadableTilesError(bad)
    columns = [
        pl.Series(name, [size[axis] for size in sizes], pl.Int32) for axis, name in enumerate(("width_px", "height_px"))
    ]
    return replace(tiles, table=tiles.table.with_columns(columns))


def average_inputs(result_BD: NDArray[np.float32], n_inputs: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the mean embedding of each tile's inputs, summed in float32 from the first input to the last."""
    if all(number == 1 for number in n_inputs):
        return result_BD
    number_N = np.asarray(n_inputs)
    starts_N = np.cumsum(number_N) - number_N
    total_ND = result_BD[starts_N]
    for step in range(1, int(number_N.max())):
        has_more_N = number_N > step
        total_ND[has_more_N] += result_BD[starts_N[has_more_N] + step]
    return np.asarray(total_ND / number_N.astype(np.float32)[:, None])


# ---- Shards: which rows share one and its batches, fixed before anything is computed (law 4) ----


def plan_shards(
    earlier: Sequence[ShardPlan],
    missing: Sequence[str],
    config: EmbeddingConfig,
    n_inputs: Mapping[str, int] | None = None,
) -> tuple[ShardPlan, ...]:
    """Divide missing rows into shards; what an interrupted run had planned keeps its batches."""
    wanted = set(missing)
    kept = tuple(plan for plan in earlier if wanted.issuperset(plan.content))
    planned = {one for plan in kept for one in plan.content}
    groups: dict[int, list[str]] = {}
    for one in missing:
        if one not in planned:
            groups.setdefault((n_inputs or {}).get(one, 1), []).append(one)
    new = []
    for number in sorted(groups):
        rest, batch_size = groups[number], max(config.first_batch_size // number, 1)
        starts = range(0, len(rest), config.shard_tiles)
        new += [ShardPlan(tuple(rest[start : start + config.shard_tiles]), batch_size) for start in starts]
    return (*kept, *new)
