"""A file over HTTP, resumed where it stopped, under its final name only when it is verified."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, NoReturn

from histotune.datasets.fetch.source import Digest, free_bytes, show_bytes
from histotune.datasets.fetch.transport import Reply, TransferError, public_url, read_some, request
from histotune.tools.atomic import FULL_DISK, NO_WRITE
from histotune.tools.errors import UserError
from histotune.tools.files import read_json, unsealed, write_sealed
from histotune.tools.progress import track_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from histotune.datasets.fetch.source import Checksums, NetworkConfig, RemoteFile, Transfer

    ExtraCheck = Callable[[Path], None]


@dataclass(frozen=True)
class Downloaded:
    """A file that arrived and was verified.

    Attributes:
        path: Under its final name.
        digest: Its real length and hashes.
        url: Address it came from.
    """

    path: Path
    digest: Digest
    url: str


class Unavailable(Exception):
    """No address of a file gave it.

    Args:
        reasons: One phrase for each address tried.
        fix: What a person can do, where it is known.
    """

    def __init__(self, reasons: tuple[str, ...], fix: str | None) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.fix = fix


def download(file: RemoteFile, folder: Path, transfer: Transfer, check: ExtraCheck | None = None) -> Downloaded:
    """Download a file into a folder that this process has locked."""
    partial = Partial(file, folder)
    for is_last in (False, True):
        url, pieced = _bring(partial, transfer)
        try:
            digest = digest_file(partial.path)
            require_match(digest, file)
            if check is not None:
                check(partial.path)
            break
        except UserError as error:
            partial.drop()
            if is_last or not pieced:
                raise _rejected(error, url) from error
            # The bytes kept from an earlier connection may be the wrong ones: once more, from the first byte.
            transfer.say(
                f"{file.name} was put together from several connections and is wrong ({error.what}); from zero"
            )
    return Downloaded(partial.finish(), digest, url)


def _rejected(error: UserError, url: str) -> UserError:
    return UserError(
        f"{error.what}; what arrived was removed",
        value=public_url(url),
        fix=error.fix or "try again later or from another --source: the file there was changed or damaged",
    )


def _bring(partial: Partial, transfer: Transfer) -> tuple[str, bool]:
    """Fill the partial from the first address that gives the whole file, the one it already comes from first.

    Returns:
        The address, and whether several connections brought the bytes.
    """
    record = partial.read()
    urls = partial.file.urls
    if record is not None:
        urls = (record.url, *(url for url in urls if url != record.url))
    reasons: list[str] = []
    fix: str | None = None
    for url in urls:
        try:
            return url, _Attempts(partial, url, transfer).run()
        except TransferError as error:
            reasons.append(f"{public_url(url)}: {error.what}")
            fix = error.fix or fix
    raise Unavailable(tuple(reasons), fix)


class _Attempts:
    """Attempts at one address until the file is whole or patience ends.

    Args:
        partial: What is there so far.
        url: The address.
        transfer: Patience, jitter and messages.
    """

    def __init__(self, partial: Partial, url: str, transfer: Transfer) -> None:
        self.partial = partial
        self.url = url
        self.transfer = transfer
        self.furthest_bytes = partial.size_bytes
        self.idle = 0  # attempts in a row without progress
        self.answered = False
        self.pieced = partial.size_bytes > 0

    def run(self) -> bool:
        """Try until the whole file is there."""
        while True:
            try:
                if self._attempt():
                    return self.pieced
            except TransferError as error:
                self._wait_or_give_up(error)

    def _wait_or_give_up(self, error: TransferError) -> None:
        config = self.transfer.config
        self.answered |= error.connected
        here_bytes = self.partial.size_bytes
        if here_bytes >= self.furthest_bytes + config.progress_bytes:
            self.idle = 0
            self.furthest_bytes = here_bytes
        self.idle += 1
        patience = config.attempts if self.answered else config.first_attempts
        if not error.retry or self.idle >= patience:
            times = f", {self.idle} times in a row" if error.retry and self.idle > 1 else ""
            raise TransferError(f"{error.what}{times}", retry=False, fix=error.fix) from error
        wait_s = self._wait_s(error)
        self.transfer.say(
            f"{self.partial.file.name}: {error.what} after {show_bytes(here_bytes)}; next attempt in {wait_s:.0f} s"
        )
        self.transfer.sleep(wait_s)

    def _wait_s(self, error: TransferError) -> float:
        config = self.transfer.config
        if error.retry_after_s is not None:
            if error.retry_after_s > config.retry_after_limit_s:
                raise TransferError(
                    f"{error.what} and asks to come back in {error.retry_after_s:,.0f} s", retry=False
                ) from error
            return error.retry_after_s
        # Full jitter between half and all of the doubled wait, so that clients cut off together don't return together.
        wait_s = min(config.backoff_limit_s, config.backoff_s * 2.0 ** (self.idle - 1))
        return wait_s * float(self.transfer.rng.uniform(0.5, 1.0))

    def _attempt(self) -> bool:
        """Ask once and keep what comes; return whether the file is whole."""
        record = self.partial.read()
        start_bytes = self.partial.size_bytes if record is not None and record.url == self.url else 0
        known_bytes = self.partial.file.size_bytes or (record.total_bytes if record is not None else None)
        if start_bytes and start_bytes == known_bytes:
            return True  # killed between the last byte and the final name; the checks decide
        resumable = record is not None and (record.validator or self.partial.file.checksums.known)
        if not resumable or (known_bytes is not None and start_bytes > known_bytes):
            start_bytes = 0
        with request(self.url, _range_headers(start_bytes, record), self.transfer.config) as reply:
            self.answered = True
            if reply.status == 416:
                return self._beyond_the_end(start_bytes, reply)
            record = self._accept(start_bytes, record, reply)
            return self._receive(reply, record)

    def _beyond_the_end(self, start_bytes: int, reply: Reply) -> bool:
        if not start_bytes or reply.total_bytes != start_bytes:
            self._start_over("the file at the server is shorter than what is here")
        if self.partial.file.size_bytes is not None:
            self._another_length(start_bytes)
        return True

    def _accept(self, start_bytes: int, record: PartialRecord | None, reply: Reply) -> PartialRecord:
        """Decide whether the reply continues the partial; one that is the whole file starts it anew."""
        if reply.status == 200:
            if start_bytes:
                changed = record is not None and record.validator not in (None, reply.etag, reply.last_modified)
                why = "the file at the server changed" if changed else "the server does not continue downloads"
                self.transfer.say(f"{self.partial.file.name}: {why}; from zero")
            self.pieced = False
            return self.partial.begin(self.url, reply)
        if record is None or not start_bytes or reply.range_start != start_bytes:
            self._start_over("the server sent another part than the one asked for")
        if None not in (record.etag, reply.etag) and record.etag != reply.etag:
            self._start_over("the file at the server changed")
        if None not in (record.total_bytes, reply.total_bytes) and record.total_bytes != reply.total_bytes:
            self._start_over("the file at the server has another length now")
        self.pieced = True
        return record

    def _receive(self, reply: Reply, record: PartialRecord) -> bool:
        """Write what arrives; return whether it is the whole file."""
        start_bytes, config = self.partial.size_bytes, self.transfer.config
        expected = self.partial.file.size_bytes or reply.total_bytes or record.total_bytes
        if self.partial.file.size_bytes is None and expected is not None and expected > config.most_bytes:
            self._drop(f"the server announces {expected:,} bytes, and {self._bound(config.most_bytes)}", retry=False)
        most_bytes = self._most_bytes() if expected is None else expected
        ends = None if reply.announced_bytes is None else start_bytes + reply.announced_bytes
        pace = _Pace(config)
        label = f"downloading {self.partial.file.name}"
        with self.partial.writer() as write, track_bytes(label, expected, start_bytes) as advance:
            here_bytes = start_bytes
            while data := self._next_bytes(reply, here_bytes == (ends if ends is not None else expected)):
                here_bytes += len(data)
                if here_bytes > most_bytes:
                    break
                write(data)
                advance(len(data))
                pace.require(len(data))
        if expected is not None and here_bytes > expected:
            whose = "it announced" if self.partial.file.size_bytes is None else "that are published"
            self._drop(f"the server sent more than the {expected:,} bytes {whose}; they were removed", retry=False)
        if expected is None and here_bytes > most_bytes:
            self._drop(f"the server never says how long the file is, and {self._bound(most_bytes)}", retry=False)
        if expected is None or here_bytes == expected:
            return True
        if here_bytes == reply.total_bytes:
            self._another_length(here_bytes)
        raise TransferError(f"the connection ended at {here_bytes:,} of {expected:,} bytes", retry=True)

    def _most_bytes(self) -> int:
        """Return what a file of unknown length may grow to: a limit that also leaves room on the disk."""
        config = self.transfer.config
        room_bytes = self.partial.size_bytes + free_bytes(self.partial.folder) - config.margin_bytes
        return min(config.most_bytes, max(0, room_bytes))

    def _bound(self, most_bytes: int) -> str:
        limited = most_bytes == self.transfer.config.most_bytes
        why = "are the most that is taken" if limited else "are all the room there is"
        return f"{show_bytes(most_bytes)} {why}; what came was removed"

    def _next_bytes(self, reply: Reply, may_end: bool) -> bytes:
        try:
            return read_some(reply, self.transfer.config.chunk_bytes)
        except TransferError:
            # Some servers keep a connection open behind the last byte although they were asked to close it.
            if may_end:
                return b""
            raise

    def _another_length(self, n_bytes: int) -> NoReturn:
        known = f"{self.partial.file.size_bytes:,}"
        self._drop(f"the file there has {n_bytes:,} bytes and the published one {known}; it was removed", retry=False)

    def _start_over(self, why: str) -> NoReturn:
        self._drop(f"{why}; from zero", retry=True)

    def _drop(self, why: str, *, retry: bool) -> NoReturn:
        """Remove what is here, which is of no use."""
        self.partial.drop()
        raise TransferError(why, retry=retry)


class _Pace:
    """Gives up a connection that stays too slow over a window of time."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self.since_s = time.monotonic()
        self.n_bytes = 0

    def require(self, n_bytes: int) -> None:
        """Count bytes that arrived."""
        self.n_bytes += n_bytes
        passed_s = time.monotonic() - self.since_s
        if passed_s < self.config.slow_window_s:
            return
        if self.n_bytes < self.config.slowest_bytes_per_s * passed_s:
            raise TransferError("the connection became too slow", retry=True)
        self.since_s, self.n_bytes = time.monotonic(), 0


def _range_headers(start_bytes: int, record: PartialRecord | None) -> dict[str, str]:
    if not start_bytes:
        return {}
    validator = None if record is None else record.validator
    return {"Range": f"bytes={start_bytes}-"} | ({"If-Range": validator} if validator else {})


# ---- The unfinished file ----


@dataclass(frozen=True)
class PartialRecord:
    """What the bytes so far belong to.

    Attributes:
        url: Address they came from.
        etag: Entity tag of that version of the file, for If-Range.
        last_modified: Its date, used where there is no entity tag.
        total_bytes: Announced length of the whole.
        md5: Expected hash, "" where none is published.
        sha256: Expected hash, "" where none is published.
    """

    url: str
    etag: str | None
    last_modified: str | None
    total_bytes: int | None
    md5: str
    sha256: str

    @property
    def validator(self) -> str | None:
        """Value of If-Range."""
        return self.etag or self.last_modified


@dataclass(frozen=True)
class Partial:
    """The pair of files beside the finished name.

    Attributes:
        file: What is being downloaded.
        folder: Where.
    """

    file: RemoteFile
    folder: Path

    @property
    def path(self) -> Path:
        """The bytes so far."""
        return self.folder / f"{self.file.name}.partial"

    @property
    def record_path(self) -> Path:
        """What they belong to."""
        return self.folder / f"{self.file.name}.partial.json"

    @property
    def size_bytes(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def read(self) -> PartialRecord | None:
        """Return what the bytes belong to; None where that is unknown or was another file."""
        try:
            facts = unsealed(read_json(self.record_path), {field.name for field in fields(PartialRecord)})
            record = PartialRecord(**facts)
        except (OSError, ValueError, TypeError):
            return None
        same = (record.md5, record.sha256) == self._hashes and record.url in self.file.urls
        return record if same else None

    def begin(self, url: str, reply: Reply) -> PartialRecord:
        """Empty the bytes, then write down what the next ones belong to."""
        # In this order: a process killed in between leaves no bytes of one version beside the name of another.
        with explained_writes(self):
            self.path.write_bytes(b"")
        record = PartialRecord(url, reply.etag, reply.last_modified, reply.total_bytes, *self._hashes)
        write_sealed(self.record_path, asdict(record))
        return record

    @contextmanager
    def writer(self) -> Iterator[Callable[[bytes], None]]:
        """Add bytes behind those that are there; on a full disk those that fitted stay and count."""
        with explained_writes(self), self.path.open("ab", buffering=0) as stream:

            def write(data: bytes) -> None:
                """Write all of some bytes; a raw stream may take them in pieces."""
                view = memoryview(data)
                while view:
                    view = view[stream.write(view) :]

            yield write

    def drop(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.record_path.unlink(missing_ok=True)

    def finish(self) -> Path:
        """Give the verified bytes their final name."""
        final = self.folder / self.file.name
        with explained_writes(self):
            with self.path.open("rb+") as stream:
                os.fsync(stream.fileno())
            self.path.replace(final)
            flush_folder(self.folder)
        self.record_path.unlink(missing_ok=True)
        return final

    @property
    def _hashes(self) -> tuple[str, str]:
        return self.file.checksums.md5 or "", self.file.checksums.sha256 or ""


@contextmanager
def explained_writes(partial: Partial) -> Iterator[None]:
    """Turn a full disk and a missing permission into one message that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            kept = partial.size_bytes
            missing = max(0, partial.file.about_bytes - kept)
            raise UserError(
                f"the disk is full; {show_bytes(kept)} of {partial.file.name} are kept",
                value=partial.folder,
                fix=f"free at least {show_bytes(missing)} there and run the same command again; it continues",
            ) from error
        if error.errno in NO_WRITE:
            raise UserError(
                "this folder can't be written",
                value=partial.folder,
                fix="choose a folder you own with --to, or change its permissions",
            ) from error
        raise


def flush_folder(folder: Path) -> None:
    """Flush a rename in a folder to disk, where the platform can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:
        return  # some network file systems
    finally:
        os.close(handle)


# ---- Length and hashes ----


BLOCK_BYTES = 1 << 20


class Sums:
    """Length, MD5 and SHA-256 of bytes as they come."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.hashes = hashlib.md5(usedforsecurity=False), hashlib.sha256()

    def add(self, block: bytes) -> None:
        """Count a block."""
        self.size_bytes += len(block)
        for one in self.hashes:
            one.update(block)

    def digest(self) -> Digest:
        """Return what was counted so far."""
        return Digest(self.size_bytes, *(one.hexdigest() for one in self.hashes))


def digest_file(path: Path) -> Digest:
    """Hash a file in one pass."""
    sums = Sums()
    with path.open("rb") as stream, track_bytes(f"verifying {path.name}", path.stat().st_size) as advance:
        while block := stream.read(BLOCK_BYTES):
            sums.add(block)
            advance(len(block))
    return sums.digest()


def mismatches(digest: Digest, checksums: Checksums, size_bytes: int | None = None) -> list[str]:
    """Return what differs from the published facts, one phrase each; empty where all agrees."""
    found = []
    if size_bytes is not None and digest.size_bytes != size_bytes:
        found.append(f"it has {digest.size_bytes:,} bytes, not {size_bytes:,}")
    pairs = (("MD5", digest.md5, checksums.md5), ("SHA-256", digest.sha256, checksums.sha256))
    return found + [
        f"its {name} is {is_now}, not {wanted}" for name, is_now, wanted in pairs if wanted not in (None, is_now)
    ]


def require_match(digest: Digest, file: RemoteFile) -> None:
    """Refuse a file that is not the published one."""
    if found := mismatches(digest, file.checksums, file.size_bytes):
        raise UserError(f"{file.name} is not the published file: {'; '.join(found)}")


def describe_check(checksums: Checksums) -> str:
    """Return how a file with these published hashes is verified, as a phrase."""
    names = [name for name, value in (("MD5", checksums.md5), ("SHA-256", checksums.sha256)) if value is not None]
    return f"{' and '.join(names)} as published" if names else "no checksum is published"
