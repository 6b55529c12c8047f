"""Planted copies, blanks and odd stains, and what the audit says about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from histotune.audit import duplicates
from histotune.audit.audit import AuditRequest, audit, unread_files
from histotune.audit.duplicates import Pairs
from histotune.audit.pixels import robust_z
from histotune.audit.verdicts import AuditConfig, AuditFinding
from histotune.datasets.splits.split import Split
from tests.audit.made import brighter, hdf5_tiles, jpeg, png_tiles, stained, tissue

TILES = [tissue(seed) for seed in range(12)]


def findings(folder: Path, pixels: list, split: Split | None = None, **columns: list) -> dict[str, AuditFinding]:
    tiles = hdf5_tiles(folder, pixels, **columns)
    return {finding.id: finding for finding in audit(AuditRequest(tiles, split)).findings}


def test_copies_within_a_group_are_a_note_with_an_effective_n(tmp_path: Path) -> None:
    groups = [f"g{i}" for i in range(12)] + ["g0", "g0"]
    found = findings(tmp_path, [*TILES, TILES[0], TILES[0]], group_id=groups)["exact-duplicates"]
    assert (found.verdict, found.n, found.n_tiles) == ("note", 1, 3)
    assert "the effective n is 12 of 14" in found.sentence
    assert found.clusters[0].tile_ids == ("t000", "t012", "t013")


def test_copies_across_groups_are_a_warning(tmp_path: Path) -> None:
    found = findings(tmp_path, [*TILES, TILES[3]])["exact-duplicates"]
    assert (found.verdict, found.n) == ("warning", 1)
    assert "1 across groups" in found.sentence


def test_copies_across_sides_are_an_error(tmp_path: Path) -> None:
    groups = ["a"] * 13
    split = Split("s", "parts", "tile", {f"t{i:03d}": "train" if i < 12 else "test" for i in range(13)})
    found = findings(tmp_path, [*TILES, TILES[3]], split, group_id=groups)["exact-duplicates"]
    assert found.verdict == "error"
    assert "1 across sides of the split" in found.sentence


def test_copies_of_unknown_group_may_be_anybody_s(tmp_path: Path) -> None:
    found = findings(tmp_path, [*TILES, TILES[3]], group_id=[None] * 13)["exact-duplicates"]
    assert found.verdict == "warning"
    assert "1 of unknown groups" in found.sentence


def test_copies_with_two_classes_are_said(tmp_path: Path) -> None:
    found = findings(tmp_path, [*TILES, TILES[3]], group_id=["a"] * 13, label=[0] * 12 + [1])["exact-duplicates"]
    assert found.verdict == "warning"
    assert "1 cluster carries two different classes." in found.sentence


def test_altered_and_turned_copies_are_near_duplicates_beside_exact_ones(tmp_path: Path) -> None:
    planted = [jpeg(TILES[0], 50), brighter(TILES[1], 15), np.ascontiguousarray(np.rot90(TILES[2])), TILES[0]]
    found = findings(tmp_path, [*TILES, *planted])
    assert (found["exact-duplicates"].n, found["exact-duplicates"].n_tiles) == (1, 2)
    near = found["near-duplicates"]
    assert [cluster.tile_ids for cluster in near.clusters] == [
        ("t000", "t012", "t015"), ("t001", "t013"), ("t002", "t014")]  # fmt: skip
    assert [cluster.note for cluster in near.clusters] == ["3 groups", "2 groups", "2 groups, mirrored or turned"]
    assert near.verdict == "warning"


def test_unrelated_tiles_are_no_duplicates(tmp_path: Path) -> None:
    found = findings(tmp_path, TILES)
    assert {found[name].verdict for name in ("exact-duplicates", "near-duplicates", "blank", "unreadable")} == {"ok"}


def test_blank_tiles_are_reported_and_never_called_duplicates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    white = [np.full((96, 96, 3), 255, np.uint8)] * 3
    glass = [(238 + rng.normal(0, 2, (96, 96, 3))).clip(0, 255).astype(np.uint8) for _ in range(2)]
    found = findings(tmp_path, [*TILES, *white, *glass], label=[0] * 14 + [1] * 3)
    assert found["blank"].verdict == "warning"
    assert found["blank"].sentence == (
        "3 tiles of one single colour and 2 tiles with tissue on less than 0.5% of the pixels (tumour 3, normal 2)."
    )
    assert found["exact-duplicates"].verdict == found["near-duplicates"].verdict == "ok"
    assert "3 tiles are constant" in found["exact-duplicates"].sentence
    assert "5 tiles are too flat to compare" in found["near-duplicates"].sentence


def test_a_group_of_another_stain_is_found(tmp_path: Path) -> None:
    pixels = [stained(tissue(seed), 1 + 0.02 * (seed % 3)) for seed in range(30)]
    odd = [np.roll(tissue(seed), 1, axis=2) for seed in range(100, 103)]
    groups = [f"g{i // 3:02d}" for i in range(30)] + ["odd"] * 3
    found = findings(tmp_path, [*pixels, *odd], group_id=groups)
    assert found["stain-groups"].verdict == "note"
    assert "odd" in found["stain-groups"].sentence
    assert {"t030", "t031", "t032"} <= set(found["stain-tiles"].tile_ids)


@settings(max_examples=20)
@given(st.permutations(range(16)))
def test_the_order_of_tiles_changes_nothing(made: tuple, order: list[int]) -> None:
    tiles, split, expected = made
    assert audit(AuditRequest(tiles.take(np.array(order)), split)).as_dict() == expected


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    small = [tile[:48, :48] for tile in TILES]
    pixels = [*small, small[0], jpeg(small[1], 60), small[2][::-1], np.full((48, 48, 3), 9, np.uint8)]
    groups = [f"g{i % 5}" for i in range(15)] + [None]
    tiles = hdf5_tiles(tmp_path_factory.mktemp("made"), pixels, group_id=groups, label=[i % 2 for i in range(16)])
    split = Split("s", "folds", "tile", {f"t{i:03d}": str(i % 3) for i in range(14)})
    return tiles, split, audit(AuditRequest(tiles, split)).as_dict()


@settings(max_examples=50)
@given(st.integers(2, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_clusters_do_not_depend_on_how_pairs_arrive(n: int, edges: list[tuple[int, int]]) -> None:
    pairs = [(min(a % n, b % n), max(a % n, b % n)) for a, b in edges if a % n != b % n]
    batches = [Pairs(np.array([a]), np.array([b]), np.zeros(1, np.int8)) for a, b in pairs]
    with pytest.MonkeyPatch.context() as patch:
        whole, _ = duplicates.connected(batches, n)
        patch.setattr(duplicates, "MAX_PAIRS", 2)
        folded, _ = duplicates.connected(batches, n)
    together = whole[:, None] == whole[None]
    np.testing.assert_array_equal(folded[:, None] == folded[None], together)
    assert all(together[a, b] for a, b in pairs)
    reach = np.eye(n, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(n):
        reach = reach | (reach.astype(int) @ reach.astype(int) > 0)
    np.testing.assert_array_equal(together, reach)


def test_robust_z_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, (50, 2))
    seen = np.arange(50) < 40
    expected = (values - np.median(values[:40], axis=0)) / median_abs_deviation(values[:40], scale="normal")
    np.testing.assert_allclose(robust_z(values, seen), expected, rtol=1e-3)
    assert (robust_z(np.ones((5, 1)), np.ones(5, bool)) == 0).all()
    hardly = np.array([[0.0], [0.001], [0.002], [0.01]])
    assert robust_z(hardly, np.ones(4, bool), least_mad=0.005).max() < 2


def test_files_that_the_reader_gave_up_are_listed(tmp_path: Path) -> None:
    tiles = png_tiles(tmp_path, TILES[:3])
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    unread = unread_files(tmp_path, tiles)
    assert [tile.place for tile in unread] == ["broken.png"]
    finding = audit(AuditRequest(tiles, unread=unread)).finding("unreadable")
    assert (finding.verdict, finding.n, finding.tables[0].rows[0][0]) == ("error", 1, "broken.png")


def test_an_audit_where_nothing_can_be_read_still_ends(tmp_path: Path) -> None:
    tiles = png_tiles(tmp_path, TILES[:3])
    for path in tiles.table["path"]:
        Path(path).write_bytes(b"x")
    found = audit(AuditRequest(tiles, config=AuditConfig()))
    assert found.finding("unreadable").n == 3
    for name in ("exact-duplicates", "near-duplicates", "blank", "stain-tiles", "stain-groups"):
        assert found.finding(name).verdict == "not checked"
        assert found.finding(name).sentence.startswith("Not checked, because ")


@pytest.mark.real_data
def test_real_tissue_holds_no_copy_but_those_planted(real_data: Path, tmp_path: Path) -> None:
    from PIL import Image

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.read import read_dataset

    tiles = read_dataset(DatasetConfig(name="breakhis", path=real_data / "breakhis_sample"))
    kept = tiles.take(np.arange(0, len(tiles), 3))
    clean = audit(AuditRequest(kept))
    assert clean.finding("exact-duplicates").verdict == clean.finding("near-duplicates").verdict == "ok"
    assert clean.finding("blank").verdict == "ok"
    originals = [np.asarray(Image.open(path)) for path in kept.table["path"].to_list()[:6]]
    altered = [jpeg(originals[0], 75), brighter(originals[1], 15), originals[2][::-1], np.rot90(originals[3]),
               originals[4], np.asarray(Image.fromarray(originals[5]).resize((350, 230)))]  # fmt: skip
    planted = png_tiles(tmp_path, [*originals, *altered])
    found = audit(AuditRequest(planted))
    assert found.finding("exact-duplicates").n == 1
    assert [cluster.tile_ids for cluster in found.finding("near-duplicates").clusters] == [
        (f"t{i:03d}", f"t{i + 6:03d}") for i in (0, 1, 2, 3, 5)]  # fmt: skip
