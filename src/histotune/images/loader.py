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
from histotune.images.views import view_inputs
from histotune.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from histotune.images.config import LoaderConfig, ViewConfig
    from histotune.images.decode import PixelReader, PixelSource

MAX_LOOKAHEAD = 5000  # after the first failure at most this many tiles are tried for one message
# B inputs of a batch, K inputs of a tile, S side of the view, C channels


@dataclass(frozen=True)
class Wanted:
    """A tile to read.

    Attributes:
        source: Where its pixels are.
        source_px: Width and height that its image must have; None takes any.
        resized_px: Width and height after resizing, where they depend on the tile's mpp; None leaves them to the view.
    """

    source: PixelSource
    source_px: tuple[int, int] | None = None
    resized_px: tuple[int, int] | None = None


@dataclass(frozen=True)
class Views:
    """A batch of network inputs.

    Attributes:
        pixels_BSSC: uint8 (B, size_px, size_px, 3), the inputs of one tile after those of another.
        content: Content hash of each tile, taken over the bytes that were decoded.
        n_inputs: Inputs of each tile; 1 but for the view ``tiles``.
    """

    pixels_BSSC: NDArray[np.uint8]
    content: tuple[str, ...]
    n_inputs: tuple[int, ...]


@dataclass(frozen=True)
class _Tile:
    """One decoded tile."""

    inputs_KSSC: NDArray[np.uint8]
    content: str


def load_views(
    wanted: Sequence[Wanted],
    batch_sizes: Sequence[int],
    view: ViewConfig,
    config: LoaderConfig,
    reader: PixelReader,
    *,
    find_all_bad: bool = False,
) -> Generator[Views, None, None]:
    """Yield batches of views in the order of the tiles.

    A bounded number of tiles is decoded ahead: two batches, and one tile per thread.

    Args:
        wanted: Where the pixels are, and how large they become.
        batch_sizes: Tiles per batch; sums to the number of tiles.
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

    def decode(tile: Wanted) -> _Tile:
        pixels_HWC, content = reader.pixels_and_hash(tile.source)
        return _Tile(_inputs(pixels_HWC, tile, view), content)

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead = 2 * max(batch_sizes, default=1) + workers
        tiles = _in_order(pool, decode, wanted, ahead, find_all_bad)
        with closing(tiles):
            for size in batch_sizes:
                batch = list(islice(tiles, size))
                yield Views(
                    np.concatenate([tile.inputs_KSSC for tile in batch]),
                    tuple(tile.content for tile in batch),
                    tuple(len(tile.inputs_KSSC) for tile in batch),
                )


def _inputs(pixels_HWC: NDArray[np.uint8], tile: Wanted, view: ViewConfig) -> NDArray[np.uint8]:
    """Make the network inputs of a tile; an image of another size than its scale was worked out with is refused."""
    found = (pixels_HWC.shape[1], pixels_HWC.shape[0])
    if tile.source_px not in (None, found):
        raise UserError(f"the image is {found[0]} x {found[1]} px and its data set says {tile.source_px}",
                        value=tile.source, fix="correct the table of the data set, or read it again")  # fmt: skip
    try:
        return view_inputs(pixels_HWC, view, tile.resized_px)
    except UserError as error:
        raise UserError(error.what, value=tile.source, allowed=error.allowed, fix=error.fix) from error


def _in_order(
    pool: ThreadPoolExecutor,
    decode: Callable[[Wanted], _Tile],
    wanted: Sequence[Wanted],
    ahead: int,
    find_all_bad: bool,
) -> Generator[_Tile, None, None]:
    """Yield decoded tiles in order while at most ``ahead`` further ones are under way."""
    waiting = iter(wanted)
    running = deque((one, pool.submit(decode, one)) for one in islice(waiting, ahead))
    try:
        while running:
            current, future = running.popleft()
            try:
                tile = future.result()
            except UserError as error:
                running.extend((one, pool.submit(decode, one)) for one in islice(waiting, 1))
                first = UnreadableTile(current.source, error)
                raise _with_further(pool, decode, running, waiting, first, find_all_bad) from error
            running.extend((one, pool.submit(decode, one)) for one in islice(waiting, 1))
            yield tile
    finally:
        for _, future in running:
            future.cancel()


def _with_further(
    pool: ThreadPoolExecutor,
    decode: Callable[[Wanted], _Tile],
    running: deque[tuple[Wanted, Future[_Tile]]],
    waiting: Iterator[Wanted],
    first: UnreadableTile,
    find_all_bad: bool,
) -> UnreadableTilesError:
    """Try the tiles after a failed one, so that one message lists all that can't be read."""
    bad, n_tried = [first], 0
    while running and (find_all_bad or (n_tried < MAX_LOOKAHEAD and len(bad) < MAX_LISTED)):
        tile, future = running.popleft()
        n_tried += 1
        try:
            future.result()
        except UserError as error:
            bad.append(UnreadableTile(tile.source, error))
        running.extend((one, pool.submit(decode, one)) for one in islice(waiting, 1))
    return UnreadableTilesError(bad, complete=not running)
