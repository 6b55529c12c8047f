"""The worked examples of the documentation, each on a made-up miniature of its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.describe import describe, render_text
from histotune.datasets.read import read_dataset, spec_of
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from tests.datasets.fakes import encoded

EXAMPLES = Path(__file__).parents[2] / "docs" / "datasets"


def settings(name: str, data: Path) -> DatasetConfig:
    return DatasetConfig(name="python", path=data, code=EXAMPLES / f"{name}.py")


def read(name: str, data: Path) -> TileSet:
    return read_dataset(settings(name, data))


def write(path: Path, width_px: int, height_px: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "TIFF" if path.suffix == ".tif" else "PNG"
    path.write_bytes(encoded(np.zeros((height_px, width_px, 3), np.uint8), kind))


def test_there_is_a_test_for_every_example() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"nct_crc_he", "mhist", "bach"}


def test_nct_crc_he(tmp_path: Path) -> None:
    classes = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
    for name in classes:
        for ending in ("AAAFLCLY", "AAEGIQKQ"):
            write(tmp_path / "NCT-CRC-HE-100K" / name / f"{name}-{ending}.tif", 224, 224)
    tiles = read("nct_crc_he", tmp_path)
    assert len(tiles) == 18
    assert tiles.class_names == classes
    assert tiles.table["group_id"].null_count() == 18
    assert set(tiles.table["mpp"]) == {0.5}
    assert set(tiles.table["width_px"]) == {224}
    text = render_text(describe(tiles, spec_of(settings("nct_crc_he", tmp_path))))
    assert "NCT-CRC-HE-100K" in text
    assert "CRC-VAL-HE-7K" in text


def test_mhist(tmp_path: Path) -> None:
    head = "Image Name,Majority Vote Label,Number of Annotators who Selected SSA (Out of 7),Partition"
    rows = ["MHIST_aaa.png,SSA,6,train", "MHIST_aab.png,HP,0,train", "MHIST_aac.png,HP,3,test"]
    for row in rows:
        write(tmp_path / "images" / row.partition(",")[0], 224, 224)
    (tmp_path / "annotations.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    tiles = read("mhist", tmp_path)
    assert tiles.tile_ids == ("images/MHIST_aaa.png", "images/MHIST_aab.png", "images/MHIST_aac.png")
    assert tiles.class_names == ("HP", "SSA")
    assert tiles.labels_N.tolist() == [1, 0, 0]
    assert tiles.table["split"].to_list() == ["train", "train", "test"]
    (tmp_path / "images" / "MHIST_aab.png").unlink()
    with pytest.raises(UserError, match=r"MHIST_aab\.png \(missing\)"):
        read("mhist", tmp_path)
    with pytest.raises(UserError, match=r"annotations\.csv is missing"):
        read("mhist", tmp_path / "images")


def test_bach(tmp_path: Path) -> None:
    letters = {"Benign": "b", "InSitu": "is", "Invasive": "iv", "Normal": "n"}
    for name, letter in letters.items():
        write(tmp_path / "Photos" / name / f"{letter}001.tif", 64, 48)
    table = tmp_path / "Photos" / "microscopy_ground_truth.csv"
    table.write_text("".join(f"{letter}001.tif,{name}\n" for name, letter in letters.items()), encoding="utf-8")
    tiles = read("bach", tmp_path)
    assert tiles.class_names == ("Normal", "Benign", "InSitu", "Invasive")
    assert sorted(tiles.labels_N.tolist()) == [0, 1, 2, 3]
    assert set(tiles.table["mpp"]) == {0.42}
    table.write_text("b001.tif,Normal\n", encoding="utf-8")
    with pytest.raises(UserError, match="folder and ground truth disagree"):
        read("bach", tmp_path)
