"""The target's tiles in the source's colours, as files of their own, and the colours of both."""

# C channels (RGB)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.images.decode import PixelReader, tile_sources
from histotune.images.stain import optical_density
from histotune.images.stain_transfer import StainNormaliser
from histotune.tools.files import atomic_path, hash_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.images.config import LoaderConfig
    from histotune.images.decode import PixelSource
    from histotune.images.stain_transfer import StainMethod

N_REFERENCE = 16
N_COLOUR = 64


@dataclass(frozen=True)
class Restained:
    """Tiles in other colours.

    Attributes:
        tiles: The same tiles, their pixels elsewhere.
        n_kept: Tiles that keep their colours, since they hold too little tissue.
    """

    tiles: TileSet
    n_kept: int


def restain(tiles: TileSet, like: TileSet, how: tuple[StainMethod, LoaderConfig], cache: Path) -> Restained:
    """Write tiles in the colours of others; files that are there already are kept.

    Args:
        tiles: What gets new colours.
        like: Tiles of the wanted colours; some of them, evenly spaced, are the reference.
        how: Normaliser, and how pixels are read.
        cache: Root of the cache; files go to ``restained`` below it.

    Returns:
        Tiles whose paths point to PNG files.

    Raises:
        UserError: torchstain is not installed, or a tile can't be read.
    """
    from PIL import Image

    method, loader = how
    with PixelReader(loader) as reader:
        reference = [reader.pixels_and_hash(source) for source in _spaced(like, N_REFERENCE)]
        normaliser = StainNormaliser(method, [pixels_HWC for pixels_HWC, _ in reference])
        folder = cache / "restained" / hash_bytes(method, *(content for _, content in reference))[:16]
        folder.mkdir(parents=True, exist_ok=True)
        paths, n_kept = [], 0
        for source in tile_sources(tiles):
            image_HWC, content = reader.pixels_and_hash(source)
            path, same = folder / f"{content}.png", folder / f"{content}.kept.png"
            if not path.exists() and not same.exists():
                changed_HWC = normaliser(image_HWC)
                with atomic_path(same if changed_HWC is None else path) as temporary:
                    Image.fromarray(image_HWC if changed_HWC is None else changed_HWC).save(temporary, format="PNG")
            n_kept += same.exists()
            paths.append(str(same if same.exists() else path))
    table = tiles.table.with_columns(pl.Series("path", paths, pl.String), pl.lit(None, pl.Int64).alias("row"))
    return Restained(replace(tiles, table=table, pixel_fingerprint=None), n_kept)


def mean_density(tiles: TileSet, loader: LoaderConfig) -> tuple[float, ...]:
    """Return the mean optical density of red, green and blue light over some tiles, evenly spaced.

    Args:
        tiles: The tiles.
        loader: How pixels are read.

    Returns:
        Three values, natural logarithm.
    """
    with PixelReader(loader) as reader:
        values = [optical_density(reader.pixels(source)).mean(axis=(0, 1)) for source in _spaced(tiles, N_COLOUR)]
    mean_C: NDArray[np.float64] = np.mean(values, axis=0)
    return tuple(round(float(value), 4) for value in mean_C)


def _spaced(tiles: TileSet, n: int) -> list[PixelSource]:
    sources = tile_sources(tiles)
    return [sources[row] for row in np.unique(np.linspace(0, len(sources) - 1, min(n, len(sources))).astype(int))]
