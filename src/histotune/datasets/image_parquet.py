"""The user's own tiles as parquet files that hold the images themselves, as the Hugging Face hub keeps them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import polars as pl

from histotune.datasets.cells import is_missing, whole_numbers
from histotune.datasets.disk import explained_parquet_errors, image_leaf, name_some, open_parquet
from histotune.datasets.rows import PART_BY_NAME, Notes, Tile
from histotune.datasets.user_table import COLUMNS, as_text, check_columns, check_mpp
from histotune.tools.errors import UserError
from histotune.tools.files import parse_json
from histotune.tools.tabular import TableError, frame_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.datasets.config import DatasetConfig


NAME = re.compile(r"(?P<part>[A-Za-z]+)?(?:-?(?P<number>\d+)-of-(?P<total>\d+))?.*", re.DOTALL)
IMAGE_COLUMNS = ("image", *COLUMNS[1:])
AGAIN = "download or copy the files again"


def holds_images(path: Path) -> bool:
    """Return whether a parquet file holds encoded images in a column of its own, and no paths of images."""
    try:
        file = open_parquet(str(path))
        image_leaf(file, str(path))
    except UserError:  # whoever reads it as a table says what is wrong
        return False
    return "path" not in file.schema_arrow.names


def read_image_parquet(paths: Sequence[Path], config: DatasetConfig) -> tuple[list[Tile], Notes]:
    """Read parquet files of images: a tile per row, known by its file and row.

    Beside ``image`` they may have the columns of a table of tiles. Files of several parts are told apart by their
    names, or by those of their folders: train-00000-of-00002.parquet, data/valid/0000.parquet.
    """
    for name in ("group_pattern", "images_from", "layout"):
        if getattr(config, name) is not None:
            what = f"{name} does nothing for parquet files of images"
            raise UserError(what, value=getattr(config, name), fix=f"leave out --set source.{name}=...")
    _check_complete(paths)
    root = config.path if config.path.is_dir() else config.path.parent
    tiles: list[Tile] = []
    notes: list[Notes] = []
    for path in paths:
        rows, found = _read_one(path, root, with_parts=len(paths) > 1)
        tiles += rows
        notes.append(found)
    said = dict.fromkeys(note for one in notes for note in one.said)
    asked = [note for one in notes for note in one.asked]
    return tiles, Notes([f"Images lie in {len(paths):,} parquet files, a row each.", *said], asked[:2])


def _read_one(path: Path, root: Path, *, with_parts: bool) -> tuple[list[Tile], Notes]:
    file = open_parquet(str(path))
    names = file.schema_arrow.names
    notes = check_columns(names, path, IMAGE_COLUMNS)
    used = [name for name in names if name.strip() in COLUMNS]
    try:
        with explained_parquet_errors(str(path)):
            read = frame_of(file.read(columns=used))
    except TableError as error:
        raise UserError(f"this table can't be read ({error})", value=path, fix=AGAIN) from error
    n_rows = file.metadata.num_rows
    table = _named_labels(as_text(read, path), file)
    check_mpp(table, path)
    part = _part(path) if with_parts and "split" not in table.columns else None
    place = os.path.relpath(path.with_suffix(""), root).replace(os.sep, "/")
    tiles = []
    for row, facts in enumerate(table.iter_rows(named=True) if used else ({} for _ in range(n_rows))):
        mpp = facts.pop("mpp", None)
        given = {**({"split": part} if part else {}), **facts, "mpp": None if mpp is None else float(mpp)}
        tiles.append(Tile(path, **given, row=row, tile_id=f"{place}/{row:07d}"))
    return tiles, notes


def _named_labels(table: pl.DataFrame, file: Any) -> pl.DataFrame:  # noqa: ANN401  (pyarrow has no types)
    """Put the names of classes in the place of their numbers, where the file's own metadata give them."""
    kept = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = parse_json(kept)["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return table
    if "label" not in table.columns or not isinstance(names, list) or len(set(map(str, names))) < len(names):
        return table
    by_number = {str(number): str(name) for number, name in enumerate(names)} | {"-1": None}  # -1 is "no label" there
    gone = [cell for cell in table["label"].drop_nulls().unique() if is_missing(cell)]
    table = table.with_columns(whole_numbers(table["label"].replace(dict.fromkeys(gone))))
    if not set(table["label"].drop_nulls().unique()) <= by_number.keys():
        return table
    return table.with_columns(pl.col("label").replace_strict(by_number, return_dtype=pl.String))


def _part(path: Path) -> str | None:
    """Return the part that a file's name, or its folder's, begins with; None where neither does."""
    for name in (path.stem, path.parent.name):
        match = NAME.fullmatch(name)
        if match and (match["part"] or "").lower() in PART_BY_NAME:
            return PART_BY_NAME[match["part"].lower()]
    return None


def _check_complete(paths: Sequence[Path]) -> None:
    """Refuse a set of files that lacks one of those that their names count."""
    numbers: dict[tuple[Path, str, int], set[int]] = {}
    for path in paths:
        match = NAME.fullmatch(path.stem)
        if match and match["total"]:
            key = (path.parent, match["part"] or "", int(match["total"]))
            numbers.setdefault(key, set()).add(int(match["number"]))
    for (folder, part, total), found in numbers.items():
        missing = [str(number) for number in range(min(total, 100_000)) if number not in found]
        if missing and len(paths) > 1:
            what = f"{len(missing)} of the {total} parquet files of {part or 'this data set'} are missing"
            raise UserError(what, value=f"number {name_some(missing, 20)} in {folder}", fix=AGAIN)
