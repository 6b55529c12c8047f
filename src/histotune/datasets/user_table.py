"""The user's own tiles as a table: what its columns mean, and where the images that it names lie."""

from __future__ import annotations

import gzip
import os
import shlex
import zlib
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.cells import is_missing
from histotune.datasets.disk import name_some, open_parquet, read_text_table
from histotune.datasets.rows import Notes, Tile
from histotune.tools.errors import UserError, raise_together
from histotune.tools.stand_ins import fix_of
from histotune.tools.tabular import TableError, named_twice, read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.datasets.config import DatasetConfig


COLUMNS = ("path", "label", "group", "slide", "site", "scanner", "stain", "mpp", "magnification", "split")
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
SEPARATORS = (",", "\t", ";")
NEAR = 0.75  # similarity from which an unknown column is taken for a misspelt one: lable is 0.8 like label
MEANS = {
    **dict.fromkeys(
        ("patient", "patientid", "patid", "pat", "pid", "case", "caseid", "casenumber", "casesubmitterid", "subject",
         "subjectid", "donor", "donorid", "mrn", "individual", "person", "accession", "accessionnumber", "groupid",
         "submitterid", "participant", "participantid", "animal", "animalid"),
        "group",
    ),
    **dict.fromkeys(("file", "filename", "filepath", "image", "imagepath", "imagename", "img", "tilepath"), "path"),
    **dict.fromkeys(("class", "classname", "target", "diagnosis", "y", "category", "groundtruth", "gt"), "label"),
    **dict.fromkeys(("wsi", "wsiid", "slideid", "slidename"), "slide"),
    **dict.fromkeys(("partition", "part", "subset"), "split"),
    **dict.fromkeys(("resolution", "micronsperpixel", "umperpx", "micronsperpx"), "mpp"),
    **dict.fromkeys(("hospital", "center", "centre", "institution", "siteid"), "site"),
}  # fmt: skip
"""What columns of other names may be meant for, in small letters without spaces and marks."""
MENDED = "mend the table and run again"


def is_table(path: Path) -> bool:
    """Return whether a path is named like a table."""
    return path.name.lower().endswith(SUFFIXES)


def read_table(config: DatasetConfig, path: Path) -> tuple[list[Tile], Notes]:
    """Read the rows of a user's table; images are looked for below the table's folder, or where the settings say."""
    unset = {"group_pattern": None, "class_level": 1, "layout": None}
    for name, value in ((name, getattr(config, name)) for name in unset):
        if value != unset[name]:
            what = f"{name} is for class folders; a table has a column for groups and one for labels"
            fix = f"leave out --set source.{name}=..., and put them into the table"
            raise UserError(what, value=value, fix=fix)
    read = _read(path)
    notes = check_columns(read.columns, path)
    table = as_text(read, path)
    notes = Notes([*notes.said, *(empty := _empty_notes(table))], [*notes.asked, *empty])
    if table.is_empty():
        raise UserError("this table has no rows", value=path, fix=MENDED)
    errors = [*_missing_paths(table, path), *_mpp_errors(table, path)]
    raise_together(errors)
    placed = place_images(table["path"].to_list(), path, config.images_from)
    tiles = []
    for row, place in zip(table.iter_rows(named=True), placed.paths, strict=True):
        mpp, written = row.pop("mpp", None), row.pop("path")
        tiles.append(Tile(place, **row, mpp=None if mpp is None else float(mpp), tile_id=written))
    return tiles, Notes([*notes.said, *placed.notes], notes.asked)


def _read(path: Path) -> pl.DataFrame:
    if not is_table(path):
        fix = "save it as CSV (UTF-8) or parquet, or pass a folder of class folders"
        raise UserError("this file is no table that histotune reads", value=path, allowed=", ".join(SUFFIXES), fix=fix)
    if not path.name.lower().endswith(".parquet"):
        return read_text_table(str(path), MENDED, _separator(path))
    try:
        return read_parquet(path)
    except TableError as error:
        raise UserError(f"this table can't be read ({error})", value=path, fix=fix_of([str(error)], MENDED)) from error


def _separator(path: Path) -> str:
    """Return what separates the cells, going by the header; a table without ``path`` is taken to use commas."""
    return next((mark for mark, cells in _header(path).items() if "path" in cells), ",")


def _header(path: Path) -> dict[str, list[str]]:
    """Return the cells of a header by what may separate them; of a file that can't be read, none."""
    if not path.is_file():  # a pipe would block
        return {}
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
            header = stream.readline(65536).decode("utf-8-sig", errors="replace").strip().lower()
    except (OSError, EOFError, zlib.error):  # read_text_table says what is wrong
        return {}
    return {mark: [cell.strip(' "') for cell in header.split(mark)] for mark in SEPARATORS}


def names_images(path: Path) -> bool:
    """Return whether a table, by its header, names image files; one that is named ``tiles`` is taken to."""
    if path.name.lower().partition(".")[0] == "tiles":
        return True
    if path.name.lower().endswith(".parquet"):
        try:
            return "path" in open_parquet(str(path)).schema_arrow.names
        except UserError:
            return False
    return any("path" in cells for cells in _header(path).values())


def as_text(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return every used column as stripped text; empty cells become null."""
    table = table.select(pl.col(name).alias(name.strip()) for name in table.columns if name.strip() in COLUMNS)
    table = table.select(name for name in COLUMNS if name in table.columns)
    for name in table.columns:
        if table[name].dtype.is_nested():
            what = f'column "{name}" holds {table[name].dtype}'
            raise UserError(what, value=path, allowed="text or numbers", fix=MENDED)
    text = table.select(pl.all().cast(pl.String, strict=False).str.strip_chars().replace("", None))
    if "mpp" not in text.columns:
        return text
    found = text["mpp"].drop_nulls().unique()
    return text.with_columns(pl.col("mpp").replace(dict.fromkeys(filter(is_missing, found))))


def _empty_notes(table: pl.DataFrame) -> list[str]:
    """Say which columns that decide something are there and hold nothing."""
    empty = [name for name in ("label", "group") if name in table.columns and table[name].null_count() == len(table)]
    return [f"The column {name} is empty." for name in empty]


def check_columns(written: Sequence[str], path: Path, columns: Sequence[str] = COLUMNS) -> Notes:
    """Refuse misspelt columns and two of one name, since a misspelt group would leak; note the unknown ones."""
    twice = named_twice(written, columns)
    if twice:
        fix = f"keep one of them in {path} and give the other another name; spaces around a name do not count"
        raise UserError(f"two columns are named {twice[0]}", value=name_some(list(written), 20), fix=fix)
    names = [name.strip() for name in written]
    unknown = [name for name in names if name not in columns]
    absent = [name for name in columns if name not in names]
    errors = []
    for name in unknown:
        near = max(absent, key=lambda known: _likeness(name, known), default=None)
        if near is not None and _likeness(name, near) >= NEAR:
            fix = f"rename it to {near}, or to something less alike, in {path}"
            errors.append(UserError("this column looks like a misspelt one", value=name, closest=near, fix=fix))
    if "path" in absent and not any(error.closest == "path" for error in errors):
        closest = next((name for name in unknown if _meaning(name) == "path"), None)
        allowed = f"{', '.join(columns)} (it has: {name_some(list(names), 20)})"
        fix = f"rename {closest} to path" if closest else "name the image files in it"
        errors.append(UserError('this table has no column "path"', value=path, allowed=allowed, fix=fix))
    raise_together(errors)
    if not unknown:
        return Notes()
    meant = {name: _meaning(name) for name in unknown}
    hints = [f"{name} (did you mean {what}?)" for name, what in meant.items() if what in absent]
    plain = [name for name, what in meant.items() if what not in absent]
    note = f"Columns that are not used: {name_some([*hints, *plain], 20)}."
    return Notes([note], _asked_of(path, {name: what for name, what in meant.items() if what in absent}))


def _meaning(name: str) -> str | None:
    """Return the column that a name may be meant for.

    Example:
        >>> _meaning("Patient ID"), _meaning("age")
        ('group', None)
    """
    return MEANS.get("".join(mark for mark in name.casefold() if mark.isalnum()))


def _asked_of(path: Path, meant: dict[str, str | None]) -> list[str]:
    """Ask about columns that are not used and look like some that would decide much; the first of each is named."""
    asked = []
    for what, lost in (("group", "the groups of all tiles are unknown"), ("label", "no tile has a label")):
        name = next((name for name, is_meant_for in meant.items() if is_meant_for == what), None)
        if name is not None:
            asked.append(
                f"The column {name!r} is not used, and {lost}: did you mean {what}? Then rename it to {what} in {path}."
            )
    return asked


def _likeness(name: str, known: str) -> float:
    return SequenceMatcher(None, name.lower(), known).ratio()


def _missing_paths(table: pl.DataFrame, path: Path) -> list[UserError]:
    bad = table["path"].is_null()
    what = f"{bad.sum():,} rows name no image"
    return [UserError(what, value=_lines(path, bad), fix=MENDED)] if bad.any() else []


def check_mpp(table: pl.DataFrame, path: Path) -> None:
    """Refuse scales that are no positive numbers."""
    raise_together(_mpp_errors(table, path))


def _mpp_errors(table: pl.DataFrame, path: Path) -> list[UserError]:
    if "mpp" not in table.columns:
        return []
    number = table["mpp"].cast(pl.Float64, strict=False)
    bad = table["mpp"].is_not_null() & ~((number > 0) & number.is_finite()).fill_null(False)
    if not bad.any():
        return []
    what = f"{bad.sum():,} rows have an mpp that is no positive number, such as {table['mpp'].filter(bad)[0]!r}"
    return [UserError(what, value=_lines(path, bad), allowed="um per pixel, such as 0.5", fix=MENDED)]


def _lines(path: Path, bad: pl.Series) -> str:
    """Return the lines of a table that hold the marked rows, below its header."""
    return f"{path}, line {name_some([str(row + 2) for row in bad.arg_true()], 10)}"


# ---- Where the images lie ----


FOLDERS_TRIED = 400  # below the table's folder, below the one above it, and below the working folder
LEVELS_ABOVE = 4
ROWS_TRIED = 20  # of a table, to tell a folder of its images from one with a file of the same name


@dataclass(frozen=True)
class PlacedImages:
    """Where the images of a table lie, row by row, and what was done to find them there."""

    paths: list[str]
    notes: list[str]


def place_images(written: Sequence[str], table: Path, images_from: Path | None) -> PlacedImages:
    """Find the images that a table names.

    Args:
        written: Paths as the table has them: whole, or relative to its folder; those of Windows, too.
        table: The table.
        images_from: Folder to look in instead; a path begins in it from its first part on, or from a later one where
            the table was written for another place, and then without the same leading folders in every row.

    Returns:
        Paths, whole or relative to the table's folder.

    Raises:
        UserError: Not one of the images is there; with the folder in which the first one was found.
    """
    root = _whole(table.parent) if images_from is None else _whole(images_from)
    paths = [_with_slashes(one, root) for one in written]
    n_turned = sum(new != old for new, old in zip(paths, written, strict=True))
    notes = [f"Paths of Windows: the backslashes of {n_turned:,} paths were read as slashes."] if n_turned else []
    if images_from is None:
        if not any(_is_there(root, path) for path in paths):
            raise _elsewhere(paths, written, table)
        return PlacedImages(paths, notes)
    n_left_out = _leading_folders(paths, root)
    n_left_out = _leading_folders(paths, root, 1) if n_left_out is None else n_left_out
    if n_left_out is None:
        what = "the first image of this table does not lie below the folder that its images should lie in"
        fix = "check --set source.images_from=..., or leave it out"
        raise UserError(what, value=images_from, allowed=f"a folder below which {written[0]} lies", fix=fix)
    first = _parts(paths[0])[:n_left_out]
    below = [_parts(path)[n_left_out:] if _parts(path)[:n_left_out] == first else _parts(path) for path in paths]
    without = f", without their leading {'/'.join(first)}" if first else ""
    notes.append(f"Images were looked for below {root} by the paths of the table{without}.")
    return PlacedImages([os.path.join(root, *parts) for parts in below], notes)  # noqa: PTH118


def _whole(folder: Path) -> str:
    return os.path.abspath(folder.expanduser())  # noqa: PTH100  (resolve() would lose links)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _is_there(folder: str, path: str) -> bool:
    return os.path.exists(os.path.join(folder, os.path.expanduser(path)))  # noqa: PTH110, PTH111, PTH118  (thousands)


def _with_slashes(path: str, root: str) -> str:
    """Return a path of Windows as this system writes it, unless there is a file whose name holds backslashes."""
    return path if os.sep == "\\" or "\\" not in path or _is_there(root, path) else path.replace("\\", "/")


def _leading_folders(paths: Sequence[str], folder: str, n_rows: int = ROWS_TRIED) -> int | None:
    """Return how many leading folders the paths have that a folder does not; None where the images are not there."""
    rows = sorted({number * len(paths) // n_rows for number in range(n_rows)})
    tried = [_parts(paths[row]) for row in rows]
    for n_left_out in range(min(map(len, tried))):
        if all(_is_there(folder, "/".join(parts[n_left_out:])) for parts in tried):
            return n_left_out
    return None


def _elsewhere(paths: Sequence[str], written: Sequence[str], table: Path) -> UserError:
    """Return the message for a table none of whose images is there: where they were looked for, and where they are."""
    root = _whole(table.parent)
    found = next((folder for folder in _folders_around(root) if _leading_folders(paths, folder) is not None), None)
    if found is None:
        fix = "write the paths relative to that folder, or name the one they begin in: --set source.images_from=FOLDER"
    else:
        fix = f"they lie below {found}: --set {shlex.quote(f'source.images_from={found}')}"
    return UserError(
        f"not one of the {len(paths):,} images that this table names is there",
        value=table,
        allowed=f"whole paths, or paths relative to the table's folder, {root}, where {written[0]} was looked for",
        fix=fix,
    )


def _folders_around(root: str) -> Iterator[str]:
    """Yield folders in which images may lie: the working folder, those above the table, those below and beside it."""
    above = [str(parent) for parent in Path(root).parents[:LEVELS_ABOVE]]
    yield from dict.fromkeys([os.getcwd(), *above])  # noqa: PTH109
    for start in dict.fromkeys([root, os.getcwd(), *above[:1]]):  # noqa: PTH109
        pending, n_tried = [start], 0
        while pending and n_tried < FOLDERS_TRIED:
            here, n_tried = pending.pop(0), n_tried + 1
            yield here
            with suppress(OSError), os.scandir(here) as entries:
                pending += sorted(
                    one.path for one in entries if not one.name.startswith(".") and one.is_dir(follow_symlinks=False)
                )
