"""What every source of a data set can do: say what it would fetch, and fetch it."""

from __future__ import annotations

import logging
import shutil
import tomllib
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from histotune import __version__
from histotune.datasets.disk import FETCH_RECORDS
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, lock, read_json, unsealed, write_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np

LOG = logging.getLogger(__name__)


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
    """Return the space for a download beside what it unpacks to, less what is there already."""
    what = f"{show_bytes(downloaded_bytes)} to download and {show_bytes(kept_bytes)} unpacked"
    if here_bytes:
        what += f", less {show_bytes(here_bytes)} that are here"
    return Need(max(0, downloaded_bytes + kept_bytes - here_bytes), what)


def cant_fetch(origin: Origin, folder: Path, what: str, fix: str | None = None, *, put: str | None = None) -> UserError:
    """Return the one message for a source that gives nothing: why, another source, and the way by hand."""
    ways = [
        "run the same command again later; what arrived is kept",
        f"or choose --source {' or --source '.join(origin.source.others)}",
        f"or download {put or origin.source.manual_put} by hand from {origin.source.manual_url} into {folder} "
        f"and {origin.source.manual_then}",
    ]
    return UserError(
        f"{origin.source.where} can't be fetched: {what}", fix="\n       ".join(([fix] if fix else []) + ways)
    )


@contextmanager
def explained_fetch(
    origin: Origin, folder: Path, explain: Callable[[Exception], tuple[str, str] | None]
) -> Iterator[None]:
    """Turn what another library raises into one message; ``explain`` says what happened and what helps, or None."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        raise cant_fetch(origin, folder, *explained) from error


def here_already(folder: Path, what: str) -> UserError:
    """Return the message for something in the folder that is in the way."""
    return UserError(what, value=folder, fix="move or remove it, or choose another folder with --to")


# ---- The folder: lock, space, receipt ----


STAGING = "staging"  # work in progress of other libraries, kept so that they can resume


@dataclass(frozen=True)
class Receipt:
    """What was fetched into a folder and how it was verified; saved beside the data.

    Attributes:
        dataset: Name on the command line.
        source: Where it came from.
        address: The address or handle used last, without query.
        files: What is there.
        complete: Whether the whole data set is.
        updated_at: UTC, ISO 8601.
        histotune: Version that wrote this.
        notes: What a reader should know.
    """

    dataset: str
    source: str
    address: str = ""
    files: tuple[FetchedFile, ...] = ()
    complete: bool = False
    updated_at: str = ""
    histotune: str = __version__
    notes: tuple[str, ...] = ()

    def find(self, name: str) -> FetchedFile | None:
        """Return the entry of a name, None where there is none."""
        return next((file for file in self.files if file.name == name), None)

    def with_file(self, file: FetchedFile, *, without: str | None = None) -> Receipt:
        """Return a receipt with an entry added or replaced, and one left out."""
        kept = tuple(entry for entry in self.files if entry.name not in (file.name, without))
        return replace(self, files=(*kept, file))


def records_folder(folder: Path) -> Path:
    """Return the folder of lock, receipt and work in progress below a data folder."""
    return folder / FETCH_RECORDS


def staging_folder(folder: Path, name: str) -> Path:
    """Return where another library puts a copy before it gets its final place."""
    return records_folder(folder) / STAGING / name


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_receipt(folder: Path) -> Receipt | None:
    """Return a folder's receipt; None where there is none or it can't be read."""
    path = records_folder(folder) / "receipt.json"
    try:
        data = unsealed(read_json(path), {field.name for field in fields(Receipt)})
        files = tuple(FetchedFile(**file) for file in data.pop("files"))
        return Receipt(**{**data, "files": files, "notes": tuple(data["notes"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        LOG.warning("the receipt of this folder is damaged (%s), so its files are verified again: %s", error, path)
        return None


def write_receipt(folder: Path, receipt: Receipt) -> Receipt:
    """Save a receipt with the time of now."""
    saved = replace(receipt, updated_at=datetime.now(UTC).isoformat(timespec="seconds"), histotune=__version__)
    write_sealed(records_folder(folder) / "receipt.json", asdict(saved))
    return saved


@contextmanager
def locked(folder: Path, transfer: Transfer) -> Iterator[None]:
    """Hold a data folder for this process; another one that fetches into it is waited for, and that is said."""
    import filelock

    _require_folder(folder)
    path = records_folder(folder) / "lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(path, timeout_s=0))
        except UserError as error:
            if not isinstance(error.__cause__, filelock.Timeout):
                own = "choose a folder you own with --to, or change its permissions"
                raise UserError(error.what, value=folder, fix=own) from error
            transfer.say(f"another process is fetching into {folder}; waiting for it to finish")
            _wait(stack, path, folder, transfer)
        yield


def _wait(stack: ExitStack, path: Path, folder: Path, transfer: Transfer) -> None:
    try:
        stack.enter_context(lock(path, timeout_s=transfer.config.lock_wait_s))
    except UserError as error:
        raise UserError(
            f"another process has been fetching into this folder for {transfer.config.lock_wait_s:,.0f} s",
            value=folder,
            fix="wait for it to finish, or choose another folder with --to",
        ) from error


def _require_folder(folder: Path) -> None:
    nearest = nearest_folder(folder)
    if not nearest.is_dir() or (folder.exists() and not folder.is_dir()):
        raise UserError("this is a file, and a folder is needed", value=nearest, fix="choose another folder with --to")


def nearest_folder(folder: Path) -> Path:
    """Return a folder, or where it is missing the nearest one above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is or will be, in bytes."""
    return shutil.disk_usage(nearest_folder(folder)).free


def require_space(folder: Path, need_bytes: int, what: str) -> None:
    """Refuse before the first byte what the disk can't hold."""
    free = free_bytes(folder)
    if free < need_bytes:
        raise UserError(
            f"the disk has {show_bytes(free)} free and {show_bytes(need_bytes)} are needed ({what})",
            value=folder,
            fix=f"free {show_bytes(need_bytes - free)} there, or choose a folder on another disk with --to",
        )


def clear_leftovers(folder: Path, names: tuple[str, ...]) -> None:
    """Remove what killed processes left while unpacking; downloads and staging are kept. Call it with the lock held."""
    for left in folder.glob(".*.partial"):
        if any(left.name.startswith(f".{name}.") for name in names):
            left.unlink(missing_ok=True)
    for left in records_folder(folder).glob(".*.partial"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(unpacked_folder(folder), ignore_errors=True)


def unpacked_folder(folder: Path) -> Path:
    """Return where an archive is unpacked before its files get their final place."""
    return records_folder(folder) / "unpacked"


def file_entry(folder: Path, name: str, digest: Digest, checked: str, *, by_hand: bool = False) -> FetchedFile:
    """Return the receipt's entry of a file as it lies on disk."""
    status = (folder / name).stat()
    return FetchedFile(name, status.st_size, status.st_mtime_ns, digest.md5, digest.sha256, checked, by_hand)


def unchanged(folder: Path, entry: FetchedFile | None) -> bool:
    """Whether a file still has the length and the time it had when it was verified."""
    if entry is None or not (folder / entry.name).is_file():
        return False
    status = (folder / entry.name).stat()
    return (status.st_size, status.st_mtime_ns) == (entry.size_bytes, entry.mtime_ns)


def tree_entry(folder: Path, name: str, checked: str) -> FetchedFile:
    """Return the receipt's entry of a folder: its bytes, and a hash over the names and lengths of its files."""
    root = folder / name
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    listing = "\n".join(f"{path}\t{size}" for path, size in sorted(sizes.items()))
    return FetchedFile(name, sum(sizes.values()), 0, "", hash_bytes(listing), checked)


# ---- What passes between the steps of a fetch ----


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
    checksums: Checksums = Checksums()
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


# ---- Settings ----


class NetworkConfig(BaseModel):
    """How patient a download is.

    Attributes:
        stall_s: A connection that brings nothing for this long is given up and resumed on a new one, in seconds; the
            head of an answer must be whole within it.
        slowest_bytes_per_s: So is one that stays slower than this over ``slow_window_s``, in bytes per second.
        slow_window_s: Length of that window, in seconds.
        attempts: Attempts in a row that may bring less than ``progress_bytes`` each before the address is given up.
        first_attempts: The same while no byte has arrived and no server has answered: no network fails soon.
        progress_bytes: What an attempt must bring beyond the furthest point so far to count as progress.
        backoff_s: Wait before the second attempt, doubled each time, with jitter, in seconds.
        backoff_limit_s: Longest such wait, in seconds.
        retry_after_limit_s: Longest wait that a server may ask for (Retry-After), in seconds.
        redirects: Redirects followed for one request.
        chunk_bytes: Most bytes read at once.
        lock_wait_s: How long to wait for another process that fetches into the same folder, in seconds.
        margin_bytes: Free space to leave on the disk.
        most_bytes: A file whose exact length is not published may grow to this, and no further than the disk has room.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stall_s: float = Field(60.0, gt=0)
    slowest_bytes_per_s: float = Field(1024.0, ge=0)
    slow_window_s: float = Field(60.0, gt=0)
    attempts: int = Field(8, ge=1)
    first_attempts: int = Field(3, ge=1)
    progress_bytes: int = Field(1 << 20, ge=1)
    backoff_s: float = Field(1.0, ge=0)
    backoff_limit_s: float = Field(60.0, ge=0)
    retry_after_limit_s: float = Field(300.0, ge=0)
    redirects: int = Field(5, ge=0)
    chunk_bytes: int = Field(1 << 17, ge=1)
    lock_wait_s: float = Field(86_400.0, ge=0)
    margin_bytes: int = Field(1 << 30, ge=0)
    most_bytes: int = Field(50_000_000_000, ge=1)


# ---- What is published ----


FACTS = tomllib.loads(resources.files(__package__).joinpath("facts.toml").read_text(encoding="utf-8"))
SOURCES = TypeAdapter(dict[str, tuple[Source, ...]]).validate_python(FACTS["sources"])
FILES = TypeAdapter(dict[str, tuple[RemoteFile, ...]]).validate_python(FACTS["files"])
PCAM_ROWS: dict[str, int] = FACTS["pcam_rows"]
BREAKHIS_COUNTS: dict[tuple[str, str], int] = {
    (magnification, letter): n
    for magnification, by_class in FACTS["breakhis_counts"].items()
    for letter, n in by_class.items()
}
