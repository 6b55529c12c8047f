"""Images in parquet cells: right in any order and from any thread, read once, never loaded whole."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets import disk as cells
from histotune.images import decode
from histotune.images.decode import ParquetImages, PixelReader, PixelSource, content_hash, read_pixels
from histotune.images.hashes import HashIndex
from histotune.tools.errors import UserError
from tests.datasets.fakes import encoded, write_image_parquet

RNG = np.random.default_rng(0)
TILES_NHWC = RNG.integers(0, 256, (230, 8, 8, 3), dtype=np.uint8)
IMAGES = [encoded(tile) for tile in TILES_NHWC]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_image_parquet(tmp_path / "tiles.parquet", IMAGES, row_group_size=70)


@pytest.fixture
def n_groups_opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of row groups that were read from their start."""
    seen: list[int] = []
    original = cells.image_batches
    monkeypatch.setattr(
        decode, "image_batches", lambda file, path, group: (seen.append(group), original(file, path, group))[1]
    )
    return seen


def test_rows_and_their_hashes_from_several_threads(table: Path) -> None:
    with PixelReader() as reader, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: reader.pixels_and_hash(PixelSource(table, row)), range(230)))
        assert reader.n_rows(table) == 230
        assert reader.raw(PixelSource(table, 200)) == IMAGES[200]
    for row, (pixels_HWC, digest) in enumerate(answers):
        assert np.array_equal(pixels_HWC, TILES_NHWC[row])
        assert digest == hashlib.sha256(IMAGES[row]).hexdigest()
    assert np.array_equal(read_pixels(table, 200), TILES_NHWC[200])


def test_ascending_rows_read_each_row_group_once(table: Path, n_groups_opened: list[int]) -> None:
    images = ParquetImages(table)
    order = [row + step for row in range(0, 230, 10) for step in (3, 0, 9, 1, 2, 8, 4, 7, 6, 5)]
    assert [images.cell(row) for row in order] == [IMAGES[row] for row in order]
    assert n_groups_opened == [0, 1, 2, 3]


def test_random_order_is_right_too(table: Path) -> None:
    images = ParquetImages(table)
    for row in RNG.permutation(230):
        assert images.cell(int(row)) == IMAGES[row]


@given(
    rows=st.lists(st.integers(0, 59), min_size=1, max_size=30), group_size=st.integers(1, 60), kept=st.integers(0, 9)
)
@settings(max_examples=25)
def test_any_order_any_row_groups_any_memory(rows: list[int], group_size: int, kept: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "KEPT_BYTES", 100 * kept)
        patch.setattr(cells, "MAX_BATCH_ROWS", 7)
        images = ParquetImages(write_image_parquet(Path(folder) / "t.parquet", IMAGES[:60], row_group_size=group_size))
        assert [images.cell(row) for row in rows] == [IMAGES[row] for row in rows]
        images.close()


def test_little_is_kept(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "KEPT_BYTES", 2000)
    images = ParquetImages(table)
    for row in range(230):
        assert images.cell(row) == IMAGES[row]
        assert images._kept_bytes == sum(map(len, images._kept.values())) <= 2000


def test_plain_bytes_without_a_struct(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array(IMAGES[:3], pa.binary())}), tmp_path / "plain.parquet")
    with PixelReader() as reader:
        assert reader.raw(PixelSource(tmp_path / "plain.parquet", 2)) == IMAGES[2]


def test_the_index_reads_each_row_once(table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.utime(table, ns=(10**18, 10**18))
    index, asked = HashIndex(tmp_path / "hashes.sqlite"), []
    original = ParquetImages.cell
    monkeypatch.setattr(ParquetImages, "cell", lambda self, row: (asked.append(row), original(self, row))[1])
    sources = [PixelSource(table, row) for row in (229, *range(229))]
    with PixelReader() as reader:
        first = index.tiles(sources, reader)
        assert first == tuple(content_hash(IMAGES[source.row or 0]) for source in sources)
        assert asked == list(range(230))
        assert index.tiles(sources, reader) == first
    assert len(asked) == 230


def test_one_giant_row_group_costs_no_memory(tmp_path: Path) -> None:
    """60 MB of incompressible cells in one row group, in pages of ten rows: only a few pages are ever held."""
    images = [RNG.bytes(200_000) for _ in range(300)]
    path = write_image_parquet(tmp_path / "giant.parquet", images, row_group_size=300, write_batch_size=10)
    file = cells.open_parquet(str(path))
    before, peak, n = pa.total_allocated_bytes(), 0, 0
    for batch in cells.image_batches(file, str(path), 0):
        peak = max(peak, pa.total_allocated_bytes() - before)
        n += len(batch)
    assert n == 300
    assert peak < 30e6


def test_mistakes_are_named(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such row") as caught:
        read_pixels(table, 230)
    assert "allowed: 0 to 229" in str(caught.value)
    with pytest.raises(UserError, match="missing"):
        read_pixels(tmp_path / "absent.parquet", 0)
    empty = write_image_parquet(tmp_path / "empty.parquet", [IMAGES[0], None])
    with pytest.raises(UserError, match="holds no image") as caught:
        read_pixels(empty, 1)
    assert "empty.parquet, row 1" in str(caught.value)
    pq.write_table(pa.table({"picture": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match='no column "image"') as caught:
        read_pixels(tmp_path / "other.parquet", 0)
    assert "found: picture (string)" in str(caught.value)
    odd = write_image_parquet(tmp_path / "odd.parquet", [IMAGES[0], b"no image"])
    with pytest.raises(UserError, match="no image that can be read") as caught:
        read_pixels(odd, 1)
    assert "odd.parquet, row 1" in str(caught.value)
