"""Embeddings in the files of other programs: npz, Parquet, and HDF5 as CLAM and TRIDENT write and read it."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.backbones.catalog import ExternalFile
from histotune.backbones.spec import ColumnBlock
from histotune.datasets.disk import has_endless_strings, own_dataset
from histotune.embeddings.gather import gather, missing_content
from histotune.tools.atomic import atomic_folder, atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json, hash_file, parse_json, require_regular
from histotune.tools.progress import track
from histotune.tools.stand_ins import fix_of, refuse_stand_in
from histotune.tools.tabular import TableError, named_twice, parquet_file, read_csv, read_parquet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import h5py
    import polars as pl
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings, EmbeddingSpace
    from histotune.embeddings.store import Store

# N tiles or rows of a file, D columns


SUFFIXES = (".npz", ".parquet", ".h5")
ROWS_PER_GROUP = 4096
UNKNOWN_PLACES = "unknown: -1 in every row"


@dataclass(frozen=True)
class ExportTable:
    """What is written.

    Attributes:
        features_ND: float32 or float16, a row per tile; written as float32.
        blocks: Named column ranges.
        content: Content hash per row.
        space: Where the rows come from.
        tiles: The tiles in row order; None for a whole space, which knows content hashes only.
        places_N2: x and y of each tile's upper left corner on its slide at level 0, pixels; None where unknown.
    """

    features_ND: NDArray[np.float32] | NDArray[np.float16]
    blocks: tuple[ColumnBlock, ...]
    content: tuple[str, ...]
    space: EmbeddingSpace
    tiles: TileSet | None = None
    places_N2: NDArray[np.int64] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the rows are, JSON-ready; goes into every file."""
        provenance = "external, unverified" if self.space.external else "computed"
        facts: dict[str, Any] = {
            "space": asdict(self.space),
            "blocks": [asdict(block) for block in self.blocks],
            "provenance": provenance,
        }
        if self.tiles is not None:
            facts |= {
                "data set": self.tiles.name,
                "class_names": list(self.tiles.class_names),
                "licence": self.tiles.licence,
                "synthetic": self.tiles.synthetic,
            }
        return facts


def space_table(store: Store) -> ExportTable:
    """Return every row of a space, by content hash."""
    content = sorted({one for manifest in store.manifests().values() for one in manifest.content})
    if not content:
        raise UserError("this space holds no embeddings", value=store.short_name, fix="histotune cache ls")
    gathered = _gather(store, content)
    return ExportTable(gathered.matrix_ND, gathered.blocks, tuple(content), store.space)


def tile_table_of(
    store: Store, tiles: TileSet, content: Sequence[str], places: Mapping[str, tuple[int, int]] | None = None
) -> ExportTable:
    """Return the rows of a tile set out of a space; nothing is computed."""
    missing = set(missing_content(store.manifests(), content))
    if missing:
        without = [tile_id for tile_id, one in zip(tiles.tile_ids, content, strict=True) if one in missing]
        raise UserError(
            f"{len(without):,} of {len(tiles):,} tiles have no embedding in space {store.short_name}",
            value=", ".join(without[:20]) + (", ..." if len(without) > 20 else ""),
            fix="histotune embed, with the same data set, backbone and cache; then export",
        )
    gathered = _gather(store, content)
    places_N2 = None if places is None else _places_of(tiles, places)
    return ExportTable(gathered.matrix_ND, gathered.blocks, tuple(content), store.space, tiles, places_N2)


def export(table: ExportTable, out: Path) -> int:
    """Write a table; the suffix says how, and a folder takes one HDF5 file per slide.

    Args:
        table: What to write.
        out: ``FILE.npz``, ``FILE.parquet``, ``FILE.h5`` (tiles of one slide), or a new folder.

    Returns:
        Number of files written.

    Raises:
        UserError: An unknown suffix, a folder that holds something, a file there that no export wrote, several slides
            for one HDF5 file, a full disk.
    """
    _refuse_foreign_file(out)
    if out.suffix.lower() == ".npz":
        with atomic_path(out) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **_arrays(table), allow_pickle=False)
    elif out.suffix.lower() == ".parquet":
        with atomic_path(out) as temporary:
            _write_parquet(table, temporary)
    elif out.suffix.lower() in (".h5", ""):
        return _export_slides(table, out)
    else:
        raise UserError(
            "unknown kind of file for embeddings",
            value=out.suffix,
            allowed=", ".join(SUFFIXES) + ", or a folder for one HDF5 file per slide",
            fix="--out embeddings.npz",
        )
    return 1


def _refuse_foreign_file(out: Path) -> None:
    """Refuse to replace a file that no export wrote: it may be the only copy of somebody's embeddings."""
    if out.is_file() and not _is_export(out):
        raise UserError(
            "a file that histotune did not export lies there, and would be replaced",
            value=out,
            fix="choose another --out, or move the file away",
        )
    if out.is_dir() and out.suffix.lower() in SUFFIXES:
        raise UserError("a folder stands where the file should go", value=out, fix="choose another --out")


def _is_export(path: Path) -> bool:
    """Whether an export wrote this file: each format carries what its rows are."""
    import h5py
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {"features", "content", "facts"} <= set(arrays.files)
        if path.suffix.lower() == ".parquet":
            with parquet_file(path) as file:
                return b"histotune" in (file.schema_arrow.metadata or {})
        if path.suffix.lower() == ".h5":
            with h5py.File(path) as file:
                return "features" in file and "histotune" in file["features"].attrs
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, pa.ArrowInvalid):
        return False
    return False


def file_stem(slide: str) -> str:
    """Return a slide's name as a file name: characters that file systems refuse become underscores.

    Example:
        >>> file_stem("14/1234 AB")
        '14_1234_AB'
    """
    return re.sub(r"[^\w.-]", "_", slide)


def slides_of(tiles: TileSet) -> list[str]:
    """Return the slide of every tile, its group where the slide is unknown, "unknown" where both are."""
    import polars as pl

    return tiles.table.select(pl.coalesce("slide_id", "group_id", pl.lit("unknown"))).to_series().to_list()


def _gather(store: Store, content: Sequence[str]) -> Embeddings:
    gathered = gather(store, store.manifests(), content)
    if gathered is None:
        raise UserError(
            "a shard of this space is damaged and was set aside; nothing was written",
            value=store.short_name,
            fix="histotune embed computes its rows again; then export",
        )
    return gathered


def _places_of(tiles: TileSet, places: Mapping[str, tuple[int, int]]) -> NDArray[np.int64]:
    without = [tile_id for tile_id in tiles.tile_ids if tile_id not in places]
    if without:
        raise UserError(
            f"{len(without):,} tiles have no coordinates in the table given with --coords",
            value=", ".join(without[:20]),
            fix="add their rows: tile_id,x,y",
        )
    return np.array([places[tile_id] for tile_id in tiles.tile_ids], dtype=np.int64).reshape(-1, 2)


def _tile_columns(tiles: TileSet) -> pl.DataFrame:
    """Return what the rows of a tile set are called in every format."""
    import polars as pl

    table = tiles.table.select(
        "tile_id",
        pl.col("label").fill_null(-1).cast(pl.Int64),
        pl.col("group_id").fill_null("").alias("group"),
        pl.Series("slide", slides_of(tiles)),
        pl.col("split").fill_null(""),
    )
    return table


def _arrays(table: ExportTable) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file; text is fixed-width, so that no pickle is needed to read it."""
    arrays: dict[str, NDArray[Any]] = {
        "features": np.asarray(table.features_ND, dtype=np.float32),
        "content": np.array(table.content, dtype="S64"),
        "facts": np.array(canonical_json(table.facts)),
    }
    if table.tiles is not None:
        arrays |= {name: np.array(column.to_list()) for name, column in _tile_columns(table.tiles).to_dict().items()}
        arrays["class_names"] = np.array(table.tiles.class_names)
    if table.places_N2 is not None:
        arrays["coords"] = table.places_N2
    return arrays


def _write_parquet(table: ExportTable, path: Path) -> None:
    """Write a row per tile with one fixed-size list of float32, which polars reads as an array column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim = table.features_ND.shape[1]
    columns: dict[str, Any] = {"content": pa.array(table.content, pa.string())}
    if table.tiles is not None:
        columns |= {name: column.to_arrow() for name, column in _tile_columns(table.tiles).to_dict().items()}
    if table.places_N2 is not None:
        columns |= {"x": pa.array(table.places_N2[:, 0]), "y": pa.array(table.places_N2[:, 1])}
    facts = pa.table(columns)
    field = pa.field("embedding", pa.list_(pa.float32(), dim))
    schema = pa.schema([*facts.schema, field], metadata={"histotune": canonical_json(table.facts)})
    with path.open("wb") as stream, pq.ParquetWriter(stream, schema) as writer:
        for start in range(0, len(table.content), ROWS_PER_GROUP):
            rows_ND = np.ascontiguousarray(table.features_ND[start : start + ROWS_PER_GROUP], dtype=np.float32)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), dim)
            part = facts.slice(start, ROWS_PER_GROUP)
            writer.write_table(pa.table([*part.columns, vectors], schema=schema))


def _export_slides(table: ExportTable, out: Path) -> int:
    """Write one HDF5 file per slide."""
    if table.tiles is None:
        raise UserError(
            "HDF5 files hold one slide each, and a space alone knows no slides",
            value=out,
            fix="add --dataset NAME --data DIR, or write .npz or .parquet",
        )
    rows_by_slide: dict[str, list[int]] = {}
    for row, slide in enumerate(slides_of(table.tiles)):
        rows_by_slide.setdefault(file_stem(slide), []).append(row)
    if out.suffix:
        if len(rows_by_slide) > 1:
            raise UserError(
                f"one HDF5 file holds one slide, and these tiles come from {len(rows_by_slide):,}",
                value=out,
                fix=f"--out {out.with_suffix('')} writes a folder with a file each",
            )
        slide, rows = next(iter(rows_by_slide.items()))
        with atomic_path(out) as temporary:
            _write_slide(table, slide, rows, temporary)
        return 1
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("this folder holds other files", value=out, fix="choose a new folder with --out")
    with atomic_folder(out) as folder:
        for slide, rows in track(sorted(rows_by_slide.items()), "writing slides"):
            _write_slide(table, slide, rows, folder / f"{slide}.h5")
    return len(rows_by_slide)


def _write_slide(table: ExportTable, slide: str, rows: list[int], path: Path) -> None:
    """Write ``features`` and ``coords`` as CLAM does, with TRIDENT's attributes as far as they are known.

    CLAM: save_hdf5 in utils/file_utils.py, read in dataset_modules/dataset_generic.py. TRIDENT: save_h5 and
    coords_to_h5 in trident/IO.py. Further data sets stand beside them; both programs read by name.
    """
    import h5py

    assert table.tiles is not None
    tiles = table.tiles.take(np.asarray(rows))
    places_N2 = np.full((len(rows), 2), -1, np.int64) if table.places_N2 is None else table.places_N2[rows]
    features_ND = np.ascontiguousarray(table.features_ND[rows], dtype=np.float32)
    written = io.BytesIO()  # the library would tell of a full disk in words of its own
    with h5py.File(written, "w") as file:
        features = _growing(file, "features", features_ND)
        features.attrs.update({"name": slide, "encoder": table.space.backbone, "histotune": json.dumps(table.facts)})
        coords = _growing(file, "coords", places_N2)
        known = "level 0 pixels, as given" if table.places_N2 is not None else UNKNOWN_PLACES
        coords.attrs.update({"name": slide, "histotune_coords": known, **_patch_facts(tiles)})
        text = h5py.string_dtype()
        file.create_dataset("tile_id", data=list(tiles.tile_ids), dtype=text)
        file.create_dataset("content", data=np.array([table.content[row] for row in rows], dtype="S64"))
        file.create_dataset("label", data=tiles.labels_N)
    path.write_bytes(written.getbuffer())


def _growing(file: h5py.File, name: str, values: NDArray[Any]) -> h5py.Dataset:
    return file.create_dataset(name, data=values, maxshape=(None, values.shape[1]), chunks=(1, values.shape[1]))


def _patch_facts(tiles: TileSet) -> dict[str, int | float]:
    """Return TRIDENT's attributes that are true of every tile; what is unknown is left out rather than guessed.

    ``patch_size_level0`` is left out with the coordinates: slide encoders that use positions then stop, instead of
    computing with wrong ones.
    """
    facts: dict[str, int | float] = {}
    sizes = set(tiles.table["width_px"]) | set(tiles.table["height_px"])
    if len(sizes) == 1 and None not in sizes:
        facts["patch_size"] = int(sizes.pop())
    labels = set(tiles.table["magnification"])
    digits = str(next(iter(labels))).upper().removesuffix("X")
    if len(labels) == 1 and digits.isdigit():
        facts |= {"level0_magnification": int(digits), "target_magnification": int(digits)}
    scales = set(tiles.table["mpp"])
    if len(scales) == 1 and None not in scales:
        facts["mpp"] = float(scales.pop())
    return facts


# ---- Reading ----


FOREIGN_SUFFIXES = (".h5", ".hdf5", ".npz", ".parquet")
CONTENT = re.compile("[0-9a-f]{64}")
FEATURES = ("features", "embedding", "embeddings")


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
    """Return the files to import: those named, and those in folders named (CLAM's ``h5_files`` too)."""
    found: dict[Path, None] = {}
    for path in paths:
        places = (path, path / "h5_files")
        inside = sorted(file for place in places for file in place.glob("*") if file.suffix in FOREIGN_SUFFIXES)
        inside = [path] if path.is_file() else inside
        if not inside:
            raise UserError(
                "no embeddings to import here",
                value=path,
                allowed=f"files or folders of {', '.join(FOREIGN_SUFFIXES)}",
                fix="check the path",
            )
        found.update(dict.fromkeys(inside))
    return tuple(found)


def read_foreign(path: Path) -> ForeignRows:
    """Read one file of embeddings."""
    readers = {".h5": _read_hdf5, ".hdf5": _read_hdf5, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError(
            "unknown kind of file for embeddings",
            value=path,
            allowed=", ".join(FOREIGN_SUFFIXES),
            fix="save them as npz with arrays `features` and `tile_id`",
        )
    try:
        require_regular(path)
        columns, facts = readers[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # h5py, numpy and pyarrow raise many types on damaged files
        refuse_stand_in(path, "this file of embeddings")
        raise UserError(
            f"this file of embeddings can't be read ({error})",
            value=path,
            fix="copy it again from where it was written",
        ) from error
    return _checked(path, columns, facts)


PLACES = ("tile_id", "x", "y")


def read_places(path: Path) -> dict[str, tuple[int, int]]:
    """Read where tiles lie on their slides."""
    import polars as pl

    try:
        table = read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
        twice = named_twice(table.columns, PLACES)
        if twice:
            raise TableError(f"two columns are named {twice[0]}")
        table = table.rename({name: name.strip() for name in table.columns if name.strip() in PLACES})
        rows = table.select(pl.col("tile_id").cast(pl.String), pl.col("x", "y").cast(pl.Float64).cast(pl.Int64))
    except (TableError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"this table of coordinates can't be read ({str(error).splitlines()[0]})",
            value=path,
            allowed=f"columns {', '.join(PLACES)}",
            fix=fix_of([str(error)], "write it as CSV with these three columns"),
        ) from error
    return {tile_id: (x, y) for tile_id, x, y in rows.drop_nulls().iter_rows()}


def _read_hdf5(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import h5py

    if has_endless_strings(path):
        raise ValueError("its strings lead nowhere")
    with h5py.File(path, "r") as file:
        columns = {
            name: values
            for name in (*FEATURES, "coords", "tile_id", "content")
            if (values := _dataset(file, name)) is not None
        }
        attributes = dict(file["features"].attrs) if "features" in columns else {}
    facts = parse_json(attributes["histotune"]) if "histotune" in attributes else {}
    return columns, {"encoder": str(attributes.get("encoder", "")), **facts}


def _dataset(file: h5py.File, name: str) -> NDArray[Any] | None:
    """Return the values of a data set; None where there is none."""
    import h5py

    values = own_dataset(file, name)
    if values is None:
        return None
    return np.asarray(values.asstr()[()] if h5py.check_string_dtype(values.dtype) else values[()])


def _read_npz(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in (*FEATURES, "coords", "tile_id", "content") if name in file}
        facts = parse_json(str(file["facts"])) if "facts" in file else {}
    return columns, facts


def _read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import pyarrow.compute as pc

    file = parquet_file(path)
    names = [name for name in (*FEATURES, "x", "y", "tile_id", "content") if name in file.schema_arrow.names]
    table = file.read(names)
    columns: dict[str, Any] = {}
    for name in names:
        column = table[name].combine_chunks()
        if name in FEATURES:
            if len(pc.unique(pc.list_value_length(column))) != 1:
                raise UserError(
                    "the vectors in this file differ in length, or there are none",
                    value=path,
                    fix="write the rows of one network only",
                )
            columns[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        else:
            columns[name] = np.asarray(column.to_pylist())
    if "x" in columns and "y" in columns:
        columns["coords"] = np.stack([columns.pop("x"), columns.pop("y")], axis=1)
    metadata = file.schema_arrow.metadata or {}
    return columns, parse_json(metadata[b"histotune"]) if b"histotune" in metadata else {}


def _checked(path: Path, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> ForeignRows:
    """Check shapes and values, all mistakes of a file in one message."""
    name = next((name for name in FEATURES if name in columns), None)
    if name is None:
        raise UserError(
            "this file holds no embeddings",
            value=path,
            allowed=f"an array {' or '.join(FEATURES)}",
            fix="check that these are tile features, not coordinates",
        )
    features_ND = columns[name]
    if features_ND.ndim != 2 or not np.issubdtype(features_ND.dtype, np.floating) or 0 in features_ND.shape:
        raise UserError(
            f"{name} holds {features_ND.dtype} {features_ND.shape}",
            value=path,
            allowed="floating-point numbers (tiles, columns)",
            fix="write one row per tile",
        )
    n = len(features_ND)
    counts = {other: len(columns[other]) for other in ("coords", "tile_id", "content") if other in columns}
    if any(count != n for count in counts.values()):
        found = ", ".join(f"{count:,} {other}" for other, count in counts.items())
        raise UserError(
            f"counts differ: {n:,} rows of {name}, {found}",
            value=path,
            allowed="one of each per row",
            fix="write the file again",
        )
    features_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
    if not np.isfinite(features_ND).all():
        bad = int((~np.isfinite(features_ND).all(axis=1)).sum())
        raise UserError(
            f"{bad:,} rows hold values that are not finite in float32",
            value=path,
            fix="compute them again in a wider precision",
        )
    rows = ForeignRows(ExternalFile(path.name, hash_file(path), n), path.stem, features_ND)
    return _named(rows, columns, facts)


def _named(rows: ForeignRows, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> ForeignRows:
    """Add what names the rows and columns."""
    dim = rows.features_ND.shape[1]
    coords = columns.get("coords")
    if coords is not None and (coords.ndim != 2 or coords.shape[1] != 2):
        raise UserError(
            f"coords has shape {coords.shape}",
            value=rows.file.name,
            allowed="(tiles, 2): x, y",
            fix="write the file again",
        )
    content = tuple(_text(value) for value in columns.get("content", ()))
    if any(not CONTENT.fullmatch(one) for one in content):
        raise UserError(
            "content holds something else than SHA-256 hashes",
            value=rows.file.name,
            allowed="64 hexadecimal digits per row",
            fix="leave it out, name rows by tile_id",
        )
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
