"""Kaggle's copy: labels joined to images by id; everything left out is counted."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.describe import describe
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from tests.datasets.fakes import encoded, real_data, write_part


def image_id(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


def write_kaggle(folder: Path, labels: list[int], n_test: int = 2) -> Path:
    """Write the competition's layout; tile i is grey level 10 i."""
    for part, numbers in (("train", range(len(labels))), ("test", range(100, 100 + n_test))):
        (folder / part).mkdir(parents=True)
        for number in numbers:
            pixels = np.full((96, 96, 3), number * 10 % 256, np.uint8)
            (folder / part / f"{image_id(number)}.tif").write_bytes(encoded(pixels, "TIFF"))
    rows = "".join(f"{image_id(number)},{label}\n" for number, label in enumerate(labels))
    (folder / "train_labels.csv").write_text("id,label\n" + rows, encoding="utf-8")
    return folder


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "patch_camelyon", "path": path, **settings}))


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value)


def test_labelled_images_become_tiles_without_parts_or_slides(tmp_path: Path) -> None:
    tiles = read(write_kaggle(tmp_path, [0, 1, 1]))
    assert tiles.tile_ids == tuple(sorted(image_id(number) for number in range(3)))
    assert dict(zip(tiles.tile_ids, tiles.labels_N.tolist(), strict=True)) == {
        image_id(0): 0, image_id(1): 1, image_id(2): 1,
    }  # fmt: skip
    row = tiles.table.row(0, named=True)
    assert row["path"] == str(tmp_path / "train" / f"{row['tile_id']}.tif")
    assert (row["row"], row["split"], row["group_id"], row["slide_id"]) == (None, None, None, None)
    assert (row["width_px"], row["height_px"], row["mpp"]) == (96, 96, 0.972)
    assert not tiles.has_groups
    text = " ".join(tiles.notes)
    for words in ("without duplicate patches", "no official parts", "Left out 2 images in test",
                  "This copy names no slides", "no grouped split or interval"):  # fmt: skip
        assert words in text
    assert any("intervals over slides are refused" in warning for warning in describe(tiles).warnings)


def test_images_and_rows_that_lack_each_other_are_counted(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1, 1])
    shutil.move(tmp_path / "train" / f"{image_id(0)}.tif", tmp_path / "elsewhere.tif")
    (tmp_path / "train" / f"{image_id(7)}.tif").write_bytes(b"x")
    text = " ".join(read(tmp_path).notes)
    assert "INCOMPLETE: 1 of 3 rows of train_labels.csv have no image here" in text
    assert "Left out 1 images that train_labels.csv does not name." in text
    assert "Skipped 1 other file." in text


def test_a_seeded_subset(tmp_path: Path) -> None:
    tiles = read(write_kaggle(tmp_path, [0, 1] * 5), max_tiles_per_split=4)
    assert len(tiles) == 4
    assert "This copy: kept 4 of 10 tiles (2 normal, 2 tumour), drawn at random" in " ".join(tiles.notes)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("name,label\na,0\n", "other columns"),
        (f"id,label\n{image_id(0)},2\n", "other labels than 0 and 1"),
        (f"id,label\n{image_id(0)},\n", "other labels than 0 and 1"),
        (f"id,label\n{image_id(0)},0\n{image_id(0)},1\n", "both labels"),
        (f"id,label\n{image_id(9)},0\n", "no image belongs to a row"),
        ("", "can't be read"),
    ],
)
def test_wrong_tables(tmp_path: Path, rows: str, said: str) -> None:
    write_kaggle(tmp_path, [0])
    (tmp_path / "train_labels.csv").write_text(rows, encoding="utf-8")
    text = message(tmp_path)
    assert said in text.splitlines()[0]
    assert "fix: download" in text


def test_a_repeated_row_of_one_label_is_one_tile(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1])
    with (tmp_path / "train_labels.csv").open("a", encoding="utf-8") as stream:
        stream.write(f"{image_id(1)},1\n")
    assert len(read(tmp_path)) == 2


def test_missing_pieces(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1])
    assert message(tmp_path / "train").startswith("images of Kaggle's copy lie here, but no train_labels.csv")
    shutil.copytree(tmp_path / "train", tmp_path / "again")
    assert message(tmp_path).startswith("the same image of Kaggle's copy was found twice")
    for folder in ("train", "test", "again"):
        shutil.rmtree(tmp_path / folder)
    assert message(tmp_path).startswith("train_labels.csv lies here, but none of its images")


def test_empty_images_are_listed_together_and_other_sizes_refused(tmp_path: Path) -> None:
    write_kaggle(tmp_path, [0, 1, 1])
    for number in (0, 2):
        (tmp_path / "train" / f"{image_id(number)}.tif").write_bytes(b"")
    text = message(tmp_path)
    assert text.startswith("2 images can't be read")
    assert text.count("(empty file)") == 2
    for number in range(3):
        Image.new("RGB", (50, 50)).save(tmp_path / "train" / f"{image_id(number)}.tif")
    assert message(tmp_path).startswith("this is no patch of PatchCamelyon (50 x 50 pixels)")


def test_two_copies_in_one_folder_are_both_named(tmp_path: Path) -> None:
    write_kaggle(tmp_path / "kaggle", [0, 1])
    write_part(tmp_path / "hdf5", "test", [0, 1])
    text = message(tmp_path)
    assert text.startswith("2 copies of PatchCamelyon lie in this folder: the HDF5 files (hdf5/camelyonpatch")
    assert "the images of Kaggle (kaggle/test/" in text
    assert "fix: point --data to the folder of one of them" in text


@pytest.mark.real_data
def test_the_real_sample() -> None:
    tiles = read(real_data("pcam_kaggle_sample"))
    assert len(tiles) == 15
    assert sorted(set(tiles.labels_N.tolist())) == [0, 1]
    assert "Left out 11 images in test" in " ".join(tiles.notes)
