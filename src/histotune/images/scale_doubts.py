"""What makes a measured scale less sure than its ruler and its sampling say, and when it is better not told.

Each doubt is a factor, meant as a 95 % range like the others of a measurement, with the reason in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 2.0  # an answer within a wider factor than this says too little to be used
FEW_TILES = 20  # below, or where fewer than half of the tiles can be measured, those that can are a chosen few
FEW_FACTOR = 1.25
NEAR_LIMIT_PX = 8.0  # real tiles shrunk or enlarged: below, measured sizes drift by a quarter as nuclei drop out
NEAR_LIMIT_FACTOR = 1.25
CLASS_TILES = 5  # measured tiles of a class, for its median to count
CLASSES_APART = 1.6  # largest over smallest median of the classes: beyond, no single ruler holds for all of them
NO_RULER = "the nuclei of the classes differ too much for one ruler"
TOO_UNSURE = f"what is known of it leaves more than a factor of {MOST:g} open"


@dataclass(frozen=True)
class Doubt:
    """A reason for a wider range.

    Attributes:
        factor: Its share of the range.
        words: Why, to follow "because".
    """

    factor: float
    words: str


def doubts_of(here: pl.DataFrame, diameter_px: float) -> tuple[Doubt, ...]:
    """Return what widens the range of one magnification.

    Args:
        here: Its tiles: label, diameter_px, reason.
        diameter_px: What was measured, px; NaN where it follows from other magnifications.
    """
    return tuple(_doubts(here, diameter_px))


def _doubts(here: pl.DataFrame, diameter_px: float) -> Iterator[Doubt]:
    n_measured = int((here["reason"] == "").sum())
    if math.isnan(diameter_px):
        return
    if n_measured < FEW_TILES or 2 * n_measured < len(here):
        yield Doubt(FEW_FACTOR, f"only {n_measured:,} of {len(here):,} tiles could be measured")
    if diameter_px < NEAR_LIMIT_PX:
        yield Doubt(NEAR_LIMIT_FACTOR, f"nuclei measure {diameter_px:.1f} px, near the limit of the pixels")
    apart = classes_apart(here)
    if apart > 1:
        # the typical nucleus may be that of either class: half of the distance between them on either side
        yield Doubt(math.sqrt(apart), f"the median nuclei of its classes differ by a factor of {apart:.2f}")


def looks_enlarged(here: pl.DataFrame) -> bool:
    """Whether more than half of the tiles look as if they had been enlarged."""
    return len(here) > 0 and 2 * int(here["enlarged"].sum()) > len(here)


def classes_apart(here: pl.DataFrame) -> float:
    """Return the largest over the smallest median diameter of the classes; 1 where fewer than two can be told."""
    measured = here.filter((pl.col("reason") == "") & pl.col("label").is_not_null())
    medians = measured.group_by("label").agg(pl.col("diameter_px").median(), n=pl.len())
    known = medians.filter(pl.col("n") >= CLASS_TILES)["diameter_px"].sort().to_list()
    return known[-1] / known[0] if len(known) > 1 else 1.0
