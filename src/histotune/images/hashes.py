"""Content hashes, remembered by (path, size, mtime_ns), so that a second run reads no pixels to know them."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.images.decode import PixelSource, UnreadableTile, UnreadableTilesError, content_hash
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from histotune.images.decode import PixelReader

LOG = logging.getLogger(__name__)
SCHEMA = """
CREATE TABLE IF NOT EXISTS content (
    path TEXT, row INTEGER, size INTEGER, mtime_ns INTEGER, sha256 BLOB, PRIMARY KEY (path, row)
) WITHOUT ROWID
"""
WHOLE_FILE = -1  # the row of an entry that speaks about a whole file
FRESH_NS = 2_000_000_000  # a file this new may change again within the clock tick that its mtime shows
ROWS_PER_READ = 256


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is still the one that was hashed."""

    path: str
    size: int
    mtime_ns: int


class HashIndex:
    """SHA-256 by content, kept in one SQLite file that several processes may use.

    It only saves time: where it can't be written or read, hashes are computed again and a warning says so.

    Args:
        path: The SQLite file; made when first needed. None remembers nothing.
        read_only: Recall what is known and write nothing down.

    Example:
        >>> from pathlib import Path
        >>> len(HashIndex(None).files([Path(__file__)])[0])
        64
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only

    def files(self, paths: Sequence[Path], workers: int = 0) -> tuple[str, ...]:
        """Return the SHA-256 of each file's bytes.

        Args:
            paths: The files.
            workers: Reading threads; 0 means one per core.

        Returns:
            64 hexadecimal digits per file, in order.

        Raises:
            UnreadableTilesError: Files that are missing or can't be read.
        """
        states = _file_states(paths)
        known = self._recall_files(states)
        new = {state: path for state, path in zip(states, paths, strict=True) if state.path not in known}
        with ThreadPoolExecutor(workers or cpu_count(), thread_name_prefix="hash") as pool:
            answers = dict(zip(new, pool.map(_hash_or_error, new.values()), strict=True))
        _raise_bad([(new[state], answer) for state, answer in answers.items() if isinstance(answer, UserError)])
        hashes = {state: answer for state, answer in answers.items() if isinstance(answer, str)}
        self._remember((state, WHOLE_FILE, digest) for state, digest in hashes.items())
        known.update({state.path: digest for state, digest in hashes.items()})
        return tuple(known[state.path] for state in states)

    def tiles(self, sources: Sequence[PixelSource], reader: PixelReader, workers: int = 0) -> tuple[str, ...]:
        """Return the content hash of each tile.

        Args:
            sources: Where the tiles are.
            reader: Open HDF5 and parquet files.
            workers: Reading threads; 0 means one per core.

        Returns:
            64 hexadecimal digits per tile, in order.

        Raises:
            UnreadableTilesError: Tiles that can't be read.
        """
        image_files = [source.path for source in sources if source.row is None]
        hashes = {
            PixelSource(path): digest
            for path, digest in zip(image_files, self.files(image_files, workers), strict=True)
        }
        rows_by_file: dict[Path, list[int]] = {}
        for source in sources:
            if source.row is not None:
                rows_by_file.setdefault(source.path, []).append(source.row)
        for path, rows in rows_by_file.items():
            found = self._rows(path, sorted(set(rows)), reader)
            hashes.update({PixelSource(path, row): digest for row, digest in found.items()})
        return tuple(hashes[source] for source in sources)

    def known_tiles(self, sources: Sequence[PixelSource]) -> dict[PixelSource, str]:
        """Return the content hashes that are remembered; no tile is read.

        Args:
            sources: Where the tiles are.

        Returns:
            Hash by place, for tiles whose files are as they were when they were hashed.

        Raises:
            UnreadableTilesError: Files that are missing.
        """
        paths = list(dict.fromkeys(source.path for source in sources))
        states = dict(zip(paths, _file_states(paths), strict=True))
        files = self._recall_files([states[path] for path in {source.path for source in sources if source.row is None}])
        rows = {path: self._recall_rows(states[path]) for path in {one.path for one in sources if one.row is not None}}
        known = {}
        for source in sources:
            row = source.row
            found = files.get(states[source.path].path) if row is None else rows[source.path].get(row)
            if found is not None:
                known[source] = found
        return known

    def forget(self, path: Path) -> None:
        """Drop what is remembered about a file, because it turned out to be wrong."""
        if self._path is not None and self._path.is_file():
            with closing(sqlite3.connect(self._path, timeout=60)) as database, database:
                database.execute("DELETE FROM content WHERE path = ?", (str(path.absolute()),))

    def _rows(self, path: Path, rows: list[int], reader: PixelReader) -> dict[int, str]:
        """Return the content hashes of some rows of an HDF5 or parquet file, read in runs of neighbours."""
        state = _file_states([path])[0]
        known = self._recall_rows(state)
        missing = [row for row in rows if row not in known]
        for start, stop in _runs(missing):
            known.update(enumerate(map(content_hash, _raw_rows(reader, path, start, stop)), start=start))
        self._remember((state, row, known[row]) for row in missing)
        return {row: known[row] for row in rows}

    def _recall_files(self, states: Sequence[FileState]) -> dict[str, str]:
        wanted = {state.path: state for state in states}
        paths = list(wanted)
        found = {}
        for first in range(0, len(paths), 500):
            part = paths[first : first + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT path, size, mtime_ns, hex(sha256) FROM content WHERE row = -1 AND path IN ({marks})"  # noqa: S608
            for path, size, mtime_ns, digest in self._query(query, part):
                if FileState(str(path), int(size), int(mtime_ns)) == wanted[str(path)]:
                    found[str(path)] = str(digest).lower()
        return found

    def _recall_rows(self, state: FileState) -> dict[int, str]:
        query = "SELECT row, hex(sha256) FROM content WHERE path = ? AND row >= 0 AND size = ? AND mtime_ns = ?"
        answer = self._query(query, [state.path, state.size, state.mtime_ns])
        return {int(row): str(digest).lower() for row, digest in answer}

    def _query(self, query: str, values: Sequence[str | int]) -> list[tuple[str | int, ...]]:
        if self._path is None or not self._path.is_file():
            return []
        try:
            return query_index(self._path, query, values)
        except sqlite3.Error as error:
            LOG.warning("the index of content hashes can't be read (%s); hashing again: %s", error, self._path)
            return []

    def _remember(self, entries: Iterable[tuple[FileState, int, str]]) -> None:
        """Store hashes of files that are as they were before hashing and old enough for their mtime to be trusted."""
        if self._path is None or self._read_only:
            return
        found = list(entries)
        trusted = {state for state in {state for state, _, _ in found} if _is_settled(state)}
        rows = [
            (state.path, row, state.size, state.mtime_ns, bytes.fromhex(digest))
            for state, row, digest in found
            if state in trusted
        ]
        if rows:
            self._insert(rows)

    def _insert(self, rows: list[tuple[str, int, int, int, bytes]]) -> None:
        assert self._path is not None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=60)) as database, database:
                database.execute(SCHEMA)
                database.executemany("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:  # locked, read-only, full
            LOG.warning("content hashes can't be remembered (%s): %s", error, self._path)
        except sqlite3.DatabaseError as error:  # not a database, malformed
            LOG.warning("the index of content hashes is damaged (%s) and starts anew: %s", error, self._path)
            self._path.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("content hashes can't be remembered (%s): %s", error.strerror, self._path)


def query_index(path: Path, query: str, values: Sequence[str | int] = ()) -> list[tuple[str | int, ...]]:
    """Ask the database of content hashes, which is only read."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=60, uri=True)) as database:
        return database.execute(query, values).fetchall()


def _file_states(paths: Sequence[Path]) -> list[FileState]:
    states, bad = [], []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  (a quarter of the time of Path.stat, over 300,000 files)
            if not stat.S_ISREG(status.st_mode):  # a pipe would block whoever opens it
                raise OSError(errno.EINVAL, "not a regular file")
            states.append(FileState(os.path.abspath(path), status.st_size, status.st_mtime_ns))  # noqa: PTH100
        except OSError as error:
            bad.append((path, _unreadable(path, error)))
    _raise_bad(bad)
    return states


def _raise_bad(bad: Sequence[tuple[Path, UserError]]) -> None:
    if bad:
        raise UnreadableTilesError([UnreadableTile(PixelSource(path), error) for path, error in bad])


def _raw_rows(reader: PixelReader, path: Path, start: int, stop: int) -> list[bytes]:
    """Read rows at once; where that fails, one by one, so that the bad ones are known."""
    try:
        return list(reader.raw_rows(path, start, stop))
    except UserError:
        bad = []
        for row in range(start, stop):
            try:
                list(reader.raw_rows(path, row, row + 1))
            except UserError as error:
                bad.append(UnreadableTile(PixelSource(path, row), error))
        if bad:
            raise UnreadableTilesError(bad) from None
        raise


def _hash_or_error(path: Path) -> str | UserError:
    try:
        return hash_file(path)
    except OSError as error:
        return _unreadable(path, error)


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"the file can't be read ({error.strerror})",
        value=path,
        fix="check that it is there and that you may read it, then read the data set again",
    )


def _is_settled(state: FileState) -> bool:
    """Whether a file is still as it was before hashing, and older than a clock tick."""
    try:
        status = os.stat(state.path)  # noqa: PTH116
    except OSError:
        return False
    same = (status.st_size, status.st_mtime_ns) == (state.size, state.mtime_ns)
    return same and time.time_ns() - status.st_mtime_ns > FRESH_NS


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of consecutive numbers in a sorted list, at most ROWS_PER_READ long."""
    start = previous = None
    for row in rows:
        if start is None or previous is None or row != previous + 1 or row - start >= ROWS_PER_READ:
            if start is not None and previous is not None:
                yield start, previous + 1
            start = row
        previous = row
    if start is not None and previous is not None:
        yield start, previous + 1
