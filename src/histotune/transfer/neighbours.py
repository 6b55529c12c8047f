"""Nearest source tiles of a few target tiles: what the head takes them for."""

# N tiles, S source tiles, n target tiles looked at, D columns

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.tools.files import hash_bytes
from histotune.transfer.case import Neighbour, NeighbourRow
from histotune.transfer.corrections import side_predictions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from histotune.transfer.case import Side, TransferCase

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

N_ERRORS, N_OTHERS, N_NEAREST = 3, 3, 3


def cross_neighbours(case: TransferCase) -> tuple[NeighbourRow, ...]:
    """Return the nearest source tiles of the most confident errors on the target, and of tiles picked blindly.

    Args:
        case: The case.

    Returns:
        Errors by falling confidence, then blind picks; one tile per group within each. The picks follow hashes of the
        tile ids, so that the order of tiles changes nothing.
    """
    target, head = case.target, case.head
    how = (np.zeros(len(target), np.int64), np.full(len(target), head.threshold))
    predictions = side_predictions(target, head, head.margin(target.x_ND), how)
    said_N = predictions.predicted_N
    sure_N = predictions.probability_NK[np.arange(len(target)), said_N]
    by_id = np.argsort(np.array(target.tile_ids), kind="stable")
    by_sureness = by_id[np.argsort(-sure_N[by_id], kind="stable")]
    errors = _one_per_group((row for row in by_sureness if said_N[row] != target.y_N[row]), target, N_ERRORS)
    by_hash = sorted(
        range(len(target)),
        key=lambda row: hash_bytes("neighbours", target.tile_ids[row].encode("utf-8", "surrogateescape")),
    )
    others = _one_per_group((row for row in by_hash if row not in errors), target, N_OTHERS)
    rows = [*errors, *others]
    nearest_nK, cosine_nK = _nearest(target.x_ND[rows], case.source)
    return tuple(
        NeighbourRow(
            why="surest error" if place < len(errors) else "picked blindly",
            tile=_named(target, row, head.class_names),
            predicted=head.class_names[said_N[row]],
            probability=float(sure_N[row]),
            nearest=tuple(_named(case.source, near, head.class_names) for near in nearest_nK[place]),
            cosines=tuple(float(value) for value in cosine_nK[place]),
        )
        for place, row in enumerate(rows)
    )


def _one_per_group(rows: Iterable[int], side: Side, most: int) -> list[int]:
    """Return the first rows of so many groups."""
    found: dict[str, int] = {}
    for row in rows:
        found.setdefault(side.groups[row], int(row))
        if len(found) == most:
            break
    return list(found.values())


def _nearest(x_nD: Float, source: Side) -> tuple[Int, Float]:
    """Return rows and cosines of the nearest source tiles, nearest first; equal ones by tile id."""
    by_id = np.argsort(np.array(source.tile_ids), kind="stable")
    cosine_nS = _unit(x_nD) @ _unit(source.x_ND[by_id]).T
    order_nK = np.argsort(-cosine_nS, axis=1, kind="stable")[:, :N_NEAREST]
    return by_id[order_nK], np.take_along_axis(cosine_nS, order_nK, axis=1)


def _unit(x_nD: Float) -> Float:
    length_n1 = np.linalg.norm(x_nD, axis=1, keepdims=True)
    return np.asarray(x_nD / np.where(length_n1 > 0, length_n1, 1.0))


def _named(side: Side, row: int, class_names: tuple[str, ...]) -> Neighbour:
    group = side.groups[row] if side.has_groups else "unknown"
    return Neighbour(side.tile_ids[row], group, class_names[side.y_N[row]])
