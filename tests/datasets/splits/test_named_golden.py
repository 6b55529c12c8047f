"""Frozen splits: a name and the tiles give the same sides on every platform and with every version.

A file changes only where the algorithm was changed on purpose; then ``save_split`` writes it anew.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from histotune.datasets.splits.named import load_split, named_split, save_split
from histotune.datasets.tileset import TileSet
from tests.datasets.splits.cohorts import CLASSES, make_tiles

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def golden_tiles() -> TileSet:
    """31 cases of three classes, one to 60 tiles each, four with two diagnoses, unlabelled tiles in one."""
    with (GOLDEN / "cases.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    groups = [row["group"] for row in rows for _ in range(int(row["tiles"]))]
    labels = [CLASSES.index(row["class"]) if row["class"] else None for row in rows for _ in range(int(row["tiles"]))]
    return make_tiles(groups, labels)


def test_every_kind_of_made_split_is_frozen() -> None:
    assert NAMES == [
        "grouped-10-seed3", "grouped-5-seed0", "grouped-5-seed1", "holdout-20-seed0", "holdout-35-seed1",
        "random-images-4-seed0",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_splits_stay_what_they_are(name: str, tmp_path: Path) -> None:
    tiles = golden_tiles()
    split = named_split(name, tiles, allow_leaky=True)
    assert split == load_split(GOLDEN / f"{name}.json", tiles, allow_leaky=True)
    save_split(split, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (GOLDEN / f"{name}.json").read_bytes()
