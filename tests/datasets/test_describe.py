"""Descriptions: right counts, in a person's order, with every warning that matters."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.describe import describe, render_text
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet, tile_table
from tests.datasets.fakes import real_data, tree_folder, write_image, write_part

NAMES = [
    *(f"SOB_B_A-14-{i}-{m}-001.png" for i in range(100, 106) for m in (40, 100)),
    *(f"SOB_M_DC-14-{i}-{m}-001.png" for i in range(200, 206) for m in (40, 100)),
    "SOB_B_A-14-22549AB-100-001.png",
    "SOB_B_A-14-22549G-100-001.png",
    "SOB_B_F-14-29960AB-100-001.png",
    "SOB_B_A-14-29960CD-100-001.png",
    "SOB_M_DC-14-300-400-001.png",
]


def breakhis(root: Path, names: list[str], **settings: object) -> TileSet:
    for name in names:
        write_image(tree_folder(root, name), name)
    return read_dataset(DatasetConfig.model_validate({"name": "breakhis", "path": root, **settings}))


def test_counts_by_magnification_in_order(tmp_path: Path) -> None:
    description = describe(breakhis(tmp_path, NAMES))
    assert description.by_magnification.rows() == [
        ("40X", "benign", 6, 6),
        ("40X", "malignant", 6, 6),
        ("100X", "benign", 10, 8),
        ("100X", "malignant", 6, 6),
        ("400X", "malignant", 1, 1),
    ]
    assert (len(description.tiles), description.tiles.n_groups, description.n_source_patients) == (29, 15, 17)
    assert description.by_split.is_empty()
    assert description.scales.rows()[0] == ("40X", 2.5, "estimated", 1.25, 12)
    assert description.sizes.rows() == [(700, 460, 29)]
    assert len(description.candidate_scales) == 8


def test_groups_against_the_authors_patients(tmp_path: Path) -> None:
    description = describe(breakhis(tmp_path, NAMES, labels="all8"))
    assert description.merged_patients.rows() == [
        ("14-22549", "SOB_B_A_14-22549AB, SOB_B_A_14-22549G", 2),
        ("14-29960", "SOB_B_A_14-29960CD, SOB_B_F_14-29960AB", 2),
    ]
    assert description.mixed_groups.rows() == [("14-29960", "A, F", 2)]


def test_warnings_name_what_stands_in_the_way(tmp_path: Path) -> None:
    warnings = describe(breakhis(tmp_path, NAMES)).warnings
    assert warnings == (
        "400X holds one class only (malignant): AUROC is undefined there.",
        "Few cases at 400X (malignant 1): an interval needs at least 5 in each class.",
    )
    only = describe(breakhis(tmp_path / "benign", NAMES[:2])).warnings
    assert only[0] == "Only one class is present (benign): nothing can be trained."


def test_parts_and_unknown_groups(tmp_path: Path) -> None:
    write_part(tmp_path, "train", [0, 1, 1, 0], ["a", "a", "b", "b"])
    write_part(tmp_path, "test", [0, 1])
    tiles = read_dataset(DatasetConfig(name="patch_camelyon", path=tmp_path))
    description = describe(tiles)
    assert description.by_split.rows() == [
        ("train", "normal", 2, 2),
        ("train", "tumour", 2, 2),
        ("test", "normal", 1, 0),
        ("test", "tumour", 1, 0),
    ]
    assert description.n_tiles_without_group == 2
    assert "The slide of 2 tiles is unknown: intervals over slides are refused." in description.warnings
    text = render_text(description)
    assert "A label speaks about the 32x32 px at (32, 32) only" in text
    assert any("Camelyon16" in caveat for caveat in description.caveats)


def test_unlabelled_tiles_and_a_data_set_of_ones_own() -> None:
    table = tile_table({"tile_id": ["1", "2", "3"], "label": [0, 1, None], "group_id": ["a", "b", "b"]})
    description = describe(TileSet("mine", table, ("no", "yes"), licence="own", citation=""))
    assert description.n_unlabelled == 1
    assert description.by_magnification["class"].to_list() == ["no", "yes", "unlabelled"]
    assert description.mixed_groups.is_empty()
    assert description.candidate_scales.is_empty()
    assert "1 tile is unlabelled" in render_text(description)


def test_text_is_plain_and_complete(tmp_path: Path) -> None:
    description = describe(breakhis(tmp_path, NAMES))
    text = render_text(description)
    assert text.startswith("BreakHis\n29 tiles, 15 cases (year and accession number without block letters)\n")
    assert "17 patients as the authors count them, in 15 cases" in text
    assert re.search(r"  40X +benign +6 +6\n", text)
    assert "groups" not in text  # what groups are called is said one way: cases
    for sentence in (*description.tiles.notes, *description.caveats, *description.warnings, description.tiles.citation):
        assert sentence.split()[0] in text
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 120
    assert render_text(replace(description, tiles=replace(description.tiles, synthetic=True))).startswith(
        "SYNTHETIC BreakHis"
    )


@pytest.mark.real_data
def test_the_real_sample() -> None:
    tiles = read_dataset(DatasetConfig(name="breakhis", path=real_data("breakhis_sample")))
    description = describe(tiles)
    at_100x = description.by_magnification.filter(pl.col("magnification") == "100X")
    assert at_100x.rows() == [("100X", "benign", 80, 6), ("100X", "malignant", 74, 8)]
    assert description.merged_patients["group_id"].to_list() == ["14-21998", "14-22549", "14-29960"]
    assert description.mixed_groups.is_empty()
