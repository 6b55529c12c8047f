"""What passes between the steps of a fetch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from histotune.datasets.fetch.config import NetworkConfig

FileState = Literal["to fetch", "to resume", "to verify", "here"]


@dataclass(frozen=True)
class Checksums:
    """Published hashes of a file; None where none is published.

    Attributes:
        md5: 32 hexadecimal digits.
        sha256: 64 hexadecimal digits.
    """

    md5: str | None = None
    sha256: str | None = None

    @property
    def known(self) -> bool:
        """Whether any hash is published."""
        return self.md5 is not None or self.sha256 is not None


@dataclass(frozen=True)
class Digest:
    """What a file on disk really is.

    Attributes:
        size_bytes: Its length.
        md5: Of its bytes.
        sha256: Of its bytes.
    """

    size_bytes: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Unpacked:
    """What a gzip file holds.

    Attributes:
        name: File name after unpacking.
        checksums: Published hashes of the unpacked file.
        limit_bytes: The unpacked file is not larger than this; a stream that goes on is a bomb.
    """

    name: str
    checksums: Checksums
    limit_bytes: int


@dataclass(frozen=True)
class RemoteFile:
    """A file at a data set's home and what is known about it.

    Attributes:
        name: File name, also on disk.
        urls: Addresses in the order they are tried.
        about_bytes: Its length, exact or not, for the disk check and the dry run.
        exact: Whether ``about_bytes`` is the length to the byte.
        checksums: Published hashes.
        unpacked: What a gzip file holds; None for other files.
    """

    name: str
    urls: tuple[str, ...]
    about_bytes: int
    exact: bool
    checksums: Checksums
    unpacked: Unpacked | None = None

    @property
    def size_bytes(self) -> int | None:
        """Exact length in bytes, None where it isn't known."""
        return self.about_bytes if self.exact else None

    @property
    def final_name(self) -> str:
        """Name of what stays on disk."""
        return self.name if self.unpacked is None else self.unpacked.name


@dataclass(frozen=True)
class Source:
    """One place a data set comes from.

    Attributes:
        name: As in ``--source``.
        where: The place, for people.
        manual_url: Where a person downloads by hand.
        manual_put: What to download there, and where to put it below the data folder.
        download_bytes: About how much is downloaded.
        unpacked_bytes: About how much stays on disk.
        manual_then: What to do after that.
        others: Names of the other sources of the same data set.
    """

    name: str
    where: str
    manual_url: str
    manual_put: str
    download_bytes: int
    unpacked_bytes: int
    manual_then: str = "run the same command, which verifies and unpacks"
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transfer:
    """What every step of a fetch needs.

    Attributes:
        config: How patient a download is.
        rng: For the jitter of waits.
        say: Called with one sentence for everything a person should know while it runs.
        sleep: Waits that many seconds.
    """

    config: NetworkConfig
    rng: np.random.Generator
    say: Callable[[str], None]
    sleep: Callable[[float], None]


@dataclass(frozen=True)
class FetchedFile:
    """A file or folder that stays on disk, and how it was verified.

    Attributes:
        name: Path below the data folder.
        size_bytes: Length; of a folder, of all its files.
        mtime_ns: Modification time, 0 for a folder.
        md5: Of the file's bytes; empty for a folder.
        sha256: Of the file's bytes; of a folder, over the names and lengths of its files.
        checked: What was compared with what, as a phrase.
        by_hand: Whether a person put it there; such a file is never removed.
    """

    name: str
    size_bytes: int
    mtime_ns: int
    md5: str
    sha256: str
    checked: str
    by_hand: bool = False


@dataclass(frozen=True)
class PlannedFile:
    """A line of the plan.

    Attributes:
        name: File at the source.
        about_bytes: Its length.
        exact: Whether the length is known to the byte.
        check: How it will be verified.
        state: Whether it is here already.
    """

    name: str
    about_bytes: int
    exact: bool
    check: str
    state: FileState


@dataclass(frozen=True)
class FetchPlan:
    """What a fetch would do; nothing is written to make it.

    Attributes:
        title: Data set, for people.
        source: Where it comes from.
        folder: Where it goes.
        files: What is fetched.
        need_bytes: Free space needed at the worst moment, margin included.
        free_bytes: Free space there now.
    """

    title: str
    source: Source
    folder: Path
    files: tuple[PlannedFile, ...]
    need_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class FetchOutcome:
    """A finished fetch.

    Attributes:
        title: Data set, for people.
        dataset: Its name on the command line.
        folder: Where the data are.
        files: What is there, and how it was verified.
        new: False where everything was there already.
        licence: Licence of the images.
        citation: How to cite them.
        notes: What a reader should know, one sentence each.
    """

    title: str
    dataset: str
    folder: Path
    files: tuple[FetchedFile, ...]
    new: bool
    licence: str
    citation: str
    notes: tuple[str, ...]


def show_bytes(n_bytes: float) -> str:
    """Return a length as a person reads it, in decimal units as download pages use them.

    Example:
        >>> show_bytes(6_421_353_462)
        '6.4 GB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:,.0f} bytes"
