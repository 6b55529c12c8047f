"""Encoded images in the cells of a parquet file, by row number, from any thread, without loading the file."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from histotune.datasets.disk import explained_parquet_errors, image_batches, image_leaf, open_parquet
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

KEPT_BYTES = 64 * 2**20  # threads that read ahead ask a little out of order; no more than this is kept for them
SUFFIX = ".parquet"


def is_parquet(path: Path) -> bool:
    """Return whether rows of this file are cells of a parquet column."""
    return path.suffix.lower() == SUFFIX


@dataclass
class _Stream:
    """A row group being read from its start.

    Attributes:
        group: Number of the row group.
        next_row: Row, within the file, of the next batch's first cell.
        batches: What is left of it.
    """

    group: int
    next_row: int
    batches: Iterator[Sequence[bytes | None]]


class ParquetImages:
    """The image column of one parquet file.

    Rows asked for in about ascending order are read once; a jump backwards reads its row group again from the start.

    Args:
        path: The file.

    Raises:
        UserError: The file is missing, damaged, or has no column of images.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_parquet(str(path))
        image_leaf(self._file, str(path))
        facts = self._file.metadata
        sizes = (facts.row_group(group).num_rows for group in range(facts.num_row_groups))
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._guard = threading.Lock()
        self._stream: _Stream | None = None
        self._kept: OrderedDict[int, bytes | None] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._starts[-1]

    def cell(self, row: int) -> bytes:
        """Return the encoded image in one row.

        Args:
            row: Row number within the file.

        Returns:
            The bytes of an image file.

        Raises:
            UserError: No such row, an empty cell, or a damaged file.
        """
        if not 0 <= row < len(self):
            raise UserError(
                "the parquet file has no such row",
                value=f"{self._path}, row {row}",
                allowed=f"0 to {len(self) - 1}",
                fix="read the data set again; the file has changed",
            )
        with self._guard:
            data = self._kept[row] if row in self._kept else self._read_up_to(row)
        if not data:
            raise UserError("this row holds no image", value=f"{self._path}, row {row}",
                            fix="download the file again; an image kept beside the table can't be used")  # fmt: skip
        return data

    def close(self) -> None:
        """Close the file and forget what was read."""
        with self._guard:
            self._stream = None
            self._kept.clear()
            self._kept_bytes = 0
            self._file.close()

    def _read_up_to(self, row: int) -> bytes | None:
        """Read on, or anew from the start of the row group, until the row has been seen."""
        group = bisect_right(self._starts, row) - 1
        stream = self._stream
        if stream is None or stream.group != group or stream.next_row > row:
            stream = _Stream(group, self._starts[group], image_batches(self._file, str(self._path), group))
        self._stream = None  # a stream that fails is not used again
        with explained_parquet_errors(str(self._path)):
            for cells in stream.batches:
                first, stream.next_row = stream.next_row, stream.next_row + len(cells)
                self._keep(first, cells)
                if row < stream.next_row:
                    self._stream = stream
                    return cells[row - first]
            raise ValueError(f"row {row} is missing, though the footer counts it")

    def _keep(self, first: int, cells: Sequence[bytes | None]) -> None:
        for row, data in enumerate(cells, start=first):
            self._drop(row)
            self._kept[row] = data
            self._kept_bytes += len(data or b"")
        while self._kept_bytes > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, row: int) -> None:
        self._kept_bytes -= len(self._kept.pop(row, None) or b"")
