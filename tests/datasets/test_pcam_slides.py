"""Slides are taken over only where pixels prove that tiles are the same."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from histotune.datasets import pcam
from histotune.datasets.config import DatasetConfig
from histotune.datasets.disk import list_files
from histotune.datasets.pcam import pixel_digests
from histotune.datasets.pcam_files import read_hdf5
from histotune.datasets.read import read_dataset
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from tests.datasets.fakes import encoded, write_image_parquet
from tests.datasets.test_pcam_copies_kaggle import image_id

RNG = np.random.default_rng(0)
X_NHWC = RNG.integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
Y = [0, 1] * 6
SLIDES = [f"s{i // 3}" for i in range(12)]
OLD_NS = 10**18


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_hdf5(folder: Path, part: str, x_NHWC: np.ndarray, y: list[int], slides: list[str] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"camelyonpatch_level_2_split_{part}"
    for kind, data in (("x", x_NHWC), ("y", np.array(y, np.uint8).reshape(-1, 1, 1, 1))):
        with h5py.File(f"{stem}_{kind}.h5", "w") as file:
            file[kind] = data
    if slides is not None:
        Path(f"{stem}_meta.csv").write_text("wsi\n" + "".join(f'"{slide}"\n' for slide in slides), encoding="utf-8")
    return folder


def write_kaggle(folder: Path, tiles: list[np.ndarray], labels: list[int]) -> Path:
    (folder / "train").mkdir(parents=True)
    for number, pixels in enumerate(tiles):
        (folder / "train" / f"{image_id(number)}.tif").write_bytes(encoded(pixels, "TIFF"))
    rows = "".join(f"{image_id(number)},{label}\n" for number, label in enumerate(labels))
    (folder / "train_labels.csv").write_text("id,label\n" + rows, encoding="utf-8")
    return folder


def write_hub(folder: Path, order: list[int], part: str = "train") -> Path:
    path = folder / f"{part}.parquet"
    write_image_parquet(path, [encoded(X_NHWC[i]) for i in order], [Y[i] for i in order], row_group_size=5)
    return folder


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_hdf5(tmp_path / "hdf5", "train", X_NHWC, Y, SLIDES)


def read(path: Path, reference: Path) -> TileSet:
    return read_dataset(DatasetConfig(name="patch_camelyon", path=path, slides_from=reference))


def slide_by_id(tiles: TileSet) -> dict[str, str | None]:
    return dict(tiles.table.select("tile_id", "slide_id").iter_rows())


def test_kaggle_tiles_are_found_by_their_pixels_in_any_order(tmp_path: Path, reference: Path) -> None:
    order = [7, 2, 11, 0, 5]
    tiles = read(write_kaggle(tmp_path / "kaggle", [X_NHWC[i] for i in order], [Y[i] for i in order]), reference)
    assert slide_by_id(tiles) == {image_id(number): SLIDES[i] for number, i in enumerate(order)}
    assert tiles.table["group_id"].to_list() == tiles.table["slide_id"].to_list()
    assert tiles.has_groups
    assert any("all 5 tiles have their pixels there" in note for note in tiles.notes)
    assert not any("names no slides:" in note for note in tiles.notes)


def test_one_tile_without_counterpart_stops_the_join(tmp_path: Path, reference: Path) -> None:
    changed = X_NHWC[3].copy()
    changed[0, 0, 0] ^= 1
    tiles = read(write_kaggle(tmp_path / "kaggle", [X_NHWC[0], changed], [0, 1]), reference)
    assert set(slide_by_id(tiles).values()) == {None}
    assert any(
        f"1 of 2 tiles, such as {image_id(1)}, have no tile of the same pixels" in note for note in tiles.notes
    )  # fmt: skip


def test_equal_pixels_from_two_slides_stay_unknown(tmp_path: Path) -> None:
    x_NHWC = X_NHWC.copy()
    x_NHWC[4] = x_NHWC[0]  # s1 and s0
    x_NHWC[2] = x_NHWC[1]  # both s0
    reference = write_hdf5(tmp_path / "hdf5", "train", x_NHWC, Y, SLIDES)
    tiles = read(write_kaggle(tmp_path / "kaggle", [x_NHWC[0], x_NHWC[1], x_NHWC[9]], [0, 1, 1]), reference)
    assert slide_by_id(tiles) == {image_id(0): None, image_id(1): "s0", image_id(2): "s3"}
    text = " ".join(tiles.notes)
    assert f"1 tiles, such as {image_id(0)}, have pixels that several slides share" in text
    assert not tiles.has_groups


def test_parquet_rows_in_the_same_order_match_row_by_row_duplicates_included(tmp_path: Path) -> None:
    x_NHWC = X_NHWC.copy()
    x_NHWC[4] = x_NHWC[0]
    reference = write_hdf5(tmp_path / "hdf5", "train", x_NHWC, Y, SLIDES)
    write_image_parquet(tmp_path / "hub" / "train.parquet", [encoded(tile) for tile in x_NHWC], Y, row_group_size=5)
    tiles = read(tmp_path / "hub", reference)
    assert tiles.table["slide_id"].to_list() == SLIDES
    assert any("the pixels of all 12 tiles match row by row" in note for note in tiles.notes)


def test_parquet_rows_in_another_order_match_by_content(tmp_path: Path, reference: Path) -> None:
    order = RNG.permutation(12).tolist()
    tiles = read(write_hub(tmp_path / "hub", order), reference)
    assert tiles.table["slide_id"].to_list() == [SLIDES[i] for i in order]


def test_an_hdf5_copy_without_meta_may_take_slides_too(tmp_path: Path, reference: Path) -> None:
    copy = write_hdf5(tmp_path / "copy", "train", X_NHWC, Y, None)
    assert read(copy, reference).table["slide_id"].to_list() == SLIDES
    assert any("was not needed" in note for note in read(reference, reference).notes)


def test_other_labels_for_the_same_pixels_are_counted(tmp_path: Path, reference: Path) -> None:
    tiles = read(write_kaggle(tmp_path / "kaggle", [X_NHWC[0], X_NHWC[1]], [0, 0]), reference)
    assert any(note.startswith("1 tiles of this copy have another label than the same pixels") for note in tiles.notes)


def test_the_join_is_kept_until_a_file_changes(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = write_hub(tmp_path / "hub", list(range(12)))
    for path in (*reference.iterdir(), *hub.iterdir()):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    first = read(hub, reference)
    calls = []
    monkeypatch.setattr(pcam, "pixel_digests", lambda *a: (calls.append(a), pixel_digests(*a))[1])
    again = read(hub, reference)
    assert again.table.equals(first.table)
    assert again.notes == first.notes
    assert not calls
    os.utime(hub / "train.parquet", ns=(OLD_NS, OLD_NS + 1))
    assert read(hub, reference).table.equals(first.table)
    assert len(calls) == 2


def test_a_damaged_kept_join_is_made_again(tmp_path: Path, reference: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub = write_hub(tmp_path / "hub", list(range(12)))
    for path in (*reference.iterdir(), *hub.iterdir()):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    read(hub, reference)
    (kept,) = (tmp_path / "cache" / "histotune" / "slides").iterdir()
    kept.write_text("{", encoding="utf-8")
    assert read(hub, reference).table["slide_id"].to_list() == SLIDES
    assert "joining again" in caplog.text


def test_references_that_cannot_lend_slides(tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", [0, 1])
    bare = write_hdf5(tmp_path / "bare", "train", X_NHWC, Y, None)
    with pytest.raises(UserError, match=r"it has no meta\.csv"):
        read(hub, bare)
    with pytest.raises(UserError, match="this is not PatchCamelyon"):
        read(hub, hub)


def test_a_damaged_image_is_named(tmp_path: Path, reference: Path) -> None:
    images = [encoded(X_NHWC[0]), encoded(X_NHWC[1])[:5000]]
    write_image_parquet(tmp_path / "hub" / "train.parquet", images, [0, 1])
    with pytest.raises(UserError, match="truncated or damaged") as caught:
        read(tmp_path / "hub", reference)
    assert "train.parquet, row 1" in str(caught.value)


def test_memory_holds_digests_not_pixels(tmp_path: Path) -> None:
    """3,000 tiles are 83 MB of pixels; 256 of them, 7 MB, are held at once."""
    folder = write_hdf5(tmp_path / "big", "train", np.zeros((3000, 96, 96, 3), np.uint8), [0] * 3000, None)
    part = read_hdf5(list_files(folder)).parts[0]
    tracemalloc.start()
    try:
        digests = pixel_digests(part, "hashing")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert digests.shape == (3000, 2)
    assert len(pl.DataFrame(digests).unique()) == 1
    assert peak < 25e6


def test_a_slide_in_two_spellings_is_asked_about_over_all_parts(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "hdf5", "train", X_NHWC[:6], Y[:6], ["Slide_1"] * 3 + ["s2 "] * 3)
    folder = write_hdf5(tmp_path / "hdf5", "test", X_NHWC[6:], Y[6:], ["slide_1"] * 3 + ["nan"] * 3)
    config = DatasetConfig(name="patch_camelyon", path=folder)
    with pytest.raises(UserError) as caught:
        read_dataset(config, "target")
    assert "'Slide_1' and 'slide_1'" in str(caught.value) and "--set target.ids=join" in str(caught.value)
    tiles = read_dataset(config.model_copy(update={"ids": "join"}), "target")
    assert set(tiles.table["group_id"]) == {"Slide_1", "s2", None}
    assert tiles.table["slide_id"].null_count() == 3
    assert any("is written 'nan', which is read as missing" in note for note in tiles.asked)
    assert any("1 slides lie in more than one official part" in note for note in tiles.notes)
