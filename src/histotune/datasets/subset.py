"""A smaller part of a large split: whole slides first, classes balanced, the same for every seed on every machine."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.splits.folds import keyed_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# N tiles


def keep_rows(
    labels_N: NDArray[np.int64],
    slides: Sequence[str | None] | None,
    class_names: tuple[str, ...],
    max_tiles: int,
    seed: int,
) -> tuple[NDArray[np.int64], str]:
    """Choose at most ``max_tiles`` rows, as many of each class as the classes allow.

    Where slides are known, they are taken whole in the order of a keyed hash as long as every class stays within its
    share; what is still missing is then spread evenly over the other slides, so that many groups stay.

    Args:
        labels_N: Label per tile, shape (N,).
        slides: Slide per tile; None where unknown.
        class_names: Names by label, for the note.
        max_tiles: Upper limit; 0 keeps everything.
        seed: Seed of the choice.

    Returns:
        The kept rows, ascending, and a sentence on what was kept ("" where everything was).
    """
    n = len(labels_N)
    if not 0 < max_tiles < n:
        return np.arange(n, dtype=np.int64), ""
    room = _share(Counter(labels_N.tolist()), max_tiles)
    kept: list[int] = []
    whole: set[str] = set()
    if slides is not None:
        kept, whole = _whole_slides(labels_N, slides, room, seed)
    kept += _spread(labels_N, slides, room, whole, seed)
    rows = np.array(sorted(kept), dtype=np.int64)
    return rows, _describe(labels_N, slides, class_names, rows, whole)


def _share(available: Counter[int], max_tiles: int) -> Counter[int]:
    """Split the budget evenly over the classes; what a small class can't use goes to the others."""
    share: Counter[int] = Counter()
    left, classes = max_tiles, sorted(available, key=lambda label: (available[label], label))
    for position, label in enumerate(classes):
        share[label] = min(available[label], left // (len(classes) - position))
        left -= share[label]
    return share


def _whole_slides(
    labels_N: NDArray[np.int64], slides: Sequence[str | None], room: Counter[int], seed: int
) -> tuple[list[int], set[str]]:
    """Take slides that fit whole; ``room`` shrinks by what they use."""
    rows_by_slide: dict[str, list[int]] = defaultdict(list)
    for row, slide in enumerate(slides):
        if slide is not None:
            rows_by_slide[slide].append(row)
    kept: list[int] = []
    whole = set()
    for slide in sorted(rows_by_slide, key=lambda slide: (keyed_hash(seed, slide), slide)):
        needed = Counter(labels_N[rows_by_slide[slide]].tolist())
        if needed <= room:
            room.subtract(needed)
            kept += rows_by_slide[slide]
            whole.add(slide)
    return kept, whole


def _spread(
    labels_N: NDArray[np.int64], slides: Sequence[str | None] | None, room: Counter[int], whole: set[str], seed: int
) -> list[int]:
    """Fill each class's remaining room, one tile of every other slide in turn."""
    turn: Counter[tuple[int, str | None]] = Counter()
    candidates: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    order = sorted((keyed_hash(seed, str(row)), row) for row in range(len(labels_N)))
    for rank, row in order:
        slide = None if slides is None else slides[row]
        label = int(labels_N[row])
        if slide in whole or not room[label]:
            continue
        if slide is not None:
            turn[label, slide] += 1
        candidates[label].append((turn[label, slide], rank, row))
    return [row for label, rows in candidates.items() for _, _, row in sorted(rows)[: room[label]]]


def _describe(
    labels_N: NDArray[np.int64],
    slides: Sequence[str | None] | None,
    class_names: tuple[str, ...],
    rows: NDArray[np.int64],
    whole: set[str],
) -> str:
    counts = Counter(labels_N[rows].tolist())
    classes = ", ".join(f"{counts[label]:,} {name}" for label, name in enumerate(class_names))
    text = f"kept {len(rows):,} of {len(labels_N):,} tiles ({classes})"
    if slides is None:
        return f"{text}, drawn at random; slides are unknown."
    present = {slides[row] for row in rows.tolist()} - {None}
    return f"{text} from {len(present)} slides, {len(whole)} of them whole."
