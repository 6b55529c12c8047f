"""Is it all of BreakHis: images per magnification and class, by their names, against the published counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from histotune.datasets.breakhis import NAME_PATTERN
from histotune.datasets.disk import FETCH_RECORDS
from histotune.datasets.fetch.facts import BREAKHIS_COUNTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Cell = tuple[str, str]  # magnification and class letter
COUNTS_CHECK = "number of images per magnification and class as published; no checksum is published"


def count_images(names: Iterable[str]) -> Counter[Cell]:
    """Count images per magnification and class; a name that comes twice counts once.

    Args:
        names: File names; others than BreakHis's count for nothing.
    """
    counts: Counter[Cell] = Counter()
    for name in set(names):
        match = NAME_PATTERN.fullmatch(name)
        if match is not None:
            counts[f"{match['magnification']}X", match["b"] or match["m"]] += 1
    return counts


def images_below(folder: Path) -> Counter[Cell]:
    """Count the images below a folder, work in progress left out.

    Args:
        folder: It may be missing.
    """
    paths = (path for path in folder.rglob("*.[pP][nN][gG]") if FETCH_RECORDS not in path.relative_to(folder).parts)
    return count_images(path.name for path in paths)


def missing_images(counts: Mapping[Cell, int], published: Mapping[Cell, int] = BREAKHIS_COUNTS) -> str:
    """Return how the counts differ from the published ones, "" where they agree.

    Args:
        counts: From :func:`count_images`.
        published: Images per magnification and class.
    """
    classes = {"B": "benign", "M": "malignant"}
    wrong = [
        f"{magnification} {classes[letter]} {counts.get((magnification, letter), 0):,} of {n:,}"
        for (magnification, letter), n in published.items()
        if counts.get((magnification, letter), 0) != n
    ]
    return ", ".join(wrong)
