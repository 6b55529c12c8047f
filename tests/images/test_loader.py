"""The loader keeps order, bounds what it holds, and lists every unreadable image."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotune.errors import UserError
from histotune.images.config import LoaderConfig, ViewConfig
from histotune.images.decode import PixelReader, PixelSource
from histotune.images.loader import Wanted, load_views

VIEW = ViewConfig(size_px=14)


def write_tiles(folder: Path, n: int) -> list[PixelSource]:
    rng = np.random.default_rng(0)
    sources = []
    for number in range(n):
        path = folder / f"{number:03d}.png"
        Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).save(path)
        sources.append(PixelSource(path))
    return sources


@pytest.mark.parametrize("workers", [1, 5])
def test_batches_keep_order_and_sizes(tmp_path: Path, workers: int) -> None:
    sources = write_tiles(tmp_path, 23)
    with PixelReader() as reader:
        batches = list(
            load_views([Wanted(source) for source in sources], [8, 8, 7], VIEW, LoaderConfig(workers=workers), reader)
        )
        expected = [reader.pixels_and_hash(source) for source in sources]
    assert [len(batch.content) for batch in batches] == [8, 8, 7]
    assert np.array_equal(np.concatenate([batch.pixels_BSSC for batch in batches]), [pixels for pixels, _ in expected])
    assert [one for batch in batches for one in batch.content] == [digest for _, digest in expected]


def test_prefetch_is_bounded(tmp_path: Path) -> None:
    class Counting(PixelReader):
        n_read, guard = 0, threading.Lock()

        def pixels_and_hash(self, source: PixelSource) -> tuple[np.ndarray, str]:
            with self.guard:
                self.n_read += 1
            return super().pixels_and_hash(source)

    sources = write_tiles(tmp_path, 60)
    with Counting() as reader:
        batches = load_views([Wanted(source) for source in sources], [4] * 15, VIEW, LoaderConfig(workers=2), reader)
        next(batches)
        batches.close()
        assert reader.n_read <= 4 + 2 * 4 + 2


def test_all_unreadable_images_are_listed_together(tmp_path: Path) -> None:
    sources = write_tiles(tmp_path, 30)
    for number in (3, 11, 29):
        sources[number].path.write_bytes(b"broken")
    with PixelReader() as reader, pytest.raises(UserError) as caught:
        list(load_views([Wanted(source) for source in sources], [10] * 3, VIEW, LoaderConfig(workers=2), reader))
    assert all(f"{number:03d}.png" in str(caught.value) for number in (3, 11, 29))
    assert str(caught.value).count(".png") == 3


def test_the_list_of_unreadable_images_ends_and_says_so(tmp_path: Path) -> None:
    sources = write_tiles(tmp_path, 40)
    for source in sources:
        source.path.write_bytes(b"broken")
    with PixelReader() as reader, pytest.raises(UserError, match="may be more") as caught:
        list(load_views([Wanted(source) for source in sources], [10] * 4, VIEW, LoaderConfig(workers=2), reader))
    assert str(caught.value).count(".png") == 20
