"""Folds over groups: no group on two sides, the same on every platform.

Everything here is integer arithmetic and keyed hashes, so that a seed gives the same folds with every version of
numpy and Python, in whatever order the rows come. Shapes: N tiles.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.splits.balance import Wish, best_sides, few_group_notes
from histotune.datasets.splits.split import ALLOW, Split, mark_leaks, tile_groups
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.splits.balance import Balanced
    from histotune.datasets.tileset import TileSet


def grouped_folds(tiles: TileSet, n_folds: int, seed: int) -> Split:
    """Deal the groups of a tile set into folds, then move and swap them until classes and tiles are even.

    Tiles whose group is unknown never group together: each becomes a group of its own, and the folds are marked
    leaky, because tiles of one case may then lie on both sides.

    Args:
        tiles: All tiles that will be trained on or scored, of every magnification.
        n_folds: Number of folds, at least 2.
        seed: Another seed gives other folds of about the same balance. Where so few groups are there that all
            assignments are compared, the seed only decides between equals.

    Returns:
        The split, named ``grouped``, ``partly-grouped`` or ``ungrouped`` by how many group ids are known, with notes
        on its balance and on classes with too few groups.

    Raises:
        UserError: There are fewer groups than folds.

    Example:
        >>> folds = grouped_folds(tiles, n_folds=5, seed=0)  # doctest: +SKIP
        >>> fold_N = fold_per_tile(tiles, folds)  # doctest: +SKIP
    """
    groups, n_classes = tile_groups(tiles), len(tiles.class_names)
    start = assign_group_folds(groups, tiles.labels_N, n_classes, n_folds, seed)
    counts = count_tiles(groups, tiles.labels_N, n_classes)
    balanced = best_sides(counts, dealing_order(counts, seed), start, Wish((1,) * n_folds))
    split = Split(
        name=f"{grouping(tiles)}-{n_folds}-seed{seed}",
        kind="folds",
        unit="group",
        side_by_key={group: str(fold) for group, fold in balanced.side_by_group.items()},
        leaky=not tiles.has_groups,
    )
    return with_balance_notes(split, tiles, balanced)


def grouping(tiles: TileSet) -> str:
    """Return ``grouped``, ``partly-grouped`` or ``ungrouped``: how many group ids are known."""
    return "grouped" if tiles.has_groups else "partly-grouped" if tiles.n_groups else "ungrouped"


def with_balance_notes(split: Split, tiles: TileSet, balanced: Balanced) -> Split:
    """Add what the search for balance gained, which classes have too few groups, and unknown groups to the notes."""
    notes = [balanced.note(), *few_group_notes(tiles, split)]
    unknown = tiles.table["group_id"].null_count()
    if unknown:
        notes.append(
            f"The group of {unknown:,} tiles is unknown: each counts as its own, so tiles of one case may lie on two "
            "sides."
        )
    return replace(split, notes=(*split.notes, *(note for note in notes if note)))


def fold_per_tile(tiles: TileSet, folds: Split) -> NDArray[np.int64]:
    """Return the fold of every tile."""
    if folds.kind != "folds":
        raise ValueError(f"{folds.name} is a split into parts, not into folds")
    sides = folds.side_of_tiles(tiles)
    if not folds.partial and None in sides:
        pairs = zip(folds.key_of_tiles(tiles), sides, strict=True)
        unknown = sorted({key for key, side in pairs if side is None})
        raise ValueError(f"{len(unknown)} {folds.unit}s are not part of {folds.name}, such as {unknown[0]!r}")
    return np.array([-1 if side is None else int(side) for side in sides], dtype=np.int64)


def assign_group_folds(
    groups: Sequence[str], labels_N: NDArray[np.int64], n_classes: int, n_folds: int, seed: int
) -> dict[str, int]:
    """Deal groups into folds so that every fold holds about as many groups, and tiles, of every class.

    Groups that hold several classes come first, then larger ones (by powers of two, so that the seed still shuffles
    groups of similar size), then in the order of a keyed hash of the seed and the group. Each goes to the fold that
    holds the fewest groups of its classes, the rarest class first; ties go to the fold with fewer groups, then fewer
    tiles of these classes, then fewer tiles, then the lower number. The number of groups of a class therefore
    differs by at most one between folds wherever groups hold a single class.

    Example:
        >>> assign_group_folds(["a", "a", "b", "c", "d"], np.array([0, 0, 0, 1, 1]), n_classes=2, n_folds=2, seed=0)
        {'a': 0, 'b': 1, 'c': 0, 'd': 1}
    """
    tiles_by_group = count_tiles(groups, labels_N, n_classes)
    _require_enough_groups(len(tiles_by_group), n_folds)
    balance = _Balance(tiles_by_group, n_classes + 1, n_folds)
    fold_by_group = {group: balance.place(tiles_by_group[group]) for group in dealing_order(tiles_by_group, seed)}
    return dict(sorted(fold_by_group.items()))


def random_image_folds_like(fold_N: NDArray[np.int64], labels_N: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Permute the fold numbers among the tiles of each class: what a random image split would have done.

    Fold sizes and class counts stay exactly as they were, so that a head trained on either split sees as many tiles
    of each class; only the groups are torn apart.
    """
    if fold_N.shape != labels_N.shape:
        raise ValueError(f"folds {fold_N.shape} and labels {labels_N.shape} differ in shape")
    rank_N = np.array([keyed_hash(seed, str(row)) for row in range(len(fold_N))], dtype=np.uint64)
    permuted_N = np.empty_like(fold_N, dtype=np.int64)
    for label in np.unique(labels_N):
        rows = np.flatnonzero(labels_N == label)
        permuted_N[rows] = fold_N[rows[np.argsort(rank_N[rows], kind="stable")]]
    return permuted_N


def keyed_hash(seed: int, key: str) -> int:
    """Return a 64-bit hash of (seed, key), equal on every platform; sorting by it shuffles."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{key}".encode(), digest_size=8).digest(), "big")


class _Balance:
    """How many groups and tiles of each class every fold holds so far."""

    def __init__(self, tiles_by_group: dict[str, Counter[int]], n_labels: int, n_folds: int) -> None:
        groups_by_label = Counter(label for counts in tiles_by_group.values() for label in counts)
        self._rarity = {label: (groups_by_label[label], label) for label in range(n_labels)}
        self._groups = [[0] * n_labels for _ in range(n_folds)]
        self._tiles = [[0] * n_labels for _ in range(n_folds)]
        self._n_groups = [0] * n_folds
        self._n_tiles = [0] * n_folds

    def place(self, counts: Counter[int]) -> int:
        """Put a group into the fold that needs it most and return the fold."""
        labels = sorted(counts, key=self._rarity.__getitem__)
        fold = min(range(len(self._groups)), key=lambda fold: self._need(fold, labels, counts))
        self._n_groups[fold] += 1
        self._n_tiles[fold] += counts.total()
        for label in labels:
            self._groups[fold][label] += 1
            self._tiles[fold][label] += counts[label]
        return fold

    def _need(self, fold: int, labels: list[int], counts: Counter[int]) -> tuple[int, ...]:
        """Smaller means needier; an empty fold is never beaten, so no fold stays empty."""
        groups, tiles = self._groups[fold], self._tiles[fold]
        return (
            *(groups[label] for label in labels),
            self._n_groups[fold],
            sum(tiles[label] * counts[label] for label in labels),
            self._n_tiles[fold],
            fold,
        )


def count_tiles(groups: Sequence[str], labels_N: NDArray[np.int64], n_classes: int) -> dict[str, Counter[int]]:
    """Return the tiles by label of every group; unlabelled tiles count under the label ``n_classes``."""
    counts: dict[str, Counter[int]] = {}
    for group, label in zip(groups, labels_N.tolist(), strict=True):
        if not -1 <= label < n_classes:
            raise ValueError(f"label {label} lies outside the {n_classes} classes")
        counts.setdefault(group, Counter())[label if label >= 0 else n_classes] += 1
    return counts


def dealing_order(tiles_by_group: dict[str, Counter[int]], seed: int) -> list[str]:
    """Return the groups as they are dealt: those of several classes first, then larger ones, then by keyed hash."""

    def key(group: str) -> tuple[int, int, int, str]:
        """Return a group's place: many classes first, then many tiles, then by seed."""
        counts = tiles_by_group[group]
        return (-len(counts), -counts.total().bit_length(), keyed_hash(seed, group), group)

    return sorted(tiles_by_group, key=key)


def _require_enough_groups(n_groups: int, n_folds: int) -> None:
    if n_folds < 2:
        raise UserError("cross-validation needs at least 2 folds", value=n_folds, allowed="2 or more")
    if n_groups < n_folds:
        groups = "1 group" if n_groups == 1 else f"{n_groups} groups"
        raise UserError(
            f"{n_folds} folds need at least {n_folds} groups, and these tiles come from {groups}",
            allowed=f"2 to {n_groups} folds" if n_groups >= 2 else "at least 2 groups (cases or slides)",
            fix=f"--set sweep.folds={n_groups} or --set evaluation.outer_folds={n_groups}, whichever is too large; "
            f"by name: --split grouped-{n_groups}-seed0"
            if n_groups >= 2
            else "point --data to a folder with more groups; `histotune data describe` counts them",
        )


# ---- A share of the groups ----


REST, DRAWN = 0, 1


def grouped_holdout(tiles: TileSet, percent: int, seed: int) -> Split:
    """Hold out a percentage of the groups as the test part, every class and its tiles in proportion."""
    if not 1 <= percent <= 99:
        raise UserError("a hold-out takes a percentage of the groups", value=percent, allowed="1 to 99")
    groups = tile_groups(tiles)
    if len(set(groups)) < 2:
        raise UserError(
            f"a hold-out needs at least 2 groups, and these tiles come from {len(set(groups))}",
            fix="point --data to a folder with more groups; `histotune data describe` counts them",
        )
    balanced = draw_groups(groups, tiles.labels_N, len(tiles.class_names), 10 * percent, seed)
    parts = {REST: "train", DRAWN: "test"}
    prefix = "" if tiles.has_groups else f"{grouping(tiles)}-"
    split = Split(
        name=f"{prefix}holdout-{percent}-seed{seed}",
        kind="parts",
        unit="group",
        side_by_key={group: parts[side] for group, side in balanced.side_by_group.items()},
        leaky=not tiles.has_groups,
    )
    return with_balance_notes(split, tiles, balanced)


def draw_groups(
    groups: Sequence[str], labels_N: NDArray[np.int64], n_classes: int, permille: int, seed: int
) -> Balanced:
    """Draw a share of the groups, stratified by the set of classes they hold, tiles in proportion."""
    tiles_by_group = count_tiles(groups, labels_N, n_classes)
    order = dealing_order(tiles_by_group, seed)
    n_drawn = min(max((2 * permille * len(order) + 1000) // 2000, 1), len(order) - 1)
    drawn = _systematic(tiles_by_group, order, n_drawn)
    start = {group: DRAWN if group in drawn else REST for group in order}
    return best_sides(tiles_by_group, order, start, Wish((1000 - permille, permille), train=REST))


def _systematic(tiles_by_group: dict[str, Counter[int]], order: list[str], n_drawn: int) -> set[str]:
    """Take every so many-th group of each label vector, so that large and small ones are drawn alike."""
    strata: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for group in order:
        strata[tuple(sorted(tiles_by_group[group]))].append(group)
    drawn: set[str] = set()
    for vector, quota in _quotas({vector: len(members) for vector, members in strata.items()}, n_drawn).items():
        n = len(strata[vector])
        drawn |= {
            group
            for place, group in enumerate(strata[vector])
            if (2 * (place + 1) * quota + n) // (2 * n) > (2 * place * quota + n) // (2 * n)
        }
    return drawn


def _quotas(sizes: dict[tuple[int, ...], int], n_drawn: int) -> dict[tuple[int, ...], int]:
    """Split the number drawn over the label vectors by largest remainder; one group of each is left where it can be."""
    total = sum(sizes.values())
    quotas = {vector: n_drawn * n // total for vector, n in sizes.items()}
    while sum(quotas.values()) < n_drawn:
        open_vectors = [vector for vector in sizes if quotas[vector] < sizes[vector]]
        vector = min(
            open_vectors,
            key=lambda vector: (
                quotas[vector] + 1 == sizes[vector],
                quotas[vector] * total - n_drawn * sizes[vector],
                -sizes[vector],
                vector,
            ),
        )
        quotas[vector] += 1
    return quotas


# ---- Random image splits ----


def random_image_folds(tiles: TileSet, n_folds: int, seed: int, *, allow_leaky: bool) -> Split:
    """Deal the tiles of each class into folds, whatever case they come from."""
    if not allow_leaky:
        raise UserError(
            "a random image split puts tiles of one case on both sides",
            value=f"random-images-{n_folds}-seed{seed}",
            fix=ALLOW,
        )
    if not 2 <= n_folds <= len(tiles):
        raise UserError(
            "a random image split needs 2 folds or more, and as many tiles", value=n_folds, allowed=f"2 to {len(tiles)}"
        )
    ranked = sorted(
        (label, keyed_hash(seed, tile_id), tile_id)
        for label, tile_id in zip(tiles.labels_N.tolist(), tiles.tile_ids, strict=True)
    )
    side_by_key = {tile_id: str(place % n_folds) for place, (_, _, tile_id) in enumerate(ranked)}
    note = "Random image split: tiles of one case stand on both sides by design."
    split = Split(f"random-images-{n_folds}-seed{seed}", "folds", "tile", side_by_key, leaky=True, notes=(note,))
    return mark_leaks(split, tiles)
