"""A share of the groups is drawn, every class in proportion: for a hold-out, or for a smaller data set."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from histotune.datasets.splits.balance import Wish, best_sides
from histotune.datasets.splits.folds import count_tiles, dealing_order, grouping, with_balance_notes
from histotune.datasets.splits.split import Split, tile_groups
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histotune.datasets.splits.balance import Balanced
    from histotune.datasets.tileset import TileSet

REST, DRAWN = 0, 1


def grouped_holdout(tiles: TileSet, percent: int, seed: int) -> Split:
    """Hold out a percentage of the groups as the test part, every class and its tiles in proportion.

    Args:
        tiles: All tiles that will be trained on or scored, of every magnification.
        percent: Share of the groups that is held out, 1 to 99; at least one group stays on either side.
        seed: Another seed holds out other groups.

    Returns:
        The split with parts train and test; the number of groups held out is within one of the wish.

    Raises:
        UserError: The percentage is out of range, or there are fewer than two groups.

    Example:
        >>> split = grouped_holdout(tiles, percent=20, seed=0)  # doctest: +SKIP
        >>> split.name  # doctest: +SKIP
        'holdout-20-seed0'
    """
    if not 1 <= percent <= 99:
        raise UserError("a hold-out takes a percentage of the groups", value=percent, allowed="1 to 99")
    groups = tile_groups(tiles)
    if len(set(groups)) < 2:
        raise UserError(
            f"a hold-out needs at least 2 groups, and these tiles come from {len(set(groups))}",
            fix="point --data to a folder with more cases; `histotune data describe` counts them",
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
    """Draw a share of the groups, stratified by the set of classes they hold, tiles in proportion.

    Args:
        groups: Group key per tile, length N, of at least two groups.
        labels_N: Label per tile, shape (N,); -1 where unlabelled.
        n_classes: Number of classes.
        permille: Share of the groups to draw, in thousandths; at least one is drawn and one left.
        seed: Another seed draws other groups.

    Returns:
        Group -> 1 where drawn, 0 where left. The number drawn is the wish, rounded.
    """
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
