"""The parquet copy: parts by file name, labels read, images left in their cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.images.decode import read_pixels
from histotune.tools.errors import UserError
from tests.datasets.fakes import encoded, write_image_parquet, write_part

LABELS = [False, True, True, False, True]


def tile(number: int) -> np.ndarray:
    return np.full((96, 96, 3), number % 256, np.uint8)


def write_shards(folder: Path, part: str, labels: list[bool], n_shards: int = 2, suffix: str = "-0a1b2c") -> list[Path]:
    """Write a part as the hub names it; tile i is grey level i."""
    paths = []
    for shard, numbers in enumerate(np.array_split(np.arange(len(labels)), n_shards)):
        path = folder / "data" / f"{part}-{shard:05d}-of-{n_shards:05d}{suffix}.parquet"
        write_image_parquet(path, [encoded(tile(i)) for i in numbers], [labels[i] for i in numbers], row_group_size=2)
        paths.append(path)
    return paths


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "patch_camelyon", "path": path, **settings}))


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value)


def test_parts_and_rows(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write_shards(tmp_path, part, LABELS)
    tiles = read(tmp_path)
    assert len(tiles) == 15
    train = tiles.table.filter(tiles.table["split"] == "train")
    assert train["tile_id"].to_list() == [f"train/{i:07d}" for i in range(5)]
    assert train["row"].to_list() == [0, 1, 2, 0, 1]
    assert train["label"].to_list() == [0, 1, 1, 0, 1]
    assert train["group_id"].null_count() == 5
    for number, (path, row) in enumerate(train.select("path", "row").iter_rows()):
        assert np.array_equal(read_pixels(Path(path), row), tile(number))
    assert any(note.startswith("No meta.csv for train, valid, test: the slides") for note in tiles.notes)


@pytest.mark.parametrize("name", ["valid", "validation", "val"])
def test_the_valid_part_has_several_names(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path, name, LABELS, n_shards=1)
    tiles = read(tmp_path)
    assert set(tiles.table["split"]) == {"valid"}
    assert "Part train, test is not here." in tiles.notes


@pytest.mark.parametrize("place", ["test.parquet", "default/test/0000.parquet"])
def test_other_ways_to_name_files(tmp_path: Path, place: str) -> None:
    write_image_parquet(tmp_path / place, [encoded(tile(i)) for i in range(3)], [0, 1, 1])
    assert read(tmp_path).tile_ids == ("test/0000000", "test/0000001", "test/0000002")


def test_no_image_is_read_but_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, "test", LABELS * 20, n_shards=1)
    asked = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches",
        lambda self, *a, **k: ((asked.append((k["row_groups"], k["columns"])), original(self, *a, **k))[1]),
    )  # fmt: skip
    assert len(read(tmp_path)) == 100
    assert asked == [([0], ["image.bytes"])]


def test_missing_shards_are_numbered(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "train", LABELS, n_shards=4)
    paths[1].unlink()
    text = message(tmp_path)
    assert text.startswith(
        "part train is incomplete: 1 of its 4 parquet files are missing: 'number 1 beside data/train-"
    )
    assert "fix: download it again" in text


def test_the_same_shard_twice(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", LABELS, suffix="-aa")
    write_shards(tmp_path, "train", LABELS, suffix="-bb")
    assert message(tmp_path).startswith("part train was found more than once")


def test_all_bad_files_are_reported_together(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "train", LABELS) + write_shards(tmp_path, "test", LABELS)
    for path in paths[::2]:
        path.write_bytes(path.read_bytes()[:-20])
    assert message(tmp_path).count("the parquet file is truncated or damaged") == 2


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": [0, 1]}, 'no column "image"'),
        ({"image": ["a.png", "b.png"], "label": [0, 1]}, 'no column "image" of encoded images'),
        ({"image": [encoded(tile(0))] * 2}, 'no column "label"'),
        ({"image": [encoded(tile(0))] * 2, "label": [0, 2]}, "other labels than 0 and 1"),
        ({"image": [encoded(tile(0))] * 2, "label": [0, None]}, "other labels than 0 and 1"),
        ({"image": [encoded(tile(0))] * 2, "label": ["a", "b"]}, "holds String"),
        ({"image": [b"none"] * 2, "label": [0, 1]}, "first image can't be read (not an image)"),
        ({"image": [encoded(tile(0)[:50])] * 2, "label": [0, 1]}, "no patches of PatchCamelyon: 96 x 50 pixels"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "holds no tile"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, columns: dict[str, object], said: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    text = message(tmp_path)
    assert said in text.splitlines()[0]
    assert "test.parquet" in text


def test_beside_hdf5_files_both_copies_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path, "test", LABELS)
    write_part(tmp_path, "test", [0, 1])
    text = message(tmp_path)
    assert "the HDF5 files (camelyonpatch_level_2_split_test_x.h5), parquet files (data/test-00000" in text


def test_a_meta_table_beside_parquet_files_is_not_trusted(tmp_path: Path) -> None:
    write_shards(tmp_path, "test", LABELS)
    rows = "".join(f"0,0,True,True,slide{i}\n" for i in range(5))
    (tmp_path / "camelyonpatch_level_2_split_test_meta.csv").write_text(
        f"coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n{rows}", encoding="utf-8"
    )
    tiles = read(tmp_path)
    assert tiles.table["slide_id"].null_count() == 5
    assert any("meta.csv beside the parquet files were not used" in note for note in tiles.notes)
