"""Images of many requests go together; each gets its own answer; nothing that one raises ends the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from histotune.deploy import batch_queue
from histotune.deploy.batch_queue import BatchQueue, BusyError
from histotune.deploy.live_head import LiveImage
from histotune.images.loader import Views


def image(name: str) -> LiveImage:
    return LiveImage(name, Views(np.zeros((1, 1, 1, 3), np.uint8), ("",), (1,)), (1, 1), None)


class Network:
    """Answers with names; may be held up, and may break."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, images: Sequence[LiveImage]) -> list[dict[str, Any]]:
        """Answer a batch."""
        self.free.wait(10)
        names = [one.name for one in images]
        self.batches.append(names)
        if "bad" in names:
            raise RuntimeError("broken")
        return [{"name": name} for name in names]


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def queue(network: Network) -> Iterator[BatchQueue]:
    found = BatchQueue(network, 4)
    yield found
    network.free.set()
    found.close()


def test_everybody_gets_the_own_answer_and_no_batch_is_too_large(queue: BatchQueue, network: Network) -> None:
    network.free.clear()
    asked = [queue.predicted(image(f"{number}")) for number in range(11)]
    network.free.set()
    assert [one.result(10)["name"] for one in asked] == [f"{number}" for number in range(11)]
    assert max(map(len, network.batches)) == 4 and len(network.batches) <= 4
    assert queue.n_images == 11 and queue.n_batches == len(network.batches)


def test_what_breaks_is_raised_to_those_it_broke_for_alone(queue: BatchQueue) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        queue.predicted(image("bad")).result(10)
    assert queue.predicted(image("good")).result(10) == {"name": "good"}


def test_other_work_takes_its_turn_on_the_same_thread(queue: BatchQueue, network: Network) -> None:
    network.free.clear()
    first = queue.predicted(image("first"))
    work = queue.done(lambda: threading.current_thread().name)
    last = queue.predicted(image("last"))
    network.free.set()
    assert work.result(10) == "network"
    assert first.result(10) == {"name": "first"} and last.result(10) == {"name": "last"}
    with pytest.raises(ZeroDivisionError):
        queue.done(lambda: 1 // 0).result(10)


def test_somebody_who_has_gone_is_passed_over(queue: BatchQueue, network: Network) -> None:
    network.free.clear()
    queue.predicted(image("first"))
    time.sleep(0.05)
    gone, last = queue.predicted(image("gone")), queue.predicted(image("last"))
    assert gone.cancel()
    network.free.set()
    assert last.result(10) == {"name": "last"}


def test_more_than_fits_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_queue, "MAX_WAITING", 3)
    queue = BatchQueue(network, 1)
    network.free.clear()
    asked = [queue.predicted(image("running"))]
    time.sleep(0.05)
    asked += [queue.predicted(image(f"{number}")) for number in range(3)]
    with pytest.raises(BusyError, match="too many images"):
        queue.predicted(image("more"))
    network.free.set()
    assert [one.result(10)["name"] for one in asked] == ["running", "0", "1", "2"]
    queue.close()


def test_what_waits_is_answered_before_the_end_and_nothing_after(network: Network) -> None:
    queue = BatchQueue(network, 2)
    asked = [queue.predicted(image(f"{number}")) for number in range(5)]
    queue.close()
    assert [one.result(0)["name"] for one in asked] == [f"{number}" for number in range(5)]
    with pytest.raises(BusyError):
        queue.predicted(image("late"))
    queue.close()
