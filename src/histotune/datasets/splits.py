"""Folds over groups: no group on two sides, the same on every platform."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Folds:
    """A fold number per group.

    Attributes:
        name: Such as "grouped-5-seed0" or "random-images-5-seed0".
        fold_by_group: Group id -> fold number, 0 to n_folds - 1.
        n_folds: Number of folds.
        leaky: True when tiles of one case lie on both sides (random image splits), marked LEAKY everywhere.
        split_hash: SHA-256 over the assignment.
    """

    name: str
    fold_by_group: dict[str, int]
    n_folds: int
    leaky: bool
    split_hash: str
