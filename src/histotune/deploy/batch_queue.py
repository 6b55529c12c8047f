"""Images of many requests through one network: whatever waits goes together, up to a batch or a few milliseconds."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from histotune.deploy.live_head import LiveImage

LOG = logging.getLogger(__name__)
WAIT_S = 0.005
MAX_WAITING = 512


class BusyError(UserError):
    """More waits for the network than is held in memory."""

    def __init__(self) -> None:
        super().__init__("too many images are waiting for the network", fix="send this again in a few seconds")


@dataclass(frozen=True)
class _Asked:
    """An image, or a piece of work of another kind, and who waits for it."""

    image: LiveImage | None
    work: Callable[[], Any] | None
    answer: Future[Any] = field(default_factory=Future)


class BatchQueue:
    """The one thread that uses the network.

    Args:
        predict: Takes images, returns an answer for each.
        batch_size: Most images that go together.
        wait_s: How long an image waits for others, seconds.

    Example:
        >>> queue = BatchQueue(live.predict, live.batch_size)  # doctest: +SKIP
        >>> queue.predicted(image).result()["predicted"]  # doctest: +SKIP
        'malignant'
    """

    def __init__(
        self, predict: Callable[[Sequence[LiveImage]], list[dict[str, Any]]], batch_size: int, wait_s: float = WAIT_S
    ) -> None:
        self._predict, self._batch_size, self._wait_s = predict, batch_size, wait_s
        self._waiting: Queue[_Asked | None] = Queue(MAX_WAITING)
        self._lock = Lock()
        self._closed = False
        self.n_images = 0
        self.n_batches = 0
        self._thread = Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    def predicted(self, image: LiveImage) -> Future[dict[str, Any]]:
        """Return what will hold the answer for an image."""
        return self._put(_Asked(image, None))

    def done(self, work: Callable[[], Any]) -> Future[Any]:
        """Return what will hold the result of something else that uses the network."""
        return self._put(_Asked(None, work))

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._waiting.put(None)
        self._thread.join()

    def _put(self, asked: _Asked) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise BusyError
            try:
                self._waiting.put_nowait(asked)
            except Full:
                raise BusyError from None
        return asked.answer

    def _work(self) -> None:
        """Take batch after batch until the end is asked for."""
        while True:
            first = self._waiting.get()
            if first is None:
                return
            if first.work is not None:
                _settle([first], first.work)
                continue
            batch, after = self._collect(first)
            self._run(batch)
            for other in after:
                if other is None:
                    return
                _settle([other], other.work)

    def _collect(self, first: _Asked) -> tuple[list[_Asked], list[_Asked | None]]:
        """Return images that go together, and what came in between that is none."""
        batch, latest = [first], time.monotonic() + self._wait_s
        while len(batch) < self._batch_size:
            try:
                asked = self._waiting.get(timeout=max(latest - time.monotonic(), 0.0))
            except Empty:
                break
            if asked is None or asked.work is not None:
                return batch, [asked]
            batch.append(asked)
        return batch, []

    def _run(self, batch: list[_Asked]) -> None:
        images = [asked.image for asked in batch if asked.image is not None]
        self.n_batches += 1
        self.n_images += len(images)
        _settle(batch, lambda: self._predict(images), shared=True)


def _settle(batch: Sequence[_Asked], work: Callable[[], Any] | None, *, shared: bool = False) -> None:
    """Give everybody of a batch the answer, or what went wrong; somebody who has gone is passed over."""
    wanted = [asked for asked in batch if asked.answer.set_running_or_notify_cancel()]
    if not wanted or work is None:
        return
    try:
        answers = work() if shared else [work()]
    except Exception as error:  # the network's thread must outlive whatever one batch raises
        for asked in wanted:
            asked.answer.set_exception(error)
        return
    by_place = dict(zip(map(id, batch), answers, strict=True))
    for asked in wanted:
        asked.answer.set_result(by_place[id(asked)])
