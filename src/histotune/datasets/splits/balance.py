"""How even a split of groups is, and the search for a more even one.

Only integers decide, and ties go to the first candidate in the order in which groups were dealt, so that a split is the
same with every version of numpy and on every machine.

Shapes: G groups, S sides, C classes (unlabelled tiles count as one), V label vectors, D balanced quantities,
M candidates, L levels of the imbalance.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, fields
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.tools.marks import LEAKY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet

    Int = NDArray[np.int64]


FEW_GROUPS = 120  # up to here groups are moved and swapped; beyond, dealing them out is even enough
TRY_ALL = 60_000  # up to here every assignment is tried
MAX_STEPS = 400
# A side's share of a class's tiles counts in steps of half a percentage point: finer is no better, and ties leave room
# for the seed.
STEPS = 200


@dataclass(frozen=True)
class Wish:
    """The share of each side.

    Attributes:
        weights: Share of every side, in any common unit: (1, 1, 1, 1, 1) for five folds, (80, 20) for a hold-out.
        train: Side that should hold every class; None where each side is held out in turn.
    """

    weights: tuple[int, ...]
    train: int | None = None


@dataclass(frozen=True, order=True)
class Imbalance:
    """How far a split is from its wish; compared from left to right, smaller is better.

    With W the sum of the weights, w a side's weight, n what the side holds and N the whole, each level sums the
    squares of W * n - w * N over the sides.

    Attributes:
        empty: Sides without a group.
        groups: Groups per side.
        unlearnable: Classes that the training side lacks.
        classes: Groups of each class per side; a group of several classes counts for each.
        diagnoses: Groups of each label vector (the set of classes a group holds) per side.
        tiles: Tiles of each class and of all classes per side, as a share of the class, in whole steps of
            1 / :data:`STEPS`.
    """

    empty: int
    groups: int
    unlearnable: int
    classes: int
    diagnoses: int
    tiles: int

    def change_to(self, other: Imbalance) -> str:
        """Return the levels that differ, in the order in which they count: "tiles 46354463 -> 36481482"."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {before} -> {after}" for name, before, after in pairs if before != after)


@dataclass(frozen=True)
class Balanced:
    """An assignment of groups to sides, and what the search gained.

    Attributes:
        side_by_group: Group -> number of its side, sorted by group.
        before: Imbalance of the start.
        after: Imbalance of the result.
        n_steps: Moves and swaps made.
        tried_all: Whether every assignment was compared, so that none is more even.
        before_points: Root mean square by which a side's share of a class's tiles missed the wish at the start, in
            tenths of a percentage point.
        after_points: The same of the result.
    """

    side_by_group: dict[str, int]
    before: Imbalance
    after: Imbalance
    n_steps: int
    tried_all: bool
    before_points: int
    after_points: int

    def note(self) -> str:
        """Return how even the assignment is and what the search did, in a sentence."""
        words = {0: "no move or swap", 1: "1 move or swap"}.get(self.n_steps, f"{self.n_steps} moves and swaps")
        how = "comparing every assignment" if self.tried_all else f"{words} of whole groups"
        if self.before != self.after:
            how += f" ({_points(self.before_points)} before; imbalance: {self.before.change_to(self.after)})"
        return (
            f"Balance: a side's share of a class's tiles misses its wish by {_points(self.after_points)} percentage "
            f"points (root mean square) after {how}."
        )


def best_sides(
    tiles_by_group: Mapping[str, Mapping[int, int]], order: Sequence[str], start: Mapping[str, int], wish: Wish
) -> Balanced:
    """Improve an assignment of groups to sides until no move of one group and no swap of two makes it more even.

    Very small problems are solved by trying everything; beyond :data:`FEW_GROUPS` groups the start is kept.
    """
    search = _Search(tiles_by_group, order, wish)
    start_G = np.array([start[group] for group in order], dtype=np.int64)
    before = search.imbalance(start_G)
    side_G, n_steps, tried_all = start_G, 0, False
    if search.n_assignments() <= TRY_ALL:
        side_G, tried_all = search.try_all(), True
    elif len(order) <= FEW_GROUPS:
        side_G, n_steps = search.descend(start_G)
    after = search.imbalance(side_G)
    if not after < before:
        side_G, after = start_G, before
    return Balanced(
        side_by_group=dict(sorted(zip(order, side_G.tolist(), strict=True))),
        before=before,
        after=after,
        n_steps=n_steps,
        tried_all=tried_all,
        before_points=search.points(start_G),
        after_points=search.points(side_G),
    )


def balance_table(tiles: TileSet, split: Split) -> pl.DataFrame:
    """Count tiles and groups of every class on every side."""
    names = [*tiles.class_names, "unlabelled"]
    label = pl.col("label").fill_null(len(tiles.class_names)).cast(pl.Int64)
    group = pl.coalesce("group_id", pl.concat_str(pl.lit("tile:"), pl.col("tile_id")))
    table = tiles.table.select(label, group.alias("group"), pl.Series("side", split.side_of_tiles(tiles), pl.String))
    counts = table.group_by("side", "label").agg(tiles=pl.len(), groups=pl.col("group").n_unique())
    present = sorted(set(table.drop_nulls("side")["label"]))
    grid = pl.DataFrame(
        [(side, label, names[label]) for side in split.sides for label in present],
        schema={"side": pl.String, "label": pl.Int64, "class": pl.String},
        orient="row",
    )
    joined = grid.join(counts, on=["side", "label"], how="left", maintain_order="left")
    return joined.select("side", "class", pl.col("tiles", "groups").fill_null(0).cast(pl.Int64))


MOST_NOTES = 20  # on single classes, of which there may be thousands


def few_group_notes(tiles: TileSet, split: Split) -> tuple[str, ...]:
    """Say which class has too few groups to be on every side, and where its groups went."""
    table = balance_table(tiles, split)
    notes = []
    for name in table["class"].unique(maintain_order=True):
        rows = table.filter(pl.col("class") == name)
        lacking = rows.filter(pl.col("groups") == 0)["side"].to_list()
        holding = rows.filter(pl.col("groups") > 0)["side"].to_list()
        if not lacking or name == "unlabelled":
            continue
        n_groups = int(rows["groups"].sum())
        groups = "1 group" if n_groups == 1 else f"{n_groups} groups"
        what = "fold" if split.kind == "folds" else "part"
        note = f"Class {name} has {groups} for {len(split.sides)} {what}s: none in {what} {', '.join(lacking)}"
        if len(holding) == 1 and (split.kind == "folds" or holding != ["train"]):
            note += f"; all its tiles lie in {what} {holding[0]}, so the head that scores them never learned the class"
        notes.append(f"{note}.")
    more = len(notes) - MOST_NOTES
    return (*notes[:MOST_NOTES], *((f"{more:,} more classes have too few groups.",) if more > 0 else ()))


@dataclass(frozen=True)
class _Steps:
    """Moves and swaps, M of them.

    Attributes:
        first_M: The group that changes sides.
        second_M: The group that takes its place; -1 in a move.
        target_M: The side that the first group goes to.
    """

    first_M: Int
    second_M: Int
    target_M: Int


class _Search:
    """The balanced quantities of every group, and the imbalance of assignments over them."""

    def __init__(self, tiles_by_group: Mapping[str, Mapping[int, int]], order: Sequence[str], wish: Wish) -> None:
        # Everything that a side is judged by is a sum over its groups: their number, the groups that have each class,
        # those with each set of classes, and tiles by class and in all. One row per group holds all of it, so that a
        # side is one sum.
        labels = sorted({label for counts in tiles_by_group.values() for label in counts})
        tiles_GC = np.array([[tiles_by_group[group].get(label, 0) for label in labels] for group in order], np.int64)
        present_GC = (tiles_GC > 0).astype(np.int64)
        vectors, vector_G = np.unique(present_GC, axis=0, return_inverse=True)
        vector_GV = (vector_G.reshape(-1, 1) == np.arange(len(vectors))).astype(np.int64)
        ones_G1 = np.ones((len(order), 1), np.int64)
        blocks = (ones_G1, present_GC, vector_GV, np.hstack([tiles_GC, tiles_GC.sum(axis=1, keepdims=True)]))
        stops = np.cumsum([block.shape[1] for block in blocks]).tolist()
        self._groups, self._classes, self._vectors, self._tiles = (
            slice(stop - block.shape[1], stop) for stop, block in zip(stops, blocks, strict=True)
        )
        self._matrix_GD = np.hstack(blocks)
        self._total_D = self._matrix_GD.sum(axis=0)
        self._weight_S = np.array(wish.weights, np.int64)
        self._train = -1 if wish.train is None else wish.train
        self._interchangeable = wish.train is None and len(set(wish.weights)) == 1

    def imbalance(self, side_G: Int) -> Imbalance:
        """Return the imbalance of one assignment."""
        levels_SL = self._levels(self._side_sums(side_G), np.arange(len(self._weight_S)))
        return Imbalance(*levels_SL.sum(axis=0).tolist())

    def points(self, side_G: Int) -> int:
        """Return the root mean square miss of tile shares, in tenths of a percentage point."""
        miss_SC = self._miss(self._side_sums(side_G), np.arange(len(self._weight_S)))[:, self._tiles]
        tenths_SC = miss_SC * 1000 // (self._total_D[self._tiles] * self._weight_S.sum())
        return isqrt(int((tenths_SC**2).sum()) // tenths_SC.size)

    def n_assignments(self) -> int:
        """Return how many assignments there are; interchangeable sides are counted once for the first group."""
        n_sides, n_free = len(self._weight_S), len(self._matrix_GD) - (1 if self._interchangeable else 0)
        n_assignments: int = n_sides**n_free
        return n_assignments

    def try_all(self) -> Int:
        """Return the best of all assignments, the first in the order of the groups among equals."""
        n_groups, n_sides = len(self._matrix_GD), len(self._weight_S)
        places = n_sides ** np.arange(n_groups - 1, -1, -1, dtype=np.int64)
        side_MG = np.arange(self.n_assignments(), dtype=np.int64)[:, None] // places % n_sides
        levels_ML = np.zeros((len(side_MG), len(fields(Imbalance))), np.int64)
        for side in range(n_sides):
            sums_MD = (side_MG == side).astype(np.int64) @ self._matrix_GD
            levels_ML += self._levels(sums_MD, np.full(len(side_MG), side))
        best_G: Int = side_MG[_first_best(levels_ML)]
        return best_G

    def descend(self, start_G: Int) -> tuple[Int, int]:
        """Take the best move or swap until none helps; return the assignment and the number of steps."""
        side_G = start_G.copy()
        best = self.imbalance(side_G)
        for step in range(MAX_STEPS):
            steps = self._candidates(side_G)
            levels_ML = self._levels_after(side_G, steps)
            found = _first_best(levels_ML)
            if not Imbalance(*levels_ML[found].tolist()) < best:
                return side_G, step
            best = Imbalance(*levels_ML[found].tolist())
            group, other = int(steps.first_M[found]), int(steps.second_M[found])
            if other >= 0:
                side_G[other] = side_G[group]
            side_G[group] = steps.target_M[found]
        return side_G, MAX_STEPS

    def _candidates(self, side_G: Int) -> _Steps:
        """Return every move, then every swap."""
        # A move takes one group to another side; a swap exchanges two groups of different sides.
        n_groups, n_sides = len(side_G), len(self._weight_S)
        group_m, target_m = (axis.ravel() for axis in np.indices((n_groups, n_sides)))
        moves = target_m != side_G[group_m]
        a_s, b_s = np.triu_indices(n_groups, 1)
        swaps = side_G[a_s] != side_G[b_s]
        return _Steps(
            np.concatenate([group_m[moves], a_s[swaps]]),
            np.concatenate([np.full(int(moves.sum()), -1, np.int64), b_s[swaps]]),
            np.concatenate([target_m[moves], side_G[b_s[swaps]]]),
        )

    def _levels_after(self, side_G: Int, steps: _Steps) -> Int:
        """Return the imbalance after each candidate; only two sides change."""
        first_M, second_M, target_M = steps.first_M, steps.second_M, steps.target_M
        sums_SD = self._side_sums(side_G)
        levels_SL = self._levels(sums_SD, np.arange(len(sums_SD)))
        source_M = side_G[first_M]
        other_MD = np.where(second_M[:, None] >= 0, self._matrix_GD[second_M], 0)
        # One side gains what the other loses, so that levels after = all before - both before + both after.
        change_MD = other_MD - self._matrix_GD[first_M]
        unchanged_ML = levels_SL.sum(axis=0) - levels_SL[source_M] - levels_SL[target_M]
        source_ML = self._levels(sums_SD[source_M] + change_MD, source_M)
        target_ML = self._levels(sums_SD[target_M] - change_MD, target_M)
        changed_ML: Int = unchanged_ML + source_ML + target_ML
        return changed_ML

    def _side_sums(self, side_G: Int) -> Int:
        member_SG = (np.arange(len(self._weight_S))[:, None] == side_G).astype(np.int64)
        sums_SD: Int = member_SG @ self._matrix_GD
        return sums_SD

    def _miss(self, sums_MD: Int, side_M: Int) -> Int:
        """Return by how much sides miss their wish, times the sum of the weights."""
        wish_MD = self._weight_S[side_M][:, None] * self._total_D
        miss_MD: Int = np.abs(self._weight_S.sum() * sums_MD - wish_MD)
        return miss_MD

    def _levels(self, sums_MD: Int, side_M: Int) -> Int:
        """Return what each side adds to the levels of the imbalance, shape (M, L)."""
        miss_MD = self._miss(sums_MD, side_M)
        tiles_MC = miss_MD[:, self._tiles] * STEPS // (self._total_D[self._tiles] * self._weight_S.sum())
        lacking_M = (sums_MD[:, self._classes] == 0).sum(axis=1)
        return np.stack(
            [
                (sums_MD[:, 0] == 0).astype(np.int64),
                (miss_MD[:, self._groups] ** 2).sum(axis=1),
                np.where(side_M == self._train, lacking_M, 0),
                (miss_MD[:, self._classes] ** 2).sum(axis=1),
                (miss_MD[:, self._vectors] ** 2).sum(axis=1),
                (tiles_MC**2).sum(axis=1),
            ],
            axis=1,
        )


def _first_best(levels_ML: Int) -> int:
    """Return the row that is smallest from left to right, the first among equals."""
    rows = np.arange(len(levels_ML))
    for level_M in levels_ML.T:
        rows = rows[level_M[rows] == level_M[rows].min()]
    return int(rows[0])


def _points(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10}"


# ---- A split as text ----


def render_split(split: Split, tiles: TileSet) -> str:
    """Write a split as plain text."""
    mark = f"{LEAKY} " if split.leaky else ""
    head = f"{mark}{split.name}: {len(split.sides)} {split.kind} by {split.unit}, hash {split.split_hash}"
    notes = [textwrap.fill(note, 108, initial_indent="  - ", subsequent_indent="    ") for note in split.notes]
    blocks = [head, _text_table(balance_table(tiles, split)), "\n".join(["Notes", *notes]) if notes else ""]
    return "\n\n".join(block for block in blocks if block)


def _text_table(table: pl.DataFrame) -> str:
    with pl.Config(
        tbl_rows=-1,
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_formatting="NOTHING",
        tbl_cell_numeric_alignment="RIGHT",
        thousands_separator=",",
    ):
        return str(table).rstrip()
