"""A split as data: a name, a side per group or tile, a hash, and what to beware of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from histotune.files import hash_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histotune.datasets.records import TileSet


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
        leaky: Whether tiles of one group lie on two sides; marked LEAKY in every table it reaches.
        notes: What was done where classes had too few groups, which weakness the split is known for; a sentence each.
    """

    name: str
    kind: Literal["folds", "parts"]
    unit: Literal["group", "tile"]
    side_by_key: Mapping[str, str]
    leaky: bool = False
    notes: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[str, ...]:
        """Return the sides that occur: folds by number, parts in the order train, valid, test."""
        order = {"train": 0, "valid": 1, "test": 2}
        present = set(self.side_by_key.values())
        return tuple(sorted(present, key=lambda side: (order.get(side, 3), len(side), side)))

    @property
    def split_hash(self) -> str:
        """Return the SHA-256 over unit and sides; the name and notes have no say."""
        return hash_json([self.unit, dict(self.side_by_key)])

    def side_of_tiles(self, tiles: TileSet) -> tuple[str | None, ...]:
        """Return the side of every tile, in row order; None where a tile takes no part.

        Args:
            tiles: Any tile set.

        Returns:
            One side per tile.
        """
        tile_ids = tiles.table["tile_id"].to_list()
        if self.unit == "tile":
            return tuple(self.side_by_key.get(tile_id) for tile_id in tile_ids)
        keys = (
            f"tile:{tile_id}" if group is None else group
            for group, tile_id in zip(tiles.table["group_id"].to_list(), tile_ids, strict=True)
        )
        return tuple(self.side_by_key.get(key) for key in keys)
