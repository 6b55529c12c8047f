"""The user's own tiles: a table, or a folder of class folders."""

from __future__ import annotations

import gzip
import math
import os
import re
import stat
import sys
import traceback
import zlib
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import polars as pl

from histotune.datasets.dataset_spec import DatasetSpec, known_specs
from histotune.datasets.disk import (
    IMAGE_SUFFIXES,
    is_hidden,
    list_files,
    name_some,
    read_text_table,
    size_or_reason,
)
from histotune.datasets.rows import PART_BY_NAME, Tile, tile_set
from histotune.datasets.tileset import TileSet, tile_table
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import hash_bytes, require_regular
from histotune.tools.tabular import TableError, read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.disk import Listing


SPEC = known_specs()["tiles"]


def read_tiles(config: DatasetConfig) -> TileSet:
    """Read the user's own tiles."""
    if not config.path.is_file() and not (is_table(config.path) and not config.path.is_dir()):
        rows, notes = read_folder(config)
    elif config.group_pattern is not None:
        what = "group_pattern is for class folders; a table has a column for groups"
        raise UserError(what, value=config.group_pattern, fix="add a column group to the table")
    else:
        rows, notes = read_table(config.path)
    return tile_set(rows, SPEC, config, notes)


# ---- A table ----


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
    """Read the rows of a user's table."""
    table = _as_text(_read(path), path)
    notes = _check_columns(table.columns, path)
    table = table.select(name for name in COLUMNS if name in table.columns)
    if table.is_empty():
        raise UserError("this table has no rows", value=path, fix=MENDED)
    errors = [*_missing_paths(table, path), *_mpp_errors(table, path)]
    raise_together(errors)
    table = _whole_number_labels(table)
    tiles = []
    for row in table.iter_rows(named=True):
        mpp = row.pop("mpp", None)
        tiles.append(Tile(**row, mpp=None if mpp is None else float(mpp), tile_id=row["path"]))
    return tiles, notes


def _read(path: Path) -> pl.DataFrame:
    if not is_table(path):
        fix = "save it as CSV (UTF-8) or parquet, or pass a folder of class folders"
        raise UserError("this file is no table that histotune reads", value=path, allowed=", ".join(SUFFIXES), fix=fix)
    if not path.name.lower().endswith(".parquet"):
        return read_text_table(str(path), MENDED, _separator(path))
    try:
        return read_parquet(path)
    except TableError as error:
        raise UserError(f"this table can't be read ({error})", value=path, fix=MENDED) from error


def _separator(path: Path) -> str:
    """Return what separates the cells, going by the header; a table without ``path`` is taken to use commas."""
    try:
        require_regular(path)
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
            header = stream.readline(65536).decode("utf-8-sig", errors="replace").strip().lower()
    except (OSError, EOFError, zlib.error):  # read_text_table says what is wrong
        return ","
    cells_by_separator = {mark: [cell.strip(' "') for cell in header.split(mark)] for mark in SEPARATORS}
    return next((mark for mark, cells in cells_by_separator.items() if "path" in cells), ",")


def _as_text(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Turn every used column into stripped text; empty cells become null."""
    table = table.rename({name: name.strip() for name in table.columns})
    used = [name for name in table.columns if name in COLUMNS]
    for name in used:
        if table[name].dtype.is_nested():
            what = f'column "{name}" holds {table[name].dtype}'
            raise UserError(what, value=path, allowed="text or numbers", fix=MENDED)
    return table.with_columns(pl.col(used).cast(pl.String, strict=False).str.strip_chars().replace("", None))


def _check_columns(names: Sequence[str], path: Path) -> list[str]:
    """Refuse misspelt columns, since a misspelt group would leak; note the unknown ones."""
    unknown = [name for name in names if name not in COLUMNS]
    absent = [name for name in COLUMNS if name not in names]
    errors = []
    for name in unknown:
        near = max(absent, key=lambda known: _likeness(name, known), default=None)
        if near is not None and _likeness(name, near) >= NEAR:
            fix = f"rename it to {near}, or to something less alike, in {path}"
            errors.append(UserError("this column looks like a misspelt one", value=name, closest=near, fix=fix))
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


def _missing_paths(table: pl.DataFrame, path: Path) -> list[UserError]:
    bad = table["path"].is_null()
    what = f"{bad.sum():,} rows name no image"
    return [UserError(what, value=_lines(path, bad), fix=MENDED)] if bad.any() else []


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


def _whole_number_labels(table: pl.DataFrame) -> pl.DataFrame:
    """Read labels 0.0 and 1.0 as 0 and 1, which is what a table with gaps makes of whole numbers."""
    if "label" not in table.columns:
        return table
    labels = table["label"].drop_nulls()
    if len(labels) and all(re.fullmatch(r"-?\d+\.0+", label) for label in labels.unique()):
        return table.with_columns(pl.col("label").str.replace(r"\.0+$", ""))
    return table


# ---- Class folders ----


LAYOUT = "FOLDER/class/image.png, or FOLDER/train/class/image.png with train, valid and test"


def read_folder(config: DatasetConfig) -> tuple[list[Tile], list[str]]:
    """Read class folders; the name of a folder is the label of every image below it."""
    listing = list_files(config.path)
    paths, notes = _images(listing)
    with_parts = _has_parts(listing, paths)
    depth = 2 if with_parts else 1
    outside = ["/".join(parts) for parts in paths if len(parts) <= depth]
    if outside:
        raise UserError(
            f"{len(outside):,} images lie in no class folder",
            value=name_some(outside, 20),
            allowed=LAYOUT,
            fix="move them into the folder of their class, or name them in a table "
            "(a CSV file with the columns path and label)",
        )
    tiles = [
        Tile(
            path=os.path.join(listing.root, *parts),  # noqa: PTH118
            label=parts[depth - 1],
            group=_group(config.group_pattern, "/".join(parts[depth:])),
            split=parts[0] if with_parts else None,
            tile_id="/".join(parts),
        )
        for parts in paths
    ]
    return tiles, notes + _pattern_notes(config.group_pattern, tiles)


def _images(listing: Listing) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the images as parts of their paths below the folder; hidden and other files become a note."""
    images: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for path in listing.paths:
        name = listing.relative(path)
        other = is_hidden(name) or not name.lower().endswith(IMAGE_SUFFIXES)
        (others if other else images).append(Path(name).parts)
    if not images:
        found = "/".join(others[0])
        raise UserError(
            "this folder holds no images",
            value=listing.root,
            allowed=f"{LAYOUT}; {', '.join(IMAGE_SUFFIXES)} (found {found})",
            fix="check --data",
        )
    if not others:
        return images, []
    files, example = "file that is" if len(others) == 1 else "files that are", "/".join(others[0])
    return images, [f"Skipped {len(others):,} {files} no image by name, such as {example}."]


def _has_parts(listing: Listing, paths: list[tuple[str, ...]]) -> bool:
    """Return whether the first folders are parts; a mixture of parts and classes is refused."""
    first = sorted({parts[0] for parts in paths if len(parts) > 1})
    parts = [name for name in first if name.lower() in PART_BY_NAME]
    classes = [name for name in first if name.lower() not in PART_BY_NAME]
    if parts and classes:
        raise UserError(
            "folders of parts and of classes lie side by side",
            value=listing.root,
            allowed=f"{LAYOUT} (parts: {name_some(parts, 5)}; others: {name_some(classes, 5)})",
            fix="move the class folders into the parts, or rename the folder that is no part",
        )
    return bool(parts)


def _group(pattern: str | None, name: str) -> str | None:
    match = None if pattern is None else re.search(pattern, name)
    return None if match is None else match["group"] or None


def _pattern_notes(pattern: str | None, tiles: list[Tile]) -> list[str]:
    if pattern is None:
        return []
    without = [tile for tile in tiles if tile.group is None]
    if len(without) == len(tiles):
        raise UserError(
            "group_pattern finds no group in any file name",
            value=pattern,
            allowed=f"a pattern that matches names such as {_base(tiles[0].path)}",
            fix="--set source.group_pattern='^(?P<group>[^_]+)_'",
        )
    n_groups = len({tile.group for tile in tiles if tile.group is not None})
    notes = [f"Groups come from file names: {n_groups:,} by the pattern {pattern}."]
    if without:
        notes.append(f"The pattern finds no group in {len(without):,} names, such as {_base(without[0].path)}.")
    return notes


def _base(path: str | Path) -> str:
    return os.path.basename(path)  # noqa: PTH119


# ---- The user's own Python file ----


EXAMPLES = "docs/datasets.md shows how to write one"


def read_python(config: DatasetConfig) -> TileSet:
    """Run the user's reader.

    The file is run as it is, with all the rights of the user: naming it on the command line is the yes to that. A
    run folder's config does not carry that yes.
    """
    module = _load(config)
    code = _code(config)
    spec = _spec(module, code)
    path = Path(os.path.abspath(config.path))  # noqa: PTH100  (what the reader finds below it is absolute, too)
    if not path.exists():
        raise UserError("there is no such file or folder", value=path, fix="check --data")
    config = config.model_copy(update={"path": path})
    with _explained(code):
        answer = module.read(config)
        rows = answer if isinstance(answer, TileSet) else list(answer)
    if isinstance(rows, TileSet):
        return rows
    strange = next((row for row in rows if not isinstance(row, Tile)), None)
    if strange is not None:
        raise UserError(f"read yields {type(strange).__name__}, not Tile", value=code, fix=EXAMPLES)
    return tile_set(rows, spec, config)


def python_spec(config: DatasetConfig) -> DatasetSpec:
    """Return the ``SPEC`` of the user's file, which is run for that."""
    return _spec(_load(config), _code(config))


def code_sha256(path: Path) -> str:
    """Return the SHA-256 that ties a config to the file it was made with."""
    return hash_bytes(_source(path))


def _code(config: DatasetConfig) -> Path:
    if config.code is None:
        raise UserError("a data set of the kind python needs its file", fix="histotune run my_dataset.py --data DIR")
    return Path(os.path.abspath(config.code.expanduser()))  # noqa: PTH100


def _source(path: Path) -> bytes:
    try:
        require_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"this Python file can't be read ({error.strerror})", value=path, fix=EXAMPLES) from error


def _load(config: DatasetConfig) -> ModuleType:
    """Run the file as a module of its own; nothing is written beside it."""
    path = _code(config)
    source = _source(path)
    if config.code_sha256 and hash_bytes(source) != config.code_sha256:
        what = "this Python file is not the one that the settings were made with"
        raise UserError(what, value=path, fix=f"histotune run {path} --data {config.path}")
    module = ModuleType(f"histotune_dataset_{path.stem}")
    module.__file__ = str(path)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        with _explained(path):
            exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102  (the user named this file)
    except UserError:
        if before is None:
            del sys.modules[module.__name__]
        raise
    return module


def _spec(module: ModuleType, path: Path) -> DatasetSpec:
    spec = getattr(module, "SPEC", None)
    if not isinstance(spec, DatasetSpec):
        raise UserError("this Python file has no SPEC that is a DatasetSpec", value=path, fix=EXAMPLES)
    if not callable(getattr(module, "read", None)):
        raise UserError("this Python file has no function read(config)", value=path, fix=EXAMPLES)
    return spec


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error inside the user's file into a message that names the line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        is_ours = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("histotune.")
        rooms = "from histotune.datasets import ClassScheme, DatasetConfig, DatasetSpec, Tile"
        raise UserError(
            f"{path.name} stopped with {type(error).__name__}: {error}",
            value=f"{path}, line {_line(error, path)}",
            fix=f"import from the rooms: {rooms}; from histotune.tools import UserError"
            if is_ours
            else "mend the file; histotune --debug ... shows the whole traceback",
        ) from error


def _line(error: Any, path: Path) -> int | str:  # noqa: ANN401  (a SyntaxError has a line of its own)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or "?"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines and lines[-1] is not None else "?"


# ---- Images without labels ----


def read_unlabelled_images(paths: Sequence[Path], class_names: tuple[str, ...], mpp: float | None = None) -> TileSet:
    """List image files and folders of images as unlabelled tiles."""
    errors, files, skipped = [], [], []
    if mpp is not None and not 0 < mpp < math.inf:
        errors.append(UserError("--mpp takes a positive number of um/px", value=mpp, fix="--mpp 0.25"))
    for path in paths:
        with collect(errors):
            found, others = _images_in(path)
            files += found
            skipped += others
            if not found:
                what = "no such file or folder" if not os.path.lexists(path) else "no image here"
                about = f"{path} (skipped: {name_some(others, 20)})" if others else path
                raise UserError(what, value=about, allowed=", ".join(IMAGE_SUFFIXES), fix="check the path")
    raise_together(errors)
    names = sorted(set(files))
    count = "1 file" if len(skipped) == 1 else f"{len(skipped):,} files"
    notes = (f"Skipped {count}: {name_some(sorted(skipped), 20)}.",) if skipped else ()
    table = tile_table({"tile_id": names, "path": names, **({} if mpp is None else _scale(names, mpp))})
    return TileSet("images", table, class_names, licence="the user's own", citation="", notes=notes)


def _scale(names: list[str], mpp: float) -> dict[str, object]:
    """Columns that a view with a target scale needs; whoever decodes an image without a header explains it."""
    found = [size_or_reason(name) for name in names]
    sizes = [size if isinstance(size, tuple) else (None, None) for size in found]
    return {
        "mpp": [mpp] * len(names),
        "mpp_source": ["user"] * len(names),
        "width_px": [width_px for width_px, _ in sizes],
        "height_px": [height_px for _, height_px in sizes],
    }


def _images_in(path: Path) -> tuple[list[str], list[str]]:
    """Return the images that are named or lie below a folder, and every other file there with why it is skipped."""
    if not path.is_dir():
        return ([str(path)] if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES else []), []
    images, skipped = [], []
    listing = list_files(path)
    for place in listing.paths:
        name = listing.relative(place)
        reason = _why_skipped(place, name)
        if reason:
            skipped.append(f"{name} ({reason})")
        else:
            images.append(os.path.join(path, name))  # noqa: PTH118  (as it was typed)
    return images, skipped


def _why_skipped(path: str, name: str) -> str:
    """Return why a file of a folder is not predicted; empty for an image, a damaged one among them."""
    if is_hidden(name):
        return "hidden"
    if not name.lower().endswith(IMAGE_SUFFIXES):
        return "no image by name"
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError:
        return "a broken link" if os.path.islink(path) else "gone"  # noqa: PTH114
    return "" if stat.S_ISREG(mode) else "a device or pipe"
