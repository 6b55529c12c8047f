"""A split as data: a name, a side per group or tile, a hash, and what to beware of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import polars as pl

from histotune.datasets.disk import name_some
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json
from histotune.tools.marks import LEAKY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histotune.datasets.tileset import TileSet


PART_ORDER = {"train": 0, "valid": 1, "test": 2}
CLASSES_TO_LEARN = 2
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
    """Return the group key of every tile: what may never lie on two sides of a split."""
    pairs = zip(tiles.table["group_id"].to_list(), tiles.table["tile_id"].to_list(), strict=True)
    return tuple(f"tile:{tile_id}" if group is None else group for group, tile_id in pairs)


def require_groups(tiles: TileSet) -> None:
    """Refuse tiles of which grouped cross-validation can learn nothing: what a head is tested on, it never saw.

    Args:
        tiles: All that train.

    Raises:
        UserError: Fewer than two classes have tiles of two groups or more.
    """
    labels = tiles.labels_N.tolist()
    pairs = set(zip(labels, tile_groups(tiles), strict=True))
    n_groups = Counter(label for label, _ in pairs if label >= 0)
    if sum(count > 1 for count in n_groups.values()) >= CLASSES_TO_LEARN:
        return
    alone = sorted(tiles.class_names[label] for label, count in n_groups.items() if count == 1)
    raise UserError(
        "grouped cross-validation needs every class in at least two groups; here all tiles of a class lie in one",
        value=name_some(alone, 10),
        fix="train on more groups of that class" if len(alone) == 1 else "train on more groups of these classes",
    )


def note_outside(split: Split, tiles: TileSet) -> Split:
    """Return the split with a note on how many tiles take no part; an older such note is replaced."""
    outside = split.side_of_tiles(tiles).count(None)
    kept = tuple(note for note in split.notes if not note.endswith(NO_PART))
    what = "1 tile takes" if outside == 1 else f"{outside:,} tiles take"
    return replace(split, notes=(*kept, f"{what} {NO_PART}") if outside else kept)


# ---- Groups on two sides ----


WARNING = f"{LEAKY}: "
ALLOW = "add --allow-leaky (or --set evaluation.allow_leaky=true): every table it reaches is then marked LEAKY"


@dataclass(frozen=True)
class SharedGroups:
    """Known groups with tiles on several sides.

    Attributes:
        groups: Their ids, sorted.
        tiles_by_side: Side -> how many of its tiles belong to them.
        tiles_by_class: Held-out side -> class name -> how many of its tiles belong to them.
        total_by_side: Side -> all its tiles.
        total_by_class: Held-out side -> class name -> all its tiles.
    """

    groups: tuple[str, ...]
    tiles_by_side: dict[str, int]
    tiles_by_class: dict[str, dict[str, int]]
    total_by_side: dict[str, int]
    total_by_class: dict[str, dict[str, int]]

    def notes(self) -> tuple[str, ...]:
        """Return a sentence on the groups and one per held-out part; nothing where no group is shared."""
        if not self.groups:
            return ()
        n = len(self.groups)
        what = "1 group lies" if n == 1 else f"{n} groups lie"
        first = f"{WARNING}{what} on two sides of this split ({name_some(list(self.groups), 8)})."
        return (first, *(self._side(side) for side in self.total_by_side if self.tiles_by_class.get(side)))

    def _side(self, side: str) -> str:
        totals = self.total_by_class[side]
        classes = ", ".join(f"{name} {n} of {totals[name]}" for name, n in self.tiles_by_class[side].items())
        return (
            f"{WARNING}{self.tiles_by_side[side]:,} of {self.total_by_side[side]:,} tiles of {side} come from groups "
            f"that also lie on another side ({classes})."
        )


def shared_groups(tiles: TileSet, split: Split) -> SharedGroups:
    """Find the known groups that a split puts on several sides."""
    names = (*tiles.class_names, "unlabelled")
    sides = pl.Series(split.side_of_tiles(tiles), dtype=pl.String)
    table = tiles.table.select("group_id", side=sides, label=tiles.labels_N).drop_nulls("side")
    sides_by_group = table.drop_nulls("group_id").group_by("group_id").agg(pl.col("side").n_unique())
    torn = sorted(sides_by_group.filter(pl.col("side") > 1)["group_id"])
    in_torn = pl.col("group_id").is_in(torn).fill_null(False)
    touched: dict[str, dict[str, int]] = {side: {} for side in split.sides}
    total: dict[str, dict[str, int]] = {side: {} for side in split.sides}
    for side, label, n_touched, n in (
        table.group_by("side", "label").agg(in_torn.sum().alias("touched"), pl.len()).sort("label").iter_rows()
    ):
        touched[side][names[label]], total[side][names[label]] = n_touched, n
    held_out = [side for side in split.sides if split.kind == "parts" and side != "train"]
    return SharedGroups(
        groups=tuple(torn),
        tiles_by_side={side: sum(touched[side].values()) for side in split.sides},
        tiles_by_class={side: touched[side] for side in held_out if any(touched[side].values())},
        total_by_side={side: sum(total[side].values()) for side in split.sides},
        total_by_class={side: total[side] for side in held_out},
    )


def mark_leaks(split: Split, tiles: TileSet) -> Split:
    """Return the split marked by what today's groups say about it."""
    found = shared_groups(tiles, split)
    kept = tuple(note for note in split.notes if not note.startswith(WARNING))
    return replace(split, leaky=split.leaky or bool(found.groups), notes=(*kept, *found.notes()))


def refuse_leaks(split: Split, tiles: TileSet, *, allow_leaky: bool) -> None:
    """Refuse a split that puts a known group on two sides, unless that was asked for."""
    notes = () if allow_leaky else shared_groups(tiles, split).notes()
    if notes:
        raise UserError(
            f"the split {split.name} leaks: {' '.join(note.removeprefix(WARNING) for note in notes)}",
            allowed="splits that keep every group on one side, such as grouped-5-seed0",
            fix=ALLOW,
        )
