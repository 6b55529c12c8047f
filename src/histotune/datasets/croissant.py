"""Croissant 1.0 metadata of a tile set: JSON-LD that says what the tiles are, beside a CSV with a row for each.

The format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html (MLCommons, version 1.0).
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.dataset_spec import known_specs
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file, write_json
from histotune.tools.tabular import write_csv

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
UNKNOWN_KIND = "application/octet-stream"
FACTS = tomllib.loads(resources.files(__package__).joinpath("croissant.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class CroissantFiles:
    """What an export wrote.

    Attributes:
        metadata: The JSON-LD.
        table: The CSV beside it, a row per tile.
        n_tiles: Rows.
    """

    metadata: Path
    table: Path
    n_tiles: int


def write_croissant(tiles: TileSet, folder: Path, out: Path) -> CroissantFiles:
    """Write Croissant metadata and its table.

    Args:
        tiles: The tile set.
        folder: The data set's folder; paths are written relative to it.
        out: Where the JSON-LD goes; the table lies beside it as ``NAME-tiles.csv``.

    Returns:
        The two files.

    Raises:
        UserError: ``out`` is no .json, or can't be written.
    """
    if out.suffix not in (".json", ".jsonld"):
        raise UserError("Croissant metadata is JSON-LD", value=out, allowed="a name that ends in .json or .jsonld")
    table = _table(tiles, folder)
    path = out.with_name(f"{out.stem}-tiles.csv")
    with atomic_path(path) as temporary:
        write_csv(table, temporary)
    write_json(out, _metadata(tiles, table, path))
    return CroissantFiles(out, path, table.height)


def _table(tiles: TileSet, folder: Path) -> pl.DataFrame:
    """Return the known columns with class names in place of label numbers and paths below the folder."""
    root = os.path.abspath(folder.expanduser())  # noqa: PTH100  (resolve() would lose the user's own path)
    names = dict(enumerate(tiles.class_names))
    table = tiles.table.with_columns(
        pl.Series("path", [Path(os.path.relpath(path, root)).as_posix() for path in tiles.table["path"]]),
        pl.col("label").replace_strict(names, default=None, return_dtype=pl.String).alias("class"),
    )
    return table.select(
        name for name in FACTS["meanings"] if table[name].null_count() < table.height or name == "tile_id"
    )


def _metadata(tiles: TileSet, table: pl.DataFrame, path: Path) -> dict[str, object]:
    spec = known_specs().get(tiles.name)
    title = spec.title if spec else tiles.name
    caveats = " ".join((*(spec.caveats if spec else ()), *tiles.notes))
    made = "SYNTHETIC: rendered by a program, shows no patient. " if tiles.synthetic else ""
    metadata: dict[str, object] = {
        "@context": FACTS["context"],
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": tiles.name,
        "description": f"{made}{title}: {len(tiles):,} tiles of {', '.join(tiles.class_names)}. {caveats}".strip(),
        "license": FACTS["licences"].get(tiles.licence, tiles.licence),
        "citeAs": tiles.citation,
        "creator": [{"@type": "sc:Person", "name": name} for name in _authors(tiles.citation)],
        "version": f"{tiles.label_fingerprint[:16]}",
        "distribution": [
            _file("FileObject", path.name, "A row per tile.", "text/csv")
            | {"contentUrl": path.name, "contentSize": f"{path.stat().st_size} B", "sha256": hash_file(path)},
            *_file_sets(table),
        ],
        "recordSet": [_record_set(table, path)],
    }
    return metadata | ({"url": spec.url} if spec else {})


def _file_sets(table: pl.DataFrame) -> list[dict[str, object]]:
    """Return one set of files for each kind of file that holds pixels."""
    suffixes = sorted({Path(path).suffix for path in table["path"]})
    kinds = FACTS["mime_types"]
    return [
        _file(
            "FileSet", f"files{suffix}", f"The {suffix} files with the pixels.", kinds.get(suffix.lower(), UNKNOWN_KIND)
        )
        | {"includes": f"**/*{suffix}"}
        for suffix in suffixes
    ]


def _file(kind: str, name: str, description: str, encoding: str) -> dict[str, object]:
    return {"@type": f"cr:{kind}", "@id": name, "name": name, "description": description, "encodingFormat": encoding}


def _record_set(table: pl.DataFrame, path: Path) -> dict[str, object]:
    return {
        "@type": "cr:RecordSet",
        "@id": "tiles",
        "name": "tiles",
        "description": "The tiles and what is known about each.",
        "key": {"@id": "tiles/tile_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"tiles/{name}",
                "name": name,
                "description": FACTS["meanings"][name],
                "dataType": _data_type(table.schema[name]),
                "source": {"fileObject": {"@id": path.name}, "extract": {"column": name}},
            }
            for name in table.columns
        ],
    }


def _data_type(dtype: pl.DataType) -> str:
    return "sc:Integer" if dtype.is_integer() else "sc:Float" if dtype.is_float() else "sc:Text"


def _authors(citation: str) -> list[str]:
    """Return the names in front of the colon, as the catalog's citations have them."""
    names, colon, _ = citation.partition(":")
    return [name.strip() for name in names.split(",")] if colon else []
