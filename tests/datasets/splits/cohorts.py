"""Made-up tile tables for splits: groups, classes, sizes; no image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import polars as pl
from hypothesis import strategies as st

from histotune.datasets.splits.named import published_patients
from histotune.datasets.tileset import TileSet, tile_table

CLASSES = ("benign", "malignant", "other")


def make_tiles(
    groups: Sequence[str | None], labels: Sequence[int | None], class_names: tuple[str, ...] = CLASSES
) -> TileSet:
    """One tile per entry, in this order of ids."""
    ids = [f"tile-{i:05d}" for i in range(len(groups))]
    table = tile_table({"tile_id": ids, "path": ids, "group_id": list(groups), "label": list(labels)})
    return TileSet("toy", table, class_names, licence="CC0", citation="none")


def tiles_of_cases(cases: Sequence[tuple[int, int]]) -> TileSet:
    """One case per pair of label and number of tiles."""
    groups = [f"case-{i:02d}" for i, (_, size) in enumerate(cases) for _ in range(size)]
    return make_tiles(groups, [label for label, size in cases for _ in range(size)])


def reordered(tiles: TileSet, order: Sequence[int]) -> TileSet:
    """The same tiles in another order of rows."""
    return replace(tiles, table=tiles.table[list(order)])


def cases(min_size: int = 2, max_size: int = 25) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Label and number of tiles of several cases."""
    return st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=min_size, max_size=max_size)


@st.composite
def mixed_tiles(draw: st.DrawFn) -> TileSet:
    """Cases of one class or of several, some tiles unlabelled."""
    groups: list[str | None] = []
    labels: list[int | None] = []
    for case in range(draw(st.integers(2, 16))):
        main = draw(st.integers(0, 2))
        for label in draw(st.lists(st.sampled_from([main, main, 0, 1, 2, None]), min_size=1, max_size=9)):
            groups.append(f"case-{case:02d}")
            labels.append(label)
    return make_tiles(groups, labels)


def groups_by_side(tiles: TileSet, sides: Sequence[str | None]) -> dict[str, set[str]]:
    """The groups on every side."""
    table = tiles.table.select("group_id").with_columns(pl.Series("side", sides, pl.String))
    found: dict[str, set[str]] = {}
    for group, side in table.iter_rows():
        found.setdefault(side, set()).add(group)
    return found


def published_names(most_per_patient: int = 1000) -> Iterator[str]:
    """Names of the 40X images that eva and THUNDER use."""
    for patient in published_patients():
        letter = "B" if patient.tumour in ("F", "TA") else "M"
        for image in range(min(patient.n_tiles, most_per_patient)):
            yield f"SOB_{letter}_{patient.tumour}-14-{patient.number}-40-{image + 1:03d}"
