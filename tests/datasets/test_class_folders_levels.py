"""A level of folders too high or too low, a table beside the folders, and the commands that mend it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet, require_classes
from histotune.tools.errors import UserError


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)
    return folder


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "tiles", "path": path, **settings}))


def message(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


def test_patients_above_classes_are_refused_and_the_fix_reads_them(tmp_path: Path) -> None:
    write_images(tmp_path, "p1/0/a.png", "p1/1/b.png", "p2/0/a.png", "p3/1/c.png")
    text = message(tmp_path)
    assert "these folders are no classes, but the folders in them are" in text
    assert "--set source.layout=group/class" in text and "--set source.layout=class " in text
    as_before = read(tmp_path, class_level=2, group_pattern="^(?P<group>[^/]+)/")
    tiles = read(tmp_path, layout="group/class")
    assert tiles.table.equals(as_before.table)
    assert tiles.class_names == ("0", "1")
    assert tiles.table["group_id"].to_list() == ["p1", "p1", "p2", "p3"]
    assert tiles.labels_N.tolist() == [0, 1, 0, 1]


def test_one_folder_too_high_names_the_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "archive/benign/a.png", "archive/malignant/b.png")
    text = message(tmp_path)
    assert f"--data {tmp_path / 'archive'}" in text
    assert read(tmp_path / "archive").class_names == ("benign", "malignant")


def test_one_folder_too_high_with_names_that_may_be_anything(tmp_path: Path) -> None:
    write_images(tmp_path, "archive/colon_aca/a.png", "archive/colon_n/b.png")
    tiles = read(tmp_path)
    assert any(f"pass --data {tmp_path / 'archive'}" in note for note in tiles.notes)
    with pytest.raises(UserError) as caught:
        require_classes(tiles, "training")
    assert f"pass --data {tmp_path / 'archive'}" in str(caught.value)


def test_classes_within_sets_are_doubted(tmp_path: Path) -> None:
    write_images(tmp_path, "colon_sets/aca/a.png", "colon_sets/n/b.png", "lung_sets/aca/c.png", "lung_sets/scc/d.png")
    tiles = read(tmp_path)
    assert any("--set source.layout=group/class" in note for note in tiles.asked)
    assert read(tmp_path, class_level=2).class_names == ("aca", "n", "scc")


@pytest.mark.parametrize(
    "names",
    [
        ("benign/p1/a.png", "malignant/p2/b.png"),
        ("benign/40X/a.png", "malignant/40X/b.png", "normal/100X/c.png"),
        ("0/p1/a.png", "1/p2/b.png"),
        ("train/benign/p1/a.png", "train/malignant/p2/b.png"),
    ],
)
def test_what_lies_below_classes_is_no_reason_to_refuse(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert len(read(write_images(tmp_path, *names)).class_names) >= 2


def test_images_of_one_class_name_the_folder_above(tmp_path: Path) -> None:
    write_images(tmp_path / "set", "tumor/a.png", "stroma/b.png")
    assert f"pass --data {tmp_path / 'set'}" in message(tmp_path / "set" / "tumor")


def test_patients_of_one_class_are_doubted(tmp_path: Path) -> None:
    write_images(tmp_path / "set", "benign/p1/a.png", "benign/p2/a.png", "malignant/p3/b.png")
    notes = read(tmp_path / "set" / "benign").notes
    assert any(f"pass --data {tmp_path / 'set'}" in note for note in notes)


def test_parts_below_classes_are_said_not_to_be_used(tmp_path: Path) -> None:
    write_images(tmp_path, "a/train/1.png", "b/test/2.png")
    assert any("which are not used as such, since parts come first" in note for note in read(tmp_path).notes)


# ---- A table beside the folders ----


def test_a_table_beside_class_folders_is_named_with_the_way_to_use_it(tmp_path: Path) -> None:
    write_images(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "tiles.csv").write_text("path,label,group\na/1.png,x,p\nb/2.png,y,q\n", encoding="utf-8")
    tiles = read(tmp_path)
    assert tiles.class_names == ("a", "b")
    assert f"A table in this folder was not used; to read it: --data {tmp_path / 'tiles.csv'}." in tiles.notes
    assert read(tmp_path / "tiles.csv").class_names == ("x", "y")


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("images/1.png", "images/2.png")])
@pytest.mark.parametrize("table", ["tiles.csv", "labels.tsv"])
def test_a_table_is_read_where_there_are_no_class_folders(tmp_path: Path, names: tuple[str, str], table: str) -> None:
    write_images(tmp_path, *names)
    mark = "\t" if table.endswith(".tsv") else ","
    rows = "".join(f"{name}{mark}{number}\n" for number, name in enumerate(names))
    (tmp_path / table).write_text(f"path{mark}label\n{rows}", encoding="utf-8")
    tiles = read(tmp_path)
    assert tiles.class_names == ("0", "1")
    assert f"The tiles are those of the table {table}: this folder holds no class folders." in tiles.notes


def test_two_tables_are_not_guessed_between(tmp_path: Path) -> None:
    write_images(tmp_path, "1.png")
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path,label\n1.png,x\n", encoding="utf-8")
    assert f"--data {tmp_path / 'a.csv'}" in message(tmp_path)
    (tmp_path / "b.csv").write_text("name,age\nx,1\n", encoding="utf-8")  # this one names no images
    assert read(tmp_path).tile_ids == ("1.png",)
