"""Parquet files that hold the images themselves, read as the user's own tiles."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.images.decode import PixelReader, tile_sources
from histotune.tools.errors import UserError


def encoded(level: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (6, 5), (level, level, level)).save(held, "PNG")
    return held.getvalue()


def write(file: Path, levels: list[int], names: list[str] | None = None, **columns: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": encoded(level), "path": f"{level}.png"} for level in levels])
    table = pa.table({"image": images, **columns})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, file, row_group_size=2)
    return file


def read(path: Path, **settings: object) -> TileSet:
    return read_dataset(DatasetConfig.model_validate({"name": "tiles", "path": path, **settings}))


def message(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


def test_images_labels_and_groups_of_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "all.parquet", [10, 20, 30], label=[0, 1, 1], group=["p", "q", "q"], mpp=[0.5, 0.5, None])
    tiles = read(path)
    assert tiles.tile_ids == ("all/0000000", "all/0000001", "all/0000002")
    assert tiles.table["group_id"].to_list() == ["p", "q", "q"]
    assert tiles.labels_N.tolist() == [0, 1, 1]
    assert tiles.table["mpp"].to_list() == [0.5, 0.5, None]
    with PixelReader() as reader:
        levels = [int(reader.pixels(source)[0, 0, 0]) for source in tile_sources(tiles)]
    assert levels == [10, 20, 30]


def test_plain_bytes_are_images_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [encoded(1), encoded(2)], "label": ["x", "y"]}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").class_names == ("x", "y")


def test_names_of_classes_come_from_the_hubs_metadata(tmp_path: Path) -> None:
    tiles = read(write(tmp_path / "x.parquet", [1, 2, 3], ["normal", "tumor"], label=[1, 0, -1]))
    assert tiles.class_names == ("normal", "tumor")
    assert tiles.labels_N.tolist() == [1, 0, -1]


def test_a_folder_of_parts(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", [1, 2], label=[0, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", [3], label=[1])
    write(tmp_path / "data/test-00000-of-00001.parquet", [4], label=[0])
    tiles = read(tmp_path)
    assert tiles.table["split"].to_list() == ["test", "train", "train", "train"]
    assert len(tiles) == 4
    (tmp_path / "data/train-00000-of-00002.parquet").unlink()
    assert "1 of the 2 parquet files of train are missing" in message(tmp_path)


def test_unlabelled_files_and_columns_of_other_names(tmp_path: Path) -> None:
    tiles = read(write(tmp_path / "x.parquet", [1, 2], patient=["a", "b"]))
    assert tiles.labels_N.tolist() == [-1, -1]
    assert any("patient (did you mean group?)" in note for note in tiles.notes)
    assert "misspelt" in message(write(tmp_path / "y.parquet", [1, 2], lable=[0, 1]))


def test_paths_win_over_a_column_named_image(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    write(tmp_path / "x.parquet", [1], path=["a.png"], label=[0])
    assert read(tmp_path / "x.parquet").tile_ids == ("a.png",)


@pytest.mark.parametrize("setting", [{"group_pattern": "(?P<group>.)"}, {"images_from": "."}])
def test_settings_that_would_do_nothing_are_refused(tmp_path: Path, setting: dict[str, str]) -> None:
    assert "does nothing for parquet files of images" in message(
        write(tmp_path / "x.parquet", [1], label=[0]), **setting
    )


def test_damage_is_one_message(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [1, 2], label=[0, 1])
    path.write_bytes(path.read_bytes()[:-30])
    assert "can't be read" in message(path)
    rng = np.random.default_rng(0)
    whole = write(tmp_path / "y.parquet", [1, 2], label=[0, 1]).read_bytes()
    for place in rng.integers(0, len(whole), 60):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        (tmp_path / "y.parquet").write_bytes(bytes(broken))
        try:
            read(tmp_path / "y.parquet")
        except UserError:
            continue
