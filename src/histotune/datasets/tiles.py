"""The user's own tiles: a table, a folder of class folders, parquet files of images, or a Python file of the user's."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from histotune.datasets.class_folders import has_class_folders, read_folder
from histotune.datasets.dataset_spec import DatasetSpec, known_specs
from histotune.datasets.disk import list_files, name_some
from histotune.datasets.image_parquet import holds_images, read_image_parquet
from histotune.datasets.rows import Notes, Tile, tile_set
from histotune.datasets.tileset import TileSet
from histotune.datasets.user_table import is_table, names_images, read_table
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, require_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.datasets.config import DatasetConfig


SPEC = known_specs()["tiles"]


def read_tiles(config: DatasetConfig) -> TileSet:
    """Read the user's own tiles."""
    if config.path.is_file() or (is_table(config.path) and not config.path.is_dir()):
        images = config.path.name.lower().endswith(".parquet") and holds_images(config.path)
        rows, notes = read_image_parquet([config.path], config) if images else read_table(config, config.path)
    else:
        rows, notes = _read_directory(config)
    return tile_set(rows, SPEC, config, notes)


def _read_directory(config: DatasetConfig) -> tuple[list[Tile], Notes]:
    """Read a folder by its class folders; without any, by the table, or the parquet files of images, that it holds."""
    listing = list_files(config.path)
    found = [Path(path) for path in listing.paths if is_table(Path(path)) and not Path(path).name.startswith(".")]
    tables = [path for path in found if str(path.parent) == listing.root and names_images(path)]
    if has_class_folders(listing):
        rows, notes = read_folder(config, listing)
        unread = [f"A table in this folder was not used; to read it: --data {path}." for path in tables[:1]]
        return rows, Notes([*notes.said, *unread], notes.asked)
    if len(tables) > 1:
        raise UserError(
            f"{len(tables)} tables of tiles lie in this folder, and no class folders",
            value=name_some([path.name for path in tables], 10),
            fix=f"name the one to read: --data {tables[0]}",
        )
    if tables:
        rows, notes = read_table(config, tables[0])
        why = f"The tiles are those of the table {tables[0].name}: this folder holds no class folders."
        return rows, Notes([why, *notes.said], notes.asked)
    files = [path for path in found if path.suffix.lower() == ".parquet" and holds_images(path)]
    return read_image_parquet(files, config) if files else read_folder(config, listing)


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
