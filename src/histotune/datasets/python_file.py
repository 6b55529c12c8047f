"""A hook for any other data set: one Python file of the user's, with a ``SPEC`` and a function ``read``."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from histotune.datasets.catalog import DatasetSpec
from histotune.datasets.rows import Tile, tile_set
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.datasets.config import DatasetConfig

EXAMPLES = "docs/datasets.md shows how to write one"


def read_python(config: DatasetConfig) -> TileSet:
    """Run the user's reader.

    The file is run as it is, with all the rights of the user: naming it on the command line is the yes to that. A
    run folder's config does not carry that yes.

    Args:
        config: ``code`` is the file; ``path`` is handed to its ``read``.

    Returns:
        What ``read`` returned, or a tile set made of the :class:`~histotune.datasets.rows.Tile` rows it yielded.

    Raises:
        UserError: The file is missing, was changed, lacks ``SPEC`` or ``read``, stops with an error (named by file and
            line), or yields something else.
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
    """Return the ``SPEC`` of the user's file, which is run for that.

    Args:
        config: ``code`` is the file.

    Returns:
        Licence, citation, classes, scales, caveats.

    Raises:
        UserError: As from :func:`read_python`.
    """
    return _spec(_load(config), _code(config))


def code_sha256(path: Path) -> str:
    """Return the SHA-256 that ties a config to the file it was made with.

    Args:
        path: The Python file.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: It can't be read.
    """
    return hash_bytes(_source(path))


def _code(config: DatasetConfig) -> Path:
    if config.code is None:
        raise UserError("a data set of the kind python needs its file", fix="histotune run my_dataset.py --data DIR")
    return Path(os.path.abspath(config.code.expanduser()))  # noqa: PTH100


def _source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"this Python file can't be read ({error.strerror})", value=path, fix=EXAMPLES) from error


def _load(config: DatasetConfig) -> ModuleType:
    """Run the file as a module of its own; nothing is written beside it."""
    path = _code(config)
    source = _source(path)
    if config.code_sha256 and hash_bytes(source) != config.code_sha256:
        raise UserError("this Python file is not the one that the settings were made with", value=path,
                        fix=f"histotune run {path} --data {config.path}")  # fmt: skip
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
        raise UserError(
            f"{path.name} stopped with {type(error).__name__}: {error}",
            value=f"{path}, line {_line(error, path)}",
            fix="mend the file; histotune --debug ... shows the whole traceback",
        ) from error


def _line(error: Any, path: Path) -> int | str:  # noqa: ANN401  (a SyntaxError has a line of its own)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or "?"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines and lines[-1] is not None else "?"
