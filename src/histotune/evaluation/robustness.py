"""Robustness index: does an embedding put the class before the site, the scanner or the stain?

Koemen et al., "Towards Robust Foundation Models for Digital Pathology" (PathoROB, arXiv 2507.17845): among each tile's
k nearest neighbours, those of the same class at another site over these and those of another class at the same site.
"""

# N tiles, D columns, G groups, C classes and sites

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.findings import RobustnessTable, ScoredArm
from histotune.evaluation.material import spread_order
from histotune.evaluation.scoring import MAX_PARTS, PART_COLUMNS
from histotune.statistics.bounds import IntervalEvidence, Scale, Strata, all_agree, flat_bounds, method_bounds
from histotune.statistics.predictions import Interval, Score
from histotune.tools.devices import SMALL_ROWS, one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings
    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.material import Material
    from histotune.statistics.predictions import IntervalConfig, Predictions

    Int = NDArray[np.int64]
    Matrix = NDArray[np.floating[Any]]
    Float = NDArray[np.float64]


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
    """Return the robustness index of a backbone and its floors for each column of the tile table that allows one."""
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
    """Return the robustness index of embeddings over all squares of a crossing."""
    if not crossing.squares:
        reason = f"no two classes are both found at two {crossing.column}s, with {settings.k} tiles of two groups each"
        return Score(INDEX, float("nan"), None, 0, 0, reason=reason)
    rows = crossing.rows
    groups = np.array(tile_groups(crossing.tiles))
    names, code_n = np.unique(groups[rows], return_inverse=True)
    group_N = np.full(len(groups), -1)
    group_N[rows] = code_n.ravel()
    columns = embeddings.columns(pooling)
    tally = sum_tallies(
        [
            tally_square(
                _filled(square, embeddings.matrix_ND[square.rows][:, columns], crossing, group_N),
                settings.k,
                len(names),
            )
            for square in crossing.squares
        ]
    )
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
    short = [
        f"{name} has {count} groups"
        for name, count in zip(held, strata.per_class_K.tolist(), strict=True)
        if count < config.min_groups_per_class
    ]
    if short:
        return None, f"{'; '.join(short)}; an interval needs {config.min_groups_per_class}"
    if np.isnan(tally.index_G).any():
        return None, "undefined without one of the groups"
    return tally_interval(tally, strata, config.level, f"stratified by class and {crossing.column}"), ""


def tally_interval(tally: Tally, strata: Strata, level: float, words: str) -> Interval:
    """Return the interval of an index from its values without each group."""
    evidence, n_groups = IntervalEvidence(np.asarray(tally.index), tally.index_G), len(strata.stratum_G)
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
        *(
            (f"class {tiles.class_names[label]!r}", tiles.labels_N[rows] == label)
            for label in np.unique(tiles.labels_N[rows])
        ),
        *((f"{crossing.column} {place!r}", (places == place).to_numpy()) for place in sorted(set(places))),
    ]
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


# ------------------------------------------------------------------------------
# Neighbours of the same class at another site against neighbours of another class at the same site.
#
# numpy alone, so that a warm run that scores a handful of cells imports no network library; the caller bounds the
# number of tiles, and the similarities are made in blocks.
#
# N tiles, D columns, J neighbours kept, G groups, B tiles of a block


BLOCK_ROWS = 512
NO_NEIGHBOUR = -1


@dataclass(frozen=True)
class Square:
    """Tiles of two classes at two sites.

    Attributes:
        x_ND: Embeddings.
        class_N: Class per tile, 0 or 1.
        site_N: Site per tile, 0 or 1.
        group_N: Group per tile, from 0; a tile of unknown group has one of its own.
    """

    x_ND: Matrix
    class_N: Int
    site_N: Int
    group_N: Int


@dataclass(frozen=True)
class Tally:
    """Counts behind one index; sums of tallies give the index of several squares together.

    Attributes:
        same_class: Neighbours of the same class at the other site ("SO").
        same_site: Neighbours of the other class at the same site ("OS").
        same_class_G: The first without each group, as queries and as neighbours.
        same_site_G: The second without each group.
        random_same_class: What the first would be on average if neighbours were drawn blindly.
        random_same_site: The same for the second.
    """

    same_class: float
    same_site: float
    same_class_G: Float
    same_site_G: Float
    random_same_class: float
    random_same_site: float

    @property
    def index(self) -> float:
        """The robustness index; NaN where there is no neighbour of either kind."""
        return _share(self.same_class, self.same_site)

    @property
    def index_G(self) -> Float:
        """The index without each group."""
        total_G = self.same_class_G + self.same_site_G
        return np.asarray(np.divide(self.same_class_G, total_G, out=np.full_like(total_G, np.nan), where=total_G > 0))

    @property
    def chance(self) -> float:
        """The index of blindly drawn neighbours: one half where groups hold one class and one site each."""
        return _share(self.random_same_class, self.random_same_site)


def tally_square(square: Square, k: int, n_groups: int) -> Tally:
    """Count the two kinds among the k nearest neighbours of every tile, whole and without each group.

    The robustness index of Koemen et al. (PathoROB, arXiv 2507.17845) is R_k = SO / (SO + OS), both summed over all
    tiles' k nearest neighbours; a tile's own slide (here: its group) gives no neighbours. Rows of L2-normalised
    embeddings are compared, for which Euclidean distance and cosine order alike.
    """
    largest = int(np.bincount(square.group_N).max())
    near_NJ = nearest_of_other_groups(square.x_ND, square.group_N, k + largest)  # enough when any group is left out
    real_NJ = near_NJ >= 0
    same_class_NJ = real_NJ & (square.class_N[near_NJ] == square.class_N[:, None])
    same_site_NJ = real_NJ & (square.site_N[near_NJ] == square.site_N[:, None])
    kinds_2NJ = np.stack([same_class_NJ & ~same_site_NJ, ~same_class_NJ & same_site_NJ])
    whole_2N = (kinds_2NJ & _first(real_NJ, k)).sum(axis=2)
    near_group_NJ = np.where(real_NJ, square.group_N[near_NJ], NO_NEIGHBOUR)
    without_2G = np.repeat(whole_2N.sum(axis=1, dtype=np.float64)[:, None], n_groups, axis=1)
    for group in np.unique(square.group_N):
        own_N = square.group_N == group
        touched_N = (near_group_NJ[:, :k] == group).any(axis=1) & ~own_N
        allowed_nJ = real_NJ[touched_N] & (near_group_NJ[touched_N] != group)
        moved_2 = (kinds_2NJ[:, touched_N] & _first(allowed_nJ, k)).sum(axis=(1, 2))
        without_2G[:, group] += moved_2 - whole_2N[:, own_N | touched_N].sum(axis=1)
    same_class, same_site = (float(n) for n in whole_2N.sum(axis=1))
    random_same_class, random_same_site = _random_counts(square, k)
    return Tally(same_class, same_site, without_2G[0], without_2G[1], random_same_class, random_same_site)


def sum_tallies(tallies: Sequence[Tally]) -> Tally:
    """Return the counts of several squares together; their groups are numbered alike."""
    return Tally(*(sum(values) for values in zip(*(vars(tally).values() for tally in tallies), strict=True)))


def nearest_of_other_groups(x_ND: Matrix, group_N: Int, n_kept: int) -> Int:
    """Return each tile's nearest tiles of other groups by cosine, nearest first; equally near ones in row order."""
    # cosine(i, j) = x_i . x_j / (|x_i| |x_j|); tiles of one group are infinitely far from each other. Of each block of
    # rows the nearest are picked unordered, put into row order, and sorted stably, so that ties keep the row order.
    length_N1 = np.maximum(np.linalg.norm(x_ND.astype(np.float32), axis=1, keepdims=True), 1e-30)
    unit_ND = x_ND.astype(np.float32) / length_N1
    n_kept = min(n_kept, len(unit_ND))
    blocks = []
    for start in range(0, len(unit_ND), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        far_BN = -(unit_ND[rows] @ unit_ND.T)
        far_BN[group_N[rows, None] == group_N[None, :]] = np.inf
        chosen_BJ = np.sort(np.argpartition(far_BN, n_kept - 1, axis=1)[:, :n_kept], axis=1)
        far_BJ = np.take_along_axis(far_BN, chosen_BJ, axis=1)
        order_BJ = np.argsort(far_BJ, axis=1, kind="stable")
        near_BJ = np.take_along_axis(chosen_BJ, order_BJ, axis=1)
        near_BJ[np.isinf(np.take_along_axis(far_BJ, order_BJ, axis=1))] = NO_NEIGHBOUR
        blocks.append(near_BJ)
    return np.concatenate(blocks)


def _first(allowed_NJ: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """Return which of the allowed neighbours are the k nearest."""
    return allowed_NJ & (np.cumsum(allowed_NJ, axis=1) <= k)


def _random_counts(square: Square, k: int) -> tuple[float, float]:
    """Return both counts as they would be on average with neighbours drawn blindly from the allowed tiles."""
    # Drawn blindly, a tile sees min(k, n_allowed) neighbours, of which a share n_cell / n_allowed lies in each cell of
    # class and site, its own group left out: same class at the other site, and the other class at the same site.
    cell_N = 2 * square.class_N + square.site_N
    own_G4 = np.zeros((int(square.group_N.max()) + 1, 4))
    np.add.at(own_G4, (square.group_N, cell_N), 1.0)
    allowed_N4 = own_G4.sum(axis=0) - own_G4[square.group_N]
    n_allowed_N = allowed_N4.sum(axis=1)
    per_tile_N = np.minimum(k, n_allowed_N) / np.maximum(n_allowed_N, 1.0)
    rows_N = np.arange(len(cell_N))
    same_class_N = allowed_N4[rows_N, 2 * square.class_N + 1 - square.site_N]
    same_site_N = allowed_N4[rows_N, 2 * (1 - square.class_N) + square.site_N]
    return float((per_tile_N * same_class_N).sum()), float((per_tile_N * same_site_N).sum())


def _share(first: float, second: float) -> float:
    return first / (first + second) if first + second > 0 else float("nan")


# ------------------------------------------------------------------------------
# Where tiles lie on a plane: principal components, and t-SNE where it is asked for.
#
# N tiles, n drawn, D columns


MAX_POINTS = 2000
TSNE_DIMS, TSNE_PERPLEXITY = 50, 30.0
MIN_POINTS = 4


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes:
        score_NC: Each tile's place along the components, centred.
        share_C: Share of the variance along each.
    """

    score_NC: Float
    share_C: Float


def map_embeddings(
    arm: EmbeddedArm, predictions: Predictions, probes: Sequence[ScoredArm], evaluation: EvaluationConfig
) -> pl.DataFrame | None:
    """Place the tiles that were scored on a plane."""
    material, method = arm.material, evaluation.embedding_map
    ids = predictions.where(pl.col("domain").is_in([row.domain for row in probes])).table["tile_id"]
    rows = np.flatnonzero(material.tiles.table["tile_id"].is_in(ids.to_list()).to_numpy())
    if method == "none" or len(rows) < MIN_POINTS:
        return None
    inside = material.tiles.take(rows)
    drawn = spread_order(inside.tile_ids, tile_groups(inside), evaluation.seed)[:MAX_POINTS]
    drawn = drawn[np.argsort(np.array(inside.tile_ids)[drawn], kind="stable")]
    x_nD = material.embeddings.matrix_ND[rows[drawn]][:, material.embeddings.columns(arm.pooling)].astype(np.float64)
    facts = inside.take(drawn).table.select(
        "tile_id",
        pl.Series("class", [inside.class_names[label] for label in inside.labels_N[drawn]], dtype=pl.String),
        "group_id",
        "site",
        "scanner",
        "stain",
        pl.lit(len(rows), dtype=pl.Int64).alias("n_tiles"),
    )
    with one_blas_thread(len(drawn) <= SMALL_ROWS):
        found = principal_components(x_nD, TSNE_DIMS if method == "tsne" else 2)
    tables = [_placed(facts, "pca", found.score_NC, found.share_C)]
    if method == "tsne":
        tables.append(_placed(facts, "tsne", tsne(found.score_NC, evaluation.seed), None))
    return pl.concat(tables)


def principal_components(x_ND: Float, n_components: int) -> Components:
    """Return principal components by the smaller of the Gram matrix and the covariance."""
    centred_ND = x_ND - x_ND.mean(axis=0)
    n, dim = centred_ND.shape
    kept = max(2, min(n_components, n, dim))
    if n <= dim:
        value_C, vector_NC = np.linalg.eigh(centred_ND @ centred_ND.T)
        value_C, score_NC = value_C[::-1][:kept], vector_NC[:, ::-1][:, :kept]
        score_NC = score_NC * np.sqrt(np.maximum(value_C, 0.0))
    else:
        value_C, vector_DC = np.linalg.eigh(centred_ND.T @ centred_ND)
        value_C, score_NC = value_C[::-1][:kept], centred_ND @ vector_DC[:, ::-1][:, :kept]
    missing = kept - score_NC.shape[1]  # a single column has one component
    score_NC, value_C = np.pad(score_NC, ((0, 0), (0, missing))), np.pad(value_C, (0, missing))
    far_C = np.abs(score_NC).argmax(axis=0)
    score_NC = score_NC * np.where(score_NC[far_C, np.arange(kept)] < 0, -1.0, 1.0)
    total = float((centred_ND**2).sum())
    return Components(score_NC, np.maximum(value_C, 0.0) / total if total > 0 else np.zeros(kept))


def tsne(score_NC: Float, seed: int) -> Float:
    """Return t-SNE's places (van der Maaten & Hinton, JMLR 2008) from principal components."""
    from sklearn.manifold import TSNE

    start_N2 = score_NC[:, :2] / max(float(score_NC[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(TSNE_PERPLEXITY, (len(score_NC) - 1) / 3.0)
    model = TSNE(2, perplexity=perplexity, init=start_N2.astype(np.float32), learning_rate="auto", random_state=seed)
    return np.asarray(model.fit_transform(score_NC.astype(np.float32)), dtype=np.float64)


def _placed(facts: pl.DataFrame, method: str, place_NC: Float, share_C: Float | None) -> pl.DataFrame:
    """Return the tiles with their places; four digits of the range are more than a page can show."""
    reach = max(float(np.abs(place_NC[:, :2]).max()), 1e-12)
    x_N, y_N = np.round(place_NC[:, :2].T / reach, 4) + 0.0
    shares = (None, None) if share_C is None else (round(float(share_C[0]), 4), round(float(share_C[1]), 4))
    return facts.select(
        pl.lit(method).alias("method"),
        pl.all(),
        pl.Series("x", x_N),
        pl.Series("y", y_N),
        pl.lit(shares[0], dtype=pl.Float64).alias("x_share"),
        pl.lit(shares[1], dtype=pl.Float64).alias("y_share"),
    )
