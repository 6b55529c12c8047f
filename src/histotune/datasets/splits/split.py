"""A split as data: a name, a side per group or tile, a hash, and what to beware of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from histotune.tools.files import hash_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histotune.datasets.tileset import TileSet

PART_ORDER = {"train": 0, "valid": 1, "test": 2}
NO_PART = "no part in this split."


@dataclass(frozen=True)
class Split:
    """Which side every tile lies on.

    Attributes:
        name: Everything needed to make it again, the seed included: "grouped-5-seed0", "eva", "thunder",
            "authors-5", "pcam-official", "random-images-5-seed0".
        kind: ``folds`` (sides "0", "1", ...: each is held out in turn) or ``parts`` (sides "train", "valid", "test").
        unit: Whether the keys are groups or single tiles.
        side_by_key: Group id (or ``tile:<tile_id>`` where the group is unknown), or tile id -> side. Tiles whose key
            is missing take no part.
        leaky: Whether tiles of one group lie on two sides, or may, because groups are unknown; marked LEAKY in every
            table it reaches.
        notes: What was done where classes had too few groups, which weakness the split is known for; a sentence each.
        partial: Whether tiles without a side are meant to be left out, as in published splits of one magnification;
            otherwise a tile without a side is a mistake.
    """

    name: str
    kind: Literal["folds", "parts"]
    unit: Literal["group", "tile"]
    side_by_key: Mapping[str, str]
    leaky: bool = False
    notes: tuple[str, ...] = ()
    partial: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        """Return the sides that occur: folds by number, parts in the order train, valid, test."""
        present = set(self.side_by_key.values())
        return tuple(sorted(present, key=lambda side: (PART_ORDER.get(side, 3), len(side), side)))

    @cached_property
    def split_hash(self) -> str:
        """Return the SHA-256 over unit and sides; the name and notes have no say."""
        return hash_json([self.unit, dict(self.side_by_key)])

    @property
    def title(self) -> str:
        """Return the name with the first digits of the hash, as reports print it."""
        return f"{self.name} (hash {self.split_hash[:12]})"

    def key_of_tiles(self, tiles: TileSet) -> tuple[str, ...]:
        """Return the key under which every tile is found, in row order.

        Args:
            tiles: Any tile set.

        Returns:
            Tile ids, or groups as :func:`tile_groups` names them.
        """
        return tiles.tile_ids if self.unit == "tile" else tile_groups(tiles)

    def side_of_tiles(self, tiles: TileSet) -> tuple[str | None, ...]:
        """Return the side of every tile, in row order; None where a tile takes no part.

        Args:
            tiles: Any tile set.

        Returns:
            One side per tile.
        """
        return tuple(self.side_by_key.get(key) for key in self.key_of_tiles(tiles))


def tile_groups(tiles: TileSet) -> tuple[str, ...]:
    """Return the group key of every tile: what may never lie on two sides of a split.

    Args:
        tiles: The tiles.

    Returns:
        ``group_id`` per tile; ``tile:<tile_id>`` where the group is unknown.
    """
    pairs = zip(tiles.table["group_id"].to_list(), tiles.table["tile_id"].to_list(), strict=True)
    return tuple(f"tile:{tile_id}" if group is None else group for group, tile_id in pairs)


def note_outside(split: Split, tiles: TileSet) -> Split:
    """Return the split with a note on how many tiles take no part; an older such note is replaced.

    Args:
        split: Any split.
        tiles: The tiles that it is applied to.

    Returns:
        The split; without the note where every tile has a side.
    """
    outside = split.side_of_tiles(tiles).count(None)
    kept = tuple(note for note in split.notes if not note.endswith(NO_PART))
    what = "1 tile takes" if outside == 1 else f"{outside:,} tiles take"
    return replace(split, notes=(*kept, f"{what} {NO_PART}") if outside else kept)
