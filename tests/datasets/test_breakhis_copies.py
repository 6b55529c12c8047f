"""BreakHis as others keep it: converted, resized, one class of it, a level too low."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.fetch.fetch_breakhis import count_images
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet, require_classes
from histotune.tools.errors import UserError

NAMES = ("SOB_B_A-14-22549AB-100-001", "SOB_B_A-14-22549AB-400-002", "SOB_M_DC-14-5694-100-003")


def write(folder: Path, suffix: str, size: tuple[int, int] = (700, 460), names: tuple[str, ...] = NAMES) -> Path:
    for name in names:
        place = folder / ("benign" if "_B_" in name else "malignant")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(place / f"{name}{suffix}")
    return folder


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "breakhis", "path": path, **settings}))


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".tif", ".bmp"])
def test_converted_copies_are_read_and_said_to_be_converted(tmp_path: Path, suffix: str) -> None:
    tiles = read(write(tmp_path, suffix))
    assert tiles.tile_ids == NAMES
    assert tiles.table["group_id"].to_list() == ["14-22549", "14-22549", "14-5694"]
    assert tiles.table["mpp"].null_count() == 0
    assert any("3 images are no PNG" in note and "somebody converted" in note for note in tiles.notes)


def test_resized_copies_have_no_scale_but_the_users(tmp_path: Path) -> None:
    write(tmp_path, ".jpg", (224, 224))
    tiles = read(tmp_path)
    assert tiles.table["mpp"].null_count() == len(tiles) == tiles.table["mpp_source"].null_count()
    assert any("224 x 224" in note and "--set source.mpp=" in note for note in tiles.notes)
    assert set(read(tmp_path, mpp=2.0).table["mpp"]) == {2.0}


def test_a_copy_beside_its_original_is_a_clash(tmp_path: Path) -> None:
    write(tmp_path / "png", ".png")
    write(tmp_path / "jpg", ".jpg")
    with pytest.raises(UserError, match="one image name stands for two different images") as caught:
        read(tmp_path)
    assert f"--data {tmp_path / 'jpg'}" in str(caught.value)


def test_converted_copies_are_not_counted_as_the_published_files() -> None:
    assert sum(count_images([f"{name}.png" for name in NAMES]).values()) == 3
    assert not count_images([f"{name}.jpg" for name in NAMES])


@pytest.mark.parametrize("below", ["benign", "benign/SOB"])
def test_one_class_alone_names_the_folder_of_both(tmp_path: Path, below: str) -> None:
    write(tmp_path / "breast", ".png")
    (tmp_path / "breast/benign/SOB").mkdir()
    for path in (tmp_path / "breast/benign").glob("*.png"):
        path.rename(path.parent / "SOB" / path.name)
    tiles = read(tmp_path / "breast" / below)
    with pytest.raises(UserError) as caught:
        require_classes(tiles, "training")
    assert f"pass --data {tmp_path / 'breast'}" in str(caught.value)


def test_a_folder_of_the_tree_without_images_names_the_tree(tmp_path: Path) -> None:
    write(tmp_path / "BreaKHis_v1", ".png")
    (tmp_path / "BreaKHis_v1" / "docs").mkdir()
    (tmp_path / "BreaKHis_v1" / "docs" / "README.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "BreaKHis_v1" / "docs")
    assert f"pass --data {tmp_path / 'BreaKHis_v1'}" in str(caught.value)


def test_pointers_of_git_lfs_name_the_command(tmp_path: Path) -> None:
    write(tmp_path, ".png")
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        read(tmp_path)
