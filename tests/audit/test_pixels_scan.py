from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from histotune.audit.pixels import header_problem, scan
from histotune.images.config import LoaderConfig
from tests.audit.made import hdf5_tiles, png_tiles, tile_set, tissue


def test_files_and_rows_give_equal_prints(tmp_path: Path) -> None:
    pixels = [tissue(seed) for seed in range(5)]
    rows, files = (make(tmp_path / make.__name__, pixels) for make in (hdf5_tiles, png_tiles))
    left, right = (scan(tiles, LoaderConfig(workers=2)).fingerprints for tiles in (rows, files))
    for name, array in vars(left).items():
        np.testing.assert_array_equal(array, getattr(right, name), err_msg=name)


def test_rows_in_any_order_and_with_gaps_keep_their_place(tmp_path: Path) -> None:
    pixels = [tissue(seed) for seed in range(9)]
    tiles = hdf5_tiles(tmp_path, pixels)
    picked = tiles.take(np.array([7, 0, 1, 2, 5]))
    whole, part = scan(tiles, LoaderConfig()).fingerprints, scan(picked, LoaderConfig()).fingerprints
    np.testing.assert_array_equal(part.digest_N2, whole.digest_N2[[7, 0, 1, 2, 5]])


def test_every_kind_of_bad_file_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    tiles = png_tiles(tmp_path, [tissue(seed) for seed in range(8)])
    files = [Path(path) for path in tiles.table["path"]]
    files[0].write_bytes(files[0].read_bytes()[:2000])
    files[1].write_bytes(b"")
    files[2].unlink()
    files[3].write_bytes(b"no image at all")
    files[4].unlink()
    files[4].mkdir()
    Image.fromarray(np.zeros((400, 400), np.uint8)).save(files[5])
    found = scan(tiles, LoaderConfig(workers=2, max_pixels=100_000))
    assert [tile.row for tile in found.bad] == [0, 1, 2, 3, 4, 5]
    assert found.fingerprints.read_N.tolist() == [False] * 6 + [True] * 2
    assert all(str(files[tile.row]) == tile.place and tile.reason for tile in found.bad)
    assert "missing" in found.bad[2].reason
    assert "too large" in found.bad[5].reason


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    tiles = png_tiles(tmp_path, [tissue(0)])
    Path(tiles.table["path"][0]).chmod(0)
    assert "can't be read" in scan(tiles, LoaderConfig()).bad[0].reason


def test_a_damaged_chunk_loses_its_own_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    pixels = np.stack([tissue(seed) for seed in range(8)])
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=pixels, chunks=(2, 96, 96, 3), compression="gzip")
        place = file["x"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    for offset in range(place.byte_offset + 20, place.byte_offset + 400):
        data[offset] ^= 0xFF
    path.write_bytes(bytes(data))
    found = scan(tile_set(8, [str(path)] * 8, row=list(range(8))), LoaderConfig())
    assert [tile.row for tile in found.bad] == [2, 3]
    assert found.bad[0].place == f"{path}, row 2"
    np.testing.assert_array_equal(
        found.fingerprints.digest_N2[4:],
        scan(hdf5_tiles(tmp_path / "whole", list(pixels)), LoaderConfig()).fingerprints.digest_N2[4:],
    )


def test_rows_that_no_longer_exist_and_files_that_are_no_hdf5(tmp_path: Path) -> None:
    tiles = hdf5_tiles(tmp_path, [tissue(0), tissue(1)])
    text = tmp_path / "text.h5"
    text.write_text("no", encoding="utf-8")
    longer = tile_set(4, [tiles.table["path"][0]] * 3 + [str(text)], row=[0, 1, 2, 0])
    found = scan(longer, LoaderConfig())
    assert [tile.row for tile in found.bad] == [2, 3]
    assert "no such row" in found.bad[0].reason
    assert "damaged" in found.bad[1].reason


def test_headers_are_judged_without_decoding(tmp_path: Path) -> None:
    Image.fromarray(tissue(0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "d.png").mkdir()
    assert [bool(header_problem(str(tmp_path / f"{name}.png"))) for name in "abcd"] == [False, False, True, True]
