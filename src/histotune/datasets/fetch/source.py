"""What every source of a data set can do: say what it would fetch, and fetch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from histotune.datasets.fetch.records import show_bytes
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.datasets.fetch.place import Receipt
    from histotune.datasets.fetch.records import PlannedFile, Source, Transfer


@dataclass(frozen=True)
class Need:
    """Free space that a fetch needs at its worst moment.

    Attributes:
        n_bytes: Without the margin.
        what: How the number comes about.
    """

    n_bytes: int
    what: str


@dataclass(frozen=True)
class Result:
    """What a source brought.

    Attributes:
        receipt: What is there now.
        new: False where everything was there already.
    """

    receipt: Receipt
    new: bool


class Origin(Protocol):
    """A source of one data set."""

    @property
    def dataset(self) -> str:
        """Name of the data set on the command line."""

    @property
    def source(self) -> Source:
        """Where it is, for people."""

    def plan(self, folder: Path, receipt: Receipt) -> tuple[PlannedFile, ...]:
        """Return what would be fetched, without writing and without the network."""

    def need(self, folder: Path, receipt: Receipt) -> Need:
        """Return the free space needed."""

    def bring(self, folder: Path, receipt: Receipt, transfer: Transfer) -> Result:
        """Fetch, verify, unpack; the folder is locked. Raises UserError."""


def need_of(downloaded_bytes: int, kept_bytes: int, here_bytes: int) -> Need:
    """Return the space for a download beside what it unpacks to, less what is there already.

    Args:
        downloaded_bytes: Of what lies on disk compressed at one time.
        kept_bytes: Of what stays.
        here_bytes: Of interrupted downloads.
    """
    what = f"{show_bytes(downloaded_bytes)} to download and {show_bytes(kept_bytes)} unpacked"
    if here_bytes:
        what += f", less {show_bytes(here_bytes)} that are here"
    return Need(max(0, downloaded_bytes + kept_bytes - here_bytes), what)


def cant_fetch(origin: Origin, folder: Path, what: str, fix: str | None = None, *, put: str | None = None) -> UserError:
    """Return the one message for a source that gives nothing: why, another source, and the way by hand.

    Args:
        origin: The source.
        folder: The data folder.
        what: What happened.
        fix: What a person can do about it, where it is known.
        put: What to download by hand, in place of the source's own words.
    """
    ways = [
        "run the same command again later; what arrived is kept",
        f"or choose --source {' or --source '.join(origin.source.others)}",
        f"or download {put or origin.source.manual_put} by hand from {origin.source.manual_url} into {folder} "
        f"and {origin.source.manual_then}",
    ]
    return UserError(
        f"{origin.source.where} can't be fetched: {what}", fix="\n       ".join(([fix] if fix else []) + ways)
    )


def here_already(folder: Path, what: str) -> UserError:
    """Return the message for something in the folder that is in the way.

    Args:
        folder: The data folder.
        what: What it is.
    """
    return UserError(what, value=folder, fix="move or remove it, or choose another folder with --to")
