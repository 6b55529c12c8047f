"""A window of tissue as the camera saw it: dye densities -> absorbed light -> sensor noise -> JPEG.

Everything is drawn at the window's own scale in optical density; no image is ever resized. Shapes: H x W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.synthetic.tissue import (
    INFILTRATE,
    STROMA_DENSITY,
    FieldWindow,
    Tissue,
    atypia_P,
    compartments_HW,
    depth_P,
    fibre_angle_P,
    fibre_contrast,
    fibre_phase_HW,
    hash_uniform,
    noise_HW,
    noise_P,
    sub_seed,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]


CHROMATIN_FINE, CHROMATIN_COARSE, CYTOPLASM_FINE, CYTOPLASM_COARSE, STROMA_GRAIN = range(20, 25)


@dataclass(frozen=True)
class Camera:
    """What the microscope adds.

    Attributes:
        noise: Standard deviation of sensor noise at white, grey levels.
        jpeg_quality: Quality of the compression that the image went through.
        shading: Light lost towards the corners, share.
    """

    noise: float
    jpeg_quality: int
    shading: float


MICROSCOPE = Camera(noise=2.0, jpeg_quality=92, shading=0.06)
SCANNER = Camera(noise=1.5, jpeg_quality=85, shading=0.0)


def render(tissue: Tissue, field: FieldWindow, camera: Camera, seed: int) -> NDArray[np.uint8]:
    """Render a window."""
    haematoxylin, eosin = densities_HW(tissue, field)
    rng = np.random.Generator(np.random.SFC64(seed))
    return through_jpeg(_expose(tissue, field, (haematoxylin, eosin), camera, rng), camera.jpeg_quality)


def densities_HW(tissue: Tissue, field: FieldWindow) -> tuple[Floats, Floats]:
    """Return the density of haematoxylin and eosin on the pixels of a window."""
    parts = compartments_HW(tissue, field)
    nuclei = density_HW(epithelial_nuclei(tissue, field), field)
    nuclei = np.maximum(nuclei, density_HW(lymphocyte_nuclei(tissue, field), field))
    if tissue.kind == "breast":
        nuclei = np.maximum(nuclei, density_HW(fibroblast_nuclei(tissue, field), field))
    cytoplasm = _cytoplasm_HW(tissue, field)
    stroma_h, stroma_e = _stroma_HW(tissue, field, parts.level_HW)
    outside = 1 - np.minimum(nuclei, 1)
    haematoxylin = nuclei * _chromatin_HW(tissue, field)
    haematoxylin += outside * (parts.epithelium_HW * (0.20 * cytoplasm) + parts.stroma_HW * stroma_h)
    eosin = (0.25 + 0.75 * outside) * (parts.epithelium_HW * (0.42 * cytoplasm) + parts.stroma_HW * stroma_e)
    eosin += parts.lumen_HW * np.maximum(0.05 * cytoplasm - 0.03, 0)
    return haematoxylin, eosin


def through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress and decompress an image."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as decoded:
        return np.asarray(decoded)


def _chromatin_HW(tissue: Tissue, field: FieldWindow) -> Floats:
    """Zero-mean modulation of nuclear density; atypia moves it from fine to coarse clumps."""
    atypia = tissue.atypia if tissue.tumour_atypia is None else 0.5 * (tissue.atypia + tissue.tumour_atypia)
    fine = noise_HW(field, 0.9, sub_seed(tissue.seed, CHROMATIN_FINE))
    coarse = noise_HW(field, 2.1, sub_seed(tissue.seed, CHROMATIN_COARSE))
    contrast = np.float32(tissue.chromatin)
    texture = (0.10 - 0.04 * atypia) * contrast * fine + (0.05 + 0.17 * atypia) * contrast * coarse
    return np.asarray(np.maximum(1 + texture, 0.2), np.float32)


def _cytoplasm_HW(tissue: Tissue, field: FieldWindow) -> Floats:
    fine = noise_HW(field, 1.8, sub_seed(tissue.seed, CYTOPLASM_FINE))
    coarse = noise_HW(field, 14.0, sub_seed(tissue.seed, CYTOPLASM_COARSE))
    return np.maximum(1 + np.float32(tissue.cytoplasm) * (0.16 * fine + 0.28 * coarse), np.float32(0.15))


def _stroma_HW(tissue: Tissue, field: FieldWindow, level_HW: Floats) -> tuple[Floats, Floats]:
    """Collagen bundles with clefts between them; in a node, a pale network."""
    grain = noise_HW(field, 5.5, sub_seed(tissue.seed, STROMA_GRAIN))
    if tissue.kind == "node":
        return np.full(field.shape, 0.10, np.float32), np.maximum(0.30 + 0.12 * grain, np.float32(0.02))
    # Two waves of incommensurate length along the phase are fibre bundles; where their sum is lowest the tissue is
    # cleft.
    phase = fibre_phase_HW(tissue, field, level_HW)
    wave = np.sin(np.float32(2 * np.pi) * phase) + 0.5 * np.sin(np.float32(2 * np.pi * 2.3) * phase)
    bundles = np.float32(fibre_contrast(tissue, field)) * wave
    eosin = 0.52 + 0.20 * bundles + 0.10 * grain
    cleft = np.clip((bundles + 0.5 * grain + 1.05) * 4, 0.08, 1)
    return np.full(field.shape, 0.04, np.float32), np.maximum(eosin, np.float32(0.03)) * cleft


def _expose(
    tissue: Tissue, field: FieldWindow, density: tuple[Floats, Floats], camera: Camera, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Beer-Lambert per channel, shading, and noise that grows with the light like a photon count."""
    height, width = field.shape
    out = np.empty((height, width, 3), np.uint8)
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    light = 1 - np.float32(camera.shading / 2) * (y[:, None] ** 2 + x[None, :] ** 2)
    haematoxylin, eosin = density
    for channel in range(3):
        # Beer and Lambert: what passes is exp(-sum of amount x absorption); photons add noise that grows with the root
        # of it.
        absorbed = haematoxylin * np.float32(tissue.stain.haematoxylin[channel])
        absorbed += eosin * np.float32(tissue.stain.eosin[channel])
        level = np.exp(-absorbed) * light
        noise = rng.standard_normal((height, width), dtype=np.float32) * np.sqrt(level)
        level *= np.float32(tissue.stain.white[channel])
        level += np.float32(camera.noise) * noise + np.float32(0.5)
        out[:, :, channel] = np.clip(level, 0, 255)
    return out


# ---- Nuclei ----
#
# A nucleus sits in each cell of a jittered grid unless thinned out; everything about it is a hash of that cell, so
# windows at any scale show the same nuclei. Atypical nuclei are larger, of varied size and shape, coarser and fewer:
# their total area stays, so that colour says nothing. Shapes: H x W pixels, M nuclei.


EPITHELIAL, FIBROBLAST, LYMPHOCYTE = 100, 200, 300  # channels of the hashes, twenty each
LARGEST_UM = 18.0
SIZE_GAIN, SPREAD_REGULAR, SPREAD_GAIN, OVERLAP_GAIN = 0.45, 0.07, 0.28, 0.30


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one sort, arrays of shape (M,).

    Attributes:
        x_um: Centre.
        y_um: Centre.
        long_um: Semi-axis along ``angle``.
        short_um: The other semi-axis.
        angle: Radians.
        density: Mean haematoxylin density.
        dent: Departure of the outline from an ellipse, share of the radius.
        rim: How much denser the rim is than the middle.
        nucleolus: Extra density of a nucleolus.
    """

    x_um: Doubles
    y_um: Doubles
    long_um: Floats
    short_um: Floats
    angle: Floats
    density: Floats
    dent: Floats
    rim: Floats
    nucleolus: Floats

    def take(self, rows: NDArray[np.int64]) -> Nuclei:
        """Return the nuclei at the given rows."""
        return Nuclei(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def epithelial_nuclei(tissue: Tissue, field: FieldWindow) -> Nuclei:
    """Return the epithelial nuclei that touch a window."""
    cells = _Cells(tissue, field, 1.22 * tissue.nucleus_um, EPITHELIAL, jitter=0.55)
    depth = depth_P(tissue, cells.x_um, cells.y_um)
    margin = 0.25 * tissue.nucleus_um / tissue.island_um
    cells = cells.keep((depth > margin) & (depth < tissue.lumen - margin))
    atypia = atypia_P(tissue, cells.x_um, cells.y_um)
    cells, atypia = _thin(cells, atypia)
    spread = SPREAD_REGULAR + SPREAD_GAIN * atypia
    radius = 0.5 * tissue.nucleus_um * (1 + SIZE_GAIN * atypia) * np.exp(spread * cells.normal(1))
    radius = np.minimum(radius, LARGEST_UM / 2 / 1.3)
    stretch = np.exp(0.10 + (0.06 + 0.12 * atypia) * cells.normal(3))
    return Nuclei(
        cells.x_um,
        cells.y_um,
        radius * stretch,
        radius / stretch,
        angle=np.float32(np.pi) * cells.uniform(5),
        density=1.0 + 0.10 * cells.normal(6),
        dent=(0.03 + 0.14 * atypia) * cells.uniform(8),
        rim=0.25 + 0.35 * atypia,
        nucleolus=(1.2 * atypia) * cells.uniform(9),
    )


def fibroblast_nuclei(tissue: Tissue, field: FieldWindow) -> Nuclei:
    """Return the slender nuclei of the stroma, along its fibres."""
    cells = _Cells(tissue, field, 17.0, FIBROBLAST, jitter=0.9)
    depth = depth_P(tissue, cells.x_um, cells.y_um)
    crowded = noise_P(cells.x_um, cells.y_um, 90.0, sub_seed(tissue.seed, STROMA_DENSITY))
    cells = cells.keep((depth < -4.0 / tissue.island_um) & (cells.uniform(0) < 0.5 + 0.25 * crowded))
    length = 5.2 * np.exp(0.18 * cells.normal(1))
    angle = fibre_angle_P(tissue, cells.x_um, cells.y_um) + 0.18 * cells.normal(3)
    ones = np.ones(len(cells.x_um), np.float32)
    return Nuclei(
        cells.x_um,
        cells.y_um,
        length,
        1.5 * np.exp(0.2 * cells.normal(5)),
        angle,
        density=1.05 * ones,
        dent=0.05 * ones,
        rim=0.0 * ones,
        nucleolus=0.0 * ones,
    )


def lymphocyte_nuclei(tissue: Tissue, field: FieldWindow) -> Nuclei:
    """Return the small round dark nuclei: clusters in breast stroma, everywhere in a node."""
    cells = _Cells(tissue, field, 7.4, LYMPHOCYTE, jitter=0.6)
    if tissue.kind == "breast":
        here = noise_P(cells.x_um, cells.y_um, 130.0, sub_seed(tissue.seed, INFILTRATE)) > tissue.infiltrate
        cells = cells.keep(here & (cells.uniform(0) < 0.55))
    depth = depth_P(tissue, cells.x_um, cells.y_um)
    limit = 2.0 / tissue.island_um
    crowded = noise_P(cells.x_um, cells.y_um, 60.0, sub_seed(tissue.seed, STROMA_DENSITY))
    cells = cells.keep((depth < limit) & (cells.uniform(10) < 0.78 + 0.16 * crowded))
    radius = 2.9 * np.exp(0.08 * cells.normal(1))
    ones = np.ones(len(radius), np.float32)
    return Nuclei(
        cells.x_um,
        cells.y_um,
        radius * 1.05,
        radius / 1.05,
        np.float32(np.pi) * cells.uniform(5),
        density=1.25 * ones,
        dent=0.04 * ones,
        rim=0.05 * ones,
        nucleolus=0.0 * ones,
    )


def density_HW(nuclei: Nuclei, field: FieldWindow) -> Floats:
    """Return the haematoxylin density of nuclei on the pixels of a window; where they overlap, the denser shows."""
    out = np.zeros(field.height_px * field.width_px, np.float32)
    reach_px = nuclei.long_um * (1 + nuclei.dent) / field.mpp + 1.0
    order = np.argsort(reach_px, kind="stable")
    for rows in np.array_split(order, max(1, min(4, len(order) // 24))):
        if rows.size:
            _splat(nuclei.take(rows), field, int(np.ceil(reach_px[rows[-1]])), out)
    return out.reshape(field.shape)


def _splat(nuclei: Nuclei, field: FieldWindow, reach: int, out: Floats) -> None:
    """Draw nuclei of similar size, each on a square of 2 * reach + 1 pixels."""
    x_px, y_px = (nuclei.x_um - field.left_um) / field.mpp, (nuclei.y_um - field.top_um) / field.mpp
    column, row = np.floor(x_px).astype(np.int64), np.floor(y_px).astype(np.int64)
    step = np.arange(-reach, reach + 1)
    dx = (step[None, :] + (column - x_px + 0.5)[:, None]).astype(np.float32)[:, None, :]
    dy = (step[None, :] + (row - y_px + 0.5)[:, None]).astype(np.float32)[:, :, None]
    cos, sin = np.cos(nuclei.angle) * field.mpp, np.sin(nuclei.angle) * field.mpp
    u = dx * _column(cos / nuclei.long_um) + dy * _column(sin / nuclei.long_um)
    v = dy * _column(cos / nuclei.short_um) - dx * _column(sin / nuclei.short_um)
    value = _profile(nuclei, u, v, field.mpp)
    rows, columns = row[:, None] + step, column[:, None] + step
    inside = ((rows >= 0) & (rows < field.height_px))[:, :, None] & ((columns >= 0) & (columns < field.width_px))[
        :, None
    ]
    inside &= value > 0
    flat = rows[:, :, None] * field.width_px + columns[:, None, :]
    np.maximum.at(out, flat[inside], value[inside])


def _profile(nuclei: Nuclei, u: Floats, v: Floats, mpp: float) -> Floats:
    """Density over a nucleus in its own coordinates, where the outline is the unit circle, dents aside."""
    # r = 1 is the rim. u^3 - 3 u v^2 = r^3 cos(3 angle) dents it in three places; the cover falls from 1 to 0 across
    # the rim over the joint width of a pixel and of optical blur, 0.35 um.
    q = u * u + v * v
    r = np.sqrt(q)
    dented = r + _column(nuclei.dent) * (u * u * u - 3 * u * v * v) / np.maximum(q, 0.2)
    radius_um = np.sqrt(nuclei.long_um * nuclei.short_um)
    edge = radius_um / np.hypot(0.35, mpp)
    cover = np.clip((1 - dented) * _column(edge) + 0.5, 0, 1)
    shade = 1 + _column(nuclei.rim) * (q - 0.5)
    if mpp < 1.0 and nuclei.nucleolus.any():
        spot = np.exp(np.maximum(-((u - 0.25) ** 2 + (v + 0.1) ** 2) / 0.035, -20))
        shade += _column(nuclei.nucleolus) * (spot - 0.035)
    return np.asarray(cover * shade * _column(nuclei.density), np.float32)


def _column(values: NDArray[np.floating]) -> Floats:
    return np.asarray(values, np.float32)[:, None, None]


def _thin(cells: _Cells, atypia: Floats) -> tuple[_Cells, Floats]:
    """Keep as many cells as make the area of all nuclei independent of atypia."""
    spread = SPREAD_REGULAR + SPREAD_GAIN * atypia
    area = (1 + SIZE_GAIN * atypia) ** 2 * np.exp(2 * (spread**2 - SPREAD_REGULAR**2))
    hidden = 1 + OVERLAP_GAIN * atypia**2  # nuclei of varied size cover one another more
    kept = cells.uniform(0) < 0.95 * hidden / area
    return cells.keep(kept), atypia[kept]


class _Cells:
    """Jittered grid points near a window, with random numbers that belong to each."""

    def __init__(self, tissue: Tissue, field: FieldWindow, spacing_um: float, channel: int, jitter: float) -> None:
        self._seed, self._channel = tissue.seed, channel
        first_x = int(np.floor((field.left_um - LARGEST_UM) / spacing_um))
        first_y = int(np.floor((field.top_um - LARGEST_UM) / spacing_um))
        n_x = int(np.ceil((field.width_px * field.mpp + 2 * LARGEST_UM) / spacing_um)) + 1
        n_y = int(np.ceil((field.height_px * field.mpp + 2 * LARGEST_UM) / spacing_um)) + 1
        grid_x, grid_y = np.meshgrid(np.arange(first_x, first_x + n_x), np.arange(first_y, first_y + n_y))
        self._x, self._y = grid_x.ravel(), grid_y.ravel()
        hexagonal = 0.5 * (self._y % 2)
        self.x_um = (self._x + 0.5 + hexagonal + jitter * (self.uniform(11) - 0.5)) * spacing_um
        self.y_um = (self._y + 0.5 + jitter * (self.uniform(12) - 0.5)) * spacing_um

    def keep(self, kept: NDArray[np.bool_]) -> _Cells:
        """Return the chosen cells."""
        other = object.__new__(_Cells)
        other._seed, other._channel = self._seed, self._channel
        other._x, other._y = self._x[kept], self._y[kept]
        other.x_um, other.y_um = self.x_um[kept], self.y_um[kept]
        return other

    def uniform(self, number: int) -> Floats:
        """Return one uniform number per cell."""
        return hash_uniform(self._x, self._y, sub_seed(self._seed, self._channel + number))

    def normal(self, number: int) -> Floats:
        """Return one nearly normal number per cell, within three deviations, from two uniform ones."""
        first, second = self.uniform(number), self.uniform(number + 1)
        radius = np.sqrt(-2 * np.log(np.maximum(first, np.float32(0.0111))))
        return np.asarray(radius * np.cos(np.float32(2 * np.pi) * second), np.float32)
