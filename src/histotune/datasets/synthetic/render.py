"""A window of tissue as the camera saw it: dye densities -> absorbed light -> sensor noise -> JPEG.

Everything is drawn at the window's own scale in optical density; no image is ever resized. Shapes: H x W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.synthetic.noise import Field, noise_HW, sub_seed
from histotune.datasets.synthetic.nuclei import density_HW, epithelial_nuclei, fibroblast_nuclei, lymphocyte_nuclei
from histotune.datasets.synthetic.tissue import Tissue, compartments_HW, fibre_contrast, fibre_phase_HW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

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


def render(tissue: Tissue, field: Field, camera: Camera, seed: int) -> NDArray[np.uint8]:
    """Render a window.

    Args:
        tissue: The case.
        field: The window.
        camera: What takes the picture.
        seed: Seed of the sensor noise.

    Returns:
        RGB, uint8, shape (H, W, 3).
    """
    haematoxylin, eosin = densities_HW(tissue, field)
    rng = np.random.Generator(np.random.SFC64(seed))
    return through_jpeg(_expose(tissue, field, (haematoxylin, eosin), camera, rng), camera.jpeg_quality)


def densities_HW(tissue: Tissue, field: Field) -> tuple[Floats, Floats]:
    """Return the density of haematoxylin and eosin on the pixels of a window.

    Args:
        tissue: The case.
        field: The window.

    Returns:
        Two arrays, float32, shape (H, W).
    """
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
    """Compress and decompress an image.

    Args:
        image: RGB, shape (H, W, 3).
        quality: JPEG quality.

    Returns:
        The image with JPEG's artefacts.
    """
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as decoded:
        return np.asarray(decoded)


def _chromatin_HW(tissue: Tissue, field: Field) -> Floats:
    """Zero-mean modulation of nuclear density; atypia moves it from fine to coarse clumps."""
    atypia = tissue.atypia if tissue.tumour_atypia is None else 0.5 * (tissue.atypia + tissue.tumour_atypia)
    fine = noise_HW(field, 0.9, sub_seed(tissue.seed, CHROMATIN_FINE))
    coarse = noise_HW(field, 2.1, sub_seed(tissue.seed, CHROMATIN_COARSE))
    contrast = np.float32(tissue.chromatin)
    texture = (0.10 - 0.04 * atypia) * contrast * fine + (0.05 + 0.17 * atypia) * contrast * coarse
    return np.asarray(np.maximum(1 + texture, 0.2), np.float32)


def _cytoplasm_HW(tissue: Tissue, field: Field) -> Floats:
    fine = noise_HW(field, 1.8, sub_seed(tissue.seed, CYTOPLASM_FINE))
    coarse = noise_HW(field, 14.0, sub_seed(tissue.seed, CYTOPLASM_COARSE))
    return np.maximum(1 + np.float32(tissue.cytoplasm) * (0.16 * fine + 0.28 * coarse), np.float32(0.15))


def _stroma_HW(tissue: Tissue, field: Field, level_HW: Floats) -> tuple[Floats, Floats]:
    """Collagen bundles with clefts between them; in a node, a pale network."""
    grain = noise_HW(field, 5.5, sub_seed(tissue.seed, STROMA_GRAIN))
    if tissue.kind == "node":
        return np.full(field.shape, 0.10, np.float32), np.maximum(0.30 + 0.12 * grain, np.float32(0.02))
    phase = fibre_phase_HW(tissue, field, level_HW)
    wave = np.sin(np.float32(2 * np.pi) * phase) + 0.5 * np.sin(np.float32(2 * np.pi * 2.3) * phase)
    bundles = np.float32(fibre_contrast(tissue, field)) * wave
    eosin = 0.52 + 0.20 * bundles + 0.10 * grain
    cleft = np.clip((bundles + 0.5 * grain + 1.05) * 4, 0.08, 1)
    return np.full(field.shape, 0.04, np.float32), np.maximum(eosin, np.float32(0.03)) * cleft


def _expose(
    tissue: Tissue, field: Field, density: tuple[Floats, Floats], camera: Camera, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Beer-Lambert per channel, shading, and noise that grows with the light like a photon count."""
    height, width = field.shape
    out = np.empty((height, width, 3), np.uint8)
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    light = 1 - np.float32(camera.shading / 2) * (y[:, None] ** 2 + x[None, :] ** 2)
    haematoxylin, eosin = density
    for channel in range(3):
        absorbed = haematoxylin * np.float32(tissue.stain.haematoxylin[channel])
        absorbed += eosin * np.float32(tissue.stain.eosin[channel])
        level = np.exp(-absorbed) * light
        noise = rng.standard_normal((height, width), dtype=np.float32) * np.sqrt(level)
        level *= np.float32(tissue.stain.white[channel])
        level += np.float32(camera.noise) * noise + np.float32(0.5)
        out[:, :, channel] = np.clip(level, 0, 255)
    return out
