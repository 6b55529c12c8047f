"""What names alone tell, on BreakHis's real names and the published 40X split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from histotune.audit.audit import AuditRequest, audit, finest_labels
from histotune.audit.verdicts import VERDICTS, Audit, AuditConfig
from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.split import Split
from histotune.datasets.tileset import LabelRegion, TileSet
from tests.audit.breakhis_names import IMAGES_40X, VALID, write_names
from tests.audit.made import tile_set


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    """Return a tree of bare PNG headers: any look at a pixel would fail."""
    return DatasetConfig(name="breakhis", path=write_names(tmp_path_factory.mktemp("names")))


def published(tiles: TileSet) -> Split:
    """Return the published parts by the authors' slide ids."""
    side_by_tile = {}
    for tile_id in tiles.tile_ids:
        tumour, _, slide, *_ = tile_id.split("_")[2].split("-")
        if tumour in IMAGES_40X:
            side_by_tile[tile_id] = "valid" if slide in VALID else "train"
    return Split("eva", "parts", "tile", side_by_tile, leaky=True)


@pytest.fixture(scope="module")
def found(names: DatasetConfig) -> Audit:
    tiles = read_dataset(names)
    return audit(AuditRequest(tiles, published(tiles), finest_labels(names), AuditConfig(quick=True)))


def test_the_published_split_shares_four_accessions(found: Audit) -> None:
    finding = found.finding("split-groups")
    assert finding.verdict == "error"
    assert (finding.n, finding.n_tiles) == (4, 91)
    assert finding.sentence == (
        "4 groups lie on more than one side of eva: 91 of 339 tiles of valid are of groups that also lie elsewhere "
        "(MC 42 of 42, TA 35 of 47, F 14 of 82, DC 0 of 168)."
    )
    assert [row[0] for row in finding.tables[0].rows] == ["14-16184", "14-18842", "14-19979", "14-23060"]
    assert ("valid", "DC", 168, 0) in finding.tables[1].rows
    assert found.verdict == "error"


def test_by_the_authors_ids_the_published_split_looks_clean(found: Audit) -> None:
    assert found.finding("split-source-patients").verdict == "ok"


def test_accession_13412_has_two_diagnoses(found: Audit) -> None:
    finding = found.finding("group-labels")
    assert finding.verdict == "warning"
    assert ("14-13412", "DC, LC", 38) in finding.tables[0].rows
    assert "14-13412 (DC, LC)" in finding.sentence
    assert {row[0] for row in finding.tables[0].rows} == {"14-13412", "14-21998", "14-29960"}


def test_cases_under_several_ids_are_a_note(found: Audit) -> None:
    finding = found.finding("group-patients")
    assert finding.verdict == "note"
    assert ("14-22549", "SOB_B_A_14-22549AB, SOB_B_A_14-22549CD, SOB_B_A_14-22549G", 7) in finding.tables[0].rows


def test_quick_says_what_it_did_not_look_at(found: Audit) -> None:
    assert not {"exact-duplicates", "blank", "unreadable"} & {finding.id for finding in found.findings}
    assert any("no pixel was read" in note for note in found.notes)


def test_the_same_audit_without_quick_goes_on_over_unreadable_files(names: DatasetConfig) -> None:
    tiles = read_dataset(names).where(pl.col("tile_id").str.contains("22549"))
    finding = audit(AuditRequest(tiles)).finding("unreadable")
    assert (finding.verdict, finding.n) == ("error", 7)
    assert len(finding.tables[0].rows) == 7


def test_balance_counts_tiles_and_groups_by_side(found: Audit) -> None:
    classes, groups = found.tables
    assert classes.columns == ("magnification", "class", "tiles", "groups", "train: tiles", "valid: tiles",
                               "train: groups", "valid: groups")  # fmt: skip
    rows = {row[1]: row[2:] for row in classes.rows}
    assert rows["MC"] == (205, 7, 163, 42, 7, 2)
    assert [row[1] for row in classes.rows] == ["A", "F", "PT", "TA", "DC", "LC", "MC", "PC"]
    by_group = {row[0]: row for row in groups.rows}
    assert by_group["14-16184"][-1] == "train, valid"


def many(n_groups: int, n_each: int, **columns: list[object]) -> TileSet:
    n = n_groups * n_each
    return tile_set(n, ["x"] * n, group_id=[f"g{i // n_each:02d}" for i in range(n)], **columns)


def quick(tiles: TileSet, split: Split | None = None) -> Audit:
    return audit(AuditRequest(tiles, split, config=AuditConfig(quick=True)))


def test_official_parts_are_checked_without_a_split() -> None:
    tiles = many(4, 2, split=["train", "test"] * 4, slide_id=["s"] * 8, site=["a"] * 8)
    found = quick(tiles)
    assert found.split is not None
    assert found.split.name == "official parts"
    assert found.finding("split-groups").sentence.startswith(
        "4 groups lie on more than one side of official parts: 4 of"
    )
    assert found.finding("split-slides").verdict == "error"
    assert found.finding("split-sites").verdict == "note"


def test_folds_are_checked_side_by_side() -> None:
    tiles = many(4, 2)
    clean = Split("mine", "folds", "group", {f"g{i:02d}": str(i % 2) for i in range(4)})
    assert quick(tiles, clean).finding("split-groups").verdict == "ok"
    leaky = Split("mine", "folds", "tile", {tile_id: str(i % 2) for i, tile_id in enumerate(tiles.tile_ids)})
    assert quick(tiles, leaky).finding("split-groups").n_tiles == 8


def test_tiles_outside_the_split_count_for_nothing() -> None:
    tiles = many(2, 2)
    split = Split("part", "parts", "tile", {"t000": "train", "t002": "test"})
    assert quick(tiles, split).finding("split-groups").verdict == "ok"


def test_without_a_split_the_audit_says_so() -> None:
    finding = quick(many(2, 2)).finding("split-groups")
    assert (finding.verdict, finding.advice != "") == ("not checked", True)


CHECKS = ("split-groups", "group-labels", "class-groups")


def test_what_could_not_be_checked_is_not_ok() -> None:
    """Without a known group nothing is known of cases; ``ok`` would say that something was looked at."""
    sides = ["train", "train", "test", "test"]
    found = quick(tile_set(4, ["x"] * 4, group_id=[None] * 4, split=sides))
    assert {found.finding(name).verdict for name in CHECKS} == {"not checked"}
    assert all(found.finding(name).sentence.startswith("Not checked, because ") for name in CHECKS)
    alone = quick(tile_set(4, ["x"] * 4, group_id=["a", "b", "c", "d"], split=sides))
    assert alone.finding("group-labels").verdict == "not checked"  # one tile each: no group could contradict itself
    assert alone.finding("split-groups").verdict == "ok"


def test_what_is_known_on_one_side_only_is_not_checked_and_what_is_unknown_is_counted() -> None:
    sides = ["train", "train", "test", "test"]
    one = quick(tile_set(4, ["x"] * 4, group_id=["a", "b", None, None], split=sides)).finding("split-groups")
    assert (one.verdict, "groups are known on train only" in one.sentence) == ("not checked", True)
    some = quick(tile_set(4, ["x"] * 4, group_id=["a", "b", "c", None], split=sides)).finding("split-groups")
    assert (some.verdict, "1 tile of unknown group could not be checked" in some.sentence) == ("ok", True)


def test_the_worst_verdict_is_ok_only_where_everything_was_checked() -> None:
    assert VERDICTS.index("ok") < VERDICTS.index("not checked") < VERDICTS.index("note")


def test_files_that_the_reader_left_out_are_an_error_of_a_quick_audit_too() -> None:
    found = quick(replace(many(4, 2), n_skipped=3)).finding("unreadable")
    assert (found.verdict, found.n) == ("error", 3)


def test_unknown_groups_are_a_warning() -> None:
    finding = quick(tile_set(3, ["x"] * 3, group_id=["a", None, None])).finding("groups-unknown")
    assert (finding.verdict, finding.n) == ("warning", 2)


def test_labels_that_belong_to_tiles_are_no_contradiction() -> None:
    labels = [0, 1] * 6
    assert quick(many(6, 2, label=labels)).finding("group-labels").verdict == "ok"
    one_mixed = many(6, 2, label=[0, 1, *[0] * 10])
    assert quick(one_mixed).finding("group-labels").verdict == "warning"
    regional = TileSet("made", one_mixed.table, one_mixed.class_names, "", "", LabelRegion(0, 0, 1, 1))
    assert quick(regional).finding("group-labels").verdict == "ok"


def test_classes_with_few_groups_are_named() -> None:
    finding = quick(many(7, 1, label=[0] * 5 + [1] * 2, magnification=["40X"] * 7)).finding("class-groups")
    assert finding.verdict == "warning"
    assert "40X tumour 2" in finding.sentence
    assert "normal" not in finding.sentence
    assert quick(many(10, 1, label=[0, 1] * 5)).finding("class-groups").verdict == "ok"


def test_odd_sizes_are_counted() -> None:
    heights = [460] * 5 + [456] * 2
    finding = quick(many(7, 1, width_px=[700] * 7, height_px=heights)).finding("sizes")
    assert (finding.verdict, finding.n) == ("note", 2)
    assert "700 x 456: 2" in finding.sentence


def test_the_order_of_tiles_changes_nothing(names: DatasetConfig, found: Audit) -> None:
    tiles = read_dataset(names)
    finest = finest_labels(names)
    assert finest is not None
    shuffled = tiles.take(np.random.default_rng(0).permutation(len(tiles)))
    again = audit(AuditRequest(shuffled, published(shuffled), finest.take(np.arange(len(finest))[::-1]),
                               AuditConfig(quick=True)))  # fmt: skip
    assert again.as_dict() == found.as_dict()
