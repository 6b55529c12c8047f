"""The user's own tiles as a table: CSV or parquet, a row per tile, only the path required."""

from __future__ import annotations

import gzip
import re
import zlib
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.disk import name_some
from histotune.datasets.parquet import explained_parquet_errors, open_parquet
from histotune.datasets.rows import Tile
from histotune.datasets.text_table import read_text_table
from histotune.tools.errors import UserError, raise_together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS = ("path", "label", "group", "slide", "site", "scanner", "stain", "mpp", "magnification", "split")
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
SEPARATORS = (",", "\t", ";")
NEAR = 0.75  # similarity from which an unknown column is taken for a misspelt one: lable is 0.8 like label
MEANS = {
    "patient": "group", "patient_id": "group", "case": "group", "case_id": "group", "subject": "group",
    "subject_id": "group", "donor": "group", "file": "path", "filename": "path", "file_name": "path",
    "image": "path", "image_path": "path", "class": "label", "target": "label", "diagnosis": "label", "y": "label",
    "wsi": "slide", "partition": "split", "part": "split", "subset": "split", "resolution": "mpp",
    "microns_per_pixel": "mpp", "hospital": "site", "center": "site", "centre": "site",
}  # fmt: skip
MENDED = "mend the table and run again"


def is_table(path: Path) -> bool:
    """Return whether a path is named like a table."""
    return path.name.lower().endswith(SUFFIXES)


def read_table(path: Path) -> tuple[list[Tile], list[str]]:
    """Read the rows of a user's table.

    Args:
        path: CSV (comma, tab or semicolon, plain or gzipped) or parquet, with a column ``path`` and any of ``label``,
            ``group``, ``slide``, ``site``, ``scanner``, ``stain``, ``mpp``, ``magnification`` and ``split``.

    Returns:
        A tile per row, its id the path as written; notes on columns that are not used.

    Raises:
        UserError: The table can't be read, lacks ``path``, has a misspelt column, or cells of the wrong kind.
    """
    table = _as_text(_read(path), path)
    notes = _check_columns(table.columns, path)
    table = table.select(name for name in COLUMNS if name in table.columns)
    if table.is_empty():
        raise UserError("this table has no rows", value=path, fix=MENDED)
    errors = [error for error in (_missing_paths(table, path), *_mpp_errors(table, path)) if error is not None]
    raise_together(errors)
    table = _whole_number_labels(table)
    tiles = []
    for row in table.iter_rows(named=True):
        mpp = row.pop("mpp", None)
        tiles.append(Tile(**row, mpp=None if mpp is None else float(mpp), tile_id=row["path"]))
    return tiles, notes


def _read(path: Path) -> pl.DataFrame:
    if not is_table(path):
        raise UserError("this file is no table that histotune reads", value=path, allowed=", ".join(SUFFIXES),
                        fix="save it as CSV (UTF-8) or parquet, or pass a folder of class folders")  # fmt: skip
    if not path.name.lower().endswith(".parquet"):
        return read_text_table(str(path), MENDED, _separator(path))
    file = open_parquet(str(path))
    with explained_parquet_errors(str(path)):
        table = pl.from_arrow(file.read())
    assert isinstance(table, pl.DataFrame)
    return table


def _separator(path: Path) -> str:
    """Return what separates the cells, going by the header; a table without ``path`` is taken to use commas."""
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
            header = stream.readline(65536).decode("utf-8-sig", errors="replace").strip().lower()
    except (OSError, EOFError, zlib.error):  # read_text_table says what is wrong
        return ","
    cells_by_separator = {mark: [cell.strip(' "') for cell in header.split(mark)] for mark in SEPARATORS}
    return next((mark for mark, cells in cells_by_separator.items() if "path" in cells), ",")


def _as_text(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Turn every used column into stripped text; empty cells become null."""
    table = table.rename({name: name.strip() for name in table.columns})
    columns = []
    for name in table.columns:
        column = table[name]
        if name in COLUMNS and column.dtype.is_nested():
            raise UserError(f'column "{name}" holds {column.dtype}', value=path, allowed="text or numbers", fix=MENDED)
        if name in COLUMNS:
            text = column.cast(pl.String, strict=False).str.strip_chars()
            columns.append(pl.select(pl.when(text != "").then(text)).to_series().alias(name))
        else:
            columns.append(column)
    return pl.DataFrame(columns)


def _check_columns(names: Sequence[str], path: Path) -> list[str]:
    """Refuse misspelt columns, since a misspelt group would leak; note the unknown ones."""
    unknown = [name for name in names if name not in COLUMNS]
    absent = [name for name in COLUMNS if name not in names]
    errors = []
    for name in unknown:
        near = max(absent, key=lambda known: _likeness(name, known), default=None)
        if near is not None and _likeness(name, near) >= NEAR:
            errors.append(UserError("this column looks like a misspelt one", value=name, closest=near,
                                    fix=f"rename it to {near}, or to something less alike, in {path}"))  # fmt: skip
    if "path" in absent and not any(error.closest == "path" for error in errors):
        closest = next((name for name in unknown if MEANS.get(name.lower()) == "path"), None)
        allowed = f"{', '.join(COLUMNS)} (it has: {name_some(list(names), 20)})"
        fix = f"rename {closest} to path" if closest else "name the image files in it"
        errors.append(UserError('this table has no column "path"', value=path, allowed=allowed, fix=fix))
    raise_together(errors)
    if not unknown:
        return []
    hints = [f"{name} (did you mean {MEANS[name.lower()]}?)" for name in unknown if MEANS.get(name.lower()) in absent]
    plain = [name for name in unknown if MEANS.get(name.lower()) not in absent]
    return [f"Columns that are not used: {name_some([*hints, *plain], 20)}."]


def _likeness(name: str, known: str) -> float:
    return SequenceMatcher(None, name.lower(), known).ratio()


def _missing_paths(table: pl.DataFrame, path: Path) -> UserError | None:
    rows = (table["path"].is_null().arg_true() + 2).to_list()
    if not rows:
        return None
    return UserError(f"{len(rows):,} rows name no image", value=f"{path}, line {_some_numbers(rows)}", fix=MENDED)


def _mpp_errors(table: pl.DataFrame, path: Path) -> list[UserError]:
    if "mpp" not in table.columns:
        return []
    number = table["mpp"].cast(pl.Float64, strict=False)
    bad = table["mpp"].is_not_null() & ~((number > 0) & number.is_finite()).fill_null(False)
    rows = (bad.arg_true() + 2).to_list()
    if not rows:
        return []
    example = table["mpp"][rows[0] - 2]
    return [UserError(f"{len(rows):,} rows have an mpp that is no positive number, such as {example!r}",
                      value=f"{path}, line {_some_numbers(rows)}", allowed="um per pixel, such as 0.5",
                      fix=MENDED)]  # fmt: skip


def _some_numbers(rows: list[int]) -> str:
    return name_some([str(row) for row in rows], 10)


def _whole_number_labels(table: pl.DataFrame) -> pl.DataFrame:
    """Read labels 0.0 and 1.0 as 0 and 1, which is what a table with gaps makes of whole numbers."""
    if "label" not in table.columns:
        return table
    labels = table["label"].drop_nulls()
    if len(labels) and all(re.fullmatch(r"-?\d+\.0+", label) for label in labels.unique()):
        return table.with_columns(pl.col("label").str.replace(r"\.0+$", ""))
    return table
