"""Progress bars on anything long, off when nobody watches; and a stopwatch for the stages of a run."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from histotune.tools.streams import shown, terminal_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


def is_watched() -> bool:
    """Return whether a person sees progress: at a terminal, or in a notebook, whose kernel is this process."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, with a bar on standard error while a person watches.

    Args:
        items: What to iterate over.
        description: What is happening, as the bar's label.
        total: Number of items; taken from ``len(items)`` where possible.

    Yields:
        The items, unchanged.
    """
    if not is_watched():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=terminal_stream(sys.stderr)), transient=True) as bar:
        yield from bar.track(items, total=total, description=shown(description))


@contextmanager
def track_bytes(
    description: str, total_bytes: int | None = None, done_bytes: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes on standard error while a person watches."""
    if not is_watched():
        yield lambda n_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=terminal_stream(sys.stderr)), transient=True) as bar:
        task = bar.add_task(shown(description), total=total_bytes, completed=done_bytes)
        yield lambda n_bytes: bar.advance(task, n_bytes)


@contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """Show one line that changes on standard error while a person watches."""
    if not is_watched():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(file=terminal_stream(sys.stderr)).status("sweeping") as status:
        yield lambda text: status.update(Text(shown(text)))


@dataclass(frozen=True)
class StageTime:
    """Seconds spent in one stage of a run."""

    name: str
    seconds_s: float


@dataclass
class Stopwatch:
    """Measures the stages of a run in order.

    Example:
        >>> watch = Stopwatch()
        >>> with watch.stage("embed"):
        ...     pass
        >>> watch.stages[0].name
        'embed'
    """

    stages: list[StageTime] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under ``name``; recorded only when it succeeds.

        Args:
            name: What the block does.
        """
        start = time.perf_counter()
        yield
        self.stages.append(StageTime(name, time.perf_counter() - start))

    @property
    def total_s(self) -> float:
        """Seconds over all stages."""
        return sum(stage.seconds_s for stage in self.stages)


def time_words(hours: float) -> str:
    """Return a time for people.

    Example:
        >>> time_words(2.5), time_words(0.25), time_words(0.01)
        ('2.5 h', '15.0 min', '36 s')
    """
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"
