"""Content hashes, remembered by a file's path and state, so that a second run reads no pixels to know them."""

from __future__ import annotations

import errno
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from histotune.images.content_index import WHOLE_FILE, ContentIndex, FileState
from histotune.images.decode import PixelSource, UnreadableTile, UnreadableTilesError, content_hash
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from histotune.images.decode import PixelReader

FRESH_NS = 2_000_000_000  # a file this new may change again within the clock tick that its mtime shows
ROWS_PER_READ = 256


class HashIndex:
    """SHA-256 by content, kept in one SQLite file that several processes may use.

    It only saves time: where it can't be written or read, hashes are computed again and a warning says so.

    Args:
        path: The SQLite file; made when first needed. None remembers nothing.
        read_only: Recall what is known and write nothing down.
        rehash: Recall nothing; what is found is remembered in place of what was.

    Example:
        >>> from pathlib import Path
        >>> len(HashIndex(None).files([Path(__file__)])[0])
        64
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, rehash: bool = False) -> None:
        self._index = ContentIndex(path, read_only=read_only)
        self._rehash = rehash

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
        known = {} if self._rehash else self._index.recall_files(states)
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
        if self._rehash:
            return {}
        paths = list(dict.fromkeys(source.path for source in sources))
        states = dict(zip(paths, _file_states(paths), strict=True))
        files = self._index.recall_files(
            [states[path] for path in {source.path for source in sources if source.row is None}]
        )
        rows = {
            path: self._index.recall_rows(states[path]) for path in {one.path for one in sources if one.row is not None}
        }
        known = {}
        for source in sources:
            row = source.row
            found = files.get(states[source.path].path) if row is None else rows[source.path].get(row)
            if found is not None:
                known[source] = found
        return known

    def forget(self, path: Path) -> None:
        """Drop what is remembered about a file, because it turned out to be wrong."""
        self._index.forget(path)

    def _rows(self, path: Path, rows: list[int], reader: PixelReader) -> dict[int, str]:
        """Return the content hashes of some rows of an HDF5 or parquet file, read in runs of neighbours."""
        state = _file_states([path])[0]
        known = {} if self._rehash else self._index.recall_rows(state)
        missing = [row for row in rows if row not in known]
        for start, stop in _runs(missing):
            known.update(enumerate(map(content_hash, _raw_rows(reader, path, start, stop)), start=start))
        self._remember((state, row, known[row]) for row in missing)
        return {row: known[row] for row in rows}

    def _remember(self, entries: Iterable[tuple[FileState, int, str]]) -> None:
        """Store hashes of files that are as they were before hashing and old enough for their times to be trusted."""
        found = list(entries)
        trusted = {state for state in {state for state, _, _ in found} if _is_settled(state)}
        self._index.remember(entry for entry in found if entry[0] in trusted)


def _file_states(paths: Sequence[Path]) -> list[FileState]:
    states, bad = [], []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  (a quarter of the time of Path.stat, over 300,000 files)
            if not stat.S_ISREG(status.st_mode):  # a pipe would block whoever opens it
                raise OSError(errno.EINVAL, "not a regular file")
            states.append(FileState.of(os.path.abspath(path), status))  # noqa: PTH100
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
    return FileState.of(state.path, status) == state and time.time_ns() - status.st_mtime_ns > FRESH_NS


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
