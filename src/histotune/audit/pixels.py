"""One pass over all pixels: blocks of HDF5 rows and image files, decoded by threads; a bad file is noted and left."""

# N tiles, H height, W width, C channels (RGB), P pixels, T side of the thumbnail, F stain features, G groups

from __future__ import annotations

import hashlib
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.audit.verdicts import AuditFinding, AuditTable, Verdict, count, frame_table, not_checked, passed, some
from histotune.images.decode import FORMATS, PixelReader, PixelSource
from histotune.tools.errors import UserError
from histotune.tools.files import require_regular
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.audit.verdicts import AuditConfig, Facts
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import LoaderConfig


BLOCK_ROWS = 128
THUMB = 16
STAIN = ("density", "red_share", "blue_share")
TISSUE_DENSITY = 0.15  # optical density from which a pixel is stained: Macenko et al., ISBI 2009 (their beta)
DARK = 12  # a pixel darker than this in every channel is no tissue but padding or a pen
STAIN_PIXELS = 65_536  # of larger tiles every k-th row and column is looked at
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
MAD_TO_SIGMA = 0.6745  # of a normal distribution
ENOUGH_TISSUE = 0.05  # below this share of stained pixels a tile's stain is hardly measured
ENOUGH_GROUPS = 8
ENOUGH_TILES = 3  # the median of fewer is one of them
LEAST_MAD = 0.005  # of optical density, and of the shares of red and blue in it
TILES_PER_GROUP = 3  # a median of fewer tiles says more about the tiles than about the group
STAIN_WORDS = {"density": "density", "red_share": "red share", "blue_share": "blue share"}


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
        fingerprints: A row per tile, in the tile set's order.
        bad: Tiles that can't be read, by row.
    """

    fingerprints: Fingerprints
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
    """What a unit gave: fingerprints of the tiles that could be read, and the others."""

    rows: NDArray[np.int64]
    fingerprints: Fingerprints | None
    bad: tuple[BadTile, ...]


def scan(tiles: TileSet, loader: LoaderConfig) -> Scan:
    """Read every tile once and keep its fingerprints.

    Memory grows by ``Fingerprints.bytes_per_tile`` per tile; the number of threads bounds the pixels in flight.
    """
    fingerprints = empty_fingerprints(len(tiles))
    bad: list[BadTile] = []
    units = _units(tiles)
    workers = loader.workers or cpu_count()
    with PixelReader(loader) as reader, ThreadPoolExecutor(workers, thread_name_prefix="audit") as pool:

        def read(unit: _Unit) -> list[_Answer]:
            """Read the tiles of one unit of work."""
            if unit.file_rows:
                return _read_rows(reader, unit)
            return [_read_one(reader, PixelSource(Path(unit.path)), unit.rows)]

        answers = _in_order(pool, read, units, workers + 2)
        for answer in chain.from_iterable(track(answers, f"auditing {len(tiles):,} tiles", total=len(units))):
            bad += answer.bad
            if answer.fingerprints is not None:
                fingerprints.put(answer.rows, answer.fingerprints)
    return Scan(fingerprints, tuple(sorted(bad, key=lambda tile: tile.row)))


def header_problem(path: str) -> str:
    """Return why an image file's header can't be read; empty where it can."""
    from PIL import Image, UnidentifiedImageError

    try:
        require_regular(Path(path))
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
    pool: ThreadPoolExecutor, read: Callable[[_Unit], list[_Answer]], units: Iterable[_Unit], ahead: int
) -> Iterator[list[_Answer]]:
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


def _read_rows(reader: PixelReader, unit: _Unit) -> list[_Answer]:
    """Read a run of rows at once; where that fails, row by row, so that only the damaged ones are lost."""
    try:
        block_NHWC = reader.rows(Path(unit.path), unit.file_rows.start, unit.file_rows.stop)
        if block_NHWC.dtype == np.uint8 and block_NHWC.ndim == 4 and block_NHWC.shape[3] == 3:
            return [_Answer(unit.rows, fingerprints_of(block_NHWC.astype(np.uint8, copy=False)), ())]
    except Exception:  # noqa: S110  (h5py raises many types on damaged files; each row is tried again below)
        pass
    sources = (PixelSource(Path(unit.path), row) for row in unit.file_rows)
    return [_read_one(reader, source, unit.rows[[place]]) for place, source in enumerate(sources)]


def _read_one(reader: PixelReader, source: PixelSource, rows: NDArray[np.int64]) -> _Answer:
    try:
        return _Answer(rows, fingerprints_of(reader.pixels(source)[None]), ())
    except UserError as error:
        reason = error.what
    except Exception as error:  # Pillow's plugins and h5py raise many types on damaged files
        reason = f"the image can't be read ({error or type(error).__name__})"
    return _Answer(rows, None, (BadTile(int(rows[0]), str(source), reason),))


# ------------------------------------------------------------------------------
# What is kept of a tile's pixels: a content hash, a 16x16 grey thumbnail, and a few numbers about its stain


@dataclass(frozen=True)
class Fingerprints:
    """Small arrays about many tiles, rows in tile order.

    Attributes:
        digest_N2: uint64 (N, 2): 128-bit hash of size and decoded pixels.
        thumb_NTT: uint8 (N, 16, 16): grey means of a 16x16 grid.
        stain_NF: float32 (N, 3): mean optical density of the stained pixels, and the share of red and blue in it;
            NaN where nothing is stained.
        tissue_N: float32: share of stained pixels.
        constant_N: Whether all pixels are equal.
        read_N: Whether the tile could be read; other rows hold nothing.
    """

    digest_N2: NDArray[np.uint64]
    thumb_NTT: NDArray[np.uint8]
    stain_NF: NDArray[np.float32]
    tissue_N: NDArray[np.float32]
    constant_N: NDArray[np.bool_]
    read_N: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.read_N)

    @property
    def bytes_per_tile(self) -> int:
        """Memory that one tile takes, in bytes."""
        return sum(int(array[:1].nbytes) for array in vars(empty_fingerprints(1)).values())

    def put(self, rows: NDArray[np.int64], block: Fingerprints) -> None:
        """Store a block's rows at the given places."""
        for name, array in vars(self).items():
            array[rows] = getattr(block, name)

    def take(self, rows: NDArray[np.int64]) -> Fingerprints:
        """Return the given rows, in that order."""
        return Fingerprints(**{name: array[rows] for name, array in vars(self).items()})


def empty_fingerprints(n: int) -> Fingerprints:
    """Return room for ``n`` tiles, none of them read."""
    return Fingerprints(
        digest_N2=np.zeros((n, 2), np.uint64),
        thumb_NTT=np.zeros((n, THUMB, THUMB), np.uint8),
        stain_NF=np.full((n, len(STAIN)), np.nan, np.float32),
        tissue_N=np.zeros(n, np.float32),
        constant_N=np.zeros(n, np.bool_),
        read_N=np.zeros(n, np.bool_),
    )


def fingerprints_of(pixels_NHWC: NDArray[np.uint8]) -> Fingerprints:
    """Return the fingerprints of some tiles of one size.

    Example:
        >>> fingerprints_of(np.zeros((2, 96, 96, 3), np.uint8)).constant_N.tolist()
        [True, True]
    """
    n = len(pixels_NHWC)
    stain_NF, tissue_N = _stain(pixels_NHWC)
    thumb_NTT = _thumbs(pixels_NHWC)
    return Fingerprints(
        digest_N2=np.stack([_digest(pixels_HWC) for pixels_HWC in pixels_NHWC]),
        thumb_NTT=thumb_NTT,
        stain_NF=stain_NF,
        tissue_N=tissue_N,
        constant_N=np.array([_constant(*pair) for pair in zip(pixels_NHWC, thumb_NTT, strict=True)], np.bool_),
        read_N=np.ones(n, np.bool_),
    )


def _constant(pixels_HWC: NDArray[np.uint8], thumb_TT: NDArray[np.uint8]) -> bool:
    return bool((thumb_TT == thumb_TT[0, 0]).all() and (pixels_HWC == pixels_HWC[0, 0]).all())


def _digest(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint64]:
    digest = hashlib.blake2b(f"{pixels_HWC.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels_HWC).data)
    return np.frombuffer(digest.digest(), "<u8").astype(np.uint64)


def _thumbs(pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey means over a 16x16 grid whose lines lie symmetrically, so that a mirrored tile has a mirrored thumbnail."""
    # Sums over the cells of the grid, columns first, then rows; grey by the weights of the channels, over the cell's
    # area.
    starts_y, heights = _grid(pixels_NHWC.shape[1])
    starts_x, widths = _grid(pixels_NHWC.shape[2])
    columns_NHTC = np.add.reduceat(pixels_NHWC, starts_x, axis=2, dtype=np.uint32)
    sums_NTTC = np.add.reduceat(columns_NHTC, starts_y, axis=1, dtype=np.uint64)
    grey_NTT = sums_NTTC.astype(np.float32) @ GREY / (heights[:, None] * widths).astype(np.float32)
    return np.rint(grey_NTT).astype(np.uint8)


def _grid(length_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel and length of each of 16 parts, mirrored about the middle; tiles under 16 px repeat pixels."""
    lower = [math.floor(part * length_px / THUMB + 0.5) for part in range(THUMB // 2)]
    upper = [length_px - edge for edge in reversed(lower)]
    edges = np.array([*lower, length_px // 2, *upper], np.int64)
    starts = np.minimum(edges[:-1], length_px - 1)
    return starts, np.maximum(np.diff(edges), 1)


def _stain(pixels_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stain features and share of stained pixels.

    Optical density is -log10 of transmitted light (Beer-Lambert); its direction is the hue, its length the amount.
    """
    # -log10((v + 1) / 256) per channel; stained where the mean of the three exceeds the limit and not all three are
    # nearly black. Kept: mean density of the stained pixels, and the shares of red and blue in its sum.
    step = max(1, math.ceil(math.sqrt(pixels_NHWC.shape[1] * pixels_NHWC.shape[2] / STAIN_PIXELS)))
    seen_NPC = pixels_NHWC[:, ::step, ::step].reshape(len(pixels_NHWC), -1, 3)
    density_by_level = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    density_CNP = [density_by_level[seen_NPC[:, :, channel]] for channel in range(3)]
    dark = density_by_level[DARK]
    stained_NP = density_CNP[0] + density_CNP[1] + density_CNP[2] > 3 * TISSUE_DENSITY
    stained_NP &= (density_CNP[0] < dark) | (density_CNP[1] < dark) | (density_CNP[2] < dark)
    n_stained_N = stained_NP.sum(axis=1)
    sums_CN = [np.where(stained_NP, density_NP, 0).sum(axis=1, dtype=np.float64) for density_NP in density_CNP]
    total_N = sums_CN[0] + sums_CN[1] + sums_CN[2]
    with np.errstate(invalid="ignore", divide="ignore"):
        stain_NF = np.stack([total_N / (3 * n_stained_N), sums_CN[0] / total_N, sums_CN[2] / total_N], axis=1)
    return stain_NF.astype(np.float32), (n_stained_N / stained_NP.shape[1]).astype(np.float32)


# ------------------------------------------------------------------------------
# What single tiles tell: unreadable, blank, free of tissue, or stained unlike the rest


def pixel_findings(facts: Facts, fingerprints: Fingerprints, config: AuditConfig) -> Iterator[AuditFinding]:
    """Yield what single tiles and groups look like."""
    yield _blank(facts, fingerprints, config)
    yield _stain_of_tiles(facts, fingerprints, config)
    yield from _stain_of_groups(facts, fingerprints, config)


def unreadable(facts: Facts, bad: Sequence[BadTile]) -> AuditFinding:
    """Judge tiles that can't be read; all are listed."""
    if not bad:
        return passed("unreadable", f"All {count(len(facts.table), 'tile')} can be read.")
    sentence = (
        f"{count(len(bad), 'tile')} of {len(facts.table):,} can't be read and "
        f"{'is' if len(bad) == 1 else 'are'} left out of everything else that looks at pixels."
    )
    rows = AuditTable("Unreadable tiles", ("where", "why"), tuple((tile.place, tile.reason) for tile in bad))
    found = facts.finding("unreadable", "error", sentence, facts.table.clear(), rows, n=len(bad))
    return replace(found, n_tiles=len(bad))


def _blank(facts: Facts, fingerprints: Fingerprints, config: AuditConfig) -> AuditFinding:
    free_N = fingerprints.read_N & ~fingerprints.constant_N & (fingerprints.tissue_N < config.tissue_free)
    constant_N = fingerprints.read_N & fingerprints.constant_N
    n_constant, n_free = int(constant_N.sum()), int(free_N.sum())
    if not fingerprints.read_N.any():
        return not_checked("blank", "no tile could be read")
    if not n_constant + n_free:
        return passed("blank", f"Every tile has tissue on at least {config.tissue_free:.1%} of its pixels.")
    found = [f"{count(n_constant, 'tile')} of one single colour"] if n_constant else []
    found += (
        [f"{count(n_free, 'tile')} with tissue on less than {config.tissue_free:.1%} of the pixels"] if n_free else []
    )
    # By class: a blank tile of one class tells what that class's background looks like.
    hit = facts.table.filter(pl.Series(constant_N | free_N))
    classes = hit.group_by("class").agg(pl.len()).sort("len", "class", descending=[True, False])
    named = ", ".join(f"{name} {n:,}" for name, n in classes.iter_rows())
    per_group = (_per_group(facts, constant_N | free_N),) if hit["group_id"].null_count() < len(hit) else ()
    verdict: Verdict = "warning" if n_constant else "note"
    return facts.finding("blank", verdict, f"{' and '.join(found)} ({named}).", hit, *per_group)


def _per_group(facts: Facts, hit_N: NDArray[np.bool_]) -> AuditTable:
    grouped = facts.table.with_columns(pl.Series("blank", hit_N)).filter(pl.col("group_id").is_not_null())
    counted = grouped.group_by("group_id").agg(blank=pl.col("blank").sum(), tiles=pl.len())
    ordered = counted.filter(pl.col("blank") > 0).sort("blank", "group_id", descending=[True, False])
    return frame_table("Groups with most blank tiles", ordered.head(50))


def _stain_of_tiles(facts: Facts, fingerprints: Fingerprints, config: AuditConfig) -> AuditFinding:
    seen_N = fingerprints.read_N & (fingerprints.tissue_N >= ENOUGH_TISSUE)
    if int(seen_N.sum()) < ENOUGH_TILES:
        return not_checked("stain-tiles", f"fewer than {ENOUGH_TILES} tiles hold enough stained tissue to be measured")
    # A tile's worst feature counts; tiles with hardly any tissue are neither judged nor part of the median.
    z_NF = robust_z(fingerprints.stain_NF, seen_N, LEAST_MAD)
    worst_N = np.nan_to_num(np.abs(z_NF)).max(axis=1) * seen_N
    rows = np.flatnonzero(worst_N >= config.tile_z)
    if not len(rows):
        sentence = f"None of {count(int(seen_N.sum()), 'tile')} lies {config.tile_z:g} robust deviations out."
        return passed("stain-tiles", sentence)
    ordered = rows[np.lexsort((rows, -worst_N[rows]))]
    every = facts.table[ordered].select("tile_id", "group_id", "class").with_columns(*_z_columns(z_NF[ordered]))
    table = every.head(config.max_listed)
    sentence = (
        f"{count(len(rows), 'tile')} of {int(seen_N.sum()):,} {'lies' if len(rows) == 1 else 'lie'} "
        f"{config.tile_z:g} or more robust deviations from the data set's median in amount or hue of stain."
    )
    listed = frame_table("Robust z of stain", table)
    found = facts.finding("stain-tiles", "note", sentence, facts.table[ordered], listed)
    return found if found.every is None else replace(found, every=every)


def _stain_of_groups(facts: Facts, fingerprints: Fingerprints, config: AuditConfig) -> Iterator[AuditFinding]:
    seen_N = fingerprints.read_N & (fingerprints.tissue_N >= ENOUGH_TISSUE)
    # The median over a group's tiles is compared with those of the other groups.
    features = {name: pl.Series(fingerprints.stain_NF[:, place], dtype=pl.Float64) for place, name in enumerate(STAIN)}
    known = facts.table.with_columns(**features).filter(pl.Series(seen_N), pl.col("group_id").is_not_null())
    groups = known.group_by("group_id").agg(*(pl.col(name).median() for name in STAIN), tiles=pl.len())
    groups = groups.filter(pl.col("tiles") >= TILES_PER_GROUP).sort("group_id")
    if len(groups) < ENOUGH_GROUPS:
        few = f"fewer than {ENOUGH_GROUPS} groups have {TILES_PER_GROUP} tiles with enough stained tissue"
        yield not_checked("stain-groups", few)
        return
    z_GF = robust_z(groups.select(STAIN).to_numpy(), np.ones(len(groups), np.bool_), LEAST_MAD)
    worst_G = np.nan_to_num(np.abs(z_GF)).max(axis=1)
    out = groups.select("group_id", "tiles").with_columns(*_z_columns(z_GF), pl.Series("worst", worst_G))
    out = out.filter(pl.col("worst") >= config.group_z).sort("worst", "group_id", descending=[True, False])
    if out.is_empty():
        sentence = f"None of {len(groups):,} groups has a median stain {config.group_z:g} robust deviations out."
        yield passed("stain-groups", sentence)
        return
    hit = known.filter(pl.col("group_id").is_in(out["group_id"].to_list()))
    sentence = (
        f"{len(out):,} of {count(len(groups), 'group')} {'is' if len(out) == 1 else 'are'} stained unlike the others: "
        f"{some(out['group_id'].to_list())}."
    )
    numbers = frame_table("Robust z of the group's median stain", out.drop("worst"))
    first = hit.unique("group_id", keep="first", maintain_order=True)
    yield replace(facts.finding("stain-groups", "note", sentence, first, numbers), n=len(out), n_tiles=len(hit))


def robust_z(values_NF: NDArray[np.floating], seen_N: NDArray[np.bool_], least_mad: float = 0.0) -> NDArray[np.float64]:
    """Return deviations from the median in units of the scaled median absolute deviation."""
    # z = 0.6745 (x - median) / MAD (Iglewicz & Hoaglin 1993), the MAD kept above a least value.
    values = values_NF.astype(np.float64)
    if not seen_N.any():
        return np.zeros_like(values)
    deviation_NF = values - np.median(values[seen_N], axis=0)
    mad_F = np.maximum(np.median(np.abs(deviation_NF[seen_N]), axis=0), least_mad)
    z_NF: NDArray[np.float64] = np.where(mad_F > 0, MAD_TO_SIGMA * deviation_NF / np.where(mad_F > 0, mad_F, 1), 0.0)
    return z_NF


def _z_columns(z_NF: NDArray[np.float64]) -> list[pl.Series]:
    return [pl.Series(STAIN_WORDS[name], np.round(z_NF[:, place], 1)) for place, name in enumerate(STAIN)]
