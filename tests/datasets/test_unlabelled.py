"""Which images are read without labels: every kind of place, each image once, and what is no image in one message."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from PIL import Image

from histotune.datasets.unlabelled import expand_pattern, read_unlabelled_images
from histotune.tools.errors import UserError

CLASSES = ("benign", "malignant")


def image(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 150, 180)).save(path)
    return path


def hdf5(path: Path, shape: tuple[int, ...] = (3, 8, 9, 3), name: str = "x") -> Path:
    with h5py.File(path, "w") as file:
        file[name] = np.zeros(shape, np.uint8)
    return path


def test_each_image_is_there_once_however_often_it_is_named(tmp_path: Path) -> None:
    one, _ = image(tmp_path / "a" / "1.png"), image(tmp_path / "a" / "2.png")
    tiles = read_unlabelled_images([tmp_path / "a", one, tmp_path / "a" / "*.png"], CLASSES)
    assert [Path(path).name for path in tiles.table["path"]] == ["1.png", "2.png"]
    assert tiles.table["mpp"].null_count() == 2


def test_rows_of_an_hdf5_file_are_images_of_known_size(tmp_path: Path) -> None:
    tiles = read_unlabelled_images([hdf5(tmp_path / "a.h5")], CLASSES, mpp=0.5)
    assert tiles.tile_ids == tuple(f"{tmp_path}/a.h5/000000{row}" for row in range(3))
    assert tiles.table.select("row", "width_px", "height_px", "mpp").row(2) == (2, 9, 8, 0.5)


@pytest.mark.parametrize(
    ("shape", "name", "said"),
    [((3, 8, 9), "x", "holds no images"), ((0, 8, 9, 3), "x", "holds no images"),
     ((3, 8, 9, 3), "images", 'no data set "x"')],
)  # fmt: skip
def test_an_hdf5_file_of_something_else_is_refused(
    tmp_path: Path, shape: tuple[int, ...], name: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read_unlabelled_images([hdf5(tmp_path / "a.h5", shape, name)], CLASSES)


def test_a_torn_hdf5_file_is_one_message(tmp_path: Path) -> None:
    data = hdf5(tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(data[:300])
    with pytest.raises(UserError, match="can't be read"):
        read_unlabelled_images([tmp_path / "a.h5"], CLASSES)


def test_a_link_to_other_files_inside_an_hdf5_file_is_refused(tmp_path: Path) -> None:
    hdf5(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "x")
    with pytest.raises(UserError, match="a link to elsewhere"):
        read_unlabelled_images([tmp_path / "a.h5"], CLASSES)


def test_a_table_gives_slides_cases_and_scales_and_its_labels_are_not_read(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        image(tmp_path / name)
    rows = {"path": ["1.png", "2.png"], "label": ["whatever", "7.25"], "group": ["c1", None], "slide": ["s1", "s2"]}
    pl.DataFrame({**rows, "mpp": [0.25, None]}).write_csv(tmp_path / "tiles.csv")
    tiles = read_unlabelled_images([tmp_path / "tiles.csv"], CLASSES, mpp=1.0)
    assert tiles.class_names == CLASSES
    assert (tiles.labels_N == -1).all()
    assert tiles.table["group_id"].to_list() == ["c1", None]
    assert tiles.table["slide_id"].to_list() == ["s1", "s2"]
    assert tiles.table["mpp"].to_list() == [0.25, 1.0]
    assert tiles.table["width_px"].to_list() == [12, 12]


def test_two_tables_that_name_other_images_alike_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        image(tmp_path / folder / "1.png")
        pl.DataFrame({"path": ["1.png"]}).write_csv(tmp_path / folder / "tiles.csv")
    with pytest.raises(UserError, match="two images have one name"):
        read_unlabelled_images([tmp_path / "a" / "tiles.csv", tmp_path / "b" / "tiles.csv"], CLASSES)


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as refused:
        read_unlabelled_images(
            [tmp_path / "gone.png", tmp_path / "notes.txt", tmp_path / "empty", tmp_path / "no*"], CLASSES, mpp=-1.0
        )
    for said in ("gone.png", "notes.txt", "empty", "positive number"):
        assert said in str(refused.value)


@pytest.mark.parametrize("name", ["set[1]", "s?t", "s*", "**", "[", "a[!b]"])
def test_what_is_there_is_never_a_pattern(tmp_path: Path, name: str) -> None:
    for folder in (name, "set1", "sat", "set", "ac"):
        image(tmp_path / folder / "1.png")
    assert expand_pattern(tmp_path / name) == [tmp_path / name]
    tiles = read_unlabelled_images([tmp_path / name], CLASSES)
    assert tiles.tile_ids == (str(tmp_path / name / "1.png"),)


def test_a_pattern_finds_files_at_any_depth_and_no_hidden_ones(tmp_path: Path) -> None:
    wanted = [image(tmp_path / "a" / "1.png"), image(tmp_path / "a" / "b" / "2.png")]
    image(tmp_path / "a" / ".hidden" / "3.png")
    image(tmp_path / "a" / "b" / ".4.png")
    assert expand_pattern(tmp_path / "a" / "**" / "*.png") == wanted
    with pytest.raises(UserError, match="as a pattern it matches nothing"):
        expand_pattern(tmp_path / "a" / "*.tif")
