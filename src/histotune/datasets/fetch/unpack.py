"""Archives become files: streamed, bounded, every member below its folder.

Members are opened one by one and written here, never by ``extract``: so Python 3.11 without, 3.12 with and 3.14 with a
stricter extraction filter do the same, and links, devices and modes of an archive play no part.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import unicodedata
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

from histotune.datasets.fetch.source import show_bytes
from histotune.tools.atomic import FULL_DISK, atomic_path
from histotune.tools.errors import UserError
from histotune.tools.progress import track_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from histotune.datasets.fetch.source import Digest, Unpacked


BLOCK_BYTES = 1 << 20
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
SYMLINK_MODE, FILE_TYPE_MASK, REGULAR_MODE, FOLDER_MODE = 0o120000, 0o170000, 0o100000, 0o040000


@dataclass(frozen=True)
class Limits:
    """What an archive may grow to.

    Attributes:
        n_members: Files and folders.
        n_bytes: All files together, unpacked.
    """

    n_members: int
    n_bytes: int


@dataclass(frozen=True)
class Member:
    """A file inside an archive.

    Attributes:
        path: Where it goes, below the target folder.
        size_bytes: As the archive says.
        stream: Its bytes, to be read before the next member.
    """

    path: PurePosixPath
    size_bytes: int
    stream: IO[bytes]


class Visitor(Protocol):
    """Called with every file of an archive, in its order."""

    def __call__(self, member: Member) -> None:
        """Look at a member or write it."""


def unpack_gz(archive: Path, folder: Path, unpacked: Unpacked) -> Digest:
    """Unpack a gzip file; the result appears under its name when it is whole and its published hash is right."""
    from histotune.datasets.fetch.download import Sums, mismatches

    sums = Sums()
    with (
        explained_unpacking(archive),
        atomic_path(folder / unpacked.name) as temporary,
        explained_damage(archive),
        _plain_bytes(archive, unpacked.limit_bytes, f"unpacking {archive.name}") as stream,
        temporary.open("wb") as target,
    ):
        while block := stream.read(BLOCK_BYTES):
            target.write(block)
            sums.add(block)
        target.flush()
        digest = sums.digest()
        found = mismatches(digest, unpacked.checksums)
        if found:
            raise UserError(f"{unpacked.name} is not the published file after unpacking: {'; '.join(found)}")
    return digest


def visit_tar_gz(archive: Path, limits: Limits, visit: Visitor, label: str) -> None:
    """Read a .tar.gz from its first to its last byte, checksums included, and hand over every file."""
    # Room for the headers and the padding of a tar beside its files.
    stream_limit = limits.n_bytes + 4096 * limits.n_members
    with explained_damage(archive), _plain_bytes(archive, stream_limit, label) as stream:
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=1) as tar:
            counted = _Counted(limits)
            for info in tar:
                if info.isdir() and info.name in ("", "."):
                    continue  # the folder that was packed, as `tar -c .` writes it
                path = counted.path(info.name, info.size, folder=info.isdir(), plain=info.isreg() or info.isdir())
                content = tar.extractfile(info) if info.isreg() else None
                if content is not None:
                    visit(Member(path, info.size, content))
        # Behind the end mark of a tar only padding may come; reading it brings the gzip checksum.
        while padding := stream.read(BLOCK_BYTES):
            if padding.strip(b"\0"):
                raise tarfile.ReadError("bytes behind the end of the archive")


def visit_zip(archive: Path, limits: Limits, visit: Visitor, label: str) -> None:
    """Read a .zip, checksums included, and hand over every file."""
    with explained_damage(archive), zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        counted = _Counted(limits)
        paths = [
            counted.path(info.filename, info.file_size, folder=info.is_dir(), plain=_is_plain(info)) for info in infos
        ]
        with track_bytes(label, counted.n_bytes) as advance:
            for info, path in zip(infos, paths, strict=True):
                if not info.is_dir():
                    with file.open(info) as content:
                        visit(Member(path, info.file_size, content))
                    advance(info.file_size)


def member_writer(folder: Path, top: str | None = None) -> Visitor:
    """Return a visitor that writes every file below a folder.

    Modes, owners and times of the archive are not taken over.
    """

    def write(member: Member) -> None:
        """Write one member below the folder; nothing that is there is replaced."""
        parts = member.path.parts
        path = folder.joinpath(*(parts[1:] if top is not None and parts[0] == top and len(parts) > 1 else parts))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            _copy(member, target.write)

    return write


def read_through(member: Member) -> None:
    """Read a member to its end without keeping it, so that its checksum is tested."""
    _copy(member, len)


@contextmanager
def explained_damage(archive: Path) -> Iterator[None]:
    """Turn what the libraries raise on broken and hostile archives into one message."""
    try:
        yield
    except UnsafeMember as error:
        raise UserError(f"{archive.name} holds a member that is not written: {error}", value=archive) from error
    except TooLarge as error:
        raise UserError(f"{archive.name} is not what it should be: {error}", value=archive) from error
    except BROKEN as error:
        reason = "it ends too early" if isinstance(error, EOFError) else str(error) or type(error).__name__
        raise UserError(
            f"{archive.name} is truncated or damaged ({ascii(reason)[1:-1][:120]})", value=archive
        ) from error


@contextmanager
def explained_unpacking(archive: Path) -> Iterator[None]:
    """Say on a full disk that the archive is kept, so that it is not downloaded again."""
    try:
        yield
    except UserError as error:
        if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL_DISK):
            raise
        raise UserError(
            f"the disk is full: {archive.name} could not be unpacked; it is kept, verified",
            value=archive.parent,
            fix="free space there and run the same command again; it unpacks without downloading",
        ) from error


class TooLarge(Exception):
    """An archive that grows beyond its limit."""


class _Counted:
    """Counts members and bytes as the archive announces them, and settles where each goes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.n_members = 0
        self.n_bytes = 0
        self.is_folder: dict[str, bool] = {}

    def path(self, name: str, size_bytes: int, *, folder: bool, plain: bool) -> PurePosixPath:
        """Count a member and return its safe path."""
        if not plain:
            raise UnsafeMember(name, "a link, a device or an encrypted file")
        path = safe_member_path(name.rstrip("/") if folder else name)
        self._settle(name, path, folder=folder)
        self.n_members += 1
        self.n_bytes += size_bytes
        if self.n_members > self.limits.n_members:
            raise TooLarge(f"more than {self.limits.n_members:,} members")
        if self.n_bytes > self.limits.n_bytes:
            raise TooLarge(f"more than {show_bytes(self.limits.n_bytes)} unpacked")
        return path

    def _settle(self, name: str, path: PurePosixPath, *, folder: bool) -> None:
        """Refuse two members that would become one file, here or where case does not count."""
        for parent in (*path.parents[:-1], *([path] if folder else [])):
            if not self.is_folder.setdefault(_key(parent), True):
                raise UnsafeMember(name, "a file and a folder of one name")
        if not folder:
            if _key(path) in self.is_folder:
                raise UnsafeMember(name, "a name that comes twice")
            self.is_folder[_key(path)] = False


class _Watched(io.RawIOBase):
    """A stream that reports what was read of it."""

    def __init__(self, stream: IO[bytes], report: Callable[[int], None]) -> None:
        self.stream = stream
        self.report = report

    def readable(self) -> bool:
        """Say that it can be read, as a buffered reader asks."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read some packed bytes and report how many."""
        data = self.stream.read(min(len(buffer), BLOCK_BYTES))
        self.report(len(data))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _plain_bytes(archive: Path, limit_bytes: int, label: str) -> Iterator[IO[bytes]]:
    """Open the content of a gzip file, bounded whatever its header says, with a bar over the compressed bytes."""
    left = limit_bytes

    def bound(n_bytes: int) -> None:
        """Count unpacked bytes and refuse more than allowed."""
        nonlocal left
        left -= n_bytes
        if left < 0:
            raise TooLarge(f"more than {show_bytes(limit_bytes)} unpacked")

    with archive.open("rb") as packed, track_bytes(label, archive.stat().st_size) as advance:
        watched = io.BufferedReader(_Watched(packed, advance), BLOCK_BYTES)  # gzip asks for 8 KiB at a time
        with gzip.GzipFile(fileobj=watched, mode="rb") as plain:
            yield io.BufferedReader(_Watched(plain, bound), BLOCK_BYTES)  # type: ignore[arg-type]


def _copy(member: Member, write: Callable[[bytes], int]) -> None:
    left = member.size_bytes
    while block := member.stream.read(BLOCK_BYTES):
        left -= len(block)
        if left < 0:
            raise TooLarge(f"{member.path} is larger than its header says")
        write(block)
    if left:
        raise EOFError


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """Whether a zip member is an unencrypted regular file or folder; systems without modes store 0."""
    kind = (info.external_attr >> 16) & FILE_TYPE_MASK
    return not info.flag_bits & 0x1 and kind in (0, FOLDER_MODE if info.is_dir() else REGULAR_MODE)


def flush_all() -> None:
    """Ask the system to write everything to disk before a folder of many files gets its final name."""
    sync = getattr(os, "sync", None)
    if sync is not None:
        sync()


# ---- Names inside archives ----


MAX_PART_BYTES = 255  # longest file name of common file systems
RESERVED = {"con", "prn", "aux", "nul", *(f"{stem}{n}" for stem in ("com", "lpt") for n in range(1, 10))}
FORBIDDEN = set('<>:"|?*\\')  # Windows takes none of them, and no data set here needs one


class UnsafeMember(Exception):
    """A member of an archive that is not written.

    Args:
        name: Its name in the archive, control characters shown as escapes.
        why: What is wrong with it.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{ascii(name)[1:121].rstrip(chr(39))} ({why})")


def safe_member_path(name: str) -> PurePosixPath:
    """Return where a member may be written below the target folder.

    Example:
        >>> str(safe_member_path("./BreaKHis_v1/a.png"))
        'BreaKHis_v1/a.png'
    """
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        raise UnsafeMember(name, "an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts:
        raise UnsafeMember(name, "an empty name")
    for part in parts:
        _require_plain(name, part)
    return PurePosixPath(*parts)


def _key(path: PurePosixPath) -> str:
    """Return what two paths share where case and the form of accents do not count."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _require_plain(name: str, part: str) -> None:
    if part == "..":
        raise UnsafeMember(name, "leads out of the folder")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in part):
        raise UnsafeMember(name, "control characters in the name")
    if FORBIDDEN & set(part) or part.endswith((" ", ".")) or part.split(".", maxsplit=1)[0].casefold() in RESERVED:
        raise UnsafeMember(name, "a name that some systems can't write")
    try:
        n_bytes = len(part.encode())
    except UnicodeEncodeError:
        raise UnsafeMember(name, "a name that is no text") from None
    if n_bytes > MAX_PART_BYTES:
        raise UnsafeMember(name, "a name that is too long")
