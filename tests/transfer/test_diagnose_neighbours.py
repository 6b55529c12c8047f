"""Nearest source tiles against scikit-learn; which tiles are shown, in any order of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sklearn.neighbors import NearestNeighbors

from histotune.transfer.case import Side, TransferCase
from histotune.transfer.diagnose import cross_neighbours

Transfers = Callable[..., TransferCase]


def test_neighbours_are_the_nearest_by_cosine(transfer: Transfers) -> None:
    case = transfer()
    model = NearestNeighbors(n_neighbors=3, metric="cosine", algorithm="brute").fit(case.source.x_ND)
    for row in cross_neighbours(case):
        at = case.target.tile_ids.index(row.tile.tile_id)
        distance_1K, index_1K = model.kneighbors(case.target.x_ND[[at]])
        assert [near.tile_id for near in row.nearest] == [case.source.tile_ids[index] for index in index_1K[0]]
        np.testing.assert_allclose(row.cosines, 1.0 - distance_1K[0], atol=1e-9)
        assert [near.group_id for near in row.nearest] == [case.source.groups[index] for index in index_1K[0]]


def test_the_surest_errors_come_first_then_blind_picks_one_per_group(transfer: Transfers) -> None:
    case = transfer()
    rows = cross_neighbours(case)
    assert [row.why for row in rows] == ["surest error"] * 3 + ["picked blindly"] * 3
    errors = rows[:3]
    assert all(row.predicted != row.tile.label for row in errors)
    assert [row.probability for row in errors] == sorted((row.probability for row in errors), reverse=True)
    margin_N = case.head.margin(case.target.x_ND)[:, 1]
    wrong_N = (margin_N >= 0) != (case.target.y_N == 1)
    surest = case.target.tile_ids[np.flatnonzero(wrong_N)[np.abs(margin_N[wrong_N]).argmax()]]
    assert errors[0].tile.tile_id == surest
    for part in (rows[:3], rows[3:]):
        assert len({row.tile.group_id for row in part}) == 3


def test_the_order_of_tiles_changes_nothing(transfer: Transfers) -> None:
    case = transfer()
    rng = np.random.default_rng(3)

    def mixed(side: Side) -> Side:
        order = rng.permutation(len(side))
        return Side(side.domain, side.x_ND[order], side.y_N[order], tuple(side.groups[row] for row in order),
                    tuple(side.tile_ids[row] for row in order))  # fmt: skip

    other = replace(case, source=mixed(case.source), target=mixed(case.target))
    ids = [[(row.tile, row.nearest) for row in cross_neighbours(one)] for one in (case, other)]
    assert ids[0] == ids[1]


def test_a_head_without_errors_shows_blind_picks_alone(transfer: Transfers) -> None:
    case = transfer()
    y_N = (case.head.margin(case.target.x_ND)[:, 1] >= 0).astype(np.int64)
    rows = cross_neighbours(replace(case, target=replace(case.target, y_N=y_N, has_groups=False)))
    assert [row.why for row in rows] == ["picked blindly"] * 3
    assert {row.tile.group_id for row in rows} == {"unknown"}
