"""Groups on two sides: which, how many tiles they touch, and whether that was allowed."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from histotune.datasets.disk import name_some
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet

LEAKY = "LEAKY: "
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
        first = f"{LEAKY}{what} on two sides of this split ({name_some(list(self.groups), 8)})."
        return (first, *(self._side(side) for side in self.total_by_side if self.tiles_by_class.get(side)))

    def _side(self, side: str) -> str:
        totals = self.total_by_class[side]
        classes = ", ".join(f"{name} {n} of {totals[name]}" for name, n in self.tiles_by_class[side].items())
        return (
            f"{LEAKY}{self.tiles_by_side[side]:,} of {self.total_by_side[side]:,} tiles of {side} come from groups "
            f"that also lie on another side ({classes})."
        )


def shared_groups(tiles: TileSet, split: Split) -> SharedGroups:
    """Find the known groups that a split puts on several sides.

    Args:
        tiles: The tiles, with the groups as they are known today.
        split: Any split.

    Returns:
        The groups and the tiles they touch; per class for valid and test parts only.
    """
    groups, labels = tiles.table["group_id"].to_list(), tiles.labels_N.tolist()
    sides = split.side_of_tiles(tiles)
    sides_by_group: dict[str, set[str]] = defaultdict(set)
    for group, side in zip(groups, sides, strict=True):
        if group is not None and side is not None:
            sides_by_group[group].add(side)
    torn = {group for group, found in sides_by_group.items() if len(found) > 1}
    touched: Counter[tuple[str, int]] = Counter()
    total: Counter[tuple[str, int]] = Counter()
    for group, side, label in zip(groups, sides, labels, strict=True):
        if side is not None:
            total[side, label] += 1
            touched[side, label] += group in torn
    held_out = [side for side in split.sides if split.kind == "parts" and side != "train"]
    return SharedGroups(
        groups=tuple(sorted(torn)),
        tiles_by_side={side: _of_side(touched, side) for side in split.sides},
        tiles_by_class={side: _by_class(touched, side, tiles) for side in held_out if _of_side(touched, side)},
        total_by_side={side: _of_side(total, side) for side in split.sides},
        total_by_class={side: _by_class(total, side, tiles) for side in held_out},
    )


def mark_leaks(split: Split, tiles: TileSet) -> Split:
    """Return the split marked by what today's groups say about it.

    Args:
        split: Any split; a mark that it already carries stays.
        tiles: The tiles.

    Returns:
        The split with ``leaky`` and notes on the shared groups, which replace older ones.
    """
    found = shared_groups(tiles, split)
    kept = tuple(note for note in split.notes if not note.startswith(LEAKY))
    return replace(split, leaky=split.leaky or bool(found.groups), notes=(*kept, *found.notes()))


def refuse_leaks(split: Split, tiles: TileSet, *, allow_leaky: bool) -> None:
    """Refuse a split that puts a known group on two sides, unless that was asked for.

    Args:
        split: Any split.
        tiles: The tiles, with the groups as they are known today.
        allow_leaky: The user's explicit yes.

    Raises:
        UserError: With the groups and the tiles they touch.
    """
    notes = () if allow_leaky else shared_groups(tiles, split).notes()
    if notes:
        raise UserError(
            f"the split {split.name} leaks: {' '.join(note.removeprefix(LEAKY) for note in notes)}",
            allowed="splits that keep every group on one side, such as grouped-5-seed0",
            fix=ALLOW,
        )


def _of_side(counts: Counter[tuple[str, int]], side: str) -> int:
    return sum(n for (found, _), n in counts.items() if found == side)


def _by_class(counts: Counter[tuple[str, int]], side: str, tiles: TileSet) -> dict[str, int]:
    names = (*tiles.class_names, "unlabelled")
    return {names[label]: counts[side, label] for found, label in sorted(counts) if found == side}
