"""PatchCamelyon: parts, layouts, slides, subsets, bad input; the pixels are never read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import LabelRegion, TileSet
from histotune.tools.errors import UserError
from tests.datasets.fakes import write_part

LABELS = [0, 1, 1, 0, 0, 1]
SLIDES = ["s1", "s1", "s2", "s2", "s3", "s3"]
STEM = "camelyonpatch_level_2_split_test"


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "patch_camelyon", "path": path, **settings}))


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value)


def rewrite(path: Path, name: str, data: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=data)


def test_three_parts_with_slides(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write_part(tmp_path, part, LABELS, [f"{part}-{slide}" for slide in SLIDES])
    tiles = read(tmp_path)
    assert len(tiles) == 18
    assert tiles.table.row(7, named=True) == {
        "tile_id": "train/0000001",
        "path": str(tmp_path / "camelyonpatch_level_2_split_train_x.h5"),
        "row": 1,
        "label": 1,
        "group_id": "train-s1",
        "source_patient_id": None,
        "slide_id": "train-s1",
        "site": None,
        "scanner": None,
        "stain": "H&E",
        "magnification": None,
        "mpp": 0.972,
        "mpp_source": "nominal",
        "mpp_factor": 1.0,
        "width_px": 96,
        "height_px": 96,
        "split": "train",
    }
    assert tiles.class_names == ("normal", "tumour")
    assert tiles.label_region == LabelRegion(32, 32, 32, 32)
    assert (tiles.licence, tiles.synthetic, tiles.n_groups) == ("CC0 1.0", False, 9)
    assert tiles.tile_ids == tuple(sorted(tiles.tile_ids))
    assert len(tiles.notes) == 1
    assert "PatchCamelyon has no estimated scale" in tiles.notes[0]


@pytest.mark.parametrize("nested", [False, True])
def test_each_file_may_lie_in_a_folder_of_its_own_name(tmp_path: Path, nested: bool) -> None:
    write_part(tmp_path, "test", LABELS, SLIDES, nested=nested)
    tiles = read(tmp_path)
    assert tiles.labels_N.tolist() == LABELS
    assert tiles.table["slide_id"].to_list() == SLIDES
    assert Path(tiles.table["path"][0]).is_file()


def test_without_meta_the_slides_are_unknown_and_said_so(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS)
    write_part(tmp_path, "valid", LABELS, SLIDES)
    tiles = read(tmp_path)
    assert not tiles.has_groups
    assert tiles.table["group_id"].to_list() == [None] * 6 + SLIDES
    assert tiles.notes[1].startswith("No meta.csv for test: the slides of these tiles are unknown")


def test_only_labels_are_read_never_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(tmp_path, "test", LABELS, SLIDES)
    read_names = []
    plain = h5py.Dataset.__getitem__

    def watched(self: h5py.Dataset, args: object, **keywords: object) -> object:
        read_names.append(self.name)
        return plain(self, args, **keywords)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    read(tmp_path)
    assert read_names == ["/y"]


def test_the_users_scale_wins(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS, SLIDES)
    tiles = read(tmp_path, mpp=1.1)
    assert set(tiles.table["mpp"]) == {1.1}
    assert set(tiles.table["mpp_source"]) == {"user"}


def test_slides_in_two_parts_are_noted(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS, SLIDES)
    write_part(tmp_path, "train", LABELS, ["s3", *SLIDES[1:]])
    assert "3 slides lie in more than one official part, such as s1: the parts leak." in read(tmp_path).notes


def test_an_empty_wsi_cell_is_an_unknown_group(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS, ["", *SLIDES[1:]])
    assert read(tmp_path).table["group_id"].to_list() == [None, *SLIDES[1:]]


def test_a_smaller_part_is_seeded_balanced_and_noted(tmp_path: Path) -> None:
    labels = [0] * 30 + [1] * 10 + [0, 1] * 30
    slides = ["a"] * 30 + ["b"] * 10 + [f"c{i // 6}" for i in range(60)]
    write_part(tmp_path, "train", labels, slides)
    tiles = read(tmp_path, max_tiles_per_split=24, seed=1)
    assert Counter(tiles.labels_N.tolist()) == {0: 12, 1: 12}
    assert tiles.tile_ids == read(tmp_path, max_tiles_per_split=24, seed=1).tile_ids
    assert tiles.tile_ids != read(tmp_path, max_tiles_per_split=24, seed=2).tile_ids
    assert tiles.notes[1].startswith("Part train: kept 24 of 100 tiles (12 normal, 12 tumour) from ")
    for row, label, slide in tiles.table.select("row", "label", "slide_id").iter_rows():
        assert (labels[row], slides[row]) == (label, slide)


def test_rendered_tissue_is_marked(tmp_path: Path) -> None:
    write_part(tmp_path / "pcam", "test", LABELS, SLIDES)
    (tmp_path / "SYNTHETIC.json").write_text("{}", encoding="utf-8")
    tiles = read(tmp_path / "pcam")
    assert tiles.synthetic
    assert tiles.notes[0].startswith("SYNTHETIC")


def test_x_and_y_of_different_length(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS, SLIDES)
    rewrite(tmp_path / f"{STEM}_y.h5", "y", np.zeros((5, 1, 1, 1), np.uint8))
    text = message(tmp_path)
    assert text.startswith("part test has 6 tiles in x and 5 labels in y: ")
    assert "fix: download both files of the part again" in text


def test_all_broken_parts_are_reported_together(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_part(tmp_path, part, LABELS)
        rewrite(tmp_path / f"camelyonpatch_level_2_split_{part}_y.h5", "y", np.zeros((5, 1, 1, 1), np.uint8))
    text = message(tmp_path)
    assert "part train has 6 tiles" in text
    assert "part test has 6 tiles" in text


@pytest.mark.parametrize(("present", "missing"), [("x", "y"), ("y", "x")])
def test_a_missing_counterpart(tmp_path: Path, present: str, missing: str) -> None:
    write_part(tmp_path, "test", LABELS)
    (tmp_path / f"{STEM}_{missing}.h5").unlink()
    text = message(tmp_path)
    assert text.startswith(f"part test is incomplete: {STEM}_{missing}.h5 is missing beside: '{STEM}_{present}.h5'")
    assert "fix: download" in text
    packed = tmp_path / f"{STEM}_{missing}.h5.gz"
    packed.write_bytes(b"\x1f\x8b")
    assert f"fix: gunzip -k {packed}" in message(tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS)
    path = tmp_path / f"{STEM}_x.h5"
    path.write_bytes(path.read_bytes()[:-100])
    text = message(tmp_path)
    assert text.startswith("this HDF5 file is truncated or damaged")
    assert f"fix: unpack it again (gunzip -kf {path}.gz)" in text


def test_a_file_that_is_no_hdf5(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS)
    (tmp_path / f"{STEM}_y.h5").write_bytes(b"no HDF5 at all")
    assert message(tmp_path).startswith("this HDF5 file is truncated or damaged")
    (tmp_path / f"{STEM}_y.h5").write_bytes(b"<html>404</html>")
    assert message(tmp_path).startswith("this HDF5 file is a web page")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((6, 64, 64, 3), np.uint8), "shape (6, 64, 64, 3) and type uint8"),
        (np.zeros((6, 3, 96, 96), np.uint8), "shape (6, 3, 96, 96)"),
        (np.zeros((6, 96, 96, 3), np.float32), "type float32"),
        (np.zeros((0, 96, 96, 3), np.uint8), "holds no tile"),
    ],
)
def test_wrong_pixels(tmp_path: Path, data: np.ndarray, said: str) -> None:
    write_part(tmp_path, "test", LABELS)
    rewrite(tmp_path / f"{STEM}_x.h5", "x", data)
    assert said in message(tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((6, 2), np.uint8), "shape (6, 2)"),
        (np.zeros((6, 1, 1, 1), np.float32), "type float32"),
        (np.full((6, 1, 1, 1), 7, np.uint8), "0 and 1, not [7]"),
    ],
)
def test_wrong_labels(tmp_path: Path, data: np.ndarray, said: str) -> None:
    write_part(tmp_path, "test", LABELS)
    rewrite(tmp_path / f"{STEM}_y.h5", "y", data)
    assert said in message(tmp_path)


def test_a_missing_data_set_inside_the_file(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS)
    rewrite(tmp_path / f"{STEM}_x.h5", "images", np.zeros((6, 96, 96, 3), np.uint8))
    assert message(tmp_path).startswith('this HDF5 file has no data set "x" (it holds: images)')


def test_wrong_meta(tmp_path: Path) -> None:
    write_part(tmp_path, "test", LABELS, SLIDES)
    meta = tmp_path / f"{STEM}_meta.csv"
    meta.write_text("coord_x,slide\n" + "1,a\n" * 6, encoding="utf-8")
    assert message(tmp_path).startswith('this table has no column "wsi" (it has: coord_x, slide)')
    meta.write_text("coord_x,wsi\n" + "1,a\n" * 4, encoding="utf-8")
    assert message(tmp_path).startswith("this table has 4 rows for 6 tiles")
    meta.write_text("", encoding="utf-8")
    assert message(tmp_path).startswith("this table can't be read")


def test_still_compressed(tmp_path: Path) -> None:
    packed = [tmp_path / f"{STEM}_{kind}.h5.gz" for kind in "xy"]
    for path in packed:
        path.write_bytes(b"\x1f\x8b")
    text = message(tmp_path)
    assert text.startswith("the files of PatchCamelyon are still compressed")
    assert f"fix: gunzip -k {packed[0]} {packed[1]}" in text
    write_part(tmp_path, "valid", LABELS)
    tiles = read(tmp_path)
    assert set(tiles.table["split"]) == {"valid"}
    assert any(note.startswith("Skipped part test: still compressed; to use it: gunzip -k ") for note in tiles.notes)


def test_the_same_part_twice(tmp_path: Path) -> None:
    write_part(tmp_path / "a", "test", LABELS)
    write_part(tmp_path / "b", "test", LABELS)
    assert message(tmp_path).startswith("the same part of PatchCamelyon was found twice")


def test_not_patch_camelyon(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    text = message(tmp_path)
    assert text.startswith("this is not PatchCamelyon")
    assert f"names such as {STEM}_x.h5" in text
