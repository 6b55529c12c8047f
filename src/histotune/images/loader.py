"""Batches of views, decoded by threads ahead of the network, in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from histotune.errors import UserError, raise_together
from histotune.images.views import apply_view
from histotune.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from histotune.images.config import LoaderConfig, ViewConfig
    from histotune.images.decode import PixelReader, PixelSource

MAX_ERRORS = 20  # one message lists at most this many unreadable images ...
MAX_LOOKAHEAD = 5000  # ... found among at most this many tiles after the first failure
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
) -> Iterator[Views]:
    """Yield batches of views in the order of the sources.

    A bounded number of tiles is decoded ahead: two batches, and one tile per thread.

    Args:
        sources: Where the pixels are.
        batch_sizes: Tiles per batch; sums to the number of sources.
        view: How an image becomes the network's input.
        config: Threads.
        reader: Open files; it is not closed here.

    Yields:
        One batch per entry of ``batch_sizes``.

    Raises:
        UserError: Tiles that can't be read; after the first, the following ones are tried as well so that one
            message lists them together (at most 20).
    """
    workers = config.workers or cpu_count()

    def decode(source: PixelSource) -> _Tile:
        pixels_HWC, content = reader.pixels_and_hash(source)
        return _Tile(apply_view(pixels_HWC, view), content)

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        tiles = _in_order(pool, decode, sources, 2 * max(batch_sizes, default=1) + workers)
        with closing(tiles):
            for size in batch_sizes:
                batch = list(islice(tiles, size))
                yield Views(np.stack([tile.pixels_SSC for tile in batch]), tuple(tile.content for tile in batch))


def _in_order(
    pool: ThreadPoolExecutor, decode: Callable[[PixelSource], _Tile], sources: Sequence[PixelSource], ahead: int
) -> Generator[_Tile, None, None]:
    """Yield decoded tiles in order while at most ``ahead`` further ones are under way."""
    waiting = iter(sources)
    running = deque(pool.submit(decode, source) for source in islice(waiting, ahead))
    try:
        while running:
            try:
                tile = running.popleft().result()
            except UserError as error:
                found = _further_errors(pool, decode, running, waiting)
                raise_together([error, *found])
                raise
            running.extend(pool.submit(decode, source) for source in islice(waiting, 1))
            yield tile
    finally:
        for future in running:
            future.cancel()


def _further_errors(
    pool: ThreadPoolExecutor,
    decode: Callable[[PixelSource], _Tile],
    running: deque[Future[_Tile]],
    waiting: Iterator[PixelSource],
) -> list[UserError]:
    """Try the tiles after a failed one, so that one message lists all that can't be read."""
    errors: list[UserError] = []
    for _ in range(MAX_LOOKAHEAD):
        if not running:
            return errors
        try:
            running.popleft().result()
        except UserError as error:
            errors.append(error)
        if len(errors) == MAX_ERRORS - 1:
            break
        running.extend(pool.submit(decode, source) for source in islice(waiting, 1))
    return [*errors, UserError("there may be more; the check stopped here", fix="mend these and run again")]
