"""Files as text that can be compared key by key: binary formats become JSON, text stays as it is."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import sqlite3
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MOST_VALUES = 64
"""Arrays with more values are told by shape, type, sum and a hash of all values."""
MOST_ROWS = 2000
"""Tables with more rows are told by a hash per column."""


def decode(path: Path) -> tuple[str, str]:
    """Return a file as text that can be compared.

    Args:
        path: Any file.

    Returns:
        What is added to its name in the record (``.json`` where a binary format was decoded, empty for text), and the
        text.
    """
    data = path.read_bytes()
    reader = READERS.get(path.suffix.lower())
    if reader is not None:
        try:
            return ".json", to_json(reader(path, data))
        except Exception as error:  # a damaged file is told by its bytes, and that it is damaged
            return ".json", to_json({"damaged": type(error).__name__, **facts_of_bytes(data)})
    try:
        return "", data.decode("utf-8")
    except UnicodeDecodeError:
        return ".json", to_json(facts_of_bytes(data))


def to_json(value: object) -> str:
    """Return readable JSON; what JSON does not know becomes text."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:  # noqa: ANN401  (whatever a file holds)
    """Return a value in JSON's own types; numbers keep every digit, and NaN is told apart from null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, bytes):
        return f"bytes {digest(value)}" if len(value) > MOST_VALUES else f"bytes {value.hex()}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def digest(data: bytes) -> str:
    """Return the first half of the SHA-256 of some bytes: enough to tell files apart."""
    return hashlib.sha256(data).hexdigest()[:32]


def facts_of_bytes(data: bytes) -> dict[str, object]:
    """Return what is told of bytes that nobody can read."""
    return {"n_bytes": len(data), "sha256": digest(data)}


def facts_of_array(array: NDArray[Any]) -> dict[str, object]:
    """Return an array's type, shape and values, or for a large one a hash of all values beside their sum."""
    facts: dict[str, object] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype.hasobject or array.size <= MOST_VALUES:
        return {**facts, "values": array}
    if np.issubdtype(array.dtype, np.number):
        facts["sum"] = float(np.sum(array, dtype=np.float64))
    return {**facts, "sha256": digest(np.ascontiguousarray(array).tobytes())}


def read_npy(_: Path, data: bytes) -> object:
    """Read one array."""
    return facts_of_array(np.load(io.BytesIO(data), allow_pickle=False))


def read_npz(_: Path, data: bytes) -> object:
    """Read an archive of arrays, in the order of their names."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: facts_of_array(arrays[name]) for name in sorted(arrays.files)}


def read_safetensors(_: Path, data: bytes) -> object:
    """Read the header of a safetensors file and hash every tensor's own bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})  # safetensors writes these in a random order
    told: dict[str, object] = {"metadata": dict(sorted(metadata.items()))}
    for name, facts in sorted(header.items()):
        start, stop = (8 + length + offset for offset in facts["data_offsets"])
        kind = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32}.get(facts["dtype"])
        raw = data[start:stop]
        values = facts_of_bytes(raw) if kind is None else facts_of_array(np.frombuffer(raw, kind))
        told[name] = {**values, "dtype": facts["dtype"], "shape": facts["shape"]}
    return told


def read_parquet(path: Path, _: bytes) -> object:
    """Read a table: its schema, its metadata and every cell, column by column."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    metadata = table.schema.metadata or {}
    columns: dict[str, object] = {}
    for place, name in enumerate(table.column_names):
        values = table.column(place).to_pylist()
        whole = to_json(values)
        columns[name] = values if table.num_rows <= MOST_ROWS else {"sha256": digest(whole.encode())}
    return {
        "n_rows": table.num_rows,
        "schema": {field.name: str(field.type) for field in table.schema},
        "metadata": {key.decode(): digest(value) for key, value in metadata.items()},
        "columns": columns,
    }


def read_hdf5(_: Path, data: bytes) -> object:
    """Read every data set and attribute of an HDF5 file."""
    import h5py

    told: dict[str, object] = {}
    with h5py.File(io.BytesIO(data), "r") as file:
        told["/"] = {"attributes": dict(file.attrs)}

        def visit(name: str, item: object) -> None:
            attributes = dict(item.attrs)  # type: ignore[attr-defined]
            values = facts_of_array(np.asarray(item[()])) if isinstance(item, h5py.Dataset) else {}
            told[name] = {**values, "attributes": attributes}

        file.visititems(visit)
    return told


def read_sqlite(path: Path, _: bytes) -> object:
    """Read every table of a database: its definition and its rows, sorted."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.sqlite"  # opening a database may write beside it
        for ending in ("", "-wal"):
            beside = path.with_name(path.name + ending)
            if beside.exists():
                shutil.copy(beside, copy.with_name(copy.name + ending))
        with sqlite3.connect(copy) as database:
            names = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")
            told = {name: {"sql": sql, "rows": read_rows(database, name)} for name, sql in names.fetchall()}
        database.close()
        return told


def read_rows(database: sqlite3.Connection, table: str) -> list[dict[str, object]]:
    """Return a table's rows with the names of their columns, sorted by their text."""
    found = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608  (the name comes from the database itself)
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return sorted(rows, key=lambda row: json.dumps(plain(row), sort_keys=True))


def read_image(_: Path, data: bytes) -> object:
    """Read an image: size, mode and a hash of its pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return {"size": list(image.size), "mode": image.mode, "pixels": digest(image.tobytes())}


def read_zip(_: Path, data: bytes) -> object:
    """Read an archive: a hash per member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: facts_of_bytes(archive.read(name)) for name in sorted(archive.namelist())}


READERS: dict[str, Callable[[Path, bytes], object]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".parquet": read_parquet,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".sqlite": read_sqlite,
    ".db": read_sqlite,
    ".png": read_image,
    ".jpg": read_image,
    ".jpeg": read_image,
    ".tif": read_image,
    ".zip": read_zip,
}
