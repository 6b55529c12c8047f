"""Tables of predictions as files: written part by part, whole or not at all; and the same by slide and by case."""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import polars as pl

from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.tabular import write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from histotune.heads.head import Head

TEXT = {"": ",", ".csv": ",", ".txt": ",", ".tsv": "\t"}  # what parts the cells, by the suffix of the file
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx")
MAX_EXCEL_ROWS = 2**20 - 1  # of one sheet, below its header
PRINTED_DIGITS = 6
UNITS = {"slide": "slides", "case": "cases"}
COUNTED = {"n_abstained": "abstains", "n_far": "far"}


def check_table_name(out: Path) -> None:
    """Find out before anything is computed whether a table of this name can be written.

    Raises:
        UserError: The suffix stands for another kind of file, or for one that needs a package that is missing.
    """
    suffix = out.suffix.lower()
    if suffix not in TEXT and suffix not in TABLE_SUFFIXES:
        raise UserError(
            "tables of predictions are not written in this format",
            value=out,
            allowed=", ".join(TABLE_SUFFIXES),
            fix=f"--out {out.with_suffix('.csv')}",
        )
    if suffix == ".xlsx" and find_spec("xlsxwriter") is None:
        raise UserError(
            "writing .xlsx needs the package xlsxwriter, which is not installed",
            value=out,
            allowed=".csv, .tsv, .parquet",
            fix=f"pip install 'histotune[excel]', or --out {out.with_suffix('.csv')}",
        )


def write_predictions(table: pl.DataFrame, out: Path) -> None:
    """Write a table of predictions by the suffix of its file, atomically.

    Args:
        table: Rows.
        out: ``.parquet``, ``.xlsx``, ``.tsv``, or CSV.
    """
    check_table_name(out)
    suffix = out.suffix.lower()
    if suffix == ".xlsx" and table.height > MAX_EXCEL_ROWS:
        what = f"a sheet of .xlsx has room for {MAX_EXCEL_ROWS:,} rows, and these are {table.height:,}"
        raise UserError(what, value=out, fix=f"--out {out.with_suffix('.csv')}")
    with atomic_path(out) as temporary:
        if suffix == ".parquet":
            write_parquet(table, temporary)
        elif suffix == ".xlsx":
            temporary.write_bytes(_excel(table))
        else:
            temporary.write_bytes(table.write_csv(separator=TEXT[suffix]).encode())


def _excel(table: pl.DataFrame) -> bytes:
    """Return a table as the bytes of an Excel file; text that begins like a formula or an address stays text."""
    import xlsxwriter

    held = io.BytesIO()
    as_text = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(held, as_text) as book:
        table.write_excel(book, worksheet="predictions", float_precision=6)
    return held.getvalue()


@contextmanager
def table_writer(out: Path | None) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield a function that appends rows to a table, which appears when the block succeeds.

    Args:
        out: ``.parquet``, ``.xlsx``, ``.tsv``, or CSV; None prints CSV on standard output.

    Yields:
        Takes a part of the table; only Excel's is held in memory.
    """
    if out is None:
        yield _Printed().write
        return
    check_table_name(out)
    suffix = out.suffix.lower()
    if suffix == ".xlsx":
        parts: list[pl.DataFrame] = []
        yield parts.append
        write_predictions(pl.concat(parts), out)
        return
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(out))
        if suffix == ".parquet":
            yield stack.enter_context(_parquet_writer(temporary))
        else:
            stream = stack.enter_context(temporary.open("wb"))
            yield _Text(stream.write, TEXT[suffix]).write


class _Text:
    """Rows as text, the header once.

    Args:
        write: Takes bytes.
        separator: Between cells.
    """

    def __init__(self, write: Callable[[bytes], object], separator: str) -> None:
        self._write, self._separator, self._begun = write, separator, False

    def write(self, part: pl.DataFrame) -> None:
        """Append rows."""
        self._write(part.write_csv(separator=self._separator, include_header=not self._begun).encode())
        self._begun = True


class _Printed:
    """Rows on standard output, the header once."""

    def __init__(self) -> None:
        self._begun = False

    def write(self, part: pl.DataFrame) -> None:
        """Print rows."""
        sys.stdout.write(part.write_csv(float_precision=PRINTED_DIGITS, include_header=not self._begun))
        self._begun = True


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield a function that appends a row group; every part must have the same columns."""
    import pyarrow.parquet as pq

    writers: list[Any] = []

    def write(part: pl.DataFrame) -> None:
        """Append rows; the first part decides the columns."""
        table = part.to_arrow()
        if not writers:
            writers.append(pq.ParquetWriter(str(path), table.schema, compression="zstd"))
        writers[0].write_table(table)

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


# ---- By slide and by case ----


class UnitSums:
    """Adds up predictions by slide and by case while tiles pass by; what it holds grows with slides and cases alone.

    Args:
        head: Whose predictions.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._sums: dict[str, pl.DataFrame] = {}
        self._known: set[str] = set()

    def add(self, part: pl.DataFrame) -> None:
        """Add the predictions of some tiles."""
        probabilities = [f"probability_{name}" for name in self._head.class_names]
        sums = [pl.col(name).sum() for name in (*probabilities, "n_tiles", "n_abstained", "n_far")]
        counted = part.filter(pl.col("predicted").is_not_null()).with_columns(
            n_tiles=pl.lit(1, pl.Int64),
            n_abstained=pl.col("abstains").cast(pl.Int64),
            n_far=pl.col("far").cast(pl.Int64),
        )
        for name, column in COUNTED.items():
            if part[column].null_count() < part.height:
                self._known.add(name)
        for unit in UNITS:
            own = counted.filter(pl.col(unit).is_not_null())
            if own.height:
                before = [self._sums[unit]] if unit in self._sums else []
                after = own.group_by(unit).agg(sums)
                self._sums[unit] = pl.concat([*before, after]).group_by(unit).agg(sums)

    def table(self, unit: str) -> pl.DataFrame | None:
        """Return a row per slide or case: tiles, mean probabilities, decision; None where none is known.

        The mean of the tiles' probabilities is decided by the head's threshold, which was chosen for tiles.
        """
        if unit not in self._sums:
            return None
        names = [f"probability_{name}" for name in self._head.class_names]
        means = self._sums[unit].sort(unit).with_columns(pl.col(name) / pl.col("n_tiles") for name in names)
        unknown = [pl.lit(None, pl.Int64).alias(name) for name in COUNTED if name not in self._known]
        return means.with_columns(decided(self._head), *unknown).select(
            unit, "n_tiles", "predicted", *names, *decision_columns(self._head, "mean of tiles: "), *COUNTED
        )


def decided(head: Head) -> pl.Expr:
    """Return what a head says of columns of probabilities, as :func:`~histotune.heads.head.decide` does."""
    names = head.class_names
    columns = [f"probability_{name}" for name in names]
    if len(names) == 2:
        is_positive = pl.col(columns[1]) >= head.threshold
        said = pl.when(is_positive).then(pl.lit(names[1])).otherwise(pl.lit(names[0]))
    else:
        said = pl.concat_list(columns).list.arg_max().replace_strict(dict(enumerate(names)), return_dtype=pl.String)
    return said.alias("predicted")


def decision_columns(head: Head, prefix: str = "") -> tuple[pl.Expr, pl.Expr]:
    """Return the head's threshold, and in words how the probabilities decide."""
    if len(head.class_names) != 2:
        words = f"{prefix}the most probable class"
        return pl.lit(None, pl.Float64).alias("threshold"), pl.lit(words).alias("decision")
    other, positive = head.class_names
    words = f"{prefix}{positive} where probability_{positive} is at least the threshold, else {other}"
    return pl.lit(float(head.threshold)).alias("threshold"), pl.lit(words).alias("decision")


def beside(out: Path, unit: str) -> Path:
    """Return where the table by slide or case goes: ``p.csv`` -> ``p.slides.csv``.

    Example:
        >>> from pathlib import Path
        >>> beside(Path("p.csv"), "slide").name
        'p.slides.csv'
    """
    return out.with_name(f"{out.stem}.{UNITS[unit]}{out.suffix}")
