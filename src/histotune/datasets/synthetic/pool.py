"""Rendering by several processes; the result does not depend on how many."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from histotune.datasets.synthetic.render import render
from histotune.tools.errors import UserError
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from histotune.datasets.synthetic.plan import Job

S = TypeVar("S")
T = TypeVar("T")
CHUNK = 8
Z_RLE = 3  # zlib's run-length strategy: three times as fast as its default on noisy images, and no larger


class Renderer:
    """Worker processes that draw tiles, started when first needed and gone with the block.

    Args:
        workers: Number of processes; None takes one per core, 1 draws in this process.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = cpu_count() if workers is None else workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Renderer:
        """Start the processes afresh (spawn), as Windows and macOS do."""
        if self._workers > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_leave_interrupts_to_parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes; after an error, without drawing what was still to come.

        Raises:
            UserError: A process died, which is what a script without a main guard does to its children.
        """
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=kind is not None)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a process that renders synthetic tissue died (out of memory, or a script without a main guard)",
                fix='call write_cohort(..., workers=1), or put the script below `if __name__ == "__main__":`',
            ) from error

    def save_all(self, folder: Path, jobs: Sequence[Job], description: str) -> None:
        """Draw tiles and save each as PNG at its path below a folder.

        Args:
            folder: Where the paths begin; the folders exist.
            jobs: The tiles.
            description: Label of the progress bar.
        """
        results = self._map(_save, [(str(folder), job) for job in jobs])
        for _ in track(results, description, total=len(jobs)):
            pass

    def draw_all(self, jobs: Sequence[Job], description: str) -> NDArray[np.uint8]:
        """Draw tiles of one size.

        Args:
            jobs: The tiles.
            description: Label of the progress bar.

        Returns:
            RGB, uint8, shape (n, H, W, 3).
        """
        return np.stack(list(track(self._map(_draw, list(jobs)), description, total=len(jobs))))

    def _map(self, work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
        return map(work, items) if self._pool is None else self._pool.map(work, items, chunksize=CHUNK)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw(job: Job) -> NDArray[np.uint8]:
    return render(job.tissue, job.field, job.camera, job.seed)


def _save(task: tuple[str, Job]) -> None:
    from PIL import Image

    folder, job = task
    Image.fromarray(_draw(job)).save(Path(folder) / job.path, "PNG", compress_level=1, compress_type=Z_RLE)
