"""Optical density, the two dyes of an image, and the light that haematoxylin takes away.

Dyes are estimated per image, since laboratories differ, and then compared with reference dyes, because an estimate
always finds two dyes, also where only one is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from histotune.images.decode import PixelReader, tile_sources
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.images.config import LoaderConfig
    from histotune.images.decode import PixelSource

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Image = NDArray[np.uint8]

# H height, W width, P pixels, C channels (RGB)


# Absorbance of red, green and blue light: Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23(4), 2001, table 1.
HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
DAB = (0.27, 0.57, 0.78)  # the residual where it is not a dye of its own
DARKEST = 1e-6  # light of black, so that its density is finite; amounts are in units of this density (scikit-image)
STAINED_DENSITY = 0.3  # paler pixels have no certain hue
EXTREMES = (1.0, 99.0)  # percentiles of the hue taken as pure dyes (Macenko et al., ISBI 2009)
MIN_PIXELS = 100


@dataclass(frozen=True)
class Dyes:
    """The two dyes of an image: unit vectors of absorbance per channel, shape (3,)."""

    haematoxylin_C: Doubles
    eosin_C: Doubles


def optical_density(image_HWC: NDArray[np.uint8]) -> Floats:
    """Return the optical density per channel, natural logarithm, against full white."""
    # One grey level is added so that black stays finite.
    table = -np.log((np.arange(256) + 1) / 256)
    return np.asarray(table.astype(np.float32).take(image_HWC))


def hed_of_rgb(image_HWC: Image) -> Doubles:
    """Return the amounts of haematoxylin, eosin and residual per pixel, as scikit-image's ``rgb2hed``."""
    # Densities are the amounts times the dyes' absorbances (Ruifrok and Johnston), so amounts are densities times the
    # inverse. A colour that no mixture of the three gives has a negative amount, which becomes none.
    table = np.log(np.maximum(np.arange(256) / 255, DARKEST)) / np.log(DARKEST)
    return np.asarray(np.maximum(table.take(image_HWC) @ np.linalg.inv(dye_absorbances()), 0))


def rgb_of_hed(hed_HWC: Doubles) -> Doubles:
    """Return the colours, 0 to 1, of amounts of haematoxylin, eosin and residual, as scikit-image's ``hed2rgb``."""
    return np.asarray(np.clip(np.exp(hed_HWC * np.log(DARKEST) @ dye_absorbances()), 0, 1))


def dye_absorbances() -> Doubles:
    """Return the absorbances (3 dyes, 3 channels) of haematoxylin, eosin and the residual."""
    return np.array([HAEMATOXYLIN, EOSIN, DAB], np.float64)


def find_dyes(density_PC: Floats) -> Dyes | None:
    """Estimate the dyes of an image from the extreme hues of its pixels (Macenko et al., ISBI 2009)."""
    stained_P = np.flatnonzero(np.einsum("pc,pc->p", density_PC, density_PC) > STAINED_DENSITY**2)
    if len(stained_P) < MIN_PIXELS:
        return None
    stained_CP = np.stack([density_PC[:, place][stained_P].astype(np.float64) for place in range(3)])
    # Macenko: all densities lie in the plane of the two largest eigenvectors, between the two dyes; extreme angles in
    # that plane are the dyes, and haematoxylin is the one that absorbs more red.
    _, vectors = np.linalg.eigh(stained_CP @ stained_CP.T)
    plane_C2 = np.stack([vectors[:, 2] * np.where(vectors[:, 2].sum() < 0, -1, 1), vectors[:, 1]], axis=1)
    along_P, across_P = (sum(stained_CP[place] * axis_C[place] for place in range(3)) for axis_C in plane_C2.T)
    low, high = np.percentile(np.arctan2(across_P, along_P), EXTREMES)
    first_C, second_C = (_unit(np.maximum(plane_C2 @ [np.cos(angle), np.sin(angle)], 0)) for angle in (low, high))
    haematoxylin_C, eosin_C = (first_C, second_C) if first_C[0] > second_C[0] else (second_C, first_C)
    even_red = _unit(_unit(HAEMATOXYLIN) + _unit(EOSIN))[0]
    if haematoxylin_C[0] < even_red:
        return None
    return Dyes(haematoxylin_C, eosin_C if eosin_C[0] < even_red else _unit(EOSIN))


def haematoxylin_light(density_HWC: Floats, dyes: Dyes) -> Floats:
    """Return the share of light that haematoxylin alone takes away.

    Amounts come from least squares with two dyes (Ruifrok and Johnston 2001). Absorbed light, unlike the amount
    itself, saturates in the dark, so that chromatin texture weighs little beside the edge of a nucleus.
    """
    weights = np.linalg.pinv(np.stack([dyes.haematoxylin_C, dyes.eosin_C], axis=1))[0].astype(np.float32)
    return np.asarray(1 - np.exp(-np.maximum(density_HWC @ weights, 0)), np.float32)


def _unit(values: tuple[float, ...] | Doubles) -> Doubles:
    vector = np.asarray(values, np.float64)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))


# ---- Stain normalisation by torchstain ----


StainMethod = Literal["macenko", "reinhard"]
INSTALL = "pip install 'histotune[stain]'"
MIN_STAINED_SHARE = 0.02
"""Tiles with less tissue hold no dyes to estimate."""
LIGHT, PALE = 240, 0.15  # torchstain's own: transmitted light, and the optical density below which a pixel is glass


def has_torchstain() -> bool:
    """Return whether torchstain is installed."""
    from importlib.util import find_spec

    return find_spec("torchstain") is not None


class StainNormaliser:
    """Gives images the colours of reference images.

    Args:
        method: ``macenko`` (ISBI 2009) exchanges the two dyes, ``reinhard`` (IEEE CG&A 21(5), 2001) mean and spread
            of each channel in Lab.
        reference: Images of the wanted colour; their pixels are pooled.

    Raises:
        UserError: torchstain is not installed.
    """

    def __init__(self, method: StainMethod, reference: Sequence[Image]) -> None:
        if not has_torchstain():
            raise UserError("stain normalisation needs torchstain", value=method, fix=INSTALL)
        from torchstain import normalizers

        maker = normalizers.MacenkoNormalizer if method == "macenko" else normalizers.ReinhardNormalizer
        self._method = method
        self._normaliser: Any = maker(backend="torch")
        pixels = np.concatenate([image_HWC.reshape(-1, 3) for image_HWC in reference])
        self._normaliser.fit(_tensor(pixels[None]))

    def __call__(self, image_HWC: Image) -> Image | None:
        """Return the image in the reference's colours."""
        if stained_share(image_HWC) < MIN_STAINED_SHARE:
            return None
        try:
            if self._method == "macenko":
                found = self._normaliser.normalize(_tensor(image_HWC), stains=False)[0]
            else:
                found = self._normaliser.normalize(_tensor(image_HWC))
        except RuntimeError:  # torch's linear algebra, on one colour only
            return None
        values = found.numpy().astype(np.float64)
        if not np.isfinite(values).all() or values.shape != image_HWC.shape:
            return None
        return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)


def stained_share(image_HWC: Image) -> float:
    """Return the share of pixels that are tissue: dark enough in every channel."""
    density_HWC = -np.log((image_HWC.astype(np.float64) + 1.0) / LIGHT)
    return float((density_HWC >= PALE).all(axis=-1).mean())


def _tensor(image_HWC: Image) -> Any:  # noqa: ANN401  (torch is imported when something is normalised)
    import torch

    return torch.from_numpy(np.ascontiguousarray(image_HWC.transpose(2, 0, 1)))


# ---- Restained tiles as files ----


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
    """Write tiles in the colours of others; files that are there already are kept."""
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
    """Return the mean optical density of red, green and blue light over some tiles, evenly spaced."""
    with PixelReader(loader) as reader:
        values = [optical_density(reader.pixels(source)).mean(axis=(0, 1)) for source in _spaced(tiles, N_COLOUR)]
    mean_C: NDArray[np.float64] = np.mean(values, axis=0)
    return tuple(round(float(value), 4) for value in mean_C)


def _spaced(tiles: TileSet, n: int) -> list[PixelSource]:
    sources = tile_sources(tiles)
    return [sources[row] for row in np.unique(np.linspace(0, len(sources) - 1, min(n, len(sources))).astype(int))]
