"""Parquet files whose cells are images: opened and checked, read in small batches, never whole."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IMAGE = "image"  # the column of images: a struct of bytes and path (Hugging Face), or plain bytes
BUFFER_BYTES = 2**20  # pages are read as they come, so that one giant row group costs no memory
BATCH_BYTES = 8 * 2**20
MAX_BATCH_ROWS = 64


def open_parquet(path: str) -> Any:  # noqa: ANN401  (pyarrow has no types)
    """Open a parquet file; only its footer is read, and pages that carry a checksum are checked against it.

    Args:
        path: The file.

    Returns:
        A ``pyarrow.parquet.ParquetFile``.

    Raises:
        UserError: Missing, unreadable, no regular file, truncated or damaged.
    """
    import pyarrow.parquet as pq

    with explained_parquet_errors(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise UserError("this is a folder or a device, not a parquet file", value=path, fix="check --data")
        return pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)


@contextmanager
def explained_parquet_errors(path: str) -> Iterator[None]:
    """Turn whatever pyarrow raises on a damaged file into one UserError that names it.

    Args:
        path: The file that the block reads.

    Raises:
        UserError: In place of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError("the parquet file is missing", value=path,
                        fix="read the data set again; files have moved since") from error  # fmt: skip
    except PermissionError as error:
        raise UserError("the parquet file can't be read (permission denied)", value=path,
                        fix=f"chmod u+r {path}") from error  # fmt: skip
    except Exception as error:  # pyarrow raises OSError, ValueError, MemoryError and types of its own
        raise UserError(f"the parquet file is truncated or damaged ({_first_line(error)})", value=path,
                        fix="download it again") from error  # fmt: skip


def image_leaf(file: Any, path: str) -> str:  # noqa: ANN401  (pyarrow has no types)
    """Return the column that holds the encoded images, as pyarrow selects it.

    Args:
        file: From :func:`open_parquet`.
        path: Named in messages.

    Returns:
        ``image.bytes`` for a struct, ``image`` for plain bytes.

    Raises:
        UserError: There is no such column.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    if IMAGE in schema.names:
        kind = schema.field(IMAGE).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{IMAGE}.bytes"
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return IMAGE
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UserError(f'the parquet file has no column "{IMAGE}" of encoded images', value=path,
                    allowed=f"a struct of bytes and path, or bytes; found: {found or 'nothing'}",
                    fix="point --data to the files of the data set")  # fmt: skip


def batch_rows(file: Any, group: int) -> int:  # noqa: ANN401  (pyarrow has no types)
    """Return how many rows of a row group to read at once, so that a batch stays near 8 MB."""
    facts = file.metadata.row_group(group)
    per_row = max(1, facts.total_byte_size // max(1, facts.num_rows))
    return int(min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // per_row)))


def image_batches(file: Any, path: str, group: int) -> Iterator[Sequence[bytes | None]]:  # noqa: ANN401
    """Yield the encoded images of one row group in order, in small batches.

    Args:
        file: From :func:`open_parquet`.
        path: Named in messages.
        group: Number of the row group.

    Yields:
        Image files as bytes; None where a cell is empty.

    Raises:
        UserError: The file is damaged.
    """
    leaf = image_leaf(file, path)
    with explained_parquet_errors(path):
        for batch in file.iter_batches(batch_rows(file, group), row_groups=[group], columns=[leaf], use_threads=False):
            column = batch.column(0)
            yield (column if leaf == IMAGE else column.field("bytes")).to_pylist()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
