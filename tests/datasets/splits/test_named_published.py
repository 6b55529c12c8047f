"""Published splits from names alone: their counts, their leaks, and what a reader must know."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.named import named_split, official_parts, published_patients
from histotune.datasets.splits.split import shared_groups
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from tests.datasets.fakes import tree_folder, write_image, write_part
from tests.datasets.splits.cohorts import make_tiles, published_names

SHARED = ("14-16184", "14-18842", "14-19979", "14-23060")


@pytest.fixture(scope="module")
def breakhis_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The names of all 40X images that eva uses, and two that it leaves out."""
    root = tmp_path_factory.mktemp("breakhis")
    for name in (*published_names(), "SOB_M_LC-14-13412-40-001", "SOB_M_DC-14-2980-100-001"):
        write_image(tree_folder(root, name), f"{name}.png")
    return root


def read(root: Path, labels: str = "eva4") -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "breakhis", "path": root, "labels": labels}))


@pytest.fixture(scope="module")
def tiles(breakhis_root: Path) -> TileSet:
    return read(breakhis_root)


def test_the_table_is_the_published_one() -> None:
    patients = published_patients()
    validation = {patient.number for patient in patients if patient.eva == "valid"}
    assert validation == {
        "18842D", "19979", "15275", "15792", "16875", "3909", "5287", "16716", "2773", "5695", "16184CD", "23060CD",
        "21998CD", "21998EF",
    }  # fmt: skip
    tuning = {patient.number for patient in patients if patient.thunder == "valid"}
    assert tuning == {
        "23222AB", "13418DE", "11520", "19854C", "10926", "12312", "18842", "13412", "13200", "29960AB",
    }  # fmt: skip
    assert {patient.number for patient in patients if patient.thunder == "test"} == validation


def test_eva_has_its_counts_and_its_leak(tiles: TileSet) -> None:
    split = named_split("eva", tiles, allow_leaky=True)
    assert Counter(split.side_by_key.values()) == {"train": 1132, "valid": 339}
    assert (split.kind, split.unit, split.leaky, split.partial) == ("parts", "tile", True, True)
    found = shared_groups(tiles, split)
    assert found.groups == SHARED
    assert found.tiles_by_side["valid"] == 91
    assert found.tiles_by_class["valid"] == {"TA": 35, "MC": 42, "F": 14, "DC": 0}
    assert found.total_by_class["valid"] == {"TA": 47, "MC": 42, "F": 82, "DC": 168}
    notes = " ".join(split.notes)
    assert "4 groups lie on two sides of this split (14-16184, 14-18842, 14-19979, 14-23060)" in notes
    assert "91 of 339 tiles of valid" in notes
    assert "1 tile takes no part" in notes
    assert "not the whole published split" not in notes


def test_thunder_tests_on_evas_validation_patients(tiles: TileSet) -> None:
    split = named_split("thunder", tiles, allow_leaky=True)
    assert Counter(split.side_by_key.values()) == {"train": 936, "valid": 196, "test": 339}
    found = shared_groups(tiles, split)
    assert found.groups == SHARED
    assert (found.tiles_by_side["test"], found.tiles_by_side["valid"]) == (91, 15)


@pytest.mark.parametrize("name", ["eva", "thunder"])
def test_a_leak_needs_the_users_yes(name: str, tiles: TileSet) -> None:
    with pytest.raises(UserError) as caught:
        named_split(name, tiles)
    text = str(caught.value)
    assert f"the split {name} leaks: 4 groups lie on two sides" in text
    assert "91 of 339 tiles" in text
    assert "--allow-leaky" in text


def test_other_labels_and_missing_patients_are_noted(breakhis_root: Path) -> None:
    tiles = read(breakhis_root, labels="binary")
    split = named_split("eva", tiles, allow_leaky=True)
    assert Counter(split.side_by_key.values()) == {"train": 1132, "valid": 339}
    assert any("--set source.labels=eva4" in note for note in split.notes)
    assert split.side_by_key.get("SOB_M_LC-14-13412-40-001") is None
    part = tiles.where(~tiles.table["tile_id"].str.contains("14-2773-"))  # type: ignore[arg-type]
    notes = " ".join(named_split("eva", part, allow_leaky=True).notes)
    assert "These tiles are not the whole published split: train 1,132 of 1,132, valid 309 of 339." in notes


def test_without_the_shared_cases_nothing_leaks(tiles: TileSet) -> None:
    clean = tiles.where(~tiles.table["group_id"].is_in(SHARED))  # type: ignore[arg-type]
    split = named_split("eva", clean)
    assert not split.leaky
    assert not any(note.startswith("LEAKY") for note in split.notes)


def test_tiles_of_other_patients_or_data_sets_are_refused(tiles: TileSet) -> None:
    with pytest.raises(UserError, match="none of these tiles belongs to the 64 patients"):
        named_split("eva", tiles.where(tiles.table["magnification"] == "100X"))  # type: ignore[arg-type]
    for name in ("eva", "thunder"):
        with pytest.raises(UserError, match=f"{name} is a split of BreakHis"):
            named_split(name, make_tiles(["a", "b"], [0, 1]))
    with pytest.raises(UserError, match="pcam-official is a split of PatchCamelyon"):
        named_split("pcam-official", tiles)


def read_pcam(folder: Path) -> TileSet:
    return read_dataset(DatasetConfig(name="patch_camelyon", path=folder))


def test_official_parts_go_by_slide(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write_part(tmp_path, part, [0, 1, 0, 1], [f"{part}_1", f"{part}_1", f"{part}_2", f"{part}_2"])
    tiles = read_pcam(tmp_path)
    split = named_split("pcam-official", tiles)
    assert split.unit == "group"
    assert dict(split.side_by_key) == {
        f"{part}_{slide}": part for part in ("train", "valid", "test") for slide in (1, 2)
    }
    assert not split.leaky
    assert split.side_of_tiles(tiles) == tuple(tiles.table["split"])


def test_official_parts_that_share_a_slide_leak(tmp_path: Path) -> None:
    write_part(tmp_path, "train", [0, 1], ["s1", "s2"])
    write_part(tmp_path, "test", [0, 1], ["s2", "s3"])
    with pytest.raises(UserError, match="1 group lies on two sides"):
        named_split("pcam-official", read_pcam(tmp_path))
    split = named_split("pcam-official", read_pcam(tmp_path), allow_leaky=True)
    assert (split.unit, split.leaky) == ("tile", True)


def test_official_parts_without_slides_are_the_authors_word(tmp_path: Path) -> None:
    write_part(tmp_path, "train", [0, 1])
    write_part(tmp_path, "test", [0, 1])
    split = official_parts(read_pcam(tmp_path))
    assert (split.unit, split.leaky) == ("tile", False)
    assert "The slide of 4 tiles is unknown in this copy" in split.notes[0]
