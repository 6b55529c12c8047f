"""Class folders: labels by folder, groups by pattern, parts where they lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    return folder


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "tiles", "path": path, **settings}))


def message(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


def test_one_folder_per_class(tmp_path: Path) -> None:
    write_images(tmp_path, "normal/a.png", "normal/deep/b.JPG", "cancer/c.tif")
    (tmp_path / "readme.txt").write_text("x", encoding="utf-8")
    (tmp_path / "normal" / "._a.png").write_bytes(b"\0")
    tiles = read(tmp_path)
    assert tiles.tile_ids == ("cancer/c.tif", "normal/a.png", "normal/deep/b.JPG")
    assert tiles.class_names == ("normal", "cancer")
    assert tiles.labels_N.tolist() == [1, 0, 0]
    assert tiles.table["width_px"].to_list() == [40, 40, 40]
    assert tiles.table["split"].null_count() == 3
    assert "Skipped 2 files that are no image by name, such as normal/._a.png." in tiles.notes
    assert not tiles.has_groups


def test_folders_of_parts(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a/1.png", "train/b/2.png", "Val/a/3.png", "test/b/4.png")
    tiles = read(tmp_path)
    assert dict(tiles.table.select("tile_id", "split").iter_rows()) == {
        "train/a/1.png": "train", "train/b/2.png": "train", "Val/a/3.png": "valid", "test/b/4.png": "test",
    }  # fmt: skip
    assert tiles.class_names == ("a", "b")
    assert "Part test lacks a." in tiles.notes


def test_groups_from_file_names(tmp_path: Path) -> None:
    write_images(tmp_path, "a/p1_1.png", "a/p2_1.png", "b/p1_2.png", "b/odd.png")
    tiles = read(tmp_path, group_pattern=r"^(?P<group>p\d+)_")
    assert tiles.table["group_id"].to_list() == ["p1", "p2", None, "p1"]
    assert r"Groups come from file names: 2 by the pattern ^(?P<group>p\d+)_." in tiles.notes
    assert "The pattern finds no group in 1 names, such as odd.png." in tiles.notes
    assert message(tmp_path, group_pattern="(?P<group>zz)").startswith("group_pattern finds no group in any file name")


def test_a_pattern_sees_folders_below_the_class(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a/case7/1.png", "train/b/case9/1.png")
    tiles = read(tmp_path, group_pattern="^(?P<group>[^/]+)/")
    assert tiles.table["group_id"].to_list() == ["case7", "case9"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("1.png", "a/2.png"), "1 images lie in no class folder: '1.png'"),
        (("train/1.png", "train/a/2.png"), "1 images lie in no class folder: 'train/1.png'"),
        (("train/a/1.png", "tumour/2.png"), "folders of parts and of classes lie side by side"),
        (("A/1.png", "a/2.png"), "labels that look alike would be different classes"),
    ],
)
def test_other_layouts(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    assert said in message(write_images(tmp_path, *names))


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x", encoding="utf-8")
    assert message(tmp_path).startswith("this folder holds no images")
    assert message(tmp_path / "gone").startswith("this folder does not exist")


def test_names_with_spaces_and_other_letters(tmp_path: Path) -> None:
    write_images(tmp_path, "Klasse Ä/Bild 1 µm.png", "良性/図 2.png")
    tiles = read(tmp_path)
    assert tiles.class_names == ("Klasse Ä", "良性")
    assert tiles.tile_ids == ("Klasse Ä/Bild 1 µm.png", "良性/図 2.png")
