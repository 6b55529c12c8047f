"""The SQLite file that content hashes are remembered in: whatever happens to it costs time, never a wrong hash."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

LOG = logging.getLogger(__name__)
TABLE = "content_2"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    path BLOB, row INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, sha256 BLOB, checksum BLOB,
    PRIMARY KEY (path, row)
) WITHOUT ROWID
"""
INSERT = f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  (a name of ours)
COLUMNS = "path, row, size, mtime_ns, ctime_ns, inode, sha256, checksum"
WHOLE_FILE = -1  # the row of an entry that speaks about a whole file
PATHS_PER_QUERY = 500
SQLITE_START = b"SQLite format 3\0"
BEGINNING_BYTES = 2**16
JOURNALS = ("-journal", "-wal", "-shm")
NOT_DAMAGE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_INTERRUPT,
}  # fmt: skip
"""Primary result codes that speak of the disk or of another process, not of what the file holds."""


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is still the one that was hashed."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> FileState:
        """Return the state that ``os.stat`` tells of a file."""
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino % 2**63)


class DamagedIndexError(Exception):
    """An entry, or the file that holds it, is not what was written."""


class ContentIndex:
    """Entries by path and row; every entry carries a checksum of its own, since SQLite checks none.

    An index with any damage is removed, which is said once, and starts anew.

    Args:
        path: The SQLite file; made when first needed. None remembers nothing.
        read_only: Recall what is known and write nothing down; damage is left where it is.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only

    def recall_files(self, states: Sequence[FileState]) -> dict[str, str]:
        """Return the hash of every file that is as it was when it was hashed, by its path."""
        wanted = {state.path: state for state in states}
        paths = list(wanted)
        found: dict[str, str] = {}
        for first in range(0, len(paths), PATHS_PER_QUERY):
            part = paths[first : first + PATHS_PER_QUERY]
            entries = self._entries(f"row = {WHOLE_FILE} AND path IN ({','.join('?' * len(part))})", part)
            found |= {state.path: digest for state, _, digest in entries if wanted.get(state.path) == state}
        return found

    def recall_rows(self, state: FileState) -> dict[int, str]:
        """Return the hashes of a file's rows, by row, if the file is as it was when they were hashed."""
        entries = self._entries("path = ? AND row >= 0", [state.path])
        return {row: digest for one, row, digest in entries if one == state}

    def remember(self, entries: Iterable[tuple[FileState, int, str]]) -> None:
        """Write entries down; where that fails, a warning says so."""
        rows = [_as_row(state, row, digest) for state, row, digest in entries]
        if rows:
            self._change(INSERT, rows)

    def forget(self, path: Path) -> None:
        """Drop what is remembered about a file, because it turned out to be wrong."""
        if self._path is not None and self._path.is_file():
            self._change(f"DELETE FROM {TABLE} WHERE path = ?", [(os.fsencode(path.absolute()),)])  # noqa: S608

    def _entries(self, condition: str, paths: Sequence[str]) -> list[tuple[FileState, int, str]]:
        """Return the entries that fit a condition; none where the index is missing, damaged or can't be read."""
        path = self._path
        if path is None or not path.is_file():
            return []
        try:
            return list(read_entries(path, condition, [os.fsencode(one) for one in paths]))
        except (sqlite3.Error, DamagedIndexError, ValueError, OSError) as error:  # ValueError: text that is no UTF-8
            self._start_anew(path, error, "the index of content hashes can't be read, so they are computed again")
        return []

    def _change(self, statement: str, rows: Sequence[tuple[int | bytes, ...]]) -> None:
        """Change entries, at the second try in a new file where the first finds the index damaged."""
        path = self._path
        if path is None or self._read_only:
            return
        for _ in range(2):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(path, timeout=60)) as database, database:
                    database.execute(SCHEMA)
                    database.execute("DROP TABLE IF EXISTS content")  # of earlier versions, without checksums
                    database.executemany(statement, rows)
                return
            except (sqlite3.Error, ValueError, OSError) as error:
                if not self._start_anew(path, error, "content hashes can't be remembered"):
                    return

    def _start_anew(self, path: Path, error: Exception, what: str) -> bool:
        """Remove a damaged index; where the disk or another process is in the way, only say so and return False."""
        if self._read_only or not is_damage(error, path):
            LOG.warning("%s (%s): %s", what, error, path)
            return False
        try:
            remove_index(path)
        except OSError as refusal:
            LOG.warning("%s (%s, and it can't be removed: %s): %s", what, error, refusal.strerror, path)
            return False
        LOG.warning("the index of content hashes is damaged (%s) and starts anew: %s", error, path)
        return True


def read_entries(path: Path, condition: str, values: Sequence[bytes] = ()) -> Iterator[tuple[FileState, int, str]]:
    """Yield entries after their checksums; an index without the table of this version holds none.

    Raises:
        DamagedIndexError: An entry is not what was written.
        sqlite3.Error: SQLite can't read the file.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=60, uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone():
            return
        for entry in database.execute(f"SELECT {COLUMNS} FROM {TABLE} WHERE {condition}", values):  # noqa: S608
            yield _from_row(entry)


def index_damage(path: Path) -> str | None:
    """Return what is wrong with an index, every page and entry looked at; None where all is right."""
    try:
        ((answer,),) = _ask(path, "PRAGMA integrity_check(1)")
        for _ in read_entries(path, "1"):
            pass
    except (sqlite3.Error, DamagedIndexError, ValueError) as error:
        return str(error) if is_damage(error, path) else None
    return None if answer == "ok" else str(answer)


def is_content_index(path: Path) -> bool:
    """Return whether a file is an index of any version; what can't be opened may be anybody's."""
    try:
        names = {name for (name,) in _ask(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (sqlite3.Error, ValueError):
        return False
    return bool(names) and names <= {TABLE, "content"}


def looks_like_index(path: Path) -> bool:
    """Return whether a file was an index before it was damaged: its first words, or those of its table, are there."""
    try:
        with path.open("rb") as stream:
            beginning = stream.read(BEGINNING_BYTES)
    except OSError:
        return False
    return beginning.startswith(SQLITE_START) or b"TABLE content" in beginning


def n_entries(path: Path) -> int | None:
    """Return the number of hashes that an index remembers; None where it can't be read."""
    try:
        if not _ask(path, f"SELECT 1 FROM sqlite_master WHERE name = '{TABLE}'"):  # noqa: S608  (a name of ours)
            return 0
        return int(_ask(path, f"SELECT count(*) FROM {TABLE}")[0][0])  # noqa: S608
    except (sqlite3.Error, ValueError):
        return None


def remove_index(path: Path) -> None:
    """Remove an index and SQLite's journals beside it, which would be played into the next one."""
    for name in (path.name, *(f"{path.name}{ending}" for ending in JOURNALS)):
        path.with_name(name).unlink(missing_ok=True)


def is_damage(error: Exception, path: Path) -> bool:
    """Return whether an error tells of what the file holds, not of the disk or of another process."""
    if not isinstance(error, sqlite3.Error):
        return not isinstance(error, OSError)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):  # a format that only newer versions write, or rights
        return path.is_file() and _is_writable(path) and _is_writable(path.parent)
    return code not in NOT_DAMAGE


def _is_writable(path: Path) -> bool:
    """Return whether this process, under the rights that it has now, may write a file or into a folder."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask an index, which is only read."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=60, uri=True)) as database:
        return database.execute(query).fetchall()


def _as_row(state: FileState, row: int, digest: str) -> tuple[int | bytes, ...]:
    path, sha256 = os.fsencode(state.path), bytes.fromhex(digest)
    facts = (path, row, state.size, state.mtime_ns, state.ctime_ns, state.inode, sha256)
    return (*facts, _checksum(facts))


def _from_row(entry: tuple[int | bytes, ...]) -> tuple[FileState, int, str]:
    """Return an entry whose checksum is right."""
    *facts, checksum = entry
    if _checksum(facts) != checksum:
        raise DamagedIndexError("an entry does not match its checksum")
    path, row, size, mtime_ns, ctime_ns, inode, sha256 = cast("tuple[bytes, int, int, int, int, int, bytes]", facts)
    return FileState(os.fsdecode(path), size, mtime_ns, ctime_ns, inode), row, sha256.hex()


def _checksum(facts: Sequence[int | bytes]) -> bytes:
    """Return 8 bytes of BLAKE2b over an entry's values."""
    return hashlib.blake2b(repr(tuple(facts)).encode(), digest_size=8).digest()
