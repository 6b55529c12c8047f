"""Croissant 1.0 metadata of a tile set: JSON-LD that says what the tiles are, beside a CSV with a row for each.

The format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html (MLCommons, version 1.0).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.read import known_specs
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file, write_json

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
# The context that the specification recommends in its appendix 1, less the terms that are not used here.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "key": "cr:key",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "sc": "https://schema.org/",
    "source": "cr:source",
}
LICENCE_URLS = {
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
}
MIME_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".tif": "image/tiff",
              ".tiff": "image/tiff", ".h5": "application/x-hdf5", ".parquet": "application/x-parquet"}  # fmt: skip
MEANINGS = {
    "tile_id": "Unique id of the tile, independent of where it lies.",
    "path": "File with the pixels, below the data set's folder.",
    "row": "Row within that file, where it holds many tiles.",
    "class": "Label as the class's name.",
    "group_id": "What must never cross a split: the case or the slide.",
    "source_patient_id": "The data set authors' own patient id.",
    "slide_id": "Slide that the tile was cut from.",
    "site": "Where the slide was made.",
    "scanner": "What the slide was scanned with.",
    "stain": "Stain of the slide.",
    "magnification": "Label of the magnification; no measurement.",
    "mpp": "Micrometres per pixel of the stored image.",
    "mpp_source": "Where mpp comes from: nominal, estimated or user.",
    "mpp_factor": "Multiplicative uncertainty of mpp; 1 is exact.",
    "width_px": "Width in pixels.",
    "height_px": "Height in pixels.",
    "split": "The data set's own part.",
}


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
        table.write_csv(temporary)
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
    return table.select(name for name in MEANINGS if table[name].null_count() < table.height or name == "tile_id")


def _metadata(tiles: TileSet, table: pl.DataFrame, path: Path) -> dict[str, object]:
    spec = known_specs().get(tiles.name)
    title = spec.title if spec else tiles.name
    caveats = " ".join((*(spec.caveats if spec else ()), *tiles.notes))
    made = "SYNTHETIC: rendered by a program, shows no patient. " if tiles.synthetic else ""
    metadata: dict[str, object] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": tiles.name,
        "description": f"{made}{title}: {len(tiles):,} tiles of {', '.join(tiles.class_names)}. {caveats}".strip(),
        "license": LICENCE_URLS.get(tiles.licence, tiles.licence),
        "citeAs": tiles.citation,
        "creator": [{"@type": "sc:Person", "name": name} for name in _authors(tiles.citation)],
        "version": f"{tiles.label_fingerprint[:16]}",
        "distribution": [_table_object(path), *_file_sets(table)],
        "recordSet": [_record_set(table, path)],
    }
    return metadata | ({"url": spec.url} if spec else {})


def _table_object(path: Path) -> dict[str, object]:
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "description": "A row per tile.",
        "contentUrl": path.name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "text/csv",
        "sha256": hash_file(path),
    }


def _file_sets(table: pl.DataFrame) -> list[dict[str, object]]:
    """Return one set of files for each kind of file that holds pixels."""
    suffixes = sorted({Path(path).suffix for path in table["path"]})
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"files{suffix}",
            "name": f"files{suffix}",
            "description": f"The {suffix} files with the pixels.",
            "encodingFormat": MIME_TYPES.get(suffix.lower(), "application/octet-stream"),
            "includes": f"**/*{suffix}",
        }
        for suffix in suffixes
    ]


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
                "description": MEANINGS[name],
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
