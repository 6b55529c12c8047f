"""Tables as text: CSV files read without guessing types, with one message for whatever is wrong with them."""

from __future__ import annotations

import os
import stat

import polars as pl

from histotune.tools.errors import UserError


def read_text_table(path: str, fix: str, separator: str = ",", header: bool = True) -> pl.DataFrame:
    """Read a CSV file, plain or gzipped, as columns of text.

    Args:
        path: The file, UTF-8.
        fix: What mends a table that can't be read.
        separator: Between cells.
        header: Whether the first line names the columns.

    Returns:
        All rows; empty cells are null.

    Raises:
        UserError: Missing, unreadable, no regular file, damaged, not UTF-8, or rows of different length.

    Example:
        >>> read_text_table("train_labels.csv", "download it again").columns  # doctest: +SKIP
        ['id', 'label']
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise UserError("this is a folder or a device, not a table", value=path, fix=fix)
        return pl.read_csv(path, infer_schema=False, separator=separator, has_header=header)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"this table can't be read ({error.strerror or error})", value=path, fix=fix) from error
    except (Exception, pl.exceptions.PanicException) as error:  # a damaged gzip file ends in a panic of polars
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"this table can't be read ({reason[0].rstrip('.')})", value=path, fix=fix) from error
