"""A processor's cores as lanes: each runs small parts of a batch on its own, and no core waits for another.

Several threads within every operation meet at a barrier after each of a network's hundreds of operations; a core that
decodes an image for a moment holds up all others. Lanes meet once per batch. Small parts also keep the activations in
the cache, and small enough for the allocator to keep their memory instead of asking the system for fresh pages (on two
cores EfficientNet-Lite0 took 12.4 ms per image with two threads on 32 images, 8.3 ms in lanes of 4).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Barrier
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import torch

LANE_PIXELS = 4 * 224 * 224  # of smaller images a part holds more, or starting its operations would take the time
MAX_LANES = 8  # Python starts every operation of every lane, under one lock; beyond, torch's own threads do better
# B batch, S side, D columns


@dataclass(frozen=True)
class LanesDone:
    """Becomes true when every part of a batch is computed.

    Attributes:
        parts: The parts under way.
    """

    parts: tuple[Future[None], ...]

    def synchronize(self) -> None:
        """Wait for all parts, so that none still writes, then raise what the first failed one raised."""
        failures = [part.exception() for part in self.parts]
        for failure in failures:
            if failure is not None:
                raise failure


class Lanes:
    """Threads that compute with one torch thread each.

    Args:
        n_lanes: How many.
    """

    def __init__(self, n_lanes: int) -> None:
        import torch

        self.n_lanes = n_lanes
        self._under_way: tuple[Future[None], ...] = ()
        self._pool = ThreadPoolExecutor(n_lanes, "lane", initializer=lambda: torch.set_num_threads(1))
        started = Barrier(n_lanes + 1)
        for _ in range(n_lanes):
            self._pool.submit(started.wait)
        before = torch.get_num_threads()
        started.wait()
        # What a thread sets holds for itself and for threads that torch has not met yet; those take ours again.
        torch.set_num_threads(before)

    def run(
        self, forward: Callable[[torch.Tensor], torch.Tensor], x_BSSC: torch.Tensor, n_columns: int
    ) -> tuple[torch.Tensor, LanesDone]:
        """Start a batch; this returns before anything is computed.

        Args:
            forward: Maps some of the images (b, S, S, 3) to (b, n_columns), called in inference mode.
            x_BSSC: The images.
            n_columns: Columns of the result.

        Returns:
            float32 (B, n_columns), to be read after the second, what to wait for.
        """
        import torch

        result_BD = torch.empty(len(x_BSSC), n_columns)

        def part(start: int, stop: int) -> None:
            with torch.inference_mode():
                result_BD[start:stop] = forward(x_BSSC[start:stop])

        ranges = lane_ranges(len(x_BSSC), self.n_lanes, x_BSSC.shape[1])
        parts = tuple(self._pool.submit(part, start, stop) for start, stop in ranges)
        self._under_way = (*(one for one in self._under_way if not one.done()), *parts)
        return result_BD, LanesDone(parts)

    def rest(self) -> None:
        """Wait until nothing is computed; what a part raised stays for whoever collects its batch."""
        wait(self._under_way)


def lane_ranges(n_images: int, n_lanes: int, size_px: int) -> tuple[tuple[int, int], ...]:
    """Return the parts of a batch, a function of these numbers alone, so that a repeated batch gives equal bits.

    Args:
        n_images: Images of the batch.
        n_lanes: Lanes there are.
        size_px: Side of an image.

    Returns:
        First and one past the last image of each part, at most as many pixels as four images of 224 px.

    Example:
        >>> lane_ranges(10, 2, 224)
        ((0, 4), (4, 8), (8, 10))
        >>> lane_ranges(5, 4, 32)
        ((0, 2), (2, 4), (4, 5))
    """
    length = max(min(LANE_PIXELS // size_px**2, -(-n_images // n_lanes)), 1)
    return tuple((start, min(start + length, n_images)) for start in range(0, n_images, length))
