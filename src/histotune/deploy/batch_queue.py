"""Images of many requests through one network: whatever waits goes together, up to a batch or a few milliseconds."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Condition, Lock, Thread
from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from histotune.deploy.live_head import LiveImage

LOG = logging.getLogger(__name__)
WAIT_S = 0.005
MAX_WAITING = 512
UNDER_WAY = 2
"""Batches in the network at once: while the results of one are read, the next is computed already."""


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
    """The threads that use the network.

    Args:
        predict: Takes images, returns an answer for each; called by two threads at once.
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
        self._turns = Turns()
        self._threads = [Thread(target=self._work, name="network", daemon=True) for _ in range(UNDER_WAY)]
        for thread in self._threads:
            thread.start()

    def predicted(self, image: LiveImage) -> Future[dict[str, Any]]:
        """Return what will hold the answer for an image."""
        return self._put(_Asked(image, None))

    def done(self, work: Callable[[], Any]) -> Future[Any]:
        """Return what will hold the result of something else that uses the network, and has it for itself."""
        return self._put(_Asked(None, work))

    def close(self) -> None:
        """Answer what waits, and end the threads."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

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
        rest: tuple[_Asked | None, ...] = ()
        while (asked := rest[0] if rest else self._waiting.get()) is not None:
            batch, rest = ([asked], ()) if asked.work is not None else self._collect(asked)
            self._run(batch)

    def _collect(self, first: _Asked) -> tuple[list[_Asked], tuple[_Asked | None, ...]]:
        """Return images that go together, and what came behind them that is none."""
        batch, latest = [first], time.monotonic() + self._wait_s
        while len(batch) < self._batch_size:
            try:
                asked = self._waiting.get(timeout=max(latest - time.monotonic(), 0.0))
            except Empty:
                break
            if asked is None or asked.work is not None:
                return batch, (asked,)
            batch.append(asked)
        return batch, ()

    def _run(self, batch: list[_Asked]) -> None:
        """Answer a batch, or do a piece of other work."""
        if (work := batch[0].work) is not None:
            with self._turns.alone():
                _settle(batch, lambda: [work()])
            return
        images = [asked.image for asked in batch if asked.image is not None]
        with self._turns.beside():
            _settle(batch, lambda: self._predict(images))
        with self._lock:
            self.n_batches += 1
            self.n_images += len(images)


class Turns:
    """Batches may run beside each other; a map, which watches the network's layers, runs alone and comes next."""

    def __init__(self) -> None:
        self._free = Condition()
        self._n_running = 0
        self._n_wanting = 0

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run beside others of this kind."""
        with self._free:
            self._free.wait_for(lambda: self._n_wanting == 0)
            self._n_running += 1
        try:
            yield
        finally:
            with self._free:
                self._n_running -= 1
                self._free.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run while nothing else does."""
        with self._free:
            self._n_wanting += 1
            self._free.wait_for(lambda: self._n_running == 0)
            self._n_running = 1
        try:
            yield
        finally:
            with self._free:
                self._n_running, self._n_wanting = 0, self._n_wanting - 1
                self._free.notify_all()


def _settle(batch: Sequence[_Asked], work: Callable[[], list[Any]]) -> None:
    """Give everybody of a batch the answer, or what went wrong; somebody who has gone is passed over."""
    wanted = [asked.answer.set_running_or_notify_cancel() for asked in batch]
    if not any(wanted):
        return
    try:
        answers = work()
    except Exception as error:  # the network's threads must outlive whatever one batch raises
        for asked, is_wanted in zip(batch, wanted, strict=True):
            if is_wanted:
                asked.answer.set_exception(error)
        return
    for asked, is_wanted, answer in zip(batch, wanted, answers, strict=True):
        if is_wanted:
            asked.answer.set_result(answer)
