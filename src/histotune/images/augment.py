"""Tiles varied at random for training: symmetries, crops, stain, scale and blur; and a sheet that shows them.

What is drawn and what is done with it are apart: :func:`draw` gives a record, :func:`apply_drawn` the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.images.stain import dye_absorbances, optical_density
from histotune.images.view_checks import ROUNDING_PX
from histotune.images.views import view_geometry
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError, raise_together
from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import PIL.Image
    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.images.config import AugmentConfig, ViewConfig

    Image = NDArray[np.uint8]
    Doubles = NDArray[np.float64]

# B tiles of a batch, N tiles of a data set, S side of the network's input, C channels (RGB), 2 axes: x, y


Triple = tuple[float, float, float]
N_UNIFORM = 12  # random numbers per tile, whatever is turned on
GUTTER_PX = 4
SETTING = "finetune.augment"


@dataclass(frozen=True)
class Window:
    """The square of a tile that is resized to the whole of it; it may reach beyond the tile."""

    left_px: float
    top_px: float
    side_px: float


@dataclass(frozen=True)
class Drawn:
    """What one augmentation does to a tile of any size; the defaults leave it as it is.

    Attributes:
        dihedral: Symmetry, 0 to 7: quarter turns against the clock, ``dihedral % 4``; from 4 on mirrored before.
        kept_side: Side of the crop as a share of the tile's.
        across: Where the crop lies, from 0 at the left border to 1 at the right one.
        down: The same from the upper border to the lower one.
        zoom: How much larger the tissue becomes about the centre of the crop.
        dye_factors: What the amounts of haematoxylin, eosin and residual are multiplied by.
        dye_shifts: What is added to them, optical density (natural logarithm).
        sigma_px: Standard deviation of the blur.
    """

    dihedral: int = 0
    kept_side: float = 1.0
    across: float = 0.5
    down: float = 0.5
    zoom: float = 1.0
    dye_factors: Triple = (1.0, 1.0, 1.0)
    dye_shifts: Triple = (0.0, 0.0, 0.0)
    sigma_px: float = 0.0

    def window(self, tile_px: int) -> Window:
        """Return the square that a tile of this side is cut to: the crop, then its zoom about the crop's centre."""
        side_px = tile_px * self.kept_side / self.zoom
        centres_px = (
            tile_px * (self.kept_side / 2 + place * (1 - self.kept_side)) for place in (self.across, self.down)
        )
        left_px, top_px = (centre_px - side_px / 2 for centre_px in centres_px)
        return Window(left_px, top_px, side_px)


def draw(config: AugmentConfig, rng: np.random.Generator) -> Drawn:
    """Draw what one augmentation does; a setting turned on or off leaves what is drawn for the others as it was."""
    uniform = rng.random(N_UNIFORM).tolist()
    factors = [1 + config.stain * (2 * number - 1) for number in uniform[5:8]]
    shifts = [config.stain * (2 * number - 1) for number in uniform[8:11]]
    return Drawn(
        dihedral=int(8 * uniform[0]) if config.dihedral else 0,
        kept_side=math.sqrt(config.crop + (1 - config.crop) * uniform[1]),
        across=uniform[2],
        down=uniform[3],
        zoom=config.magnification ** (2 * uniform[4] - 1),
        dye_factors=(factors[0], factors[1], factors[2]),
        dye_shifts=(shifts[0], shifts[1], shifts[2]),
        sigma_px=config.blur * uniform[11],
    )


def apply_drawn(pixels_SSC: Image, drawn: Drawn) -> Image:
    """Return a new array of a tile's pixels with what was drawn applied to it."""
    if pixels_SSC.dtype != np.uint8 or pixels_SSC.ndim != 3 or pixels_SSC.shape != (len(pixels_SSC),) * 2 + (3,):
        raise ValueError(f"augmentation takes uint8 (S, S, 3), not {pixels_SSC.dtype} {pixels_SSC.shape}")
    turned_SSC = pixels_SSC[:, ::-1] if drawn.dihedral >= 4 else pixels_SSC
    changed_SSC = np.array(np.rot90(turned_SSC, drawn.dihedral % 4), order="C")
    # Blur comes after the stain: optics blur the light that has passed the dyes.
    if drawn.kept_side != 1 or drawn.zoom != 1:
        changed_SSC = _resampled(changed_SSC, drawn.window(len(changed_SSC)))
    if any(factor != 1 for factor in drawn.dye_factors) or any(drawn.dye_shifts):
        changed_SSC = _restained(changed_SSC, drawn)
    return _blurred(changed_SSC, drawn.sigma_px) if drawn.sigma_px else changed_SSC


def augment(pixels_SSC: Image, config: AugmentConfig, rng: np.random.Generator) -> Image:
    """Return one tile, uint8 (S, S, 3), varied at random."""
    return apply_drawn(pixels_SSC, draw(config, rng))


def augment_batch(pixels_BSSC: Image, config: AugmentConfig, seed: int, keys: Sequence[str | int]) -> Image:
    """Return tiles varied at random; what happens to a tile depends on the seed and its key alone.

    Neither the other tiles of a batch nor the place in it matter, so that a run repeats itself with any batch size and
    any number of workers.

    Args:
        pixels_BSSC: uint8 (B, S, S, 3), network inputs.
        config: How they are varied.
        seed: Seed of the run.
        keys: One per tile, such as its id with the number of the epoch; 7 and "7" are the same key.

    Returns:
        uint8 (B, S, S, 3), a new array.

    Raises:
        ValueError: The tiles are not square uint8 RGB, or there are more or fewer keys than tiles.

    Example:
        >>> from histotune.images.config import AugmentConfig
        >>> tiles = np.full((2, 56, 56, 3), 200, np.uint8)
        >>> augment_batch(tiles, AugmentConfig(stain=0.1), 0, ["a, epoch 1", "b, epoch 1"]).shape
        (2, 56, 56, 3)
    """
    if len(pixels_BSSC) != len(keys):
        raise ValueError(f"{len(keys)} keys for {len(pixels_BSSC)} tiles")
    varied_BSSC = np.empty_like(pixels_BSSC, order="C")
    for place, key in enumerate(keys):
        varied_BSSC[place] = augment(pixels_BSSC[place], config, keyed_rng(seed, key))
    return varied_BSSC


def keyed_rng(seed: int, key: str | int) -> np.random.Generator:
    """Return the random numbers of one tile."""
    return np.random.default_rng(int(hash_bytes("augment", str(seed), str(key))[:32], 16))


def _resampled(pixels_SSC: Image, window: Window) -> Image:
    """Resize a window of the tile to the whole tile, once for crop and zoom together, bicubic and antialiased."""
    from PIL import Image

    size_px = len(pixels_SSC)
    corners_px = (window.left_px, window.top_px, window.left_px + window.side_px, window.top_px + window.side_px)
    # What lies beyond the border is its mirror image; real pixels are taken where there are any.
    beyond_px = max(0, math.ceil(-min(corners_px)), math.ceil(max(corners_px) - size_px))
    around = ((beyond_px, beyond_px), (beyond_px, beyond_px), (0, 0))
    image = Image.fromarray(np.pad(pixels_SSC, around, mode="reflect") if beyond_px else pixels_SSC)
    left, top, right, bottom = (corner_px + beyond_px for corner_px in corners_px)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=(left, top, right, bottom)))


def _restained(pixels_SSC: Image, drawn: Drawn) -> Image:
    """Change the amounts of the three dyes of Ruifrok and Johnston, as Tellez et al. 2018 and 2019 do."""
    # Amounts are density @ inverse(dyes). With factors f and shifts s the new density is
    #   (amounts f + s) @ dyes = density @ (inverse(dyes) diag(f) dyes) + s @ dyes,
    # one affine map of each pixel. Negative amounts, which scikit-image sets to 0, are kept: then f = 1, s = 0 changes
    # no colour, and small changes stay small.
    dyes_CC = dye_absorbances()
    mixing_CC = np.linalg.inv(dyes_CC) @ np.diag(drawn.dye_factors) @ dyes_CC
    shift_C = np.array(drawn.dye_shifts) @ dyes_CC
    density_PC = optical_density(pixels_SSC).reshape(-1, 3)
    # optical_density takes one grey level more than there is, against 256; so does the way back.
    light_PC = np.exp(
        np.log(256.0).astype(np.float32) - density_PC @ mixing_CC.astype(np.float32) - np.float32(shift_C)
    )
    return np.asarray(np.clip(np.rint(light_PC - 1), 0, 255).reshape(pixels_SSC.shape), np.uint8)


def _blurred(pixels_SSC: Image, sigma_px: float) -> Image:
    """Blur by Pillow's Gaussian, which is three box filters; the border's pixels are repeated beyond it."""
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(pixels_SSC).filter(ImageFilter.GaussianBlur(sigma_px)))


# ---- What a label speaks about must stay in its place ----


@dataclass(frozen=True)
class RegionInInput:
    """Where the label's region lies in the network's inputs that hold all of it.

    Attributes:
        start_N2: Its left and upper border, px from the centre of the input.
        stop_N2: Its right and lower border.
        size_px: Side of the input.
    """

    start_N2: Doubles
    stop_N2: Doubles
    size_px: int

    @property
    def reach_N(self) -> Doubles:
        """Half the side of the least square about the centre that holds the region, px."""
        return np.asarray(np.maximum(np.abs(self.start_N2), np.abs(self.stop_N2)).max(axis=1))

    @property
    def is_symmetric_N(self) -> NDArray[np.bool_]:
        """Whether turns and flips leave the region where it is: a square at the centre, up to a rounded half pixel."""
        sides_N2 = self.stop_N2 - self.start_N2
        centred_N = np.asarray((np.abs(self.start_N2 + self.stop_N2) <= 1 + ROUNDING_PX).all(axis=1))
        return centred_N & (np.abs(sides_N2[:, 0] - sides_N2[:, 1]) <= 1 + ROUNDING_PX)


def check_augmentation(tiles: TileSet, view: ViewConfig, config: AugmentConfig) -> None:
    """Refuse an augmentation that may move or cut the region which labels speak about, unless ``moves_label``.

    Tiles whose region the view itself moves or cuts are :func:`~histotune.images.view_checks.check_view`'s matter.

    Raises:
        UserError: Some draw moves or cuts the region; all such settings are reported together.
    """
    if tiles.label_region is not None and not config.moves_label:
        raise_together(list(_label_mistakes(tiles, view, config)))


def _label_mistakes(tiles: TileSet, view: ViewConfig, config: AugmentConfig) -> Iterator[UserError]:
    """Yield the settings of which some draw moves or cuts the region; colours and blur keep everything in place."""
    if config.crop < 1:  # its place is random, and the network is told nothing of it
        yield _label_mistake(tiles, f"crop={config.crop:g}", "crops at random places move it", "1")
    region = _region_in_input(tiles, view)
    # A zoom shows size / zoom px about the centre: the region stays whole up to zoom = size / (2 reach).
    reach_px = float(region.reach_N.max(initial=0.0))
    most = max(region.size_px / (2 * reach_px), 1.0) if reach_px else math.inf
    if config.magnification > most + ROUNDING_PX:
        largest = f"{math.floor(1000 * (most + ROUNDING_PX)) / 1000:g}"
        what = f"a factor above {largest} cuts it"
        yield _label_mistake(tiles, f"magnification={config.magnification:g}", what, largest)
    # The eight symmetries map a square at the centre, such as PatchCamelyon's, on itself; any other region they move.
    if config.dihedral and not region.is_symmetric_N.all():
        yield _label_mistake(tiles, "dihedral=true", "it is no square at the centre, so that turns move it", "false")


def _label_mistake(tiles: TileSet, setting: str, what: str, instead: str) -> UserError:
    region, name = tiles.label_region, setting.split("=", maxsplit=1)[0]
    assert region is not None
    return UserError(
        f"a label of {tiles.name} speaks of the {region.width_px} x {region.height_px} px at ({region.left_px}, "
        f"{region.top_px}) of its tile, and with augmentation {what}, which changes what the label means",
        value=f"{SETTING}.{setting}",
        fix=f"--set {SETTING}.{name}={instead}, or accept it with --set {SETTING}.moves_label=true",
    )


def _region_in_input(tiles: TileSet, view: ViewConfig) -> RegionInInput:
    """Return where the region lies in the inputs of tiles of known size that hold it whole, one input each."""
    region, geometry = tiles.label_region, view_geometry(tiles, view)
    assert region is not None
    # The view resizes the stored image and takes the input at (resized - size) / 2, rounded; negative where it pads.
    ones_N = geometry.known_N & (geometry.n_inputs_N == 1)
    resized_N2, source_N2 = geometry.resized_px_N2[ones_N], geometry.source_px_N2[ones_N]
    first_N2 = np.rint((resized_N2 - geometry.size_px) / 2) + geometry.size_px / 2
    start_2 = np.array([region.left_px, region.top_px])
    stop_2 = start_2 + np.array([region.width_px, region.height_px])
    start_N2, stop_N2 = (edge_2 * resized_N2 / source_N2 - first_N2 for edge_2 in (start_2, stop_2))
    found = RegionInInput(start_N2, stop_N2, geometry.size_px)
    whole_N = found.reach_N <= geometry.size_px / 2 + ROUNDING_PX
    return RegionInInput(start_N2[whole_N], stop_N2[whole_N], geometry.size_px)


# ---- A sheet for the eye ----


def contact_sheet(pixels: Sequence[Image], config: AugmentConfig, seed: int, n_views: int = 8) -> PIL.Image.Image:
    """Draw tiles beside what training makes of them: a row per tile, the tile itself first.

    Args:
        pixels: Tiles of one size, uint8 (S, S, 3), as the network sees them.
        config: How they are varied.
        seed: Seed of the draws; the row and the column are the key.
        n_views: Draws per tile.

    Returns:
        An RGB image with thin white gutters.

    Raises:
        ValueError: There are no tiles, or they differ in size.

    Example:
        >>> from histotune.images.config import AugmentConfig
        >>> contact_sheet([np.zeros((56, 56, 3), np.uint8)], AugmentConfig(), seed=0, n_views=3).size
        (236, 56)
    """
    from PIL import Image

    if not pixels or len({tile_SSC.shape for tile_SSC in pixels}) != 1:
        raise ValueError("a contact sheet takes tiles of one size, at least one")
    pitch_px = len(pixels[0]) + GUTTER_PX
    columns, rows = n_views + 1, len(pixels)
    sheet_HWC = np.full((rows * pitch_px - GUTTER_PX, columns * pitch_px - GUTTER_PX, 3), 255, np.uint8)
    for row, tile_SSC in enumerate(pixels):
        views = [augment(tile_SSC, config, keyed_rng(seed, f"{row} {number}")) for number in range(n_views)]
        for column, view_SSC in enumerate([tile_SSC, *views]):
            top_px, left_px = row * pitch_px, column * pitch_px
            sheet_HWC[top_px : top_px + len(view_SSC), left_px : left_px + len(view_SSC)] = view_SSC
    return Image.fromarray(sheet_HWC)


def save_contact_sheet(path: Path, pixels: Sequence[Image], config: AugmentConfig, seed: int, n_views: int = 8) -> None:
    """Write a contact sheet as PNG."""
    with atomic_path(path) as temporary:
        contact_sheet(pixels, config, seed, n_views).save(temporary, format="PNG")
