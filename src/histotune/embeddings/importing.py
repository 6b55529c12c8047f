"""Embeddings of other programs become rows of a space of their own, found by tile like any others."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from histotune.backbones.catalog import (
    PREFIX,
    ExternalRecord,
    external_names,
    read_external,
    record_path,
    write_external,
)
from histotune.embeddings.exchange import ForeignRows, file_stem, foreign_files, read_foreign, slides_of
from histotune.embeddings.gather import missing_content
from histotune.embeddings.space import external_space
from histotune.embeddings.store import RunFacts, ShardPlan, Store
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import lock
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet

# N rows of all files, D columns, T tiles


K = TypeVar("K", bound=Hashable)
ROWS_PER_SHARD = 512


@dataclass(frozen=True)
class ImportRequest:
    """What to import and what to call it.

    Attributes:
        paths: Files, or folders of them.
        name: It becomes ``--backbone external:NAME``.
        cache: Root folder of the cache.
        claimed: The network that made them, as the user says; empty takes what the files say.
        places: Tile id -> x, y on its slide; finds rows that only coordinates name.
        replace: Whether the name may be taken from other files.
    """

    paths: tuple[Path, ...]
    name: str
    cache: Path
    claimed: str = ""
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    replace: bool = False


@dataclass(frozen=True)
class KnownTiles:
    """A tile set and the content hash of each of its tiles."""

    tiles: TileSet
    content: tuple[str, ...]


@dataclass(frozen=True)
class ImportReport:
    """What was imported.

    Attributes:
        record: Name, files, blocks.
        store: The space that holds the rows.
        n_rows: Rows in the files.
        n_used: Rows that belong to a tile (or name its content themselves).
        n_new: Rows the space did not hold yet.
        without_row: Tiles that no file has a row for.
    """

    record: ExternalRecord
    store: Store
    n_rows: int
    n_used: int
    n_new: int
    without_row: tuple[str, ...]


@dataclass(frozen=True)
class _Rows:
    """The rows of all files in one numbering."""

    files: tuple[ForeignRows, ...]
    features_ND: NDArray[np.float32]


def import_embeddings(request: ImportRequest, known: Sequence[KnownTiles]) -> ImportReport:
    """Import embeddings that somebody else computed.

    Rows are matched to tiles by content hash, else by tile id, else by slide and coordinates. Nothing about the network
    can be checked, so the rows live in a space whose key is the files' hash, and every number made with them is
    marked EXTERNAL.

    Args:
        request: Files and name.
        known: The tiles they belong to; empty where the files name content hashes themselves.

    Returns:
        What was imported, and which tiles have no row.

    Raises:
        UserError: Unreadable files, dims that differ, two rows for one tile, no row that belongs to any tile, or a
            name that other files have: all mistakes together, nothing written.
    """
    record_path(request.name, request.cache)  # an odd name shows before anything is read
    rows = _read_all(request.paths)
    record = ExternalRecord(
        request.name,
        request.claimed or next((file.claimed for file in rows.files if file.claimed), "unknown"),
        tuple(file.file for file in rows.files),
        tuple(block.name for block in rows.files[0].blocks),
    )
    _refuse_other_files(record, request)
    row_by_content, without = _match(rows, known, request.places)
    if not row_by_content:
        raise _nothing_fits(rows, known)
    store = Store(request.cache, external_space(PREFIX + record.name, record.files_hash))
    n_new = _write(store, rows, row_by_content)
    write_external(record, request.cache)
    n_used = len(set(row_by_content.values()))
    return ImportReport(record, store, len(rows.features_ND), n_used, n_new, tuple(without))


def _read_all(paths: Sequence[Path]) -> _Rows:
    """Read every file; mistakes of all of them are reported together."""
    errors: list[UserError] = []
    files = []
    for path in track(foreign_files(paths), "reading embeddings"):
        with collect(errors):
            files.append(read_foreign(path))
    raise_together(errors)
    layouts = {file.blocks for file in files}
    if len(layouts) > 1:
        found = ", ".join(f"{file.file.name}: {file.features_ND.shape[1]}" for file in files[:20])
        raise UserError(
            "the files differ in their columns, so they come from different networks",
            value=found,
            allowed="one number of columns, in the same blocks",
            fix="import each network on its own",
        )
    return _Rows(tuple(files), np.concatenate([file.features_ND for file in files]))


def _refuse_other_files(record: ExternalRecord, request: ImportRequest) -> None:
    if request.replace or record.name not in external_names(request.cache):
        return
    if read_external(record.name, request.cache).files_hash != record.files_hash:
        raise UserError(
            "this name belongs to embeddings from other files",
            value=record.name,
            fix="choose another --as, import all files together, or add --replace",
        )


def _match(
    rows: _Rows, known: Sequence[KnownTiles], places: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, int], list[str]]:
    """Return the row of every content hash, and the tiles without one."""
    by_content = _index(rows, lambda file: file.content)
    if not known:
        return by_content, []
    # An id or a place whose image has changed since is another tile: where the bytes are known, they alone count.
    by_tile = _index(rows, lambda file: () if file.content else file.tile_ids)
    by_place = _index(rows, _places)
    found: dict[str, int] = {}
    without = []
    for one in known:
        slides = slides_of(one.tiles)
        for tile_id, content, slide in zip(one.tiles.tile_ids, one.content, slides, strict=True):
            row = by_content.get(content, by_tile.get(tile_id))
            if row is None and tile_id in places:
                row = by_place.get((file_stem(slide), *places[tile_id]))
            if row is None:
                without.append(tile_id)
            else:
                found.setdefault(content, row)
    return found, without


def _index(rows: _Rows, names_of: Callable[[ForeignRows], Iterable[K]]) -> dict[K, int]:
    """Return the row of every name; two different rows of one name are refused."""
    index: dict[K, int] = {}
    start = 0
    for file in rows.files:
        for row, name in enumerate(names_of(file), start):
            first = index.setdefault(name, row)
            if first != row and not np.array_equal(rows.features_ND[first], rows.features_ND[row]):
                raise UserError(
                    "two different rows stand for one tile",
                    value=name,
                    fix="import the files of one network, each tile once",
                )
        start += file.file.n_rows
    return index


def _places(file: ForeignRows) -> list[tuple[str, int, int]]:
    if file.coords_N2 is None or file.content:
        return []
    return [(file_stem(file.slide), x, y) for x, y in file.coords_N2.tolist()]


def _nothing_fits(rows: _Rows, known: Sequence[KnownTiles]) -> UserError:
    present = {
        "content hashes": any(file.content for file in rows.files),
        "tile ids": any(file.tile_ids for file in rows.files),
        "slide coordinates": any(file.coords_N2 is not None for file in rows.files),
    }
    words = " and ".join(what for what, there in present.items() if there) or "nothing that names a tile"
    if not known:
        return UserError(
            "the files do not say which bytes each row was computed from",
            value=f"they hold {words}",
            fix="name the tiles: --dataset breakhis --data DIR (and --coords TABLE)",
        )
    return UserError(
        "no row of these files belongs to a tile of this data set",
        value=f"they hold {words}",
        allowed=f"tile ids such as {known[0].tiles.tile_ids[0]}",
        fix="check --dataset and --data; for slide coordinates add --coords TABLE",
    )


def _write(store: Store, rows: _Rows, row_by_content: Mapping[str, int]) -> int:
    """Write the rows that the space lacks, shard by shard; return how many."""
    blocks = rows.files[0].blocks
    with lock(store.lock_path):
        store.sweep_up()
        missing = missing_content(store.manifests(), tuple(row_by_content))
        store.describe(blocks)
        for start in range(0, len(missing), ROWS_PER_SHARD):
            plan = ShardPlan(missing[start : start + ROWS_PER_SHARD], ROWS_PER_SHARD)
            matrix_ND = rows.features_ND[[row_by_content[one] for one in plan.content]]
            store.write_shard(plan, matrix_ND, RunFacts(blocks, plan.batch_sizes, 0, 0))
    return len(missing)
