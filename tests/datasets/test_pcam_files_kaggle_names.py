"""PatchCamelyon's HDF5 files under the names that Kaggle's data set gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from tests.conftest import write_pcam

NAMES = {"train": "training_split.h5", "valid": "validation_split.h5", "test": "test_split.h5"}


def as_on_kaggle(folder: Path) -> Path:
    """Write the data set and give its files the names and folders of Kaggle's copy."""
    write_pcam(folder, n_per_part=10)
    for part, name in NAMES.items():
        stem = f"camelyonpatch_level_2_split_{part}"
        for old, new in ((f"{stem}_x.h5", f"pcam/{name}/{name}"), (f"{stem}_y.h5", f"Labels/Labels/{stem}_y.h5"),
                         (f"{stem}_meta.csv", f"Metadata/Metadata/{stem}_meta.csv")):  # fmt: skip
            (folder / new).parent.mkdir(parents=True, exist_ok=True)
            (folder / old).rename(folder / new)
    return folder


def read(path: Path) -> TileSet:
    return read_dataset(DatasetConfig(name="patch_camelyon", path=path))


def test_the_same_tiles_as_under_the_published_names(tmp_path: Path) -> None:
    theirs, own = read(as_on_kaggle(tmp_path / "kaggle")), read(write_pcam(tmp_path / "own", n_per_part=10))
    assert theirs.table.drop("path").equals(own.table.drop("path"))
    assert theirs.has_groups


def test_both_names_for_one_part_are_a_clash(tmp_path: Path) -> None:
    as_on_kaggle(tmp_path)
    write_pcam(tmp_path / "again", n_per_part=10)
    with pytest.raises(UserError, match="found twice"):
        read(tmp_path)


def test_pixels_without_labels_name_the_missing_file(tmp_path: Path) -> None:
    as_on_kaggle(tmp_path)
    (tmp_path / "Labels/Labels/camelyonpatch_level_2_split_valid_y.h5").unlink()
    with pytest.raises(UserError, match=r"part valid is incomplete: .*_valid_y\.h5 is missing"):
        read(tmp_path)
