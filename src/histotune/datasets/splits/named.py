"""A split by its name: the name says everything, the seed included."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.splits.authors import authors_split
from histotune.datasets.splits.folds import grouped_folds
from histotune.datasets.splits.holdout import grouped_holdout
from histotune.datasets.splits.leaks import refuse_leaks
from histotune.datasets.splits.published import breakhis_published, official_parts
from histotune.datasets.splits.random_images import random_image_folds
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet

FORMS = (
    "grouped-K-seedS (K folds), holdout-P-seedS (P per cent of the cases), eva, thunder, pcam-official, "
    "authors-5[/foldN][:PATH], random-images-K-seedS, or a file written by `histotune data split`"
)
EXAMPLES = (
    "grouped-5-seed0", "holdout-20-seed0", "eva", "thunder", "pcam-official", "authors-5", "authors-5/fold1",
    "random-images-5-seed0",
)  # fmt: skip
PUBLISHED = ("eva", "thunder", "pcam-official")
SEEDED = re.compile(r"(?P<form>grouped|holdout|random-images)-(?P<number>\d{1,6})-seed(?P<seed>\d{1,12})")
AUTHORS = re.compile(r"authors-(?P<number>\d{1,3})(?:/fold(?P<fold>\d{1,3}))?(?::(?P<path>.+))?")


def named_split(name: str, tiles: TileSet, *, allow_leaky: bool = False) -> Split:
    """Make a split by its name.

    Args:
        name: Such as "grouped-5-seed0", "holdout-20-seed0", "eva", "thunder", "pcam-official", "authors-5/fold1",
            "authors-5/fold1:PATH/TO/Folds.csv" or "random-images-5-seed0".
        tiles: The tiles to split, of every magnification.
        allow_leaky: Also return splits that put tiles of one group on two sides; they are marked ``leaky``.

    Returns:
        The split; its name holds no path.

    Raises:
        UserError: The name is unknown (with the closest one and the allowed forms), the split is one of another data
            set, there are too few groups, or it leaks and that was not allowed.

    Example:
        >>> split = named_split("grouped-5-seed0", tiles)  # doctest: +SKIP
        >>> split.sides  # doctest: +SKIP
        ('0', '1', '2', '3', '4')
    """
    split = _make(name.strip(), tiles, allow_leaky)
    refuse_leaks(split, tiles, allow_leaky=allow_leaky)
    return split


def is_split_name(text: str) -> bool:
    """Return whether a text has the form of a split's name, so that it is never taken for a file."""
    plain = text.strip()
    return plain in PUBLISHED or bool(SEEDED.fullmatch(plain) or AUTHORS.fullmatch(plain))


def _make(name: str, tiles: TileSet, allow_leaky: bool) -> Split:
    if name in ("eva", "thunder"):
        return breakhis_published("eva" if name == "eva" else "thunder", tiles)
    if name == "pcam-official":
        return official_parts(tiles)
    if match := SEEDED.fullmatch(name):
        number, seed = int(match["number"]), int(match["seed"])
        if match["form"] == "grouped":
            return grouped_folds(tiles, number, seed)
        if match["form"] == "holdout":
            return grouped_holdout(tiles, number, seed)
        return random_image_folds(tiles, number, seed, allow_leaky=allow_leaky)
    if match := AUTHORS.fullmatch(name):
        fold = None if match["fold"] is None else int(match["fold"])
        return authors_split(tiles, int(match["number"]), fold, Path(match["path"]) if match["path"] else None)
    raise UserError("unknown split", value=name, allowed=FORMS, closest=closest_name(name, EXAMPLES))
