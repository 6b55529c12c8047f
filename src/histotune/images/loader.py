"""Batches of views, decoded by threads ahead of the network, in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from histotune.errors import UserError
from histotune.images.unreadable import MAX_LISTED, UnreadableTile, UnreadableTilesError
from histotune.images.views import apply_view
from histotune.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from histotune.images.config import LoaderConfig, ViewConfig
    from histotune.images.decode import PixelReader, PixelSource

MAX_LOOKAHEAD = 5000  # after the first failure at most this many tiles are tried for one message
# B batch, S side of the view, C channels


@dataclass(frozen=True)
class Views:
    """A batch of network inputs.

    Attributes:
        pixels_BSSC: uint8 (B, size_px, size_px, 3).
        content: Content hash of each tile, taken over the bytes that were decoded.
    """

    pixels_BSSC: NDArray[np.uint8]
    content: tuple[str, ...]


@dataclass(frozen=True)
class _Tile:
    """One decoded tile."""

    pixels_SSC: NDArray[np.uint8]
    content: str


def load_views(
    sources: Sequence[PixelSource],
    batch_sizes: Sequence[int],
    view: ViewConfig,
    config: LoaderConfig,
    reader: PixelReader,
    *,
    find_all_bad: bool = False,
) -> Generator[Views, None, None]:
    """Yield batches of views in the order of the sources.

    A bounded number of tiles is decoded ahead: two batches, and one tile per thread.

    Args:
        sources: Where the pixels are.
        batch_sizes: Tiles per batch; sums to the number of sources.
        view: How an image becomes the network's input.
        config: Threads.
        reader: Open files; it is not closed here.
        find_all_bad: After a tile that can't be read, try all that follow, not only enough for one message.

    Yields:
        One batch per entry of ``batch_sizes``.

    Raises:
        UnreadableTilesError: Tiles that can't be read; after the first, the following ones are tried as well so that
            one message lists them together.
    """
    workers = config.workers or cpu_count()

    def decode(source: PixelSource) -> _Tile:
        pixels_HWC, content = reader.pixels_and_hash(source)
        return _Tile(apply_view(pixels_HWC, view), content)

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead = 2 * max(batch_sizes, default=1) + workers
        tiles = _in_order(pool, decode, sources, ahead, find_all_bad)
        with closing(tiles):
            for size in batch_sizes:
                batch = list(islice(tiles, size))
                yield Views(np.stack([tile.pixels_SSC for tile in batch]), tuple(tile.content for tile in batch))


def _in_order(
    pool: ThreadPoolExecutor,
    decode: Callable[[PixelSource], _Tile],
    sources: Sequence[PixelSource],
    ahead: int,
    find_all_bad: bool,
) -> Generator[_Tile, None, None]:
    """Yield decoded tiles in order while at most ``ahead`` further ones are under way."""
    waiting = iter(sources)
    running = deque((source, pool.submit(decode, source)) for source in islice(waiting, ahead))
    try:
        while running:
            source, future = running.popleft()
            try:
                tile = future.result()
            except UserError as error:
                running.extend((one, pool.submit(decode, one)) for one in islice(waiting, 1))
                first = UnreadableTile(source, error)
                raise _with_further(pool, decode, running, waiting, first, find_all_bad) from error
            running.extend((one, pool.submit(decode, one)) for one in islice(waiting, 1))
            yield tile
    finally:
        for _, future in running:
            future.cancel()


def _with_further(
    pool: ThreadPoolExecutor,
    decode: Callable[[PixelSource], _Tile],
    running: deque[tuple[PixelSource, Future[_Tile]]],
    waiting: Iterator[PixelSource],
    first: UnreadableTile,
    find_all_bad: bool,
) -> UnreadableTilesError:
    """Try the tiles after a failed one, so that one message lists all that can't be read."""
    bad, n_tried = [first], 0
    while running and (find_all_bad or (n_tried < MAX_LOOKAHEAD and len(bad) < MAX_LISTED)):
        source, future = running.popleft()
        n_tried += 1
        try:
            future.result()
        except UserError as error:
            bad.append(UnreadableTile(source, error))
        running.extend((one, pool.submit(decode, one)) for one in islice(waiting, 1))
    return UnreadableTilesError(bad, complete=not running)
