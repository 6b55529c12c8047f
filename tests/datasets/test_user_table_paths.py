"""Paths in a user's table: of Windows, of another folder, of another machine; and columns of one name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "tiles", "path": path, **settings}))


def message(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


def offered(text: str) -> Path:
    """Return the folder that a message offers, as a shell would read it."""
    setting = shlex.split(text.partition("--set ")[2].splitlines()[0])[0]
    return Path(setting.removeprefix("source.images_from="))


def write_table(path: Path, *paths: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{name},{number % 2}\n" for number, name in enumerate(paths))
    path.write_text("path,label\n" + rows, encoding="utf-8")
    return path


def test_backslashes_are_read_as_slashes(tmp_path: Path) -> None:
    write_images(tmp_path, "img/a.png", "img/b.png")
    tiles = read(write_table(tmp_path / "tiles.csv", r"img\a.png", "img/b.png"))
    assert set(tiles.table["path"]) == {str(tmp_path / "img/a.png"), str(tmp_path / "img/b.png")}
    assert set(tiles.tile_ids) == {r"img\a.png", "img/b.png"}
    assert "Paths of Windows: the backslashes of 1 paths were read as slashes." in tiles.notes


def test_a_file_whose_name_holds_a_backslash_is_that_file(tmp_path: Path) -> None:
    write_images(tmp_path, r"img\a.png", "b.png")
    tiles = read(write_table(tmp_path / "tiles.csv", r"img\a.png", "b.png"))
    assert str(tmp_path / r"img\a.png") in set(tiles.table["path"])
    assert not any("Windows" in note for note in tiles.notes)


@pytest.mark.parametrize(
    ("place", "written"),
    [
        ("images", ("a.png", "b.png")),  # below the table's folder
        ("elsewhere/deep", ("s/a.png", "s/b.png")),  # beside it
        ("images", (r"C:\Users\me\data\a.png", r"C:\Users\me\data\b.png")),
        ("images", ("/mnt/other/data/s/a.png", "/mnt/other/data/s/b.png")),
        ("with space's", ("../x/a.png", "../x/b.png")),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_the_folder_of_the_images_is_offered_and_taken(
    tmp_path: Path, place: str, written: tuple[str, str], beside: bool
) -> None:
    below = [re.split(r"[\\/]", name)[-2:] if "s/" in name else re.split(r"[\\/]", name)[-1:] for name in written]
    root = tmp_path / place if beside else tmp_path / "tables" / place
    write_images(root, *("/".join(parts) for parts in below))
    table = write_table(tmp_path / "tables" / "tiles.csv", *written)
    text = message(table)
    assert "not one of the 2 images that this table names is there" in text
    assert str(tmp_path / "tables") in text
    assert "damaged" not in text and "copy" not in text
    tiles = read(table, images_from=offered(text))
    assert set(tiles.table["path"]) == {str(root / "/".join(parts)) for parts in below}
    assert set(tiles.tile_ids) == set(written)
    assert any(note.startswith(f"Images were looked for below {offered(text)}") for note in tiles.notes)


def test_the_working_folder_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "work", "data/a.png", "data/b.png")
    table = write_table(tmp_path / "tables" / "x" / "tiles.csv", "data/a.png", "data/b.png")
    monkeypatch.chdir(tmp_path / "work")
    assert offered(message(table)) == tmp_path / "work"


def test_images_that_are_nowhere_are_said_so_and_no_folder_is_made_up(tmp_path: Path) -> None:
    text = message(write_table(tmp_path / "x/y/tiles.csv", "gone/a.png", "gone/b.png"))
    assert "--set source.images_from=FOLDER" in text
    assert str(tmp_path) in text


def test_a_folder_with_one_file_of_the_same_name_is_not_offered(tmp_path: Path) -> None:
    write_images(tmp_path / "x", "other/0.png")
    table = write_table(tmp_path / "x" / "tables" / "tiles.csv", "set/0.png", "set/1.png", "set/2.png")
    assert "source.images_from=FOLDER" in message(table)


def test_a_folder_that_does_not_hold_them_is_one_message(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    table = write_table(tmp_path / "tiles.csv", "a.png")
    assert "does not lie below the folder" in message(table, images_from=tmp_path / "none")
    (tmp_path / "folders" / "x").mkdir(parents=True)
    (tmp_path / "folders" / "y").mkdir(parents=True)
    write_images(tmp_path / "folders", "x/a.png", "y/b.png")
    assert "images_from is for a table" in message(tmp_path / "folders", images_from=tmp_path)


def test_some_missing_images_are_listed_as_ever(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    assert "none.png (missing)" in message(write_table(tmp_path / "tiles.csv", "none.png", "a.png"))


@pytest.mark.parametrize(
    "header", ["path,label, label", "path,label,label", " path,path,label", "path, group,label,group "]
)
def test_two_columns_of_one_name_are_one_message(tmp_path: Path, header: str) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "tiles.csv").write_text(f"{header}\na.png{',x' * header.count(',')}\n", encoding="utf-8")
    assert message(tmp_path / "tiles.csv").startswith("two columns are named")


@pytest.mark.parametrize("header", ["path,label,note, note", "path,label,,", "path,label,note,note"])
def test_columns_that_are_not_used_may_share_a_name(tmp_path: Path, header: str) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "tiles.csv").write_text(f"{header}\na.png{',x' * header.count(',')}\n", encoding="utf-8")
    assert read(tmp_path / "tiles.csv").tile_ids == ("a.png",)


def test_pointers_of_git_lfs_name_the_command(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "tiles.csv").write_text(pointer, encoding="utf-8")
    assert "git lfs pull" in message(tmp_path / "tiles.csv")
    (tmp_path / "tiles.parquet").write_text(pointer, encoding="utf-8")
    assert "git lfs pull" in message(tmp_path / "tiles.parquet")
    for name in ("a.png", "b.jpg", "c.tif"):
        (tmp_path / name).write_text(pointer, encoding="utf-8")
    text = message(write_table(tmp_path / "own.csv", "a.png", "b.jpg", "c.tif"))
    assert "3 images can't be read" in text and "git lfs pull" in text
