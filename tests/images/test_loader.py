"""The loader keeps order, bounds what it holds, and lists every unreadable image."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from histotune.images.config import LoaderConfig, ViewConfig
from histotune.images.decode import PixelReader, PixelSource
from histotune.images.device_resize import DeviceResizer
from histotune.images.loader import Wanted, load_views
from histotune.tools.errors import UserError

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
    with PixelReader(LoaderConfig(workers=workers)) as reader:
        batches = list(load_views([Wanted(source) for source in sources], [8, 8, 7], VIEW, reader))
        expected = [reader.pixels_and_hash(source) for source in sources]
    assert [len(batch.content) for batch in batches] == [8, 8, 7]
    assert np.array_equal(np.concatenate([batch.pixels_BSSC for batch in batches]), [pixels for pixels, _ in expected])
    assert [one for batch in batches for one in batch.content] == [digest for _, digest in expected]


def test_a_device_makes_the_inputs_of_small_images(tmp_path: Path) -> None:
    sources = write_tiles(tmp_path, 10)
    view = ViewConfig(size_px=32)
    with PixelReader(LoaderConfig(workers=2)) as reader:
        wanted = [Wanted(source) for source in sources]
        expected = list(load_views(wanted, [6, 4], view, reader))
        batches = list(load_views(wanted, [6, 4], view, reader, device="cpu"))
        smaller = list(load_views(wanted, [6, 4], VIEW, reader, device="cpu"))  # not enlarged: Pillow's
    assert [batch.pixels_BSSC.shape for batch in batches] == [(6, 14, 14, 3), (4, 14, 14, 3)]
    for batch, plain in zip(batches, expected, strict=True):
        assert batch.plan is not None and plain.plan is None
        made = DeviceResizer(batch.plan)(torch.from_numpy(batch.pixels_BSSC)).numpy()
        assert np.array_equal(made, plain.pixels_BSSC)
        assert (batch.content, batch.n_inputs) == (plain.content, plain.n_inputs)
    assert all(batch.plan is None for batch in smaller)


def test_images_of_several_sizes_are_made_by_pillow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = write_tiles(tmp_path, 24)
    Image.fromarray(np.full((15, 18, 3), 90, np.uint8)).save(sources[9].path)
    view = ViewConfig(size_px=32)
    with PixelReader(LoaderConfig(workers=1)) as reader, caplog.at_level("DEBUG"):
        wanted = [Wanted(source) for source in sources]
        expected = list(load_views(wanted, [4] * 6, view, reader))
        batches = list(load_views(wanted, [4] * 6, view, reader, device="cpu"))
    plans = [batch.plan is not None for batch in batches]
    assert plans[:3] == [True, True, False] and not plans[-1]
    for batch, plain in zip(batches, expected, strict=True):
        pixels_BHWC = torch.from_numpy(batch.pixels_BSSC)
        made = pixels_BHWC if batch.plan is None else DeviceResizer(batch.plan)(pixels_BHWC)
        assert np.array_equal(made.numpy(), plain.pixels_BSSC)
    assert "images of several sizes" in caplog.text


def test_prefetch_is_bounded(tmp_path: Path) -> None:
    class Counting(PixelReader):
        n_read, guard = 0, threading.Lock()

        def pixels_and_hash(self, source: PixelSource) -> tuple[np.ndarray, str]:
            with self.guard:
                self.n_read += 1
            return super().pixels_and_hash(source)

    sources = write_tiles(tmp_path, 60)
    with Counting(LoaderConfig(workers=2)) as reader:
        batches = load_views([Wanted(source) for source in sources], [4] * 15, VIEW, reader)
        next(batches)
        batches.close()
        assert reader.n_read <= 4 + 2 * 4 + 2


def test_all_unreadable_images_are_listed_together(tmp_path: Path) -> None:
    sources = write_tiles(tmp_path, 30)
    for number in (3, 11, 29):
        sources[number].path.write_bytes(b"broken")
    with PixelReader(LoaderConfig(workers=2)) as reader, pytest.raises(UserError) as caught:
        list(load_views([Wanted(source) for source in sources], [10] * 3, VIEW, reader))
    assert all(f"{number:03d}.png" in str(caught.value) for number in (3, 11, 29))
    assert str(caught.value).count(".png") == 3


def test_the_list_of_unreadable_images_ends_and_says_so(tmp_path: Path) -> None:
    sources = write_tiles(tmp_path, 40)
    for source in sources:
        source.path.write_bytes(b"broken")
    with PixelReader(LoaderConfig(workers=2)) as reader, pytest.raises(UserError, match="may be more") as caught:
        list(load_views([Wanted(source) for source in sources], [10] * 4, VIEW, reader))
    assert str(caught.value).count(".png") == 20
