"""Sets of classes that hold the true one as often as asked for, over new groups; where a set has several, abstain.

Tiles of one case are alike, so that they are no independent draws; cases are what can be exchanged. Every calibration
group therefore has the same mass, however many tiles it gave, as in hierarchical conformal prediction (Lee, Barber and
Willett, arXiv 2306.06342; the same idea with one random tile per group: Dunn, Wasserman and Ramdas, arXiv 1809.07441).
The score of a tile is 1 less the calibrated probability of its own class (Sadinle, Lei and Wasserman, JASA 2019).

The scores are those of the sweep's folds, each by a head that never saw the tile's group, while the saved head was
refitted on all of them: as in cross-conformal prediction (Vovk, 2015) coverage is near the one asked for, not proven.
It is a statement over many new groups, never about one image.
"""

# n calibration tiles, N tiles, K classes, G groups

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import class_probabilities, decide
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.heads.head import Head

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]


MIN_CALIBRATION_GROUPS = 30
"""Fewer groups say too little of new ones: no sets, with this reason."""
MAX_CALIBRATION_TILES = 20_000
COVERAGE = 0.9
MAX_BLOCKS = 100  # of groups that are left out together when coverage is measured


@dataclass(frozen=True)
class HeldOutTiles:
    """Training tiles as heads of the sweep's folds saw them, none of which had seen their group.

    Attributes:
        probability_nK: float32; calibrated probabilities.
        label_n: int32; their classes.
        group_n: int32; number of their group.
        n_groups: Number of groups.
    """

    probability_nK: NDArray[np.float32]
    label_n: NDArray[np.int32]
    group_n: NDArray[np.int32]
    n_groups: int

    @property
    def score_n(self) -> Float:
        """1 less the probability of the tile's own class."""
        return 1.0 - self.probability_nK[np.arange(len(self.label_n)), self.label_n].astype(np.float64)


@dataclass(frozen=True)
class ConformalRule:
    """How a set is made, and what was measured of such sets.

    Attributes:
        coverage: Share of tiles of new groups whose set is to hold their class, every group weighing the same.
        limit: A class is in the set where 1 less its probability is at most this; what the head says always is.
        measured: Share on groups that were left out when the limit was found.
        measured_by_class: The same among the tiles of each class, in the order of the head's classes; NaN without any.
        abstained: Share of these tiles whose set has several classes.
        n_tiles: Calibration tiles.
        n_groups: Calibration groups.
    """

    coverage: float
    limit: float
    measured: float
    measured_by_class: tuple[float, ...]
    abstained: float
    n_tiles: int
    n_groups: int

    def words(self, class_names: tuple[str, ...]) -> str:
        """Return what the sets are worth, in a sentence."""
        by_class = ", ".join(
            f"{name} {100 * share:.1f} %"
            for name, share in zip(class_names, self.measured_by_class, strict=True)
            if not np.isnan(share)
        )
        return (
            f"The column set holds the true class of {100 * self.measured:.1f} % of the tiles of {self.n_groups:,} "
            f"training groups held out in turn, {self.n_tiles:,} tiles, every group weighing the same (asked for: "
            f"{100 * self.coverage:g} %; by class: {by_class}). {100 * self.abstained:.1f} % of them have a set of "
            "several classes: there the head abstains. This holds over many new cases of the kind that trained it, not "
            "for one image."
        )


def held_out_tiles(
    head: Head, logit_NK: Float, labels_N: Int, groups: tuple[str, ...], rng: np.random.Generator
) -> HeldOutTiles:
    """Keep the out-of-fold predictions of a sweep that calibrate sets; of very many tiles, as many of every group.

    Args:
        head: The head that the sweep chose; its calibration turns logits into probabilities.
        logit_NK: Out-of-fold logits, NaN for tiles that did not train.
        labels_N: Their labels.
        groups: Group key per tile.
        rng: Draws the tiles that are kept where there are more than 20,000.

    Returns:
        The tiles that trained.
    """
    rows = np.flatnonzero(np.isfinite(logit_NK).all(axis=1) & (labels_N >= 0))
    _, group_n = np.unique([groups[row] for row in rows], return_inverse=True)
    kept = spread_over_groups(group_n, MAX_CALIBRATION_TILES, rng)
    probability_nK = class_probabilities(head, logit_NK[rows[kept]]).astype(np.float32)
    found, group_n = np.unique(group_n[kept], return_inverse=True)
    return HeldOutTiles(probability_nK, labels_N[rows[kept]].astype(np.int32), group_n.astype(np.int32), len(found))


def spread_over_groups(group_n: Int, n_most: int, rng: np.random.Generator) -> Int:
    """Return which rows to keep, in order: all, or as many as possible of every group, drawn at random."""
    n = len(group_n)
    if n <= n_most:
        return np.arange(n)
    # A tile's turn is its place in a random order of its group; first turns of all groups come first.
    shuffled = rng.permutation(n)
    order = shuffled[np.argsort(group_n[shuffled], kind="stable")]
    first = np.flatnonzero(np.r_[True, np.diff(group_n[order]) != 0])
    turn = np.arange(n) - np.repeat(first, np.diff(np.r_[first, n]))
    return np.sort(order[np.lexsort((rng.random(n), turn))[:n_most]])


def group_quantile(value_n: Float, group_n: NDArray[np.int32], level: float) -> float:
    """Return the value that a tile of a new group stays at or below with a probability of at least ``level``.

    Args:
        value_n: Value per calibration tile.
        group_n: Group per tile.
        level: Between 0 and 1.

    Returns:
        The quantile; infinity where the groups are too few for this level.

    Example:
        >>> group_quantile(np.arange(9.0), np.arange(9, dtype=np.int32), 0.8)
        7.0
    """
    # The tiles of a group share the mass 1 / (G + 1), and so does the new group, which may lie anywhere: at infinity.
    _, own_n, count_G = np.unique(group_n, return_inverse=True, return_counts=True)
    order = np.argsort(value_n, kind="stable")
    mass_n = np.cumsum(1.0 / (count_G[own_n[order]] * (len(count_G) + 1.0)))
    place = int(np.searchsorted(mass_n, level - 1e-12))
    return float(value_n[order[place]]) if place < len(order) else float("inf")


def groups_left_out(group_n: NDArray[np.int32], n_groups: int) -> Iterator[Bool]:
    """Yield which tiles are left out in turn: those of one group, or of a hundredth of very many."""
    block_G = np.arange(n_groups) * min(n_groups, MAX_BLOCKS) // n_groups
    for block in range(int(block_G[-1]) + 1):
        yield np.asarray(block_G[group_n] == block)


def group_share(is_so_n: Bool, group_n: NDArray[np.int32]) -> float:
    """Return the share of tiles for which something holds, every group weighing the same; NaN without tiles."""
    if not len(group_n):
        return float("nan")
    _, own_n, count_G = np.unique(group_n, return_inverse=True, return_counts=True)
    return float((np.bincount(own_n, weights=is_so_n) / count_G).mean())


def conformal_rule(head: Head, tiles: HeldOutTiles, coverage: float = COVERAGE) -> ConformalRule:
    """Find the limit of a set, and measure how often such sets hold the true class.

    Args:
        head: The head.
        tiles: Its training tiles, out of fold.
        coverage: Share of tiles of new groups whose set is to hold their class.

    Returns:
        The limit of all groups; measured with that of the other groups, every group in turn.

    Raises:
        UserError: A coverage that so many groups can't give.
    """
    most = tiles.n_groups / (tiles.n_groups + 1)
    if not 0.5 <= coverage <= most:
        raise UserError(
            f"{tiles.n_groups} calibration groups can't give this coverage",
            value=coverage,
            allowed=f"0.5 to {np.floor(most * 1000) / 1000:g}",
            fix=f"--coverage {min(COVERAGE, np.floor(most * 100) / 100):g}",
        )
    score_n = tiles.score_n
    members_nK = np.zeros(tiles.probability_nK.shape, dtype=np.bool_)
    for left_out_n in groups_left_out(tiles.group_n, tiles.n_groups):
        limit = group_quantile(score_n[~left_out_n], tiles.group_n[~left_out_n], coverage)
        members_nK[left_out_n] = conformal_members(head, tiles.probability_nK[left_out_n].astype(np.float64), limit)
    holds_n = members_nK[np.arange(len(score_n)), tiles.label_n]
    of_class = [tiles.label_n == label for label in range(len(head.class_names))]
    return ConformalRule(
        coverage=coverage,
        limit=group_quantile(score_n, tiles.group_n, coverage),
        measured=group_share(holds_n, tiles.group_n),
        measured_by_class=tuple(group_share(holds_n[own_n], tiles.group_n[own_n]) for own_n in of_class),
        abstained=group_share(members_nK.sum(axis=1) > 1, tiles.group_n),
        n_tiles=len(score_n),
        n_groups=tiles.n_groups,
    )


def conformal_members(head: Head, probability_NK: Float, limit: float) -> Bool:
    """Return which classes are in each tile's set; what the head says always is, so that no set is empty."""
    members_NK = np.asarray(1.0 - probability_NK <= limit)
    members_NK[np.arange(len(members_NK)), decide(head, probability_NK)] = True
    return members_NK
