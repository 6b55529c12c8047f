"""The folder that data are fetched into: its lock, its free space, its receipt of what was verified when."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from histotune import __version__
from histotune.datasets.disk import FETCH_RECORDS
from histotune.datasets.fetch.records import FetchedFile, show_bytes
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, lock, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from histotune.datasets.fetch.records import Digest, Transfer

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


def read_receipt(folder: Path) -> Receipt | None:
    """Return a folder's receipt; None where there is none or it can't be read.

    Args:
        folder: The data folder.
    """
    try:
        data = json.loads((records_folder(folder) / "receipt.json").read_text(encoding="utf-8"))
        files = tuple(FetchedFile(**file) for file in data.pop("files"))
        return Receipt(**{**data, "files": files, "notes": tuple(data["notes"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_receipt(folder: Path, receipt: Receipt) -> Receipt:
    """Save a receipt with the time of now.

    Args:
        folder: The data folder.
        receipt: What is there.

    Returns:
        The receipt as saved.
    """
    saved = replace(receipt, updated_at=datetime.now(UTC).isoformat(timespec="seconds"), histotune=__version__)
    write_json(records_folder(folder) / "receipt.json", asdict(saved))
    return saved


@contextmanager
def locked(folder: Path, transfer: Transfer) -> Iterator[None]:
    """Hold a data folder for this process; another one that fetches into it is waited for, and that is said.

    Args:
        folder: The data folder; made when missing.
        transfer: How long to wait, and where to say it.

    Raises:
        UserError: The other process does not end, or the folder can't be written.
    """
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
    """Refuse before the first byte what the disk can't hold.

    Args:
        folder: Where.
        need_bytes: Free space needed at the worst moment.
        what: How that number comes about.

    Raises:
        UserError: Too little is free; the message has the numbers.
    """
    free = free_bytes(folder)
    if free < need_bytes:
        raise UserError(
            f"the disk has {show_bytes(free)} free and {show_bytes(need_bytes)} are needed ({what})",
            value=folder,
            fix=f"free {show_bytes(need_bytes - free)} there, or choose a folder on another disk with --to",
        )


def clear_leftovers(folder: Path, names: tuple[str, ...]) -> None:
    """Remove what killed processes left while unpacking; downloads and staging are kept. Call it with the lock held.

    Args:
        folder: The data folder.
        names: Final names that are unpacked into it.
    """
    for name in names:
        for left in folder.glob(f".{name}.*.partial"):
            left.unlink(missing_ok=True)
    for left in records_folder(folder).glob(".*.partial"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(unpacked_folder(folder), ignore_errors=True)


def unpacked_folder(folder: Path) -> Path:
    """Return where an archive is unpacked before its files get their final place."""
    return records_folder(folder) / "unpacked"


def file_entry(folder: Path, name: str, digest: Digest, checked: str, *, by_hand: bool = False) -> FetchedFile:
    """Return the receipt's entry of a file as it lies on disk.

    Args:
        folder: The data folder.
        name: Path below it.
        digest: Its length and hashes.
        checked: How it was verified.
        by_hand: Whether a person put it there.
    """
    status = (folder / name).stat()
    return FetchedFile(name, status.st_size, status.st_mtime_ns, digest.md5, digest.sha256, checked, by_hand)


def unchanged(folder: Path, entry: FetchedFile | None) -> bool:
    """Whether a file still has the length and the time it had when it was verified.

    Args:
        folder: The data folder.
        entry: From the receipt; None counts as changed.
    """
    if entry is None or not (folder / entry.name).is_file():
        return False
    status = (folder / entry.name).stat()
    return (status.st_size, status.st_mtime_ns) == (entry.size_bytes, entry.mtime_ns)


def tree_entry(folder: Path, name: str, checked: str) -> FetchedFile:
    """Return the receipt's entry of a folder: its bytes, and a hash over the names and lengths of its files.

    Args:
        folder: The data folder.
        name: Folder below it.
        checked: How it was verified.
    """
    root = folder / name
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    listing = "\n".join(f"{path}\t{size}" for path, size in sorted(sizes.items()))
    return FetchedFile(name, sum(sizes.values()), 0, "", hash_bytes(listing), checked)
