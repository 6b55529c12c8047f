"""One pass over all pixels: blocks of HDF5 rows and image files, decoded by threads; a bad file is noted and left."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histotune.audit.prints import empty_prints, prints_of
from histotune.images.decode import PixelReader, PixelSource
from histotune.images.encoded import FORMATS
from histotune.tools.errors import UserError
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from histotune.audit.prints import Prints
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import LoaderConfig

BLOCK_ROWS = 128
# N tiles, H height, W width, C channels


@dataclass(frozen=True)
class BadTile:
    """A tile that can't be read.

    Attributes:
        row: Its row in the tile set; -1 for a file that its reader left out.
        place: File, and row of an HDF5 file.
        reason: Why, in words.
    """

    row: int
    place: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """What one pass over the pixels gave.

    Attributes:
        prints: A row per tile, in the tile set's order.
        bad: Tiles that can't be read, by row.
    """

    prints: Prints
    bad: tuple[BadTile, ...]


@dataclass(frozen=True)
class _Unit:
    """Tiles that are read together.

    Attributes:
        path: The file.
        rows: Their rows in the tile set.
        file_rows: Consecutive rows of the HDF5 file; empty for an image file, which is one tile.
    """

    path: str
    rows: NDArray[np.int64]
    file_rows: range = range(0)


@dataclass(frozen=True)
class _Answer:
    """What a unit gave: prints of the tiles that could be read, and the others."""

    rows: NDArray[np.int64]
    prints: Prints | None
    bad: tuple[BadTile, ...]


def scan(tiles: TileSet, loader: LoaderConfig) -> Scan:
    """Read every tile once and keep its prints.

    Memory grows by ``Prints.bytes_per_tile`` for each tile; pixels in flight are bounded by the number of threads.

    Args:
        tiles: The tiles.
        loader: Threads and limits.

    Returns:
        Prints in tile order, and what can't be read.
    """
    prints = empty_prints(len(tiles))
    bad: list[BadTile] = []
    units = _units(tiles)
    workers = loader.workers or cpu_count()
    with PixelReader(loader) as reader, ThreadPoolExecutor(workers, thread_name_prefix="audit") as pool:

        def read(unit: _Unit) -> _Answer:
            return _read_rows(reader, unit) if unit.file_rows else _read_image(reader, unit)

        answers = _in_order(pool, read, units, workers + 2)
        for answer in track(answers, f"auditing {len(tiles):,} tiles", total=len(units)):
            bad += answer.bad
            if answer.prints is not None:
                prints.put(answer.rows, answer.prints)
    return Scan(prints, tuple(sorted(bad, key=lambda tile: tile.row)))


def header_problem(path: str) -> str:
    """Return why an image file's header can't be read; empty where it can."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS):
            return ""
    except UnidentifiedImageError:
        return "this file is no image that can be read"
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        return f"the image can't be read ({error or type(error).__name__})"


def _units(tiles: TileSet) -> list[_Unit]:
    """Image files one by one, rows of HDF5 files in runs of neighbours."""
    paths, file_rows = tiles.table["path"].to_list(), tiles.table["row"].to_list()
    units, rows_by_path = [], dict[str, list[tuple[int, int]]]()
    for row, (path, file_row) in enumerate(zip(paths, file_rows, strict=True)):
        if file_row is None:
            units.append(_Unit(path, np.array([row])))
        else:
            rows_by_path.setdefault(path, []).append((file_row, row))
    for path, pairs in rows_by_path.items():
        pairs.sort()
        file_row_N, row_N = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
        breaks = np.flatnonzero(np.diff(file_row_N) != 1) + 1
        for run in np.split(np.arange(len(pairs)), breaks):
            for start in range(0, len(run), BLOCK_ROWS):
                part = run[start : start + BLOCK_ROWS]
                first = int(file_row_N[part[0]])
                units.append(_Unit(path, row_N[part], range(first, first + len(part))))
    return units


def _in_order(
    pool: ThreadPoolExecutor, read: Callable[[_Unit], _Answer], units: Iterable[_Unit], ahead: int
) -> Iterator[_Answer]:
    """Yield answers in order while at most ``ahead`` units are under way."""
    waiting = iter(units)
    running = deque(pool.submit(read, unit) for unit in islice(waiting, ahead))
    try:
        while running:
            answer = running.popleft().result()
            running.extend(pool.submit(read, unit) for unit in islice(waiting, 1))
            yield answer
    finally:
        for future in running:
            future.cancel()


def _read_image(reader: PixelReader, unit: _Unit) -> _Answer:
    return _read_one(reader, PixelSource(Path(unit.path)), unit.rows)


def _read_rows(reader: PixelReader, unit: _Unit) -> _Answer:
    """Read a run of rows at once; where that fails, row by row, so that only the damaged ones are lost."""
    try:
        block_NHWC = reader.rows(Path(unit.path), unit.file_rows.start, unit.file_rows.stop)
        if block_NHWC.dtype == np.uint8 and block_NHWC.ndim == 4 and block_NHWC.shape[3] == 3:
            return _Answer(unit.rows, prints_of(block_NHWC.astype(np.uint8, copy=False)), ())
    except Exception:  # noqa: S110  (h5py raises many types on damaged files; each row is tried again below)
        pass
    sources = (PixelSource(Path(unit.path), row) for row in unit.file_rows)
    answers = [_read_one(reader, source, unit.rows[[place]]) for place, source in enumerate(sources)]
    good = [answer for answer in answers if answer.prints is not None]
    prints = empty_prints(len(good))
    for place, answer in enumerate(good):
        assert answer.prints is not None
        prints.put(np.array([place]), answer.prints)
    bad = tuple(tile for answer in answers for tile in answer.bad)
    rows = np.concatenate([answer.rows for answer in good]) if good else np.array([], np.int64)
    return _Answer(rows, prints if good else None, bad)


def _read_one(reader: PixelReader, source: PixelSource, rows: NDArray[np.int64]) -> _Answer:
    try:
        return _Answer(rows, prints_of(reader.pixels(source)[None]), ())
    except UserError as error:
        reason = error.what
    except Exception as error:
        reason = f"the image can't be read ({error or type(error).__name__})"
    return _Answer(rows, None, (BadTile(int(rows[0]), str(source), reason),))
