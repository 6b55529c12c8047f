"""One reader of CSV and one of parquet: a path is a path, never a pattern, and whatever is wrong is one error."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from histotune.tools.files import require_regular
from histotune.tools.stand_ins import START_BYTES, stand_in, stand_in_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import polars as pl


SECOND = re.compile(r"_duplicated_\d+$")


class TableError(ValueError):
    """A table that can't be read; the words say why, for a message."""


def read_csv(path: Path, *, separator: str = ",", has_header: bool = True) -> pl.DataFrame:
    """Read a CSV file, plain or gzipped, as columns of text.

    Args:
        path: The file; brackets, stars and question marks in it stand for themselves.
        separator: What parts the cells of a row.
        has_header: Whether the first row names the columns.

    Returns:
        A column of text for every column; empty cells are null.

    Raises:
        TableError: The file is missing, no regular file, or damaged.
    """
    import polars as pl

    data = _bytes_of(path)
    found = stand_in(data[:START_BYTES])
    if found is not None:
        raise TableError(f"it is {found.words}")
    try:
        return pl.read_csv(data, infer_schema=False, separator=separator, has_header=has_header)
    except (Exception, pl.exceptions.PanicException) as error:  # a damaged gzip file ends in a panic of polars
        raise TableError(_first_line(error)) from error


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a parquet file, every value checked against its type.

    Args:
        path: The file; brackets, stars and question marks in it stand for themselves.

    Returns:
        Its columns.

    Raises:
        TableError: The file is missing, no regular file, or damaged.
    """
    import polars as pl

    _require_regular(path)
    try:
        with parquet_file(path, page_checksum_verification=True) as file:
            return frame_of(file.read())
    except (Exception, pl.exceptions.PanicException) as error:  # pyarrow raises OSError, ValueError and its own types
        found = stand_in_at(path)
        if found is not None:
            raise TableError(f"it is {found.words}") from error
        raise TableError(_first_line(error)) from error


def parquet_file(path: Path | str, **options: object) -> Any:  # noqa: ANN401  (pyarrow has no types)
    """Open a parquet file to read it in pieces; only its footer is read.

    Args:
        path: The file; brackets, stars and question marks in it stand for themselves.
        options: As pyarrow's ``ParquetFile`` takes them.

    Returns:
        The open file; what pyarrow raises is left to whoever opens it.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(os.path.abspath(path), **options)  # noqa: PTH100  (a bare "s3://a" would be an address)


def as_pattern(path: Path) -> str:
    """Return a path for a program that reads patterns, such as polars by itself, so that it matches itself alone.

    Example:
        >>> from pathlib import Path
        >>> as_pattern(Path("runs[1]"))
        'runs[[]1]'
    """
    return re.sub(r"([*?[])", r"[\1]", str(path))


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a table as parquet: in memory first, since polars tells of a full disk without the system's error."""
    stream = io.BytesIO()
    table.write_parquet(stream)
    path.write_bytes(stream.getbuffer())


def write_csv(table: pl.DataFrame, path: Path) -> None:
    """Write a table as CSV, in memory first as :func:`write_parquet` does."""
    path.write_bytes(table.write_csv().encode())


def named_twice(names: Iterable[str], used: Sequence[str]) -> list[str]:
    """Return which of the columns that are used a table has more than once; spaces around a name do not count.

    Example:
        >>> named_twice(["path", "label", " label", "note", "note"], ("path", "label"))
        ['label']
    """
    # polars writes "label_duplicated_0" for the second of two columns of the very same name
    counts = Counter(SECOND.sub("", name.strip()).strip() for name in names)
    return [name for name in used if counts[name] > 1]


def frame_of(table: Any) -> pl.DataFrame:  # noqa: ANN401  (pyarrow has no types)
    """Return a table of pyarrow's as one of polars, after a look at every value: polars would trust a bad one.

    Raises:
        TableError: A value is none of its type, such as text that is no UTF-8.
    """
    import polars as pl
    import pyarrow as pa

    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise TableError(_first_line(error)) from error
    return cast("pl.DataFrame", pl.from_arrow(table))


def _bytes_of(path: Path) -> bytes:
    _require_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise TableError(error.strerror or str(error)) from error


def _require_regular(path: Path) -> None:
    try:
        require_regular(path)
    except OSError as error:
        raise TableError(error.strerror or str(error)) from error


def _first_line(error: BaseException) -> str:
    words = str(error).strip().splitlines() or [type(error).__name__]
    return words[0].rstrip(".")
