"""Robustness index: does an embedding put the class before the site, the scanner or the stain?

Koemen et al., "Towards Robust Foundation Models for Digital Pathology" (PathoROB, arXiv 2507.17845): among each tile's
k nearest neighbours, those of the same class at another site over these and those of another class at the same site.
"""

# N tiles, D columns, G groups, C classes and sites

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.draw import spread_order
from histotune.evaluation.findings import RobustnessTable, ScoredArm
from histotune.evaluation.parts import MAX_PARTS, PART_COLUMNS
from histotune.evaluation.robustness_counts import Square, Tally, sum_tallies, tally_square
from histotune.statistics.bounds import Evidence, Scale, Strata, all_agree, flat_bounds, method_bounds
from histotune.statistics.predictions import Interval, Score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings
    from histotune.evaluation.predict import Material
    from histotune.evaluation.robustness_counts import Matrix
    from histotune.statistics.predictions import IntervalConfig, Predictions

    Int = NDArray[np.int64]

INDEX = "robustness_index"
MAX_CELL = 500  # tiles of one class at one site: four such cells make 2,000 x 2,000 similarities
MAX_SQUARES = 30


@dataclass(frozen=True)
class EmbeddedArm:
    """What the head of one arm reads: tiles, embeddings, column blocks."""

    arm: str
    material: Material
    pooling: tuple[str, ...]


@dataclass(frozen=True)
class RobustnessSettings:
    """How many neighbours, the seed of the draw, and how intervals are made."""

    k: int
    seed: int
    interval: IntervalConfig


@dataclass(frozen=True)
class SquarePlan:
    """Two classes at two sites, with as many tiles of each class at each site.

    Attributes:
        classes: Two label indices.
        sites: Two values of the column.
        rows: The tiles, by tile id.
    """

    classes: tuple[int, int]
    sites: tuple[str, str]
    rows: Int


@dataclass(frozen=True)
class Crossing:
    """What is compared for one column of the tile table.

    Attributes:
        column: ``site``, ``scanner`` or ``stain``.
        tiles: The tiles that rows speak of.
        squares: Pairs of classes at pairs of sites.
        n_possible: How many pairs hold enough tiles; the best filled are compared.
    """

    column: str
    tiles: TileSet
    squares: tuple[SquarePlan, ...]
    n_possible: int

    @property
    def rows(self) -> Int:
        """The tiles of all squares, each once."""
        return np.unique(np.concatenate([square.rows for square in self.squares]))


def score_robustness(
    arms: Sequence[EmbeddedArm], predictions: Predictions, probes: Sequence[ScoredArm], settings: RobustnessSettings
) -> tuple[RobustnessTable, ...]:
    """Return the robustness index of a backbone and its floors for each column of the tile table that allows one.

    Args:
        arms: The probe's backbone first; the others over the same tiles.
        predictions: Of the probe; its tiles are looked at.
        probes: The probe's rows, one per domain; every domain is looked at on its own.
        settings: What to count; k = 0 asks for nothing.

    Returns:
        A table for each of site, scanner and stain that has at least two values among the tiles of a domain.
    """
    tiles = arms[0].material.tiles
    if any(arm.material.tiles.tile_ids != tiles.tile_ids for arm in arms):
        raise ValueError("the arms hold different tiles")
    tables = []
    for column in PART_COLUMNS if settings.k else ():
        rows: list[ScoredArm] = []
        notes: list[str] = []
        for probe in probes:
            ids = predictions.where(pl.col("domain") == probe.domain).table["tile_id"]
            inside_N = tiles.table["tile_id"].is_in(ids.to_list()).to_numpy()
            n_values = tiles.table[column].filter(inside_N).drop_nulls().n_unique()
            if n_values > MAX_PARTS:
                notes.append(f"{n_values} values are too many for an index.")
            elif n_values > 1:
                crossing = cross(tiles, np.flatnonzero(inside_N), column, settings)
                rows += _rows(arms, crossing, probe, settings)
                notes += _notes(crossing, inside_N, settings.k)
        if rows or notes:
            tables.append(RobustnessTable(column, tuple(rows), tuple(dict.fromkeys(notes))))
    return tuple(tables)


def cross(tiles: TileSet, rows: Int, column: str, settings: RobustnessSettings) -> Crossing:
    """Pair classes and sites: every square has equally many tiles in its four cells, spread over groups.

    PathoROB's data sets are balanced so, and its TCGA part is compared pair by pair: sites that hold other shares of
    the classes would move the index without any doing of the network.

    Args:
        tiles: All tiles.
        rows: Those that may be drawn.
        column: ``site``, ``scanner`` or ``stain``.
        settings: A cell needs k tiles of two groups, so that the index can reach both of its ends.

    Returns:
        The squares, best filled first; none where classes and sites are not crossed.
    """
    groups = tile_groups(tiles)
    cells = {
        cell: found
        for cell, found in _cells(tiles, rows, column, settings.seed)
        if len(found) >= settings.k and len({groups[row] for row in found}) > 1
    }
    classes, sites = sorted({label for label, _ in cells}), sorted({site for _, site in cells})
    corners = [
        (two, where)
        for two in combinations(classes, 2)
        for where in combinations(sites, 2)
        if all((label, site) in cells for label in two for site in where)
    ]
    corners.sort(key=lambda square: -_size(square, cells))
    squares = tuple(_square(square, cells, tiles) for square in corners[:MAX_SQUARES])
    return Crossing(column, tiles, squares, len(corners))


def robustness_score(
    embeddings: Embeddings, pooling: tuple[str, ...], crossing: Crossing, settings: RobustnessSettings
) -> Score:
    """Return the robustness index of embeddings over all squares of a crossing.

    Args:
        embeddings: Of the tiles that the crossing speaks of; only the rows of one square at a time are read.
        pooling: Column blocks.
        crossing: From :func:`cross`.
        settings: Neighbours per tile, and how the interval is made.

    Returns:
        The index; 1: neighbours share the class, 0: neighbours share the site. Its ``chance`` is what blindly drawn
        neighbours would give. The interval is conditional on the network, on k, on the tiles drawn and on these sites:
        it says nothing about sites that are not there.
    """
    if not crossing.squares:
        reason = (f"no two classes are both found at two {crossing.column}s, with {settings.k} tiles of two groups "
                  "each")  # fmt: skip
        return Score(INDEX, float("nan"), None, 0, 0, reason=reason)
    rows = crossing.rows
    groups = np.array(tile_groups(crossing.tiles))
    names, code_n = np.unique(groups[rows], return_inverse=True)
    group_N = np.full(len(groups), -1)
    group_N[rows] = code_n.ravel()
    columns = embeddings.columns(pooling)
    tally = sum_tallies([
        tally_square(_filled(square, embeddings.matrix_ND[square.rows][:, columns], crossing, group_N), settings.k,
                     len(names))
        for square in crossing.squares
    ])  # fmt: skip
    interval, reason = _interval(tally, crossing, group_N, settings.interval)
    if np.isnan(tally.index):
        reason = "no neighbour is of the same class at another place, and none of another class at the same"
    n_groups = len(names) if crossing.tiles.has_groups else 0
    return Score(INDEX, tally.index, interval, len(rows), n_groups, reason=reason, chance=tally.chance)


def _cells(tiles: TileSet, rows: Int, column: str, seed: int) -> Iterator[tuple[tuple[int, str], Int]]:
    """Yield class and site with their tiles, in the order of a draw spread over groups."""
    groups, places = tile_groups(tiles), tiles.table[column].to_list()
    by_cell: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        if places[row] is not None and tiles.labels_N[row] >= 0:
            by_cell.setdefault((int(tiles.labels_N[row]), places[row]), []).append(int(row))
    for cell, found in by_cell.items():
        order = spread_order([tiles.tile_ids[row] for row in found], [groups[row] for row in found], seed)
        yield cell, np.array(found)[order]


def _size(square: tuple[tuple[int, int], tuple[str, str]], cells: Mapping[tuple[int, str], Int]) -> int:
    return min(MAX_CELL, *(len(cells[label, site]) for label in square[0] for site in square[1]))


def _square(
    square: tuple[tuple[int, int], tuple[str, str]], cells: Mapping[tuple[int, str], Int], tiles: TileSet
) -> SquarePlan:
    n = _size(square, cells)
    rows = np.concatenate([cells[label, site][:n] for label in square[0] for site in square[1]])
    return SquarePlan(*square, rows[np.argsort(np.array(tiles.tile_ids)[rows], kind="stable")])


def _filled(square: SquarePlan, x_nD: Matrix, crossing: Crossing, group_N: Int) -> Square:
    class_n = crossing.tiles.labels_N[square.rows] == square.classes[1]
    site_n = (crossing.tiles.table[crossing.column].gather(square.rows) == square.sites[1]).to_numpy()
    return Square(x_nD, class_n.astype(np.int64), site_n.astype(np.int64), group_N[square.rows])


def _interval(tally: Tally, crossing: Crossing, group_N: Int, config: IntervalConfig) -> tuple[Interval | None, str]:
    """Return the interval over groups, or why there is none."""
    strata, held = _strata(crossing, group_N)
    if not crossing.tiles.take(crossing.rows).has_groups:
        return (
            None,
            "group ids are missing for some tiles: tiles of one case may be neighbours, and an interval too narrow",
        )
    if config.cluster == "tile":
        return None, "this interval is over groups only"
    short = [f"{name} has {count} groups" for name, count in zip(held, strata.per_class_K.tolist(), strict=True)
             if count < config.min_groups_per_class]  # fmt: skip
    if short:
        return None, f"{'; '.join(short)}; an interval needs {config.min_groups_per_class}"
    if np.isnan(tally.index_G).any():
        return None, "undefined without one of the groups"
    return tally_interval(tally, strata, config.level, f"stratified by class and {crossing.column}"), ""


def tally_interval(tally: Tally, strata: Strata, level: float, words: str) -> Interval:
    """Return the interval of an index from its values without each group.

    Args:
        tally: Counts, defined without any one group.
        strata: Kinds of groups by the classes and sites they hold.
        level: Nominal coverage.
        words: What the kinds are, for the method's text.

    Returns:
        A t interval on the logit scale; the exact bound where leaving out any group changes nothing.
    """
    evidence, n_groups = Evidence(np.asarray(tally.index), tally.index_G), len(strata.stratum_G)
    if bool(all_agree(evidence)):
        low, high = flat_bounds(evidence.point_x, n_groups, Scale(), level)
        text = f"exact bound over {n_groups} groups that all agree (Clopper-Pearson, rule of three)"
    else:
        low, high = method_bounds("jackknife-t", evidence, strata, Scale(), level)
        text = f"t interval from leaving out one group at a time, as query and as neighbour (jackknife), {words}"
    return Interval(float(low), float(high), level, text)


def _strata(crossing: Crossing, group_N: Int) -> tuple[Strata, list[str]]:
    """Return kinds of groups by the classes and sites they hold, and the names of these."""
    rows, tiles = crossing.rows, crossing.tiles
    places = tiles.table[crossing.column].gather(rows)
    columns = [
        *((f"class {tiles.class_names[label]!r}", tiles.labels_N[rows] == label)
          for label in np.unique(tiles.labels_N[rows])),
        *((f"{crossing.column} {place!r}", (places == place).to_numpy())
          for place in sorted(set(places))),
    ]  # fmt: skip
    holds_GC = np.zeros((int(group_N.max()) + 1, len(columns)), dtype=np.bool_)
    for number, (_, has_n) in enumerate(columns):
        holds_GC[group_N[rows[has_n]], number] = True
    kinds = np.unique(holds_GC, axis=0, return_inverse=True)[1].ravel()
    return Strata(kinds, holds_GC), [name for name, _ in columns]


def _rows(
    arms: Sequence[EmbeddedArm], crossing: Crossing, probe: ScoredArm, settings: RobustnessSettings
) -> Iterator[ScoredArm]:
    """Yield a row per arm; one alone where nothing can be compared."""
    for arm in arms if crossing.squares else arms[:1]:
        score = robustness_score(arm.material.embeddings, arm.pooling, crossing, settings)
        yield ScoredArm(arm.arm, probe.domain, "+".join(arm.pooling), probe.input_mpp, (score,), probe.marks)


def _notes(crossing: Crossing, inside_N: NDArray[np.bool_], k: int) -> Iterator[str]:
    """Yield what was compared, and what was left out."""
    n_unknown = crossing.tiles.table[crossing.column].filter(inside_N).null_count()
    if n_unknown:
        yield f"{n_unknown:,} tiles of unknown {crossing.column} are left out."
    if not crossing.squares:
        return
    sizes = sorted({len(square.rows) // 4 for square in crossing.squares})
    each = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    n = len(crossing.squares)
    which = f"the {n} best filled of {crossing.n_possible} such pairs" if crossing.n_possible > n else f"{n} such pairs"
    yield (
        f"Compared: the {k} nearest tiles of other groups, by cosine, among {each} tiles of each class at each "
        f"{crossing.column}, two classes at two {crossing.column}s at a time"
        f"{f' ({which}, counted together)' if n > 1 else ''}."
    )
