"""Embeddings that other programs wrote: HDF5 of CLAM and TRIDENT, npz, Parquet; read without running any of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.backbones.external import ExternalFile
from histotune.backbones.spec import ColumnBlock
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

FOREIGN_SUFFIXES = (".h5", ".hdf5", ".npz", ".parquet")
CONTENT = re.compile("[0-9a-f]{64}")
FEATURES = ("features", "embedding", "embeddings")
# N rows, D columns


@dataclass(frozen=True)
class ForeignRows:
    """The rows of one file.

    Attributes:
        file: Its name, hash and number of rows.
        slide: The file's name without suffix, which CLAM and TRIDENT take for the slide.
        features_ND: float32, finite.
        content: Content hash per row; empty where the file has none.
        tile_ids: Tile id per row; empty where the file has none.
        coords_N2: x and y on the slide; None where the file has none, or none that is known.
        blocks: Named column ranges; one block ``pooled`` where the file names none.
        claimed: The network that the file says made them; empty where it says nothing.
    """

    file: ExternalFile
    slide: str
    features_ND: NDArray[np.float32]
    content: tuple[str, ...] = ()
    tile_ids: tuple[str, ...] = ()
    coords_N2: NDArray[np.int64] | None = None
    blocks: tuple[ColumnBlock, ...] = ()
    claimed: str = ""


def foreign_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files to import: those named, and those in folders named (CLAM's ``h5_files`` too).

    Args:
        paths: Files and folders.

    Returns:
        Files in order, each once.

    Raises:
        UserError: Missing paths, or a folder without such files.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = [path] if path.is_file() else sorted(
            file for place in (path, path / "h5_files") for file in place.glob("*") if file.suffix in FOREIGN_SUFFIXES
        )  # fmt: skip
        if not inside:
            raise UserError("no embeddings to import here", value=path,
                            allowed=f"files or folders of {', '.join(FOREIGN_SUFFIXES)}",
                            fix="check the path")  # fmt: skip
        found.update(dict.fromkeys(inside))
    return tuple(found)


def read_foreign(path: Path) -> ForeignRows:
    """Read one file of embeddings.

    Args:
        path: ``.h5`` with ``features`` (N, D) and ``coords`` (N, 2); ``.npz`` with ``features``; ``.parquet`` with a
            column ``embedding`` of lists. ``tile_id`` and ``content`` beside them name the tiles.

    Returns:
        Its rows.

    Raises:
        UserError: Damaged or unknown; counts that differ; values that are not finite; pickled objects.
    """
    readers = {".h5": _read_hdf5, ".hdf5": _read_hdf5, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError("unknown kind of file for embeddings", value=path, allowed=", ".join(FOREIGN_SUFFIXES),
                        fix="save them as npz with arrays `features` and `tile_id`")  # fmt: skip
    try:
        columns, facts = readers[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # h5py, numpy and pyarrow raise many types on damaged files
        raise UserError(f"this file of embeddings can't be read ({error})", value=path,
                        fix="copy it again from where it was written") from error  # fmt: skip
    return _checked(path, columns, facts)


def read_places(path: Path) -> dict[str, tuple[int, int]]:
    """Read where tiles lie on their slides.

    Args:
        path: ``.csv`` or ``.parquet`` with columns ``tile_id``, ``x``, ``y``: the upper left corner, level 0 pixels.

    Returns:
        x and y by tile id.

    Raises:
        UserError: Missing file or columns, or coordinates that are no numbers.
    """
    import polars as pl

    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
        rows = table.select(pl.col("tile_id").cast(pl.String), pl.col("x", "y").cast(pl.Float64).cast(pl.Int64))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError("this table of coordinates can't be read", value=path, allowed="columns tile_id, x, y",
                        fix="write it as CSV with these three columns") from error  # fmt: skip
    return {tile_id: (x, y) for tile_id, x, y in rows.drop_nulls().iter_rows()}


def _read_hdf5(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import h5py

    with h5py.File(path, "r") as file:
        columns = {name: values for name in (*FEATURES, "coords", "tile_id", "content")
                   if (values := _dataset(file, name)) is not None}  # fmt: skip
        attributes = dict(file["features"].attrs) if "features" in columns else {}
    facts = json.loads(attributes["histotune"]) if "histotune" in attributes else {}
    return columns, {"encoder": str(attributes.get("encoder", "")), **facts}


def _dataset(file: h5py.File, name: str) -> NDArray[Any] | None:
    """Read a data set of this very file; links would read files that nobody named."""
    import h5py

    if name not in file:
        return None
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or file[name].is_virtual or file[name].external:
        raise UserError(f'"{name}" in this file is a link to elsewhere', value=file.filename,
                        fix="write the values themselves into the file")  # fmt: skip
    values = file[name]
    return np.asarray(values.asstr()[()] if h5py.check_string_dtype(values.dtype) else values[()])


def _read_npz(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in (*FEATURES, "coords", "tile_id", "content") if name in file}
        facts = json.loads(str(file["facts"])) if "facts" in file else {}
    return columns, facts


def _read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names = [name for name in (*FEATURES, "x", "y", "tile_id", "content") if name in file.schema_arrow.names]
    table = file.read(names)
    columns: dict[str, Any] = {}
    for name in names:
        column = table[name].combine_chunks()
        if name in FEATURES:
            if len(pc.unique(pc.list_value_length(column))) != 1:
                raise UserError("the vectors in this file differ in length, or there are none", value=path,
                                fix="write the rows of one network only")  # fmt: skip
            columns[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        else:
            columns[name] = np.asarray(column.to_pylist())
    if "x" in columns and "y" in columns:
        columns["coords"] = np.stack([columns.pop("x"), columns.pop("y")], axis=1)
    metadata = file.schema_arrow.metadata or {}
    return columns, json.loads(metadata[b"histotune"]) if b"histotune" in metadata else {}


def _checked(path: Path, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> ForeignRows:
    """Check shapes and values, all mistakes of a file in one message."""
    name = next((name for name in FEATURES if name in columns), None)
    if name is None:
        raise UserError("this file holds no embeddings", value=path, allowed=f"an array {' or '.join(FEATURES)}",
                        fix="check that these are tile features, not coordinates")  # fmt: skip
    features_ND = columns[name]
    if features_ND.ndim != 2 or not np.issubdtype(features_ND.dtype, np.floating) or 0 in features_ND.shape:
        raise UserError(f"{name} holds {features_ND.dtype} {features_ND.shape}", value=path,
                        allowed="floating-point numbers (tiles, columns)", fix="write one row per tile")  # fmt: skip
    n = len(features_ND)
    counts = {other: len(columns[other]) for other in ("coords", "tile_id", "content") if other in columns}
    if any(count != n for count in counts.values()):
        found = ", ".join(f"{count:,} {other}" for other, count in counts.items())
        raise UserError(f"counts differ: {n:,} rows of {name}, {found}", value=path, allowed="one of each per row",
                        fix="write the file again")  # fmt: skip
    features_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
    if not np.isfinite(features_ND).all():
        bad = int((~np.isfinite(features_ND).all(axis=1)).sum())
        raise UserError(f"{bad:,} rows hold values that are not finite in float32", value=path,
                        fix="compute them again in a wider precision")  # fmt: skip
    rows = ForeignRows(ExternalFile(path.name, hash_file(path), n), path.stem, features_ND)
    return _named(rows, columns, facts)


def _named(rows: ForeignRows, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> ForeignRows:
    """Add what names the rows and columns."""
    dim = rows.features_ND.shape[1]
    coords = columns.get("coords")
    if coords is not None and (coords.ndim != 2 or coords.shape[1] != 2):
        raise UserError(f"coords has shape {coords.shape}", value=rows.file.name, allowed="(tiles, 2): x, y",
                        fix="write the file again")  # fmt: skip
    content = tuple(_text(value) for value in columns.get("content", ()))
    if any(not CONTENT.fullmatch(one) for one in content):
        raise UserError("content holds something else than SHA-256 hashes", value=rows.file.name,
                        allowed="64 hexadecimal digits per row", fix="leave it out, name rows by tile_id")  # fmt: skip
    known = coords is not None and not bool((np.asarray(coords) < 0).any())  # -1 says that nobody knows
    blocks = tuple(ColumnBlock(**block) for block in facts.get("blocks", ()))
    if not blocks or blocks[-1].stop != dim:
        blocks = (ColumnBlock("pooled", 0, dim),)
    claimed = facts.get("space", {}).get("backbone") or facts.get("encoder", "")
    return replace(
        rows,
        content=content,
        tile_ids=tuple(_text(value) for value in columns.get("tile_id", ())),
        coords_N2=np.asarray(coords, dtype=np.int64) if known else None,
        blocks=blocks,
        claimed=str(claimed),
    )


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
