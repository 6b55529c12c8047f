"""Batches of views, decoded by threads ahead of the network, in order."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from histotune.images.decode import MAX_LISTED, UnreadableTile, UnreadableTilesError
from histotune.images.views import device_plan, device_resizable, view_inputs
from histotune.tools.errors import UserError
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from histotune.images.config import ViewConfig
    from histotune.images.decode import PixelReader, PixelSource
    from histotune.images.device_resize import ResizePlan

# B inputs of a batch, K inputs of a tile, S side of the view, H height and W width of a stored image, C channels


LOG = logging.getLogger(__name__)
MAX_LOOKAHEAD = 5000  # after the first failure at most this many tiles are tried for one message


@dataclass(frozen=True)
class Wanted:
    """A tile to read, and the row of an embedding space that it is read for.

    Attributes:
        source: Where its pixels are.
        source_px: Width and height that its image must have; None takes any.
        resized_px: Width and height after resizing, where they depend on the tile's mpp; None leaves them to the view.
        content: Content hash of its bytes; empty where it was not taken.
        key: Finds its row in the space (law 3); empty where it is read for none.
        n_inputs: Network inputs whose embeddings its row averages; 1 where their number is not known beforehand.
    """

    source: PixelSource
    source_px: tuple[int, int] | None = None
    resized_px: tuple[int, int] | None = None
    content: str = ""
    key: str = ""
    n_inputs: int = 1


@dataclass(frozen=True)
class Views:
    """The network inputs of a batch, or of one tile on its way into a batch.

    Attributes:
        pixels_BSSC: uint8 (B, size_px, size_px, 3), the inputs of one tile after those of another; with a ``plan`` the
            images as stored, uint8 (B, H, W, 3).
        content: Content hash of each tile, taken over the bytes that were decoded.
        n_inputs: Inputs of each tile; 1 but for the view ``tiles``.
        plan: How the device makes the inputs of stored images; None where they are made.
    """

    pixels_BSSC: NDArray[np.uint8]
    content: tuple[str, ...]
    n_inputs: tuple[int, ...]
    plan: ResizePlan | None = None


if TYPE_CHECKING:
    Decoding = tuple[Wanted, Future[Views]]


class DeviceViews:
    """Which stored images a device resizes in Pillow's stead, with the very same pixels.

    Only images with fewer pixels than the network's input: those are fewer bytes to copy and a resize less for the
    processor. Larger ones would cost the device memory and time to save what decoding them dwarfs.

    Args:
        view: How an image becomes the network's input.
        device: A torch device; empty leaves everything to Pillow.
    """

    def __init__(self, view: ViewConfig, device: str) -> None:
        self._view, self._device = view, device
        self._plans: dict[tuple[tuple[int, int], tuple[int, int] | None], ResizePlan | None] = {}
        self._lock = Lock()

    def plan(self, source_px: tuple[int, int], resized_px: tuple[int, int] | None) -> ResizePlan | None:
        """Return how the device makes the input of an image; None where Pillow does."""
        if not self._device or source_px[0] * source_px[1] >= self._view.size_px**2:
            return None
        key = (source_px, resized_px)
        with self._lock:
            if key not in self._plans:
                self._plans[key] = self._checked(source_px, resized_px)
            return self._plans[key]

    def stop(self) -> None:
        """Leave everything to Pillow from now on, where batches hold images of several sizes."""
        if self._device:
            LOG.debug("images of several sizes: Pillow resizes them in the decoding threads")
        self._device = ""

    def _checked(self, source_px: tuple[int, int], resized_px: tuple[int, int] | None) -> ResizePlan | None:
        verdict = device_resizable(self._view, [(source_px, resized_px)], self._device)
        if not verdict:
            LOG.debug("Pillow resizes, not the device: %s", verdict.reason)
            return None
        plan = device_plan(self._view, source_px, resized_px)
        return plan if len(plan.corners_px) == 1 else None


def load_views(
    wanted: Sequence[Wanted],
    batch_sizes: Sequence[int],
    view: ViewConfig,
    reader: PixelReader,
    *,
    find_all_bad: bool = False,
    device: str = "",
) -> Generator[Views, None, None]:
    """Yield batches of views in the order of the tiles.

    A bounded number of tiles is decoded ahead: two batches, and one tile per thread.

    Args:
        wanted: Where the pixels are, and how large they become.
        batch_sizes: Tiles per batch; sums to the number of tiles.
        view: How an image becomes the network's input.
        reader: Open files, and the number of threads; it is not closed here.
        find_all_bad: After a tile that can't be read, try all that follow, not only enough for one message.
        device: A torch device that may resize in Pillow's stead where it gives the same pixels; empty for none.

    Yields:
        One batch per entry of ``batch_sizes``.

    Raises:
        UnreadableTilesError: Tiles that can't be read; after the first, the following ones are tried as well so that
            one message lists them together.
    """
    workers = reader.config.workers or cpu_count()
    on_device = DeviceViews(view, device)

    def decode(tile: Wanted) -> Views:
        """Read a tile and make the network's inputs of it, or leave the resizing to the device."""
        pixels_HWC, content = reader.pixels_and_hash(tile.source)
        _check_size(pixels_HWC, tile)
        plan = on_device.plan((pixels_HWC.shape[1], pixels_HWC.shape[0]), tile.resized_px)
        if plan is not None:
            return Views(pixels_HWC[None], (content,), (1,), plan)
        inputs_KSSC = _inputs(pixels_HWC, tile, view)
        return Views(inputs_KSSC, (content,), (len(inputs_KSSC),))

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead = 2 * max(batch_sizes, default=1) + workers
        tiles = _in_order(((one, pool.submit(decode, one)) for one in wanted), ahead, find_all_bad)
        with closing(tiles):
            for size in batch_sizes:
                yield _together(list(islice(tiles, size)), view, on_device)


def _together(batch: list[Views], view: ViewConfig, on_device: DeviceViews) -> Views:
    """Return tiles as one batch; where they differ in size, the device gets finished inputs."""
    if len({tile.plan for tile in batch}) > 1:
        on_device.stop()
        batch = [_made(tile, view) for tile in batch]
    return Views(
        np.concatenate([tile.pixels_BSSC for tile in batch]),
        tuple(one for tile in batch for one in tile.content),
        tuple(number for tile in batch for number in tile.n_inputs),
        batch[0].plan,
    )


def _made(tile: Views, view: ViewConfig) -> Views:
    """Make the inputs of a tile that was left to the device."""
    if tile.plan is None:
        return tile
    inputs_KSSC = view_inputs(tile.pixels_BSSC[0], view, tile.plan.resized_px)
    return Views(inputs_KSSC, tile.content, (len(inputs_KSSC),))


def _check_size(pixels_HWC: NDArray[np.uint8], tile: Wanted) -> None:
    """Refuse an image of another size than its scale was worked out with."""
    found = (pixels_HWC.shape[1], pixels_HWC.shape[0])
    if tile.source_px not in (None, found):
        raise UserError(
            f"the image is {found[0]} x {found[1]} px and its data set says {tile.source_px}",
            value=tile.source,
            fix="correct the table of the data set, or read it again",
        )


def _inputs(pixels_HWC: NDArray[np.uint8], tile: Wanted, view: ViewConfig) -> NDArray[np.uint8]:
    """Make the network inputs of a tile."""
    try:
        return view_inputs(pixels_HWC, view, tile.resized_px)
    except UserError as error:
        raise UserError(error.what, value=tile.source, allowed=error.allowed, fix=error.fix) from error


def _in_order(started: Iterator[Decoding], ahead: int, find_all_bad: bool) -> Generator[Views, None, None]:
    """Yield decoded tiles in order while at most ``ahead`` further ones are under way."""
    running = deque(islice(started, ahead))
    try:
        while running:
            current, future = running.popleft()
            try:
                tile = future.result()
            except UserError as error:
                running.extend(islice(started, 1))
                first = UnreadableTile(current.source, error)
                raise _with_further(running, started, first, find_all_bad) from error
            running.extend(islice(started, 1))
            yield tile
    finally:
        for _, future in running:
            future.cancel()


def _with_further(
    running: deque[Decoding], started: Iterator[Decoding], first: UnreadableTile, find_all_bad: bool
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
        running.extend(islice(started, 1))
    return UnreadableTilesError(bad, complete=not running)
