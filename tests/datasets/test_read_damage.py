"""Damaged data sets at listing time: every reader says which file, in one message."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.tools.errors import UserError
from tests.damage import flip, folder_for_everyone, without_rights
from tests.datasets.fakes import encoded, write_image_parquet, write_part
from tests.datasets.test_pcam_copies_kaggle import image_id, write_kaggle

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of some damage to TIFF
PATCH = np.full((96, 96, 3), 7, np.uint8)


@dataclass(frozen=True)
class Layout:
    """A small data set and the file that gets damaged."""

    config: DatasetConfig
    victim: Path


def breakhis(folder: Path) -> Layout:
    for number in (1, 2):
        (folder / f"SOB_B_A-14-100{number}-100-001.png").write_bytes(encoded(PATCH))
    return Layout(DatasetConfig(name="breakhis", path=folder), folder / "SOB_B_A-14-1001-100-001.png")


def hdf5(folder: Path) -> Layout:
    write_part(folder, "test", [0, 1, 1])
    return Layout(
        DatasetConfig(name="patch_camelyon", path=folder), folder / "camelyonpatch_level_2_split_test_x.h5"
    )  # fmt: skip


def kaggle(folder: Path) -> Layout:
    write_kaggle(folder, [0, 1, 1])
    victim = min((folder / "train").iterdir())
    assert victim.stem in {image_id(number) for number in range(3)}
    return Layout(DatasetConfig(name="patch_camelyon", path=folder), victim)


def hub(folder: Path) -> Layout:
    path = write_image_parquet(folder / "test.parquet", [encoded(PATCH)] * 3, [0, 1, 1])
    return Layout(DatasetConfig(name="patch_camelyon", path=folder), path)


def folders(folder: Path) -> Layout:
    for name in ("a/x y.jpg", "b/ü.png"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(encoded(PATCH, "JPEG" if name.endswith("jpg") else "PNG"))
    return Layout(DatasetConfig(name="tiles", path=folder), folder / "a/x y.jpg")


def table(folder: Path) -> Layout:
    layout = folders(folder)
    (folder / "tiles.csv").write_text("path,label\na/x y.jpg,a\nb/ü.png,b\n", encoding="utf-8")
    return Layout(DatasetConfig(name="tiles", path=folder / "tiles.csv"), layout.victim)


def csv(folder: Path) -> Layout:
    layout = table(folder)
    return Layout(layout.config, layout.config.path)


def parquet_table(folder: Path) -> Layout:
    import polars as pl

    folders(folder)
    pl.DataFrame({"path": ["a/x y.jpg", "b/ü.png"], "label": ["a", "b"]}).write_parquet(folder / "tiles.parquet")
    return Layout(DatasetConfig(name="tiles", path=folder / "tiles.parquet"), folder / "tiles.parquet")


LAYOUTS = (breakhis, hdf5, kaggle, hub, folders, table, csv, parquet_table)


def empty(victim: Path) -> None:
    victim.write_bytes(b"")


def cut(victim: Path) -> None:
    victim.write_bytes(victim.read_bytes()[:9])


def other(victim: Path) -> None:
    victim.write_bytes(b"<html>404 Not Found</html>\n" * 20)


def gone_behind_a_link(victim: Path) -> None:
    victim.unlink()
    victim.symlink_to(victim.with_name("nowhere"))


def link_to_itself(victim: Path) -> None:
    victim.unlink()
    victim.symlink_to(victim)


def folder_instead(victim: Path) -> None:
    victim.unlink()
    victim.mkdir()


def named(layout: Layout) -> str:
    with pytest.raises(UserError) as caught:
        read_dataset(layout.config)
    return str(caught.value)


@pytest.mark.parametrize("harm", [empty, cut, other, gone_behind_a_link, link_to_itself])
@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_every_reader_names_the_damaged_file(
    write: Callable[[Path], Layout], harm: Callable[[Path], None], tmp_path: Path
) -> None:
    layout = write(tmp_path)
    assert len(read_dataset(layout.config)) >= 2
    harm(layout.victim)
    assert layout.victim.name in named(layout)


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_folder_in_the_place_of_a_file(write: Callable[[Path], Layout], tmp_path: Path) -> None:
    layout = write(tmp_path)
    folder_instead(layout.victim)
    text = named(layout)
    assert layout.victim.name in text or "holds no files" in text


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_file_that_may_not_be_read(write: Callable[[Path], Layout]) -> None:
    Image.preinit()
    with folder_for_everyone() as folder:
        layout = write(folder)
        read_dataset(layout.config)  # loads what is loaded late, while everything may be read
        layout.victim.chmod(0)
        with without_rights():
            assert layout.victim.name in named(layout)


@pytest.mark.parametrize("write", [breakhis, folders])
def test_a_folder_that_may_not_be_read(write: Callable[[Path], Layout]) -> None:
    with folder_for_everyone() as folder:
        layout = write(folder)
        (folder / "shut").mkdir(mode=0)
        with without_rights():
            assert "this folder can't be read" in named(layout)


@pytest.mark.skipif(sys.platform == "win32", reason="links")
@pytest.mark.parametrize("write", [breakhis, kaggle, hub, folders])
def test_links_in_circles_change_nothing(write: Callable[[Path], Layout], tmp_path: Path) -> None:
    layout = write(tmp_path)
    before = read_dataset(layout.config).tile_ids
    (layout.victim.parent / "again").symlink_to(tmp_path, target_is_directory=True)
    assert read_dataset(layout.config).tile_ids == before


def test_a_folder_of_tiles_may_be_named_like_the_image_they_were_cut_from(tmp_path: Path) -> None:
    path = tmp_path / "a" / "slide.tif" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(PATCH))
    assert read_dataset(DatasetConfig(name="tiles", path=tmp_path)).tile_ids == ("a/slide.tif/1.png",)


def test_a_packed_table_cut_or_flipped_anywhere(tmp_path: Path) -> None:
    layout = folders(tmp_path)
    rows = "path,label\na/x y.jpg,a\nb/ü.png,b\n"
    path = tmp_path / "tiles.csv.gz"
    config = layout.config.model_copy(update={"path": path})
    data = gzip.compress(rows.encode(), mtime=0)
    path.write_bytes(data)
    whole = read_dataset(config).table
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert "tiles.csv.gz" in named(Layout(config, path))
    for place in range(len(data)):
        path.write_bytes(flip(data, place, place % 8))
        try:
            assert read_dataset(config).table.equals(whole), "only header fields that carry nothing pass"
        except UserError as error:
            assert "tiles.csv.gz" in str(error)


@pytest.mark.parametrize("write", [hdf5, hub])
def test_bits_flipped_anywhere_never_end_in_anything_but_a_message(
    write: Callable[[Path], Layout], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = write(tmp_path)
    data = layout.victim.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 60):
        layout.victim.write_bytes(flip(data, int(place), int(place) % 8))
        try:
            assert len(read_dataset(layout.config)) == 3
        except UserError as error:
            assert layout.victim.name in str(error)
    capfd.readouterr()
