"""What changed between two versions of a data set: tiles, their content, and what is said about them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.images.decode import PixelReader, tile_sources
from histotune.tools.errors import UserError
from histotune.tools.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histotune.datasets.tileset import TileSet
    from histotune.images.hashes import HashIndex

COMPARED = ("class", "group_id", "slide_id", "source_patient_id", "split", "magnification", "mpp", "site", "scanner")
KINDS = ("removed", "added", "renamed", "content", *COMPARED)


@dataclass(frozen=True)
class TileChange:
    """One difference.

    Attributes:
        kind: ``removed``, ``added``, ``renamed``, ``content``, or the column that differs.
        tile_id: In the older version; of an added tile, in the newer one.
        before: Value, id or content hash in the older version, "" where there is none.
        after: The same in the newer version.
    """

    kind: str
    tile_id: str
    before: str
    after: str


@dataclass(frozen=True)
class DatasetDiff:
    """All differences between two versions.

    Attributes:
        n_before: Tiles of the older version.
        n_after: Tiles of the newer version.
        n_same: Tiles that are in both under one id with nothing changed.
        changes: In the order of :data:`KINDS`, then of tile ids.
        notes: What a reader should know.
    """

    n_before: int
    n_after: int
    n_same: int
    changes: tuple[TileChange, ...]
    notes: tuple[str, ...]

    def count(self, kind: str) -> int:
        """Return the number of differences of a kind."""
        return sum(change.kind == kind for change in self.changes)


def diff_datasets(before: TileSet, after: TileSet, index: HashIndex) -> DatasetDiff:
    """Compare two versions of a data set tile by tile.

    Args:
        before: The older version.
        after: The newer version.
        index: Content hashes that are known already.

    Returns:
        Every difference. A tile under another id with the same content is renamed, not removed and added; where
        several tiles share a content, they are paired in the order of their ids.

    Raises:
        UserError: They are different data sets, or tiles can't be read.
    """
    if before.name != after.name:
        raise UserError("two versions of one data set are compared", value=f"{before.name} and {after.name}")
    old, new = _facts(before, index), _facts(after, index)
    renamed = _renamed({id_: old[id_] for id_ in old.keys() - new}, {id_: new[id_] for id_ in new.keys() - old})
    pairs = {id_: id_ for id_ in old.keys() & new} | renamed
    changes = [TileChange("removed", id_, id_, "") for id_ in old.keys() - pairs.keys()]
    changes += [TileChange("added", id_, "", id_) for id_ in new.keys() - set(pairs.values())]
    changes += [TileChange("renamed", was, was, now) for was, now in renamed.items()]
    for was, now in pairs.items():
        changes += _differences(was, old[was], new[now])
    order = {kind: place for place, kind in enumerate(KINDS)}
    changed = {change.tile_id for change in changes}
    return DatasetDiff(
        n_before=len(before),
        n_after=len(after),
        n_same=sum(was not in changed for was in pairs),
        changes=tuple(sorted(changes, key=lambda change: (order[change.kind], change.tile_id))),
        notes=_notes(before, after),
    )


def render_diff(diff: DatasetDiff, limit: int = 20) -> str:
    """Write a diff as plain text."""
    lines = [f"{diff.n_before:,} tiles before, {diff.n_after:,} after, {diff.n_same:,} the same in everything"]
    for kind, n in sorted(
        Counter(change.kind for change in diff.changes).items(), key=lambda item: KINDS.index(item[0])
    ):
        lines.append(f"{kind}: {n:,}")
        named = [change for change in diff.changes if change.kind == kind][:limit]
        lines += [f"  {one_line(_shown(change))}" for change in named]
        lines += [f"  and {n - limit:,} more"] if n > limit else []
    return "\n".join([*lines, *map(one_line, diff.notes)])


def _shown(change: TileChange) -> str:
    if change.kind in ("added", "removed"):
        return change.tile_id
    if change.kind == "content":
        return f"{change.tile_id}: {change.before[:12]} -> {change.after[:12]}"
    return f"{change.tile_id}: {change.before or 'unknown'} -> {change.after or 'unknown'}"


@dataclass(frozen=True)
class _Facts:
    """What is compared of a tile."""

    content: str
    values: tuple[str, ...]


def _facts(tiles: TileSet, index: HashIndex) -> dict[str, _Facts]:
    with PixelReader() as reader:
        hashes = index.tiles(tile_sources(tiles), reader)
    labels = [tiles.class_names[label] if label >= 0 else "" for label in tiles.labels_N.tolist()]
    columns = [labels, *(_texts(tiles, name) for name in COMPARED[1:])]
    rows = zip(tiles.tile_ids, hashes, zip(*columns, strict=True), strict=True)
    return {tile_id: _Facts(content, values) for tile_id, content, values in rows}


def _texts(tiles: TileSet, column: str) -> list[str]:
    return [
        "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for value in tiles.table[column].to_list()
    ]


def _renamed(gone: Mapping[str, _Facts], come: Mapping[str, _Facts]) -> dict[str, str]:
    """Pair ids that are in one version only and have the same content."""
    by_content: dict[str, list[str]] = defaultdict(list)
    for tile_id in sorted(come, reverse=True):
        by_content[come[tile_id].content].append(tile_id)
    return {was: by_content[gone[was].content].pop() for was in sorted(gone) if by_content[gone[was].content]}


def _differences(tile_id: str, old: _Facts, new: _Facts) -> list[TileChange]:
    changes = [TileChange("content", tile_id, old.content, new.content)] if old.content != new.content else []
    values = zip(COMPARED, old.values, new.values, strict=True)
    return changes + [TileChange(name, tile_id, was, now) for name, was, now in values if was != now]


def _notes(before: TileSet, after: TileSet) -> tuple[str, ...]:
    notes = ["Content is compared by the bytes of a tile: a file saved anew with equal pixels counts as changed."]
    if before.class_names != after.class_names:
        notes.append(f"Classes differ: {', '.join(before.class_names)} and {', '.join(after.class_names)}.")
    return tuple(notes)
