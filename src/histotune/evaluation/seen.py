"""Which scored tiles a head has seen: those that trained it, by their content, and those of a case that did."""

# N tiles

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.disk import name_some
from histotune.tools.marks import LEAKY, TOO_NARROW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from histotune.evaluation.findings import ScoredArm
    from histotune.evaluation.material import Material
    from histotune.heads.head import Head
    from histotune.statistics.predictions import Predictions

    Bool = NDArray[np.bool_]


ALONE = "tile:"
"""How the key of a tile without a group begins; the rest is its id, which says nothing of where it comes from."""
NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")
SHOWN = 5
EXCLUDE = "--exclude-seen leaves them out"


@dataclass(frozen=True)
class SeenTiles:
    """What is known of the tiles of a material.

    Attributes:
        tile_ids: Their ids.
        by_content_N: Tiles with the content of a tile that trained the head.
        by_group_N: Tiles of a group that trained the head: its id is one of the head's, or a tile of it is.
        untold_N: Tiles of which it can't be told, because their group, or the head's, is unknown.
        groups: The group of every tile; None where unknown.
        has_hashes: Whether both the head and the tiles are known by their content.
    """

    tile_ids: tuple[str, ...]
    by_content_N: Bool
    by_group_N: Bool
    untold_N: Bool
    groups: tuple[str | None, ...]
    has_hashes: bool

    @property
    def seen_N(self) -> Bool:
        """Tiles that no score may call held out."""
        return np.asarray(self.by_content_N | self.by_group_N)

    @property
    def seen_ids(self) -> frozenset[str]:
        """Their ids."""
        return frozenset(np.array(self.tile_ids, dtype=object)[self.seen_N])

    def take(self, rows: NDArray[np.int64]) -> SeenTiles:
        """Return some of the tiles."""
        return SeenTiles(
            tuple(self.tile_ids[row] for row in rows),
            self.by_content_N[rows],
            self.by_group_N[rows],
            self.untold_N[rows],
            tuple(self.groups[row] for row in rows),
            self.has_hashes,
        )

    def cases(self) -> list[str]:
        """Return the groups of the seen tiles, by name."""
        return sorted({group for group, seen in zip(self.groups, self.seen_N, strict=True) if seen and group})

    def reasons(self) -> list[str]:
        """Return, per tile, how it was recognised: "content", "group", "can't be told", or nothing."""
        found = np.full(len(self.tile_ids), "", dtype=object)
        found[self.untold_N] = "can't be told"
        found[self.by_group_N] = "group"
        found[self.by_content_N] = "content"
        return [str(word) for word in found]

    def in_words(self, word: str = "case") -> str:
        """Return how many tiles of how many groups, by their word, were seen; empty for none."""
        n_seen, cases = int(self.seen_N.sum()), self.cases()
        if not n_seen:
            return ""
        n_cases = f"1 {word}" if len(cases) == 1 else f"{len(cases):,} {word}s"
        of_cases = f", of {n_cases} ({name_some(cases, SHOWN)})," if cases else ""
        n_same = int(self.by_content_N.sum())
        how = f"{n_same:,} by their content" if n_same else "by the ids of their groups"
        scored = f"{n_seen:,} of {len(self.tile_ids):,} scored tiles{of_cases}"
        return f"{scored} trained this head or are of {word}s that did ({how})"

    def leaky_notes(self, word: str = "case") -> tuple[str, ...]:
        """Return why rows are marked; nothing where none is."""
        words = self.in_words(word)
        return (f"{LEAKY}: {words}. Scores of marked rows are no held-out scores.",) if words else ()

    def untold_notes(self, word: str = "case") -> tuple[str, ...]:
        """Return for how many tiles it can't be told; nothing where it can for all."""
        n_untold = int(self.untold_N.sum())
        if not n_untold:
            return ()
        how = "none of them has the content of a training tile" if self.has_hashes else "their content is unknown"
        which = f"{n_untold:,} of {len(self.tile_ids):,} scored tiles"
        return (f"Whether {which} are of a {word} that trained this head can't be told: groups are unknown ({how}).",)

    def notes(self, *, excluded: bool, word: str = "case") -> tuple[str, ...]:
        """Return what a reader of the scores must know: what was seen, or left out, and what can't be told."""
        words = self.in_words(word)
        seen = [f"{note[:-1]}; {EXCLUDE}." for note in self.leaky_notes(word)]
        if words and excluded:
            seen = [f"Left out: {words}."]
        return (*seen, *self.untold_notes(word))


def find_seen(head: Head, material: Material) -> SeenTiles:
    """Say which tiles of a material trained a head, or are of a case that did.

    Args:
        head: The head, with the content hashes and the groups that trained it.
        material: Tiles and their embeddings.

    Returns:
        What is known of every tile.
    """
    tiles, sha256_N32 = material.tiles, material.embeddings.sha256_N32
    groups = tuple(tiles.table["group_id"].to_list())
    has_hashes = sha256_N32 is not None and len(head.train_sha256_N32) > 0
    by_content_N = np.zeros(len(tiles), dtype=np.bool_)
    if has_hashes:
        assert sha256_N32 is not None
        known = {row.tobytes() for row in head.train_sha256_N32}
        by_content_N = np.array([row.tobytes() in known for row in sha256_N32], dtype=np.bool_)
    trained = {plain_id(group) for group in head.train_groups if not group.startswith(ALONE)}
    trained |= _groups_of_copies(groups, by_content_N, sha256_N32)
    by_group_N = np.array([group is not None and plain_id(group) in trained for group in groups], dtype=np.bool_)
    if not has_hashes:  # then a tile without a group is known by its id alone
        alone = {group for group in head.train_groups if group.startswith(ALONE)}
        by_group_N |= np.array([ALONE + tile_id in alone for tile_id in tiles.tile_ids], dtype=np.bool_)
    unknown = np.array([group is None for group in groups], dtype=np.bool_)
    if any(group.startswith(ALONE) for group in head.train_groups):
        unknown[:] = True
    return SeenTiles(
        tiles.tile_ids, by_content_N, by_group_N, unknown & ~by_content_N & ~by_group_N, groups, has_hashes
    )


def _groups_of_copies(
    groups: Sequence[str | None], by_content_N: Bool, sha256_N32: NDArray[np.uint8] | None
) -> set[str]:
    """Return the groups that hold a training tile; what several groups hold, such as an empty field, tells of none."""
    if sha256_N32 is None or not by_content_N.any():
        return set()
    rows = np.flatnonzero(by_content_N)
    holders: dict[bytes, set[str]] = {}
    for row in rows.tolist():
        group = groups[row]
        if group is not None:
            holders.setdefault(sha256_N32[row].tobytes(), set()).add(plain_id(group))
    return {group for found in holders.values() if len(found) == 1 for group in found}


def plain_id(text: str) -> str:
    """Return an id without what spellings of one id differ in: case, Unicode form, spaces, zeros of a number.

    Example:
        >>> plain_id(" 007 ") == plain_id("7.0") == plain_id("7")
        True
    """
    plain = unicodedata.normalize("NFKC", text).strip().casefold()
    number = NUMBER.fullmatch(plain)
    return number[1] if number else plain


def mark_seen(rows: Iterable[ScoredArm], predictions: Predictions, seen_ids: frozenset[str]) -> tuple[ScoredArm, ...]:
    """Mark the rows whose domain holds a seen tile; the others stay as they are."""
    table = predictions.table.filter(pl.col("tile_id").is_in(list(seen_ids)))
    leaky = set(table["domain"])
    return tuple(with_leaky(row) if row.domain in leaky else row for row in rows)


def with_leaky(row: ScoredArm) -> ScoredArm:
    """Return a row marked LEAKY."""
    if LEAKY in row.marks:
        return row
    narrow = tuple(mark for mark in row.marks if mark == TOO_NARROW)
    return replace(row, marks=(*(mark for mark in row.marks if mark != TOO_NARROW), LEAKY, *narrow))


def prediction_table(predictions: Predictions, seen: SeenTiles) -> pl.DataFrame:
    """Return a row per tile for people: its label, what the head says of it, and whether the head has seen it.

    Args:
        predictions: A head's, all its classes.
        seen: What is known of the same tiles.

    Returns:
        ``tile_id``, ``group``, ``domain``, ``label``, ``predicted``, ``probability_<class>`` per class, ``threshold``
        (of class 1; null with several classes), and ``seen``: how the tile was recognised as one that trained the
        head ("content"), or of a case that did ("group"); "can't be told" where groups are unknown; empty for none.
    """
    names, probability_NK = predictions.class_names, predictions.probability_NK
    binary = len(names) == 2
    how = dict(zip(seen.tile_ids, seen.reasons(), strict=True))
    table = predictions.table
    return pl.DataFrame(
        {
            "tile_id": table["tile_id"],
            "group": table["group_id"],
            "domain": table["domain"],
            "label": [names[label] for label in predictions.y_true_N],
            "predicted": [names[label] for label in predictions.predicted_N],
            **{f"probability_{name}": probability_NK[:, label] for label, name in enumerate(names)},
            "threshold": table["threshold"] if binary else pl.Series([None] * len(table), dtype=pl.Float64),
            "seen": [how[tile_id] for tile_id in table["tile_id"]],
        }
    )
