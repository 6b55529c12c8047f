"""Who trains each row of the matrix: one magnification, all but one, or all; equally many tiles per group, or all."""

# N tiles

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.findings import domain_order
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.matrix.records import TrainingSize

    Bool = NDArray[np.bool_]
    Int = NDArray[np.int64]

ALL = "all"


@dataclass(frozen=True)
class TrainingTiles:
    """The tiles that may train one row.

    Attributes:
        name: "100X", "all but 100X" or "all".
        train_N: Which tiles.
    """

    name: str
    train_N: Bool


def magnifications_of(tiles: TileSet) -> tuple[str, ...]:
    """Return the magnifications that labelled tiles have, lowest first.

    Args:
        tiles: The data set.

    Returns:
        Two or more names.

    Raises:
        UserError: There are fewer.
    """
    known = tiles.table.filter(tiles.labels_N >= 0)["magnification"].drop_nulls()
    names = tuple(sorted(set(known), key=lambda name: domain_order(f" {name}")))
    if len(names) < 2:
        raise UserError("a cross-magnification matrix needs labelled tiles of at least two magnifications",
                        value=", ".join(names) or f"no magnifications in {tiles.name}",
                        fix="histotune matrix breakhis --data BreaKHis_v1")  # fmt: skip
    return names


def training_sets(
    tiles: TileSet, size: TrainingSize, seed: int, trainable: tuple[str, ...] | None = None
) -> tuple[TrainingTiles, ...]:
    """Return the tiles that train each row.

    Args:
        tiles: The data set.
        size: ``equal``: a group gives every row as many tiles as it has at the magnification where it has fewest;
            groups that lack a magnification train nowhere. A row of several magnifications takes them in turn.
            ``all data``: every labelled tile.
        seed: Seed of the draw.
        trainable: Magnifications among which sizes are equalised, so that one with a handful of tiles does not starve
            the others; it is scored and trains nothing. None takes all.

    Returns:
        One magnification each, all but one each, all. Where "all but one" would be a single one, it is left out.

    Raises:
        UserError: Fewer than two magnifications, or no group has all that are equalised.
    """
    names = magnifications_of(tiles)
    members_of_all = names if trainable is None or size == "all data" else trainable
    rows: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in names]
    if len(members_of_all) > 2:
        rows += [(f"all but {name}", tuple(o for o in members_of_all if o != name)) for name in members_of_all]
    rows.append((ALL, members_of_all))
    of_tile = tiles.table["magnification"].fill_null("").to_numpy()
    labelled_N = tiles.labels_N >= 0
    if size == "all data":
        return tuple(TrainingTiles(name, labelled_N & np.isin(of_tile, members)) for name, members in rows)
    drawn = _draw_per_group(tiles, members_of_all, seed)
    nothing_N = np.zeros(len(tiles), bool)
    return tuple(
        TrainingTiles(name, _take_in_turn(len(tiles), drawn, members) if set(members) <= set(members_of_all)
                      else nothing_N)
        for name, members in rows
    )  # fmt: skip


def _draw_per_group(tiles: TileSet, names: tuple[str, ...], seed: int) -> list[dict[str, Int]]:
    """Return, per group with every magnification, as many drawn rows of each; independent of the order of rows."""
    rng = np.random.Generator(np.random.PCG64(seed))
    by_group: dict[str, dict[str, list[int]]] = {}
    of_tile, labels_N, groups = tiles.table["magnification"].to_list(), tiles.labels_N, tile_groups(tiles)
    ids = tiles.tile_ids
    for row in sorted(range(len(tiles)), key=lambda row: ids[row]):
        if of_tile[row] is not None and labels_N[row] >= 0:
            by_group.setdefault(groups[row], {}).setdefault(of_tile[row], []).append(row)
    drawn = []
    for group in sorted(by_group):
        rows = by_group[group]
        if all(name in rows for name in names):
            n = min(len(rows[name]) for name in names)
            drawn.append({name: np.array(rows[name])[rng.permutation(len(rows[name]))[:n]] for name in names})
    if not drawn:
        raise UserError("no group has tiles at every magnification, so training sizes can't be equalised by group",
                        value=", ".join(names))  # fmt: skip
    return drawn


def _take_in_turn(n_tiles: int, drawn: list[dict[str, Int]], members: tuple[str, ...]) -> Bool:
    """Take as many tiles of every group as a single magnification gives, from the members in turn."""
    train_N = np.zeros(n_tiles, bool)
    for number, rows in enumerate(drawn):
        n = len(rows[members[0]])
        first = number % len(members)  # so that the remainder doesn't always fall to the lowest magnification
        order = members[first:] + members[:first]
        for place, name in enumerate(order):
            train_N[rows[name][: (n - place + len(order) - 1) // len(order)]] = True
    return train_N
