"""BreakHis: any arrangement of its files, real sample, full size, bad input."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.disk import png_size_px
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TILE_SCHEMA, TileSet
from histotune.tools.errors import UserError
from tests.datasets.fakes import (
    COUNTS_BY_MAGNIFICATION,
    full_size_names,
    png_header,
    real_data,
    tree_folder,
    write_image,
)

NAMES = [
    "SOB_B_A-14-22549AB-40-001.png",
    "SOB_B_F-14-29960AB-100-002.png",
    "SOB_B_TA-14-16184CD-200-003.png",
    "SOB_M_DC-14-13412-400-004.png",
    "SOB_M_LC-14-13412-400-005.png",
    "SOB_M_MC-14-18842D-100-006.png",
]


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "breakhis", "path": path, **settings}))


def write_tree(root: Path, names: list[str]) -> None:
    for name in names:
        write_image(tree_folder(root, name), name)


def message(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


def test_a_name_says_everything(tmp_path: Path) -> None:
    write_tree(tmp_path, NAMES)
    tiles = read(tmp_path)
    row = tiles.table.row(by_predicate=pl.col("tile_id") == "SOB_M_DC-14-13412-400-004", named=True)
    assert row == {
        "tile_id": "SOB_M_DC-14-13412-400-004",
        "path": str(tree_folder(tmp_path, NAMES[3]) / NAMES[3]),
        "row": None,
        "label": 1,
        "group_id": "14-13412",
        "source_patient_id": "SOB_M_DC_14-13412",
        "slide_id": "14-13412",
        "site": None,
        "scanner": None,
        "stain": "H&E",
        "magnification": "400X",
        "mpp": 0.25,
        "mpp_source": "estimated",
        "mpp_factor": 1.25,
        "width_px": 700,
        "height_px": 460,
        "split": None,
    }
    assert tiles.table["tile_id"].to_list() == sorted(name.removesuffix(".png") for name in NAMES)
    assert tiles.class_names == ("benign", "malignant")
    assert tiles.labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert (tiles.licence, tiles.synthetic, tiles.label_region) == ("CC BY 4.0", False, None)
    assert tiles.n_groups == 5


@pytest.mark.parametrize(
    "below", ["", "BreaKHis_v1", "BreaKHis_v1/histology_slides", "BreaKHis_v1/histology_slides/breast"]
)
def test_the_folder_may_be_given_at_any_level(tmp_path: Path, below: str) -> None:
    write_tree(tmp_path, NAMES)
    assert read(tmp_path / below).table.equals(read(tmp_path).table)


def test_the_flattened_layout_gives_the_same_tiles(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", NAMES)
    for name in NAMES:
        side = "benign" if name[4] == "B" else "malignant"
        write_image(tmp_path / "flat" / f"{name.split('-')[3]}X" / side, name)
    flat, tree = read(tmp_path / "flat"), read(tmp_path / "tree")
    assert flat.table.drop("path").equals(tree.table.drop("path"))
    assert flat.label_fingerprint == tree.label_fingerprint
    assert len(flat.notes) == 1


def test_extensions_in_capitals_are_read(tmp_path: Path) -> None:
    write_image(tmp_path, "SOB_B_A-14-22549AB-40-001.PNG")
    assert read(tmp_path).tile_ids == ("SOB_B_A-14-22549AB-40-001",)


def test_eva_classes_in_their_order_with_the_others_dropped_and_noted(tmp_path: Path) -> None:
    write_tree(tmp_path, NAMES)
    tiles = read(tmp_path, labels="eva4")
    assert tiles.class_names == ("TA", "MC", "F", "DC")
    assert dict(zip(tiles.tile_ids, tiles.labels_N.tolist(), strict=True)) == {
        "SOB_B_F-14-29960AB-100-002": 2,
        "SOB_B_TA-14-16184CD-200-003": 0,
        "SOB_M_DC-14-13412-400-004": 3,
        "SOB_M_MC-14-18842D-100-006": 1,
    }
    assert tiles.notes[-1] == "Labels eva4 leave out 2 images of other tumour types (A 1, LC 1)."


def test_eight_classes(tmp_path: Path) -> None:
    write_tree(tmp_path, NAMES)
    tiles = read(tmp_path, labels="all8")
    assert tiles.class_names == ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC")
    assert tiles.labels_N.tolist() == [0, 1, 3, 4, 5, 6]


def test_no_image_of_the_classes_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, [NAMES[0]])
    text = message(tmp_path, labels="eva4")
    assert "no image has a tumour type of these classes: 'eva4'" in text
    assert "allowed: TA, MC, F, DC" in text


@pytest.mark.parametrize(
    ("settings", "mpp", "source", "factor"),
    [
        ({}, [2.5, 1.0, 0.5, 0.25], "estimated", 1.25),
        ({"mpp_source": "nominal"}, [0.49, 0.20, 0.10, 0.05], "nominal", 1.0),
        ({"mpp": 0.4}, [0.4] * 4, "user", 1.0),
        ({"mpp": 0.4, "mpp_source": "nominal"}, [0.4] * 4, "user", 1.0),
    ],
)
def test_the_scale_is_one_of_the_candidates_or_the_users(
    tmp_path: Path, settings: dict[str, object], mpp: list[float], source: str, factor: float
) -> None:
    write_tree(tmp_path, NAMES[:4])
    tiles = read(tmp_path, **settings)
    assert tiles.table["mpp"].to_list() == mpp
    assert set(tiles.table["mpp_source"]) == {source}
    assert set(tiles.table["mpp_factor"]) == {factor}
    assert tiles.notes[0].startswith("Scale: ")
    assert ("given by the user" in tiles.notes[0]) == (source == "user")


def test_every_size_comes_from_its_header_and_agrees_with_pillow(tmp_path: Path) -> None:
    Image.new("RGB", (70, 46)).save(tmp_path / NAMES[0])
    write_image(tmp_path, NAMES[3], png_header(700, 456))
    tiles = read(tmp_path)
    assert tiles.table["width_px"].to_list() == [70, 700]
    assert tiles.table["height_px"].to_list() == [46, 456]
    assert png_size_px(str(tmp_path / NAMES[0])) == Image.open(tmp_path / NAMES[0]).size


def test_all_bad_files_are_listed_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, [NAMES[0]])
    write_image(tmp_path, NAMES[1], b"\xff\xd8\xff\xe0" + bytes(40))
    write_image(tmp_path, NAMES[2], b"")
    write_image(tmp_path, NAMES[3], png_header()[:20])
    write_image(tmp_path, NAMES[4], png_header(0, 460))
    (tmp_path / NAMES[5]).symlink_to(tmp_path / "gone.png")
    text = message(tmp_path)
    assert text.startswith("5 images can't be read: ")
    for name, reason in zip(
        NAMES[1:], ["not a PNG", "empty file", "not a PNG", "no pixels", "No such file or directory"], strict=True
    ):
        assert f"{name} ({reason})" in text
    assert "fix: download these files again, remove them, or leave them out with --on-bad-image skip" in text


@pytest.mark.parametrize(
    "name",
    [
        "SOB_B_DC-14-22549AB-40-001.png",  # a malignant type filed as benign
        "SOB_M_DC-14-5694-80-005.png",  # no such magnification
        "SOB_M_DC_14-5694-400-005.png",  # a folder's name
        "._SOB_M_DC-14-5694-400-005.png",  # macOS resource fork
        "copy of SOB_M_DC-14-5694-400-005.png",
        "SOB_M_DC-14-5694-400-005.png.part",
        "Folds.csv",
    ],
)
def test_other_names_are_counted_in_a_note(tmp_path: Path, name: str) -> None:
    write_image(tmp_path, NAMES[0])
    write_image(tmp_path, name)
    tiles = read(tmp_path)
    assert len(tiles) == 1
    assert tiles.notes[1:] == (f"Skipped 1 file not named like a BreakHis image, such as {name}.",)


def test_not_breakhis_is_said_with_an_example(tmp_path: Path) -> None:
    write_image(tmp_path / "cats", "cat.png")
    text = message(tmp_path)
    assert text.startswith("this is not BreakHis")
    assert "SOB_M_DC-14-5694-400-005.png" in text
    assert "found 1 other file, such as cats/cat.png" in text.replace("\\", "/")


def test_identical_copies_are_noted_and_read_once(tmp_path: Path) -> None:
    write_image(tmp_path / "a", NAMES[0])
    write_image(tmp_path / "b", NAMES[0])
    tiles = read(tmp_path)
    assert tiles.table["path"].to_list() == [str(tmp_path / "a" / NAMES[0])]
    assert "Skipped 1 identical copy of an image found elsewhere" in tiles.notes[1]


def test_one_name_for_two_images_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a", NAMES[0])
    write_image(tmp_path / "b", NAMES[0], png_header(700, 456))
    text = message(tmp_path)
    assert text.startswith("one image name stands for two different images: ")
    assert f"a/{NAMES[0]} and b/{NAMES[0]}" in text.replace("\\", "/")
    assert "fix: point --data to one copy" in text


def test_a_folder_that_contradicts_the_name_is_noted(tmp_path: Path) -> None:
    write_image(tmp_path / "100X" / "malignant", NAMES[0])
    write_image(tmp_path / "100X" / "benign", NAMES[1])
    tiles = read(tmp_path)
    assert tiles.labels_N.tolist() == [0, 0]
    assert tiles.notes[1].startswith("1 image lies in a folder of another class or magnification")


@pytest.mark.parametrize("mark", [".", "BreaKHis_v1", "..", "../.."])
def test_rendered_tissue_is_marked(tmp_path: Path, mark: str) -> None:
    root = tmp_path / "cohort" / "images"
    write_tree(root, NAMES)
    (root / mark / "SYNTHETIC.json").write_text("{}", encoding="utf-8")
    tiles = read(root)
    assert tiles.synthetic
    assert tiles.notes[0].startswith("SYNTHETIC")
    assert len(tiles.notes) == 2
    if mark != "BreaKHis_v1":
        assert read(root / "BreaKHis_v1").synthetic == (mark != "../..")


def test_a_mark_beside_the_tree_is_found_from_deep_inside(tmp_path: Path) -> None:
    write_tree(tmp_path, NAMES)
    (tmp_path / "SYNTHETIC.json").write_text("{}", encoding="utf-8")
    assert read(tmp_path / "BreaKHis_v1" / "histology_slides" / "breast").synthetic


def test_full_size(tmp_path: Path) -> None:
    names = full_size_names()
    write_tree(tmp_path, names)
    tiles = read(tmp_path)
    assert len(tiles) == 7909
    assert dict(tiles.table.schema) == dict(TILE_SCHEMA)
    counts = tiles.table.group_by("magnification", "label").len()
    for magnification, by_label in COUNTS_BY_MAGNIFICATION.items():
        for label, n in enumerate(by_label):
            row = counts.filter((pl.col("magnification") == f"{magnification}X") & (pl.col("label") == label))
            assert row["len"].to_list() == [n]
    assert tiles.table["source_patient_id"].n_unique() == 82
    assert tiles.table.filter(pl.col("label") == 0)["source_patient_id"].n_unique() == 24
    assert tiles.n_groups == len({name.split("-")[2].rstrip("ABCDEFG") for name in names})
    assert tiles.table.group_by("group_id").agg(pl.col("label").n_unique())["label"].max() == 1


@pytest.mark.real_data
def test_the_real_sample() -> None:
    tiles = read(real_data("breakhis_sample"))
    counts = dict(tiles.table.group_by("magnification").len().iter_rows())
    assert counts == {"40X": 9, "100X": 154, "200X": 1, "400X": 21}
    at_100x = tiles.where(pl.col("magnification") == "100X")
    assert at_100x.n_groups == 14
    assert at_100x.table["label"].value_counts().sort("label")["count"].to_list() == [80, 74]
    assert at_100x.table["source_patient_id"].n_unique() == 16
    for path, width_px, height_px in tiles.table.select("path", "width_px", "height_px").iter_rows():
        with Image.open(path) as image:
            assert image.size == (width_px, height_px)
    assert not tiles.synthetic
